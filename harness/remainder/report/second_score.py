"""Quantities that the second score alone tells: the bath, orders, and parts of the Gaussian ratio."""

from __future__ import annotations

from typing import Any

from remainder.record.number import Number
from remainder.record.ratio import ratio_even, ratio_odd
from remainder.record.rungs import AMPLITUDES, BATH, SMALL
from remainder.record.schema import Record
from remainder.report.quantity import OfRecord, Quantity

__all__ = ["INTERACTING", "SECOND_SCORE", "interacts"]

INTERACTING = 0.15
"""Size of the interaction within which the quenched Gaussian KL is called arithmetic of two other ones."""

_UNMEASURED = Number.null("its rungs were not measured")


def _at(*path: str) -> OfRecord:
    """The number at a path of fields of the metrics, some of which few records have."""

    def of_record(record: Record) -> Number:
        found: Any = record.metrics
        for name in path:
            found = None if found is None else getattr(found, name)
        return _UNMEASURED if found is None else found

    return of_record


def _bath(rung: str) -> OfRecord:
    """The difference that the bath of one amplitude makes."""

    def of_record(record: Record) -> Number:
        for point in record.metrics.bath or ():
            if point.amplitude == AMPLITUDES[rung]:
                return point.difference
        return _UNMEASURED

    return of_record


def interacts(number: Number) -> bool | None:
    """Whether noise costs another amount at x̂ than at x; None where its interval does not tell.

    Args:
        number: the interaction.
    """
    if number.value is None or number.low is None or number.high is None:
        return None
    if number.low >= -INTERACTING and number.high <= INTERACTING:
        return False
    return True if number.low > INTERACTING or number.high < -INTERACTING else None


SECOND_SCORE = (
    Quantity(
        "annealed_difference",
        "Δ bath",
        "Annealed loss of the Gaussian bath − loss with the mean residual; below 0, the bath pays",
        _bath(BATH[-1]),
    ),
    Quantity(
        "annealed_difference_0.6",
        "Δ bath, 0.6",
        "The same, the noise 0.6 times as large",
        _bath(BATH[0]),
    ),
    Quantity(
        "perturbativity",
        "π",
        "What the quadratic order misses of the noise's loss, over that order; near 0, it is quadratic",
        _at("orders", "loss", "perturbativity"),
        unit="times",
    ),
    Quantity(
        "interaction",
        "Interaction",
        "What noise costs more (in KL) at the reconstruction than at the activation, over the latter",
        _at("orders", "interaction"),
        unit="times",
    ),
    Quantity(
        "smallest_kurtosis",
        "κ̂ min",
        "The smallest kurtosis that the term shape could have shown; a shape near 0 rules out no smaller one",
        _at("orders", "smallest_kurtosis"),
        unit="times",
        alone=True,
    ),
    Quantity(
        "rho_even",
        "ρ even",
        "ρ of the residual and its mirror image together",
        _at("ratio_parts", "even"),
        ratio_even,
        "times",
    ),
    Quantity(
        "rho_odd",
        "ρ odd",
        "What ρ owes to the residual's sign; 0 for a Gaussian one",
        _at("ratio_parts", "odd"),
        ratio_odd,
        "times",
    ),
    Quantity(
        "rho_small",
        "ρ₀",
        "ρ even at amplitude 0.3, by which residuals of different size may be compared",
        _at("ratio_parts", "small"),
        unit="times",
        deep=True,
        rungs=tuple(f"{what}-{SMALL:g}" for what in ("residual", "mirror", "noise")),
    ),
)
