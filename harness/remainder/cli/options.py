"""Options that several commands share, and how they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remainder.errors import RecordError
from remainder.report.layout import FORMATS

__all__ = [
    "RECORD_HELP",
    "ColumnsOption",
    "FormatOption",
    "IgnoreOption",
    "SuiteOption",
    "one_record",
    "print_text",
    "require_columns",
]

SuiteOption = Annotated[
    str | None, typer.Option(metavar="SUITE", help="All tasks of a suite: the word before the slash.")
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-field",
        metavar="NAME",
        help="A field of its files that would be refused and changes nothing; may be given again. The record "
        "says so.",
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help=f"One of: {', '.join(FORMATS)}.")
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEYS",
        help="Columns of the table, comma-separated, e.g. bits_per_token,gap_raw,l0; or all. "
        "Default: what matters most; CSV and JSON always have all.",
    ),
]
RECORD_HELP = (
    "A record: its file (.json), a folder (its record with most rungs, newest first; one of --documents "
    "last), a submission's name, or how a record's id begins."
)


def print_text(text: str) -> None:
    """Print a text that may end in a newline already."""
    print(text.rstrip("\n"))


def require_columns(columns: str | None, format: str) -> tuple[str, ...]:
    """Keys of the columns that are asked for; unknown ones, and formats, are refused before any measuring."""
    from remainder.report.layout import require_format
    from remainder.report.quantities import chosen

    require_format(format)
    wanted = tuple(part.strip() for part in (columns or "").split(",") if part.strip())
    if columns is not None and not wanted:
        raise RecordError(f"--columns {columns!r} names no column", fix="name some, or leave it out")
    chosen(wanted, ())
    return wanted


def one_record(what: str) -> Path:
    """The file of the record that is meant; its path is printed unless it was given."""
    from remainder.base.progress import errors
    from remainder.board.which import record_of

    path = record_of(what)
    if path != Path(what):
        errors.print(f"record: {path}", soft_wrap=True)
    return path
