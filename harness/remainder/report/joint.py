"""Results of several measurements together, such as a flow, in every format. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
from rich.console import RenderableType

from remainder.base.wrapping import fill
from remainder.record.number import FrozenModel
from remainder.report.layout import FORMATS, WIDTH, require_format
from remainder.report.text import Cells, draw, plain_table, render_cells, render_frame

__all__ = ["render_joint"]


def render_joint(
    joint: FrozenModel,
    frame: pd.DataFrame,
    tables: Sequence[Cells],
    format: str = "table",
    *,
    rows: str,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """A table after the other as `table`, `markdown` or `latex`; the frame as `csv`; as `json` all of it.

    Args:
        joint: what its file keeps.
        frame: one row for each of its parts.
        tables: their notes are wrapped; an empty one is a blank line of a terminal.
        rows: the field of `joint` in whose place `json` has the rows of the frame.

    Raises:
        RecordError: there is no such format.
    """
    require_format(format, FORMATS)
    if format == "csv":
        return render_frame(frame, format)
    if format == "json":
        content = {**joint.model_dump(mode="json"), rows: json.loads(render_frame(frame, format))}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return "\n".join(_text(cells, format, width, color) for cells in tables)


def _text(cells: Cells, format: str, width: int, color: bool) -> str:
    if format == "table":
        lines = [fill(line, width, hanging="  ") for line in cells.notes]
        shown: list[RenderableType] = [
            fill(cells.title, width),
            "",
            plain_table(cells.headings, cells.rows),
            *lines,
        ]
        return draw(shown, width=width, color=color)
    notes = [line for line in cells.notes if line]
    return render_cells(cells.headings, cells.rows, format, title=cells.title, notes=notes)
