"""Reading files of weights and their settings: what is wrong with one is said before any weight is loaded.

1. `read_json` and `read_yaml` give an object's fields, or one message.
2. `header` reads the first bytes of a safetensors file and its size: names, types and shapes of its tensors.
   A file that is none is refused in no time, however large it is.
3. `read_tensors` compares these with what is expected, loads, and refuses values that are not finite.
   `read_torch` does the same for a file of `torch.save`, of which nothing but tensors is ever loaded.

Source of the layout: https://github.com/huggingface/safetensors#format (eight bytes that hold the length N of
the header, N bytes of JSON, then the values without a gap).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from remainder.base.files import (
    LARGEST,
    SETTINGS,
    brief,
    parse_json,
    parse_yaml,
    read_text,
    require_file,
    size_of,
)
from remainder.errors import InterpretationError
from remainder.formats.archives import require_arrays, require_saved
from remainder.interpretation.casting import odd_kind

__all__ = [
    "PICKLES",
    "UNREADABLE",
    "Layout",
    "StoredTensor",
    "header",
    "load_torch",
    "missing_weights",
    "odd_kind",
    "read_json",
    "read_tensors",
    "read_torch",
    "read_yaml",
    "require_weights",
]

PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})

_TEXTS = frozenset({".json", ".yaml", ".yml"})
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LONGEST_HEADER = 10_000_000  # bytes; of a hundred thousand tensors. Parsed it takes twenty times as many.
_STATE = (
    "only tensors are ever loaded; where you trust the file: model = torch.load(FILE, weights_only=False); "
    "torch.save(model.state_dict(), FILE)"
)
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    zipfile.BadZipFile,
)
_CONVERT = (
    "pickles are never loaded; convert once, where you trust the file: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), {target!r})"
)


class StoredTensor(NamedTuple):
    """A tensor as a file describes it."""

    dtype: str
    """The dtype as safetensors writes it: F16, BF16, F32, F64, I8, …"""
    shape: tuple[int, ...]


class Layout(NamedTuple):
    """The tensors that a file must hold.

    An axis is a number, or a word such as `d_sae`, which stands for the same number throughout the file.
    """

    tensors: Mapping[str, tuple[str | int, ...]]
    sizes: Mapping[str, int]
    """Numbers of words that are known beforehand; all others are read from the file."""
    says: str
    """A clause that tells where these are from: `cfg.json says d_sae = 12`."""
    optional: frozenset[str] = frozenset()
    hints: Mapping[str, str] = {}
    """The purpose of a tensor, for the message if it is missing."""
    closed: bool = True
    """Whether a tensor that is not expected is an error; else it is not read."""
    counters: frozenset[str] = frozenset()
    """Names of whole numbers that may stand beside the weights, of any shape; they are given as float32."""


def read_json(path: Path, *, most: int = SETTINGS, nan: bool = False) -> dict[str, Any]:
    """The fields of a JSON object.

    Args:
        path: of the file.
        most: bytes of the largest that is read.
        nan: whether NaN and infinities are let through; the caller looks for them.

    Raises:
        InterpretationError: if there is no such file, or it holds something else.
    """
    return _fields(path, "JSON", parse_json(read_text(path, "JSON", most=most), path, nan=nan))


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML mapping; tags that would make objects are refused.

    Raises:
        InterpretationError: if there is no such file, or it holds something else.
    """
    return _fields(path, "YAML", parse_yaml(read_text(path, "YAML"), path))


