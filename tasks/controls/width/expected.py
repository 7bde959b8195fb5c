"""Expected values of control C: a preactivation of a wide random network, Gaussian up to 1/width.

Sources: CONTROLS, C; Hanin (2023), "Random fully connected neural networks as perturbatively solvable
hierarchies"; Roberts, Yaida and Hanin (2022), "The principles of deep learning theory", chapter 5.

The ensemble is over weights at a fixed input: z¹ ~ N(0, 1) in each of n units, and given layer l the units of
layer l + 1 are independent with z ~ N(0, v), v = (C_W/n) Σ_i σ(z_i)². One preactivation of layer L is read
out through softplus(z), the loss of a label that says "no" at logit z. The interpretation is the
infinite-width mean, x̂ = 0, so that the residual is z itself.

Steps:
1. Linear (C_W = 1) and ReLU (C_W = 2): v is the product of L − 1 independent factors χ²_n/n, or
   2Σ max(g_i, 0)²/n, of mean 1. Excess kurtosis 3[(1 + c/n)^{L−1} − 1], c = 2 and 5, is exact at finite n.
2. Other activations (C_W = 1), to leading order in 1/n: K¹ = 1, V¹ = 0, K′ = C_W E σ²,
   V′ = C_W² Var(σ²) + χ²V, χ = C_W E[σ²(z² − K)]/(2K²), z ~ N(0, K); excess = 3V/(nK²).
3. Losses: raw = mean = softplus(0) = log 2; full = G(K) with G(v) = E softplus(√v g); clean = permuted =
   E G(v), the quenched loss of the ensemble itself. The distribution of log v is a convolution, done by FFT.
4. Shape gap full − permuted → −K² G''(K) · excess/6 as n → ∞, for any activation: it falls as 1/n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom, chi2

__all__ = [
    "ACTIVATIONS",
    "COPIES",
    "Parameters",
    "claims",
    "exact_losses",
    "excess_kurtosis",
    "expected",
    "figure",
    "fitted_exponent",
    "laws",
    "leading_excess_kurtosis",
    "leading_shape_gap",
    "softplus_mean",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0.0),
    "tanh": np.tanh,
}
"""σ by name."""

WEIGHT_VARIANCE = {"linear": 1.0, "relu": 2.0, "tanh": 1.0}
"""C_W: weights have variance C_W/n, which keeps K = 1 (linear, ReLU) or is critical (tanh)."""

COPIES = 64
"""Independent networks that a row of the task holds one preactivation of."""

CALIBRATION = 65_536
"""Rows that the task calibrates on."""

TOLERANCE = 0.1
"""Of the exponent: unweighted it is −1.009 over the widths of the tasks, and every weighting is within 0.02
of it."""

_COUPLING = {"linear": 2, "relu": 5}  # n Var(v'/v), exactly


@dataclass(frozen=True)
class Parameters:
    """Control C. Width n in units, depth L in layers; `widths` are those that the exponent is fitted over."""

    activation: Literal["linear", "relu", "tanh"] = "relu"
    width: int = 64
    layers: int = 6
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)


def _normal_nodes() -> tuple[Array, Array]:
    """Nodes and weights [400] of E over z ~ N(0, 1), split at 0, where ReLU has its kink."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = np.concatenate([6 * (nodes - 1), 6 * (nodes + 1)])
    return z, np.tile(6 * weights, 2) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _recursion(activation: str, layers: int) -> tuple[float, float]:
    """K and V of layer L: Var z → K and Var v → V/n as n → ∞ (step 2)."""
    z, weights = _normal_nodes()
    c, kernel, vertex = WEIGHT_VARIANCE[activation], 1.0, 0.0
    for _ in range(layers - 1):
        square = ACTIVATIONS[activation](np.sqrt(kernel) * z) ** 2
        mean = weights @ square
        chi = c * (weights @ (square * (z**2 - 1))) / (2 * kernel)
        kernel, vertex = c * mean, c**2 * (weights @ square**2 - mean**2) + chi**2 * vertex
    return float(kernel), float(vertex)


def leading_excess_kurtosis(activation: str, width: int, layers: int) -> float:
    """Excess kurtosis of a preactivation of layer L over weights, to leading order in 1/n (step 2)."""
    kernel, vertex = _recursion(activation, layers)
    return 3 * vertex / (width * kernel**2)


def excess_kurtosis(activation: str, width: int, layers: int) -> float:
    """The same: exact for "linear" and "relu" (step 1), otherwise the leading order."""
    if activation in _COUPLING:
        return 3.0 * ((1 + _COUPLING[activation] / width) ** (layers - 1) - 1)
    return leading_excess_kurtosis(activation, width, layers)


def softplus_mean(variance: Array) -> Array:
    """G(v) = E softplus(√v g), g ~ N(0, 1), in nats, for variances of any shape."""
    z, weights = _normal_nodes()
    # softplus(t) = t/2 + |t|/2 + log(1 + e^{−|t|}): the odd part has mean 0, and nothing overflows.
    size = np.sqrt(variance)[..., None] * np.abs(z)
    return (size / 2 + np.log1p(np.exp(-size))) @ weights


def _log_factor_density(activation: str, width: int, log_factor: Array) -> Array:
    """Density of log(v′/v) on a grid, without its atom at v′ = 0 (all units of a ReLU layer silent)."""
    factor = np.exp(log_factor)
    if activation == "linear":
        return chi2.pdf(width * factor, width) * width * factor
    active = np.arange(1, width + 1)
    chances = binom.pmf(active, width, 0.5)
    active, chances = active[chances > 1e-18], chances[chances > 1e-18]
    scaled = width * factor / 2  # Σ max(g_i, 0)² given how many are active
    return (chi2.pdf(scaled[:, None], active) @ chances) * scaled


