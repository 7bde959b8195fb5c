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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.measure.codes import Codes

__all__ = ["Laws", "StepTable", "fit_tables"]

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

    @classmethod
    def of(cls, values: Tensor, latent: Tensor, number: Tensor) -> _Sums:
        """The sums of some values, and how many of them each latent has."""
        mean = _added(values, latent, len(number)) / number.clamp(min=1)
        return cls(number, mean, _added((values - mean[latent]).square(), latent, len(number)))

    def merged(self, other: _Sums) -> _Sums:
        """The sums of both; by the pairwise formula of `residual.moments`."""
        number = self.number + other.number
        share, delta = other.number / number.clamp(min=1), other.mean - self.mean
        scatter = self.scatter + other.scatter + delta.square() * (self.number * share)
        return _Sums(number, self.mean + delta * share, scatter)


def _added(values: Tensor, latent: Tensor, features: int) -> Tensor:
    return torch.zeros(features, dtype=torch.float64, device=values.device).index_add_(0, latent, values)


@dataclass
class _Looks:
    """The sums over all tokens that laws and rates follow from: a few numbers a latent."""

    plain: _Sums
    logs: _Sums
    """Sums of log |v|."""
    below: Float[Tensor, " features"]
    """Values below 0."""
    around: Float[Tensor, " features"]
    """Sums of distances from the mean."""
    finer: Int[Tensor, "features cells"]
    """Tokens by how many of the steps are so fine that the symbol is not 0; the first cell is not filled."""
    tokens: int

    @classmethod
    def at(cls, parts: Callable[[], Iterable[Codes]], steps: Sequence[float]) -> _Looks | None:
        """All parts looked at twice: distances can only be taken from a mean that is known."""
        found: _Looks | None = None
        for part in parts():
            look = cls._first(part, len(steps))
            found = look if found is None else found._merged(look)
        if found is not None:
            for part in parts():
                found._look_again(part, steps)
        return found

    @classmethod
    def _first(cls, part: Codes, steps: int) -> _Looks:
        v, latent = _active(part)
        number = torch.bincount(latent, minlength=part.features).double()
        below = _added((v < 0).double(), latent, part.features)
        plain, logs = _Sums.of(v, latent, number), _Sums.of(v.abs().log(), latent, number)
        finer = latent.new_zeros(part.features, steps + 1)
        return cls(plain, logs, below, torch.zeros_like(number), finer, part.tokens)

    def _merged(self, other: _Looks) -> _Looks:
        plain, logs = self.plain.merged(other.plain), self.logs.merged(other.logs)
        below, tokens = self.below + other.below, self.tokens + other.tokens
        return _Looks(plain, logs, below, self.around, self.finer, tokens)

    def _look_again(self, part: Codes, steps: Sequence[float]) -> None:
        v, latent = _active(part)
        self.around += _added((v - self.plain.mean[latent]).abs(), latent, part.features)
        # round(v/step) is 0 up to half a step, so a symbol that is not 0 at one step is 0 at no finer one.
        halves = torch.tensor(sorted(step / 2 for step in steps), dtype=torch.float64, device=v.device)
        cell = latent * self.finer.shape[1] + torch.bucketize(v.abs(), halves)
        self.finer += torch.bincount(cell, minlength=self.finer.numel()).view_as(self.finer)

    def firings(self, rank: int) -> Float[Tensor, " features"]:
        """Tokens at which the symbol is not 0, at the step that so many others are finer than."""
        return self.finer[:, rank + 1 :].sum(1).double()


def _active(part: Codes) -> tuple[Tensor, Tensor]:
    """Contributions that are not 0, float64, and their latents."""
    v = part.value.double()
    if bool((v != 0).all()):
        return v, part.latent
    active = v != 0
    return v[active], part.latent[active]


def fit_tables(parts: Callable[[], Iterable[Codes]], steps: Sequence[float]) -> list[StepTable]:
    """The tables of some steps, from the contributions of all calibration tokens.

    Args:
        parts: gives those of some tokens after another; called twice. Entries of value 0 are passed over.
        steps: no law is narrower than an eighth of the finest.
    """
    looks = _Looks.at(parts, steps)
    if looks is None:
        return []
    laws, order = _fit_laws(looks, min(steps)), sorted(steps)
    return [StepTable(step, laws, _rates(looks.firings(order.index(step)), looks.tokens)) for step in steps]


