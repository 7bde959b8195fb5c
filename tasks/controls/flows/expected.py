"""Expected values of isotropic Gaussian activations: no order of keeping shows a scale of its own.

Source: CONTROLS, H, in closed form; PROTOCOL-2, 1.

x ~ N(0, V/K · I) in K dimensions. The model reads t = Σ x_j and says P(y = 1) = sigmoid(a t); labels are
drawn from it. Of any k coordinates kept the sum is X ~ N(0, kV/K), and what is left out is N(0, v),
v = (1 − k/K)V, independent of it: one law for every order that is the same at all tokens.

Steps, with G(w) = E softplus(a N(0, w)) and c = a² E σ'(a t):
1. By Stein E[y a X] = c kV/K. Loss with noise of variance w around X: G(kV/K + w) − c kV/K; clean:
   G(V) − c V.
2. `raw` and `mean` have w = 0, `full` and `permuted` w = v: their gap is c v, a straight line in k. Shape is
   0 at every k: the bath is Gaussian whatever is kept.
3. Orders: two values of Γ(α), the loss at w = α²v, give two coefficients.

`k perturbative` is where a²v is small enough for one loop, 0 for a weak background: it
tells the amplitude of the bath, whatever is kept. `k raw` is one of the last shells, where a twentieth of
the gap is left. All are the same in every order, so none is a property of the sources.

`untrained` has random directions, of which the largest `ACTIVE` codes are kept: its rebuilt activation is no
nearer to x as more of them are kept, and raw stays above a twentieth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from remainder.build import load_script

__all__ = ["ACTIVE", "Parameters", "claims", "expected"]

scales = load_script(Path(__file__).parent.parent / "scales.py")

Array = NDArray[np.float64]
Claims = dict[str, dict[str, float | tuple[float, float]]]

AMPLITUDES = (0.3, 0.6)
ACTIVE = 8


@dataclass(frozen=True)
class Parameters:
    """Dimensions, variance of t and gain."""

    dimensions: int = 16
    """K."""
    variance: float = 1.0
    """V."""
    gain: float = 4.0
    """a."""


def _normal(variance: float) -> tuple[Array, Array]:
    z = np.linspace(-8.5, 8.5, 341)
    weights = np.exp(-(z**2) / 2)
    return np.sqrt(variance) * z, weights / weights.sum()


def expected(parameters: Parameters, kept: int) -> dict[str, float]:
    """Losses in nats with k coordinates kept, by rung, and for "clean"; "shape" and "missing" of them."""
    a, whole = parameters.gain, parameters.variance
    t, weights = _normal(whole)
    p = expit(a * t)
    slope = a**2 * float(weights @ (p * (1 - p)))
    inside = whole * kept / parameters.dimensions
    v = whole - inside

    def loss(noise: float) -> float:
        values, chances = _normal(inside + noise)
        return float(chances @ np.logaddexp(0, a * values)) - slope * inside

    zero, sampled = loss(0.0), loss(v)
    squares = np.array(AMPLITUDES) ** 2
    a2, _ = np.linalg.solve(np.column_stack([squares, squares**2]), [loss(s * v) - zero for s in squares])
    clean = float(weights @ np.logaddexp(0, a * t)) - slope * whole
    return {
        "clean": clean,
        **dict.fromkeys(("raw", "mean"), zero),
        **dict.fromkeys(("full", "permuted"), sampled),
        "shape": 0.0,
        "missing": sampled - zero - float(a2),
    }


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the flows, in nats; the same for every seed."""
    chosen = Parameters(**parameters)
    last = chosen.dimensions
    losses = {kept: expected(chosen, kept) for kept in (0, last // 2, 3 * last // 4, last - 1, last)}
    own: dict[str, float | tuple[float, float]] = {f"{last}: raw gap": 0.0}
    for kept in list(losses)[:-1]:
        at = losses[kept]
        own |= {f"{kept}: {rung} gap": at[rung] - at["clean"] for rung in ("raw", "full")}
        own[f"{kept}: missing"] = at["missing"]
    own |= {f"k {name}": scales.scale(name, losses) for name in ("perturbative", "raw")}
    if chosen.gain**2 * chosen.variance < 1:  # a weak background: one order and no rung of real rows will do
        return {"identity by index": own}
    shapes = {f"{kept}: shape": losses[kept]["shape"] for kept in list(losses)[:-1]}
    at_random = {name: own[name] for name in own if name.endswith("gap") or name == "k raw"}
    untrained: dict[str, float | tuple[float, float]] = {
        f"{kept}: margin raw at least": 0.0 for kept in (0, ACTIVE)
    }
    return {
        "identity by index": own | shapes,
        "identity by random": at_random,
        "untrained by dynamic": untrained,
    }
