"""Expected values of two sites of a linear network, replaced one at a time or both at once.

Sources: PROTOCOL-2, 7; PROTOCOL, 8; conditional Gaussians as in any textbook (Bishop, 2006, section 2.3).

Inputs (z, n) ~ N(0, I) in 2d dimensions; activations x₁ = m + F z and x₂ = W x₁ + G z + H n, so that a path
leads past the first site. Output f = aᵀx₂ + c; labels are drawn from sigmoid(f). At each site s the
interpretation keeps a random subspace, x̂_s(x) = P_s x.

Steps:
1. With both sites replaced, x₁' = P₁x₁ + ε₁ and x₂' = W x₁' + G z + H n; f' = aᵀ(P₂x₂' + ε₂) + c. All are
   affine in (z, n, noise), so that f' and f are jointly Gaussian (`Affine`).
2. Statistics of the noise: single-shot, ε_s ~ N(Q_s E x_s, Q_s Cov x_s Q_s), Q = I − P; sequential, the same
   at site 1, at site 2 of x₂' in place of x₂: Σ₂|₁ = Q₂ Cov(x₂') Q₂, where cross terms P₁ S₁ Q₁ are gone;
   counterterm, N(E x_s − P_s E x_s', [Cov x_s − P_s Cov(x_s') P_s]₊), [·]₊ the positive part.
3. Cross-entropy in nats with label probability sigmoid(f): E softplus(f') − E[sigmoid(f) f'], where by Stein
   E[sigmoid(f) f'] = E f' E sigmoid(f) + Cov(f, f') E sigmoid'(f). Less the clean one it is also the KL.
4. One site alone: the same with the other left as it is. `permuted` equals `full`, since r is Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = [
    "RULES",
    "SITES",
    "Network",
    "Noise",
    "Parameters",
    "claims",
    "draw",
    "expected",
    "expected_of_network",
    "noises",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

SITES = ("controls/two-sites-1", "controls/two-sites-2")
"""Tasks of the two sites, in the order of a pass."""

RULES = {"full": "single-shot", "full-sequential": "sequential", "full-counterterm": "counterterm"}
"""Rule of the noise by the rung of both sites at once."""

FITTED = 0.002
"""Nats that moments of 16,384 noisy rows move a loss of both sites: a covariance is known to 1 %."""


@dataclass(frozen=True)
class Parameters:
    """Width of both sites, dimensions kept at each, and which site the task is of."""

    dimension: int = 8
    kept: tuple[int, int] = (4, 4)
    past: float = 0.7
    """Size of G: what the second site gets past the first."""
    own: float = 0.3
    """Size of H."""
    signal: float = 2.5
    """Standard deviation of f."""
    site: int = 1
    seed: int = 0


class Network(NamedTuple):
    """m [d], F, W, G, H [d, d], a [d] and c, and bases [d, k] of what is kept at both sites."""

    mean: Array
    first: Array
    second: Array
    past: Array
    own: Array
    readout: Array
    offset: float
    bases: tuple[Array, Array]

    @property
    def projections(self) -> tuple[Array, Array]:
        """P₁ and P₂."""
        one, two = self.bases
        return one @ one.T, two @ two.T


class Noise(NamedTuple):
    """ε ~ N(mean, covariance) at a site."""

    mean: Array
    covariance: Array


class Affine(NamedTuple):
    """x = mean + along (z, n) + independent noise of this covariance."""

    mean: Array
    along: Array
    noise: Array

    def through(self, matrix: Array) -> Affine:
        """`matrix` x."""
        return Affine(matrix @ self.mean, matrix @ self.along, matrix @ self.noise @ matrix.T)

    def plus(self, mean: Array, along: Array, noise: Array) -> Affine:
        """x plus another such variable, of independent noise."""
        return Affine(self.mean + mean, self.along + along, self.noise + noise)

    @property
    def covariance(self) -> Array:
        """Cov x."""
        return self.along @ self.along.T + self.noise


def draw(parameters: Parameters) -> Network:
    """Draw the network from the seed, whichever site the task is of."""
    generator = np.random.default_rng(parameters.seed)
    d = parameters.dimension

    def matrix(size: float = 1.0) -> Array:
        return size * generator.normal(size=(d, d)) / np.sqrt(d)

    first, second, past, own = matrix(), matrix(), matrix(parameters.past), matrix(parameters.own)
    mean = 0.5 * generator.normal(size=d)
    bases = tuple(np.linalg.qr(generator.normal(size=(d, k)))[0] for k in parameters.kept)
    network = Network(mean, first, second, past, own, generator.normal(size=d), 0.0, bases)  # type: ignore[arg-type]
    clean = _second(network, _first(network))
    readout = (
        network.readout * parameters.signal / np.sqrt(network.readout @ clean.covariance @ network.readout)
    )
    return network._replace(readout=readout, offset=-float(readout @ clean.mean))


def _first(network: Network) -> Affine:
    nothing = np.zeros_like(network.first)
    return Affine(network.mean, np.hstack([network.first, nothing]), nothing)


def _second(network: Network, first: Affine) -> Affine:
    """x₂ for x₁ as given."""
    zero = np.zeros(len(network.mean))
    beside = np.hstack([network.past, network.own])
    return first.through(network.second).plus(zero, beside, np.zeros_like(network.past))


def _replaced(x: Affine, projection: Array, noise: Noise | None) -> Affine:
    """P x + ε; without noise P x."""
    kept = x.through(projection)
    return kept if noise is None else kept.plus(noise.mean, np.zeros_like(kept.along), noise.covariance)


def _residual(x: Affine, projection: Array) -> Noise:
    left = x.through(np.eye(len(x.mean)) - projection)
    return Noise(left.mean, left.covariance)


def _counterterm(clean: Affine, seen: Affine, projection: Array) -> Noise:
    kept = seen.through(projection)
    values, vectors = np.linalg.eigh(clean.covariance - kept.covariance)
    return Noise(clean.mean - kept.mean, (vectors * np.maximum(values, 0)) @ vectors.T)


def noises(network: Network, rule: str) -> tuple[Noise, Noise]:
    """Noise of both sites by one of the three rules (step 2)."""
    (one, two), first = network.projections, _first(network)
    second = _second(network, first)
    if rule == "single-shot":
        return _residual(first, one), _residual(second, two)
    at_first = _residual(first, one) if rule == "sequential" else _counterterm(first, first, one)
    seen = _second(network, _replaced(first, one, at_first))
    at_second = _residual(seen, two) if rule == "sequential" else _counterterm(second, seen, two)
    return at_first, at_second


def _nodes(mean: float, variance: float) -> tuple[Array, Array]:
    z = np.linspace(-8.5, 8.5, 341)
    weights = np.exp(-(z**2) / 2)
    return mean + np.sqrt(variance) * z, weights / weights.sum()


def _loss(network: Network, second: Affine) -> float:
    """Cross-entropy of f' for x₂' as given (step 3)."""
    clean = _second(network, _first(network))
    a = network.readout
    mean, variance = float(a @ second.mean) + network.offset, float(a @ second.covariance @ a)
    f, weights = _nodes(mean, variance)
    own, own_weights = _nodes(0.0, float(a @ clean.covariance @ a))
    p = expit(own)
    shared = float(a @ second.along @ clean.along.T @ a)
    agreement = mean * (own_weights @ p) + shared * (own_weights @ (p * (1 - p)))
    return float(weights @ np.logaddexp(0, f) - agreement)


def expected(parameters: Parameters) -> dict[str, float]:
    """Values of the network of `draw`: see `expected_of_network`."""
    return expected_of_network(parameters, draw(parameters))


def expected_of_network(parameters: Parameters, network: Network) -> dict[str, float]:
    """Losses in nats, "clean" and of the task's own site by rung; KL has " kl" appended.

    Besides: "both RUNG kl", with both sites replaced.
    """
    (one, two), first = network.projections, _first(network)
    second = _second(network, first)
    values = {"clean": _loss(network, second)}
    single = noises(network, "single-shot")

    def replaced(noise: Noise | None) -> Affine:
        if parameters.site == 2:
            return _replaced(second, two, noise)
        return _second(network, _replaced(first, one, noise))

    own = single[parameters.site - 1]
    fixed = own._replace(covariance=np.zeros_like(own.covariance))
    for rung, noise in {"raw": None, "mean": fixed, "full": own, "permuted": own}.items():
        values[rung] = _loss(network, replaced(noise))
        values[f"{rung} kl"] = values[rung] - values["clean"]
    both = {"raw": (None, None), **{rung: noises(network, rule) for rung, rule in RULES.items()}}
    for rung, (at_first, at_second) in both.items():
        seen = _second(network, _replaced(first, one, at_first))
        values[f"both {rung} kl"] = _loss(network, _replaced(seen, two, at_second)) - values["clean"]
    return values


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; with the second site of both."""
    chosen = Parameters(seed=seed, **parameters)
    values = expected(chosen)
    names = ("clean", "raw", "mean", "full", "permuted", "full kl", "permuted kl")
    found: Claims = {"subspace": {name: values[name] for name in names}}
    found["subspace"] |= {f"{rung} gap": values[f"{rung} kl"] for rung in ("raw", "full")}
    if chosen.site == len(SITES):
        both: dict[str, float | tuple[float, float]] = {
            "raw kl": values["both raw kl"],
            "raw gap": values["both raw kl"],
        }
        both |= {
            f"{rung} {of}": (values[f"both {rung} kl"], FITTED) for rung in RULES for of in ("kl", "gap")
        }
        found["subspace + subspace"] = both
    return found
