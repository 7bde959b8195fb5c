"""The command `remainder modes`: a bath by one Gaussian mode a shell, as the ratio of shells falls."""

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
    OutOption,
    TierOption,
)

__all__ = ["modes"]

_With = Annotated[
    str,
    typer.Option("--with", metavar="SUBMISSION", help="What `run --with` takes; its decoder is affine."),
]
_Keep = Annotated[int, typer.Option(metavar="K", help="How many sources are kept; the others are the bath.")]


def modes(
    task: flow.Task,
    with_: _With,
    folder: TasksOption = None,
    order: flow.Order = None,
    keep: _Keep = 0,
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
    estimate: EstimateOption = False,
) -> None:
    """Put one Gaussian mode in the place of each shell of sources: how coarse may the shells be?"""
    from remainder.base.progress import reporting

    require_output(format, out, save)
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.loading.open import at_site
        from remainder.measure.modes import estimate_modes, measure_modes
        from remainder.record.modes import MeasuredModes
        from remainder.record.modes_file import MODES, write_modes
        from remainder.runs.flow import flow_plan, require_asked
        from remainder.submission.submission import SiteEntry

        require_asked(order, None, None, None)
        opened, (entry,) = open_asked(
            task,
            [with_],
            folder,
            ignore_field=ignore_field,
            trust_code=trust_code,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
        loaded = at_site(opened)
        assert isinstance(entry, SiteEntry)  # a task at a site scores no others
        settings = flow_plan(loaded, tier, documents, dtype)
        order = order or "dynamic"
        if not estimate:
            found = measure_modes(loaded, entry, settings, order=order, keep=keep, progress=progress)
            write_modes(found, out)
        else:
            progress("timing a few passes", 0, None)
            cost = estimate_modes(loaded, entry, settings, order=order, keep=keep, progress=progress)
    if not estimate:
        return show(MODES.ending, MeasuredModes(found), save, format)
    print("\n".join([f"modes of {entry.name}, {keep} kept", *cost.lines()]))
    return None
