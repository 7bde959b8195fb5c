"""Expected values of the mixture of K classes, of which an interpretation tells k apart from the rest.

Sources: PROTOCOL-2, 7; entropies of Gaussians as in Cover and Thomas (2006), chapter 8.

x = m_C + noise, C uniform over K classes, noise ~ N(0, Σ) in d dimensions; the classes are so far apart that
the nearest mean is that of C. Codes are the indicators of the classes c < k; the decoder starts from the last
mean: x̂ = m_C if C < k, and m_{K−1} of all others, "the rest". The model reads f = wᵀ(x − x̄), x̄ the mean of x,
and says P(y = 1) = sigmoid(f); labels are drawn from it.

Steps:
1. Along w: f of class c is N(μ_c, τ²), f̂ of it μ_c or μ_{K−1}, and the residual of the rest
   N(μ_c − μ_{K−1}, τ²).
2. Every rung is a law of ε given whether C < k or not: mixtures of Gaussians. All of it is pooled in `full`
   (its Gaussian) and `permuted` (itself); `matched` and `cluster` know which of the k + 1 points x̂ is, and so
   does `linear`, since a function of k + 1 points that no hyperplane holds is affine; its noise is the pooled
   covariance within them. So do `renormalised`, a regression on the codes, and `context`, since other rows
   tell nothing. `hetero` keeps the mean of `full` and takes the scale s = exp E[log ‖r − μ‖ | x̂] from the
   codes (`_log_length`); its covariance is s² times that of (r − μ)/s.
3. With k = K − 1 the rest is one class, the residual is N(0, Σ) whatever x̂ is, and all these agree.
4. Quenched: E E_ε[−log p(y | f̂ + ε)]; annealed: E[−log E_ε p(y | f̂ + ε)]; a loss above the clean one is
   also the KL to the clean model. Integrals over each Gaussian are sums on a grid.
5. Net bits (`net_bits`). A Gaussian of covariance Σ + B, B that of the means, spends
   E[−log₂ p_G(x)] = ½ log₂ det 2πe(Σ + B); the remainder spends ½ log₂ det 2πe(Σ + R), R the covariance of
   the means of what is left. With all K − 1 codes R = 0 and ½ log₂ det(I + Σ⁻¹B) − H(C) is left if the codes
   spend what they tell, H(C). Coded one by one they spend Σ_c H₂(p_c), which is more. A step Δ rounds
   a_c = ‖m_c − m_{K−1}‖ to its multiples, and what it misses is in R too (`coded_net_bits`). Noise N(0, s₀²I)
   that is added to x adds to Σ and to Σ + B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import entr, expit

__all__ = [
    "CONDITIONAL",
    "KEPT",
    "Network",
    "Parameters",
    "claims",
    "coded_net_bits",
    "draw",
    "expected",
    "net_bits",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = (4, 7)
"""How many classes the interpretations tell apart from the rest."""

CONDITIONAL = ("cluster", "hetero", "context", "renormalised", "renormalised-mean")
"""Rungs that are fitted to a part of the calibration rows, or with a ridge that shrinks."""

FITTED = 0.001
"""Nats that such a fit moves a loss: the mean logit of a class over the 2,048 rows of a cell is known to .01,
where the slope of the loss is at most .3, and errors of eight classes cancel."""

FINEST = 6
"""The coarsest step, as j, that is near the best: what it rounds is a fraction of the noise."""

TABLES = 0.02
"""Bits that a token's codes spend for tables which expect outliers, and are fitted."""

JACKKNIFE = {"full": 0.001, "permuted": 0.002}
"""Nats that a jackknife leaves of the annealed loss's bias, over 8 pairs or 16 independent draws."""


@dataclass(frozen=True)
class Parameters:
    """Classes, dimensions, and how far apart the means are in units of the noise."""

    classes: int = 8
    dimension: int = 10
    scale: float = 5.0
    """Standard deviation of a coordinate of a mean; that of the noise is at most 1 in any direction."""
    apart: float = 12.0
    """No two means are nearer: half of it is six standard deviations of the noise."""
    signal: float = 2.0
    """Standard deviation of the logit."""
    kept: int = 4
    seed: int = 0


class Network(NamedTuple):
    """Means [K, d], a factor [d, d] of the noise's covariance, and the readout w [d]."""

    means: Array
    factor: Array
    readout: Array

    @property
    def covariance(self) -> Array:
        """Σ."""
        return self.factor @ self.factor.T

    @property
    def between(self) -> Array:
        """B, covariance of the means."""
        return np.cov(self.means.T, bias=True)


class _Mixture(NamedTuple):
    """A mixture of Gaussians of one variance along w: weights and means [components]."""

    weights: Array
    means: Array
    variance: float


