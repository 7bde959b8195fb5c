"""The command `remainder flow`: ever fewer sources kept, and the scale at which the rest becomes a bath."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
from remainder.errors import TaskError

__all__ = ["Documents", "Keep", "Order", "Ratio", "Save", "Shells", "Task", "flow", "numbers"]

Task = Annotated[str, typer.Argument(metavar="TASK", help="A task's id, or the folder of a task.")]
_With = Annotated[
    str,
    typer.Option(
        "--with", metavar="SUBMISSION", help="What `run --with` takes; one whose codes are sources."
    ),
]
Order = Annotated[
    str | None,
    typer.Option(
        metavar="ORDER",
        help="Which sources are kept first: dynamic (the default: largest contributions of each "
        "token), energy, variance, attribution, index (prefixes of the dictionary), random.",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(metavar="K,K,...", help="How many sources the shells keep; default: by --ratio."),
]
Ratio = Annotated[
    float | None,
    typer.Option(help="How many times the sources of a shell the one above it keeps; default: 2."),
]
Shells = Annotated[int | None, typer.Option(help="How many shells at most, beside the one that keeps none.")]
Documents = Annotated[
    int | None,
    typer.Option(metavar="N", help="Evaluation documents of each shell; default: 16 of a text, else all."),
]
_Also = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,...",
        help="Further rungs of every shell, such as cluster, neighbour; coupled: amplitudes of source "
        "and noise, which k_bath then compares at; gaussianity: kurtosis of a bath of over 1,024 dimensions.",
    ),
]
Save = Annotated[
    Path | None, typer.Option("--save", metavar="FILE", help="Draw it to this file (.png or .svg).")
]


def flow(
    task: Task,
    with_: _With,
    folder: TasksOption = None,
    order: Order = None,
    keep: Keep = None,
    ratio: Ratio = None,
    shells: Shells = None,
    also: _Also = None,
    tier: TierOption = "quick",
    documents: Documents = None,
    dtype: DtypeOption = None,
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = None,
    out: OutOption = Path("results"),
    save: Save = None,
    format: FormatOption = "table",
    fresh: FreshOption = False,
    estimate: EstimateOption = False,
) -> None:
    """Keep fewer and fewer sources: at which scale does what is left out become a Gaussian bath?"""
    from remainder.base.progress import reporting

    require_output(format, out, save)
    keeps = None if keep is None else numbers(keep)
    further = [] if also is None else [name.strip() for name in also.split(",")]
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.runs.flow import estimate_flow, flow_plan, measure_flow, plan_flow, require_asked

        require_asked(order, keeps, ratio, shells)
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
        planned = plan_flow(
            loaded,
            entry,
            flow_plan(loaded, tier, documents, dtype, more=further),
            order=order,
            keeps=keeps,
            ratio=ratio,
            shells=shells,
            out=None if fresh else out,
            progress=progress,
        )
        if not estimate:
            found = measure_flow(planned, out, fresh=fresh, progress=progress)
    if not estimate:
        return show(".flow", found, save, format)
    with reporting() as progress:
        progress("timing a few passes", 0, None)
        cost = estimate_flow(planned)
    kept = ", ".join(map(str, planned.shells))
    print("\n".join([f"shells that keep {kept} of {planned.sources} ({planned.order})", *cost.lines()]))
    return None


def numbers(text: str) -> list[int]:
    """The numbers of a list.

    Raises:
        TaskError: one is no whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise TaskError(
                f"--keep {text!r}: {part!r} is no number of sources", fix="write --keep 0,1,2,4,8"
            )
    return [int(part) for part in parts]
