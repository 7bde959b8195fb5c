"""The flow as a figure: what each part of the bath costs, shell by shell, and where it becomes one.

1. The cost of the bath on every rung, with the scales k* as bars below and lines where one holds.
2. The Gaussian gap of each shell taken apart: by orders of the noise, and by what is real in it.
3. The flow: ρ even and odd, κ̂ and π, the amplitudes that predict best; faint, the chain of shells, a control.
4. The orders' way from the mean to what was sampled, and what the bath is worth integrated out.

The axis of k is logarithmic; k = 0 stands apart, beyond a break, and no line is drawn through to it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from remainder.record.flow import SCALES, Flow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.chain_of_shells import CHAIN_SAYS
from remainder.report.flow_panels import (
    Panel,
    Series,
    Stack,
    kept_what,
    panels_of,
    stacks_of,
    title_of,
)
from remainder.report.marks import PLAINLY
from remainder.report.palette import BLUE, GREEN, GREY, ORANGE

__all__ = ["SCALE_COLORS", "flow_figure"]

SCALE_COLORS = {"shape": ORANGE, "perturbative": BLUE, "raw": GREY, "bath": GREEN}
_WIDTH = 5.0
"""Inches: letters of 8 points are legible in one column of a paper and not too large over two."""
_SMALL, _SMALLER = 8, 7.5
_BREAK = 1.3  # from k = 0 to the smallest other k, in steps of shells
_ONE_SCALE = 10.0
_LOW, _HIGH = 0.35, 0.35  # room beside the outermost shells, in steps


class Ruler(NamedTuple):
    """Places of k on a logarithmic axis; k = 0 a little more than a step below the smallest other."""

    keeps: tuple[int, ...]
    step: float
    """The median distance of neighbours."""
    least: float
    """The smallest distance of neighbours."""

    @classmethod
    def of(cls, keeps: Sequence[int]) -> Ruler:
        """The ruler of some shells, ascending."""
        logs = [math.log2(keep) for keep in keeps if keep]
        steps = np.diff(logs) if len(logs) > 1 else np.ones(1)
        return cls(tuple(keeps), float(np.median(steps)), float(steps.min()))

    def __call__(self, keep: int) -> float:
        """The place of `keep`."""
        if keep:
            return math.log2(keep)
        first = next((other for other in self.keeps if other), 1)
        return math.log2(first) - _BREAK * self.step

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last place that is shown."""
        return self(self.keeps[0]) - _LOW * self.step, self(self.keeps[-1]) + _HIGH * self.step

    def labelled(self, inches: float) -> list[int]:
        """The shells that have room for their number below an axis of so many inches, the outermost first."""
        low, high = self.ends
        half = {keep: (0.035 * len(str(keep)) + 0.02) * (high - low) / inches for keep in self.keeps}
        chosen: list[int] = []
        for keep in (self.keeps[0], *self.keeps[:0:-1]):
            if all(abs(self(keep) - self(other)) > half[keep] + half[other] for other in chosen):
                chosen.append(keep)
        return sorted(chosen)


def flow_figure(flow: Flow, records: Sequence[Record]) -> Figure:
    """The figure of a flow, to be printed 3.4 to 7 inches wide.

    Args:
        records: of its shells, in their order.
    """
    first, *panels = panels_of(flow, records)
    stacks = stacks_of(flow, records)
    ruler = Ruler.of([shell.keep for shell in flow.shells])
    rows = math.ceil(len(panels) / 2)
    heights = [2.75 + 1.45 * bool(stacks), 1.75 * rows] if rows else [2.75 + 1.45 * bool(stacks)]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.65), dpi=200, layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    upper = parts[0].subplots(2 + bool(stacks), 1, height_ratios=[1.9, 0.75, 1.25][: 2 + bool(stacks)])
    inches = _WIDTH - 1.9
    _draw_panel(upper[0], "a", first, ruler, inches)
    _draw_scales(upper[0], upper[1], flow, ruler, inches)
    if stacks:
        _draw_stacks(upper[2], "b", stacks, ruler, inches)
    if rows:
        keys = [panel.key for panel in panels]
        pairs = [keys[start : start + 2] for start in range(0, len(keys), 2)]
        lower = parts[1].subplot_mosaic([pair if len(pair) == 2 else pair * 2 for pair in pairs])
        for letter, panel in zip("cdefgh" if stacks else "bcdefg", panels, strict=False):
            _draw_panel(lower[panel.key], letter, panel, ruler, _WIDTH / 2 - 0.75)
    _write_around(figure, flow, records, has_chain=any(one.faint for p in panels for one in p.series))
    return figure


