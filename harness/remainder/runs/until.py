"""When to stop measuring: as soon as an interval is narrow enough.

1. A look measures the first 8, 16, 32 … documents of a tier, and at last all of them; every submission on the
   same documents, with the same noise.
2. After each look the KL of every submission has a paired difference from that of the first (of one alone:
   its own KL) with an interval. The widest of them decides.
3. Whoever stops as soon as an interval is narrow stops where it came out narrow by chance. So with K looks
   each interval is at the level 1 − 0.05 / K: all K together hold the truth with 95 % (Bonferroni), and with
   them the one of the look at which measuring stopped.

A look measures anew what it shares with the one before, which at most doubles the time of the last.

The intervals that a record states are ordinary ones at 95 % and do not know of this; its warnings say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from remainder.errors import TaskError
from remainder.record.intervals import LEVEL, Bootstrap, Estimate
from remainder.record.part import part_of
from remainder.record.rungs import CODED
from remainder.record.store import StoredRecord
from remainder.record.values import document_totals, pooled
from remainder.report.compare import common_rows
from remainder.task.spec import Task

__all__ = ["Known", "looks", "rule", "widest"]

_FIRST = 8  # documents


class Known(NamedTuple):
    """The number that is known least."""

    what: str
    half_width: float | None
    """Nats per scored token; None without an interval."""


def looks(task: Task, tier: str) -> tuple[int | None, ...]:
    """Numbers of documents at which is looked, doubling; None, the last, is the whole tier.

    Raises:
        TaskError: if the task's documents are not those of a text, or the tier is a part of one.
    """
    if part_of(tier) is not None:
        raise TaskError(f"tier {tier} has a fixed number of documents", fix="leave --until-ci out")
    if task.splits is None:
        raise TaskError(
            f"{task.id} is no text: its tier says nothing about documents", fix="leave --until-ci out"
        )
    most = min(task.tier(tier).evaluation_windows, task.splits.evaluation)
    numbers: list[int | None] = []
    number = _FIRST
    while number < most:
        numbers.append(number)
        number *= 2
    return (*numbers, None)


def rule(half_width: float, number: int) -> str:
    """The sentence on stopping that a record has among its warnings.

    Args:
        half_width: nats per scored token.
        number: of looks, at most.
    """
    return (
        f"Documents were added, in up to {number} looks, until the least known difference of KL was known to "
        f"± {half_width:g} nats (at {_level(number):.2%} for each look); intervals here do not know of that."
    )


def widest(records: Sequence[StoredRecord], number: int) -> Known:
    """The least known difference from the first record, or of one record its KL.

    Args:
        number: of looks, at most.
    """
    first, *others = records
    rungs = set.intersection(*(set(each.record.measurement.rungs) for each in records))
    rungs -= {name for each in records for name in each.record.measurement.unmeasured}
    rung = CODED if CODED in rungs else "raw"
    found = []
    for other in others or [first]:
        ours, theirs = (document_totals(rows) for rows in common_rows(first, other))
        bootstrap = Bootstrap(len(ours["clean"]), seed=first.record.measurement.seed, level=_level(number))
        a, b = pooled(ours, rung, "kl"), pooled(theirs, rung, "kl")
        names = first.record.submission.name, other.record.submission.name
        if isinstance(a, str) or isinstance(b, str):
            found.append(Known(f"KL {rung} of {names[1]}", None))
        elif other is first:
            found.append(Known(f"KL {rung} of {names[0]}", _half(bootstrap.estimate(a))))
        else:
            half = _half(bootstrap.difference(b, a))
            found.append(Known(f"KL {rung} of {names[1]} less that of {names[0]}", half))
    return max(found, key=lambda known: float("inf") if known.half_width is None else known.half_width)


def _half(estimate: Estimate) -> float | None:
    """Half the width of an interval; None without one."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2


def _level(number: int) -> float:
    """The level of an interval such that those of so many looks hold together at the ordinary level."""
    return 1 - (1 - LEVEL) / number
