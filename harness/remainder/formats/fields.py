"""Fields of a file of settings, each checked for its type; a wrong one is named in the error.

What a field means is its format's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remainder.base.files import brief
from remainder.errors import InterpretationError

__all__ = ["AGAIN", "count", "file_name", "flag", "number", "table", "text"]

AGAIN = "take the file that training wrote, or correct that field"


def count(fields: Mapping[str, Any], name: str, where: Path | str, within: str = "") -> int:
    """A whole number, at least 1.

    Args:
        fields: that `name` is one of.
        name: of the field.
        where: the file, for messages.
        within: the object that holds the fields, with a dot behind it.

    Raises:
        InterpretationError: it is missing or something else.
    """
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(f"{within}{name}", value, "a number, whole and at least 1", where)
    return value


def text(fields: Mapping[str, Any], name: str, where: Path | str, within: str = "") -> str | None:
    """Words; None if there are none. Arguments and errors as of `count`."""
    value = fields.get(name)
    if not isinstance(value, (str, type(None))):
        raise _wrong(f"{within}{name}", value, "text", where)
    return value


def flag(fields: Mapping[str, Any], name: str, where: Path | str, within: str = "") -> bool:
    """True or false; false if it is missing. Arguments and errors as of `count`."""
    value = fields.get(name)
    if not isinstance(value, (bool, type(None))):
        raise _wrong(f"{within}{name}", value, "true or false", where)
    return bool(value)


def number(fields: Mapping[str, Any], name: str, where: Path | str, within: str = "") -> float | None:
    """A number; None if it is missing. Arguments and errors as of `count`."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise _wrong(f"{within}{name}", value, "a number", where)
    return value


def table(fields: Mapping[str, Any], name: str, where: Path | str) -> Mapping[str, Any]:
    """An object with fields of its own; an empty one if it is missing. Arguments and errors as of `count`."""
    value = fields.get(name)
    if not isinstance(value, (dict, type(None))):
        raise _wrong(name, value, "an object with named fields", where)
    return value or {}


def file_name(where: Path | str) -> str:
    """The name of a file in a warning, which goes into a record: paths of this machine do not."""
    return where.name if isinstance(where, Path) else where


def _wrong(name: str, value: Any, expected: str, where: Path | str) -> InterpretationError:
    return InterpretationError(f"{where}: {name} is {brief(value)}; expected {expected}", fix=AGAIN)
