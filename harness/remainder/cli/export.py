"""The command `remainder export`: records as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remainder.cli.options import RECORDS_HELP, SkipOption, read_named

__all__ = ["export"]


def export(
    records: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECORD]...", help=f"{RECORDS_HELP[0].upper()}{RECORDS_HELP[1:]} Default: results."
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="csv or parquet, a row each; flows, a row for each shell of the flows beside them; or "
            "saebench, a file each with the core metrics of SAEBench, which --compat measures.",
        ),
    ] = "csv",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Default: results.csv, results.parquet, flows.csv, or the folder saebench.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there already.")
    ] = False,
    skip_damaged: SkipOption = False,
) -> None:
    """Write records to files: a table of all, or a result of SAEBench for each."""
    from remainder.report.export import EXPORTS, default_target, require_free
    from remainder.report.export import export as write
    from remainder.report.layout import require_format

    require_format(format, list(EXPORTS))
    place = out or default_target(format)
    require_free(format, place, overwrite=overwrite)
    stored = read_named(records or ["results"], skip_damaged=skip_damaged)
    write(stored, format, place, overwrite=overwrite)
    print(f"{len(stored)} record{'' if len(stored) == 1 else 's'} in {place}")
