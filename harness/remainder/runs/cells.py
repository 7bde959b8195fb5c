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
import torch

from remainder._version import __version__
from remainder.base.cache import Progress
from remainder.errors import MeasurementError
from remainder.loading.loaded import LoadedTask
from remainder.loading.prompts import CircuitTask
from remainder.measure.circuits import measure_circuit
from remainder.measure.plan import Plan
from remainder.measure.site import info, measure
from remainder.record.find import find_record
from remainder.record.schema import Record
from remainder.record.store import measurement_key, read_record, write_record
from remainder.submission.submission import Entry

__all__ = ["FinishedRun", "run"]


class FinishedRun(NamedTuple):
    """A finished measurement."""

    record: Record
    values: pd.DataFrame
    path: Path
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
        key = measurement_key(
            task_hash=loaded.task.hash,
            submission_hash=submission.hash,
            tier=plan.tier,
            rungs=plan.rungs,
            whole=plan.whole,
            compat=plan.compat,
            pairs=plan.pairs,
            dtype=plan.dtype,
            device=loaded.device.type,
            protocol=loaded.task.protocol,
            version=__version__,
        )
        base = folder / loaded.task.id / str(loaded.task.major) / submission.name
        # What is not pinned may have changed under the same hash.
        again = fresh or not submission.is_pinned or not base.is_dir()
        found = None if again else find_record(base, key)
        if found is not None:
            record, values = read_record(found)
            yield FinishedRun(record, values, found, kept=True)
            continue
        record, values = _measured(loaded, submission, plan, progress)
        path = base / f"{record.record_id}.json"
        write_record(record, values, path)
        yield FinishedRun(record, values, path, kept=False)


def _measured(
    loaded: LoadedTask, submission: Entry, plan: Plan, progress: Progress | None
) -> tuple[Record, pd.DataFrame]:
    """Measure, with half the batch each time the device runs out of memory."""
    if isinstance(loaded, CircuitTask):
        found = submission.circuits(loaded, plan.fit_windows)
        return measure_circuit(loaded, info(submission), found.circuits, plan, found.notes)

    def build() -> object:
        return submission.build(loaded.task, lambda: loaded.fit_moments(plan.fit_windows))

    while True:
        try:
            return measure(loaded, submission, build, plan, progress=progress)  # type: ignore[arg-type]
        except torch.OutOfMemoryError:
            if loaded.batch_size == 1:
                raise MeasurementError(
                    "the device has too little memory for a single window",
                    fix="use a device with more memory, --dtype bfloat16, or --device cpu",
                ) from None
            loaded.batch_size //= 2
            torch.cuda.empty_cache()
