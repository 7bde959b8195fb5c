"""Expected values of a residual that is exactly Gaussian and independent of the activation.

Source: PROTOCOL-2, 3 and 7; conditional Gaussians as in any textbook (Bishop, 2006, section 2.3).

x ~ N(0, 1), and the reconstruction x̂ = x − r comes with a residual r = μ + s n, n ~ N(0, 1) independent of x.
The model reads f = a x and says P(y = 1) = sigmoid(f); labels are drawn from it.

Steps:
1. Splices around x, x + δ: KL = E[softplus(a(x + δ)) − softplus(a x) − sigmoid(a x) a δ]. x − r, its mirror
   image about the mean x + r − 2μ, the fitted noise and −r of other rows have one law: ρ = ρ_even = 1,
   ρ_odd = 0, at whatever amplitude. Noise of the length of r in one dimension is r with another sign, which
   is random; towards another activation x_s it is + with probability P(x_s > x).
2. Splices around x̂, which is correlated with r: r given x̂ is N(μ + β(x̂ + μ), τ²), β = −s²/(1 + s²),
   τ² = s²/(1 + s²). `linear`, `renormalised`, `context` and, with many rows, `neighbour` draw from it;
   `neighbour-mean` is μ + c (r_nearest − μ) with c = R² = s²/(1 + s²). `hetero` is `full`: no linear function
   of x̂ tells the size of r.
3. Cross-entropy of f' jointly Gaussian with f, by Stein: E softplus(f') − E f' E sigmoid(f)
   − Cov(f, f') E sigmoid'(f); less that of the model it is the KL.
4. Orders: Γ(α) is the KL with N(μ, α²s²) around x̂. Annealed: −log E_ε sigmoid(±a(x̂ + ε)), with the law of the
   label given x̂.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

__all__ = ["AROUND", "GIVEN", "Parameters", "claims", "expected"]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

AMPLITUDES = (0.3, 0.6)

GIVEN = ("linear", "renormalised", "context", "neighbour")
"""Rungs that draw from the law of r given x̂."""

AROUND = ("noise-isotropic", "noise-directional", "cov-random", "real-mixture")
"""Noise of the length of r."""

JACKKNIFE = 0.0006
"""Nats that a jackknife over four antithetic pairs leaves of an annealed loss's bias, as for shells."""

FITTED = 0.0005
"""Nats that a ridge, or the nearest of 8,192 rows, is off."""


@dataclass(frozen=True)
class Parameters:
    """Mean and size of the residual, and the gain of the readout."""

    mean: float = 0.4
    """μ."""
    size: float = 0.6
    """s."""
    gain: float = 2.0
    """a."""


def _normal(variance: float = 1.0) -> tuple[Array, Array]:
    z = np.linspace(-8.5, 8.5, 341)
    weights = np.exp(-(z**2) / 2)
    return np.sqrt(variance) * z, weights / weights.sum()


def _softplus(f: Array) -> Array:
    return np.logaddexp(0, f)


def _around(parameters: Parameters, delta: Array, weights: Array) -> float:
    """KL of the model at x + δ to the model at x (step 1); weights [x, δ] or [δ]."""
    a = parameters.gain
    x, chance = _normal()
    f = a * x[:, None]
    each = _softplus(f + a * delta) - _softplus(f) - expit(f) * a * delta
    return float(chance @ (each * weights).sum(1))


def _loss(parameters: Parameters, mean: float, variance: float, shared: float) -> float:
    """Cross-entropy of f' = a x', x' of this mean, variance and covariance with x (step 3)."""
    a = parameters.gain
    x, chance = _normal()
    noisy, weights = _normal(variance)
    p = expit(a * x)
    agreement = a * mean * (chance @ p) + a**2 * shared * (chance @ (p * (1 - p)))
    return float(weights @ _softplus(a * (mean + noisy)) - agreement)


def _annealed(parameters: Parameters, alpha: float) -> float:
    """Annealed loss of N(μ, α²s²) around x̂ (step 4)."""
    a, s2 = parameters.gain, parameters.size**2
    centred, chance = _normal(1 + s2)  # x̂ + μ
    rest, weights = _normal(s2 / (1 + s2))
    positive = expit(a * (centred[:, None] / (1 + s2) + rest)) @ weights
    noise, of_noise = _normal(alpha**2 * s2)
    f = a * (centred[:, None] + noise)
    yes, no = expit(f) @ of_noise, expit(-f) @ of_noise
    return -float(chance @ (positive * np.log(yes) + (1 - positive) * np.log(no)))


