"""The command `remainder levels`: interpretations over each other, each in the next finer one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remainder.base.files import IMAGES, require_folder, require_target
from remainder.cli import flow
from remainder.cli.options import FormatOption, IgnoreOption, TasksOption, TrustOption
from remainder.cli.records import show_levels
from remainder.cli.run_options import (
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    EstimateOption,
    FreshOption,
    OutOption,
    TierOption,
)
from remainder.errors import RecordError

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
    from remainder.report.layout import require_format

    require_format(format)
    require_folder(out, "--out", RecordError)
    if save is not None:
        require_target(save, "--save", IMAGES)
    keeps = None if keep is None else flow.numbers(keep)
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.loading.open import open_task
        from remainder.measure.estimate import estimate as estimate_rows
        from remainder.runs.flow import require_asked
        from remainder.runs.levels import levels_plan, measure_levels, plan_levels
        from remainder.submission.open import submissions_for
        from remainder.task.listing import task_in

        require_asked(order, keeps, ratio, shells)
        place = task if folder is None else task_in(folder, task)
        loaded = open_task(place, device=device, batch_size=batch_size, progress=progress)
        settings = levels_plan(loaded, tier, documents, dtype)
        entries = submissions_for(loaded, with_, ignore_field or (), trust_code=trust_code)
        for entry in entries:
            entry.require_fit(loaded.task)
        chosen = {"order": order, "keeps": keeps, "ratio": ratio, "shells": shells}
        planned = plan_levels(loaded, entries, settings, **chosen, progress=progress)  # type: ignore[arg-type]
        if not estimate:
            found = measure_levels(planned, out, fresh=fresh, progress=progress)
    if not estimate:
        return show_levels(found, save, format)
    with reporting() as progress:
        progress("timing a few passes", 0, None)
        cost = estimate_rows(loaded, list(planned.levels), planned.plan)
    named = ", ".join(entry.name for entry in planned.levels)
    print("\n".join([f"levels {named}", *cost.lines()]))
    return None
