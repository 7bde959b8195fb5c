"""Fresh, scored evaluation windows of one control, from which studies of coverage cut their sets.

1. The network and the calibration stay; only evaluation examples are drawn anew, by the control's own script
   with another `evaluation_seed`: a keyword of its `build`, an int; None, its default, stands for the data of
   the task itself.
2. Kernels are fitted once, to all of calibration, and score the windows as in any run.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from remainder.base.cache import Progress, silent
from remainder.errors import TaskError
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import SiteActivations, prefix_pass
from remainder.loading.open import at_site, open_task
from remainder.loading.site import SiteTask
from remainder.measure.kernels import FittedRung, fit_kernels, score
from remainder.measure.losses import clean_pass
from remainder.record.rungs import RUNGS
from remainder.residual.calibration import Calibration
from remainder.residual.noise import NoiseKeys
from remainder.submission.open import submissions_for
from remainder.submission.submission import SiteEntry
from remainder.task.script import load_script, run_script, windows_of
from remainder.task.spec import Task, load_task
from remainder.task.text import Windows
from remainder.validation.claims import ClaimedQuantity, parse_quantity

__all__ = ["EVALUATION_SEED", "Pool", "fill_pool"]

Array = NDArray[np.float64]

EVALUATION_SEED = "evaluation_seed"
_SUMS = ("loss", "kl", "correct")


class Pool(NamedTuple):
    """Sums over the scored tokens of each window, draws averaged."""

    tokens: Array  # [windows]
    sums: Mapping[str, Array]  # by quantity, [windows]


def fill_pool(
    task: str | Task,
    interpretation: str,
    quantities: Sequence[str],
    windows: int,
    *,
    pairs: int = 1,
    parameters: Mapping[str, int | float | str | bool] | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Score `windows` fresh evaluation windows or more, after one fit to all of calibration.

    Raises:
        TaskError: if a quantity is not of one rung, or the script cannot draw evaluation examples anew.
    """
    world = _with_parameters(load_task(task), parameters or {})
    wanted = [parse_quantity(text, world.id) for text in quantities]
    for quantity in wanted:
        if quantity.rung is None or quantity.kind not in ("loss", "error", "kl"):
            raise TaskError(f"coverage of {quantity.text} cannot be studied", fix="choose one of a rung")
    loaded = at_site(open_task(world))
    with torch.inference_mode():
        (entry,) = submissions_for(loaded, [interpretation])
        assert isinstance(entry, SiteEntry)
        built = entry.build(world, lambda: loaded.fit_moments(10**9)).placed(loaded.device)
        rungs = dict.fromkeys(str(quantity.rung) for quantity in wanted if quantity.rung != "clean")
        calibration = _calibrate(loaded, built)
        kernels, unmeasured = fit_kernels(
            {rung: RUNGS[rung] for rung in rungs}, calibration, lambda _: 2 * pairs
        )
        if unmeasured:
            raise TaskError(f"{world.id}: {unmeasured}", fix="choose rungs that this residual admits")
        parts: list[Pool] = []
        filled = 0
        for found in _fresh(world):
            parts.append(_scored(loaded, built, kernels, found, wanted))
            filled += len(found)
            (progress or silent)(f"{world.id}: evaluation windows", min(filled, windows), windows)
            if filled >= windows:
                break
    return Pool(
        np.concatenate([part.tokens for part in parts]),
        {text: np.concatenate([part.sums[text] for part in parts]) for text in quantities},
    )


def _with_parameters(task: Task, parameters: Mapping[str, Any]) -> Task:
    assert task.build is not None
    merged = {**task.build.parameters, **parameters}
    return task.model_copy(update={"build": task.build.model_copy(update={"parameters": merged})})


def _fresh(task: Task) -> Iterator[Windows]:
    """Evaluation windows under one evaluation seed after another, no document twice."""
    assert task.build is not None
    script = load_script(task.build.folder / task.build.script)
    if EVALUATION_SEED not in inspect.signature(script.build).parameters:
        raise TaskError(
            f"{task.id}: its script draws no evaluation examples anew",
            fix=f"let build() take {EVALUATION_SEED}: int | None = None",
        )
    last: Windows | None = None
    seed = 0
    while True:
        built = run_script(_with_parameters(task, {EVALUATION_SEED: seed}))
        windows = windows_of(built.examples["evaluation"])
        if last is not None and np.array_equal(windows.inputs, last.inputs):
            raise TaskError(
                f"{task.id}: build() ignores {EVALUATION_SEED}", fix="draw evaluation examples by it"
            )
        last = windows
        # Noise is keyed by the document's name, so fresh documents need names of their own.
        documents = tuple(f"{seed}/{name}" for name in windows.documents)
        yield Windows(windows.inputs, documents, windows.indices, *windows[3:])
        seed += 1


def _calibrate(loaded: SiteTask, interpretation: Adapted) -> Calibration:
    calibration = Calibration.empty(loaded.task.site.width, device=loaded.device)
    for batch in loaded.activations("calibration").batches(loaded.batch_size, loaded.device):
        read = interpretation.choose(batch.prefix.x_in, batch.prefix.x_out)
        _, reconstruction = interpretation.reconstruct(read, batch.spliced)
        estimate = reconstruction.double()
        places = NoiseKeys(loaded.task.seed, batch.windows.documents, batch.windows.indices)
        calibration.update(places, estimate, batch.prefix.x_out.double() - estimate, batch.spliced)
    return calibration


def _scored(
    loaded: SiteTask,
    interpretation: Adapted,
    kernels: list[FittedRung],
    windows: Windows,
    wanted: Sequence[ClaimedQuantity],
) -> Pool:
    runner = loaded.runner("float32")
    tensors = prefix_pass(runner, windows, loaded.batch_size, "evaluation", None)
    draws = {"clean": 1, **{kernel.name: kernel.draws for kernel in kernels}}
    tokens: list[float] = []
    sums: dict[tuple[str, str], list[Array]] = defaultdict(list)
    for batch in SiteActivations(loaded.task, windows, tensors).batches(loaded.batch_size, loaded.device):
        clean = clean_pass(runner, batch)
        tokens += clean.scores.tokens
        within = {(rung, name): np.zeros(len(batch.windows)) for rung in draws for name in _SUMS}
        for name in _SUMS:
            within["clean", name] += getattr(clean.scores, name)
        read = interpretation.choose(batch.prefix.x_in, batch.prefix.x_out)
        _, reconstruction = interpretation.reconstruct(read, batch.spliced)
        places = NoiseKeys(loaded.task.seed, batch.windows.documents, batch.windows.indices)
        for rows in score(runner, clean, kernels, reconstruction, places):
            for name in _SUMS:
                within[rows[0]["rung"], name] += [row[name] / draws[rows[0]["rung"]] for row in rows]
        for key, found in within.items():
            sums[key].append(found)
    counted = np.array(tokens, dtype=np.float64)
    joined = {key: np.concatenate(found) for key, found in sums.items()}
    result = {}
    for quantity in wanted:
        rung = str(quantity.rung)
        if quantity.kind == "error":
            result[quantity.text] = counted - joined[rung, "correct"]
        else:
            result[quantity.text] = joined[rung, quantity.kind]
    return Pool(counted, result)
