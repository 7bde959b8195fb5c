"""The flow as a table: what shells lose, order by order, and the scales that they show. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from remainder.record.flow import SCALES, Bracket, Flow
from remainder.record.number import Number
from remainder.record.rungs import GAUSSIANITY
from remainder.record.schema import Record
from remainder.report.joint import render_joint
from remainder.report.layout import WIDTH
from remainder.report.text import Cells, Notes, frame_cells

__all__ = ["COLUMNS", "PARTS", "flow_frame", "render_flow", "says_of", "title_of"]


class Column(NamedTuple):
    """One number of a shell."""

    heading: str
    part: int
    """The table that shows it."""
    of: Callable[[Record], Number]
    says: str
    """A few words for the legend."""


def _gap(rung: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        found = record.metrics.rungs.get(rung)
        return Number.null(f"rung {rung} was not measured") if found is None else found.quenched.gap

    return of


def _order(name: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        orders = record.metrics.orders
        none = Number.null("not all amplitudes were measured")
        found: Number = none if orders is None else getattr(orders.loss, name)
        return found

    return of


def _bath(place: int) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        points = record.metrics.bath
        return Number.null("not all amplitudes were measured") if points is None else points[place].difference

    return of


def _ratio(name: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        parts = record.metrics.ratio_parts
        none = Number.null("the residual was not mirrored")
        found: Number = none if parts is None else getattr(parts, name)
        return found

    return of


def _coupling(name: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        couplings = record.metrics.couplings
        none = Number.null("amplitudes were not fitted")
        found: Number | None = none if couplings is None else getattr(couplings, name)
        return none if found is None else found

    return of


def _annealed(rung: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        found = record.metrics.rungs.get(rung)
        if found is None or found.annealed is None:
            return Number.null(f"rung {rung} has no annealed loss")
        return found.annealed.gap

    return of


def _kurtosis(name: str) -> Callable[[Record], Number]:
    def of(record: Record) -> Number:
        found = record.metrics.gaussianity
        if found is None:
            why = record.measurement.unmeasured.get(GAUSSIANITY, "Gaussianity was not tested")
            return Number.null(why)
        return Number.bare(getattr(found.radial_kurtosis, name), "its null is of Gaussian surrogates")

    return of


def _kl(record: Record) -> Number:
    return record.metrics.rungs["raw"].quenched.kl


def _fvu(record: Record) -> Number:
    explained = record.metrics.reconstruction.explained_variance
    if explained.value is None:
        return explained
    ends = {
        "value": 1 - explained.value,
        "low": None if explained.high is None else 1 - explained.high,
        "high": None if explained.low is None else 1 - explained.low,
    }
    return Number(**ends, reason=explained.reason)


PARTS = ("What the bath costs", "Order by order", "Integrated out", "What the bath looks like")
"""Tables, by their titles; the first has the flow's own."""
_HIDDEN = len(PARTS)  # of what data alone hold, and no table

COLUMNS = {
    "fvu": Column("left out", 0, _fvu, "squared size of the bath over the activation's variance"),
    "bits": Column("bits", 0, lambda record: record.complexity.bits_per_token, "of the codes, a token"),
    "gap_raw": Column("raw", 0, _gap("raw"), "the bath left out"),
    "kl_raw": Column("KL", 0, _kl, "to the clean model, of raw"),
    "gap_renormalised_mean": Column("told", 0, _gap("renormalised-mean"), "what kept codes tell of the bath"),
    "gap_full": Column("Gaussian", 0, _gap("full"), "fitted to the bath, sampled"),
    "zero": Column("zero", 1, _order("zero"), "the bath's mean"),
    "one": Column("one", 1, _order("one"), "and its noise to first order"),
    "two": Column("two", 1, _order("two"), "to second order"),
    "sampled": Column("sampled", 1, _order("sampled"), "the noise itself, of common draws"),
    "perturbativity": Column("π", 1, _order("perturbativity"), "(sampled − one)/(one − zero)"),
    "annealed_06": Column(
        "bath × .6", 2, _bath(0), "annealed loss less that of the mean, noise × .6, 4 pairs"
    ),
    "annealed_1": Column("bath × 1", 2, _bath(1), "the same, noise × 1; below 0 the bath helps"),
    "annealed_loss_06": Column(
        "ann. × .6", 2, _annealed("full-0.6"), "annealed loss, where draws are enough"
    ),
    "annealed_loss_1": Column("ann. × 1", 2, _annealed("full"), "the same, noise × 1"),
    "alpha": Column("α*", 2, _coupling("alpha"), "amplitude of the noise that predicts best"),
    "beta": Column("β*", 2, _coupling("beta"), "amplitude of the source beside it"),
    "beta_alone": Column("β₀*", _HIDDEN, _coupling("beta_alone"), "that of the source alone"),
    "worth": Column("worth", 2, _coupling("difference"), "annealed(α*, β*) less the loss at β₀* alone"),
    "gap_permuted": Column("permuted", 3, _gap("permuted"), "the bath of other tokens, or prompts"),
    "gap_cluster": Column("cluster", 3, _gap("cluster"), "a Gaussian in each cell of what is kept"),
    "gap_neighbour": Column("neighbour", 3, _gap("neighbour"), "the bath of the nearest token"),
    "rho_even": Column("ρ even", 3, _ratio("even"), "harm of the bath over that of Gaussian noise"),
    "rho_odd": Column("ρ odd", 3, _ratio("odd"), "its part that turns with the bath's sign"),
    "kurtosis": Column("κ̂", 3, _kurtosis("value"), "radial kurtosis of the bath, 0 of a Gaussian"),
    "kurtosis_null": Column("κ̂ null", 3, _kurtosis("null_high"), "97.5 % of Gaussians are below"),
}
"""Numbers of a shell by their keys, in the order of tables."""

