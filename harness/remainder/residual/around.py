"""Splices around the clean activation x that take the Gaussian ratio apart.

With r = μ + c the residual, μ its mean on calibration and Σ its covariance:

| kernel | splices |
|---|---|
| `mirror`, `minus-mean` | x − μ + c, x − μ; beside the reconstruction x − r = x − μ − c |
| `residual-0.3`, `mirror-0.3`, `noise-0.3` | x − μ ∓ 0.3 c, x − μ + 0.3 ε with ε ~ N(0, Σ̂) |
| `noise-centred` | x + ε |
| `noise-run` | x − the residuals of other tokens, as they follow each other |
| `cov-random` | x + ‖r‖ u/‖u‖, u ~ N(0, Cov x): Lee and Heimersheim (2024, arXiv 2410.12555) |
| `real-mixture` | the same with u = x_s − x_s′, of two other tokens |
| `activation-difference` | the same with u = x_s − x, towards another token: Heimersheim (2024) |

The mirror is about the mean: mirrored about x, an exactly Gaussian and independent residual with a mean would
seem to have a side.

Source: protocol 2, sections 1 and 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.residual.calibration import Calibration
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, fit_covariance
from remainder.residual.gaussian import Full
from remainder.residual.kernel import Context, Kernel, Sample, of_length, residual_of
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, indices
from remainder.residual.real import PermutedBlock

__all__ = [
    "AboutMean",
    "ActivationDifference",
    "CentredNoise",
    "CovRandom",
    "MinusMean",
    "RealMixture",
    "Run",
    "ScaledNoise",
]

_SAME = 1e-4
"""Activations nearer to each other than this share of their spread are one: their difference is rounding."""
_CHECKED = 4096  # pairs of calibration activations that are compared
_RARE = 0.01
"""A larger share of pairs that are one is no accident; a smaller one is drawn anew, up to `_TRIES` times."""
_TRIES = 8


class MinusMean(Kernel):
    """−μ: what the residual does to the model by its mean alone."""

    def __init__(self, calibration: Calibration) -> None:
        self.mean = calibration.mean

    def sample(self, context: Context, draw: Draw) -> Sample:
        return -self.centre(context)


class AboutMean(MinusMean):
    """−μ + a (r − μ): at a = −1 the reconstruction, at a = 1 its mirror image."""

    def __init__(self, calibration: Calibration, amplitude: float) -> None:
        super().__init__(calibration)
        self.amplitude = amplitude

    def sample(self, context: Context, draw: Draw) -> Sample:
        centre = self.centre(context)
        return self.amplitude * (residual_of(context) - centre) - centre


class ScaledNoise(Full):
    """−μ + a ε, ε ~ N(0, Σ̂)."""

    def __init__(self, calibration: Calibration, amplitude: float) -> None:
        super().__init__(calibration)
        self.amplitude = amplitude

    def sample(self, context: Context, draw: Draw) -> Sample:
        return self.amplitude * context.coloured(self.covariance, draw) - self.centre(context)


class CentredNoise(Full):
    """ε ~ N(0, Σ̂): what the residual does to the model by its covariance alone."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return context.coloured(self.covariance, draw)


class Run(PermutedBlock):
    """−r of one calibration window from a random start: real lengths, directions and order of tokens."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return -super().sample(context, draw)


class CovRandom(Kernel):
    """Directions of N(0, Cov x) with the residual's own length at each token."""

    covariance: DenseCovariance

    def __init__(self, calibration: Calibration) -> None:
        if calibration.is_large:
            raise NotMeasurableError(
                f"the covariance of the activation takes a matrix of {calibration.width} dimensions",
                fix="leave the rung cov-random out",
            )
        self.covariance = fit_covariance([_of_sum(part, calibration.width) for part in calibration.folds])
        if self.covariance.rank == 0:
            raise NotMeasurableError(
                "the activation is constant on calibration: its covariance has no direction",
                fix="leave the rung cov-random out",
            )

    def sample(self, context: Context, draw: Draw) -> Sample:
        return of_length(context, context.coloured(self.covariance, draw))


class RealMixture(Kernel):
    """Directions from one calibration activation to another, with the residual's own length."""

    rows: Float[Tensor, "rows d"]

    def __init__(self, calibration: Calibration) -> None:
        self.rows = calibration.once("activations", _activations)
        self.nearest = _SAME * float(self.rows.double().var(0, correction=0).sum().sqrt())
        if len(self.rows) < 2 or self._repeats():
            raise NotMeasurableError(
                "activations repeat on calibration: the difference of two may have no direction",
                fix="leave the rungs real-mixture and activation-difference out",
            )

    def _repeats(self) -> bool:
        """Whether two calibration activations are one more than rarely."""
        keys = NoiseKeys(0, ("pairs",), (0,))
        first, step = (
            indices(keys, 0, _CHECKED, len(self.rows) - place, f"pair-{place}")[0] for place in (0, 1)
        )
        return float(self._too_near(self._between(first, step)).double().mean()) > _RARE

    def sample(self, context: Context, draw: Draw) -> Sample:
        found = self._direction(context, draw, 0)
        for again in range(1, _TRIES):
            near = self._too_near(found) & context.mask
            if not near.any():
                break
            found = torch.where(near[..., None], self._direction(context, draw, again), found)
        return of_length(context, found)

    def _direction(self, context: Context, draw: Draw, again: int) -> Sample:
        first, second = (self._indices(context, draw, f"{again}-{place}", place) for place in (0, 1))
        return self._between(first, second).to(context.reconstruction.device)

    def _indices(self, context: Context, draw: Draw, stream: str, fewer: int) -> Tensor:
        positions = context.reconstruction.shape[1]
        size = len(self.rows) - fewer
        return indices(context.places, draw.index, positions, size, f"activation-{stream}")

    def _between(self, first: Tensor, step: Tensor) -> Float[Tensor, "*rows d"]:
        """x_s − x_s′, s′ as many rows behind s, cyclically, as `step` + 1: never s itself."""
        second = (first + 1 + step) % len(self.rows)
        device = self.rows.device
        between: Tensor = self.rows[first.to(device)].double() - self.rows[second.to(device)].double()
        return between

    def _too_near(self, direction: Float[Tensor, "*rows d"]) -> Tensor:
        near: Tensor = direction.norm(dim=-1) <= self.nearest
        return near


class ActivationDifference(RealMixture):
    """Directions from the activation to one of calibration, with the residual's own length.

    In the mean over targets half of its square is shrinkage towards the mean activation.
    """

    def _direction(self, context: Context, draw: Draw, again: int) -> Sample:
        chosen = self._indices(context, draw, f"{again}-0", 0)
        there = self.rows[chosen.to(self.rows.device)].double().to(context.reconstruction.device)
        return there - (context.reconstruction.double() + residual_of(context))


def _activations(calibration: Calibration) -> Float[Tensor, "rows d"]:
    """The activations x̂ + r of the bank."""
    return calibration.bank.reconstructions() + calibration.bank.rows()


def _of_sum(joint: Moments, width: int) -> Moments:
    """Moments of x̂ + r from those of (x̂, r)."""
    x, r = slice(0, width), slice(width, None)
    s = joint.scatter
    return Moments(joint.count, joint.mean[x] + joint.mean[r], s[x, x] + s[x, r] + s[r, x] + s[r, r])
