"""The figures of the board: losses against complexity, and the ladder of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from remainder.board.numbers import Grid, Shown, in_words, parted, shown, within
from remainder.board.pareto import fronts
from remainder.board.svg import Frame, Scale, grid, linked, marker, svg, text, vertical, whisker
from remainder.board.text import visible
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.ladder import Rung, ladder
from remainder.report.text import format_value

__all__ = ["Figure", "ParetoPoint", "pareto", "rungs", "spark"]

_DUST = 1e-6  # nats per token by which losses of float32 passes do not differ
_LETTER = 5.9  # pixels of a letter, about
_REASON = 24
"""Letters that a line of the ladder has room for."""
_NAMED = 7
"""Points of the front whose names are written beside them, at most."""


class ParetoPoint(NamedTuple):
    """A row of a table in a figure: what it costs, and what it loses."""

    name: str
    cost: float
    """The cost in its unit: bits per token; for circuits, edges or nodes that are kept."""
    unit: str
    loss: Number
    href: str
    reference: bool


class Figure(NamedTuple):
    """A figure of a record's page."""

    title: str
    drawing: Markup
    caption: str
    grid: Grid
    """A table of the same numbers, for readers who do not see the drawing."""


def pareto(points: Sequence[ParetoPoint], kind: str, title: str, unit: str) -> Markup:
    """KL against complexity, with its front. Empty if no point has both.

    Args:
        points: of one table.
        kind: CSS class of the markers: a key of `merge.RUNGS`.
        title: what a screen reader says.
        unit: of the complexities.
    """
    drawn = [point for point in points if point.loss.value is not None]
    if not drawn:
        return Markup("")
    width, height, frame = 520.0, 316.0, Frame(48.0, 506.0, 26.0, 276.0)
    xs = Scale([point.cost for point in drawn], frame.left, frame.right)
    losses = [max(end, 0.0) for end in within((point.loss for point in drawn), reach=9.0)]
    ys = Scale(losses, frame.bottom, frame.top, dust=_DUST)
    spots = [(xs(point.cost), ys(_loss(point))) for point in drawn]
    lines = fronts([(point.unit, point.cost, _loss(point)) for point in drawn])
    best = [number for one in lines for number in one]
    parts = [
        grid(xs, ys, frame),
        text((frame.left + frame.right) / 2, height - 6, unit, "axis", "middle"),
        text(2.0, 10.0, "KL (nats per token)", "axis"),
        *(_steps([spots[number] for number in one], kind) for one in lines),
    ]
    # What is on the front lies on top.
    for number in [*(n for n in range(len(drawn)) if n not in set(best)), *best]:
        point, (x, y) = drawn[number], spots[number]
        low, high = point.loss.low, point.loss.high
        if low is not None and high is not None:
            ends = ys(max(low, 0.0)), ys(max(high, 0.0))
            parts.append(whisker(ends, x, frame, kind, upright=True))
        told = (
            f"{visible(point.name, 60)}: {format_value(point.cost)} {point.unit}, KL {in_words(point.loss)}"
        )
        look = f"{kind}{' reference' if point.reference else ''}{' best' if number in best else ''}"
        shape = "square" if point.reference else "dot"
        parts.append(linked(marker(x, y, shape, 4.0, look, told), point.href))
    parts += _names([(*spots[number], drawn[number].name) for number in best], spots, frame)
    return svg(parts, width, height, title, kind="figure pareto", holds_links=True)


def spark(points: Sequence[ParetoPoint]) -> Markup:
    """A front in the size of a word. Empty with fewer than two points."""
    drawn = [(point.unit, point.cost, _loss(point)) for point in points if point.loss.value is not None]
    if len(drawn) < 2:
        return Markup("")
    xs = Scale([cost for _, cost, _ in drawn], 4.0, 146.0)
    ys = Scale([loss for _, _, loss in drawn], 32.0, 4.0, dust=_DUST)
    lines = [[(xs(drawn[number][1]), ys(drawn[number][2])) for number in one] for one in fronts(drawn)]
    best = [spot for one in lines for spot in one]
    parts = [*(_steps(one, "raw") for one in lines), *(marker(x, y, "dot", 2.0, "raw best") for x, y in best)]
    label = f"KL against complexity: {len(best)} of {len(drawn)} on the front"
    return svg(parts, 150.0, 36.0, label, kind="spark")


