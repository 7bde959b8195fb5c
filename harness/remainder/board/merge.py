"""All records below a folder, verified, and which of them is the current one of its submission.

1. A record stands at `<task>/<N>/<submission>/<record_id>.json`, its values beside it. Its content, its two
   hashes and the hash of its values are verified. What is missing, edited, of another schema, or stands
   elsewhere than it says, of a part of a tier or of an ad-hoc task, is a `Fault` with its path: it is left
   out, and never silently. Whether its numbers follow from its values is `verify`'s business; its verdict,
   where one was kept, is shown beside it.
2. Of the values, only what paired comparisons need is kept: KL of some rungs summed over each document.
3. Records are comparable within a `Group`: one task, one N of its version, one tier, one dtype, so that all
   were measured on the same documents and round alike.
4. Of the records of a submission in a group, the current one has the submission's newest content (its hash is
   that of the record that came last), and of those the most rungs; of several such the newest. Measuring
   again with fewer rungs thus hides nothing, and new weights replace old ones. The others are history. Which
   came last is what `order.jsonl` says (`record.order`), and never a time that a record states of itself.
5. A record in which a finer interpretation stands for the model (`reference`) is of another question than the
   others: it is in no ranking, and shown apart.
6. A submission without files holds nothing that was trained: the identity, the mean, principal components,
   random directions, the full and the empty graph, what a task brings itself. It is a reference row: shown
   always, in no place. Circuits that a method found on the task's prompts are none, though without files.
7. Two records of the same content in a group must agree (`board.agreement`). Where they do not, one of them
   is wrong and nobody can tell which: both are `disputed`, and in no place, until one is withdrawn.
8. A record that was withdrawn (`record.withdrawn`) is current for nobody and disputes no other.
9. A shell, an interpretation with some of its sources kept, is no entry: it is shown with its flow
   (`board.flows`), in no table, place, budget or group.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from remainder.base.files import present, read_toml, require_file
from remainder.base.paths import baseline_folders
from remainder.board.agreement import content_of, disagreements
from remainder.board.audits import Audits, audit_path, read_audits
from remainder.board.listing import JOINT, is_values
from remainder.board.verifications import Verification, read_verification, verification_path
from remainder.errors import RecordError
from remainder.record.circuit_summary import HEADLINE
from remainder.record.json import sha256
from remainder.record.order import ORDER, Order, read_order
from remainder.record.part import part_of
from remainder.record.rungs import CURVE
from remainder.record.schema import Record
from remainder.record.store import LARGEST_VALUES, read_summary, values_path
from remainder.record.turns import RUNS
from remainder.record.withdrawn import WITHDRAWN, Withdrawal, read_withdrawn
from remainder.report.quantities import MAIN_RUNGS
from remainder.submission.method import FORMATS
from remainder.task.spec import ADHOC

__all__ = [
    "LEAST_REMEASURED",
    "RUNGS",
    "BoardRow",
    "DocumentSums",
    "Fault",
    "Group",
    "folders_of_tasks",
    "groups",
    "read_entries",
    "strays",
]

RUNGS = {**MAIN_RUNGS, **{rung: rung for rung in CURVE}}
"""Names of KLs that rows are compared by -> their rungs: those of the tables, and points of the curve."""

LEAST_REMEASURED = 4
"""Documents that must be measured again before a record says so; all of them where there are fewer."""

_SPLIT = "evaluation"
_PROJECT = ["Remainder contributors"]  # authors, as submission.toml names them
_Kept = TypeVar("_Kept")
_VERSION = re.compile(r"[1-9][0-9]{0,5}-[A-Z]")


class Fault(NamedTuple):
    """A file that could not be taken into the board."""

    path: str
    """Relative to the folder of results."""
    what: str


@dataclass(frozen=True)
class DocumentSums:
    """Sums over each document of the evaluation split, from which records are compared in pairs."""

    documents: tuple[str, ...]
    """Sorted."""
    tokens: NDArray[np.float64]
    """Scored tokens, `[documents]`."""
    kl: dict[str, NDArray[np.float64]]
    """KL summed over scored tokens and averaged over draws, nats, `[documents]`, by the keys of `RUNGS`."""


class Group(NamedTuple):
    """Properties that must be equal for two records to be comparable."""

    task: str
    major: str
    """N of the task's version N-X."""
    tier: str
    dtype: str
    """The dtype of the suffix, which need not be the tier's: another one is another group."""

    @property
    def label(self) -> str:
        """The tier, and the dtype behind it if that is not float32."""
        return self.tier if self.dtype == "float32" else f"{self.tier}, {self.dtype}"


