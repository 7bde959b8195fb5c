"""Submit an interpretation to the leaderboard: check it, measure it, put files where they belong.

1. The folder's `submission.toml` must say what it is, who made it and under which licence; its files must be
   small, plain, and whole.
2. Required are the tasks that it names; if it names none, the one task that its config fits.
3. Its name must be free, or its content be what already has that name.
4. Rules that every interpretation keeps (`remainder check`), on every task.
5. Measure: into the user's cache, where an interrupted run is taken up again. What `remainder run` has
   measured with the same settings is taken over.
6. Verify the records (`remainder verify`).
7. Only now write into the checkout: the folder and the records. What is there already is left alone, so
   that a second run changes nothing. Tables and verifications are made on the main branch, from all records:
   so two submissions never change the same file.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress
from remainder.base.files import require_folder
from remainder.base.paths import cache_root, project_root
from remainder.board.verify import verify_paths
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.loading.open import open_task
from remainder.measure.plan import plan
from remainder.publish.check import check
from remainder.publish.requirements import (
    files_of,
    public_task,
    read_described,
    refuse_taken_name,
    required_tasks,
)
from remainder.record.json import sweep_temporary, write_atomically
from remainder.record.store import values_path
from remainder.record.turns import sweep, writing
from remainder.runs.cells import FinishedRun
from remainder.runs.cells import run as run_rows
from remainder.submission.method import NAME
from remainder.submission.submission import Submission
from remainder.task.spec import Task

__all__ = [
    "Destinations",
    "Submitted",
    "git_commands",
    "open_pull_request",
    "places",
    "require_repository",
    "submit",
]


_FORK = "fork"
"""The name of the remote for a fork; `origin` is the repository itself."""
_MAY_PUSH = ("WRITE", "MAINTAIN", "ADMIN")


class Destinations(NamedTuple):
    """The folders that a submission is written to."""

    root: Path
    """The checkout."""
    submissions: Path
    results: Path


class Submitted(NamedTuple):
    """The outcome of `submit`."""

    submission: Submission
    folder: Path
    """The folder in which the submission's files are now."""
    rows: list[FinishedRun]
    """A record for each task, where they are now; `kept` if it was there already."""
    written: list[Path]
    """Files that were not there before, or were different."""
    left: tuple[str, ...]
    """Required tasks that were not asked for."""
    places: Destinations


