"""Intervals: a studentised paired bootstrap over documents of a ratio of sums.

Every number of a record is a ratio of sums over documents, R = sum a / sum b (a pooled mean when b counts
tokens), or a difference of two such ratios. Steps (bootstrap-t; Davison and Hinkley 1997, section 5.2.1):

1. R and its linearised (delta-method) standard error s, from the influence of each document,
   e_i = (a_i - R b_i) / mean(b), s^2 = sum e_i^2 / (n (n - 1)).
2. Resample documents with replacement; for each resample R* and s* by the same formulas.
3. Quantiles q of t* = (R* - R) / s*; the interval is [R - q_high s, R - q_low s].

The percentile interval covers too rarely with few, skewed documents; this one does not. All metrics of a
record share the same resamples, so everything is paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "MINIMUM_DOCUMENTS", "RESAMPLES", "Bootstrap", "Estimate", "Ratio", "other_rounding"]

RESAMPLES = 2000
LEVEL = 0.95
MINIMUM_DOCUMENTS = 5
"""Below this a resample of one document repeated is too frequent for the tails to mean anything."""

_DEGENERATE = 1e-6
"""A resample's standard error below this share of the sample's is rounding: it stands for zero."""

Array = NDArray[np.float64]

_rounding: ContextVar[np.random.Generator | None] = ContextVar("rounding", default=None)


@contextmanager
def other_rounding(seed: int) -> Iterator[None]:
    """Within this context the last digits of the summands are perturbed at random.

    Platforms add in different orders. Where resamples have hardly any spread that moves t* by more than its
    last digits; a comparison of two platforms finds out here by how much.
    """
    token = _rounding.set(np.random.default_rng(seed))
    try:
        yield
    finally:
        _rounding.reset(token)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; whatever is None is explained by `reason`."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None

    def excludes_zero(self) -> bool | None:
        """Whether the interval leaves out 0; None when there is no interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Ratio:
    """sum(numerator) / sum(denominator); both `[documents]`, in the same order of documents.

    `guarded`: a ratio of two measured quantities, given only if its denominator's interval excludes 0.
    Counts of tokens need no guard.
    """

    numerator: Array
    denominator: Array
    guarded: bool = False


