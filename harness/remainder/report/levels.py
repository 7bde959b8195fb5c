"""Levels over each other as tables: what each adds to the coarser one, and whether that is a bath.

Needs no torch.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Sequence
from itertools import pairwise

import pandas as pd

from remainder.record.levels import STATEMENTS, Levels
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.flow import COLUMNS as OF_SHELLS
from remainder.report.flow import Column
from remainder.report.joint import render_joint
from remainder.report.layout import WIDTH
from remainder.report.text import Cells, Notes, frame_cells

__all__ = [
    "COLUMNS",
    "SAYS",
    "levels_frame",
    "render_levels",
    "steps_of",
    "tables_of_levels",
    "title_of",
]

_PARTS = ("What a level adds, and what it costs", "Whether it is noise", "What the coarser level tells")
"""Tables, by their titles; the first has the levels' own."""

SAYS = {
    "shape": "it costs what a Gaussian does (5 %)",
    "even": "it harms as noise does (ρ even 1 ± .15)",
    "odd": "its sign does not matter (ρ odd ± .15)",
    "apart": "the coarser level does not tell its law",
    "bath": "integrated out, it helps to predict",
}
"""Statements in a few words."""


def _unmeasured(record: Record, rung: str) -> Number:
    """No number of a rung, and why."""
    return Number.null(record.measurement.unmeasured.get(rung, f"rung {rung} was not measured"))


