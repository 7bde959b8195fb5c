"""The lock of the tasks: `tasks/lock.json` holds the hash of every task, so that no number moves silently.

`python -m remainder.task` writes it. While a protocol is in the making the lock is open: hashes move with
what they cover. It is closed by hand in the file itself, in the commit that brings the first record of a task
that gives places; from then on a task whose numbers can move needs a new `N`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remainder.base.messages import placed_fault
from remainder.base.paths import is_checkout, project_root
from remainder.errors import TaskError
from remainder.task.spec import list_tasks, load_task

__all__ = ["Lock", "LockEntry", "read_lock", "write_lock"]


class _Locked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockEntry(_Locked):
    """A task as it is locked."""

    version: str
    hash: str


class Lock(_Locked):
    """The content of `tasks/lock.json`."""

    open: bool = Field(
        default=True,
        description="whether hashes may still move. Set false by hand, with the first record of a task that "
        "gives places; never true again",
    )
    tasks: dict[str, LockEntry] = {}


def read_lock() -> Lock:
    """The versions and hashes of all tasks, as they are locked.

    Raises:
        TaskError: if there is no such file, or it is not one.
    """
    path = _lock_path()
    if not path.is_file():
        raise TaskError(f"{path} does not exist", fix="write it with `python -m remainder.task`")
    try:
        return Lock.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        raise TaskError(f"{path}: {placed_fault(problem)}", fix="restore the file as it was") from None


def write_lock() -> Path:
    """Write `tasks/lock.json`: version and hash of every task. It stays open, or closed, as it was.

    Raises:
        TaskError: if a locked task is gone, or its numbers would change while its `N` stays and the lock is
            closed.
    """
    path = _lock_path()
    if not is_checkout():
        raise TaskError(
            f"{path} belongs to an installed package", fix="lock tasks in a checkout of the repository"
        )
    locked = read_lock() if path.is_file() else Lock()
    tasks = {name: load_task(name) for name in list_tasks()}
    for name, entry in locked.tasks.items():
        if name not in tasks:
            raise TaskError(f"task {name} is locked and gone", fix="bring it back; results refer to it")
        same = tasks[name].major == int(entry.version.split("-")[0])
        if same and tasks[name].hash != entry.hash and not locked.open:
            raise TaskError(
                f"task {name} measures something else than when it was locked as {entry.version}",
                fix=f'write version = "{tasks[name].major + 1}-A" in its task.toml, or undo the change',
            )
    entries = {name: LockEntry(version=task.version, hash=task.hash) for name, task in tasks.items()}
    content = Lock(open=locked.open, tasks=entries).model_dump(mode="json")
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _lock_path() -> Path:
    return project_root() / "tasks" / "lock.json"
