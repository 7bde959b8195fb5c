"""The face of those who measure: slots that are given cells, and tell what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from remainder.runs.job import Message, Problem

__all__ = ["Event", "Idle", "Lost", "Pool", "Said"]


class Said(NamedTuple):
    """A slot tells what became of a cell."""

    slot: int
    message: Message


class Idle(NamedTuple):
    """A slot has told what became of all its cells, and waits for others."""

    slot: int


class Lost(NamedTuple):
    """The process of a slot died with the cells that it has not told of; the slot can be given others."""

    slot: int
    problem: Problem
    is_gone: bool = False
    """Whether no other process can take the slot."""


Event: TypeAlias = Said | Idle | Lost


@runtime_checkable
class Pool(Protocol):
    """Slots that measure cells beside each other."""

    @property
    def slots(self) -> int:
        """How many there are."""

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        """Give cells of one task to a slot that has none, or a part of their batches (`job.messages`).

        Raises:
            RemainderError: nothing can be measured any more, by any slot.
        """

    def event(self) -> Event:
        """Wait until a slot that has cells tells something.

        Raises:
            RemainderError: nothing can be measured any more, by any slot.
        """

    def close(self) -> None:
        """End what is being measured; called once, whatever happens."""
