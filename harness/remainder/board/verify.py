"""Verify records: everything that can be told from the files alone, in a second, without a model.

1. Files: regular ones, of bounded size, at the place that the record's own content names, nothing beside
   them.
2. Schema, both hashes and the hash of the values (`record.read_record`); the bytes are those that
   `record.write_record` would write, so that no number hides in another type or a seventh digit.
3. The record against itself and its values (`board.consistency`, `board.coding_checks`,
   `board.plausibility`).
4. The record against task, submission and the other records of the task (`board.origin`).

A record of a protocol that is over is proved by its hashes alone, and by the lock of the archive that it lies
in: nothing of it is recomputed, since there is no second set of rules here. A note says so.

What this cannot see is said in docs/threats.md: a forger who changes values and summaries together is caught
only by measuring again.

How a verdict is shown and kept: `board.verifications`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from remainder.board import coding_checks, consistency, origin, plausibility
from remainder.board.agreement import disagreements
from remainder.board.listing import LINK, is_named_beside, record_files
from remainder.board.origin import Remark
from remainder.board.shelf import LARGEST_JSON, Shelf, archived_protocol, is_board, results_root
from remainder.errors import RecordError, RemainderError
from remainder.record.json import canonical_json
from remainder.record.part import part_of
from remainder.record.recordable import check_words
from remainder.record.schema import Record
from remainder.record.store import LARGEST_VALUES, read_record, values_path
from remainder.record.windows import scored_in, windows_hash, windows_of
from remainder.record.withdrawn import read_withdrawn
from remainder.task.lock import read_lock
from remainder.task.spec import PROTOCOL

__all__ = [
    "CHECKS",
    "FIRST_CHECKS",
    "Shelf",
    "Verdict",
    "results_root",
    "verify_paths",
    "verify_record",
]

_LARGEST_JSON = LARGEST_JSON
_LARGEST_VALUES = 50_000_000  # bytes as they lie on the disk
_LARGEST_UNPACKED = LARGEST_VALUES
_CHUNK = 1 << 20
_RESTORE = "restore what is at fault as it was written, or measure again; never edit a record"
_DISPUTED = (
    "measure both again with `verify --rerun`, and take out the one that does not come out as recorded"
)
_UNREAD = "take what is no record out of a folder of results; if it was one, restore it as it was written"
_FLOWLESS = "run `remainder flow` or `levels` again, which find it, or take it out"
_RECORD = re.compile(r"[0-9a-f]{64}\.json")  # how records are called in folders of results
_LONGEST = 600  # characters of a finding that are shown


_ENDED = ("1",)  # protocols that are over


class Verdict(NamedTuple):
    """The verdict on one file."""

    path: Path
    record: Record | None
    """The record; None if it could not be read."""
    findings: tuple[Remark, ...]
    root: Path | None = None
    """The folder of results that it belongs to."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Sentences on what is wrong."""
        return tuple(_shown(finding.text) for finding in self.findings if finding.is_fault)

    @property
    def fixes(self) -> tuple[str, ...]:
        """Advice on the faults, each sentence once."""
        return tuple(dict.fromkeys(finding.fix or _RESTORE for finding in self.findings if finding.is_fault))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what could not be checked, or is allowed and worth knowing."""
        return tuple(_shown(finding.text) for finding in self.findings if not finding.is_fault)

    @property
    def passed(self) -> bool:
        """Whether there is no fault; what is no record passes where it is sound."""
        return not self.faults

    @property
    def recomputed(self) -> bool:
        """Whether its numbers were recomputed; those of a protocol that is over never are."""
        return self.record is not None and self.record.protocol == PROTOCOL


class _Subject(NamedTuple):
    """A record that could be read."""

    path: Path
    record: Record
    values: pd.DataFrame
    shelf: Shelf | None


def _of(check: Callable[[Record, pd.DataFrame], Iterator[str]]) -> Callable[[_Subject], Iterator[Remark]]:
    return lambda subject: (Remark(text) for text in check(subject.record, subject.values))


def _of_record(check: Callable[[Record], Iterator[str]]) -> Callable[[_Subject], Iterator[Remark]]:
    return lambda subject: (Remark(text) for text in check(subject.record))


def _form(subject: _Subject) -> Iterator[Remark]:
    """Whether the file has the bytes that `write_record` gives it."""
    # Fields that a later version of the package added are not in files that an earlier one wrote.
    content = subject.record.model_dump(mode="json", exclude_unset=True)
    written = canonical_json(content, indent=1) + "\n"
    if subject.path.read_bytes() != written.encode():
        yield Remark("the file is not in the one form that records are written in (types, digits, order)")


def _words(subject: _Subject) -> Iterator[Remark]:
    content = subject.record.model_dump(mode="json")
    for text in check_words(content):
        yield Remark(text)
    for document in subject.values["document"].unique():
        for text in check_words([document]):
            yield Remark(f"values: document {text}")


def _place(subject: _Subject) -> Iterator[Remark]:
    shelf = subject.shelf
    if shelf is None:
        yield Remark(
            "its place was not checked: it was given alone, or lies in no folder of results "
            "(<task>/<N>/<submission>/<record_id>.json)",
            is_fault=False,
        )
        return
    expected = shelf.place(subject.record)
    found = subject.path.resolve()
    if subject.record.reference is not None and found.parent.name.startswith(f"{expected.parent.name}-to-"):
        expected = expected.parent.parent / found.parent.name / expected.name
    if found == expected.resolve():
        return
    where = expected.relative_to(shelf.root)
    if not shelf.board and expected.is_file() and expected.read_bytes() == found.read_bytes():
        yield Remark(f"is a copy of {where}: its place was not checked", is_fault=False)
        return
    yield Remark(
        f"lies at the wrong place; expected {where}",
        fix="move a record that lies at the wrong place, with its values, to where it is expected",
    )


def _protocol(subject: _Subject) -> Iterator[Remark]:
    """Whether a record lies among those of its protocol; one that is over is not recomputed."""
    stated, shelf = subject.record.protocol, subject.shelf
    if shelf is not None and shelf.board:
        expected = archived_protocol(shelf.root) or PROTOCOL
        if stated != expected:
            yield Remark(
                f"protocol: {stated!r}, the records of this folder are of protocol {expected}",
                fix=f"measure it again, by protocol {PROTOCOL}; an archive takes no new records",
            )
    if stated in _ENDED:
        yield Remark(f"is of protocol {stated}: verified by hash, not recomputed", is_fault=False)
    elif stated != PROTOCOL:
        yield Remark(f"protocol: {stated!r}, there are {', '.join((*_ENDED, PROTOCOL))}")


def _locked(subject: _Subject) -> Iterator[Remark]:
    """An archived record against the lock of its archive."""
    if subject.shelf is None or archived_protocol(subject.shelf.root) is None:
        return
    path = subject.shelf.root.parent / "lock.json"
    stated = subject.record.task
    lock = json.loads(path.read_bytes()).get(stated.id) if path.is_file() else None
    if lock != {"version": stated.version, "hash": stated.hash}:
        yield Remark(
            f"task: {stated.id} {stated.version} {stated.hash[:12]}… is not in the archive's lock.json"
        )


def _shared(subject: _Subject) -> Iterator[Remark]:
    peers = [] if subject.shelf is None else subject.shelf.peers(subject.record)
    yield from origin.check_peers(subject.record, peers, board=_on_board(subject))


def _withdrawn(subject: _Subject) -> Iterator[Remark]:
    gone = {} if subject.shelf is None else read_withdrawn(subject.shelf.root)
    if subject.record.record_id in gone:
        yield Remark(gone[subject.record.record_id].sentence, is_fault=False)


def _agreement(subject: _Subject) -> Iterator[Remark]:
    """Compare with other records of the same content, of which there can be one truth only."""
    gone = {} if subject.shelf is None else read_withdrawn(subject.shelf.root)
    if subject.shelf is None or subject.record.record_id in gone:
        return
    for other in (one for one in subject.shelf.same_content(subject.record) if one.record_id not in gone):
        for text in disagreements(subject.record, other):
            yield Remark(f"{text} ({other.record_id[:12]}…)", fix=_DISPUTED)


def _windows(subject: _Subject) -> Iterator[Remark]:
    """Compare documents, windows and scored tokens with those of the task's tier."""
    record = subject.record
    if part_of(record.tier) is not None:
        yield Remark("windows: only some documents were measured; they were not compared", is_fault=False)
        return
    lock = read_lock().tasks.get(record.task.id)
    same = lock is not None and lock.hash == record.task.hash
    expected = windows_of(record.task.id, record.tier) if same else None
    if expected is None:
        what = f"windows: those of {record.task.id}, tier {record.tier}, are not known here"
        yield Remark(f"{what}: documents were not compared", is_fault=False)
    elif (found := windows_hash(scored_in(subject.values))) != expected:
        yield Remark(
            f"windows: documents, windows or scored tokens are not those of tier {record.tier} (hash "
            f"{found[:12]}…, the task has {expected[:12]}…)"
        )


