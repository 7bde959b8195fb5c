"""The newest snapshot with one row a record, for installed packages, which carry no records.

`leaderboard/leaderboard.json` is written by `remainder board freeze` beside the snapshot, and never by hand:

1. the snapshot's name and root, by which anybody with the repository finds the records and proves them;
2. for each record the cells of `report.tables.row_of` that it has, as `remainder show --format json` calls
   them, and when, by which version and with which submission's hash it was measured.

In a checkout the records themselves are read, and nothing looks here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from remainder.base.files import require_file
from remainder.base.messages import placed_fault
from remainder.base.paths import project_root
from remainder.errors import RecordError

__all__ = ["LARGEST_FILE", "Packaged", "Row", "cell", "packaged", "rows_file", "text_of"]

LARGEST_FILE = 1_000_000
"""Bytes that the file may have."""

Row: TypeAlias = dict[str, str | float]
"""Cells of a record by key; what it does not have is left out."""


_SHOWN = {"bits_per_token": "Bits", "kl_coded": "KL coded", "kl_raw": "KL raw"}


class _File(BaseModel):
    # Not a record's own base class, which needs numpy: `remainder show TASK` asks for this file.
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    snapshot: str
    root: str
    rows: tuple[Row, ...]


class Packaged(NamedTuple):
    """The newest snapshot, as far as a package carries it."""

    snapshot: str
    root: str
    rows: tuple[Row, ...]

    def of_task(self, task: str, major: str) -> list[Row]:
        """Rows of a task and the number of its version, fewest bits first."""
        found = [
            row for row in self.rows if row["task"] == task and str(row["version"]).partition("-")[0] == major
        ]
        return sorted(found, key=lambda row: (row["tier"], cell(row, "bits_per_token", math.inf)))

    def named(self, name: str) -> list[Row]:
        """Rows of a submission, or of records whose id begins so."""
        return [row for row in self.rows if row["submission"] == name or self._begins(row, name)]

    @staticmethod
    def _begins(row: Row, start: str) -> bool:
        return len(start) >= 6 and str(row["record_id"]).startswith(start)


def rows_file() -> Path:
    """The file of the project's own rows."""
    return project_root() / "leaderboard" / "leaderboard.json"


def packaged() -> Packaged | None:
    """The rows that this package came with; None where the records themselves are, or there are no rows.

    Raises:
        RecordError: the file is damaged.
    """
    path = rows_file()
    if path.with_name("results").is_dir() or not path.is_file():
        return None
    require_file(path, most=LARGEST_FILE, error=RecordError)
    try:
        found = _File.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        raise RecordError(f"{path}: {placed_fault(problem)}", fix="install the package again") from None
    return Packaged(found.snapshot, found.root, found.rows)


def text_of(rows: Sequence[Row], format: str, source: Packaged) -> str:
    """Rows as text, with a line that says where they are from in a table.

    Args:
        format: one of `report.layout.FORMATS`. CSV and JSON have all cells.
    """
    import pandas as pd
    from tabulate import tabulate

    if format in ("csv", "json"):
        frame = pd.DataFrame(rows)
        text = frame.to_csv(index=False) if format == "csv" else frame.to_json(orient="records", indent=1)
        return str(text).rstrip("\n")
    heads = {"task": "Task", "version": "Version", "submission": "Submission", "tier": "Tier"}
    same = {key: str(rows[0][key]) for key in heads if len({row[key] for row in rows}) == 1}
    words = [key for key in heads if key not in same]
    body = [
        [
            *(str(row[key]) for key in words),
            *(f"{float(row[key]):.4g}" if key in row else "–" for key in _SHOWN),
        ]
        for row in rows
    ]
    style = {"table": "simple", "markdown": "github", "latex": "latex"}[format]
    names = [heads[key] for key in words] + list(_SHOWN.values())
    table = tabulate(body, names, tablefmt=style, disable_numparse=True)
    if format != "table":
        return table
    where = f"On the board, snapshot {source.snapshot} (root {source.root[:12]}…)"
    return f"{', '.join([where, *same.values()])}\n\n{table}\n\nKL: nats per scored token."


def cell(row: Row, key: str, default: float) -> float:
    """The number in a cell; `default` where there is none."""
    value = row.get(key, default)
    return default if value != value else float(value)
