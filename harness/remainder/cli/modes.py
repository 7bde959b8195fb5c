"""The command `remainder modes`: a bath by one Gaussian mode a shell, as the ratio of shells falls."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from remainder.cli import flow
from remainder.cli.joint import open_asked
from remainder.cli.options import FormatOption, IgnoreOption, TasksOption, TrustOption, print_text
from remainder.cli.run_options import BatchSizeOption, DeviceOption, DtypeOption, TierOption

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
    format: FormatOption = "table",
) -> None:
    """Put one Gaussian mode in the place of each shell of sources: how coarse may the shells be?"""
    from remainder.base.progress import reporting
    from remainder.report.layout import require_format

    require_format(format)
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.loading.open import at_site
        from remainder.measure.modes import measure_modes
        from remainder.report.modes import render_modes
        from remainder.runs.flow import flow_plan, require_asked
        from remainder.submission.submission import SiteEntry

        require_asked(order, None, None, None)
        loaded, (entry,) = open_asked(
            task,
            [with_],
            folder,
            ignore_field=ignore_field,
            trust_code=trust_code,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
        assert isinstance(entry, SiteEntry)
        settings = flow_plan(loaded, tier, documents, dtype)
        found = measure_modes(
            at_site(loaded), entry, settings, order=order or "dynamic", keep=keep, progress=progress
        )
    print_text(render_modes(found, format, color=sys.stdout.isatty()))
