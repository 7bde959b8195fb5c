"""Commands on records that are there: compare two, explain one, or what follows from several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from remainder.base.files import IMAGES, require_target
from remainder.base.resolve import resolve
from remainder.cli.joint import JOINT, show
from remainder.cli.options import RECORD_HELP, FormatOption, one_record, print_text

__all__ = ["compare", "explain"]


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=RECORD_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same task, named likewise.")],
    fail_on_regression: Annotated[
        str | None,
        typer.Option(
            "--fail-on-regression",
            metavar="KEY=MARGIN,...",
            help="Exit with 1 if B is worse by more than a margin, and not by chance. For example "
            "gap_raw=0.01,kl_raw=0.02; docs/ci.md lists the keys.",
        ),
    ] = None,
    format: FormatOption = "table",
) -> None:
    """Show paired differences B − A on the documents that two records share, with intervals."""
    from remainder.record.store import read_record
    from remainder.report.compare import compare_records, render_comparison
    from remainder.report.gate import find_changes, parse_margins, refuse, render_changes

    margins = {} if fail_on_regression is None else parse_margins(fail_on_regression)
    paths = one_record(a), one_record(b)
    first, second = map(read_record, paths)
    color = sys.stdout.isatty()
    shown = render_comparison(compare_records(first, second, paths=paths), format, color=color)
    changes = find_changes(first, second, margins)
    print_text(shown)
    if changes:
        # Standard output of csv and json is for programs, with or without a gate.
        print(
            "\n" + render_changes(changes, format, color=color),
            end="",
            file=sys.stderr if format in ("csv", "json") else sys.stdout,
        )
        refuse(changes, first, second)


def explain(
    record: Annotated[str, typer.Argument(metavar="RECORD", help=RECORD_HELP)],
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Draw it to this file (.png or .svg).")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """Show the whole ladder of a record, a flow, or levels, and where the lost nats live."""
    from remainder.record.store import read_record
    from remainder.report.explain import explain as explain_record
    from remainder.report.layout import require_format

    require_format(format)
    if save is not None:
        require_target(save, "--save", IMAGES)
    if (ending := Path(record).suffix) in JOINT:
        show(ending, resolve(JOINT[ending].read)(Path(record)), save, format)
        return
    explained = read_record(one_record(record)).record
    if save is not None:
        from remainder.report.plot import explanation
        from remainder.report.plot import save as save_figure

        save_figure(explanation(explained), save)
    print_text(explain_record(explained, format, color=sys.stdout.isatty()))
