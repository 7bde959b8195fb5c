"""Ad-hoc tasks: of somebody's own model, hook and text, or prompts, named by content and kept as a folder.

An ad-hoc task is a task like any other: hashed, and measured by the same code. Its id is `adhoc/WORDS-HASH`,
where HASH is of all its content, so that two are never taken for one. In a folder it is `task.toml`, which
states that id, beside its token ids (`Corpus.save`, `StoredPrompts.save`): no text is stored.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

from remainder.base.cache import build_once
from remainder.base.files import explained, present, require_folder
from remainder.errors import TaskError
from remainder.task.spec import ADHOC, Task, load_task

__all__ = ["keep", "named", "require_savable", "save_task"]

_LONGEST = 40  # letters of the words of an id


@runtime_checkable
class Data(Protocol):
    """The token ids of a task."""

    def save(self, folder: Path) -> None:
        """Write them into the folder of the task."""


def named(task: Task) -> Task:
    """The task under the id that its content gives it, with the words of its model and hook, or prompts."""
    what = task.site.hook_out if task.circuit is None else "prompts"
    words = re.sub(r"[^a-z0-9._]+", "-", f"{task.model.name}-{what}".lower()).strip("-._")
    short = words[-_LONGEST:].strip("-._")
    return task.model_copy(update={"id": f"{ADHOC}/{short}-{task.content_id}"})


def save_task(task: Task, data: Data, folder: Path) -> Path:
    """Write a task on token ids as a folder that `load_task` reads, whole or not at all; gives the folder.

    Raises:
        TaskError: there is something else in it, or it cannot be written.
    """
    require_savable(folder)
    if (folder / "task.toml").is_file():
        if load_task(folder).hash != task.hash:
            raise TaskError(f"{folder} holds another task", fix="name another folder")
        return folder
    with explained(folder, TaskError):
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.absolute().parent) as place:
            temporary = Path(place) / "task"
            temporary.mkdir()
            _write(task, data, temporary)
            temporary.replace(folder)
    return folder


def require_savable(folder: Path) -> None:
    """Raise TaskError unless a task can be written as that folder, or one lies there already."""
    require_folder(folder, "the folder of the task", TaskError)
    if present(folder) and any(folder.iterdir()) and not (folder / "task.toml").is_file():
        raise TaskError(f"{folder}: there is something else in it", fix="save the task in another folder")


def keep(task: Task, data: Data) -> Path:
    """The folder of an ad-hoc task in the cache, where `load_task` finds it by its id."""
    suite, _, name = task.id.partition("/")
    return build_once(suite, name, lambda folder: _write(task, data, folder))


def _write(task: Task, data: Data, folder: Path) -> None:
    data.save(folder)
    text = _toml(task.model_dump(mode="json", exclude_none=True))
    (folder / "task.toml").write_text(text, encoding="utf-8")


def _toml(content: dict[str, Any]) -> str:
    """Nested tables as TOML, whose strings, numbers, truth values and arrays are those of JSON."""

    def table(name: str, fields: dict[str, Any]) -> list[str]:
        inner = {key: value for key, value in fields.items() if isinstance(value, dict)}
        plain = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in fields.items()
            if key not in inner
        ]
        head = [f"\n[{name}]"] if name and plain else []
        below = [line for key, value in inner.items() for line in table(f"{name}.{key}".lstrip("."), value)]
        return [*head, *plain, *below]

    return "\n".join(table("", content)) + "\n"