def draw(parameters: Parameters) -> Network:
    """Draw means, noise and readout from the seed; means that are too near to each other are drawn again."""
    generator = np.random.default_rng(parameters.seed)
    count, d = parameters.classes, parameters.dimension
    while True:
        means = parameters.scale * generator.standard_normal((count, d))
        distances = np.linalg.norm(means[:, None] - means, axis=-1)[~np.eye(count, dtype=bool)]
        if distances.min() >= parameters.apart:
            break
    rotation, _ = np.linalg.qr(generator.standard_normal((d, d)))
    network = Network(means, rotation * np.sqrt(np.linspace(0.3, 1, d)), generator.standard_normal(d))
    power = network.readout @ (network.covariance + network.between) @ network.readout
    return network._replace(readout=network.readout * parameters.signal / np.sqrt(power))


def _kernels(parameters: Parameters, network: Network) -> dict[str, tuple[_Mixture, _Mixture]]:
    """Laws of ε along w where C < k, and for the rest (steps 1 and 2)."""
    count, kept = parameters.classes, parameters.kept
    centred = (network.means - network.means.mean(0)) @ network.readout
    noise = float(network.readout @ network.covariance @ network.readout)
    offsets = centred[kept:] - centred[-1]
    rest = np.full(count - kept, 1 / (count - kept))

    def gaussian(mean: float, variance: float) -> _Mixture:
        return _Mixture(np.ones(1), np.array([mean]), variance)

    within = _Mixture(np.ones(1), np.zeros(1), noise)
    of_rest = _Mixture(rest, offsets, noise)
    pooled = _Mixture(
        np.append(np.full(count - kept, 1 / count), kept / count), np.append(offsets, 0.0), noise
    )
    mean, variance = float(offsets.mean()), float(offsets.var())
    overall = float(pooled.weights @ pooled.means)
    total = float(pooled.weights @ (pooled.means - overall) ** 2)
    shared = noise + (1 - kept / count) * variance
    same = {
        "raw": gaussian(0.0, 0.0),
        "mean": gaussian(overall, 0.0),
        "full": gaussian(overall, noise + total),
        "permuted": pooled,
    }
    found = {rung: (law, law) for rung, law in same.items()} | {
        "linear-mean": (gaussian(0.0, 0.0), gaussian(mean, 0.0)),
        "linear": (gaussian(0.0, shared), gaussian(mean, shared)),
        "cluster": (gaussian(0.0, noise), gaussian(mean, noise + variance)),
        "matched": (within, of_rest),
    }
    inside, outside = _hetero(parameters, network)
    found["hetero"] = gaussian(overall, inside), gaussian(overall, outside)
    found |= {"renormalised-mean": found["linear-mean"], "renormalised": found["linear"]}
    return found | {"context": found["linear"]}


def _log_length(mean: Array, covariance: Array) -> float:
    """E log ‖v‖ of v ~ N(mean, covariance): ½ ∫ (e^{−t} − E e^{−t‖v‖²})/t dt over t > 0."""
    values, vectors = np.linalg.eigh(covariance)
    along = mean @ vectors

    def integrand(u: float) -> float:  # t = e^u
        t = np.exp(u)
        spread = 1 + 2 * t * values
        return float(np.exp(-t) - np.exp(-0.5 * np.log(spread).sum() - np.sum(t * along**2 / spread)))

    return quad(integrand, -60, 60, points=[-10, 0, 10], limit=500)[0] / 2


def _hetero(parameters: Parameters, network: Network) -> tuple[float, float]:
    """Variance of the noise of `hetero` along w where C < k, and for the rest (step 2)."""
    count, kept = parameters.classes, parameters.kept
    offsets = network.means[kept:] - network.means[-1]
    mean = offsets.sum(0) / count
    lengths = [_log_length(offset - mean, network.covariance) for offset in offsets]
    scales = np.exp([_log_length(-mean, network.covariance), np.mean(lengths)])
    noise = float(network.readout @ network.covariance @ network.readout)
    shifts = np.append((offsets - mean) @ network.readout, -mean @ network.readout)
    weights = np.append(np.full(count - kept, 1 / count), kept / count)
    of_each = np.append(np.full(count - kept, scales[1]), scales[0])
    centre = float(weights @ (shifts / of_each))
    variance = float(weights @ ((noise + shifts**2) / of_each**2)) - centre**2
    return float(scales[0] ** 2 * variance), float(scales[1] ** 2 * variance)


def _nodes(law: _Mixture) -> tuple[Array, Array]:
    """Values and weights of a mixture."""
    if law.variance == 0:
        return law.means, law.weights
    z = np.linspace(-8.5, 8.5, 341)
    density = np.exp(-(z**2) / 2)
    values = law.means[:, None] + np.sqrt(law.variance) * z
    return values.ravel(), np.outer(law.weights, density / density.sum()).ravel()


def expected(parameters: Parameters) -> dict[str, float]:
    """Values of the network of `draw`: see `expected_of_network`."""
    return expected_of_network(parameters, draw(parameters))


