"""What a record is going to say of the things that are measured, looked at before they are.

Names and words that no record may hold, or that the checker would refuse, are known when everything is read.
So they are refused then, and not when an hour of measuring is over. What a task's own file says is looked at
when it is loaded (`task.Task`).
"""

from __future__ import annotations

from collections.abc import Sequence

from remainder.board.consistency import check_words
from remainder.errors import InterpretationError
from remainder.paths import machine_paths
from remainder.schema import SubmissionInfo

__all__ = ["require_recordable"]


def require_recordable(submissions: Sequence[SubmissionInfo], warnings: Sequence[str]) -> None:
    """Raise InterpretationError if a record of these could not be sealed, or would be at fault.

    Args:
        submissions: what is scored, and what stands in for the model, if anything does.
        warnings: of the readers; they become those of the record.
    """
    for stated in submissions:
        content = {"name": stated.name, "kind": stated.kind, "files": stated.files}
        for place, text in machine_paths(content):
            raise InterpretationError(
                f"submission {stated.name}: {place}: {text!r} would stand in a public record, where it reads "
                "like a path of this machine",
                fix="rename the file or folder, without blanks or signs before a slash",
            )
        for problem in check_words(content):
            raise InterpretationError(
                f"submission {stated.name}: {problem}", fix="rename it: names are plain text of 200 letters"
            )
    for _, text in machine_paths(list(warnings)):
        raise InterpretationError(
            f"a warning of the reader holds a path of this machine: {text}",
            fix="move the files into one folder, and give that",
        )
