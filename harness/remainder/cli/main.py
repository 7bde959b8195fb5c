"""The command `remainder`. Thin: every command reads its arguments, calls the library, and prints."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from remainder._version import __version__
from remainder.base.files import IMAGES, refused, require_folder, require_target
from remainder.base.wrapping import fill
from remainder.cli import board as cli_board
from remainder.cli import circuit as cli_circuit
from remainder.cli import publish as cli_publish
from remainder.cli import run as cli_run
from remainder.cli.options import RECORD_HELP, FormatOption, IgnoreOption, SuiteOption, print_text
from remainder.errors import AssetError, RecordError, RemainderError
from remainder.report.text import WIDTH

app = typer.Typer(
    help="Score what an interpretation of a neural network leaves out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"remainder {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def tasks(suite: SuiteOption = None) -> None:
    """List all tasks, or those of a suite."""
    from remainder.task.spec import list_tasks, load_task

    found = [load_task(name) for name in list_tasks(suite)]
    width = max(len(task.id) for task in found)
    for task in found:
        start = f"{task.id:<{width}}  {task.version}  "
        print(fill(start + task.title, WIDTH, hanging=" " * len(start)))


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="TASK|RECORD", help=f"A task's id, or its folder. {RECORD_HELP}")
    ],
    format: FormatOption = "table",
) -> None:
    """Show what a task measures, or the numbers of a record."""
    from remainder.report.tables import render
    from remainder.report.text import require_format

    require_format(format)
    from remainder.task.spec import is_task, load_task

    if not is_task(what) and (path := _record_if_any(what)) is not None:
        from remainder.record.store import read_record

        record = read_record(path).record
        shown = render([record], format, rungs=record.measurement.rungs, color=sys.stdout.isatty())
        print_text(shown)
        return
    from remainder.submission.open import baselines_for

    task = load_task(what)
    print(f"{task.id}  version {task.version}  (hash {task.hash[:16]})\n{task.title}\n")
    print(fill(" ".join(task.description.split()), WIDTH), end="\n\n")
    site, build, corpus, splits, positions = task.site, task.build, task.corpus, task.splits, task.positions
    circuit = task.circuit
    _line("model", f"{task.model.name} ({task.model.licence})")
    if build is not None:
        _line("data", f"{build.data} ({build.data_licence})")
    if corpus is not None:
        _line("text", f"{corpus.name} ({corpus.licence})")
    if circuit is None:
        _line("site", f"{site.hook_in} -> {site.hook_out}, width {site.width}")
    else:
        if circuit.behaviour is not None:
            made = f"{circuit.candidates} candidates a template and split; those that the model solves"
            _line("prompts", f"tasks/{circuit.behaviour}: {made}")
        sizes = ", ".join(f"{size:g}" for size in circuit.sizes)
        _line("sizes", f"{sizes} of all edges; headline {circuit.headline:g}")
    if corpus is not None and positions is not None:
        special = " ".join(str(token) for token in corpus.special_tokens)
        _line("masked", f"special tokens {special}; norms above {positions.sink_norm:g}")
    if splits is not None:
        _line("documents", f"{splits.evaluation} evaluation, {splits.calibration} calibration, the rest fit")
    if build is not None and build.expected is not None:
        _line("control", f"its right answers are known beforehand, from {build.expected}")
    _line("rungs", ", ".join(task.rungs))
    for name, tier in task.tiers.items():
        what = "windows" if circuit is None else "prompts"
        windows = f"{tier.evaluation_windows} evaluation and {tier.calibration_windows} calibration {what}"
        draws = "1 pair of draws" if tier.pairs == 1 else f"{tier.pairs} pairs of draws"
        _line("tier", f"{name}: {windows}, {draws}, {tier.dtype}")
    _line("baselines", ", ".join(submission.name for submission in baselines_for(task)))


def _record_if_any(what: str) -> Path | None:
    """The file of the record that is meant, if there is one; see `which`."""
    from remainder.board.which import records_of

    if what.endswith(".json"):
        return Path(what)  # what is wrong with it is told when it is read
    try:
        records_of(what)
    except RecordError:
        return None  # it may be a misspelt task, of which near ones are told
    return _one_record(what)


def _one_record(what: str) -> Path:
    """The file of the record that is meant, which is told unless it was given."""
    from remainder.base.progress import errors
    from remainder.board.which import record_of

    path = record_of(what)
    if path != Path(what):
        errors.print(f"record: {path}", soft_wrap=True)
    return path


def _line(word: str, text: str) -> None:
    """Print `text` behind `word`, in as many lines as a terminal needs."""
    print(fill(f"{word:<11}{text}", WIDTH, hanging=" " * 11))


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks; default: all but those of a hub.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch and convert again.")] = False,
) -> None:
    """Fetch and convert the models and texts of tasks into the cache."""
    from remainder.base.progress import reporting
    from remainder.task.spec import list_tasks, load_task

    # What lies on a hub may be large or gated, so it is fetched only when it is named.
    chosen = [load_task(name) for name in names] if names else []
    chosen += [task for name in list_tasks() if not names and (task := load_task(name)).model.hub is None]
    from remainder.loading.fetch import fetch as fetch_task

    for task in chosen:
        with reporting() as progress:
            places = fetch_task(task, progress=progress, force=force)
        for what, folder in places.items():
            print(f"{task.id}  {what}  {folder}")


app.command()(cli_run.run)


@app.command()
def check(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="What `run --with` takes: a folder, a baseline, a hub: id."),
    ],
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="A task's id or folder; default: its own.")
    ] = None,
    ignore_field: IgnoreOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """Check that an interpretation can be scored: format, site, weights, rules. Fails if it cannot."""
    from remainder.base.progress import reporting
    from remainder.publish.check import check_whole, render, require_format

    require_format(format)
    with reporting() as progress:
        found = check_whole(path, task, ignore_fields=ignore_field or [], device=device, progress=progress)
    if found.error is not None and format != "json":
        raise found.error
    print_text(render(found, format, color=sys.stdout.isatty()))
    if found.error is not None:
        raise found.error
    raise typer.Exit(0 if found.passed else 1)


@app.command()
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
    """Paired differences B − A on the documents that two records share, with intervals."""
    from remainder.record.store import read_record
    from remainder.report.compare import compare_records, render_comparison
    from remainder.report.gate import find_changes, parse_margins, refuse, render_changes

    margins = {} if fail_on_regression is None else parse_margins(fail_on_regression)
    paths = _one_record(a), _one_record(b)
    first, second = map(read_record, paths)
    color = sys.stdout.isatty()
    shown = render_comparison(compare_records(first, second, paths=paths), format, color=color)
    changes = find_changes(first, second, margins)
    print_text(shown)
    if changes:
        # What a program reads from standard output stays what it was.
        print(
            "\n" + render_changes(changes, format, color=color),
            end="",
            file=sys.stderr if format in ("csv", "json") else sys.stdout,
        )
        refuse(changes, first, second)


@app.command()
def explain(
    record: Annotated[str, typer.Argument(metavar="RECORD", help=RECORD_HELP)],
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Draw it to this file (.png or .svg).")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """Show the whole ladder of a record, and where the lost nats live."""
    from remainder.record.store import read_record
    from remainder.report.explain import explain as explain_record
    from remainder.report.text import require_format

    require_format(format)
    if save is not None:
        require_target(save, "--save", IMAGES)
    found = read_record(_one_record(record)).record
    if save is not None:
        from remainder.report.plot import explanation
        from remainder.report.plot import save as save_figure

        save_figure(explanation(found), save)
    print_text(explain_record(found, format, color=sys.stdout.isatty()))


@app.command()
def validate(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Controls; default: all.")
    ] = None,
    suite: SuiteOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the third world, to repeat a run; default: drawn now.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every comparison, not failures only.")
    ] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="How often 95 % intervals hold the true value, instead.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md",
            help="Write a page and its figures here; default: docs/validation.md "
            "of the checkout, if all controls are run.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, csv or json.")] = "table",
) -> None:
    """Measure the benchmark itself: controls whose right answer is known. Fails if one is missed."""
    from remainder.base.paths import project_root
    from remainder.base.progress import errors, reporting
    from remainder.task.spec import list_tasks

    names = [*(tasks or []), *(list_tasks(suite) if suite else [])] or None
    from remainder.validation.tables import render, require_format

    require_format(format)
    if coverage and page is not None:
        raise RecordError("--page is of a validation, and not of --coverage", fix="leave out one of the two")
    if coverage:
        from remainder.validation.coverage import cover_controls, render_coverage

        with reporting() as progress:
            found = cover_controls(names, progress=progress)
        print_text(render_coverage(found, format, color=sys.stdout.isatty()))
        raise typer.Exit(0 if all(one.passed for one in found) else 1)
    from remainder.validation.page import write_page
    from remainder.validation.run import controls, draw_seeds
    from remainder.validation.run import validate as run_controls

    docs = project_root() / "docs"
    if page is None and names is None and docs.is_dir():
        page = docs / "validation.md"
    if page is not None and page.parent.is_dir() and (page.suffix != ".md" or page.is_dir()):
        raise RecordError(f"--page {page} is no file that ends in .md", fix="name the page's file so")
    if page is not None:
        require_target(page, "--page", (".md",))
        require_folder(page.absolute().parent / "figures", "--page", RecordError)
    controls(names)  # what is malformed is told before a seed is
    seeds = draw_seeds(seed)
    if seed is None:
        errors.print(f"seed drawn for the third world: {seeds[-1]}")
    with reporting() as progress:
        validation = run_controls(names, seeds, device=device, progress=progress)
    print_text(render(validation, format, everything=everything, color=sys.stdout.isatty()))
    if page is not None:
        for path in write_page(validation, page):
            errors.print(f"written: {path}", soft_wrap=True)
    raise typer.Exit(0 if validation.passed else 1)


app.command()(cli_circuit.circuit)
app.command()(cli_publish.verify)
app.command()(cli_publish.cite)
app.command()(cli_publish.submit)
app.command()(cli_publish.review)
app.add_typer(cli_board.board, name="board")


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
        try:
            app()
        except OSError as problem:  # a full disk, or whatever else a file system may say
            raise refused(problem, None, AssetError) from problem
    except RemainderError as problem:
        print(f"remainder: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