def places(out: Path | None, submissions: Path | None) -> Destinations:
    """Folders for a submission: in the checkout that the package runs from, or as they are given.

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
    return Destinations(root, submissions or root / "baselines", out or root / "leaderboard" / "results")


def submit(
    where: str,
    to: Destinations,
    *,
    tasks: Sequence[str] = (),
    tier: str = "quick",
    device: str = "auto",
    family: str | None = None,
    measured: Path | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Submitted:
    """Take `where` through the steps of this module's text.

    Args:
        where: a folder with `submission.toml`.
        tasks: ids; default: all that are required.
        tier: how much is measured: `quick` or `standard`.
        device: `auto`, `cpu` or `cuda`.
        family: the method that it is of, which is written into its `submission.toml` first.
        measured: a folder of results that `remainder run` wrote; rows of the same measurement are taken over.
        trust_code: whether its code may be executed, if it is code.
        progress: told what is being done.

    Raises:
        InterpretationError: if the submission is incomplete or of another family, its name is taken, or it
            breaks a rule.
        TaskError: if it says nowhere which task it is for, or there is no such task.
        RecordError: if a record does not verify.
    """
    submission = read_described(where, trust_code=trust_code)
    if family is not None:
        submission = _of_family(submission, family)
    assert submission.folder is not None
    required = required_tasks(submission)
    chosen = [_named(task, submission) for task in tasks] or required
    folder = to.submissions / submission.name
    copied = files_of(submission.folder)
    _check_free(submission, copied, folder, to)
    _require_ready(chosen, tier, to)
    for task in chosen:
        if task.kind.has_residual:  # a circuit is checked when it is read
            _check_rules(where, task, device, progress, trust_code)
    # Nothing that the checkout holds is touched until all is measured and verified.
    staging = cache_root() / "submit" / submission.hash[:24]
    rows: list[FinishedRun] = []
    for task in chosen:
        place = Path(task.id) / str(task.major) / submission.name
        sweep(to.results / place)
        for results in (to.results, measured):  # finished records are found where the engine looks
            if results is not None and (results / place).is_dir():
                shutil.copytree(results / place, staging / place, dirs_exist_ok=True)
        loaded = open_task(task, device=device, progress=progress)
        rows += run_rows(loaded, [submission], plan(task, tier), staging, progress=progress)
    _verify([row.path for row in rows], [staging])
    written = _publish(submission, copied, folder, rows, staging, to)
    shutil.rmtree(staging, ignore_errors=True)
    moved = [row._replace(path=to.results / row.path.relative_to(staging)) for row in rows]
    done = {task.id for task in chosen}
    left = tuple(task.id for task in required if task.id not in done)
    return Submitted(submission, folder, moved, written, left, to)


def require_repository(to: Destinations, name: str) -> None:
    """Whether a pull request can be made of what is written.

    Args:
        name: of the submission.

    Raises:
        RecordError: the folders lie in no checkout of git, or there is a branch for that submission already.
    """
    for folder in (to.submissions, to.results):
        if not folder.resolve().is_relative_to(to.root.resolve()) or _asked(to.root, "rev-parse", "HEAD"):
            raise RecordError(
                f"{folder} lies in no checkout of the repository, so there is nothing to commit it to",
                fix="leave out --open, --out and --submissions, and run it in a checkout (git clone)",
            )
    branch = f"submit-{name}"
    if not _asked(to.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"):
        raise RecordError(
            f"there is a branch {branch} already",
            fix=f"push that one, or remove it: `git branch -d {branch}`",
        )


def _asked(root: Path, *arguments: str) -> int:
    """Exit code of git for a question about a repository: 0 is yes."""
    words = ["git", "-C", str(root), *arguments]
    return subprocess.run(words, capture_output=True, check=False).returncode


def _of_family(submission: Submission, family: str) -> Submission:
    """The submission with a family in its `submission.toml`; its hash stays as it is."""
    assert submission.folder is not None
    file = submission.folder / "submission.toml"
    if submission.family == family:
        return submission
    if submission.family is not None:
        raise InterpretationError(
            f"{file} names the family {submission.family}, and --family {family}", fix="leave --family out"
        )
    if not re.fullmatch(NAME.removesuffix("$"), family):
        raise InterpretationError(f"--family {family}: it is no name ({NAME})", fix="choose another one")
    # At the top, where no table has begun.
    write_atomically(file, f'family = "{family}"\n'.encode() + file.read_bytes())
    return read_described(submission.folder, trust_code=submission.is_trusted)


def _require_ready(tasks: Sequence[Task], tier: str, to: Destinations) -> None:
    """Raise before anything is measured if that could not be, or could not be written afterwards."""
    for task in tasks:
        plan(task, tier)
    require_folder(to.submissions, "--submissions", RecordError)
    for task in tasks:
        require_folder(to.results / task.id / str(task.major), "--out", RecordError)


def git_commands(done: Submitted, *, fork: bool = True) -> list[list[str]]:
    """The commands that make a branch, a commit and a pull request of a submission.

    Args:
        fork: whether the branch goes to a fork, which is made if there is none; else to the remote `origin`.
    """
    name = done.submission.name
    folders = [done.folder, *(row.path.parent for row in done.rows)]
    paths = [_in_repository(path, done.places) for path in dict.fromkeys(folders)]
    what = ", ".join(dict.fromkeys(row.record.task.id for row in done.rows))
    return [
        ["git", "switch", "--create", f"submit-{name}"],
        ["git", "add", *paths],
        ["git", "commit", "--message", f"Submit {name}: {what}"],
        *([["gh", "repo", "fork", "--remote", "--remote-name", _FORK]] if fork else []),
        ["git", "push", "--set-upstream", _FORK if fork else "origin", f"submit-{name}"],
        ["gh", "pr", "create", "--fill"],
    ]


def open_pull_request(done: Submitted) -> None:
    """Run `git_commands`, through a fork unless this account may push to the repository itself.

    Raises:
        RecordError: if git or gh is missing, or a command fails; the message names those that are left.
    """
    commands = git_commands(done, fork=not _may_push(done.places.root))
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


def _may_push(root: Path) -> bool:
    """Whether GitHub says that this account may push to the repository; where it says nothing, it may not."""
    words = ["gh", "repo", "view", "--json", "viewerPermission", "--jq", ".viewerPermission"]
    try:
        told = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return told.returncode == 0 and told.stdout.strip() in _MAY_PUSH


def _named(name: str, submission: Submission) -> Task:
    task = public_task(name)
    if not submission.fits(task):
        raise TaskError(
            f"{submission.name} was made for {', '.join(submission.tasks)}, not for {task.id}",
            fix="leave the task out, or add it to `tasks` in its submission.toml",
        )
    return task


def _check_rules(where: str, task: Task, device: str, progress: Progress | None, trust_code: bool) -> None:
    found = check(where, task.id, trust_code=trust_code, device=device, progress=progress)
    for step in found.steps:
        if step.passed is False:
            raise InterpretationError(
                f"{where} cannot be scored on {task.id}: {step.name}: {step.detail}", fix=step.fix
            )


def _check_free(submission: Submission, copied: dict[str, Path], folder: Path, to: Destinations) -> None:
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


def _verify(paths: Sequence[Path], roots: Sequence[Path]) -> None:
    """Raise RecordError if one of the records at `paths` is at fault, beside all that lies in `roots`."""
    for verdict in verify_paths(roots, jobs=1):
        if verdict.path in paths and not verdict.passed:
            raise RecordError(
                f"record {verdict.path.stem[:12]} does not verify: {'; '.join(verdict.faults[:3])}",
                fix="measure again with the package as it is in the repository; nothing was written",
            )


def _publish(
    submission: Submission,
    copied: dict[str, Path],
    folder: Path,
    rows: Sequence[FinishedRun],
    staging: Path,
    to: Destinations,
) -> list[Path]:
    """Write folder and records; gives the files that were not there. Takes them back on a fault."""
    written: list[Path] = []
    try:
        if not folder.exists():
            written += _copied(copied, folder)
        for row in rows:
            target = to.results / row.path.relative_to(staging)
            # The values first: a record is there when its JSON is.
            with writing(target.parent):
                for source, file in ((values_path(row.path), values_path(target)), (row.path, target)):
                    if not file.exists():
                        written.append(file)
                        write_atomically(file, source.read_bytes())
        # Once more where they are now: beside the submission's files and the task's other records.
        published = [to.results / row.path.relative_to(staging) for row in rows]
        _verify(published, published)
    except BaseException:
        _take_back(written, (to.submissions, to.results))
        raise
    return written


def _copied(files: dict[str, Path], folder: Path) -> list[Path]:
    """Copy a submission's files: the whole folder or nothing; gives the copies."""
    sweep_temporary(folder.parent, folder.name)
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


def _in_repository(path: Path, to: Destinations) -> str:
    """The place of a folder in the repository; of one outside, the place that it is to be put at."""
    resolved, root = path.resolve(), to.root.resolve()
    if resolved.is_relative_to(root):
        return resolved.relative_to(root).as_posix()
    homes = ((to.submissions, "baselines"), (to.results, "leaderboard/results"))
    above, home = next(pair for pair in homes if resolved.is_relative_to(pair[0].resolve()))
    return f"{home}/{resolved.relative_to(above.resolve()).as_posix()}"
