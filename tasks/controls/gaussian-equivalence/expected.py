"""Expected values of control A: a network of random features, whose residual is Gaussian to a linear reader.

Sources: CONTROLS, A; Mei and Montanari (2022), "The generalization error of random features regression";
Gerace et al. (2020), "Generalisation error in learning with random features and the hidden manifold model";
Goldt et al. (2022), "The Gaussian equivalence of generative models for learning with shallow networks".

The network: x ~ N(0, I_d), h = σ(Wx) with p unit rows, prediction f = aᵀ(h − μ0). The interpretation is
linear, x̂ = μ0 + μ1 W x, and leaves the residual r = h − x̂, which is uncorrelated with it.

Steps:
1. Hermite coefficients ĉ_k = E[σ(z) He_k(z)]/√k!: μ0 = ĉ_0, μ1 = ĉ_1, μ*² = Σ_{k≥2} ĉ_k².
2. Cov(r)_ij = Σ_{k≥2} ĉ_k² (w_i·w_j)^k exactly. Its diagonal is μ*², and it tends to μ*² I.
3. Whatever the readout, (f, βᵀx) of `raw`, `mean`, `isotropic`, `diagonal` and `full` is exactly Gaussian,
   with covariance m = μ1 aᵀWβ and variance q = μ1²‖Wᵀa‖² + noise. The clean model and `permuted` follow as
   d → ∞: their expected value is that of Ω = μ1² WWᵀ + μ*² I, which is `isotropic`.
4. Labels sign(βᵀx), unit β: error = arccos(m/√q)/π; cross-entropy is an integral over f with
   P(y = 1|f) = Φ((m/q) f/√(1 − m²/q)). Labels βᵀx + noise: squared error = Var y − 2m + q.
5. Ridge (1/n)‖y − Φa‖² + λ‖a‖² in the limit of proportional d, p, n: κ solves
   κ = λ + (κ/n) tr[Ω(Ω+κ)⁻¹], and
   E_test = [κ² θᵀΩ(Ω+κ)⁻²θ + σ²] / (1 − tr[Ω²(Ω+κ)⁻²]/n), with θ = Ω⁻¹ μ1 γ Wβ and σ² = Var y − γ μ1 βᵀWᵀθ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erf, ndtr

__all__ = [
    "ACTIVATIONS",
    "Moments",
    "Network",
    "Parameters",
    "activation_moments",
    "annealed_cross_entropy",
    "claims",
    "coverage",
    "cross_entropy",
    "draw",
    "expected",
    "expected_of_readout",
    "figure",
    "residual_covariance",
    "ridge_squared_error",
    "sign_error",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda z: np.maximum(z, 0.0),
    "tanh": np.tanh,
    "erf": lambda z: erf(z / np.sqrt(2)),
}
"""σ by name; "erf" is erf(z/√2)."""

ORDER = 60
"""Highest Hermite order kept: with |w_i·w_j| < 0.7 off the diagonal, what is dropped is below 1e-9."""

FINITE_SIZE = {"tanh": (0.5, 0.25), "erf": (0.5, 0.25), "relu": (1.2, 0.4)}
"""C of the allowance C/d of "clean" and "permuted", in nats and in shares. Simulations of 800,000 rows of
eight networks with d = 100 were lower than these formulas by 0.35/d and 0.18/d at most with tanh, 0.94/d
and 0.27/d with ReLU."""

JACKKNIFE = 0.001
"""Nats that a jackknife over four pairs of draws or more leaves of the annealed loss's bias: it was below
0.0005."""

_SIGN_SLOPE = float(np.sqrt(2 / np.pi))  # E[sign(z) z]


@dataclass(frozen=True)
class Parameters:
    """Control A. Sizes count coordinates, features and samples; the readout is trained on drawn samples."""

    activation: Literal["relu", "tanh", "erf"] = "tanh"
    teacher: Literal["sign", "linear"] = "sign"
    dimension: int = 400
    features: int = 600
    samples: int = 1200
    ridge: float = 0.01
    label_noise: float = 0.1
    """Variance added to the labels of the linear teacher; the sign teacher has none."""
    gain: float = 3.0
    """The readout of the sign teacher is the ridge solution times this: logits, not regressions on ±1."""
    seed: int = 0


class Moments(NamedTuple):
    """μ0, μ1 and μ* of an activation under a standard normal input."""

    constant: float
    linear: float
    rest: float


class Network(NamedTuple):
    """Rows w_i [p, d] and teacher β [d], all of unit length, and the trained readout a [p]."""

    weights: Array
    teacher: Array
    readout: Array


def _normal_nodes() -> tuple[Array, Array]:
    """Nodes and weights [400] of E over z ~ N(0, 1), split at 0, where ReLU has its kink."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = np.concatenate([6 * (nodes - 1), 6 * (nodes + 1)])
    return z, np.tile(6 * weights, 2) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _hermite_coefficients(activation: str) -> Array:
    """ĉ_k = E[σ(z) He_k(z)]/√k! for k = 0 … ORDER."""
    z, weights = _normal_nodes()
    values = weights * ACTIVATIONS[activation](z)
    previous, current = np.zeros_like(z), np.ones_like(z)
    coefficients = []
    for k in range(ORDER + 1):
        coefficients.append(values @ current)
        previous, current = current, (z * current - np.sqrt(k) * previous) / np.sqrt(k + 1)
    return np.array(coefficients)