class Bootstrap:
    """Resamples of `documents` documents, made once and shared by all metrics of a record.

    Args:
        documents: how many there are. Arrays given later follow one fixed order (by document id).
        seed: of the resamples. The stream uses uniform doubles only, which numpy keeps stable.
        resamples: how many.
        level: nominal coverage of the intervals.
    """

    def __init__(
        self, documents: int, *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
    ) -> None:
        if documents < 1 or resamples < 1 or not 0 < level < 1:
            raise ValueError(f"bad bootstrap: {documents=}, {resamples=}, {level=}")
        self.documents = documents
        self.resamples = resamples
        self.level = level
        generator = np.random.Generator(np.random.PCG64(seed))
        chosen = (generator.random((resamples, documents)) * documents).astype(np.int64)
        offsets = np.arange(resamples)[:, None] * documents
        counts = np.bincount((chosen + offsets).ravel(), minlength=resamples * documents)
        self.weights: Array = counts.reshape(resamples, documents).astype(np.float64)
        """The number of times that each resample holds each document, `[resamples, documents]`."""

    def estimate(self, ratio: Ratio) -> Estimate:
        """The pooled `ratio`; of a guarded one, value None where the denominator's interval includes 0."""
        return self._estimate([(1.0, ratio)])

    def difference(self, second: Ratio, first: Ratio) -> Estimate:
        """second - first, paired document by document."""
        return self._estimate([(1.0, second), (-1.0, first)])

    def _estimate(self, terms: Sequence[tuple[float, Ratio]]) -> Estimate:
        for _, term in terms:
            self._check(term)
            refusal = self._refusal(term)
            if refusal is not None:
                return Estimate(None, None, None, refusal)
        # Scaled so that every denominator has mean 1, and centred so that every numerator sums to 0:
        # the products below then lose nothing to cancellation.
        signs = np.array([sign for sign, _ in terms])
        b = np.stack([term.denominator / np.mean(term.denominator) for _, term in terms], axis=1)
        a = np.stack([term.numerator / np.mean(term.denominator) for _, term in terms], axis=1)
        values = a.mean(axis=0)
        value = float(signs @ values)
        if self.documents < MINIMUM_DOCUMENTS:
            reason = f"{self.documents} documents; an interval needs at least {MINIMUM_DOCUMENTS}"
            return Estimate(value, None, None, reason)
        centred = a - values * b
        error = float(self._standard_error((centred @ signs)[None, :] ** 2)[0])
        if error <= 8 * np.finfo(np.float64).eps * float(np.abs(a).mean(axis=0).sum()):
            return Estimate(value, value, value)
        if (generator := _rounding.get()) is not None:
            last = 4 * np.finfo(np.float64).eps
            centred, b = (part * (1 + last * generator.uniform(-1, 1, part.shape)) for part in (centred, b))
        low, high = self._quantiles(centred, b, signs, error)
        if not (math.isfinite(low) and math.isfinite(high)):
            reason = "unbounded: too many resamples of the documents have no spread"
            return Estimate(value, None, None, reason)
        return Estimate(value, value - high * error, value - low * error)

    def _standard_error(self, squares: Array) -> Array:
        """Linearised standard error `[...]` from squared influences `[..., documents]`."""
        total: Array = squares.sum(axis=-1)
        return np.sqrt(np.maximum(total, 0.0) / (self.documents * (self.documents - 1)))

    def _quantiles(self, centred: Array, b: Array, signs: Array, error: float) -> tuple[float, float]:
        """Lower and upper quantile of t* = (R* - R) / s* over resamples; infinite where undefined."""
        n, terms = centred.shape
        columns = np.concatenate([centred, b], axis=1)
        sums = self.weights @ columns
        products = self.weights @ (columns[:, :, None] * columns[:, None, :]).reshape(n, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = sums[:, :terms] / sums[:, terms:]
            scale = signs * n / sums[:, terms:]
            # The influence e*_i is linear in the columns; its square sums to a quadratic form.
            coefficients = np.concatenate([scale, -scale * shift], axis=1)
            squares = np.einsum(
                "ri,rij,rj->r", coefficients, products.reshape(-1, 2 * terms, 2 * terms), coefficients
            )
            errors = self._standard_error(squares[:, None])
            moved = shift @ signs
            flat = errors <= _DEGENERATE * error
            t = np.where(
                flat, np.where(np.abs(moved) <= _DEGENERATE * error, 0.0, moved * np.inf), moved / errors
            )
        # An undefined resample could lie at either end: it counts against both.
        tail = (1 - self.level) / 2
        lower = np.sort(np.where(np.isnan(t), -np.inf, t))
        upper = np.sort(np.where(np.isnan(t), np.inf, t))
        first = max(math.floor((self.resamples + 1) * tail), 1) - 1
        return float(lower[first]), float(upper[self.resamples - 1 - first])

    def _refusal(self, term: Ratio) -> str | None:
        """Why the ratio has no value, or None if it has one."""
        if float(term.denominator.sum()) == 0:
            return "the denominator is zero"
        if not term.guarded:
            return None
        of_denominator = self.estimate(Ratio(term.denominator, np.ones(self.documents)))
        excluded = of_denominator.excludes_zero()
        if excluded is None:
            return f"the denominator has no interval: {of_denominator.reason}"
        return None if excluded else "the denominator's interval includes 0"

    def _check(self, term: Ratio) -> None:
        for name, array in (("numerator", term.numerator), ("denominator", term.denominator)):
            if array.shape != (self.documents,):
                raise ValueError(f"{name} has shape {array.shape}, expected ({self.documents},)")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds a value that is not finite")
