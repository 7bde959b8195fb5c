"""The flow as a figure: what each part of the bath costs, shell by shell, and where it becomes one.

1. The cost of leaving the bath out, of its Gaussian and of what is real in it, over the number of kept
   sources, with the scales k* as bars.
2. What the bath looks like at each scale: ρ even and odd, and π.
3. The orders' distance to what was sampled, and the annealed loss's to the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.record.flow import SCALES, Flow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.flow import COLUMNS
from remainder.report.marks import BLUE, GREEN, GREY, ORANGE, PALE, TITLE, VERMILION, legend, plain

__all__ = ["flow_figure"]

_BARS = {"shape": ORANGE, "perturbative": BLUE, "raw": GREY, "bath": VERMILION}


def flow_figure(flow: Flow, records: Sequence[Record]) -> Figure:
    """The figure of a flow.

    Args:
        records: of its shells, in their order.
    """
    keeps = np.array([shell.keep for shell in flow.shells], dtype=np.float64)
    columns = {key: [column.of(record) for record in records] for key, column in COLUMNS.items()}
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (2.6, lambda axes: _draw_costs(axes, keeps, columns)),
        (0.9, lambda axes: _draw_scales(axes, flow)),
    ]
    if _has(columns, "rho_even", "perturbativity"):
        panels.append((1.8, lambda axes: _draw_looks(axes, keeps, columns)))
    if _has(columns, "one", "annealed_1"):
        panels.append((1.8, lambda axes: _draw_steps(axes, keeps, columns)))
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(7.2, 0.8 + 1.1 * sum(heights)), dpi=150, layout="constrained")
    found = figure.subplots(len(panels), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for axes, (_, draw) in zip(found, panels, strict=True):
        draw(axes)
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlim(-0.15, keeps.max() * 1.15)
    last = found[-1]
    last.set_xticks(keeps, [f"{keep:g}" for keep in keeps])
    last.minorticks_off()
    where = {"dynamic": "sources kept at each token", "edges": "edges kept"}
    kept = where.get(flow.order, f"sources of the dictionary kept ({flow.order})")
    last.set_xlabel(f"{kept}; all others are the bath", fontsize=8)
    figure.suptitle(
        f"{flow.submission.name} on {flow.task.id}, version {flow.task.version}, tier {flow.tier}; "
        "bands: 95 % intervals of each shell",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def _has(columns: dict[str, list[Number]], *keys: str) -> bool:
    """Whether any shell has one of these numbers."""
    return any(number.value is not None for key in keys for number in columns[key])


def _values(numbers: Sequence[Number]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if n.value is None else n.value for n in numbers], dtype=np.float64)


def _band(
    axes: Axes,
    keeps: np.ndarray[tuple[int], np.dtype[np.float64]],
    numbers: Sequence[Number],
    label: str,
    color: str,
    style: str = "-",
    marker: str = "o",
) -> None:
    """A line through the values, and a band of their intervals."""
    axes.plot(keeps, _values(numbers), style, color=color, marker=marker, ms=3.5, lw=1.3, label=label)
    low, high = (
        np.array([np.nan if (end := getattr(n, side)) is None else end for n in numbers], dtype=np.float64)
        for side in ("low", "high")
    )
    axes.fill_between(keeps, low, high, color=color, alpha=0.15, lw=0)


def _draw_costs(
    axes: Axes, keeps: np.ndarray[tuple[int], np.dtype[np.float64]], columns: dict[str, list[Number]]
) -> None:
    axes.set_title("What the bath costs; shaded: its mean, and its Gaussian noise above", **TITLE)
    zero, sampled = _values(columns["zero"]), _values(columns["sampled"])
    axes.fill_between(keeps, 0, zero, color=PALE, alpha=0.7, lw=0)
    axes.fill_between(keeps, zero, sampled, color="#eeeeee", lw=0)
    _band(axes, keeps, columns["gap_raw"], "left out (raw)", "black")
    _band(axes, keeps, columns["gap_renormalised_mean"], "told by codes", GREEN, "--", "s")
    _band(axes, keeps, columns["sampled"], "Gaussian, sampled", BLUE, "-", "^")
    _band(axes, keeps, columns["gap_permuted"], "real rows", ORANGE, ":", "v")
    positive = [n.value for key in ("gap_raw", "sampled") for n in columns[key] if n.value is not None]
    if positive and min(positive) > 0:
        axes.set_yscale("symlog", linthresh=max(min(positive), 1e-4))
    legend(axes)
    plain(axes, "loss − clean (nats per token)", grid="y")


def _draw_scales(axes: Axes, flow: Flow) -> None:
    axes.set_title("Scales k*: bars from where a criterion may hold to where it does", **TITLE)
    last = flow.shells[-1].keep
    for place, name in enumerate(SCALES):
        bracket = flow.scales[name]
        if bracket.low is not None:
            high = last if bracket.high is None else bracket.high
            style = ":" if bracket.high is None else "-"
            axes.plot([bracket.low, high], [place, place], style, color=_BARS[name], lw=5, alpha=0.6)
            axes.plot([bracket.low, high], [place, place], "|", color=_BARS[name], ms=9, mew=1.5)
        axes.annotate(
            bracket.verdict, (1.005, place), xycoords=("axes fraction", "data"), fontsize=7, va="center"
        )
    axes.set_yticks(range(len(SCALES)), [f"k {name}" for name in SCALES], fontsize=7)
    axes.set_ylim(len(SCALES) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_looks(
    axes: Axes, keeps: np.ndarray[tuple[int], np.dtype[np.float64]], columns: dict[str, list[Number]]
) -> None:
    axes.set_title("What the bath looks like", **TITLE)
    axes.axhline(1, color=GREY, lw=0.8)
    axes.axhline(0, color=GREY, lw=0.8)
    _band(axes, keeps, columns["rho_even"], "ρ even", BLUE)
    _band(axes, keeps, columns["rho_odd"], "ρ odd", ORANGE, "--", "s")
    _band(axes, keeps, columns["perturbativity"], "π", VERMILION, ":", "^")
    legend(axes)
    plain(axes, "ratio", grid="y")


def _draw_steps(
    axes: Axes, keeps: np.ndarray[tuple[int], np.dtype[np.float64]], columns: dict[str, list[Number]]
) -> None:
    axes.set_title("Orders less what was sampled; annealed less the mean", **TITLE)
    axes.axhline(0, color=GREY, lw=0.8)
    sampled = _values(columns["sampled"])
    for key, label, color, marker in (("one", "one order", GREY, "o"), ("two", "two orders", "black", "s")):
        axes.plot(
            keeps, _values(columns[key]) - sampled, marker=marker, ms=3.5, lw=1.3, color=color, label=label
        )
    _band(axes, keeps, columns["annealed_06"], "bath × .6", VERMILION, "--", "^")
    _band(axes, keeps, columns["annealed_1"], "bath × 1", VERMILION, "-", "D")
    axes.set_yscale("symlog", linthresh=1e-3)
    legend(axes)
    plain(axes, "nats per token", grid="y")
