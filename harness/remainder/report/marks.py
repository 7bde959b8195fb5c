"""Marks that all panels of figures share."""

from __future__ import annotations

from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from remainder.record.number import Number
from remainder.report.palette import BLUE, GREEN, GREY, ORANGE, PALE, VERMILION

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALE",
    "PLAINLY",
    "TITLE",
    "VERMILION",
    "legend",
    "plain",
    "whisker",
]

PLAINLY = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
TITLE: dict[str, Any] = {"fontsize": 9, "loc": "left", "fontweight": "bold"}


def whisker(axes: Axes, place: float, number: Number, start: float, *, color: str = "black") -> None:
    """The interval of a number as a vertical line with caps, shifted by `start`."""
    if number.value is None or number.low is None or number.high is None:
        return
    # Not an error bar of half-widths: an interval need not hold its value.
    axes.plot(
        [place] * 2, [start + number.low, start + number.high], "_-", color=color, lw=1, ms=6, zorder=2.5
    )


def legend(axes: Axes) -> None:
    """Put the legend between the title and the axes, where no data can be."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        fontsize=7,
        frameon=False,
        borderaxespad=0.1,
        borderpad=0.2,
        handlelength=2.2,
        columnspacing=1.2,
    )
    title = axes.get_title(loc="left")
    axes.set_title(title, **(TITLE | {"pad": 18}))


def plain(axes: Axes, label: str, *, grid: Literal["x", "y"]) -> None:
    axes.set_ylabel(label, fontsize=8)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(PLAINLY)  # a power of ten above the axis would lie on the legend
    axes.tick_params(labelsize=8)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
