"""Kernels driven by normal values: models of the residual, and noise around the clean activation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import (
    Covariance,
    DenseCovariance,
    NotMeasurableError,
    bank_covariance,
    covariance_of,
    fit_covariance,
)
from remainder.residual.kernel import Context, Kernel, Sample, of_length
from remainder.residual.linear import LinearCoupling, fit_linear
from remainder.residual.noise import Draw, indices
from remainder.residual.support import varies

__all__ = [
    "Coupled",
    "Diagonal",
    "DirectionalNoise",
    "FittedNoise",
    "Full",
    "FullFold",
    "FullUnshrunk",
    "Isotropic",
    "IsotropicNoise",
    "Linear",
    "LinearMean",
    "Radial",
    "Temporal",
    "whitening",
]


class Diagonal(Kernel):
    """ε ~ N(μ, diag Σ): the power of each coordinate."""

    deviations: Float[Tensor, " d"]

    def __init__(self, calibration: Calibration) -> None:
        self.mean = calibration.mean
        self.deviations = covariance_of(calibration).variances.sqrt()

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.centre(context) + context.normal(draw) * self.deviations.to(context.reconstruction.device)


class Isotropic(Diagonal):
    """ε ~ N(μ, (tr Σ/d) I): the total power."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        self.deviations = self.deviations.square().mean().sqrt().expand(len(self.deviations))


class Full(Kernel):
    """ε ~ N(μ, Σ̂), the Gaussian residual: mean and all correlations, nothing more."""

    covariance: Covariance

    def __init__(self, calibration: Calibration) -> None:
        self.covariance = covariance_of(calibration)
        self.mean = self.covariance.mean

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.centre(context) + context.coloured(self.covariance, draw)


class FullUnshrunk(Full):
    """`full` with the mean and covariance of the bank itself: the limit of `perturbative-m`."""

    def __init__(self, calibration: Calibration) -> None:
        self.covariance = bank_covariance(calibration)
        self.mean = self.covariance.mean


class FullFold(Full):
    """The Gaussian residual fitted without one fold of the calibration documents."""

    def __init__(self, calibration: Calibration, fold: int) -> None:
        if calibration.is_large:
            raise NotMeasurableError("refits need moments by fold", fix="they are kept below 8192 dimensions")
        parts = calibration.residual_folds
        if parts[fold].count == 0:
            raise NotMeasurableError(f"no document fell into fold {fold + 1}", fix="use more documents")
        self.covariance = fit_covariance([part for i, part in enumerate(parts) if i != fold])
        self.mean = self.covariance.mean


class LinearMean(Kernel):
    """ε = μ + A(x̂ − m): the best linear prediction of the residual from the reconstruction."""

    coupling: LinearCoupling

    def __init__(self, calibration: Calibration) -> None:
        if calibration.is_large:
            raise NotMeasurableError(
                f"predicting r from x̂ takes a matrix of {calibration.width} dimensions",
                fix="leave the rungs linear-mean and linear out",
            )
        self.coupling = calibration.once("linear", fit_linear)

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.coupling.predict(context.reconstruction)


