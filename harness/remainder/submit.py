"""Submit an interpretation to the leaderboard: check it, measure it, put files where they belong.

1. The folder's `submission.toml` must say what it is, who made it and under which licence; its files must be
   small, plain, and whole.
2. Required are the tasks that it names; if it names none, the one task that its config fits.
3. Its name must be free, or its content be what already has that name.
4. Rules that every interpretation keeps (`remainder check`), on every task.
5. Measure: into the user's cache, where an interrupted run is taken up again.
6. Verify the records (`remainder verify`).
7. Only now write into the checkout: the folder, the records, and `leaderboard/README.md`. What is there
   already is left alone, so that a second run changes nothing.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from remainder.assets import Progress
from remainder.board.build import build as build_board
from remainder.board.build import write_readme
from remainder.board.consistency import check_words
from remainder.board.origin import _skeleton as skeleton
from remainder.board.verify import verify_paths
from remainder.canonical import write_atomically
from remainder.checking import check
from remainder.engine import Row
from remainder.engine import run as run_rows
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.loaded import open_task
from remainder.measure.plan import plan
from remainder.paths import cache_root, project_root
from remainder.record import values_path
from remainder.residual.moments import Moments
from remainder.submission import FORMATS, Submission, open_submission
from remainder.task import Task, list_tasks, load_task

__all__ = [
    "LIMIT",
    "Places",
    "Submitted",
    "check_description",
    "files_of",
    "git_commands",
    "open_pull_request",
    "places",
    "read_described",
    "refuse_taken_name",
    "required_tasks",
    "submit",
]

LIMIT = 10_000_000
"""Bytes that the folder of a submission may take in the repository."""

_MOST_FILES = 100
_NO_LICENCE = {"", "unknown", "none", "todo", "tbd", "?"}
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # of a path
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEMPLATE = """\
name = "{name}"
kind = "reconstruction"
title = "What it is, in a line"
authors = ["Your name"]
licence = "MIT"
tasks = ["family/task"]

[method]
format = "{format}"
{place}"""


class Places(NamedTuple):
    """Where a submission goes."""

    root: Path
    """The checkout."""
    submissions: Path
    results: Path

    @property
    def readme(self) -> Path | None:
        """The generated tables beside the results, if these are the checkout's own."""
        own = self.results.resolve() == (self.root / "leaderboard" / "results").resolve()
        return self.results.parent / "README.md" if own else None


class Submitted(NamedTuple):
    """What `submit` did."""

    submission: Submission
    folder: Path
    """Where the submission's files are now."""
    rows: list[Row]
    """A record for each task, where they are now; `kept` if it was there already."""
    written: list[Path]
    """Files that were not there before, or were different."""
    left: tuple[str, ...]
    """Required tasks that were not asked for."""
    places: Places


def places(out: Path | None, submissions: Path | None) -> Places:
    """Where a submission goes: into the checkout that the package runs from, or where it is told.

    Raises:
        RecordError: if there is no checkout, and not both folders are given.
    """
    root = project_root()
    if not (root / "pyproject.toml").is_file() and (out is None or submissions is None):
        raise RecordError(
            "this is an installed package, and submissions are made from a checkout of the repository",
            fix="git clone the repository of Remainder, `pip install --editable .` in it, and run `remainder "
            "submit` there; or name both --out and --submissions",
        )
    return Places(root, submissions or root / "baselines", out or root / "leaderboard" / "results")


def submit(
    where: str,
    to: Places,
    *,
    tasks: Sequence[str] = (),
    tier: str = "quick",
    device: str = "auto",
    progress: Progress | None = None,
) -> Submitted:
    """Take `where` through the steps of this module's text.

    Args:
        where: a folder with `submission.toml`.
        tasks: ids; default: all that are required.
        tier: how much is measured: `quick` or `standard`.
        device: `auto`, `cpu` or `cuda`.
        progress: told what is being done.

    Raises:
        InterpretationError: if the submission is incomplete, its name is taken, or it breaks a rule.
        TaskError: if it says nowhere which task it is for, or there is no such task.
        RecordError: if a record does not verify.
    """
    submission = read_described(where)
    assert submission.folder is not None
    required = required_tasks(submission)
    chosen = [_named(task, submission) for task in tasks] or required
    folder = to.submissions / submission.name
    copied = files_of(submission.folder)
    _check_free(submission, copied, folder, to)
    for task in chosen:
        if task.circuit is None:  # a circuit is checked when it is read
            _check_rules(where, task, device, progress)
    # Nothing that the checkout holds is touched until all is measured and verified.
    staging = cache_root() / "submit" / submission.hash[:24]
    rows: list[Row] = []
    for task in chosen:
        place = Path(task.id) / str(task.major) / submission.name
        if (to.results / place).is_dir():  # finished records are found where the engine looks
            shutil.copytree(to.results / place, staging / place, dirs_exist_ok=True)
        loaded = open_task(task, device=device, progress=progress)
        rows += run_rows(loaded, [submission], plan(task, tier), staging, progress=progress)
    _verify([row.path for row in rows], staging)
    written = _publish(submission, copied, folder, rows, staging, to)
    shutil.rmtree(staging, ignore_errors=True)
    moved = [row._replace(path=to.results / row.path.relative_to(staging)) for row in rows]
    done = {task.id for task in chosen}
    left = tuple(task.id for task in required if task.id not in done)
    return Submitted(submission, folder, moved, written, left, to)


