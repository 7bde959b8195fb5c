"""Layers as tables: what a site costs and looks like, alone and once sites below are coarse-grained.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from remainder.record.layers import STATEMENTS, Against, Layers, LayerShell
from remainder.record.number import Number
from remainder.report.joint import render_joint
from remainder.report.layout import WIDTH
from remainder.report.text import Cells, Notes, frame_cells

__all__ = ["COLUMNS", "PARTS", "SAYS", "Column", "labels_of", "layer_tables", "layers_frame", "render_layers"]


class Column(NamedTuple):
    """One number of a shell and site."""

    heading: str
    part: int
    """The table that shows it."""
    of: Callable[[LayerShell, int], Number]
    """The number of a shell and a site, counted from 0."""
    says: str
    """A few words for the legend."""


PARTS = (
    "What a site costs alone, and given those below it (nats a token)",
    "All sites at once (nats a token)",
    "All sites at once, as a model",
    "The power of its remainder given those below, over that alone",
    "The covariance Σ' of its remainder given those below, beside Σ alone",
    "What arrives of the remainder of the site below",
    "The covariance of what arrives, beside J Σ Jᵀ",
)
"""Tables by their titles; the second and third have a row for each k, the others one for each site of it."""

_OF_ALL = (1, 2)
_WITH_BELOW = (3, 4, 5, 6)

SAYS = {
    "kept": "Gaussian layers below leave the power of its remainder (10 %)",
    "linear": "noise below arrives linearly (10 %)",
    "noise": "the remainder below arrives as noise does (10 %)",
    "additive": "it costs what it costs alone (10 %)",
    "corrected": "statistics given below change the loss of the noise by 5 % at most",
}
"""Statements in a few words."""

_CALIBRATION = "a fit on calibration"


def _site(name: str) -> Callable[[LayerShell, int], Number]:
    def of(shell: LayerShell, site: int) -> Number:
        found: Number = getattr(shell.sites[site], name)
        return found

    return of


def _whole(name: str) -> Callable[[LayerShell, int], Number]:
    def of(shell: LayerShell, site: int) -> Number:
        found: Number = getattr(shell.whole, name)
        return found

    return of


def _alone(kind: str) -> Callable[[LayerShell, int], Number]:
    return lambda shell, site: shell.rungs[f"{kind} {site + 1}"].gap


def _upto(kind: str, of: str) -> Callable[[LayerShell, int], Number]:
    def number(shell: LayerShell, site: int) -> Number:
        found: Number = getattr(shell.rungs[f"{kind} to {len(shell.sites)}"], of)
        return found

    return number


def _against(pair: str, of: str) -> Callable[[LayerShell, int], Number]:
    def number(shell: LayerShell, site: int) -> Number:
        fit = shell.fits[site]
        found: Against | None = getattr(fit if pair.endswith("alone") else fit.arrived, pair, None)
        if found is None:
            return Number.null("there is nothing to compare")
        return Number.bare(getattr(found, of), _CALIBRATION)

    return number


def _linear(of: str) -> Callable[[LayerShell, int], Number]:
    def number(shell: LayerShell, site: int) -> Number:
        arrived = shell.fits[site].arrived
        if arrived is None:
            return Number.null("nothing lies below it")
        found = arrived.linear
        return Number.bare(found.leading[0] if of == "leading" else found.directions, _CALIBRATION)

    return number


COLUMNS = {
    "left_out": Column("left out", 0, _site("left_out"), "share of the activation's variance"),
    "raw_alone": Column("raw", 0, _alone("raw"), "its remainder left out, nothing else changed"),
    "raw_given": Column("given", 0, _site("raw_given"), "the same with x̂ at all sites below"),
    "gaussian_alone": Column("Gaussian", 0, _alone("full"), "a Gaussian in its remainder's place"),
    "gaussian_given": Column("given noise", 0, _site("gaussian_given"), "the same with x̂ and noise below"),
    "raw_sum": Column("raw, sum", 1, _whole("raw_sum"), "gaps of sites alone, added up"),
    "raw": Column("raw", 1, _upto("raw", "gap"), "all sites at once"),
    "raw_excess": Column("excess", 1, _whole("raw_excess"), "all at once less the sum"),
    "gaussian_sum": Column("Gaussian, sum", 1, _whole("gaussian_sum"), "with noise, of sites alone"),
    "full": Column("at once", 1, _upto("full", "gap"), "noise of single-shot statistics"),
    "sequential": Column("given", 1, _upto("sequential", "gap"), "noise of statistics given below"),
    "gaussian_excess": Column("excess ", 1, _whole("gaussian_excess"), "the latter less the sum"),
    "kl_raw": Column("KL raw", 2, _upto("raw", "kl"), "from the untouched model"),
    "kl_gaussian": Column("KL Gaussian", 2, _upto("sequential", "kl"), "with noise given below"),
    "top1_raw": Column("top-1 raw", 2, _upto("raw", "top1"), "share of tokens of the same likeliest class"),
    "top1_gaussian": Column("top-1 Gaussian", 2, _upto("sequential", "top1"), "with noise given below"),
    "power_raw": Column("x̂ below", 3, _site("power_raw"), "remainders below left out"),
    "power_gaussian": Column("and noise", 3, _site("power_gaussian"), "Gaussians in their place"),
    "mean_raw": Column(
        "mean, x̂ below",
        3,
        _against("raw_to_alone", "mean"),
        "shift of its mean over √tr Σ, remainders left out",
    ),
    "mean_gaussian": Column(
        "mean, noise", 3, _against("gaussian_to_alone", "mean"), "the same, Gaussians in their place"
    ),
    "distance_raw": Column(
        "Σ, x̂ below", 4, _against("raw_to_alone", "distance"), "‖Σ' − Σ‖/‖Σ‖ with remainders below left out"
    ),
    "distance_gaussian": Column(
        "Σ, noise", 4, _against("gaussian_to_alone", "distance"), "with Gaussians in their place"
    ),
    "overlap_raw": Column(
        "overlap, x̂", 4, _against("raw_to_alone", "overlap"), "of leading directions, 1 where they agree"
    ),
    "overlap_gaussian": Column(
        "overlap, noise", 4, _against("gaussian_to_alone", "overlap"), "the same with Gaussians"
    ),
    "arrives": Column("arrives", 5, _site("arrives"), "power of J ε over that of the site's own remainder"),
    "gaussian_to_linear": Column(
        "noise", 5, _site("gaussian_to_linear"), "power of noise that arrives over that of J ε"
    ),
    "real_to_linear": Column(
        "remainder", 5, _site("real_to_linear"), "power of the remainder itself over that of J ε"
    ),
    "distance_arrived": Column(
        "Σ, noise", 6, _against("gaussian_to_linear", "distance"), "‖Σ' − JΣJᵀ‖/‖JΣJᵀ‖ of noise that arrives"
    ),
    "overlap_arrived": Column(
        "overlap", 6, _against("gaussian_to_linear", "overlap"), "of its leading directions and those of JΣJᵀ"
    ),
    "distance_real": Column(
        "Σ, remainder", 6, _against("real_to_linear", "distance"), "the same of the remainder itself"
    ),
    "overlap_real": Column("overlap ", 6, _against("real_to_linear", "overlap"), "of its leading directions"),
    "leading_linear": Column("1st", 6, _linear("leading"), "share of the largest eigenvalue of JΣJᵀ"),
    "directions_linear": Column("dims", 6, _linear("directions"), "(tr JΣJᵀ)²/tr (JΣJᵀ)²"),
}
"""Numbers of a shell and site by their keys, in the order of tables; those of all sites have any site."""


def labels_of(layers: Layers) -> list[str]:
    """Names of the sites for tables: the last part of their tasks' ids, where that tells them apart."""
    names = [site.task.id for site in layers.chain.sites]
    short = [name.rpartition("/")[2] for name in names]
    return short if len(set(short)) == len(short) else names


