"""The place of a record among the others of its task: its rank, its ties, and what came before.

1. Its place by KL, raw and Gaussian, among the ranked submissions of the same task and tier (`board.rank`).
2. Against the previous record of the same submission, if there is one; else against the submission that is
   nearest in bits per token. Both paired on the same documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from remainder.board.merge import RUNGS, BoardRow, folders_of_tasks, groups, read_entries
from remainder.board.rank import difference, rank, unranked_because
from remainder.errors import RecordError
from remainder.record.intervals import Estimate
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.text import format_interval

__all__ = ["describe_place"]

_BY = {"raw": "raw", "gaussian": "Gaussian"}
_NAMED = 4  # submissions that it is tied with, by name


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
    if not own.current:
        return ["Not the current record of its submission: another one has more rungs, or came later."]
    lines = [sentence for by in RUNGS for sentence in _place(own, peers, by)]
    other, why = _compared_with(own, peers)
    if other is not None:
        start = f"Against {other.record.submission.name} ({why}): KL"
        lines += [f"{start} {name} {_in_words(difference(own, other, by))}." for by, name in _BY.items()]
    return lines


def _place(own: BoardRow, peers: Sequence[BoardRow], by: str) -> Iterator[str]:
    if reason := unranked_because(own, by):
        yield f"No place by KL {_BY[by]}: {reason}."
        return
    ranking = rank(peers, by)
    place = ranking.places[own.record.record_id]
    tied = [
        entry.record.submission.name
        for entry in ranking.order
        if ranking.places[entry.record.record_id].group == place.group and entry is not own
    ]
    more = f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else ""
    with_ = f", tied with {', '.join(tied[:_NAMED])}{more}" if tied else ""
    yield f"Place {place.text} of {len(ranking.order)} by KL {_BY[by]}{with_}."


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
    """A paired difference, and whether it is separable."""
    if apart.value is None:
        return f"cannot be compared: {apart.reason}"
    number = Number.of(apart)
    interval = format_interval(number)
    value = f"{apart.value:+.3g}" + ("" if interval is None else f" {interval}")
    return f"{value}, {'separable' if apart.excludes_zero() else 'not separable'}"