def _on_board(subject: _Subject) -> bool:
    """Whether names are held to what a leaderboard asks for: there, each stands for one content."""
    return subject.shelf is not None and subject.shelf.board


def _shell(subject: _Subject) -> Iterator[Remark]:
    """Whether a shell belongs to a flow; that it is the shell which this says is checked with the flow."""
    if subject.record.submission.is_shell and not is_named_beside(subject.path):
        what = "is a shell, and neither a flow nor levels beside it name it"
        yield Remark(what, is_fault=_on_board(subject), fix=_FLOWLESS)


CHECKS: dict[str, Callable[[_Subject], Iterator[Remark]]] = {
    "form": _form,
    "words": _words,
    "protocol": _protocol,
    "place": _place,
    "task": lambda subject: origin.check_task(subject.record, board=_on_board(subject)),
    "windows": _windows,
    "submission": lambda subject: origin.check_submission(subject.record, board=_on_board(subject)),
    "peers": _shared,
    "agreement": _agreement,
    "shell": _shell,
    "measurement": _of(consistency.check_measurement),
    "checks": _of(consistency.check_checks),
    "values": _of(consistency.check_values),
    "coding": _of(coding_checks.check_coding),
    "summaries": _of(consistency.check_summaries),
    "cost": _of_record(plausibility.check_cost),
    "gaussianity": _of(plausibility.check_gaussianity),
    "compat": _of_record(plausibility.check_compat),
    "provenance": _of_record(consistency.check_provenance),
}
"""Checks of a record that can be read, by name; before these come files, schema and hashes."""

