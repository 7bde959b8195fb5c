"""Expected values of control F: a residual of two values, whose Gaussian has tails that it has not.

Source: CONTROLS, F.

r = ±a with equal chance, independent of everything else; the model errs if and only if |r| > θ, θ > a: its
logit for the right class is gain · (θ − |r|)/a.

Steps:
1. clean, permuted, matched: |r| = a < θ, no error. raw, mean, linear-mean: |ε| = 0, none. radial: in one
   dimension its direction is a sign, and its radius is always a: none.
2. Gaussian rungs: ε ~ N(0, a²): 2Φ(−θ/a).
3. perturbative-m: ε = m^{−1/2} Σ of m signs, times a: a binomial sum. Its cumulants approach a Gaussian's
   as m grows, and so does the error, in steps.
4. Nats: E softplus(gain · (|ε| − θ)/a) over the same laws of ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtr
from scipy.stats import binom

__all__ = ["Parameters", "claims", "cross_entropies", "expected", "figure", "perturbative_error"]

Claims = dict[str, dict[str, float | tuple[float, float]]]

SILENT = ("raw", "mean", "linear-mean")
"""Rungs that add nothing."""

REAL = ("clean", "radial", "permuted", "permuted-block", "matched")
"""Rungs that add ±a, and the clean model."""

GAUSSIAN = ("isotropic", "diagonal", "full", "linear", "temporal")


@dataclass(frozen=True)
class Parameters:
    """Control F: the threshold θ in units of a, at least 1, and the m of the rungs `perturbative-m`."""

    ratio: float = 1.5
    means: tuple[int, ...] = (2, 4, 8, 32)
    gain: float = 4.0
    """Logits per a."""


def perturbative_error(ratio: float, count: int) -> float:
    """P(|m^{−1/2} Σ_{i≤m} s_i| > θ/a) for independent signs s_i (step 3)."""
    ups = np.arange(count + 1)
    beyond = np.abs(2 * ups - count) > ratio * np.sqrt(count)
    return float(binom.pmf(ups, count, 0.5) @ beyond)


def expected(parameters: Parameters) -> dict[str, float]:
    """Error rates, for "clean" and by rung."""
    gaussian = float(2 * ndtr(-parameters.ratio))
    return {
        **dict.fromkeys((*SILENT, *REAL), 0.0),
        **dict.fromkeys(GAUSSIAN, gaussian),
        **{f"perturbative-{m}": perturbative_error(parameters.ratio, m) for m in parameters.means},
    }


def cross_entropies(parameters: Parameters) -> dict[str, float]:
    """Cross-entropies in nats, for "clean" and by rung (step 4)."""

    def loss(size: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.logaddexp(0, parameters.gain * (size - parameters.ratio))

    nodes, weights = np.polynomial.legendre.leggauss(200)
    size = 5 * (nodes + 1)  # |g| on [0, 10]
    half_normal = 5 * weights * np.sqrt(2 / np.pi) * np.exp(-(size**2) / 2)
    values = dict.fromkeys(SILENT, float(loss(np.zeros(1))[0]))
    values |= dict.fromkeys(REAL, float(loss(np.ones(1))[0]))
    values |= dict.fromkeys(GAUSSIAN, float(half_normal @ loss(size)))
    for m in parameters.means:
        ups = np.arange(m + 1)
        values[f"perturbative-{m}"] = float(binom.pmf(ups, m, 0.5) @ loss(np.abs(2 * ups - m) / np.sqrt(m)))
    return values


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity (nats and shares); the same for every seed.

    The mean δ of the calibration residual is not exactly 0. It moves what `mean` adds by δ, where the slope
    of the loss is gain · sigmoid(gain · (0 − θ)); and half of what `radial` adds by 2δ, half of that to
    either side, so that only the curvature counts, at most gain²/4. That much is allowed for δ = 5/√65,536.
    No error changes: no sum of signs is so near θ.
    """
    chosen = Parameters(**parameters)
    shift = chosen.gain * 5 / np.sqrt(65_536)
    found: dict[str, float | tuple[float, float]] = {
        f"{rung} error": value for rung, value in expected(chosen).items()
    }
    nats = cross_entropies(chosen)
    found |= nats
    for rung in ("mean", "linear-mean"):
        found[rung] = nats[rung], float(shift * expit(shift - chosen.gain * chosen.ratio))
    found["radial"] = nats["radial"], float((2 * shift) ** 2 / 16)
    return {"nothing": found}


def figure() -> dict[str, Any]:
    """Errors of this control, which is about shape, and of the parity, which is about dependence."""
    rungs = ("clean", "full", "permuted", "matched")
    return {
        "name": "shape-and-dependence",
        "title": "What a Gaussian residual cannot know: shape, and dependence on the label",
        "caption": (
            "Two points: a residual of two values has no tails, so that real residuals (permuted) do no harm "
            "while Gaussian ones do. Parity: the residual holds all of the label, and every rung that does "
            "not know how is at chance."
        ),
        "panels": [
            {
                "kind": "bars",
                "title": "",
                "xlabel": "",
                "ylabel": "error",
                "series": [{"quantity": f"{rung} error", "label": rung} for rung in rungs],
                "points": [
                    {"task": "controls/two-point", "interpretation": "nothing", "x": "two points"},
                    {"task": "controls/parity", "interpretation": "nothing", "x": "parity of three signs"},
                ],
            }
        ],
    }
