"""Calibration rows that are spread evenly, for controls whose sources have known quantile functions.

As many independent rows as are evaluated would move the losses of `full` and `permuted` by as much as these
do (see `data.py`). Scrambled Sobol points (Owen, 1998) have each the uniform law, and fill the cube together
much more evenly than independent ones; so does every aligned block of 2^m of them, so that a tier may take
the first of them alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

__all__ = ["BLOCK", "uniform"]

BLOCK = 2**13
"""Rows within which the order is random: 64 windows."""


def uniform(generator: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float64]:
    """Points of the open unit cube `[count, dimensions]`, in random order within each block."""
    sequence = qmc.Sobol(dimensions, rng=generator)
    points = sequence.random_base2(max(count - 1, 1).bit_length())[:count]
    blocks = [generator.permutation(points[start : start + BLOCK]) for start in range(0, count, BLOCK)]
    return np.clip(np.concatenate(blocks), 1e-12, 1 - 1e-12)
