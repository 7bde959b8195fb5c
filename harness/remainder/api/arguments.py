"""Arguments that the calls share: tasks, interpretations and rungs, as people name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from remainder.base.cache import Progress
from remainder.base.resolve import resolve
from remainder.errors import InterpretationError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.submission.objects import ObjectSubmission, label_of
from remainder.submission.open import open_submission
from remainder.submission.submission import Entry
from remainder.task.spec import Task, load_task

__all__ = ["AnyTask", "entry_of", "instance_of", "opened", "place_of", "rungs_of", "spec_of"]

AnyTask: TypeAlias = str | Path | Task | LoadedTask
"""A task by its id or folder, its description, or one that `open_task` made ready."""


def spec_of(task: AnyTask) -> Task:
    """The description of a task."""
    return task.task if isinstance(task, LoadedTask) else load_task(task)


def place_of(task: AnyTask, device: str) -> str:
    """The device that is measured on: that of a task which is ready."""
    return task.device.type if isinstance(task, LoadedTask) else device


def opened(
    task: AnyTask,
    spec: Task,
    device: str,
    batch_size: int | None,
    progress: Progress | None,
) -> LoadedTask:
    """The task with its model and data; one that is ready is given back."""
    if isinstance(task, LoadedTask):
        return task
    return open_task(spec, device=device, batch_size=batch_size, progress=progress)


def rungs_of(rungs: tuple[str, ...] | list[str] | str | None) -> tuple[str, ...] | None:
    """Names of rungs; None where the default is meant.

    Raises:
        TaskError: it is neither text nor a list.
    """
    if isinstance(rungs, str):
        rungs = [part.strip() for part in rungs.split(",")]
    if rungs is not None and not isinstance(rungs, (tuple, list)):
        raise TaskError(f"rungs is {rungs!r}", fix='give names of rungs, such as ["raw", "full"], or "all"')
    return tuple(rungs) if rungs else None


def entry_of(
    interpretation: Any,
    task: Task,
    name: str | None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
) -> Entry:
    """An interpretation from a notebook, or what `remainder run --with` takes."""
    if isinstance(interpretation, (str, Path)):
        submission = open_submission(interpretation, ignore_fields, trust_code=trust_code)
        return submission if name is None else submission.model_copy(update={"name": label_of(name)})
    entry: Entry = resolve(task.kind.wrap)(instance_of(interpretation), name, ignore_fields)
    entry.require_fit(task)
    return entry.with_code() if isinstance(entry, ObjectSubmission) else entry


def instance_of(interpretation: Any) -> Any:
    """An object to be scored.

    Raises:
        InterpretationError: it is a class.
    """
    if isinstance(interpretation, type):
        name = interpretation.__name__
        raise InterpretationError(f"{name} is a class", fix=f"give an instance, {name}(...)")
    return interpretation
