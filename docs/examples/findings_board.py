"""Rows that results of docs/findings.md are about, and sentences on how many lie on which side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.text import format_value
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
    from findings_words import Side
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))


class Board(NamedTuple):
    """The rows that results are about."""

    text: list[Record]
    """Rows at sites of language models."""
    other: list[Record]
    """Rows at sites of other networks: small ones, and compiled programs."""
    controls: list[Record]
    circuits: list[Record]

    @property
    def dictionaries(self) -> list[Record]:
        """Trained dictionaries at sites of language models."""
        return [record for record in self.text if words.is_dictionary(record)]

    @property
    def sites(self) -> list[Record]:
        """All rows at sites."""
        return [*self.text, *self.other, *self.controls]


def board(records: Sequence[Record]) -> Board:
    """Rows by what they are of. Those in which a finer interpretation stands in for the model are left "
    "out."""
    alone = [record for record in records if record.reference is None]
    sites = [record for record in alone if not record.is_of_circuits]
    return Board(
        text=[record for record in sites if words.is_text(record)],
        other=[r for r in sites if not words.is_text(r) and words.suite(r) != "controls"],
        controls=[record for record in sites if words.suite(record) == "controls"],
        circuits=[record for record in alone if record.is_of_circuits],
    )


def rest(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if not words.is_dictionary(record) and not words.is_bound(record)]


def names(records: Sequence[Record]) -> str:
    return ", ".join(f"{words.name_of(record)} at {record.task.id}" for record in records)


def count_of(records: Sequence[Record], total: int) -> str:
    return f"{len(records)} of {total}{words.few(records)}"


def span(values: Sequence[float]) -> str:
    return f"{format_value(min(values))} to {format_value(max(values))}"


def jointly_on(records: Sequence[Record], key: str, place: Side, bound: float = 0.0) -> str:
    """How many of the rows that have a number lie there at the joint level, in words."""
    numbers = words.jointly(records, words.quantity(key))
    found = [record for record, number in numbers if words.side(number, bound, bound) == place]
    return f"{len(found)} of {len(numbers)}"


def by_sign(
    what: str, numbers: Sequence[tuple[Record, Number]], above: str, below: str, open_: str = "not told apart"
) -> str:
    """A sentence on how many rows lie on each side of 0, and the power of those that lie on none."""
    placed = words.sides(numbers)
    total = len(numbers)
    undecided = [*placed.get("open", []), *placed.get("within", [])]
    parts = [
        f"{word} in {count_of(found, total)}"
        for word, found in ((above, placed.get("above", [])), (below, placed.get("below", [])))
        if found
    ]
    text = f"{what}: {', '.join(parts) or 'of no row is a sign told'}"
    return f"{text}; {open_} in {count_of(undecided, total)}." if undecided else f"{text}."