def rungs(record: Record) -> Figure | None:
    """Gap of every rung with its interval: the ladder."""
    found = ladder(record)
    ends = within(number for rung in found for number in (rung.gap, rung.annealed))
    if not ends:
        return None
    pitch, frame = 25.0, Frame(128.0, 560.0, 10.0, 10.0 + 25.0 * len(found))
    scale = Scale(ends, frame.left, frame.right)
    parts = [vertical(scale, frame)]
    for number, rung in enumerate(found):
        parts += _rung(rung, frame.top + pitch * (number + 0.5), scale, frame)
    middle, under = (frame.left + frame.right) / 2, "Δ: loss on this rung − clean loss (nats per token)"
    parts.append(text(middle, frame.bottom + 32, under, "axis", "middle"))
    label = f"Gap of {len(found)} rungs with 95 % intervals"
    drawing = svg(parts, 1040.0, frame.bottom + 40, label, kind="figure ladder")
    caption = "Each rung adds one more property of what is left out. Lines: 95 % intervals."
    if record.is_of_circuits:
        caption = "Rungs differ in what stands for what was removed. Lines: 95 % intervals."
    if any(rung.annealed.value is not None for rung in found):
        caption += " Dots: quenched, noise drawn before the loss is read; diamonds: annealed, integrated out."
    rows = tuple(
        (Shown(rung.name), Shown(rung.adds), shown(rung.gap), shown(rung.annealed), shown(rung.kl))
        for rung in found
    )
    adds = "what is removed carries" if record.is_of_circuits else "adds"
    headings = ("rung", adds, "Δ quenched", "Δ annealed", "KL")
    return Figure("The ladder", drawing, caption, Grid(headings, rows))


def _loss(point: ParetoPoint) -> float:
    """KL of a point; what rounding has put below 0 is 0."""
    return max(point.loss.value or 0.0, 0.0)


def _steps(spots: Sequence[tuple[float, float]], kind: str) -> Markup:
    """The front as a staircase through pixels, cheapest first."""
    moves = [f"H{x:.1f}V{y:.1f}" if number else f"M{x:.1f} {y:.1f}" for number, (x, y) in enumerate(spots)]
    return Markup('<path class="front {}" d="{}"/>').format(kind, "".join(moves))


def _short(reason: str) -> str:
    """The part of a reason that has room; the table below the figure has all of it."""
    shown = visible(reason)
    return shown if len(shown) <= _REASON else f"{shown[: _REASON - 1]}…"


def _rung(rung: Rung, y: float, scale: Scale, frame: Frame) -> list[Markup]:
    """A line of the ladder: name, markers, value, and what the rung adds."""
    parts = [
        text(frame.left - 10, y + 4, rung.name, "rung", "end"),
        text(frame.right + 170, y + 4, rung.adds, "muted"),
    ]
    if rung.gap.value is None:
        return [*parts, text(frame.right + 14, y + 4, _short(rung.reason), "muted")]
    beside = 4.5 if rung.annealed.value is not None else 0.0
    for number, at, shape, kind, what in (
        (rung.gap, y - beside, "dot", "raw", "quenched"),
        (rung.annealed, y + beside, "diamond", "gaussian", "annealed"),
    ):
        if number.value is None:
            continue
        if number.low is not None and number.high is not None:
            ends = scale(number.low), scale(number.high)
            parts.append(whisker(ends, at, frame, kind, upright=False))
        told = f"{rung.name}, {what}: {in_words(number)}. Adds {rung.adds}"
        parts.append(marker(scale(number.value), at, shape, 3.6, f"{kind} best", told))
    value, interval = parted(rung.gap)
    both = Markup('{} <tspan class="muted">{}</tspan>').format(value, interval)
    return [*parts, text(frame.right + 14, y + 4, both, "value")]


def _names(
    named: Sequence[tuple[float, float, str]], spots: Sequence[tuple[float, float]], frame: Frame
) -> list[Markup]:
    """Names beside the first of `named` that have room for them, away from all `spots`."""
    taken = [Frame(x - 5, x + 5, y - 5, y + 5) for x, y in spots]
    parts: list[Markup] = []
    for x, y, name in named:
        shown = visible(name, 26)
        for dx, dy, anchor in ((8, -6, "start"), (-8, -7, "end"), (8, 14, "start"), (-8, 15, "end")):
            start = x + dx - (_LETTER * len(shown) if anchor == "end" else 0)
            box = Frame(start, start + _LETTER * len(shown), y + dy - 9, y + dy + 2)
            inside = box.left > frame.left + 4 and box.right < frame.right + 12 and box.top > 2
            free = inside and box.bottom < frame.bottom and not any(box.meets(other) for other in taken)
            if free and len(parts) < _NAMED:
                parts.append(text(x + dx, y + dy, shown, "name", anchor))
                taken.append(box)
                break
    return parts
