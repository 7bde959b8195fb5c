"""Checks on what a record is going to say, made before anything is measured.

Names and words that no record may hold, or that the checker would refuse, are known when everything is read.
So they are refused then, and not after an hour of measuring. The task's own file is checked when it is loaded
(`task.spec.Task`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from remainder.base.paths import machine_paths, texts
from remainder.errors import InterpretationError
from remainder.record.schema import SubmissionInfo

__all__ = ["check_words", "require_recordable"]

_LONGEST = 2000  # characters of any text
_LONGEST_NAME = 200


def check_words(content: Any) -> Iterator[str]:
    """Text of a record (as nested dicts and lists) that could not be shown as it is."""
    for full, text, is_name in texts(content):
        place = full[:_LONGEST_NAME]
        if not text.isprintable():  # control characters, and marks that turn the direction of text
            yield f"{place or 'a name'}: {text[:40]!a} holds characters that are not printed"
        most = _LONGEST_NAME if is_name else _LONGEST
        if len(text) > most:
            yield f"{place or 'a name'}: {len(text)} characters, at most {most} are shown"


def require_recordable(submissions: Sequence[SubmissionInfo], warnings: Sequence[str]) -> None:
    """Raise InterpretationError if a record of these could not be sealed, or would be malformed.

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
