"""Figures of the board as SVG inside the page: no script, no font, coloured by the page's own CSS.

A scale is asinh(v / knee): logarithmic where numbers are large, linear around 0, so that an exact 0 and
negative numbers have a place; or linear, where all sizes lie within a factor of twelve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

__all__ = ["Scale", "line", "marker", "svg", "text"]

_ONE_SCALE = 12.0


class Scale:
    """Values to pixels.

    Args:
        values: everything that has to fit; 0 always does.
        start: pixel of the smallest, or of 0.
        stop: pixel of the largest.
        dust: what is no larger is rounding, and shares the place of 0.
    """

    def __init__(self, values: Iterable[float], start: float, stop: float, *, dust: float = 0.0) -> None:
        found = [*values, 0.0]
        self.start, self.stop = start, stop
        low, high = min(found), max(found)
        sizes = sorted(abs(value) for value in found if abs(value) > dust)
        wide = bool(sizes) and sizes[-1] >= _ONE_SCALE * sizes[0]
        # Not much more than six decades: beyond, what differs would lie in a corner.
        self.knee = 10.0 ** math.floor(math.log10(max(sizes[0], sizes[-1] * 1e-6))) if wide else 0.0
        if low == high:
            low, high = low - 0.5, high + 0.5
        room = 0.04 * (self._warp(high) - self._warp(low))
        self._from = self._warp(low) - (room if low < 0 else 0.0)
        self._to = self._warp(high) + room
        self._low, self._high = low, high

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        share = (self._warp(value) - self._from) / (self._to - self._from)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the scale, few enough to be labelled."""
        if not self.knee:
            return self._round()
        top = math.floor(math.log10(max(abs(self._low), abs(self._high)) / self.knee) + 1e-9)
        step = math.ceil((top + 1) / 5)
        powers = [self.knee * 10**power for power in range(top, -1, -step)][::-1]
        found = [*(-power for power in reversed(powers) if -power >= self._low), 0.0]
        return [value for value in [*found, *powers] if self._low <= value <= self._high]

    def _round(self) -> list[float]:
        rough = (self._high - self._low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        first = math.ceil(self._low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self._high / step + 1e-9) + 1)]

    def _warp(self, value: float) -> float:
        return math.asinh(value / self.knee) if self.knee else value


def svg(parts: Sequence[Markup], width: float, height: float, label: str, *, kind: str) -> Markup:
    """The figure: `label` is what a screen reader says, `kind` its CSS class."""
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(kind, _px(width), _px(height), _px(width), _px(height), label, Markup("").join(parts))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of CSS class `kind`."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, _px(x1), _px(y1), _px(x2), _px(y2)
    )


def text(x: float, y: float, said: str, kind: str, anchor: str = "start") -> Markup:
    """A word, its baseline at `y`."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _px(x), _px(y), anchor, said
    )


def marker(x: float, y: float, shape: str, size: float, kind: str, title: str = "") -> Markup:
    """A dot, a diamond or a square, with what is said when it is pointed at."""
    inner = Markup("<title>{}</title>").format(title) if title else ""
    if shape == "dot":
        return Markup('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>').format(
            kind, _px(x), _px(y), _px(size), inner
        )
    reach = size * (1.25 if shape == "diamond" else 0.9)
    corners = (
        [(0, -reach), (reach, 0), (0, reach), (-reach, 0)]
        if shape == "diamond"
        else [(-reach, -reach), (reach, -reach), (reach, reach), (-reach, reach)]
    )
    points = " ".join(f"{_px(x + dx)},{_px(y + dy)}" for dx, dy in corners)
    return Markup('<polygon class="{}" points="{}">{}</polygon>').format(kind, points, inner)


def linked(inner: Markup, href: str) -> Markup:
    """`inner` as a link."""
    return Markup('<a href="{}">{}</a>').format(href, inner)


def _px(value: float) -> str:
    """Pixels with one decimal: the same bytes on every platform."""
    return f"{value:.1f}".removesuffix(".0")
