"""`open_task`: a task of any kind, made ready to measure."""

from __future__ import annotations

from pathlib import Path

from remainder.base.cache import Progress
from remainder.base.messages import whole_number
from remainder.base.resolve import resolve
from remainder.errors import TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.prompts import PromptTask
from remainder.loading.site import SiteTask
from remainder.model.device import pick_device, steady
from remainder.task.spec import Task, load_task

__all__ = ["at_site", "on_prompts", "open_task"]


def open_task(
    task: str | Path | Task,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LoadedTask:
    """Load a task's model and data, fetching what is not there yet, or run its script.

    Args:
        task: an id such as `smollm2-135m/resid-15`, or the folder of a task.
        device: `auto` (CUDA if there is any), `cpu` or `cuda`.
        batch_size: windows in one forward pass; default: of a text up to 8 (on a GPU 32), of a script's
            examples 64, and 16 prompts.
        progress: told what is being done.

    Raises:
        TaskError: if there is no such task or device, its script does not make what it should, or the model
            does not show the behaviour that it asks for.
        AssetError: if something cannot be fetched, or is not what the task pins.
    """
    content = load_task(task)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    place = pick_device(device)
    steady(place)
    loaded: LoadedTask = resolve(content.kind.open)(content, place, batch_size, progress)
    return loaded


def at_site(loaded: LoadedTask) -> SiteTask:
    """Narrow a task to one that has activations at a site.

    Raises:
        TaskError: if it is of another kind.
    """
    if not isinstance(loaded, SiteTask):
        raise TaskError(
            f"{loaded.task.id} scores {loaded.task.kind.scores}; interpretations of a site have no place in "
            "it",
            fix="give it what it scores, or choose a task on a text",
        )
    return loaded


def on_prompts(loaded: LoadedTask) -> PromptTask:
    """Narrow a task to one that has prompts and a model as a graph.

    Raises:
        TaskError: if it is of another kind.
    """
    if not isinstance(loaded, PromptTask):
        raise TaskError(
            f"{loaded.task.id} is not a task of circuits", fix="`remainder tasks` lists what there is"
        )
    return loaded