def _write_around(figure: Figure, flow: Flow, records: Sequence[Record], *, has_chain: bool) -> None:
    title = figure.suptitle(
        textwrap.fill(title_of(flow, records), 84, break_on_hyphens=False), x=0.01, ha="left", fontsize=_SMALL
    )
    title.set_parse_math(False)  # a name may hold dollar signs
    said = f"k: {kept_what(flow)}, of {flow.sources:,}; all others are the bath. Bars: 95 % intervals."
    if has_chain:
        said += f" Faint: {CHAIN_SAYS}."
    figure.supxlabel(textwrap.fill(said, 92), x=0.01, ha="left", fontsize=_SMALLER)


# -------------------------------------------------------------------------------------------------- curves


def _draw_panel(axes: Axes, letter: str, panel: Panel, ruler: Ruler, inches: float) -> None:
    if panel.allowed is not None:
        axes.axhspan(*panel.allowed, color="#dddddd", lw=0, zorder=0)
    for level in panel.levels:
        axes.axhline(level, color=GREY, lw=0.7, zorder=1)
    for series in panel.series:
        _draw_series(axes, series, ruler)
    if panel.knee is not None:
        _scale(axes, panel, panel.knee)
    handles = [
        Line2D([], [], color=one.color, ls=one.dash, marker=one.marker, ms=3.5, lw=1.2, label=one.name)
        for one in panel.series
        if not one.faint
    ]
    beside = panel.key == "levels"
    _legend(axes, handles, beside=beside)
    _finish(axes, f"{letter}  {panel.title}", panel.unit, pad=4.0 if beside else 15.0)
    _place(axes, ruler, inches, labels=not beside)


def _draw_series(axes: Axes, series: Series, ruler: Ruler) -> None:
    x = np.array([ruler(keep) for keep in series.keeps])
    y, low, high = (
        np.array(
            [np.nan if (end := getattr(number, part)) is None else end for number in series.numbers],
            dtype=np.float64,
        )
        for part in ("value", "low", "high")
    )
    positive = np.array(series.keeps) > 0
    if series.faint:
        axes.plot(x[positive], y[positive], color=series.color, lw=3.5, alpha=0.22, zorder=1.5)
        axes.plot(x[~positive], y[~positive], "o", color=series.color, ms=6, mew=0, alpha=0.22, zorder=1.5)
        return
    style: dict[str, Any] = {
        "color": series.color,
        "marker": series.marker,
        "ms": 3.5,
        "lw": 1.2,
        "zorder": 3,
    }
    axes.plot(x[positive], y[positive], series.dash, **style)
    axes.plot(x[~positive], y[~positive], "", **style)
    axes.fill_between(x, low, high, where=positive, color=series.color, alpha=0.14, lw=0, zorder=2)
    for at, one, other in zip(x, low, high, strict=True):
        axes.plot([at, at], [one, other], color=series.color, lw=0.8, alpha=0.7, zorder=2.5)


def _scale(axes: Axes, panel: Panel, knee: float) -> None:
    """A logarithmic axis where sizes lie far apart, linear next to 0 where some number is not above it."""
    numbers = [number for series in panel.series for number in series.numbers]
    values = [end for n in numbers for end in (n.value, n.low, n.high) if end is not None]
    sizes = [abs(number.value) for number in numbers if number.value]
    if not sizes or max(sizes) < _ONE_SCALE * max(min(sizes), panel.unit_size):
        return
    if min(values) > 0:
        axes.set_yscale("log")
        return
    # There is nothing to tell apart below the smallest size, nor room for it.
    linear = 10.0 ** math.floor(math.log10(max(knee * max(sizes), min(sizes), panel.unit_size)) + 0.5)
    axes.set_yscale("symlog", linthresh=linear, linscale=0.7)
    powers = range(math.ceil(math.log10(max(map(abs, values)) / linear) - 0.05), -1, -1)
    sides = [(-1, -min(values)), (1, max(values))]
    ticks = [
        sign * linear * 10**power for sign, end in sides for power in powers if linear * 10**power <= end
    ]
    axes.set_yticks([0.0, *ticks])
    axes.yaxis.set_minor_locator(NullLocator())


# ----------------------------------------------------------------------------------------- scales and stacks


