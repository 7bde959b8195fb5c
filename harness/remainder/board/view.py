"""Cells, rows and tables of records, ready for a template. Nothing here is HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from remainder.board.figures import ParetoPoint
from remainder.board.merge import BoardRow, Group, groups
from remainder.board.numbers import parted
from remainder.board.pareto import fronts
from remainder.board.rank import (
    BoardRanking,
    Place,
    budgets_of,
    further_seeds,
    gives_places,
    kl_of,
    lead_of,
    rank,
    size_of,
    unit_of,
    unplaced_because,
)
from remainder.record.number import Number
from remainder.record.rungs import ALL
from remainder.record.schema import Record
from remainder.report.footers import DEEP, interaction_lines, mark_of, seed_lines, shown_of
from remainder.report.quantities import QUANTITIES, Quantity, default_columns, number_of
from remainder.report.text import in_words

__all__ = [
    "COLUMNS",
    "BestPlace",
    "Board",
    "Cell",
    "Column",
    "TableRow",
    "boards",
    "cell",
    "cells_of",
    "explorable",
    "points",
    "record_page",
]


class Cell(NamedTuple):
    """A number as it is shown."""

    value: str
    interval: str
    order: str
    """The number that a page sorts by; empty where there is none."""
    note: str
    """Why it or its interval is missing."""


@dataclass(frozen=True)
class Column:
    """A quantity as a column of the main table."""

    quantity: Quantity
    default: bool = True
    """Whether it is shown unless a reader asks for all."""
    deep: bool = False
    """Whether some rows leave it empty, since the deep plan alone measures it."""

    @property
    def key(self) -> str:
        """The name of the quantity in data formats."""
        return self.quantity.key

    @property
    def heading(self) -> str:
        """The heading of the column, with the mark of the deep plan if some rows leave it empty."""
        return self.quantity.heading + (f" {DEEP}" if self.deep else "")


class BestPlace(NamedTuple):
    """The best of the places that a row has."""

    place: Place
    budget: str
    """Name of the budget within which it has it; of equal places the smallest budget."""

    @property
    def ties(self) -> int:
        """How many other rows within the budget its range does not tell from it."""
        return self.place.last - self.place.first


class TableRow(NamedTuple):
    """An entry in the main table."""

    entry: BoardRow
    size: str
    """The number that the filter by complexity reads; empty where there is none."""
    cells: dict[str, Cell]
    """A cell for each column, by its key."""
    places: dict[str, Place | None]
    """The place within each budget, by its name; None where it has none."""
    front: bool
    """Whether it is on the Pareto front of the KL that the table is ordered by."""
    unplaced: dict[str, str]
    """Why it has no place within a budget, by its name."""
    further_seed: str = ""
    """Why another training of the same method stands for it; empty if none does."""

    @property
    def best(self) -> BestPlace | None:
        """The best of its places; None if it has none."""
        held = [BestPlace(place, name) for name, place in self.places.items() if place is not None]
        return min(held, key=lambda one: (one.place.first, one.place.last), default=None)

    @property
    def why_unplaced(self) -> str:
        """Why it has no place at all."""
        return next(iter(self.unplaced.values()), "")


class Board(NamedTuple):
    """All records of one group."""

    group: Group
    rows: tuple[TableRow, ...]
    """Current ones, by the leading KL; references among the others."""
    nested: tuple[TableRow, ...]
    columns: tuple[Column, ...]
    """The columns in which some row has a value: the default ones first."""
    lead: str
    """The KL that rows are ordered by: `coded`, or `raw` where codes were not spliced in."""
    rankings: tuple[BoardRanking, ...]
    """Places within each budget; none where the task gives no places."""
    places: bool
    """Whether the task gives places."""
    remarks: tuple[str, ...]
    """Sentences on its rows: columns of the deep plan, and numbers that are arithmetic of others."""

    @property
    def units(self) -> list[str]:
        """Units of the costs that fronts weigh against loss: edges are not nodes."""
        return sorted({unit_of(row.entry) for row in (*self.rows, *self.nested)})

    @property
    def unit(self) -> str:
        """The units in words."""
        return " or ".join(self.units)

    @property
    def of_circuits(self) -> bool:
        """Whether the records are of circuits."""
        return any(row.entry.record.is_of_circuits for row in (*self.rows, *self.nested))

    @property
    def submissions(self) -> int:
        """Rows that are not references."""
        return sum(not row.entry.is_reference for row in self.rows)

    @property
    def main(self) -> list[TableRow]:
        """Rows of the main table: submissions, one for all seeds of a method; without any, all rows."""
        own = [row for row in self.rows if not row.entry.is_reference and not row.further_seed]
        return own or list(self.rows)

    @property
    def references(self) -> list[TableRow]:
        """Reference rows, where they do not make up the main table."""
        return [row for row in self.rows if row.entry.is_reference] if self.submissions else []

    @property
    def seeds(self) -> list[TableRow]:
        """Further trainings of methods of the main table."""
        return [row for row in self.rows if row.further_seed]


COLUMNS = tuple(map(Column, QUANTITIES.values()))


def boards(entries: Sequence[BoardRow]) -> list[Board]:
    """One table per group, its entries ranked."""
    return [_board(group, found) for group, found in groups(entries).items()]


def cell(number: Number, *, signed: bool = False, count: bool = False) -> Cell:
    """A number as a table shows and sorts it."""
    value, interval = parted(number)
    if count and number.value is not None:
        value = f"{number.value:,.0f}"
    if number.value is None:
        return Cell(value, "", "", number.reason or "")
    order = abs(number.value) if signed else number.value
    return Cell(value, interval, f"{order:.6g}", number.reason or "")


def cells_of(entry: BoardRow) -> dict[str, Cell]:
    """Every quantity of the table, by its key; empty where the deep plan alone would have measured it."""
    record, found = entry.record, {}
    for key, quantity in QUANTITIES.items():
        if quantity.is_left_out(record):
            found[key] = Cell("", "", "", f"measured by --rungs {ALL} alone")
            continue
        one = cell(quantity.of_record(record), signed=quantity.signed, count=key == "kept")
        if mark := mark_of(quantity, record):
            one = one._replace(value=one.value + mark, note=_beyond(record))
        found[key] = one
    return found


def _beyond(record: Record) -> str:
    interaction = in_words(number_of(record, "interaction"))
    return f"interaction {interaction}: noise costs another amount at x̂ than at x"


def points(board: Board, by: str) -> list[ParetoPoint]:
    """The rows of a table that have a complexity, for a figure."""
    return [
        ParetoPoint(
            entry.record.submission.name,
            size,
            unit_of(entry),
            kl_of(entry, by),
            f"../{record_page(entry.record.record_id)}",
            entry.is_reference,
        )
        for entry in (row.entry for row in board.rows)
        if (size := size_of(entry).value) is not None
    ]


def record_page(record_id: str) -> str:
    """The place of a record's page below the site: named by its hash, never by a name."""
    return f"records/{record_id}.html"


