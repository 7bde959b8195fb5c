"""Expected values of control F: a residual of two values, whose Gaussian has tails that it has not.

Source: CONTROLS, F.

r = ±a with equal chance, independent of everything else; the model errs if and only if |r| > θ, θ > a.

Steps:
1. clean, permuted, matched: |r| = a < θ, no error. raw, mean, linear-mean: |ε| = 0, none. radial: in one
   dimension its direction is a sign, and its radius is always a: none.
2. Gaussian rungs: ε ~ N(0, a²): 2Φ(−θ/a).
3. perturbative-m: ε = m^{−1/2} Σ of m signs, times a: a binomial sum. Its cumulants approach a Gaussian's
   as m grows, and so does the error, in steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import binom

__all__ = ["Parameters", "expected", "perturbative_error"]


@dataclass(frozen=True)
class Parameters:
    """Control F: the threshold θ in units of a, at least 1, and the m of the rungs `perturbative-m`."""

    ratio: float = 1.5
    means: tuple[int, ...] = (2, 4, 8, 32)


def perturbative_error(ratio: float, count: int) -> float:
    """P(|m^{−1/2} Σ_{i≤m} s_i| > θ/a) for independent signs s_i (step 3)."""
    ups = np.arange(count + 1)
    beyond = np.abs(2 * ups - count) > ratio * np.sqrt(count)
    return float(binom.pmf(ups, count, 0.5) @ beyond)


def expected(parameters: Parameters) -> dict[str, float]:
    """Error rates, for "clean" and by rung."""
    silent = ("clean", "raw", "mean", "linear-mean", "radial", "permuted", "permuted-block", "matched")
    gaussian = float(2 * ndtr(-parameters.ratio))
    return {
        **dict.fromkeys(silent, 0.0),
        **dict.fromkeys(("isotropic", "diagonal", "full", "linear", "temporal"), gaussian),
        **{f"perturbative-{m}": perturbative_error(parameters.ratio, m) for m in parameters.means},
    }
