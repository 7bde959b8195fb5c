"""Figures of circuits over their size: what of the behaviour is left, and how far predictions move.

1. A ranking of edges has a circuit at every size, a share of all edges; the empty one is at 0. A circuit of
   features stands at the share of nodes that it keeps. A single circuit is a point.
2. f, MIB's faithfulness, by what replaces the removed part; KL for the two that the board ranks by.
3. Sizes are logarithmic, and linear next to 0. So is f where it goes far beyond 1, else it is linear.
4. An interval that goes far beyond all values ends in an arrow at the frame: it would flatten them.

Every figure has a description for who cannot see it, and a table of its numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from remainder.board.numbers import Grid, Shown, in_words, parted, shown, within
from remainder.board.svg import Frame, Scale, grid, line, marker, path, svg, text, whisker
from remainder.board.text import visible
from remainder.record.circuit_summary import EMPTY, HEADLINE
from remainder.record.number import Number
from remainder.record.schema import Record

__all__ = ["MIB", "Curve", "CurvePanel", "Key", "Named", "curves_of", "efficiencies", "overlay"]

MIB = "counterfactual"
"""The background that MIB's faithfulness is defined with."""

_BACKGROUNDS = {
    MIB: ("counterfactual", "the minimally changed prompt"),
    "raw": ("mean", "the mean at their position (raw)"),
    "full": ("Gaussian", "noise of equal mean and covariance"),
    "permuted": ("another prompt", "what they carry on another prompt"),
}
"""Curves of a record, in this order: rung -> short name, what removed edges or nodes carry."""
_LOOKS = {MIB: "third", "raw": "raw", "full": "gaussian", "permuted": "fourth"}
_SIGNED = (
    "counterfactual, edges chosen by signed scores",
    "the minimally changed prompt; CPR is the area under this curve",
)
_SHAPES = ("dot", "diamond", "square", "up", "down", "cross", "star", "bar")
_MOST = len(_SHAPES)
"""Rankings that one figure can distinguish."""
_SHARE = re.compile(r"\d+(\.\d+)?")
_FAR = 3.0
"""Beyond this f is drawn on a logarithmic scale, linear up to 1."""
_DUST = 1e-6  # nats per token by which losses of float32 passes do not differ


class CurvePanel(NamedTuple):
    """One drawing of several."""

    heading: str
    says: str
    drawing: Markup


class Key(NamedTuple):
    """A line of a legend."""

    sample: Markup
    name: str
    says: str
    href: str = ""


class Curve(NamedTuple):
    """Drawings that share a legend and a table."""

    panels: tuple[CurvePanel, ...]
    legend: str
    """A word for what the keys of the legend are."""
    keys: tuple[Key, ...]
    caption: str
    grid: Grid


class Named(NamedTuple):
    """A record in a figure of several."""

    name: str
    record: Record
    href: str


class _At(NamedTuple):
    """A number at a size."""

    share: float
    number: Number


@dataclass(frozen=True)
class _Series:
    name: str
    says: str
    look: str
    """CSS class."""
    shape: str
    points: tuple[_At, ...]
    joined: bool = True
    """Whether a line goes through the points."""


class _Size(NamedTuple):
    """A circuit of a record: its key there, and where it is drawn."""

    key: str
    share: float


def curves_of(record: Record) -> Curve | None:
    """f and KL over size of one record; None if the record is not of a ranking."""
    sizes = _sizes(record)
    if len(sizes) < 3:
        return None
    series = [
        _Series(name, says, _LOOKS[rung], shape, points, joined=len(points) > 2)
        for shape, (rung, (name, says)) in zip(_SHAPES, _BACKGROUNDS.items(), strict=False)
        if (points := _of_f(record, sizes, rung))
    ]
    if any(key.startswith("+") for key in record.circuits.points):
        signed = [size._replace(key=_signed(record, size.key)) for size in sizes]
        name, says = _SIGNED
        found = _of_f(record, signed, MIB)
        series.append(_Series(name, says, "fifth", "up", found))
    kls = [
        _Series(_BACKGROUNDS[rung][0], "", _LOOKS[rung], shape, _of_kl(record, sizes, rung))
        for rung, shape in (("raw", "diamond"), ("full", "square"))
    ]
    what = _what(record)
    panels = (
        CurvePanel(
            "f", "what of the behaviour is left", _f_figure(series, "curve-f", what, record.submission.name)
        ),
        CurvePanel("KL", "to the untouched model", _kl_figure(kls, "curve-kl", what, record.submission.name)),
    )
    caption = (
        f"f = 1: as the whole model answers; 0: as the empty circuit does. Sizes are shares of all {what}, "
        "logarithmic, and linear next to 0. Bars: 95 % intervals; an arrow: it goes beyond the figure."
    )
    keys = tuple(Key(_sample(one), one.name, one.says) for one in series)
    legend = f"What removed {what} carry:"
    return Curve(panels, legend, keys, caption, _table(record))


