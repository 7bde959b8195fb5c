"""Expected values of the two sites as layers: the second given the first, and what arrives there.

All is affine and Gaussian, as in `expected.py`, with all directions kept (k = 4) and with none (k = 0), where
x̂ = 0 and everything is left out. Steps:

1. Below the second site stand P₁x₁, or P₁x₁ + ε₁ with ε₁ ~ N(Q₁ E x₁, Q₁ Cov x₁ Q₁); x₂' follows. The power
   of its remainder is tr Q₂ Cov(x₂') Q₂, over that of x₂.
2. The map from x₁ to x₂ is W: what arrives of noise has covariance W Q₁ Cov(x₁) Q₁ Wᵀ, as has what arrives
   of the remainder itself; J ε = W ε.
3. Gaps are those of `expected.py`: the second given the first is loss(both) − loss(first), their excess
   loss(both) − loss(first) − loss(second) + clean loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from remainder.build import load_script

__all__ = ["KEPT", "claims"]

expected = load_script(Path(__file__).parent / "expected.py")

Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = (0, 4)
"""Directions that are kept at both sites: none, and all that the subspaces have."""

_FITTED = ("gaussian given at 2", "gaussian excess", "correction")
"""Losses of noise that was fitted to noisy rows; with none kept a hundredth of its power is 0.01 nats."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of both sites as layers, by the task of the second."""
    chosen = expected.Parameters(seed=seed, **parameters)
    if chosen.site != len(expected.SITES):
        return {}
    network = expected.draw(chosen)
    found: dict[str, float | tuple[float, float]] = {}
    for kept in KEPT:
        bases = tuple(basis[:, :0] if kept == 0 else basis for basis in network.bases)
        values = _expected(network._replace(bases=bases))
        found |= {f"{kept}: {name}": value for name, value in values.items() if name not in _FITTED}
        if kept:
            found |= {f"{kept}: {name}": (values[name], expected.FITTED) for name in _FITTED}
    return {"subspace + subspace across layers": found}


def _expected(network: Any) -> dict[str, float]:
    """Values for what the bases of the network keep."""
    (one, two), first = network.projections, expected._first(network)
    rest, second = np.eye(len(two)) - two, expected._second(network, first)
    at_first, alone = expected.noises(network, "single-shot")
    given = expected.noises(network, "sequential")[1]

    def above(noise: Any) -> Any:
        """x₂' over the first site."""
        return expected._second(network, expected._replaced(first, one, noise))

    def power(x: Any) -> float:
        return float(np.trace(rest @ x.covariance @ rest))

    def loss(x: Any, noise: Any = None, *, replaced: bool = True) -> float:
        """With the second site replaced or not."""
        return float(expected._loss(network, expected._replaced(x, two, noise) if replaced else x))

    clean, arrived = loss(second, replaced=False), network.second @ at_first.covariance @ network.second.T
    raw, noisy = above(None), above(at_first)
    raws = loss(raw), loss(raw, replaced=False), loss(second)
    gaussians = loss(noisy, given), loss(noisy, replaced=False), loss(second, alone)
    return {
        "left out at 1": float(np.trace(at_first.covariance) / np.trace(first.covariance)),
        "left out at 2": power(second) / float(np.trace(second.covariance)),
        "power raw at 2": power(raw) / power(second),
        "power gaussian at 2": power(noisy) / power(second),
        "arrives at 2": float(np.trace(arrived)) / power(second),
        "gaussian to linear at 2": 1.0,
        "real to linear at 2": 1.0,
        "raw given at 1": raws[1] - clean,
        "raw given at 2": raws[0] - raws[1],
        "gaussian given at 1": gaussians[1] - clean,
        "gaussian given at 2": gaussians[0] - gaussians[1],
        "raw excess": raws[0] - raws[1] - raws[2] + clean,
        "gaussian excess": gaussians[0] - gaussians[1] - gaussians[2] + clean,
        "correction": gaussians[0] - loss(noisy, alone),
    }
