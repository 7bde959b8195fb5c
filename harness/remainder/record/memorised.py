"""Whether an interpretation rebuilds the evaluation text better than others, as one that memorised it does.

The share of variance that it leaves unexplained is measured on three splits, and two of them are compared:
the text that scores against text that scores nothing. Fitted honestly, an interpretation is as good on
either, or a little worse on what it was not trained on; a table of the evaluation's activations is not.

1. F = Σ‖x − x̂‖² / Σ‖x − mean x‖² over spliced tokens of a split, with an interval over its documents.
2. The ratio (F₁ + `FLOOR`) / (F₂ + `FLOOR`), with the interval of a quotient of independent numbers on the
   log scale. Below `FLOOR` is what coding does not resolve either (PROTOCOL-2, section 5).
3. Evaluation against calibration: a fault if the *whole* interval lies outside `BAND`. Below it, evaluation
   is memorised; above it, calibration is, on which the Gaussian residual is fitted and the codes' step is
   set. Evaluation against fit: a fault below the band alone. Above it there is nothing wrong but overfitting.

Measured on every baseline of every task here: evaluation against calibration from .938 [.827, 1.041] to 1.210
[1.152, 1.269], and no interval ends below .97; evaluation against fit from .96 to 1.81.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from remainder.record.number import Number
from remainder.record.schema import Check

__all__ = ["BAND", "CHECK", "FLOOR", "Comparison", "check_memorised", "compared", "unexplained_by"]

CHECK = "memorised"
"""Name of the check among those of a record."""

BAND = (0.9, 1.25)
"""Ratios of shares of unexplained variance that chance and honest training account for."""

FLOOR = 1e-3
"""A share of the variance; what lies below it tells nothing."""

_TWO_SIDED = "calibration"  # the split whose memorising pays too


class Comparison(NamedTuple):
    """The ratio of what is left unexplained of two texts."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval."""

    @property
    def below(self) -> float:
        """Distance of its whole interval below the band, on the log scale; 0 if it reaches into it."""
        return max(0.0, math.log(BAND[0] / self.high))

    @property
    def above(self) -> float:
        """Distance of its whole interval above the band, on the log scale; 0 if it reaches into it."""
        return max(0.0, math.log(self.low / BAND[1]))


def compared(first: Number, second: Number) -> Comparison | None:
    """The ratio of two shares of unexplained variance; None if one of them has no interval."""
    ends = [end for number in (first, second) for end in (number.value, number.low, number.high)]
    if any(end is None for end in ends):
        return None
    logs = [math.log(max(end, 0.0) + FLOOR) for end in ends if end is not None]
    apart = logs[0] - logs[3]
    # An interval need not be symmetric: each side is taken from the end that moves the ratio that way.
    down = math.hypot(logs[0] - logs[1], logs[5] - logs[3])
    up = math.hypot(logs[2] - logs[0], logs[3] - logs[4])
    return Comparison(math.exp(apart), math.exp(apart - down), math.exp(apart + up))


def unexplained_by(explained: Number) -> Number:
    """The share of variance that is left, of the share that is explained."""
    if explained.value is None:
        return explained
    low, high = (None if end is None else 1 - end for end in (explained.high, explained.low))
    return Number(value=1 - explained.value, low=low, high=high, reason=explained.reason)


def check_memorised(unexplained: Mapping[str, Number], explained: Number) -> Check:
    """Compare evaluation with the other splits (steps 2 and 3 of this module's text).

    Args:
        unexplained: the share of variance that is left on `calibration` and on `fit`.
        explained: the share that is explained on evaluation.
    """
    evaluation = unexplained_by(explained)
    found = {split: compared(evaluation, share) for split, share in unexplained.items()}
    told = {split: ratio for split, ratio in found.items() if ratio is not None}
    if not told:
        return Check(passed=True, note="too few documents to compare what is left unexplained of the splits")
    beyond = {
        split: max(ratio.below, ratio.above if split == _TWO_SIDED else 0.0) for split, ratio in told.items()
    }
    worst = max(beyond, key=lambda split: beyond[split])
    ratios = "; ".join(
        f"{split} {ratio.value:.4g} [{ratio.low:.4g}, {ratio.high:.4g}]"
        for split, ratio in sorted(told.items())
    )
    return Check(
        passed=beyond[worst] == 0,
        value=beyond[worst],
        limit=0.0,
        note="how far the variance left on evaluation over that on another split lies outside of "
        f"{BAND[0]:g} to {BAND[1]:g}, on the log scale; the ratios: {ratios}",
    )
