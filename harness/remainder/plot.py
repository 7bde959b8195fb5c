"""Figures, in Okabe & Ito's colour-blind-safe palette; shapes differ too, for black and white."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from remainder.schema import Number, Record

__all__ = ["ladder", "overview"]

_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#666666"
_LINEAR_BELOW = 0.01  # nats: the axis is linear around zero, so that an exact 0 has a place


def overview(records: Sequence[Record]) -> Figure:
    """Raw and Gaussian gap of every record with 95 % intervals, cheapest interpretation on top."""

    def bits(record: Record) -> tuple[bool, float, str]:
        value = record.complexity.bits_per_token.value
        return (value is None, value or 0.0, record.submission.name)

    ordered = sorted(records, key=bits)
    figure, axes = _axes(len(ordered))
    for place, record in enumerate(ordered):
        low, high = _gap(record, "raw"), _gap(record, "full")
        if low.value is not None and high.value is not None:
            axes.plot([low.value, high.value], [place, place], color=_GREY, lw=1, zorder=1)
        _point(axes, low, place, "o", _BLUE, "raw: what is left out is zero" if place == 0 else None)
        _point(axes, high, place, "D", _VERMILION, "Gaussian: it is noise N(μ, Σ)" if place == 0 else None)
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


def ladder(record: Record) -> Figure:
    """Gap to the clean model on every rung that is added to the reconstruction, with 95 % intervals."""
    rungs = [rung for rung in record.measurement.rungs if rung in record.metrics.rungs]
    figure, axes = _axes(len(rungs))
    for place, rung in enumerate(rungs):
        _point(axes, _gap(record, rung), place, "o", _BLUE, None)
    axes.set_yticks(range(len(rungs)), rungs)
    axes.set_title(
        f"{record.submission.name} on {record.task.id}, version {record.task.version}", fontsize=9, loc="left"
    )
    axes.set_xlabel("loss on this rung − clean loss (nats per token)")
    return figure


def _axes(rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 1.3 + 0.36 * max(rows, 3)), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.5)
    axes.axvline(0, color=_GREY, lw=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(max(rows, 1) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _point(axes: Axes, number: Number, place: int, marker: str, color: str, label: str | None) -> None:
    if number.value is None:
        axes.annotate("–", (0, place), color=color, va="center")
        return
    if number.low is not None and number.high is not None:
        axes.plot([number.low, number.high], [place, place], color=color, lw=2.2, alpha=0.55, zorder=2)
    face = color if marker == "o" else "white"
    axes.plot(
        number.value, place, marker, color=color, markerfacecolor=face, ms=6, lw=0, label=label, zorder=3
    )


def _gap(record: Record, rung: str) -> Number:
    measured = record.metrics.rungs.get(rung)
    return Number.null(f"{rung} was not measured") if measured is None else measured.quenched.gap


def _bits(record: Record) -> str:
    value = record.complexity.bits_per_token.value
    return "?" if value is None else f"{value:,.0f}"
