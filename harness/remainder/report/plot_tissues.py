"""Near and far as a figure: token × k as heat maps under a strip of tissues, and how far tissues differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from remainder.record.tissues import Tissues, column_of
from remainder.report.marks import BLUE, GREEN, GREY, ORANGE, TITLE, VERMILION, legend, plain, whisker
from remainder.report.palette import BLACK, PALE, PURPLE, SKY
from remainder.report.tissues import tau, title_of

__all__ = ["tissues_figure"]

_MOST = 600  # tokens that are drawn, evenly of all
_LEAST = 1e-6  # nats a token; a KL below has no colour of its own
_NOTHING = "#dddddd"
"""The colour where noise does no harm, and a ratio has no value."""
_RATIOS = 8.0  # ρ even beyond is drawn as that
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY, PALE, BLACK, "#8c6d31", "#7b4173", "#bd9e39")

Array = NDArray[np.float64]


def tissues_figure(tissues: Tissues, tokens: pd.DataFrame) -> Figure:
    """The figure of a measurement.

    Args:
        tokens: the table beside it.
    """
    figure = Figure(figsize=(7.2, 8.2), dpi=150, layout="constrained")
    strip, harm, ratio, lines = figure.subplots(4, 1, gridspec_kw={"height_ratios": [0.25, 1.5, 1.5, 2.0]})
    shells = tissues.follows.shells
    keeps = [shell.keep for shell in shells]
    chosen = _chosen(tokens, keeps)
    _draw_strip(strip, tissues, chosen["tissue"].to_numpy(dtype=np.int64))
    raw = _grid(chosen, "kl_raw", keeps)
    known = raw[np.isfinite(raw) & (raw > _LEAST)]
    ends = (float(known.min()), float(known.max())) if len(known) else (_LEAST, 1.0)
    # From the median's tenth of a thousandth on: single tokens of no harm would take all colours.
    low = max(ends[0], ends[1] * 1e-5)
    image = _draw_grid(
        harm,
        np.clip(raw, low, None),
        keeps,
        norm=LogNorm(low, max(ends[1], 1.01 * low)),
        cmap=colormaps["magma"],
    )
    bar = figure.colorbar(image, ax=harm, pad=0.01)
    bar.set_label("KL, nats", fontsize=8)
    bar.ax.tick_params(labelsize=7, which="both")
    harm.set_title("Harm of leaving the bath out, token by token (raw)", **TITLE)
    even = _ratios(chosen, keeps)
    image = _draw_grid(
        ratio,
        np.clip(np.log2(even), -np.log2(_RATIOS), np.log2(_RATIOS)),
        keeps,
        norm=TwoSlopeNorm(0.0, -np.log2(_RATIOS), np.log2(_RATIOS)),
        cmap=colormaps["RdBu_r"].with_extremes(bad=_NOTHING),
    )
    bar = figure.colorbar(image, ax=ratio, pad=0.01, ticks=[-3, -1, 0, 1, 3])
    bar.set_label("ρ even", fontsize=8)
    bar.ax.set_yticklabels(["⅛", "½", "1", "2", "8"], fontsize=7)
    ratio.set_title("Over that of Gaussian noise of the bath's covariance", **TITLE)
    ratio.set_xlabel(f"{len(chosen):,} tokens of {len(tokens):,}, by tissue and harm", fontsize=8)
    for axes in (strip, harm):
        axes.set_xticks([])
    _draw_lines(lines, tissues, keeps)
    figure.suptitle(title_of(tissues), fontsize=7, x=0.01, ha="left")
    return figure


def _chosen(tokens: pd.DataFrame, keeps: Sequence[int]) -> pd.DataFrame:
    """Some tokens, evenly of all, by tissue and then by harm with fewest sources kept."""
    by = column_of("kl_raw", keeps[0])
    order = ["tissue", by] if by in tokens else ["tissue"]
    ordered = tokens.sort_values([*order, "document", "window", "position"], ignore_index=True)
    places = np.unique(np.linspace(0, len(ordered) - 1, min(_MOST, len(ordered))).round().astype(int))
    found: pd.DataFrame = ordered.iloc[places].reset_index(drop=True)
    return found


def _column(tokens: pd.DataFrame, name: str, keep: int) -> Array:
    place = column_of(name, keep)
    return tokens[place].to_numpy(dtype=np.float64) if place in tokens else np.full(len(tokens), np.nan)


def _grid(tokens: pd.DataFrame, name: str, keeps: Sequence[int]) -> Array:
    return np.stack([_column(tokens, name, keep) for keep in keeps])


def _ratios(tokens: pd.DataFrame, keeps: Sequence[int]) -> Array:
    """ρ even of each token; NaN where noise does no harm."""
    raw, mirror, noise = (_grid(tokens, f"kl_{rung}", keeps) for rung in ("raw", "mirror", "noise-fitted"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(noise > _LEAST, np.maximum((raw + mirror) / 2, _LEAST) / noise, np.nan)


def _draw_grid(axes: Axes, values: Array, keeps: Sequence[int], **look: Any) -> Any:
    image = axes.imshow(values, aspect="auto", interpolation="nearest", origin="lower", **look)
    axes.set_yticks(range(len(keeps)), [f"{keep:,}" for keep in keeps], fontsize=7)
    axes.set_ylabel("near sources k", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    return image


def _draw_strip(axes: Axes, tissues: Tissues, labels: NDArray[np.int64]) -> None:
    count = len(tissues.follows.tissues)
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(count)]
    axes.imshow(
        labels[None],
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=count - 0.5,
    )
    for number in range(count):
        places = np.flatnonzero(labels == number)
        if len(places):
            axes.text(
                float(places.mean()), 0, f"{number + 1}", color="white", fontsize=7, ha="center", va="center"
            )
    axes.set_yticks([])
    axes.set_title("Tissues", **TITLE)


def _draw_lines(axes: Axes, tissues: Tissues, keeps: Sequence[int]) -> None:
    """Raw of every tissue over k, and τ of all."""
    shells, places = tissues.follows.shells, np.arange(len(keeps))
    for number in range(len(tissues.follows.tissues)):
        axes.plot(
            places,
            _known(shell.tissues[number].raw.value for shell in shells),
            color=_COLOURS[number % len(_COLOURS)],
            lw=1,
            alpha=0.8,
        )
    first = tissues.orders[0]
    for place, shell in enumerate(shells):
        whisker(axes, float(place), shell.orders[first].raw, 0.0)
    of_all = _known(shell.orders[first].raw.value for shell in shells)
    axes.plot(places, of_all, "o-", color="black", ms=4, label="all")
    for key, marker, label in (("raw", "s", "τ of raw"), ("shape", "v", "τ of shape")):
        axes.plot(
            places,
            _known(tau(shell.between[key]) for shell in shells),
            marker,
            ls="none",
            mfc="white",
            color=GREY if key == "shape" else BLACK,
            ms=5,
            label=label,
        )
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xticks(places, [f"{keep:,}" for keep in keeps], fontsize=7)
    axes.set_xlabel("near sources k", fontsize=8)
    axes.set_title("Raw of each tissue (colours as above), and how far they differ", **TITLE)
    plain(axes, "nats per token", grid="y")
    legend(axes)


def _known(values: Iterable[float | None]) -> list[float]:
    """Values, NaN where there is none."""
    return [np.nan if value is None else value for value in values]
