"""The tables of the board for scripts: `leaderboard.json` and `leaderboard.csv` beside the pages.

The JSON file is one `BoardFile`; its schema is docs/schemas/leaderboard.json. The CSV file has the same rows:
a column for each text, `KEY`, `KEY_low` and `KEY_high` for each quantity, and `place_N_first`, `place_N_last`
and `place_N_of` for the budget R₀/N. What is missing is left out of the one and empty in the other. Rows of
submissions and references that the tables show are there, nested and replaced records are not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from remainder.board.rank import BUDGETS
from remainder.board.text import oddities, visible
from remainder.board.view import Board, TableRow
from remainder.record.json import canonical_json
from remainder.record.number import FrozenModel, Number, Sha256
from remainder.report.quantities import QUANTITIES

__all__ = ["BoardFile", "DataRow", "csv_text", "json_text", "rows_of"]


class DataPlace(FrozenModel):
    """The places that a row may truly have within a budget."""

    budget: str = Field(description="a share of R₀: of the bits of transform coding at 1 % of KL")
    bits: float = Field(description="what a row may take, bits per token")
    first: int
    last: int
    of: int = Field(description="how many rows have a place within the budget")


class DataQuantity(FrozenModel):
    """A quantity of the rows."""

    heading: str
    about: str
    unit: str
    better: str | None = Field(description="`small`, `large` or `near zero`; null where neither is better")


class DataRow(FrozenModel):
    """A row of a table of the board."""

    task: str
    version: str
    tier: str
    submission: str
    kind: str
    format: str | None
    family: str | None = Field(description="the method, beside submissions to other sites")
    reference: bool = Field(description="whether it holds nothing that was trained or found")
    runs_code: bool = Field(description="whether code of its own encodes and decodes")
    recomputed: bool = Field(description="whether every summary was computed anew from its values")
    remeasured: bool = Field(description="whether documents were measured again, and came out as recorded")
    failed: tuple[str, ...] = Field(description="names of failed checks")
    written: str = Field(description="when the measurement was written down, UTC, ISO 8601")
    record_id: Sha256 = Field(description="its record is records/ID.json beside this file")
    submission_hash: Sha256
    places: tuple[DataPlace, ...]
    numbers: dict[str, Number] = Field(description="quantities by key; those without a value are left out")


class BoardFile(FrozenModel):
    """The content of `leaderboard.json`."""

    schema_version: Literal[1] = 1
    protocol: str
    snapshot: str | None = Field(description="name of the newest snapshot; rows may be newer than it")
    quantities: dict[str, DataQuantity]
    rows: tuple[DataRow, ...]


def rows_of(board: Board) -> list[DataRow]:
    """The rows of a table."""
    return [_row(board, row) for row in board.rows]


def json_text(rows: Sequence[DataRow], protocol: str, snapshot: str | None) -> str:
    """The content of `leaderboard.json`."""
    known = {
        key: DataQuantity(heading=one.heading, about=one.about, unit=one.unit, better=one.better)
        for key, one in QUANTITIES.items()
    }
    file = BoardFile(protocol=protocol, snapshot=snapshot, quantities=known, rows=tuple(rows))
    return canonical_json(file.model_dump(mode="json"), indent=1) + "\n"


def csv_text(rows: Sequence[DataRow]) -> str:
    """The content of `leaderboard.csv`."""
    words = [name for name in DataRow.model_fields if name not in ("places", "numbers")]
    numbers = [f"{key}{end}" for key in QUANTITIES for end in ("", "_low", "_high")]
    parts = [name.partition("/")[2] for name in BUDGETS]
    places = [f"place_{part}_{what}" for part in parts for what in ("first", "last", "of")]
    out = io.StringIO()
    writer = csv.DictWriter(out, [*words, *places, *numbers], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells: dict[str, object] = {name: _cell(getattr(row, name)) for name in words}
        for place in row.places:
            start = f"place_{place.budget.partition('/')[2]}"
            cells |= {f"{start}_{what}": getattr(place, what) for what in ("first", "last", "of")}
        for key, number in row.numbers.items():
            ends = {"": number.value, "_low": number.low, "_high": number.high}
            cells |= {f"{key}{end}": value for end, value in ends.items() if value is not None}
        writer.writerow(cells)
    return out.getvalue()


def _row(board: Board, row: TableRow) -> DataRow:
    record, entry = row.entry.record, row.entry
    budgets = {ranking.budget.name: ranking.budget.bits for ranking in board.rankings}
    places = tuple(
        DataPlace(budget=name, bits=budgets[name], first=place.first, last=place.last, of=place.of)
        for name, place in row.places.items()
        if place is not None
    )
    found = {key: one.of_record(record) for key, one in QUANTITIES.items()}
    return DataRow(
        task=record.task.id,
        version=record.task.version,
        tier=record.tier,
        submission=record.submission.name,
        kind=record.submission.kind,
        format=record.submission.format,
        family=record.submission.family,
        reference=entry.is_reference,
        runs_code=record.submission.runs_code,
        recomputed=entry.recomputed,
        remeasured=entry.remeasured,
        failed=tuple(entry.failed),
        written=record.provenance.timestamp,
        record_id=record.record_id,
        submission_hash=record.submission.hash,
        places=places,
        numbers={key: number for key, number in found.items() if number.value is not None},
    )


def _cell(value: object) -> object:
    """A cell of the CSV file; a text that a spreadsheet would take for a formula is shown to be none."""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and oddities(value) and value[:1] in "=+-@\t\r":
        return "'" + visible(value)
    return "" if value is None else value
