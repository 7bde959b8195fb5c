"""The course of a run: who measures which cell, and what is kept.

1. A cell with a finished record is not measured. Any other is claimed first (`runs.claims`), then looked up
   once more; a cell that another process has claimed is put off until that process is done with it, or dead.
2. A slot is given several cells of one task at once, since they share passes of the model.
3. A slot for which nothing is left helps another one with its cells: it measures a part of their batches,
   from the last one back, and keeps them where the other one finds them. An error of theirs is not its to
   tell, since the other one meets it too; that nothing can be measured any more ends the run all the same.
4. This process alone writes records, each whole or not at all, as soon as it is told of them.
5. An error of a cell becomes its row, and the others go on. A process that dies costs each cell that it had
   not told of once more, now alone; a cell that is lost twice has that as its row.
6. What concerns all cells ends the run: results that cannot be written, a device or a cluster that is gone.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from remainder.base.cache import Progress, silent
from remainder.errors import MeasurementError
from remainder.record.find import find_record
from remainder.record.store import StoredRecord, read_record, write_record
from remainder.record.turns import sweep
from remainder.runs.batches import Batches
from remainder.runs.claims import Claims
from remainder.runs.job import Broken, Failed, Message, Problem, unpack_problem
from remainder.runs.journal import Journal
from remainder.runs.pool import Event, Idle, Lost, Pool, Said
from remainder.runs.work import Cell, FinishedRun, Row

__all__ = ["GROUP", "drive"]

GROUP = 16
"""Cells that a slot is given at once, at most: a further one costs a fraction of the first."""

_POLL = 0.5  # seconds between two looks at what another process is doing
_TRIES = 2  # of a cell whose process dies


def drive(
    cells: Sequence[Cell],
    pool: Pool,
    out: Path,
    *,
    chosen: Sequence[int] | None = None,
    fresh: bool = False,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Generator[Row]:
    """Measure cells, or find their finished records; yields rows as they are ready.

    Args:
        cells: the run's list.
        pool: those who measure; closed in the end.
        out: the folder of results.
        chosen: places of the cells that this process cares for; default: all.
        fresh: measure what is finished already too.
        journal: told of every row.
        progress: told when this process waits for another one.

    Raises:
        RemainderError: something that concerns all cells; finished rows are kept.
    """
    try:
        with Claims(out) as claims:
            run = _Run(cells, pool, out, claims, fresh, journal, progress or silent)
            yield from run.rows(range(len(cells)) if chosen is None else chosen)
        if not claims.others():
            Batches(out).remove()
    finally:
        pool.close()


class _Run:
    def __init__(
        self,
        cells: Sequence[Cell],
        pool: Pool,
        out: Path,
        claims: Claims,
        fresh: bool,
        journal: Journal | None,
        progress: Progress,
    ) -> None:
        self.cells, self.pool, self.out, self.claims = cells, pool, out, claims
        self.fresh, self.journal, self.progress = fresh, journal, progress
        self.waiting: deque[int] = deque()
        self.alone: deque[int] = deque()
        """Claimed cells whose process died: each is given to a slot by itself."""
        self.elsewhere: deque[int] = deque()
        """Cells that another process has claimed."""
        self.busy: dict[int, list[int]] = {}
        """Cells that each slot has not told of yet."""
        self.helping: dict[int, int] = {}
        """Slots that help, and the slot that each helps."""
        self.helped: set[tuple[int, int]] = set()
        """Slots with the last of the cells that each has helped with: once is all that it can do."""
        self.held: deque[Row] = deque()
        """Rows found finished that come after cells in progress."""
        self.gone: set[int] = set()
        """Slots that can be given nothing any more."""
        self.lost: Counter[int] = Counter()
        self.size = GROUP
        """Cells of a group, at most."""

    def rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Rows of the cells at these places, as they are ready."""
        for base in dict.fromkeys(self.cells[number].folder for number in numbers):
            sweep(self.out / base)
        for number in numbers:
            # Else a slot might be given what is finished, and another one all the rest.
            if self.pool.slots > 1 and (found := self._found(self.cells[number])) is not None:
                yield self._kept(number, found)
            else:
                self.waiting.append(number)
        self.size = min(GROUP, math.ceil(len(self.waiting) / self.pool.slots))
        while self.waiting or self.alone or self.elsewhere or self.busy:
            for slot in self._free():
                self._give(slot)
            self._help()
            yield from self._settled()
            if self.busy or self.helping:
                yield from self._hear()
            elif self.elsewhere:
                self.progress(f"waiting for {len(self.elsewhere)} row(s) of another process", 0, None)
                time.sleep(_POLL)
        yield from self.held

    def _settled(self) -> Iterator[Row]:
        """Rows that were found finished, but for those that stand after a cell in progress."""
        first = min((number for group in self.busy.values() for number in group), default=math.inf)
        while self.held and self.held[0].number < first:
            yield self.held.popleft()

    def _give(self, slot: int) -> None:
        """Give cells to a slot, if any are left."""
        group = [self.alone.popleft()] if self.alone else self._claim(self.waiting or self.elsewhere)
        if group:
            self._note("begun", group)
            self.busy[slot] = group
            self.pool.start(slot, tuple(group))

    def _free(self) -> list[int]:
        """Slots that have nothing to do."""
        return [
            slot for slot in range(self.pool.slots) if not {slot} & {*self.busy, *self.helping, *self.gone}
        ]

    def _help(self) -> None:
        """Let free slots help those that have cells whose finished batches are kept, each in equal number."""
        able = [
            (slot, group[-1])
            for slot, group in self.busy.items()
            if group and all(self.cells[number].is_pinned for number in group)
        ]
        if self.fresh or not able:
            return
        asked = [
            (slot, able[place % len(able)])
            for place, slot in enumerate(self._free())
            if (slot, able[place % len(able)][1]) not in self.helped
        ]
        shares = Counter(owner for _, (owner, _) in asked)
        for slot, (owner, last) in asked:
            number = sum(other == owner for other in self.helping.values()) + 1
            self.helping[slot] = owner
            self.helped.add((slot, last))
            self.pool.start(slot, tuple(self.busy[owner]), (number, max(shares[owner], number) + 1))

    def _claim(self, among: deque[int]) -> list[int]:
        """Claim the next cells of one task; those that are finished become rows."""
        group: list[int] = []
        for _ in range(len(among)):
            number = among[0]
            cell = self.cells[number]
            if group and (cell.source != self.cells[group[0]].source or len(group) == self.size):
                break
            among.popleft()
            found = self._found(cell)
            if found is None and not self.claims.take(cell.key):
                self.elsewhere.append(number)
            elif found is not None or (found := self._found(cell)) is not None:
                self.held.append(self._kept(number, found))
            else:
                group.append(number)
        return group

    def _found(self, cell: Cell) -> FinishedRun | None:
        base = self.out / cell.folder
        # What is not pinned may have changed under the same hash.
        if self.fresh or not cell.is_pinned or not base.is_dir():
            return None
        path = find_record(base, cell.key)
        return None if path is None else FinishedRun(*read_record(path), path, kept=True)

    def _kept(self, number: int, found: FinishedRun) -> Row:
        self._note("found", [number])
        self._drop(self.cells[number])
        return Row(number, self.cells[number], found, None)

    def _hear(self) -> Iterator[Row]:
        event = self.pool.event()
        if event.slot in self.helping:
            self._hear_helper(event)
        elif isinstance(event, Said):
            yield from self._take(event.slot, event.message)
        elif isinstance(event, Idle):
            assert not self.busy.pop(event.slot), "a slot is done, and has not told of all its cells"
        else:
            yield from self._again(event)

    def _hear_helper(self, event: Event) -> None:
        if not isinstance(event, Said):
            del self.helping[event.slot]
            if isinstance(event, Lost):
                self._note("lost", [], reason=event.problem.what)
                self.gone |= {event.slot} if event.is_gone else set()
        elif isinstance(event.message, Broken) and event.message.is_end:
            raise unpack_problem(event.message.problem)

    def _take(self, slot: int, message: Message) -> Iterator[Row]:
        if isinstance(message, Broken):
            if message.is_end:
                raise unpack_problem(message.problem)
            many = len(self.busy[slot]) > 1
            for number in self.busy[slot]:
                if many:  # whose fault it was shows when each is alone
                    self.alone.append(number)
                else:
                    yield self._failed(number, message.problem, message.trace)
            self.busy[slot] = []
            return
        self.busy[slot].remove(message.number)
        if isinstance(message, Failed):
            yield self._failed(message.number, message.problem)
        else:
            yield self._made(message.number, message.stored)

    def _again(self, event: Lost) -> Iterator[Row]:
        """The process of a slot died: its cells are measured once more, each alone."""
        left = self.busy.pop(event.slot)
        self._note("lost", left, reason=event.problem.what)
        for number in left:
            self.lost[number] += 1
            if self.lost[number] < _TRIES:
                self.alone.append(number)
            else:
                what = f"{event.problem.what}, when it was tried again too"
                yield self._failed(number, event.problem._replace(what=what))
        if event.is_gone:
            self.gone.add(event.slot)
        if len(self.gone) == self.pool.slots and (self.alone or self.waiting or self.elsewhere):
            raise MeasurementError(
                f"no process is left that could measure ({event.problem.what})",
                fix="mend that, and run again: finished rows are kept",
            )

    def _made(self, number: int, stored: StoredRecord) -> Row:
        cell = self.cells[number]
        path = self.out / cell.folder / f"{stored.record.record_id}.json"
        write_record(*stored, path)
        self._note("measured", [number], record=stored.record.record_id)
        self._drop(cell)
        return Row(number, cell, FinishedRun(*stored, path, kept=False), None)

    def _failed(self, number: int, problem: Problem, trace: str | None = None) -> Row:
        more = {} if trace is None else {"trace": trace}
        self._note("failed", [number], **problem._asdict(), **more)
        self._drop(self.cells[number])
        return Row(number, self.cells[number], None, unpack_problem(problem))

    def _drop(self, cell: Cell) -> None:
        self.claims.drop(cell.key)

    def _note(self, event: str, numbers: Sequence[int], **more: object) -> None:
        if self.journal is not None:
            self.journal.add(event, cells=list(numbers), **more)
