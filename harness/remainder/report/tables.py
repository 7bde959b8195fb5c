"""Records as tables for people: rich for a terminal of 80 columns, Markdown, LaTeX, CSV and JSON.

Rows are ordered by bits per token, fewest first: no score says anything without its complexity, and read
downward the table shows what each further bit buys. Records of different tasks, tiers or texts get tables of
their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from textwrap import wrap

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from remainder.errors import RecordError
from remainder.record.circuit_summary import HEADLINE
from remainder.record.naming import numbered, told_apart
from remainder.record.rungs import ERROR_RUNGS
from remainder.record.schema import Record
from remainder.report.footers import DEEP, Shown, code_lines, interaction_lines, mark_of, seed_lines, shown_of
from remainder.report.ladder import ladder
from remainder.report.layout import WIDTH, require_format
from remainder.report.quantities import (
    MAIN_RUNGS,
    QUANTITIES,
    Quantity,
    applicable,
    chosen,
    default_columns,
    number_of,
    on_rungs,
)
from remainder.report.text import (
    Cells,
    Notes,
    draw,
    format_value,
    frame_cells,
    render_cells,
    render_frame,
    ruled_table,
)

__all__ = ["glances", "order_key", "render", "row_of", "rows", "troubles"]

_NAME_WIDTH = 24
_MOST_RUNGS = 6
"""Further rungs that a table has rows for; of more, `explain` shows the whole ladder."""

_WIDE = 4
"""Columns of numbers with intervals that 80 columns of a terminal have room for beside a name."""

_LEGEND = ("Rows by bits per token, fewest first. Losses, KL: nats per scored token.",)
_BRACKETS = "Brackets: 95 % intervals, bootstrap over {units}."
_CIRCUIT_LEGEND = (
    "KL, Δ: of the circuit, nats per scored token; rows by edges kept, fewest first.",
    "Raw: removed edges carry their mean at each position. Gaussian: noise of equal",
    "mean and covariance, shared by all edges of a writer.",
    "efficiency: log KL raw of the median of 20 random circuits of equal size, less",
    "log KL raw; above 0: better than chance.",
    "f: share of the answer (log-odds) that is kept, counterfactual background.",
    "CPR: area under f over sizes (MIB); above 1, more than the model's own answer.",
    "CMD: area under |1 − f| over sizes (MIB); 0 is best.",
)
_FEATURE_LEGEND = (
    "Kept: edges; or nodes, latents and errors of SAEs at each position, which carry",
    "the same backgrounds where they are removed.",
    "errors-…: the mean, but all errors are kept, or carry a mean or a Gaussian.",
)


def rows(records: Iterable[Record], rungs: Iterable[str] = ()) -> pd.DataFrame:
    """One row per record, by task and then by bits per token; every number with `_low` and `_high` columns.

    Losses, gaps and KL are nats per scored token, bits are per token. Missing numbers are NaN in the frame.

    Args:
        rungs: get columns `gap_RUNG` and `kl_RUNG` beside those of `report.quantities`.
    """
    further = on_rungs(rungs)
    frame: pd.DataFrame = pd.DataFrame([row_of(record, further) for record in sorted(records, key=order_key)])
    return frame


def row_of(record: Record, further: Iterable[Quantity] = ()) -> dict[str, str | float]:
    """The row of a record in such a frame.

    Args:
        further: quantities beside those of `report.quantities`.
    """
    row: dict[str, str | float] = {
        "task": record.task.id,
        "version": record.task.version,
        "tier": record.tier,
        "submission": record.submission.name,
        "kind": record.submission.kind,
        "reference": "" if record.reference is None else record.reference.name,
        "features": math.nan if record.complexity.features is None else record.complexity.features,
    }
    for quantity in (*QUANTITIES.values(), *further):
        row |= frame_cells(quantity.key, quantity.of_record(record))
    return row | {"failed_checks": " ".join(record.failed_checks), "record_id": record.record_id}


def render(
    records: Iterable[Record],
    format: str = "table",
    *,
    rungs: Collection[str] = (),
    columns: Collection[str] = (),
    width: int = WIDTH,
    color: bool = False,
    stated: set[str] | None = None,
) -> str:
    """The records as text.

    Args:
        format: one of `text.FORMATS`.
        rungs: further rungs to show beside those of the columns, such as those that were asked for.
        columns: keys of `report.quantities`, or `all`. Default: those that matter most, in a table for a
            terminal; in a document all that apply. CSV and JSON always have every quantity.
        width: columns of the terminal; `table` only.
        color: whether to style for a terminal; `table` only.
        stated: legends and notes under tables above this one. Legends, and notes on reference rows or on
            every row, are left out if they are among them, and are added; `table` only.

    Raises:
        RecordError: there is no record, no such format, or no such column.
    """
    require_format(format)
    records = list(records)
    if not records:
        raise RecordError(
            "there is no record to show", fix="run a task first, or name the records' .json files"
        )
    if format in ("csv", "json"):
        return render_frame(rows(records, rungs), format)
    tables = _tables(records)
    if format == "table":
        above = set() if stated is None else stated
        shown = [_glance(group, rungs, columns, above) for group in tables]
        return draw(shown, width=width, color=color)
    return "\n".join(_written(group, rungs, columns, format) for group in tables)


def glances(records: Iterable[Record]) -> list[Cells]:
    """The tables that a terminal shows unless it is asked for others, as ready cells."""
    return [_cells(group, default_columns(group)) for group in _tables(records)]


def _tables(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each table, in its order."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in sorted(records, key=order_key):
        groups.setdefault(_group_key(record), []).append(record)
    return [numbered(told_apart(group)) for group in groups.values()]


def _glance(
    records: Sequence[Record], rungs: Collection[str], columns: Collection[str], stated: set[str]
) -> RenderableType:
    """The table for a terminal: one record in two lines, intervals below the values.

    Columns that one table has no room for follow in further ones.
    """
    notes = Notes()
    shown = shown_of(chosen(columns, records), records)
    below: list[RenderableType] = []
    for start in range(0, len(shown.columns), _WIDE):
        part = shown.columns[start : start + _WIDE]
        headings = [_heading(quantity, records, shown.deep) for quantity in part]
        below += [_named_rows(records, headings, partial(_row, part, notes)), ""]
    below += _further(records, rungs, notes)
    below += [Text(line, style="red") for line in troubles(records, stated)]
    legend = _once("\n".join(_legend(records, shown.columns, notes)), stated).splitlines()
    footer = [*notes.lines(), *_wrapped(_of_rows(records, shown)), *legend]
    below += [Text(line, style="dim") for line in footer]
    return Group(Text(_title(records), style="bold"), "", *below)


def _row(columns: Sequence[Quantity], notes: Notes, record: Record) -> list[Text]:
    """Cells of a record: a cost alone, any other number with its interval below it.

    What the deep plan alone measures is left empty in rows of another plan.
    """

    def cell(column: Quantity) -> Text:
        number = column.of_record(record)
        if column.is_left_out(record):
            return Text("")
        if column.is_cost or column.alone:
            return notes.value(number, "{:,.0f}".format if column.is_count else format_value)
        return notes.stacked(number, mark_of(column, record))

    return [cell(column) for column in columns]


def _heading(column: Quantity, records: Sequence[Record], deep: Collection[str] = ()) -> str:
    """The heading of a column in a terminal, a cost by its short word, the deep plan's with a mark."""
    if column.key == "kept":
        return "Kept" if any(record.keeps_nodes for record in records) else "Edges"
    heading = column.short[:1].upper() + column.short[1:] if column.is_cost else column.heading
    return f"{heading} {DEEP}" if column.key in deep else heading


