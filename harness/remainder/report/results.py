"""Any number of records as one frame, or in one table.

The JSON of each is read and its own hashes are verified; the per-document values beside it are neither read
nor looked at, which is what takes long (`remainder verify` does that). There is no index that could be stale.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pandas as pd

from remainder.base.files import explained, present
from remainder.errors import RecordError, RemainderError
from remainder.record.rungs import ALL
from remainder.record.schema import Record
from remainder.record.store import read_summary
from remainder.report.ladder import RUNG_NAMES
from remainder.report.quantities import Quantity, on_rungs
from remainder.report.quantities import suggestion as near_names
from remainder.report.tables import order_key, row_of

__all__ = [
    "Paths",
    "Reading",
    "Stored",
    "Unmeasured",
    "frame_of",
    "frame_of_sweep",
    "load_results",
    "read_results",
    "record_files",
]

Paths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_SHOWN = 5  # files that a message names


class Stored(NamedTuple):
    """A record, and where it lies."""

    path: Path
    record: Record


class Unmeasured(NamedTuple):
    """A submission that could not be scored, and why."""

    task: str
    version: str
    tier: str
    submission: str
    problem: RemainderError


class Reading(NamedTuple):
    """Records that were read, and faults of the other files."""

    stored: list[Stored]
    faults: list[RecordError]
    """One for each file that is no sound record."""


def load_results(
    paths: Paths, *, rungs: Collection[str] | str = (), skip_damaged: bool = False
) -> pd.DataFrame:
    """Any number of records as a frame, one row each, by task and then by bits per token.

    Columns are what the record is of (`task`, `version`, `tier`, `submission`, …), every key of
    `report.quantities` with `_low` and `_high`, the ends of its 95 % interval, and then settings, hashes and
    `path`. Losses, gaps and KL are nats per scored token. What a record does not have is missing (NaN).

    Args:
        paths: a record's `.json` file, a folder (all records below it), or several of these.
        rungs: get columns `gap_RUNG` and `kl_RUNG` too; `all`: every rung that any of the records has.
        skip_damaged: leave out files that are no sound records, with a warning that names them. The frame's
            `attrs["skipped"]` lists what is wrong with each.

    Raises:
        RecordError: there is no record, a file is damaged or no record at all, or there is no such rung.
    """
    reading = read_results(paths, skip_damaged=skip_damaged)
    if reading.faults:
        warnings.warn(_damaged(reading).what, stacklevel=2)
    frame = frame_of(reading.stored, rungs)
    frame.attrs["skipped"] = [fault.what for fault in reading.faults]
    return frame


def read_results(
    paths: Paths, *, skip_damaged: bool = False, read: Callable[[Path], Record] = read_summary
) -> Reading:
    """The records that `record_files` finds, in its order.

    Args:
        read: reads one of them.

    Raises:
        RecordError: there is none; or one is damaged or none at all, unless `skip_damaged` is set.
    """
    reading = Reading([], [])
    files = record_files(paths)
    for path in files:
        try:
            reading.stored.append(Stored(path, read(path)))
        except RecordError as problem:
            reading.faults.append(problem)
    if reading.faults and not (skip_damaged and reading.stored):
        raise reading.faults[0] if len(files) == 1 else _damaged(reading)
    return reading


def record_files(paths: Paths) -> list[Path]:
    """Files of records, each once: those that are named, and all `.json` files below folders that are.

    Raises:
        RecordError: nothing is named, or what is named is not there, or a folder has no such file.
    """
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not named:
        raise RecordError("no record is named", fix="name records' .json files, or folders of them")
    found: dict[Path, Path] = {}
    for place in map(Path, named):
        with explained(place, RecordError):
            below = sorted(place.rglob("*.json")) if place.is_dir() else [place]
            if not below:
                raise RecordError(f"{place}: holds no record", fix="name a folder with records' .json files")
            if not present(place):
                raise RecordError(
                    f"{place}: no such record", fix="name a record's .json file, or a folder of them"
                )
            for path in below:
                found.setdefault(Path(os.path.realpath(path)), path)  # of a link to itself it is that link
    return list(found.values())


def frame_of(stored: Iterable[Stored], rungs: Collection[str] | str = ()) -> pd.DataFrame:
    """The frame of `load_results`, of records that have been read.

    Raises:
        RecordError: there is no such rung.
    """
    stored = list(stored)
    further = on_rungs(_rungs([one.record for one in stored], rungs))
    stored.sort(key=lambda one: (order_key(one.record), one.path))
    frame: pd.DataFrame = pd.DataFrame([_row(one, further) for one in stored])
    return frame


def frame_of_sweep(outcomes: Sequence[Stored | Unmeasured], rungs: Collection[str] = ()) -> pd.DataFrame:
    """A row for each outcome, in their order: the columns of `load_results`, and `error` and `fix`.

    Args:
        rungs: get columns `gap_RUNG` and `kl_RUNG` too.
    """
    further = on_rungs(rungs)
    rows: list[dict[str, str | float | None]] = []
    for one in outcomes:
        if isinstance(one, Stored):
            rows.append({**_row(one, further), "error": None, "fix": None})
        else:
            *named, problem = one
            keys = ("task", "version", "tier", "submission")
            rows.append({**dict(zip(keys, named, strict=True)), "error": problem.what, "fix": problem.fix})
    columns = next((list(row) for row in rows if row["error"] is None), None)
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return frame


def _row(one: Stored, further: Iterable[Quantity]) -> dict[str, str | float | None]:
    return {**row_of(one.record, further), **_circumstances(one.record, one.path)}


def _rungs(records: Sequence[Record], rungs: Collection[str] | str) -> list[str]:
    """Names of the rungs that have columns."""
    wanted = [part.strip() for part in rungs.split(",")] if isinstance(rungs, str) else list(rungs)
    if ALL in wanted:
        measured = {name for record in records for name in record.metrics.rungs}
        wanted = sorted(measured & RUNG_NAMES)
    for name in wanted:
        if name not in RUNG_NAMES:
            raise RecordError(f"there is no rung {name!r}", fix=near_names(name, sorted(RUNG_NAMES)))
    return wanted


def _circumstances(record: Record, path: Path) -> dict[str, str | float | None]:
    """Settings, hashes and place of a record."""
    measured, submission, reference = record.measurement, record.submission, record.reference
    return {
        "protocol": record.protocol,
        "format": submission.format,
        "family": submission.family,
        "rungs": " ".join(measured.rungs),
        "pairs": measured.pairs,
        "dtype": measured.dtype,
        "device": measured.device,
        "seed": measured.seed,
        "documents": record.documents.documents,
        "windows": record.documents.windows,
        "tokens": record.documents.tokens,
        "warnings": len(record.warnings),
        "model": record.model.source,
        "corpus": record.corpus.source,
        "package": record.provenance.packages.get("remainder"),
        "timestamp": record.provenance.timestamp,
        "task_hash": record.task.hash,
        "submission_hash": submission.hash,
        "reference_hash": None if reference is None else reference.hash,
        "values_sha256": record.documents.sha256,
        "measurement_key": record.measurement_key,
        "result_id": record.result_id,
        "path": str(path),
    }


def _damaged(reading: Reading) -> RecordError:
    """One error of several files that are no sound records."""
    faults, number = reading.faults, len(reading.faults) + len(reading.stored)
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    listed = "; ".join(fault.what for fault in faults[:_SHOWN])
    return RecordError(
        f"{len(faults)} of {number} files are no sound records: {listed}{more}",
        fix="mend them, name only folders of records, or leave them out knowingly (skip_damaged=True; "
        "--skip-damaged)",
    )
