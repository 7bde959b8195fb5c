"""The formats of a table and its width; by themselves, since the command line asks for them before anything
else, and `remainder --help` should not wait for pandas."""

from __future__ import annotations

from collections.abc import Sequence

from remainder.errors import RecordError

__all__ = ["FORMATS", "WIDTH", "require_format"]

FORMATS = ("table", "markdown", "csv", "json", "latex")
WIDTH = 80
"""Columns of a terminal."""


def require_format(format: str, formats: Sequence[str] = FORMATS) -> None:
    """Raise RecordError unless `format` is one of `formats`."""
    if format not in formats:
        raise RecordError(f"there is no format {format!r}", fix=f"use one of {', '.join(formats)}")
