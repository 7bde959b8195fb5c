"""Levels on disk: `<results>/<task>/<N>/<coarsest>-to-<finest>-<hash>.levels`, beside the folders of records.

Like a flow, levels prove themselves: by the hash of their content, by records that prove themselves, each of
a level in the next one, and by statements that are computed from these once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.joint import JointFile
from remainder.record.levels import Levels, MeasuredLevels, statements_of_records
from remainder.record.schema import Record
from remainder.record.shells import ShellsOf, require_shell

__all__ = ["LEVELS", "levels_place", "read_levels", "write_levels"]

LEVELS = JointFile(Levels, "levels", "holds no levels")


def write_levels(levels: Levels, results: Path) -> Path:
    """Write levels whole or not at all, into the folder of results with their records; gives its path."""
    return LEVELS.write(levels, levels_place(levels, results))


def levels_place(levels: Levels, results: Path) -> Path:
    """The path of levels below a folder of results."""
    digest = LEVELS.id(levels)
    names = [level.submission.name for level in levels.levels]
    name = f"{names[0]}-to-{names[-1]}-{digest[:12]}{LEVELS.ending}"
    return results / levels.task.id / levels.task.version.partition("-")[0] / name


def read_levels(path: Path) -> MeasuredLevels:
    """Levels with their records, all of it verified.

    Raises:
        RecordError: the file is damaged or was edited, a record is missing, at fault, of another task or of
            another level, or the statements do not follow from the records.
    """
    levels = LEVELS.read(path)
    stored = [
        LEVELS.record(path, level.record, f"the level {level.submission.name}") for level in levels.levels
    ]
    for level, one in zip(levels.levels, stored, strict=True):
        record = one.record
        if (record.task, record.tier, record.submission) != (levels.task, levels.tier, level.submission):
            what = f"the record of {level.submission.name} is of another task, tier or submission"
            raise LEVELS.fault(path, what)
    try:
        if levels.shells is not None:
            _require_shells(levels.shells, [one.record for one in stored])
        statements = statements_of_records(stored, seed=stored[0].record.measurement.seed)
    except (ValueError, RecordError) as problem:
        what = problem.what if isinstance(problem, RecordError) else message_of(problem)
        raise LEVELS.fault(path, what) from problem
    if statements != levels.statements:
        wrong = next(name for name in statements if statements[name] != levels.statements.get(name))
        words = ", ".join(verdict.word for verdict in statements[wrong])
        raise LEVELS.fault(path, f"what it says of {wrong} does not follow from the records: {words}")
    return MeasuredLevels(levels, tuple(one.record for one in stored))


def _require_shells(shells: ShellsOf, records: Sequence[Record]) -> None:
    """Check that the levels are shells, each with more sources than the one before.

    Raises:
        RecordError: one is not.
    """
    if len(shells.keeps) != len(records) or list(shells.keeps) != sorted(set(shells.keeps)):
        raise RecordError(f"its shells keep {', '.join(map(str, shells.keeps))}: not one more a level")
    for keep, record in zip(shells.keeps, records, strict=True):
        require_shell(shells, keep, record)
