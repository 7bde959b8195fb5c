"""The error of one Gaussian mode a shell as a figure: over the ratio of shells, and over their shift."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remainder.record.modes import KINDS, Discretisation, Discretised
from remainder.report.marks import BLUE, GREY, ORANGE, TITLE, legend, plain, whisker
from remainder.report.text import in_words

__all__ = ["modes_figure"]

_LOOKS = {"reading": ("keeps gᵀΣg", BLUE, "o"), "trace": ("keeps tr Σ (control)", ORANGE, "s")}
_APART = 0.09
"""Half of what the kinds of modes stand apart, in places of ratios."""


def modes_figure(found: Discretisation) -> Figure:
    """Left, the error averaged over shifts with its interval and that of each shift; right, their spread."""
    figure = Figure(figsize=(7.2, 3.8), dpi=150, layout="constrained")
    errors, spreads = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2, 1]})
    errors.set_title("Error of one mode a shell", **TITLE)
    errors.axhline(0, color=GREY, lw=0.8)
    for number, kind in enumerate(KINDS):
        rows = [row for row in found.modes if row.kind == kind]
        _draw_errors(errors, rows, (2 * number - 1) * _APART)
        label, color, marker = _LOOKS[kind]
        places = np.arange(len(rows)) + (2 * number - 1) * _APART
        spreads.plot(places, [row.spread for row in rows], marker, color=color, ms=5, label=label)
    for axes in (errors, spreads):
        axes.set_xticks(range(len(found.ratios)), [f"{ratio:g}" for ratio in found.ratios])
        axes.set_xlim(-0.5, len(found.ratios) - 0.5)
    errors.set_xlabel("Λ, the ratio of shells", fontsize=8)
    spreads.set_xlabel("Λ, the ratio of shells", fontsize=8)
    legend(errors)
    spreads.set_ylim(bottom=0)
    plain(errors, "loss − one mode a source (nats per token)", grid="y")
    plain(spreads, "nats per token", grid="y")
    spreads.set_title("Largest − smallest over z", **(TITLE | {"pad": 18}))
    figure.suptitle(
        f"{found.submission.name} on {found.task.id}, tier {found.tier}: {found.keep} of {found.sources} "
        f"sources kept ({found.order})\n"
        f"the bath's own Gaussian costs {in_words(found.bath)}, one mode a source "
        f"{in_words(found.sources_apart)} more",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return figure


def _draw_errors(axes: Axes, rows: list[Discretised], start: float) -> None:
    """One kind of modes: means over shifts joined by a line, and the shifts themselves in pale."""
    label, color, marker = _LOOKS[rows[0].kind]
    places = np.arange(len(rows)) + start
    values = [np.nan if row.error.value is None else row.error.value for row in rows]
    axes.plot(places, values, f"{marker}-", color=color, ms=5, lw=1, label=label)
    for place, row in zip(places, rows, strict=True):
        whisker(axes, float(place), row.error, 0.0, color=color)
        beside = place + 0.5 * start + np.sign(start) * 0.04 * np.arange(1, len(row.shifted) + 1)
        of_shift = "at each z" if row is rows[0] and row.kind == KINDS[0] else None
        axes.plot(beside, row.shifted, marker, color=color, ms=3, alpha=0.45, mec="none", label=of_shift)
