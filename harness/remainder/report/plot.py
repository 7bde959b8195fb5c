"""Figures, in Okabe & Ito's colour-blind-safe palette; shapes differ too, for black and white."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator

from remainder.base.files import IMAGES, require_target
from remainder.record.json import write_atomically
from remainder.record.metrics import Metrics
from remainder.record.naming import told_apart
from remainder.record.number import Number
from remainder.record.rungs import PERTURBATIVE
from remainder.record.schema import Record
from remainder.report.ladder import Rung, ladder
from remainder.report.marks import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PLAINLY,
    TITLE,
    VERMILION,
    legend,
    plain,
    whisker,
)
from remainder.report.plot_orders import draw_orders, draw_ratio
from remainder.report.quantities import number_of
from remainder.report.site_sections import aligned
from remainder.report.text import format_value, half_width

__all__ = ["IMAGES", "explanation", "overview", "save"]

_LINEAR_BELOW = 0.01  # nats: the axis is linear around zero, so that an exact 0 has a place
_ONE_SCALE = 12.0  # sizes that differ by less than this go on a linear axis
_FLOOR = 0.5  # tokens: where the axis of counts ends, below a single one
_HEIGHT = 2.9  # inches of a panel


class _Shown(Figure):
    """A figure that a notebook shows as it is, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return _data(self, "png", None)


def overview(records: Sequence[Record]) -> Figure:
    """Raw and Gaussian gap of every record with 95 % intervals, cheapest interpretation on top."""

    def bits(record: Record) -> tuple[bool, float, str]:
        value = record.complexity.bits_per_token.value
        return (value is None, value or 0.0, record.submission.name)

    ordered = sorted(told_apart(records), key=bits)
    figure = _Shown(figsize=(7.2, 1.3 + 0.36 * max(len(ordered), 3)), dpi=150, layout="constrained")
    axes = figure.subplots()
    _symlog(axes, len(ordered))
    for place, record in enumerate(ordered):
        low, high = number_of(record, "gap_raw"), number_of(record, "gap_gaussian")
        if low.value is not None and high.value is not None:
            axes.plot([low.value, high.value], [place, place], color=GREY, lw=1, zorder=1)
        _point(axes, low, float(place), "o", BLUE, "raw: what is left out is zero" if place == 0 else None)
        _point(
            axes, high, float(place), "D", VERMILION, "Gaussian: it is noise N(μ, Σ)" if place == 0 else None
        )
    labels = [f"{r.submission.name}  ({_bits(r)} bits)" for r in ordered]
    axes.set_yticks(range(len(ordered)), labels)
    first = records[0]
    axes.set_title(
        f"{first.task.id}, version {first.task.version}, tier {first.tier}: "
        f"{first.documents.tokens:,} tokens of {first.documents.documents} documents",
        fontsize=9,
        loc="left",
    )
    axes.set_xlabel("loss with the interpretation in place − clean loss (nats per token)")
    figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    return figure


