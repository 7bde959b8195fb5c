"""The Pareto front of loss against complexity.

A point is on the front if no other has both fewer bits and less loss (one of the two may be equal). It is the
front of the point estimates; whether neighbours on it are separable is what the places say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["front", "fronts"]


def fronts(points: Sequence[tuple[str, float, float]]) -> list[list[int]]:
    """The fronts of `points` (unit of the cost, cost, loss), one per unit: edges are not nodes."""
    found = []
    for unit in sorted({unit for unit, _, _ in points}):
        of_unit = [number for number, (own, _, _) in enumerate(points) if own == unit]
        best = front([points[number][1:] for number in of_unit])
        found.append([of_unit[number] for number in best])
    return found


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the `points` (cost, loss) on the front, cheapest first.

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
