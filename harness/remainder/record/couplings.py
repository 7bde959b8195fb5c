"""The couplings of source and noise: x' = m + β(x̂ − m) + μ + α ε, fitted by annealed loss.

1. On calibration, the annealed loss at each point of a grid of (α, β), with common noise.
2. A polynomial through the pooled losses by least squares, of fourth degree in α and second in β; its
   minimum inside the box of the grid. One on the edge is flagged, since it may be farther out. (A quadratic
   in both is too stiff: on control D, where the truth can be computed, it puts α* at .76 to .95 where .66 and
   .86 are right, and on the edge where 1.05 is.)
3. Intervals: percentiles over resampled documents, each fitted anew.

α* ≈ 1 for a Gaussian background; well off 1 where a discrete source was left in it.

Source: protocol 1, section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.metrics import CouplingPoint, Couplings
from remainder.record.number import Number

__all__ = [
    "FULL_GRID",
    "QUICK_GRID",
    "GridPoint",
    "fit_couplings",
    "minimum_in_box",
    "point_of",
    "rung_of",
]

Array = NDArray[np.float64]


class GridPoint(NamedTuple):
    """Amplitudes of noise and of source."""

    alpha: float
    beta: float


_ALPHAS, _BETAS = (0.25, 0.5, 0.75, 1.0, 1.25), (0.9, 1.0, 1.1)
FULL_GRID = tuple(GridPoint(alpha, beta) for beta in _BETAS for alpha in _ALPHAS)
QUICK_GRID = (
    *(GridPoint(alpha, 1.0) for alpha in _ALPHAS),
    GridPoint(1.0, 0.9),
    GridPoint(1.0, 1.1),
    GridPoint(0.5, 1.1),  # what tells a tilted valley from a straight one
)

_PREFIX = "coupled:"
_STEPS = 1001
_AT_ONCE = 64
_UNMOVED = 1e-6  # nats per token below which an amplitude moves nothing
_FLAT = 1e-12  # share of the loss below which a difference is rounding


def rung_of(point: GridPoint) -> str:
    """The name of a point's rows in the table of values."""
    return f"{_PREFIX}{point.alpha:g}:{point.beta:g}"


def point_of(rung: str) -> GridPoint | None:
    """The point that rows belong to; None for any other rung."""
    if not rung.startswith(_PREFIX):
        return None
    alpha, beta = rung.removeprefix(_PREFIX).split(":")
    return GridPoint(float(alpha), float(beta))


def fit_couplings(
    quenched: Mapping[GridPoint, Array],
    annealed: Mapping[GridPoint, Array],
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
    pooled = losses.sum(0) / tokens.sum()
    best, edge = minimum_in_box(points, pooled[None])
    moved = {axis: _moved(points, pooled, axis) for axis in (0, 1)}
    resampled, _ = minimum_in_box(
        points, (bootstrap.weights @ losses) / (bootstrap.weights @ tokens)[:, None]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)

    def number(axis: int) -> Number:
        if moved[axis] < _UNMOVED:
            return Number.null(f"{('noise', 'source')[axis]} of any amplitude gives the same loss")
        value = float(best[0, axis])
        if len(tokens) < MINIMUM_DOCUMENTS:
            return Number.bare(value, f"{len(tokens)} documents; an interval needs {MINIMUM_DOCUMENTS}")
        return Number(value=value, low=float(low[axis]), high=float(high[axis]))

    def gap(losses: Array) -> Number:
        return Number.of_ratio(bootstrap, Ratio(losses - clean, tokens))

    return Couplings(
        alpha=number(0),
        beta=number(1),
        edge=bool(edge[0, [moved[axis] >= _UNMOVED for axis in (0, 1)]].any()),
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


def minimum_in_box(points: Sequence[GridPoint], losses: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Minima [fits, 2] of polynomials through `losses` [fits, points], inside the box of the points.

    Also whether each coordinate lies on the edge of the box, [fits, 2]. Where β changes nothing it is left
    at 1.
    """
    grid = np.array(points, dtype=np.float64)
    low, high = grid.min(0), grid.max(0)
    middle, half = (low + high) / 2, (high - low) / 2
    u, v = ((grid - middle) / half).T
    c = losses @ np.linalg.pinv(_powers(u, v)).T  # [fits, terms]
    alpha = np.linspace(-1, 1, _STEPS)
    along = c[:, :5] @ np.stack([alpha**power for power in range(5)])
    one = float((1 - middle[1]) / half[1])
    # A few fits at a time, so that what is computed for them stays in the cache of the processor.
    parts = (slice(start, start + _AT_ONCE) for start in range(0, len(c), _AT_ONCE))
    found = np.concatenate([_lowest(c[part], along[part], alpha, one) for part in parts])
    return middle + half * found, np.abs(found) >= 1


def _lowest(c: Array, along: Array, alpha: Array, one: float) -> Array:
    """The minima of polynomials, [fits, 2], in the coordinates of a box from −1 to 1.

    For each α on a fine grid the best β is that of a parabola: its vertex, an end, or 1 if all are equal.

    Args:
        c: coefficients, [fits, terms].
        along: what their terms in α alone add up to, [fits, steps].
        one: the coordinate of β = 1.
    """
    slope = c[:, 5, None] + c[:, 6, None] * alpha
    curvature = np.broadcast_to(c[:, 7, None], slope.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(curvature > 0, np.clip(-slope / (2 * curvature), -1, 1), 0.0)
    choices = np.stack([np.full_like(slope, one), vertex, np.full_like(slope, -1), np.full_like(slope, 1)])
    tilt = slope * choices + curvature * choices**2
    chosen = np.where(tilt[1:].min(0) < tilt[0] - _FLAT * np.abs(c[:, :1]), tilt[1:].argmin(0) + 1, 0)
    beta = np.take_along_axis(choices, chosen[None], 0)[0]
    best = (along + np.take_along_axis(tilt, chosen[None], 0)[0]).argmin(1)
    return np.stack([alpha[best], beta[np.arange(len(c)), best]], 1)


def _moved(points: Sequence[GridPoint], losses: Array, axis: int) -> float:
    """The range of the loss along α at β = 1, or along β at α = 1; nats per token."""
    along = [loss for point, loss in zip(points, losses, strict=True) if point[1 - axis] == 1]
    return float(max(along) - min(along))


def _powers(u: Array, v: Array) -> Array:
    """Terms of the polynomial, [points, 8]: up to the fourth power of α, and β, αβ, β²."""
    return np.stack([u**0, u, u**2, u**3, u**4, v, u * v, v * v], axis=1)
