"""Layers on disk: `<results>/<highest site's task>/<N>/<submissions>-<hash>.layers`.

The hash in the name is that of the chain: sites, interpretations, model, data and how much was measured. One
with other numbers of kept sources takes the place of what was there.

The file holds the sums over documents that its numbers follow from, and proves itself: by the hash of its
content, and by numbers and statements that are computed from these sums once more. What was fitted on
calibration (`SiteFit`) follows from nothing in it; only measuring again can tell more.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from remainder.record.joint import JointFile
from remainder.record.json import content_hash
from remainder.record.layers import Chain, Layers, numbers_of, statements_of

__all__ = ["LAYERS", "layers_place", "read_layers", "shown_layers", "write_layers"]

LAYERS = JointFile(Layers, "layers", "holds no layers")
"""Files of layers."""

_JOINED = "+"
_LONGEST = 80  # characters of the names of submissions
_ROUNDING, _NOTHING = 1e-4, 1e-9
"""Share of itself, and size, by which a platform may round a number otherwise."""


def write_layers(layers: Layers, results: Path) -> Path:
    """Write layers whole or not at all, into a folder of results; gives the path."""
    return LAYERS.write(layers, layers_place(layers.chain, results))


def layers_place(chain: Chain, results: Path) -> Path:
    """The path of layers below a folder of results."""
    digest = content_hash(chain.model_dump(mode="json"))
    names, task = [site.submission.name for site in chain.sites], chain.sites[-1].task
    name = f"{_JOINED.join(names)[:_LONGEST]}-{digest[:12]}{LAYERS.ending}"
    return results / task.id / task.version.partition("-")[0] / name


def read_layers(path: Path) -> Layers:
    """Layers, all of it verified that follows from the sums that they hold.

    Raises:
        RecordError: the file is damaged or was edited, or a number or statement does not follow from the
            sums.
    """
    layers = LAYERS.read(path)
    seed = layers.chain.seed
    for shell in layers.shells:
        found = numbers_of(shell.sums, layers.tokens, seed=seed)
        for name, part in found._asdict().items():
            if not _same(_plain(part), _plain(getattr(shell, name))):
                raise LAYERS.fault(
                    path, f"with {shell.keep} kept, {name} do not follow from the sums over documents"
                )
    statements = statements_of([shell.sums for shell in layers.shells], layers.tokens, seed=seed)
    if statements != layers.statements:
        wrong = next(name for name in statements if statements[name] != layers.statements.get(name))
        words = ", ".join(verdict.word for verdict in statements[wrong])
        raise LAYERS.fault(path, f"what it says of {wrong} does not follow from the sums: {words}")
    return layers


def shown_layers(path: Path) -> tuple[Layers]:
    """`read_layers` for what shows any file of several measurements."""
    return (read_layers(path),)


def _plain(part: Any) -> Any:
    """Nested dicts and lists of numbers and words."""
    if isinstance(part, dict):
        return {name: _plain(one) for name, one in part.items()}
    return [_plain(one) for one in part] if isinstance(part, tuple) else part.model_dump(mode="json")


def _same(found: Any, stated: Any) -> bool:
    """Whether two are equal but for what platforms round otherwise."""
    if isinstance(found, dict) and isinstance(stated, dict):
        return found.keys() == stated.keys() and all(_same(found[name], stated[name]) for name in found)
    if isinstance(found, list) and isinstance(stated, list):
        return len(found) == len(stated) and all(map(_same, found, stated))
    if isinstance(found, float) and isinstance(stated, float):
        return math.isclose(found, stated, rel_tol=_ROUNDING, abs_tol=_NOTHING)
    return bool(found == stated)
