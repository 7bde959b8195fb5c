"""Measure some documents of a record again, and compare: what no hash can tell.

A record whose values, summaries and hashes were changed in step agrees with itself; only the model can say
that it is wrong.

1. Task and submission, as they are here, must be those of the record, and the record's windows those of the
   task's tier. A shell is made again from its whole submission, by a flow or levels beside it.
2. Choose documents: those whose SHA-256 of `seed|nonce|record_id|document` is smallest. The seed is the
   commit under review and the nonce a word drawn afterwards, so that nobody knows the choice when a record
   is made.
3. Fit everything on the calibration split as the record did, on the CPU, in batches of another size than the
   record's; measure the chosen documents. `publish.afresh` does it in a fresh process with an empty cache.
4. Compare: `publish.comparison`.

Noise is keyed by document, so the same numbers must come out whatever else is measured. Of a task with
prompts all are measured again, since a few take as long. Couplings, tests of Gaussianity and the field's own
metrics are left out, and the notes say so.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from remainder.base.cache import Progress
from remainder.base.paths import project_root
from remainder.base.wrapping import fill
from remainder.board.tolerance import Tolerance, tolerance_of
from remainder.board.verifications import RemeasuredDocuments as Remeasurement
from remainder.errors import RecordError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import Remeasured
from remainder.publish.comparison import compare
from remainder.publish.shells import shell_of, shells_beside
from remainder.record.levels_file import LEVELS
from remainder.record.provenance import git_state, machine_name
from remainder.record.rungs import ALL, NULLS
from remainder.record.schema import Record, SubmissionInfo
from remainder.record.store import StoredRecord, read_record
from remainder.record.values import of_split
from remainder.report.layout import WIDTH
from remainder.submission.open import open_submission, submissions_for
from remainder.submission.submission import Entry
from remainder.task.spec import PROTOCOL

__all__ = [
    "DOCUMENTS",
    "Rerun",
    "choose_documents",
    "open_recorded",
    "plan_of",
    "render_rerun",
    "rerun",
    "subject_of",
]

DOCUMENTS = 4
"""Documents that are measured again if no other number is asked for."""

_DEVICE = "cpu"
_PROMPTS = 5  # at a time; no record has been measured so
_SHOWN = 12  # faults that are told one by one


@dataclass(frozen=True)
class Rerun:
    """The outcome of measuring documents of a record again."""

    record: Record
    documents: tuple[str, ...]
    seed: str
    nonce: str
    rows: int
    """Rows of the table of values that were compared."""
    largest: float
    """Largest deviation of a loss or KL, nats per scored token; not counting rows that are missing."""
    where: str
    """The place of the largest deviation."""
    tolerance: Tolerance
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    batch_size: int = 0
    """Windows in one forward pass."""
    threads: int = 0
    machine: str = ""
    """System, architecture and processor."""

    @property
    def passed(self) -> bool:
        """Whether everything came out as it was recorded."""
        return not self.faults

    def kept(self, *, afresh: bool) -> Remeasurement:
        """The part that a verification of the record keeps; `afresh` as that says."""
        return Remeasurement(
            documents=self.documents,
            chosen_by=f"{self.seed} {self.nonce}",
            largest_deviation=self.largest,
            tolerance=self.tolerance.row,
            relative=self.tolerance.relative,
            device=_DEVICE,
            machine=self.machine,
            threads=self.threads,
            batch_size=self.batch_size,
            afresh=afresh,
            passed=self.passed,
        )


def rerun(
    path: Path,
    *,
    documents: int = DOCUMENTS,
    seed: str | None = None,
    nonce: str | None = None,
    submission: str | Path | None = None,
    task: str | Path | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Rerun:
    """Measure some documents of the record at `path` again, as this module's text says.

    Args:
        documents: how many; all, if there are fewer.
        seed: a word that the choice is drawn from, such as the commit under review; default: the checkout's
            commit, or the empty word outside of one.
        nonce: another; default: drawn now.
        submission: where the interpretation lies, as `remainder run --with` takes it; default: what the task
            brings, or the baseline, of the record's name.
        task: the folder of its task; default: found by its id.
        trust_code: whether its own code may be executed, if it brings any.

    Raises:
        RecordError: if it cannot be read, or its task or submission is another one here.
        RemainderError: if the interpretation cannot be had or measured.
    """
    stored = read_record(path)
    record = stored.record
    if record.protocol != PROTOCOL:
        raise RecordError(
            f"{path}: is of protocol {record.protocol}, and this package measures by protocol {PROTOCOL}",
            fix="use the package version that the record names, or measure anew with `remainder run`",
        )
    if seed is None:
        state = git_state(project_root())
        seed = "" if state is None else state.commit
    nonce = secrets.token_hex(8) if nonce is None else nonce
    loaded = open_recorded(record, progress, task)
    measured = plan_of(record, loaded, of_levels=bool(LEVELS.beside(path)))
    shells = shells_beside(path) if record.submission.is_shell else None

    def again(stated: SubmissionInfo, given: str | Path | None) -> Entry:
        if shells is None or not stated.is_shell:
            return subject_of(stated, given, loaded, trust_code=trust_code)
        whole = subject_of(shells.submission, given, loaded, trust_code=trust_code)
        return shell_of(shells, stated, whole, loaded, measured, progress)

    subject = again(record.submission, submission)
    chosen = choose_documents(stored, documents, seed, nonce)
    # Levels that are shells stand in shells of the same submission.
    same = submission if shells is not None else None
    reference = None if record.reference is None else again(record.reference, same)
    found = loaded.remeasure(subject, measured, chosen, reference=reference, progress=progress)
    return replace(
        _compared(stored, found, measured.tier, seed, nonce),
        batch_size=loaded.batch_size,
        threads=torch.get_num_threads(),
        machine=machine_name(),
    )


def _compared(stored: StoredRecord, found: Remeasured, tier: str, seed: str, nonce: str) -> Rerun:
    """Step 4."""
    record = stored.record
    tolerance = tolerance_of(record, same_device=record.measurement.device == _DEVICE)
    compared = compare(stored, found, tier, tolerance)
    return Rerun(
        record=record,
        documents=found.documents,
        seed=seed,
        nonce=nonce,
        rows=compared.rows,
        largest=compared.largest,
        where=compared.where,
        tolerance=tolerance,
        faults=compared.faults,
        notes=tuple(_notes(record)),
    )


def choose_documents(stored: StoredRecord, count: int, seed: str, nonce: str) -> tuple[str, ...]:
    """`count` of a record's evaluation documents, drawn by `seed` and `nonce`; sorted."""

    def key(document: str) -> bytes:
        text = f"{seed}|{nonce}|{stored.record.record_id}|{document}"
        return hashlib.sha256(text.encode()).digest()

    names = sorted(of_split(stored.values)["document"].unique(), key=key)
    return tuple(sorted(names[:count]))


