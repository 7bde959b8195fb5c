"""The command `remainder run`: score interpretations on tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from remainder.base.files import IMAGES, require_folder, require_target
from remainder.cli.options import FormatOption, IgnoreOption, SuiteOption, print_text
from remainder.errors import RecordError, TaskError
from remainder.record.rungs import ALL

__all__ = ["run"]


def run(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="A task's id, or the folder of a task.")
    ] = None,
    suite: SuiteOption = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SUBMISSION",
            help="A submission's folder, one that SAELens, dictionary_learning, sparsify or circuit-tracer "
            "wrote, hub:OWNER/REPO\\[@REVISION]:SAE_ID, or the name of a baseline or of what the task brings "
            "itself; may be given again. Default: all of the task's.",
        ),
    ] = None,
    ignore_field: IgnoreOption = None,
    tier: Annotated[str, typer.Option(help="How much is measured: quick or standard.")] = "quick",
    rungs: Annotated[
        str | None,
        typer.Option(
            help="Rungs, comma-separated; or all: every residual model, annealed losses, couplings, "
            "Gaussianity (minutes a row). Default: the task's."
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="For circuits: what removed edges carry: counterfactual, zero, mean, mean-positional, "
            "resample, optimal-constant or gaussian. Default: the task's."
        ),
    ] = None,
    baths: Annotated[
        str, typer.Option(help="For a Gaussian background: baths shared by all readers, or independent.")
    ] = "shared",
    statistics: Annotated[
        str, typer.Option(help="For a Gaussian background: single-shot, sequential or counterterm.")
    ] = "single-shot",
    pairs: Annotated[int | None, typer.Option(help="Antithetic pairs of draws; default: the tier's.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32 or bfloat16, after the site; default: the tier's, but float32 on a CPU without "
            "units for bfloat16."
        ),
    ] = None,
    compat: Annotated[
        bool,
        typer.Option("--compat", help="Also take the metrics of SAELens and SAEBench, with their masks."),
    ] = False,
    documents: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="For a first look: only the first N of the tier's evaluation documents. The record says so, "
            "and no board takes it.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows in one forward pass; default: 8 for a text.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder where records are kept, and found again.")] = Path(
        "results"
    ),
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the record (of one submission) to this file too.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the results to this file (.png or .svg).")] = None,
    format: FormatOption = "table",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is finished already.")] = False,
) -> None:
    """Score interpretations on a task, raw and with a Gaussian residual."""
    from remainder.report.tables import render
    from remainder.report.text import require_format

    require_format(format)
    from remainder.task.spec import list_tasks, load_task

    names = [*(tasks or []), *(list_tasks(suite) if suite else [])]
    _check_outputs(names, json, figure, out, with_)
    from remainder.base.progress import errors, reporting

    with reporting() as progress:  # right after an installation this takes a while
        progress("loading libraries", 0, None)
        from remainder.loading.open import open_task
        from remainder.measure.plan import plan
        from remainder.runs.cells import run as run_rows
        from remainder.submission.names import distinct, folder_of, namesakes
        from remainder.submission.open import open_submission, submissions_for

    chosen = [load_task(name) for name in names]
    for task in chosen:
        require_folder(folder_of(out, task), "--out", RecordError)
    ignored = ignore_field or []
    if ignored and not with_:
        raise TaskError("--ignore-field is of files that --with names", fix="add --with SUBMISSION")
    for name in with_ or []:
        if all(task.build is None for task in chosen):
            # Before anything is loaded; a script's own are known only afterwards.
            submission = open_submission(name, ignored)
            for task in chosen:
                submission.require_fit(task)

    wanted = None
    if rungs is not None:
        wanted = tuple(part.strip() for part in rungs.split(",") if part.strip())
        if not wanted:
            raise TaskError(f"--rungs {rungs!r} names no rung", fix="name some, or leave it out")
    if background is not None:
        if wanted is not None or any(task.kind.has_residual for task in chosen):
            raise TaskError("--background is of circuits, and in place of --rungs", fix="give one of the two")
        from remainder.circuit.backgrounds import rung_named

        # Beside the task's own, so that tables stay whole.
        wanted = (*chosen[0].rungs, rung_named(background, baths, statistics))
    elif (baths, statistics) != ("shared", "single-shot"):
        raise TaskError("--baths and --statistics are of a background", fix="add --background gaussian")
    plans = [
        plan(
            task,
            tier,
            rungs=wanted,
            pairs=pairs,
            dtype=dtype,
            compat=compat,
            documents=documents,
            device=device,
        )
        for task in chosen
    ]
    for note in dict.fromkeys(note for chosen_plan in plans for note in chosen_plan.notes):
        errors.print(f"! {note}", soft_wrap=True)
    finished = 0
    measured = []
    stated: set[str] = set()
    asked = (wanted or ()) if background is None else (wanted or ())[-1:]
    try:
        for number, (task, chosen_plan) in enumerate(zip(chosen, plans, strict=True)):
            rows = []
            with reporting() as progress:
                loaded = open_task(task, device=device, batch_size=batch_size, progress=progress)
                submissions, notes = distinct(submissions_for(loaded, with_, ignored))
                kept = [folder_of(out, task, entry.name) for entry in submissions]
                for place in kept:
                    require_folder(place, "--out", RecordError)
                notes = (*(notes if number == 0 else ()), *namesakes(submissions, kept))
                for note in notes:
                    errors.print(f"! {note}", markup=False, soft_wrap=True)
                for row in run_rows(loaded, submissions, chosen_plan, out, fresh=fresh, progress=progress):
                    rows.append(row)
                    finished += 1
                    seconds = sum(row.record.provenance.timings.values())
                    state = "found finished" if row.kept else f"measured in {seconds:.0f} s"
                    errors.print(
                        f"{len(rows)}/{len(submissions)} {row.record.submission.name}: {state}",
                        soft_wrap=True,
                    )
            records = [row.record for row in rows]
            if json is not None:
                from remainder.record.store import write_record

                write_record(rows[0].record, rows[0].values, json)
            if figure is not None:
                from remainder.report.plot import overview, save

                save(overview(records), figure)
            measured += records
            if format == "table":
                if number:
                    print()
                further = chosen_plan.rungs if ALL in asked else asked
                color = sys.stdout.isatty()
                print_text(render(records, format, rungs=further, color=color, stated=stated))
                sys.stdout.flush()  # tables of a suite appear as they are finished, in a pipe too
        if format != "table":
            every = [rung for chosen_plan in plans for rung in chosen_plan.rungs]
            print_text(render(measured, format, rungs=dict.fromkeys(every if ALL in asked else asked)))
    except KeyboardInterrupt:
        errors.print(
            f"interrupted: {finished} finished row(s) are kept in {out}; run again to go on", soft_wrap=True
        )
        raise typer.Exit(130) from None


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
