"""Run submissions on a task one after another, keeping every finished record.

The records are the journal: a row is written when it is finished, and a later run with the same
measurement key (task, submission, tier, rungs, draws, dtype, device, package version) takes it from there.
So Ctrl-C loses the row in progress and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from remainder.base.cache import Progress
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan
from remainder.record.find import find_record
from remainder.record.schema import Record
from remainder.record.store import read_record, sweep, write_record
from remainder.submission.submission import Entry

__all__ = ["FinishedRun", "run"]


class FinishedRun(NamedTuple):
    """A finished measurement."""

    record: Record
    values: pd.DataFrame
    path: Path
    """The record's file."""
    kept: bool
    """Whether it was found finished instead of measured now."""


def run(
    loaded: LoadedTask,
    submissions: Iterable[Entry],
    plan: Plan,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Iterator[FinishedRun]:
    """Measure each submission, or find its finished record below `folder`; yields rows as they are ready.

    Raises:
        RemainderError: the first one that occurs; rows finished before it are on disk.
    """
    for submission in submissions:
        key = plan.key(loaded.task, submission)
        base = folder / loaded.task.id / str(loaded.task.major) / submission.name
        # What is not pinned may have changed under the same hash.
        sweep(base)
        again = fresh or not submission.is_pinned or not base.is_dir()
        found = None if again else find_record(base, key)
        if found is not None:
            record, values = read_record(found)
            yield FinishedRun(record, values, found, kept=True)
            continue
        record, values = loaded.measure(submission, plan, progress=progress)
        path = base / f"{record.record_id}.json"
        write_record(record, values, path)
        yield FinishedRun(record, values, path, kept=False)