def _fit_laws(looks: _Looks, finest: float) -> Laws:
    plain, logs, below, floor = looks.plain, looks.logs, looks.below, finest / 8
    n = plain.number
    squares = plain.scatter + n * plain.mean.square()
    seen = float(n.sum())
    overall = math.sqrt(float(squares.sum()) / seen) if seen else finest
    size = torch.where(n > 0, (squares / n.clamp(min=1)).sqrt(), overall)
    share = (float(below.sum()) + 0.5) / (seen + 1)
    negative = (below + share) / (n + 1)
    centre, spread = _shrunk(logs)
    spread = torch.maximum(spread, torch.log1p(floor / centre.exp()).clamp(max=1))
    least = torch.full_like(size, floor)
    deviation = torch.maximum((plain.scatter / n.clamp(min=1)).sqrt(), least)
    width = torch.maximum(looks.around / n.clamp(min=1), least)
    # Log-likelihoods of all active values; the second term of a log-normal is of the signs.
    signs = below * negative.log() + (n - below) * (1 - negative).log()
    about = logs.scatter + n * (logs.mean - centre).square()
    gain = torch.stack(
        [
            signs - n * (logs.mean + spread.log() + 0.5 * math.log(2 * math.pi)) - about / (2 * spread**2),
            -n * (deviation.log() + 0.5 * math.log(2 * math.pi)) - plain.scatter / (2 * deviation**2),
            -n * (2 * width).log() - looks.around / width,
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


def _rates(n: Float[Tensor, " features"], tokens: int) -> Float[Tensor, " features"]:
    """The probability that a latent fires, of each that fired at `n` tokens."""
    silent = n == 0
    rate = (n + 0.5) / (tokens + 1)
    if bool(silent.any()):
        unseen = (float((n == 1).sum()) + 0.5) / (max(tokens, 1) * float(silent.sum()))
        rate[silent] = min(unseen, 0.5 / (tokens + 1))
    return rate


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

    @cached_property
    def off(self) -> float:
        """Bits of a token all of whose symbols are 0."""
        return float(-torch.log1p(-self.rate).sum() / _LOG2)

    @cached_property
    def _gate(self) -> Float[Tensor, " features"]:
        """log (1 − p)/p."""
        gate: Tensor = torch.log1p(-self.rate) - self.rate.log()
        return gate

    @cached_property
    def _shares(self) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
        """The factors of a law's mass and of the outliers' mass, both of active symbols alone."""
        rest, half = _outside(self.laws, self.step / 2), self.step / 2
        # A law that has next to nothing outside of 0 says nothing about what lies there.
        weight = torch.where(rest > _TIGHT, 1 - _OUTLIERS, 0.0)
        beyond = (1 - weight) * math.pi / (2 * torch.atan(self.laws.size / half))
        return weight / rest.clamp(min=_TIGHT), beyond

    def bits(
        self, latent: Int[Tensor, " entries"], symbol: Float[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        """Bits of symbols other than 0, less those of 0 in their place: to be added to `off`."""
        return (self._gate[latent] - self.active(latent, symbol).log()) / _LOG2

    def active(
        self, latent: Int[Tensor, " entries"], symbol: Float[Tensor, " entries"]
    ) -> Float[Tensor, " entries"]:
        """Probability of symbols among those that are not 0."""
        half = self.step / 2
        low, high = symbol * self.step - half, symbol * self.step + half
        own, beyond = (share[latent] for share in self._shares)
        outlier = _outlier(self.laws.size[latent], low, high)
        return own * self._masses(latent, low, high) + beyond * outlier

    @cached_property
    def _families(self) -> list[int]:
        found: list[int] = torch.bincount(self.laws.family).nonzero()[:, 0].tolist()
        return found

    def _masses(self, latent: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """F(q) of intervals [low, high] that leave out 0."""
        if len(self._families) == 1:
            return _MASSES[self._families[0]](self.laws.of(latent), low, high)
        family, mass = self.laws.family[latent], torch.empty_like(low)
        for own in self._families:
            (at,) = (family == own).nonzero(as_tuple=True)
            mass[at] = _MASSES[own](self.laws.of(latent[at]), low[at], high[at])
        return mass


def _outside(laws: Laws, half: float) -> Float[Tensor, " features"]:
    """1 − F(0) of each latent: the mass of its law outside of [−half, half]."""
    log_half = (math.log(half) - laws.centre) / laws.spread
    inner = [(edge - laws.centre) / laws.spread for edge in (-half, half)]
    rest = torch.special.ndtr(-log_half)
    gaussian = torch.special.ndtr(inner[0]) + torch.special.ndtr(-inner[1])
    laplace = _laplace_below(inner[0]) + _laplace_below(-inner[1])
    rest = torch.where(laws.family == _GAUSSIAN, gaussian, rest)
    outside: Tensor = torch.where(laws.family == _LAPLACE, laplace, rest)
    return outside


def _log_normal_mass(laws: Laws, low: Tensor, high: Tensor) -> Tensor:
    near, far = torch.minimum(low.abs(), high.abs()), torch.maximum(low.abs(), high.abs())
    sign_share = torch.where(low < 0, laws.negative, 1 - laws.negative)
    z = [(edge.log() - laws.centre) / laws.spread for edge in (near, far)]
    return sign_share * _normal(z[0], z[1])


def _gaussian_mass(laws: Laws, low: Tensor, high: Tensor) -> Tensor:
    return _normal((low - laws.centre) / laws.spread, (high - laws.centre) / laws.spread)


def _laplace_mass(laws: Laws, low: Tensor, high: Tensor) -> Tensor:
    return _laplace((low - laws.centre) / laws.spread, (high - laws.centre) / laws.spread)


_MASSES = {_LOG_NORMAL: _log_normal_mass, _GAUSSIAN: _gaussian_mass, _LAPLACE: _laplace_mass}


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
