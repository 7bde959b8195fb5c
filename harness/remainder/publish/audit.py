"""Score the submission of a record on a sealed text, which nobody can have memorised.

1. The file is one whose SHA-256 `leaderboard/audit.toml` holds; it is sealed still, has uses left, and is for
   the tokenizer of the record's model.
2. Measure the submission as the record did – the same rungs, the same calibration and fits –, with the sealed
   documents in place of the evaluation split.
3. The place holds if the efficiency at the record's coded point is no worse there than on the public text,
   beyond the two intervals joined, and the share of variance that is left is not larger beyond the band of
   `record.memorised`. Where a record has no efficiency the second alone is asked; where neither can be
   compared, there is no verdict.
4. The verdict says that, and nothing of the text. It is on the submission in this task, whichever record of
   it was scored (`board.audits`).

A sealed file is JSON: `{"word": …, "tokenizer": …, "documents": [{"id": …, "text": …}]}`; its random word
keeps anybody from trying guesses on the hash. `seal` makes one.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from remainder._version import __version__
from remainder.base.cache import Progress, sha256_file
from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.board.audits import (
    AuditVerdict,
    SealedText,
    audit_path,
    keep_verdict,
    read_audits,
    sealed_texts,
    uses_of,
)
from remainder.errors import RecordError, TaskError
from remainder.loading.fetch import tokenize, tokenizer_key
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import LanguageTask
from remainder.publish.remeasure import open_recorded, plan_of, subject_of
from remainder.record.json import canonical_json
from remainder.record.memorised import compared, unexplained_by
from remainder.record.number import FrozenModel, Number
from remainder.record.schema import Record
from remainder.record.store import read_record
from remainder.report.text import format_interval
from remainder.task.text import SealedCorpus

__all__ = [
    "LARGEST",
    "Audited",
    "SealedDocument",
    "SealedFile",
    "audit",
    "read_sealed",
    "render_audit",
    "seal",
]

LARGEST = 50_000_000
"""Bytes of a sealed file that are read."""


class SealedDocument(FrozenModel):
    """A document of a sealed text."""

    id: str
    text: str


class SealedFile(FrozenModel):
    """The content of a sealed file."""

    word: str = Field(min_length=16)
    tokenizer: str
    documents: tuple[SealedDocument, ...] = Field(min_length=2)


class Audited(NamedTuple):
    """A verdict, and where it is kept."""

    record: Record
    verdict: AuditVerdict
    path: Path | None
    """Absent if it was not asked to be kept."""


def seal(documents: Sequence[tuple[str, str]], loaded: LoadedTask) -> bytes:
    """The sealed file of some documents (id, text), for the tokenizer of a task's model."""
    content = SealedFile(
        word=secrets.token_hex(16),
        tokenizer=tokenizer_key(loaded.task.model),
        documents=tuple(SealedDocument(id=name, text=text) for name, text in documents),
    )
    return canonical_json(content.model_dump(mode="json")).encode()


def read_sealed(file: Path, root: Path, loaded: LoadedTask) -> tuple[SealedText, SealedFile]:
    """A sealed file, and its entry among the hashes that were published (step 1).

    Args:
        file: the sealed file.
        root: the folder of results, beside which the hashes stand.
        loaded: the task that it is to be used for.

    Raises:
        RecordError: if it is none of these texts, is used up or published, or is for another tokenizer.
        TaskError: if the task has no text.
    """
    if not isinstance(loaded, LanguageTask):
        raise TaskError(f"{loaded.task.id} has no text", fix="audit records of tasks with a text at a site")
    require_file(file, most=LARGEST, error=RecordError)
    digest = sha256_file(file)
    entry = next((text for text in sealed_texts(root) if text.sha256 == digest), None)
    if entry is None:
        raise RecordError(
            f"{file} hashes to {digest[:16]}…, which is no text of leaderboard/audit.toml",
            fix="publish its hash there before it is used",
        )
    if entry.state != "sealed":
        raise RecordError(f"the text {entry.name} is published", fix="audit with one that is sealed still")
    uses = uses_of(root, digest)
    if uses >= entry.limit:
        raise RecordError(
            f"the text {entry.name} was used {uses} times, of {entry.limit}",
            fix='publish it (state = "published" in leaderboard/audit.toml), and seal another one',
        )
    here = tokenizer_key(loaded.task.model)
    if entry.tokenizer != here:
        raise RecordError(
            f"the text {entry.name} is for another tokenizer ({entry.tokenizer[:16]}…); that of "
            f"{loaded.task.model.name} is {here[:16]}…",
            fix="audit with a text that was sealed for this model",
        )
    try:
        content = SealedFile.model_validate_json(file.read_bytes())
    except ValidationError as problem:
        raise RecordError(f"{file}: {message_of(problem)}", fix="seal its documents anew") from problem
    if content.tokenizer != entry.tokenizer:
        raise RecordError(
            f"{file} says that it is for the tokenizer {content.tokenizer[:16]}…, leaderboard/audit.toml "
            f"{entry.tokenizer[:16]}…",
            fix="correct leaderboard/audit.toml",
        )
    return entry, content


