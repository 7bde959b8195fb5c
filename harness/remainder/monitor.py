"""Scores while an interpretation is trained: numbers to log, every so many steps.

A copy is scored, and whatever the measurement draws or sets is put back: training goes on as if nobody had
looked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from remainder.api import evaluate
from remainder.base.cache import Progress
from remainder.base.progress import shown
from remainder.errors import TaskError
from remainder.formats.saelens_training import snapshot
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.plan import plan
from remainder.model.device import pick_device, steady
from remainder.record.schema import Record
from remainder.report.quantities import applicable
from remainder.task.spec import Task, load_task

__all__ = ["Monitor"]


class Monitor:
    """Scores what is trained at every n-th call; gives a flat dict of numbers, at other calls an empty one.

        monitor = remainder.Monitor("smollm2-135m/resid-15", every=1000)
        for batch in activations:
            loss = step(sae, batch)
            wandb.log({"loss": loss, **monitor(sae)})

    Model and text are loaded once. Weights, gradients, modes and random states of the training stay as they
    are. A monitor is an `evaluator` of sae-lens' `SAETrainer` too, which calls it at intervals of its own:
    `every=1`.

    Args:
        task: as for `evaluate`; one that `open_task` or `adhoc_task` made ready is used as it is.
        every: calls from one score to the next.
        rungs: default: `raw` alone, for which nothing is fitted.
        tier, documents, device, batch_size: as for `evaluate`.
        progress: as for `evaluate`; default: none, since training has a bar of its own.
        prefix: how the names of the numbers begin.

    Raises:
        TaskError: if there is no such task, tier or rung, or `every` is no number of calls.
        AssetError: as `open_task`.
    """

    def __init__(
        self,
        task: str | Path | Task | LoadedTask,
        *,
        every: int = 1000,
        rungs: str | Sequence[str] = "raw",
        tier: str = "quick",
        documents: int | None = None,
        prefix: str = "remainder/",
        device: str = "auto",
        batch_size: int | None = None,
        progress: Progress | bool = False,
    ) -> None:
        if every < 1 or every % 1:
            raise TaskError(f"every is {every!r}", fix="give a whole number of calls, 1 or more")
        self.every, self.prefix, self.calls = every, prefix, 0
        named = rungs.split(",") if isinstance(rungs, str) else rungs
        asked = tuple(rung.strip() for rung in named)
        self._how: dict[str, Any] = {"rungs": asked, "tier": tier, "documents": documents}
        self._progress = progress
        self._history: list[dict[str, float]] = []
        if not isinstance(task, LoadedTask):
            spec, place = load_task(task), pick_device(device)
            plan(spec, device=place.type, **self._how)  # what cannot be measured is told before training
            with _undisturbed(place), shown(progress) as tell:
                task = open_task(spec, device=device, batch_size=batch_size, progress=tell)
        plan(task.task, device=task.device.type, **self._how)
        self.loaded = task

    def __call__(
        self, interpretation: Any, data_provider: Any = None, activation_scaler: Any = None
    ) -> dict[str, float]:
        """Count a call, and score what is trained if it is its turn.

        Args:
            interpretation: anything that `evaluate` takes as an object.
            data_provider: not used; sae-lens' trainer gives it.
            activation_scaler: what sae-lens' trainer scales activations by; it is folded into what is scored.

        Returns:
            Numbers by `prefix` and the keys of `report.quantities`, those that have a value.

        Raises:
            RemainderError: as `evaluate`: if a weight is NaN, for example.
        """
        self.calls += 1
        if self.calls % self.every:
            return {}
        with _undisturbed(self.loaded.device):
            result = evaluate(
                self.loaded,
                snapshot(interpretation, activation_scaler),
                name=type(interpretation).__name__[:40],
                progress=self._progress,
                **self._how,
            )
        found = _numbers(result.record)
        self._history.append({"call": self.calls, **found})
        return {self.prefix + key: value for key, value in found.items()}

    def frame(self) -> pd.DataFrame:
        """One row per score, by the number of its call."""
        frame: pd.DataFrame = pd.DataFrame(self._history, columns=None if self._history else ["call"])
        by_call: pd.DataFrame = frame.set_index("call")
        return by_call


def _numbers(record: Record) -> dict[str, float]:
    values = ((quantity.key, quantity.of_record(record).value) for quantity in applicable([record]))
    return {key: value for key, value in values if value is not None}


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Put back what a measurement may draw from or set, and shield it from an autocast around it."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    python, numpy = random.getstate(), np.random.get_state()
    kept = (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices), torch.autocast(device.type, enabled=False):
            steady(device)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = kept
