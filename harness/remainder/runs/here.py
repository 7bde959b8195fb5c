"""Cells measured in the process of the run itself, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from remainder.runs.job import Message, Openings, messages
from remainder.runs.pool import Idle, Said

__all__ = ["Here"]


class Here:
    """The pool of one slot that is this process: a row is measured when somebody asks what happened."""

    slots = 1

    def __init__(self, openings: Openings) -> None:
        self._openings = openings
        self._messages: Iterator[Message] = iter(())

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        """Measure these cells next."""
        self._messages = messages(self._openings, numbers, part)

    def event(self) -> Said | Idle:
        """Measure the next one."""
        message = next(self._messages, None)
        return Idle(0) if message is None else Said(0, message)

    def close(self) -> None:
        """Nothing is left to end."""
