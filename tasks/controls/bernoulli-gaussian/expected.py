"""Expected values of Bernoulli–Gaussian sources, of which an interpretation keeps what is above a threshold.

Sources: PROTOCOL-2, 7; differential entropy as in Cover and Thomas (2006), chapter 8; uniform quantisation as
in Gish and Pierce (1968).

d independent sources x_i = b_i v_i + g_i with b ~ Bernoulli(p), v ~ N(0, t²), g ~ N(0, s²): each has the
density f = (1 − p) N(0, s²) + p N(0, s² + t²). An interpretation keeps x_i where |x_i| > θ. The model reads
the first source and says P(y = 1) = sigmoid(a x_1); labels are drawn from it.

Steps:
1. x̂ = x 1[|x| > θ] and r = x 1[|x| ≤ θ], both of mean 0. Integrals over f are sums over Gauss–Legendre nodes
   of intervals that end at ±θ.
2. Quenched: E E_ε[−log p(y | x̂ + ε)]; ε is 0 (`raw`, `mean`), N(0, Var r) (`full`) or an independent r
   (`permuted`). A loss above the clean one is also the KL to the clean model. x̂ of 0 says nothing but that
   |x| ≤ θ; `matched` is then a copy of such an r, and nothing where x̂ ≠ 0.
3. Structure that a code can find, bits: J = ½ log₂ 2πe(s² + pt²) + ∫ f log₂ f a source, by how much a
   Gaussian of the same variance is the longer code. No code gains more; one that quantises what is above θ
   with the best step loses ½ log₂(2πe/12) = .2546 bits where a source is on, and under .03 besides
   (`code_gain` has what a given step gains in truth, with ideal tables). Noise N(0, s₀²) that is added to x
   adds to s².
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, ndtr

__all__ = ["Parameters", "claims", "code_gain", "expected", "negentropy"]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

UNIFORM = float(np.log2(2 * np.pi * np.e / 12) / 2)
"""Bits that uniform quantisation loses a coefficient at fine steps."""

BESIDE = 0.03
"""Bits a source that the code loses besides: a threshold instead of b, and a step as large as s."""


@dataclass(frozen=True)
class Parameters:
    """Sources, threshold and readout."""

    sources: int = 8
    probability: float = 0.05
    signal: float = 1.0
    """t², variance of v."""
    background: float = 0.01
    """s², variance of g."""
    threshold: float = 0.38
    gain: float = 4.0
    """a, logits per unit of x."""


class _Law(NamedTuple):
    values: Array
    weights: Array


def _density(parameters: Parameters, x: Array) -> Array:
    p, s2 = parameters.probability, parameters.background

    def normal(variance: float) -> Array:
        return np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    return (1 - p) * normal(s2) + p * normal(s2 + parameters.signal)


def _source(parameters: Parameters) -> _Law:
    """Nodes and probabilities of x (step 1)."""
    theta = parameters.threshold
    far = 9 * np.sqrt(parameters.background + parameters.signal)
    nodes, weights = np.polynomial.legendre.leggauss(300)
    edges = [-far, -4, -1, -theta, theta, 1, 4, far]
    middles = [((a + b) / 2, (b - a) / 2) for a, b in pairwise(edges)]
    x = np.concatenate([middle + half * nodes for middle, half in middles])
    probability = np.concatenate([half * weights for _, half in middles]) * _density(parameters, x)
    return _Law(x, probability / probability.sum())


def negentropy(parameters: Parameters) -> float:
    """J, bits a source (step 3)."""
    x, weights = _source(parameters)
    variance = parameters.background + parameters.probability * parameters.signal
    return float(np.log2(2 * np.pi * np.e * variance) / 2 + weights @ np.log2(_density(parameters, x)))


def code_gain(parameters: Parameters, step: float) -> float:
    """Net bits a source of the threshold code with this step and ideal tables (step 3)."""
    p, s2 = parameters.probability, parameters.background
    most = int(np.ceil(9 * np.sqrt(s2 + parameters.signal) / step))
    symbols = np.arange(-most, most + 1)

    def mass(low: Array, high: Array) -> Array:
        """Probability of (low, high)."""
        spreads = np.sqrt([s2, s2 + parameters.signal])
        each = [ndtr(high / s) - ndtr(low / s) for s in spreads]
        return np.where(high > low, (1 - p) * each[0] + p * each[1], 0.0)

    low, high, theta = (symbols - 0.5) * step, (symbols + 0.5) * step, parameters.threshold
    probability = mass(np.maximum(low, theta), np.maximum(high, theta))
    probability += mass(np.minimum(low, -theta), np.minimum(high, -theta))
    probability[most] += mass(np.array([-theta]), np.array([theta]))[0]
    bits = float(entr(probability).sum() / np.log(2))
    x = np.linspace(-theta, theta, 4001)
    variance = float(np.sum(_density(parameters, x) * x**2) * (x[1] - x[0]))
    for a, b in ((theta, most * step), (-most * step, -theta)):
        x = np.linspace(a, b, 200_001)
        error = x - step * np.round(x / step)
        variance += float(np.sum(_density(parameters, x) * error**2) * (x[1] - x[0]))
    total = s2 + p * parameters.signal
    return float(np.log2(total / variance) / 2 - bits)


def expected(parameters: Parameters) -> dict[str, float]:
    """Losses in nats by rung, and for "clean"; KL has " kl" appended.

    Besides: "shape", "dependence", "rest"; "J", and "net bits low" and "net bits high", of all sources.
    """
    a, x = parameters.gain, _source(parameters)
    on = np.abs(x.values) > parameters.threshold
    own = expit(a * x.values)
    kept = np.where(on, x.values, 0.0)
    off = _Law(np.where(on, 0.0, x.values), x.weights)
    matched = _Law(x.values[~on], x.weights[~on] / x.weights[~on].sum())
    z = np.linspace(-8.5, 8.5, 341)
    weights = np.exp(-(z**2) / 2)
    normal = _Law(np.sqrt(off.weights @ off.values**2) * z, weights / weights.sum())

    def loss(estimate: Array, noise: _Law) -> Array:
        """Of each x, the noise averaged; it has mean 0."""
        f = a * (estimate[:, None] + noise.values)
        return np.asarray(np.logaddexp(0, f) @ noise.weights - own * a * estimate)

    nothing = _Law(np.zeros(1), np.ones(1))
    each = {rung: loss(kept, law) for rung, law in (("raw", nothing), ("mean", nothing), ("full", normal))}
    each["permuted"] = loss(kept, off)
    each["matched"] = np.where(on, each["raw"], loss(kept, matched))
    clean = float(x.weights @ loss(x.values, nothing))
    values = {"clean": clean}
    for rung, losses in each.items():
        values[rung] = float(x.weights @ losses)
        values[f"{rung} kl"] = values[rung] - clean
    values["shape"] = values["full"] - values["permuted"]
    values["dependence"] = values["permuted"] - values["matched"]
    values["rest"] = values["matched"] - clean
    values["J"] = negentropy(parameters)
    values["net bits high"] = parameters.sources * values["J"]
    lost = UNIFORM * parameters.probability + BESIDE
    values["net bits low"] = parameters.sources * (values["J"] - lost)
    return values


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; the same for every seed."""
    values = expected(Parameters(**parameters))
    names = ("clean", "raw", "mean", "full", "permuted", "full kl", "permuted kl", "shape")
    own: dict[str, float | tuple[float, float]] = {name: values[name] for name in names}
    own |= {f"{rung} gap": values[f"{rung} kl"] for rung in ("raw", "full")}
    own |= {"net bits at least": values["net bits low"], "net bits at most": values["net bits high"]}
    return {"threshold": own}