def overlay(rows: Sequence[Named], ident: str) -> Curve | None:
    """f and KL over size of several records of one task; None if none is a ranking.

    Args:
        rows: best first, all of edges or all of nodes; more than `_MOST` rankings are left to the table.
        ident: what the ids of the drawings begin with, unique on the page.
    """
    circuits = [row for row in rows if _sizes(row.record)]
    rankings = [row for row in circuits if len(_sizes(row.record)) > 2]
    if not rankings:
        return None
    single = [row for row in circuits if len(_sizes(row.record)) <= 2]
    drawn = rankings[:_MOST]
    what = _what(drawn[0].record)

    def series(of: str, rung: str) -> list[_Series]:
        pick = _of_f if of == "f" else _of_kl
        lines = [
            _Series(row.name, "", f"s{number}", _SHAPES[number], pick(row.record, _sizes(row.record), rung))
            for number, row in enumerate(drawn)
        ]
        alone = [
            _Series(row.name, "", "single", "square", points, joined=False)
            for row in single
            if (points := pick(row.record, [size for size in _sizes(row.record) if size.key != EMPTY], rung))
        ]
        return [*alone, *(one for one in lines if one.points)]

    panels = []
    for rung, says in ((MIB, "what is removed carries the minimally changed prompt"), ("full", _GAUSSIAN)):
        found = series("f", rung)
        drawing = _f_figure(found, f"{ident}-f-{rung}", what, _BACKGROUNDS[rung][0])
        panels.append(CurvePanel(f"f, {_BACKGROUNDS[rung][0]}", says, drawing))
    for rung, heading, says in (("raw", "KL, raw", _MEAN), ("full", "KL, Gaussian", _GAUSSIAN)):
        found = series("KL", rung)
        panels.append(CurvePanel(heading, says, _kl_figure(found, f"{ident}-kl-{rung}", what, heading)))
    keys = [Key(_sample(one), one.name, "", row.href) for one, row in zip(_legend(drawn), drawn, strict=True)]
    if single:
        few = ", ".join(row.name for row in single[:_MOST]) + (", …" if len(single) > _MOST else "")
        alone = _Series("single circuits", "", "single", "square", (), joined=False)
        keys.append(Key(_sample(alone), f"single circuits: {few}", ""))
    more = len(rankings) - len(drawn)
    caption = (
        f"Circuits of all sizes that each method finds, over the share of {what} kept; the best by KL raw "
        "first. Bars: 95 % intervals; an arrow: it goes beyond the figure."
    )
    if more:
        caption += f" {more} more ranking{'s are' if more > 1 else ' is'} in the table below only."
    return Curve(tuple(panels), "", tuple(keys), caption, _table_of_all([*drawn, *single]))


def efficiencies(rows: Sequence[Named], ident: str) -> Curve | None:
    """Efficiency over size of records of one task, all of edges or all of nodes; None if none has any."""

    def points(record: Record) -> tuple[_At, ...]:
        return tuple(
            _At(size.share, found)
            for size in _sizes(record)
            if (found := record.circuits.points[size.key].efficiency) is not None and found.value is not None
        )

    some = [(row, found) for row in rows if (found := points(row.record))][:_MOST]
    if not some:
        return None
    what = _what(some[0][0].record)
    series = [
        _Series(row.name, "", f"s{number}", _SHAPES[number], found, joined=len(found) > 1)
        for number, (row, found) in enumerate(some)
    ]
    scale = Scale(within(_numbers(series), [0.0]), _FRAME.bottom, _FRAME.top, knee=0.0)
    drawing = _figure(
        series, scale, [], f"Efficiency over the share of {what} kept", "efficiency", ident, what
    )
    keys = tuple(
        Key(_sample(one), one.name, "", row.href) for one, (row, _) in zip(series, some, strict=True)
    )
    panel = CurvePanel("Efficiency", "against random circuits of equal size", drawing)
    caption = f"The best by KL raw first, {_MOST} at most. Bars: 95 % intervals over prompts."
    headings = ("submission", "size", "efficiency")
    grid = tuple(
        (Shown(visible(row.name, 48)), Shown(_percent(at.share)), shown(at.number))
        for row, found in some
        for at in found
    )
    return Curve((panel,), "", keys, caption, Grid(headings, grid))


