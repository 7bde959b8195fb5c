"""Expected values of control E: a parity, which no rung that ignores how r depends on the label can keep.

Source: CONTROLS, E.

r ∈ {±1}^m uniformly, y = Π_i r_i, x̂ carries none of it (it is 0 at the coordinates that the model reads).
The model answers sign(Π_i x_i) at logit gain · Π_i x_i, so that the clean error is 0.

Steps:
1. Under every rung up to `matched`, ε is independent of y, and y is ±1 with equal chance: the error is 1/2
   whatever the law of ε and however a tie (ε with a zero coordinate, as for `raw`) is broken.
2. Nats: raw and mean have logit 0; clean has logit gain on the right side, `permuted` on a random side;
   Gaussian rungs (covariance I) average softplus(gain·g_1…g_m), an even function, over g ~ N(0, I).
3. Annealed, E_ε p(y) = 1/2 by symmetry: log 2.
4. Joint cumulants of y with fewer than m of the r_i vanish (`joint_cumulant`): the first not to is
   κ(y, r_1, …, r_m) = 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RUNGS", "Parameters", "claims", "expected", "joint_cumulant"]

Claims = dict[str, dict[str, float | tuple[float, float]]]

GAUSSIAN = ("isotropic", "diagonal", "full", "linear", "temporal")
"""Rungs that are N(0, I) at each position here."""

REAL = ("permuted", "permuted-block", "matched")
"""Rungs that draw the residual of another position."""

RUNGS = ("raw", "mean", "linear-mean", *GAUSSIAN, "radial", *REAL)
"""Rungs whose error is expected here: all independent of y."""


@dataclass(frozen=True)
class Parameters:
    """Control E: m signs; the logit is `gain` times their product."""

    signs: int = 3
    gain: float = 4.0


def _partitions(items: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """All partitions of items into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            remaining = tuple(item for item in rest if item not in others)
            for partition in _partitions(remaining):
                yield [(first, *others), *partition]


def joint_cumulant(signs: int, indices: tuple[int, ...]) -> float:
    """κ(y, r_i, r_j, …) of the parity of so many signs, indices from 0, by enumeration (step 4)."""
    states = np.array(list(itertools.product((-1.0, 1.0), repeat=signs)))
    variables = np.column_stack([states.prod(1), states[:, list(indices)]])
    total = 0.0
    for blocks in _partitions(tuple(range(variables.shape[1]))):
        moments = [variables[:, list(block)].prod(1).mean() for block in blocks]
        total += (-1) ** (len(blocks) - 1) * math.factorial(len(blocks) - 1) * math.prod(moments)
    return float(total)


def _gaussian_nats(parameters: Parameters) -> float:
    """E softplus(gain·g_1…g_m) over g ~ N(0, I) (step 2)."""
    # Gauss–Legendre on [0, 9] in every coordinate. The nodes must crowd at 0, where the other coordinates
    # can make the integrand bend within any distance: 100 nodes of Gauss–Hermite leave an error of 4e-4.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes = 4.5 * (nodes + 1)
    weights = 9 * weights * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)  # 9 = 4.5 · 2, for both signs
    product, weight = np.ones(1), np.ones(1)
    for _ in range(parameters.signs):
        product = np.outer(product, nodes).ravel()
        weight = np.outer(weight, weights).ravel()
    size = parameters.gain * product  # softplus without its odd part
    return float(weight @ (size / 2 + np.log1p(np.exp(-size))))


def expected(parameters: Parameters) -> dict[str, float]:
    """Error rates (" error" appended) for "clean" and by rung, and cross-entropies in nats.

    Annealed losses (" annealed" appended) are those in the limit of many draws.
    """
    gain, chance = parameters.gain, math.log(2)
    clean = float(np.logaddexp(0, -gain))
    copied = (clean + float(np.logaddexp(0, gain))) / 2
    gaussian = _gaussian_nats(parameters)
    values = {"clean": clean, "clean error": 0.0, "raw": chance, "mean": chance, "linear-mean": chance}
    values |= {rung: gaussian for rung in GAUSSIAN} | {rung: copied for rung in REAL}
    values |= {f"{rung} annealed": chance for rung in (*GAUSSIAN, *REAL)}
    return values | {f"{rung} error": 0.5 for rung in RUNGS}


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the task, by interpretation and quantity (nats and shares); the same for every seed.

    Annealed losses are left out: a jackknife over a few draws is not the limit of many.
    """
    values = expected(Parameters(**parameters))
    return {"nothing": {name: value for name, value in values.items() if not name.endswith(" annealed")}}
