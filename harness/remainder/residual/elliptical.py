"""The intensity of shrinkage by a likelihood that heavy tails do not inflate.

Residuals are near to elliptical: a Gaussian times a length of its own for each token. The Gaussian likelihood
of held-out rows is then decided by the few longest, and asks for more shrinkage than the shape of the
covariance needs. The direction of a row has a density that does not depend on its length, the angular
central Gaussian: for a fold with rows r about the mean of the others, whose correlation is Σ eᵢ qᵢqᵢᵀ,

    log L(λ) = −½ Σ_r [Σᵢ log vᵢ + d log Σᵢ (qᵢᵀr)²/vᵢ],    vᵢ = (1 − λ) eᵢ + λ t.

For Gaussian rows of many dimensions it has its maximum where the Gaussian likelihood has.

Source: protocol 2, section 4; Tyler 1987, "Statistical analysis for the angular central Gaussian distribution
on the sphere".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.residual.covariance import NotMeasurableError
from remainder.residual.moments import Moments
from remainder.residual.support import support_of, varies

__all__ = ["elliptical_intensity"]

_GRID = np.linspace(-6, 0, 61)
"""Logarithms of the intensities that are tried: steps of a quarter."""


def elliptical_intensity(
    folds: Sequence[Moments], rows: Callable[[int], Iterable[Float[Tensor, "rows d"]]]
) -> float:
    """The λ for `fit_covariance(folds, given=λ)` by the directions of held-out rows.

    To fit `full` by it, give `covariance_of` the calibration's rows and this λ.

    Args:
        folds: moments of the rows, fold by fold of documents.
        rows: the rows of a fold, in blocks; looked at once, so that memory does not grow with their number.

    Raises:
        NotMeasurableError: if no fold can be left out, or nothing varies.
    """
    total = Moments.merged(folds)
    parts = [fold for fold, _ in Moments.held_out(folds)]
    if not parts:
        raise NotMeasurableError("all documents are in one fold", fix="use more documents")
    variances = total.covariance.diagonal().clamp(min=0)
    varying = varies(variances, total.mean)
    if not bool(varying.any()):
        raise NotMeasurableError("the residual is constant on calibration", fix="leave shrinkage out")
    scale = torch.where(varying, variances, 1.0).sqrt()
    correlation = torch.where(
        torch.outer(varying, varying), total.covariance / torch.outer(scale, scale), 0.0
    )
    support, _ = support_of(correlation, scale, varying, total.count - 1)
    target = int(varying.sum()) / support.rank
    cost = np.zeros(len(_GRID))
    for place, fold in enumerate(folds):
        others = Moments.merged([part for other, part in enumerate(folds) if other != place])
        if not fold.count or others.count < 2:
            continue
        values, vectors = torch.linalg.eigh(support.inside(others.covariance))
        for block in rows(place):
            along = support.coordinates(block.double().to(others.mean.device) - others.mean) @ vectors
            cost += _cost(along.square(), values.clamp(min=0), target)
    return float(10.0 ** _GRID[int(cost.argmin())])


def _cost(
    squares: Float[Tensor, "rows rank"], eigenvalues: Float[Tensor, " rank"], target: float
) -> NDArray[np.float64]:
    """−2 log likelihood of the directions of some rows, for each intensity; a row at the mean has none."""
    there = squares[squares.sum(-1) > 0]
    found = []
    for exponent in _GRID:
        intensity = 10.0**exponent
        v = (1 - intensity) * eigenvalues + intensity * target
        lengths = (there @ (1 / v)).log().sum()
        found.append(float(len(there) * v.log().sum() + len(v) * lengths))
    return np.array(found)
