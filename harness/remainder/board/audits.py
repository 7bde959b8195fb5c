"""Sealed texts, and what came of scoring records on them.

Everything in a public text can be memorised, and no test on it alone could tell. So the maintainers keep
texts that nobody else has: `leaderboard/audit.toml` holds the SHA-256 of each before it is used, and
`remainder audit` scores a record's submission on it.

1. A sealed text is used at most `limit` times, since each verdict tells a little about it; then it is
   published (`state = "published"`), and another takes its place.
2. A verdict says how the submission did there, and nothing of the text. It is on a submission's content and
   a task, whichever record stands for them: `leaderboard/audits/<task>-<submission>.json`, by their hashes.
   So measuring again, or another name, takes no verdict away.
3. A place holds if it holds by every verdict: no later one makes up for a failure. The uses of a text are
   those that all verdicts name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from remainder.base.files import SETTINGS, read_toml, require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.json import canonical_json, write_atomically
from remainder.record.number import FrozenModel, Number, Sha256
from remainder.record.schema import Record

__all__ = [
    "REGISTER",
    "AuditVerdict",
    "Audits",
    "SealedText",
    "audit_path",
    "keep_verdict",
    "read_audits",
    "sealed_texts",
    "uses_of",
]

REGISTER = "audit.toml"
"""Name of the file with the hashes of sealed texts, beside the folder of results."""


class SealedText(FrozenModel):
    """A text whose hash was published before it was used."""

    name: str
    sha256: Sha256
    """SHA-256 of the sealed file."""
    tokenizer: str
    """Key of the tokenizer that its documents are cut by; see `loading.fetch.tokenizer_key`."""
    committed: str
    """The day on which the hash was published, YYYY-MM-DD."""
    limit: int = Field(ge=1)
    """Number of times that it may be used."""
    state: Literal["sealed", "published"]


class AuditVerdict(FrozenModel):
    """The outcome of scoring a submission on a sealed text."""

    text: Sha256
    use: int
    """Number of this use of the text, from 1."""
    documents: int
    """Documents of the sealed text that were scored."""
    quantity: str
    """The quantity that is compared: a name of `report.quantities`, or the reason why there is none."""
    public: Number
    """The quantity on the record's own text."""
    audited: Number
    """The quantity on the sealed one."""
    unexplained_public: Number
    unexplained_audited: Number
    """Share of the variance that is left."""
    faults: tuple[str, ...]
    """Sentences on what does not hold; none if the place holds."""
    verifier: str
    """Version of this package."""

    @property
    def holds(self) -> bool:
        """Whether the record's place holds on the sealed text."""
        return not self.faults


class Audits(FrozenModel):
    """All verdicts on a submission in one task, in the order in which they were given."""

    schema_version: Literal[2]
    """2 since they are of a submission, and not of one record."""
    task: str
    task_hash: Sha256
    submission: str
    """Name of the submission when the first verdict was given."""
    submission_hash: Sha256
    verdicts: tuple[AuditVerdict, ...] = Field(min_length=1)

    @property
    def holds(self) -> bool:
        """Whether the place holds by every verdict."""
        return all(verdict.holds for verdict in self.verdicts)

    @property
    def word(self) -> Literal["audited", "audit failed"]:
        """The word that a board shows."""
        return "audited" if self.holds else "audit failed"


def audit_path(root: Path, record: Record) -> Path:
    """The path of the verdicts on a record's submission in its task, in a folder beside `root`."""
    return _folder(root) / _name(record.task.hash, record.submission.hash)


def read_audits(path: Path) -> Audits:
    """Verdicts that were kept.

    Raises:
        RecordError: if they are missing, none, or of another task or submission than the file's name says.
    """
    require_file(path, most=SETTINGS, error=RecordError)
    try:
        found = Audits.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise RecordError(
            f"{path}: holds no verdicts of an audit ({message_of(problem)})",
            fix="restore it from the repository's history; `remainder audit` alone writes it",
        ) from problem
    if (own := _name(found.task_hash, found.submission_hash)) != path.name:
        raise RecordError(
            f"{path}: is of another task or submission, whose file is {own}",
            fix="restore it from the repository's history",
        )
    return found


def sealed_texts(root: Path) -> list[SealedText]:
    """The sealed texts whose hashes stand beside the results `root`; none if there is no such file.

    Raises:
        RecordError: if a field of the file is wrong.
    """
    path = root.absolute().parent / REGISTER
    if not path.is_file():
        return []
    content = read_toml(path, error=RecordError)
    try:
        return [SealedText.model_validate(entry) for entry in content.get("text", [])]
    except ValidationError as problem:
        raise RecordError(
            f"{path}: {message_of(problem)}", fix="see the comment at the head of leaderboard/audit.toml"
        ) from problem


def uses_of(root: Path, text: str) -> int:
    """Number of uses of the text with the hash `text`, by the verdicts beside the results `root`."""
    found = [read_audits(path) for path in sorted(_folder(root).glob("*.json"))]
    return sum(verdict.text == text for audits in found for verdict in audits.verdicts)


def keep_verdict(root: Path, verdict: AuditVerdict, record: Record) -> Path:
    """Add a verdict to those on a record's submission in its task; gives their file."""
    path = audit_path(root, record)
    earlier = read_audits(path) if path.is_file() else None
    content = Audits(
        schema_version=2,
        task=record.task.id,
        task_hash=record.task.hash,
        submission=record.submission.name if earlier is None else earlier.submission,
        submission_hash=record.submission.hash,
        verdicts=(verdict,) if earlier is None else (*earlier.verdicts, verdict),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (canonical_json(content.model_dump(mode="json"), indent=1) + "\n").encode())
    return path


def _folder(root: Path) -> Path:
    return root.absolute().parent / "audits"


def _name(task: str, submission: str) -> str:
    """The name of the file of verdicts on a submission in a task, by their hashes."""
    return f"{task[:16]}-{submission}.json"
