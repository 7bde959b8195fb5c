"""Commands on tasks: list them, show one of them (or records), and fetch their models and texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remainder.base.wrapping import fill
from remainder.cli import complete
from remainder.cli.options import (
    RECORDS_HELP,
    ColumnsOption,
    FormatOption,
    SkipOption,
    SuiteOption,
    TasksOption,
    print_text,
    read_named,
    require_columns,
)
from remainder.errors import RecordError
from remainder.report.layout import WIDTH

if TYPE_CHECKING:
    from remainder.task.spec import Task

__all__ = ["fetch", "show", "tasks"]


def tasks(
    suite: SuiteOption = None,
    folder: TasksOption = None,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table or json.")] = "table",
) -> None:
    """List all tasks, or those of a suite; those that other packages register come last."""
    from remainder.base.progress import errors
    from remainder.report.layout import require_format
    from remainder.task.listing import load_all, task_names

    require_format(format, ("table", "json"))
    listed, faults = load_all(task_names(suite, folder))
    if format == "json":
        print(json.dumps([_described(task) for task in listed], indent=1, ensure_ascii=False))
    else:
        width = max((len(task.id) for task in listed), default=0)
        for task in listed:
            start = f"{task.id:<{width}}  {task.version}  "
            print(fill(start + task.title, WIDTH, hanging=" " * len(start)))
    for name, problem in faults.items():
        errors.print(f"! {name}: not listed: {problem}", markup=False, soft_wrap=True)


def _described(task: Task) -> dict[str, Any]:
    """A task as `tasks --format json` states it."""
    return {
        "id": task.id,
        "suite": task.suite,
        "version": task.version,
        "hash": task.hash,
        "title": task.title,
        "kind": task.kind.name,
        "model": task.model.name,
        "hook_in": task.site.hook_in,
        "hook_out": task.site.hook_out,
        "width": task.site.width,
        "rungs": list(task.rungs),
        "tiers": list(task.every_tier),
        "gives_places": task.gives_places,
    }


def show(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK|RECORD...",
            help=f"A task's id, or its folder; or {RECORDS_HELP}",
            autocompletion=complete.tasks,
        ),
    ],
    format: FormatOption = "table",
    columns: ColumnsOption = None,
    skip_damaged: SkipOption = False,
) -> None:
    """Show what a task measures, or the numbers of records: a table for each task."""
    from remainder.board.packaged import packaged, text_of
    from remainder.report.layout import require_format
    from remainder.submission.facts import facts_of
    from remainder.task.spec import is_task, load_task

    require_format(format)
    if len(what) > 1 or not (is_task(what[0]) or _is_near_task(what[0])):
        _show_records(what, format, columns, skip_damaged)
        return
    board = packaged()
    if board is not None and not is_task(what[0]) and (rows := board.named(what[0])):
        print_text(text_of(rows, format, board))
        return
    task = load_task(what[0])
    print(f"{task.id}  version {task.version}  (hash {task.hash[:16]})\n{task.title}\n")
    print(fill(" ".join(task.description.split()), WIDTH), end="\n\n")
    for word, text in facts_of(task):
        print(fill(f"{word:<11}{text}", WIDTH, hanging=" " * 11))
    if board is not None and (rows := board.of_task(task.id, str(task.major))):
        print_text(f"\n{text_of(rows, 'table', board)}")


def _show_records(what: Sequence[str], format: str, columns: str | None, skip_damaged: bool) -> None:
    from remainder.report.tables import render

    shown = require_columns(columns, format)
    records = [one.record for one in read_named(what, skip_damaged=skip_damaged)]
    # The rungs of several records are too many for a table; data formats have a column for each.
    several = len(records) > 1 and format not in ("csv", "json")
    rungs = dict.fromkeys(rung for record in records for rung in record.measurement.rungs)
    color = sys.stdout.isatty()
    print_text(render(records, format, rungs=() if several else rungs, columns=shown, color=color))


def _is_near_task(what: str) -> bool:
    """Whether it names no record: it may be a misspelt task, and `load_task` offers near names."""
    from remainder.board.which import records_of

    if what.endswith(".json") or Path(what).is_dir():
        return False  # reading it reports whatever is wrong with it
    try:
        records_of(what)
    except RecordError:
        return True
    return False


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK|SUITE]...",
            help="Tasks, or suites of them; default: all whose model is on no hub and under no terms.",
            autocompletion=complete.tasks,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch and convert again.")] = False,
    accept_terms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TERMS",
            help="Accept terms of use that a model is under, by their id, which `remainder show TASK` tells.",
        ),
    ] = None,
) -> None:
    """Fetch and convert the models and texts of tasks into the cache."""
    from remainder.base.progress import reporting
    from remainder.errors import TaskError
    from remainder.task.listing import task_names
    from remainder.task.spec import list_tasks, load_task

    suites = {name.split("/")[0] for name in list_tasks()}
    wanted = [one for name in names or () for one in (task_names(name) if name in suites else [name])]
    # Models of a hub may be large or gated, so they are fetched only when their task is named.
    chosen = [load_task(name) for name in wanted]
    chosen += [task for name in list_tasks() if not names and (task := load_task(name)).model.is_open]
    known = {task.model.terms.id for task in chosen if task.model.terms is not None}
    if strange := sorted(set(accept_terms or ()) - known):
        raise TaskError(
            f"--accept-terms {strange[0]}: no model of the chosen tasks is under such terms",
            fix=f"they are under: {', '.join(sorted(known))}" if known else "leave it out",
        )
    from remainder.loading.fetch import fetch as fetch_task  # loads torch; a misspelt task fails before

    for task in chosen:
        with reporting() as progress:
            places = fetch_task(task, progress=progress, force=force, accepted=accept_terms or ())
        for what, folder in places.items():
            print(f"{task.id}  {what}  {folder}")
