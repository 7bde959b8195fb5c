"""Scales on which intervals are made, one for each kind of quantity.

A studentised interval is made for g(R) and carried back: with g of the right kind it cannot leave the range
of the quantity, and resamples are more nearly alike on it.

| scale | quantities | g |
|---|---|---|
| `plain` | signed: gaps, differences, terms of the telescope, efficiency | R |
| `positive` | not below 0: losses, KL, bits, L0, and ratios of these | R^(1/3) |
| `mirrored` | not above 1: 1 − FVU | that of 1 − R |
| `share` | between 0 and 1: accuracy, top-1 | arcsin √R |

Cube root and arcsine are defined at 0, where a logarithm is not, and a resample may well be 0 where few
documents are not. The standard error of a resample is floored at a share of the sample's on the same scale.
How scales and floors were chosen: docs/intervals.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCALES", "Scale", "ScaleName", "wilson_ends"]

_FLOOR, _BOUNDED_FLOOR = 0.1, 0.5

Array = NDArray[np.float64]
ScaleName = Literal["plain", "positive", "mirrored", "share"]


@dataclass(frozen=True)
class Scale:
    """A monotone function g, in the forms in which nothing cancels."""

    moved: Callable[[float, Array], Array]
    """g(R + d) − g(R), of R and `[...]` d."""
    slope: Callable[[Array], Array]
    """g'(R) of `[...]` R."""
    back: Callable[[float, float], float]
    """The value at g(R) + step, of R and the step."""
    floor: float
    """The standard error of a resample on this scale is no less than this share of the sample's."""


def _root_moved(value: float, by: Array) -> Array:
    moved: Array = np.cbrt(value) * np.expm1(np.log1p(np.maximum(by / value, -1.0)) / 3)
    return moved


def _root_slope(values: Array) -> Array:
    slope: Array = np.cbrt(np.maximum(values, 0.0)) ** -2 / 3
    return slope


def _root_back(value: float, step: float) -> float:
    return max(0.0, float(np.cbrt(value)) + step) ** 3


def _angle(shares: Array) -> Array:
    angle: Array = np.arcsin(np.sqrt(np.clip(shares, 0.0, 1.0)))
    return angle


def _angle_moved(value: float, by: Array) -> Array:
    return _angle(value + by) - _angle(np.array([value]))


def _angle_slope(shares: Array) -> Array:
    slope: Array = 0.5 / np.sqrt(shares * (1 - shares))
    return slope


def _angle_back(value: float, step: float) -> float:
    angle = float(_angle(np.array([value]))[0]) + step
    return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


SCALES: Mapping[ScaleName, Scale] = {
    "plain": Scale(lambda _, by: by, np.ones_like, lambda value, step: value + step, _FLOOR),
    "positive": Scale(_root_moved, _root_slope, _root_back, _BOUNDED_FLOOR),
    "mirrored": Scale(
        lambda value, by: -_root_moved(1 - value, -by),
        lambda values: _root_slope(1 - values),
        lambda value, step: 1 - _root_back(1 - value, -step),
        _BOUNDED_FLOOR,
    ),
    "share": Scale(_angle_moved, _angle_slope, _angle_back, _BOUNDED_FLOOR),
}


def wilson_ends(share: float, error: float, quantile: float) -> tuple[float, float]:
    """Wilson's (1927) interval of a share, for as many trials as give it its standard error: p(1 − p)/s².

    Args:
        share: strictly between 0 and 1.
        error: its standard error over documents, so that what tokens of one document share is counted.
        quantile: how many standard errors an interval of the level has to either side.
    """
    trials = share * (1 - share) / error**2
    z2 = quantile**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = quantile / (1 + z2 / trials) * math.sqrt(error**2 + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
