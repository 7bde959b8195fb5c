"""The space that a residual lives in: coordinates that vary, and of these the subspace that holds all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Support", "largest_eigenvalue", "support_of", "varies"]

_RANK = 1e-7
"""Eigenvalues of the correlation matrix below this share of the largest are rounding of float32 values."""

_SMALL = 64  # dimensions below which all eigenvalues are found as fast as the largest


@dataclass(frozen=True)
class Support:
    """The space that a residual lives in, in coordinates scaled by its standard deviations."""

    scale: Float[Tensor, " d"]
    varying: Bool[Tensor, " d"]
    vectors: Float[Tensor, "d rank"] | None
    """A basis, orthonormal in scaled coordinates; None for all coordinates that vary."""

    @property
    def rank(self) -> int:
        return int(self.varying.sum()) if self.vectors is None else self.vectors.shape[1]

    def inside(self, matrix: Float[Tensor, "d d"]) -> Float[Tensor, "rank rank"]:
        """A covariance in this space."""
        scaled = matrix / torch.outer(self.scale, self.scale)
        if self.vectors is not None:
            within: Tensor = self.vectors.T @ scaled @ self.vectors
            return within
        return scaled if bool(self.varying.all()) else scaled[self.varying][:, self.varying]

    def coordinates(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows rank"]:
        """Centred rows in this space."""
        scaled = rows / self.scale
        return scaled[:, self.varying] if self.vectors is None else scaled @ self.vectors

    def outside(self, matrix: Float[Tensor, "rank rank"]) -> Float[Tensor, "d d"]:
        """The covariance that a matrix in this space stands for."""
        if self.vectors is not None:
            outer = self.scale[:, None] * self.vectors
            return outer @ matrix @ outer.T
        found = matrix
        if not bool(self.varying.all()):
            found = matrix.new_zeros(len(self.scale), len(self.scale))
            (at,) = self.varying.nonzero(as_tuple=True)
            found[at[:, None], at] = matrix
        return found * torch.outer(self.scale, self.scale)


def support_of(
    correlation: Float[Tensor, "d d"],
    scale: Float[Tensor, " d"],
    varying: Bool[Tensor, " d"],
    freedom: int,
) -> tuple[Support, int]:
    """The space that the residual lives in, and the rank of the correlation matrix.

    Args:
        freedom: the largest rank that the data allow.
    """
    whole = Support(scale, varying, None)
    if whole.rank <= freedom:
        # All eigenvalues lie above a bound if and only if what is above it has a Cholesky factor: that takes
        # a tenth of the time of finding them.
        above = correlation[varying][:, varying]
        above.diagonal().sub_(_RANK * largest_eigenvalue(above))
        if int(torch.linalg.cholesky_ex(above).info) == 0:
            return whole, whole.rank
    values, vectors = torch.linalg.eigh(correlation)
    rank = int((values > _RANK * values[-1]).sum())
    confined = rank < min(whole.rank, freedom)
    return (Support(scale, varying, vectors[:, -rank:]) if confined else whole), rank


def largest_eigenvalue(matrix: Float[Tensor, "d d"]) -> float:
    """The largest eigenvalue of a positive semidefinite matrix, by Lanczos iteration."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    width = len(matrix)
    if width < _SMALL:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    trace = float(matrix.trace())
    if trace == 0:
        return 0.0
    rows = (matrix / trace).cpu().numpy()
    # Start and operator are fixed, so that the same matrix gives the same number.
    operator = LinearOperator(rows.shape, matvec=rows.__matmul__, dtype=rows.dtype)
    start = np.random.default_rng(0).standard_normal(width)
    (found,) = eigsh(operator, k=1, which="LA", v0=start, tol=1e-12, return_eigenvectors=False)
    return trace * float(found)


def varies(variances: Float[Tensor, " d"], mean: Float[Tensor, " d"]) -> Bool[Tensor, " d"]:
    """Mask of coordinates whose spread exceeds the rounding of float32 activations of that size."""
    return variances > 1e-10 * mean.square()
