"""Options that several commands share, and how they print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remainder.base.files import require_target
from remainder.cli import complete
from remainder.errors import RecordError
from remainder.report.layout import FORMATS

if TYPE_CHECKING:
    from remainder.report.results import Stored
    from remainder.task.spec import Task

__all__ = [
    "RECORDS_HELP",
    "RECORD_HELP",
    "ColumnsOption",
    "CountOption",
    "DumpOption",
    "FormatOption",
    "IgnoreOption",
    "SkipOption",
    "SuiteOption",
    "TasksOption",
    "TrustOption",
    "dump_tokens",
    "one_record",
    "print_text",
    "read_named",
    "require_columns",
    "require_dump",
]

SuiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="SUITE",
        help="All tasks of a suite: the word before the slash.",
        autocompletion=complete.suites,
    ),
]
TasksOption = Annotated[
    Path | None,
    typer.Option(
        "--tasks",
        metavar="DIR",
        help="Look for tasks in this folder, which holds SUITE/TASK/task.toml, and nowhere else.",
    ),
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


def _trusting(trusted: bool) -> bool:
    """Say what a submission's code could do here that it should not, if it is going to be executed."""
    if trusted:
        from remainder.base.progress import errors
        from remainder.submission.sandbox.confine import unlimited

        if open_doors := unlimited():
            what = f"--trust-code: nothing limits here {', '.join(open_doors)}"
            errors.print(f"! {what}; Linux 5.13 or later on x86-64 or ARM64 limits all of it", soft_wrap=True)
    return trusted


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        callback=_trusting,
        help="Execute the code of a submission that is code, in a confined process. Read it first.",
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
DumpOption = Annotated[
    Path | None,
    typer.Option(
        "--dump-tokens",
        metavar="FILE",
        help="Write the tokens with the largest KL on rung raw to this file (.csv, .jsonl), with their text "
        "and what was kept there; of one submission on a task with a text.",
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option("--tokens", metavar="N", min=1, help="How many tokens --dump-tokens writes; default: 100."),
]
RECORD_HELP = (
    "A record: its file (.json), a folder (its record with most rungs, newest first; one of --documents "
    "last), a submission's name, or how a record's id begins."
)
RECORDS_HELP = (
    "any number of records: files (.json), folders (all records below them), names of submissions, or how "
    "records' ids begin."
)
SkipOption = Annotated[
    bool,
    typer.Option("--skip-damaged", help="Leave out files that are no sound records, and name them."),
]


def dump_tokens(path: Path, most: int | None, task: Any, submission: Any, **how: Any) -> None:
    """Look at single tokens of what was measured, and write the worst.

    Args:
        how: `tier`, `dtype`, `documents`, `ignore_fields`, `device` and `batch_size` of the measurement.
    """
    from remainder.api import worst_tokens
    from remainder.base.progress import reporting
    from remainder.measure.tokens import TOKENS
    from remainder.report.tokens import write_tokens

    with reporting() as progress:
        worst = worst_tokens(task, submission, most=most or TOKENS, progress=progress, **how)
    write_tokens(worst, path)


def require_dump(
    path: Path | None, most: int | None, tasks: Sequence[Task], submissions: Sequence[object]
) -> None:
    """Refuse before measuring what `dump_tokens` could not write afterwards."""
    if path is None:
        if most is not None:
            raise RecordError("--tokens says how many --dump-tokens writes", fix="add --dump-tokens FILE")
        return
    from remainder.measure.tokens import require_text
    from remainder.report.tokens import ENDINGS

    if len(tasks) != 1 or len(submissions) != 1:
        raise RecordError(
            "--dump-tokens is of one submission on one task, and this run has several",
            fix="name one task, and one submission with --with",
        )
    require_text(tasks[0])
    require_target(path, "--dump-tokens", ENDINGS)


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
    from remainder.base.progress import say
    from remainder.board.which import record_of

    path = record_of(what)
    if path != Path(what):
        say(f"record: {path}")
    return path


def read_named(names: Sequence[str], *, skip_damaged: bool = False) -> list[Stored]:
    """The records that are named as `RECORDS_HELP` says, with the hashes of their values verified too.

    Those that are left out are printed.
    """
    from remainder.base.progress import errors
    from remainder.record.store import read_sealed
    from remainder.report.results import read_results

    # A folder is all of its records here, where one record is meant elsewhere.
    paths = [Path(name) if name.strip() and Path(name).is_dir() else one_record(name) for name in names]
    reading = read_results(paths, skip_damaged=skip_damaged, read=read_sealed)
    for fault in reading.faults:
        errors.print(f"! left out: {fault.what}", markup=False, soft_wrap=True)
    return reading.stored
