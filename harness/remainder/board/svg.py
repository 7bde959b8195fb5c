"""Figures of the board as SVG inside the page: no script, no font, coloured by the page's own CSS.

A scale is asinh(v / knee): logarithmic where numbers are large, linear around 0, so that an exact 0 and
negative numbers have a place; or linear, where all sizes lie within a factor of twelve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

__all__ = [
    "Frame",
    "LogScale",
    "Scale",
    "fitting",
    "grid",
    "line",
    "linked",
    "marker",
    "path",
    "svg",
    "text",
    "vertical",
    "whisker",
]

_ONE_SCALE = 12.0
_LETTER = 6.4  # pixels of a letter of a tick, about


class Frame(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: Frame) -> bool:
        """Whether both have a point in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Scale:
    """Values to pixels.

    Args:
        values: everything that has to fit; 0 always does.
        start: pixel of the smallest, or of 0.
        stop: pixel of the largest.
        dust: what is no larger is rounding, and shares the place of 0.
        knee: up to which it is linear; 0: everywhere; default: by the values.
    """

    def __init__(
        self,
        values: Iterable[float],
        start: float,
        stop: float,
        *,
        dust: float = 0.0,
        knee: float | None = None,
    ) -> None:
        found = [*values, 0.0]
        self.start, self.stop = start, stop
        low, high = min(found), max(found)
        sizes = sorted(abs(value) for value in found if abs(value) > dust)
        wide = bool(sizes) and sizes[-1] >= _ONE_SCALE * sizes[0]
        # Not much more than six decades: beyond, what differs would lie in a corner.
        self.knee = 10.0 ** math.floor(math.log10(max(sizes[0], sizes[-1] * 1e-6))) if wide else 0.0
        if knee is not None:
            self.knee = knee
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


class LogScale(Scale):
    """Values above 0 to pixels, without room for 0, so that what lies close together is seen apart.

    Args:
        values: everything that has to fit, all above 0 and not all equal.
        start: pixel of the smallest.
        stop: pixel of the largest.
    """

    def __init__(self, values: Iterable[float], start: float, stop: float) -> None:
        found = [*values]
        self.start, self.stop, self.knee = start, stop, 0.0
        self._low, self._high = min(found), max(found)
        room = 0.05 * (self._warp(self._high) - self._warp(self._low))
        self._from, self._to = self._warp(self._low) - room, self._warp(self._high) + room

    def ticks(self) -> list[float]:
        """Powers of ten within the scale, with 2 and 5 times each where it spans less than two decades."""
        parts = (1, 2, 5) if self._high < 100 * self._low else (1,)
        low, high = math.floor(math.log10(self._low)), math.floor(math.log10(self._high))
        found = [part * 10.0**power for power in range(low, high + 1) for part in parts]
        return [value for value in found if self._low <= value <= self._high]

    def _warp(self, value: float) -> float:
        return math.log(value)


def fitting(values: Sequence[float], start: float, stop: float, *, dust: float) -> Scale:
    """A logarithmic scale if all values are above `dust` and differ by a factor of 2, else one with 0."""
    if values and min(values) > dust and max(values) > 2 * min(values):
        return LogScale(values, start, stop)
    return Scale(values, start, stop, dust=dust)


def svg(
    parts: Sequence[Markup],
    width: float,
    height: float,
    label: str,
    *,
    kind: str,
    ident: str = "",
    description: str = "",
    holds_links: bool = False,
) -> Markup:
    """The figure.

    Args:
        label: what a screen reader says.
        kind: CSS class.
        ident: unique on the page; needed for a description.
        description: what a screen reader tells on demand.
        holds_links: whether parts of it can be reached by keyboard; else it is one image.
    """
    head = Markup('aria-label="{}"').format(label)
    if description:
        head = Markup('aria-labelledby="{0}-title" aria-describedby="{0}-desc"').format(ident)
        about = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>')
        parts = [about.format(ident, label, description), *parts]
    role = "group" if holds_links else "img"
    return Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="{}" {}>{}</svg>').format(
        kind, _px(width), _px(height), _px(width), _px(height), role, head, Markup("").join(parts)
    )


