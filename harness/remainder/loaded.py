"""A task made ready to measure: model loaded, text tokenised, activations at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.activations import SiteActivations, collect_activations, site_moments
from remainder.assets import Progress
from remainder.corpus import Corpus, Split
from remainder.fetch import check_weights, load_bridge, load_corpus, local_model
from remainder.model import Runner, pick_device
from remainder.residual.moments import Moments
from remainder.task import Task, load_task

__all__ = ["LoadedTask", "open_task"]


@dataclass
class LoadedTask:
    """A task with all that measuring it needs; models are loaded when they are first used."""

    task: Task
    corpus: Corpus
    folder: Path
    device: torch.device
    batch_size: int
    progress: Progress | None
    _runners: dict[str, Runner] = field(default_factory=dict)

    @cached_property
    def model_hash(self) -> str:
        """Hash of the model's weights, checked against the one that the task pins."""
        return check_weights(self.task.model, self.folder)

    def runner(self, dtype: str) -> Runner:
        """The model with weights in `dtype`, split at the task's site."""
        if dtype not in self._runners:
            # Tensors made in inference mode could not take part in a graph, and loss gradients need one.
            with torch.inference_mode(False):
                bridge: Any = load_bridge(
                    self.task.model, dtype=dtype, device=self.device, folder=self.folder
                )
                probe = torch.from_numpy(self.corpus.windows("calibration").first(1).tokens).to(self.device)
                self._runners[dtype] = Runner(bridge, self.task.site, probe)
        return self._runners[dtype]

    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        """Activations of the first `windows` windows (default: all) of a split, from the float32 model."""
        chosen = self.corpus.windows(split)
        if windows is not None:
            chosen = chosen.first(windows)
        return collect_activations(
            self.task,
            lambda: self.runner("float32"),
            chosen,
            split,
            model_hash=self.model_hash,
            device=self.device,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    def rows(self, split: Split, windows: int | None = None) -> Float[Tensor, "rows d"]:
        """Activations at spliced positions as rows of one float32 tensor, for training on."""
        batches = self.activations(split, windows).batches(64)
        return torch.cat([batch.prefix.x_out[batch.spliced] for batch in batches])

    def fit_moments(self, windows: int) -> Moments:
        """Mean and scatter of activations on the first windows of `fit`."""
        return site_moments(self.activations("fit", windows))


def open_task(
    task: str | Path | Task,
    *,
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> LoadedTask:
    """Load a task's text, fetching what is not there yet.

    Args:
        task: an id such as `smollm2-135m/resid-15`, or the folder of a task.
        device: `auto` (CUDA if there is any), `cpu` or `cuda`.
        batch_size: windows in one forward pass.
        progress: told what is being done.

    Raises:
        TaskError: if there is no such task or device.
        AssetError: if something cannot be fetched, or is not what the task pins.
    """
    loaded = load_task(task)
    place = pick_device(device)
    folder = local_model(loaded.model, progress=progress)
    corpus = load_corpus(loaded, progress=progress)
    return LoadedTask(loaded, corpus, folder, place, batch_size, progress)
