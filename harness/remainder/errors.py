"""Errors that a person can act on.

Every error that a user can cause is a `RemainderError`: one message that names the offender, says what
was found, what was expected and how to mend it. The command line prints it without a traceback
and leaves with the exit code of its class.
"""

from __future__ import annotations

__all__ = [
    "AssetError",
    "InterpretationError",
    "MeasurementError",
    "RecordError",
    "RemainderError",
    "TaskError",
    "printable",
]


def printable(text: str) -> str:
    """`text` made safe for a terminal: names in files come from anybody and may hold escape codes."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


class RemainderError(Exception):
    """Base of all errors shown to users.

    Args:
        what: one or two sentences that name what is wrong, what was found and what was expected.
        fix: an imperative sentence that says what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        self.what = what = printable(what)
        self.fix = fix = None if fix is None else printable(fix)
        super().__init__(what if fix is None else f"{what}\n  To mend it: {fix}")


class TaskError(RemainderError):
    """A task is unknown, malformed, or does not fit the model that it names."""

    exit_code = 3


class AssetError(RemainderError):
    """A model, corpus or weight file cannot be fetched, written, or is not the one that was pinned."""

    exit_code = 4


class InterpretationError(RemainderError):
    """A submission or interpretation is malformed, has the wrong shape, or breaks the conformance rules."""

    exit_code = 5


class MeasurementError(RemainderError):
    """A check inside a run failed: a number that would be stored is not to be trusted."""

    exit_code = 6


class RecordError(RemainderError):
    """A record is unreadable, of another schema, or its hash does not match its content."""

    exit_code = 7
