"""The rows of a snapshot as a package carries them, made from its records; and a run set beside them.

See `board.packaged` for what the file holds and who reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from remainder._version import __version__
from remainder.board.packaged import Row, cell, packaged
from remainder.board.shelf import place_in
from remainder.board.snapshot import Snapshot, read_snapshot, snapshots_folder
from remainder.board.stand import board_tier
from remainder.record.json import canonical_json
from remainder.record.schema import Record
from remainder.record.store import read_sealed
from remainder.report.tables import row_of

__all__ = ["context", "newest_snapshot", "rows_of"]

_NAMED = 3  # records of a run that are set beside the board


def newest_snapshot(folder: Path | None = None) -> Snapshot | None:
    """The snapshot with the last name; None if there is none."""
    names = [path.stem for path in (folder or snapshots_folder()).glob("*.json")]
    if not names:
        return None
    return read_snapshot(max(names, key=lambda name: [int(part) for part in name.split(".")]), folder=folder)


def rows_of(snapshot: Snapshot, results: Path) -> bytes:
    """The content of the file for a snapshot of the records below `results`, or in the archives beside it.

    Raises:
        RecordError: a record is gone or unreadable.
    """
    records = (read_sealed(place_in(results, entry.path)) for entry in snapshot.records)
    rows = [_row(record) for record in records if not record.submission.is_shell]
    head = json.dumps({"schema_version": 1, "snapshot": snapshot.name, "root": snapshot.root})
    lines = ",\n".join(canonical_json(row) for row in rows)  # a line each, so that two versions compare
    return f'{head[:-1]}, "rows": [\n{lines}\n]}}\n'.encode()


def _row(record: Record) -> Row:
    cells = row_of(record).items()
    found = {key: value for key, value in cells if value == value and value != ""}  # no NaN
    return found | {
        "hash": record.submission.hash,
        "remainder": record.provenance.packages.get("remainder", __version__),
        "written": record.provenance.timestamp[:10],
    }


def context(records: Sequence[Record]) -> list[str]:
    """Lines that set records just measured beside the rows that this package came with, one for each record.

    Raises:
        RecordError: the file of its rows is damaged.
    """
    if not records or (board := packaged()) is None:
        return []
    lines = []
    for record in records[:_NAMED]:
        mine = row_of(record)
        bits, kl = cell(mine, "bits_per_token", math.nan), cell(mine, "kl_coded", math.nan)
        peers = [
            row
            for row in board.of_task(record.task.id, record.task.version.partition("-")[0])
            if row["tier"] == board_tier(record)
            and row["hash"] != record.submission.hash
            and cell(row, "bits_per_token", math.inf) <= bits
            and "kl_coded" in row
        ]
        if not peers:
            continue
        others = "" if record.tier == board_tier(record) else ", measured on all documents,"
        best = min(peers, key=lambda row: float(row["kl_coded"]))
        lines.append(
            f"{record.submission.name}: KL coded {kl:.4g} at {bits:.4g} bits; of the {len(peers)} rows of no "
            f"more bits in snapshot {board.snapshot}{others} the least is {float(best['kl_coded']):.4g} "
            f"({best['submission']})"
        )
    return lines
