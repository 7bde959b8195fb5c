"""Trainings of one method that differ in nothing but the seed: submissions called `NAME-seed-N`.

A record's interval is over documents. It says nothing of how far another training would have come out, which
is often farther (docs/noise-floor.md). So what was trained several times is submitted as often, and tables
state the mean over trainings with their standard deviation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from remainder.record.schema import Record

__all__ = ["stem_of", "trainings"]

_SEED = re.compile(r"(?P<stem>[a-z0-9].*)-seed-(?P<seed>0|[1-9]\d{0,9})")


def stem_of(name: str) -> str | None:
    """The name that trainings share; None of a submission that is called otherwise."""
    found = _SEED.fullmatch(name)
    return None if found is None else found["stem"]


def trainings(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of two or more trainings by the name that they share, one of each.

    What a name shares and is of another format or family is another method.

    Args:
        records: of one table: of one task, tier and dtype.
    """
    found: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in records:
        submission = record.submission
        stem = stem_of(submission.name)
        if stem is not None and record.reference is None:
            key = (stem, submission.format or "", submission.family or "")
            found.setdefault(key, {}).setdefault(submission.name, record)
    several = {key: list(some.values()) for key, some in found.items() if len(some) > 1}
    alike = [stem for stem, _, _ in several]
    return {key[0]: some for key, some in several.items() if alike.count(key[0]) == 1}