def layers_frame(layers: Layers) -> pd.DataFrame:
    """One row for each k and site: numbers with the ends of their intervals, and verdicts."""
    rows = []
    verdicts = iter(zip(*(layers.statements[name] for name in STATEMENTS), strict=True))
    for shell in layers.shells:
        for place, site in enumerate(layers.chain.sites):
            row: dict[str, object] = {
                "keep": shell.keep,
                "site": place + 1,
                "task": site.task.id,
                "submission": site.submission.name,
            }
            for key, column in COLUMNS.items():
                row |= frame_cells(key, column.of(shell, place))
            words = [verdict.word for verdict in next(verdicts)] if place else [""] * len(STATEMENTS)
            rows.append(row | dict(zip(STATEMENTS, words, strict=True)))
    return pd.DataFrame(rows)


def render_layers(layers: Layers, format: str = "table", *, width: int = WIDTH, color: bool = False) -> str:
    """Layers as text; `csv` has a row for each k and site, `json` all that is kept besides.

    Raises:
        RecordError: there is no such format.
    """
    return render_joint(
        layers,
        layers_frame(layers),
        layer_tables(layers),
        format,
        rows="shells",
        width=width,
        color=color,
    )


def layer_tables(layers: Layers) -> list[Cells]:
    """The tables of layers, one for each of `PARTS`, and verdicts."""
    return [*(_numbers(layers, part) for part in range(len(PARTS))), _verdicts(layers)]


