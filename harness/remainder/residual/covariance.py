"""The covariance of a residual, shrunk by held-out likelihood, ready for sampling and whitening.

1. Scale every coordinate by its standard deviation; constant coordinates drop out.
2. If the correlation matrix has a lower rank than the data allow, the residual lives in a subspace (as that
   of a projection does): stay inside it. No jitter is added. Where it is not lower, which a Cholesky
   factorisation tells, no eigenvalue of it is needed.
3. Shrink, Ĉ = (1 − λ) C + λ t I inside the subspace, with t keeping the trace. λ maximises the Gaussian
   likelihood of documents left out, fold by fold: for a fold with mean outer product M of its scaled rows
   about the mean of the others, whose correlation is Σ eᵢ qᵢqᵢᵀ,
       log L(λ) = −(n/2) Σᵢ [log vᵢ + qᵢᵀM qᵢ / vᵢ],    vᵢ = (1 − λ) eᵢ + λ t.
4. Reported beside λ: the intensity of Chen, Wiesel, Eldar & Hero 2010 ("OAS"), which assumes independent
   rows, and the mean squared whitened residual of the documents left out, per dimension (near 1;
   (N−1)/(N−d−2) without shrinkage).

At `LARGE` or more dimensions: ε = μ + √(1−λ) (M−1)^{−1/2} R_cᵀw + √λ D^{1/2} z, with normal w for the M rows
of the bank and R_c these rows centred, has exactly that covariance, and no d × d matrix is formed (low
rank plus diagonal). λ is OAS there.

Source: protocol 1, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.calibration import Bank, Calibration
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, normal
from remainder.residual.support import Support, largest_eigenvalue, support_of, varies

__all__ = [
    "Covariance",
    "DenseCovariance",
    "MemoryFreeCovariance",
    "NotMeasurableError",
    "bank_covariance",
    "covariance_of",
    "fit_covariance",
    "oas_intensity",
]

_ENOUGH_ROWS = 5  # rows per dimension, below which a covariance is doubtful
_CHUNK = 4096
_CONSTANT = "the residual is constant on calibration: Gaussian rungs add no noise"

Normal = Float[Tensor, "docs pos d"]


class NotMeasurableError(MeasurementError):
    """A residual model cannot be fitted to this residual; it is left out, and the record says why."""


@dataclass(frozen=True)
class DenseCovariance:
    """Σ̂ = V diag(L) Vᵀ on the support of the residual."""

    mean: Float[Tensor, " d"]
    variances: Float[Tensor, " d"]
    """Diagonal of the unshrunk covariance."""
    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "d rank"]
    intensity: float
    oas: float | None
    held_out: float | None
    warnings: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """Dimensions of the support."""
        return len(self.values)

    @property
    def matrix(self) -> Float[Tensor, "d d"]:
        """Σ̂ itself."""
        return (self.vectors * self.values) @ self.vectors.T

    @cached_property
    def root(self) -> Float[Tensor, "d d"]:
        """The symmetric Σ̂^{1/2}."""
        return (self.vectors * self.values.sqrt()) @ self.vectors.T

    def colour(self, z: Normal, places: NoiseKeys, draw: Draw) -> Normal:
        """Standard normal values turned into centred Gaussian ones with this covariance."""
        return z @ self.root.to(z.device)

    def whiten(self, rows: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows rank"]:
        """Coordinates of Σ̂^{−1/2}(r − μ) along the eigenvectors; float64."""
        device = rows.device
        centred = rows.double() - self.mean.to(device)
        return (centred @ self.vectors.to(device)) / self.values.sqrt().to(device)

    def log_density(self, rows: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """Log density of N(μ, Σ̂) on its support, nats."""
        constant = self.rank * math.log(2 * math.pi) + float(self.values.log().sum())
        return -0.5 * (self.whiten(rows).square().sum(-1) + constant)


@dataclass(frozen=True)
class MemoryFreeCovariance:
    """A covariance without a d × d matrix: a random mixture of bank rows plus a diagonal."""

    mean: Float[Tensor, " d"]
    variances: Float[Tensor, " d"]
    """Diagonal of the unshrunk covariance."""
    rows: Float[Tensor, "rows d"]
    intensity: float
    oas: float | None
    held_out: float | None = None
    warnings: tuple[str, ...] = ()
    ddof: int = 1
    """Subtracted from the number of rows in the covariance's divisor."""

    @property
    def rank(self) -> int:
        """Upper bound on the rank of the mixture of rows."""
        return min(len(self.rows) - 1, len(self.mean))

    def colour(self, z: Normal, places: NoiseKeys, draw: Draw) -> Normal:
        """Standard normal values turned into centred Gaussian ones with this covariance."""
        _, positions, _ = z.shape
        count = len(self.rows)
        mean, device = self.mean.to(self.rows.dtype), self.rows.device
        parts = []
        for document, window in zip(places.documents, places.windows, strict=True):
            one = NoiseKeys(places.seed, (document,), (window,))
            w = normal(one, draw, positions, count, "normal-bank")[0].to(device)
            mixed = w.to(self.rows.dtype) @ self.rows - w.sum(-1, keepdim=True).to(mean.dtype) * mean
            parts.append(mixed.double() / math.sqrt(count - self.ddof))
        low_rank = torch.stack(parts).to(z.device)
        diagonal = z * self.variances.sqrt().to(z.device)
        return math.sqrt(1 - self.intensity) * low_rank + math.sqrt(self.intensity) * diagonal


