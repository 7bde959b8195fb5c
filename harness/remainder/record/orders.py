"""The quenched loss order by order in the Gaussian residual, as perturbation theory orders it.

1. Γ(α) = E_ε L(x̂ + μ + αε), ε ~ N(0, Σ̂), is even in α: Γ(α) = Γ(0) + a₂α² + a₄α⁴ + …; to this order
   a₂ = ½ E tr(HΣ) with H the Hessian of the summed loss at x̂ + μ. For the KL alike.
2. a₂ and a₄ solve Γ(α) − Γ(0) = a₂α² + a₄α⁴ at the two amplitudes below 1. Every coefficient is a fixed
   combination of losses, so a ratio of sums over documents like any other number.
3. Only the draws that all amplitudes share are used: with the same z the noise of zᵀHz is one number at all
   amplitudes, and a₄, a difference of what is left at two of them, is free of it.
4. An elliptical residual of fourth cumulants κ̂ (Σ_ijΣ_kl + 2 permutations) has shape = −κ̂ a₄ at this order.
   A test of 5 % finds with a power of 80 % what is 2.8 standard errors large: κ̂ = 2.8 SE(shape)/|a₄|.

Source: protocol 2, section 1.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.record.intervals import MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.metrics import Orders, OrderTerms
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES
from remainder.record.values import Totals, document_totals, gap, of_split, pooled

__all__ = ["interaction", "order_weights", "orders_of", "shape_of", "shared_draws"]

Array = NDArray[np.float64]

POWERED = 2.8
"""Standard errors at which a two-sided test of 5 % has a power of 80 %."""


def shared_draws(table: pd.DataFrame, rungs: Collection[str]) -> dict[str, pd.DataFrame] | None:
    """Totals of some rungs, of the draws that all of them have; None if one was not measured.

    Args:
        table: canonical.
        rungs: noisy ones; `clean` comes with them.
    """
    rows = of_split(table)
    rows = rows.loc[rows["rung"].isin([*rungs, "clean"])]
    draws = rows.groupby("rung")["draw"].nunique()
    if not all(rung in draws for rung in rungs):
        return None
    fewest = int(draws[list(rungs)].min())
    return document_totals(rows.loc[rows["draw"] < fewest])


def order_weights(amplitudes: Array) -> Array:
    """Weights [2, 2] that give (a₂, a₄) from Γ(α) − Γ(0) at two amplitudes."""
    return np.asarray(np.linalg.inv(np.stack([amplitudes**2, amplitudes**4], axis=1)), dtype=np.float64)


def orders_of(bootstrap: Bootstrap, table: pd.DataFrame, totals: Totals) -> Orders | None:
    """The orders with their intervals; None if one of the amplitudes was not measured.

    Args:
        table: canonical.
        totals: of all draws of the table.
    """
    same = shared_draws(table, list(AMPLITUDES))
    if same is None or "mean" not in totals:
        return None
    same["mean"] = totals["mean"]
    loss = _terms(bootstrap, {rung: _ratio(gap(same, rung)) for rung in ("mean", *AMPLITUDES)})
    shape = shape_of(totals)
    return Orders(
        loss=loss,
        kl=_terms(bootstrap, {rung: _ratio(pooled(same, rung, "kl")) for rung in ("mean", *AMPLITUDES)}),
        interaction=Number.of_ratio(bootstrap, interaction(table, totals)),
        shape=Number.of_ratio(bootstrap, shape),
        smallest_kurtosis=_smallest_kurtosis(shape, loss.a4),
    )


def shape_of(totals: Totals) -> Ratio | str:
    """Gaussian less real one-token residuals: the telescope's term, without its rungs that of `full`."""
    whole = {"full-unshrunk", "matched"} <= totals.keys()
    return gap(totals, "full-unshrunk" if whole else "full", "permuted")


def interaction(table: pd.DataFrame, totals: Totals) -> Ratio | str:
    """(KL of `full` − KL of `mean`)/KL of `noise-centred` − 1, or why there is none; of the same draws."""
    same = shared_draws(table, ("full", "noise-centred"))
    if same is None or "mean" not in totals:
        lacking = next(
            (rung for rung in ("mean", "full", "noise-centred") if rung not in totals), "noise-centred"
        )
        return f"rung {lacking} was not measured"
    same["mean"] = totals["mean"]
    full, mean, noise = (_ratio(pooled(same, rung, "kl")) for rung in ("full", "mean", "noise-centred"))
    if not noise.numerator.any():
        return "the KL of noise-centred is 0"
    return Ratio(full.numerator - mean.numerator - noise.numerator, noise.numerator)


def _ratio(found: Ratio | str) -> Ratio:
    """A loss or KL of a rung that was measured."""
    assert isinstance(found, Ratio)
    return found


def _terms(bootstrap: Bootstrap, at: dict[str, Ratio]) -> OrderTerms:
    tokens = at["mean"].denominator
    zero, sampled = at["mean"].numerator, at["full"].numerator
    small = {rung: amplitude for rung, amplitude in AMPLITUDES.items() if amplitude != 1}
    above = np.stack([at[rung].numerator - zero for rung in small])
    a2, a4 = order_weights(np.array(list(small.values()))) @ above
    one, two = zero + a2, zero + a2 + a4

    def number(numerator: Array) -> Number:
        return Number.of_ratio(bootstrap, Ratio(numerator, tokens))

    return OrderTerms(
        zero=number(zero),
        one=number(one),
        two=number(two),
        sampled=number(sampled),
        a2=number(a2),
        a4=number(a4),
        remainder=number(two - sampled),
        missing=number(sampled - one),
        perturbativity=_perturbativity(bootstrap, sampled - one, a2),
    )


def _perturbativity(bootstrap: Bootstrap, missing: Array, a2: Array) -> Number:
    if not a2.any():
        return Number.null("a2 is 0: the noise changes nothing")
    return Number.of_ratio(bootstrap, Ratio(missing, a2, guarded=True))


def _smallest_kurtosis(shape: Ratio | str, a4: Number) -> Number:
    """κ̂ that shape has power for, or why there is none."""
    if isinstance(shape, str):
        return Number.null(shape)
    count = len(shape.numerator)
    if count < MINIMUM_DOCUMENTS or a4.value is None or a4.low is None or a4.high is None:
        return Number.null(f"a4 has no interval: {a4.reason}")
    if a4.low <= 0 <= a4.high:
        return Number.null("the interval of a4 holds 0: no kurtosis, however large, would have to show")
    mean = shape.numerator.sum() / shape.denominator.sum()
    influence = (shape.numerator - mean * shape.denominator) / shape.denominator.mean()
    error = float(np.sqrt((influence**2).sum() / (count * (count - 1))))
    return Number.bare(POWERED * error / abs(a4.value), "a size with power, no estimate")
