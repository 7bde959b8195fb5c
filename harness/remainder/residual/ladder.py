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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.calibration import Calibration
from remainder.residual.cells import Cells, fit_cells
from remainder.residual.covariance import (
    Covariance,
    DenseCovariance,
    NotMeasurableError,
    bank_covariance,
    covariance_of,
    fit_covariance,
    varies,
)
from remainder.residual.linear import LinearCoupling, fit_linear
from remainder.residual.noise import Draw, Places, indices, normal
from remainder.rungs import FOLDS, PERTURBATIVE

__all__ = [
    "FOLD_RUNGS",
    "NOISES",
    "RUNGS",
    "Context",
    "Coupled",
    "Full",
    "ResidualModel",
]

Driver = Literal["none", "normal", "bank"]
Sample = Float[Tensor, "docs pos d"]


@dataclass(frozen=True)
class Context:
    """What a residual model may condition on. `residual` is None for all but those that declare it.

    `memo` may be shared by contexts of the same windows, so that one draw's noise is made once.
    """

    places: Places
    reconstruction: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    residual: Float[Tensor, "docs pos d"] | None = None
    memo: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def normal(self, draw: Draw) -> Sample:
        """Keyed standard normal values in the reconstruction's shape, float64."""
        if draw.pair not in self.memo:
            _, positions, width = self.reconstruction.shape
            self.memo.clear()
            z = normal(self.places, Draw(2 * draw.pair), positions, width)
            self.memo[draw.pair] = z.to(self.reconstruction.device)
        return draw.sign * self.memo[draw.pair]

    def coloured(self, covariance: Covariance, draw: Draw) -> Sample:
        """Centred Gaussian values of that covariance."""
        return covariance.colour(self.normal(draw), self.places, draw)

    def without_residual(self) -> Context:
        """The same, blind to the activation."""
        return replace(self, residual=None)


@runtime_checkable
class ResidualModel(Protocol):
    """A rung: fitted on calibration residuals, sampled given the reconstruction only."""

    driver: ClassVar[Driver]
    needs_residual: ClassVar[bool]

    def fit(self, calibration: Calibration) -> ResidualModel:
        """Fit to calibration residuals; returns itself.

        Raises:
            NotMeasurableError: if this residual does not admit such a model.
        """
        ...

    def sample(self, context: Context, draw: Draw) -> Sample:
        """One sample of ε in float64, in the shape of the reconstruction."""
        ...


class _Kernel:
    """What most rungs are: without noise of their own, blind to the residual, centred on μ."""

    driver: ClassVar[Driver] = "none"
    needs_residual: ClassVar[bool] = False
    mean: Float[Tensor, " d"]

    def _centre(self, context: Context) -> Sample:
        return self.mean.to(context.reconstruction.device).expand(context.reconstruction.shape)


class Raw(_Kernel):
    """ε = 0: the reconstruction alone."""

    def fit(self, calibration: Calibration) -> Raw:
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return torch.zeros_like(context.reconstruction, dtype=torch.float64)


class Mean(_Kernel):
    """ε = μ: what the reconstruction misses on average."""

    def fit(self, calibration: Calibration) -> Mean:
        self.mean = calibration.mean
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self._centre(context)


class Diagonal(_Kernel):
    """ε ~ N(μ, diag Σ): the power of each coordinate."""

    driver: ClassVar[Driver] = "normal"
    deviations: Float[Tensor, " d"]

    def fit(self, calibration: Calibration) -> Diagonal:
        self.mean = calibration.mean
        self.deviations = covariance_of(calibration).variances.sqrt()
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self._centre(context) + context.normal(draw) * self.deviations.to(
            context.reconstruction.device
        )


class Isotropic(Diagonal):
    """ε ~ N(μ, (tr Σ/d) I): the total power."""

    def fit(self, calibration: Calibration) -> Isotropic:
        super().fit(calibration)
        self.deviations = self.deviations.square().mean().sqrt().expand(len(self.deviations))
        return self


