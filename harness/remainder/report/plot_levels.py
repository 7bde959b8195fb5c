"""Levels over each other as a figure: what each costs, what it looks like, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.record.levels import STATEMENTS, Levels
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.levels import COLUMNS, steps_of
from remainder.report.marks import BLUE, GREEN, GREY, ORANGE, TITLE, VERMILION, legend, plain, whisker

__all__ = ["levels_figure"]

_COSTS = {
    "gap_raw": ("left out (raw)", "black", "o"),
    "gap_full": ("Gaussian", BLUE, "^"),
    "gap_permuted": ("other tokens", ORANGE, "v"),
    "gap_cluster": ("of each cell", GREEN, "s"),
    "gap_hetero": ("size told", VERMILION, "D"),
}
_LOOKS = {"rho_even": ("ρ even", BLUE, "o"), "rho_odd": ("ρ odd", ORANGE, "s")}
_WORDS = {"holds": GREEN, "fails": VERMILION, "open": GREY, "–": GREY}


def levels_figure(levels: Levels, records: Sequence[Record]) -> Figure:
    """The figure of levels.

    Args:
        records: of the levels, in their order.
    """
    figure = Figure(figsize=(7.2, 6.6), dpi=150, layout="constrained")
    costs, looks, words = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2.4, 1.6, 1.2]})
    columns = {key: [COLUMNS[key].of(record) for record in records] for key in (*_COSTS, *_LOOKS)}
    costs.set_title("What a level costs in the next finer one", **TITLE)
    _draw(costs, columns, _COSTS)
    legend(costs)
    costs.set_title(costs.get_title(loc="left"), **(TITLE | {"pad": 30}))  # above two lines of the legend
    positive = [one.value for key in _COSTS for one in columns[key] if one.value]
    if positive and min(positive) > 0:
        costs.set_yscale("symlog", linthresh=max(min(positive), 1e-4))
    plain(costs, "loss − finer (nats per token)", grid="y")
    looks.set_title("Its harm over that of Gaussian noise of its covariance", **TITLE)
    looks.axhline(1, color=GREY, lw=0.8)
    looks.axhline(0, color=GREY, lw=0.8)
    _draw(looks, columns, _LOOKS)
    legend(looks)
    plain(looks, "ratio of KL", grid="y")
    _draw_words(words, levels)
    steps = steps_of(levels)
    words.set_xticks(range(len(steps)), steps, fontsize=7)
    figure.suptitle(
        f"Levels on {levels.task.id}, version {levels.task.version}, tier {levels.tier}; whiskers: 95 % of "
        "each level",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def _draw(axes: Axes, columns: dict[str, list[Number]], looks: dict[str, tuple[str, str, str]]) -> None:
    """Points of each level side by side, with their intervals."""
    for number, (key, (label, color, marker)) in enumerate(looks.items()):
        shift = 0.13 * (number - (len(looks) - 1) / 2)
        values = [np.nan if one.value is None else one.value for one in columns[key]]
        places = np.arange(len(values)) + shift
        axes.plot(places, values, marker, color=color, ms=4, label=label)
        for place, one in zip(places, columns[key], strict=True):
            whisker(axes, float(place), one, 0.0, color=color)


def _draw_words(axes: Axes, levels: Levels) -> None:
    axes.set_title("What a hierarchy would say of it", **TITLE)
    for row, name in enumerate(STATEMENTS):
        for place, verdict in enumerate(levels.statements[name]):
            axes.text(
                place, row, verdict.word, color=_WORDS[verdict.word], fontsize=7, ha="center", va="center"
            )
    axes.set_yticks(range(len(STATEMENTS)), STATEMENTS, fontsize=7)
    axes.set_ylim(len(STATEMENTS) - 0.4, -0.6)
    axes.set_xlim(-0.6, len(levels.levels) - 0.4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
