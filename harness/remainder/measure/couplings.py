"""How strongly source and noise are felt: x' = m + β(x̂ − m) + μ + α ε, fitted by annealed loss.

1. On calibration, the annealed loss at each point of a grid of (α, β), with common noise.
2. A quadratic in (α, β) through the pooled losses by least squares; its minimum inside the box of the grid.
   One on the edge is flagged, since it may be farther out.
3. Intervals: percentiles over resampled documents, each fitted anew.

α* ≈ 1 for a Gaussian background; well off 1 where a discrete source was left in it.

Source: protocol 1, section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.measure.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.schema import CouplingPoint, Couplings, Number

__all__ = [
    "FULL_GRID",
    "QUICK_GRID",
    "Point",
    "fit_couplings",
    "minimum_in_box",
    "point_of",
    "rung_of",
]

Array = NDArray[np.float64]


class Point(NamedTuple):
    """Amplitudes of noise and of source."""

    alpha: float
    beta: float


_ALPHAS, _BETAS = (0.25, 0.5, 0.75, 1.0, 1.25), (0.9, 1.0, 1.1)
FULL_GRID = tuple(Point(alpha, beta) for beta in _BETAS for alpha in _ALPHAS)
QUICK_GRID = (
    *(Point(alpha, 1.0) for alpha in _ALPHAS),
    Point(1.0, 0.9),
    Point(1.0, 1.1),
    Point(0.5, 1.1),  # what tells a tilted valley from a straight one
)

_PREFIX = "coupled:"
_OUTSIDE = 9.0  # a coordinate outside the box from −1 to 1


def rung_of(point: Point) -> str:
    """What the rows of a point are called in the table of values."""
    return f"{_PREFIX}{point.alpha:g}:{point.beta:g}"


def point_of(rung: str) -> Point | None:
    """The point that rows belong to; None for any other rung."""
    if not rung.startswith(_PREFIX):
        return None
    alpha, beta = rung.removeprefix(_PREFIX).split(":")
    return Point(float(alpha), float(beta))


def fit_couplings(
    quenched: Mapping[Point, Array],
    annealed: Mapping[Point, Array],
    clean: Array,
    tokens: Array,
    *,
    draws: int,
    seed: int,
) -> Couplings:
    """The best amplitudes, from sums over the tokens of each calibration document.

    Args:
        quenched, annealed: losses of each document at each point, `[documents]`.
        clean: losses of each document, `[documents]`.
        tokens: scored tokens of each document, `[documents]`.
        draws: at each point.
        seed: of the resamples.
    """
    points = sorted(annealed)
    bootstrap = Bootstrap(len(tokens), seed=seed)
    losses = np.stack([annealed[point] for point in points], axis=1)
    best, edge = minimum_in_box(points, losses.sum(0, keepdims=True) / tokens.sum())
    resampled, _ = minimum_in_box(
        points, (bootstrap.weights @ losses) / (bootstrap.weights @ tokens)[:, None]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)

    def number(axis: int) -> Number:
        value = float(best[0, axis])
        if len(tokens) < MINIMUM_DOCUMENTS:
            return Number.bare(value, f"{len(tokens)} documents; an interval needs {MINIMUM_DOCUMENTS}")
        return Number(value=value, low=float(low[axis]), high=float(high[axis]))

    def gap(losses: Array) -> Number:
        return Number.of(bootstrap.estimate(Ratio(losses - clean, tokens)))

    return Couplings(
        alpha=number(0),
        beta=number(1),
        edge=bool(edge[0]),
        draws=draws,
        grid=tuple(
            CouplingPoint(
                alpha=point.alpha,
                beta=point.beta,
                quenched=gap(quenched[point]),
                annealed=gap(annealed[point]),
            )
            for point in points
        ),
    )


def minimum_in_box(points: Sequence[Point], losses: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Minima [fits, 2] of quadratics through `losses` [fits, points] inside the box of the points.

    Also whether each lies on the edge of the box.
    """
    grid = np.array(points, dtype=np.float64)
    low, high = grid.min(0), grid.max(0)
    # In coordinates from −1 to 1 over the box.
    u, v = ((grid - low) / (high - low) * 2 - 1).T
    design = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    c = losses @ np.linalg.pinv(design).T
    candidates = [_stationary(c)]
    for fixed in (-1.0, 1.0):
        along_v = _vertex(c[:, 2] + c[:, 4] * fixed, c[:, 5])
        along_u = _vertex(c[:, 1] + c[:, 4] * fixed, c[:, 3])
        edge = np.full(len(c), fixed)
        candidates += [np.stack([edge, along_v], 1), np.stack([along_u, edge], 1)]
        candidates += [np.stack([edge, np.full(len(c), other)], 1) for other in (-1.0, 1.0)]
    stacked = np.stack(candidates)  # [candidates, fits, 2]
    x, y = stacked[..., 0], stacked[..., 1]
    values = c[:, 0] + c[:, 1] * x + c[:, 2] * y + c[:, 3] * x * x + c[:, 4] * x * y + c[:, 5] * y * y
    inside = (np.abs(stacked) <= 1).all(-1)
    values = np.where(inside, values, np.inf)
    chosen = values.argmin(0)
    best = stacked[chosen, np.arange(len(c))]
    edge_hit = (np.abs(best) >= 1 - 1e-9).any(-1)
    return low + (best + 1) / 2 * (high - low), edge_hit


def _stationary(c: Array) -> Array:
    """Where both derivatives vanish, [fits, 2]; far outside the box if that is nowhere."""
    determinant = 4 * c[:, 3] * c[:, 5] - c[:, 4] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (c[:, 4] * c[:, 2] - 2 * c[:, 5] * c[:, 1]) / determinant
        y = (c[:, 4] * c[:, 1] - 2 * c[:, 3] * c[:, 2]) / determinant
    found = np.stack([x, y], 1)
    return np.where(np.isfinite(found), found, _OUTSIDE)


def _vertex(slope: Array, curvature: Array) -> Array:
    """Minimum of slope·t + curvature·t²; outside the box where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -slope / (2 * curvature)
    return np.where((curvature > 0) & np.isfinite(t), t, _OUTSIDE)