class Full(_Kernel):
    """ε ~ N(μ, Σ̂), the Gaussian residual: mean and all correlations, nothing more."""

    driver: ClassVar[Driver] = "normal"
    covariance: Covariance

    def fit(self, calibration: Calibration) -> Full:
        self.covariance = covariance_of(calibration)
        self.mean = self.covariance.mean
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self._centre(context) + context.coloured(self.covariance, draw)


class FullUnshrunk(Full):
    """The same with mean and covariance of the bank itself: what `perturbative-m` tends to."""

    def fit(self, calibration: Calibration) -> FullUnshrunk:
        self.covariance = bank_covariance(calibration)
        self.mean = self.covariance.mean
        return self


class FullFold(Full):
    """The Gaussian residual fitted without one fold of the calibration documents."""

    def __init__(self, fold: int) -> None:
        self.fold = fold

    def fit(self, calibration: Calibration) -> FullFold:
        if calibration.is_large:
            raise NotMeasurableError("refits need moments by fold", fix="they are kept below 8192 dimensions")
        parts = calibration.residual_folds
        if parts[self.fold].count == 0:
            raise NotMeasurableError(f"no document fell into fold {self.fold + 1}", fix="use more documents")
        self.covariance = fit_covariance([part for i, part in enumerate(parts) if i != self.fold])
        self.mean = self.covariance.mean
        return self


class LinearMean(_Kernel):
    """ε = μ + A(x̂ − m): what the reconstruction tells linearly about what it misses."""

    coupling: LinearCoupling

    def fit(self, calibration: Calibration) -> LinearMean:
        if calibration.is_large:
            raise NotMeasurableError(
                f"what x̂ tells linearly takes a matrix of {calibration.width} dimensions",
                fix="leave the rungs linear-mean and linear out",
            )
        self.coupling = calibration.once("linear", fit_linear)
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.coupling.predict(context.reconstruction)


class Linear(LinearMean):
    """The joint Gaussian of (x̂, r), given x̂."""

    driver: ClassVar[Driver] = "normal"
    covariance: DenseCovariance

    def fit(self, calibration: Calibration) -> Linear:
        super().fit(calibration)
        self.covariance = calibration.once(
            "linear covariance", lambda calibration: fit_covariance(self.coupling.folds)
        )
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return super().sample(context, draw) + context.coloured(self.covariance, draw)


class Temporal(Full):
    """`full` with the residual's correlation across positions.

    The correlation is a function of the lag, estimated from the bank, and projected on the positive
    semidefinite matrices of unit diagonal. Positions that are not spliced are dropped from a sample, which
    cuts the matrix to the others.
    """

    root: Float[Tensor, "pos pos"]
    correlation: Float[Tensor, " pos"]
    """ρ(l) for each lag."""

    def fit(self, calibration: Calibration) -> Temporal:
        super().fit(calibration)
        covariance = _dense(self.covariance, calibration)
        residual, _, mask = calibration.bank.filled
        weights = mask.double()
        w = torch.where(mask[..., None], covariance.whiten(residual), 0.0)
        positions = mask.shape[1]
        products = torch.zeros(positions, dtype=torch.float64)
        pairs = torch.zeros(positions, dtype=torch.float64)
        for lag in range(positions):
            products[lag] = float((w[:, : positions - lag] * w[:, lag:]).sum())
            pairs[lag] = float((weights[:, : positions - lag] * weights[:, lag:]).sum())
        # A lag that never occurs between spliced positions is never used either.
        rho = torch.where(pairs > 0, products / pairs.clamp(min=1), 0.0)
        self.correlation = rho / rho[0]
        lags = (torch.arange(positions)[:, None] - torch.arange(positions)).abs()
        values, vectors = torch.linalg.eigh(self.correlation[lags])
        projected = (vectors * values.clamp(min=0)) @ vectors.T
        scale = projected.diagonal().sqrt()
        values, vectors = torch.linalg.eigh(projected / torch.outer(scale, scale))
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        positions = context.reconstruction.shape[1]
        if positions > len(self.root):
            raise MeasurementError(
                f"windows of {positions} positions, calibrated on {len(self.root)}",
                fix="calibrate on windows of the same length",
            )
        # Marginals of a Gaussian are cut from its covariance, not from the root of it.
        root = (
            self.root
            if positions == len(self.root)
            else _root(self.root[:positions] @ self.root[:, :positions])
        )
        mixed = torch.einsum("st,btd->bsd", root.to(context.reconstruction.device), context.normal(draw))
        return self._centre(context) + self.covariance.colour(mixed, context.places, draw)


