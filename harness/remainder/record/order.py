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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from remainder.base.files import refused
from remainder.errors import RecordError
from remainder.record.chain import RESTORE, Link, hash_after, read_chain, write_chain
from remainder.record.schema import Record

__all__ = ["ORDER", "Arrival", "Order", "append_order", "order_above", "read_order"]

ORDER = "order.jsonl"
"""The name of the file, at the root of a folder of results."""


class Arrival(Link):
    """One line: a record that came, after all those of the lines above."""

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
    links = read_chain(path, Arrival) if path.exists() else []
    known = {link.record: link for link in links}
    count = len(links)
    for record in sorted(records, key=lambda one: one.record_id):
        if record.record_id in known:
            _require_names(known[record.record_id], record, path)
            continue
        links.append(
            Arrival(
                after=hash_after(links),
                record=record.record_id,
                submission=record.submission.name,
                task=record.task.id,
            )
        )
    added = links[count:]
    if added:
        write_chain(path, links)
    return added


def _require_names(arrival: Arrival, record: Record, path: Path) -> None:
    """Raise RecordError unless the line of a record names its submission and task."""
    for what, stated, own in (
        ("submission", arrival.submission, record.submission.name),
        ("task", arrival.task, record.task.id),
    ):
        if stated != own:
            raise RecordError(
                f"{path}: the line of record {record.record_id[:12]} has {what} {stated[:40]!a}; it is {own}",
                fix=RESTORE,
            )


@lru_cache(maxsize=16)
def _read_order(path: Path, changed: int, size: int) -> Order:
    return Order({link.record: number for number, link in enumerate(read_chain(path, Arrival))})
