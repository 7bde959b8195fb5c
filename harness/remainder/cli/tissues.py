"""The command `remainder tissues`: near and far sources, token by token, and tissues of tokens."""

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

__all__ = ["tissues"]

_With = Annotated[
    str, typer.Option("--with", metavar="SUBMISSION", help="One interpretation, as `run --with` takes it.")
]
_Orders = Annotated[
    str | None,
    typer.Option(
        "--order",
        metavar="NAME,NAME,...",
        help="How near sources of a token are chosen; tissues are by the first. Default: "
        "attribution,dynamic,random. For controls: index.",
    ),
]
_Keep = Annotated[
    str | None,
    typer.Option(metavar="K,K,...", help="Numbers of near sources; default: by --ratio."),
]
_Tissues = Annotated[
    int | None,
    typer.Option("--tissues", metavar="N", help="Groups of tokens; default: up to 12 of 200 tokens or more."),
]


def tissues(
    task: flow.Task,
    with_: _With,
    folder: TasksOption = None,
    order: _Orders = None,
    keep: _Keep = None,
    ratio: flow.Ratio = None,
    shells: flow.Shells = None,
    number: _Tissues = None,
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
    """Keep the nearest sources of each token: is the rest a bath, and the same one for all kinds of token?"""
    from remainder.base.progress import reporting

    require_output(format, out, save)
    keeps = None if keep is None else flow.numbers(keep)
    orders = None if order is None else [name.strip() for name in order.split(",")]
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.runs.tissues import (
            estimate_tissues,
            measure_tissues,
            plan_tissues,
            require_tissues,
            tissues_plan,
        )

        require_tissues(orders, keeps, ratio, shells, number)
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
        settings = tissues_plan(loaded, tier, documents, dtype)
        planned = plan_tissues(
            loaded,
            entry,
            settings,
            orders=orders,
            keeps=keeps,
            ratio=ratio,
            shells=shells,
            asked=number,
            progress=progress,
        )
        if not estimate:
            found = measure_tissues(planned, out, fresh=fresh, progress=progress)
    if not estimate:
        return show(".tissues", found, save, format)
    with reporting() as progress:
        progress("timing a few passes", 0, None)
        cost = estimate_tissues(planned)
    kept = ", ".join(map(str, planned.keeps))
    named = ", ".join(planned.orders)
    print("\n".join([f"{kept} near sources of {planned.full}, by {named}", *cost.lines()]))
    return None
