"""Shells of one submission, as a flow or levels state them, and whether a record is of one of them."""

from __future__ import annotations

from remainder.errors import RecordError
from remainder.record.number import FrozenModel
from remainder.record.schema import Record, SubmissionInfo
from remainder.record.shell import shell_hash, shell_name, shell_note

__all__ = ["ShellsOf", "require_shell"]


class ShellsOf(FrozenModel):
    """A submission with ever more of its sources kept."""

    submission: SubmissionInfo
    """The whole one."""
    order: str
    """The order in which sources are kept, with all that it depends on besides the submission."""
    sources: int
    """How many there are to keep."""
    ties: int
    """Sources whose place in the order their index decided."""
    keeps: tuple[int, ...]
    """How many each shell keeps, ascending."""

    def keep_of(self, stated: SubmissionInfo) -> int:
        """How many sources a submission keeps, which is one of the shells.

        Raises:
            RecordError: it is none of them.
        """
        for keep in self.keeps:
            if shell_hash(self.submission.hash, self.order, keep) == stated.hash:
                return keep
        raise RecordError(f"{stated.name} is no shell of {self.submission.name} in the order {self.order}")


def require_shell(shells: ShellsOf, keep: int, record: Record) -> None:
    """Check that a record is of the shell that keeps so many.

    Raises:
        RecordError: it is not, or states other sources.
    """
    stated, whole = record.submission, shells.submission
    shell = shell_hash(whole.hash, shells.order, keep), shell_name(whole.name, shells.order, keep)
    if (stated.hash, stated.name) != shell or not stated.is_shell:
        raise RecordError(
            f"the record of the shell that keeps {keep} is of {stated.name} (hash {stated.hash[:12]}…), and "
            f"not of {whole.name} with {keep} sources in the order {shells.order}"
        )
    same = {"kind": (stated.kind, whole.kind), "files": (stated.files, whole.files)}
    if other := [name for name, (found, expected) in same.items() if found != expected]:
        raise RecordError(f"the shell that keeps {keep} is of another {', '.join(other)}")
    if shell_note(keep, shells.order, shells.sources, shells.ties) not in record.warnings:
        raise RecordError(
            f"{shells.sources} sources, of which {shells.ties} tie: the shell that keeps {keep} states others"
        )
    if keep > shells.sources:
        raise RecordError(f"a shell keeps {keep} of {shells.sources} sources")
