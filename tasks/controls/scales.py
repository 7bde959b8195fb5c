"""Scales of a flow from known losses: the criteria of the harness, written apart from it.

Losses are those of `expected` of a control, by how many sources are kept. A criterion holds where all its
margins are below 0 (of `bath`: one of them):

| scale | margins, nats |
|---|---|
| shape | ±(full − permuted) − 5 % of (full − mean) |
| perturbative | ±missing − 10 % of (full − mean) |
| raw | ±(raw − clean) − 5 % of that with nothing kept |
| bath | annealed − mean at α = .6 and 1 |

Between shells margins are taken to be linear in k.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Losses", "margins", "scale"]

Array = NDArray[np.float64]
Losses = Mapping[int, Mapping[str, float]]
"""Losses in nats by their names, by how many sources are kept, ascending."""


def margins(name: str, losses: Losses) -> Array:
    """Margins of a scale's criterion `[shells, sides]`."""
    if name == "bath":
        return np.array([[at["bath 0.6"], at["bath 1"]] for at in losses.values()])
    if name == "raw":
        sizes = np.array([at["raw"] - at["clean"] for at in losses.values()])
        rooms = 0.05 * sizes[0]
    else:
        rooms = np.array([at["full"] - at["mean"] for at in losses.values()])
        rooms = (0.05 if name == "shape" else 0.1) * rooms
        sizes = np.array([at["shape" if name == "shape" else "missing"] for at in losses.values()])
    return np.stack([sizes - rooms, -sizes - rooms], 1)


def scale(name: str, losses: Losses) -> float:
    """The k from which on the criterion holds, of the shells in `losses`.

    Raises:
        ValueError: the largest of them fails.
    """
    keeps, sides = list(losses), margins(name, losses)
    worst = sides.min(1) if name == "bath" else sides.max(1)
    failing = np.flatnonzero(worst > 0)
    if not len(failing):
        return float(keeps[0])
    last = int(failing[-1])
    if last == len(keeps) - 1:
        raise ValueError(f"k {name} is not reached at {keeps[-1]}")
    # The side that fails there is above 0; of several the one that stays there longest.
    above, below = sides[last], sides[last + 1]
    shares = above[above > 0] / (above - below)[above > 0]
    share = shares.min() if name == "bath" else shares.max()
    return float(keeps[last] + share * (keeps[last + 1] - keeps[last]))