def _board(group: Group, entries: Sequence[BoardRow]) -> Board:
    current = [entry for entry in entries if entry.current]
    plain = [entry for entry in current if not entry.is_nested]
    lead = lead_of(plain or current)
    current.sort(key=lambda entry: _order(entry, lead))
    plain.sort(key=lambda entry: _order(entry, lead))
    places = gives_places(group.task)
    rankings = tuple(rank(plain, budget) for budget in budgets_of(plain)) if places else ()
    front, seeds = _front(plain, lead), further_seeds(plain)

    def row(entry: BoardRow) -> TableRow:
        name = entry.record.record_id
        given = {ranking.budget.name: ranking.places.get(name) for ranking in rankings}
        why = {one.budget.name: _unplaced(entry, one) for one in rankings if name not in one.places}
        seed = seeds.get(name, "")
        return TableRow(entry, cell(size_of(entry)).order, cells_of(entry), given, name in front, why, seed)

    rows = tuple(row(entry) for entry in plain)
    nested = tuple(row(entry) for entry in current if entry.is_nested)
    records = [row.entry.record for row in (*rows, *nested)]
    columns, remarks = _columns((*rows, *nested), records)
    return Board(group, rows, nested, columns, lead, rankings, places, remarks)


def _columns(
    rows: Sequence[TableRow], records: Sequence[Record]
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Default columns, then all others in which some row has a value; and sentences on them."""
    first = default_columns(records)
    keys = {quantity.key for quantity in first}
    rest = [one for key, one in QUANTITIES.items() if key not in keys]
    there = [one for one in rest if any(row.cells[one.key].order for row in rows)]
    shown = shown_of([*first, *there], records)
    columns = (Column(one, one.key in keys, one.key in shown.deep) for one in shown.columns)
    return tuple(columns), (
        *seed_lines(shown.columns, records),
        *interaction_lines(shown.columns, records),
        *shown.lines,
    )


def _unplaced(entry: BoardRow, ranking: BoardRanking) -> str:
    """Why an entry has no place within a budget."""
    within = f"no point of its curve is within {ranking.budget.bits:.4g} bits"
    return unplaced_because(entry) or ranking.apart.get(entry.record.record_id, within)


def _front(entries: Sequence[BoardRow], by: str) -> set[str]:
    """Ids of the entries on the Pareto front of KL against complexity."""
    found: list[tuple[str, tuple[str, float, float]]] = []
    for entry in entries:
        size, kl = size_of(entry).value, kl_of(entry, by).value
        if size is not None and kl is not None and not entry.failed:
            found.append((entry.record.record_id, (unit_of(entry), size, max(kl, 0.0))))
    return {found[number][0] for one in fronts([point for _, point in found]) for number in one}


def _order(entry: BoardRow, lead: str) -> tuple[float, str, str]:
    kl = kl_of(entry, lead).value
    name = entry.record.submission.name
    return (math.inf if kl is None or entry.failed else kl, name, entry.record.record_id)


def explorable(board: Board) -> list[dict[str, Any]]:
    """The points of a table for the figure that a reader can zoom, as JSON: numbers, names, links."""
    found: list[dict[str, Any]] = []
    entries = [row.entry for row in board.rows if size_of(row.entry).value is not None]
    for entry, point in zip(entries, points(board, board.lead), strict=True):
        numbers = {}
        for what in ("kl", "gap"):
            for part, by in (("lead", board.lead), ("gaussian", "gaussian")):
                number = number_of(entry.record, f"{what}_{by}")
                numbers[f"{what}_{part}"] = [number.value, number.low, number.high]
        named = {name: getattr(point, name) for name in ("name", "cost", "unit", "reference", "href")}
        found.append(named | numbers)
    return found
