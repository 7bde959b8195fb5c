"""Expected values of control H: a deep linear network on Gaussian data, where the Gaussian residual is exact.

Source: CONTROLS, H; conditional Gaussians as in any textbook (Bishop, 2006, section 2.3).

Activations x = m + F z, F the product of random layers, z ~ N(0, I_d); x̂ = P x with an orthogonal
projection P of rank k (a random subspace, so that r = x − x̂ is correlated with x̂); output f = aᵀx. Labels
depend on g = bᵀx, which may see the residual otherwise than the model does (b ≠ a).

Steps:
1. Every rung gives f and g a joint Gaussian: means, Var f, Cov(f, g) (`outputs`). With S = F Fᵀ, Q = I − P:
   μ = Qm, Σ = QSQ; linear: A = (QSP)(PSP)⁺ and noise QSQ − A(PSQ). A kernel has a mean that is linear in x̂,
   which is correlated with g, and noise that is not.
2. Squared error, y = g + noise: Var(g) + noise + Var f − 2 Cov(f, g) + (E f − E g)².
3. Cross-entropy in nats, P(y = 1) = sigmoid(g), logit f: E softplus(f) − E[sigmoid(g) f], where by Stein
   E[sigmoid(g) f] = E f E sigmoid(g) + Cov(f, g) E sigmoid'(g).
4. Annealed: −log E_ε sigmoid(±(f̂ + ε)), a Gaussian integral for ε and one for g given f̂.
5. `linear` reproduces mean and variance of f; its squared error exceeds that of the clean model by
   2 E[(y − aᵀx̂) aᵀ(r − E[r|x̂])]. r and `permuted` are Gaussian: excess kurtosis 0, permuted = full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, roots_hermitenorm

__all__ = [
    "Network",
    "Output",
    "Parameters",
    "annealed_cross_entropy",
    "claims",
    "cross_entropy",
    "draw",
    "draw_layers",
    "expected",
    "expected_of_network",
    "outputs",
    "squared_error",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]


JACKKNIFE = {"full": 0.001, "permuted": 0.002}
"""Nats that a jackknife leaves of the annealed loss's bias: simulated, up to 0.0004 over 8 antithetic
pairs, and up to 0.001 over 16 independent draws."""


@dataclass(frozen=True)
class Parameters:
    """Control H: width d, rank k of x̂, layers below the site, and the labels' dependence on r."""

    dimension: int = 24
    kept: int = 8
    layers: int = 3
    signal: float = 2.0
    """Standard deviation of the logits f and g."""
    disagreement: float = 0.5
    """Share of b that is drawn apart from a; 0: labels are drawn from the model."""
    label_noise: float = 0.1
    """Variance added to g in the labels of the squared error."""
    seed: int = 0


class Network(NamedTuple):
    """Mean [d] and covariance [d, d] of x, projection P [d, d], readout a [d], teacher b [d]."""

    mean: Array
    covariance: Array
    projection: Array
    readout: Array
    teacher: Array


class Output(NamedTuple):
    """Joint Gaussian of the logit f = f̂ + ε and of the label's g; ε is independent noise."""

    mean: float
    variance: float  # of f̂, the noise not included
    noise: float
    covariance: float  # of f and g
    label_mean: float
    label_variance: float


def draw_layers(parameters: Parameters, generator: np.random.Generator) -> list[Array]:
    """Weights [d, d] of the layers below the site, the first that `draw` takes from its generator."""
    d = parameters.dimension
    return [generator.normal(size=(d, d)) / np.sqrt(d) for _ in range(parameters.layers)]


def draw(parameters: Parameters) -> Network:
    """Draw layers, projection, readout and teacher from the seed."""
    generator = np.random.default_rng(parameters.seed)
    d = parameters.dimension
    factor = np.eye(d)
    for layer in draw_layers(parameters, generator):
        factor = layer @ factor
    covariance = factor @ factor.T
    mean = generator.normal(size=d) / np.sqrt(d)
    basis, _ = np.linalg.qr(generator.normal(size=(d, parameters.kept)))
    readout, other = generator.normal(size=(2, d))

    def scaled(vector: Array) -> Array:
        return vector * parameters.signal / np.sqrt(vector @ covariance @ vector)

    readout = scaled(readout)
    mixed = (1 - parameters.disagreement) * readout + parameters.disagreement * scaled(other)
    return Network(mean, covariance, basis @ basis.T, readout, scaled(mixed))


