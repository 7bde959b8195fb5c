"""Review a submission that came as a pull request: everything that a machine can tell of it.

Run in a checkout of the base commit, whose code does the work; of the pull request only data are taken, file
by file, after their names, kinds and sizes have been looked at.

1. What changed between both commits: only new files of one submission, `baselines/<name>/` and
   `leaderboard/results/<task>/<N>/<name>/`. Both are append-only. What is made from all records, tables and
   verifications, is made on the main branch.
2. Metadata of the submission; records of every task that it names.
3. Every record: schema, hashes, all summaries recomputed (`remainder.board.verify`).
4. Documents of every record measured again (`remainder.publish.remeasure`): as many as
   `remainder.publish.draws` says, chosen by the key that was drawn for that record. Where a submission
   brings code, that is executed for it, in a sandbox; unless it is trusted, the review waits.
5. A report in Markdown: the table, places and ties, the comparison with the previous record, every fault.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.cache import Progress
from remainder.base.paths import project_root
from remainder.board.verify import verify_paths
from remainder.errors import RecordError, RemainderError
from remainder.publish.draws import Draws, new_key, settings_of
from remainder.publish.place import describe_place
from remainder.publish.remeasure import Rerun, render_rerun, rerun
from remainder.publish.requirements import LIMIT, read_described, refuse_taken_name, required_tasks, untold
from remainder.record.json import write_atomically
from remainder.record.schema import Record
from remainder.record.store import read_record
from remainder.report.tables import render
from remainder.submission.sandbox.confine import unlimited
from remainder.submission.submission import Submission

__all__ = ["ChangedFile", "Review", "changes", "faults_of_changes", "review"]

_NAME = r"[a-z0-9][a-z0-9._-]{0,39}"
_FOLDER = rf"{_NAME}(?:-to-{_NAME})?"  # of nested records: both names
_RECORD = re.compile(
    rf"leaderboard/results/{_NAME}/{_NAME}/[1-9][0-9]{{0,3}}/(?P<folder>{_FOLDER})/[0-9a-f]{{64}}\.(?:json|csv\.gz)"
)
_SUBMISSION = re.compile(rf"baselines/(?P<name>{_NAME})(?:/[A-Za-z0-9_][A-Za-z0-9._-]{{0,99}}){{1,6}}")
_MADE = re.compile(r"leaderboard/(README\.md|verifications/.+|results/order\.jsonl)")
"""Files that the main branch makes from all records."""
_MADE_THERE = ("leaderboard/README.md", "leaderboard/verifications", "leaderboard/results/order.jsonl")
_PLAIN = "100644"
_LARGEST = {".json": 4_000_000, ".gz": 50_000_000}  # bytes of a record's file
_MOST_FILES = 250  # GitHub lists the first 300 files of a comparison, and says nothing of the others
_MOST_RECORDS = 20  # each of them costs minutes, and tells its draw
_LONGEST = 20_000  # characters of the findings


class ChangedFile(NamedTuple):
    """One file that differs between two commits."""

    status: str
    """A: added; M: changed; D: deleted; T: of another kind."""
    mode: str
    """The mode that git states: 100644 is a plain file."""
    blob: str
    size: int
    """Bytes."""
    path: str


@dataclass
class Review:
    """The outcome of a review: Markdown for people, and whether it may be merged."""

    name: str | None
    head: str
    faults: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    standings: list[str] = field(default_factory=list)
    reruns: list[Rerun] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    """Sentences on what somebody has to do before the rest can be looked at."""

    @property
    def passed(self) -> bool:
        """Whether there is no fault, and everything was looked at."""
        return not self.faults and not self.waits

    def markdown(self) -> str:
        """The report. Whatever somebody else may have written stands in fences, and cannot leave them."""
        outcome = "everything came out as it is recorded" if self.passed else f"{len(self.faults)} at fault"
        if self.waits and not self.faults:
            outcome = "it waits for a maintainer"
        lines = [f"## Submission {self.name or '(none)'}: {outcome}", ""]
        if self.records:
            lines += [render(self.records, "markdown").strip(), "", *_fenced(self.standings)]
        if self.faults:
            lines += ["### Faults", "", *_fenced(self.faults)]
        if self.waits:
            lines += ["### Not looked at yet", "", *_fenced(self.waits)]
        if self.reruns:
            again = [line for one in self.reruns for line in render_rerun(one).splitlines()]
            lines += ["### Measured again", "", *_fenced(again)]
        lines.append(f"Commit {self.head}.")
        return "\n".join(lines) + "\n"


def review(
    base: str,
    head: str,
    *,
    draws: Draws | None = None,
    documents: int | None = None,
    failed: int = 0,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Review:
    """Review what `head` adds to `base`, as this module's text says; its files are written into the checkout.

    Args:
        base: a commit of the checkout: the branch that is merged into.
        head: the last commit of the pull request.
        draws: the key of each record's draw, which its author could not know; default: drawn now.
        documents: of each record, that are measured again; default: what `number_drawn` says.
        failed: reviews of the same author that failed before.
        trust_code: whether code that the submission brings may be executed.
        progress: told what is being done.

    Raises:
        RecordError: if git does not know the commits, the checkout has other files of these names, or code is
            trusted where the system does not confine it.
    """
    if trust_code and (doors := unlimited()):
        raise RecordError(
            f"nothing limits here {', '.join(doors)}, and a review runs the code of strangers",
            fix="review on a recent Linux (6.10 or later) or leave out --trust-code, and read the code",
        )
    root = project_root()
    head = _commit(root, head)
    found = changes(root, _git(root, "merge-base", _commit(root, base), head).decode().strip(), head)
    result = Review(_only_name(found), head, list(faults_of_changes(found)))
    if not result.passed or result.name is None:
        return result
    for change in found:
        _take(root, head, change)
    results = root / "leaderboard" / "results"
    paths = [root / change.path for change in found if change.path.endswith(".json") and _is_record(change)]
    submission = _submission(root, result, is_new=any(_SUBMISSION.fullmatch(one.path) for one in found))
    for verdict in verify_paths(paths, jobs=1) if paths else []:
        result.faults += [f"{verdict.path.stem[:12]}: {fault}" for fault in verdict.faults]
        if verdict.record is None:
            continue
        result.records.append(verdict.record)
        # What a submission's files would download is known to be little once it could be opened.
        if verdict.passed and submission is not None:
            key = new_key() if draws is None else draws.get(verdict.record.record_id)
            if key is None:
                result.faults.append(f"{verdict.path.stem[:12]}: no documents were drawn to measure again")
                continue
            settings = settings_of(verdict.record, key, documents=documents, failed=failed)
            if trust_code or not submission.format.runs_code:
                _measure_again(verdict.path, result, settings | {"trust_code": trust_code}, progress)
            result.standings += describe_place(verdict.record, results)
    if submission is not None and (asked := untold(submission)) is not None:
        result.standings.append(asked)
    if submission is not None and submission.format.runs_code and not trust_code:
        result.waits += _waits(submission, head)
    try:
        if submission is not None:
            result.faults += _missing_tasks(submission, results)
    except RemainderError as problem:
        result.faults.append(_public(problem))
    return result


def changes(root: Path, base: str, head: str) -> list[ChangedFile]:
    """Every file that differs between two commits; what was moved is deleted and added."""
    raw = _git(root, "diff", "--raw", "-z", "--no-renames", "--no-abbrev", base, head).split(b"\0")
    sizes = _sizes(root, head)
    found = []
    for about, name in zip(raw[:-1:2], raw[1::2], strict=True):
        _, mode, _, blob, status = about.decode().lstrip(":").split()
        path = name.decode(errors="replace")
        found.append(ChangedFile(status, mode, blob, sizes.get(path, 0), path))
    return found


def faults_of_changes(found: Sequence[ChangedFile]) -> Iterator[str]:
    """Sentences on changes that a pull request must not make."""
    if not found:
        yield "nothing is changed"
    if len(found) > _MOST_FILES:
        yield f"{len(found)} files are changed, at most {_MOST_FILES} may be"
        return
    records = sum(_is_record(change) and change.path.endswith(".json") for change in found)
    if records > _MOST_RECORDS:
        yield f"{records} records are added, at most {_MOST_RECORDS} may be: make several pull requests"
    size = 0
    for change in found:
        shown = ascii(change.path[:200])
        if _MADE.fullmatch(change.path):
            yield (
                f"{shown} is made on the main branch from all records: leave it out, "
                f"`git checkout origin/main -- {' '.join(_MADE_THERE)}`"
            )
            continue
        record, submission = _is_record(change), _SUBMISSION.fullmatch(change.path)
        if not record and submission is None:
            yield f"{shown} is neither of a submission nor a record: it needs a pull request of its own"
        elif change.status != "A":
            yield f"{shown} is changed or deleted: records and submissions are only ever added"
        elif change.mode != _PLAIN:
            yield f"{shown} has mode {change.mode}: plain files only, no links, nothing executable"
        elif record and change.size > _LARGEST[Path(change.path).suffix]:
            yield f"{shown} has {change.size:,} bytes"
        elif submission is not None:
            size += change.size
    if size > LIMIT:
        yield f"the submission takes {size / 1e6:.1f} MB, at most {LIMIT / 1e6:.0f}: put the weights on a hub"
    there = {change.path for change in found}
    for path in sorted(there):
        if path.endswith(".csv.gz") and f"{path.removesuffix('.csv.gz')}.json" not in there:
            yield f"{path[:200]!a} are values without their record"
    names = sorted(set(_names(found)))
    if len(names) > 1:
        yield f"several submissions ({', '.join(names[:6])}): one a pull request"
    elif found and not names:
        yield "there is no submission and no record in it"


def _is_record(change: ChangedFile) -> bool:
    return _RECORD.fullmatch(change.path) is not None


def _names(found: Sequence[ChangedFile]) -> Iterator[str]:
    """Names of the submissions that files belong to."""
    own = {match["name"] for change in found if (match := _SUBMISSION.fullmatch(change.path))}
    yield from own
    for change in found:
        if match := _RECORD.fullmatch(change.path):
            folder = match["folder"]
            # Nested records belong to the coarser of both, if that is in the pull request.
            yield next((name for name in own if folder.startswith(f"{name}-to-")), folder)


def _only_name(found: Sequence[ChangedFile]) -> str | None:
    names = set(_names(found))
    return names.pop() if len(names) == 1 else None


def _take(root: Path, head: str, change: ChangedFile) -> None:
    """Write one file of the pull request into the checkout."""
    path = root / change.path
    data = _git(root, "cat-file", "blob", change.blob)
    if path.exists() and change.status == "A" and path.read_bytes() != data:
        raise RecordError(
            f"{change.path} is in the checkout already, and is not that of {head[:12]}",
            fix="review in a fresh checkout of the base",
        )
    write_atomically(path, data)


def _submission(root: Path, result: Review, *, is_new: bool) -> Submission | None:
    """The submission's description, or None and a fault."""
    folder = root / "baselines" / str(result.name)
    try:
        if not folder.is_dir():
            raise RecordError(f"baselines/{result.name} is missing", fix="commit the submission's folder")
        # To read a description executes nothing; what measures is told by itself whether it may.
        found = read_described(folder, trust_code=True)
        if is_new:
            known = {path.parent.name for path in folder.parent.glob("*/submission.toml")}
            refuse_taken_name(found.name, known - {folder.name})
        if found.name != folder.name:
            result.faults.append(f"baselines/{folder.name}: it calls itself {found.name}")
        return found
    except RemainderError as problem:
        result.faults.append(_public(problem))
        return None


