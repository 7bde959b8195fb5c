"""Finding records: the finished one of a measurement, and the fullest of several."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from remainder.errors import RecordError
from remainder.record.order import order_above
from remainder.record.part import part_of
from remainder.record.schema import Record
from remainder.record.store import read_sealed, read_summary
from remainder.record.withdrawn import is_withdrawn

__all__ = ["find_record", "fullest_of", "fullest_record"]

_SHOWN = 6  # names in a message


def find_record(folder: Path, key: str) -> Path | None:
    """The finished record below `folder` with this `measurement_key`, verified; None if there is none.

    A damaged record is no finished one: it is passed over, with a warning that names it.
    """
    for path in sorted(folder.rglob("*.json")):
        if not path.is_file() or key not in path.read_text(encoding="utf-8", errors="replace"):
            continue
        try:
            if read_sealed(path).measurement_key == key:
                return path
        except RecordError as problem:
            logging.getLogger(__name__).warning("not used, since it is damaged: %s", problem.what)
    return None


def fullest_record(folder: Path) -> Path:
    """The record below `folder` with the most rungs, the newest of several.

    Raises:
        RecordError: there is none, or they are of more than one submission or task.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise RecordError(f"{folder}: holds no record", fix="give a record's .json file, or its folder")
    return fullest_of(paths, f"{folder}")


def fullest_of(paths: Sequence[Path], where: str) -> Path:
    """The record with the most rungs; of several such records the newest, as `record.order` tells it.

    A record of only some documents of its tier comes after all records of a whole tier, and one that was
    withdrawn after all others.

    Args:
        paths: of the records, at least one.
        where: how they were asked for, for messages.

    Raises:
        RecordError: they belong to more than one submission or task, as their hashes show.
    """
    records = {path: read_summary(path) for path in paths}
    distinct: dict[tuple[str, ...], tuple[str, Path]] = {}
    for path, record in records.items():
        finer = "" if record.reference is None else f" in {record.reference.name}"
        name = f"{record.submission.name}{finer} on {record.task.id} {record.task.version}"
        hashes = (record.submission.hash, record.reference.hash if record.reference else "")
        key = (name, *hashes, record.task.hash)
        distinct[key] = (name, path)
    names = sorted({name for name, _ in distinct.values()})
    if len(names) > 1:
        raise RecordError(
            f"{where}: holds records of {', '.join(names[:_SHOWN])}"
            + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""),
            fix="give the folder of one of them",
        )
    if len(distinct) > 1:
        listed = "; ".join(
            f"{path} (hash {records[path].submission.hash[:6]}…, {records[path].provenance.timestamp[:10]})"
            for _, path in distinct.values()
        )
        raise RecordError(
            f"{where}: {len(distinct)} different submissions are called {names[0]}: {listed}",
            fix="give the file of the record that is meant",
        )
    return max(records, key=lambda path: _fullness(path, records[path]))


def _fullness(path: Path, record: Record) -> tuple[bool, bool, int, int, str, str]:
    """Sort key of records of one submission; withdrawn ones come first, and then those of a few documents."""
    rungs = len(record.measurement.rungs)
    return not is_withdrawn(path), part_of(record.tier) is None, rungs, *order_above(path).key(record)
