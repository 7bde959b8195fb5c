"""The quantities of a record, one line each, under the names that data formats use.

Tables, `compare`, the gate, the board, the pytest plugin and CSV read this table: a quantity that is added
here is shown wherever it applies. Gaps and KL on any other rung are made by `quantity("gap_RUNG")`.

Losses, gaps and KL are nats per scored token.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from remainder.errors import RecordError
from remainder.record.circuit_summary import HEADLINE
from remainder.record.description import net_bits
from remainder.record.intervals import Ratio
from remainder.record.number import Number
from remainder.record.orders import shape_of
from remainder.record.ratio import gaussian_ratio
from remainder.record.rungs import ALL, CIRCUIT_RUNGS, CODED, is_deep
from remainder.record.schema import Record
from remainder.record.summary import explained_variance, l0
from remainder.record.values import Totals, gap, pooled
from remainder.report.ladder import RUNG_NAMES
from remainder.report.quantity import COMPLEXITY, GAP, TERMS, Better, OfRecord, OfTotals, Quantity
from remainder.report.second_score import SECOND_SCORE

__all__ = [
    "CIRCUIT",
    "MAIN_RUNGS",
    "QUANTITIES",
    "SECOND_COLUMNS",
    "SITE_COLUMNS",
    "Quantity",
    "applicable",
    "by_background",
    "chosen",
    "default_columns",
    "number_of",
    "on_rungs",
    "quantity",
    "suggestion",
]

MAIN_RUNGS = {"coded": CODED, "raw": "raw", "gaussian": "full"}
"""Names of the rungs of every table -> the rung; `full` adds the Gaussian residual."""

SITE_COLUMNS = ("bits_per_token", "kl_coded", "efficiency", "gap_annealed", "rho_even")
"""The columns of every table of a site at which codes are paid for, behind the place where there is one; of
`SECOND_COLUMNS` those that any row has a value for."""
SECOND_COLUMNS = ("gap_annealed", "rho_even")
"""Columns that not every plan measures; a table in which no row has a value leaves them out."""
_DEFAULTS = (
    ("kl_coded", SITE_COLUMNS),
    (
        "faithfulness",
        ("kept", "kl_raw", "kl_gaussian", "efficiency", "faithfulness", "cpr", "cmd", "cmd_gaussian"),
    ),
    ("kl_raw", ("bits_per_token", "kl_raw", "kl_gaussian", "gaussian_ratio")),
)
"""The columns that a table shows unless it is asked for others: those beside the first key that any of its
records has a value for."""
CIRCUIT = "Circuit"
"""The group of quantities that circuits alone have."""
_LOSSES: dict[str, tuple[str, Better, str, str]] = {
    "gap": ("Δ", "near zero", GAP, ""),
    "kl": ("KL", "small", "", "nats"),
}
"""Sign, better direction, group and short heading of a loss on a rung."""


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


def _bits(record: Record) -> Number:
    if record.is_of_circuits:
        return Number.bare(record.circuit_sizes[HEADLINE].bits, "bits of a circuit, once")
    return record.complexity.bits_per_token


def _l0(record: Record) -> Number:
    # What a circuit keeps is counted once, and not for each token: `kept`.
    return Number.null("a circuit keeps edges") if record.is_of_circuits else record.complexity.l0


def _on_circuits(get: OfRecord) -> OfRecord:
    """`get` for records of circuits, null for all others."""
    return lambda record: get(record) if record.is_of_circuits else Number.null("it is no circuit")


def _efficiency(record: Record) -> Number:
    if record.is_of_circuits:
        if record.circuit_sizes[HEADLINE].kept == 0:
            return Number.null("it keeps nothing, and neither would chance")
        found = record.circuits.points[HEADLINE].efficiency
        return Number.null("no random circuits were measured beside it") if found is None else found
    coding = record.metrics.coding
    if coding is None or CODED not in coding.points:
        return Number.null("its codes were not spliced in")
    return coding.points[CODED].efficiency


def _net_bits(record: Record) -> Number:
    fit, lengths = record.calibration.description, record.metrics.description
    if lengths is None:
        return Number.null("it was not asked for" if fit is None or fit.reason is None else fit.reason)
    return lengths.net


def _kept(record: Record) -> Number:
    return Number.bare(record.circuit_sizes[HEADLINE].kept, "a count of edges, or nodes")


def _faithfulness(record: Record) -> Number:
    rung = record.circuits.points[HEADLINE].rungs.get("counterfactual")
    return Number.null("background counterfactual was not measured") if rung is None else rung.faithfulness


def by_background(record: Record) -> dict[str, Number]:
    """Faithfulness of the headline circuit with each background that it was measured with.

    Backgrounds of SAE errors are left out: they keep other nodes, and do not fill the same ones otherwise.
    """
    rungs = record.circuits.points[HEADLINE].rungs
    return {
        name: rungs[name].faithfulness
        for name in CIRCUIT_RUNGS
        if name in rungs and rungs[name].faithfulness.value is not None
    }


def _faithfulness_range(record: Record) -> Number:
    values = [number.value for number in by_background(record).values() if number.value is not None]
    if len(values) < 2:
        return Number.null("faithfulness was measured with fewer than two backgrounds")
    return Number.bare(max(values) - min(values), "largest less smallest of the backgrounds measured")


def _area(metric: str, background: str = "counterfactual") -> OfRecord:
    def get(record: Record) -> Number:
        areas: dict[str, Number] = getattr(record.circuits, metric)
        return areas.get(background) or Number.null(_no_area(record))

    return get


def _no_area(record: Record) -> str:
    """Why there is no area over sizes."""
    if record.circuit_sizes[HEADLINE].edges is None:
        return "thresholds are no shares of a graph: there is no area"
    # A ranking has the empty circuit, the headline, and others.
    single = len(record.circuits.points) < 3
    return "a single circuit has no area over sizes" if single else "not measured at all sizes"


def _loss(what: Literal["gap", "kl"], name: str, about: str, *, always: bool = True) -> Quantity:
    """The gap or the KL on a rung."""
    rung, words = MAIN_RUNGS.get(name, name), "Gaussian" if name == "gaussian" else name
    sign, better, group, short = _LOSSES[what]

    def of_totals(totals: Totals) -> Ratio | str:
        return gap(totals, rung) if what == "gap" else pooled(totals, rung, "kl")

    return Quantity(
        f"{what}_{name}",
        f"{sign} {words}",
        about,
        _on_rung(rung, what),
        of_totals,
        better=better,
        group=group or f"KL, {words}",
        short=short or words,
        always=always,
        deep=is_deep(rung),
        rungs=(rung,),
    )


def _term(name: str, about: str, first: str, second: str) -> Quantity:
    """A term of the telescope: the loss on one rung less that on another."""

    def of_record(record: Record) -> Number:
        terms = record.metrics.telescope
        number: Number = Number.null("its rungs were not measured") if terms is None else getattr(terms, name)
        return number

    def of_totals(totals: Totals) -> Ratio | str:
        return gap(totals, first, second)

    return Quantity(
        name,
        name.capitalize(),
        about,
        of_record,
        of_totals,
        group=TERMS,
        short=name,
        deep=True,
        rungs=("full", "full-unshrunk", "permuted", "matched"),
    )


def _shape(record: Record) -> Number:
    """Shape as the telescope has it; where its rungs are missing, with `full`."""
    terms, orders = record.metrics.telescope, record.metrics.orders
    if terms is not None:
        return terms.shape
    return Number.null("its rungs were not measured") if orders is None else orders.shape


def _cost(
    key: str, unit: str, about: str, better: Better, of_record: OfRecord, of_totals: OfTotals | None = None
) -> Quantity:
    """A cost of the interpretation; the heading is the first word of the key."""
    short = {"bits_per_token": "bits", "l0": "L0"}.get(key, key)
    heading, always = short[0].upper() + short[1:], key == "bits_per_token"
    return Quantity(key, heading, about, of_record, of_totals, unit, better, COMPLEXITY, short, always)


def _kilobytes(record: Record) -> Number:
    size = record.submission.kilobytes
    return Number.null("it has no files here") if size is None else Number.bare(size, "a size, not a sample")


def _lone_code_sets(record: Record) -> Number:
    return record.complexity.lone_code_sets or Number.null("codes are not paid for")


def _of_circuits(key: str, heading: str, about: str, of_record: OfRecord, better: Better) -> Quantity:
    """A quantity that circuits alone have."""
    return Quantity(key, heading, about, _on_circuits(of_record), None, "as a share", better, CIRCUIT)


_NOISE = "KL of the residual over KL of equally large, equally correlated noise; near 1: it hurts like noise"
_TABLE = (
    _cost(
        "bits_per_token",
        "bits per token",
        "Per token, to write the codes down; of a circuit, once",
        "small",
        _bits,
    ),
    _cost("l0", "codes per token", "Nonzero codes per token", "small", _l0, l0),
    _cost(
        "kept",
        "edges or nodes",
        "Edges that the circuit keeps; of a circuit of features, nodes",
        "small",
        _on_circuits(_kept),
    ),
    _loss("kl", "coded", "KL(clean, spliced) per token of the very codes that the bits write", always=False),
    Quantity(
        "efficiency",
        "efficiency",
        "log KL of transform coding (circuits: of chance) less log KL, at equal size",
        _efficiency,
        unit="nats",
        better="large",
    ),
    _loss("kl", "raw", "KL(clean, spliced) per token; what is left out is zero"),
    _loss("kl", "gaussian", "KL per token; what is left out is noise of its mean and covariance"),
    _loss("gap", "coded", "Loss of the codes that the bits write − clean loss", always=False),
    _loss("gap", "raw", "Loss − clean loss, nats per token"),
    _loss("gap", "gaussian", "Loss with Gaussian noise added − clean loss, nats per token"),
    Quantity(
        "gap_annealed",
        "Δ annealed",
        "The same, the noise integrated out of the prediction",
        _annealed,
        better="near zero",
        group=GAP,
        short="annealed",
        deep=True,
    ),
    Quantity(
        "gaussian_ratio",
        "ρ",
        _NOISE,
        lambda record: record.metrics.gaussian_ratio.fitted,
        lambda totals: gaussian_ratio(totals, "noise-fitted"),
        "times",
        always=True,
    ),
    *(one for one in SECOND_SCORE if one.key != "smallest_kurtosis"),
    Quantity(
        "net_bits",
        "Net bits",
        "Bits a token that the codes save, with a Gaussian remainder, beside a Gaussian of x",
        _net_bits,
        net_bits,
        "bits per token",
        "large",
        short="net bits",
    ),
    *(one for one in SECOND_SCORE if one.key == "smallest_kurtosis"),
    Quantity(
        "shape",
        "Shape",
        "full − permuted: one-token shape; full-unshrunk in its place where that was measured",
        _shape,
        shape_of,
        group=TERMS,
        short="shape",
        beside="smallest_kurtosis",
    ),
    _term("dependence", "permuted − matched: what x̂ tells of the residual", "permuted", "matched"),
    _term("rest", "matched − clean: context, target, tokens jointly", "matched", "clean"),
    Quantity(
        "explained_variance",
        "Expl. var.",
        "1 − residual over centred sum of squares",
        lambda record: record.metrics.reconstruction.explained_variance,
        explained_variance,
        "as a share",
        "large",
        short="expl. var.",
    ),
    Quantity(
        "lone_code_sets",
        "Lone sets",
        "Tokens whose set of latents occurs nowhere else: all, where text is memorised; no fault",
        _lone_code_sets,
        None,
        "share",
        "small",
        COMPLEXITY,
        "lone sets",
    ),
    _cost("kilobytes", "kB", "Size of the submission's files, weights among them", "small", _kilobytes),
    _of_circuits("faithfulness", "f", "Faithfulness, counterfactual background", _faithfulness, "large"),
    _of_circuits(
        "faithfulness_range",
        "f range",
        "Largest less smallest f over the backgrounds that removed edges were given",
        _faithfulness_range,
        "small",
    ),
    _of_circuits("cpr", "CPR", "MIB: area under f over circuits of all sizes", _area("cpr"), "large"),
    _of_circuits("cmd", "CMD", "MIB: area under |1 − f| over all sizes", _area("cmd"), "small"),
    _of_circuits(
        "cmd_gaussian", "CMD Gaussian", "The same with the Gaussian background", _area("cmd", "full"), "small"
    ),
)
QUANTITIES: Mapping[str, Quantity] = {entry.key: entry for entry in _TABLE}


_NEAR = 0.6
"""Likeness of two names, 0 to 1, from which one may be meant where the other is written."""

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
    return _loss("gap" if what == "gap" else "kl", rung, f"The same on rung {rung}")


def on_rungs(rungs: Iterable[str]) -> list[Quantity]:
    """Gap and KL on every rung that does not have a column of its own already."""
    keys = [f"{what}_{rung}" for rung in rungs if rung not in MAIN_RUNGS.values() for what in ("gap", "kl")]
    return [entry for key in keys if (entry := quantity(key)) is not None]


def default_columns(records: Collection[Record]) -> list[Quantity]:
    """The columns that a table of these records shows unless it is asked for others."""

    def known(key: str) -> bool:
        return any(number_of(record, key).value is not None for record in records)

    columns = next((columns for key, columns in _DEFAULTS if known(key)), _DEFAULTS[-1][1])
    return [QUANTITIES[key] for key in columns if key not in SECOND_COLUMNS or known(key)]


def chosen(keys: Iterable[str], records: Collection[Record]) -> list[Quantity]:
    """The quantities of these keys; none: the default columns; `all`: every one that applies.

    Raises:
        RecordError: there is no such quantity; near names are offered.
    """
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return default_columns(records)
    if ALL in wanted:
        return applicable(records)
    found = []
    for key in wanted:
        entry = quantity(key)
        if entry is None:
            raise RecordError(f"there is no column {key!r}", fix=suggestion(key))
        found.append(entry)
    return found


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
        return f"use {_FORMER[key]}; it was called {key} before"
    headed = [name for name in keys if name in QUANTITIES and key in _words(QUANTITIES[name])]
    if near := headed or difflib.get_close_matches(key.lower(), keys, cutoff=_NEAR):
        return f"use {', '.join(near)}"
    return f"choose from: {', '.join(keys)}"


def _words(entry: Quantity) -> tuple[str, str]:
    """The words over its column in tables."""
    return entry.heading, entry.short


def applicable(records: Collection[Record], rungs: Iterable[str] = ()) -> list[Quantity]:
    """The quantities that a table of these records shows, those on further rungs last."""
    return [
        entry
        for entry in (*QUANTITIES.values(), *on_rungs(rungs))
        if entry.always or any(entry.of_record(record).value is not None for record in records)
    ]
