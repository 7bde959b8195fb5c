"""Intervals: a studentised paired bootstrap over documents of a ratio of sums.

Every number of a record is a ratio of sums over documents, R = sum a / sum b (a pooled mean when b counts
tokens), or a difference of two such ratios. Steps (bootstrap-t; Davison and Hinkley 1997, section 5.2.1):

1. R and its linearised (delta-method) standard error s, from the influence of each document,
   e_i = (a_i - R b_i) / mean(b), s^2 = sum e_i^2 / (n (n - 1)).
2. Resample documents with replacement; for each resample R* and s* by the same formulas.
3. Quantiles q of t* = (R* - R) / s*; the interval is [R - q_high s, R - q_low s].

Any other smooth function of means over documents is treated alike (`Bootstrap.of_function`). The percentile
interval covers too rarely with few, skewed documents; this one does not. All metrics of a record share the
same resamples, so everything is paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from remainder.record.scales import SCALES, ScaleName, wilson_ends

__all__ = ["LEVEL", "MINIMUM_DOCUMENTS", "RESAMPLES", "Bootstrap", "Estimate", "Ratio", "other_rounding"]

RESAMPLES = 2000
LEVEL = 0.95
MINIMUM_DOCUMENTS = 4
"""If fewer are not 0, more than 2.5 % of the resamples hold none of them, and there is no tail to read."""

_NOTHING = 1e-2
"""A document below this share of the largest counts as 0."""

_EPS = float(np.finfo(np.float64).eps)

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
Parts = Sequence[tuple[str, Array]]
"""Parts of a number by name, as much of them as each document holds, `[documents]`."""

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
    """A number with its interval; whatever is None is explained by `reason`.

    A `reason` beside an interval is a flag: with what care it is to be read.
    """

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

    `scale`: of the interval, by the kind of quantity. `guarded`: the denominator is a measured quantity that
    may have either sign, and the ratio is given only if the denominator's interval excludes 0.
    """

    numerator: Array
    denominator: Array
    scale: ScaleName = "plain"
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

    def at_level(self, level: float) -> Bootstrap:
        """A copy with these resamples, whose intervals have another nominal coverage."""
        other = copy(self)
        other.level = level
        return other

    def estimate(self, ratio: Ratio) -> Estimate:
        """The pooled `ratio`; of a guarded one, value None where the denominator's interval includes 0.

        A ratio that should be positive, and is of a table with numbers below 0, is taken as it is: signed.
        """
        negative = ratio.scale == "positive" and min(ratio.numerator.min(), ratio.denominator.min()) < 0
        return self._estimate([(1.0, ratio)], "plain" if negative else ratio.scale)

    def difference(self, second: Ratio, first: Ratio) -> Estimate:
        """second - first, paired document by document."""
        return self._estimate([(1.0, second), (-1.0, first)], "plain")

    def simultaneous(self, columns: Array, tokens: Array) -> tuple[Array, Array, Array]:
        """Values, lower and upper ends of several ratios, all ends of a side valid together.

        The quantile is that of the largest, or smallest, of the studentised ratios in each resample (Romano
        and Wolf 2005). Where a column does not vary over documents both ends are its value.

        Args:
            columns: numerators, `[documents, m]`.
            tokens: the denominator that all have, `[documents]`.

        Raises:
            ValueError: the arrays have wrong shapes, or there are too few documents for any interval.
        """
        if columns.ndim != 2 or columns.shape[0] != self.documents or tokens.shape != (self.documents,):
            raise ValueError(f"{columns.shape=}, {tokens.shape=}; there are {self.documents} documents")
        if self.documents < MINIMUM_DOCUMENTS:
            raise ValueError(f"{self.documents} documents; an interval needs {MINIMUM_DOCUMENTS}")
        weight = tokens / tokens.mean()
        scaled = columns / tokens.mean()
        values = scaled.mean(axis=0)
        influence = scaled - values * weight[:, None]
        count = self.documents * (self.documents - 1)
        errors = np.sqrt((influence**2).sum(0) / count)
        varies = errors > 8 * _EPS * np.abs(scaled).mean(0)
        low, high = values.copy(), values.copy()
        if not varies.any():
            return values, low, high
        kept, error = influence[:, varies], errors[varies]
        sums = self.weights @ weight
        moved = self.weights @ kept / sums[:, None]
        # Influences about the resample's own ratio: Σ w (a − moved·b)², spelled out.
        squares = (
            self.weights @ kept**2
            - 2 * moved * (self.weights @ (kept * weight[:, None]))
            + moved**2 * (self.weights @ weight**2)[:, None]
        )
        again = np.sqrt(np.maximum(squares, 0) / count) * (self.documents / sums)[:, None]
        t = moved / np.maximum(again, SCALES["plain"].floor * error)
        lower, upper = self._quantiles(t.min(axis=1))[0], self._quantiles(t.max(axis=1))[1]
        low[varies], high[varies] = values[varies] - upper * error, values[varies] - lower * error
        return values, low, high

    def of_function(
        self,
        columns: Array,
        f: Function,
        scale: ScaleName = "plain",
        *,
        gradient: Function | None = None,
    ) -> Estimate:
        """A smooth function of column means, f(m), with its studentised interval.

        The standard error is that of the delta method, s^2 = g'Cg / (n - 1) with the gradient g of f at m and
        the covariance C of the columns; for each resample both are those of the resample (Davison and Hinkley
        1997, section 2.7.2). For f(m) = m[0] / m[1] this is the interval of `estimate`.

        Args:
            columns: `[documents, m]`, in every column a sum over each document.
            f: maps means `[..., m]` to `[...]`; it is called with all resamples at once.
            scale: of the interval, by the kind of quantity; see `record.scales`.
            gradient: maps means `[..., m]` to `[..., m]`; by central differences where it is not given.

        Raises:
            ValueError: the columns have a wrong shape or hold a value that is not finite.
        """
        if columns.ndim != 2 or len(columns) != self.documents:
            raise ValueError(f"columns have shape {columns.shape}, expected ({self.documents}, m)")
        if not np.isfinite(columns).all():
            raise ValueError("columns hold a value that is not finite")
        mean = columns.mean(axis=0)
        centred = columns - mean
        slopes = gradient or partial(_slopes, f, centred.std(axis=0) / math.sqrt(self.documents))
        with np.errstate(all="ignore"):
            value, at_mean = float(f(mean[None])[0]), slopes(mean[None])[0]
        if not (math.isfinite(value) and np.isfinite(at_mean).all()):
            return Estimate(None, None, None, "it is not defined at the means of these documents")
        # The influence of a document is a column of its own: of a resample's gradient only what differs from
        # the sample's is then needed, and nothing cancels.
        influence = centred @ at_mean
        rounding = np.abs(columns) @ np.abs(at_mean) * (_EPS if gradient else _EPS ** (2 / 3))
        parts = [(f"column {number}", column) for number, column in enumerate(columns.T)]
        if (estimate := self._without_interval(value, influence, rounding, parts)) is not None:
            return estimate
        stacked = _shaken(np.column_stack([influence, centred]))
        means = self.weights @ stacked / self.documents
        with np.errstate(all="ignore"):
            moved = f(mean + means[:, 1:]) - value
            coefficients = np.column_stack([np.ones(len(means)), slopes(mean + means[:, 1:]) - at_mean])
            # Influences are about the mean of the resample.
            squares = (
                self._squares(stacked, coefficients) - self.documents * (means * coefficients).sum(1) ** 2
            )
        return self._studentised(value, influence, moved, squares, scale, _flag(parts))

    def _estimate(self, terms: Sequence[tuple[float, Ratio]], on: ScaleName) -> Estimate:
        for _, term in terms:
            self._check(term)
            refusal = self.refusal(term)
            if refusal is not None:
                return Estimate(None, None, None, refusal)
        # Scaled so that every denominator has mean 1, and centred so that every numerator sums to 0:
        # the products below then lose nothing to cancellation.
        signs = np.array([sign for sign, _ in terms])
        b = np.stack([term.denominator / np.mean(term.denominator) for _, term in terms], axis=1)
        a = np.stack([term.numerator / np.mean(term.denominator) for _, term in terms], axis=1)
        values = a.mean(axis=0)
        value = float(signs @ values)
        influence = (a - values * b) @ signs
        rounding = np.abs(a).sum(axis=1) * _EPS
        parts = _parts(a @ signs, b, on)
        if (estimate := self._without_interval(value, influence, rounding, parts)) is not None:
            if on == "share" and estimate.low is None and self.documents >= MINIMUM_DOCUMENTS:
                return self._wilson(value, influence)
            return estimate
        stacked = _shaken(np.concatenate([a - values * b, b], axis=1))
        sums = self.weights @ stacked
        number = len(terms)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = sums[:, :number] / sums[:, number:]
            scale = signs * self.documents / sums[:, number:]
            squares = self._squares(stacked, np.concatenate([scale, -scale * shift], axis=1))
        return self._studentised(value, influence, shift @ signs, squares, on, _flag(parts))

    def _without_interval(
        self, value: float, influence: Array, rounding: Array, parts: Parts
    ) -> Estimate | None:
        """The estimate where there are too few documents, or none differs from the others; else None.

        Args:
            influence: of each document, `[documents]`.
            rounding: what of it may be rounding, `[documents]`.
            parts: of the number; where few documents hold all of one, the others say nothing of it.
        """
        if self.documents < MINIMUM_DOCUMENTS:
            reason = f"{self.documents} documents; an interval needs at least {MINIMUM_DOCUMENTS}"
            return Estimate(value, None, None, reason)
        if self._error(influence) <= 8 * float(rounding.mean()):
            return Estimate(value, value, value)
        for name, part in parts:
            holders = int((np.abs(part) > _NOTHING * np.abs(part).max()).sum())
            if 0 < holders < MINIMUM_DOCUMENTS:
                needed = f"an interval needs {MINIMUM_DOCUMENTS}"
                where = f"all of {name} is in {holders} of {self.documents} documents"
                return Estimate(value, None, None, f"{where}; {needed}")
        return None

    def _wilson(self, value: float, influence: Array) -> Estimate:
        """The interval of a share where too few documents hold all that is right, or wrong."""
        from scipy.special import stdtrit  # slow to load, and few intervals need it

        quantile = float(stdtrit(self.documents - 1, (1 + self.level) / 2))
        return Estimate(value, *wilson_ends(value, self._error(influence), quantile))

    def _error(self, influence: Array) -> float:
        """Linearised standard error of the sample."""
        return math.sqrt((influence**2).sum() / (self.documents * (self.documents - 1)))

    def _squares(self, columns: Array, coefficients: Array) -> Array:
        """Sums over each resample of the squares of what is linear in the columns, `[resamples]`.

        Args:
            columns: `[documents, m]`.
            coefficients: `[resamples, m]`. The squares sum to a quadratic form in them.
        """
        n, m = columns.shape
        products = (self.weights @ (columns[:, :, None] * columns[:, None, :]).reshape(n, -1)).reshape(
            -1, m, m
        )
        squares: Array = np.einsum("ri,rij,rj->r", coefficients, products, coefficients)
        return squares

    def _studentised(
        self,
        value: float,
        influence: Array,
        moved: Array,
        squares: Array,
        scale: ScaleName,
        flag: str | None,
    ) -> Estimate:
        """The interval from all resamples: how far each moved, and its sum of squared influences."""
        on = SCALES[scale]
        with np.errstate(all="ignore"):
            step = self._error(influence) * float(on.slope(np.array([value]))[0])
            errors = np.sqrt(np.maximum(squares, 0.0) / (self.documents * (self.documents - 1)))
            errors *= on.slope(value + moved)
            # At an end of the range nothing spreads and the slope is infinite; the floor holds there too.
            errors = np.fmax(np.where(np.isinf(errors), 0.0, errors), on.floor * step)
            t = np.where(np.isfinite(moved), on.moved(value, moved) / errors, np.nan)
        low, high = self._quantiles(t)
        if not (math.isfinite(low) and math.isfinite(high)):
            reason = "unbounded: it is not defined in too many resamples of the documents"
            return Estimate(value, None, None, reason)
        return Estimate(value, on.back(value, -high * step), on.back(value, -low * step), flag)

    def _quantiles(self, t: Array) -> tuple[float, float]:
        """Lower and upper quantile of t* over resamples; infinite where too many are undefined (NaN)."""
        # An undefined resample could lie at either end: it counts against both.
        tail = (1 - self.level) / 2
        lower = np.sort(np.where(np.isnan(t), -np.inf, t))
        upper = np.sort(np.where(np.isnan(t), np.inf, t))
        first = max(math.floor((self.resamples + 1) * tail), 1) - 1
        return float(lower[first]), float(upper[self.resamples - 1 - first])

    def refusal(self, term: Ratio) -> str | None:
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


