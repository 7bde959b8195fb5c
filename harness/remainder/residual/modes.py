"""Logarithmic discretisation of a bath, as the numerical renormalization group does it.

1. Sources in an order, of which the first k are kept. The others fall into shells between the edges
   k_n = K Λ^{−n−z}, K all of them, z a shift from 0 to 1 (`record.modes.edges_of`). Shell n adds δ_n, of
   covariance Σ_n.
2. Each shell is replaced by one Gaussian mode, a standard normal number times a vector. The vector
   Σ_n g/√(gᵀΣ_n g) keeps gᵀΣ_n g, with g the direction that the loss reads most: what couples a shell to the
   model, as the hybridisation of a Wilson chain couples a shell to its impurity. The control is the leading
   eigenvector of Σ_n, as long as keeps tr Σ_n.
3. Modes are independent, so that all of them are a Gaussian of covariance Σ_n v_n v_nᵀ. As Λ falls to 1 a
   shell holds one source, and its mode is that source: Σ_j Var(a_j) d_j d_jᵀ, one independent mode a latent.

Source: Wilson (1975); Bulla, Costi, Pruschke (2008), section II, also for the averaging over z.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.residual.covariance import DenseCovariance
from remainder.residual.gaussian import Full

__all__ = ["Modes", "reading_mode", "trace_mode"]

_ROUNDING = 1e-12


def reading_mode(covariance: Float[Tensor, "d d"], reads: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The vector Σg/√(gᵀΣg), which keeps gᵀΣg; 0 where that is 0."""
    along = covariance @ reads
    power = float(reads @ along)
    return along / power**0.5 if power > 0 else torch.zeros_like(along)


def trace_mode(covariance: Float[Tensor, "d d"]) -> Float[Tensor, " d"]:
    """The leading eigenvector, of the squared length tr Σ."""
    _, vectors = torch.linalg.eigh(covariance)
    leading: Tensor = vectors[:, -1] * covariance.trace().clamp(min=0).sqrt()
    return leading


class Modes(Full):
    """ε ~ N(μ, C) with a covariance that is given.

    Args:
        mean: μ, float64.
        matrix: C, float64; eigenvalues that are 0 up to rounding are left out.
    """

    covariance: DenseCovariance

    def __init__(self, mean: Float[Tensor, " d"], matrix: Float[Tensor, "d d"]) -> None:
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        there = values > _ROUNDING * values.max().clamp(min=0)
        self.mean = mean
        self.covariance = DenseCovariance(
            mean, matrix.diagonal(), values[there], vectors[:, there], intensity=0.0, oas=None, held_out=None
        )
