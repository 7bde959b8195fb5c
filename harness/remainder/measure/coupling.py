"""Amplitudes of source and noise, fitted on calibration by the loss of every point of a grid.

Source: protocol 1, section 7; protocol 2, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from remainder.record.couplings import (
    FULL_GRID,
    QUICK_GRID,
    GridPoint,
    farther,
    fit_couplings,
    grid_of,
    rung_of,
)
from remainder.record.metrics import Couplings
from remainder.record.rungs import COUPLED, SCALED
from remainder.residual.calibration import Calibration
from remainder.residual.noise import NoiseKeys

__all__ = ["couple"]

Batches = Callable[[int], Iterator[tuple[Batch, Tensor]]]
"""The first so many calibration windows in batches, each with its reconstruction."""

_WINDOWS, _PAIRS = 32, 2


def couple(
    loaded: SiteTask,
    plan: Plan,
    calibration: Calibration,
    batches: Batches,
    log: Log,
    progress: Progress,
    name: str,
) -> tuple[list[FittedRung], list[dict[str, Any]]]:
    """Rungs at the amplitudes that predict best, with noise and without, and the grid's rows of the table.

    Args:
        log: told if the best amplitudes lie on the edge of the grid.
        name: of the interpretation, for `progress`.
    """
    made = _Grid(loaded, plan, calibration, batches, progress, name)
    made.measure(QUICK_GRID if plan.pairs == 1 else FULL_GRID)
    found = made.fit()
    if more := farther(found):
        made.measure(more)
        found = made.fit()
    if found.edge:
        log.warnings.append("the best couplings lie on the edge of the grid: they may be farther out")
    # An amplitude that changes nothing has no best value; any will do.
    alpha, beta, alone = (
        1.0 if best is None or best.value is None else best.value
        for best in (found.alpha, found.beta, found.beta_alone)
    )
    rungs = {
        "coupled": COUPLED._replace(arguments=(alpha, beta)),
        "scaled": SCALED._replace(arguments=(0.0, alone)),
    }
    kernels, _ = fit_kernels(rungs, calibration, plan.draws)
    return kernels, made.rows


@dataclass
class _Grid:
    """Rows of the table of values on calibration, point after point of a grid."""

    loaded: SiteTask
    plan: Plan
    calibration: Calibration
    batches: Batches
    progress: Progress
    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, points: Sequence[GridPoint]) -> None:
        """Rows of some points; before the first of them those of the clean model."""
        rungs = {
            rung_of(point): (COUPLED if point.alpha else SCALED)._replace(arguments=point) for point in points
        }
        kernels, _ = fit_kernels(rungs, self.calibration, lambda _: 2 * _PAIRS)
        windows = min(_WINDOWS, self.plan.calibration_windows)
        passes = sum(kernel.draws for kernel in kernels)
        runner, first = self.loaded.runner(self.plan.dtype), not self.rows
        done = 0
        for batch, estimate in self.batches(windows):
            clean = clean_pass(runner, batch)
            if first:
                self.rows += table_rows(batch, "clean", 0, clean.scores, split="calibration")
            places = NoiseKeys(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)
            for new in score(runner, clean, kernels, estimate, places, split="calibration"):
                self.rows += new
                done += len(new)
                self.progress(f"{self.name}: couplings", done, windows * passes)

    def fit(self) -> Couplings:
        """The best amplitudes of all points so far."""
        grid = grid_of(pd.DataFrame(self.rows))
        assert grid is not None
        return fit_couplings(grid, seed=self.loaded.task.seed)