def outputs(network: Network) -> dict[str, Output]:
    """The joint Gaussian of f and g for "clean" and by rung (step 1)."""
    m, s, p, a, b = network
    q = np.eye(len(m)) - p
    residual = q @ s @ q
    # rcond: the projected covariance has exactly k eigenvalues that are not rounding errors.
    regression = q @ s @ p @ np.linalg.pinv(p @ s @ p, rcond=1e-10, hermitian=True)
    unexplained = residual - regression @ p @ s @ q

    def output(read: Array, mean: Array, noise: float) -> Output:
        """f̂ = readᵀ(x − m) + aᵀmean, plus noise."""
        return Output(
            mean=float(a @ mean),
            variance=float(read @ s @ read),
            noise=noise,
            covariance=float(read @ s @ b),
            label_mean=float(b @ m),
            label_variance=float(b @ s @ b),
        )

    kept = p @ a  # P is symmetric
    full = float(a @ residual @ a)
    along = kept + p @ regression.T @ a
    return {
        "clean": output(a, m, 0.0),
        "raw": output(kept, p @ m, 0.0),
        "mean": output(kept, m, 0.0),
        "isotropic": output(kept, m, float(a @ a * np.trace(residual) / len(m))),
        "diagonal": output(kept, m, float(a**2 @ np.diag(residual))),
        "full": output(kept, m, full),
        "linear-mean": output(along, m, 0.0),
        "linear": output(along, m, float(a @ unexplained @ a)),
        "permuted": output(kept, m, full),
    }


def squared_error(output: Output, label_noise: float) -> float:
    """E(y − f)² for y = g + noise of this variance (step 2)."""
    bias = output.mean - output.label_mean
    spread = output.label_variance + output.variance + output.noise - 2 * output.covariance
    return bias**2 + spread + label_noise


def _normal(mean: float, variance: float) -> tuple[Array, Array]:
    """Nodes and weights of N(mean, variance)."""
    nodes, weights = roots_hermitenorm(150)
    return mean + np.sqrt(variance) * nodes, weights / weights.sum()


def cross_entropy(output: Output) -> float:
    """Quenched cross-entropy in nats, labels drawn from sigmoid(g), logit f (step 3)."""
    f, f_weights = _normal(output.mean, output.variance + output.noise)
    g, g_weights = _normal(output.label_mean, output.label_variance)
    p = expit(g)
    agreement = output.mean * (g_weights @ p) + output.covariance * (g_weights @ (p * (1 - p)))
    return float(f_weights @ np.logaddexp(0, f) - agreement)


def annealed_cross_entropy(output: Output) -> float:
    """Annealed cross-entropy in nats, labels drawn from sigmoid(g), ε integrated out (step 4)."""
    f, weights = _normal(output.mean, output.variance)
    noise, noise_weights = _normal(0.0, output.noise)
    noisy = f[:, None] + noise
    slope = output.covariance / output.variance
    g, g_weights = _normal(0.0, output.label_variance - slope * output.covariance)
    positive = expit(output.label_mean + slope * (f[:, None] - output.mean) + g) @ g_weights
    yes, no = expit(noisy) @ noise_weights, expit(-noisy) @ noise_weights
    return float(-weights @ (positive * np.log(yes) + (1 - positive) * np.log(no)))


def expected_of_network(parameters: Parameters, network: Network) -> dict[str, float]:
    """Cross-entropies in nats, annealed ones (" annealed" appended) and squared errors (" squared error").

    Besides, "excess kurtosis" of the residual, and "linear excess": how far the squared error of `linear`
    is above that of the clean model, by the formula of step 5.
    """
    values: dict[str, float] = {}
    for rung, output in outputs(network).items():
        values[rung] = cross_entropy(output)
        values[f"{rung} squared error"] = squared_error(output, parameters.label_noise)
        if output.noise > 0:
            values[f"{rung} annealed"] = annealed_cross_entropy(output)
    m, s, p, a, b = network
    q = np.eye(len(m)) - p
    # r − E[r|x̂] = D(x − m), which is uncorrelated with x̂: only the label is left of y − aᵀx̂.
    unexplained = q - q @ s @ p @ np.linalg.pinv(p @ s @ p, rcond=1e-10, hermitian=True)
    values["linear excess"] = float(2 * b @ s @ unexplained.T @ a)
    values["excess kurtosis"] = 0.0
    return values


def expected(parameters: Parameters) -> dict[str, float]:
    """Expected values, see `expected_of_network`, for the network of `draw`."""
    return expected_of_network(parameters, draw(parameters))


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats.

    "radial kurtosis" is that of the residual less what Gaussian surrogates have.
    """
    chosen = Parameters(seed=seed, **parameters)
    network = draw(chosen)
    values = expected_of_network(chosen, network)
    found: dict[str, float | tuple[float, float]] = {rung: values[rung] for rung in outputs(network)}
    found |= {f"{rung} gap": values[rung] - values["clean"] for rung in ("full", "linear")}
    found |= {f"{rung} annealed": (values[f"{rung} annealed"], left) for rung, left in JACKKNIFE.items()}
    return {"subspace": {**found, "radial kurtosis": values["excess kurtosis"]}}