def _parts(numerator: Array, denominators: Array, on: ScaleName) -> Parts:
    """The parts of a ratio by name, as much of them as each document holds.

    Args:
        numerator: `[documents]`.
        denominators: `[documents, terms]`.
    """
    rest = ("what is missing to 1", denominators[:, 0] - numerator)
    above = {"mirrored": [rest], "share": [("the numerator", numerator), rest]}
    return [
        *above.get(on, [("the numerator", numerator)]),
        *(("the denominator", denominator) for denominator in denominators.T),
    ]


def _flag(parts: Parts) -> str | None:
    """A caution for the reader of an interval, where one document holds over half of a part of the number."""
    names = dict.fromkeys(name for name, part in parts if 2 * np.abs(part).max() > np.abs(part).sum())
    return f"one document holds over half of {' and of '.join(names)}" if names else None


def _shaken(columns: Array) -> Array:
    """The columns, in `other_rounding` with other last digits."""
    if (generator := _rounding.get()) is None:
        return columns
    return columns * (1 + 4 * _EPS * generator.uniform(-1, 1, columns.shape))


def _slopes(f: Function, spread: Array, means: Array) -> Array:
    """The gradient of f by central differences, `[..., m]`.

    Steps are a small share of each mean, so that none that is positive leaves its range, or of its standard
    error `spread` `[m]` where that is larger.
    """
    steps = _EPS ** (1 / 3) * np.maximum(np.abs(means), spread)
    gradient = np.zeros_like(means)
    for column in range(means.shape[-1]):
        aside = np.zeros_like(means)
        aside[..., column] = steps[..., column]
        apart = f(means + aside) - f(means - aside)
        # A column of zeros cannot be moved, and nothing depends on it.
        gradient[..., column] = np.where(aside[..., column] > 0, apart / (2 * aside[..., column]), 0.0)
    return gradient
