"""Run submissions on one task in this process, keeping every finished record; see `runs.drive`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from remainder.base.cache import Progress
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan
from remainder.runs.drive import drive
from remainder.runs.here import Here
from remainder.runs.job import Openings, Source
from remainder.runs.work import FinishedRun, cell_of
from remainder.submission.submission import Entry

__all__ = ["FinishedRun", "run"]


def run(
    loaded: LoadedTask,
    submissions: Iterable[Entry],
    plan: Plan,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Iterator[FinishedRun]:
    """Measure each submission in this process, or find its finished record below `folder`; yields rows as
    they are ready.

    Raises:
        RemainderError: the first one that occurs; rows finished before it are on disk.
    """
    entries = list(submissions)
    cells = tuple(cell_of(loaded.task, entry, plan) for entry in entries)
    source = Source(loaded.task.id, plan, loaded.device.type, loaded.batch_size)
    openings = Openings([source], progress=progress, out=None if fresh else folder)
    openings.put(0, loaded, cells, entries)
    here = Here(openings)
    # Claims are dropped at once, whatever ends this.
    with closing(drive(cells, here, folder, fresh=fresh, progress=progress)) as rows:
        for row in rows:
            if row.problem is not None:
                raise row.problem
            assert row.finished is not None
            yield row.finished