def audit(
    path: Path,
    file: Path,
    root: Path,
    *,
    submission: str | Path | None = None,
    trust_code: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> Audited:
    """Score the submission of the record at `path` on the sealed text in `file`.

    Args:
        path: of the record.
        file: the sealed text.
        root: the folder of results that the record belongs to.
        submission: where the interpretation lies; default: found by its name.
        trust_code: whether its own code may be executed, if it brings any: it is given activations of the
            text, and neither its words nor its tokens.
        keep: whether the verdict is written beside the results, which counts as a use of the text.

    Raises:
        RecordError: as `read_sealed`, or the submission was audited with this text before, or task or
            submission are others here, or nothing of the two texts can be compared, or a finer interpretation
            stands for the model.
        RemainderError: if the interpretation cannot be had or measured.
    """
    record = read_record(path).record
    if record.reference is not None:
        raise RecordError(
            f"in record {record.record_id[:12]} a finer interpretation stands for the model",
            fix="audit a record of the submission by itself: only that has a place",
        )
    loaded = open_recorded(record, progress)
    entry, content = read_sealed(file, root, loaded)
    place = audit_path(root, record)
    if place.is_file() and any(each.text == entry.sha256 for each in read_audits(place).verdicts):
        raise RecordError(
            f"{record.submission.name} was audited with the text {entry.name} before",
            fix="audit it with another one: the same text tells nothing new",
        )
    subject = subject_of(record.submission, submission, loaded, trust_code=trust_code)
    assert isinstance(loaded, LanguageTask)
    sealed = _with(loaded, content)
    found, _ = sealed.measure(subject, plan_of(record, loaded), progress=progress)
    verdict = _verdict(record, found, entry, uses_of(root, entry.sha256) + 1)
    if not keep:
        return Audited(record, verdict, None)
    return Audited(record, verdict, keep_verdict(root, verdict, record))


def _with(loaded: LanguageTask, content: SealedFile) -> LanguageTask:
    """The task with the documents of a sealed file in place of its evaluation split."""
    tokenizer = loaded.given.tokenizer
    documents = [(each.id, tokenize(tokenizer, each.text)) for each in content.documents]
    return replace(loaded, corpus=SealedCorpus.of(loaded.corpus, documents))


def _verdict(record: Record, found: Record, entry: SealedText, use: int) -> AuditVerdict:
    """Step 3."""
    public, audited = (_efficiency(each) for each in (record, found))
    left_public, left_audited = (
        unexplained_by(each.metrics.reconstruction.explained_variance) for each in (record, found)
    )
    faults = []
    joint = math.inf
    if public.value is not None and audited.value is not None:
        apart = audited.value - public.value
        joint = math.hypot(*(_half_width(each) for each in (public, audited)))
        if apart < -joint:
            faults.append(
                f"its efficiency is {audited.value:.3g} on the sealed text and {public.value:.3g} on the "
                f"public one, {-apart:.2g} less, where chance accounts for {joint:.2g}"
            )
    ratio = compared(left_audited, left_public)
    if ratio is None and math.isinf(joint):
        raise RecordError(
            f"nothing of record {record.record_id[:12]} can be compared on the text {entry.name}: neither "
            "efficiency nor unexplained variance has an interval on both texts",
            fix="audit a record of a larger tier, or with a sealed text of more documents",
        )
    if ratio is not None and ratio.above:
        faults.append(
            f"it leaves {ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}] times as much of the variance "
            "unexplained on the sealed text as on the public one: it may have memorised that"
        )
    reason = public.reason if public.value is None else audited.reason
    stated = public.value is not None and audited.value is not None
    return AuditVerdict(
        text=entry.sha256,
        use=use,
        documents=found.documents.documents,
        quantity="efficiency" if stated else f"none: {reason}",
        public=public,
        audited=audited,
        unexplained_public=left_public,
        unexplained_audited=left_audited,
        faults=tuple(faults),
        verifier=__version__,
    )


def _efficiency(record: Record) -> Number:
    """Efficiency at the coded point; null with the reason where a record has none."""
    coding = record.metrics.coding
    point = None if coding is None else coding.points.get("coded")
    return Number.null("its ladder is of exact codes") if point is None else point.efficiency


def _half_width(number: Number) -> float:
    """Half of the 95 % interval; infinite without one, so that nothing is at fault by chance."""
    if number.low is None or number.high is None:
        return math.inf
    return (number.high - number.low) / 2


def render_audit(found: Audited) -> str:
    """Lines of text on how a submission did on a sealed text."""
    record, verdict = found.record, found.verdict
    lines = [
        f"{record.submission.name} on {record.task.id}: audited",
        f"  the text {verdict.text[:12]}…, use {verdict.use}, {verdict.documents} documents",
        f"  efficiency: {_told(verdict.public)} public, {_told(verdict.audited)} sealed",
        f"  unexplained variance: {_told(verdict.unexplained_public)} public, "
        f"{_told(verdict.unexplained_audited)} sealed",
        *(f"  fault: {fault}" for fault in verdict.faults),
        "  its place holds" if verdict.holds else "  its place does NOT hold",
    ]
    if found.path is None:
        lines.append("  not kept: with --write it is, and counts as a use of the text")
    return "\n".join(lines)


def _told(number: Number) -> str:
    if number.value is None:
        return f"none ({number.reason})"
    interval = format_interval(number)
    return f"{number.value:.4g}" + ("" if interval is None else f" {interval}")
