"""The seconds that a chain of sites will take, foreseen from one batch of each kind of pass.

Windows of calibration are looked at once for all sites together, and once for each site with sites below;
those of evaluation once. Fits are made once, whatever the number of windows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from remainder.base.cache import silent
from remainder.measure.estimate import duration
from remainder.measure.gather import evaluation_part
from remainder.measure.layers import Layered, Measured
from remainder.measure.layers_sums import Sums
from remainder.measure.plan import Plan

__all__ = ["LayersEstimate", "estimate_layers"]


class LayersEstimate(NamedTuple):
    """The cost of a measurement."""

    calibration: int
    """Windows."""
    evaluation: int
    """Windows."""
    seconds: float

    def lines(self) -> list[str]:
        """Sentences for a terminal."""
        return [
            f"windows: {self.calibration:,} of calibration, {self.evaluation:,} of evaluation",
            f"time: about {duration(self.seconds)}",
        ]


def estimate_layers(chain: Sequence[Layered], keeps: Sequence[int], plan: Plan) -> LayersEstimate:
    """Foresee a measurement by `measure.layers.measure_layers`, by timing one batch of each kind of pass.

    Raises:
        RemainderError: it could not be measured.
    """
    size = chain[0].loaded.batch_size
    windows, _ = evaluation_part(chain[0].loaded, plan)
    batches = math.ceil(plan.calibration_windows / size), math.ceil(windows / size)
    with torch.no_grad():
        found = Measured(chain, tuple(keeps), plan._replace(calibration_windows=size), silent)
        batch, entry = next(found.batches("calibration", "once"))
        found.look(batch, entry)  # what is loaded and compiled by a first pass is not counted
        calibration = _seconds(lambda: found.look(batch, entry))
        fits = _seconds(found.fit_alone)
        for place in range(1, len(chain)):
            calibration += _seconds(partial(found.look_above, batch, entry, place))
            fits += _seconds(partial(found.fit_above, place))
        first, start = next(found.batches("evaluation", "once"))
        evaluation = _seconds(lambda: found.add(first, start, Sums(tuple(keeps), len(chain))))
        evaluation *= size / len(first.inputs)  # where it holds only some of its documents
    seconds = batches[0] * calibration + fits + batches[1] * evaluation
    return LayersEstimate(plan.calibration_windows, windows, seconds)


def _seconds(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
