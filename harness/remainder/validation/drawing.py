"""Drawing of the figures that controls declare, in the palette of `remainder.report.plot`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from remainder.report.plot import save
from remainder.validation.figures import FigureSpec, Panel, Series, file_name
from remainder.validation.verdict import JudgedClaim, fit_power_law

__all__ = ["draw_figure", "save_figures"]

_COLORS = {
    "clean": "#666666",
    "raw": "#0072B2",
    "full": "#D55E00",
    "permuted": "#009E73",
    "mean": "#56B4E9",
    "linear": "#CC79A7",
    "matched": "#E69F00",
}
_OTHERS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
_MARKERS, _HATCHES = "oDs^vP*X", ("", "///", "...", "\\\\\\", "xxx", "++", "--", "oo")
_WIDTH, _HEIGHT = 4.6, 3.5  # inches of a panel
_SMALL: dict[str, Any] = {"fontsize": 8}
_NORMAL_95 = 1.96
_PLAINLY = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))


class _Shown(NamedTuple):
    """One number of a panel: means over seeds."""

    x: float | str
    measured: float
    half: float
    """Half-width of the interval."""
    expected: float | None
    """The claimed value; None for a one-sided claim."""
    each: tuple[JudgedClaim, ...]


def save_figures(
    figures: Sequence[FigureSpec], comparisons: Sequence[JudgedClaim], folder: Path
) -> list[Path]:
    """Draw all figures of a validation into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        paths.append(folder / file_name(figure))
        save(draw_figure(figure, comparisons), paths[-1])
    return paths


def draw_figure(spec: FigureSpec, comparisons: Sequence[JudgedClaim]) -> Figure:
    """One figure; its panels stand in a row, or in two rows if there are four."""
    by_number: dict[tuple[str, str, str], list[JudgedClaim]] = {}
    for one in comparisons:
        bare = one.quantity.removesuffix(" at least").removesuffix(" at most")
        by_number.setdefault((one.task, one.interpretation, bare), []).append(one)
    rows = 2 if len(spec.panels) == 4 else 1
    columns = math.ceil(len(spec.panels) / rows)
    width = 6.4 if len(spec.panels) == 1 else columns * _WIDTH
    figure = Figure(
        figsize=(width, rows * _HEIGHT + 0.4), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, spec.panels, strict=True):
        shown = {series: _numbers(panel, series, by_number) for series in panel.series}
        (_draw_bars if panel.kind == "bars" else _draw_points)(axes, panel, shown)
        legend_rows = 3 * len(panel.series) if panel.kind == "law" else 1
        pad = 10 + 11 * legend_rows
        axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold", pad=pad)
        axes.set_xlabel(panel.xlabel, **_SMALL)
        axes.set_ylabel(panel.ylabel, **_SMALL)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _legend(axes, panel, columns)
    figure.suptitle(spec.title, x=0.01, ha="left", fontsize=10)
    return figure


