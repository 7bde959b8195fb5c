"""The library in one call: `evaluate(task, interpretation)`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from remainder.assets import Progress
from remainder.formats.saelens import check_object
from remainder.interpretation import adapt
from remainder.loaded import LoadedTask, open_task
from remainder.measure.evaluate import measure, plan
from remainder.record import write_record
from remainder.report import render, rows
from remainder.schema import Record
from remainder.submission import object_submission, open_submission
from remainder.task import Task, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "evaluate"]


@dataclass(frozen=True)
class Result:
    """One measurement: the record and the per-document values that all its numbers come from."""

    record: Record
    values: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """Headline numbers with their 95 % intervals, one row; see `remainder.report.rows`."""
        return rows([self.record])

    def save(self, path: str | Path) -> Path:
        """Write `path` (JSON) and the values beside it (`.csv.gz`); gives the path."""
        write_record(self.record, self.values, Path(path))
        return Path(path)

    def plot(self) -> Figure:
        """Gap to the clean model on every rung, and where it comes from; see `remainder.plot.explanation`."""
        from remainder.plot import explanation

        return explanation(self.record)

    def __str__(self) -> str:
        return render([self.record])


def evaluate(
    task: str | Path | Task | LoadedTask,
    interpretation: Any,
    *,
    name: str | None = None,
    tier: str = "quick",
    rungs: tuple[str, ...] | list[str] | str | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Result:
    """Score an interpretation on a task.

    Args:
        task: an id such as `smollm2-135m/resid-15`, the folder of a task, or a task that `open_task` made
            ready (to score several interpretations with one model in memory; `device` and `batch_size` are
            then those that it was opened with).
        interpretation: anything with `encode` and `decode` on tensors [docs, positions, width], such as a
            sae-lens `SAE`; or, as a string or path, what `remainder run --with` takes.
        name: what it is called in tables; default: the name of its class or folder.
        tier: `quick` or `standard`.
        rungs: default: those of the task.
        pairs: antithetic pairs of draws; default: those of the tier.
        dtype: `float32` or `bfloat16`, of the model after the site; default: that of the tier.
        device: `auto`, `cpu` or `cuda`.
        batch_size: windows in one forward pass.
        progress: told what is being done, and how much of it is done.

    Raises:
        RemainderError: with what is wrong and how to mend it.
    """
    chosen_task = task.task if isinstance(task, LoadedTask) else load_task(task)
    if isinstance(rungs, str):
        rungs = [rungs]
    if not isinstance(interpretation, (str, Path)):
        # Before anything is loaded: what can be told wrong at once.
        thing = object_submission(interpretation, name)
        adapted = adapt(interpretation, chosen_task.site.width, thing.name)
        check_object(interpretation, chosen_task.site, thing.name)
    loaded = (
        task
        if isinstance(task, LoadedTask)
        else open_task(task, device=device, batch_size=batch_size, progress=progress)
    )
    chosen = plan(loaded.task, tier, rungs=tuple(rungs) if rungs else None, pairs=pairs, dtype=dtype)
    if isinstance(interpretation, (str, Path)):
        submission = open_submission(interpretation)

        def fit() -> Any:
            return loaded.fit_moments(chosen.fit_windows)

        record, values = measure(
            loaded, submission, lambda: submission.build(loaded.task, fit), chosen, progress=progress
        )
    else:
        record, values = measure(loaded, thing, lambda: adapted, chosen, progress=progress)
    return Result(record, values)