def activation_moments(activation: str) -> Moments:
    """μ0 = Eσ(z), μ1 = E zσ(z) and μ* = √(Eσ² − μ0² − μ1²), z ~ N(0, 1) (step 1)."""
    z, weights = _normal_nodes()
    values = ACTIVATIONS[activation](z)
    constant, linear, square = (float(weights @ f) for f in (values, z * values, values**2))
    return Moments(constant, linear, float(np.sqrt(square - constant**2 - linear**2)))


def residual_covariance(weights: Array, activation: str) -> Array:
    """Cov(r) [p, p] of r = σ(Wx) − μ0 − μ1Wx over x ~ N(0, I), rows of W [p, d] of unit length (step 2)."""
    overlap = weights @ weights.T
    covariance = np.zeros_like(overlap)
    for coefficient in _hermite_coefficients(activation)[:1:-1]:  # Horner, from ORDER down to 2
        covariance = (covariance + coefficient**2) * overlap
    covariance *= overlap
    np.fill_diagonal(covariance, activation_moments(activation).rest ** 2)
    return covariance


def sign_error(overlap: float, variance: float) -> float:
    """P(sign f ≠ sign βᵀx) for Gaussian f of this variance q and covariance m with βᵀx ~ N(0, 1) (step 4)."""
    return float(np.arccos(overlap / np.sqrt(variance)) / np.pi)


def _positive(overlap: float, variance: float, logit: Array) -> Array:
    """P(βᵀx > 0 | f), f of this variance."""
    return ndtr(overlap / variance * logit / np.sqrt(1 - overlap**2 / variance))


def cross_entropy(overlap: float, variance: float) -> float:
    """E[−log sigmoid(y f)] in nats, y = sign(βᵀx), for Gaussian logits f as in `sign_error` (step 4)."""
    z, weights = _normal_nodes()
    logit = np.sqrt(variance) * z
    # (f, y) and (−f, −y) are equally likely, so that the two labels contribute alike.
    return float(2 * weights @ (np.logaddexp(0, -logit) * _positive(overlap, variance, logit)))


def annealed_cross_entropy(overlap: float, variance: float, noise: float) -> float:
    """E[−log E_ε sigmoid(y(f + ε))] in nats: f of this variance as before, ε ~ N(0, noise) not seen."""
    z, weights = _normal_nodes()
    logit = np.sqrt(variance) * z
    noisy = logit[:, None] + np.sqrt(noise) * z
    surprise = -np.log(np.exp(-np.logaddexp(0, -noisy)) @ weights)
    return float(2 * weights @ (surprise * _positive(overlap, variance, logit)))


def ridge_squared_error(
    weights: Array, teacher: Array, moments: Moments, samples: int, ridge: float, slope: float, power: float
) -> float:
    """E_test of a ridge readout of centred features in the proportional limit (step 5).

    Args:
        weights: W [p, d], rows of unit length.
        teacher: β [d] of unit length.
        moments: of the activation.
        samples: n.
        ridge: λ > 0.
        slope: γ = E[y βᵀx].
        power: Var y.
    """
    features, dimension = weights.shape
    rank = min(features, dimension)
    squares, directions = np.linalg.eigh(weights.T @ weights)
    squares, directions = np.maximum(squares[-rank:], 0), directions[:, -rank:]
    # In the eigenbasis of Ω: the range of W, then the features that see nothing of x linearly.
    spectrum = np.full(features, moments.rest**2)
    spectrum[:rank] += moments.linear**2 * squares
    target = np.zeros(features)  # the squared components of μ1 γ Wβ
    target[:rank] = (moments.linear * slope) ** 2 * squares * (directions.T @ teacher) ** 2

    def excess(kappa: float) -> float:
        return kappa - ridge - kappa / samples * float(np.sum(spectrum / (spectrum + kappa)))

    kappa = brentq(excess, ridge, ridge + spectrum.sum() / samples, xtol=1e-15)
    unexplained = power - np.sum(target / spectrum)
    bias = kappa**2 * np.sum(target / spectrum / (spectrum + kappa) ** 2)
    return float((bias + unexplained) / (1 - np.sum((spectrum / (spectrum + kappa)) ** 2) / samples))


