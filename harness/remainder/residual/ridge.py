"""Ridge regression of the residual on what a kernel may see, from blocks of rows.

The intercept is not penalised: with centred columns A and centred targets T,

    W = (AᵀA + λ I)⁻¹ Aᵀ T.

Up to `DIRECT` columns by the normal equations and a Cholesky factor; above, by conjugate gradients (SciPy) on
the sparse matrix. λ counts rows: a column of unit size that n rows have is shrunk by n/(n + λ). It minimises
the squared error on a fold of documents that is left out; no weights at all (λ = ∞) is among the choices.

Source: protocol 2, section 4; Hoerl and Kennard 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.record.rungs import FOLDS
from remainder.residual.rows import Rows, Seen, Some

__all__ = ["DIRECT", "STRENGTHS", "Design", "Ridge", "choose_strength", "fit_ridge"]

DIRECT = 8192
"""Columns up to which the normal equations are solved directly."""

STRENGTHS = (1.0, 8.0, 64.0, 512.0, 4096.0, 32768.0)

_DENSE = 0.05  # share of entries that are not zero, above which products of dense matrices are faster
_TOLERANCE = 1e-4
_ITERATIONS = 500

Array = NDArray[np.float64]
Targets = Callable[[Some], Array]
"""Gives the numbers that are predicted at each row of some windows, [rows, targets]."""


@runtime_checkable
class Design(Protocol):
    """The columns that a prediction is linear in."""

    @property
    def columns(self) -> int: ...

    def matrix(self, seen: Seen) -> Any:
        """Float64 SciPy CSR matrix [rows, columns] of the positions where the mask holds."""
        ...


@dataclass(frozen=True)
class Ridge:
    """A fitted linear map."""

    design: Design
    weights: Array
    """[columns, targets]; no columns: the mean alone."""
    intercept: Array

    def values(self, seen: Seen) -> Array:
        """Predictions [rows, targets]."""
        if not len(self.weights):
            return np.broadcast_to(self.intercept, (int(seen.mask.sum()), len(self.intercept)))
        found: Array = self.design.matrix(seen) @ self.weights + self.intercept
        return found

    def predict(self, seen: Seen) -> Tensor:
        """Predictions as a tensor."""
        return torch.from_numpy(np.ascontiguousarray(self.values(seen)))


@dataclass
class _Sums:
    """Everything that normal equations are made of, or conjugate gradients."""

    design: Design
    count: int
    means: Array
    target_means: Array
    cross: Array
    """AᵀT, centred, [columns, targets]."""
    gram: Array | None
    """AᵀA, centred; null where there are too many columns for it."""
    matrix: Any
    """All rows as a CSR matrix, where there is no `gram`."""

    @classmethod
    def of(cls, rows: Rows, windows: Sequence[int], design: Design, targets: Targets) -> _Sums:
        """The sums over some windows."""
        from scipy import sparse

        kept: list[Any] = []
        dense: Array | None = None
        count, total, target_total, cross = 0, np.zeros(design.columns), np.zeros(1), np.zeros((1, 1))
        for some in rows.blocks(windows):
            block, target = design.matrix(some.seen), targets(some)
            count += len(target)
            total = total + np.asarray(block.sum(axis=0)).ravel()
            target_total = target_total + target.sum(axis=0)
            cross = cross + block.T @ target
            if design.columns <= DIRECT and block.nnz > _DENSE * len(target) * design.columns:
                filled = block.toarray()
                product = filled.T @ filled
                dense = product if dense is None else dense + product
            else:
                kept.append(block)
        means, target_means = total / max(count, 1), target_total / max(count, 1)
        matrix = sparse.vstack(kept, format="csr") if kept else None
        gram = None
        if design.columns <= DIRECT:
            gram = np.zeros((design.columns, design.columns)) if dense is None else dense
            if matrix is not None:
                gram += (matrix.T @ matrix).toarray()
            gram -= count * np.outer(means, means)
        cross = cross - count * np.outer(means, target_means)
        return cls(design, count, means, target_means, cross, gram, matrix)

    def solved(self, strength: float) -> Ridge:
        """The map of one strength."""
        weights = self._iterated(strength) if self.gram is None else self._direct(self.gram, strength)
        return Ridge(self.design, weights, self.target_means - self.means @ weights)

    def _direct(self, gram: Array, strength: float) -> Array:
        penalised = torch.from_numpy(gram).clone()
        penalised.diagonal().add_(strength)
        factor, failed = torch.linalg.cholesky_ex(penalised)
        if int(failed):
            raise MeasurementError(
                f"normal equations of {len(gram)} columns are not positive definite", fix="report this bug"
            )
        found: Array = torch.cholesky_solve(torch.from_numpy(self.cross), factor).numpy()
        return found

    def _iterated(self, strength: float) -> Array:
        from scipy.sparse.linalg import LinearOperator, cg

        def product(vector: Array) -> Array:
            within: Array = self.matrix.T @ (self.matrix @ vector)
            return within - self.count * self.means * (self.means @ vector) + strength * vector

        operator = LinearOperator((len(self.cross), len(self.cross)), matvec=product, dtype=np.float64)
        weights = np.empty_like(self.cross)
        for place, side in enumerate(self.cross.T):
            weights[:, place], left = cg(operator, side, rtol=_TOLERANCE, maxiter=_ITERATIONS)
            if left:
                raise MeasurementError(
                    f"conjugate gradients on {len(self.cross)} columns did not converge in {_ITERATIONS} "
                    "steps",
                    fix="leave the rungs on codes out, or give more calibration windows",
                )
        return weights


def fit_ridge(
    rows: Rows,
    windows: Sequence[int],
    design: Design,
    targets: Targets,
    strengths: Sequence[float | None],
) -> list[Ridge]:
    """The maps of these strengths (None: no weights), fitted to some windows."""
    sums = _Sums.of(rows, windows, design, targets)
    none = Ridge(design, np.empty((0, sums.cross.shape[1])), sums.target_means)
    return [none if strength is None else sums.solved(strength) for strength in strengths]


def choose_strength(rows: Rows, design: Callable[[Sequence[int]], Design], targets: Targets) -> float | None:
    """The λ of least squared error on the first fold that has documents, by a fit to the others."""
    fold = next(fold for fold in range(FOLDS) if rows.order(fold) and rows.order(without=fold))
    others = rows.order(without=fold)
    strengths = (*STRENGTHS, None)
    maps = fit_ridge(rows, others, design(others), targets, strengths)
    errors = np.zeros(len(maps))
    for some in rows.blocks(rows.order(fold)):
        wanted = targets(some)
        errors += [float(np.square(wanted - one.values(some.seen)).sum()) for one in maps]
    return strengths[int(errors.argmin())]