def _of_rows(records: Sequence[Record], shown: Shown) -> list[str]:
    """Sentences that hold for these rows alone."""
    return [
        *code_lines(records),
        *seed_lines(shown.columns, records),
        *interaction_lines(shown.columns, records),
        *shown.lines,
    ]


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in wrap(line, WIDTH)]


def _legend(records: Sequence[Record], columns: Sequence[Quantity], notes: Notes) -> list[str]:
    """Meanings of the columns, in lines of a terminal."""
    circuits = records[0].is_of_circuits
    brackets = [_BRACKETS.format(units="prompts" if circuits else "documents")] if notes.intervals else []
    if circuits:
        features = any(record.keeps_nodes for record in records)
        return [*_CIRCUIT_LEGEND, *brackets, *(_FEATURE_LEGEND if features else ())]
    meant = [f"{_heading(column, records)}: {column.about}." for column in columns]
    if any(record.compat is not None for record in records):
        meant.append(
            "The metrics of other evaluators (--compat) are in the record: `remainder explain RECORD`."
        )
    return [*_wrapped(meant), *_LEGEND, *brackets]


def _named_rows(
    records: Sequence[Record], headings: Sequence[str], cells: Callable[[Record], Sequence[Text]]
) -> Table:
    """A table with one row per record, its name first."""
    table = ruled_table([_name_column()], headings, padding=(0, 0))
    names = _short_names(records)
    for record in records:
        table.add_row(Text(names[record.submission.name]), *cells(record))
    return table