_UNIT = "Losses are less that of the clean model, nats a token."

_SAYS = {
    "shape": "it costs what a Gaussian does (5 %)",
    "perturbative": "one order tells its cost (10 %)",
    "raw": "leaving it out costs under 5 % of all",
    "bath": "integrated out, it helps",
}

_FORMS = {None: "", "couplings": " (at α*, β*)", "amplitudes": " (noise × .6 or × 1)"}
"""Forms of a criterion."""


def says_of(name: str, bracket: Bracket) -> str:
    """A few words on the criterion of a scale, or why it could not be looked for."""
    return _SAYS[name] + _FORMS[bracket.criterion] if bracket.reason is None else bracket.reason


def flow_frame(flow: Flow, records: Sequence[Record]) -> pd.DataFrame:
    """One row a shell: how many sources it keeps, every number with the ends of its interval, its record."""
    rows = []
    for shell, record in zip(flow.shells, records, strict=True):
        row: dict[str, object] = {"keep": shell.keep}
        for key, column in COLUMNS.items():
            row |= frame_cells(key, column.of(record))
        rows.append(row | {"record": shell.record})
    return pd.DataFrame(rows)


def render_flow(
    flow: Flow, records: Sequence[Record], format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """The flow as text; as `json` the scales too, as `csv` the shells alone.

    Args:
        records: of its shells, in their order.

    Raises:
        RecordError: there is no such format.
    """
    tables = [_table(flow, records, part, title) for part, title in enumerate((title_of(flow), *PARTS[1:]))]
    tables[-1].notes.extend(["", *_verdicts(flow)])
    shown = [cells for cells in tables[:-1] if cells.headings[1:]]
    frame = flow_frame(flow, records)
    return render_joint(flow, frame, [*shown, tables[-1]], format, rows="shells", width=width, color=color)


def _table(flow: Flow, records: Sequence[Record], part: int, title: str) -> Cells:
    """The columns of a part in which some shell has a value."""
    notes = Notes()
    columns = [
        column
        for column in COLUMNS.values()
        if column.part == part and any(column.of(record).value is not None for record in records)
    ]
    rows = [
        [str(shell.keep), *(notes.value(column.of(record)).plain for column in columns)]
        for shell, record in zip(flow.shells, records, strict=True)
    ]
    says = "; ".join(f"{column.heading}: {column.says}" for column in columns)
    below = [*notes.lines(), *([f"{says}."] if says else []), *([] if part else [_UNIT])]
    return Cells(title, ["kept", *(column.heading for column in columns)], rows, below)


def title_of(flow: Flow) -> str:
    """A line on what a flow is of."""
    where = {"dynamic": "sources kept at each token", "edges": "edges kept", "nodes": "nodes kept"}
    kept = where.get(flow.order, "sources of the dictionary kept")
    return (
        f"{flow.submission.name} on {flow.task.id}, version {flow.task.version}, tier {flow.tier}: "
        f"k of {flow.sources:,} {kept} ({flow.order})"
    )


def _verdicts(flow: Flow) -> list[str]:
    lines = ["The scales, from which k on (95 %, all shells and scales together):"]
    for name in SCALES:
        bracket = flow.scales[name]
        lines.append(f"{f'k_{name}':15} {bracket.verdict:18} {says_of(name, bracket)}")
    if flow.ties:
        lines.append(f"{flow.ties} source(s) tie with the one before: their indices decide.")
    return lines
