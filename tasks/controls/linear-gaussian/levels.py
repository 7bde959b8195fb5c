"""Expected values of levels of control H: the first k coordinates, each in the next.

All is linear in x, so that the finer level takes the place of x: with diagonal projections C and F of the
coarser and the finer level, δ = (F − C)x, the clean output is aᵀFx, and the rungs put Cx and the mean or a
Gaussian of δ there. Output and losses are those of `expected.py`, by the joint Gaussian of f and g.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from remainder.build import load_script

__all__ = ["KEPT", "claims"]

expected = load_script(Path(__file__).parent / "expected.py")

Claims = dict[str, dict[str, float | tuple[float, float]]]

KEPT = (3, 7)
"""Coordinates that levels keep; the last stands in the model."""


def claims(seed: int, **parameters: Any) -> Claims:
    """Expected values of the levels, in nats."""
    network = expected.draw(expected.Parameters(seed=seed, **parameters))
    width = len(network.mean)
    found: dict[str, float | tuple[float, float]] = {}
    for coarse, fine in zip(KEPT, (*KEPT[1:], width), strict=True):
        values = _level(network, _first(coarse, width), _first(fine, width))
        found |= {f"{coarse}: clean": values["clean"]}
        found |= {f"{coarse}: {rung} gap": values[rung] - values["clean"] for rung in _RUNGS}
        found |= {f"{coarse}: shape": 0.0}
    return {"identity by index in levels": found}


_RUNGS = ("raw", "mean", "full", "permuted")


def _first(kept: int, width: int) -> Any:
    """The projection on the first coordinates."""
    return np.diag((np.arange(width) < kept).astype(float))


def _level(network: Any, coarse: Any, fine: Any) -> dict[str, float]:
    m, s, _, a, b = network
    added = fine - coarse
    noise = float(a @ added @ s @ added @ a)

    def loss(read: Any, mean: Any, noise: float = 0.0) -> float:
        numbers = (a @ mean, read @ s @ read, noise, read @ s @ b, b @ m, b @ s @ b)
        return float(expected.cross_entropy(expected.Output(*map(float, numbers))))

    return {
        "clean": loss(fine @ a, fine @ m),
        "raw": loss(coarse @ a, coarse @ m),
        "mean": loss(coarse @ a, fine @ m),
        "full": loss(coarse @ a, fine @ m, noise),
        "permuted": loss(coarse @ a, fine @ m, noise),
    }
