"""Layers as a figure: costs alone and given below, the remainder's power, what arrives, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.record.layers import STATEMENTS, Layers, LayerShell
from remainder.record.number import Number
from remainder.report.layers import COLUMNS, labels_of
from remainder.report.marks import BLUE, GREEN, GREY, ORANGE, TITLE, VERMILION, legend, plain, whisker

__all__ = ["layers_figure"]

_Look = tuple[str, str, str]
"""Label, colour and marker."""

_WHOLE: Mapping[str, _Look] = {
    "raw_sum": ("raw, sum of sites alone", GREY, "o"),
    "raw": ("raw, all at once", "black", "o"),
    "gaussian_sum": ("Gaussian, sum", ORANGE, "^"),
    "full": ("at once, single-shot", BLUE, "^"),
    "sequential": ("at once, given below", GREEN, "v"),
}
_POWER: Mapping[str, _Look] = {
    "power_raw": ("x̂ below", "black", "o"),
    "power_gaussian": ("x̂ and noise below", BLUE, "^"),
}
_ARRIVES: Mapping[str, _Look] = {
    "gaussian_to_linear": ("noise over J ε", BLUE, "^"),
    "real_to_linear": ("the remainder over J ε", VERMILION, "s"),
}
_WORDS = {"holds": GREEN, "fails": VERMILION, "open": GREY, "–": GREY}


def layers_figure(layers: Layers) -> Figure:
    """The figure of layers: a column for all sites, and one for each site with sites below."""
    labels, keeps = labels_of(layers), [f"{shell.keep:,}" for shell in layers.shells]
    upper = range(1, len(labels))
    figure = Figure(figsize=(7.2, 2.6 + 5.0 * len(upper)), dpi=150, layout="constrained")
    heights = [2.2] + [1.5, 1.5, 1.4] * len(upper)
    rows = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    costs, others = rows[0], list(rows[1:])
    _titled(costs, "All sites at once, and one at a time", layers.shells, _WHOLE, 0)
    costs.set_yscale("symlog", linthresh=0.1)
    plain(costs, "loss − clean (nats a token)", grid="y")
    verdicts = [layers.statements[name] for name in STATEMENTS]
    for place in upper:
        power, arrives, words = (others.pop(0) for _ in range(3))
        _titled(power, f"{labels[place]}: power of its remainder given below", layers.shells, _POWER, place)
        plain(power, "over that alone", grid="y")
        below = labels[place - 1]
        title = f"{labels[place]}: what arrives of the remainder of {below}"
        _titled(arrives, title, layers.shells, _ARRIVES, place)
        plain(arrives, "over power of J ε", grid="y")
        for axes in (power, arrives):
            axes.axhline(1, color=GREY, lw=0.8)
        own = [row[place - 1 :: len(upper)] for row in verdicts]
        _draw_words(words, [[verdict.word for verdict in row] for row in own])
    rows[-1].set_xticks(range(len(keeps)), keeps, fontsize=8)
    rows[-1].set_xlabel("sources kept at every token and site", fontsize=8)
    chain = layers.chain
    names = ", then ".join(f"{site.submission.name} on {site.task.id}" for site in chain.sites)
    figure.suptitle(
        f"Across layers, tier {chain.tier}: {names}; whiskers: 95 %", fontsize=8, x=0.01, ha="left"
    )
    return figure


def _titled(
    axes: Axes, title: str, shells: Sequence[LayerShell], looks: Mapping[str, _Look], site: int
) -> None:
    axes.set_title(title, **TITLE)
    for number, (key, (label, color, marker)) in enumerate(looks.items()):
        _draw(axes, shells, COLUMNS[key].of, site, (label, color, marker), number, len(looks))
    legend(axes)
    if len(looks) > 4:  # more than a line of the legend
        axes.set_title(axes.get_title(loc="left"), **(TITLE | {"pad": 30}))


def _draw(
    axes: Axes,
    shells: Sequence[LayerShell],
    of: Callable[[LayerShell, int], Number],
    site: int,
    look: _Look,
    number: int,
    count: int,
) -> None:
    """One number of all shells, beside the others."""
    label, color, marker = look
    numbers = [of(shell, site) for shell in shells]
    places = np.arange(len(numbers)) + 0.12 * (number - (count - 1) / 2)
    values = [np.nan if one.value is None else one.value for one in numbers]
    axes.plot(places, values, marker, color=color, ms=4, label=label)
    for place, one in zip(places, numbers, strict=True):
        whisker(axes, float(place), one, 0.0, color=color)


def _draw_words(axes: Axes, words: Sequence[Sequence[str]]) -> None:
    axes.set_title("What a hierarchy would say of it", **TITLE)
    for row, said in enumerate(words):
        for place, word in enumerate(said):
            axes.text(place, row, word, color=_WORDS[word], fontsize=7, ha="center", va="center")
    axes.set_yticks(range(len(STATEMENTS)), STATEMENTS, fontsize=7)
    axes.set_ylim(len(STATEMENTS) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
