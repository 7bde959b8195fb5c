"""The figure of a flow to zoom and point at: the panels of the still one, for plotly on the board's pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remainder.record.flow import Flow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.flow_panels import Panel, Series, kept_what, panels_of
from remainder.report.text import in_words

__all__ = ["explorable_flow"]

_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "x": "x"}


def explorable_flow(flow: Flow, records: Sequence[Record]) -> dict[str, Any]:
    """The panels of a flow as `data` and `layout` of plotly, which a page passes on as they are.

    No text of a submission is in it. Colours are those of the still figure; fonts are the page's to set.
    Every k is a category of its axis, as k = 0 has no place on a logarithmic one.

    Args:
        records: of its shells, in their order.
    """
    panels = panels_of(flow, records)
    rows = (len(panels) + 1) // 2
    layout: dict[str, Any] = {
        "height": 260 * rows,
        "margin": {"l": 56, "r": 12, "t": 40, "b": 44},
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "grid": {"rows": rows, "columns": 2, "pattern": "independent", "ygap": 0.35},
        "legend": {"orientation": "h"},
        "annotations": [],
    }
    data: list[dict[str, Any]] = []
    for place, panel in enumerate(panels):
        suffix = "" if place == 0 else str(place + 1)
        data += [_trace(series, suffix) for series in panel.series]
        layout[f"xaxis{suffix}"] = {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [str(shell.keep) for shell in flow.shells],
            "title": {"text": kept_what(flow) if place >= len(panels) - 2 else ""},
        }
        layout[f"yaxis{suffix}"] = _axis(panel)
        layout["annotations"].append(_heading(panel, suffix))
    return {"data": data, "layout": layout}


def _trace(series: Series, suffix: str) -> dict[str, Any]:
    shown = [
        (keep, number)
        for keep, number in zip(series.keeps, series.numbers, strict=True)
        if number.value is not None
    ]
    return {
        "type": "scatter",
        "mode": "lines" if series.faint else "lines+markers",
        "name": series.name,
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "x": [str(keep) for keep, _ in shown],
        "y": [number.value for _, number in shown],
        "text": [f"{series.name}, k = {keep:,}: {in_words(number)}" for keep, number in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "opacity": 0.3 if series.faint else 1,
        "line": {
            "color": series.color,
            "dash": _DASHES[series.dash],
            "width": 4 if series.faint else 1.5,
        },
        "marker": {"color": series.color, "symbol": _SYMBOLS.get(series.marker, "circle"), "size": 6},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [_beyond(number.high, number, 1) for _, number in shown],
            "arrayminus": [_beyond(number.low, number, -1) for _, number in shown],
            "color": series.color,
            "thickness": 1,
            "width": 0,
        },
    }


def _beyond(end: float | None, number: Number, sign: int) -> float:
    """Distance of an end of the interval from the value; 0 where it lies on the other side."""
    return 0.0 if end is None or number.value is None else max(sign * (end - number.value), 0.0)


def _axis(panel: Panel) -> dict[str, Any]:
    values = [number.value for one in panel.series for number in one.numbers if number.value is not None]
    scale = "log" if panel.knee is not None and min(values) > 0 else "linear"
    return {"type": scale, "title": {"text": panel.unit}, "exponentformat": "none", "zeroline": True}


def _heading(panel: Panel, suffix: str) -> dict[str, Any]:
    return {
        "text": f"<b>{panel.title}</b>",
        "xref": f"x{suffix} domain",
        "yref": f"y{suffix} domain",
        "x": 0,
        "y": 1.12,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
    }
