"""Expected values of control D: discrete features of which k are kept, on a Gaussian background.

Source: CONTROLS, D.

The model reads t = Σ_j b_j c_j + g, with b_j ~ Bernoulli(p) and g ~ N(0, s²), and says
P(y = 1) = sigmoid(a(t − τ)), τ = pΣc + offset. Labels are drawn from it. An interpretation keeps k of the m
features: x̂ is their part of t, and r = t − x̂.

Steps:
1. Enumerate the 2^m states: their probability, x̂, and the discrete part ρ of r (`enumerate_states`).
   Static: the k features of largest c are kept. Per sample: of those that are active, the k of largest c.
2. The label given a state: P(y = 1 | b) = E_g sigmoid(a(t + g − τ)), by Gauss–Hermite. The strict positive
   variant draws labels from x̂ alone, sigmoid(a(x̂ − τ)).
3. Every rung is a law of ε given x̂: a point (`raw`, `mean`), a Gaussian (`full`; `linear` with the mean and
   variance of a regression of r on x̂), or an independent copy ρ′ + g′ (`permuted`).
4. Quenched: E E_ε[−log p(y | x̂+ε)]. Annealed: E[−log E_ε p(y | x̂+ε)]. Clean: ε = r of the same sample.
5. Where labels are drawn from the model, quenched − clean is also E KL(p_clean ‖ p_ε).
6. α* minimises the annealed loss of x̂ + μ + α ε, ε ~ N(0, Var r).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, roots_hermitenorm

__all__ = [
    "Kernel",
    "Parameters",
    "States",
    "best_amplitude",
    "claims",
    "coefficients",
    "coverage",
    "enumerate_states",
    "expected",
    "figure",
    "kept_counts",
]

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]


ANNEALED = (0, 1, 4, 8)
"""The k whose annealed losses are claimed: they take eight pairs of draws."""

JACKKNIFE = {"full": 0.001, "permuted": 0.005}
"""Nats that a jackknife leaves of the annealed loss's bias: simulated, up to 0.0005 over 8 antithetic
pairs, and up to −0.0043 over 16 independent draws (geometric, k = 0)."""


@dataclass(frozen=True)
class Parameters:
    """Control D. t and everything of its kind has the unit in which the features' part has variance 1."""

    law: Literal["equal", "geometric"] = "equal"
    """c_j all equal, or ∝ 2^{−j/2}; scaled so that Var(Σ b c) = 1."""
    kept: int = 8
    selection: Literal["static", "per-sample"] = "static"
    labels: Literal["model", "reconstruction"] = "model"
    features: int = 12
    probability: float = 0.1
    background: float = 0.05
    """s², variance of g."""
    gain: float = 4.0
    """a, logits per unit of t."""
    offset: float = 0.5
    """τ − pΣc."""


class States(NamedTuple):
    """All 2^m states [states]: probability, reconstruction x̂, and discrete part ρ of the residual."""

    probability: Array
    reconstruction: Array
    left_out: Array


class Kernel(NamedTuple):
    """Law of ε: values [states or 1, nodes] and their probabilities [nodes]."""

    values: Array
    weights: Array


def coefficients(parameters: Parameters) -> Array:
    """c_j [m], not increasing, with Var(Σ b c) = p(1−p)Σc² = 1."""
    exponents = np.arange(parameters.features) / 2
    c = np.ones(parameters.features) if parameters.law == "equal" else 2.0**-exponents
    p = parameters.probability
    return c / np.sqrt(p * (1 - p) * np.sum(c**2))


def enumerate_states(parameters: Parameters) -> States:
    """All states of the m features, and what is kept of each (step 1); ties keep the lower index."""
    m, p = parameters.features, parameters.probability
    active = (np.arange(2**m)[:, None] >> np.arange(m) & 1).astype(bool)
    # c does not increase, so that the k first (of all, or of those active) are the k largest.
    rank = np.arange(1, m + 1) if parameters.selection == "static" else np.cumsum(active, axis=1)
    kept = active & (rank <= parameters.kept)
    c = coefficients(parameters)
    count = active.sum(1)
    return States(p**count * (1 - p) ** (m - count), kept @ c, (active & ~kept) @ c)


def _hermite(size: int) -> tuple[Array, Array]:
    nodes, weights = roots_hermitenorm(size)
    return nodes, weights / weights.sum()


