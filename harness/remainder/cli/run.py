"""The command `remainder run`: score interpretations on tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.base.files import IMAGES, require_folder, require_target
from remainder.cli import complete
from remainder.cli.graph import (
    GraphModelOption,
    GraphOption,
    NodesOption,
    PromptsOption,
    SaveTaskOption,
    TranscodersOption,
    of_graphs,
)
from remainder.cli.options import (
    ColumnsOption,
    CountOption,
    DumpOption,
    FormatOption,
    IgnoreOption,
    SuiteOption,
    TasksOption,
    TrustOption,
    dump_tokens,
    require_columns,
    require_dump,
)
from remainder.cli.run_options import (
    BatchSizeOption,
    CompatOption,
    DeviceOption,
    DocumentsOption,
    DtypeOption,
    EngineOption,
    EstimateOption,
    FigureOption,
    FreshOption,
    JsonOption,
    OutOption,
    PairsOption,
    RungsOption,
    TierOption,
    WorkersOption,
)
from remainder.errors import RecordError, RemainderError, TaskError
from remainder.record.rungs import CIRCUIT_RUNGS

if TYPE_CHECKING:
    from remainder.cli.session import Session
    from remainder.task.spec import Task

__all__ = ["asked_rungs", "check_outputs", "run"]

_Tasks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TASK]...", help="A task's id, or the folder of a task.", autocompletion=complete.tasks
    ),
]
_With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="SUBMISSION",
        help="A submission's folder, one that SAELens, dictionary_learning, sparsify or circuit-tracer "
        "wrote, hub:OWNER/REPO\\[@REVISION]:SAE_ID, or the name of a baseline or of what the task brings "
        "itself; may be given again. Default: all of the task's.",
        autocompletion=complete.submissions,
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
_UntilCi = Annotated[
    float | None,
    typer.Option(
        "--until-ci",
        metavar="NATS",
        help="Add documents, up to those of the tier, until the difference of KL of each submission from the "
        "first (of one alone its KL) is known to ± NATS.",
    ),
]
_Shard = Annotated[
    str,
    typer.Option(
        metavar="I/N",
        help="Measure every N-th row only, beginning with the I-th: one of N commands that together measure "
        "all, as in an array of jobs.",
    ),
]


def run(
    tasks: _Tasks = None,
    suite: SuiteOption = None,
    folder: TasksOption = None,
    with_: _With = None,
    graph: GraphOption = None,
    transcoders: TranscodersOption = None,
    model: GraphModelOption = None,
    prompts: PromptsOption = None,
    nodes: NodesOption = "all",
    save_task: SaveTaskOption = None,
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
    tier: TierOption = "quick",
    rungs: RungsOption = None,
    background: _Background = None,
    pairs: PairsOption = None,
    dtype: DtypeOption = None,
    compat: CompatOption = False,
    documents: DocumentsOption = None,
    until_ci: _UntilCi = None,
    estimate: EstimateOption = False,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    out: OutOption = Path("results"),
    json: JsonOption = None,
    figure: FigureOption = None,
    dump_to: DumpOption = None,
    tokens: CountOption = None,
    columns: ColumnsOption = None,
    format: FormatOption = "table",
    fresh: FreshOption = False,
    shard: _Shard = "1/1",
    workers: WorkersOption = None,
    engine: EngineOption = "local",
) -> None:
    """Score interpretations on a task, raw and with a Gaussian residual."""
    from remainder.base.progress import errors, reporting
    from remainder.task.listing import task_in, task_names
    from remainder.task.spec import load_task

    shown = require_columns(columns, format)
    names = [task_in(folder, name) for name in tasks or []] + (task_names(suite, folder) if suite else [])
    own = ["graph"] if graph or transcoders else []
    check_outputs(names or own, json, figure, out, with_ or own)
    names, with_ = of_graphs(
        graph or (),
        transcoders,
        (names, with_),
        model=model,
        prompts=prompts,
        nodes=nodes,
        save_task=save_task,
    )
    with reporting() as progress:  # right after an installation this takes a while
        progress("loading libraries", 0, None)
        from remainder.cli.estimate import print_estimates
        from remainder.cli.session import Session, Wanted
        from remainder.cli.until import measure_until, require_one
        from remainder.measure.plan import plan
        from remainder.model.device import asked_device
        from remainder.runs.engines import pool_of
        from remainder.runs.job import Source
        from remainder.runs.work import Shard

    part = Shard.parse(shard)
    chosen = [load_task(name) for name in names]
    if until_ci is not None:
        require_one(chosen, until_ci, documents, shard)
    require_dump(dump_to, tokens, chosen, with_ or [])
    _check_submissions(chosen, with_ or [], ignore_field or [], out, trust_code)
    further = asked_rungs(chosen, rungs, background)
    beside = further or (("zero",) if graph else ())  # of a graph, what the field itself sets nodes to
    planned = partial(
        plan, tier=tier, pairs=pairs, dtype=dtype, compat=compat, documents=documents, device=device
    )
    # A background is measured beside the rungs of its task; --rungs takes their place.
    plans = [
        planned(task, rungs=((*task.rungs, *further) if background else further) or None) for task in chosen
    ]
    for note in dict.fromkeys(note for chosen_plan in plans for note in chosen_plan.notes):
        errors.print(f"! {note}", soft_wrap=True)
    ignored = tuple(ignore_field or ())
    sources = [
        Source(_place(name), chosen_plan, asked_device(device), batch_size, ignored, trust_code)
        for name, chosen_plan in zip(names, plans, strict=True)
    ]
    wanted = Wanted(tuple(with_ or ()), out, fresh, part, pool_of(engine, workers))
    if estimate and until_ci is not None:
        raise TaskError(
            "--estimate goes without --until-ci, which decides itself how much is measured",
            fix="leave --until-ci out: the estimate then is of the most that it can take",
        )
    if estimate:
        return print_estimates(wanted, sources)
    session = Session(wanted, sources, format, beside, shown)
    try:
        if until_ci is None:
            session.measure()
        else:
            session = measure_until(
                until_ci, chosen[0], sources[0], lambda one: Session(wanted, [one], format, beside, shown)
            )
        _write(session, json, figure)
        if dump_to is not None and session.records:
            found = session.records[0]
            how = {"tier": found.tier, "dtype": found.measurement.dtype, "ignore_fields": ignored}
            place = {"device": device, "batch_size": batch_size, "trust_code": trust_code}
            dump_tokens(dump_to, tokens, names[0], wanted.named[0], **how, **place)
        session.show_all()
    except KeyboardInterrupt:
        errors.print(
            f"interrupted: {session.finished} finished row(s) are kept in {out}; run again to go on",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


def _place(task: str) -> str:
    """The name of a task that holds in another folder too; ids come before folders, as in `load_task`."""
    from remainder.task.spec import list_tasks

    if task in list_tasks() or not (Path(task) / "task.toml").is_file():
        return task
    return str(Path(task).absolute())


def _write(session: Session, json: Path | None, figure: Path | None) -> None:
    """Write what one task gave to the files that were asked for."""
    rows = [row.finished for row in session.rows[0] if row.finished is not None]
    if rows and json is not None:
        from remainder.record.store import write_record

        write_record(rows[0].record, rows[0].values, json)
    if rows and figure is not None:
        from remainder.report.plot import overview, save

        save(overview(session.records), figure)


def asked_rungs(tasks: list[Task], rungs: str | None, backgrounds: list[str] | None) -> tuple[str, ...]:
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


def _check_submissions(
    tasks: list[Task], named: list[str], ignored: list[str], out: Path, trust_code: bool
) -> None:
    """Refuse before anything is loaded what does not fit; a script's own are known only afterwards."""
    from remainder.submission.names import folder_of
    from remainder.submission.open import open_submission

    for task in tasks:
        require_folder(folder_of(out, task), "--out", RecordError)
    if ignored and not named:
        raise TaskError("--ignore-field is of files that --with names", fix="add --with SUBMISSION")
    if any(task.build is not None for task in tasks):
        return
    problems = []
    for name in named:
        try:
            submission = open_submission(name, ignored, trust_code=trust_code)
        except RemainderError as problem:  # of one among others: it is a row that says so
            problems.append(problem)
            continue
        for task in tasks:
            submission.require_fit(task)
    if problems and len(problems) == len(named):
        raise problems[0]


def check_outputs(
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