_MEAN = "what is removed carries its mean"
_GAUSSIAN = "what is removed carries noise of equal mean and covariance"


def _what(record: Record) -> str:
    """The word for what a circuit keeps a share of."""
    return "nodes" if record.keeps_nodes else "edges"


def _sizes(record: Record) -> list[_Size]:
    """The circuits of a record by their share, one a key; of a ranking those that are named by their size."""
    points, costs, whole = record.circuits.points, record.circuit_sizes, record.complexity.features
    found = [_Size(key, float(key)) for key in points if _SHARE.fullmatch(key) and key in costs]
    of_features = [key for key in points if key.startswith(">") and key in costs]
    if whole and of_features:
        found += [_Size(key, costs[key].kept / whole) for key in of_features]
    elif whole and len(found) < 2 and HEADLINE in costs and HEADLINE in points:
        found.append(_Size(HEADLINE, costs[HEADLINE].kept / whole))
    return sorted((size for size in found if 0 <= size.share <= 1), key=lambda size: (size.share, size.key))


def _signed(record: Record, key: str) -> str:
    """The circuit of the same size that is chosen by signed scores, if it is another one."""
    return f"+{key}" if f"+{key}" in record.circuits.points else key


def _of_f(record: Record, sizes: Sequence[_Size], rung: str) -> tuple[_At, ...]:
    """f at all sizes where it has a value; of what was measured at one size only, that of the headline."""
    points, costs, whole = record.circuits.points, record.circuit_sizes, record.complexity.features
    found = [
        _At(size.share, at.faithfulness)
        for size in sizes
        if size.key in points and (at := points[size.key].rungs.get(rung)) is not None
    ]
    headline = points[HEADLINE].rungs.get(rung)
    alone = all(size.key != HEADLINE for size in sizes)
    if alone and len(found) < 2 and headline is not None and whole:
        found.append(_At(costs[HEADLINE].kept / whole, headline.faithfulness))
    return tuple(at for at in found if at.number.value is not None)


def _of_kl(record: Record, sizes: Iterable[_Size], rung: str) -> tuple[_At, ...]:
    points = record.circuits.points
    return tuple(
        _At(size.share, at.kl)
        for size in sizes
        if (at := points[size.key].rungs.get(rung)) is not None and at.kl.value is not None
    )


def _f_figure(series: Sequence[_Series], ident: str, what: str, name: str) -> Markup:
    far = any(abs(_value(at)) > _FAR for one in series for at in one.points)
    scale = Scale(
        within(_numbers(series), [0.0, 1.0], reach=9.0 if far else 0.6),
        _FRAME.bottom,
        _FRAME.top,
        knee=1.0 if far else 0.0,
    )
    parts = [line(_FRAME.left, scale(1.0), _FRAME.right, scale(1.0), "grid whole")]
    return _figure(
        series,
        scale,
        parts,
        f"Faithfulness f over the share of {what} kept: {visible(name, 60)}",
        "f",
        ident,
        what,
    )


def _kl_figure(series: Sequence[_Series], ident: str, what: str, name: str) -> Markup:
    ends = [max(end, 0.0) for end in within(_numbers(series), [0.0], reach=9.0)]
    scale = Scale(ends, _FRAME.bottom, _FRAME.top, dust=_DUST)
    title = f"KL over the share of {what} kept: {visible(name, 60)}"
    return _figure(series, scale, [], title, "KL (nats per token)", ident, what)


_FRAME = Frame(48.0, 506.0, 26.0, 276.0)


