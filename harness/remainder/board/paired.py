"""Rows told apart: all pairs of a table at once, so that none is called separable by chance.

1. Row i loses K_id nats over the T_d scored tokens of document d; R_i = Σ_d K_id / Σ_d T_d. With the
   influence of each document, u_id = (K_id − R_i T_d) / mean T, the difference D_ij = R_i − R_j has the
   standard error s_ij, s_ij² = Σ_d (u_id − u_jd)² / (n (n − 1)): paired, what documents share cancels.
2. Documents are resampled with replacement, the same for all rows; each resample gives D*_ij and s*_ij by the
   same formulas, and M* = max over all pairs of |D*_ij − D_ij| / s*_ij. s*_ij counts as no less than a tenth
   of s_ij: with few documents some resamples have hardly any spread.
3. c is the 95 % quantile of M*. Rows i and j are separable if |D_ij| > c s_ij, and by more than rounding.

With probability 95 % no D_ij is off by more than c s_ij, whatever the number of rows and however they depend
on each other: in 95 of 100 tables not one pair is put in the wrong order, or told apart though equal. So for
each row, 1 + (rows that are separably better) to n − (rows that are separably worse) hold its true place, for
all rows of the table together.

The maximum, not Holm's step: with B resamples no p-value falls below 1 / (B + 1), so that Holm's first step
separates nothing once there are more than .05 (B + 1) pairs; the quantile of a maximum needs a few hundred
resamples however many pairs there are. A model confidence set tells what may be the best, and of the others
nothing.

Source: Mogstad, Romano, Shaikh and Wilhelm, "Inference for ranks", Review of Economic Studies 91 (2024);
Romano and Wolf, Econometrica 73 (2005).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap
from remainder.report.compare import ROUNDING

__all__ = ["RESAMPLES", "Separation", "separate"]

RESAMPLES = 999
_FLOOR = 0.1
"""Share of the standard error below which that of no resample is taken to lie."""
_MEMORY = 4_000_000  # numbers of a block of resamples
_DUST = 64 * np.finfo(np.float64).eps

Array = NDArray[np.float64]


class Separation(NamedTuple):
    """Differences of `n` rows, and how large each must be, all pairs together."""

    differences: Array
    """KL of one row less that of another, nats per token, `[n, n]`."""
    margin: Array
    """The difference at which two rows are separable, nats per token, `[n, n]`; infinite: nothing tells."""

    @property
    def better(self) -> NDArray[np.bool_]:
        """Whether row i is separably better than row j, `[n, n]`."""
        return self.differences < -self.margin


def separate(sums: Array, tokens: Array, *, seed: int, resamples: int = RESAMPLES) -> Separation:
    """Compare all pairs of rows, paired by document.

    Args:
        sums: KL of each row summed over each document, nats, `[n, documents]`.
        tokens: scored tokens, the same for all rows, `[documents]`.
        seed: of the resamples.
        resamples: how many.
    """
    count = len(tokens)
    ratios, influence = _influence(sums, tokens, np.ones((1, count)))
    ratios, influence = ratios[0], influence[0]
    differences = ratios[:, None] - ratios[None, :]
    if count < MINIMUM_DOCUMENTS or len(sums) < 2:
        return Separation(differences, np.full_like(differences, math.inf))
    squares = _squares(influence[None], np.ones((1, count)))[0]
    flat = squares <= (_DUST * np.abs(sums).mean() / tokens.mean()) ** 2
    quantile = _quantile(sums, tokens, ratios, np.where(flat, math.inf, squares), seed, resamples)
    margin = np.maximum(quantile * np.sqrt(np.where(flat, 0.0, squares)), ROUNDING)
    return Separation(differences, margin)


def _quantile(sums: Array, tokens: Array, ratios: Array, squares: Array, seed: int, resamples: int) -> float:
    """The 95 % quantile of M* over resamples; pairs whose `squares` are infinite differ by a constant."""
    weights = _weights(len(tokens), seed, resamples)
    floor = _FLOOR**2 * squares
    largest = np.empty(resamples)
    block = max(_MEMORY // len(sums) ** 2, 1)
    for start in range(0, resamples, block):
        some = weights[start : start + block]
        moved, influence = _influence(sums, tokens, some)
        moved -= ratios
        found = _squares(influence, some)
        np.maximum(found, floor, out=found)
        apart = moved[:, :, None] - moved[:, None, :]
        np.square(apart, out=apart)
        apart /= found
        largest[start : start + len(some)] = apart.max(axis=(1, 2))
    place = min(math.ceil(LEVEL * (resamples + 1)), resamples)
    return float(np.sqrt(np.partition(largest, place - 1)[place - 1]))


def _influence(sums: Array, tokens: Array, weights: Array) -> tuple[Array, Array]:
    """Ratios `[resamples, n]`, and influences `[resamples, n, documents]`, by `weights` of the documents."""
    mass = weights @ tokens
    ratios = (weights @ sums.T) / mass[:, None]
    mean = mass / len(tokens)
    influence: Array = sums[None] - ratios[:, :, None] * tokens
    influence /= mean[:, None, None]
    return ratios, influence


def _squares(influence: Array, weights: Array) -> Array:
    """Squared standard errors of all differences, `[resamples, n, n]`."""
    count = weights.shape[1]
    scaled = influence * np.sqrt(weights / (count * (count - 1)))[:, None, :]
    products: Array = scaled @ scaled.transpose(0, 2, 1)
    own = np.einsum("bnd,bnd->bn", scaled, scaled)
    products *= -2
    products += own[:, :, None]
    products += own[:, None, :]
    return np.maximum(products, 0.0, out=products)


@lru_cache(maxsize=8)
def _weights(documents: int, seed: int, resamples: int) -> Array:
    """Counts of each document in each resample, made once for all tables of a size."""
    return Bootstrap(documents, seed=seed, resamples=resamples).weights