def _waits(submission: Submission, head: str) -> list[str]:
    """Why nothing of a submission was measured again, and what to do about it."""
    return [
        f"{submission.name} brings code, which was not run: so no record of it was measured again.",
        f"Any of its files may be a part of it: {', '.join(sorted(submission.files))}.",
        "A maintainer reads it. If nothing speaks against running it in a sandbox, this lets the review run "
        "it, for this very commit and for no later one:",
        f"gh label create run-code:{head}",
        f"gh pr edit NUMBER --add-label run-code:{head}",
        f"By hand, in a checkout of the base: remainder review BASE {head[:12]} --trust-code",
    ]


def _public(problem: RemainderError) -> str:
    """A fault with its fix; paths begin in the checkout, since a report is public."""
    return str(problem).replace(f"{project_root()}/", "")


def _measure_again(
    path: Path, result: Review, settings: Mapping[str, Any], progress: Progress | None
) -> None:
    name = path.stem[:12]
    try:
        found = rerun(path, **settings, progress=progress)
    except RemainderError as problem:
        result.faults.append(f"{name}: could not be measured again: {_public(problem)}")
        return
    result.reruns.append(found)
    result.faults += [f"{name}: {fault}" for fault in found.faults]


def _missing_tasks(submission: Submission, results: Path) -> Iterator[str]:
    for task in required_tasks(submission):
        folder = results / task.id / str(task.major) / submission.name
        hashes = {read_record(path).record.submission.hash for path in folder.glob("*.json")}
        if submission.hash not in hashes:
            yield f"there is no record of {task.id}, which the submission names"


def _fenced(lines: Sequence[str]) -> list[str]:
    """Lines in a code fence that nothing in them can close."""
    text = "\n".join(lines).replace("`", "ʼ")
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n…"
    return ["```text", text, "```", ""]


def _commit(root: Path, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}", name):
        raise RecordError(f"{name!r} is no commit", fix="give its hash, or a branch")
    return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()


def _sizes(root: Path, head: str) -> dict[str, int]:
    """Bytes of every file of a commit."""
    listed = _git(root, "ls-tree", "-r", "-l", "-z", head).split(b"\0")
    sizes = {}
    for line in listed[:-1]:
        about, _, name = line.partition(b"\t")
        size = about.split()[3]
        sizes[name.decode(errors="replace")] = int(size) if size != b"-" else 0
    return sizes


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise RecordError("git is not installed", fix="install it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RecordError(
            f"git {' '.join(arguments[:2])} failed: {said[-1] if said else 'unknown to this repository'}",
            fix="run it in a checkout that has both commits",
        )
    return done.stdout