def _fields(path: Path, kind: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InterpretationError(
            f"{path} holds no {kind} object with named fields, but {brief(content)}", fix="save it anew"
        )
    return content


def require_weights(path: Path) -> None:
    """Check by first and last bytes that a file is what its name says, before gigabytes are hashed.

    Raises:
        InterpretationError: if it is no plain file, or something else under this name.
    """
    if path.suffix == ".safetensors":
        header(path)
        return
    if path.suffix in PICKLES - {".pt"}:
        raise InterpretationError(
            f"{path} is a pickle, and these are never loaded",
            fix="where you trust it, convert it once to what its format asks for: .safetensors, .json or .pt",
        )
    require_file(path, most=LARGEST if path.suffix in _TEXTS else None)
    if path.suffix == ".pt":
        require_saved(path)
    elif path.suffix == ".npz":
        require_arrays(path)


def header(path: Path) -> dict[str, StoredTensor]:
    """Names, types and shapes of a safetensors file's tensors; the values are not read.

    Raises:
        InterpretationError: if it is no safetensors file, or its size is not what its header says.
    """
    size = require_file(path)
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("it does not begin with the length of a header")
            content = json.loads(stream.read(length).decode("utf-8"))
        found = {
            name: (
                StoredTensor(str(about["dtype"]), tuple(int(n) for n in about["shape"])),
                about["data_offsets"],
            )
            for name, about in content.items()
            if name != "__metadata__"
        }
        end = max((int(offsets[1]) for _, offsets in found.values()), default=0)
    except RecursionError:
        raise InterpretationError(
            f"{path} is not a readable safetensors file: its header is nested too deeply", fix="copy it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        why = problem if isinstance(problem, (OSError, ValueError)) else "its header describes no tensors"
        raise InterpretationError(
            f"{path} is not a readable safetensors file ({size_of(path)}): {why}",
            fix="copy it again; it may be truncated, or of another format under this name",
        ) from None
    if size != 8 + length + end:
        short = "truncated" if size < 8 + length + end else "longer than its header says"
        raise InterpretationError(
            f"{path} is not a readable safetensors file: it is {short} ({size:,} bytes)",
            fix="copy it again; it may be truncated",
        )
    return {name: stored for name, (stored, _) in found.items()}


def read_tensors(path: Path, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a safetensors file, float32.

    Raises:
        InterpretationError: naming the file and the tensor, what was found and what was expected.
    """
    stored = header(path)
    _check(path, stored, layout)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise InterpretationError(
            f"{path} is not a readable safetensors file: {problem}", fix="copy it again; it may be truncated"
        ) from problem
    return _finite(path, tensors, layout)


def read_torch(path: Path, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote of a module's state, float32. Nothing in it is executed.

    Raises:
        InterpretationError: naming the file and the tensor, what was found and what was expected.
    """
    state = load_torch(path, "tensors", _STATE)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InterpretationError(f"{path} holds no tensors by name, as a module's state does", fix=_STATE)
    stored = {str(name): _stored(value) for name, value in state.items()}
    _check_sizes(path, state)
    _check(path, stored, layout)
    return _finite(path, {str(name): value for name, value in state.items()}, layout)


def load_torch(path: Path, what: str, fix: str) -> Any:
    """Load what `torch.save` wrote, if it is only tensors and plain values. Nothing in it is executed.

    Args:
        path: of the file.
        what: that the file may hold, for messages.
        fix: how to save it so.

    Raises:
        InterpretationError: it is no such file, damaged, or holds objects.
    """
    require_saved(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that may change; none of these is taken
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as problem:
        # torch's own advice is to load it without this guard.
        named = re.search(r"GLOBAL ([\w.]+)", str(problem))
        if named is None and not isinstance(problem, pickle.UnpicklingError):
            raise InterpretationError(
                f"{path} ({size_of(path)}) is damaged, or torch.save did not write it", fix="copy it again"
            ) from None
        raise InterpretationError(
            f"{path} holds more than {what}"
            + (f": {brief(named[1])[1:-1]}" if named is not None else ", or is damaged"),
            fix=fix,
        ) from None


def _check_sizes(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that repeat what is stored once: a few bytes can stand for gigabytes."""
    for name, value in state.items():
        if value.layout == torch.strided and not odd_kind(value):
            claimed = value.numel() * value.element_size()
            if claimed > value.untyped_storage().nbytes():
                raise InterpretationError(
                    f"{path}: {brief(name)} of shape {tuple(value.shape)} repeats what is stored once",
                    fix="save it with .contiguous()",
                )


def _stored(value: Tensor) -> StoredTensor:
    """Describe a tensor as safetensors does; the dtype of one that is not a plain array is its kind."""
    if kind := odd_kind(value):
        return StoredTensor(kind, ())
    names = {dtype: short for short, name in _FLOATS.items() for dtype in [getattr(torch, name)]}
    return StoredTensor(names.get(value.dtype, str(value.dtype).removeprefix("torch.")), tuple(value.shape))


def missing_weights(folder: Path, wanted: str, fix: str) -> InterpretationError:
    """The error for a folder that lacks `wanted`; says so if all it has instead is pickles."""
    pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    return InterpretationError(
        f"{folder} has no {wanted}" + (f", only {', '.join(pickles)}" if pickles else ""),
        fix=_CONVERT.format(target=wanted) if pickles else fix,
    )


def _check(path: Path, stored: Mapping[str, StoredTensor], layout: Layout) -> None:
    """Names, types and shapes."""
    missing = sorted(layout.tensors.keys() - layout.optional - stored.keys())
    surplus = sorted(stored.keys() - layout.tensors.keys() - layout.counters) if layout.closed else []
    if missing or surplus:
        expected = ", ".join(sorted(layout.tensors.keys() - layout.optional))
        reasons = [f"{name} is missing: {layout.hints[name]}" for name in missing if name in layout.hints]
        raise InterpretationError(
            f"{path} holds {', '.join(sorted(stored)) or 'nothing'}; expected {expected}",
            fix=reasons[0] if reasons else "save exactly these tensors under these names",
        )
    found = {name: stored[name] for name in layout.tensors if name in stored}
    for name, (dtype, _) in found.items():
        if dtype not in _FLOATS:
            raise InterpretationError(
                f"{path}: {name} is stored as {dtype}; expected one of {', '.join(_FLOATS.values())}",
                fix="convert it to float16 or float32 with its scale worked in (a sparse one with to_dense), "
                "and save it again",
            )
    sizes = dict(layout.sizes)
    agreed = _agreed(found, layout)
    for word, number in agreed.items():
        if sizes.get(word, number) != number and _all_fit(found, layout, {**sizes, **agreed}):
            raise InterpretationError(
                f"{path}: the weights have {word} = {number}; {layout.says}",
                fix="one of the two belongs to something else; take both from one place",
            )
    sizes = {**agreed, **sizes}
    for name, (_, shape) in found.items():
        axes = layout.tensors[name]
        wanted = tuple(axis if isinstance(axis, int) else sizes.get(axis) for axis in axes)
        if shape != wanted:
            turned = " (transposed)" if shape == wanted[::-1] else ""
            raise InterpretationError(
                f"{path}: {name} has shape {shape}{turned}; {layout.says}",
                fix=f"{name} must be [{', '.join(map(str, axes))}]",
            )
    for name, (_, shape) in found.items():
        if 0 in shape and "rank" not in layout.tensors[name]:
            raise InterpretationError(f"{path}: {name} has shape {shape}", fix="give at least one entry")


def _agreed(found: Mapping[str, StoredTensor], layout: Layout) -> dict[str, int]:
    """The size that most of the file's tensors give each word, of those with the right number of axes."""
    votes: dict[str, dict[int, int]] = {}
    for name, (_, shape) in found.items():
        axes = layout.tensors[name]
        if len(axes) == len(shape):
            for axis, size in zip(axes, shape, strict=True):
                if isinstance(axis, str):
                    counts = votes.setdefault(axis, {})
                    counts[size] = counts.get(size, 0) + 1
    return {word: max(counts, key=lambda size: counts[size]) for word, counts in votes.items()}


def _all_fit(found: Mapping[str, StoredTensor], layout: Layout, sizes: Mapping[str, int]) -> bool:
    """Whether every shape is right for these sizes."""
    return all(
        shape == tuple(axis if isinstance(axis, int) else sizes[axis] for axis in layout.tensors[name])
        for name, (_, shape) in found.items()
        if all(isinstance(axis, int) or axis in sizes for axis in layout.tensors[name])
    )


def _finite(path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The tensors that the layout names, float32 and finite."""
    wanted = [*layout.tensors, *sorted(layout.counters - layout.tensors.keys())]
    kept = {name: tensors[name].float() for name in wanted if name in tensors}
    for name, value in kept.items():
        bad = int((~value.isfinite()).sum())
        if bad:
            raise InterpretationError(
                f"{path}: {name} holds NaN or infinity, in {bad:,} of {math.prod(value.shape):,} places",
                fix="train or export it again",
            )
    return kept
