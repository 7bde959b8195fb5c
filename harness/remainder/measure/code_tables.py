"""Code lengths of quantised codes, under tables that are fixed on calibration and proper over all integers.

The symbol of a latent at a token is q = round(v/Δ), v its contribution; 0: off, or rounded away. Latents are
coded one by one,

    P(0) = 1 − p,    P(q) = p [(1 − ε) F(q)/(1 − F(0)) + ε C(q)/(1 − C(0))]  for q ≠ 0,

1. p = (n + ½)/(N + 1) of a latent that n of N tokens have q ≠ 0 of. Latents that none has share one rate: as
   much as was seen of those that one token has, n₁ + ½ firings in N tokens (Good and Turing), so that a
   million silent latents cost next to nothing.
2. F(q) is the mass of a smooth law of v on [(q − ½)Δ, (q + ½)Δ]. It is fitted once, to the values while the
   latent is active, and serves all steps: log-normal (the size, with a share of negative ones), Gaussian or
   Laplace, whichever codes them best. Log-normal laws of few firings are drawn toward that of all latents,
   and widened by what a mean of n values is uncertain by; below 16 firings there is no choice.
3. C is the Cauchy law of the latent's root mean square, for outliers; ε = 1 %. It is mixed in among active
   symbols alone, so that the many latents that are off do not pay for it.

Source: protocol 2, section 5; the empirical rate of unseen species: Good 1953.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.measure.codes import Codes

__all__ = ["Laws", "StepTable", "fit_laws", "fit_table"]

_OUTLIERS = 0.01
_CHOICE = 16  # firings below which a law is not chosen
_TIGHT = 1e-9  # mass that a law leaves to active symbols, below which they are all outliers
_LOG2 = math.log(2)
_LOG_NORMAL, _GAUSSIAN, _LAPLACE = range(3)


class Laws(NamedTuple):
    """The law of each latent's contribution while it is active, [features] each, float64."""

    family: Int[Tensor, " features"]
    centre: Float[Tensor, " features"]
    spread: Float[Tensor, " features"]
    """Standard deviation of log |v| for a log-normal law; the scale b of a Laplace law."""
    negative: Float[Tensor, " features"]
    """Share of negative values, for log-normal laws."""
    size: Float[Tensor, " features"]
    """Root mean square: the scale of the outliers' law."""

    def of(self, latent: Int[Tensor, " entries"]) -> Laws:
        """The laws of the latents of some entries."""
        return Laws(*(part[latent] for part in self))


class _Sums(NamedTuple):
    """Sums over the values of each latent, [features] each."""

    number: Tensor
    mean: Tensor
    scatter: Tensor
    """Sums of squares about the mean."""


def _sums(values: Tensor, latent: Tensor, features: int) -> _Sums:
    def add(part: Tensor) -> Tensor:
        return torch.zeros(features, dtype=torch.float64).index_add_(0, latent, part)

    count = add(torch.ones_like(values))
    mean = add(values) / count.clamp(min=1)
    return _Sums(count, mean, add((values - mean[latent]).square()))


def fit_laws(contributions: Codes, finest: float) -> Laws:
    """Laws of active contributions.

    Args:
        contributions: v of every entry; entries of value 0 are passed over.
        finest: the finest step. No law is narrower than an eighth of it.
    """
    active = contributions.value != 0
    v, latent = contributions.value[active].double().cpu(), contributions.latent[active].cpu()
    features, floor = contributions.features, finest / 8
    plain = _sums(v, latent, features)
    n = plain.number
    size = ((plain.scatter + n * plain.mean.square()) / n.clamp(min=1)).sqrt()
    overall = float(v.square().mean().sqrt()) if len(v) else finest
    size = torch.where(n > 0, size, overall)
    below = torch.zeros(features, dtype=torch.float64).index_add_(0, latent, (v < 0).double())
    share = (float((v < 0).sum()) + 0.5) / (len(v) + 1)
    negative = (below + share) / (n + 1)
    logs = _sums(v.abs().log(), latent, features)
    centre, spread = _shrunk(logs)
    spread = torch.maximum(spread, torch.log1p(floor / centre.exp()).clamp(max=1))
    deviation = torch.maximum((plain.scatter / n.clamp(min=1)).sqrt(), torch.full_like(size, floor))
    around = torch.zeros(features, dtype=torch.float64)
    around.index_add_(0, latent, (v - plain.mean[latent]).abs())
    width = torch.maximum(around / n.clamp(min=1), torch.full_like(size, floor))
    # Log-likelihoods of all active values; the second term of a log-normal is of the signs.
    signs = below * negative.log() + (n - below) * (1 - negative).log()
    squares = logs.scatter + n * (logs.mean - centre).square()
    gain = torch.stack(
        [
            signs - n * (logs.mean + spread.log() + 0.5 * math.log(2 * math.pi)) - squares / (2 * spread**2),
            -n * (deviation.log() + 0.5 * math.log(2 * math.pi)) - plain.scatter / (2 * deviation**2),
            -n * (2 * width).log() - around / width,
        ]
    )
    family = torch.where(n >= _CHOICE, gain.argmax(0), _LOG_NORMAL)
    log_normal, laplace = family == _LOG_NORMAL, family == _LAPLACE
    return Laws(
        family,
        torch.where(log_normal, centre, plain.mean),
        torch.where(log_normal, spread, torch.where(laplace, width, deviation)),
        negative,
        size.clamp(min=finest / 2),
    )


