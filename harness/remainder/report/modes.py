"""A discretised bath as a table: the error of one mode a shell, over the ratio of shells. Needs no torch."""

from __future__ import annotations

import pandas as pd

from remainder.record.modes import Discretisation
from remainder.report.joint import render_joint
from remainder.report.layout import WIDTH
from remainder.report.text import Cells, Notes, format_value, frame_cells, in_words

__all__ = ["modes_frame", "render_modes", "table_of_modes"]

_KEPT = {"reading": "gᵀΣg", "trace": "tr Σ"}
_HEADINGS = ["keeps", "Λ", "shells", "error", "spread over z"]


def modes_frame(found: Discretisation) -> pd.DataFrame:
    """One row a ratio and kind of mode."""
    return pd.DataFrame(
        {
            "kind": row.kind,
            "ratio": row.ratio,
            "shells": " ".join(map(str, row.shells)),
            **frame_cells("error", row.error),
            "spread": row.spread,
        }
        for row in found.modes
    )


def render_modes(
    found: Discretisation, format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """The discretisation as text; `csv` has a row a ratio, `json` all of it.

    Raises:
        RecordError: there is no such format.
    """
    frame, tables = modes_frame(found), [table_of_modes(found)]
    return render_joint(found, frame, tables, format, rows="modes", width=width, color=color)


def table_of_modes(found: Discretisation) -> Cells:
    """The table of a discretisation, with lines on it."""
    notes = Notes()
    title = (
        f"{found.submission.name} on {found.task.id}, tier {found.tier}: {found.keep} of {found.sources} "
        f"sources kept ({found.order}), the others in shells of one Gaussian mode each"
    )
    rows = [
        [
            _KEPT[row.kind],
            f"{row.ratio:g}",
            f"{min(row.shells)} to {max(row.shells)}",
            notes.cell(row.error),
            format_value(row.spread),
        ]
        for row in found.modes
    ]
    below = [
        *notes.lines(),
        "A mode keeps gᵀΣg, what the loss reads of its shell, or as a control tr Σ, its power. error: loss, "
        "averaged over shifts z, less that of one independent mode a source; spread: largest less smallest "
        "loss of a shift. Nats a token.",
        f"The bath's own Gaussian costs {in_words(found.bath)} more than its mean; one independent mode a "
        f"source costs {in_words(found.sources_apart)} more than that.",
    ]
    return Cells(title, _HEADINGS, rows, below)