def draw(parameters: Parameters) -> Network:
    """Draw W, β and training samples from the seed, and train the readout."""
    generator = np.random.default_rng(parameters.seed)
    weights = generator.normal(size=(parameters.features, parameters.dimension))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    teacher = generator.normal(size=parameters.dimension)
    teacher /= np.linalg.norm(teacher)
    x = generator.normal(size=(parameters.samples, parameters.dimension))
    signal = x @ teacher
    if parameters.teacher == "sign":
        labels = np.sign(signal)
    else:
        labels = signal + np.sqrt(parameters.label_noise) * generator.normal(size=parameters.samples)
    constant = activation_moments(parameters.activation).constant
    phi = ACTIVATIONS[parameters.activation](x @ weights.T) - constant
    gram = phi.T @ phi / parameters.samples + parameters.ridge * np.eye(parameters.features)
    readout = np.linalg.solve(gram, phi.T @ labels / parameters.samples)
    return Network(weights, teacher, readout * (parameters.gain if parameters.teacher == "sign" else 1.0))


def expected_of_readout(parameters: Parameters, network: Network) -> dict[str, float]:
    """Expected values for a given readout, however it was trained (steps 2 to 4).

    Returns:
        By rung, and for "clean": nats of cross-entropy under the plain name, with " annealed" appended
        for the annealed loss of noisy rungs, " error" for the error rate (sign teacher); or
        " squared error" (linear teacher). "clean" and "permuted" hold up to O(1/d), the others exactly.
    """
    moments = activation_moments(parameters.activation)
    weights, teacher, readout = network
    overlap = moments.linear * float(readout @ (weights @ teacher))
    seen = moments.linear**2 * float(np.sum((weights.T @ readout) ** 2))
    white = moments.rest**2 * float(readout @ readout)
    correlated = float(readout @ residual_covariance(weights, parameters.activation) @ readout)
    noises = {
        "clean": white,
        "raw": 0.0,
        "mean": 0.0,
        "isotropic": white,
        "diagonal": white,
        "full": correlated,
        "permuted": white,
    }
    values: dict[str, float] = {}
    for rung, noise in noises.items():
        if parameters.teacher == "linear":
            values[f"{rung} squared error"] = 1 + parameters.label_noise - 2 * overlap + seen + noise
            continue
        values[rung] = cross_entropy(overlap, seen + noise)
        values[f"{rung} error"] = sign_error(overlap, seen + noise)
        if noise > 0 and rung != "clean":
            values[f"{rung} annealed"] = annealed_cross_entropy(overlap, seen, noise)
    return values


def expected(parameters: Parameters) -> dict[str, float]:
    """Expected values of `expected_of_readout` for the readout of `draw`, and those of the theory of ridge.

    Returns:
        Besides, "ridge squared error": E_test of the ridge readout (before `gain`) on its own labels.
    """
    network = draw(parameters)
    sign = parameters.teacher == "sign"
    theory = ridge_squared_error(
        network.weights,
        network.teacher,
        activation_moments(parameters.activation),
        parameters.samples,
        parameters.ridge,
        slope=_SIGN_SLOPE if sign else 1.0,
        power=1.0 if sign else 1 + parameters.label_noise,
    )
    return {**expected_of_readout(parameters, network), "ridge squared error": theory}


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, with their allowances (nats and shares).

    "clean" and "permuted" hold up to C/d; annealed losses up to what the jackknife leaves.
    """
    chosen = Parameters(seed=seed, **parameters)
    found: dict[str, float | tuple[float, float]] = {}
    for name, value in expected_of_readout(chosen, draw(chosen)).items():
        rung, _, kind = name.partition(" ")
        if rung in ("clean", "permuted"):
            found[name] = value, FINITE_SIZE[chosen.activation][kind == "error"] / chosen.dimension
        else:
            found[name] = (value, JACKKNIFE) if kind == "annealed" else value
    return {"linear": found}


def coverage() -> dict[str, list[str]]:
    """Quantities whose intervals are studied: those whose values are exact at any d."""
    return {"linear": ["raw", "raw error", "full"]}


def figure() -> dict[str, Any]:
    """Losses of the model, its linear denoiser, and the Gaussian residual."""
    names = {"gaussian-equivalence": "tanh", "gaussian-equivalence-relu": "ReLU"}
    return {
        "name": "gaussian-equivalence",
        "title": "The Gaussian residual gives back the model's loss; the interpretation alone beats it",
        "caption": (
            "Networks of random features with a trained readout. Black lines: theory. What the linear "
            "interpretation leaves out acts as Gaussian noise, which the rung full adds again."
        ),
        "panels": [
            {
                "kind": "bars",
                "title": "",
                "xlabel": "",
                "ylabel": "cross-entropy (nats)",
                "series": [
                    {"quantity": rung, "label": rung} for rung in ("clean", "raw", "full", "permuted")
                ],
                "points": [
                    {"task": f"controls/{task}", "interpretation": "linear", "x": name}
                    for task, name in names.items()
                ],
            }
        ],
    }