def _name_column() -> Column:
    return Column("Submission", overflow="fold", max_width=_NAME_WIDTH)


def _short_names(records: Sequence[Record]) -> dict[str, str]:
    """Names cut to the width of a column: both ends of a long one, unless two would look the same."""
    room = _NAME_WIDTH - 1
    names = {record.submission.name for record in records}
    cut = {
        name: f"{name[: -(-room // 2)]}…{name[-(room // 2) :]}" if len(name) > _NAME_WIDTH else name
        for name in names
    }
    alike = Counter(cut.values())
    return {name: short if alike[short] == 1 else name for name, short in cut.items()}


def _further(records: Sequence[Record], rungs: Collection[str], notes: Notes) -> list[RenderableType]:
    """Rungs that no column of the tables has, a line each: those asked for, and those always measured."""
    lines = [
        (record, rung)
        for record in records
        for rung in ladder(record)
        if rung.name in rungs or rung.name in ERROR_RUNGS
        if rung.name not in MAIN_RUNGS.values()
    ]
    names = list(dict.fromkeys(rung.name for _, rung in lines))
    if len(names) > _MOST_RUNGS:
        return [Text(f"Δ on {len(names)} further rungs: remainder explain RECORD, or --format csv."), ""]
    if not lines:
        return []
    shown = _short_names(records)
    circuits = records[0].is_of_circuits
    rung_column = Column("Background" if circuits else "Rung", overflow="fold", max_width=28)
    table = ruled_table([_name_column(), rung_column], ("Δ", "f" if circuits else "KL"))
    for record, rung in lines:
        if not circuits:
            second = rung.kl
        elif (kept := record.circuits.points[HEADLINE].rungs.get(rung.name)) is not None:
            second = kept.faithfulness
        else:  # asked for, and not measured: the gap says why
            second = rung.gap
        cells = (Text(shown[record.submission.name]), Text(rung.name))
        table.add_row(*cells, *map(notes.stacked, (rung.gap, second)))
    return [table, ""]


def _written(records: Sequence[Record], rungs: Collection[str], columns: Collection[str], format: str) -> str:
    """The table for a document: every quantity that applies, its interval beside the value."""
    cells = _cells(records, chosen(columns, records) if columns else applicable(records, rungs))
    return render_cells(cells.headings, cells.rows, format, title=cells.title, notes=cells.notes)


