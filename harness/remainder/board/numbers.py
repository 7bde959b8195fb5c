"""Numbers of records as the board shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from remainder.record.number import Number
from remainder.report.text import MISSING, format_interval, format_value, half_width

__all__ = ["Grid", "Shown", "ends_of", "in_words", "parted", "shown", "within"]

_REACH = 0.6


class Shown(NamedTuple):
    """A cell of a table: a number with its interval, or a word."""

    value: str
    interval: str = ""
    note: str = ""
    """Why the number is missing."""


class Grid(NamedTuple):
    """The numbers of a figure as a table; the first cell of a row is its heading."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]


def parted(number: Number) -> tuple[str, str]:
    """A number's value and its interval as they are shown: with a true minus."""
    if number.value is None:
        return MISSING, ""
    value = format_value(number.value, half_width(number))
    return value.replace("-", "−"), (format_interval(number) or "").replace("-", "−")


def in_words(number: Number) -> str:
    """Value and interval in a line."""
    value, interval = parted(number)
    return f"{value} {interval}".rstrip()


def shown(number: Number | None) -> Shown:
    """A number as a cell; None is one that was not asked for."""
    if number is None:
        return Shown(MISSING, "", "not measured")
    value, interval = parted(number)
    return Shown(value, interval, number.reason or "")


def ends_of(number: Number) -> list[float]:
    """Value and ends of the interval, as far as there are any."""
    return [end for end in (number.value, number.low, number.high) if end is not None]


def within(numbers: Iterable[Number], also: Sequence[float] = (), *, reach: float = _REACH) -> list[float]:
    """Numbers that a scale has to hold: all values, and ends of intervals that do not flatten them.

    Few and skewed documents can give an interval of KL of a million nats around values of ten.

    Args:
        numbers: that are drawn.
        also: what has to fit besides.
        reach: by which share of the span of all values an end may lie beyond them.
    """
    some = list(numbers)
    values = [*also, *(number.value for number in some if number.value is not None)]
    if not values:
        return []
    room = reach * ((max(values) - min(values)) or abs(values[0]) or 1.0)
    low, high = min(values) - room, max(values) + room
    return [*values, *(end for number in some for end in ends_of(number) if low <= end <= high)]
