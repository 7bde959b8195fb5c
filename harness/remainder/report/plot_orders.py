"""Panels of a ladder on the Gaussian residual as perturbation theory sees it: orders, and ρ taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from remainder.record.number import Number
from remainder.record.ratio import OTHERS
from remainder.record.rungs import AMPLITUDES
from remainder.record.schema import Record
from remainder.report.ladder import ladder
from remainder.report.marks import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLAINLY,
    TITLE,
    VERMILION,
    legend,
    plain,
    whisker,
)

__all__ = ["draw_orders", "draw_ratio"]

_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10)


def draw_orders(axes: Axes, record: Record) -> None:
    """Gap over the amplitude of the noise with both orders, and the noise integrated out."""
    orders = record.metrics.orders
    assert orders is not None
    terms = orders.loss
    axes.set_title("Order by order in the noise", **TITLE)
    alpha = np.linspace(0, 1.05, 106)
    if terms.zero.value is not None and terms.a2.value is not None and terms.a4.value is not None:
        one = terms.zero.value + terms.a2.value * alpha**2
        axes.plot(alpha, one, color=GREY, lw=1.2, ls=":", label="quadratic")
        axes.plot(alpha, one + terms.a4.value * alpha**4, color="black", lw=1.2, ls="--", label="two terms")
    gaps = {rung.name: rung.gap for rung in ladder(record)}
    sampled = [(0.0, terms.zero), *((size, gaps.get(rung)) for rung, size in AMPLITUDES.items())]
    _points(axes, sampled, "o", BLUE, "sampled")
    clean, mean = record.metrics.clean.loss.value, terms.zero.value
    if clean is not None and mean is not None:
        bath = [(point.amplitude, _above(point.difference, mean)) for point in record.metrics.bath or ()]
        _points(axes, bath, "D", VERMILION, "annealed")
    axes.set_xticks([0.0, *AMPLITUDES.values()])
    axes.set_xlabel("α: noise × α; bars of annealed: of its difference to α = 0", fontsize=8)
    legend(axes)
    plain(axes, "loss − clean loss (nats per token)", grid="y")


def draw_ratio(axes: Axes, record: Record) -> None:
    """ρ over each denominator on a log axis, and its parts by sign and size."""
    ratio, parts = record.metrics.gaussian_ratio, record.metrics.ratio_parts
    assert parts is not None
    rows = [
        ("isotropic", ratio.isotropic, "o", BLUE),
        ("fitted covariance", ratio.fitted, "o", BLUE),
        ("both", ratio.directional, "o", BLUE),
        *((name, parts.others[name], "s", ORANGE) for name in OTHERS if name in parts.others),
        ("even", parts.even, "D", GREEN),
        ("even, × 0.3", parts.small, "D", GREEN),
    ]
    rows = [row for row in rows if row[1].value]
    axes.set_title("ρ by what the noise shares with the residual", **TITLE)
    axes.set_xscale("log")
    axes.axvline(1, color=GREY, lw=1)
    ends = [1.0]
    for place, (_, number, marker, color) in enumerate(rows):
        face = color if marker == "o" else "white"
        axes.plot([number.value or 1.0], place, marker, color=color, markerfacecolor=face, ms=5, zorder=3)
        if number.low is not None and number.high is not None:
            axes.plot([number.low, number.high], [place] * 2, color=color, lw=2, alpha=0.55, zorder=2)
        ends += [end for end in (number.value, number.low, number.high) if end]
    axes.set_xlim(min(ends) / 1.15, max(ends) * 1.15)
    ticks = [tick for tick in _TICKS if min(ends) / 1.15 <= tick <= max(ends) * 1.15]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PLAINLY)
    axes.set_xlabel("KL of the reconstruction over KL of the noise", fontsize=8)
    plain(axes, "", grid="x")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _above(number: Number, base: float) -> Number:
    """A difference as it stands above `base`."""
    moved = {
        name: None if end is None else end + base
        for name in ("value", "low", "high")
        for end in (getattr(number, name),)
    }
    return Number(**moved, reason=number.reason)


def _points(
    axes: Axes, points: Sequence[tuple[float, Number | None]], marker: str, color: str, label: str
) -> None:
    for place, number in points:
        if number is None or number.value is None:
            continue
        face = color if marker == "o" else "white"
        axes.plot(place, number.value, marker, color=color, markerfacecolor=face, ms=5, label=label, zorder=3)
        whisker(axes, place, number, 0.0, color=color)
        label = "_"
