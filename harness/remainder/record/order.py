"""The order in which records came to a leaderboard: `order.jsonl` at the root of its folder of results.

A record's time is what its author's clock, or its author, says. So it decides nothing here: the job that
makes the board appends one line for each record that is new on the main branch, and a record's line is its
place in time.

    {"after":"<SHA-256 of the line before>","record":"<record_id>","submission":"<name>","task":"<id>"}

1. Lines are only ever added. Each holds the hash of the one before, so that a line that was edited, moved or
   taken out shows.
2. Records that are found at once arrived together, and stand in the order of their ids.
3. A record that has no line yet came after all that have one. Of several such, the ids decide.
4. A folder of results without the file is somebody's own, and so are its clocks: there records are in the
   order of their times, then of their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from remainder.base.files import LARGEST, refused, require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.json import canonical_json, sha256, write_atomically
from remainder.record.number import FrozenModel, Sha256
from remainder.record.schema import Record

__all__ = ["ORDER", "Arrival", "Order", "append_order", "order_above", "read_order"]

ORDER = "order.jsonl"
"""The name of the file, at the root of a folder of results."""

_FIRST = "0" * 64  # what the first line holds in place of a hash
_RESTORE = "restore it from the main branch (git checkout origin/main -- FILE): lines are only ever added"


class Arrival(FrozenModel):
    """One line: a record that came, after all those of the lines above."""

    after: Sha256
    """Hash of the line before, without its line feed; 64 zeros in the first."""
    record: Sha256
    """The `record_id`."""
    submission: str
    task: str


@dataclass(frozen=True)
class Order:
    """Places in time of the records of one folder of results."""

    places: Mapping[str, int] | None = field(default=None)
    """Number of its line by the id of a record, from 0; None in a folder without the file."""

    def key(self, record: Record) -> tuple[int, str, str]:
        """A key by which records are sorted, the newest last."""
        if self.places is None:
            return 0, record.provenance.timestamp, record.record_id
        return self.places.get(record.record_id, len(self.places)), "", record.record_id


def read_order(results: Path) -> Order:
    """The order of the records in a folder of results.

    Raises:
        RecordError: the file is damaged, or a line was edited, moved or taken out.
    """
    path = results / ORDER
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Order()
    except OSError as problem:
        raise refused(problem, path, RecordError) from None
    return _read_order(path, status.st_mtime_ns, status.st_size)


def order_above(path: Path) -> Order:
    """The order of the folder of results that a record lies in, from the nearest file above it.

    Raises:
        RecordError: as `read_order`.
    """
    folder = next((above for above in path.absolute().parents if (above / ORDER).is_file()), None)
    return Order() if folder is None else read_order(folder)


def append_order(results: Path, records: Iterable[Record]) -> list[Arrival]:
    """Add a line for each of the `records` that has none; gives the new lines. Doing it twice adds nothing.

    Args:
        results: the folder of results; the file is made with its first line.
        records: all that lie there, in any order.

    Raises:
        RecordError: as `read_order`; then nothing is written.
    """
    path = results / ORDER
    lines = _lines(path) if path.exists() else []
    places = _places(lines, path)
    last = sha256(lines[-1].encode()) if lines else _FIRST
    added: list[Arrival] = []
    for record in sorted(records, key=lambda one: one.record_id):
        if record.record_id in places:
            _require_names(lines[places[record.record_id]], record, path)
            continue
        arrival = Arrival(
            after=last, record=record.record_id, submission=record.submission.name, task=record.task.id
        )
        added.append(arrival)
        lines.append(_line(arrival))
        last = sha256(lines[-1].encode())
    if added:
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return added


def _require_names(line: str, record: Record, path: Path) -> None:
    """Raise RecordError unless the line of a record names its submission and task."""
    arrival = Arrival.model_validate(json.loads(line))
    for what, stated, own in (
        ("submission", arrival.submission, record.submission.name),
        ("task", arrival.task, record.task.id),
    ):
        if stated != own:
            raise RecordError(
                f"{path}: the line of record {record.record_id[:12]} has {what} {stated[:40]!a}; it is {own}",
                fix=_RESTORE,
            )


@lru_cache(maxsize=16)
def _read_order(path: Path, changed: int, size: int) -> Order:
    return Order(_places(_lines(path), path))


def _lines(path: Path) -> list[str]:
    require_file(path, most=LARGEST, error=RecordError)
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise RecordError(f"{path}: cannot be read ({problem})", fix=_RESTORE) from problem
    if not text:  # where no record came there is no file
        raise RecordError(f"{path}: is empty", fix=_RESTORE)
    if not text.endswith("\n"):
        raise RecordError(f"{path}: its last line is cut short", fix=_RESTORE)
    return text.split("\n")[:-1]


def _places(lines: list[str], path: Path) -> dict[str, int]:
    """Number of the line of each record, if every line follows from the one before."""
    places: dict[str, int] = {}
    last = _FIRST
    for number, line in enumerate(lines):
        where = f"{path}, line {number + 1}"
        try:
            arrival = Arrival.model_validate(json.loads(line))
        except (ValidationError, ValueError, RecursionError) as problem:
            raise RecordError(f"{where}: is no line of it ({message_of(problem)})", fix=_RESTORE) from problem
        if line != _line(arrival):
            raise RecordError(f"{where}: is not in the one form that lines are written in", fix=_RESTORE)
        if arrival.after != last:
            raise RecordError(
                f"{where}: does not follow from the line before: a line was edited, moved or taken out",
                fix=_RESTORE,
            )
        if arrival.record in places:
            raise RecordError(f"{where}: record {arrival.record[:12]} has a line already", fix=_RESTORE)
        places[arrival.record] = number
        last = sha256(line.encode())
    return places


def _line(arrival: Arrival) -> str:
    return canonical_json(arrival.model_dump())
