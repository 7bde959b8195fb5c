"""Cells, rows and tables of records, ready for a template. Nothing here is HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from remainder.board.figures import ParetoPoint
from remainder.board.merge import RUNGS, BoardRow, Group, groups
from remainder.board.numbers import parted
from remainder.board.pareto import fronts
from remainder.board.rank import (
    BoardRanking,
    TiedRank,
    kl_of,
    rank,
    size_of,
    unit_of,
    unranked_because,
)
from remainder.record.number import Number
from remainder.report.quantities import QUANTITIES, Quantity, number_of

__all__ = [
    "COLUMNS",
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

    @property
    def key(self) -> str:
        """The name of the quantity in data formats."""
        return self.quantity.key

    @property
    def heading(self) -> str:
        """The heading of the column, below that of its group if it has one."""
        return self.quantity.short or self.quantity.heading

    @property
    def place(self) -> str:
        """The key of `merge.RUNGS` whose places by this number stand before it; empty if none do."""
        kind, _, by = self.key.partition("_")
        return by if kind == "kl" and by in RUNGS else ""


class TableRow(NamedTuple):
    """An entry in the main table."""

    entry: BoardRow
    size: str
    """The number that the filter by complexity reads; empty where there is none."""
    cells: dict[str, Cell]
    """A cell for each column, by its key."""
    places: dict[str, TiedRank | None]
    """The place by each key of `merge.RUNGS`; None where it is not ranked."""
    fronts: tuple[str, ...]
    """Keys of `merge.RUNGS` by which it is on the Pareto front."""
    unranked: str
    """Why it has no place; empty if it has one."""


class Board(NamedTuple):
    """All records of one group."""

    group: Group
    rows: tuple[TableRow, ...]
    """Current ones, by KL raw; references among the others."""
    nested: tuple[TableRow, ...]
    columns: tuple[Column, ...]
    """The columns in which some row has a value."""
    rankings: dict[str, BoardRanking]

    @property
    def unit(self) -> str:
        """The unit of the cost that the front weighs against loss."""
        return " or ".join(sorted({unit_of(row.entry) for row in (*self.rows, *self.nested)}))

    @property
    def of_circuits(self) -> bool:
        """Whether the records are of circuits."""
        return any(row.entry.record.is_of_circuits for row in (*self.rows, *self.nested))

    @property
    def submissions(self) -> int:
        """Rows that are not references."""
        return sum(not row.entry.is_reference for row in self.rows)


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
    return Cell(value, interval, f"{order:.6g}", "" if interval else number.reason or "")


def cells_of(entry: BoardRow) -> dict[str, Cell]:
    """Every quantity of the table, by its key."""
    return {
        key: cell(quantity.of_record(entry.record), signed=quantity.signed, count=key == "kept")
        for key, quantity in QUANTITIES.items()
    }


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
    rankings = {by: rank(entries, by) for by in RUNGS}
    current = sorted((entry for entry in entries if entry.current), key=_order)
    plain = [entry for entry in current if not entry.is_nested]
    fronts = {by: _front(plain, by) for by in RUNGS}

    def row(entry: BoardRow) -> TableRow:
        name = entry.record.record_id
        places = {by: ranking.places.get(name) for by, ranking in rankings.items()}
        cells = cells_of(entry)
        best = tuple(by for by, found in fronts.items() if name in found)
        return TableRow(
            entry, cell(size_of(entry)).order, cells, places, best, unranked_because(entry, "raw")
        )

    rows = tuple(row(entry) for entry in plain)
    nested = tuple(row(entry) for entry in current if entry.is_nested)
    shown = tuple(
        column for column in COLUMNS if any(one.cells[column.key].order for one in (*rows, *nested))
    )
    return Board(group, rows, nested, shown, rankings)


def _front(entries: Sequence[BoardRow], by: str) -> set[str]:
    """Ids of the entries on the Pareto front of KL against complexity."""
    found: list[tuple[str, tuple[str, float, float]]] = []
    for entry in entries:
        size, kl = size_of(entry).value, kl_of(entry, by).value
        if size is not None and kl is not None and not entry.failed:
            found.append((entry.record.record_id, (unit_of(entry), size, max(kl, 0.0))))
    return {found[number][0] for one in fronts([point for _, point in found]) for number in one}


def _order(entry: BoardRow) -> tuple[float, str, str]:
    kl = kl_of(entry, "raw").value
    name = entry.record.submission.name
    return (math.inf if kl is None or entry.failed else kl, name, entry.record.record_id)


def explorable(board: Board) -> list[dict[str, Any]]:
    """The points of a table for the figure that a reader can zoom, as JSON: numbers, names, links."""
    found: list[dict[str, Any]] = []
    entries = [row.entry for row in board.rows if size_of(row.entry).value is not None]
    for entry, point in zip(entries, points(board, "raw"), strict=True):
        numbers = {}
        for key in ("kl_raw", "kl_gaussian", "gap_raw", "gap_gaussian"):
            number = number_of(entry.record, key)
            numbers[key] = [number.value, number.low, number.high]
        named = {name: getattr(point, name) for name in ("name", "cost", "unit", "reference", "href")}
        found.append(named | numbers)
    return found