@dataclass(frozen=True)
class BoardRow:
    """A record of the board, and where it was found."""

    record: Record
    path: str
    """Relative to the folder of results."""
    sums: DocumentSums
    current: bool = True
    verification: Verification | None = None
    """The verdict of the checker, if it was kept."""
    disputed: tuple[str, ...] = ()
    """Ids of other records of the same content that say something else (step 7)."""
    audits: Audits | None = None
    """Verdicts on its submission from sealed texts, if it was scored on one."""
    arrival: tuple[int, str, str] = (0, "", "")
    """Sorts records by when they came, the newest last; see `record.order`."""
    withdrawn: Withdrawal | None = None
    """When, by whom and why it was withdrawn, if it was (step 8)."""

    @property
    def group(self) -> Group:
        """The group of records that it can be compared with."""
        task = self.record.task
        major = task.version.partition("-")[0]
        return Group(task.id, major, self.record.tier, self.record.measurement.dtype)

    @property
    def is_reference(self) -> bool:
        """Whether its submission holds nothing that was trained or found (step 6)."""
        row = FORMATS.get(self.record.submission.format or "")
        searched = row is not None and "prompts" in row.sources
        return not self.record.submission.files and not searched

    @property
    def is_nested(self) -> bool:
        """Whether a finer interpretation stands for the model (step 5)."""
        return self.record.reference is not None

    @property
    def recomputed(self) -> bool:
        """Whether the checker found nothing at fault in its files: every summary follows from its values."""
        return self.verification is not None and self.verification.outcome == "passed"

    @property
    def remeasured(self) -> bool:
        """Whether documents of it were measured again in a fresh process, enough of them, and came out as
        recorded."""
        again = None if self.verification is None else self.verification.remeasured
        if again is None:
            return False
        least = min(LEAST_REMEASURED, self.record.documents.documents)
        return again.passed and again.afresh and len(set(again.documents)) >= least

    @property
    def audit(self) -> str:
        """The word for what sealed texts say: `unaudited`, `audited`, or `audit failed`."""
        return "unaudited" if self.audits is None else self.audits.word

    @property
    def verified(self) -> bool:
        """Whether the checker found nothing at fault."""
        return self.recomputed

    @property
    def is_own(self) -> bool:
        """Whether its submission is the project's: by its authors, or brought by a task."""
        authors = _authors().get(self.record.submission.name)
        return authors == _PROJECT if authors is not None else not self.record.submission.files

    @property
    def failed(self) -> list[str]:
        """Names of the checks inside the run that failed, and whether verification did or another record of
        the same content disagrees."""
        refuted = self.verification is not None and self.verification.outcome == "failed"
        told = {
            "verification": refuted,
            "another record of the same content disagrees": bool(self.disputed),
            "audit on a sealed text": self.audits is not None and not self.audits.holds,
        }
        return [*self.record.failed_checks, *(name for name, found in told.items() if found)]


@lru_cache(maxsize=1)
def _authors() -> dict[str, object]:
    """Authors of the submissions in this checkout, by name."""
    folders = baseline_folders().items()
    return {name: read_toml(folder / "submission.toml").get("authors") for name, folder in folders}


def strays(results: Path) -> list[Fault]:
    """Files below `results` that are neither a record, nor the values of one, nor a flow, levels or such."""
    return [
        Fault(path.relative_to(results).as_posix(), "is neither a record nor the values of one")
        for path in sorted(results.rglob("*"))
        if path.is_file()
        and path.suffix != ".json"
        and path.suffix not in JOINT
        and path not in (results / ORDER, results / WITHDRAWN)
        and not is_values(path)
        and RUNS not in path.relative_to(results).parts
    ]


