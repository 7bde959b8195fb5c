"""The couplings of source and noise: x' = m + β(x̂ − m) + μ + α ε, fitted by annealed loss.

1. On calibration, the annealed loss at each point of a grid of (α, β), with common noise. At α = 0 it is the
   loss itself.
2. A surface through the pooled losses: cubic splines along both axes, level at α = 0, since the loss is even
   in α. Its minimum over the box of the grid; along α = 0 that of β₀, the source's best amplitude without
   noise. (Polynomials over all of this range miss α* by up to .09 on control D, where the truth is known,
   and lose up to .0009 nats; splines .04 and .0001.)
3. Where a minimum lies on the edge of the grid, the grid is made longer once. One that lies there still is
   flagged, since it may be farther out; α = 0 is no edge.
4. Intervals: percentiles over resampled documents, each fitted anew.

α* ≈ 1 for a Gaussian background; well off 1 where a discrete source was left in it. With β fitted on both
sides the difference of the two best annealed losses is the worth of the noise, and not of a shrunk source.

Source: protocol 1, section 7; protocol 2, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.errors import MeasurementError
from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.metrics import CouplingPoint, Couplings
from remainder.record.number import Number
from remainder.record.values import annealed_totals, column, document_totals

__all__ = [
    "FULL_GRID",
    "QUICK_GRID",
    "Grid",
    "GridPoint",
    "farther",
    "fit_couplings",
    "grid_of",
    "minimum_in_box",
    "point_of",
    "rung_of",
]

Array = NDArray[np.float64]


class GridPoint(NamedTuple):
    """Amplitudes of noise and of source."""

    alpha: float
    beta: float


_ALPHAS = (0.0, 0.3, 0.6, 1.0, 1.3, 1.6)
FULL_GRID = tuple(GridPoint(alpha, beta) for beta in (0.8, 0.9, 1.0, 1.1, 1.2) for alpha in _ALPHAS)
QUICK_GRID = tuple(GridPoint(alpha, beta) for beta in (0.8, 1.0, 1.2) for alpha in _ALPHAS)

_FARTHER_ALPHAS, _LOWER_BETAS, _HIGHER_BETAS = (2.0, 2.5), (0.5, 0.65), (1.5, 2.0)
_PREFIX = "coupled:"
_STEPS = 161  # along α; half as many along β. Between steps a parabola is exact enough.
_AT_ONCE = 64  # fits, so that what is computed for them stays in the cache of the processor
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


class Grid(NamedTuple):
    """Losses on a grid, summed over the tokens of each document."""

    quenched: dict[GridPoint, Array]
    annealed: dict[GridPoint, Array]
    """Both `[documents]` at each point."""
    clean: Array
    """`[documents]`."""
    tokens: Array
    """Scored tokens, `[documents]`."""
    draws: int


def grid_of(values: pd.DataFrame) -> Grid | None:
    """The grid in a canonical table of values; None if there is none."""
    totals = document_totals(values, "calibration")
    quenched, annealed, draws = {}, {}, 0
    for rung, rows in totals.items():
        point = point_of(rung)
        if point is None:
            continue
        quenched[point] = annealed[point] = column(rows, "loss")
        if point.alpha != 0:
            by_draws = annealed_totals(values, rung, "calibration")
            draws = max(by_draws)
            annealed[point] = column(by_draws[draws], "annealed")
    if not annealed:
        return None
    clean = totals["clean"]
    return Grid(quenched, annealed, column(clean, "loss"), column(clean, "tokens"), draws)


def fit_couplings(grid: Grid, *, seed: int) -> Couplings:
    """The best amplitudes on calibration.

    Args:
        seed: of the resamples.

    Raises:
        MeasurementError: the points are not all pairs of some amplitudes.
    """
    points = sorted(grid.annealed)
    bootstrap = Bootstrap(len(grid.tokens), seed=seed)
    losses = np.stack([grid.annealed[point] for point in points], axis=1)
    pooled = losses.sum(0) / grid.tokens.sum()
    resampled = (bootstrap.weights @ losses) / (bootstrap.weights @ grid.tokens)[:, None]
    moved = [_moved(points, pooled, axis) for axis in (0, 1)]
    still = [point for point in points if point.alpha == 0]
    both, alone = (_Minima.of(where, pooled, resampled, points) for where in (points, still))

    def number(minima: _Minima, axis: int) -> Number:
        if moved[axis] < _UNMOVED:
            return Number.null(f"{('noise', 'source')[axis]} of any amplitude gives the same loss")
        value = float(minima.best[axis])
        if len(grid.tokens) < MINIMUM_DOCUMENTS:
            return Number.bare(value, f"{len(grid.tokens)} documents; an interval needs {MINIMUM_DOCUMENTS}")
        return Number(value=value, low=float(minima.low[axis]), high=float(minima.high[axis]))

    def gap(losses: Array) -> Number:
        return Number.of_ratio(bootstrap, Ratio(losses - grid.clean, grid.tokens))

    return Couplings(
        alpha=number(both, 0),
        beta=number(both, 1),
        beta_alone=number(alone, 1),
        edge=any(
            moved[axis] >= _UNMOVED and bool(minima.edge[axis])
            for minima, axis in ((both, 0), (both, 1), (alone, 1))
        ),
        draws=grid.draws,
        grid=tuple(
            CouplingPoint(
                alpha=point.alpha,
                beta=point.beta,
                quenched=gap(grid.quenched[point]),
                annealed=gap(grid.annealed[point]),
            )
            for point in points
        ),
    )


class _Minima(NamedTuple):
    """The pooled minimum (α, β), whether it lies on an edge, and percentiles over resamples; `[2]` each."""

    best: Array
    edge: NDArray[np.bool_]
    low: Array
    high: Array

    @classmethod
    def of(
        cls, where: Sequence[GridPoint], pooled: Array, resampled: Array, points: Sequence[GridPoint]
    ) -> _Minima:
        """Minima over some of the points that `pooled` [points] and `resampled` [fits, points] are of."""
        places = [points.index(point) for point in where]
        (best,), (edge,) = minimum_in_box(where, pooled[None, places])
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(minimum_in_box(where, resampled[:, places])[0], [tail, 1 - tail], axis=0)
        return cls(best, edge, low, high)


def farther(found: Couplings) -> tuple[GridPoint, ...]:
    """Points that make the grid longer where a minimum lies on its edge; none where none does."""
    alphas, betas = ({getattr(point, axis) for point in found.grid} for axis in ("alpha", "beta"))
    more_alphas = alphas | set(_FARTHER_ALPHAS if found.alpha.value == max(alphas) else ())
    more_betas = set(betas)
    for beta in (found.beta.value, found.beta_alone and found.beta_alone.value):
        if beta == min(betas):
            more_betas.update(_LOWER_BETAS)
        if beta == max(betas):
            more_betas.update(_HIGHER_BETAS)
    every = (GridPoint(alpha, beta) for beta in sorted(more_betas) for alpha in sorted(more_alphas))
    there = {(point.alpha, point.beta) for point in found.grid}
    return tuple(point for point in every if point not in there)


def minimum_in_box(points: Sequence[GridPoint], losses: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Minima [fits, 2] of surfaces through `losses` [fits, points], inside the box of the points.

    Also whether each coordinate lies on an edge of the box, [fits, 2], α = 0 being none. Where β changes
    nothing it is left at 1.

    Raises:
        MeasurementError: the points are not all pairs of some amplitudes.
    """
    axes = [np.array(sorted({point[axis] for point in points})) for axis in (0, 1)]
    if not points or len(points) != len(axes[0]) * len(axes[1]):
        raise MeasurementError(
            f"{len(points)} points are no grid of {len(axes[0])} amplitudes of noise and {len(axes[1])} of "
            "source",
            fix="measure the couplings again",
        )
    order = [points.index(GridPoint(alpha, beta)) for alpha in axes[0] for beta in axes[1]]
    on_grid = losses[:, order].reshape(len(losses), len(axes[0]), len(axes[1]))
    steps = (_STEPS, _STEPS // 2 + 1)
    fine = [
        np.linspace(axis[0], axis[-1], count if len(axis) > 1 else 1)
        for axis, count in zip(axes, steps, strict=True)
    ]
    along = [_spline(axis, at) for axis, at in zip(axes, fine, strict=True)]
    parts = (slice(start, start + _AT_ONCE) for start in range(0, len(losses), _AT_ONCE))
    found = np.concatenate([_lowest(along[0] @ on_grid[part] @ along[1].T, fine) for part in parts])
    low, high = (np.array([axis[end] for axis in axes]) for end in (0, -1))
    return found, ((found <= low) & (low != 0) & (low != high)) | ((found >= high) & (low != high))


def _spline(knots: Array, at: Array) -> Array:
    """Values at `at` of the cubic splines that are 1 at one knot and 0 at the others, [at, knots].

    From 0 on they start level; of less than three knots they are lines.
    """
    from scipy.interpolate import CubicSpline  # slow to load, and few records need it

    if len(knots) == 1:
        return np.ones((len(at), 1))
    start = "clamped" if knots[0] == 0 else "not-a-knot"
    values: Array = CubicSpline(knots, np.eye(len(knots)), bc_type=(start, "not-a-knot"))(at)
    return values


def _lowest(surfaces: Array, fine: Sequence[Array]) -> Array:
    """The minima [fits, 2] of surfaces [fits, α, β], between steps by a parabola along each axis."""
    fits = np.arange(len(surfaces))
    level = surfaces.min((1, 2))
    near_one = np.argsort(np.abs(fine[1] - 1), kind="stable")
    lowest = surfaces.min(1)[:, near_one] <= (level + _FLAT * np.abs(level))[:, None]
    beta = near_one[lowest.argmax(1)]
    alpha = surfaces[fits, :, beta].argmin(1)
    return np.stack(
        [
            _between(fine[0], surfaces[fits, :, beta], alpha),
            _between(fine[1], surfaces[fits, alpha], beta),
        ],
        axis=1,
    )


def _between(fine: Array, curves: Array, place: NDArray[np.int64]) -> Array:
    """The vertex of the parabola through the lowest step of each curve and its neighbours, [fits]."""
    if len(fine) == 1:
        return np.full(len(curves), fine[0])
    inner = np.clip(place, 1, len(fine) - 2)
    fits = np.arange(len(curves))
    before, here, after = (curves[fits, inner + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where((bend > 0) & (inner == place), (before - after) / (2 * bend), 0.0)
    found: Array = fine[place] + np.clip(shift, -0.5, 0.5) * (fine[1] - fine[0])
    return found


def _moved(points: Sequence[GridPoint], losses: Array, axis: int) -> float:
    """The range of the loss along α at β = 1, or along β at α = 1; nats per token."""
    along = [loss for point, loss in zip(points, losses, strict=True) if point[1 - axis] == 1]
    return float(max(along) - min(along))