def _shrunk(logs: _Sums) -> tuple[Tensor, Tensor]:
    """Centre and spread of log |v| of each latent, drawn toward those of all: an empirical-Bayes normal."""
    n, live = logs.number, logs.number > 0
    if not bool(live.any()):
        return torch.zeros_like(logs.mean), torch.ones_like(logs.mean)
    freedom = float((n[live] - 1).sum())
    within = (float(logs.scatter.sum()) + 0.5) / (freedom + 1)
    overall = logs.mean[live].mean()
    # What means of latents differ by, beyond the noise of few firings.
    between = float((logs.mean[live] - overall).square().mean()) - within * float((1 / n[live]).mean())
    weight = within / max(between, within / 100)
    centre = (n * logs.mean + weight * overall) / (n + weight)
    variance = (logs.scatter + 2 * within) / ((n - 1).clamp(min=0) + 2)
    return centre, (variance * (1 + 1 / (n + weight))).sqrt()


@dataclass(frozen=True)
class StepTable:
    """Code lengths at one step."""

    step: float
    laws: Laws
    rate: Float[Tensor, " features"]
    """p: the probability that a latent's symbol is not 0."""

    @property
    def off(self) -> float:
        """Bits of a token all of whose symbols are 0."""
        return float(-torch.log1p(-self.rate).sum() / _LOG2)

    def bits(
        self, latent: Int[Tensor, " entries"], symbol: Float[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        """Bits of symbols other than 0, less those of 0 in their place: to be added to `off`."""
        rate = self.rate[latent]
        return (torch.log1p(-rate) - rate.log() - self.active(latent, symbol).log()) / _LOG2

    def active(
        self, latent: Int[Tensor, " entries"], symbol: Float[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        """Probability of symbols among those that are not 0."""
        laws, half = self.laws.of(latent), self.step / 2
        low, high = symbol * self.step - half, symbol * self.step + half
        mass, rest = _masses(laws, low, high, half)
        outlier = _outlier(laws.size, low, high) * math.pi / (2 * torch.atan(laws.size / half))
        # A law that has next to nothing outside of 0 says nothing about what lies there.
        weight = torch.where(rest > _TIGHT, 1 - _OUTLIERS, 0.0)
        return weight * mass / rest.clamp(min=_TIGHT) + (1 - weight) * outlier


def fit_table(contributions: Codes, laws: Laws, step: float) -> StepTable:
    """The table of one step, from the contributions of the calibration tokens."""
    symbols = torch.round(contributions.value.double() / step)
    latent = contributions.latent[symbols != 0].cpu()
    n = torch.bincount(latent, minlength=contributions.features).double()
    tokens, silent = contributions.tokens, n == 0
    rate = (n + 0.5) / (tokens + 1)
    if bool(silent.any()):
        unseen = (float((n == 1).sum()) + 0.5) / (max(tokens, 1) * float(silent.sum()))
        rate[silent] = min(unseen, 0.5 / (tokens + 1))
    return StepTable(step, laws, rate)


def _masses(laws: Laws, low: Tensor, high: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """F(q) for intervals [low, high] that leave out 0, and 1 − F(0)."""
    near, far = torch.minimum(low.abs(), high.abs()), torch.maximum(low.abs(), high.abs())
    sign_share = torch.where(low < 0, laws.negative, 1 - laws.negative)
    z = [(edge.log() - laws.centre) / laws.spread for edge in (near, far)]
    log_half = (math.log(half) - laws.centre) / laws.spread
    z_low, z_high = ((edge - laws.centre) / laws.spread for edge in (low, high))
    inner = [(edge - laws.centre) / laws.spread for edge in (-half, half)]
    families = [
        (sign_share * _normal(z[0], z[1]), torch.special.ndtr(-log_half)),
        (_normal(z_low, z_high), torch.special.ndtr(inner[0]) + torch.special.ndtr(-inner[1])),
        (_laplace(z_low, z_high), _laplace_below(inner[0]) + _laplace_below(-inner[1])),
    ]
    mass, rest = families[0]
    for family, (own, outside) in enumerate(families[1:], 1):
        chosen = laws.family == family
        mass, rest = torch.where(chosen, own, mass), torch.where(chosen, outside, rest)
    return mass, rest


def _normal(low: Tensor, high: Tensor) -> Tensor:
    """Φ(high) − Φ(low), by the tail that both lie nearer to, so that nothing cancels there."""
    right = low > 0
    upper, lower = torch.where(right, -low, high), torch.where(right, -high, low)
    mass: Tensor = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    return mass


def _laplace_below(z: Tensor) -> Tensor:
    """The mass of the Laplace law below z."""
    tail = 0.5 * torch.exp(-z.abs())
    return torch.where(z < 0, tail, 1 - tail)


def _laplace(low: Tensor, high: Tensor) -> Tensor:
    right = low > 0
    upper, lower = torch.where(right, -low, high), torch.where(right, -high, low)
    return _laplace_below(upper) - _laplace_below(lower)


def _outlier(size: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The mass of the Cauchy law of scale `size` about 0 on [low, high], both of one sign."""
    a, b = low / size, high / size
    mass: Tensor = torch.atan((b - a) / (1 + a * b)) / math.pi
    return mass
