"""Amplitudes of source and noise, fitted on calibration by the loss of every point of a grid.

Source: protocol 1, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from torch import Tensor

from remainder.base.cache import Progress
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.kernels import FittedRung, fit_kernels, score, table_rows
from remainder.measure.losses import clean_pass
from remainder.measure.plan import Plan
from remainder.measure.seal import Log
from remainder.record.couplings import FULL_GRID, QUICK_GRID, rung_of
from remainder.record.rungs import COUPLED
from remainder.record.summary import couplings
from remainder.residual.calibration import Calibration
from remainder.residual.noise import NoiseKeys

__all__ = ["couple"]

_WINDOWS, _PAIRS = 32, 2


def couple(
    loaded: SiteTask,
    plan: Plan,
    calibration: Calibration,
    batches: Callable[[int], Iterator[tuple[Batch, Tensor]]],
    log: Log,
    progress: Progress,
    name: str,
) -> tuple[list[FittedRung], list[dict[str, Any]]]:
    """The rung `coupled` at the amplitudes that predict best, and the grid's rows of the table of values.

    Args:
        batches: of the first so many calibration windows, with their reconstructions.
        log: told if the best amplitudes lie on the edge of the grid.
        name: of the interpretation, for `progress`.
    """
    grid = QUICK_GRID if plan.pairs == 1 else FULL_GRID
    rungs = {rung_of(point): COUPLED._replace(arguments=point) for point in grid}
    kernels, _ = fit_kernels(rungs, calibration, lambda _: 2 * _PAIRS)
    windows = min(_WINDOWS, plan.calibration_windows)
    passes = sum(kernel.draws for kernel in kernels)
    runner = loaded.runner(plan.dtype)
    rows: list[dict[str, Any]] = []
    done = 0
    for batch, estimate in batches(windows):
        clean = clean_pass(runner, batch)
        rows += table_rows(batch, "clean", 0, clean.scores, split="calibration")
        places = NoiseKeys(loaded.task.seed, batch.windows.documents, batch.windows.indices)
        for new in score(runner, clean, kernels, estimate, places, split="calibration"):
            rows += new
            done += len(new)
            progress(f"{name}: couplings", done, windows * passes)
    found = couplings(pd.DataFrame(rows), seed=loaded.task.seed)
    assert found is not None
    if found.edge:
        log.warnings.append("the best couplings lie on the edge of the grid: they may be farther out")
    # An amplitude that changes nothing has no best value; any will do.
    alpha, beta = (1.0 if best.value is None else best.value for best in (found.alpha, found.beta))
    coupled, _ = fit_kernels({"coupled": COUPLED._replace(arguments=(alpha, beta))}, calibration, plan.draws)
    return coupled, rows
