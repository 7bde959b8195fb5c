"""The whole ladder of one record: a table of its rungs, and in words where the lost nats live.

1. Every rung with the gap to the clean model, quenched (interpretation and noise simulate the model) and
   annealed (they predict, the noise integrated out), and its KL.
2. Where the Gaussian gap comes from: shape + dependence on x̂ + rest, which add up exactly.
3. How it is reached as cumulants fade, which amplitudes predict best, ρ, what the Gaussian was fitted on, and
   how Gaussian the residual is.
4. A reading, by rules that a reader can check: a term whose interval includes 0 is unresolved, and of two
   terms whose intervals overlap in size neither is called the larger.

Whatever a record does not hold is named, with how to measure it. Needs no torch.

Source: protocol 1, sections 2 to 7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

import pandas as pd
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from remainder.record.number import Number
from remainder.record.rungs import ALL
from remainder.record.schema import Record
from remainder.report.circuit_sections import Section
from remainder.report.ladder import Rung, ladder
from remainder.report.layout import WIDTH, require_format
from remainder.report.site_sections import has_annealed, sections
from remainder.report.tables import troubles
from remainder.report.text import (
    MISSING,
    Cells,
    Notes,
    draw,
    format_value,
    frame_cells,
    render_cells,
    render_frame,
    ruled_table,
)

__all__ = ["Explained", "explain", "explained", "rung_frame"]


_LEGEND = (
    "Δ: loss on this rung minus clean loss, nats per token, as KL.",
    "Quenched: the noise drawn before the loss is read.",
)
_ANNEALED = "Annealed: integrated out, from {draws}."
_BRACKETS = "Brackets: 95 % intervals, bootstrap over {units}."
_MANY, _FEW = "{draws} draws for full, permuted and coupled, from few for the others", "few draws"
_CIRCUIT_LEGEND = (
    "Δ: loss on this rung minus clean loss, nats per scored token, as KL; quenched:",
    "the noise drawn before the loss is read.",
)


class Explained(NamedTuple):
    """The ladder of a record and what it says, as ready cells and lines; nothing in it is escaped."""

    table: Cells
    """The rungs; its notes are the footnotes of the table and of all sections."""
    sections: list[Section]
    below: list[str]
    """Failed checks, warnings and the legend."""


def rung_frame(record: Record) -> pd.DataFrame:
    """One row per rung; every number with `_low` and `_high`, nats per token (`top1`, `accuracy`: shares).

    What is missing is NaN, and `reasons` says why.
    """
    table = []
    for rung in ladder(record):
        row: dict[str, str | float] = {
            "task": record.task.id,
            "version": record.task.version,
            "tier": record.tier,
            "submission": record.submission.name,
            "rung": rung.name,
            "adds": rung.adds,
        }
        numbers = _numbers(rung)
        for key, number in numbers.items():
            row |= frame_cells(key, number)
        annealed = None if rung.metrics is None else rung.metrics.annealed
        row["annealed_draws"] = math.nan if annealed is None else annealed.draws
        reasons = dict.fromkeys(_one_line(number.reason) for number in numbers.values() if number.reason)
        row["reasons"] = "; ".join(reasons)
        table.append(row)
    frame: pd.DataFrame = pd.DataFrame(table)
    return frame


def explain(record: Record, format: str = "table", *, width: int = WIDTH, color: bool = False) -> str:
    """The ladder of a record as text.

    Args:
        format: one of `text.FORMATS`; `csv` and `json` are those of `rung_frame`.
        width: columns of the terminal; `table` only.
        color: whether to style for a terminal; `table` only.

    Raises:
        RecordError: there is no such format.
    """
    require_format(format)
    if format in ("csv", "json"):
        return render_frame(rung_frame(record), format)
    title = _title(record)
    if format == "table":
        notes, rungs, annealed = Notes(), ladder(record), has_annealed(record)
        adds = "What is removed carries" if record.is_of_circuits else "Adds"
        table, parts = _table(rungs, notes, adds, annealed=annealed), sections(record, notes)
        footer = [Text(line, style="dim") for line in [*_notes(notes), *_legend(record, notes)]]
        warned = [Text(line, style="red") for line in troubles([record])]
        blocks = [block for section in parts for block in ("", *_drawn(section))]
        content = [Text(title, style="bold"), "", table, *blocks, "", *warned, *footer]
        # The hat of x̂ has no width but is a character: two columns are left free for it.
        return draw([Padding(Group(*content), (0, 2, 0, 0))], width=width, color=color)
    found, parts, last = explained(record)
    below = [*found.notes, *map(_written, parts), *last]
    escape = _markdown if format == "markdown" else _one_line
    title, below = escape(title), [escape(line) for line in below]
    text = render_cells(found.headings, found.rows, format, title=title, notes=below)
    return text if format == "markdown" else _latex(text)


def explained(record: Record) -> Explained:
    """The ladder of a record as ready cells, for a document or a notebook."""
    notes, annealed = Notes(), has_annealed(record)
    cells = [
        [rung.name, rung.adds, *map(notes.cell, _shown(rung, annealed=annealed))] for rung in ladder(record)
    ]
    parts = list(sections(record, notes))
    headings = ["Rung", "Adds", *_headings(annealed=annealed)]
    table = Cells(_title(record), headings, cells, _notes(notes))
    return Explained(table, parts, [*troubles([record]), *_legend(record, notes)])


def _legend(record: Record, notes: Notes) -> list[str]:
    """The legend of a record: with its own number of draws, and with brackets where there are any."""
    circuits, draws = record.is_of_circuits, record.measurement.annealed_draws
    lines = list(_CIRCUIT_LEGEND if circuits else _LEGEND)
    if has_annealed(record):
        said = _ANNEALED.format(draws=_MANY.format(draws=draws) if draws else _FEW)
        lines += wrap(said, WIDTH - 2)
    if notes.intervals:
        lines.append(_BRACKETS.format(units="prompts" if circuits else "documents"))
    return lines


def _headings(*, annealed: bool) -> list[str]:
    return ["Δ quenched", *(["Δ annealed"] if annealed else []), "KL"]


def _shown(rung: Rung, *, annealed: bool) -> list[Number]:
    return [rung.gap, *([rung.annealed] if annealed else []), rung.kl]


def _numbers(rung: Rung) -> dict[str, Number]:
    """Every number of a rung by its key in data formats."""
    quenched = None if rung.metrics is None else rung.metrics.quenched
    annealed = None if rung.metrics is None else rung.metrics.annealed
    numbers = {
        f"quenched_{name}": Number.null(rung.reason) if quenched is None else getattr(quenched, name)
        for name in ("loss", "gap", "kl", "kl_p99", "top1", "accuracy")
    }
    for name in ("loss", "gap"):
        numbers[f"annealed_{name}"] = rung.annealed if annealed is None else getattr(annealed, name)
    return numbers


def _title(record: Record) -> str:
    loss = record.metrics.clean.loss.value
    clean = MISSING if loss is None else format_value(loss)
    return (
        f"{record.submission.name} on {record.task.id}, version {record.task.version}, tier {record.tier}: "
        f"{record.documents.tokens:,} scored tokens of {record.documents.documents:,} documents, "
        f"clean loss {clean} nats"
    )


def _table(rungs: Sequence[Rung], notes: Notes, adds: str, *, annealed: bool) -> Table:
    """One line a rung where it fits; the intervals of the other columns are in Markdown and data formats."""
    words = (Column("Rung", no_wrap=True), Column(adds, overflow="fold"))
    table = ruled_table(words, _headings(annealed=annealed))
    for rung in rungs:
        gap = notes.value(rung.gap, style="bold")
        if rung.gap.value is not None:
            interval = notes.interval(rung.gap, short=True) or MISSING + notes.mark(rung.gap.reason)
            gap.append(f" {interval}", style="not bold dim")
        others = map(notes.value, _shown(rung, annealed=annealed)[1:])
        table.add_row(Text(rung.name), Text(rung.adds), gap, *others)
    return table


def _drawn(section: Section) -> list[RenderableType]:
    """A section for a terminal: its rows in columns, its sentences wrapped."""
    below: list[RenderableType] = []
    grid: Table | None = None
    for line in section.body:
        if isinstance(line, str):
            grid = None
            below.append(Text(line))
            continue
        if grid is None:
            grid = Table.grid(padding=(0, 2, 0, 0))
            for place in range(len(line)):
                grid.add_column(justify="right" if place == 1 else "left", overflow="fold")
            below.append(grid)
        grid.add_row(*(Text(cell) for cell in line))
    return [Text(section.heading, style="bold"), Padding(Group(*below), (0, 0, 0, 2))]


def _written(section: Section) -> str:
    """A section as one paragraph."""
    parts = [line if isinstance(line, str) else " ".join(line) for line in section.body]
    joined = " ".join(part if part.endswith((".", ALL)) else f"{part};" for part in parts)
    return f"{section.heading}: {joined.removesuffix(';')}"


def _notes(notes: Notes) -> list[str]:
    return [_one_line(line) for line in notes.lines()]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_|<>~])", r"\\\1", _one_line(text))


def _latex(text: str) -> str:
    """Signs of the cells that need a package otherwise; comments stay as they are."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("%"):
            line = re.sub(r"(\d+)\\\^\{\}\((\d)−(.*?)\)", r"$\1^{\2-\3}$", line)  # 8^(1−n/2)
            for sign, command in (("x̂", r"$\hat{x}$"), ("×", r"$\times$"), ("−", "$-$")):
                line = line.replace(sign, command)
            line = line.replace("α*", r"$\alpha^*$").replace("β*", r"$\beta^*$")
        lines.append(line)
    return "\n".join(lines) + "\n"