def folders_of_tasks(results: Path) -> dict[str, list[Path]]:
    """The records' files below `results` by the id of the task that their place says; both sorted.

    Raises:
        RecordError: there is no such folder.
    """
    if not results.is_dir():
        raise RecordError(f"{results}: there is no such folder", fix="give the folder of the records")
    found: dict[str, list[Path]] = {}
    for path in sorted(results.rglob("*.json")):
        parts = path.relative_to(results).parts
        if RUNS in parts:
            continue
        found.setdefault("/".join(parts[:-3]), []).append(path)
    return found


def read_entries(results: Path, paths: Iterable[Path]) -> tuple[list[BoardRow], list[Fault]]:
    """Records at `paths`, with the current ones marked; and what could not be read, with the reason. Shells
    are left out (step 9).

    Raises:
        RecordError: the order in which they came is damaged, or the list of those that were withdrawn; see
            `record.order`, `record.withdrawn`.
    """
    entries, faults = [], []
    withdrawn = read_withdrawn(results)
    for path in paths:
        place = path.relative_to(results).as_posix()
        try:
            entry = _read(path, place)
        except RecordError as problem:
            faults.append(Fault(place, problem.what.replace(f"{results}/", "").removeprefix(f"{place}: ")))
            continue
        except RecursionError:
            faults.append(Fault(place, "its JSON is nested deeper than any record's"))
            continue
        if entry is None:
            continue
        verdict, told = _kept(read_verification, verification_path(results, entry.record.record_id))
        audits, more = _kept(read_audits, audit_path(results, entry.record))
        faults += told + more
        gone = withdrawn.get(entry.record.record_id)
        entries.append(replace(entry, verification=verdict, audits=audits, withdrawn=gone))
    return _with_disputes(list(_marked(entries, read_order(results)))), faults


def _kept(read: Callable[[Path], _Kept], path: Path) -> tuple[_Kept | None, list[Fault]]:
    """The content of a file beside the results; a record is none the worse for a damaged one."""
    try:
        return read(path) if path.is_file() else None, []
    except RecordError as problem:
        return None, [Fault(path.name, problem.what.replace(f"{path.parent}/", ""))]


def groups(entries: Iterable[BoardRow]) -> dict[Group, list[BoardRow]]:
    """Entries by what they can be compared with, in the order of task, version, tier and dtype."""
    found: dict[Group, list[BoardRow]] = {}
    for entry in entries:
        found.setdefault(entry.group, []).append(entry)
    return dict(sorted(found.items(), key=lambda item: (item[0].task, int(item[0].major), *item[0][2:])))


