"""Linear prediction of the residual from the reconstruction: r ≈ μ + A(x̂ − m).

1. Scale x̂ by its standard deviations; S = Q diag(e) Qᵀ its correlation, G = C_rx Q.
2. Ridge: A = G diag(1/(e + λ)) Qᵀ. λ minimises the squared error on documents left out, fold by fold;
   moments alone give it: tr S_rr − 2 Σⱼ wⱼ (Gᵀ S_rx Q)ⱼⱼ + Σⱼₖ wⱼwₖ (GᵀG)ⱼₖ (Qᵀ S_xx Q)ⱼₖ with w = 1/(e + λ).
   A = 0 is among the choices.
3. The moments of r − A(x̂ − m), again fold by fold; for λ = 0 they are the Schur complement.

Source: protocol 1, section 3 (`linear-mean`, `linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.residual.calibration import Calibration
from remainder.residual.moments import Moments
from remainder.residual.support import varies

__all__ = ["LinearCoupling", "fit_linear"]

_RIDGES = torch.logspace(-6, 3, 37, dtype=torch.float64)


@dataclass(frozen=True)
class LinearCoupling:
    """A, m and μ, and the moments by fold of the residual that A leaves."""

    matrix: Float[Tensor, "d d"]
    reconstruction_mean: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]
    ridge: float | None
    """The ridge λ, in units of the correlation of x̂; None if A = 0."""
    folds: tuple[Moments, ...]

    def predict(self, reconstruction: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """The linear prediction of r from x̂, float64."""
        device = reconstruction.device
        centred = reconstruction.double() - self.reconstruction_mean.to(device)
        return self.mean.to(device) + centred @ self.matrix.to(device).T


def fit_linear(calibration: Calibration) -> LinearCoupling:
    """Fit A by ridge regression, with the strength that predicts left-out documents best.

    Raises:
        MeasurementError: if there are too many dimensions for matrices.
    """
    width, folds, total = calibration.width, calibration.folds, calibration.joint
    x, r = slice(0, width), slice(width, None)
    variances = total.scatter.diagonal()[x] / max(total.count, 1)
    scale = torch.where(varies(variances, total.mean[x]), variances, 1.0).sqrt()
    errors = _held_out_errors(folds, scale, width)
    best = int(errors.argmin()) if errors is not None else 0
    if errors is None or best == len(_RIDGES):
        ridge, matrix = None, torch.zeros(width, width, dtype=torch.float64, device=total.mean.device)
    else:
        ridge = float(_RIDGES[best])
        values, vectors = torch.linalg.eigh(_scaled(total.scatter[x, x], scale) / total.count)
        cross = (total.scatter[r, x] / scale / total.count) @ vectors
        matrix = (cross / (values.clamp(min=0) + ridge)) @ vectors.T / scale
    return LinearCoupling(
        matrix, total.mean[x], total.mean[r], ridge, tuple(_remaining(fold, total, matrix) for fold in folds)
    )


def _held_out_errors(folds: Sequence[Moments], scale: Tensor, width: int) -> Tensor | None:
    """Squared error on left-out documents for each ridge, then for A = 0; None if none can be left out."""
    x, r = slice(0, width), slice(width, None)
    errors = torch.zeros(len(_RIDGES) + 1, dtype=torch.float64)
    seen = False
    for fold, others in Moments.held_out(folds):
        seen = True
        values, q = torch.linalg.eigh(_scaled(others.scatter[x, x], scale) / others.count)
        g = (others.scatter[r, x] / scale / others.count) @ q
        held = fold.about(others.mean)
        base = held[r, r].diagonal().sum()
        linear = (g * (held[r, x] / scale @ q)).sum(0)
        quadratic = (g.T @ g) * (q.T @ _scaled(held[x, x], scale) @ q)
        for place, ridge in enumerate(_RIDGES):
            w = 1 / (values.clamp(min=0) + ridge)
            errors[place] += float(base - 2 * (w @ linear) + w @ quadratic @ w)
        errors[-1] += float(base)
    return errors if seen else None


def _scaled(scatter: Tensor, scale: Tensor) -> Tensor:
    return scatter / torch.outer(scale, scale)


def _remaining(fold: Moments, total: Moments, matrix: Tensor) -> Moments:
    """Moments of r − A(x̂ − m)."""
    width = len(matrix)
    x, r = slice(0, width), slice(width, None)
    mean = fold.mean[r] - matrix @ (fold.mean[x] - total.mean[x])
    cross = matrix @ fold.scatter[x, r]
    scatter = fold.scatter[r, r] - cross - cross.T + matrix @ fold.scatter[x, x] @ matrix.T
    return Moments(fold.count, mean, scatter)
