"""The content of a flow's figures, as data: curves over the number of kept sources, and stacks of parts.

The still figure (`report.plot_flow`) and the one to zoom (`report.explore_flow`) draw the same panels. Those
of which no shell has a number are left out. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from remainder.record.circuit_summary import HEADLINE
from remainder.record.flow import Flow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.chain_of_shells import CHAIN, CHAIN_SAYS
from remainder.report.flow import COLUMNS
from remainder.report.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

__all__ = ["Panel", "Part", "Series", "Stack", "kept_what", "panels_of", "stacks_of", "title_of"]


class Series(NamedTuple):
    """One curve."""

    name: str
    color: str
    dash: str
    """A line style of matplotlib's: `-`, `--`, `:` or `-.`."""
    marker: str
    keeps: tuple[int, ...]
    numbers: tuple[Number, ...]
    faint: bool = False
    """Whether it is a control's, beside the model's."""


class Panel(NamedTuple):
    """Curves that share a scale."""

    key: str
    title: str
    unit: str
    series: tuple[Series, ...]
    levels: tuple[float, ...] = ()
    """Lines across it: where a Gaussian bath lies."""
    allowed: tuple[float, float] | None = None
    """A band that a criterion allows."""
    knee: float | None = None
    """Up to this share of the largest size the scale is linear, beyond it logarithmic; None: linear."""
    unit_size: float = 0.0
    """The scale is linear up to this size at least."""


class Part(NamedTuple):
    """A part of the gap, from one rung to the next."""

    name: str
    color: str
    hatch: str
    numbers: tuple[Number, ...]
    """Nats per token at each shell."""


class Stack(NamedTuple):
    """Parts that add up to the Gaussian gap."""

    name: str
    parts: tuple[Part, ...]


def kept_what(flow: Flow) -> str:
    """A few words on the things that k counts."""
    where = {"dynamic": "sources kept at each token", "edges": "edges kept", "nodes": "nodes kept"}
    return where.get(flow.order, f"sources kept ({flow.order.partition(' ')[0]})")


def title_of(flow: Flow, records: Sequence[Record]) -> str:
    """A line on what was measured."""
    first = records[0]
    return (
        f"{flow.submission.name} on {flow.task.id}, version {flow.task.version}: "
        f"{first.documents.tokens:,} tokens of {first.documents.documents:,} documents"
    )


# -------------------------------------------------------------------------------------------------- curves


Of = Callable[[Record], Number]


def _column(key: str) -> Of:
    return COLUMNS[key].of


def _way(name: str) -> Of:
    """Γ(0) to sampled as 0 to 1: where an order lies; its interval is that of its distance to `sampled`."""

    def of(record: Record) -> Number:
        orders = record.metrics.orders
        if orders is None:
            return Number.null("not all amplitudes were measured")
        terms = orders.loss
        zero, sampled = terms.zero.value, terms.sampled.value
        if zero is None or sampled is None or abs(sampled - zero) < _DUST:
            return Number.null("noise changes nothing")
        # missing is sampled − one, remainder is two − sampled
        far, sign = (terms.missing, -1.0) if name == "one" else (terms.remainder, 1.0)
        if far.value is None:
            return far
        room = sampled - zero
        if far.low is None or far.high is None:
            return Number.bare(1 + sign * far.value / room, far.reason or "no interval")
        ends = sorted(1 + sign * end / room for end in (far.low, far.high))
        return Number(value=1 + sign * far.value / room, low=ends[0], high=ends[1])

    return of


_DUST = 1e-6  # nats per token by which losses of float32 passes do not differ


class _Curve(NamedTuple):
    name: str
    of: Of
    color: str
    dash: str
    marker: str
    chain: str = ""
    """Key in `CHAIN`; none: the control has no such number."""


class _Spec(NamedTuple):
    key: str
    title: str
    unit: str
    curves: tuple[_Curve, ...]
    levels: tuple[float, ...] = ()
    allowed: tuple[float, float] | None = None
    knee: float | None = None
    unit_size: float = 0.0


_PANELS = (
    _Spec(
        "levels",
        "What the bath costs",
        "loss − clean (nats/token)",
        (
            _Curve("left out (raw)", _column("gap_raw"), BLACK, "-", "o"),
            _Curve("told by kept codes", _column("gap_renormalised_mean"), GREEN, "--", "s"),
            _Curve("its mean (zero)", _column("zero"), SKY, "-.", "v"),
            _Curve("one order", _column("one"), ORANGE, "--", "^"),
            _Curve("Gaussian", _column("gap_full"), BLUE, "-", "D"),
            _Curve("real rows, permuted", _column("gap_permuted"), VERMILION, ":", "x"),
        ),
        knee=1e-3,
    ),
    _Spec(
        "ratio",
        "Harm over that of noise",
        "ρ",
        (
            _Curve("ρ even", _column("rho_even"), BLUE, "-", "o", "rho_even"),
            _Curve("ρ odd", _column("rho_odd"), VERMILION, "--", "s", "rho_odd"),
        ),
        levels=(0.0, 1.0),
    ),
    _Spec(
        "weak",
        "Shape κ̂, strength π",
        "0: Gaussian, weak",
        (
            _Curve("κ̂", _column("kurtosis"), GREEN, "-", "D", "kurtosis"),
            _Curve("π", _column("perturbativity"), PURPLE, "--", "^", "perturbativity"),
        ),
        levels=(0.0,),
        knee=0.05,
    ),
    _Spec(
        "couplings",
        "Best amplitudes",
        "amplitude",
        (
            _Curve("noise α*", _column("alpha"), ORANGE, "-", "o"),
            _Curve("source β*", _column("beta"), BLACK, "--", "s"),
        ),
        levels=(0.0, 1.0),
    ),
    _Spec(
        "orders",
        "Convergence of orders",
        "zero = 0, sampled = 1",
        (
            _Curve("one order", _way("one"), ORANGE, "--", "^"),
            _Curve("two orders", _way("two"), BLUE, "-", "D"),
        ),
        levels=(0.0, 1.0),
        allowed=(0.9, 1.1),
        knee=1e-3,
        unit_size=1.0,
    ),
    _Spec(
        "bath",
        "Worth, integrated out",
        "annealed − mean (nats)",
        (
            _Curve("noise × .6", _column("annealed_06"), SKY, "--", "o"),
            _Curve("× 1", _column("annealed_1"), BLUE, "-", "D"),
            _Curve("× α*", _column("worth"), VERMILION, ":", "s"),
        ),
        levels=(0.0,),
        knee=1e-2,
    ),
)


