"""Records that were withdrawn: `withdrawn.jsonl` at the root of a folder of results.

Records are only ever added, and so are withdrawals: the record stays where it lies, and in every snapshot
that holds it, and a line says when, by whom and why it counts no more.

    {"after":"<SHA-256 of the line before>","by":"<name>","date":"2026-12-01","reason":"<sentence>",
     "record":"<record_id>","replaced_by":"<record_id>"}

1. A withdrawn record is current for nobody, disputes no other, and is in no new snapshot.
2. `replaced_by` is there where another record of the task takes its place: a correction.
3. Lines are chained as those of `order.jsonl` are; see `record.chain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator

from remainder.base.files import present
from remainder.base.paths import machine_paths
from remainder.errors import RecordError
from remainder.record.chain import Link, hash_after, read_chain, write_chain
from remainder.record.number import Sha256
from remainder.record.recordable import check_words
from remainder.record.schema import Record

__all__ = ["WITHDRAWN", "Withdrawal", "check_withdrawn", "is_withdrawn", "read_withdrawn", "withdraw"]

WITHDRAWN = "withdrawn.jsonl"
"""The name of the file, at the root of a folder of results."""


class Withdrawal(Link):
    """One line: a record that counts no more."""

    date: str
    """Year, month and day, in UTC."""
    by: str = Field(min_length=1, max_length=100)
    reason: str = Field(min_length=10, max_length=500)
    replaced_by: Sha256 | None = None

    @field_validator("date")
    @classmethod
    def _a_day(cls, text: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise ValueError("a day is written as 2026-12-01")
        date.fromisoformat(text)
        return text

    @property
    def sentence(self) -> str:
        """The line, for people."""
        instead = "" if self.replaced_by is None else f"; in its place stands {self.replaced_by[:12]}"
        return f"was withdrawn on {self.date} by {self.by}: {self.reason}{instead}"


def read_withdrawn(results: Path) -> Mapping[str, Withdrawal]:
    """The withdrawals of a folder of results, by the ids of their records; none where there is no file.

    Raises:
        RecordError: the file is damaged; see `record.chain`.
    """
    path = results / WITHDRAWN
    if not present(path):
        return {}
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, changed: int, size: int) -> Mapping[str, Withdrawal]:
    return {one.record: one for one in read_chain(path, Withdrawal)}


def is_withdrawn(path: Path) -> bool:
    """Whether the record at a path was withdrawn, by the nearest list above it.

    Raises:
        RecordError: as `read_withdrawn`.
    """
    folder = next((above for above in path.absolute().parents if (above / WITHDRAWN).is_file()), None)
    return folder is not None and path.stem in read_withdrawn(folder)


def check_withdrawn(results: Path) -> None:
    """Check that the list is whole, and that every record that it names is there.

    Raises:
        RecordError: it is damaged, or a record is gone.
    """
    lines = read_withdrawn(results).values()
    named = {one.record for one in lines} | {one.replaced_by for one in lines if one.replaced_by is not None}
    for gone in sorted(named - {file.stem for file in results.rglob("*.json")}):
        raise RecordError(
            f"{results / WITHDRAWN}: names record {gone[:12]}, which is not there", fix="put the record back"
        )


def withdraw(
    results: Path, record: Record, *, by: str, reason: str, replaced_by: Record | None = None
) -> Withdrawal:
    """Add the line that withdraws a record.

    Args:
        results: the folder of results that it lies in.
        by: who withdraws it.
        reason: a sentence.
        replaced_by: the record that takes its place.

    Raises:
        RecordError: it is withdrawn already, its replacement is none, or a word could not be shown.
    """
    known = read_withdrawn(results)
    if record.record_id in known:
        raise RecordError(f"record {record.record_id[:12]} {known[record.record_id].sentence}")
    if replaced_by is not None:
        _require_replacement(record, replaced_by, known)
    words = {"by": " ".join(by.split()), "reason": " ".join(reason.split())}
    faults = [*check_words(words)]
    faults += [f"{place}: {text!r} holds a path of a machine" for place, text in machine_paths(words)]
    for name, least, most in (("by", 1, 100), ("reason", 10, 500)):
        if not least <= len(words[name]) <= most:
            faults.append(f"{name}: {len(words[name])} letters; expected {least} to {most}")
    if faults:
        raise RecordError(f"--{faults[0]}", fix="give a name, and a sentence that anybody may read")
    links = list(known.values())
    line = Withdrawal(
        after=hash_after(links),
        record=record.record_id,
        date=datetime.now(UTC).date().isoformat(),
        replaced_by=None if replaced_by is None else replaced_by.record_id,
        **words,
    )
    write_chain(results / WITHDRAWN, [*links, line])
    return line


def _require_replacement(record: Record, other: Record, known: Mapping[str, Withdrawal]) -> None:
    for fault, is_so in {
        "is the one that is withdrawn": other.record_id == record.record_id,
        "is withdrawn itself": other.record_id in known,
        f"is of another task, {other.task.id}": other.task.id != record.task.id,
    }.items():
        if is_so:
            raise RecordError(
                f"--replaced-by {other.record_id[:12]}: {fault}",
                fix="name the record that is right, or leave it out",
            )