def grid(xs: Scale, ys: Scale, frame: Frame, *, percent: bool = False) -> Markup:
    """Lines at round numbers of both scales, with the numbers; `percent`: those of `xs` are shares."""
    parts = [vertical(xs, frame, percent=percent)]
    for value in ys.ticks():
        kind = "grid" if value else "grid zero"
        parts.append(line(frame.left, ys(value), frame.right, ys(value), kind))
        parts.append(text(frame.left - 7, ys(value) + 4, _tick(value), "tick", "end"))
    return Markup("").join(parts)


def vertical(scale: Scale, frame: Frame, *, percent: bool = False) -> Markup:
    """Lines at round numbers of the scale that goes from left to right."""
    parts, taken = [], -math.inf
    for value in scale.ticks():
        kind = "grid" if value else "grid zero"
        said, at = f"{_tick(100 * value)} %" if percent else _tick(value), scale(value)
        parts.append(line(at, frame.top, at, frame.bottom, kind))
        half = _LETTER * len(said) / 2
        if at - half > taken:  # what is next to 0 on a logarithmic scale may have no room
            parts.append(text(at, frame.bottom + 18, said, "tick", "middle"))
            taken = at + half + 4
    return Markup("").join(parts)


def _tick(value: float) -> str:
    shown = f"{value:.0e}" if 0 < abs(value) < 1e-4 else f"{value:,.10g}"
    return shown.replace("-", "−")


def path(spots: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through pixels."""
    moves = "L".join(f"{_px(x)} {_px(y)}" for x, y in spots)
    return Markup('<path class="{}" d="M{}"/>').format(kind, moves)


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


_CORNERS = {
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "up": ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
    "down": ((0, 1.2), (1.15, -0.85), (-1.15, -0.85)),
    "cross": (
        *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
        *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ),
    "star": ((0, -1.5), (0.4, -0.4), (1.5, 0), (0.4, 0.4), (0, 1.5), (-0.4, 0.4), (-1.5, 0), (-0.4, -0.4)),
    "left": ((-1.2, 0), (0.85, 1.15), (0.85, -1.15)),
    "right": ((1.2, 0), (-0.85, 1.15), (-0.85, -1.15)),
    "bar": ((-0.5, -1.4), (0.5, -1.4), (0.5, 1.4), (-0.5, 1.4)),
}
"""Markers by their corners, in units of their size."""


def marker(x: float, y: float, shape: str, size: float, kind: str, title: str = "") -> Markup:
    """A dot, or a shape of `_CORNERS`, with what is said when it is pointed at."""
    inner = Markup("<title>{}</title>").format(title) if title else ""
    if shape == "dot":
        return Markup('<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>').format(
            kind, _px(x), _px(y), _px(size), inner
        )
    points = " ".join(f"{_px(x + size * dx)},{_px(y + size * dy)}" for dx, dy in _CORNERS[shape])
    return Markup('<polygon class="{}" points="{}">{}</polygon>').format(kind, points, inner)


def whisker(ends: tuple[float, float], at: float, frame: Frame, kind: str, *, upright: bool) -> Markup:
    """An interval between two pixels, with an arrow at the frame where it goes beyond it.

    Args:
        ends: along the interval, in any order.
        at: across it.
        kind: CSS class.
        upright: whether it goes up, else it goes to the right.
    """
    low, high = (frame.top, frame.bottom) if upright else (frame.left, frame.right)
    start, stop = max(min(ends), low), min(max(ends), high)
    arrows = [
        (edge + inward, shape)
        for edge, end, inward, shape in (
            (low, min(ends), 2.0, "up" if upright else "left"),
            (high, max(ends), -2.0, "down" if upright else "right"),
        )
        if abs(end - edge) > 0.5 and (end < edge) == (inward > 0)
    ]
    drawn = (
        line(at, start, at, stop, f"whisker {kind}")
        if upright
        else line(start, at, stop, at, f"whisker {kind}")
    )
    return Markup("").join(
        [
            drawn,
            *(
                marker(at if upright else place, place if upright else at, shape, 3.0, f"{kind} best")
                for place, shape in arrows
            ),
        ]
    )


def linked(inner: Markup, href: str) -> Markup:
    """`inner` as a link."""
    return Markup('<a href="{}">{}</a>').format(href, inner)


def _px(value: float) -> str:
    """Pixels with one decimal: the same bytes on every platform."""
    return f"{value:.1f}".removesuffix(".0")
