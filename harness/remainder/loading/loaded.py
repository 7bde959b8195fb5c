"""A task made ready to measure: model and data at hand, and the verb that every kind of task has.

1. `measure` scores an interpretation, `remeasure` some documents of a record again; the code of both is named
   by the task's kind (`remainder.task.kinds`), since it stands above this room.
2. When the device runs out of memory, both go on with half the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from remainder.base.cache import Progress
from remainder.base.resolve import resolve
from remainder.errors import MeasurementError, RemainderError
from remainder.record.schema import Pinned
from remainder.record.store import StoredRecord
from remainder.task.spec import Task

if TYPE_CHECKING:
    from remainder.measure.partial import Finished
    from remainder.measure.plan import Plan
    from remainder.measure.seal import Remeasured
    from remainder.submission.submission import Entry

__all__ = ["LoadedTask", "Outcome"]


class Outcome(NamedTuple):
    """The outcome of one interpretation of several: its record, or the error that ended it."""

    entry: Entry
    result: StoredRecord | None
    problem: RemainderError | None

    def record(self) -> StoredRecord:
        """The record.

        Raises:
            RemainderError: the error.
        """
        if self.result is None:
            assert self.problem is not None
            raise self.problem
        return self.result


@dataclass
class LoadedTask(ABC):
    """A task with all that measuring it needs; models are loaded when they are first used."""

    task: Task
    device: torch.device
    batch_size: int
    progress: Progress | None

    @property
    @abstractmethod
    def model(self) -> Pinned:
        """The source of the model, and the hash of its weights (checked, if the task pins one)."""

    @property
    @abstractmethod
    def data(self) -> Pinned:
        """The source of the data, and their hash."""

    def scored_windows(self, count: int) -> dict[tuple[str, int], int] | None:
        """Scored tokens of each of the first `count` evaluation windows, by document and number; None, if
        this kind of task does not say (then nothing compares the documents of its records)."""
        return None

    @property
    def interpretations(self) -> Mapping[str, Any]:
        """Interpretations that the task brings itself, by name."""
        return {}

    @abstractmethod
    def hooked(self, dtype: str = "float32") -> Any | None:
        """The model behind TransformerLens' bridge, as it is loaded already or else in `dtype`; None, if it
        has none."""

    def measure(
        self,
        entry: Entry,
        plan: Plan,
        *,
        reference: Entry | None = None,
        progress: Progress | None = None,
    ) -> StoredRecord:
        """Score an interpretation; gives its record and the per-document values.

        Args:
            reference: a finer interpretation that stands in for the model.
            progress: told what is being done; default: that of the task.

        Raises:
            RemainderError: if the interpretation is not sound or not of this kind of task, a check fails, or
                memory is too small for a batch of one.
        """
        record: StoredRecord = self._in_memory("measure", entry, (plan,), reference, progress)
        return record

    def measure_group(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        *,
        reference: Entry | None = None,
        progress: Progress | None = None,
        finished: Finished | None = None,
        part: tuple[int, int] | None = None,
    ) -> Iterator[Outcome]:
        """Score interpretations one after another; an error of one does not stop the others.

        Args:
            finished: batches that need not be measured again; new ones are put there. A kind of task without
                batches does not look at it.
            part: (i, n), i from 0: only the i-th of n parts of the batches is measured, for another process
                that measures the whole. A kind of task without batches has no parts to measure.
        """
        for entry in entries if part is None else ():
            try:
                record = self.measure(entry, plan, reference=reference, progress=progress)
            except RemainderError as problem:
                yield Outcome(entry, None, problem)
            else:
                yield Outcome(entry, record, None)

    def remeasure(
        self,
        entry: Entry,
        plan: Plan,
        documents: Collection[str],
        *,
        reference: Entry | None = None,
        progress: Progress | None = None,
    ) -> Remeasured:
        """Measure documents of the evaluation split again; for prompts all are measured, since a few take as
        long.

        Raises:
            RemainderError: as `measure`.
        """
        some: Remeasured = self._in_memory("remeasure", entry, (plan, documents), reference, progress)
        return some

    def _in_memory(
        self,
        verb: str,
        entry: Entry,
        arguments: tuple[Any, ...],
        reference: Entry | None,
        progress: Progress | None,
    ) -> Any:
        """Call `measure` or `remeasure` of the kind's module."""
        self.task.kind.require_scored(entry.name, entry.kind, self.task.id)
        return self._halving(verb, entry, *arguments, reference=reference, progress=progress or self.progress)

    def _halving(self, verb: str, *arguments: Any, **settings: Any) -> Any:
        """Call a function of the kind's module, halving the batch each time memory runs out."""
        function = resolve(f"{self.task.kind.measure}:{verb}")
        while True:
            try:
                return function(self, *arguments, **settings)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise MeasurementError(
                        f"the device has too little memory for {self.task.kind.samples} one at a time",
                        fix="use a device with more memory, --dtype bfloat16, or --device cpu",
                    ) from None
            # Only here is the failed pass gone: the error held its frames, and they its tensors.
            self.batch_size //= 2
            torch.cuda.empty_cache()
