"""Scales on which intervals are made, one for each kind of quantity.

A studentised interval is made for g(R) and carried back: with g of the right kind it cannot leave the range
of the quantity, and resamples are more nearly alike on it.

| scale | quantities | g |
|---|---|---|
| `plain` | signed: gaps, differences, terms of the telescope, efficiency | R |
| `positive` | not below 0: losses of classes, KL, bits, L0, ratios of these | R^(1/3) |

The cube root is defined at 0, where a logarithm is not, and a resample may well be 0 where few documents are
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCALES", "Scale", "ScaleName"]

Array = NDArray[np.float64]
ScaleName = Literal["plain", "positive"]


@dataclass(frozen=True)
class Scale:
    """A monotone function g, in the forms in which nothing cancels."""

    moved: Callable[[float, Array], Array]
    """g(R + d) − g(R), of R and `[...]` d."""
    slope: Callable[[Array], Array]
    """g'(R) of `[...]` R."""
    back: Callable[[float, float], float]
    """The value at g(R) + step, of R and the step."""
    floor: float = 0.0
    """The standard error of a resample on this scale is no less than this share of the sample's."""


def _root_moved(value: float, by: Array) -> Array:
    moved: Array = np.cbrt(value) * np.expm1(np.log1p(np.maximum(by / value, -1.0)) / 3)
    return moved


def _root_slope(values: Array) -> Array:
    slope: Array = np.cbrt(np.maximum(values, 0.0)) ** -2 / 3
    return slope


def _root_back(value: float, step: float) -> float:
    return max(0.0, float(np.cbrt(value)) + step) ** 3


SCALES: Mapping[ScaleName, Scale] = {
    "plain": Scale(lambda _, by: by, np.ones_like, lambda value, step: value + step),
    "positive": Scale(_root_moved, _root_slope, _root_back, floor=0.1),
}
