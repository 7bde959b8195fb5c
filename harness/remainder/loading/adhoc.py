"""A task made on the spot: somebody's model, a hook, and a text.

1. The text: documents (`loading.texts`), their token ids by the model's tokenizer, its beginning-of-sequence
   token before every window, its special tokens left out. A window has 128 tokens, or as many as the model
   takes; where that leaves fewer than 40 documents of at least one window, the longest of `CONTEXTS` that
   leaves them, or else the longest that leaves 10. With fewer there is no task, since splits are of
   documents, and so are intervals.
2. The splits, by a seeded hash of documents' names: two fifths (at most 64) evaluation, two fifths (at most
   256) calibration, the rest fit.
3. The tiers: `quick` is one window of every evaluation document, the first by a seeded order of its windows,
   `standard` four of each; both with up to 1,000 windows of calibration and 200 of fit.
4. The site: hooks by name, their width from the model (`loading.hooks`).
5. Attention sinks, from the norms of activations on the calibration windows (`loading.sinks`).

`like` takes from another task what these rules would give: its window, special tokens, splits, tiers, sink
norm, seed and rungs.

Whatever is wrong with a text is said before the model is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from remainder.base.cache import Progress, silent
from remainder.base.messages import whole_number
from remainder.base.progress import shown
from remainder.errors import TaskError
from remainder.loading.adapt import GivenModel, given_model, require_stored
from remainder.loading.adhoc_text import Asked, Prepared, prepare, tiers_of
from remainder.loading.hooks import find_site
from remainder.loading.sinks import norms_of, sinks_in
from remainder.loading.site import LanguageTask, open_on
from remainder.loading.texts import read_text
from remainder.model.device import pick_device, steady
from remainder.task.adhoc import keep, named, require_savable
from remainder.task.adhoc import save_task as write_task
from remainder.task.spec import ADHOC, ANYWHERE, Positions, Task, load_task

__all__ = ["AskHooks", "adhoc_task"]

_NEVER = 1e30  # a norm that nothing has, while norms are measured
_RUNGS = ("raw", "full")


AskHooks = Callable[[Task], tuple[str, str | None]]
"""Names two hooks, what is read and what is rebuilt (None: the same), for a task without a site."""


def adhoc_task(
    *,
    model: Any,
    tokenizer: Any = None,
    hook: str | AskHooks,
    hook_out: str | None = None,
    text: Any,
    field: str = "text",
    split: str | None = None,
    first: int | None = None,
    context: int | None = None,
    bos: int | None = None,
    sink_norm: float | None = None,
    seed: int | None = None,
    like: str | Path | Task | None = None,
    save_task: str | Path | None = None,
    require: Callable[[Task], None] | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | bool | None = None,
) -> LanguageTask:
    """Make a task of a model, a hook and a text, ready to measure on; see this module's text.

    Args:
        model: what `given_model` takes: a folder, an id of the hub, or a model in memory; the last with its
            `tokenizer`, if that does not lie where it came from.
        hook: where activations are read: a name of TransformerLens, or of a module.
        hook_out: where the reconstruction is put; default: `hook`.
        text: what `read_text` takes, and with it `field`, `split` and `first`.
        context: tokens of a window, the beginning-of-sequence token included; default: by the rules.
        bos: id of the token put before every window; default: the tokenizer's.
        sink_norm: positions whose norm is above this are attention sinks; default: found on calibration.
        seed: of the noise, and of the order of documents; default: 0.
        like: a task on a text, whose settings are taken.
        save_task: a folder that the task is written into.
        require: called with the task but for its sinks and its name, to raise what there is to be said before
            the model is run on the text.
        device, batch_size, progress: as for `evaluate`.

    Raises:
        TaskError: if the model has no such hook, the text is not enough, or a setting is none.
        AssetError: if model or text cannot be had.
    """
    _require_names(hook=hook if not callable(hook) else None, hook_out=hook_out)
    _require_norm(sink_norm)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    settled = Asked(
        None if context is None else whole_number("context", context, 3),
        None if bos is None else whole_number("bos", bos, 0),
        None if seed is None else whole_number("seed", seed, 0),
        None if like is None else _on_text(like),
    )
    if save_task is not None:
        if not isinstance(save_task, (str, Path)):
            raise TaskError(f"save_task is {save_task!r}", fix="give the path of a folder")
        require_savable(Path(save_task))
    with shown(progress) as tell:
        (tell or silent)("reading the text", 0, None)
        documents = read_text(text, field=field, split=split, first=first)
        given = given_model(model, tokenizer=tokenizer, progress=tell)
        if save_task is not None:
            require_stored(given.spec)
        prepared = prepare(documents, given, settled)
        loaded = _made(given, prepared, settled, hook, hook_out, sink_norm, require, device, batch_size, tell)
    if save_task is not None:
        write_task(loaded.task, prepared.corpus, Path(save_task))
    return loaded


def _made(
    given: GivenModel,
    prepared: Prepared,
    asked: Asked,
    hook: str | AskHooks,
    hook_out: str | None,
    sink_norm: float | None,
    require: Callable[[Task], None] | None,
    device: str,
    batch_size: int | None,
    progress: Progress | None,
) -> LanguageTask:
    """The task of a model and a prepared text."""
    draft = _draft(given, prepared, asked)
    if not isinstance(hook, str):
        hook, stated = hook(draft)
        hook_out = hook_out or stated
    (progress or silent)("looking for the hook", 0, None)
    place = pick_device(device)
    steady(place)
    draft = draft.model_copy(update={"site": find_site(given, hook, hook_out, device=place)})
    if require is not None:
        require(draft)

    def opened(task: Task) -> LanguageTask:
        return open_on(task, given, prepared.corpus, place, batch_size=batch_size, progress=progress)

    task = _with_sinks(opened(draft), sink_norm, asked.like)
    if given.folder is not None:  # what is in memory alone cannot be opened again
        keep(task, prepared.corpus)
    return opened(task)


def _require_names(**names: Any) -> None:
    for setting, name in names.items():
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise TaskError(f"{setting} is {name!r}", fix="give the name of a hook or of a module")


def _require_norm(norm: Any) -> None:
    if norm is not None and (
        isinstance(norm, bool) or not isinstance(norm, Real) or not 0 < float(norm) < math.inf
    ):
        raise TaskError(f"sink_norm is {norm!r}", fix="give a norm, a number above 0")


def _on_text(name: str | Path | Task) -> Task:
    task = load_task(name)
    if task.corpus is None:
        raise TaskError(f"{task.id} has no text whose settings could be taken", fix="name a task on a text")
    return task


def _draft(given: GivenModel, prepared: Prepared, asked: Asked) -> Task:
    """The task but for its site, sinks and name."""
    corpus, model, seed, like = prepared.corpus, given.spec, asked.seed, asked.like
    return Task(
        id=ADHOC,
        version="1-A",
        title="",
        description=f"Ad hoc, a task of whoever measured. {prepared.words}",
        model=model,
        corpus=corpus.spec,
        splits=corpus.splits,
        site=ANYWHERE,
        positions=Positions(sink_norm=_NEVER),
        seed=seed if seed is not None else 0 if like is None else like.seed,
        rungs=_RUNGS if like is None else like.rungs,
        tiers=tiers_of(corpus) if like is None else like.tiers,
    )


def _with_sinks(draft: LanguageTask, chosen: float | None, like: Task | None) -> Task:
    """The task with its attention sinks, under its name."""
    task, stated = draft.task, chosen
    if stated is None and like is not None and like.positions is not None:
        stated = like.positions.sink_norm
    if stated is not None:
        norm, words = (
            float(stated),
            f"Attention sinks are positions with norms above {stated:g}, as was asked for.",
        )
    else:
        windows = task.tier("quick").calibration_windows
        norm, words = sinks_in(norms_of(draft.activations("calibration", windows)))
    assert task.corpus is not None
    content = {
        **dict(task),
        "title": f"{task.site.hook_out} of {task.model.name} on {task.corpus.name}",
        "positions": Positions(sink_norm=norm),
        "description": f"{task.description} {words}",
    }
    return named(Task(**content))
