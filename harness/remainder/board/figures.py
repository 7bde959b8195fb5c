"""The figures of the board: losses against complexity, and the ladder of a record.

One more figure of a record is one more function in `OF_A_RECORD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from remainder.board.pareto import front
from remainder.board.svg import Scale, line, linked, marker, svg, text
from remainder.board.text import visible
from remainder.explain import Rung, ladder
from remainder.report import MISSING, format_interval, format_value
from remainder.schema import Number, Record

__all__ = ["OF_A_RECORD", "Figure", "Point", "number_text", "pareto", "parted", "rungs", "spark"]

_DUST = 1e-6  # nats per token by which losses of float32 passes do not differ
_LETTER = 5.9  # pixels of a letter, about
_NAMED = 7
"""Points of the front whose names are written beside them, at most."""


class Point(NamedTuple):
    """A row of a table in a figure: what it costs, and what it loses."""

    name: str
    bits: float
    loss: Number
    href: str
    reference: bool


class _Frame(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: _Frame) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Figure(NamedTuple):
    """A figure of a record's page."""

    title: str
    drawing: Markup
    caption: str


def pareto(points: Sequence[Point], kind: str, title: str, unit: str) -> Markup:
    """KL against bits, with its front. Empty if no point has both.

    Args:
        points: of one table.
        kind: CSS class of the markers: a key of `merge.RUNGS`.
        title: what a screen reader says.
        unit: of the complexities.
    """
    shown = [point for point in points if point.loss.value is not None]
    if not shown:
        return Markup("")
    width, height, frame = 520.0, 316.0, _Frame(48.0, 506.0, 26.0, 276.0)
    xs = Scale([point.bits for point in shown], frame.left, frame.right)
    losses = [max(end, 0.0) for point in shown for end in _ends(point.loss)]
    ys = Scale(losses, frame.bottom, frame.top, dust=_DUST)
    spots = [(xs(point.bits), ys(_loss(point))) for point in shown]
    best = front([(point.bits, _loss(point)) for point in shown])
    parts = [
        _grid(xs, ys, frame),
        text((frame.left + frame.right) / 2, height - 6, unit, "axis", "middle"),
        text(2.0, 10.0, "KL (nats per token)", "axis"),
        _steps([spots[number] for number in best], kind),
    ]
    # What is on the front lies on top.
    for number in [*(n for n in range(len(shown)) if n not in set(best)), *best]:
        point, (x, y) = shown[number], spots[number]
        low, high = point.loss.low, point.loss.high
        if low is not None and high is not None:
            parts.append(line(x, ys(max(low, 0.0)), x, ys(max(high, 0.0)), f"whisker {kind}"))
        said = f"{visible(point.name, 60)}: {format_value(point.bits)} bits, KL {number_text(point.loss)}"
        look = f"{kind}{' reference' if point.reference else ''}{' best' if number in best else ''}"
        shape = "square" if point.reference else "dot"
        parts.append(linked(marker(x, y, shape, 4.0, look, said), point.href))
    parts += _names([(*spots[number], shown[number].name) for number in best], spots, frame)
    return svg(parts, width, height, title, kind="figure pareto")


def spark(points: Sequence[Point]) -> Markup:
    """A front in the size of a word. Empty with fewer than two points."""
    shown = [(point.bits, _loss(point)) for point in points if point.loss.value is not None]
    if len(shown) < 2:
        return Markup("")
    xs = Scale([bits for bits, _ in shown], 4.0, 146.0)
    ys = Scale([loss for _, loss in shown], 32.0, 4.0, dust=_DUST)
    best = [(xs(shown[number][0]), ys(shown[number][1])) for number in front(shown)]
    parts = [_steps(best, "raw"), *(marker(x, y, "dot", 2.0, "raw best") for x, y in best)]
    return svg(parts, 150.0, 36.0, f"KL against bits: {len(best)} of {len(shown)} on the front", kind="spark")


def rungs(record: Record) -> Figure | None:
    """Gap of every rung with its interval: the ladder."""
    found = ladder(record)
    ends = [end for rung in found for number in (rung.gap, rung.annealed) for end in _ends(number)]
    if not ends:
        return None
    pitch, frame = 25.0, _Frame(128.0, 560.0, 10.0, 10.0 + 25.0 * len(found))
    scale = Scale(ends, frame.left, frame.right)
    parts = [_vertical(scale, frame)]
    for number, rung in enumerate(found):
        parts += _rung(rung, frame.top + pitch * (number + 0.5), scale, frame)
    middle, under = (frame.left + frame.right) / 2, "Δ: loss on this rung − clean loss (nats per token)"
    parts.append(text(middle, frame.bottom + 32, under, "axis", "middle"))
    label = f"Gap of {len(found)} rungs with 95 % intervals"
    drawing = svg(parts, 1040.0, frame.bottom + 40, label, kind="figure ladder")
    caption = "Each rung adds one more property of what is left out. Lines: 95 % intervals."
    if any(rung.annealed.value is not None for rung in found):
        caption += " Dots: quenched, noise drawn before the loss is read; diamonds: annealed, integrated out."
    return Figure("The ladder", drawing, caption)