Covariance = DenseCovariance | MemoryFreeCovariance
"""The covariance of a residual, through which every Gaussian rung samples."""


def covariance_of(calibration: Calibration) -> Covariance:
    """Shrunk covariance of a calibration's residual.

    Raises:
        NotMeasurableError: if there are fewer than two rows.
    """

    def fit(calibration: Calibration) -> Covariance:
        if calibration.is_large:
            return _memory_free(calibration.bank)
        return fit_covariance(calibration.residual_folds)

    return calibration.once("covariance", fit)


def bank_covariance(calibration: Calibration) -> Covariance:
    """Mean and covariance of the bank's rows themselves (divided by their number), not shrunk.

    This is the limit of `perturbative-m` for large m.
    """

    def fit(calibration: Calibration) -> Covariance:
        if calibration.is_large:
            return replace(_memory_free(calibration.bank), intensity=0.0, ddof=0)
        moments = Moments.of(calibration.bank.rows())
        covariance = fit_covariance([moments], shrink=False)
        return replace(covariance, values=covariance.values * (1 - 1 / moments.count))

    return calibration.once("bank covariance", fit)


def fit_covariance(
    folds: Sequence[Moments], *, shrink: bool = True, given: float | None = None
) -> DenseCovariance:
    """Shrunk covariance from the moments of several folds of documents; see the steps of this module.

    Args:
        given: the intensity, if it was found by another likelihood (`residual.elliptical`).

    Raises:
        NotMeasurableError: if there are fewer than two rows.
    """
    total = Moments.merged(folds)
    _require_rows(total.count)
    width, sample = len(total.mean), total.covariance
    variances = sample.diagonal().clamp(min=0)
    varying = varies(variances, total.mean)
    scale = torch.where(varying, variances, 1.0).sqrt()
    correlation = torch.where(torch.outer(varying, varying), sample / torch.outer(scale, scale), 0.0)
    dimensions = int(varying.sum())
    if not dimensions:
        none = torch.zeros(width, 0, dtype=sample.dtype, device=sample.device)
        return DenseCovariance(total.mean, variances, none[0], none, 0.0, None, None, (_CONSTANT,))
    support, rank = support_of(correlation, scale, varying, total.count - 1)
    confined = support.vectors is not None
    target = dimensions / support.rank
    intensity, held_out = 0.0, None
    if shrink:
        left_out = _left_out(folds, support)
        oas = oas_intensity(
            float(correlation.square().sum()), float(correlation.trace()), dimensions, total.count
        )
        if left_out:
            intensity = _most_likely(left_out, target) if given is None else given
            held_out = _mahalanobis(left_out, target, intensity)
        else:
            intensity = oas
    else:
        oas = None
    warnings = _warnings(
        total.count, width, varying, rank if confined else None, sample, folds if shrink else ()
    )
    shrunk = (1 - intensity) * support.inside(sample)
    shrunk.diagonal().add_(intensity * target)
    final_values, final_vectors = torch.linalg.eigh(support.outside(shrunk))
    count = support.rank if intensity > 0 else rank
    return DenseCovariance(
        total.mean,
        variances,
        final_values[-count:].clamp(min=0),
        final_vectors[:, -count:].contiguous(),
        intensity,
        oas,
        held_out,
        warnings,
    )


def oas_intensity(squares: float, trace: float, width: int, count: int) -> float:
    """Oracle-approximating shrinkage of a matrix toward its mean eigenvalue, 0 to 1.

    Formula of scikit-learn's `OAS` (Chen et al. 2010, eq. 23, with its published correction).

    Args:
        squares: sum of the squares of all entries, or of all eigenvalues.
        trace: sum of all eigenvalues.
        width: how many there are.
        count: of rows that it was fitted to.
    """
    mean = trace / width
    alpha = squares / width**2
    denominator = (count + 1) * (alpha - mean**2 / width)
    return 1.0 if denominator <= 0 else min(1.0, (alpha + mean**2) / denominator)


@dataclass(frozen=True)
class _LeftOut:
    """A fold against the others: their eigenvalues, and its mean squares along their eigenvectors."""

    count: int
    eigenvalues: NDArray[np.float64]
    squares: NDArray[np.float64]


