"""The requirements of the leaderboard: what a submission must state, and what its folder may hold.

1. `submission.toml` says what it is, who made it and under which licence; of a hub it names the commit.
2. It is for the tasks that it names; if it names none, for the one task that its config fits.
3. Its files are plain, few and small, and its name reads like no other's.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from remainder.base.paths import root_of
from remainder.board.origin import skeleton as skeleton
from remainder.errors import InterpretationError, TaskError
from remainder.record.recordable import check_words
from remainder.residual.moments import Moments
from remainder.submission.method import FORMATS
from remainder.submission.open import open_submission
from remainder.submission.submission import Submission
from remainder.task.spec import Task, list_tasks, load_task

__all__ = [
    "LIMIT",
    "check_description",
    "files_of",
    "public_task",
    "read_described",
    "refuse_taken_name",
    "require_plain",
    "required_tasks",
    "untold",
]

LIMIT = 10_000_000
"""Bytes that the folder of a submission may take in the repository."""

_MOST_FILES = 100
_NO_LICENCE = {"", "unknown", "none", "todo", "tbd", "?"}
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # of a path
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEMPLATE = """\
name = "{name}"
kind = "{kind}"
title = "What it is, in a line"
authors = ["Your name"]
licence = "MIT"
tasks = ["family/task"]

