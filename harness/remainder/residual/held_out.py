"""Figures of conditional kernels on documents that they were not fitted to.

Calibration documents are dealt into folds; each fold is predicted by a fit to the others.

1. What a prediction leaves of the residual gives, fold by fold, the moments of a sampler's own noise, and
   R² = 1 − Σ‖r − r̂‖²/Σ‖r − μ‖², μ the mean of the others.
2. The same for fits to the first 2,048, 8,192 and 32,768 rows of the others alone: the curve over rows, of
   the first fold. Where it still rises, more rows would find more.
3. Surprise: −log density of r + N(0, s²I), nats a token, under the Gaussian of the others' remains plus
   N(0, s²I), s² a thousandth of r's variance per dimension: so that samplers whose noise lives in fewer
   dimensions compare. The expectation over the added noise is exact, no number is drawn.

Source: protocol 2, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from remainder.record.rungs import FOLDS, SAMPLERS
from remainder.record.schema import ConditionalFit
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, fit_covariance
from remainder.residual.moments import Moments
from remainder.residual.rows import Rows, Seen

__all__ = [
    "SIZES",
    "HeldOut",
    "Predictor",
    "conditional_figures",
    "floor_of",
    "gaussian_surprise",
    "held_out",
    "rows_of",
    "surprise",
]

SIZES = (2048, 8192, 32768)
"""Rows that the curve of R² is made for, besides all."""

_FLOOR = 1e-3
_ROUNDING = 1e-9  # an R² below which nothing is explained
_LEAST = 50  # rows, of which a third is predicted by the others
_QUERIES = 8192  # rows that points of the curve are judged by


@runtime_checkable
class Predictor(Protocol):
    """A fitted conditional mean."""

    def predict(self, seen: Seen) -> Float[Tensor, "rows d"]:
        """The residual expected at each position where the mask holds, float64."""
        ...


Fit = Callable[[Sequence[int]], Predictor]
"""A fit to some windows of the calibration."""


@dataclass(frozen=True)
class HeldOut:
    """A conditional mean on documents that it was not fitted to."""

    explained: float | None
    """R²; null where the residual does not vary."""
    curve: dict[int, float]
    """R² on one fold by the number of rows that were fitted to."""
    left: tuple[Moments, ...]
    """Moments of r − r̂ of each fold; empty where they were not asked for."""


def rows_of(calibration: Calibration, what: str, *, codes: bool = False, tokens: bool = False) -> Rows:
    """All calibration rows, with what a fit needs of them.

    Raises:
        NotMeasurableError: if they were not kept, are too few or of one fold, or lack what is needed.
    """
    rows = calibration.rows
    if rows is None:
        raise NotMeasurableError(
            f"{what} needs all calibration rows, which were not kept",
            fix="keep them with `Calibration.empty`",
        )
    if len(rows) < _LEAST:
        raise NotMeasurableError(
            f"{what} needs at least {_LEAST} calibration rows, and there are {len(rows)}",
            fix="use more calibration windows",
        )
    if sum(bool(rows.order(fold)) for fold in range(FOLDS)) < 2:
        raise NotMeasurableError(
            f"{what} is judged by other documents than it is fitted to, and all fell into one fold",
            fix="use more calibration documents",
        )
    lacks = {"codes": codes and not rows.with_codes, "tokens": tokens and not rows.with_tokens}
    for name, missing in lacks.items():
        if missing:
            raise NotMeasurableError(f"{what} needs {name}, and there are none", fix=f"leave {what} out")
    return rows


def held_out(
    rows: Rows, fit: Fit, *, moments: bool = True, queries: int | None = None, curve: bool = True
) -> HeldOut:
    """Every fold predicted by a fit to the others.

    Args:
        moments: whether those of what is left are wanted.
        queries: rows of each fold that are predicted at most; None: all.
        curve: whether fits to fewer rows are made too.
    """
    left, squares, total, points = [], 0.0, 0.0, {}
    for fold in range(FOLDS):
        own, others = rows.order(fold), rows.order(without=fold)
        if not own or not others:
            left.append(Moments.empty(rows.width))
            continue
        own = own if queries is None else rows.first(own, queries)
        found = _predicted(rows, own, fit(others), rows.mean(fold), moments=moments)
        if curve and not total:
            few = rows.first(own, _QUERIES)
            for size in SIZES:
                if size < rows.count(others):
                    fitted = rows.first(others, size)
                    part = _predicted(rows, few, fit(fitted), rows.mean(fold), moments=False)
                    if part.total:
                        points[rows.count(fitted)] = 1 - part.squares / part.total
            if found.total:
                points[rows.count(others)] = 1 - found.squares / found.total
        left.append(found.moments)
        squares, total = squares + found.squares, total + found.total
    explained = 1 - squares / total if total else None
    if explained is not None and abs(explained) < _ROUNDING:
        explained = 0.0
    return HeldOut(explained, points, tuple(left) if moments else ())


@dataclass
class _Predicted:
    moments: Moments
    squares: float = 0.0
    total: float = 0.0


def _predicted(
    rows: Rows, windows: Sequence[int], model: Predictor, mean: Tensor, *, moments: bool
) -> _Predicted:
    """Sums over what a model leaves of some windows, and what the mean leaves."""
    found = _Predicted(Moments.empty(rows.width))
    for some in rows.blocks(windows):
        residual = some.rows.double()
        rest = residual - model.predict(some.seen)
        found.squares += float(rest.square().sum())
        found.total += float((residual - mean).square().sum())
        if moments:
            found.moments.update(rest)
    return found


def floor_of(calibration: Calibration) -> float:
    """s²: the variance of the noise that densities are compared with."""
    moments = calibration.moments
    return _FLOOR * float(moments.covariance.trace()) / calibration.width


def surprise(left: Sequence[Moments], floor: float) -> float | None:
    """Mean −log density of each fold's rows under the Gaussian of the others', nats a row.

    Args:
        left: moments of the rows, fold by fold.
        floor: s².

    Returns:
        None where the rows do not vary, or no fold can be left out.
    """
    if not floor > 0:
        return None
    total, count = 0.0, 0
    for place, fold in enumerate(left):
        others = [part for other, part in enumerate(left) if other != place]
        if fold.count and sum(part.count for part in others) >= 2:
            covariance = fit_covariance(others)
            total += gaussian_surprise(covariance, fold.about(covariance.mean), fold.count, floor)
            count += fold.count
    return total / count if count else None


def gaussian_surprise(covariance: DenseCovariance, scatter: Tensor, count: int, floor: float) -> float:
    """Sum of −log density over rows of this scatter about the mean; noise of variance `floor` added to both.

    −log p = ½ [n log det 2πV + tr V⁻¹(S + n s² I)],  V = Σ̂ + s² I, in all dimensions.
    """
    width = len(scatter)
    values, vectors = covariance.values + floor, covariance.vectors
    along = (vectors * (scatter @ vectors)).sum(0)
    outside = max(float(scatter.trace() - along.sum()), 0.0)
    rest = width - len(values)
    quadratic = float(((along + count * floor) / values).sum()) + outside / floor + count * rest
    determinant = float(values.log().sum()) + rest * math.log(floor) + width * math.log(2 * math.pi)
    return 0.5 * (count * determinant + quadratic)


def conditional_figures(calibration: Calibration) -> dict[str, Any]:
    """Figures of the conditional kernels that were fitted, `full` beside them, and the best sampler.

    Returns:
        The fields `conditional` and `best` of `CalibrationInfo`; empty where none was fitted.
    """
    found = dict(calibration.conditional)
    if not found:
        return {}
    if not calibration.is_large:
        beside = surprise(calibration.residual_folds, floor_of(calibration))
        found["full"] = ConditionalFit(rows=calibration.tokens, explained=None, surprise=beside)
    known = {rung: found[rung].surprise for rung in SAMPLERS if rung in found}
    least = {rung: value for rung, value in known.items() if value is not None}
    return {"conditional": found, "best": min(least, key=least.__getitem__) if least else None}
