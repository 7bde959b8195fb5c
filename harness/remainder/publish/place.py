"""The place of a record among the others of its task: its rank, its ties, and what came before.

1. Its place within every budget, among the submissions of the same task and tier (`board.rank`); of a task
   that gives no places, that it gives none.
2. Against the previous record of the same submission, if there is one; else against the submission that is
   nearest in bits per token. Both paired on the same documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from remainder.board.distortion import POINTS
from remainder.board.merge import BoardRow, folders_of_tasks, groups, read_entries
from remainder.board.rank import (
    budgets_of,
    difference,
    gives_places,
    lead_of,
    rank,
    unplaced_because,
)
from remainder.errors import RecordError
from remainder.record.intervals import Estimate
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.text import format_interval

__all__ = ["describe_place"]

_NAMES = {"coded": "coded", "raw": "raw", "gaussian": "Gaussian"}


def describe_place(record: Record, results: Path) -> list[str]:
    """A few sentences on the place of `record`, which lies below `results`.

    Raises:
        RecordError: it does not lie there.
    """
    paths = folders_of_tasks(results).get(record.task.id, [])
    entries, _ = read_entries(results, paths)
    own = next((entry for entry in entries if entry.record.record_id == record.record_id), None)
    if own is None:
        raise RecordError(
            f"record {record.record_id[:12]} does not lie below {results}", fix="put it there, and verify it"
        )
    peers = groups(entries)[own.group]
    if own.withdrawn is not None:
        return [f"It {own.withdrawn.sentence}"]
    if not own.current:
        return ["Not the current record of its submission: another one has more rungs, or came later."]
    lines = list(_places(own, peers))
    other, why = _compared_with(own, peers)
    if other is not None:
        name = other.record.submission.name
        compared = dict.fromkeys((lead_of([own, other]), "gaussian"))
        lines += [
            f"Against {name} ({why}), by KL {_NAMES[by]}: {_in_words(difference(own, other, by))}."
            for by in compared
        ]
    return lines


def _places(own: BoardRow, peers: Sequence[BoardRow]) -> Iterator[str]:
    if not gives_places(own.group.task):
        yield f"{own.group.task} gives no places: they are given at sites of public pretrained models."
        return
    if reason := unplaced_because(own):
        yield f"No place: {reason}."
        return
    budgets = budgets_of(peers)
    if not budgets:
        yield "No place: no record of this task states R₀, the bits of transform coding."
    name = own.record.record_id
    for budget in budgets:
        ranking, within = rank(peers, budget), f"Within {budget.name} of R₀ ({budget.bits:.4g} bits)"
        if (place := ranking.places.get(name)) is None:
            yield f"{within}: no place, {ranking.apart.get(name, 'no point of its curve is that cheap')}."
            continue
        one = ranking.entered[name]
        point = f"{POINTS[one.point]}: {one.at.bits.value:.4g} bits, KL {one.at.kl.value:.4g}"
        yield f"{within}: place {place.text} of {place.of}, with its point {point}; {place.told}."


def _compared_with(own: BoardRow, peers: Sequence[BoardRow]) -> tuple[BoardRow | None, str]:
    """Another record to hold it against, and why that one."""
    same = [
        entry
        for entry in peers
        if entry.record.submission.name == own.record.submission.name
        and entry.is_nested == own.is_nested
        and entry is not own
    ]
    if same:
        previous = max(same, key=lambda entry: entry.arrival)
        return previous, f"its previous record {previous.record.record_id[:12]}"
    bits = own.record.complexity.bits_per_token.value
    others = [
        (abs(value - bits), entry.record.submission.name, entry)
        for entry in peers
        if bits is not None
        and entry.current
        and entry is not own
        and not entry.is_nested
        and (value := entry.record.complexity.bits_per_token.value) is not None
    ]
    if not others:
        return None, ""
    _, _, nearest = min(others, key=lambda other: other[:2])
    value = nearest.record.complexity.bits_per_token.value
    return nearest, f"nearest in bits: {value:.4g}, this one {bits:.4g}"


def _in_words(apart: Estimate) -> str:
    """Better or worse by a paired difference of KL, less being better, or neither can be told."""
    if apart.value is None:
        return f"cannot be compared: {apart.reason}"
    number = Number.of(apart)
    interval = format_interval(number)
    value = f"{apart.value:+.3g}" + ("" if interval is None else f" {interval}")
    if not apart.excludes_zero():
        return f"these documents do not tell which is better ({value} nats)"
    return f"{'better' if apart.value < 0 else 'worse'} ({value} nats)"
