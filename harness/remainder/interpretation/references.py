"""Reference interpretations that every task carries, made from moments of the `fit` split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.residual.moments import Moments

__all__ = [
    "Codebook",
    "Identity",
    "Projection",
    "mean_only",
    "principal_components",
    "random_projection",
]


class Identity:
    """x̂ = x, every coordinate a feature: the perfect reconstruction at full complexity."""

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        return x

    def decode(self, codes: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos d"]:
        return codes


@dataclass(frozen=True)
class Projection:
    """x̂ = m + (x − m) Vᵀ V for orthonormal rows V [features d]."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "features d"]

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        return (x - self.mean.to(x)) @ self.directions.to(x).T

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        return self.mean.to(codes) + codes @ self.directions.to(codes)


@dataclass(frozen=True)
class Codebook:
    """x̂ = the nearest of a few centroids [entries d]; the code is 1 at that entry, 0 elsewhere."""

    centroids: Float[Tensor, "entries d"]

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos entries"]:
        distances = torch.cdist(x.flatten(0, -2), self.centroids.to(x))
        codes = torch.nn.functional.one_hot(distances.argmin(-1), len(self.centroids))
        return codes.to(x.dtype).reshape(*x.shape[:-1], len(self.centroids))

    def decode(self, codes: Float[Tensor, "docs pos entries"]) -> Float[Tensor, "docs pos d"]:
        return codes @ self.centroids.to(codes)


def mean_only(moments: Moments) -> Projection:
    """The mean activation as reconstruction: no features at all."""
    return Projection(moments.mean.float(), torch.zeros(0, len(moments.mean)))


def principal_components(moments: Moments, rank: int) -> Projection:
    """Projection on the `rank` leading principal components.

    Raises:
        InterpretationError: if `rank` exceeds the width, or the rows of `moments` cannot span it.
    """
    _check_rank(rank, len(moments.mean))
    if moments.count <= rank:
        raise InterpretationError(
            f"{rank} principal components cannot be found from {moments.count} rows",
            fix="fit on more windows",
        )
    _, vectors = torch.linalg.eigh(moments.covariance)
    return Projection(moments.mean.float(), vectors.flip(-1).T[:rank].float().contiguous())


def random_projection(moments: Moments, rank: int, seed: int) -> Projection:
    """Projection on `rank` random orthonormal directions (QR of a seeded Gaussian matrix)."""
    width = len(moments.mean)
    _check_rank(rank, width)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))
    return Projection(moments.mean.float(), basis.T.float().contiguous())


def _check_rank(rank: int, width: int) -> None:
    if not 0 < rank <= width:
        raise InterpretationError(
            f"rank is {rank}, but the site has width {width}", fix=f"choose a rank from 1 to {width}"
        )
