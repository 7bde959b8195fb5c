"""The tables of a flow as cells, for pages and notebooks: numbers of every shell, and its scales in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from remainder.record.flow import SCALES, Flow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.flow import COLUMNS, PARTS, says_of

__all__ = ["FlowTable", "ScaleLine", "scale_lines", "tables_of_flow"]


class FlowTable(NamedTuple):
    """One table: a row for each shell."""

    title: str
    headings: tuple[str, ...]
    """Headings of the numbers; the first column is how many sources a shell keeps."""
    rows: tuple[tuple[int, tuple[Number, ...]], ...]
    says: str
    """A legend of the columns."""


class ScaleLine(NamedTuple):
    """A scale k*."""

    name: str
    verdict: str
    """The shells between which it lies."""
    says: str
    """A few words on the criterion, or why it could not be looked for."""


def tables_of_flow(flow: Flow, records: Sequence[Record]) -> list[FlowTable]:
    """Tables of the columns in which some shell has a value.

    Args:
        records: of its shells, in their order.
    """
    found = []
    for part, title in enumerate(PARTS):
        columns = [
            column
            for column in COLUMNS.values()
            if column.part == part and any(column.of(record).value is not None for record in records)
        ]
        if columns:
            rows = tuple(
                (shell.keep, tuple(column.of(record) for column in columns))
                for shell, record in zip(flow.shells, records, strict=True)
            )
            says = "; ".join(f"{column.heading}: {column.says}" for column in columns)
            found.append(FlowTable(title, tuple(column.heading for column in columns), rows, f"{says}."))
    return found


def scale_lines(flow: Flow) -> list[ScaleLine]:
    """The scales of a flow."""
    return [
        ScaleLine(f"k_{name}", bracket.verdict, says_of(name, bracket))
        for name, bracket in ((name, flow.scales[name]) for name in SCALES)
    ]
