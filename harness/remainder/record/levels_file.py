"""Levels on disk: `<results>/<task>/<N>/<coarsest>-to-<finest>-<hash>.levels`, beside the folders of records.

Like a flow, levels prove themselves: by the hash of their content, by records that prove themselves, each of
a level in the next one, and by statements that are computed from these once more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.json import canonical_json, content_hash, write_atomically
from remainder.record.levels import Levels, MeasuredLevels, statements_of_records
from remainder.record.store import read_record

__all__ = ["LEVELS", "levels_place", "read_levels", "write_levels"]

LEVELS = ".levels"
"""The ending of such files."""

_LARGEST = 1_000_000  # bytes; one of seven levels has ten thousand
_RESTORE = "restore it as it was written, or run `remainder levels` again, which finds the records"


def write_levels(levels: Levels, results: Path) -> Path:
    """Write levels whole or not at all, into the folder of results with their records; gives its path."""
    content, path = levels.model_dump(mode="json"), levels_place(levels, results)
    digest = content_hash(content)
    text = canonical_json({**content, "levels_id": digest}, indent=1)
    write_atomically(path, f"{text}\n".encode())
    return path


def levels_place(levels: Levels, results: Path) -> Path:
    """The path of levels below a folder of results."""
    digest = content_hash(levels.model_dump(mode="json"))
    names = [level.submission.name for level in levels.levels]
    name = f"{names[0]}-to-{names[-1]}-{digest[:12]}{LEVELS}"
    return results / levels.task.id / levels.task.version.partition("-")[0] / name


def read_levels(path: Path) -> MeasuredLevels:
    """Levels with their records, all of it verified.

    Raises:
        RecordError: the file is damaged or was edited, a record is missing, at fault, of another task or of
            another level, or the statements do not follow from the records.
    """
    levels = _content(path)
    stored = []
    for level in levels.levels:
        found = sorted(path.parent.glob(f"*/{level.record}.json"))
        if not found:
            raise RecordError(
                f"{path}: the level {level.submission.name} is missing: there is no record "
                f"{level.record[:12]}… in the folders beside it",
                fix=_RESTORE,
            )
        stored.append(read_record(found[0]))
    for level, one in zip(levels.levels, stored, strict=True):
        record = one.record
        if (record.task, record.tier, record.submission) != (levels.task, levels.tier, level.submission):
            raise RecordError(
                f"{path}: the record of {level.submission.name} is of another task, tier or submission",
                fix=_RESTORE,
            )
    try:
        statements = statements_of_records(stored, seed=stored[0].record.measurement.seed)
    except ValueError as problem:
        raise RecordError(f"{path}: {message_of(problem)}", fix=_RESTORE) from problem
    if statements != levels.statements:
        wrong = next(name for name in statements if statements[name] != levels.statements.get(name))
        words = ", ".join(verdict.word for verdict in statements[wrong])
        raise RecordError(
            f"{path}: what it says of {wrong} does not follow from the records: {words}", fix=_RESTORE
        )
    return MeasuredLevels(levels, tuple(one.record for one in stored))


def _content(path: Path) -> Levels:
    require_file(path, most=_LARGEST, error=RecordError)
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        stated = content.pop("levels_id")
        levels = Levels.model_validate(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as problem:
        raise RecordError(f"{path}: holds no levels ({message_of(problem)})", fix=_RESTORE) from problem
    if content_hash(levels.model_dump(mode="json")) != stated:
        raise RecordError(f"{path}: its content is not that of its hash: it was edited", fix=_RESTORE)
    return levels
