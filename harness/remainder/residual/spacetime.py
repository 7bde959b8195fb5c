"""A Gaussian residual with a covariance across tokens: `full` in time as well as in space.

`temporal` gives all directions one correlation function of the lag. Here every pair of directions has its
own, for lags up to 3.

1. Rows [r_t, r_{t−1}, …, r_{t−L}] of all calibration windows, fold by fold of documents, wherever these
   tokens are all spliced. Blocks of their covariance, averaged along diagonals, are C(l) = E r_t r_{t−l}ᵀ.
2. In coordinates whitened by the Σ̂ of `full`: G(l) = Σ̂^{−1/2} C(l) Σ̂^{−1/2}, and ρ(l) = tr G(l)/tr G(0). The
   fit is K(0) = I, K(l) = γ G(l) + (1 − γ) ρ(l) I: one token alone is exactly `full`, and with γ = 0 these
   lags are those of `temporal`.
3. γ minimises the surprise of documents left out: −log density of r_t given the L tokens before it, noise
   N(0, s²I) added as in `residual.held_out`.
4. Where the blocks are no covariance, lags are multiplied by the largest s that makes them one: the smallest
   eigenvalue of I + s(T − I) is 1 − s(1 − λ_min).
5. With T = M Mᵀ, M lower triangular, tokens 0 … L of a window are M z; every later one is
       w_t = [A_L … A_1] [w_{t−L} … w_{t−1}] + M_LL z_t,  [A_L … A_1] = M_{L,<L} M_{<L,<L}^{−1},
   the stationary process of largest entropy with these covariances.

The process runs over all tokens of a window; what is not spliced is dropped, which restricts it to the rest.

Source: protocol 2, section 4; Burg 1967 for step 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.record.rungs import FOLDS
from remainder.record.schema import ConditionalFit
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import (
    DenseCovariance,
    NotMeasurableError,
    fit_covariance,
)
from remainder.residual.gaussian import Full, whitening
from remainder.residual.held_out import floor_of, rows_of
from remainder.residual.kernel import Context, Sample
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw
from remainder.residual.rows import Rows

__all__ = ["FullTemporal", "toeplitz"]

Lags = Float[Tensor, "lags rank rank"]
"""A matrix for each lag, from 0 on: E w_t w_{t−l}ᵀ."""

NAME = "full-temporal"
_LAGS = 3
_WIDEST = 8192
"""Dimensions of 1 + lags tokens together, at and above which no matrix of them is formed."""
_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
"""The γ that are tried."""
_LEAST = 1e-6
"""Smallest eigenvalue of the correlation of 1 + lags tokens that a fit may have."""


class FullTemporal(Full):
    """ε ~ N(μ, Σ̂) at each token, with its own covariance between tokens up to three apart."""

    covariance: DenseCovariance
    root: Float[Tensor, "blocks blocks"]
    """M, of 1 + lags blocks of the rank of Σ̂."""
    coefficients: Float[Tensor, "rank earlier"]
    """[A_L … A_1]."""
    lags: Lags
    """K(0) … K(L)."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration)
        whitening(self.covariance, calibration, fix=f"leave {NAME} out")
        rows = rows_of(calibration, NAME)
        lags = _lags_of(rows, calibration.width)
        moments = [_moments(rows, fold, lags) for fold in range(FOLDS)]
        if sum(part.count > 0 for part in moments) < 2:
            raise NotMeasurableError(
                f"{NAME} is judged by other documents than it is fitted to, and those with {lags + 1} "
                "spliced tokens in a row all fell into one fold",
                fix="use more calibration documents",
            )
        folds, floor = _left_out(calibration, moments, lags), floor_of(calibration)
        surprises = {weight: sum(fold.surprise(weight, floor) for fold in folds) for weight in _WEIGHTS}
        weight = min(surprises, key=surprises.__getitem__)
        left, total = (sum(part) for part in zip(*(fold.squares(weight) for fold in folds), strict=True))
        self.lags = _shrunk(_correlations(self.covariance, Moments.merged(moments), lags), weight)
        self.root, self.coefficients = _last_given_others(toeplitz(self.lags), self.covariance.rank)
        count = sum(part.count for part in moments)
        calibration.conditional[NAME] = ConditionalFit(
            rows=count,
            explained=1 - left / total,
            of=f"r given that of {lags} tokens before",
            surprise=surprises[weight] / count,
            note=f"γ {weight:g}, lags {lags}",
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        device, rank = context.reconstruction.device, self.covariance.rank
        vectors, values = self.covariance.vectors.to(device), self.covariance.values.to(device)
        root, coefficients = self.root.to(device), self.coefficients.to(device)
        z = context.normal(draw) @ vectors
        memory = coefficients.shape[1] // rank
        samples: list[Tensor] = []
        for place in range(z.shape[1]):
            if place <= memory:
                begun = root[rank * place : rank * (place + 1), : rank * (place + 1)]
                samples.append(z[:, : place + 1].flatten(1) @ begun.T)
            else:
                before = torch.cat(samples[place - memory : place], -1)
                samples.append(before @ coefficients.T + z[:, place] @ root[-rank:, -rank:].T)
        return self.centre(context) + (torch.stack(samples, 1) * values.sqrt()) @ vectors.T


def toeplitz(lags: Lags) -> Float[Tensor, "blocks blocks"]:
    """The covariance of as many tokens in a row as there are lags, K(l) = E w_t w_{t−l}ᵀ; earliest first."""
    count = len(lags)
    return torch.cat(
        [torch.cat([lags[i - j] if i >= j else lags[j - i].T for j in range(count)], 1) for i in range(count)]
    )


# ------------------------------------------------------------------------------------------------ rows


def _lags_of(rows: Rows, width: int) -> int:
    """Lags that windows have room for, at most three."""
    longest = 0
    for some in rows.blocks(rows.order()):
        while longest <= _LAGS and bool(_in_a_row(some.seen.mask, longest).any()):
            longest += 1
    if longest < 2:
        raise NotMeasurableError(
            f"{NAME} needs two spliced tokens in a row, and calibration has none", fix=f"leave {NAME} out"
        )
    if longest * width >= _WIDEST:
        raise NotMeasurableError(
            f"{NAME} takes a matrix of {longest * width} dimensions; the limit is {_WIDEST - 1}",
            fix=f"leave {NAME} out",
        )
    return longest - 1


def _in_a_row(mask: Bool[Tensor, "docs pos"], lags: int) -> Bool[Tensor, "docs later"]:
    """Mask of tokens that are spliced like the `lags` before them, from the first that has so many."""
    if mask.shape[1] <= lags:
        return mask[:, :0]
    return mask.unfold(1, lags + 1, 1).all(-1)


def _moments(rows: Rows, fold: int, lags: int) -> Moments:
    """Moments of rows [r_{t−L}, …, r_t] of one fold."""
    moments = Moments.empty((1 + lags) * rows.width)
    for some in rows.blocks(rows.order(fold)):
        here = _in_a_row(some.seen.mask, lags)
        later = here.shape[1]
        parts = [some.residual[:, lag : lag + later][here] for lag in range(1 + lags)]
        moments.update(torch.cat(parts, -1))
    return moments


# ------------------------------------------------------------------------------------------------- fit


def _correlations(covariance: DenseCovariance, moments: Moments, lags: int) -> Lags:
    """G(0) … G(L): the blocks of these moments, whitened."""
    width, rank = len(covariance.mean), covariance.rank
    white = covariance.vectors / covariance.values.sqrt()
    scatter = (moments.scatter / moments.count).to(white.device).reshape(1 + lags, width, 1 + lags, width)
    found = torch.zeros(1 + lags, rank, rank, dtype=torch.float64, device=white.device)
    for lag in range(1 + lags):
        blocks = [scatter[i + lag, :, i] for i in range(1 + lags - lag)]
        found[lag] = white.T @ torch.stack(blocks).mean(0) @ white
    return found


def _shrunk(found: Lags, weight: float) -> Lags:
    """K(0) … K(L) with γ = `weight`."""
    share = found.diagonal(dim1=1, dim2=2).mean(1)
    one = torch.eye(found.shape[1], dtype=found.dtype, device=found.device)
    fitted = weight * found + (1 - weight) * (share / share[0])[:, None, None] * one
    fitted[0] = one
    return _positive(fitted)


def _positive(lags: Lags) -> Lags:
    """Lags beyond 0 scaled down as far as a covariance needs it."""
    whole = toeplitz(lags)
    above = whole - _LEAST * torch.eye(len(whole), dtype=whole.dtype, device=whole.device)
    if int(torch.linalg.cholesky_ex(above).info) == 0:
        return lags
    least = float(torch.linalg.eigvalsh(whole)[0])
    scaled = lags * ((1 - 2 * _LEAST) / (1 - least))
    scaled[0] = lags[0]
    return scaled


def _last_given_others(
    covariance: Float[Tensor, "blocks blocks"], width: int
) -> tuple[Float[Tensor, "blocks blocks"], Float[Tensor, "width earlier"]]:
    """The Cholesky factor M of a covariance, and the coefficients of the last block on those before it."""
    root = torch.linalg.cholesky(covariance)
    before, below = root[:-width, :-width], root[-width:, :-width]
    return root, torch.linalg.solve_triangular(before.T, below.T, upper=True).T


@dataclass(frozen=True)
class _Fold:
    """Documents left out, and what is fitted to the others."""

    covariance: DenseCovariance
    found: Lags
    """G(0) … G(L)."""
    held: Float[Tensor, "blocks blocks"]
    """Scatter of rows [r_{t−L}, …, r_t] of those left out, about the mean of the others."""
    count: int

    @property
    def outwards(self) -> Float[Tensor, "d rank"]:
        """The map from whitened coordinates to those of the residual."""
        return self.covariance.vectors * self.covariance.values.sqrt()

    def surprise(self, weight: float, floor: float) -> float:
        """Sum of −log density of the last token given those before, with noise of variance `floor`."""
        width, outwards = len(self.covariance.mean), self.outwards
        lags = _shrunk(self.found, weight)
        model = toeplitz(torch.stack([outwards @ lag @ outwards.T for lag in lags]))
        model.diagonal().add_(floor)
        root, coefficients = _last_given_others(model, width)
        last, combined = root[-width:, -width:], _errors(coefficients)
        left = combined @ self.held @ combined.T + self.count * floor * (combined @ combined.T)
        quadratic = float(torch.cholesky_inverse(last).mul(left).sum())
        determinant = 2 * float(last.diagonal().log().sum()) + width * math.log(2 * math.pi)
        return 0.5 * (self.count * determinant + quadratic)

    def squares(self, weight: float) -> tuple[float, float]:
        """Squares of the last token that those before leave unexplained, and all of them."""
        width, rank, outwards = len(self.covariance.mean), self.covariance.rank, self.outwards
        _, coefficients = _last_given_others(toeplitz(_shrunk(self.found, weight)), rank)
        white = self.covariance.vectors / self.covariance.values.sqrt()
        blocks = coefficients.reshape(rank, -1, rank) @ white.T
        combined = _errors(outwards @ blocks.reshape(rank, -1))
        left = combined @ self.held @ combined.T
        return float(left.trace()), float(self.held.diagonal()[-width:].sum())


def _errors(coefficients: Float[Tensor, "width earlier"]) -> Float[Tensor, "width blocks"]:
    """The matrix that takes the last token less its prediction from those before."""
    one = torch.eye(len(coefficients), dtype=coefficients.dtype, device=coefficients.device)
    return torch.cat([-coefficients, one], 1)


def _left_out(calibration: Calibration, moments: Sequence[Moments], lags: int) -> list[_Fold]:
    """Each fold of documents, beside a fit to the others."""
    parts, folds = calibration.residual_folds, []
    for place, fold in enumerate(moments):
        others = [part for other, part in enumerate(moments) if other != place]
        if fold.count and any(part.count for part in others):
            covariance = fit_covariance([part for other, part in enumerate(parts) if other != place])
            held = fold.about(covariance.mean.cpu().repeat(1 + lags)).to(covariance.mean.device)
            found = _correlations(covariance, Moments.merged(others), lags)
            folds.append(_Fold(covariance, found, held, fold.count))
    return folds
