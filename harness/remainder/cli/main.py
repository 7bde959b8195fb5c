"""The command `remainder`. Thin: every command reads its arguments, calls the library, and prints."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from remainder._version import __version__
from remainder.base.files import refused
from remainder.base.platforms import require_platform
from remainder.base.progress import talk
from remainder.cli import board as cli_board
from remainder.cli import cache as cli_cache
from remainder.cli import ci as cli_ci
from remainder.cli import circuit as cli_circuit
from remainder.cli import complete
from remainder.cli import doctor as cli_doctor
from remainder.cli import export as cli_export
from remainder.cli import flow as cli_flow
from remainder.cli import layers as cli_layers
from remainder.cli import levels as cli_levels
from remainder.cli import modes as cli_modes
from remainder.cli import publish as cli_publish
from remainder.cli import records as cli_records
from remainder.cli import run as cli_run
from remainder.cli import score as cli_score
from remainder.cli import tasks as cli_tasks
from remainder.cli import tissues as cli_tissues
from remainder.cli import validate as cli_validate
from remainder.cli import withdraw as cli_withdraw
from remainder.cli.app import App, QuietOption, VerboseOption, set_levels
from remainder.cli.options import (
    IgnoreOption,
    TasksOption,
    TrustOption,
    print_text,
)
from remainder.cli.run_options import DeviceOption
from remainder.errors import AssetError, RemainderError

app = App(
    help="Score what an interpretation of a neural network leaves out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"remainder {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    set_levels(quiet, verbose)


app.command()(cli_tasks.tasks)
app.command()(cli_tasks.show)
app.command()(cli_tasks.fetch)
app.command()(cli_run.run)
app.command()(cli_score.score)
app.command()(cli_flow.flow)
app.command()(cli_levels.levels)
app.command()(cli_layers.layers)
app.command()(cli_modes.modes)
app.command()(cli_tissues.tissues)
app.command()(cli_export.export)


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="What `run --with` takes: a folder, a baseline, a hub: id.",
            autocompletion=complete.submissions,
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="A task's id or folder; default: its own.", autocompletion=complete.tasks
        ),
    ] = None,
    folder: TasksOption = None,
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Check that an interpretation can be scored: format, site, weights, rules. Fails if it cannot."""
    from remainder.base.progress import reporting
    from remainder.publish.check import FORMATS, check_whole, render
    from remainder.report.layout import require_format
    from remainder.task.listing import task_in

    require_format(format, FORMATS)
    task = None if task is None else task_in(folder, task)
    with reporting() as progress:
        outcome = check_whole(
            path,
            task,
            ignore_fields=ignore_field or [],
            trust_code=trust_code,
            device=device,
            progress=progress,
        )
    if outcome.error is None or format == "json":
        print_text(render(outcome, format, color=sys.stdout.isatty()))
    if outcome.error is not None:
        raise outcome.error
    raise typer.Exit(0 if outcome.passed else 1)


app.command()(cli_records.compare)
app.command()(cli_records.explain)
app.command()(cli_ci.ci)
app.command()(cli_validate.validate)
app.command()(cli_circuit.circuit)
app.command()(cli_publish.verify)
app.command()(cli_publish.cite)
app.command()(cli_publish.submit)
app.command()(cli_withdraw.withdraw)
app.command()(cli_publish.review)
app.command()(cli_publish.audit)
app.add_typer(cli_board.board, name="board")
app.command()(cli_doctor.doctor)
app.add_typer(cli_cache.cache, name="cache")


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback."""
    # Notes that third parties address to programmers; our own warnings are in the records.
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Read when torch is loaded. Threads that spin while they wait make a run three times as long as it need
    # be as soon as anything else uses the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Paths and names may hold what the terminal's encoding does not.
            stream.reconfigure(errors="backslashreplace")
    try:
        require_platform()
        try:
            app()
        except OSError as problem:  # a full disk, or whatever else a file system may say
            raise refused(problem, None, AssetError) from problem
    except RemainderError as problem:
        if talk() > 0:
            traceback.print_exception(problem)
        print(f"remainder: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
