"""Rate and distortion: KL of the codes that the bits of a row write, against these bits: a figure and tables.

1. A row is a curve of up to four points, joined; transform coding is the reference that all rows are held
   against, as far as the rows reach. Budgets are vertical lines.
2. Both axes are logarithmic; linear next to 0 where a row loses nothing or takes no bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from remainder.board.curves import Curve, CurvePanel, Key, Named
from remainder.board.numbers import Grid, Shown, in_words, parted, shown, within
from remainder.board.rank import Budget
from remainder.board.svg import Frame, Scale, fitting, grid, line, marker, path, svg, text, whisker
from remainder.board.text import visible
from remainder.record.metrics import CodedPoint, CodingMetrics
from remainder.record.number import Number
from remainder.record.schema import Record

__all__ = ["POINTS", "curve_table", "rate_distortion"]

POINTS: Mapping[str, str] = {"coded": "+1 %", "coded-10": "+10 %", "coded-35": "+35 %", "coded-100": "+100 %"}
"""Points of a curve -> by how much quantising raises the median squared error there."""

_SHAPES = ("dot", "diamond", "square", "up", "down", "cross", "star", "bar")
_MOST = len(_SHAPES)
"""Rows that one figure can distinguish."""
_REFERENCE = "transform coding"
_FRAME = Frame(48.0, 506.0, 26.0, 276.0)
_DUST = 1e-6  # nats per token by which losses of float32 passes do not differ


class _Spot(NamedTuple):
    """A point of a curve."""

    bits: float
    kl: Number
    told: str


class _Line(NamedTuple):
    """A curve, and how it is drawn."""

    name: str
    look: str
    shape: str
    spots: tuple[_Spot, ...]
    href: str = ""


def rate_distortion(
    rows: Sequence[Named], budgets: Sequence[Budget], ident: str, further: Sequence[Named] = ()
) -> Curve | None:
    """The curves of some records of one task; None if none of them has any.

    Args:
        rows: in the order of the table; of more than `_MOST` the others are in the table only.
        further: rows that are in the table only.
        budgets: drawn as lines.
        ident: of the drawing, unique on the page.
    """
    curved = [row for row in rows if row.record.metrics.coding is not None and _spots(row.record)]
    if not curved:
        return None
    drawn = [
        _Line(row.name, f"s{number}", shape, _spots(row.record), row.href)
        for number, (row, shape) in enumerate(zip(curved, _SHAPES, strict=False))
    ]
    reach = [*(spot.bits for one in drawn for spot in one.spots), *(one.bits for one in budgets)]
    near = _between(_reference(curved[0].record), min(reach), max(reach))
    reference = _Line(_REFERENCE, "transform", "dot", near)
    lines = [reference, *drawn] if reference.spots else drawn
    title = f"KL of the codes against their bits: {', '.join(visible(one.name, 40) for one in drawn)}"
    panel = CurvePanel(
        "KL coded", "of the very codes that the bits write", _figure(lines, budgets, title, ident)
    )
    caption = (
        "Points of a row: quantising adds 1, 10, 35 and 100 % to its median squared error. Grey: transform "
        "coding, all principal coefficients at one step. "
        + ("Dashed: the budgets, shares of R₀, its bits at 1 % of the KL of the mean. " if budgets else "")
        + "Axes are logarithmic. Bars: 95 % intervals; an arrow: it goes beyond."
    )
    others = [row for row in further if row.record.metrics.coding is not None and _spots(row.record)]
    if more := len(curved) - len(drawn) + len(others):
        caption += f" {more} more row{'s are' if more > 1 else ' is'} in the table below only."
    keys = tuple(Key(_sample(one), one.name, "", one.href) for one in lines)
    return Curve((panel,), "", keys, caption, _table([*curved, *others]))


def curve_table(record: Record, entered: Mapping[str, Sequence[str]]) -> Grid | None:
    """The points of one record with everything that is known of them; None if it has no curve.

    Args:
        entered: the budgets that a point was entered with, by its name.
    """
    coding = record.metrics.coding
    if coding is None or not coding.points:
        return None
    info = record.complexity.coding
    rows = []
    for name, point in _points(coding):
        step = "–" if info is None or name not in info.steps else str(info.steps[name])
        numbers = (point.bits, point.fvu, point.gap, point.kl, point.efficiency)
        budgets = ", ".join(entered.get(name, ())) or "–"
        rows.append((Shown(POINTS.get(name, name)), Shown(step), *map(shown, numbers), Shown(budgets)))
    headings = ("point", "step j", "bits", "FVU", "Δ", "KL", "efficiency", "enters budgets")
    return Grid(headings, tuple(rows))


def _points(coding: CodingMetrics) -> Iterator[tuple[str, CodedPoint]]:
    """Points from fine to coarse."""
    for name in POINTS:
        if name in coding.points:
            yield name, coding.points[name]


def _spots(record: Record) -> tuple[_Spot, ...]:
    coding = record.metrics.coding
    if coding is None:
        return ()
    return tuple(
        _Spot(point.bits.value, point.kl, f"{POINTS[name]}: efficiency {in_words(point.efficiency)}")
        for name, point in _points(coding)
        if point.bits.value is not None and point.kl.value is not None
    )


def _reference(record: Record) -> tuple[_Spot, ...]:
    coding = record.metrics.coding
    return tuple(
        _Spot(point.bits.value, point.kl, "reference")
        for point in (() if coding is None else coding.reference)
        if point.bits.value is not None and point.kl.value is not None
    )


def _between(spots: Sequence[_Spot], low: float, high: float) -> tuple[_Spot, ...]:
    """The spots from the last one at or below `low` bits to the first one at or above `high`."""
    below = max((spot.bits for spot in spots if 0 < spot.bits <= low), default=low)
    above = min((spot.bits for spot in spots if spot.bits >= high), default=high)
    return tuple(spot for spot in spots if below <= spot.bits <= above)


def _figure(lines: Sequence[_Line], budgets: Sequence[Budget], title: str, ident: str) -> Markup:
    spots = [spot for one in lines for spot in one.spots]
    bits = [*(spot.bits for spot in spots), *(one.bits for one in budgets)]
    xs = fitting(bits, _FRAME.left, _FRAME.right, dust=0.0)
    ends = [max(end, 0.0) for end in within((spot.kl for spot in spots), reach=9.0)]
    ys = fitting(ends, _FRAME.bottom, _FRAME.top, dust=_DUST)
    parts = [
        grid(xs, ys, _FRAME),
        text((_FRAME.left + _FRAME.right) / 2, 310.0, "bits per token", "axis", "middle"),
        text(2.0, 10.0, "KL (nats per token)", "axis"),
    ]
    for one in budgets:
        parts.append(line(xs(one.bits), _FRAME.top, xs(one.bits), _FRAME.bottom, "grid whole"))
        share = f"R₀/{one.name.partition('/')[2]}"
        parts.append(text(xs(one.bits), _FRAME.top - 4, share, "tick", "middle"))
    for one_line in lines:
        parts += _curve(one_line, xs, ys)
    described = "; ".join(
        f"{visible(one.name, 60)}: "
        + ", ".join(f"{parted(spot.kl)[0]} at {spot.bits:.4g} bits" for spot in one.spots)
        for one in lines
    )
    return svg(
        parts, 520.0, 316.0, title, kind="figure pareto", ident=ident,
        description=f"{described}. The table below has every number.",
    )  # fmt: skip


def _curve(one: _Line, xs: Scale, ys: Scale) -> Iterator[Markup]:
    places = [(xs(spot.bits), ys(max(spot.kl.value or 0.0, 0.0))) for spot in one.spots]
    if len(places) > 1:
        yield path(places, f"curve {one.look}")
    plain = one.look == "transform"
    for spot, (x, y) in zip(one.spots, places, strict=True):
        if not plain and spot.kl.low is not None and spot.kl.high is not None:
            ends = ys(max(spot.kl.low, 0.0)), ys(max(spot.kl.high, 0.0))
            yield whisker(ends, x, _FRAME, one.look, upright=True)
        told = f"{visible(one.name, 60)}, {spot.told}: {spot.bits:.4g} bits, KL {in_words(spot.kl)}"
        yield marker(x, y, one.shape, 2.2 if plain else 3.4, f"{one.look} best", told)


def _sample(one: _Line) -> Markup:
    """A piece of a curve, for a legend."""
    parts = [path([(0.0, 6.0), (26.0, 6.0)], f"curve {one.look}")]
    parts.append(marker(13.0, 6.0, one.shape, 2.2 if one.look == "transform" else 3.4, f"{one.look} best"))
    return Markup(
        '<svg class="sample" viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(parts))


def _table(rows: Sequence[Named]) -> Grid:
    """Every point of every curve, and the reference."""
    found: list[tuple[Shown, ...]] = []
    for row in rows:
        coding = row.record.metrics.coding
        for name, point in () if coding is None else _points(coding):
            numbers = (point.bits, point.kl, point.efficiency)
            found.append((Shown(visible(row.name, 48)), Shown(POINTS[name]), *map(shown, numbers)))
    for spot in _reference(rows[0].record):
        bits = Shown(f"{spot.bits:.4g}")
        found.append((Shown(_REFERENCE), Shown("–"), bits, shown(spot.kl), Shown("–")))
    return Grid(("submission", "point", "bits", "KL coded", "efficiency"), tuple(found))
