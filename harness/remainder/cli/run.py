"""The command `remainder run`: score interpretations on tasks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.base.files import IMAGES, require_folder, require_target
from remainder.cli.options import (
    ColumnsOption,
    FormatOption,
    IgnoreOption,
    SuiteOption,
    print_text,
    require_columns,
)
from remainder.errors import RecordError, TaskError
from remainder.record.rungs import ALL, CIRCUIT_RUNGS

if TYPE_CHECKING:
    from remainder.loading.loaded import LoadedTask
    from remainder.measure.plan import Plan
    from remainder.record.schema import Record
    from remainder.submission.submission import Entry
    from remainder.task.spec import Task

__all__ = ["run"]

_Tasks = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK]...", help="A task's id, or the folder of a task.")
]
_With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="SUBMISSION",
        help="A submission's folder, one that SAELens, dictionary_learning, sparsify or circuit-tracer "
        "wrote, hub:OWNER/REPO\\[@REVISION]:SAE_ID, or the name of a baseline or of what the task brings "
        "itself; may be given again. Default: all of the task's.",
    ),
]
_Tier = Annotated[
    str, typer.Option(help="How much is measured: quick or standard; of a text also demo, a first table.")
]
_Rungs = Annotated[
    str | None,
    typer.Option(
        help="Rungs, comma-separated; or all: every residual model, annealed losses, couplings, "
        "Gaussianity (minutes a row). Default: the task's."
    ),
]
_Background = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUNG",
        help="A background of circuits, beside the task's own rungs: what removed edges carry; may be given "
        "again. One of: "
        f"{'; '.join(f'{name} ({carried})' for name, carried in CIRCUIT_RUNGS.items())}.",
    ),
]
_FORMER = {"gaussian": "full", "resample": "permuted", "mean-positional": "raw"}
"""Names that backgrounds had until version 0.1."""
_Pairs = Annotated[int | None, typer.Option(help="Antithetic pairs of draws; default: the tier's.")]
_Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16, after the site; default: the tier's, but float32 on a CPU without "
        "units for bfloat16."
    ),
]
_Compat = Annotated[
    bool,
    typer.Option("--compat", help="Also take the metrics of SAELens and SAEBench, with their masks."),
]
_Documents = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="For a first look: only the first N of the tier's evaluation documents. The record says so, "
        "and no board takes it.",
    ),
]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Windows in one forward pass; default: 8 for a text.")
]
_Out = Annotated[Path, typer.Option(help="Folder where records are kept, and found again.")]
_Json = Annotated[
    Path | None, typer.Option("--json", help="Write the record (of one submission) to this file too.")
]
_Figure = Annotated[Path | None, typer.Option(help="Draw the results to this file (.png or .svg).")]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what is finished already.")]


def run(
    tasks: _Tasks = None,
    suite: SuiteOption = None,
    with_: _With = None,
    ignore_field: IgnoreOption = None,
    tier: _Tier = "quick",
    rungs: _Rungs = None,
    background: _Background = None,
    pairs: _Pairs = None,
    dtype: _Dtype = None,
    compat: _Compat = False,
    documents: _Documents = None,
    device: _Device = "auto",
    batch_size: _BatchSize = None,
    out: _Out = Path("results"),
    json: _Json = None,
    figure: _Figure = None,
    columns: ColumnsOption = None,
    format: FormatOption = "table",
    fresh: _Fresh = False,
) -> None:
    """Score interpretations on a task, raw and with a Gaussian residual."""
    from remainder.base.progress import errors, reporting
    from remainder.task.spec import list_tasks, load_task

    shown = require_columns(columns, format)
    names = [*(tasks or []), *(list_tasks(suite) if suite else [])]
    _check_outputs(names, json, figure, out, with_)
    with reporting() as progress:  # right after an installation this takes a while
        progress("loading libraries", 0, None)
        from remainder.measure.plan import plan

    chosen = [load_task(name) for name in names]
    _check_submissions(chosen, with_ or [], ignore_field or [], out)
    further = _further(chosen, rungs, background)
    planned = partial(
        plan, tier=tier, pairs=pairs, dtype=dtype, compat=compat, documents=documents, device=device
    )
    # A background is measured beside the rungs of its task; --rungs takes their place.
    plans = [
        planned(task, rungs=((*task.rungs, *further) if background else further) or None) for task in chosen
    ]
    for note in dict.fromkeys(note for chosen_plan in plans for note in chosen_plan.notes):
        errors.print(f"! {note}", soft_wrap=True)
    session = _Session(with_, ignore_field or [], device, batch_size, out, fresh, format, further, shown)
    try:
        for task, chosen_plan in zip(chosen, plans, strict=True):
            records = session.measure(task, chosen_plan, json)
            if figure is not None:
                from remainder.report.plot import overview, save

                save(overview(records), figure)
        session.show_all()
    except KeyboardInterrupt:
        errors.print(
            f"interrupted: {session.finished} finished row(s) are kept in {out}; run again to go on",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


@dataclass
class _Session:
    """Tasks measured one after another, each shown as it is finished."""

    named: list[str] | None
    ignored: list[str]
    device: str
    batch_size: int | None
    out: Path
    fresh: bool
    format: str
    further: tuple[str, ...]
    """Rungs that were asked for, which tables show besides those that they always show."""
    columns: tuple[str, ...] = ()
    """Columns that were asked for, in place of those that tables show else."""
    finished: int = 0
    records: list[Record] = field(default_factory=list)
    rungs: dict[str, None] = field(default_factory=dict)
    stated: set[str] = field(default_factory=set)
    """Notes that an earlier table has below it."""

    def measure(self, task: Task, plan: Plan, json: Path | None) -> list[Record]:
        """Measure what there is for a task, and print its table."""
        from remainder.base.progress import errors, reporting
        from remainder.loading.open import open_task
        from remainder.record.store import write_record
        from remainder.runs.cells import run as run_rows

        rows = []
        with reporting() as progress:
            loaded = open_task(task, device=self.device, batch_size=self.batch_size, progress=progress)
            entries = self._entries(loaded)
            for row in run_rows(loaded, entries, plan, self.out, fresh=self.fresh, progress=progress):
                rows.append(row)
                self.finished += 1
                seconds = sum(row.record.provenance.timings.values())
                state = "found finished" if row.kept else f"measured in {seconds:.0f} s"
                place = f"{len(rows)}/{len(entries)} {row.record.submission.name}"
                errors.print(f"{place}: {state}", soft_wrap=True)
        if json is not None:
            write_record(rows[0].record, rows[0].values, json)
        records = [row.record for row in rows]
        self._show(records, plan.rungs if ALL in self.further else self.further)
        return records

    def _entries(self, loaded: LoadedTask) -> list[Entry]:
        """Submissions that are scored on a task; those that are one, or share a folder, are named."""
        from remainder.base.progress import errors
        from remainder.submission.names import distinct, folder_of, namesakes
        from remainder.submission.open import submissions_for

        entries, notes = distinct(submissions_for(loaded, self.named, self.ignored))
        folders = [folder_of(self.out, loaded.task, entry.name) for entry in entries]
        for folder in folders:
            require_folder(folder, "--out", RecordError)
        for note in (*(() if self.records else notes), *namesakes(entries, folders)):
            errors.print(f"! {note}", markup=False, soft_wrap=True)
        return entries

    def _show(self, records: list[Record], further: tuple[str, ...]) -> None:
        from remainder.report.tables import render

        if self.format == "table":
            if self.records:
                print()
            color = sys.stdout.isatty()
            print_text(render(records, rungs=further, columns=self.columns, color=color, stated=self.stated))
            sys.stdout.flush()  # tables of a suite appear as they are finished, in a pipe too
        self.records += records
        self.rungs |= dict.fromkeys(further)

    def show_all(self) -> None:
        """Print what is for programs: all records as one."""
        from remainder.report.tables import render

        if self.format != "table":
            print_text(render(self.records, self.format, rungs=self.rungs, columns=self.columns))


def _further(tasks: list[Task], rungs: str | None, backgrounds: list[str] | None) -> tuple[str, ...]:
    """The rungs or backgrounds that are asked for; none: those of each task alone."""
    if rungs is not None and backgrounds:
        raise TaskError("--rungs and --background are both given", fix="give one of the two")
    if rungs is not None:
        wanted = tuple(part.strip() for part in rungs.split(",") if part.strip())
        if not wanted:
            raise TaskError(f"--rungs {rungs!r} names no rung", fix="name some, or leave it out")
        return wanted
    for background in backgrounds or ():
        if at_site := [task.id for task in tasks if task.kind.has_residual]:
            raise TaskError(
                f"{at_site[0]} is measured at a site, and --background is for tasks of circuits",
                fix="use --rungs",
            )
        if background not in CIRCUIT_RUNGS:
            now, choice = _FORMER.get(background), f"choose from: {', '.join(CIRCUIT_RUNGS)}"
            fix = f"use {now}; it was called {background} before" if now else choice
            raise TaskError(f"there is no background {background!r}", fix=fix)
    return tuple(backgrounds or ())


def _check_submissions(tasks: list[Task], named: list[str], ignored: list[str], out: Path) -> None:
    """Refuse before anything is loaded what does not fit; a script's own are known only afterwards."""
    from remainder.submission.names import folder_of
    from remainder.submission.open import open_submission

    for task in tasks:
        require_folder(folder_of(out, task), "--out", RecordError)
    if ignored and not named:
        raise TaskError("--ignore-field is of files that --with names", fix="add --with SUBMISSION")
    if all(task.build is None for task in tasks):
        for submission in (open_submission(name, ignored) for name in named):
            for task in tasks:
                submission.require_fit(task)


def _check_outputs(
    names: list[str], json: Path | None, figure: Path | None, out: Path, with_: list[str] | None
) -> None:
    """Refuse before measuring what could not be written afterwards."""
    if not names:
        raise TaskError(
            "no task is named", fix="name tasks, or a suite with --suite; `remainder tasks` lists all"
        )
    if len(names) > 1 and (json is not None or figure is not None):
        raise RecordError(
            "--json and --figure are for one task, and this run has several", fix="run each alone"
        )
    if json is not None and len(with_ or []) != 1:
        raise RecordError(
            "--json writes one record, and this run has several",
            fix="name one submission with --with; all records are kept in the folder given by --out",
        )
    if json is not None:
        from remainder.record.store import values_path

        require_target(json, "--json", (".json",))
        require_target(values_path(json), "--json: the values", (".gz",))
    if figure is not None:
        require_target(figure, "--figure", IMAGES)
    require_folder(out, "--out", RecordError)