def _cells(records: Sequence[Record], columns: Iterable[Quantity]) -> Cells:
    """A table with these columns, each interval beside its value."""
    notes = Notes()
    shown = shown_of(columns, records)

    def cell(column: Quantity, record: Record) -> str:
        left_out = column.is_left_out(record)
        return "" if left_out else notes.cell(column.of_record(record), mark_of(column, record))

    cells = [
        [record.submission.name, *(cell(column, record) for column in shown.columns)] for record in records
    ]
    below = [
        *notes.lines(),
        *troubles(records),
        *_of_rows(records, shown),
        *_legend(records, shown.columns, notes),
    ]
    marked = (f" {DEEP}" if column.key in shown.deep else "" for column in shown.columns)
    headings = ["Submission", *(one.heading + mark for one, mark in zip(shown.columns, marked, strict=True))]
    return Cells(_title(records), headings, cells, below)


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    # float32 is what tiers are of; a table of anything else says so.
    precision = "" if first.measurement.dtype == "float32" else f" in {first.measurement.dtype}"
    losses = [record.metrics.clean.loss.value for record in records]
    shown = sorted({format_value(loss) for loss in losses if loss is not None})
    clean = " to ".join([shown[0], shown[-1]] if len(shown) > 1 else shown)
    nested = "" if first.reference is None else f" (of {first.reference.name}, which stands for the model)"
    return (
        f"{first.task.id}, version {first.task.version}, tier {first.tier}{precision}: "
        f"{first.documents.tokens:,} scored tokens of {first.documents.documents:,} documents, "
        f"clean loss {clean} nats" + nested
    )


def _once(text: str, stated: set[str]) -> str:
    """The text, or nothing if it was stated before."""
    if text in stated:
        return ""
    stated.add(text)
    return text


def troubles(records: Iterable[Record], stated: set[str] | None = None) -> list[str]:
    """Failed checks and warnings, one line each; a warning of several records is given once.

    Args:
        stated: warnings of reference rows, or of every row, that were given above; more are added.
    """
    records, stated = list(records), set() if stated is None else stated
    lines = [f"✗ {line}" for record in records for line in _failures(record)]
    warned: dict[str, list[Record]] = {}
    for record in records:
        for warning in record.warnings:
            warned.setdefault(warning, []).append(record)
    for warning, those in warned.items():
        everywhere = 1 < len(records) == len(those)
        known = warning in stated
        shown = [one for one in those if not (known and (everywhere or _is_reference(one)))]
        if everywhere or any(map(_is_reference, those)):
            stated.add(warning)
        if shown:
            names = "" if everywhere else ", ".join(one.submission.name for one in shown) + ": "
            lines.append(f"! {names}{warning}")
    return lines


def _failures(record: Record) -> Iterable[str]:
    """One sentence per failed check."""
    for name in record.failed_checks:
        check = record.checks[name]
        numbers = (("value", check.value), ("limit", check.limit))
        details = [f"{label} {number:.3g}" for label, number in numbers if number is not None]
        detail = ", ".join([*details, *([check.note] if check.note else [])])
        yield f"{record.submission.name}: check {name} failed" + (f" ({detail})" if detail else "")


def _is_reference(record: Record) -> bool:
    """Whether it is of an interpretation that every task carries: one that consists of no files."""
    return record.submission.kind == "reconstruction" and not record.submission.files


def order_key(record: Record) -> tuple[tuple[str, ...], tuple[float | str, ...]]:
    """Sort key of rows of tables: by task, and then by bits per token."""
    return _group_key(record), _order(record)


def _group_key(record: Record) -> tuple[str, ...]:
    """The key of a table: two records stand in one only if it is equal."""
    return (
        record.task.id,
        record.task.version,
        record.tier,
        record.task.hash,
        str(record.documents.tokens),
        "" if record.reference is None else record.reference.hash,
    )


def _order(record: Record) -> tuple[float | str, ...]:
    """Sort key: bits, then L0 or size where bits are missing or equal, then name."""
    costs = (number_of(record, key).value for key in ("bits_per_token", "l0", "kept"))
    return (
        *(math.inf if cost is None else cost for cost in costs),
        record.submission.name,
        record.record_id,
    )
