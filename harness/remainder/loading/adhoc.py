"""A task made on the spot: somebody's model, a hook, and a text.

1. The text: documents (`loading.texts`), their token ids by the model's tokenizer, its beginning-of-sequence
   token before every window, its special tokens left out. A window has 128 tokens, or as many as the model
   takes; where that leaves fewer than 40 documents of at least one window, the longest of `CONTEXTS` that
   leaves them, or else the longest that leaves 10. With fewer there is no task, since splits are of
   documents, and so are intervals.
2. The splits, by a seeded hash of documents' names: two fifths (at most 64) evaluation, two fifths (at most
   256) calibration, the rest fit.
3. The tiers: `quick` is the first window of every evaluation document, `standard` four of each; both with up
   to 1,000 windows of calibration and 200 of fit.
4. The site: hooks by name, their width from the model (`loading.hooks`).
5. Attention sinks, from the norms of activations on the calibration windows (`loading.sinks`).

`like` takes from another task what these rules would give: its window, special tokens, splits, tiers, sink
norm, seed and rungs.

Whatever is wrong with a text is said before the model is run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.cache import Progress, silent
from remainder.errors import TaskError
from remainder.loading.adapt import GivenModel, given_model, require_stored
from remainder.loading.adhoc_text import Asked, Prepared, prepare, tiers_of
from remainder.loading.hooks import find_site
from remainder.loading.sinks import norms_of, sinks_in
from remainder.loading.site import LanguageTask, open_on
from remainder.loading.texts import read_text
from remainder.model.bridge import pick_device
from remainder.model.device import steady
from remainder.task.adhoc import keep, named, require_savable, save_task
from remainder.task.spec import ADHOC, ANYWHERE, Positions, Task, load_task

__all__ = ["AskHooks", "Choices", "adhoc_task"]

_NEVER = 1e30  # a norm that nothing has, while norms are measured
_RUNGS = ("raw", "full")


class Choices(NamedTuple):
    """Settings of an ad-hoc task in place of what is found."""

    context: int | None = None
    """Tokens of a window, the beginning-of-sequence token included."""
    bos: int | None = None
    """Id of the token put before every window."""
    sink_norm: float | None = None
    """Positions whose norm is above this are attention sinks."""
    seed: int | None = None
    """Seed of the noise, and of the order of documents; default: 0."""
    like: str | Path | Task | None = None
    """A task on a text, whose settings are taken."""


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
    choices: Choices = Choices(),  # noqa: B008 -- a tuple
    save: Path | None = None,
    require: Callable[[Task], None] | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LanguageTask:
    """Make a task of a model, a hook and a text, ready to measure on; see this module's text.

    Args:
        model: what `given_model` takes: a folder, an id of the hub, or a model in memory; the last with its
            `tokenizer`, if that does not lie where it came from.
        hook: where activations are read: a name of TransformerLens, or of a module.
        hook_out: where the reconstruction is put; default: `hook`.
        text: what `read_text` takes, and with it `field`, `split` and `first`.
        choices: settings in place of what is found.
        save: a folder that the task is written into.
        require: called with the task but for its sinks and its name, to raise what there is to be said before
            the model is run on the text.
        device, batch_size, progress: as for `open_task`.

    Raises:
        TaskError: if the model has no such hook, or the text is not enough.
        AssetError: if model or text cannot be had.
    """
    like = None if choices.like is None else _on_text(choices.like)
    if save is not None:
        require_savable(save)
    (progress or silent)("reading the text", 0, None)
    documents = read_text(text, field=field, split=split, first=first)
    given = given_model(model, tokenizer=tokenizer, progress=progress)
    if save is not None:
        require_stored(given.spec)
    prepared = prepare(documents, given, Asked(choices.context, choices.bos, choices.seed, like))
    draft = _draft(given, prepared, choices.seed, like)
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

    task = _with_sinks(opened(draft), choices.sink_norm, like)
    if given.folder is not None:  # what is in memory alone cannot be opened again
        keep(task, prepared.corpus)
    if save is not None:
        save_task(task, prepared.corpus, save)
    return opened(task)


def _on_text(name: str | Path | Task) -> Task:
    task = load_task(name)
    if task.corpus is None:
        raise TaskError(f"{task.id} has no text whose settings could be taken", fix="name a task on a text")
    return task


def _draft(given: GivenModel, prepared: Prepared, seed: int | None, like: Task | None) -> Task:
    """The task but for its site, sinks and name."""
    corpus, model = prepared.corpus, given.spec
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
        norm, words = stated, f"Attention sinks are positions with norms above {stated:g}, as was asked for."
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
