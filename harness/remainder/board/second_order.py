"""The order of a table by Δ annealed beside that by KL, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from remainder.board.merge import BoardRow
from remainder.board.rank import kl_of
from remainder.record.number import Number
from remainder.report.quantities import number_of

__all__ = ["SecondOrder", "second_order"]


class SecondOrder(NamedTuple):
    """Rows by Δ annealed, and the pairs that it puts the other way round than KL does."""

    names: tuple[str, ...]
    """Submissions with both numbers, the Δ nearest to 0 first."""
    turned: tuple[tuple[str, str], ...]
    """Pairs in which the first has the Δ nearer to 0 and the larger KL, whose intervals are apart in both."""
    unsure: int
    """Pairs that are turned round by the values alone: some of their intervals overlap."""
    pairs: int


def second_order(entries: Sequence[BoardRow], by: str) -> SecondOrder | None:
    """The second order of a table; None with fewer than two rows that have Δ annealed.

    Args:
        entries: rows of one table.
        by: the KL that it is ordered by.
    """
    found = []
    for entry in entries:
        kl, delta = kl_of(entry, by), number_of(entry.record, "gap_annealed")
        if kl.value is not None and delta.value is not None and not entry.failed:
            found.append((abs(delta.value), entry.record.submission.name, kl, _sizes(delta)))
    if len(found) < 2:
        return None
    found.sort(key=lambda one: one[:2])
    turned, unsure = [], 0
    for (_, near, near_kl, near_size), (_, far, far_kl, far_size) in combinations(found, 2):
        if (near_kl.value or 0.0) <= (far_kl.value or 0.0):
            continue
        if _above(near_kl, far_kl) and _above(far_size, near_size):
            turned.append((near, far))
        else:
            unsure += 1
    count = len(found) * (len(found) - 1) // 2
    return SecondOrder(tuple(name for _, name, _, _ in found), tuple(turned), unsure, count)


def _sizes(delta: Number) -> Number:
    """The size of a signed number, its interval that of all sizes within the interval."""
    if delta.value is None or delta.low is None or delta.high is None:
        return delta
    ends = abs(delta.low), abs(delta.high)
    low = 0.0 if delta.low <= 0 <= delta.high else min(ends)
    return delta.model_copy(update={"value": abs(delta.value), "low": low, "high": max(ends)})


def _above(one: Number, other: Number) -> bool:
    """Whether all of an interval lies above another."""
    return one.low is not None and other.high is not None and one.low > other.high