def _gap(rung: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        found = record.metrics.rungs.get(rung)
        return _unmeasured(record, rung) if found is None else found.quenched.gap

    return of


def _shape(power: bool) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        orders = record.metrics.orders
        if orders is None:
            return Number.null("not all amplitudes were measured")
        return orders.smallest_kurtosis if power else orders.shape

    return of


def _told(rung: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        found = (record.calibration.conditional or {}).get(rung)
        if found is None:
            return _unmeasured(record, rung)
        if found.explained is None:
            return Number.null("what is to be told does not vary")
        return Number.bare(found.explained, "held-out calibration documents")

    return of


def _shell(key: str, part: int, says: str) -> Column:
    return OF_SHELLS[key]._replace(part=part, says=says)


COLUMNS = {
    "fvu": _shell("fvu", 0, "the level's share of the finer reconstruction's variance"),
    "gap_raw": _shell("gap_raw", 0, "the level left out"),
    "zero": _shell("zero", 0, "its mean"),
    "gap_full": _shell("gap_full", 0, "fitted to it, sampled"),
    "gap_permuted": _shell("gap_permuted", 0, "the level of other tokens"),
    "gap_cluster": _shell("gap_cluster", 0, "a Gaussian in each cell of the coarser"),
    "gap_hetero": Column("hetero", 0, _gap("hetero"), "a Gaussian as large as codes tell"),
    "shape": Column("shape", 1, _shape(power=False), "Gaussian − permuted"),
    "smallest_kurtosis": Column("κ̂ min", 1, _shape(power=True), "the least κ̂ that shape could have shown"),
    "rho_even": _shell("rho_even", 1, "harm over that of Gaussian noise"),
    "rho_odd": _shell("rho_odd", 1, "its part that turns with the sign"),
    "annealed_06": _shell("annealed_06", 1, "annealed − mean, noise × .6"),
    "annealed_1": _shell("annealed_1", 1, "annealed − mean, noise × 1"),
    "told_context": Column("context", 2, _told("context"), "R² given x̂ here and 3 tokens before"),
    "told_cluster": Column("cluster", 2, _told("cluster"), "R² given the cell of x̂"),
    "told_renormalised": Column("codes", 2, _told("renormalised"), "R² given the codes of x̂"),
    "told_neighbour": Column("neighbour", 2, _told("neighbour"), "R² by the nearest x̂"),
    "told_hetero": Column("size", 2, _told("hetero"), "R² of the log of its length given the codes"),
}
"""Numbers of a level by their keys, in the order of tables."""

_LONGEST = 8  # letters of a name in the first column
_UNIT = "Losses are less that of the finer level, nats a token."


def _labels(levels: Levels) -> list[str]:
    """Names of the levels without what all begin with; their numbers where these are long."""
    names = [level.submission.name for level in levels.levels]
    common = os.path.commonprefix(names)  # noqa: RUF071 (letters are what is compared)
    start = max(common.rfind(sign) for sign in "-.") + 1
    if max(map(len, names)) - start > _LONGEST:
        return [f"{number}" for number in range(1, len(names) + 1)]
    return [name[start:] for name in names]


def steps_of(levels: Levels) -> list[str]:
    """Each level and the one that it is measured in."""
    return [f"{coarse} → {fine}" for coarse, fine in pairwise([*_labels(levels), "model"])]


def levels_frame(levels: Levels, records: Sequence[Record]) -> pd.DataFrame:
    """One row a level: it and the finer one, numbers with the ends of their intervals, verdicts, record."""
    finer = [*(level.submission.name for level in levels.levels[1:]), ""]
    rows = []
    for place, (level, record) in enumerate(zip(levels.levels, records, strict=True)):
        row: dict[str, object] = {"level": level.submission.name, "finer": finer[place]}
        for key, column in COLUMNS.items():
            row |= frame_cells(key, column.of(record))
        row |= {name: levels.statements[name][place].word for name in STATEMENTS}
        rows.append(row | {"record": level.record})
    return pd.DataFrame(rows)


def render_levels(
    levels: Levels,
    records: Sequence[Record],
    format: str = "table",
    *,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """Levels as text; `csv` has a row a level, `json` all that is kept besides.

    Args:
        records: of the levels, in their order.

    Raises:
        RecordError: there is no such format.
    """
    tables, frame = tables_of_levels(levels, records), levels_frame(levels, records)
    return render_joint(levels, frame, tables, format, rows="levels", width=width, color=color)


def tables_of_levels(levels: Levels, records: Sequence[Record]) -> list[Cells]:
    """The tables of levels: numbers of each, and verdicts on it.

    Args:
        records: of the levels, in their order.
    """
    steps = steps_of(levels)
    return [
        *(
            _numbers(steps, records, part, title)
            for part, title in enumerate((title_of(levels), *_PARTS[1:]))
        ),
        _verdicts(levels, steps),
    ]


def _numbers(steps: Sequence[str], records: Sequence[Record], part: int, title: str) -> Cells:
    notes = Notes()
    columns = [column for column in COLUMNS.values() if column.part == part]
    rows = [
        [step, *(notes.value(column.of(record)).plain for column in columns)]
        for step, record in zip(steps, records, strict=True)
    ]
    says = "; ".join(f"{column.heading}: {column.says}" for column in columns)
    below = [*notes.lines(), f"{says}.", *([] if part else [_UNIT])]
    return Cells(title, ["level", *(column.heading for column in columns)], rows, below)


def title_of(levels: Levels) -> str:
    """A line on what levels are of."""
    names = [level.submission.name for level in levels.levels]
    pairs = zip(_labels(levels), names, strict=True)
    named = ", ".join(name if name.endswith(label) else f"{label}: {name}" for label, name in pairs)
    return (
        f"Levels over each other on {levels.task.id}, version {levels.task.version}, tier {levels.tier}: "
        f"{named}; each in the next, the last in the model"
    )


def _verdicts(levels: Levels, steps: Sequence[str]) -> Cells:
    notes = Notes()
    rows = [
        [step, *(verdict.word + notes.mark(verdict.reason) for verdict in row)]
        for step, row in zip(
            steps, zip(*(levels.statements[name] for name in STATEMENTS), strict=True), strict=True
        )
    ]
    says = [f"{name}: {SAYS[name]}" for name in STATEMENTS]
    title = "What a hierarchy would say (95 %, all levels and statements together)"
    return Cells(title, ["level", *STATEMENTS], rows, [*notes.lines(), f"{'; '.join(says)}."])
