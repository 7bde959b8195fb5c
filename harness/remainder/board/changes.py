"""Changes between two snapshots, and since the newest one.

Records lie at `TASK/N/SUBMISSION/ID.json`; what shares all but the id is the same row at another time.
Between two lists of them a row is new, gone, or stands with another record. Of a row with one record in both
nothing changed: records are immutable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from remainder.board.frozen import Frozen

__all__ = ["Change", "Changes", "changes_between", "history_of_changes"]


class Change(NamedTuple):
    """A row that is new, gone, or stands with another record."""

    task: str
    """The task and its number, as in the path: `suite/task/2`."""
    name: str
    """The submission, and what it is nested in."""
    before: tuple[str, ...]
    """Ids of its records in the earlier list alone."""
    after: tuple[str, ...]

    @property
    def what(self) -> str:
        """The change in a word."""
        return "replaced" if self.before and self.after else "new" if self.after else "gone"


class Changes(NamedTuple):
    """Everything that changed from one list of records to another."""

    earlier: str
    """The name of the snapshot; empty for no records at all."""
    later: str
    """The name of the snapshot; empty for the tables as they are."""
    rows: tuple[Change, ...]
    same: int
    """Records that are in both."""

    def count(self, what: str) -> int:
        """How many rows changed in this way: `new`, `gone` or `replaced`."""
        return sum(one.what == what for one in self.rows)

    @property
    def by_task(self) -> dict[str, list[Change]]:
        """The rows of each task, in the order of names."""
        found: dict[str, list[Change]] = {}
        for one in self.rows:
            found.setdefault(one.task, []).append(one)
        return found


def changes_between(earlier: Mapping[str, str], later: Mapping[str, str], names: tuple[str, str]) -> Changes:
    """The difference of two lists of records.

    Args:
        earlier: path -> id.
        later: the same.
        names: of both lists.
    """
    before, after = _by_row(earlier), _by_row(later)
    rows = []
    for key in sorted({*before, *after}):
        old, new = before.get(key, set()), after.get(key, set())
        if old != new:
            rows.append(Change(*key, tuple(sorted(old - new)), tuple(sorted(new - old))))
    same = len(set(earlier.values()) & set(later.values()))
    return Changes(*names, tuple(rows), same)


def history_of_changes(snapshots: Sequence[Frozen], now: Mapping[str, str]) -> list[Changes]:
    """List changes from each snapshot to the next, and from the newest to the records there, the last first.

    Args:
        snapshots: newest first.
        now: path -> id of the records that are there.
    """
    lists = [("", now), *((one.snapshot.name, _listed(one)) for one in snapshots)]
    pairs = zip(lists[1:], lists, strict=False)
    return [changes_between(old, new, (name, after)) for (name, old), (after, new) in pairs]


def _listed(one: Frozen) -> dict[str, str]:
    return {entry.path: entry.record_id for entry in one.snapshot.records}


def _by_row(listed: Mapping[str, str]) -> dict[tuple[str, str], set[str]]:
    """Ids of records by task and name."""
    found: dict[tuple[str, str], set[str]] = {}
    for path, record_id in listed.items():
        parts = PurePosixPath(path).parts
        found.setdefault(("/".join(parts[:-2]), parts[-2] if len(parts) > 1 else ""), set()).add(record_id)
    return found
