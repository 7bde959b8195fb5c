"""Expected values of the shell chains and of quadratic chaos: a logistic readout of a sum, part of it kept.

Sources: PROTOCOL-2, 7; Wilson (1975) for shells of falling power; Wen, Hu, Lu, Fan and Misiakiewicz (2025),
"Conditional Gaussian equivalence", for a bath that is Gaussian once quadratic chaos is kept.

The model reads t = Σ_i u_i + g, g ~ N(0, s²), and says P(y = 1) = sigmoid(a t); labels are drawn from it. The
parts u_i are independent, have mean 0 and fall into two laws:
- shells: u_n = c_n Σ_{j ≤ b^n} s_{nj} with signs s = ±1 and c_n² = q^n/b^n, so that Var u_n = q^n. Its
  characteristic function is cos(c_n ω)^{b^n};
- chaos: u_i = c (z_i² − 1)/√2 with z_i ~ N(0, 1). Its characteristic function is
  e^{−iωc/√2} (1 − √2 iωc)^{−1/2}.
An interpretation keeps the first k parts: x̂ is their sum X as far as the model can tell, and the rest is
R = Σ_{i ≥ k} u_i + g, independent of X.

Steps:
1. The law of R: its characteristic function, e^{−s²ω²/2} times the others, inverted on a grid (`left_out`).
   Its density is smooth at scale s, so that sums over the grid are integrals to rounding.
2. The law of X: sums of binomials, or a shifted χ² by Gauss–Laguerre quadrature (`kept`).
3. P(y = 1 | X) = E_R sigmoid(a(X + R)).
4. Quenched: E E_ε[−log p(y | X + ε)]; annealed: E[−log E_ε p(y | X + ε)]. ε is 0 (`raw`, `mean`), N(0, α²v)
   with v = Var R (`full` at α = 1), or an independent copy of R (`permuted`). Labels are drawn from the
   model, so that loss − clean loss is also the KL to the clean model.
5. Orders of Γ(α), the quenched loss at N(0, α²v): with σ = sigmoid,
   a₂ = ½ v a² E σ'(aX), a₄ = ⅛ v² a⁴ E σ'''(aX) (`taylor`); and the same two coefficients as two values of
   Γ give them, at α = .3 and .6 (`fitted`).
6. Noise around t: KL of the model at t + δ to the model at t, δ = uR for a number u (`moved`; u = −1 is raw,
   +1 its mirror image) or N(0, α²v) (`around`).
7. Excess kurtosis of R: cumulants add. −2 Σ_{m≥k} q^{2m} b^{−m}/v² for shells; 12 (m − k) c⁴/v² for chaos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, roots_genlaguerre
from scipy.stats import binom

__all__ = [
    "BATH",
    "KEPT",
    "Law",
    "Orders",
    "Parameters",
    "claims",
    "expected",
    "fitted",
    "kept",
    "left_out",
    "left_out_variance",
    "part_variances",
    "taylor",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

AMPLITUDES = (0.3, 0.6)
"""The α from which two orders are solved."""

KEPT = {"shells": (2, 3, 4), "chaos": (1, 2, 4)}
"""How many parts the interpretations keep."""

BATH = {"shells": {3: (0.6,), 4: (0.6, 1.0)}, "chaos": {4: (0.6, 1.0)}}
"""The α at which the annealed loss is claimed, by k. For stronger noise four pairs are too few: the jackknife
moves it by as much as its interval is wide."""

JACKKNIFE = 0.0006
"""Nats that a jackknife over four antithetic pairs leaves of the bias there: simulated, up to 0.0006."""

MADE = ("a2", "a4", "remainder", "missing", "perturbativity", "interaction")
RATIOS_OF = {"shells": 3, "chaos": 2}
"""The k whose ratios are claimed."""
RATIOS = ("rho", "rho even", "rho odd", "rho small", "rho noise-run")


@dataclass(frozen=True)
class Parameters:
    """Parts of the sum, background, readout, and how many parts are kept."""

    law: Literal["shells", "chaos"] = "shells"
    parts: int = 7
    """S shells, or m components of chaos."""
    branching: int = 2
    """b: shell n holds b^n signs. (Chaos has none.)"""
    ratio: float = 0.5
    """q: shell n has variance q^n. Each component of chaos has variance 1/m."""
    background: float = 0.01
    """s², variance of g."""
    gain: float = 4.0
    """a, logits per unit of t."""
    kept: int = 3


class Law(NamedTuple):
    """Values and their probabilities, `[values]`; of a density, its values on a grid times the step."""

    values: Array
    weights: Array


class Orders(NamedTuple):
    """Γ(α) = zero + a₂ α² + a₄ α⁴ + …, nats."""

    zero: float
    a2: float
    a4: float


def part_variances(parameters: Parameters) -> Array:
    """Var u_i of all parts, `[parts]`."""
    if parameters.law == "chaos":
        return np.full(parameters.parts, 1 / parameters.parts)
    return parameters.ratio ** np.arange(parameters.parts)


def left_out_variance(parameters: Parameters) -> float:
    """v, variance of what is not kept."""
    return float(part_variances(parameters)[parameters.kept :].sum()) + parameters.background


def _characteristic(parameters: Parameters, omega: Array) -> NDArray[np.complex128]:
    """E e^{iωR} (step 1)."""
    found = np.exp(-parameters.background * omega**2 / 2).astype(np.complex128)
    for index, variance in enumerate(part_variances(parameters)):
        if index < parameters.kept:
            continue
        if parameters.law == "chaos":
            c = np.sqrt(variance)
            found *= np.exp(-1j * omega * c / np.sqrt(2)) / np.sqrt(1 - np.sqrt(2) * 1j * omega * c)
        else:
            count = parameters.branching**index
            found *= np.cos(np.sqrt(variance / count) * omega) ** count
    return found


def left_out(parameters: Parameters) -> Law:
    """The law of R on a grid, by the inversion of its characteristic function (step 1)."""
    s = np.sqrt(parameters.background)
    variances = part_variances(parameters)[parameters.kept :]
    if parameters.law == "chaos":  # the tail of χ² falls as e^{−r/(√2 c)}
        reach = 9 * s + 36 * np.sqrt(2 * variances.max(initial=0))
    else:  # no further than all signs together, or than ten standard deviations of many
        counts = parameters.branching ** np.arange(parameters.kept, parameters.parts)
        most = np.sqrt(variances * counts).sum()
        reach = 9 * s + min(most, 10 * np.sqrt(variances.sum()))
    cut = 8.5 / s  # e^{−s²ω²/2} is e^{−36} there
    points = int(np.ceil(2 * reach * cut / 2)) + 1
    values = np.linspace(-reach, reach, points)
    omega = np.linspace(0, cut, int(np.ceil(2 * reach * cut / 4)) + 1)
    phi = _characteristic(parameters, omega)
    phi[[0, -1]] /= 2  # trapezoidal rule
    phase = np.outer(values, omega)
    density = (np.cos(phase) @ phi.real + np.sin(phase) @ phi.imag) * (omega[1] - omega[0]) / np.pi
    return Law(values, np.maximum(density, 0) * (values[1] - values[0]))  # far out it is 0 up to rounding


def kept(parameters: Parameters) -> Law:
    """The law of X (step 2)."""
    count = parameters.kept
    if parameters.law == "chaos":
        if count == 0:
            return Law(np.zeros(1), np.ones(1))
        nodes, weights = roots_genlaguerre(100, count / 2 - 1)
        nodes, weights = nodes[weights > 1e-20], weights[weights > 1e-20]
        c = np.sqrt(part_variances(parameters)[0])
        return Law(c / np.sqrt(2) * (2 * nodes - count), weights / weights.sum())
    values, weights = np.zeros(1), np.ones(1)
    for index, variance in enumerate(part_variances(parameters)[:count]):
        signs = parameters.branching**index
        ups = np.arange(signs + 1)
        shell = np.sqrt(variance / signs) * (2 * ups - signs)
        sums = (values[:, None] + shell).ravel()
        joint = np.outer(weights, binom.pmf(ups, signs, 0.5)).ravel()
        distinct, inverse = np.unique(sums.round(12), return_inverse=True)
        values, weights = distinct, np.bincount(inverse.ravel(), joint)
    return Law(values, weights)


def _normal(variance: float) -> Law:
    """N(0, variance) on a grid: where a·sd is large, as here, Gauss–Hermite leaves 1e-6 nats."""
    z = np.linspace(-8.5, 8.5, 341)
    weights = np.exp(-(z**2) / 2)
    return Law(np.sqrt(variance) * z, weights / weights.sum())


def _softplus(logit: Array) -> Array:
    return np.logaddexp(0, logit)


class _Readout(NamedTuple):
    """What is kept, P(y = 1) given it, and a."""

    kept: Law
    positive: Array
    gain: float

    def quenched(self, noise: Law) -> float:
        """Nats; the noise has mean 0 (step 4)."""
        logit = self.gain * (self.kept.values[:, None] + noise.values)
        mean = _softplus(logit) @ noise.weights
        return float(self.kept.weights @ (mean - self.positive * self.gain * self.kept.values))

    def annealed(self, noise: Law) -> float:
        """Nats (step 4)."""
        logit = self.gain * (self.kept.values[:, None] + noise.values)
        yes, no = expit(logit) @ noise.weights, expit(-logit) @ noise.weights
        return -float(self.kept.weights @ (self.positive * np.log(yes) + (1 - self.positive) * np.log(no)))


def _readout(parameters: Parameters, rest: Law) -> _Readout:
    x = kept(parameters)
    positive = expit(parameters.gain * (x.values[:, None] + rest.values)) @ rest.weights
    return _Readout(x, positive, parameters.gain)


def taylor(parameters: Parameters) -> Orders:
    """The first coefficients of Γ in powers of α² (step 5)."""
    readout = _readout(parameters, left_out(parameters))
    a, v = parameters.gain, left_out_variance(parameters)
    p = expit(a * readout.kept.values)
    first = p * (1 - p)
    third = first * (1 - 6 * first)  # σ''' = σ'(1 − 6σ')
    mean = readout.kept.weights
    zero = readout.quenched(Law(np.zeros(1), np.ones(1)))
    return Orders(zero, float(a**2 * v / 2 * (mean @ first)), float(a**4 * v**2 / 8 * (mean @ third)))


def fitted(zero: float, small: float, large: float) -> Orders:
    """The coefficients that Γ(0), Γ(.3) and Γ(.6) have if there are two of them (step 5)."""
    squares = np.array(AMPLITUDES) ** 2
    a2, a4 = np.linalg.solve(np.column_stack([squares, squares**2]), [small - zero, large - zero])
    return Orders(zero, float(a2), float(a4))


def _moved(parameters: Parameters, rest: Law, share: float) -> float:
    """KL of the model at t + share · R to the model at t (step 6)."""
    a, x = parameters.gain, kept(parameters)
    found = 0.0
    for start in range(0, len(x.values), 500):
        t = a * (x.values[start : start + 500, None] + rest.values)
        by = a * share * rest.values
        each = _softplus(t + by) - _softplus(t) - expit(t) * by
        found += float(x.weights[start : start + 500] @ each @ rest.weights)
    return found


def _around(parameters: Parameters, variance: float) -> float:
    """KL of the model at t + N(0, variance) to the model at t (step 6)."""
    a, whole, noise = parameters.gain, left_out(_nothing_kept(parameters)), _normal(variance)
    moved = _softplus(a * (whole.values[:, None] + noise.values)) @ noise.weights
    return float(whole.weights @ (moved - _softplus(a * whole.values)))


def _shuffled(parameters: Parameters, rest: Law) -> float:
    """KL of the model at t − R' to the model at t, R' an independent copy of R (step 6)."""
    a, whole = parameters.gain, left_out(_nothing_kept(parameters))
    # R' less its mean 0: only softplus of the moved logit counts, averaged over the law of t.
    moved = sum(
        weight * float(whole.weights @ _softplus(a * (whole.values - value)))
        for value, weight in zip(*rest, strict=True)
    )
    return moved - float(whole.weights @ _softplus(a * whole.values))


def _nothing_kept(parameters: Parameters) -> Parameters:
    return replace(parameters, kept=0)


def _excess_kurtosis(parameters: Parameters) -> float:
    """κ₄/v² of R (step 7)."""
    indices = np.arange(parameters.kept, parameters.parts)
    if parameters.law == "chaos":
        fourth = 12 * len(indices) / parameters.parts**2
    else:
        fourth = -2 * float(np.sum(parameters.ratio ** (2 * indices) / parameters.branching**indices))
    return fourth / left_out_variance(parameters) ** 2


def expected(parameters: Parameters) -> dict[str, float]:
    """Losses in nats by rung, and for "clean"; annealed ones have " annealed" appended, KL " kl".

    Besides: "full 0.3" and "full 0.6" (Γ there), "a2" and "a4" as fitted, "full one" and "full two"
    (zero + a₂, + a₄), the same as "taylor …" of the series, "kurtosis" of R, and KL around t: "moved u kl"
    and "noise α kl". "remainder", "missing", "perturbativity" and "interaction" are made of these
    (PROTOCOL-2, 1).
    """
    rest, v = left_out(parameters), left_out_variance(parameters)
    readout = _readout(parameters, rest)
    whole = left_out(_nothing_kept(parameters))
    logit = parameters.gain * whole.values
    clean = float(whole.weights @ (_softplus(logit) - expit(logit) * logit))
    nothing = Law(np.zeros(1), np.ones(1))
    values = {"clean": clean}
    for rung, noise in {"raw": nothing, "mean": nothing, "full": _normal(v), "permuted": rest}.items():
        values[rung] = readout.quenched(noise)
        values[f"{rung} kl"] = values[rung] - clean
        if noise is not nothing:
            values[f"{rung} annealed"] = readout.annealed(noise)
    values["shape"] = values["full"] - values["permuted"]
    for alpha in AMPLITUDES:
        noise = _normal(alpha**2 * v)
        values[f"full {alpha}"] = readout.quenched(noise)
        values[f"full {alpha} annealed"] = readout.annealed(noise)
    orders = fitted(values["mean"], *(values[f"full {alpha}"] for alpha in AMPLITUDES))
    series = taylor(parameters)
    values |= {"a2": orders.a2, "a4": orders.a4, "taylor a2": series.a2, "taylor a4": series.a4}
    values |= {"full one": orders.zero + orders.a2, "full two": sum(orders)}
    values |= {"taylor one": series.zero + series.a2, "taylor two": sum(series)}
    values["remainder"] = values["full two"] - values["full"]
    values["missing"] = values["full"] - values["full one"]
    values["perturbativity"] = values["missing"] / orders.a2
    values["kurtosis"] = _excess_kurtosis(parameters)
    for share in (-1.0, 1.0, -AMPLITUDES[0], AMPLITUDES[0]):
        values[f"moved {share:+g} kl"] = _moved(parameters, rest, share)
    for alpha in (1.0, AMPLITUDES[0]):
        values[f"noise {alpha:g} kl"] = _around(parameters, alpha**2 * v)
    noise = values["noise 1 kl"]
    both = [values[f"moved {share:+g} kl"] for share in (-1.0, 1.0)]
    small = [values[f"moved {share:+g} kl"] for share in (-AMPLITUDES[0], AMPLITUDES[0])]
    values["rho even"], values["rho odd"] = sum(both) / 2 / noise, (both[0] - both[1]) / 2 / noise
    values["rho"] = values["raw kl"] / noise
    values["rho small"] = sum(small) / 2 / values["noise 0.3 kl"]
    values["rho noise-run"] = values["raw kl"] / _shuffled(parameters, rest)
    for rung, alpha in (("full 0.6", 0.6), ("full", 1.0)):
        values[f"bath {alpha:g}"] = values[f"{rung} annealed"] - values["mean"]
    values["interaction"] = (values["full kl"] - values["mean kl"]) / values["noise 1 kl"] - 1
    return {name: float(value) for name, value in values.items()}


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; the same for every seed."""
    chosen = Parameters(**parameters)
    found: Claims = {}
    for count in KEPT[chosen.law]:
        values = expected(replace(chosen, kept=count))
        own: dict[str, float | tuple[float, float]] = {
            name: values[name]
            for name in ("clean", "raw", "mean", "full", "permuted", "full kl", "permuted kl", "shape")
        }
        own |= {f"{rung} gap": values[f"{rung} kl"] for rung in ("raw", "full")}
        own |= {
            f"{order}{of}": values[f"full {order}"] - values["clean"]
            for order in ("one", "two")
            for of in ("", " kl")
        }
        # With all of chaos kept a₄ is a two-hundredth of a₂: nothing to compare with.
        made = MADE if count < chosen.parts else ("a2", "interaction")
        own |= {name: values[name] for name in made}
        if count == RATIOS_OF[chosen.law]:
            own |= {name: values[name] for name in RATIOS}
        own |= {
            f"bath {alpha:g}": (values[f"bath {alpha:g}"], JACKKNIFE)
            for alpha in BATH[chosen.law].get(count, ())
        }
        found[f"keep-{count}"] = own
    return found