_CHECKS_OF_ARCHIVED = {"protocol": _protocol, "place": _place, "lock": _locked}
"""Checks of a record whose protocol is over."""

FIRST_CHECKS = ("files", "schema", "hashes")
"""Checks that are made while a record is read."""


def verify_record(path: Path, shelf: Shelf | None = None) -> Verdict:
    """Every fault of the record at `path` (`<stem>.json`, its values beside it).

    Args:
        shelf: the folder of results that it belongs to; None leaves its place and its peers unchecked, and
            compares it with a task or submission of the benchmark only if it has that one's hash.
    """
    # What is not called as a record is may never have been one.
    unread = None if _RECORD.fullmatch(path.name) else _UNREAD
    faults = tuple(Remark(text, fix=unread) for text in _file_faults(path))
    if faults:
        return Verdict(path, None, faults)
    try:
        record, values = read_record(path)
    except (RemainderError, ValueError, RecursionError) as problem:  # whatever foreign bytes bring about
        text = problem.what if isinstance(problem, RemainderError) else f"cannot be read: {problem}"
        return Verdict(path, None, (Remark(text.removeprefix(f"{path}: "), fix=unread),))
    subject = _Subject(path, record, values, shelf)
    findings: list[Remark] = []
    checks = CHECKS if record.protocol == PROTOCOL else _CHECKS_OF_ARCHIVED
    for name, check in {**checks, "withdrawals": _withdrawn}.items():
        try:
            findings += check(subject)
        except (RemainderError, ValueError, LookupError, ArithmeticError, TypeError) as problem:
            what = problem.what if isinstance(problem, RemainderError) else repr(problem)
            findings.append(Remark(f"{name} could not be checked: {what}"))
    return Verdict(path, record, tuple(findings), None if shelf is None else shelf.root)


