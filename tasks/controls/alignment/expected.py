"""Expected values of control B: a label that sees the residual, so that Gaussian equivalence breaks.

Source: CONTROLS, B; protocol 1, section 3 (squared loss, linear readout).

The network of control A with ReLU: x ~ N(0, I_d), h = σ(Wx) with p unit rows, f = aᵀ(h − μ0),
x̂ = μ0 + μ1 W x, r = h − x̂. The label has a quadratic part: with z = βᵀx, y = λ z + κ (z² − 1)/√2 + noise.
The loss is (y − f)². Everything here is exact at any d: only second moments of r enter, and its correlation
with y.

Steps:
1. Coefficients ĉ_k = E[σ He_k]/√k! and t̂_k = E[y He_k(z)]/√k!: here t̂_1 = λ, t̂_2 = κ, all others 0.
2. E[y σ(w_i·x)] = Σ_k ĉ_k t̂_k (w_i·β)^k, by Mehler's formula; the part k ≥ 2 is E[y r_i].
3. Cov(r)_ij = Σ_{k≥2} ĉ_k² (w_i·w_j)^k, closed for ReLU (the arc-cosine kernel of Cho and Saul, 2009).
4. With M = E[y aᵀx̂'], x̂' = x̂ − μ0, and independent noise ε of variance v = aᵀ Cov(ε) a:
   L = Var y − 2M + μ1²‖Wᵀa‖² + v. The clean model has v = aᵀ Cov(r) a and another −2 aᵀE[y r]. So
   L_full − L_clean = 2 aᵀE[y r] = 2 Σ_{k≥2} (c_k t_k/k!) Σ_i a_i (w_i·β)^k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Network",
    "Parameters",
    "claims",
    "draw",
    "expected",
    "expected_of_readout",
    "residual_covariance",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

# ReLU: E σ = 1/√(2π), E zσ = 1/2, E σ He_2/√2 = 1/√(4π).
_CONSTANT = float(1 / np.sqrt(2 * np.pi))
_LINEAR = 0.5
_QUADRATIC = float(1 / np.sqrt(4 * np.pi))


@dataclass(frozen=True)
class Parameters:
    """Control B. Sizes count coordinates, features and samples; y = λz + κ(z² − 1)/√2 + noise."""

    dimension: int = 50
    features: int = 400
    samples: int = 800
    ridge: float = 0.01
    linear: float = 1.0
    """λ, the standard deviation of the label's linear part."""
    quadratic: float = 1.0
    """κ, the standard deviation of the label's quadratic part; 0 restores the equivalence."""
    label_noise: float = 0.1
    """Variance."""
    seed: int = 0


class Network(NamedTuple):
    """Rows w_i [p, d] and teacher β [d], all of unit length, and the trained readout a [p]."""

    weights: Array
    teacher: Array
    readout: Array


def residual_covariance(weights: Array) -> Array:
    """Cov(r) [p, p] of r = max(Wx, 0) − μ0 − μ1Wx over x ~ N(0, I), W [p, d] of unit rows (step 3)."""
    overlap = np.clip(weights @ weights.T, -1, 1)
    angle = np.arccos(overlap)
    second_moment = (np.sin(angle) + (np.pi - angle) * overlap) / (2 * np.pi)
    return second_moment - _CONSTANT**2 - _LINEAR**2 * overlap


def draw(parameters: Parameters) -> Network:
    """Draw W, β and training samples from the seed, and train the readout by ridge regression."""
    generator = np.random.default_rng(parameters.seed)
    weights = generator.normal(size=(parameters.features, parameters.dimension))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    teacher = generator.normal(size=parameters.dimension)
    teacher /= np.linalg.norm(teacher)
    x = generator.normal(size=(parameters.samples, parameters.dimension))
    z = x @ teacher
    labels = parameters.linear * z + parameters.quadratic * (z**2 - 1) / np.sqrt(2)
    labels += np.sqrt(parameters.label_noise) * generator.normal(size=parameters.samples)
    phi = np.maximum(x @ weights.T, 0) - _CONSTANT
    gram = phi.T @ phi / parameters.samples + parameters.ridge * np.eye(parameters.features)
    return Network(weights, teacher, np.linalg.solve(gram, phi.T @ labels / parameters.samples))


def expected_of_readout(parameters: Parameters, network: Network) -> dict[str, float]:
    """Mean squared errors by rung, and for "clean", for a given readout (steps 2 to 4).

    Returns:
        Besides, "gap" = full − clean = 2 aᵀE[y r], which may have either sign.
    """
    weights, teacher, readout = network
    cosine = weights @ teacher
    power = parameters.linear**2 + parameters.quadratic**2 + parameters.label_noise
    raw = (
        power
        - 2 * _LINEAR * parameters.linear * float(readout @ cosine)
        + _LINEAR**2 * float(np.sum((weights.T @ readout) ** 2))
    )
    covariance = residual_covariance(weights)
    full = raw + float(readout @ covariance @ readout)
    diagonal = raw + float(readout**2 @ np.diag(covariance))
    gap = 2 * _QUADRATIC * parameters.quadratic * float(readout @ cosine**2)
    return {
        "clean": full - gap,
        "raw": raw,
        "mean": raw,
        "isotropic": diagonal,  # unit rows: all coordinates have the same power
        "diagonal": diagonal,
        "full": full,
        "permuted": full,  # squared loss reads second moments only
        "gap": gap,
    }


def expected(parameters: Parameters) -> dict[str, float]:
    """Expected values, see `expected_of_readout`, for the readout of `draw`."""
    return expected_of_readout(parameters, draw(parameters))


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats of −log N(y; f, 1).

    That is half the squared error, plus log(2π)/2.
    """
    chosen = Parameters(seed=seed, **parameters)
    values = expected_of_readout(chosen, draw(chosen))
    gap = values.pop("gap") / 2
    losses = {rung: value / 2 + float(np.log(2 * np.pi)) / 2 for rung, value in values.items()}
    return {"linear": {**losses, "full gap": gap, "permuted gap": gap}}