def _grouped(values: Array, probability: Array) -> tuple[Array, Array]:
    """Distinct values and their probability; sums that differ by rounding only are one value."""
    distinct, inverse = np.unique(values.round(12), return_inverse=True)
    return distinct, np.bincount(inverse.ravel(), probability)


def _copies(states: States, background: float) -> Kernel:
    """ρ′ + g′ of another sample."""
    left_out, chances = _grouped(states.left_out, states.probability)
    z, weights = _hermite(24)
    values = left_out[:, None] + np.sqrt(background) * z
    return Kernel(values.reshape(1, -1), np.outer(chances, weights).ravel())


def _normal(mean: Array, variance: float) -> Kernel:
    """N(mean, variance), mean [states or 1]."""
    z, weights = _hermite(128)
    return Kernel(mean[:, None] + np.sqrt(variance) * z, weights)


class _Sample(NamedTuple):
    """Distinct reconstructions [u], their probability, and E[y | x̂], the share of positive labels."""

    reconstruction: Array
    probability: Array
    positive: Array


def _thin(parameters: Parameters, states: States, threshold: float) -> _Sample:
    """Merge states of equal x̂ (step 2): no rung but the clean model sees more of a state."""
    if parameters.labels == "reconstruction":
        positive = expit(parameters.gain * (states.reconstruction - threshold))
    else:
        z, weights = _hermite(64)
        total = states.reconstruction + states.left_out - threshold
        background = np.sqrt(parameters.background) * z
        positive = expit(parameters.gain * (total[:, None] + background)) @ weights
    reconstruction, probability = _grouped(states.reconstruction, states.probability)
    _, joint = _grouped(states.reconstruction, states.probability * positive)
    return _Sample(reconstruction, probability, joint / probability)


