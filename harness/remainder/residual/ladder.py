"""The rungs: kernels Q(dε | x̂) for what was left out, one small class each.

A rung is fitted to a `Calibration` and then samples ε, which is added to the reconstruction at every
spliced position. It sees the reconstruction and the positions, never the activation itself (only the
rung that is there as a check, `TrueResidual`, is handed the residual).

| rung | kernel | adds |
|---|---|---|
| `raw` | ε = 0 | nothing |
| `mean` | μ = E r | bias |
| `full` | N(μ, Σ) by the symmetric square root of Σ | correlations |
| `permuted` | a real calibration residual, drawn anew at each position | all one-position shape |
| `true` | r itself | everything: must equal the clean model |

The denominators of the Gaussian ratio are kernels too, but are added to the clean activation.

Source: protocol 1, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.moments import Calibration, Moments
from remainder.residual.noise import Draw, Places, indices, normal

__all__ = [
    "NOISES",
    "RUNGS",
    "Context",
    "Full",
    "Mean",
    "Permuted",
    "Raw",
    "ResidualModel",
    "TrueResidual",
    "symmetric_root",
]

Driver = Literal["none", "normal", "bank"]


@dataclass(frozen=True)
class Context:
    """What a residual model may condition on. `residual` is None for all but those that declare it."""

    places: Places
    reconstruction: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    residual: Float[Tensor, "docs pos d"] | None = None

    def normal(self, draw: Draw) -> Float[Tensor, "docs pos d"]:
        """Keyed standard normal values in the reconstruction's shape, float64."""
        _, positions, width = self.reconstruction.shape
        return normal(self.places, draw, positions, width).to(self.reconstruction.device)

    def without_residual(self) -> Context:
        """The same, blind to the activation."""
        return replace(self, residual=None)


@runtime_checkable
class ResidualModel(Protocol):
    """A rung: fitted on calibration residuals, sampled given the reconstruction only."""

    driver: ClassVar[Driver]
    needs_residual: ClassVar[bool]

    def fit(self, calibration: Calibration) -> ResidualModel:
        """Fit to calibration residuals; returns itself."""
        ...

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        """One sample of ε in float64, in the shape of the reconstruction."""
        ...


class Raw:
    """ε = 0: the reconstruction alone."""

    driver: ClassVar[Driver] = "none"
    needs_residual: ClassVar[bool] = False

    def fit(self, calibration: Calibration) -> Raw:
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        return torch.zeros_like(context.reconstruction, dtype=torch.float64)


class Mean:
    """ε = μ: what the reconstruction misses on average."""

    driver: ClassVar[Driver] = "none"
    needs_residual: ClassVar[bool] = False
    mean: Float[Tensor, " d"]

    def fit(self, calibration: Calibration) -> Mean:
        self.mean = calibration.moments.mean
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        return self.mean.to(context.reconstruction.device).expand(context.reconstruction.shape)


class Full:
    """ε ~ N(μ, Σ), the Gaussian residual: mean and all correlations, nothing more."""

    driver: ClassVar[Driver] = "normal"
    needs_residual: ClassVar[bool] = False
    mean: Float[Tensor, " d"]
    root: Float[Tensor, "d d"]

    def fit(self, calibration: Calibration) -> Full:
        self.mean = calibration.moments.mean
        self.root = _root_of(calibration.moments)
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        device = context.reconstruction.device
        return self.mean.to(device) + context.normal(draw) @ self.root.to(device)


class Permuted:
    """ε = a real residual from the bank, drawn independently at every position."""

    driver: ClassVar[Driver] = "bank"
    needs_residual: ClassVar[bool] = False
    rows: Float[Tensor, "rows d"]

    def fit(self, calibration: Calibration) -> Permuted:
        if calibration.bank.rows is None or len(calibration.bank.rows) == 0:
            raise MeasurementError("the bank of real residuals is empty", fix="use more calibration windows")
        self.rows = calibration.bank.rows
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        positions = context.reconstruction.shape[1]
        chosen = indices(context.places, draw, positions, len(self.rows))
        return self.rows[chosen.to(self.rows.device)].double().to(context.reconstruction.device)


class TrueResidual:
    """ε = r: a check of the machinery, since x̂ + r must give the clean model."""

    driver: ClassVar[Driver] = "none"
    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> TrueResidual:
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        return _given(context)


class FittedNoise(Full):
    """ε ~ N(−μ, Σ): as large and as correlated as the error x̂ − x = −r, but Gaussian."""

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        device = context.reconstruction.device
        return context.normal(draw) @ self.root.to(device) - self.mean.to(device)


class DirectionalNoise(Full):
    """ε_t = ‖r_t‖ Σ^{1/2}g/‖Σ^{1/2}g‖: the fitted directions, and the residual's own length at each token."""

    needs_residual: ClassVar[bool] = True

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        return _of_length(_given(context), context.normal(draw) @ self.root.to(context.reconstruction.device))


class IsotropicNoise:
    """ε_t = ‖r_t‖ g/‖g‖: the residual's own length at each token, any direction (Gurnee 2024's ε-random)."""

    driver: ClassVar[Driver] = "normal"
    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> IsotropicNoise:
        return self

    def sample(self, context: Context, draw: Draw) -> Float[Tensor, "docs pos d"]:
        return _of_length(_given(context), context.normal(draw))


RUNGS: dict[str, type[ResidualModel]] = {
    "raw": Raw,
    "mean": Mean,
    "full": Full,
    "permuted": Permuted,
    "true": TrueResidual,
}
"""Kernels added to the reconstruction, by the name that tasks and records use."""

NOISES: dict[str, type[ResidualModel]] = {
    "noise-fitted": FittedNoise,
    "noise-directional": DirectionalNoise,
    "noise-isotropic": IsotropicNoise,
}
"""Kernels added to the clean activation: the denominators of the Gaussian ratio."""


def symmetric_root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The positive semidefinite Σ^{1/2} with Σ^{1/2}Σ^{1/2} = Σ, float64, by eigendecomposition.

    Rank-deficient matrices are fine: no jitter is added, and eigenvalues that rounding made negative
    (above −1e-9 of the largest) count as zero.

    Raises:
        MeasurementError: if an eigenvalue is more negative than rounding explains.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    largest = float(values[-1].clamp(min=0))
    if float(values[0]) < -1e-9 * max(largest, torch.finfo(torch.float64).tiny):
        raise MeasurementError(
            f"a covariance has eigenvalue {float(values[0]):.3g} (the largest is {largest:.3g})",
            fix="this is a bug in how its moments were made; please report it",
        )
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _root_of(moments: Moments) -> Float[Tensor, "d d"]:
    return symmetric_root(moments.covariance)


def _given(context: Context) -> Float[Tensor, "docs pos d"]:
    if context.residual is None:
        raise MeasurementError(
            "this kernel needs the residual, which it was not given", fix="report this bug"
        )
    return context.residual.double()


def _of_length(
    residual: Float[Tensor, "docs pos d"], direction: Float[Tensor, "docs pos d"]
) -> Float[Tensor, "docs pos d"]:
    """`direction` scaled, position by position, to the length of `residual`."""
    length = residual.norm(dim=-1, keepdim=True)
    norm = direction.norm(dim=-1, keepdim=True)
    if bool(((norm == 0) & (length > 0)).any()):
        raise MeasurementError(
            "the fitted covariance is zero, but residuals on evaluation are not: no direction to follow",
            fix="look at the calibration residual: it is constant",
        )
    return torch.where(length > 0, direction * (length / norm.clamp(min=torch.finfo(norm.dtype).tiny)), 0.0)