[method]
format = "{format}"
{place}"""


def read_described(where: str | Path, *, trust_code: bool = False) -> Submission:
    """The submission at a folder, if it says all that a leaderboard must know.

    Args:
        where: the folder.
        trust_code: whether its code may be executed, if it is code.

    Raises:
        InterpretationError: if something is missing; the message says what to write.
    """
    found = open_submission(where, trust_code=trust_code)
    folder = found.folder
    if folder is None or not (folder / "submission.toml").is_file():
        text = str(where)
        place = f'hub = "{text[4:]}"\nrevision = "COMMIT"' if text.startswith("hub:") else 'path = "."'
        template = _TEMPLATE.format(name=found.name, kind=found.kind, format=found.method.format, place=place)
        raise InterpretationError(
            f"{where} has no submission.toml, which says what it is, who made it and under which licence",
            fix="write it into a folder, beside the weights:\n\n" + template,
        )
    check_description(found)
    return found


def check_description(found: Submission) -> None:
    """Raise InterpretationError unless title, authors, licence and files are all there."""
    assert found.folder is not None
    where = found.folder / "submission.toml"

    def refuse(field: str, problem: str, fix: str) -> NoReturn:
        raise InterpretationError(f"{where}: {field}: {problem}", fix=fix)

    if found.method.format not in FORMATS:
        what = f"{found.method.format} does not come with the benchmark, so that nobody could verify a record"
        refuse("method.format", what, f"choose one of {', '.join(FORMATS)}; `check` and `run` take yours")
    if not found.title.strip():
        refuse("title", "is empty", "say in a line what it is")
    if not found.authors or not all(author.strip() for author in found.authors):
        refuse("authors", "names nobody" if not found.authors else "holds an empty name", "name all authors")
    if found.licence.strip().lower() in _NO_LICENCE:
        refuse("licence", f"is {found.licence!r}", 'name the licence of the weights, such as "MIT"')
    require_plain(found)
    revision = found.method.get("revision")
    if found.is_on_hub and not _COMMIT.fullmatch(revision or ""):
        here = "" if found.commit is None else f"; now it is {found.commit}"
        refuse(
            "method.revision",
            f"is {revision!r}, and what a name on a hub stands for may change",
            f"give the commit of the hub's repository, 40 hexadecimal digits{here}",
        )
    for name in ("script", "log"):
        stated = getattr(found.training, name)
        if stated is None or re.match(r"https?://", stated):
            continue
        inside = (found.folder / stated).resolve().is_relative_to(found.folder.resolve())
        if not inside or not (found.folder / stated).is_file():
            fix = "name a file of the folder, or an address that begins with https://"
            refuse(f"training.{name}", f"there is no file {stated!r} in the folder", fix)
    for name in found.files:
        if not found.is_on_hub and not (root_of(found.folder, name) / name).is_file():
            refuse("method", f"{name} lies outside of the folder", "put all files into it")


def untold(found: Submission) -> str | None:
    """A sentence that asks for what lets others train it again; None if nothing is missing."""
    missing = found.training.missing
    if not missing or not (found.files or found.is_on_hub):
        return None
    *others, last = missing
    lines = {"script": 'script = "train.py"', "seed": "seed = 0", "log": 'log = "train.log"'}
    return (
        f"{found.name} does not state its training {', '.join(others)}{' and ' * bool(others)}"
        f"{last}, without which nobody can make it again. If you have them, add to its submission.toml a "
        "table [training] with " + ", ".join(f"`{lines[name]}`" for name in missing) + "."
    )


def require_plain(found: Submission) -> None:
    """Raise InterpretationError if a text of its description could not be shown as it is."""
    for problem in check_words(found.model_dump(mode="json", exclude={"method"})):
        field, _, text = problem.partition(": ")
        where = found.name if found.folder is None else found.folder / "submission.toml"
        raise InterpretationError(f"{where}: {field}: {text}", fix="use plain text")


def required_tasks(submission: Submission) -> list[Task]:
    """The tasks that a submission must have records of: those that it names, else the one that it fits.

    Of tasks that differ in their text alone that is the one which is no variant of another.

    Raises:
        TaskError: if it names an unknown one, or none and fits none or several.
    """
    if submission.tasks:
        return [public_task(name) for name in submission.tasks]
    fitting: list[Task] = []
    if "hub" in submission.format.sources:  # weights, whose settings tell their place; others fit everything
        tasks = [task for task in map(load_task, list_tasks()) if task.variant_of is None]
        fitting = [task for task in tasks if _fits(submission, task)]
    if len(fitting) == 1:
        return fitting
    many = ", ".join(task.id for task in fitting[:6])
    raise TaskError(
        f"{submission.name} does not say which tasks it is for, and its config "
        + (f"fits several ({many})" if fitting else "does not tell"),
        fix='name them in its submission.toml: tasks = ["family/task"]; `remainder tasks` lists all',
    )


def files_of(folder: Path) -> dict[str, Path]:
    """Files of a submission's folder, by path relative to it, without caches and hidden files.

    Raises:
        InterpretationError: if something is no plain file, has a strange name, or all is too large.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if "__pycache__" in parts or any(part.startswith(".") for part in parts):
            continue
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            continue
        if not stat.S_ISREG(kind):
            raise InterpretationError(f"{path} is a link or no file", fix="put plain files into the folder")
        if not all(_PART.fullmatch(part) for part in parts):
            raise InterpretationError(
                f"{path}: its name holds other characters than letters, digits, '.', '-' and '_'",
                fix="rename it",
            )
        found[name] = path
    size = sum(path.stat().st_size for path in found.values())
    if len(found) > _MOST_FILES:
        raise InterpretationError(
            f"{folder} holds {len(found)} files, at most {_MOST_FILES} are taken", fix="leave out the others"
        )
    if size > LIMIT:
        raise InterpretationError(
            f"{folder} takes {size / 1e6:.1f} MB; a submission in the repository at most {LIMIT / 1e6:.0f}",
            fix="put the weights on a hub (`hf upload OWNER/REPO FOLDER`), and in submission.toml give, in "
            'place of path, hub = "OWNER/REPO:FOLDER" and revision = "COMMIT"; float16 halves them, too',
        )
    return found


def refuse_taken_name(name: str, others: Iterable[str]) -> None:
    """Raise InterpretationError if `name` is not among `others`, and reads like one of them."""
    known = set(others)
    alike = sorted(other for other in known - {name} if skeleton(other) == skeleton(name))
    if alike and name not in known:
        raise InterpretationError(
            f"the name {name} reads like {alike[0]}, which is another submission",
            fix="choose a name that nobody can take for another",
        )


def public_task(name: str) -> Task:
    """A task that comes with the benchmark, by its id.

    Raises:
        TaskError: if there is no such task, or it lies elsewhere.
    """
    task = load_task(name)
    if task.is_adhoc:
        raise TaskError(
            f"{task.id} is ad hoc, of somebody's own model, hook and text, and is on no public board",
            fix="submit to a task of the benchmark; `remainder tasks` lists all",
        )
    if task.id not in list_tasks() or str(name) != task.id:
        raise TaskError(
            f"{name} is no task of the benchmark", fix="name one by its id; `remainder tasks` lists all"
        )
    return task


def _fits(submission: Submission, task: Task) -> bool:
    def no_moments() -> Moments:
        raise AssertionError("what is read from files needs no moments")

    try:
        submission.build(task, no_moments)
    except InterpretationError:
        return False
    return True
