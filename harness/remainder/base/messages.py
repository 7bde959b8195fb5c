"""Exceptions of other libraries on one line, never cut where they name what is wrong."""

from __future__ import annotations

import operator
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remainder.errors import TaskError

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["comes_from_within", "first_fault", "message_of", "placed_fault", "whole_number"]

_MOST = 400  # longest message that is passed on, in letters


def message_of(problem: BaseException, most: int = _MOST) -> str:
    """The whole message of an exception on one line; its type, if it has none.

    The first line often says only that something failed (`Error(s) in loading state_dict for …:`), and the
    next ones say what. A message that is too long is cut in the middle, since its end may say what to do.
    """
    words = str(problem).split()
    if not words:
        return type(problem).__name__
    if isinstance(problem, KeyError):
        return f"there is no {' '.join(words)}"
    text = " ".join(words)
    if len(text) <= most:
        return text
    head = most * 3 // 4
    return f"{text[:head].rstrip()} … {text[head - most :].lstrip()}"


def first_fault(problem: ValidationError) -> str:
    """The first error that pydantic reports, without the prefix that it puts before our own messages."""
    return problem.errors()[0]["msg"].removeprefix("Value error, ")


def placed_fault(problem: ValidationError, whole: str = "the file") -> str:
    """`first_fault` after the name of its field, or after `whole` if it belongs to none."""
    place = ".".join(map(str, problem.errors()[0]["loc"])) or whole
    return f"{place}: {first_fault(problem)}"


def comes_from_within(problem: BaseException, package: str) -> bool:
    """Whether an exception that passed through another package's code was raised in ours, below it.

    Our hooks run inside passes of the other library. An exception raised by such a hook is our own error and
    must not be reported as the library's.

    Args:
        problem: the exception as it was caught.
        package: name of the other library.
    """
    ours, theirs = Path(__file__).parent.parent, f"/{package}/"
    passed = False
    for frame in traceback.extract_tb(problem.__traceback__):
        if theirs in Path(frame.filename).as_posix():
            passed = True
        elif passed and Path(frame.filename).is_relative_to(ours):
            return True
    return False


def whole_number(name: str, value: Any, least: int) -> int:
    """A setting that is a whole number.

    Raises:
        TaskError: it is another thing, or smaller than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise TaskError(f"{name} is {value!r}", fix=f"give a whole number of at least {least}")
    return number
