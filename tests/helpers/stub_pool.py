"""A pool that measures nothing: what its slots say is made up, and nothing takes time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.record.schema import TaskInfo
from remainder.record.store import StoredRecord
from remainder.runs.job import Made, Message, Problem
from remainder.runs.pool import Event, Idle, Lost, Said
from remainder.runs.work import Cell

TASK = TaskInfo(id="family/task", version="1-0", hash=fake_hash("task"))
VALUES = synthetic_values(documents=6, windows=1)
KILLED = Problem("MeasurementError", "a worker was killed", "give it more memory")


@cache
def stored(number: int) -> StoredRecord:
    """A record; each number's is another one."""
    return StoredRecord(synthetic_record(VALUES, name=f"sae-{number}"), VALUES)


def make_cells(count: int, source: int = 0) -> tuple[Cell, ...]:
    """Cells of the records that `stored` gives."""
    cells = []
    for number in range(count):
        record = stored(number).record
        folder = Path(TASK.id) / "1" / record.submission.name
        cells.append(
            Cell(
                task=TASK.id,
                name=record.submission.name,
                hash=record.submission.hash,
                key=record.measurement_key,
                identity=record.measurement_key,
                folder=folder.as_posix(),
                is_pinned=True,
                source=source,
                named=record.submission.name,
            )
        )
    return tuple(cells)


class StubPool:
    """Slots whose cells are all told of in turn.

    Args:
        slots: how many.
        say: what is said of a cell in place of a record; None: that the process of its slot is dead.
    """

    def __init__(self, slots: int = 1, say: Callable[[int], Message | None] | None = None) -> None:
        self._slots = slots
        self.say = say or (lambda number: Made(number, stored(number)))
        self.started: list[tuple[int, ...]] = []
        self.helped: list[tuple[int, tuple[int, ...], tuple[int, int]]] = []
        """Slots that help, with which cells, and with which part of their batches."""
        self.help: Callable[[int], Event] | None = None
        """What becomes of a slot that helps; None: that it is done."""
        self.closed = 0
        self._events: deque[Event] = deque()

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        if part is not None:
            self.helped.append((slot, tuple(numbers), part))
            # Whoever helps is heard before those that are helped.
            self._events.extendleft(reversed([self.help(slot)] if self.help else []))
            if not (self.help and isinstance(self._events[0], Lost)):
                self._events.append(Idle(slot))
            return
        self.started.append(tuple(numbers))
        for number in numbers:
            if (message := self.say(number)) is None:
                self._events.append(Lost(slot, KILLED))
                return
            self._events.append(Said(slot, message))
            if not hasattr(message, "number"):
                break
        self._events.append(Idle(slot))

    def event(self) -> Event:
        return self._events.popleft()

    def close(self) -> None:
        self.closed += 1