def _left_out(folds: Sequence[Moments], support: Support) -> list[_LeftOut]:
    """Every fold against all others, in the coordinates of the support."""
    parts = []
    for fold, others in Moments.held_out(folds):
        values, vectors = torch.linalg.eigh(support.inside(others.covariance))
        held = support.inside(fold.about(others.mean))
        squares = (vectors * (held @ vectors)).sum(0) / fold.count
        parts.append(_LeftOut(fold.count, values.clamp(min=0).cpu().numpy(), squares.cpu().numpy()))
    return parts


def _most_likely(left_out: Sequence[_LeftOut], target: float) -> float:
    """The shrinkage intensity with the largest held-out likelihood."""
    from scipy.optimize import minimize_scalar

    def cost(exponent: float) -> float:
        intensity = 10.0**exponent
        total = 0.0
        for fold in left_out:
            v = (1 - intensity) * fold.eigenvalues + intensity * target
            total += fold.count * float(np.sum(np.log(v) + fold.squares / v))
        return total

    grid = np.linspace(-6, 0, 25)
    costs = [cost(exponent) for exponent in grid]
    best = int(np.argmin(costs))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(10.0 ** minimize_scalar(cost, bounds=(low, high), method="bounded").x)


def _mahalanobis(left_out: Sequence[_LeftOut], target: float, intensity: float) -> float:
    rows = sum(fold.count for fold in left_out)
    total = 0.0
    for fold in left_out:
        v = (1 - intensity) * fold.eigenvalues + intensity * target
        total += fold.count * float(np.mean(fold.squares / v))
    return total / rows


def _require_rows(count: int) -> None:
    if count < 2:
        raise NotMeasurableError(
            f"a covariance needs at least 2 rows, {count} were seen", fix="use more calibration windows"
        )


def _too_few(count: int, dimensions: int) -> list[str]:
    """The warning about a covariance with too few rows, if it has."""
    text = (
        f"the covariance of {dimensions} dimensions was fitted to {count} tokens, fewer than "
        f"{_ENOUGH_ROWS} a dimension: Gaussian rungs are uncertain"
    )
    return [text] if count < _ENOUGH_ROWS * dimensions else []


def _warnings(
    count: int,
    width: int,
    varying: Tensor,
    confined_to: int | None,
    sample: Tensor,
    folds: Sequence[Moments],
) -> tuple[str, ...]:
    dimensions = confined_to or int(varying.sum())
    found = _too_few(count, dimensions)
    constant = width - int(varying.sum())
    if constant:
        found.append(
            f"the residual is constant in {constant} of {width} coordinates: no noise is added there"
        )
    if confined_to is not None:
        found.append("the residual lies in a subspace (calibration.rank): Gaussian rungs stay inside it")
    share = largest_eigenvalue(sample) / float(sample.diagonal().sum())
    if share > 0.5 and dimensions > 1:
        found.append(f"one direction holds {share:.0%} of the residual's variance")
    if folds and sum(fold.count > 0 for fold in folds) < 2:
        found.append(
            "all calibration documents are in one fold: shrinkage is not from held-out likelihood but OAS"
        )
    return tuple(found)


def _memory_free(bank: Bank) -> MemoryFreeCovariance:
    rows = bank.rows()
    _require_rows(len(rows))
    mean = torch.stack([part.double().sum(0) for part in torch.split(rows, _CHUNK)]).sum(0) / len(rows)
    squares = torch.stack([(part.double() - mean).square().sum(0) for part in torch.split(rows, _CHUNK)]).sum(
        0
    )
    variances = squares / (len(rows) - 1)
    varying = varies(variances, mean)
    dimensions = int(varying.sum())
    if dimensions == 0:
        return MemoryFreeCovariance(mean, variances, rows, 0.0, None, None, (_CONSTANT,))
    oas = oas_intensity(
        _squared_correlations(rows, mean, variances), float(dimensions), dimensions, len(rows)
    )
    return MemoryFreeCovariance(mean, variances, rows, oas, oas, None, tuple(_too_few(len(rows), dimensions)))


def _squared_correlations(rows: Tensor, mean: Tensor, variances: Tensor) -> float:
    """Sum of squares of all entries of the correlation matrix, summed over blocks of the rows' products.

    ‖ZᵀZ‖² = ‖ZZᵀ‖², so neither matrix is kept.
    """
    scale = torch.where(variances > 0, variances, 1.0).sqrt().float()
    shift = mean.float()
    total = 0.0
    parts = torch.split(rows, _CHUNK)
    for i, left in enumerate(parts):
        a = (left - shift) / scale
        for j in range(i + 1):
            b = a if j == i else (parts[j] - shift) / scale
            block = a @ b.T
            total += (1 if i == j else 2) * float(torch.linalg.vector_norm(block.double()) ** 2)
    return total / (len(rows) - 1) ** 2
