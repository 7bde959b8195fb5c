"""The work of a process that is given cells: get the task ready, measure, tell what became of each.

It is the same in the process of the run itself, in worker processes and in those of Ray.
"""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from remainder import errors
from remainder.base.cache import Progress
from remainder.base.files import refused
from remainder.base.messages import message_of
from remainder.errors import InterpretationError, RecordError, RemainderError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.plan import Plan
from remainder.model.device import pick_device
from remainder.record.json import canonical_json
from remainder.record.schema import Record
from remainder.record.store import StoredRecord
from remainder.record.values import values_from_csv, values_to_csv
from remainder.runs.batches import Batches
from remainder.runs.work import Cell
from remainder.submission.open import submissions_for
from remainder.submission.submission import Entry, Submission

__all__ = [
    "Broken",
    "Failed",
    "Made",
    "Message",
    "Openings",
    "Packed",
    "Problem",
    "Source",
    "messages",
    "pack",
    "problem_of",
    "unpack",
    "unpack_problem",
]


class Source(NamedTuple):
    """A task of the run, so that any process can get it ready."""

    task: str
    """The task's id, or the absolute path of its folder."""
    plan: Plan
    device: str
    batch_size: int | None
    ignored: tuple[str, ...] = ()
    """Fields of submissions' files to be passed over."""
    trusted: bool = False
    """Whether submissions' code may be executed."""


class Problem(NamedTuple):
    """An error that a person can act on, as it goes between processes."""

    error: str
    """The name of its class."""
    what: str
    fix: str | None


class Made(NamedTuple):
    """A cell was measured."""

    number: int
    stored: StoredRecord


class Failed(NamedTuple):
    """A cell cannot be measured."""

    number: int
    problem: Problem


class Broken(NamedTuple):
    """Something that nobody foresaw ended the work on a group; which of its cells did it is not known."""

    problem: Problem
    trace: str
    is_end: bool
    """Whether it is nothing that another cell could do without."""


Message: TypeAlias = Made | Failed | Broken
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

Packed: TypeAlias = tuple[Any, ...]
"""A message between processes: the name of its class, then texts, bytes and numbers."""