def _draw_scales(levels: Axes, axes: Axes, flow: Flow, ruler: Ruler, inches: float) -> None:
    """Bars from where a criterion may hold to where it does, and a line through the curves there."""
    last = ruler.ends[1]
    for place, name in enumerate(SCALES):
        bracket, color = flow.scales[name], SCALE_COLORS[name]
        if bracket.low is not None:
            low = ruler(bracket.low)
            high = last if bracket.high is None else ruler(bracket.high)
            axes.plot([low, high], [place] * 2, ":" if bracket.high is None else "-", color=color, lw=3.5)
            axes.plot(low, place, "D" if bracket.low == bracket.high else "|", color=color, ms=6, mew=1.8)
        if bracket.high is not None:
            axes.plot(ruler(bracket.high), place, "D", color=color, ms=5)
            levels.axvline(ruler(bracket.high), color=color, lw=1, ls=(0, (1, 1.5)), zorder=1)
        axes.annotate(
            bracket.verdict,
            (1.025, place),
            xycoords=("axes fraction", "data"),
            fontsize=_SMALLER,
            va="center",
            color="black",
        )
    names = [rf"$k_{{\mathrm{{{name}}}}}$" for name in SCALES]
    axes.set_yticks(range(len(SCALES)), names, fontsize=_SMALL)
    axes.set_ylim(len(SCALES) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _place(axes, ruler, inches, labels=True)


def _draw_stacks(axes: Axes, letter: str, stacks: Sequence[Stack], ruler: Ruler, inches: float) -> None:
    """Bars of each shell in shares of its Gaussian gap: what lowers it below 0, all else above."""
    axes.axhline(0, color="black", lw=0.7)
    axes.axhline(100, color=GREY, lw=0.7)
    width = (0.36 if len(stacks) > 1 else 0.6) * ruler.least
    handles: list[Patch] = []
    for column, stack in enumerate(stacks):
        shift = (column - (len(stacks) - 1) / 2) * width * 1.08
        for place, keep in enumerate(ruler.keeps):
            shares = _shares([part.numbers[place] for part in stack.parts])
            ends = {True: 0.0, False: 0.0}
            for part, share in zip(stack.parts, shares, strict=False):
                start = ends[share >= 0]
                axes.bar(
                    ruler(keep) + shift,
                    share,
                    width,
                    start,
                    color=part.color,
                    hatch=part.hatch * 2,
                    edgecolor="white",
                    lw=0.3,
                    zorder=2,
                )
                ends[share >= 0] += share
        if len(stacks) > 1:
            handles.append(
                Patch(facecolor="none", edgecolor="none", label=("left bar:", "right bar:")[column])
            )
        handles += [
            Patch(facecolor=part.color, hatch=part.hatch * 2, edgecolor="white", label=part.name)
            for part in stack.parts[::-1]  # as they lie upon each other
        ]
    _legend(axes, handles, beside=True)
    _finish(axes, f"{letter}  What the Gaussian gap is made of", "% of it", pad=4.0)
    _place(axes, ruler, inches, labels=True)


def _shares(parts: Sequence[Number]) -> list[float]:
    """Parts as percentages of their sum; none where one is missing or the sum is not above 0."""
    values = [part.value for part in parts if part.value is not None]
    total = sum(values)
    return [100 * value / total for value in values] if len(values) == len(parts) and total > 0 else []


# ---------------------------------------------------------------------------------------------------- axes


def _place(axes: Axes, ruler: Ruler, inches: float, *, labels: bool) -> None:
    """The axis of k: shells as ticks, a break beside k = 0."""
    axes.set_xlim(*ruler.ends)
    shown = ruler.labelled(inches)
    axes.set_xticks([ruler(keep) for keep in shown], [f"{keep:,}" for keep in shown] if labels else [])
    axes.set_xticks([ruler(keep) for keep in ruler.keeps], minor=True)
    axes.tick_params(axis="x", labelsize=_SMALLER, pad=2)
    if ruler.keeps[0] == 0:
        low, high = ruler.ends
        middle = (ruler(0) + ruler(ruler.keeps[1])) / 2
        share = (middle - low) / (high - low)
        x, bottom = [share - 0.006, share + 0.006], [0, 0]
        axes.plot(
            x,
            bottom,
            ls="none",
            marker=[(-1, -1.5), (1, 1.5)],
            ms=6,
            mew=0.8,
            color="black",
            transform=axes.transAxes,
            clip_on=False,
            zorder=5,
        )
    if labels:
        at = (0, 0), (-9, -4.5)
        axes.annotate("k", at[0], at[1], "axes fraction", "offset points", fontsize=_SMALLER, va="top")


def _legend(axes: Axes, handles: Sequence[Line2D | Patch], *, beside: bool) -> None:
    """The names of what is drawn: beside the axes, or between them and their title, where no data can be."""
    found = axes.legend(
        handles=handles,
        loc="upper left" if beside else "lower left",
        bbox_to_anchor=(1.01, 1.04) if beside else (-0.02, 0.99),
        ncols=1 if beside else 3,
        fontsize=_SMALLER,
        frameon=False,
        borderaxespad=0.1,
        borderpad=0.1,
        handlelength=2.1 if beside else 1.8,
        handletextpad=0.5,
        columnspacing=0.9,
        labelspacing=0.3,
    )
    found.set_in_layout(
        beside
    )  # above, the title keeps the room, and a long one takes none from its neighbour


def _finish(axes: Axes, title: str, label: str, *, pad: float) -> None:
    axes.set_title(title, loc="left", fontsize=_SMALL, fontweight="bold", pad=pad)
    axes.set_ylabel(label, fontsize=_SMALLER)
    axes.yaxis.set_major_formatter(PLAINLY)
    axes.tick_params(axis="y", labelsize=_SMALLER)
    axes.grid(axis="y", color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
