"""What the pages show of records: cells, rows and tables, ready for a template. Nothing here is HTML.

A signed number is sorted by its size: a gap below zero is no better than one above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from remainder.board.curves import MIB
from remainder.board.figures import ParetoPoint
from remainder.board.merge import RUNGS, BoardRow, Group, groups
from remainder.board.numbers import parted
from remainder.board.pareto import fronts
from remainder.board.rank import (
    BoardRanking,
    TiedRank,
    cost_of,
    kl_of,
    rank,
    size_of,
    unit_of,
    unranked_because,
)
from remainder.record.number import Number
from remainder.report.tables import number_of

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
    """What a page sorts by; empty where there is nothing."""
    note: str
    """Why it or its interval is missing."""


_NO_CIRCUIT = "it is no circuit"
_GAP, _TERMS = "Δ, signed", "Gaussian gap = sum of"


@dataclass(frozen=True)
class Column:
    """A quantity of the main table."""

    key: str
    group: str
    """Heading over several columns; empty for one that stands alone."""
    heading: str
    title: str
    """What it is, in a sentence."""
    get: Callable[[BoardRow], Number]
    signed: bool = False
    count: bool = False
    place: str = ""
    """A key of `merge.RUNGS`, if places by this number stand before it."""
    bare: bool = False
    """Whether its interval, or why it has none, is told only to who points at it."""

    @property
    def full(self) -> str:
        """The heading where no other stands above it."""
        if self.place:
            return self.group.replace(",", "")
        return f"Δ {self.heading}" if self.group == _GAP else self.heading


class TableRow(NamedTuple):
    """An entry in the main table."""

    entry: BoardRow
    size: str
    """What the filter by complexity reads; empty where there is nothing."""
    cells: dict[str, Cell]
    """By key of the column."""
    places: dict[str, TiedRank | None]
    """By key of `merge.RUNGS`; None for what is not ranked."""
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
    """Those of which any row holds something."""
    rankings: dict[str, BoardRanking]

    @property
    def unit(self) -> str:
        """Of what the front weighs against loss."""
        return " or ".join(sorted({unit_of(row.entry) for row in (*self.rows, *self.nested)}))

    @property
    def of_circuits(self) -> bool:
        """Whether what is scored are circuits."""
        rows = (*self.rows, *self.nested)
        return any(row.entry.record.complexity.circuits is not None for row in rows)

    @property
    def submissions(self) -> int:
        """Rows that are no references."""
        return sum(not row.entry.is_reference for row in self.rows)


def _rung(name: str, part: str) -> Callable[[BoardRow], Number]:
    def get(entry: BoardRow) -> Number:
        metrics = entry.record.metrics.rungs.get(name)
        if metrics is None:
            return Number.null(f"rung {name} was not measured")
        number: Number = getattr(metrics.quenched, part)
        return number

    return get


def _annealed(entry: BoardRow) -> Number:
    metrics = entry.record.metrics.rungs.get(RUNGS["gaussian"])
    if metrics is None or metrics.annealed is None:
        return Number.null("it was not asked for")
    return metrics.annealed.gap


def _term(name: str) -> Callable[[BoardRow], Number]:
    def get(entry: BoardRow) -> Number:
        telescope = entry.record.metrics.telescope
        if telescope is None:
            return Number.null("its rungs were not measured")
        number: Number = getattr(telescope, name)
        return number

    return get


def _l0(entry: BoardRow) -> Number:
    if entry.record.complexity.circuits is not None:
        return Number.null("a circuit keeps edges")  # or nodes; they have a column
    return number_of(entry.record, "l0")


def _edges(entry: BoardRow) -> Number:
    circuits = entry.record.complexity.circuits
    return Number.null(_NO_CIRCUIT) if circuits is None else Number.bare(circuits["headline"].kept, "a count")


def _faithfulness(entry: BoardRow) -> Number:
    circuit = entry.record.metrics.circuit
    if circuit is None:
        return Number.null(_NO_CIRCUIT)
    rung = circuit.points["headline"].rungs.get(MIB)
    return Number.null(f"background {MIB} was not measured") if rung is None else rung.faithfulness


def _area(metric: str, background: str) -> Callable[[BoardRow], Number]:
    def get(entry: BoardRow) -> Number:
        circuit = entry.record.metrics.circuit
        if circuit is None:
            return Number.null(_NO_CIRCUIT)
        found: dict[str, Number] = getattr(circuit, metric)
        return found.get(background, Number.null("it was not measured at all sizes"))

    return get


def _of_report(key: str) -> Callable[[BoardRow], Number]:
    return lambda entry: number_of(entry.record, key)


COLUMNS = (
    Column(
        "bits",
        "Complexity",
        "bits",
        "To write down what the interpretation says: per token; of a circuit, once",
        cost_of,
        bare=True,
    ),
    Column("l0", "Complexity", "L0", "Nonzero codes per token", _l0, bare=True),
    Column(
        "edges",
        "Complexity",
        "kept",
        "Edges of the graph that the circuit keeps; of a circuit of features, nodes",
        _edges,
        count=True,
        bare=True,
    ),
    Column(
        "kl_raw",
        "KL, raw",
        "nats",
        "KL(clean, spliced) per token; what is left out is zero",
        _rung("raw", "kl"),
        place="raw",
    ),
    Column(
        "kl_gaussian",
        "KL, Gaussian",
        "nats",
        "KL per token; what is left out is noise of its mean and covariance",
        _rung("full", "kl"),
        place="gaussian",
    ),
    Column("gap_raw", _GAP, "raw", "Loss − clean loss, nats per token", _rung("raw", "gap"), signed=True),
    Column(
        "gap_gaussian",
        _GAP,
        "Gaussian",
        "Loss with Gaussian noise added − clean loss, nats per token",
        _rung("full", "gap"),
        signed=True,
    ),
    Column(
        "gap_annealed",
        _GAP,
        "annealed",
        "The same, the noise integrated out of the prediction",
        _annealed,
        signed=True,
    ),
    Column(
        "ratio",
        "",
        "ρ",
        "KL raw over KL of equally large, equally correlated noise; near 1: the residual hurts like noise",
        _of_report("gaussian_ratio"),
    ),
    Column(
        "shape", _TERMS, "shape", "full-unshrunk − permuted: one-token shape", _term("shape"), signed=True
    ),
    Column(
        "dependence",
        _TERMS,
        "dependence",
        "permuted − matched: what x̂ tells of the residual",
        _term("dependence"),
        signed=True,
    ),
    Column(
        "rest", _TERMS, "rest", "matched − clean: context, target, tokens jointly", _term("rest"), signed=True
    ),
    Column(
        "variance",
        "",
        "expl. var.",
        "1 − residual over centred sum of squares",
        _of_report("explained_variance"),
    ),
    Column(
        "faithfulness",
        "Circuit",
        "f",
        "Faithfulness of this circuit, counterfactual background",
        _faithfulness,
    ),
    Column("cpr", "Circuit", "CPR", "MIB: area under f over circuits of all sizes", _area("cpr", MIB)),
    Column("cmd", "Circuit", "CMD", "MIB: area under |1 − f| over all sizes", _area("cmd", MIB)),
    Column(
        "cmd_gaussian",
        "Circuit",
        "CMD Gaussian",
        "The same, what was removed stood for by Gaussian noise",
        _area("cmd", RUNGS["gaussian"]),
    ),
)


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
        column.key: cell(column.get(entry), signed=column.signed, count=column.count) for column in COLUMNS
    }


def points(board: Board, by: str) -> list[ParetoPoint]:
    """The rows of a table that have a complexity, for a figure."""
    found = []
    for row in board.rows:
        size = size_of(row.entry).value
        if size is not None:
            record = row.entry.record
            href = f"../{record_page(record.record_id)}"
            found.append(
                ParetoPoint(
                    record.submission.name,
                    size,
                    unit_of(row.entry),
                    kl_of(row.entry, by),
                    href,
                    row.entry.is_reference,
                )
            )
    return found


def record_page(record_id: str) -> str:
    """Where the page of a record lies below the site: named by its hash, never by a name."""
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
    for row in board.rows:
        entry = row.entry
        size = size_of(entry).value
        if size is None:
            continue
        numbers = {}
        for column in COLUMNS:
            if column.key in ("kl_raw", "kl_gaussian", "gap_raw", "gap_gaussian"):
                number = column.get(entry)
                numbers[column.key] = [number.value, number.low, number.high]
        found.append(
            {
                "name": entry.record.submission.name,
                "cost": size,
                "unit": unit_of(entry),
                "reference": entry.is_reference,
                "href": f"../{record_page(entry.record.record_id)}",
                **numbers,
            }
        )
    return found