def _read(path: Path, place: str) -> BoardRow | None:
    """The entry of a record; None if it is a shell."""
    record = read_summary(path)
    if record.submission.is_shell:
        return None
    _check(record, place)
    beside = values_path(path)
    if not present(beside):
        raise RecordError(f"{place}: its values {beside.name} are not beside it")
    require_file(beside, error=RecordError)  # a pipe would be waited for
    try:
        with gzip.open(beside) as file:
            data = file.read(LARGEST_VALUES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{place}: its values cannot be unpacked ({error})") from error
    if len(data) > LARGEST_VALUES:
        raise RecordError(f"{place}: its values unpack to more than {LARGEST_VALUES:,} bytes")
    if sha256(data) != record.documents.sha256:
        raise RecordError(f"{place}: the values beside it are not those that it states: they were edited")
    return BoardRow(record, place, document_sums(data.decode(), place))


def _check(record: Record, place: str) -> None:
    """Raise RecordError unless a record can be shown and lies where its content says that it belongs."""
    folder, _, name = place.rpartition("/")
    if (fewer := part_of(record.tier)) is not None:
        raise RecordError(f"{place}: {fewer.note}")
    if record.task.id.startswith(f"{ADHOC}/"):
        raise RecordError(f"{place}: Its task is ad hoc, of whoever measured: no board takes this record.")
    if not _VERSION.fullmatch(record.task.version):
        raise RecordError(f"{place}: its task's version {record.task.version[:40]!r} is not of the form N-X")
    base = f"{record.task.id}/{record.task.version.partition('-')[0]}/"
    submission = folder.removeprefix(base)
    wanted = record.submission.name
    nested = record.reference is not None and submission.startswith(f"{wanted}-to-")
    if not (folder.startswith(base) and (submission == wanted or nested)) or "/" in submission:
        raise RecordError(
            f"{place}: stands in another folder than that of its task and submission, {base}{wanted}"[:600]
        )
    for part in (record.circuit_sizes, record.circuits.points):
        if (part or record.is_of_circuits) and HEADLINE not in part:
            raise RecordError(f"{place}: does not say which of its circuits is the headline")
    if name != f"{record.record_id}.json":
        raise RecordError(f"{place}: is not named by its record_id, {record.record_id}.json")


def document_sums(text: str, place: str) -> DocumentSums:
    """Sums over documents, from the CSV of a record whose hash has been verified.

    Only the columns and rows that count are read: parsing all values of thousands of records takes minutes.

    Raises:
        RecordError: it is not a table of per-document values.
    """
    try:
        return _sums(csv.reader(io.StringIO(text)))
    except (ValueError, LookupError, ZeroDivisionError, csv.Error) as error:
        raise RecordError(f"{place}: its values are no table of per-document values ({error})") from error


def _sums(reader: Iterator[list[str]]) -> DocumentSums:
    header = next(reader, [])
    split, document, rung, draw, tokens, kl = (
        header.index(name) for name in ("split", "document", "rung", "draw", "tokens", "kl")
    )
    wanted = {name: key for key, name in RUNGS.items()}
    counted: dict[str, int] = {}
    sums: dict[str, dict[str, float]] = {key: {} for key in RUNGS}
    draws: dict[str, set[str]] = {key: set() for key in RUNGS}
    for row in reader:
        if row[split] != _SPLIT:
            continue
        name = row[document]
        if row[rung] == "clean":
            counted[name] = counted.get(name, 0) + int(row[tokens])
        elif (key := wanted.get(row[rung])) is not None:
            sums[key][name] = sums[key].get(name, 0.0) + float(row[kl])
            draws[key].add(row[draw])
    documents = tuple(sorted(counted))
    found = DocumentSums(
        documents,
        np.array([counted[name] for name in documents], dtype=np.float64),
        {
            key: np.array([of[name] for name in documents], dtype=np.float64) / len(draws[key])
            for key, of in sums.items()
            if of
        },
    )
    for key, array in found.kl.items():
        if not np.isfinite(array).all():
            raise ValueError(f"KL of {RUNGS[key]} is not finite")
    return found


def _marked(entries: list[BoardRow], order: Order) -> Iterator[BoardRow]:
    """Mark entries that were replaced by others as not current (step 4)."""

    def subject(entry: BoardRow) -> tuple[str, ...]:
        reference = entry.record.reference
        return (*entry.group, entry.record.submission.name, "" if reference is None else reference.name)

    by_subject: dict[tuple[str, ...], list[BoardRow]] = {}
    entries = [replace(entry, arrival=order.key(entry.record)) for entry in entries]
    for entry in entries:
        if entry.withdrawn is None:
            by_subject.setdefault(subject(entry), []).append(entry)
    chosen: dict[tuple[str, ...], BoardRow] = {}
    for key, same in by_subject.items():
        last = max(same, key=lambda entry: entry.arrival).record.submission.hash
        chosen[key] = max(
            (entry for entry in same if entry.record.submission.hash == last),
            key=lambda entry: (len(entry.record.measurement.rungs), *entry.arrival),
        )
    for entry in entries:
        current = chosen.get(subject(entry)) is entry
        yield replace(entry, current=current)


def _with_disputes(entries: list[BoardRow]) -> list[BoardRow]:
    """Entries with the ids of those of the same content that say something else (step 7)."""
    by_content: dict[tuple[object, ...], list[BoardRow]] = {}
    for entry in entries:
        if entry.withdrawn is not None:
            continue
        by_content.setdefault((*entry.group, *content_of(entry.record)), []).append(entry)
    found: dict[str, list[str]] = {}
    for same in by_content.values():
        for entry, other in combinations(same, 2):
            if next(disagreements(entry.record, other.record), None) is not None:
                found.setdefault(entry.record.record_id, []).append(other.record.record_id)
                found.setdefault(other.record.record_id, []).append(entry.record.record_id)
    return [replace(entry, disputed=tuple(found.get(entry.record.record_id, ()))) for entry in entries]
