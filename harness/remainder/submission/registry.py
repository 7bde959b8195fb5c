"""Formats by name: those of the table, and of others' packages; their code is imported when it is used.

A package registers a format as an entry point of the group `remainder.formats`: its name is the format's, its
object a `Format`. It is looked for only where no format of the table has the name, and only where a
submission is opened: `verify`, `compare`, `cite` and the board look into the table alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remainder.base import plugins
from remainder.base.files import brief
from remainder.base.messages import message_of
from remainder.base.resolve import resolve as base_resolve
from remainder.errors import InterpretationError, RemainderError
from remainder.submission.method import FORMATS, Format, Source

__all__ = ["call", "find", "format_of", "recognised", "resolve"]

_GIVEN = {
    "reconstruction": "remainder.formats.places:Loaded",
    "circuit": "remainder.formats.eap_ig:Found",
    "feature-circuit": "remainder.submission.feature_circuits:FoundFeatures",
    "files": "builtins:list",
    "elsewhere": "builtins:dict",
    "require": "builtins:object",
}
"""Types that the code of a format gives: `read` and `make` by its kind, other functions by their name."""


def find(name: str) -> Format | None:
    """The format of this name; None if there is none.

    Raises:
        InterpretationError: a package registers it, and what it registers cannot be used.
    """
    if name in FORMATS:
        return FORMATS[name]
    row = plugins.plugin(plugins.FORMATS, name, InterpretationError)
    if row is not None and not (isinstance(row, Format) and row.name == name):
        what = f"the format {row.name}" if isinstance(row, Format) else f"type {type(row).__name__}"
        raise InterpretationError(
            f"{name!r} is registered in {plugins.FORMATS} as {what}",
            fix=f"register a remainder.submission.method.Format of the name {name!r}",
        )
    return row


def format_of(name: str) -> Format:
    """The format of this name, which the settings of a submission have been checked by."""
    row = find(name)
    assert row is not None, name
    return row


def resolve(place: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        InterpretationError: there is none.
    """
    try:
        function: Callable[..., Any] = base_resolve(place)
    except (Exception, SystemExit) as problem:  # whatever another package's import brings about
        raise InterpretationError(
            f"a format names its code as {place!r}, which cannot be imported: "
            f"{type(problem).__name__}: {message_of(problem)}",
            fix="correct the line of the format: module:function",
        ) from problem
    return function


def call(row: Format, verb: str, *arguments: Any) -> Any:
    """The result of the code of a format.

    Args:
        row: the format.
        verb: `read`, `make`, `files` or `require`: the field that names the function.
        arguments: of the function.

    Raises:
        InterpretationError: another package's code raises anything, or gives something else than it must.
    """
    place, kind = getattr(row, verb), _GIVEN.get(verb) or _GIVEN[row.kind]
    function = resolve(place)
    try:
        given = function(*arguments)
    except (Exception, SystemExit) as problem:
        if row.name in FORMATS or isinstance(problem, RemainderError):
            raise
        what = f"raised {type(problem).__name__}: {message_of(problem)}"
    else:
        if row.name in FORMATS or isinstance(given, resolve(kind)):  # type: ignore[arg-type]
            return given
        what = f"gave {brief(given)}; expected a {kind}"
    fix = "mend or uninstall the package that registers the format"
    raise InterpretationError(f"format {row.name}: its code, {place} ({verb}), {what}", fix=fix)


def recognised(path: Path, source: Source) -> Format | None:
    """The first format that recognises a file or folder as its own."""
    for row in FORMATS.values():
        if source in row.sources and row.recognise is not None and resolve(row.recognise)(path):
            return row
    return None
