"""A safetensors file of named arrays: the weights of subspaces and codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from remainder.errors import InterpretationError

__all__ = ["load"]


def load(path: Path, shapes: Mapping[str, tuple[str, ...]], width: int) -> dict[str, Tensor]:
    """The arrays of a file, float32.

    Args:
        path: of the file.
        shapes: names that the file must hold, with the words of their axes; "width" is that of the site.
        width: of the site.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise InterpretationError(
            f"{path} is not a readable safetensors file: {problem}", fix="copy it again; it may be truncated"
        ) from problem
    if arrays.keys() != shapes.keys():
        raise InterpretationError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected {', '.join(sorted(shapes))}",
            fix="write exactly these arrays with safetensors",
        )
    for name, axes in shapes.items():
        found = tuple(arrays[name].shape)
        fits = len(found) == len(axes) and all(
            axis != "width" or size == width for axis, size in zip(axes, found, strict=True)
        )
        if not fits:
            raise InterpretationError(
                f"{path}: {name} has shape {found}; the site has width {width}",
                fix=f"{name} must be [{', '.join(axes)}]",
            )
        if arrays[name].dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise InterpretationError(
                f"{path}: {name} is {arrays[name].dtype}", fix="store it as float16 or float32"
            )
        if 0 in found and axes[0] != "rank":
            raise InterpretationError(f"{path}: {name} has shape {found}", fix="give at least one entry")
        if not arrays[name].isfinite().all():
            raise InterpretationError(f"{path}: {name} holds NaN or infinity", fix="make it again")
    return {name: array.float() for name, array in arrays.items()}
