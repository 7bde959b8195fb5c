"""Expected values of a linear network under squared loss, and of what tissues of its tokens cost.

Source: CONTROLS, H, whose network this is; Gaussians as in any textbook.

x ~ N(0, S), answer f = aᵀx, target y = f + noise. The interpretation keeps the k leading principal axes: x̂ =
P x and r = x − P x are Gaussian and uncorrelated, so that r is independent of the codes. The loss is (y −
f)²/2 + log(2π)/2.

Steps, with v = aᵀ(1 − P)S(1 − P)a:
1. raw: E (noise + aᵀr)²/2 is v/2 above the clean loss. A Gaussian of the covariance of r, or another token's
   r, adds v/2 again: `full` and `permuted` are v above it.
2. All of this holds given the codes, and so in every group of tokens that the codes make: groups differ in
   nothing. Their spread is that of sampling (`flow.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.build import load_script

__all__ = ["Drawn", "Parameters", "claims", "draw"]

linear = load_script(Path(__file__).parents[2] / "linear-gaussian" / "expected.py")

Array = NDArray[np.float64]

CALIBRATION = 0.05
"""Share by which 8,192 independent calibration rows may be off in a variance: three standard errors."""


@dataclass(frozen=True)
class Parameters:
    """Width d, kept axes k, and the targets' noise."""

    dimension: int = 12
    kept: int = 4
    label_noise: float = 0.1
    """Variance of the targets about the answer."""
    seed: int = 0


class Drawn(NamedTuple):
    """Covariance [d, d], leading axes [d, k], readout [d]."""

    covariance: Array
    axes: Array
    readout: Array


def draw(parameters: Parameters) -> Drawn:
    """The network of control H, scaled so that the answer has variance 1."""
    network = linear.draw(
        linear.Parameters(dimension=parameters.dimension, kept=parameters.kept, seed=parameters.seed)
    )
    covariance, readout = network.covariance, network.readout
    axes = np.linalg.eigh(covariance)[1][:, -parameters.kept :]
    return Drawn(covariance, axes, readout / np.sqrt(readout @ covariance @ readout))


def claims(seed: int, **parameters: Any) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Nats per token."""
    chosen = Parameters(seed=seed, **parameters)
    covariance, axes, readout = draw(chosen)
    left = readout - axes @ (axes.T @ readout)
    v = float(left @ covariance @ left)
    gaps: dict[str, float | tuple[float, float]] = {
        "raw gap": v / 2,
        "full gap": (v, CALIBRATION * v),
        "permuted gap": (v, CALIBRATION * v),
    }
    return {"axes": {"clean": chosen.label_noise / 2 + log(2 * pi) / 2, **gaps}}