def render_rerun(found: Rerun) -> str:
    """Lines of text on what was measured again and how it came out."""
    record, faults = found.record, found.faults
    all_of_them = len(found.documents) == record.documents.documents
    names = "all" if all_of_them else ", ".join(found.documents)
    lines = [
        f"{record.submission.name} on {record.task.id}: measured again",
        f"  {len(found.documents)} documents, {found.rows} rows of values",
        fill(f"  documents: {names}", WIDTH, hanging="    "),
        fill(f"  chosen by: seed {found.seed or '(none)'}, nonce {found.nonce}", WIDTH, hanging="    "),
        f"  largest deviation: {found.largest:.2g} nats per token",
        f"    at {found.where or 'nothing compared'}",
        f"  allowed: {found.tolerance.row:.2g} a row, {found.tolerance.mean:.2g} in the mean of a rung,",
        f"    and {found.tolerance.relative:g} of the KL ({record.measurement.dtype}, recorded on "
        f"{record.measurement.device}, measured on {_DEVICE})",
        fill(
            f"  with {found.threads} thread(s), {found.batch_size} at a time, on {found.machine}",
            WIDTH,
            hanging="    ",
        ),
        *(fill(f"  note: {note}", WIDTH, hanging=" " * 8) for note in found.notes),
        *(fill(f"  fault: {fault}", WIDTH, hanging=" " * 9) for fault in faults[:_SHOWN]),
    ]
    if len(faults) > _SHOWN:
        lines.append(f"  and {len(faults) - _SHOWN} faults more")
    lines.append("  as recorded" if found.passed else "  NOT as recorded")
    return "\n".join(lines)


