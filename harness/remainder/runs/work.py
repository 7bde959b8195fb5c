"""Cells: what a run consists of, an immutable list, and the rows that they become.

A cell is one submission on one task, with all settings of its measurement; parts of its documents are dealt
out while it is measured. The records are what is kept: a row is written when it is finished, and a later run
with the same measurement key (task, submission, tier, rungs, draws, dtype, device, package version) takes it
from there. How cells are handed out: `runs.drive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from remainder.errors import RemainderError, TaskError
from remainder.measure.plan import Plan
from remainder.record.json import content_hash
from remainder.record.schema import Record
from remainder.record.store import measurement_key
from remainder.submission.names import folder_of
from remainder.submission.submission import Entry
from remainder.task.spec import Task

__all__ = ["Cell", "FinishedRun", "Row", "Shard", "cell_of", "identity_of", "take_shard"]


class Shard(NamedTuple):
    """One of equal parts, counted from 1: `2/8` is the second of eight."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that a text such as `2/8` names.

        Raises:
            TaskError: it is no such text, or the number is not one of 1 to the number of shards.
        """
        first, slash, last = text.partition("/")
        if not (slash and first.isascii() and last.isascii() and first.isdigit() and last.isdigit()):
            raise TaskError(f"--shard {text!r} is no shard", fix="give its number and how many, such as 2/8")
        shard = cls(int(first), int(last))
        if not 1 <= shard.number <= shard.of:
            fix = (
                f"count from 1: 1/{shard.of} to {shard.of}/{shard.of}" if shard.of else "ask for one or more"
            )
            raise TaskError(f"--shard {text}: there is no shard {shard.number} of {shard.of}", fix=fix)
        return shard


class Cell(NamedTuple):
    """One piece of work: a submission on a task."""

    task: str
    """The task's id."""
    name: str
    """The submission's, as tables show it."""
    hash: str
    """The submission's."""
    key: str
    """The measurement key of its record."""
    identity: str
    """The measurement key without the version of this package: a newer one goes on with the run."""
    folder: str
    """The place of its records in the folder of results."""
    is_pinned: bool
    """Whether a finished record of that key is sure to be of the same content."""
    source: int
    """The place of its task among the run's."""
    named: str
    """The name of the submission for another process."""

    @property
    def title(self) -> str:
        """The name of the cell in messages."""
        return f"{self.name} on {self.task}"


class FinishedRun(NamedTuple):
    """A finished measurement."""

    record: Record
    values: pd.DataFrame
    path: Path
    """The record's file."""
    kept: bool
    """Whether it was found finished instead of measured now."""


class Row(NamedTuple):
    """The outcome of a cell: a record, or why there is none."""

    number: int
    """The cell's place in the list, from 0."""
    cell: Cell
    finished: FinishedRun | None
    problem: RemainderError | None


def cell_of(
    task: Task,
    entry: Entry,
    plan: Plan,
    *,
    source: int = 0,
    named: str = "",
    reference: Entry | None = None,
) -> Cell:
    """The cell of a submission on a task.

    Args:
        reference: a finer interpretation that stands in for the model, if any.
    """
    base = entry.name if reference is None else f"{entry.name}-to-{reference.name}"
    return Cell(
        task=task.id,
        name=entry.name,
        hash=entry.hash,
        key=plan.key(task, entry, reference),
        identity=measurement_key(
            plan,
            protocol=task.protocol,
            tier=plan.tier,
            task=task,
            submission=entry,
            reference=reference,
            version="any",
        ),
        folder=folder_of(Path(), task, base).as_posix(),
        is_pinned=entry.is_pinned and (reference is None or reference.is_pinned),
        source=source,
        named=named or entry.name,
    )


def take_shard(cells: Sequence[Cell], shard: Shard) -> list[int]:
    """Places of the cells of a shard: every n-th, so that the shards of all numbers are the whole list."""
    return list(range(shard.number - 1, len(cells), shard.of))


def identity_of(cells: Sequence[Cell]) -> str:
    """The run's name: 16 hexadecimal digits, equal for equal lists."""
    return content_hash([[cell.task, cell.name, cell.identity] for cell in cells])[:16]
