"""`score`: an interpretation on a model, a hook and a text of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from remainder.api.arguments import instance_of, rungs_of
from remainder.api.calls import evaluate
from remainder.base.cache import Progress
from remainder.base.progress import shown
from remainder.errors import TaskError
from remainder.measure.plan import Plan, plan
from remainder.report.result import Result
from remainder.submission.adhoc import task_for
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.task.spec import Task

__all__ = ["score"]


def score(
    interpretation: Any,
    *,
    model: Any,
    tokenizer: Any = None,
    text: Any,
    hook: str | None = None,
    hook_out: str | None = None,
    field: str = "text",
    split: str | None = None,
    first: int | None = None,
    context: int | None = None,
    bos: int | None = None,
    sink_norm: float | None = None,
    seed: int | None = None,
    like: str | Path | Task | None = None,
    save_task: str | Path | None = None,
    name: str | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Result:
    """Score an interpretation on a model, a hook and a text of your own: an ad-hoc task, on no public board.

    For several interpretations make the task once, with `adhoc_task`, and give it to `evaluate_all`.

    Args:
        interpretation: what `evaluate` takes.
        model: a folder of transformers, an id of the Hugging Face hub, or a model in memory: of transformers,
            a `TransformerBridge`, a `HookedTransformer`, a model of nnsight or nnterp.
        tokenizer: of a model in memory; default: its own, or that which lies where it came from.
        text: a file (`.txt`, `.jsonl`, `.parquet`), a folder of `.txt`, a list of strings or of arrays of
            token ids, or `hf:OWNER/NAME`, a data set of the hub; see `remainder.loading.texts`.
        hook: where activations are read, by a name of TransformerLens or of a module; default: what the
            interpretation's config says.
        hook_out: what a transcoder rebuilds; default: likewise, or `hook`.
        field: of `.jsonl`, `.parquet` and data sets, the one that holds the text.
        split: documents of `.txt`: `blank-lines` or `files`; default: the first for a single file.
        first: how many documents are read at most; default: all, of a data set of the hub 1,000.
        context: tokens of a window; default: 128, fewer where the model or documents are too short.
        bos: id of the token before every window; default: the tokenizer's.
        sink_norm: norm above which positions are attention sinks; default: found on calibration.
        seed: of the noise and the splits; default: 0.
        like: a task on a text whose windows, splits, sinks, seed, tiers and rungs are taken.
        save_task: a folder that the task is written into; any command takes it as a task.
        name, ignore_fields, trust_code, device, batch_size, progress: as for `evaluate`.
        settings: `tier`, `rungs`, `pairs`, `dtype`, `compat` and `documents` as for `evaluate`. By default
            the rungs are exact codes, quantised codes, and these with a Gaussian residual.

    Raises:
        RemainderError: with what is wrong and how to mend it; what is wrong with the text, before anything is
            measured.
    """
    if isinstance(interpretation, (str, Path)):
        entry: Any = open_submission(interpretation, ignore_fields, trust_code=trust_code)
    else:
        entry = object_submission(instance_of(interpretation), name, ignore_fields)
    _require_settings(settings)
    with shown(progress) as tell:
        loaded = task_for(
            [entry],
            model=model,
            tokenizer=tokenizer,
            hook=hook,
            hook_out=hook_out,
            text=text,
            field=field,
            split=split,
            first=first,
            context=context,
            bos=bos,
            sink_norm=sink_norm,
            seed=seed,
            like=like,
            save_task=save_task,
            check=partial(_planned, device=device, **settings),
            device=device,
            batch_size=batch_size,
            progress=tell,
        )
    more: dict[str, Any] = {
        **{"name": name, "ignore_fields": ignore_fields, "trust_code": trust_code},
        "progress": progress,
    }
    return evaluate(loaded, interpretation, **more, **settings)


def _planned(
    task: Task,
    *,
    tier: str = "quick",
    rungs: tuple[str, ...] | list[str] | str | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    compat: bool | Sequence[str] = False,
    documents: int | None = None,
    device: str = "auto",
) -> Plan:
    """The plan of some settings of `score`, which are those of `evaluate`."""
    return plan(
        task,
        tier,
        rungs=rungs_of(rungs),
        pairs=pairs,
        dtype=dtype,
        compat=compat,
        documents=documents,
        device=device,
    )


def _require_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that `score` does not have, and offer near names."""
    measured = list(signature(_planned).parameters)[1:]
    for name in settings:
        if name not in measured:
            known = [*(one for one in signature(score).parameters if one != "settings"), *measured]
            near = get_close_matches(name, known, n=3, cutoff=0.5) or measured
            raise TaskError(f"score has no setting {name!r}", fix=f"did you mean {', '.join(near)}?")
