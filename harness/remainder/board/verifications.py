"""Verdicts on records, shown and kept.

`leaderboard/verifications/<record_id>.json` is written here alone, never by hand; the same record and the
same version of this package give the same bytes. Its fields are those of `Verification`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from remainder._version import __version__
from remainder.base.files import SETTINGS, require_file, require_folder
from remainder.base.messages import message_of
from remainder.base.wrapping import fill
from remainder.board.shelf import archived_protocol
from remainder.board.verify import CHECKS, FIRST_CHECKS, Verdict
from remainder.errors import RecordError
from remainder.record.json import canonical_json, write_atomically
from remainder.record.number import FrozenModel, Real, Sha256
from remainder.report.layout import WIDTH

__all__ = [
    "FORMATS",
    "RemeasuredDocuments",
    "Verification",
    "read_verification",
    "render_verdicts",
    "require_place",
    "verification_path",
    "write_verification",
]

FORMATS = ("table", "json")

_FEW = 3  # records whose notes are shown without asking


class RemeasuredDocuments(FrozenModel):
    """Documents of a record that were measured again, and how far they came out."""

    documents: tuple[str, ...]
    """Ids of evaluation documents."""
    chosen_by: str
    """The seed of the choice: a commit, and a word of the maintainers."""
    largest_deviation: Real
    """Largest deviation of a loss or KL of any window, nats per scored token."""
    tolerance: Real
    """Nats per scored token, on top of `relative` of the KL."""
    relative: Real
    """Share of the recorded KL by which it may deviate."""
    device: str
    machine: str
    """System, architecture and processor; no name of a host."""
    threads: int
    batch_size: int
    """Windows in one forward pass; another number than the record's."""
    afresh: bool
    """Whether a fresh process with an empty cache measured, as `publish.afresh` says."""
    passed: bool


class Verification(FrozenModel):
    """The checks of a record, the version that made them, and the outcome."""

    schema_version: Literal[1, 2]
    """2 since documents that were measured again name machine, threads and batch size."""
    record_id: Sha256
    result_id: Sha256
    task: str
    submission: str
    verifier: str
    """Version of this package."""
    checked: tuple[str, ...]
    """Names of the checks; see `board.verify`."""
    outcome: Literal["passed", "failed"]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    """Sentences on what could not be checked, or is allowed and worth knowing."""
    remeasured: RemeasuredDocuments | None = None


def verification_path(root: Path, record_id: str) -> Path:
    """The path of the verification of a record in the results `root`: in a folder beside them."""
    return root.absolute().parent / "verifications" / f"{record_id}.json"


def read_verification(path: Path) -> Verification:
    """A verification that was kept.

    Raises:
        RecordError: if it is missing or not one.
    """
    require_file(path, most=SETTINGS, error=RecordError)
    try:
        return Verification.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise RecordError(
            f"{path}: is no verification ({message_of(problem)})",
            fix="delete it, and write it with `remainder verify`",
        ) from problem


def write_verification(verdict: Verdict, remeasured: RemeasuredDocuments | None = None) -> Path:
    """Keep a verdict; gives its file.

    What was measured again before is kept, unless it is measured again now.

    Raises:
        RecordError: if the record could not be read, or does not lie in a folder of results.
    """
    record, root = verdict.record, verdict.root
    if record is None:
        raise RecordError(
            f"{verdict.path}: cannot be read, so there is no id to keep a verdict under",
            fix="; ".join(verdict.faults) or None,
        )
    require_place(verdict)
    assert root is not None
    path = verification_path(root, record.record_id)
    if remeasured is None and path.is_file():
        remeasured = read_verification(path).remeasured
    passed = verdict.passed and (remeasured is None or remeasured.passed)
    content = Verification(
        schema_version=2,
        record_id=record.record_id,
        result_id=record.result_id,
        task=record.task.id,
        submission=record.submission.name,
        verifier=__version__,
        checked=(*FIRST_CHECKS, *CHECKS),
        outcome="passed" if passed else "failed",
        faults=verdict.faults,
        notes=verdict.notes,
        remeasured=remeasured,
    )
    text = canonical_json(content.model_dump(mode="json"), indent=1) + "\n"
    write_atomically(path, text.encode())
    return path


def require_place(verdict: Verdict) -> None:
    """Raise RecordError if a record that could be read lies where no verdict can be kept beside it."""
    if verdict.record is None:  # it has no id to keep a verdict under
        return
    if verdict.root is None:
        raise RecordError(
            f"{verdict.path}: does not lie in a folder of results, beside which verdicts are kept",
            fix="put it where `remainder run` does, <task>/<N>/<submission>/<record_id>.json, or leave out "
            "--write",
        )
    if archived_protocol(verdict.root) is not None:
        raise RecordError(
            f"{verdict.path}: lies in an archive, whose verdicts are kept as they were",
            fix="leave out --write",
        )
    require_folder(verification_path(verdict.root, "").parent, "--write", RecordError)


def render_verdicts(verdicts: Sequence[Verdict], format: str = "table") -> str:
    """Every fault under the file that it was found in, and how many passed; or all of it as JSON."""
    if format == "json":
        content = [
            {
                "path": verdict.path.as_posix(),
                "record_id": None if verdict.record is None else verdict.record.record_id,
                "passed": verdict.passed,
                "recomputed": verdict.recomputed,
                "faults": verdict.faults,
                "notes": verdict.notes,
            }
            for verdict in verdicts
        ]
        return json.dumps(content, indent=1, ensure_ascii=False)
    lines = []
    for verdict in verdicts:
        message_of = [("fault", fault) for fault in verdict.faults]
        if len(verdicts) <= _FEW:
            message_of += [("note", note) for note in verdict.notes]
        if message_of:
            lines.append(verdict.path.as_posix())
        for kind, text in message_of:
            start = f"  {kind}: "
            lines.append(fill(start + text, WIDTH, hanging=" " * len(start)))
    failed = sum(not verdict.passed for verdict in verdicts)
    plural = "" if len(verdicts) == 1 else "s"
    lines.append(f"{len(verdicts)} file{plural} verified: {len(verdicts) - failed} passed, {failed} at fault")
    if by_hash := sum(verdict.record is not None and not verdict.recomputed for verdict in verdicts):
        lines.append(f"{by_hash} of them of a protocol that is over: verified by hash, not recomputed")
    notes = Counter(note for verdict in verdicts for note in verdict.notes)
    if notes and len(verdicts) > _FEW:
        lines += [
            fill(f"note on {number} of them: {note}", WIDTH, hanging="  ")
            for note, number in notes.most_common(_FEW)
        ]
        if len(notes) > _FEW:
            lines.append(f"{len(notes) - _FEW} other notes: see --format json")
    return "\n".join(lines)
