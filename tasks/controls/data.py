"""Examples of a control: windows of independent rows, drawn from the seed; shared by the scripts of all
controls.

A document is one window of `POSITIONS` rows, and nothing depends on anything in another row. Every split
has a random stream of its own, apart from the one that the network is drawn from.

How much: intervals and standard errors of a score are over evaluation documents, so that what the finite
calibration adds has to be small beside them. With N_c calibration rows, as many as the bank of real
residuals holds, and N_e evaluation rows, `permuted` has a standard error of s_r/√N_c from calibration and
of about s/√N_e from evaluation: s is the spread of its loss over rows, s_r that of the mean loss at a given
residual r. `full`, whose mean and covariance are as uncertain, comes out alike. All 65,536 rows of the bank
are used, and a quarter as many evaluation rows. The ratio of the two errors, s_r/2s, is then at most

| control | ratio for `full` and `permuted`, losses and gaps |
|---|---|
| gaussian-equivalence | 0.18 |
| alignment | 0.19 |
| parity, two-point | 0: the mean loss is the same at every r |
| impurities | 0.9; 0.1 with calibration rows that are not independent, see there |
| linear-gaussian | 0.8; 0.3 likewise |
| width | see there |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remainder.build import Examples

__all__ = ["POSITIONS", "Rows", "examples"]

POSITIONS = 128
"""Rows in a window, and in a document."""

WINDOWS = {"fit": 16, "calibration": 512, "evaluation": 128}

FRESH = 1024
"""Windows of evaluation examples that are drawn anew."""

Rows = Callable[[np.random.Generator, int], tuple[NDArray[Any], NDArray[Any]]]
"""From a generator and a number of rows: inputs [rows, ...] and targets [rows]."""


def examples(
    seed: int,
    rows: Rows,
    calibration: Rows | None = None,
    *,
    series: int = 0,
    evaluation_seed: int | None = None,
) -> dict[Any, Examples]:
    """Examples of the three splits, inputs in float32, targets int64 (classes) or float32 (numbers).

    Args:
        calibration: draws the rows of that split, if they are drawn otherwise.
        series: tasks of another number have other rows and documents, so other noise, for the same seed.
        evaluation_seed: of other, and more, evaluation examples; everything else stays.
    """
    found = {}
    for stream, (split, windows) in enumerate(WINDOWS.items()):
        key, name, count = [seed, stream, series], f"{split}-{series}", windows
        if split == "evaluation" and evaluation_seed is not None:
            key, name, count = [*key, 1 + evaluation_seed], f"{name}-{evaluation_seed}", FRESH
        drawn = calibration if split == "calibration" and calibration is not None else rows
        inputs, targets = drawn(np.random.default_rng(key), count * POSITIONS)
        kind = np.float32 if np.issubdtype(targets.dtype, np.floating) else np.int64
        found[split] = Examples(
            inputs.reshape(count, POSITIONS, *inputs.shape[1:]).astype(np.float32),
            targets.reshape(count, POSITIONS).astype(kind),
            tuple(f"{name}-{window:04d}" for window in range(count)),
        )
    return found
