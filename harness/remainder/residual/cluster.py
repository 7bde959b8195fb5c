"""A Gaussian of its own in each cell of x̂, shrunk to the pooled one.

With n rows in a cell, their mean m and their scatter S about it,

    μ_c = (n m + κ μ)/(n + κ),    Σ_c = (ν Σ + S)/(ν + n),

Σ the shrunk covariance of r − m over all cells. κ has the least squared error, ν the highest likelihood on a
fold of documents that was left out. No d × d matrix of a cell is formed: S = KᵀK, with no more rows of K than
the cell or the space has, and noise is √(ν/(ν+n)) Σ^{1/2} z + Kᵀw/√(ν+n). Densities are by Woodbury's
identity in the eigenvectors of Σ.

Cells are found among the first 16,384 rows (`residual.cells`); Gaussians are fitted to the first 32,768, and
κ and ν are chosen on the first 4,096 of the fold.

Source: protocol 2, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.record.rungs import FOLDS
from remainder.record.schema import ConditionalFit
from remainder.residual.calibration import Calibration
from remainder.residual.cells import Cells, fit_cells
from remainder.residual.conditional import placed
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, fit_covariance
from remainder.residual.held_out import floor_of, held_out, rows_of
from remainder.residual.kernel import Context, Kernel, Sample
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, normal
from remainder.residual.rows import Rows, Seen

__all__ = ["CellGaussians", "Cluster", "fit_cell_gaussians"]

_FOR_CELLS, _MOST = 16384, 32768  # rows
_QUERIES = 4096  # rows of a fold that κ and ν are chosen on
_MEANS = (0.0, 4.0, 16.0, 64.0, 256.0, math.inf)
_SCATTERS = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, math.inf)


@dataclass(frozen=True)
class CellGaussians:
    """A Gaussian for each cell."""

    cells: Cells
    counts: Float[Tensor, " cells"]
    cell_means: Float[Tensor, "cells d"]
    """The means of the rows themselves."""
    mean: Float[Tensor, " d"]
    factors: tuple[Float[Tensor, "_ d"], ...]
    """K of each cell, about the mean of its rows."""
    covariance: DenseCovariance
    kappa: float
    nu: float

    @property
    def means(self) -> Float[Tensor, "cells d"]:
        """μ_c."""
        weight = 0.0 if math.isinf(self.kappa) else self.counts / (self.counts + self.kappa)
        if isinstance(weight, float):
            return self.mean.expand_as(self.cell_means)
        return self.mean + weight[:, None] * (self.cell_means - self.mean)

    def of(self, x: Float[Tensor, "rows d"]) -> Int[Tensor, " rows"]:
        """The cell of each reconstruction."""
        return self.cells.assign(x.cpu())

    def predict(self, seen: Seen) -> Float[Tensor, "rows d"]:
        """μ_c at each position where the mask holds."""
        return self.means[self.of(seen.reconstruction[seen.mask])]

    def shares(self, cell: int, nu: float) -> tuple[float, float]:
        """The factors of Σ and of S in Σ_c."""
        n = float(self.counts[cell])
        return (1.0, 0.0) if math.isinf(nu) else (nu / (nu + n), 1 / (nu + n))

    def surprises(
        self, rows: Float[Tensor, "rows d"], cell: Int[Tensor, " rows"], floor: float, nus: Sequence[float]
    ) -> Float[Tensor, " nus"]:
        """Sum of −log density of r + N(0, s² I) for each ν, nats, the added noise in expectation.

        Args:
            floor: s².
        """
        vectors, values = self.covariance.vectors, self.covariance.values
        rest, width = rows.shape[1] - len(values), rows.shape[1]
        total, means = torch.zeros(len(nus), dtype=torch.float64), self.means
        for number in torch.bincount(cell).nonzero()[:, 0].tolist():
            own = rows[cell == number].double() - means[number]
            along, factors = own @ vectors, self.factors[number] @ vectors
            outside = (own.square().sum(-1) - along.square().sum(-1)).clamp(min=0)
            for place, nu in enumerate(nus):
                pooled, scatter = self.shares(number, nu)
                d = pooled * values + floor
                factor = math.sqrt(scatter) * factors
                inner = torch.eye(len(factor), dtype=torch.float64) + (factor / d) @ factor.T
                root = torch.linalg.cholesky(inner)
                solved = torch.linalg.solve_triangular(root, (factor / d) @ along.T, upper=False)
                trace = torch.linalg.solve_triangular(root, factor / d, upper=False).square().sum()
                quadratic = (along.square() / d).sum() - solved.square().sum() + outside.sum() / floor
                added = floor * ((1 / d).sum() - trace) + rest
                determinant = d.log().sum() + 2 * root.diagonal().log().sum()
                determinant = determinant + rest * math.log(floor) + width * math.log(2 * math.pi)
                total[place] += 0.5 * float(quadratic + len(own) * (added + determinant))
        return total


def fit_cell_gaussians(rows: Rows, chosen: Sequence[int]) -> CellGaussians:
    """Cells of x̂ and their Gaussians, of these windows: raw means, the pooled covariance in every cell."""
    parts = [(some.seen.reconstruction[some.seen.mask], some.rows) for some in rows.blocks(chosen)]
    x, r = torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])
    cells = fit_cells(x[:_FOR_CELLS], r[:_FOR_CELLS])
    labels = cells.assign(x)
    counts = torch.bincount(labels, minlength=len(cells.centres)).double()
    factors, means = [], []
    dealt, within = rows.folds_of(chosen), [Moments.empty(rows.width) for _ in range(FOLDS)]
    for number in range(len(counts)):
        here = labels == number
        own = r[here].double()
        means.append(own.mean(0))
        centred = own - means[-1]
        for fold, part in enumerate(within):
            part.update(centred[dealt[here] == fold])
        factors.append(centred if len(centred) <= rows.width else torch.linalg.qr(centred, mode="r").R)
    return CellGaussians(
        cells,
        counts,
        torch.stack(means),
        r.double().mean(0),
        tuple(factors),
        fit_covariance(within),
        kappa=0.0,
        nu=math.inf,
    )


class Cluster(Kernel):
    """ε ~ N(μ_c, Σ_c), c the cell that x̂ lies in."""

    def __init__(self, calibration: Calibration) -> None:
        rows = rows_of(calibration, "cluster")
        if calibration.is_large:
            raise NotMeasurableError(
                f"cluster needs a covariance of {calibration.width} dimensions as a matrix",
                fix="leave cluster out",
            )
        floor = floor_of(calibration)
        if not floor > 0:
            raise NotMeasurableError(
                "the residual is constant on calibration: cells have no Gaussians", fix="leave cluster out"
            )

        @cache  # the same first windows are asked for again, by points of the curve among others
        def unshrunk(chosen: tuple[int, ...]) -> CellGaussians:
            return fit_cell_gaussians(rows, chosen)

        def fit(windows: Sequence[int], kappa: float = 0.0, nu: float = math.inf) -> CellGaussians:
            return replace(unshrunk(tuple(rows.first(windows, _MOST))), kappa=kappa, nu=nu)

        dealt = [fold for fold in range(FOLDS) if rows.order(fold) and rows.order(without=fold)]
        fitted = {fold: fit(rows.order(without=fold)) for fold in dealt}
        few, first = rows.first(rows.order(dealt[0]), _QUERIES), fitted[dealt[0]]
        kappa = min(_MEANS, key=lambda kappa: _error(rows, few, replace(first, kappa=kappa)))
        nu = _SCATTERS[int(_surprises(rows, few, replace(first, kappa=kappa), floor, _SCATTERS).argmin())]
        surprise = sum(
            float(_surprises(rows, rows.order(fold), replace(one, kappa=kappa), floor, [nu]))
            for fold, one in fitted.items()
        )
        found = held_out(rows, lambda windows: fit(windows, kappa, nu), moments=False)
        self.fitted = fit(rows.order(), kappa, nu)
        cells = len(self.fitted.counts)
        calibration.conditional["cluster"] = ConditionalFit(
            rows=min(len(rows), _MOST),
            explained=found.explained,
            curve={str(size): value for size, value in found.curve.items()},
            surprise=surprise / sum(rows.count(rows.order(fold)) for fold in dealt),
            note=f"{cells} cells, κ {kappa:g}, ν {nu:g}",
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        fitted = self.fitted
        cell = fitted.of(context.reconstruction[context.mask])
        widest = max(len(factor) for factor in fitted.factors)
        positions = context.mask.shape[1]
        w = normal(context.places, draw, positions, widest, "normal-cell")[context.mask.cpu()]
        noise = context.coloured(fitted.covariance, draw)[context.mask].cpu()
        rows = fitted.means[cell].clone()
        for number in torch.bincount(cell).nonzero()[:, 0].tolist():
            own, factor = cell == number, fitted.factors[number]
            pooled, scatter = fitted.shares(number, fitted.nu)
            low_rank = w[own, : len(factor)] @ factor
            rows[own] += math.sqrt(pooled) * noise[own] + math.sqrt(scatter) * low_rank
        return placed(context, rows)


def _error(rows: Rows, windows: Sequence[int], fitted: CellGaussians) -> float:
    """Squared error of the means on some windows."""
    return sum(
        float((some.rows.double() - fitted.predict(some.seen)).square().sum())
        for some in rows.blocks(windows)
    )


def _surprises(
    rows: Rows, windows: Sequence[int], fitted: CellGaussians, floor: float, nus: Sequence[float]
) -> Float[Tensor, " nus"]:
    """Sum of −log density over some windows, for each ν."""
    total = torch.zeros(len(nus), dtype=torch.float64)
    for some in rows.blocks(windows):
        cells = fitted.of(some.seen.reconstruction[some.seen.mask])
        total += fitted.surprises(some.rows, cells, floor, nus)
    return total