def _figure(
    series: Sequence[_Series], ys: Scale, under: list[Markup], title: str, unit: str, ident: str, what: str
) -> Markup:
    shares = [at.share for one in series for at in one.points]
    least = min((share for share in shares if share > 0), default=1.0)
    xs = Scale([*shares, 1.0], _FRAME.left, _FRAME.right, knee=10.0 ** math.floor(math.log10(least)))
    parts = [
        grid(xs, ys, _FRAME, percent=True),
        *under,
        text((_FRAME.left + _FRAME.right) / 2, 310.0, f"share of {what} kept", "axis", "middle"),
        text(2.0, 10.0, unit, "axis"),
    ]
    for one in series:
        spots = [(xs(at.share), ys(_value(at))) for at in one.points]
        if one.joined and len(spots) > 1:
            parts.append(path(spots, f"curve {one.look}"))
        for at, (x, y) in zip(one.points, spots, strict=True):
            if at.number.low is not None and at.number.high is not None:
                ends = ys(at.number.low), ys(at.number.high)
                parts.append(whisker(ends, x, _FRAME, one.look, upright=True))
            told = f"{visible(one.name, 60)} at {_percent(at.share)}: {in_words(at.number)}"
            parts.append(marker(x, y, one.shape, 3.4, f"{one.look} best", told))
    described = "; ".join(_described(one) for one in series)
    return svg(
        parts, 520.0, 316.0, title, kind="figure pareto", ident=ident,
        description=f"{described}. The table below has every number.",
    )  # fmt: skip


def _described(one: _Series) -> str:
    """A series in words: every value by its size."""
    values = ", ".join(f"{parted(at.number)[0]} at {_percent(at.share)}" for at in one.points)
    return f"{visible(one.name, 60)}: {values or 'nothing'}"


def _value(at: _At) -> float:
    assert at.number.value is not None
    return at.number.value


def _numbers(series: Iterable[_Series]) -> list[Number]:
    return [at.number for one in series for at in one.points]


def _legend(rows: Sequence[Named]) -> list[_Series]:
    return [_Series(row.name, "", f"s{number}", _SHAPES[number], ()) for number, row in enumerate(rows)]


def _sample(one: _Series) -> Markup:
    """A piece of a line, for a legend."""
    parts = [marker(13.0, 6.0, one.shape, 3.4, f"{one.look} best")]
    if one.joined:
        parts.insert(0, path([(0.0, 6.0), (26.0, 6.0)], f"curve {one.look}"))
    return Markup(
        '<svg class="sample" viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(parts))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(record: Record) -> Grid:
    """Every circuit of a record: sizes, f by background, and both KLs."""
    points, costs = record.circuits.points, record.circuit_sizes
    rungs = [rung for rung in _BACKGROUNDS if any(rung in point.rungs for point in points.values())]
    rows = []
    for key in sorted(points, key=_order):
        at, cost = points[key].rungs, costs.get(key)
        fs = [None if rung not in at else at[rung].faithfulness for rung in rungs]
        kls = [None if rung not in at else at[rung].kl for rung in ("raw", "full")]
        counts = ("–", "–") if cost is None else (f"{cost.kept:,}", f"{cost.bits:,.0f}")
        plain = [Shown(visible(key, 20), ""), *(Shown(count, "") for count in counts)]
        rows.append((*plain, *map(shown, (*fs, *kls, points[key].efficiency))))
    names = [f"f, {_BACKGROUNDS[rung][0]}" for rung in rungs]
    headings = ("size", _what(record), "bits", *names, "KL raw", "KL Gaussian", "efficiency")
    return Grid(headings, tuple(rows))


def _table_of_all(rows: Sequence[Named]) -> Grid:
    found = []
    for row in rows:
        points, costs = row.record.circuits.points, row.record.circuit_sizes
        for size in _sizes(row.record):
            at = points[size.key].rungs
            fs = [None if rung not in at else at[rung].faithfulness for rung in (MIB, "full")]
            kls = [None if rung not in at else at[rung].kl for rung in ("raw", "full")]
            plain = (visible(row.name, 48), _percent(size.share), f"{costs[size.key].kept:,}")
            found.append((*(Shown(cell, "") for cell in plain), *map(shown, (*fs, *kls))))
    names = (
        "submission",
        "size",
        f"{_what(rows[0].record)} kept",
        "f, counterfactual",
        "f, Gaussian",
        "KL raw",
        "KL Gaussian",
    )
    return Grid(names, tuple(found))


def _order(key: str) -> tuple[int, float, str]:
    """Headline first, then sizes, then those of signed scores, then thresholds."""
    kinds = {"": 1, "+": 2, ">": 3}
    match = re.fullmatch(r"([+>]?)(\d+(?:\.\d+)?(?:e-?\d+)?)", key)
    return (kinds[match[1]], float(match[2]), key) if match else (0 if key == HEADLINE else 4, 0.0, key)
