"""The Gaussian ratio ρ = KL(x − r)/KL(noise) taken apart, with r = μ + c and noise N(−μ, Σ̂) around x.

1. By sign: ρ_even ± ρ_odd = KL(x − μ ∓ c)/KL(noise). The mirror image is about the mean: about x, an exactly
   Gaussian and independent residual with a mean would have an odd part. ρ = ρ_even + ρ_odd.
2. By size: ρ₀ is the even part at amplitude 0.3, over noise of that amplitude; it is what ratios of residuals
   of different size may be compared by.
3. By what the noise shares with the residual. Nulls are nested: as long at each token (isotropic); of its
   covariance (fitted); both (directional); real residuals in their order (run). Each factor is the log of the
   KL of one null over that of the one before, the last that of r itself over a run: they add up to the log of
   the isotropic ratio.
4. Beside them, ratios to noise that others have used: see `residual.around`.

Source: protocol 2, section 3.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from remainder.record.coding import scored_rung
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import RatioParts
from remainder.record.number import Number
from remainder.record.rungs import AROUND, SMALL
from remainder.record.values import KL_ROUNDING, Totals, pooled

__all__ = ["NESTED", "OTHERS", "gaussian_ratio", "ratio_even", "ratio_odd", "ratio_parts"]

Array = NDArray[np.float64]

NESTED = ("noise-isotropic", "noise-fitted", "noise-directional", "noise-run")
"""Nulls from the one that shares least with the residual to the one that shares most."""
OTHERS = ("noise-run", "cov-random", "real-mixture", "activation-difference")
"""Denominators beside those of `GaussianRatio`."""

_NOISE, _MIRROR = "noise-fitted", "mirror"


def ratio_parts(bootstrap: Bootstrap, totals: Totals) -> RatioParts | None:
    """All parts with their intervals; None where no splice around x but the ratio's own was measured."""
    if not AROUND.keys() & totals.keys():
        return None
    return RatioParts(
        even=Number.of_ratio(bootstrap, ratio_even(totals)),
        odd=Number.of_ratio(bootstrap, ratio_odd(totals)),
        small=Number.of_ratio(bootstrap, _small(totals)),
        mean_kl=Number.of_ratio(bootstrap, pooled(totals, "minus-mean", "kl")),
        factors=_factors(bootstrap, totals),
        others={
            rung: Number.of_ratio(bootstrap, gaussian_ratio(totals, rung))
            for rung in OTHERS
            if rung in totals
        },
    )


def gaussian_ratio(totals: Totals, denominator: str) -> Ratio | str:
    """KL of the reconstruction over that of a splice around x, or why there is none."""
    found = _kls(totals, scored_rung(totals), denominator)
    return found if isinstance(found, str) else Ratio(found[0], found[1], "positive")


def ratio_even(totals: Totals) -> Ratio | str:
    """ρ_even, or why there is none."""
    found = _kls(totals, scored_rung(totals), _MIRROR, _NOISE)
    return found if isinstance(found, str) else Ratio((found[0] + found[1]) / 2, found[2], "positive")


def ratio_odd(totals: Totals) -> Ratio | str:
    """ρ_odd, signed, or why there is none."""
    found = _kls(totals, scored_rung(totals), _MIRROR, _NOISE)
    return found if isinstance(found, str) else Ratio((found[0] - found[1]) / 2, found[2])


def _small(totals: Totals) -> Ratio | str:
    """ρ₀, or why there is none."""
    found = _kls(totals, *(f"{what}-{SMALL:g}" for what in ("residual", "mirror", "noise")))
    return found if isinstance(found, str) else Ratio((found[0] + found[1]) / 2, found[2], "positive")


def _factors(bootstrap: Bootstrap, totals: Totals) -> dict[str, Number]:
    """Log factors by the null that each leads to, and `residual`; none unless all nulls were measured."""
    if not set(NESTED) <= totals.keys():
        return {}
    chain = [*NESTED, scored_rung(totals)]
    return {
        "residual" if name == chain[-1] else name: _log_ratio(bootstrap, _kls(totals, name, before))
        for before, name in pairwise(chain)
    }


def _log_ratio(bootstrap: Bootstrap, kls: list[Array] | str) -> Number:
    """log of a mean over another, with its interval on that scale."""
    if isinstance(kls, str):
        return Number.null(kls)
    return Number.of(
        bootstrap.of_function(
            np.stack(kls, axis=1),
            lambda means: np.log(means[..., 0]) - np.log(means[..., 1]),
            gradient=lambda means: np.stack([1 / means[..., 0], -1 / means[..., 1]], axis=-1),
        )
    )


def _kls(totals: Totals, *rungs: str) -> list[Array] | str:
    """KL of rungs summed over documents, `[documents]` each, all above 0; or why one is not."""
    kls = {rung: pooled(totals, rung, "kl") for rung in rungs}
    for kl in kls.values():
        if isinstance(kl, str):
            return kl
    found = {rung: kl.numerator for rung, kl in kls.items() if isinstance(kl, Ratio)}
    for rung, sums in found.items():
        if not sums.any():
            return f"the KL of {rung} is 0: below {KL_ROUNDING:g} nats per token"
    return list(found.values())