def _losses(parameters: Parameters, sample: _Sample, threshold: float, kernel: Kernel) -> tuple[float, float]:
    """Quenched and annealed loss in nats (step 4)."""
    quenched = annealed = 0.0
    means = np.broadcast_to(kernel.values, (len(sample.reconstruction), kernel.values.shape[1]))
    # By blocks: reconstructions times copies do not fit into memory at once.
    size = max(1, 1_000_000 // means.shape[1])
    for start in range(0, len(means), size):
        block = slice(start, start + size)
        logit = parameters.gain * (sample.reconstruction[block, None] - threshold + means[block])
        weight, positive = sample.probability[block], sample.positive[block]
        surprise_negative = np.logaddexp(0, logit)
        no = np.exp(-surprise_negative) @ kernel.weights
        yes = np.exp(logit - surprise_negative) @ kernel.weights
        expected_logit = logit @ kernel.weights
        # −log sigmoid(f) = softplus(f) − f
        quenched += float(weight @ (surprise_negative @ kernel.weights - positive * expected_logit))
        annealed -= float(weight @ (positive * np.log(yes) + (1 - positive) * np.log(no)))
    return quenched, annealed


def _clean(parameters: Parameters, states: States, threshold: float) -> float:
    """Loss of the model in nats, r of the same sample (step 4)."""
    z, weights = _hermite(64)
    total = (states.reconstruction + states.left_out - threshold)[:, None]
    logit = parameters.gain * (total + np.sqrt(parameters.background) * z)
    if parameters.labels == "reconstruction":
        positive = expit(parameters.gain * (states.reconstruction - threshold))[:, None]
    else:
        positive = expit(logit)
    return float(states.probability @ ((np.logaddexp(0, logit) - positive * logit) @ weights))


class _Prepared(NamedTuple):
    states: States
    threshold: float
    sample: _Sample
    mean: float
    variance: float


def _prepare(parameters: Parameters) -> _Prepared:
    states = enumerate_states(parameters)
    threshold = parameters.probability * float(coefficients(parameters).sum()) + parameters.offset
    mean = float(states.probability @ states.left_out)
    variance = float(states.probability @ (states.left_out - mean) ** 2) + parameters.background
    return _Prepared(states, threshold, _thin(parameters, states, threshold), mean, variance)


def expected(parameters: Parameters) -> dict[str, float]:
    """Losses in nats by rung, and for "clean"; annealed losses have " annealed" appended.

    "linear-mean" and "linear" regress r on x̂; with static selection r is independent of x̂, and they equal
    "mean" and "full".
    """
    states, threshold, sample, mean, variance = _prepare(parameters)
    # Regression of r on x̂. Nothing kept: x̂ is constant and there is nothing to regress on.
    centre = float(states.probability @ states.reconstruction)
    spread = float(states.probability @ (states.reconstruction - centre) ** 2)
    crossed = float(states.probability @ ((states.reconstruction - centre) * (states.left_out - mean)))
    slope = crossed / spread if spread > 0 else 0.0
    line = mean + slope * (sample.reconstruction - centre)

    def point(values: Array) -> Kernel:
        return Kernel(values[:, None], np.ones(1))

    kernels = {
        "raw": point(np.zeros(1)),
        "mean": point(np.array([mean])),
        "full": _normal(np.array([mean]), variance),
        "linear-mean": point(line),
        "linear": _normal(line, variance - slope * crossed),
        "permuted": _copies(states, parameters.background),
    }
    values = {"clean": _clean(parameters, states, threshold)}
    for rung, kernel in kernels.items():
        quenched, annealed = _losses(parameters, sample, threshold, kernel)
        values[rung] = quenched
        if kernel.values.shape[1] > 1:
            values[f"{rung} annealed"] = annealed
    return values


def best_amplitude(parameters: Parameters) -> float:
    """α*: amplitude of the Gaussian residual with the least annealed loss, searched in [0.05, 2] (step 6)."""
    _, threshold, sample, mean, variance = _prepare(parameters)

    def annealed(amplitude: float) -> float:
        kernel = _normal(np.array([mean]), amplitude**2 * variance)
        return _losses(parameters, sample, threshold, kernel)[1]

    return float(minimize_scalar(annealed, bounds=(0.05, 2.0), method="bounded", options={"xatol": 1e-5}).x)


def kept_counts(parameters: Parameters) -> tuple[int, ...]:
    """The k of the task's interpretations."""
    if parameters.labels == "reconstruction":
        return (parameters.features,)
    return (1, 2, 3) if parameters.selection == "per-sample" else tuple(range(0, parameters.features + 1, 2))


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity, in nats; the same for every seed.

    Labels drawn from the model: KL to the clean model is the gap. The task's site has m + 1 coordinates, of
    which `linear` could use more than their sum: nothing is claimed of it.
    """
    chosen = Parameters(**parameters)
    found: Claims = {}
    for kept in kept_counts(chosen):
        values = expected(replace(chosen, kept=kept))
        rungs = ("raw", "mean", "full", "permuted")
        own: dict[str, float | tuple[float, float]] = {"clean": values["clean"]}
        own |= {f"{rung} gap": values[rung] - values["clean"] for rung in rungs}
        noisy = ("full", "permuted")
        if chosen.labels == "model":
            own |= {f"{rung} kl": values[rung] - values["clean"] for rung in noisy}
        if kept in ANNEALED:
            own |= {f"{rung} annealed": (values[f"{rung} annealed"], JACKKNIFE[rung]) for rung in noisy}
        found[f"keep-{kept}"] = own
    return found


def coverage(**parameters: Any) -> dict[str, list[str]]:
    """Quantities whose intervals are studied, of the task with these parameters; none, if nothing is said
    of it."""
    of_model = parameters.get("labels", "model") == "model"
    if "law" not in parameters or not of_model or parameters.get("selection", "static") != "static":
        return {}
    return {"keep-8": ["clean", "full kl", "permuted kl"]}


def figure() -> dict[str, Any]:
    """Gaps against the number of features that are kept."""
    panels = []
    for law, title in (("equal", "features of equal size"), ("geometric", "sizes falling as 2^(−j/2)")):
        kept = kept_counts(Parameters(law=law))  # type: ignore[arg-type]
        panels.append(
            {
                "kind": "sweep",
                "title": title,
                "xlabel": "features kept, k of 12",
                "ylabel": "gap (nats)",
                "series": [{"quantity": f"{r} gap", "label": r} for r in ("raw", "mean", "full", "permuted")],
                "points": [
                    {"task": f"controls/impurities-{law}", "interpretation": f"keep-{k}", "x": k}
                    for k in kept
                ],
            }
        )
    return {
        "name": "impurities",
        "title": "Discrete features on a Gaussian background: k are kept, the others coarse-grained",
        "caption": (
            "Points are measured; lines are exact, by enumeration of all states. The more is kept, the more "
            "Gaussian is what is left out: full and permuted agree."
        ),
        "panels": panels,
    }