def explanation(record: Record) -> Figure:
    """The ladder of one record, and what the record says about where the gap comes from.

    Panels: gap of every rung; terms of the Gaussian gap as a waterfall; gap over the amplitude of the noise;
    orders in the noise; ρ over several kinds of noise; lengths of the whitened residual beside the χ law; gap
    as cumulants fade. Those without data are left out.
    """
    rungs = ladder(record)
    panels = [(name, draw) for name, has, draw in _PANELS if has(record.metrics)]
    layout, heights = _layout([name for name, _ in panels], 1.5 + 0.27 * max(len(rungs), 4))
    size = (10.0 if panels else 7.2, sum(heights) + 0.5)
    figure = _Shown(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    axes = figure.subplot_mosaic(layout, height_ratios=heights)
    _draw_ladder(axes["ladder"], rungs)
    for name, draw in panels:
        draw(axes[name], record)
    wrapped = textwrap.fill(_of(record), 122 if panels else 86, break_on_hyphens=False)
    title = figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10)
    title.set_parse_math(False)  # a name may hold dollar signs
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure to `path` (.png or .svg), whole or not at all; the same figure gives the same bytes.

    Raises:
        RecordError: the name has another ending, or there is no folder to put it in.
    """
    require_target(path, None, IMAGES)
    suffix = path.suffix.lower()
    write_atomically(path, _data(figure, suffix[1:], {"Date": None} if suffix == ".svg" else None))


def _data(figure: Figure, format: str, metadata: dict[str, Any] | None) -> bytes:
    data = io.BytesIO()
    with rc_context({"svg.hashsalt": "remainder"}):
        figure.savefig(data, format=format, metadata=metadata)
    return data.getvalue()


# ---------------------------------------------------------------------------------- panels of a ladder


def _draw_ladder(axes: Axes, rungs: Sequence[Rung]) -> None:
    axes.set_title("Every rung", **TITLE)
    _symlog(axes, len(rungs))
    numbers = [number for rung in rungs for number in (rung.gap, rung.annealed)]
    ends = [end for number in numbers for end in (number.value, number.low, number.high) if end is not None]
    sizes = [abs(end) for end in ends if abs(end) > _LINEAR_BELOW]
    if not sizes or max(sizes) < _ONE_SCALE * min(sizes):  # powers of ten would only blur what differs
        axes.set_xscale("linear")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    else:
        axes.xaxis.set_major_locator(FixedLocator(_powers(min(ends), max(ends))))
    axes.xaxis.set_major_formatter(PLAINLY)
    annealed = any(rung.annealed.value is not None for rung in rungs)
    shift = 0.16 if annealed else 0.0
    for place, rung in enumerate(rungs):
        _point(axes, rung.gap, place - shift, "o", BLUE, None, size=5.0)
        if rung.annealed.value is not None:
            _point(axes, rung.annealed, place + shift, "D", VERMILION, None, size=4.0)
    axes.set_yticks(range(len(rungs)), [rung.name for rung in rungs], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("loss on this rung − clean loss (nats per token)", fontsize=8)
    if annealed:
        axes.plot([], [], "o-", color=BLUE, ms=5, label="quenched")
        axes.plot([], [], "D-", color=VERMILION, ms=4, markerfacecolor="white", label="annealed")
        legend(axes)


def _powers(low: float, high: float) -> list[float]:
    """Zero and powers of ten on the sides that are needed, few enough to stand beside each other."""
    decades = math.floor(math.log10(max(-low, high) / _LINEAR_BELOW) + 0.1)  # the axis goes a little farther
    signs = [sign for sign, end in ((-1, -low), (1, high)) if end > _LINEAR_BELOW]
    step = math.ceil((decades + 1) * len(signs) / 6)
    powers = range(decades, -1 if step == 1 else 0, -step)
    return [0.0, *(sign * _LINEAR_BELOW * 10**power for sign in signs for power in powers)]


def _draw_waterfall(axes: Axes, record: Record) -> None:
    """Signed bars from the clean model up to the Gaussian gap, and the value of each below it."""
    telescope = record.metrics.telescope
    assert telescope is not None
    steps = [
        ("rest", telescope.rest, GREY, "..."),
        ("dependence", telescope.dependence, ORANGE, "///"),
        ("shape", telescope.shape, GREEN, "\\\\\\"),
        ("Gaussian", telescope.total, VERMILION, ""),
    ]
    axes.set_title("Where the Gaussian gap comes from", **TITLE)
    axes.axhline(0, color="black", lw=0.8)
    level, labels = 0.0, []
    texts = aligned([*(number for _, number, _, _ in steps), telescope.shrinkage])
    for place, (name, number, color, hatch) in enumerate(steps):
        total = place == len(steps) - 1
        start, value = 0.0 if total else level, number.value or 0.0
        axes.bar(
            place,
            value,
            0.62,
            start,
            color=color,
            alpha=0.75,
            hatch=hatch,
            edgecolor="black",
            lw=0.8,
            zorder=2,
        )
        whisker(axes, float(place), number, start)
        if not total:
            axes.plot(
                [place - 0.31, place + 1.31], [start + value] * 2, color="black", lw=0.7, ls=":", zorder=1
            )
        shown, half = texts[place]
        sign = "" if total or shown.startswith("-") else "+"
        labels.append(f"{name}\n{sign}{shown}".replace("-", "−") + (f"\n± {half}" if half else ""))
        level = start + value
    axes.set_xticks(range(len(steps)), labels, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.08)
    plain(axes, "nats per token above clean", grid="y")


def _draw_couplings(axes: Axes, record: Record) -> None:
    """Both gaps over the amplitude of the noise, the source as it is."""
    couplings = record.metrics.couplings
    assert couplings is not None
    points = sorted((point for point in couplings.grid if point.beta == 1), key=lambda point: point.alpha)
    axes.set_title("Gap over the amplitude α of the noise", **TITLE)
    alpha = couplings.alpha
    if alpha.low is not None and alpha.high is not None:
        axes.axvspan(
            alpha.low, alpha.high, facecolor="#dddddd", edgecolor="#aaaaaa", hatch="////", lw=0, zorder=0
        )
    if alpha.value is not None:
        label = f"best: α* = {format_value(alpha.value, half_width(alpha))}"
        beta = couplings.beta.value
        if beta is not None and abs(beta - 1) > 0.02:  # then it is not the minimum of these curves
            label += f" with source × {beta:.3g}"
        axes.axvline(alpha.value, color="black", lw=1, ls="-.", zorder=1, label=label)
    for name, marker, line, color, numbers in (
        ("quenched", "o", "-", BLUE, [point.quenched for point in points]),
        ("annealed", "D", "--", VERMILION, [point.annealed for point in points]),
    ):
        face = color if marker == "o" else "white"
        axes.plot(
            [point.alpha for point in points],
            [math.nan if number.value is None else number.value for number in numbers],
            marker=marker,
            ls=line,
            color=color,
            markerfacecolor=face,
            ms=5,
            lw=1.4,
            label=name,
            zorder=3,
        )
        for point, number in zip(points, numbers, strict=True):
            whisker(axes, point.alpha, number, 0.0, color=color)
    axes.set_xticks(sorted({point.alpha for point in points}))
    axes.set_xlabel("α: noise × α, source × 1, calibration split", fontsize=8)
    legend(axes)
    plain(axes, "loss − clean loss (nats per token)", grid="y")


def _draw_radii(axes: Axes, record: Record) -> None:
    """Counts of evaluation rows by whitened length, beside those that a Gaussian would have."""
    from scipy import stats

    gaussianity = record.metrics.gaussianity
    assert gaussianity is not None
    edges, counts = np.array(gaussianity.radii.edges), np.array(gaussianity.radii.counts)
    expected = counts.sum() * np.diff(stats.chi.cdf(edges, gaussianity.rank))
    axes.set_title("Length of the whitened residual", **TITLE)
    axes.stairs(
        np.maximum(counts, _FLOOR),
        edges,
        baseline=_FLOOR,
        fill=True,
        facecolor=PALE,
        edgecolor=BLUE,
        hatch="...",
        label="evaluation",
        lw=0.5,
    )
    axes.stairs(
        np.maximum(expected, _FLOOR),
        edges,
        baseline=_FLOOR,
        color="black",
        lw=1.8,
        ls="--",
        label=f"Gaussian: χ, {gaussianity.rank:,} degrees",
    )
    empty = counts == 0
    if empty.any():
        centres = (edges[:-1] + edges[1:]) / 2
        axes.plot(
            centres[empty], np.full(empty.sum(), _FLOOR * 1.25), "x", color=GREY, ms=3, label="empty bin"
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=_FLOOR)
    axes.set_xlabel("$\\Vert\\Sigma^{-1/2}(r-\\mu)\\Vert$", fontsize=8)
    legend(axes)
    plain(axes, "evaluation tokens a bin", grid="y")


def _draw_cumulants(axes: Axes, record: Record) -> None:
    """Gap of averages of m residuals over m^(−1/2), and the curve fitted to it."""
    fit = record.metrics.perturbative
    assert fit is not None
    gaps = {rung.name: rung.gap for rung in ladder(record)}
    orders = [(math.inf, "full-unshrunk"), *((m, f"perturbative-{m}") for m in PERTURBATIVE), (1, "permuted")]
    axes.set_title("As cumulants fade", **TITLE)
    for m, rung in orders:
        number = gaps.get(rung)
        if number is None or number.value is None:
            continue
        marker, label = {math.inf: ("D", rung), 1: ("s", rung)}.get(m, ("o", None))
        color = VERMILION if m == math.inf else BLUE
        axes.plot(
            m**-0.5, number.value, marker, color=color, markerfacecolor="white", ms=6, label=label, zorder=3
        )
        whisker(axes, m**-0.5, number, 0.0, color=color)
    coefficients = [fit.limit.value, fit.c1.value, fit.c2.value]
    if all(value is not None for value in coefficients):
        limit, c1, c2 = (value or 0.0 for value in coefficients)
        x = np.linspace(0, 1, 101)
        label = "$L_G + c_1 m^{-1/2} + c_2/m$"
        axes.plot(x, limit + c1 * x + c2 * x * x, color="black", lw=1.2, ls="--", label=label, zorder=1)
    axes.set_xticks([m**-0.5 for m, _ in orders], ["∞" if m == math.inf else f"{m}" for m, _ in orders])
    axes.set_xlabel("number m of real residuals averaged, at $m^{-1/2}$", fontsize=8)
    legend(axes)
    plain(axes, "loss − clean loss (nats per token)", grid="y")


def _has_telescope(metrics: Metrics) -> bool:
    terms = metrics.telescope
    return terms is not None and None not in (
        terms.total.value,
        terms.shape.value,
        terms.dependence.value,
        terms.rest.value,
    )


_PANELS: tuple[tuple[str, Callable[[Metrics], bool], Callable[[Axes, Record], None]], ...] = (
    ("waterfall", _has_telescope, _draw_waterfall),
    ("couplings", lambda metrics: metrics.couplings is not None, _draw_couplings),
    ("orders", lambda metrics: metrics.orders is not None, draw_orders),
    ("ratio", lambda metrics: metrics.ratio_parts is not None, draw_ratio),
    ("radii", lambda metrics: metrics.gaussianity is not None, _draw_radii),
    ("cumulants", lambda metrics: metrics.perturbative is not None, _draw_cumulants),
)
"""Name, whether the record holds it, and who draws it."""


def _layout(panels: Sequence[str], ladder_height: float) -> tuple[list[Any], list[float]]:
    """The panels in one or two columns, and the heights of the rows in inches."""
    beside = 1 if len(panels) % 2 else 2  # of an odd number one alone, so that below they come in pairs
    first, below = panels[:beside], panels[beside:]
    height = max(ladder_height, _HEIGHT * len(first)) / max(len(first), 1)
    rows = [["ladder", name] for name in first] or [["ladder"]]
    heights = [height] * len(rows)
    pairs = [list(below[place : place + 2]) for place in range(0, len(below), 2)]
    return [*rows, *pairs], [*heights, *([_HEIGHT] * len(pairs))]


def _of(record: Record) -> str:
    return (
        f"{record.submission.name} on {record.task.id}, version {record.task.version}, tier {record.tier}"
        + ("" if record.reference is None else f", beside {record.reference.name}")
        + f": {record.documents.tokens:,} tokens of {record.documents.documents:,} documents"
        + "; bars and bands: 95 % intervals"
    )


# ------------------------------------------------------------------------------------------ dots in rows


def _symlog(axes: Axes, rows: int) -> None:
    """One row per entry, first on top; the axis is linear around 0 and logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.5)
    axes.axvline(0, color=GREY, lw=0.8)
    axes.xaxis.set_major_formatter(PLAINLY)
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _point(
    axes: Axes, number: Number, place: float, marker: str, color: str, label: str | None, *, size: float = 6.0
) -> None:
    if number.value is None:
        axes.annotate("–", (0, place), color=color, va="center")
        return
    if number.low is not None and number.high is not None:
        axes.plot([number.low, number.high], [place, place], color=color, lw=2.2, alpha=0.55, zorder=2)
    face = color if marker == "o" else "white"
    axes.plot(
        number.value, place, marker, color=color, markerfacecolor=face, ms=size, lw=0, label=label, zorder=3
    )


def _bits(record: Record) -> str:
    value = record.complexity.bits_per_token.value
    return "?" if value is None else f"{value:,.0f}"