OF_A_RECORD: tuple[Callable[[Record], Figure | None], ...] = (rungs,)
"""What is drawn on the page of a record, in this order; None where the record has nothing to draw."""


def number_text(number: Number) -> str:
    """Value and interval in a line."""
    value, interval = parted(number)
    return f"{value} {interval}".rstrip()


def parted(number: Number) -> tuple[str, str]:
    """A number's value and its interval as they are shown: with a true minus."""
    if number.value is None:
        return MISSING, ""
    spread = 0.0 if number.low is None or number.high is None else (number.high - number.low) / 2
    value = format_value(number.value, spread)
    return value.replace("-", "−"), (format_interval(number) or "").replace("-", "−")


def _ends(number: Number) -> list[float]:
    return [end for end in (number.value, number.low, number.high) if end is not None]


def _loss(point: Point) -> float:
    """KL of a point; what rounding has put below 0 is 0."""
    return max(point.loss.value or 0.0, 0.0)


def _steps(spots: Sequence[tuple[float, float]], kind: str) -> Markup:
    """The front as a staircase through pixels, cheapest first."""
    moves = [f"H{x:.1f}V{y:.1f}" if number else f"M{x:.1f} {y:.1f}" for number, (x, y) in enumerate(spots)]
    return Markup('<path class="front {}" d="{}"/>').format(kind, "".join(moves))


def _rung(rung: Rung, y: float, scale: Scale, frame: _Frame) -> list[Markup]:
    """A line of the ladder: name, markers, value, and what the rung adds."""
    parts = [
        text(frame.left - 10, y + 4, rung.name, "rung", "end"),
        text(frame.right + 170, y + 4, rung.adds, "muted"),
    ]
    if rung.gap.value is None:
        return [*parts, text(frame.right + 14, y + 4, visible(rung.reason, 24), "muted")]
    beside = 4.5 if rung.annealed.value is not None else 0.0
    for number, at, shape, kind, what in (
        (rung.gap, y - beside, "dot", "raw", "quenched"),
        (rung.annealed, y + beside, "diamond", "gaussian", "annealed"),
    ):
        if number.value is None:
            continue
        if number.low is not None and number.high is not None:
            parts.append(line(scale(number.low), at, scale(number.high), at, f"whisker {kind}"))
        said = f"{rung.name}, {what}: {number_text(number)}. Adds {rung.adds}"
        parts.append(marker(scale(number.value), at, shape, 3.6, f"{kind} best", said))
    value, interval = parted(rung.gap)
    both = Markup('{} <tspan class="muted">{}</tspan>').format(value, interval)
    return [*parts, text(frame.right + 14, y + 4, both, "value")]


def _grid(xs: Scale, ys: Scale, frame: _Frame) -> Markup:
    parts = [_vertical(xs, frame)]
    for value in ys.ticks():
        kind = "grid" if value else "grid zero"
        parts.append(line(frame.left, ys(value), frame.right, ys(value), kind))
        parts.append(text(frame.left - 7, ys(value) + 4, _tick(value), "tick", "end"))
    return Markup("").join(parts)


def _vertical(scale: Scale, frame: _Frame) -> Markup:
    parts = []
    for value in scale.ticks():
        kind = "grid" if value else "grid zero"
        parts.append(line(scale(value), frame.top, scale(value), frame.bottom, kind))
        parts.append(text(scale(value), frame.bottom + 15, _tick(value), "tick", "middle"))
    return Markup("").join(parts)


def _tick(value: float) -> str:
    shown = f"{value:.0e}" if 0 < abs(value) < 1e-4 else f"{value:,.10g}"
    return shown.replace("-", "−")


def _names(
    named: Sequence[tuple[float, float, str]], spots: Sequence[tuple[float, float]], frame: _Frame
) -> list[Markup]:
    """Names beside the first of `named` that have room for them, away from all `spots`."""
    taken = [_Frame(x - 5, x + 5, y - 5, y + 5) for x, y in spots]
    parts: list[Markup] = []
    for x, y, name in named:
        shown = visible(name, 26)
        for dx, dy, anchor in ((8, -6, "start"), (-8, -7, "end"), (8, 14, "start"), (-8, 15, "end")):
            start = x + dx - (_LETTER * len(shown) if anchor == "end" else 0)
            box = _Frame(start, start + _LETTER * len(shown), y + dy - 9, y + dy + 2)
            inside = box.left > frame.left + 4 and box.right < frame.right + 12 and box.top > 2
            free = inside and box.bottom < frame.bottom and not any(box.meets(other) for other in taken)
            if free and len(parts) < _NAMED:
                parts.append(text(x + dx, y + dy, shown, "name", anchor))
                taken.append(box)
                break
    return parts
