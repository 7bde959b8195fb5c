"""A quantity of records: its name, its meaning, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from remainder.record.intervals import Ratio
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.values import Totals

__all__ = ["COMPLEXITY", "GAP", "TERMS", "Better", "OfRecord", "OfTotals", "Quantity"]

OfRecord = Callable[[Record], Number]
OfTotals = Callable[[Totals], Ratio | str]
"""The quantity from sums over each document, or why there is none."""
Better = Literal["small", "large", "near zero"]

COMPLEXITY, GAP, TERMS = "Complexity", "Δ, signed", "Gaussian gap = sum of"
"""Groups of quantities whose headings stand below one."""


@dataclass(frozen=True)
class Quantity:
    """One number of a record: what it is called, what it means, and how it is computed."""

    key: str
    heading: str
    about: str
    """A sentence on its meaning."""
    of_record: OfRecord
    of_totals: OfTotals | None = None
    """The formula for paired comparison; None for a quantity that only the record states."""
    unit: str = "nats per token"
    better: Better | None = None
    """The better direction; without one no margin can be given."""
    group: str = ""
    """The heading that it shares with others on the board."""
    short: str = ""
    """The heading below that of the group."""
    always: bool = False
    """Whether tables show it even where no record has a value."""
    deep: bool = False
    """Whether of a site only the deep plan, `--rungs all`, measures it."""
    rungs: tuple[str, ...] = ()
    """Rungs with which any plan measures a deep one."""
    beside: str = ""
    """Key of the quantity without which it is not shown: the power of a test, say."""
    alone: bool = False
    """Whether it is no estimate, and stands in tables without an interval."""

    def is_left_out(self, record: Record) -> bool:
        """Whether a record has no value for the reason that its plan was not the deep one."""
        it = record.measurement
        if not self.deep or it.whole or record.is_of_circuits:
            return False
        asked = bool(self.rungs) and {*it.rungs, *it.unmeasured} >= set(self.rungs)
        return not asked and self.of_record(record).value is None

    @property
    def signed(self) -> bool:
        """Whether it is sorted by its size: a gap below zero is no better than one above it."""
        return self.group in (GAP, TERMS)

    @property
    def is_count(self) -> bool:
        """Whether it is a whole number of edges or nodes."""
        return self.key == "kept"

    @property
    def is_cost(self) -> bool:
        """Whether it is a cost of the interpretation, as opposed to a loss of the model."""
        return self.group == COMPLEXITY
