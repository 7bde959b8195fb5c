"""Warnings where a file says that text was given to the model otherwise in training than a task gives it.

It changes nothing that is computed, so it is told and not refused: an SAE that never saw a window's later
positions, or no token to begin with, is scored where it was not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remainder.base.files import brief
from remainder.errors import InterpretationError
from remainder.formats.fields import AGAIN, file_name
from remainder.task.spec import Task

__all__ = ["context_warnings"]


def context_warnings(
    fields: Mapping[str, Any],
    task: Task,
    where: Path | str,
    *,
    length: str = "context_size",
    first: str = "prepend_bos",
    within: str = "",
) -> tuple[str, ...]:
    """Differences from the task's windows, in whole sentences; none for a task that has no text.

    Args:
        fields: of the file, of which `length`, `first` and `seqpos_slice` are looked at.
        task: that it is read for.
        where: the file, for messages.
        length: the name of the field with the number of tokens of a context.
        first: the name of the field that says whether a context begins with a token of its own.
        within: the object that holds the fields, with a dot behind it.

    Raises:
        InterpretationError: if one of them is of another type than its library writes.
    """
    size = _size(fields.get(length), f"{within}{length}", where)
    first_token = _flag(fields.get(first), f"{within}{first}", where)
    kept = _slice(fields.get("seqpos_slice"), f"{within}seqpos_slice", where)
    if task.corpus is None:
        return ()
    window, notes, file = task.corpus.window, [], file_name(where)
    if size is not None and size != window:
        seen = "later positions than it saw" if size < window else "only the first positions of what it saw"
        notes.append(
            f"{file}: it was trained on contexts of {size} tokens ({within}{length}); the task's windows "
            f"have {window}, so that it is scored at {seen}."
        )
    if kept is not None:
        notes.append(
            f"{file}: it was trained at some positions of a context only ({within}seqpos_slice is "
            f"{brief(list(kept))}); the task scores it at all that it splices."
        )
    if first_token is False:
        notes.append(
            f"{file}: it was trained without a token that begins a context ({within}{first} is false); "
            f"every window of the task begins with token {task.corpus.bos}."
        )
    return tuple(notes)


def _size(value: Any, name: str, where: Path | str) -> int | None:
    """Tokens of a context; None where none is told, or −1 stands for that."""
    if value is None or (value == -1 and not isinstance(value, bool)):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(name, value, "a number of tokens, whole and at least 1", where)
    return value


def _flag(value: Any, name: str, where: Path | str) -> bool | None:
    if not isinstance(value, (bool, type(None))):
        raise _wrong(name, value, "true or false", where)
    return value


def _slice(value: Any, name: str, where: Path | str) -> tuple[int | None, ...] | None:
    """Start, end and step of the positions trained on; None if these are all."""
    if value is None:
        return None
    parts = tuple(value) if isinstance(value, (list, tuple)) else None
    if (
        parts is None
        or not 1 <= len(parts) <= 3
        or any(isinstance(part, bool) or not isinstance(part, (int, type(None))) for part in parts)
    ):
        raise _wrong(name, value, "start, end and step of a slice, each a whole number or null", where)
    # slice(None) and slice(0, None, 1) are all positions; slice(END) begins at the first one.
    whole = slice(*parts)
    return None if whole.start in (None, 0) and whole.stop is None and whole.step in (None, 1) else parts


def _wrong(name: str, value: Any, expected: str, where: Path | str) -> InterpretationError:
    return InterpretationError(f"{where}: {name} is {brief(value)}; expected {expected}", fix=AGAIN)
