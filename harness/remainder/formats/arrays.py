"""A safetensors file of named arrays: the weights of subspaces and codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from remainder.formats.tensors import Layout, read_tensors

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
    return read_tensors(path, Layout(shapes, {"width": width}, f"the site has width {width}"))
