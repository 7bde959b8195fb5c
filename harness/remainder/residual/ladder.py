"""The rungs: kernels Q(dε | x̂) for what was left out, one small class each.

A rung is fitted to a `Calibration` and then samples ε, which is added to the reconstruction at every
spliced position. It sees the reconstruction and the positions, never the activation itself (only the
rung that is there as a check, `TrueResidual`, is handed the residual). With μ and Σ the mean and covariance
of the calibration residual r, and m the mean of x̂:

| rung | kernel |
|---|---|
| `raw` | ε = 0 |
| `mean` | μ |
| `isotropic` | N(μ, (tr Σ/d) I) |
| `diagonal` | N(μ, diag Σ) |
| `full` | N(μ, Σ̂), Σ̂ shrunk; `full-unshrunk` with the bank's own μ and Σ |
| `linear-mean` | μ + A(x̂ − m) |
| `linear` | the same plus Gaussian noise with the covariance of what A leaves |
| `temporal` | `full`, correlated across positions by ρ(l) = E[(r_t−μ)ᵀΣ̂⁻¹(r_{t+l}−μ)]/d |
| `radial` | μ + R Σ̂^{1/2}u, u a random direction, R a calibration radius ‖Σ̂^{−1/2}(r−μ)‖ |
| `perturbative-m` | μ + m^{−1/2} Σ_{i≤m}(r_{π(i)} − μ), real residuals drawn independently |
| `permuted` | a real residual, drawn anew at each position |
| `permuted-block` | the residuals of one window as they follow each other |
| `matched` | a real residual whose x̂ lay in the same cell |
| `true` | r itself |

The denominators of the Gaussian ratio are kernels too, but are added to the clean activation.

Source: protocol 1, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch

from remainder.record.rungs import FOLDS, PERTURBATIVE
from remainder.residual.calibration import Calibration
from remainder.residual.gaussian import (
    Coupled,
    Diagonal,
    DirectionalNoise,
    FittedNoise,
    Full,
    FullFold,
    FullUnshrunk,
    Isotropic,
    IsotropicNoise,
    Linear,
    LinearMean,
    Radial,
    Temporal,
)
from remainder.residual.kernel import Context, Kernel, ResidualModel, Sample, residual_of
from remainder.residual.noise import Draw
from remainder.residual.real import Matched, Permuted, PermutedBlock, Perturbative

__all__ = ["FOLD_RUNGS", "NOISES", "RUNGS", "Context", "Coupled", "ResidualModel"]


class Raw(Kernel):
    """ε = 0: the reconstruction alone."""

    def fit(self, calibration: Calibration) -> Raw:
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return torch.zeros_like(context.reconstruction, dtype=torch.float64)


class Mean(Kernel):
    """ε = μ: what the reconstruction misses on average."""

    def fit(self, calibration: Calibration) -> Mean:
        self.mean = calibration.mean
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.centre(context)


class TrueResidual(Kernel):
    """ε = r: a check of the machinery, since x̂ + r must give the clean model."""

    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> TrueResidual:
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return residual_of(context)


RUNGS: dict[str, Callable[[], ResidualModel]] = {
    "raw": Raw,
    "mean": Mean,
    "isotropic": Isotropic,
    "diagonal": Diagonal,
    "full": Full,
    "full-unshrunk": FullUnshrunk,
    "linear-mean": LinearMean,
    "linear": Linear,
    "temporal": Temporal,
    "radial": Radial,
    **{f"perturbative-{order}": partial(Perturbative, order) for order in reversed(PERTURBATIVE)},
    "permuted": Permuted,
    "permuted-block": PermutedBlock,
    "matched": Matched,
    "true": TrueResidual,
}
"""Kernels added to the reconstruction, by the names of `remainder.record.rungs`."""

FOLD_RUNGS: dict[str, Callable[[], ResidualModel]] = {
    f"full-fold-{fold + 1}": partial(FullFold, fold) for fold in range(FOLDS)
}
"""Refits of `full`, whose spread shows what the choice of calibration documents does."""

NOISES: dict[str, Callable[[], ResidualModel]] = {
    "noise-fitted": FittedNoise,
    "noise-directional": DirectionalNoise,
    "noise-isotropic": IsotropicNoise,
}
"""Kernels added to the clean activation: the denominators of the Gaussian ratio."""
