"""Formats by name: those of the table, and of others' packages; their code is imported when it is used.

A package registers a format as an entry point of the group `remainder.formats`: its name is the format's, its
object a `Format`. It is looked for only where no format of the table has the name, and only where a
submission is opened: `verify`, `compare`, `cite` and the board look into the table alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remainder.base.plugins import plugin
from remainder.base.resolve import resolve as base_resolve
from remainder.errors import InterpretationError
from remainder.submission.method import FORMATS, Format, Source

__all__ = ["GROUP", "find", "format_of", "recognised", "resolve"]

GROUP = "remainder.formats"


def find(name: str) -> Format | None:
    """The format of this name; None if there is none.

    Raises:
        InterpretationError: a package registers it, and what it registers cannot be used.
    """
    if name in FORMATS:
        return FORMATS[name]
    row = plugin(GROUP, name, InterpretationError)
    if row is not None and not (isinstance(row, Format) and row.name == name):
        what = f"the format {row.name}" if isinstance(row, Format) else f"type {type(row).__name__}"
        raise InterpretationError(
            f"{name!r} is registered in {GROUP} as {what}",
            fix=f"register a remainder.submission.method.Format of the name {name!r}",
        )
    return row


def format_of(name: str) -> Format:
    """The format of this name.

    Raises:
        InterpretationError: there is none.
    """
    if (row := find(name)) is None:
        raise InterpretationError(
            f"this version has no format {name!r}", fix=f"use one of {', '.join(FORMATS)}"
        )
    return row


def resolve(place: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        InterpretationError: there is none.
    """
    try:
        function: Callable[..., Any] = base_resolve(place)
    except (ImportError, AttributeError) as problem:
        raise InterpretationError(
            f"a format names its code as {place!r}, which cannot be imported: {problem}",
            fix="correct the line of the format: module:function",
        ) from problem
    return function


def recognised(path: Path, source: Source) -> Format | None:
    """The first format that recognises a file or folder as its own."""
    for row in FORMATS.values():
        if source in row.sources and row.recognise is not None and resolve(row.recognise)(path):
            return row
    return None
