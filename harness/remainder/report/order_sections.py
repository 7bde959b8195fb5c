"""Sections on the Gaussian residual as perturbation theory sees it: orders, the bath, and ρ taken apart.

Sentences go by rules that a reader can check, and a null result carries its power: the size that it could
have shown. Needs no torch.

Source: protocol 2, sections 1 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from remainder.record.metrics import BathPoint, OrderTerms, RatioParts
from remainder.record.number import Number
from remainder.record.orders import POWERED
from remainder.record.ratio import OTHERS
from remainder.record.rungs import AROUND
from remainder.record.schema import Record
from remainder.report.circuit_sections import Line, Section
from remainder.report.quantities import QUANTITIES
from remainder.report.second_score import INTERACTING, interacts
from remainder.report.text import Notes, format_value, half_width, in_words

__all__ = ["bath_section", "factor_of", "order_section", "power_of_shape", "ratio_section"]

_NORMAL = 1.96
"""Standard errors in half an interval of 95 %, near normal."""

_ORDERS = (
    ("zero", "the mean residual"),
    ("one", "zero + a2: quadratic"),
    ("two", "zero + a2 + a4"),
    ("sampled", "the noise itself"),
    ("remainder", "two − sampled"),
    ("perturbativity", "π = (sampled − one)/a2"),
)
"""Fields of `OrderTerms`, and what each is."""

FACTORS = {
    "noise-fitted": "covariance",
    "noise-directional": "length at each token",
    "noise-run": "real, in order",
    "residual": "the residual's own place",
}
"""Steps from the isotropic null to the residual, and what each adds."""


def order_section(record: Record, notes: Notes) -> Section | None:
    """Orders of loss and KL, and what they make of interaction and shape."""
    orders = record.metrics.orders
    if orders is None:
        return None
    body: list[Line] = [("", "loss", "KL")]
    for name, what in _ORDERS:
        loss, kl = (notes.cell(getattr(terms, name)) for terms in (orders.loss, orders.kl))
        body.append((what, loss, kl))
    body += [_convergence(orders.loss), _interaction(orders.interaction)]
    if record.metrics.telescope is None and record.metrics.conditional is None:
        body += power_of_shape(record)  # else it stands with the terms of the gap
    return Section("Order by order in the noise (Δ and KL, nats per token)", body)


def _convergence(terms: OrderTerms) -> str:
    if terms.converges is None:
        return "Whether two terms are enough cannot be said without intervals."
    if terms.converges:
        return "Of the loss two terms are enough: two − sampled may be 0, and is under half of sampled − one."
    return (
        "Of the loss two terms are not enough: two − sampled is not 0, or no less than half of sampled − one."
    )


def _interaction(number: Number) -> str:
    if number.value is None or number.low is None or number.high is None:
        return f"Interaction: none ({number.reason})."
    said, within = f"Interaction {in_words(number)}: ", f"±{INTERACTING:g}"
    says = {
        False: f"within {within}, KL of full is that of mean plus that of its noise around x, arithmetic.",
        True: f"beyond {within}, noise costs another amount at x̂ than at x.",
        None: f"whether noise costs at x̂ what it costs at x, to {100 * INTERACTING:.0f} %, is not resolved.",
    }
    return said + says[interacts(number)]


def power_of_shape(record: Record) -> list[str]:
    """A sentence on the power behind the term `shape`; none where the orders were not measured."""
    orders, tests = record.metrics.orders, record.metrics.gaussianity
    if orders is None:
        return []
    smallest = orders.smallest_kurtosis
    shape = f"Shape {in_words(orders.shape, bare=' (no interval)')}"
    measured = "" if tests is None else f"; the residual has {format_value(tests.radial_kurtosis.value)}"
    if smallest.value is None:
        return [f"{shape}: no κ̂ that it could have shown ({smallest.reason}){measured}."]
    return [f"{shape}: it could have shown a κ̂ of {format_value(smallest.value)} or more{measured}."]


def bath_section(record: Record, notes: Notes) -> Section | None:
    """Annealed losses by amplitude, and whether the bath pays."""
    points = record.metrics.bath
    if points is None:
        return None
    body: list[Line] = [
        (f"noise × {point.amplitude:g}", notes.cell(point.difference), _verdict(point)) for point in points
    ]
    if any(point.pays for point in points):
        body.append("Integrated out, the noise predicts better than the mean residual alone.")
    what = "annealed − mean, nats per token; two tests at a joint 5 %"
    return Section(f"The Gaussian residual as a bath ({what})", body)


def _verdict(point: BathPoint) -> str:
    """Whether the bath pays, and if not, what gain the test would have found with a power of 80 %."""
    half = half_width(point.difference)
    if point.pays is None or half is None:
        return ""
    found = format_value(POWERED * half / _NORMAL, half)
    return "pays" if point.pays else f"does not pay; a gain of {found} would have shown"


def ratio_section(record: Record, notes: Notes) -> Section | None:
    """ρ by sign, by size, and by what the noise shares with the residual."""
    parts = record.metrics.ratio_parts
    if parts is None:
        return None
    small = ("ρ₀", parts.small, "even at amplitude 0.3: for comparisons across sizes")
    rows = [
        ("even", parts.even, "r and its mirror image about the mean, half their sum"),
        ("+ odd", parts.odd, "half their difference: ρ = even + odd"),
        *([] if QUANTITIES["rho_small"].is_left_out(record) else [small]),
        ("KL(x − μ)", parts.mean_kl, "the mean residual around x, nats per token"),
    ]
    by_sign = [(name, notes.cell(number), what) for name, number, what in rows]
    return Section("ρ taken apart", [*by_sign, *_factors(parts.factors, notes), *_others(parts, notes)])


def _factors(factors: Mapping[str, Number], notes: Notes) -> Iterator[Line]:
    if factors:
        yield "ρ isotropic is the product of four factors, each of what one null adds to the one before:"
    for name, what in FACTORS.items():
        if name in factors:
            yield f"× {what}", notes.cell(factor_of(factors[name])), name


def _others(parts: RatioParts, notes: Notes) -> Iterator[Line]:
    if parts.others:
        yield "Other noise in the denominator turns the answer another way:"
    for name in OTHERS:
        if name in parts.others:
            yield name, notes.cell(parts.others[name]), AROUND[name].adds


def factor_of(log: Number) -> Number:
    """The factor whose logarithm, with its interval, is given."""
    ends = {name: getattr(log, name) for name in ("value", "low", "high")}
    factors = {name: None if end is None else math.exp(end) for name, end in ends.items()}
    return Number(**factors, reason=log.reason)