def verify_paths(paths: Sequence[Path], *, jobs: int | None = None, board: bool = False) -> list[Verdict]:
    """Verdicts on records, and on all that lies in folders, in the order of their paths.

    Args:
        paths: files of records, or folders of results.
        jobs: processes; default: one for each core if there are many records.
        board: whether a folder that is given is that of a leaderboard, wherever it lies; else the folder of
            results is found from the place of each record.

    Raises:
        RecordError: if a path does not exist, or there is no record at all.
    """
    work: list[_Work] = []
    verdicts: list[Verdict] = []
    for given in paths:
        if not given.exists():
            raise RecordError(f"{given}: there is no such file or folder", fix="give a record or a folder")
        records, strays = record_files(_within(given))
        root = given if board and given.is_dir() else None
        work += [(path, given.is_dir(), root) for path in records]
        verdicts += [Verdict(path, None, (remark,)) for path, remark in strays]
    if not work and not verdicts:
        raise RecordError(
            f"{', '.join(map(str, paths))}: holds no record", fix="give a record's .json file, or a folder"
        )
    # Starting a process costs as much as verifying two records.
    processes = min(jobs or os.cpu_count() or 1, max(len(work) // 4, 1))
    groups = [work[start::processes] for start in range(processes)]
    if processes == 1:
        found = [_verify_all(group) for group in groups]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            found = list(pool.map(_verify_all, groups))
    return sorted([*verdicts, *(verdict for part in found for verdict in part)], key=lambda one: one.path)


def _within(given: Path) -> Path:
    """The results of an archive that is given by its own folder."""
    inner = given / "results"
    return inner if archived_protocol(inner) is not None and inner.is_dir() else given


_Work = tuple[Path, bool, "Path | None"]
"""A record, whether it was found in a folder that was given, and the leaderboard's folder if that is it."""


def _verify_all(work: Iterable[_Work]) -> list[Verdict]:
    shelves: dict[Path, Shelf] = {}
    found = []
    for path, in_folder, board in work:
        root = board or results_root(path)
        if root is not None and root not in shelves:
            shelves[root] = Shelf(root, board=board is not None or is_board(root))
        shelf = None if root is None else shelves[root]
        # A file that is given alone is looked at alone, but for a leaderboard's, where all must agree.
        beside = shelf if shelf is not None and (in_folder or shelf.board) else None
        found.append(verify_record(path, beside)._replace(root=root))
    return found


def _file_faults(path: Path) -> Iterator[str]:
    """Faults of the two files that show before they are read."""
    values = values_path(path)
    for file, most in ((path, _LARGEST_JSON), (values, _LARGEST_VALUES)):
        name = "" if file == path else f"the values {file.name[:80]} "
        if file.is_symlink():
            yield f"{name}{LINK}"
        elif file.exists() and not file.is_file():
            yield f"{name}is no file"
        elif file.exists() and file.stat().st_size > most:
            yield f"{name}has {file.stat().st_size:,} bytes, at most {most:,} are read"
    readable = values.is_file() and not values.is_symlink() and values.stat().st_size <= _LARGEST_VALUES
    if readable and not _unpacks_within(values, _LARGEST_UNPACKED):
        yield f"the values unpack to more than {_LARGEST_UNPACKED:,} bytes"


def _unpacks_within(path: Path, most: int) -> bool:
    """Whether a gzip file holds no more bytes than that; a few megabytes can hold gigabytes of zeros."""
    total = 0
    with path.open("rb") as file:
        unpacker = zlib.decompressobj(wbits=31)
        for chunk in iter(partial(file.read, _CHUNK), b""):
            data = chunk
            while data:
                try:
                    total += len(unpacker.decompress(data, _CHUNK))
                except zlib.error:
                    return True  # told when it is read
                data = unpacker.unconsumed_tail
                if unpacker.eof and unpacker.unused_data:  # gzip files may follow each other
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(wbits=31)
                if total > most:
                    return False
    return True


def _shown(text: str) -> str:
    """A finding as a terminal may be given it: a record's words come from anybody."""
    safe = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return safe if len(safe) <= _LONGEST else f"{safe[:_LONGEST]} …"
