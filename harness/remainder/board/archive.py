"""Archived records as the pages show them: history that is verified by hash and never recomputed.

Each is read whole, so that its own hashes and that of its values are verified; what does not fit is a
`Fault`.
It is in no ranking: a protocol that is over is not comparable with the one that is measured by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from remainder.board.merge import Fault
from remainder.board.shelf import archives, relative_place
from remainder.board.verifications import read_verification, verification_path
from remainder.board.view import Cell, cell
from remainder.errors import RecordError
from remainder.record.schema import Record
from remainder.record.store import read_sealed
from remainder.report.quantities import QUANTITIES

__all__ = ["Archive", "ArchivedRow", "archived", "section"]


class ArchivedRow(NamedTuple):
    """An archived record in a list."""

    task: str
    version: str
    tier: str
    name: str
    finer: str
    """The interpretation that stands for the model, if it is nested; else empty."""
    written: str
    bits: Cell
    kl_raw: Cell
    verdict: str
    """The kept verdict of the version that checked it, in words."""
    place: str
    """Relative to the archive's folder of results."""
    record_id: str
    snapshots: tuple[str, ...]
    """Names of those that hold it."""


class Archive(NamedTuple):
    """The records of one protocol that is over."""

    protocol: str
    rows: tuple[ArchivedRow, ...]
    """Sorted by task, name and id."""

    @property
    def heading(self) -> str:
        """The heading of its list on a page."""
        return f"Protocol {self.protocol} (archived, verified by hash, not recomputed)"

    @property
    def tasks(self) -> int:
        """How many tasks its records are of."""
        return len({row.task for row in self.rows})


def archived(
    results: Path, held: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[list[Archive], list[Fault]]:
    """The archives beside a folder of results, the newest protocol first; and what does not fit its hashes.

    Args:
        held: names of the snapshots that hold a record, by its id.
    """
    found, faults = [], []
    for root in archives(results):
        rows = []
        for path in sorted(root.rglob("*.json")):
            try:
                record = read_sealed(path)
            except RecordError as problem:
                place = f"archive/{root.parent.name}/{relative_place(path, results)}"
                faults.append(Fault(place, problem.what.removeprefix(f"{path}: ")))
                continue
            rows.append(_row(record, path, results, (held or {}).get(record.record_id, ())))
        rows.sort(key=lambda row: (row.task, row.name, row.finer, row.record_id))
        found.append(Archive(root.parent.name, tuple(rows)))
    return found, faults


def section(found: Iterable[Archive]) -> list[str]:
    """A section for each archive of `leaderboard/README.md`."""
    texts = []
    for one in found:
        records = "1 record" if len(one.rows) == 1 else f"{len(one.rows)} records"
        tasks = "1 task" if one.tasks == 1 else f"{one.tasks} tasks"
        texts.append(
            f"## {one.heading}\n\n[archive/{one.protocol}](archive/README.md) holds {records} of {tasks}, as "
            "they were measured. They are in no table: records of two protocols are not comparable.\n"
        )
    return texts


def _row(record: Record, path: Path, results: Path, snapshots: tuple[str, ...]) -> ArchivedRow:
    root = next(root for root in archives(results) if path.is_relative_to(root))
    kept = verification_path(root, record.record_id)
    return ArchivedRow(
        task=record.task.id,
        version=record.task.version,
        tier=record.tier,
        name=record.submission.name,
        finer="" if record.reference is None else record.reference.name,
        written=record.provenance.timestamp[:16].replace("T", " "),
        bits=cell(QUANTITIES["bits_per_token"].of_record(record)),
        kl_raw=cell(QUANTITIES["kl_raw"].of_record(record)),
        verdict=_verdict(kept),
        place=relative_place(path, results),
        record_id=record.record_id,
        snapshots=snapshots,
    )


def _verdict(kept: Path) -> str:
    if not kept.is_file():
        return "no verdict was kept"
    found = read_verification(kept)
    return f"{found.outcome}, version {found.verifier}"
