"""The command `remainder score`: anyone's interpretation, model, hook and text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remainder.base.wrapping import fill
from remainder.cli.options import (
    ColumnsOption,
    CountOption,
    DumpOption,
    FormatOption,
    IgnoreOption,
    TrustOption,
    require_columns,
    require_dump,
)
from remainder.cli.run import asked_rungs, check_outputs, run
from remainder.cli.run_options import (
    BatchSizeOption,
    CompatOption,
    DeviceOption,
    DocumentsOption,
    DtypeOption,
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
from remainder.report.layout import WIDTH

if TYPE_CHECKING:
    from remainder.loading.site import LanguageTask
    from remainder.task.spec import Task

__all__ = ["score"]

_COLUMNS = "bits_per_token,kl_coded,kl_raw,kl_gaussian"
"""Columns of the rungs that are measured by default."""

_Interpretations = Annotated[
    list[str], typer.Argument(metavar="SAE...", help="What `remainder run --with` takes; several share all.")
]
_Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL", help="A folder of transformers, or an id of the hub, OWNER/NAME\\[@REVISION]."
    ),
]
_Text = Annotated[
    list[str],
    typer.Option(
        metavar="TEXT",
        help="A .txt, .jsonl or .parquet, a folder of .txt, or a data set of the hub, "
        "hf:OWNER/NAME\\[:CONFIG]\\[@REVISION]\\[#SPLIT]; files may be given again.",
    ),
]
_Hook = Annotated[
    str | None,
    typer.Option(
        metavar="HOOK",
        help="Where activations are read: a name of TransformerLens (blocks.6.hook_resid_pre) or of a module "
        "(model.layers.6). Default: what the SAE's config says.",
    ),
]
_HookOut = Annotated[
    str | None,
    typer.Option(
        metavar="HOOK", help="Of a transcoder, what it rebuilds. Default: as its config says, or --hook."
    ),
]
_Field = Annotated[str, typer.Option(help="Of .jsonl, .parquet and data sets, the field with the text.")]
_Split = Annotated[
    str | None,
    typer.Option(
        help="Documents of .txt: blank-lines splits files there, files takes each as one. Default: the first "
        "for a single file, else the second."
    ),
]
_First = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Only the first N documents; of a data set of the hub default 1,000."
    ),
]
_Context = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="A window. Default: 128, or as many as the model takes; fewer, if documents are too short.",
    ),
]
_Bos = Annotated[
    int | None, typer.Option(metavar="ID", help="The token before every window; default: the tokenizer's.")
]
_SinkNorm = Annotated[
    float | None,
    typer.Option(
        metavar="NORM", help="Positions above it are attention sinks. Default: found on calibration, or none."
    ),
]
_Seed = Annotated[int | None, typer.Option(help="Of the noise and of the splits; default: 0.")]
_Like = Annotated[
    str | None,
    typer.Option(
        metavar="TASK", help="Take windows, splits, sinks, seed, tiers and rungs from a task on a text."
    ),
]
_SaveTask = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write the task into this folder, which any command takes as a task."),
]


def score(
    interpretations: _Interpretations,
    model: _Model,
    text: _Text,
    hook: _Hook = None,
    hook_out: _HookOut = None,
    field: _Field = "text",
    split: _Split = None,
    first: _First = None,
    context: _Context = None,
    bos: _Bos = None,
    sink_norm: _SinkNorm = None,
    seed: _Seed = None,
    like: _Like = None,
    save_task: _SaveTask = None,
    ignore_field: IgnoreOption = None,
    trust_code: TrustOption = False,
    tier: TierOption = "quick",
    rungs: RungsOption = None,
    pairs: PairsOption = None,
    dtype: DtypeOption = None,
    compat: CompatOption = False,
    documents: DocumentsOption = None,
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
    workers: WorkersOption = None,
) -> None:
    """Score interpretations on a model, a hook and a text of your own: an ad-hoc task, on no board."""
    from remainder.base.progress import errors, reporting

    require_columns(columns, format)
    check_outputs(["adhoc"], json, figure, out, interpretations)
    with reporting() as progress:
        progress("loading libraries", 0, None)
        from remainder.measure.plan import plan
        from remainder.submission.adhoc import task_for
        from remainder.submission.open import open_submission

        def check(draft: Task) -> None:
            require_dump(dump_to, tokens, [draft], interpretations)
            plan(
                draft,
                tier,
                rungs=asked_rungs([], rungs, None) or None,
                pairs=pairs,
                dtype=dtype,
                compat=compat,
                documents=documents,
                device=device,
            )

        entries = [
            open_submission(name, ignore_field or (), trust_code=trust_code) for name in interpretations
        ]
        loaded = task_for(
            entries,
            model=model,
            hook=hook,
            hook_out=hook_out,
            text=text[0] if len(text) == 1 else [Path(part) for part in text],
            field=field,
            split=split,
            first=first,
            context=context,
            bos=bos,
            sink_norm=sink_norm,
            seed=seed,
            like=like,
            save_task=save_task,
            check=check,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    errors.print(_words(loaded), soft_wrap=True)
    name = loaded.task.id
    del loaded
    run(
        tasks=[name],
        with_=interpretations,
        ignore_field=ignore_field,
        trust_code=trust_code,
        tier=tier,
        rungs=rungs,
        pairs=pairs,
        dtype=dtype,
        compat=compat,
        documents=documents,
        estimate=estimate,
        device=device,
        batch_size=batch_size,
        out=out,
        json=json,
        figure=figure,
        dump_to=dump_to,
        tokens=tokens,
        columns=columns or (_COLUMNS if rungs is like is None else None),
        format=format,
        fresh=fresh,
        workers=workers,
    )


def _words(loaded: LanguageTask) -> str:
    """The task in words."""
    task = loaded.task
    return f"{task.id}\n" + fill(f"  {task.description}", WIDTH, hanging="  ")