def open_recorded(record: Record, progress: Progress | None, task: str | Path | None = None) -> LoadedTask:
    """The record's task, if it is the same here; `task` is its folder, if its id does not find it."""
    batch_size = _other_batch(record.measurement.batch_size)
    loaded = open_task(task or record.task.id, device=_DEVICE, batch_size=batch_size, progress=progress)
    if loaded.task.hash != record.task.hash:
        raise RecordError(
            f"record {record.record_id[:12]} is of {record.task.id} {record.task.version} (hash "
            f"{record.task.hash[:12]}…); here it is {loaded.task.version} (hash {loaded.task.hash[:12]}…)",
            fix="use the version of this package that the record was made with",
        )
    for what, stated, here in (
        ("model", record.model.sha256, loaded.model.sha256),
        ("corpus", record.corpus.sha256, loaded.data.sha256),
    ):
        if stated != here:
            raise RecordError(
                f"record {record.record_id[:12]}: {what} {stated[:12]}…; here it is {here[:12]}…",
                fix="a record is measured on the model and text that its task pins",
            )
    return loaded


def _other_batch(recorded: int | None) -> int:
    """Another batch size than a record was made with, and nearly as quick; records of prompts state none."""
    if recorded is None:
        return _PROMPTS
    return recorded // 2 + 1 if recorded > 2 else recorded + 1


def subject_of(
    stated: SubmissionInfo, given: str | Path | None, loaded: LoadedTask, *, trust_code: bool = False
) -> Entry:
    """The interpretation that a record names, if it is the same here."""
    found = (
        open_submission(given, trust_code=trust_code)
        if given is not None
        else submissions_for(loaded, [stated.name], trust_code=trust_code)[0]
    )
    if found.hash != stated.hash:
        raise RecordError(
            f"the record is of a submission {stated.name} with hash {stated.hash[:12]}…; "
            f"{given or found.name} here has {found.hash[:12]}…",
            fix="give the folder with the very files that were measured, by --submission",
        )
    return found


def plan_of(record: Record, loaded: LoadedTask, *, of_levels: bool = False) -> Plan:
    """The plan that a record was measured by, without the field's own metrics.

    Args:
        of_levels: whether it is one of levels over each other.
    """
    stated = record.measurement
    rungs = (ALL,) if stated.whole else stated.rungs
    found = plan(
        loaded.task, record.tier, rungs=rungs, pairs=stated.pairs, dtype=stated.dtype, device=_DEVICE
    )
    # Which nulls a tier has is for new records to say: this one has those whose values it holds.
    return found._replace(
        compat=False,
        nulls=tuple(name for name in NULLS if name in record.metrics.rungs),
        annealed_pairs=stated.annealed_draws // 2,
        # Plans of flows and levels describe no lengths, though they have the rungs with which others do.
        is_lean=(record.submission.is_shell or of_levels)
        and found.describes
        and record.calibration.description is None,
    )


def _notes(record: Record) -> Iterator[str]:
    left_out = {
        "couplings": record.metrics.couplings,
        "tests of Gaussianity": record.metrics.gaussianity,
        "the field's own metrics": record.compat,
    }
    names = [name for name, item in left_out.items() if item is not None]
    if names:
        yield f"not measured again: {', '.join(names)}"
    if record.measurement.device != _DEVICE:
        yield f"recorded on {record.measurement.device}: other tolerances than on one kind of device"
