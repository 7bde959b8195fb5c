"""A safetensors file of named arrays: subspaces and codebooks, whose readers these are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from remainder.formats.known import Ignore
from remainder.formats.places import Loaded, beside_output
from remainder.formats.tensors import Layout, read_tensors
from remainder.interpretation.references import Codebook, Projection
from remainder.task.spec import Task

__all__ = ["codebook", "files", "load", "subspace"]


def files(path: Path) -> list[Path]:
    """Files whose content can change a score: the file itself."""
    return [path]


def subspace(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """A projection: `mean` [width] and `directions` [rank, width]."""
    arrays = load(path, {"mean": ("width",), "directions": ("rank", "width")}, task.site.width)
    return beside_output(Projection(**arrays), task)


def codebook(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """A nearest-neighbour code: `centroids` [entries, width]."""
    return beside_output(Codebook(**load(path, {"centroids": ("entries", "width")}, task.site.width)), task)


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
