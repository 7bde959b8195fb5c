"""Lines below a table on its rows: what the deep plan alone measures, and what is arithmetic.

Source: protocol 2, sections 1 and 9.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from remainder.record.rungs import ALL
from remainder.record.schema import Record
from remainder.record.seeds import trainings
from remainder.report.quantities import QUANTITIES, Quantity, default_columns, number_of
from remainder.report.second_score import INTERACTING, interacts
from remainder.report.text import format_value

__all__ = [
    "DEEP",
    "INTERACTS",
    "Shown",
    "code_lines",
    "interaction_lines",
    "mark_of",
    "seed_lines",
    "shown_of",
]

DEEP, INTERACTS = "†", "‡"
"""Marks behind the heading of a column of the deep plan, and behind a number that is no arithmetic."""

_MARKED = ("kl_gaussian", "interaction")
_MOST = 6  # names in a line


class Shown(NamedTuple):
    """Columns that a table has something for, and sentences on those of the deep plan."""

    columns: list[Quantity]
    deep: set[str]
    """Keys of columns that some rows have and others, not being measured by the deep plan, leave empty."""
    lines: list[str]


def shown_of(columns: Iterable[Quantity], records: Collection[Record]) -> Shown:
    """The columns to show, and a sentence on each kind that only the deep plan measures."""
    columns = list(columns)
    keys = {column.key for column in columns}
    kept: list[Quantity] = []
    nowhere: list[Quantity] = []
    partly: dict[tuple[str, ...], list[Quantity]] = {}
    for column in columns:
        has = [record for record in records if not column.is_left_out(record)]
        (kept if has else nowhere).append(column)
        if has and column.beside and column.beside not in keys:
            kept.append(QUANTITIES[column.beside])
        if has and len(has) < len(records):
            partly.setdefault(tuple(record.submission.name for record in has), []).append(column)
    alone = f"measured by --rungs {ALL} alone"
    lines = [
        f"{DEEP} {_listed([one.heading for one in some])}: {alone}; of these rows, {_listed(names)}."
        for names, some in partly.items()
    ]
    if nowhere:
        lines.append(f"{_listed([one.heading for one in nowhere])}: {alone}, which no row here was.")
    return Shown(kept, {one.key for some in partly.values() for one in some}, lines)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def mark_of(column: Quantity, record: Record) -> str:
    """The mark of a number that the raw one and the noise do not tell already; empty of all others."""
    return INTERACTS if column.key in _MARKED and interacts(number_of(record, "interaction")) else ""


def code_lines(records: Collection[Record]) -> list[str]:
    """A sentence on the rows whose own code encodes and decodes; none where there is no such row."""
    names = [record.submission.name for record in records if record.submission.runs_code]
    return [f"code: {_listed(names)}: its own code encodes and decodes, in a sandbox."] if names else []


def seed_lines(columns: Iterable[Quantity], records: Collection[Record]) -> list[str]:
    """A sentence for each method that was trained several times; none where nothing was.

    It has the mean over trainings and their standard deviation (with n − 1), of the quantities that a table
    shows by default and that every training has. Submissions of one content are one training.
    """
    lines = []
    for stem, every in trainings(records).items():
        some = list({record.submission.hash: record for record in reversed(every)}.values())[::-1]
        if copies := [record.submission.name for record in every if record not in some]:
            lines.append(f"{', '.join(copies)}: of the content of another seed, and no training of its own.")
        if len(some) < 2:
            continue
        usual = {column.key for column in default_columns(some)}
        spreads = []
        for column in columns:
            values = [value for record in some if (value := column.of_record(record).value) is not None]
            if column.key in usual and len(values) == len(some):
                mean, spread = fmean(values), stdev(values)
                shown = format_value(mean, spread), format_value(spread, spread)
                spreads.append(f"{column.heading} {shown[0]} ± {shown[1]}")
        if spreads:
            said = "mean ± standard deviation over trainings, where brackets are over "
            units = "prompts" if some[0].is_of_circuits else "documents"
            lines.append(f"{stem}, {len(some)} seeds: {', '.join(spreads)} ({said}{units}).")
    return lines


def interaction_lines(columns: Iterable[Quantity], records: Collection[Record]) -> list[str]:
    """Sentences on which Gaussian KL are arithmetic; none where no interaction was measured or is shown."""
    numbers = [number_of(record, "interaction") for record in records]
    found = [interacts(number) for number in numbers if number.value is not None]
    if not found or not any(column.key in _MARKED for column in columns):
        return []
    says = {
        True: f"{INTERACTS} interaction beyond ±{INTERACTING:g}: noise costs another amount at x̂ than at x",
        False: f"Interaction within ±{INTERACTING:g}: KL Gaussian is arithmetic of the raw one, KL of the "
        "mean residual plus KL of noise around x",
        None: f"Interaction across ±{INTERACTING:g}: which of the two is not resolved",
    }
    return [
        f"{sentence} ({found.count(what)} of {len(found)} rows)."
        for what, sentence in says.items()
        if what in found
    ]
