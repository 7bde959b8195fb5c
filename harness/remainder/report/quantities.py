"""The quantities of a record, one line each, under the names that data formats use.

Tables, `compare`, the gate, the board, the pytest plugin and CSV read this table: a quantity that is added
here is shown wherever it applies. Gaps and KL on any other rung are made by `quantity("gap_RUNG")`.

Losses, gaps and KL are nats per scored token.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from remainder.record.circuit_summary import HEADLINE
from remainder.record.intervals import Ratio
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.summary import Totals, explained_variance, gap, gaussian_ratio, l0, pooled
from remainder.report.ladder import RUNG_NAMES

__all__ = [
    "CIRCUIT",
    "MAIN_RUNGS",
    "QUANTITIES",
    "Quantity",
    "applicable",
    "number_of",
    "on_rungs",
    "quantity",
]

OfRecord = Callable[[Record], Number]
OfTotals = Callable[[Totals], "Ratio | str"]
"""The quantity from sums over each document, or why there is none."""

MAIN_RUNGS = {"raw": "raw", "gaussian": "full"}
"""Names of the two rungs of every table -> the rung; `full` adds the Gaussian residual."""
_COMPLEXITY, _GAP, _TERMS = "Complexity", "Δ, signed", "Gaussian gap = sum of"
CIRCUIT = "Circuit"
"""The group of quantities that circuits alone have."""
_NATS = "nats per token"
_NO_CIRCUIT = "it is no circuit"


@dataclass(frozen=True)
class Quantity:
    """One number of a record: what it is called, what it means, and how it is computed."""

    key: str
    heading: str
    unit: str
    about: str
    """A sentence on its meaning."""
    of_record: OfRecord
    of_totals: OfTotals | None = None
    """The formula for paired comparison; None for a quantity that only the record states."""
    better: Literal["small", "large", "near zero"] | None = None
    """The better direction; without one no margin can be given."""
    always: bool = False
    """Whether tables show it even where no record has a value."""
    group: str = ""
    """The heading that it shares with others on the board."""
    short: str = ""
    """The heading below that of the group."""

    @property
    def signed(self) -> bool:
        """Whether it is sorted by its size: a gap below zero is no better than one above it."""
        return self.group in (_GAP, _TERMS)

    @property
    def is_cost(self) -> bool:
        """Whether it is a cost of the interpretation, as opposed to a loss of the model."""
        return self.group == _COMPLEXITY


def _on_rung(rung: str, name: str) -> OfRecord:
    def get(record: Record) -> Number:
        metrics = record.metrics.rungs.get(rung)
        if metrics is None:
            return Number.null(record.measurement.unmeasured.get(rung, f"rung {rung} was not measured"))
        number: Number = getattr(metrics.quenched, name)
        return number

    return get


def _annealed(record: Record) -> Number:
    metrics = record.metrics.rungs.get("full")
    if metrics is None or metrics.annealed is None:
        return Number.null("it was not asked for")
    return metrics.annealed.gap


def _term(name: str) -> OfRecord:
    def get(record: Record) -> Number:
        terms = record.metrics.telescope
        number: Number = Number.null("its rungs were not measured") if terms is None else getattr(terms, name)
        return number

    return get


def _between(first: str, second: str) -> OfTotals:
    """The gap of one rung less that of another."""

    def formula(totals: Totals) -> Ratio | str:
        a, b = gap(totals, first), gap(totals, second)
        if isinstance(a, str) or isinstance(b, str):
            return a if isinstance(a, str) else str(b)
        return Ratio(a.numerator - b.numerator, a.denominator)

    return formula


def _bits(record: Record) -> Number:
    if record.is_of_circuits:
        return Number.bare(record.circuit_sizes[HEADLINE].bits, "bits of a circuit, once")
    return record.complexity.bits_per_token


def _l0(record: Record) -> Number:
    # What a circuit keeps is counted once, and not for each token: `kept`.
    return Number.null("a circuit keeps edges") if record.is_of_circuits else record.complexity.l0


def _kept(record: Record) -> Number:
    if not record.is_of_circuits:
        return Number.null(_NO_CIRCUIT)
    return Number.bare(record.circuit_sizes[HEADLINE].kept, "a count of edges, or nodes")


def _faithfulness(record: Record) -> Number:
    if not record.is_of_circuits:
        return Number.null(_NO_CIRCUIT)
    rung = record.circuits.points[HEADLINE].rungs.get("counterfactual")
    return Number.null("background counterfactual was not measured") if rung is None else rung.faithfulness


def _area(metric: str, background: str) -> OfRecord:
    def get(record: Record) -> Number:
        areas: dict[str, Number] = getattr(record.circuits, metric)
        return areas.get(background) or Number.null(_no_area(record))

    return get


def _no_area(record: Record) -> str:
    """Why there is no area over sizes."""
    if not record.is_of_circuits:
        return _NO_CIRCUIT
    if record.circuit_sizes[HEADLINE].edges is None:
        return "thresholds are no shares of a graph: there is no area"
    # A ranking has the empty circuit, the headline, and others.
    single = len(record.circuits.points) < 3
    return "a single circuit has no area over sizes" if single else "not measured at all sizes"


def _loss(what: str, name: str, rung: str, heading: str, about: str, short: str, always: bool) -> Quantity:
    """The gap or the KL on a rung."""
    of_totals: dict[str, OfTotals] = {
        "gap": lambda totals: gap(totals, rung),
        "kl": lambda totals: pooled(totals, rung, "kl"),
    }
    return Quantity(
        f"{what}_{name}",
        f"{'Δ' if what == 'gap' else 'KL'} {heading}",
        _NATS,
        about,
        _on_rung(rung, what),
        of_totals[what],
        "near zero" if what == "gap" else "small",
        always,
        _GAP if what == "gap" else f"KL, {heading}",
        short,
    )


_TABLE = (
    Quantity(
        "bits_per_token",
        "Bits",
        "bits per token",
        "To write down what the interpretation says: per token; of a circuit, once",
        _bits,
        better="small",
        always=True,
        group=_COMPLEXITY,
        short="bits",
    ),
    Quantity("l0", "L0", "codes per token", "Nonzero codes per token", _l0, l0, "small", group=_COMPLEXITY),
    Quantity(
        "kept",
        "Kept",
        "edges or nodes",
        "Edges of the graph that the circuit keeps; of a circuit of features, nodes",
        _kept,
        better="small",
        group=_COMPLEXITY,
        short="kept",
    ),
    _loss("kl", "raw", "raw", "raw", "KL(clean, spliced) per token; what is left out is zero", "nats", True),
    _loss(
        "kl",
        "gaussian",
        "full",
        "Gaussian",
        "KL per token; what is left out is noise of its mean and covariance",
        "nats",
        True,
    ),
    _loss("gap", "raw", "raw", "raw", "Loss − clean loss, nats per token", "raw", True),
    _loss(
        "gap",
        "gaussian",
        "full",
        "Gaussian",
        "Loss with Gaussian noise added − clean loss, nats per token",
        "Gaussian",
        True,
    ),
    Quantity(
        "gap_annealed",
        "Δ annealed",
        _NATS,
        "The same, the noise integrated out of the prediction",
        _annealed,
        better="near zero",
        group=_GAP,
        short="annealed",
    ),
    Quantity(
        "gaussian_ratio",
        "ρ",
        "times the KL of noise",
        "KL raw over KL of equally large, equally correlated noise; near 1: the residual hurts like noise",
        lambda record: record.metrics.gaussian_ratio.fitted,
        lambda totals: gaussian_ratio(totals, "noise-fitted"),
        always=True,
    ),
    Quantity(
        "shape",
        "Shape",
        _NATS,
        "full-unshrunk − permuted: one-token shape",
        _term("shape"),
        _between("full-unshrunk", "permuted"),
        group=_TERMS,
        short="shape",
    ),
    Quantity(
        "dependence",
        "Dependence",
        _NATS,
        "permuted − matched: what x̂ tells of the residual",
        _term("dependence"),
        _between("permuted", "matched"),
        group=_TERMS,
        short="dependence",
    ),
    Quantity(
        "rest",
        "Rest",
        _NATS,
        "matched − clean: context, target, tokens jointly",
        _term("rest"),
        lambda totals: gap(totals, "matched"),
        group=_TERMS,
        short="rest",
    ),
    Quantity(
        "explained_variance",
        "Expl. var.",
        "as a share",
        "1 − residual over centred sum of squares",
        lambda record: record.metrics.reconstruction.explained_variance,
        explained_variance,
        "large",
        short="expl. var.",
    ),
    Quantity(
        "faithfulness",
        "f",
        "as a share",
        "Faithfulness of this circuit, counterfactual background",
        _faithfulness,
        better="large",
        group=CIRCUIT,
    ),
    Quantity(
        "cpr",
        "CPR",
        "as a share",
        "MIB: area under f over circuits of all sizes",
        _area("cpr", "counterfactual"),
        better="large",
        group=CIRCUIT,
    ),
    Quantity(
        "cmd",
        "CMD",
        "as a share",
        "MIB: area under |1 − f| over all sizes",
        _area("cmd", "counterfactual"),
        better="small",
        group=CIRCUIT,
    ),
    Quantity(
        "cmd_gaussian",
        "CMD Gaussian",
        "as a share",
        "The same, what was removed stood for by Gaussian noise",
        _area("cmd", "full"),
        better="small",
        group=CIRCUIT,
    ),
)
QUANTITIES: Mapping[str, Quantity] = {entry.key: entry for entry in _TABLE}


_FORMER = {
    "gap": "gap_raw",
    "gaussian": "gap_gaussian",
    "kl": "kl_raw",
    "bits": "bits_per_token",
    "ratio": "gaussian_ratio",
    "edges": "kept",
}
"""Names that single tables had until version 0.1."""


def quantity(key: str) -> Quantity | None:
    """The quantity of that key, also `gap_RUNG` and `kl_RUNG` for any rung; None if there is none."""
    what, _, rung = key.partition("_")
    if key in QUANTITIES or what not in ("gap", "kl") or rung not in RUNG_NAMES:
        return QUANTITIES.get(key)
    return _loss(what, rung, rung, rung, f"The same on rung {rung}", rung, always=True)


def on_rungs(rungs: Iterable[str]) -> list[Quantity]:
    """Gap and KL on every rung that is no column of its own already."""
    keys = [f"{what}_{rung}" for rung in rungs if rung not in MAIN_RUNGS.values() for what in ("gap", "kl")]
    return [entry for key in keys if (entry := quantity(key)) is not None]


def number_of(record: Record, key: str) -> Number:
    """The number of a record under that key, with its interval, or the reason why there is none.

    Raises:
        KeyError: there is no such quantity.
    """
    entry = quantity(key)
    if entry is None:
        raise KeyError(key)
    return entry.of_record(record)


def suggestion(key: str, keys: Collection[str] = QUANTITIES) -> str:
    """A sentence with the names nearest to one that no quantity has."""
    if key in _FORMER:
        return f"use {_FORMER[key]}, which {key} was called before"
    return f"use {', '.join(difflib.get_close_matches(key, keys, cutoff=0.4) or keys)}"


def applicable(records: Collection[Record], rungs: Iterable[str] = ()) -> list[Quantity]:
    """The quantities that a table of these records shows, those on further rungs last."""
    return [
        entry
        for entry in (*QUANTITIES.values(), *on_rungs(rungs))
        if entry.always or any(entry.of_record(record).value is not None for record in records)
    ]