class Radial(Full):
    """The Gaussian's directions, and the real distribution of the whitened length."""

    radii: Float[Tensor, " rows"]
    dense: DenseCovariance

    def fit(self, calibration: Calibration) -> Radial:
        super().fit(calibration)
        self.dense = _dense(self.covariance, calibration)
        self.radii = torch.cat(
            [self.dense.whiten(part).norm(dim=-1) for part in torch.split(calibration.bank.rows(), 4096)]
        )
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        device = context.reconstruction.device
        positions = context.reconstruction.shape[1]
        # One radius for both of an antithetic pair, so that they stay mirror images.
        chosen = indices(context.places, draw.pair, positions, len(self.radii), "radius")
        radius = self.radii[chosen.to(self.radii.device)].to(device)
        vectors, values = self.dense.vectors.to(device), self.dense.values.to(device)
        along = context.normal(draw) @ vectors
        direction = along / along.norm(dim=-1, keepdim=True)
        sample: Tensor = (radius[..., None] * direction * values.sqrt()) @ vectors.T
        return self._centre(context) + sample


class Permuted(_Kernel):
    """ε = a real residual from the bank, drawn independently at every position."""

    driver: ClassVar[Driver] = "bank"
    rows: Float[Tensor, "rows d"]

    def fit(self, calibration: Calibration) -> Permuted:
        self.rows = calibration.once("rows", lambda calibration: calibration.bank.rows())
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self._drawn(context, draw, "index")

    def _drawn(self, context: Context, draw: Draw, stream: str) -> Sample:
        positions = context.reconstruction.shape[1]
        chosen = indices(context.places, draw.index, positions, len(self.rows), stream)
        drawn: Tensor = self.rows[chosen.to(self.rows.device)].double()
        return drawn.to(context.reconstruction.device)


class Perturbative(Permuted):
    """ε = μ + m^{−1/2} Σ (r_π(i) − μ) over m real residuals: the n-th cumulant shrinks by m^{1−n/2}.

    The residuals of a smaller m are among those of a larger one, and `permuted` is m = 1.
    """

    def __init__(self, order: int) -> None:
        self.order = order

    def fit(self, calibration: Calibration) -> Perturbative:
        super().fit(calibration)
        self.mean = bank_covariance(calibration).mean
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        total = self._drawn(context, draw, "index")
        for i in range(1, self.order):
            total += self._drawn(context, draw, f"index-{i}")
        centre = self._centre(context)
        sample: Tensor = centre + (total - self.order * centre) / self.order**0.5
        return sample


class PermutedBlock(_Kernel):
    """ε = the residuals of one calibration window in their order, from a random start, cyclically."""

    driver: ClassVar[Driver] = "bank"
    windows: tuple[Float[Tensor, "rows d"], ...]

    def fit(self, calibration: Calibration) -> PermutedBlock:
        residual, _, mask = calibration.bank.filled
        self.windows = tuple(rows[kept] for rows, kept in zip(residual, mask, strict=True) if kept.any())
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        places, mask = context.places, context.mask
        chosen = indices(places, draw.index, 1, len(self.windows), "window")[:, 0].tolist()
        lengths = torch.tensor([len(self.windows[index]) for index in chosen])[:, None]
        starts = indices(places, draw.index, 1, lengths, "start")[:, 0].tolist()
        sample = torch.zeros_like(context.reconstruction, dtype=torch.float64)
        for place, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            rows = self.windows[index]
            order = (start + torch.arange(int(mask[place].sum()))) % len(rows)
            sample[place, mask[place]] = rows[order.to(rows.device)].double().to(sample.device)
        return sample