class Linear(LinearMean):
    """The joint Gaussian of (x̂, r), given x̂."""

    covariance: DenseCovariance

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        self.covariance = calibration.once(
            "linear covariance", lambda calibration: fit_covariance(self.coupling.folds)
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        return super().sample(context, draw) + context.coloured(self.covariance, draw)


class Temporal(Full):
    """`full` with the residual's correlation across positions.

    The correlation is a function of the lag, estimated from the bank and projected onto the positive
    semidefinite matrices of unit diagonal. Positions that are not spliced are dropped from a sample, which
    restricts the matrix to the others.
    """

    root: Float[Tensor, "pos pos"]
    correlation: Float[Tensor, " pos"]
    """ρ(l) for each lag."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        covariance = whitening(self.covariance, calibration)
        residual, _, mask = calibration.bank.filled
        weights = mask.double()
        w = torch.where(mask[..., None], covariance.whiten(residual), 0.0)
        positions = mask.shape[1]
        products = torch.zeros(positions, dtype=torch.float64)
        pairs = torch.zeros(positions, dtype=torch.float64)
        for lag in range(positions):
            products[lag] = float((w[:, : positions - lag] * w[:, lag:]).sum())
            pairs[lag] = float((weights[:, : positions - lag] * weights[:, lag:]).sum())
        # A lag that never occurs between spliced positions is never used, so its value does not matter.
        rho = torch.where(pairs > 0, products / pairs.clamp(min=1), 0.0)
        self.correlation = rho / rho[0]
        lags = (torch.arange(positions)[:, None] - torch.arange(positions)).abs()
        values, vectors = torch.linalg.eigh(self.correlation[lags])
        projected = (vectors * values.clamp(min=0)) @ vectors.T
        scale = projected.diagonal().sqrt()
        self.root = _root(projected / torch.outer(scale, scale))

    def sample(self, context: Context, draw: Draw) -> Sample:
        positions = context.reconstruction.shape[1]
        if positions > len(self.root):
            raise MeasurementError(
                f"windows of {positions} positions, calibrated on {len(self.root)}",
                fix="calibrate on windows of the same length",
            )
        # The marginal of a Gaussian is a block of its covariance, not of the covariance's root.
        root = (
            self.root
            if positions == len(self.root)
            else _root(self.root[:positions] @ self.root[:, :positions])
        )
        mixed = torch.einsum("st,btd->bsd", root.to(context.reconstruction.device), context.normal(draw))
        return self.centre(context) + self.covariance.colour(mixed, context.places, draw)


class Radial(Full):
    """Directions of the Gaussian with the real distribution of the whitened length."""

    radii: Float[Tensor, " rows"]
    dense: DenseCovariance

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        self.dense = whitening(self.covariance, calibration)
        self.radii = torch.cat(
            [self.dense.whiten(part).norm(dim=-1) for part in torch.split(calibration.bank.rows(), 4096)]
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        device = context.reconstruction.device
        positions = context.reconstruction.shape[1]
        # Both draws of an antithetic pair share the radius, so that they stay mirror images.
        chosen = indices(context.places, draw.pair, positions, len(self.radii), "radius")
        radius = self.radii[chosen.to(self.radii.device)].to(device)
        vectors, values = self.dense.vectors.to(device), self.dense.values.to(device)
        along = context.normal(draw) @ vectors
        direction = along / along.norm(dim=-1, keepdim=True)
        sample: Tensor = (radius[..., None] * direction * values.sqrt()) @ vectors.T
        return self.centre(context) + sample


class Coupled(Full):
    """ε = (β − 1)(x̂ − m) + μ + α·(Gaussian residual): x̂ and noise at other amplitudes."""

    def __init__(self, calibration: Calibration, alpha: float, beta: float) -> None:
        super().__init__(calibration)
        self.alpha, self.beta = alpha, beta
        self.source_mean = calibration.reconstruction_mean

    def sample(self, context: Context, draw: Draw) -> Sample:
        source = context.reconstruction.double() - self.source_mean.to(context.reconstruction.device)
        still = (self.beta - 1) * source + self.centre(context)
        return still + self.alpha * context.coloured(self.covariance, draw) if self.alpha else still


class FittedNoise(Full):
    """ε ~ N(−μ, Σ̂): as large and as correlated as the error x̂ − x = −r, but Gaussian."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return context.coloured(self.covariance, draw) - self.centre(context)


class DirectionalNoise(Full):
    """ε_t = ‖r_t‖ Σ̂^{1/2}g/‖Σ̂^{1/2}g‖: the fitted directions, and the residual's own length at each token."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        if not bool(varies(self.covariance.variances, self.mean).any()) and bool((self.mean != 0).any()):
            raise NotMeasurableError(
                "the residual is constant on calibration, so its covariance has no direction to follow",
                fix="leave this denominator of the Gaussian ratio out",
            )

    def sample(self, context: Context, draw: Draw) -> Sample:
        return of_length(context, context.coloured(self.covariance, draw))


class IsotropicNoise(Kernel):
    """ε_t = ‖r_t‖ g/‖g‖: the residual's own length at each token, any direction (Gurnee 2024's ε-random)."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return of_length(context, context.normal(draw))


def whitening(
    covariance: Covariance | None,
    calibration: Calibration,
    fix: str = "leave the rungs temporal and radial out",
) -> DenseCovariance:
    """The covariance as a matrix, which whitening needs.

    Raises:
        NotMeasurableError: with the advice `fix`, if it is no matrix, or the residual is constant.
    """
    if not isinstance(covariance, DenseCovariance):
        raise NotMeasurableError(
            f"whitening {calibration.width} dimensions needs their covariance as a matrix", fix=fix
        )
    if covariance.rank == 0:
        raise NotMeasurableError(
            "the residual is constant on calibration: there is nothing to whiten", fix=fix
        )
    return covariance


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
