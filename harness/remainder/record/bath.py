"""The worth of the Gaussian residual as a bath: its noise integrated out of the prediction.

1. The annealed loss −log E_ε p(y) at amplitudes α = 0.6 and 1, of four antithetic pairs (`measure.annealed`),
   and its difference to the loss with the mean residual alone, paired document by document.
2. Neither has a value where the jackknife moves it by more than half of its interval: what the jackknife
   leaves of the bias is less than it takes, but how much less is known of single laws only.
3. Both differences are tests that were fixed beforehand; Holm's rule keeps their joint level: the interval of
   one has to lie below 0 at a level of 97.5 %, then that of the other at 95 %.

Source: protocol 2, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.record.intervals import LEVEL, Bootstrap, Ratio
from remainder.record.metrics import BathPoint
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES, BATH, BATH_PAIRS
from remainder.record.values import Totals, annealed_totals, column

__all__ = ["annealed_less", "bath_of", "holm"]

Array = NDArray[np.float64]
Ends = tuple[float | None, float | None]
"""Upper ends of a difference's two-sided intervals: at the level of one test, and of the first of two."""

_NO_ENDS: Ends = (None, None)


def bath_of(bootstrap: Bootstrap, table: pd.DataFrame, totals: Totals) -> tuple[BathPoint, ...] | None:
    """The bath at each amplitude that is tested, ascending; None where one was not measured.

    Args:
        table: canonical.
        totals: of all draws of the table.
    """
    if not {"mean", *BATH} <= totals.keys():
        return None
    tokens = column(totals["clean"], "tokens")
    strict = bootstrap.at_level(1 - (1 - LEVEL) / len(BATH))
    points, upper = [], []
    for rung in BATH:
        found = annealed_totals(table, rung).get(2 * BATH_PAIRS[rung])
        if found is None:
            loss = difference = Number.null(f"rung {rung} has fewer than {2 * BATH_PAIRS[rung]} draws")
            upper.append(_NO_ENDS)
        else:
            whole = Number.of_ratio(bootstrap, Ratio(column(found, "annealed"), tokens))
            loss = _no_loss_below_0(_guarded(whole, found, tokens))
            difference = annealed_less(bootstrap, found, totals, "mean")
            end = annealed_less(strict, found, totals, "mean").high
            upper.append(_NO_ENDS if difference.high is None else (difference.high, end))
        points.append(BathPoint(amplitude=AMPLITUDES[rung], loss=loss, difference=difference, pays=None))
    return tuple(
        point.model_copy(update={"pays": pays}) for point, pays in zip(points, holm(upper), strict=True)
    )


def annealed_less(bootstrap: Bootstrap, annealed: pd.DataFrame, totals: Totals, rung: str) -> Number:
    """Annealed loss less the loss of a rung without noise, unless the jackknife decides it.

    Args:
        annealed: sums of each document, as `annealed_totals` gives them.
    """
    tokens = column(totals["clean"], "tokens")
    less = Ratio(column(annealed, "annealed") - column(totals[rung], "loss"), tokens)
    return _guarded(Number.of_ratio(bootstrap, less), annealed, tokens)


def holm(upper: Sequence[Ends]) -> list[bool | None]:
    """Whether each difference is below 0 at their joint level, by Holm's rule; None without an interval."""
    first = any(strict is not None and strict < 0 for _, strict in upper)
    return [None if single is None else first and single < 0 for single, _ in upper]


def _guarded(number: Number, annealed: pd.DataFrame, tokens: Array) -> Number:
    """The number, unless the jackknife moved it by more than half of its interval."""
    if "annealed_plain" not in annealed:
        return Number.null("the estimate before the jackknife was not kept")
    moved = abs(column(annealed, "annealed_plain").sum() - column(annealed, "annealed").sum()) / tokens.sum()
    if number.low is None or number.high is None or moved <= (number.high - number.low) / 2:
        return number
    return Number.null(
        f"the jackknife moves it by {moved:.2g}, more than half of its interval: too few draws"
    )


def _no_loss_below_0(loss: Number) -> Number:
    if loss.value is not None and loss.value < 0:
        return Number.null("the jackknife is below 0, as no loss is: too few draws")
    return loss if loss.low is None else loss.model_copy(update={"low": max(0.0, loss.low)})