class Matched(_Kernel):
    """ε = a real residual whose reconstruction lay in the same cell as this one."""

    driver: ClassVar[Driver] = "bank"
    rows: Float[Tensor, "rows d"]
    cells: Cells

    def fit(self, calibration: Calibration) -> Matched:
        self.rows = calibration.once("rows", lambda calibration: calibration.bank.rows())
        self.cells = calibration.once(
            "cells", lambda calibration: fit_cells(calibration.bank.reconstructions(), self.rows)
        )
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        reconstruction = context.reconstruction
        cell = self.cells.assign(reconstruction).cpu()
        within = indices(context.places, draw.index, reconstruction.shape[1], self.cells.sizes[cell], "cell")
        chosen = self.cells.members[self.cells.starts[cell] + within]
        return self.rows[chosen.to(self.rows.device)].double().to(reconstruction.device)


class TrueResidual(_Kernel):
    """ε = r: a check of the machinery, since x̂ + r must give the clean model."""

    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> TrueResidual:
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return _given(context)


class Coupled(Full):
    """ε = (β − 1)(x̂ − m) + μ + α·(Gaussian residual): how strongly source and background are felt."""

    def __init__(self, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta

    def fit(self, calibration: Calibration) -> Coupled:
        super().fit(calibration)
        self.centre = calibration.reconstruction_mean
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        source = context.reconstruction.double() - self.centre.to(context.reconstruction.device)
        return (
            (self.beta - 1) * source
            + self._centre(context)
            + self.alpha * context.coloured(self.covariance, draw)
        )


class FittedNoise(Full):
    """ε ~ N(−μ, Σ̂): as large and as correlated as the error x̂ − x = −r, but Gaussian."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return context.coloured(self.covariance, draw) - self._centre(context)


class DirectionalNoise(Full):
    """ε_t = ‖r_t‖ Σ̂^{1/2}g/‖Σ̂^{1/2}g‖: the fitted directions, and the residual's own length at each token."""

    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> DirectionalNoise:
        super().fit(calibration)
        if not bool(varies(self.covariance.variances, self.mean).any()) and bool((self.mean != 0).any()):
            raise NotMeasurableError(
                "the residual is constant on calibration, so its covariance has no direction to follow",
                fix="leave this denominator of the Gaussian ratio out",
            )
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return _of_length(context, context.coloured(self.covariance, draw))


class IsotropicNoise(_Kernel):
    """ε_t = ‖r_t‖ g/‖g‖: the residual's own length at each token, any direction (Gurnee 2024's ε-random)."""

    driver: ClassVar[Driver] = "normal"
    needs_residual: ClassVar[bool] = True

    def fit(self, calibration: Calibration) -> IsotropicNoise:
        return self

    def sample(self, context: Context, draw: Draw) -> Sample:
        return _of_length(context, context.normal(draw))


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
"""Kernels added to the reconstruction, by the names of `remainder.rungs`."""

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


def _dense(covariance: Covariance, calibration: Calibration) -> DenseCovariance:
    """The covariance as a matrix that can whiten."""
    if not isinstance(covariance, DenseCovariance):
        raise NotMeasurableError(
            f"whitening {calibration.width} dimensions needs their covariance as a matrix",
            fix="leave the rungs temporal and radial out",
        )
    if covariance.rank == 0:
        raise NotMeasurableError(
            "the residual is constant on calibration: there is nothing to whiten",
            fix="leave the rungs temporal and radial out",
        )
    return covariance


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _given(context: Context) -> Sample:
    if context.residual is None:
        raise MeasurementError(
            "this kernel needs the residual, which it was not given", fix="report this bug"
        )
    return context.residual.double()


def _of_length(context: Context, direction: Sample) -> Sample:
    """`direction` scaled, position by position, to the length of the residual."""
    length = _given(context).norm(dim=-1, keepdim=True)
    norm = direction.norm(dim=-1, keepdim=True)
    if bool(((norm == 0) & (length > 0))[context.mask].any()):
        raise MeasurementError(
            "the fitted covariance is zero, but residuals on evaluation are not: no direction to follow",
            fix="look at the calibration residual: it is constant",
        )
    return torch.where(length > 0, direction * (length / norm.clamp(min=torch.finfo(norm.dtype).tiny)), 0.0)