def _legend(axes: Axes, panel: Panel, columns: int) -> None:
    """Draw the legend between title and axes, where no data can be, with expected values last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: "expected" in labels[place])
    many = len(labels) > 4 and columns > 1
    axes.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=1 if panel.kind == "law" else len(labels),
        fontsize=6.5 if many else 7,
        frameon=False,
        borderaxespad=0.1,
        handlelength=1.4 if many else 2.0,
        handletextpad=0.5,
        columnspacing=0.9 if many else 1.2,
    )


def _numbers(
    panel: Panel, series: Series, by_number: Mapping[tuple[str, str, str], list[JudgedClaim]]
) -> list[_Shown]:
    shown = []
    for point in panel.points:
        claims = by_number[point.task, point.interpretation, series.quantity]
        two_sided = [one for one in claims if not one.one_sided]
        # A quantity of one world is one number, however many claims there are of it.
        found = list({one.seed: one for one in two_sided or claims}.values())
        half = _NORMAL_95 * math.sqrt(sum(one.se**2 for one in found)) / len(found)
        expected = float(np.mean([one.expected for one in found])) if two_sided else None
        measured = float(np.mean([one.measured for one in found]))
        shown.append(_Shown(point.x, measured, half, expected, tuple(found)))
    return shown


def _draw_bars(axes: Axes, panel: Panel, shown: Mapping[Series, list[_Shown]]) -> None:
    width = 0.84 / len(panel.series)
    top = max(one.measured + one.half for numbers in shown.values() for one in numbers)
    for place, (series, numbers) in enumerate(shown.items()):
        centres = np.arange(len(numbers)) + (place - (len(panel.series) - 1) / 2) * width
        axes.bar(
            centres,
            [one.measured for one in numbers],
            width * 0.92,
            color=_color(series, place),
            alpha=0.75,
            hatch=_HATCHES[place % len(_HATCHES)],
            edgecolor="black",
            lw=0.6,
            label=series.label,
            zorder=2,
        )
        for centre, one in zip(centres, numbers, strict=True):
            axes.plot(
                [centre] * 2,
                [one.measured - one.half, one.measured + one.half],
                "_-",
                color="black",
                lw=1,
                ms=4,
                zorder=3,
            )
            if one.expected is not None:
                axes.plot(
                    [centre - width * 0.46, centre + width * 0.46],
                    [one.expected] * 2,
                    color="black",
                    lw=2.2,
                    zorder=4,
                    solid_capstyle="butt",
                )
            axes.annotate(
                _short(one.measured),
                (centre, max(one.measured + one.half, one.expected or 0.0)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
            )
    axes.plot([], [], color="black", lw=2.2, label="expected")
    axes.set_xticks(range(len(panel.points)), [str(point.x) for point in panel.points])
    axes.tick_params(axis="x", length=0)
    low, _ = axes.get_ylim()
    axes.set_ylim(low, top + 0.09 * (top - min(low, 0.0)))
    axes.yaxis.set_major_formatter(_PLAINLY)


def _draw_points(axes: Axes, panel: Panel, shown: Mapping[Series, list[_Shown]]) -> None:
    law = panel.kind == "law"
    if law:
        axes.set_xscale("log")
        axes.set_yscale("log")
    for place, (series, numbers) in enumerate(shown.items()):
        color, marker = _color(series, place), _MARKERS[place % len(_MARKERS)]
        x = np.array([float(one.x) for one in numbers])
        # Logarithmic axes show sizes; a point whose noise turned its sign falls off them.
        sign = -1.0 if law and sum(one.measured for one in numbers) < 0 else 1.0
        y = sign * np.array([one.measured for one in numbers])
        half = np.array([one.half for one in numbers])
        axes.errorbar(
            x,
            y,
            # A bar that reached zero would have no end on a logarithmic axis.
            [np.minimum(half, 0.9 * np.maximum(y, 0)) if law else half, half],
            fmt=marker,
            ms=5,
            color=color,
            mfc="white" if place % 2 else color,
            capsize=2.5,
            elinewidth=1,
            zorder=4,
            label=f"{series.label}, measured" if law else series.label,
        )
        known = [one.expected is not None for one in numbers]
        line = [math.nan if one.expected is None else sign * one.expected for one in numbers]
        if any(known):
            style = "-" if law else ("-", "--", "-.", ":")[place % 4]
            label = "expected" if law else None
            axes.plot(x, line, style, color="black" if law else color, lw=1.3, zorder=2, label=label)
        if law:
            _draw_fit(axes, numbers, color)
            shown_sizes = [size for size in (*y, *line) if size > 0]
            axes.set_ylim(min(shown_sizes) / 3, max(shown_sizes) * 2)
    if not law:
        axes.plot([], [], "-", color="black", lw=1.3, label="lines: expected")
        axes.yaxis.set_major_formatter(_PLAINLY)
    ticks = sorted({float(point.x) for point in panel.points})
    if law or len(ticks) <= 8:
        axes.set_xticks(ticks)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(_PLAINLY)


def _draw_fit(axes: Axes, numbers: Sequence[_Shown], color: str) -> None:
    """The power law through all that was measured, seed by seed."""
    points = [(float(one.x), found.measured, found.se) for one in numbers for found in one.each]
    x, y, errors = np.array(points).T
    fit = fit_power_law(x, y, errors)
    ends = np.geomspace(x.min() / 1.15, x.max() * 1.15, 50)
    exponent = f"{fit.exponent:.3f} ± {_NORMAL_95 * fit.error:.3f}".replace("-", "−")
    axes.plot(
        ends,
        fit.prefactor * ends**fit.exponent,
        "--",
        color=color,
        lw=1.6,
        zorder=3,
        label=f"fitted: power {exponent} (95 %)",
    )


def _color(series: Series, place: int) -> str:
    return _COLORS.get(series.quantity.split(" ")[0], _OTHERS[place % len(_OTHERS)])


def _short(value: float) -> str:
    text = f"{value:.3f}".replace("-", "−")
    return "0" if float(f"{value:.3f}") == 0 else text.replace("0.", ".", 1)