class Openings:
    """Tasks that are ready to measure, and entries by the place of their cells in the list.

    A task is kept until cells of another one are asked for: its model may be large.

    Args:
        sources: the run's tasks.
        cells: the run's list, as far as it is known.
        progress: told what is being done.
        out: the folder of results where finished batches are kept; None: nowhere.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cells: Sequence[Cell] = (),
        *,
        progress: Progress | None = None,
        out: Path | None = None,
    ) -> None:
        self.sources, self.cells, self.progress, self.out = tuple(sources), tuple(cells), progress, out
        self.finished = None if out is None else Batches(out)
        self._loaded: dict[int, LoadedTask] = {}
        self._entries: dict[int, Entry] = {}
        self._references: dict[int, Entry] = {}
        """Finer interpretations by the sources whose model they stand in for."""
        self._last: int | None = None

    def put(
        self,
        source: int,
        loaded: LoadedTask | None,
        cells: Sequence[Cell],
        entries: Sequence[Entry],
        reference: Entry | None = None,
    ) -> None:
        """Add cells of a task, with what is scored in each, and the task if it is ready.

        Args:
            reference: a finer interpretation that stands in for the model of this source.
        """
        if loaded is not None:
            self._loaded[source], self._last = loaded, None
        if reference is not None:
            self._references[source] = reference
        self._entries |= dict(enumerate(entries, len(self.cells)))
        self.cells += tuple(cells)

    def task(self, source: int) -> LoadedTask:
        """A task, made ready if it is not.

        Raises:
            RemainderError: as `open_task`.
        """
        if self._last not in (None, source):
            self._loaded.pop(self._last, None)
        self._last = source
        if source not in self._loaded:
            place = self.sources[source]
            self._loaded[source] = open_task(
                place.task, device=place.device, batch_size=place.batch_size, progress=self.progress
            )
        return self._loaded[source]

    def reference(self, source: int) -> Entry | None:
        """The interpretation that stands in for the model of a source, if any."""
        return self._references.get(source)

    def entry(self, number: int) -> Entry:
        """The submission of a cell, found by the name that was given for it.

        Raises:
            RemainderError: there is none here, or it has another content than when the run began.
        """
        if number not in self._entries:
            cell = self.cells[number]
            source = self.sources[cell.source]
            (entry,) = submissions_for(
                self.task(cell.source), [cell.named], source.ignored, trust_code=source.trusted
            )
            if entry.hash != cell.hash:
                raise InterpretationError(
                    f"{cell.named} is not what the run began with: its hash is {entry.hash[:12]}…, in place "
                    f"of {cell.hash[:12]}…",
                    fix="change no submission while it is measured; several machines need one file system",
                )
            if isinstance(entry, Submission) and entry.name != cell.name:
                entry = entry.model_copy(update={"name": cell.name})
            self._entries[number] = entry
        return self._entries[number]


def messages(
    openings: Openings, numbers: Sequence[int], part: tuple[int, int] | None = None
) -> Iterator[Message]:
    """Measure cells of one task, which share what they can; gives what became of each, and last of all
    `Broken`, if something that nobody foresaw ended the work.

    Args:
        part: (i, n), i from 0: measure only this part of their batches, for another process that measures
            them whole, and that finds the batches in the folder of results. Of a cell that cannot be measured
            it tells what the other one will.
    """
    try:
        for number, outcome in _outcomes(openings, numbers, part):
            if isinstance(outcome, RemainderError):
                yield Failed(number, problem_of(outcome))
            else:
                yield Made(number, outcome)
    except RemainderError as problem:  # of the group; whose it is shows when each is alone
        yield Broken(problem_of(problem), traceback.format_exc(), False)
    except Exception as problem:
        device = openings.sources[openings.cells[numbers[0]].source].device
        found = _unforeseen(problem, device)
        yield Broken(found[0], traceback.format_exc(), found[1])


def _outcomes(
    openings: Openings, numbers: Sequence[int], part: tuple[int, int] | None
) -> Iterator[tuple[int, StoredRecord | RemainderError]]:
    source = openings.cells[numbers[0]].source
    entries: dict[int, Entry] = {}
    for number in numbers:
        try:
            openings.task(source)
            entries[number] = openings.entry(number)
        except RemainderError as problem:
            yield number, problem
    if not entries:
        return
    plan = openings.sources[source].plan
    pinned = all(openings.cells[number].is_pinned for number in entries)
    found = openings.task(source).measure_group(
        list(entries.values()),
        plan,
        reference=openings.reference(source),
        progress=openings.progress,
        finished=openings.finished if pinned else None,
        part=part,
    )
    for number, outcome in zip(entries, found, strict=part is None):
        if outcome.result is not None:
            yield number, outcome.result
        elif outcome.problem is not None:
            yield number, outcome.problem
        else:
            assert part is not None


def _answers(device: str) -> bool:
    """Whether the device can still be used."""
    try:
        torch.zeros(1, device=pick_device(device)).add_(1).item()
    except Exception:  # whatever the driver says: it is gone
        return False
    return True


def _unforeseen(problem: Exception, device: str) -> tuple[Problem, bool]:
    """The problem that somebody can act on, and whether no cell can be measured any more."""
    if isinstance(problem, OSError) and problem.errno in _UNWRITABLE:
        return problem_of(refused(problem, None, RecordError)), True
    what = f"{type(problem).__name__}: {message_of(problem)}"
    if not _answers(device):
        fix = "look after it (nvidia-smi), and run again: finished rows are kept"
        return Problem("MeasurementError", f"the device does not answer any more ({what})", fix), True
    fix = "the journal of the run has the traceback; report it with that"
    return Problem("MeasurementError", what, fix), False


def pack(message: Message) -> Packed:
    """A message as text: a record as the JSON, and values as the CSV, that will lie on disk."""
    if isinstance(message, Made):
        record, values = message.stored
        return "Made", message.number, canonical_json(record.model_dump(mode="json")), values_to_csv(values)
    if isinstance(message, Failed):
        return "Failed", message.number, *message.problem
    return "Broken", *message.problem, message.trace, message.is_end


def unpack(packed: Packed) -> Message:
    """The message that `pack` packed."""
    kind, *parts = packed
    if kind == "Made":
        number, record, values = parts
        return Made(number, StoredRecord(Record.model_validate(json.loads(record)), values_from_csv(values)))
    if kind == "Failed":
        return Failed(parts[0], Problem(*parts[1:]))
    return Broken(Problem(*parts[:3]), *parts[3:])


def problem_of(problem: RemainderError) -> Problem:
    """An error as it goes between processes: the nearest of its classes that `remainder.errors` has."""
    names = (parent.__name__ for parent in type(problem).__mro__)
    return Problem(next(name for name in names if name in errors.__all__), problem.what, problem.fix)


def unpack_problem(problem: Problem) -> RemainderError:
    """The error that `problem_of` packed."""
    kind: type[RemainderError] = getattr(errors, problem.error)
    return kind(problem.what, fix=problem.fix)
