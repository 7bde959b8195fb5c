"""The page of circuits: efficiency at every size, of edges or of nodes, one table for each kind and task.

A circuit of a ranking stands at the size that names it. One that was given outright, or that a threshold of
scores cuts off, stands at the smallest size that holds it; of several there, the largest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from remainder.board.curves import Curve, Named, efficiencies
from remainder.board.merge import BoardRow
from remainder.board.view import Board, Cell, cell, record_page
from remainder.record.circuit_summary import COMPLEMENT, EMPTY, HEADLINE
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.task.spec import SIZES

__all__ = ["SizeRow", "SizeTable", "size_tables"]

_SHARE = re.compile(r"\d+(\.\d+)?")
_NONE = Number.null("there is no circuit of this size")


class SizeRow(NamedTuple):
    """A submission, and its efficiency at each size of the table."""

    name: str
    record_id: str
    reference: bool
    cells: tuple[Cell, ...]


class SizeTable(NamedTuple):
    """Circuits of one task that keep the same kind of thing."""

    task: str
    page: str
    tier: str
    what: str
    """The word for what is kept: edges or nodes."""
    sizes: tuple[str, ...]
    """Shares, in per cent."""
    rows: tuple[SizeRow, ...]
    curve: Curve | None


def size_tables(board: Board, page: str, ident: str) -> list[SizeTable]:
    """The tables of a task's circuits; none if it is of no circuits.

    Args:
        page: that of the task.
        ident: what ids of drawings begin with, unique on the page.
    """
    found = []
    entries = [row.entry for row in board.rows if row.entry.record.is_of_circuits]
    for what in ("edges", "nodes"):
        some = [entry for entry in entries if entry.record.keeps_nodes == (what == "nodes")]
        if some:
            sizes = _sizes([entry.record for entry in some])
            names = tuple(f"{100 * size:.3g} %" for size in sizes)
            rows = tuple(_row(entry, sizes) for entry in some)
            named = [Named(e.record.submission.name, e.record, record_page(e.record.record_id)) for e in some]
            curve = efficiencies(named, f"{ident}-{what}")
            found.append(SizeTable(board.group.task, page, board.group.label, what, names, rows, curve))
    return found


def _sizes(records: Sequence[Record]) -> list[float]:
    """Sizes that rankings of a table were cut at, else MIB's."""
    points = {key for record in records for key in record.circuits.points}
    return sorted({float(key) for key in points if _SHARE.fullmatch(key) and key != EMPTY}) or list(SIZES)


def _row(entry: BoardRow, sizes: Sequence[float]) -> SizeRow:
    record = entry.record
    at = {size: _NONE for size in sizes}
    whole, kept = record.complexity.features or 0, dict.fromkeys(sizes, -1)
    for key, point in record.circuits.points.items():
        cost = record.circuit_sizes.get(key)
        if point.efficiency is None or cost is None or key.startswith(COMPLEMENT):
            continue
        if _SHARE.fullmatch(key):
            size, rank = float(key), whole + 1  # named by its size: before any other
        else:
            size = min((one for one in sizes if cost.kept <= one * whole * (1 + 1e-9)), default=0.0)
            rank = cost.kept
        if size in kept and rank > kept[size] and not (key == HEADLINE and len(record.circuits.points) > 2):
            at[size], kept[size] = point.efficiency, rank
    name = record.submission.name
    return SizeRow(name, record.record_id, entry.is_reference, tuple(cell(at[size]) for size in sizes))