def expected(parameters: Parameters) -> dict[str, float]:
    """Losses in nats by rung, and for "clean"; KL has " kl" appended. Besides orders, ratios, bath."""
    mu, s = parameters.mean, parameters.size
    s2, explained = s**2, s**2 / (1 + s**2)
    clean = _loss(parameters, 0.0, 1.0, 1.0)
    # x' = x̂ + ε: mean, variance, and covariance with x; Cov(x, x̂) = 1.
    moments = {
        "raw": (-mu, 1 + s2, 1.0),
        "mean": (0.0, 1 + s2, 1.0),
        "full": (0.0, 1 + 2 * s2, 1.0),
        "linear-mean": (0.0, 1 / (1 + s2), 1 / (1 + s2)),
        **dict.fromkeys(GIVEN, (0.0, 1.0, 1 / (1 + s2))),
    }
    moments |= {"permuted": moments["full"], "hetero": moments["full"]}
    along = 1 - explained**2  # what x' has of x̂ + μ with `neighbour-mean`: c β = −R²·R²
    moments["neighbour-mean"] = (0.0, along**2 * (1 + s2) + explained**2 * explained, along)
    moments["renormalised-mean"] = moments["linear-mean"]
    values = {"clean": clean}
    for rung, (mean, variance, shared) in moments.items():
        values[rung] = _loss(parameters, mean, variance, shared)
        values[f"{rung} kl"] = values[rung] - clean
    small, large = (
        _loss(parameters, 0.0, 1 + s2 + alpha**2 * s2, 1.0) - values["mean"] for alpha in AMPLITUDES
    )
    squares = np.array(AMPLITUDES) ** 2
    a2, a4 = np.linalg.solve(np.column_stack([squares, squares**2]), [small, large])
    values |= {"a2": float(a2), "a4": float(a4)}
    values["one"] = values["mean kl"] + values["a2"]
    values["two"] = values["one"] + values["a4"]
    for alpha in (0.6, 1.0):
        values[f"bath {alpha:g}"] = _annealed(parameters, alpha) - values["mean"]

    noise, weights = _normal(s2)
    own = _around(parameters, noise - mu, weights)
    centred = _around(parameters, noise, weights)
    values |= {"mirror kl": own, "noise-fitted kl": own, "noise-centred kl": centred}
    values["minus-mean kl"] = _around(parameters, np.array([-mu]), np.ones(1))
    values["interaction"] = (values["full kl"] - values["mean kl"]) / centred - 1
    length = np.abs(noise + mu)
    either = (_around(parameters, length, weights) + _around(parameters, -length, weights)) / 2
    x, _ = _normal()
    up = ndtr(-x)[:, None]  # the chance that another activation is larger
    towards = _around(parameters, length, up * weights) + _around(parameters, -length, (1 - up) * weights)
    values |= {"rho": 1.0, "rho even": 1.0, "rho odd": 0.0, "rho small": 1.0, "rho noise-run": 1.0}
    values |= {f"rho {rung.removeprefix('noise-')}": own / either for rung in AROUND}
    values["rho activation-difference"] = own / towards
    return values


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; the same for every seed."""
    values = expected(Parameters(**parameters))
    losses = ("clean", "raw", "mean", "full", "linear-mean", "linear", "permuted")
    own: dict[str, float | tuple[float, float]] = {name: values[name] for name in losses}
    own |= {f"{rung} gap": values[f"{rung} kl"] for rung in ("raw", "full")}
    own |= {f"{rung} kl": values[f"{rung} kl"] for rung in ("full", "permuted", "mirror", "minus-mean")}
    fitted = ("renormalised", "renormalised-mean", "context", "neighbour", "neighbour-mean", "hetero")
    own |= {f"{rung}{of}": (values[f"{rung}{of}"], FITTED) for rung in fitted for of in ("", " kl")}
    own |= {name: values[name] for name in ("a2", "a4", "one", "two", "interaction")}
    own |= {name: value for name, value in values.items() if name.startswith("rho")}
    own |= {f"bath {alpha:g}": (values[f"bath {alpha:g}"], JACKKNIFE) for alpha in (0.6, 1.0)}
    return {"noisy": own}
