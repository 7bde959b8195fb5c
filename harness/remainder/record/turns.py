"""One process at a time writes into a folder of records: what is half written there is a dead one's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from remainder.base.files import explained
from remainder.errors import RecordError

__all__ = ["RUNS", "sweep", "writing"]

RUNS = ".runs"
"""Folder in a folder of results that holds what runs know of each other, and no record."""

_WRITING = ".writing.lock"


@contextmanager
def writing(folder: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Be the one process that writes records into a folder; the system ends that when the process dies.

    Args:
        seconds: how long to wait for another process to be done.

    Raises:
        RecordError: another process is still writing, or no file can be made there.
    """
    with explained(folder, RecordError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _WRITING)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            fix = "wait for it to end"
            raise RecordError(f"{folder}: another process is writing records there", fix=fix) from None
    try:
        yield
    finally:
        # While it is held, so that nobody else's is removed: who waits for this one sees that it is gone.
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def sweep(folder: Path) -> list[Path]:
    """Remove what a killed writer left in a folder of records; gives the removed files.

    These are temporary files, and values whose record was never written. While somebody writes there,
    nothing is removed.
    """
    if not _halves(folder):
        return []
    try:
        with writing(folder, seconds=0.0):
            halves = _halves(folder)
            for path in halves:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            return [path for path in halves if path.name != _WRITING]
    except (RecordError, OSError):  # somebody writes there, or nobody may
        return []


def _halves(folder: Path) -> list[Path]:
    """Temporary files, values without a record, and the lock of a writer: what is there while one writes."""
    records = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    values = [path for path in folder.glob("*.csv.gz") if path.name.removesuffix(".csv.gz") not in records]
    return sorted([*folder.glob(".*.tmp"), *values, *folder.glob(_WRITING)])