def _places(layers: Layers, part: int) -> Iterator[tuple[LayerShell, int, list[str]]]:
    """Rows of a table: a shell, a site, and how the row is called."""
    labels = labels_of(layers)
    for shell in layers.shells:
        if part in _OF_ALL:
            yield shell, 0, [f"{shell.keep:,}"]
            continue
        for place in range(1 if part in _WITH_BELOW else 0, len(labels)):
            yield shell, place, [f"{shell.keep:,}", labels[place]]


def _numbers(layers: Layers, part: int) -> Cells:
    notes = Notes()
    columns = [column for column in COLUMNS.values() if column.part == part]
    rows = [
        [*called, *(notes.value(column.of(shell, place)).plain for column in columns)]
        for shell, place, called in _places(layers, part)
    ]
    says = "; ".join(f"{column.heading.strip()}: {column.says}" for column in columns)
    first = [] if part else [_counted(layers)]
    called = ["kept"] if part in _OF_ALL else ["kept", "site"]
    title = PARTS[part] if part else f"{_title(layers)}. {PARTS[0]}"
    return Cells(
        title,
        [*called, *(column.heading for column in columns)],
        rows,
        [*notes.lines(), f"{says}.", *first],
    )


def _title(layers: Layers) -> str:
    chain = layers.chain
    sites = ", then ".join(f"{site.submission.name} on {site.task.id}" for site in chain.sites)
    return f"Across layers, tier {chain.tier}: {sites}; k sources kept at every token and site"


def _counted(layers: Layers) -> str:
    chain = layers.chain
    return (
        f"{sum(layers.tokens):,} scored tokens of {len(layers.documents):,} documents; statistics of "
        f"{chain.calibration_windows:,} calibration windows; {2 * chain.pairs} draws. "
        "Intervals: --format csv."
    )


def _verdicts(layers: Layers) -> Cells:
    notes = Notes()
    verdicts = zip(*(layers.statements[name] for name in STATEMENTS), strict=True)
    rows = [
        [*called, *(verdict.word + notes.mark(verdict.reason) for verdict in row)]
        for (_, _, called), row in zip(_places(layers, _WITH_BELOW[0]), verdicts, strict=True)
    ]
    says = "; ".join(f"{name}: {SAYS[name]}" for name in STATEMENTS)
    title = "What a hierarchy would say (95 %, all k, sites and statements together)"
    return Cells(title, ["kept", "site", *STATEMENTS], rows, [*notes.lines(), f"{says}."])
