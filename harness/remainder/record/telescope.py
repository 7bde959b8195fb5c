"""The telescope of the Gaussian gap, and the approach to it as cumulants fade.

- Telescope: L(full) − L(clean) = [full − permuted] + [permuted − matched] + [matched − clean], exact since
  all terms are differences on the same tokens; `full` is the one with the bank's own μ and Σ.
- With conditional samplers, [full − permuted] + [permuted − best] + [best − clean]: the last term is what was
  not found with so many calibration rows, and no property of the residual alone.
- Least squares through the gaps of m = 1 (`permuted`), 2, 4, … and the Gaussian limit at m = ∞ gives
  L_G + c₁ m^{−1/2} + c₂ m^{−1}: c₁ comes from third, c₂ from fourth cumulants and squares of third ones.
  Every coefficient is a fixed combination of gaps, so a ratio of sums over documents like any other number.

Source: protocol 1, section 3; protocol 2, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from remainder.record.conditional import ConditionalTelescope
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import PerturbativeFit, Telescope
from remainder.record.number import Number
from remainder.record.rungs import CONDITIONAL_MEANS, PERTURBATIVE, SAMPLERS

__all__ = ["conditional_telescope", "perturbative_fit", "perturbative_weights", "telescope"]

Gaps = Mapping[str, Ratio]
"""Gap of each rung: per-document sums of the loss less the clean loss, over scored tokens."""


def telescope(bootstrap: Bootstrap, gaps: Gaps) -> Telescope | None:
    """The terms with their intervals; None if one of the rungs was not measured."""
    needed = ("full", "full-unshrunk", "permuted", "matched")
    if not all(rung in gaps for rung in needed):
        return None
    full, unshrunk, permuted, matched = (gaps[rung] for rung in needed)

    def less(second: Ratio, first: Ratio) -> Number:
        return Number.of_ratio(bootstrap, Ratio(second.numerator - first.numerator, second.denominator))

    return Telescope(
        total=Number.of_ratio(bootstrap, unshrunk),
        shape=less(unshrunk, permuted),
        dependence=less(permuted, matched),
        rest=Number.of_ratio(bootstrap, matched),
        shrinkage=less(full, unshrunk),
        across_tokens=less(gaps["full-temporal"], full) if "full-temporal" in gaps else None,
    )


def conditional_telescope(bootstrap: Bootstrap, gaps: Gaps, best: str | None) -> ConditionalTelescope | None:
    """The terms by conditional samplers; None if none of these rungs was measured.

    Args:
        best: the sampler that the calibration chose; None: it has none to choose from.
    """
    samplers = [rung for rung in (*SAMPLERS, "neighbour") if rung in gaps]
    means = [rung for rung in CONDITIONAL_MEANS if rung in gaps]
    if not samplers and not means:
        return None
    start = "full-unshrunk" if "full-unshrunk" in gaps else "full"
    chosen = best if best in gaps else None

    def less(second: str, first: str) -> Number:
        for rung in (second, first):
            if rung not in gaps:
                return Number.null(f"rung {rung} was not measured")
        return Number.of_ratio(
            bootstrap, Ratio(gaps[second].numerator - gaps[first].numerator, gaps[first].denominator)
        )

    none = Number.null("no conditional sampler with a density was measured")
    return ConditionalTelescope(
        total=Number.of_ratio(bootstrap, gaps.get(start, f"rung {start} was not measured")),
        shape=less(start, "permuted"),
        best=chosen,
        found=none if chosen is None else less("permuted", chosen),
        not_found=none if chosen is None else Number.of_ratio(bootstrap, gaps[chosen]),
        samplers={rung: less("permuted", rung) for rung in samplers},
        means={rung: less("mean", rung) for rung in means},
    )


def perturbative_weights(orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [3, orders] that give (L_G, c₁, c₂) from losses at m = `orders` (∞ is the Gaussian limit)."""
    design = np.stack([np.ones_like(orders), orders**-0.5, 1 / orders], axis=1)
    return np.asarray(np.linalg.pinv(design), dtype=np.float64)


def perturbative_fit(bootstrap: Bootstrap, gaps: Gaps) -> PerturbativeFit | None:
    """The three coefficients with their intervals; None if one of the rungs was not measured."""
    rungs = ["full-unshrunk", "permuted", *(f"perturbative-{m}" for m in PERTURBATIVE)]
    if not all(rung in gaps for rung in rungs):
        return None
    weights = perturbative_weights(np.array([np.inf, 1.0, *PERTURBATIVE]))
    stacked = np.stack([gaps[rung].numerator for rung in rungs])
    tokens = gaps["permuted"].denominator
    limit, c1, c2 = (Number.of_ratio(bootstrap, Ratio(row, tokens)) for row in weights @ stacked)
    return PerturbativeFit(limit=limit, c1=c1, c2=c2)