def panels_of(flow: Flow, records: Sequence[Record]) -> list[Panel]:
    """Panels of which some shell has a number, `levels` first.

    Args:
        records: of its shells, in their order.
    """
    keeps = tuple(shell.keep for shell in flow.shells)
    found = []
    for spec in _PANELS:
        series: list[Series] = []
        for curve in spec.curves:
            numbers = tuple(curve.of(record) for record in records)
            if any(number.value is not None for number in numbers):
                series.append(Series(curve.name, curve.color, curve.dash, curve.marker, keeps, numbers))
                series += [_chain(curve, keeps)] if curve.chain else []
        if series:
            found.append(
                Panel(
                    spec.key,
                    spec.title,
                    spec.unit,
                    tuple(series),
                    spec.levels,
                    spec.allowed,
                    spec.knee,
                    spec.unit_size,
                )
            )
    return found


def _chain(curve: _Curve, keeps: tuple[int, ...]) -> Series:
    """The chain of shells, its shells where the flow's are."""
    values = [Number.bare(value, "a formula") for value in CHAIN[curve.chain]]
    shared = min(len(keeps), len(values))
    name = f"{curve.name}, {CHAIN_SAYS}"
    return Series(name, curve.color, curve.dash, "", keeps[:shared], tuple(values[:shared]), faint=True)


# -------------------------------------------------------------------------------------------------- stacks


def _difference(upper: Number, lower: Number) -> Number:
    if upper.value is None or lower.value is None:
        return Number.null(upper.reason or lower.reason or "")
    return Number.bare(upper.value - lower.value, "a difference of two rungs")


def _orders(record: Record, keep: int) -> list[Number]:
    steps = [COLUMNS[key].of(record) for key in ("gap_renormalised_mean", "zero", "one", "sampled")]
    if keep == 0:  # no code tells anything but the mean
        steps[0] = steps[1]
    return [steps[0], *(_difference(upper, lower) for lower, upper in pairwise(steps))]


def _telescope(record: Record, keep: int) -> list[Number]:
    found = record.metrics.conditional
    if found is not None and found.not_found.value is not None:
        return [found.not_found, found.found, found.shape]
    point = record.circuits.points.get(HEADLINE)
    circuit = None if point is None else point.telescope
    if circuit is not None:
        return [circuit.rest, circuit.dependence, circuit.shape]
    return [Number.null("no conditional sampler was measured")] * 3


def _two_terms(record: Record, keep: int) -> list[Number]:
    real = COLUMNS["gap_permuted"].of(record)
    return [real, _difference(COLUMNS["gap_full"].of(record), real)]


_Looks = tuple[tuple[str, str, str], ...]
_REST, _SHAPE = ("rest", GREY, ""), ("shape", VERMILION, "\\\\")

_STACKS: tuple[tuple[str, Callable[[Record, int], list[Number]], _Looks], ...] = (
    (
        "orders",
        _orders,
        (
            ("left when codes tell", GREEN, ""),
            ("what codes tell", SKY, "//"),
            ("first order", ORANGE, ""),
            ("higher orders", PURPLE, "\\\\"),
        ),
    ),
    ("telescope", _telescope, (_REST, ("dependence", BLUE, "//"), _SHAPE)),
    ("telescope", _two_terms, (_REST, _SHAPE)),
)
"""Ways to take the gap apart: of those of one name the first that some shell has."""


def stacks_of(flow: Flow, records: Sequence[Record]) -> list[Stack]:
    """The Gaussian gap of each shell, taken apart in one way or two; those that no shell has are left out.

    1. By orders: clean → told by the codes → the mean (zero) → one order → sampled.
    2. By what is real: clean → the best conditional sampler, where one was measured (of circuits the
       counterfactual prompt) → real rows of other tokens (`permuted`) → a Gaussian of their covariance.

    Args:
        records: of its shells, in their order.
    """
    found: dict[str, Stack] = {}
    for name, of, parts in _STACKS:
        rows = [of(record, shell.keep) for record, shell in zip(records, flow.shells, strict=True)]
        if name not in found and any(all(number.value is not None for number in row) for row in rows):
            stacked = tuple(
                Part(part, color, hatch, tuple(row[place] for row in rows))
                for place, (part, color, hatch) in enumerate(parts)
            )
            found[name] = Stack(name, stacked)
    return list(found.values())