def expected_of_network(parameters: Parameters, network: Network) -> dict[str, float]:
    """Losses in nats by rung, and for "clean"; annealed ones have " annealed" appended, KL " kl".

    Besides: "shape", "dependence" and "rest", and "net bits" of all K − 1 codes.
    """
    count, kept = parameters.classes, parameters.kept
    centred = (network.means - network.means.mean(0)) @ network.readout
    noise = float(network.readout @ network.covariance @ network.readout)
    estimates = np.where(np.arange(count) < kept, centred, centred[-1])
    positive, clean = np.empty(count), 0.0
    for c, mean in enumerate(centred):
        f, weights = _nodes(_Mixture(np.ones(1), np.array([mean]), noise))
        positive[c] = expit(f) @ weights
        clean += float((np.logaddexp(0, f) - expit(f) * f) @ weights) / count
    values = {"clean": clean}
    for rung, laws in _kernels(parameters, network).items():
        quenched = annealed = 0.0
        for c in range(count):
            epsilon, weights = _nodes(laws[int(c >= kept)])
            f = estimates[c] + epsilon
            quenched += float((np.logaddexp(0, f) - positive[c] * f) @ weights) / count
            yes, no = expit(f) @ weights, expit(-f) @ weights
            annealed -= float(positive[c] * np.log(yes) + (1 - positive[c]) * np.log(no)) / count
        values[rung] = quenched
        values[f"{rung} kl"] = quenched - clean
        if len(weights) > 1:
            values[f"{rung} annealed"] = annealed
    values["shape"] = values["full"] - values["permuted"]
    values["dependence"] = values["permuted"] - values["matched"]
    values["rest"] = values["matched"] - clean
    values["net bits"] = net_bits(network)
    return values


def net_bits(network: Network, added: float = 0.0) -> float:
    """½ log₂ det(I + Σ⁻¹B) − H(C), with noise of this variance a coordinate added to x (step 5)."""
    within = network.covariance + added * np.eye(len(network.readout))
    return _half_ratio(within, network.between) - float(np.log2(len(network.means)))


def coded_net_bits(network: Network, kept: int, step: int | None = None, added: float = 1e-3) -> float:
    """Net bits of k codes that are coded one by one (step 5).

    Args:
        step: j of Δ_j = rms · 2^(−j/2), rms² = tr Cov x; None: exact codes.
        added: s₀² in units of tr Cov x/d.
    """
    count, d = network.means.shape
    power = float(np.trace(network.covariance + network.between))
    within = network.covariance + added * power / d * np.eye(d)
    directions = network.means[:kept] - network.means[-1]
    sizes = np.linalg.norm(directions, axis=1)
    delta = np.sqrt(power) * 2.0 ** (-(step or 0) / 2)
    rounded = sizes if step is None else delta * np.round(sizes / delta)
    left = network.means - network.means[-1]
    left[:kept] = (1 - rounded / sizes)[:, None] * directions
    rest = within + np.cov(left.T, bias=True)
    spent = float(np.sum(entr([1 / count, 1 - 1 / count]))) / np.log(2) * np.count_nonzero(rounded)
    return _half_ratio(within, network.between) - _half_ratio(within, rest - within) - float(spent)


def _half_ratio(within: Array, more: Array) -> float:
    """½ log₂ det(I + within⁻¹ more)."""
    _, ratio = np.linalg.slogdet(np.eye(len(within)) + np.linalg.solve(within, more))
    return float(ratio / np.log(2) / 2)


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats."""
    chosen = Parameters(seed=seed, **parameters)
    network = draw(chosen)
    found: Claims = {}
    for count in KEPT:
        values = expected_of_network(replace(chosen, kept=count), network)
        rungs = ("raw", "mean", "full", "permuted")
        own: dict[str, float | tuple[float, float]] = {rung: values[rung] for rung in ("clean", *rungs)}
        own |= {f"{rung} gap": values[f"{rung} kl"] for rung in ("raw", "full")}
        own |= {f"{rung} kl": values[f"{rung} kl"] for rung in ("full", "permuted")}
        own["shape"] = values["shape"]
        fitted = CONDITIONAL[:1]
        if count < chosen.classes - 1:
            fitted = CONDITIONAL
            own |= {name: values[name] for name in ("linear-mean", "linear", "matched", "matched kl")}
            own |= {term: values[term] for term in ("dependence", "rest")}
        own |= {f"{rung}{of}": (values[f"{rung}{of}"], FITTED) for rung in fitted for of in ("", " kl")}
        # Which of the fine steps is chosen on calibration is not known, nor the last digits of a table.
        fine = [coded_net_bits(network, count, step) for step in range(FINEST, 12)]
        best = coded_net_bits(network, count)
        own["net bits"] = (best + min(fine)) / 2, (best - min(fine)) / 2 + TABLES
        found[f"keep-{count}"] = own
    return found