def read_described(where: str | Path) -> Submission:
    """The submission at a folder, if it says all that a leaderboard must know.

    Raises:
        InterpretationError: if something is missing; the message says what to write.
    """
    found = open_submission(where)
    folder = found.folder
    if folder is None or not (folder / "submission.toml").is_file():
        text = str(where)
        place = f'hub = "{text[4:]}"\nrevision = "COMMIT"' if text.startswith("hub:") else 'path = "."'
        template = _TEMPLATE.format(name=found.name, format=found.method.format, place=place)
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

    if not found.title.strip():
        refuse("title", "is empty", "say in a line what it is")
    if not found.authors or not all(author.strip() for author in found.authors):
        refuse("authors", "names nobody" if not found.authors else "holds an empty name", "name all authors")
    if found.licence.strip().lower() in _NO_LICENCE:
        refuse("licence", f"is {found.licence!r}", 'name the licence of the weights, such as "MIT"')
    for problem in check_words(found.model_dump(mode="json", exclude={"method"})):
        refuse(*_split(problem), "use plain text")
    if found.method.hub is not None and not _COMMIT.fullmatch(found.method.revision or ""):
        here = "" if found.commit is None else f"; now it is {found.commit}"
        refuse(
            "method.revision",
            f"is {found.method.revision!r}, and what a name on a hub stands for may change",
            f"give the commit of the hub's repository, 40 hexadecimal digits{here}",
        )
    for name in found.files:
        if found.method.hub is None and not (found.folder / name).is_file():
            refuse("method", f"{name} lies outside of the folder", "put all files into it")


def required_tasks(submission: Submission) -> list[Task]:
    """The tasks that a submission must have records of: those that it names, else the one that it fits.

    Raises:
        TaskError: if it names an unknown one, or none and fits none or several.
    """
    if submission.tasks:
        return [_public(name) for name in submission.tasks]
    fitting: list[Task] = []
    if submission.method.format in FORMATS:  # others fit everything
        fitting = [task for task in map(load_task, list_tasks()) if _fits(submission, task)]
    if len(fitting) == 1:
        return fitting
    many = ", ".join(task.id for task in fitting[:6])
    raise TaskError(
        f"{submission.name} does not say which tasks it is for, and its config "
        + (f"fits several ({many})" if fitting else "does not tell"),
        fix='name them in its submission.toml: tasks = ["family/task"]; `remainder tasks` lists all',
    )


