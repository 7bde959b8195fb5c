"""The Pareto front of loss against complexity.

A point is on the front if no other has both fewer bits and less loss (one of the two may be equal). It is the
front of the point estimates; whether neighbours on it are separable is what the places say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["front"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of `points` (cost, loss) are on the front, cheapest first.

    Of points that are equal in both all are on it or none is.
    """
    order = sorted(range(len(points)), key=lambda number: points[number])
    found: list[int] = []
    least = math.inf
    for number in order:
        loss = points[number][1]
        if loss < least or (found and points[number] == points[found[-1]]):
            found.append(number)
            least = loss
    return found
