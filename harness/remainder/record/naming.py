"""Distinct names: shortened where that loses nothing, lengthened where two would coincide.

1. A name that is too long is cut in the middle: what tells names apart stands at their ends.
2. Paths that end alike are called by as much of their ends as differs.
3. Records of different submissions with one name are told apart by the hash, which is all that they say;
   several records of one submission by how their ids begin.

Needs no torch.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from remainder.record.schema import Record

__all__ = ["LONGEST", "differing_ends", "numbered", "shortened", "told_apart"]

LONGEST = 40
"""Letters of a submission's name."""

_CUT = ".."
"""Stands for what is left out: names hold no `…`."""
_HASH = 6  # digits of a hash or an id that tell records apart


def shortened(name: str, most: int = LONGEST) -> str:
    """`name` in at most `most` letters: of a longer one both ends."""
    if len(name) <= most:
        return name
    room = most - len(_CUT)
    return f"{name[: room // 2].rstrip('-._')}{_CUT}{name[-(room - room // 2) :].lstrip('-._')}"


def differing_ends(
    paths: Sequence[tuple[str, ...]], named: Callable[[tuple[str, ...]], str]
) -> list[str] | None:
    """Names by the shortest ends of paths that differ from each other; None if no ends do.

    Args:
        paths: the parts of each.
        named: the name that parts give; two that it calls the same are not told apart. Where whole ends look
            the same once they are cut, parts that all have in common are left out, and then words.
    """
    for number in range(2, max(map(len, paths)) + 1):
        ends = [path[-number:] for path in paths]
        for parts in (ends, _telling(ends, lambda column: column), _telling(ends, _differing_words)):
            names = [named(one) for one in parts]
            if len(set(names)) == len(names) and all(names):
                return names
    return None


def _telling(
    ends: Sequence[tuple[str, ...]], shorter: Callable[[list[str]], list[str]]
) -> list[tuple[str, ...]]:
    """The last parts, and before them those that not all have in common, made `shorter`."""
    depth = min(map(len, ends))
    found = [list(end[:-depth]) for end in ends]  # above the root of the shortest
    for place in range(-depth, -1):
        column = [end[place] for end in ends]
        if len(set(column)) > 1:
            for parts, part in zip(found, shorter(column), strict=True):
                parts.append(part)
    return [(*parts, end[-1]) for parts, end in zip(found, ends, strict=True)]


def _differing_words(column: list[str]) -> list[str]:
    """Names without the words that all begin or end with; as they are where one would be left without any."""
    split = [re.split(r"[_\s-]+", name) for name in column]
    begin, end = 0, 0
    while len({tuple(words[begin : begin + 1]) for words in split}) == 1 and begin < min(map(len, split)):
        begin += 1
    while len({tuple(words[len(words) - end - 1 : len(words) - end]) for words in split}) == 1 and end < min(
        len(words) - begin for words in split
    ):
        end += 1
    left = ["-".join(words[begin : len(words) - end]) for words in split]
    return left if all(left) else column


def told_apart(records: Sequence[Record]) -> list[Record]:
    """The records; where different submissions have one name, each with the beginning of its hash behind it.

    For showing only: the name is a part of what a record's own hash is of.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        hashes[record.submission.name].add(record.submission.hash)
    return [record if len(hashes[record.submission.name]) == 1 else _with_hash(record) for record in records]


def _with_hash(record: Record) -> Record:
    return _renamed(record, f"{record.submission.name} ({record.submission.hash[:_HASH]})")


def numbered(records: Sequence[Record]) -> list[Record]:
    """The records; where several have one name, each with the beginning of its id behind it.

    For showing only, as `told_apart`.
    """
    counts = Counter(record.submission.name for record in records)
    return [
        record
        if counts[record.submission.name] == 1
        else _renamed(record, f"{record.submission.name} [{record.record_id[:_HASH]}]")
        for record in records
    ]


def _renamed(record: Record, name: str) -> Record:
    return record.model_copy(update={"submission": record.submission.model_copy(update={"name": name})})