def files_of(folder: Path) -> dict[str, Path]:
    """What belongs to a submission's folder, by path relative to it; caches and hidden files do not.

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


def git_commands(done: Submitted) -> list[list[str]]:
    """The commands that make a branch, a commit and a pull request of a submission."""
    name, root = done.submission.name, done.places.root
    folders = [done.folder, *(row.path.parent for row in done.rows)]
    if done.places.readme is not None:
        folders.append(done.places.readme)
    paths = [_relative(path, root) for path in dict.fromkeys(folders)]
    what = ", ".join(dict.fromkeys(row.record.task.id for row in done.rows))
    return [
        ["git", "switch", "--create", f"submit-{name}"],
        ["git", "add", *paths],
        ["git", "commit", "--message", f"Submit {name}: {what}"],
        ["git", "push", "--set-upstream", "origin", f"submit-{name}"],
        ["gh", "pr", "create", "--fill"],
    ]


def open_pull_request(done: Submitted) -> None:
    """Run `git_commands`.

    Raises:
        RecordError: if git or gh is missing, or a command fails; the message names those that are left.
    """
    commands = git_commands(done)
    for number, command in enumerate(commands):
        left = "; ".join(shlex.join(rest) for rest in commands[number:])
        try:
            ran = subprocess.run(command, cwd=done.places.root, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise RecordError(
                f"{command[0]} is not installed", fix=f"install it, or run yourself: {left}"
            ) from None
        if ran.returncode:
            said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
            raise RecordError(
                f"{shlex.join(command)} failed: {said[-1] if said else ran.returncode}",
                fix=f"see to it, and run what is left: {left}",
            )


def _split(problem: str) -> tuple[str, str]:
    field, _, text = problem.partition(": ")
    return field, text


def _public(name: str) -> Task:
    """A task that comes with the benchmark."""
    task = load_task(name)
    if task.id not in list_tasks() or str(name) != task.id:
        raise TaskError(
            f"{name} is no task of the benchmark", fix="name one by its id; `remainder tasks` lists all"
        )
    return task


def _named(name: str, submission: Submission) -> Task:
    task = _public(name)
    if not submission.fits(task):
        raise TaskError(
            f"{submission.name} was made for {', '.join(submission.tasks)}, not for {task.id}",
            fix="leave the task out, or add it to `tasks` in its submission.toml",
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


def _check_rules(where: str, task: Task, device: str, progress: Progress | None) -> None:
    found = check(where, task.id, device=device, progress=progress)
    for step in found.steps:
        if step.passed is False:
            raise InterpretationError(
                f"{where} cannot be scored on {task.id}: {step.name}: {step.detail}", fix=step.fix
            )


def _check_free(submission: Submission, copied: dict[str, Path], folder: Path, to: Places) -> None:
    """Refuse a name that stands for something else."""
    name = submission.name
    others = {path.parent.name for path in to.submissions.glob("*/submission.toml")}
    # A folder of nested records is named by both, which no submission is.
    others |= {path.name for path in to.results.glob("*/*/*/*") if "-to-" not in path.name}
    refuse_taken_name(name, others)
    fix = "give yours another name in its submission.toml: a name stands for one content for good"
    if folder.exists():
        there = files_of(folder)
        differing = [
            path
            for path in sorted({*copied, *there})
            if path not in copied
            or path not in there
            or copied[path].read_bytes() != there[path].read_bytes()
        ]
        if differing:
            raise InterpretationError(f"{folder} exists already, with another {differing[0]}", fix=fix)
    for path in sorted(to.results.glob(f"*/*/*/{name}/*.json")):
        if json.loads(path.read_bytes())["submission"]["hash"] != submission.hash:
            raise InterpretationError(f"there is a record of another {name} already: {path}", fix=fix)


def _verify(paths: Sequence[Path], root: Path) -> None:
    wanted = set(paths)
    for verdict in verify_paths([root], jobs=1):
        if verdict.path in wanted and not verdict.passed:
            raise RecordError(
                f"record {verdict.path.stem[:12]} does not verify: {'; '.join(verdict.faults[:3])}",
                fix="measure again with the package as it is in the repository; nothing was written",
            )


def _publish(
    submission: Submission,
    copied: dict[str, Path],
    folder: Path,
    rows: Sequence[Row],
    staging: Path,
    to: Places,
) -> list[Path]:
    """Write folder, records and README; gives the files that were not there. Takes them back on a fault."""
    written: list[Path] = []
    try:
        if not folder.exists():
            written += _copied(copied, folder)
        for row in rows:
            target = to.results / row.path.relative_to(staging)
            # The values first: a record is there when its JSON is.
            for source, file in ((values_path(row.path), values_path(target)), (row.path, target)):
                if not file.exists():
                    written.append(file)
                    write_atomically(file, source.read_bytes())
        _verify_published([to.results / row.path.relative_to(staging) for row in rows])
    except BaseException:
        _take_back(written, (to.submissions, to.results))
        raise
    if to.readme is not None:
        before = to.readme.read_bytes() if to.readme.is_file() else None
        write_readme(to.readme, build_board(to.results, None))
        if to.readme.read_bytes() != before:
            written.append(to.readme)
    return written


def _verify_published(paths: Sequence[Path]) -> None:
    """Once more where they are now: beside the submission's files and the task's other records."""
    for verdict in verify_paths(paths, jobs=1):
        if not verdict.passed:
            raise RecordError(
                f"record {verdict.path.stem[:12]} does not verify: {'; '.join(verdict.faults[:3])}",
                fix="measure again with the package as it is in the repository; nothing was written",
            )


def _copied(files: dict[str, Path], folder: Path) -> list[Path]:
    """Copy a submission's files: the whole folder or nothing; gives the copies."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        for name, path in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temporary / name)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in files]


def _take_back(written: Sequence[Path], roots: Sequence[Path]) -> None:
    for path in reversed(written):
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent in roots or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def _relative(path: Path, root: Path) -> str:
    resolved = path.resolve()
    inside = resolved.is_relative_to(root.resolve())
    return resolved.relative_to(root.resolve()).as_posix() if inside else path.as_posix()
