"""Claims: of two processes that work in one folder, one measures a cell.

A claim is a lock on a file that the system itself drops when the process ends, however it ends: a claim of
the dead is free at once, and nothing has to guess from a time whether its owner lives. (On a file system
without locks the library falls back on files that name their process.)
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from remainder.base.files import explained
from remainder.errors import RecordError
from remainder.record.turns import RUNS

__all__ = ["Claims"]


class Claims:
    """The claims of this process on cells of the results in one folder; dropped when the context ends."""

    def __init__(self, out: Path) -> None:
        self._folder = out / RUNS / "claims"
        self._held: dict[str, FileLock] = {}

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._held):
            self.drop(key)
        for path in self._folder.glob("*.lock"):  # of processes that were killed, or are at work
            if self.take(path.stem):
                self.drop(path.stem)

    def take(self, key: str) -> bool:
        """Claim the cell of a measurement key; False if another process, or this one, has claimed it.

        Raises:
            RecordError: no file can be made there.
        """
        with explained(self._folder, RecordError):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f"{key}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        self._held[key] = lock
        return True

    def others(self) -> bool:
        """Whether other processes have claims on anything there."""
        return any(path.stem not in self._held for path in self._folder.glob("*.lock"))

    def drop(self, key: str) -> None:
        """Give a claim up, if it is held."""
        if (lock := self._held.pop(key, None)) is None:
            return
        # While it is held, so that nobody else's is removed: who waits for this one sees that it is gone.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
