"""A part of a tier: the name that stands in a record of which only the first documents were measured.

Needs no torch: boards and the checker ask for it too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Part", "part_of"]


class Part(NamedTuple):
    """A number of documents of a tier."""

    tier: str
    documents: int

    @property
    def name(self) -> str:
        """The name that a record's tier has."""
        return f"{self.tier} ({self.documents} documents)"

    @property
    def note(self) -> str:
        """A sentence for readers of such a record."""
        return (
            f"Only {self.documents} documents of tier {self.tier} were measured: no board takes this record."
        )


def part_of(tier: str) -> Part | None:
    """Parse the tier of a record that measured a part; None for a whole tier."""
    match = re.fullmatch(r"(.+) \(([1-9][0-9]{0,8}) documents\)", tier)
    return None if match is None else Part(match[1], int(match[2]))