def exact_losses(activation: str, width: int, layers: int) -> dict[str, float]:
    """Losses in nats at finite width, for "linear" and "relu" (step 3).

    Raises:
        ValueError: for another activation, whose layers are no independent factors.
    """
    if activation not in _COUPLING:
        raise ValueError(f"exact losses at finite width: 'linear' or 'relu', not {activation!r}")
    log_v, step = np.linspace(-30, 6, 3601, retstep=True)
    density = _log_factor_density(activation, width, log_v)
    # Product of L − 1 factors: convolution of the densities of their logs, on a grid too long to wrap around.
    size = 1 << int(np.ceil(np.log2(layers * len(log_v))))
    spectrum = np.fft.rfft(density * step, size) ** (layers - 1)
    mass = np.fft.irfft(spectrum, size)
    total = (layers - 1) * log_v[0] + step * np.arange(size)
    # Beyond e^12 there is no mass, only the rounding noise of the FFT, which √v would amplify.
    kept = (total > -60) & (total < 12)
    clean = float(mass[kept] @ softplus_mean(np.exp(total[kept])))
    clean += float(1 - mass[kept].sum()) * float(np.log(2))  # what is not on the grid is at v = 0
    raw = float(np.log(2))
    full = float(softplus_mean(np.ones(1))[0])
    return {"clean": clean, "raw": raw, "mean": raw, "full": full, "permuted": clean, "shape": full - clean}


def leading_shape_gap(activation: str, width: int, layers: int) -> float:
    """full − permuted in nats, to leading order in 1/n (step 4), for any activation."""
    kernel, vertex = _recursion(activation, layers)
    z, weights = _normal_nodes()
    p = expit(np.sqrt(kernel) * z)
    # G'' = E softplus''''/4, as for any heat flow.
    curvature = float(weights @ (p * (1 - p) * (1 - 6 * p * (1 - p)))) / 4
    return -curvature * vertex / (2 * width)


def fitted_exponent(widths: tuple[int, ...], gaps: Array) -> float:
    """Slope of log gap against log width by least squares; gaps [widths] are positive."""
    return float(np.polyfit(np.log(widths), np.log(gaps), 1)[0])


def expected(parameters: Parameters) -> dict[str, float]:
    """Expected values in nats, the excess kurtosis, and the exponents of the 1/n law.

    Returns:
        "excess kurtosis", "shape" (full − permuted), "asymptotic exponent" (−1 for every activation) and
        "exponent": that of an unweighted fit over `widths`, which a finite width moves off −1. With the
        activations that are exact at finite width also "clean", "raw", "mean", "full", "permuted";
        elsewhere "shape" and "excess kurtosis" leave out O(1/n²).
    """
    activation, width, layers = parameters.activation, parameters.width, parameters.layers
    if activation in _COUPLING:
        losses = exact_losses(activation, width, layers)
        gaps = [exact_losses(activation, n, layers)["shape"] for n in parameters.widths]
    else:
        losses = {"shape": leading_shape_gap(activation, width, layers)}
        gaps = [leading_shape_gap(activation, n, layers) for n in parameters.widths]
    return {
        **losses,
        "excess kurtosis": excess_kurtosis(activation, width, layers),
        "exponent": fitted_exponent(parameters.widths, np.array(gaps)),
        "asymptotic exponent": -1.0,
    }


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; the same for every seed.

    `full` and `permuted` alone are allowed three standard errors of their calibration, from which an
    interval over evaluation documents knows nothing: log 2cosh(z/2) changes by at most 1/8 with z², whose
    mean has the standard error √((2 + excess kurtosis)/rows). It cancels in "shape". `mean` adds the square
    of a small mean.
    """
    chosen = Parameters(**parameters)
    values = exact_losses(chosen.activation, chosen.width, chosen.layers)
    spread = np.sqrt(2 + excess_kurtosis(chosen.activation, chosen.width, chosen.layers))
    allowance = float(3 * spread / np.sqrt(CALIBRATION * COPIES) / 8)
    found: dict[str, float | tuple[float, float]] = {
        "clean": values["clean"],
        "raw": values["raw"],
        "mean": (values["mean"], 1 / CALIBRATION),
        "full": (values["full"], allowance),
        "permuted": (values["permuted"], allowance),
        "shape": values["shape"],
    }
    return {"infinite-width": found}


def laws() -> list[dict[str, Any]]:
    """The shape gap falls as 1/n over the tasks."""
    return [
        {
            "name": "1/n",
            "quantity": "shape",
            "interpretation": "infinite-width",
            "tasks": {f"controls/width-{width}": width for width in Parameters.widths},
            "exponent": -1.0,
            "tolerance": TOLERANCE,
        }
    ]


def figure() -> dict[str, Any]:
    """The shape gap against the width."""
    points = [
        {"task": f"controls/width-{width}", "interpretation": "infinite-width", "x": width}
        for width in Parameters.widths
    ]
    return {
        "name": "width",
        "title": "The shape gap of a random network falls as 1/width",
        "caption": (
            "Preactivations of the sixth layer of random ReLU networks are Gaussian up to 1/n. What the "
            "Gaussian residual misses of their shape, full less permuted, falls with the width n as the "
            "exact formula says."
        ),
        "panels": [
            {
                "kind": "law",
                "title": "",
                "xlabel": "width n",
                "ylabel": "shape gap (nats)",
                "series": [{"quantity": "shape", "label": "full − permuted"}],
                "points": points,
            }
        ],
    }
