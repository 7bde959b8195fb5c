"""Run submissions on one task in this process, keeping every finished record; see `runs.drive`.

`run` ends with the first error; `sweep` goes on, and the error becomes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from remainder.base.cache import Progress, silent
from remainder.base.files import require_folder
from remainder.errors import RecordError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.plan import Plan
from remainder.model.device import asked_device
from remainder.record.find import find_record
from remainder.runs.drive import drive
from remainder.runs.here import Here
from remainder.runs.job import Openings, Source
from remainder.runs.journal import open_journal
from remainder.runs.work import FinishedRun, Row, cell_of
from remainder.submission.submission import Entry
from remainder.task.spec import Task

__all__ = ["FinishedRun", "Row", "run", "sweep"]


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


def sweep(
    task: Task,
    submissions: Sequence[Entry],
    plan: Plan,
    out: Path,
    *,
    references: Sequence[Entry | None] | None = None,
    loaded: LoadedTask | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Measure each submission in this process, or find its finished record below `out`; gives all rows in
    their order. What is finished when this is interrupted is found by the next call.

    Args:
        references: for each submission a finer one that stands in for the model, or None for the model
            itself; default: the model for all.
        loaded: the task, if it is ready; else it is opened when something is to be measured.

    Raises:
        RemainderError: something that concerns all of them: the task cannot be opened, or nothing can be
            written.
    """
    if not submissions:
        return []
    finer = [None] if references is None else list(references)
    # Rows of one source share passes of its model; those with a reference of their own cannot.
    sources = [0] * len(submissions) if references is None else range(len(submissions))
    cells = tuple(
        cell_of(task, entry, plan, source=source, reference=finer[source])
        for entry, source in zip(submissions, sources, strict=True)
    )
    for cell in cells:
        require_folder(out / cell.folder, "out", RecordError)
    finished = [cell.is_pinned and find_record(out / cell.folder, cell.key) is not None for cell in cells]
    if loaded is None and (fresh or not all(finished)):
        loaded = open_task(task, device=device, batch_size=batch_size, progress=progress)
    source = Source(task.id, plan, asked_device(device), batch_size)
    openings = Openings([source] * len(finer), progress=progress, out=None if fresh else out.absolute())
    for number, reference in enumerate(finer):
        here = [place for place, cell in enumerate(cells) if cell.source == number]
        own = [submissions[place] for place in here]
        openings.put(number, loaded, [cells[place] for place in here], own, reference)
    journal, rows, tell = open_journal(out, cells), [], progress or silent
    with closing(
        drive(cells, Here(openings), out, fresh=fresh, journal=journal, progress=progress)
    ) as outcomes:
        for row in outcomes:
            rows.append(row)
            tell(f"{len(rows)} of {len(cells)} done: {row.cell.name}", len(rows), len(cells))
    return sorted(rows, key=lambda row: row.number)
