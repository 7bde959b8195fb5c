"""The command `remainder layers`: sites of one model, coarse-grained from below."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remainder.cli import flow
from remainder.cli.joint import open_asked, require_output, show
from remainder.cli.options import FormatOption, IgnoreOption, TasksOption, TrustOption
from remainder.cli.run_options import (
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    EstimateOption,
    FreshOption,
    OutOption,
    PairsOption,
    TierOption,
)
from remainder.errors import TaskError

__all__ = ["layers"]

_Tasks = Annotated[
    list[str], typer.Argument(metavar="TASK...", help="Sites of one model on one text, lowest first.")
]
_With = Annotated[
    list[str],
    typer.Option(
        "--with", metavar="SUBMISSION", help="What `run --with` takes; once for each task, in their order."
    ),
]
_Documents = Annotated[
    int | None, typer.Option(metavar="N", help="Evaluation documents; default: all of the tier.")
]
_Calibration = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Calibration windows that statistics are fitted to; default: all of the tier."
    ),
]


def layers(
    tasks: _Tasks,
    with_: _With,
    folder: TasksOption = None,
    keep: flow.Keep = None,
    ratio: flow.Ratio = None,
    shells: flow.Shells = None,
    tier: TierOption = "quick",
    documents: _Documents = None,
    calibration: _Calibration = None,
    pairs: PairsOption = None,
    dtype: DtypeOption = None,
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    out: OutOption = Path("results"),
    save: flow.Save = None,
    format: FormatOption = "table",
    fresh: FreshOption = False,
    estimate: EstimateOption = False,
) -> None:
    """Coarse-grain sites from below: does what a layer leaves over depend on what layers below leave over?"""
    from remainder.base.progress import reporting

    require_output(format, out, save)
    keeps = None if keep is None else flow.numbers(keep)
    if len(tasks) != len(with_):
        raise TaskError(
            f"{len(tasks)} task(s) and {len(with_)} submission(s)",
            fix="give --with once for every task, in the order of the tasks",
        )
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.measure.layers_estimate import estimate_layers
        from remainder.runs.flow import require_asked
        from remainder.runs.layers import layers_plan, measured_layers, plan_layers

        require_asked(None, keeps, ratio, shells)
        loaded, entries = [], []
        for task, name in zip(tasks, with_, strict=True):
            one, (entry,) = open_asked(
                task,
                [name],
                folder,
                ignore_field=ignore_field,
                trust_code=trust_code,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
            loaded.append(one)
            entries.append(entry)
        settings = layers_plan(loaded, tier, documents, dtype, pairs=pairs, calibration=calibration)
        planned = plan_layers(
            loaded, entries, settings, keeps=keeps, ratio=ratio, shells=shells, progress=progress
        )
        if estimate:
            progress("timing a few passes", 0, None)
            cost = estimate_layers(planned.chain, planned.keeps, planned.plan)
        else:
            found = measured_layers(planned, out, fresh=fresh, progress=progress)
    if estimate:
        kept = ", ".join(map(str, planned.keeps))
        print("\n".join([f"{len(tasks)} sites that keep {kept}", *cost.lines()]))
    else:
        show(".layers", (found,), save, format)
