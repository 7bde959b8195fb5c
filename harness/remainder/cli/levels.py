"""The command `remainder levels`: interpretations over each other, each in the next finer one."""

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
    TierOption,
)

__all__ = ["levels"]

_With = Annotated[
    list[str],
    typer.Option(
        "--with",
        metavar="SUBMISSION",
        help="What `run --with` takes. Of one the levels are its shells, as `flow` makes them; of several "
        "they are the submissions, coarsest first.",
    ),
]


def levels(
    task: flow.Task,
    with_: _With,
    folder: TasksOption = None,
    order: flow.Order = None,
    keep: flow.Keep = None,
    ratio: flow.Ratio = None,
    shells: flow.Shells = None,
    tier: TierOption = "quick",
    documents: flow.Documents = None,
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
    """Put each level in the next finer one: is what that adds a Gaussian fluctuation around the coarser?"""
    from remainder.base.progress import reporting

    require_output(format, out, save)
    keeps = None if keep is None else flow.numbers(keep)
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.measure.estimate import estimate as estimate_rows
        from remainder.runs.flow import require_asked
        from remainder.runs.levels import levels_plan, measure_levels, plan_levels

        require_asked(order, keeps, ratio, shells)
        loaded, entries = open_asked(
            task,
            with_,
            folder,
            ignore_field=ignore_field,
            trust_code=trust_code,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
        settings = levels_plan(loaded, tier, documents, dtype)
        chosen = {"order": order, "keeps": keeps, "ratio": ratio, "shells": shells}
        planned = plan_levels(loaded, entries, settings, **chosen, progress=progress)  # type: ignore[arg-type]
        if not estimate:
            found = measure_levels(planned, out, fresh=fresh, progress=progress)
    if not estimate:
        return show(".levels", found, save, format)
    with reporting() as progress:
        progress("timing a few passes", 0, None)
        cost = estimate_rows(loaded, list(planned.levels), planned.plan)
    named = ", ".join(entry.name for entry in planned.levels)
    print("\n".join([f"levels {named}", *cost.lines()]))
    return None
