"""The verdict on a run: whether measured values agree with claimed ones, over all comparisons together.

1. The deviation beyond the allowance, d = max(|measured − expected| − allowance − 10⁻⁶, 0), with its sign;
   for a one-sided claim 0 if it lies on the side that is claimed. 10⁻⁶ allows for
   rounding in float32 passes.
2. z = d / standard error. Without a standard error (a value that is the same in every document) it is
   infinite, unless d = 0.
3. p from Student's t with the degrees of freedom of the standard error, two-sided, or one-sided. A normal
   law would find several times too many significant deviations this far out: at |z| = 4.5, 9 times with 40
   documents.
4. All comparisons share one family-wise error of 1 %, by Holm's (1979) step-down: with the p in rising order,
   the i-th of m is adjusted to max over j ≤ i of (m − j + 1) p_j, and fails if that is at most 1 %.
5. A law |q| = c x^s is fitted by least squares, weighted with the standard errors, to all its points, on
   the scale of q itself: the logarithm of a noisy number is biased. It holds if s is within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import curve_fit

from remainder.errors import MeasurementError
from remainder.validation.claims import Claim, Law
from remainder.validation.quantities import Measured

__all__ = [
    "FAMILY_WISE",
    "Finding",
    "JudgedClaim",
    "LawVerdict",
    "PowerLaw",
    "deviation",
    "fit_power_law",
    "holm",
    "judge",
    "judge_law",
]

FAMILY_WISE = 0.01
"""Chance that a benchmark without fault fails at least one comparison of a run."""

_FLOAT32 = 1e-6
_NO_ERROR = 1e-8
"""Share of a value below which its standard error is rounding."""

Array = NDArray[np.float64]


class Finding(NamedTuple):
    """A claim and what was measured, in one world."""

    task: str
    seed: int
    claim: Claim
    measured: Measured


class JudgedClaim(NamedTuple):
    """A finding with its verdict."""

    task: str
    interpretation: str
    seed: int
    quantity: str
    measured: float
    se: float
    expected: float
    allowance: float
    z: float
    """Deviation beyond the allowance in standard errors."""
    p: float
    """Adjusted for all comparisons of the run."""
    passed: bool

    @property
    def one_sided(self) -> bool:
        """Whether only a deviation to one side counts."""
        return self.quantity.endswith((" at least", " at most"))


class PowerLaw(NamedTuple):
    """|y| = prefactor · x^exponent, and the standard error of the exponent."""

    prefactor: float
    exponent: float
    error: float


class LawVerdict(NamedTuple):
    """A law with what was fitted."""

    law: Law
    fit: PowerLaw
    z: float
    """Deviation of the exponent in standard errors."""
    passed: bool


def deviation(claim: Claim, measured: Measured) -> float:
    """The deviation of a measured value beyond the allowance (step 1)."""
    difference = measured.value - claim.expected
    side = claim.quantity.side
    if (side == "at least" and difference > 0) or (side == "at most" and difference < 0):
        return 0.0
    return math.copysign(max(abs(difference) - claim.allowance - _FLOAT32, 0.0), difference)


def judge(findings: Sequence[Finding], level: float = FAMILY_WISE) -> tuple[JudgedClaim, ...]:
    """All findings of a run with their verdicts, in the same order."""
    scores, chances = [], []
    for finding in findings:
        measured, d = finding.measured, deviation(finding.claim, finding.measured)
        exact = measured.error <= _NO_ERROR * max(abs(measured.value), 1.0)
        z = d / measured.error if not exact else math.copysign(math.inf, d) if d else 0.0
        two_sided = finding.claim.quantity.side == "equal"
        chance = (2 if two_sided else 1) * float(stats.t.sf(abs(z), measured.freedom)) if d else 1.0
        scores.append(z)
        chances.append(chance)
    adjusted = holm(np.array(chances, dtype=np.float64))
    return tuple(
        JudgedClaim(
            task=finding.task,
            interpretation=finding.claim.interpretation,
            seed=finding.seed,
            quantity=finding.claim.quantity.text,
            measured=finding.measured.value,
            se=finding.measured.error,
            expected=finding.claim.expected,
            allowance=finding.claim.allowance,
            z=z,
            p=float(p),
            passed=bool(p > level),
        )
        for finding, z, p in zip(findings, scores, adjusted, strict=True)
    )


def holm(p: Array) -> Array:
    """Holm's adjusted p-values, in the order of `p`."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1.0)
    return adjusted


def judge_law(law: Law, points: Mapping[str, Sequence[Measured]]) -> LawVerdict:
    """A law compared with the measurements on its tasks, once per seed.

    Raises:
        MeasurementError: if no power law can be fitted.
    """
    rows = [(law.tasks[task], *found[:2]) for task, each in points.items() for found in each]
    x, y, errors = np.array(rows, dtype=np.float64).T
    if not (errors > 0).all():
        raise MeasurementError(f"law {law.name}: a point has no standard error", fix="use more documents")
    fit = fit_power_law(x, y, errors)
    off = fit.exponent - law.exponent
    return LawVerdict(law, fit, off / fit.error, bool(abs(off) <= law.tolerance))


def fit_power_law(x: Array, y: Array, errors: Array) -> PowerLaw:
    """|y| = c x^s by weighted least squares (step 5).

    Args:
        x: positive, `[points]`, at least two different ones.
        y: of one sign but for noise, `[points]`.
        errors: standard errors of y, `[points]`.

    Raises:
        MeasurementError: if the fit does not converge.
    """
    weights = errors**-2
    sign = 1.0 if weights @ y >= 0 else -1.0
    u = np.log(x)
    middle = float(np.average(u, weights=weights))  # where c and s are nearly uncorrelated
    usable = sign * y > 0
    slope, start = np.polyfit(u[usable] - middle, np.log(sign * y[usable]), 1, w=(sign * y / errors)[usable])

    def power(u: Array, log_c: float, s: float) -> Array:
        return np.asarray(np.exp(log_c + s * (u - middle)))

    try:
        found, covariance = curve_fit(
            power, u, sign * y, p0=(start, slope), sigma=errors, absolute_sigma=True
        )
    except RuntimeError as problem:
        raise MeasurementError(f"no power law can be fitted: {problem}", fix="use more documents") from None
    return PowerLaw(
        float(np.exp(found[0] - found[1] * middle)), float(found[1]), float(np.sqrt(covariance[1, 1]))
    )
