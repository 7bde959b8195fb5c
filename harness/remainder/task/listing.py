"""Lists of tasks: those that come with this installation, those of other packages, and those of a folder."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.files import present
from remainder.base.plugins import TASKS, registered
from remainder.errors import TaskError
from remainder.task.spec import Task, list_tasks, load_task

__all__ = ["Listing", "load_all", "task_in", "task_names"]


class Listing(NamedTuple):
    """Tasks, and for each that cannot be read what is wrong with it, by its name."""

    tasks: list[Task]
    faults: dict[str, TaskError]


def task_names(suite: str | None = None, folder: Path | None = None) -> list[str]:
    """Names by which `load_task` finds tasks, in order; nothing is read or imported.

    Args:
        suite: only those of a suite.
        folder: one that holds `SUITE/TASK/task.toml`. Default: tasks that come with this installation, and
            after them those that other packages register.

    Raises:
        TaskError: there is no such suite, or no such folder with tasks.
    """
    if folder is None:
        own = list_tasks()
        others = dict.fromkeys(one.name for one in registered(TASKS))
        named = {name: name for name in [*own, *(name for name in others if name not in own)]}
    else:
        files = sorted(folder.glob("*/*/task.toml"))
        named = {path.parent.relative_to(folder).as_posix(): str(path.parent.absolute()) for path in files}
        if not named:
            what = "holds no SUITE/TASK/task.toml" if folder.is_dir() else "is no folder"
            raise TaskError(f"--tasks {folder} {what}", fix="name the folder that holds the suites")
    if suite is None:
        return list(named.values())
    chosen = [place for name, place in named.items() if name.startswith(f"{suite}/")]
    if not chosen:
        suites = sorted({name.split("/")[0] for name in named})
        raise TaskError(f"there is no suite {suite!r}", fix=f"choose one of: {', '.join(suites)}")
    return chosen


def task_in(folder: Path | None, name: str) -> str:
    """The name by which `load_task` finds a task in a folder of tasks; without a folder, its own name.

    Raises:
        TaskError: the folder holds no such task.
    """
    if folder is None:
        return name
    place = folder / name
    if not present(place / "task.toml"):
        known = [str(Path(one).relative_to(folder.absolute())) for one in task_names(None, folder)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
        raise TaskError(f"--tasks {folder} holds no task {name!r}", fix=f"it has: {', '.join(near)}")
    return str(place.absolute())


def load_all(names: Sequence[str]) -> Listing:
    """Load tasks; one of somebody else's that cannot be read keeps no other from being listed.

    Raises:
        TaskError: a task that comes with this installation cannot be read.
    """
    own = set(list_tasks())
    tasks, faults = [], {}
    for name in names:
        try:
            tasks.append(load_task(name))
        except TaskError as problem:
            if name in own:
                raise
            faults[name] = problem
    return Listing(tasks, faults)
