"""Options of `remainder run` that `remainder score` has too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BatchSizeOption",
    "CompatOption",
    "DeviceOption",
    "DocumentsOption",
    "DtypeOption",
    "EngineOption",
    "EstimateOption",
    "FigureOption",
    "FreshOption",
    "JsonOption",
    "OutOption",
    "PairsOption",
    "RungsOption",
    "TierOption",
    "WorkersOption",
]

TierOption = Annotated[
    str, typer.Option(help="How much is measured: quick or standard; of a text also demo, a first table.")
]
RungsOption = Annotated[
    str | None,
    typer.Option(
        help="Rungs, comma-separated; board: what every row of the board has (about 40 passes); all: every "
        "residual model, annealed losses, couplings, Gaussianity (minutes a row). Default: the task's."
    ),
]
PairsOption = Annotated[int | None, typer.Option(help="Antithetic pairs of draws; default: the tier's.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16, after the site; default: the tier's, but float32 on a CPU without "
        "units for bfloat16."
    ),
]
CompatOption = Annotated[
    bool,
    typer.Option("--compat", help="Also take the metrics of SAELens and SAEBench, with their masks."),
]
DocumentsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="For a first look: only the first N of the tier's evaluation documents. The record says so, "
        "and no board takes it.",
    ),
]
EstimateOption = Annotated[
    bool, typer.Option("--estimate", help="Say what it would take, by timing a few passes; measure nothing.")
]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu or cuda; auto is what $REMAINDER_DEVICE says, or else the best.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Windows in one forward pass; default: 8 of a text, on a GPU up to 32; "
        "64 of data that a script makes; 16 prompts.",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder where records are kept, and found again.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the record (of one submission) to this file too.")
]
FigureOption = Annotated[Path | None, typer.Option(help="Draw the results to this file (.png or .svg).")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Processes that measure beside each other, each with the model in its memory and its share of "
        "the cores or one of the GPUs. Default: 1; of Ray, one for each GPU, or else core.",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(help="Where they run: local, or ray (a cluster, or one on this machine); docs/scale.md."),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Measure again what is finished already.")]
