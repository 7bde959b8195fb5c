"""Folders of the cache that a process reads from: as long as it does, no other one removes them."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

from remainder.base.cache import MANIFEST

__all__ = ["hold", "is_held"]


def hold(folder: Path, reader: object) -> None:
    """Keep a folder of the cache from being removed for as long as `reader` lives."""
    import fcntl  # not there on Windows, which is refused later, with a sentence

    descriptor = os.open(folder / MANIFEST, os.O_RDONLY)
    weakref.finalize(reader, os.close, descriptor)
    with suppress(OSError):  # some shared file systems have no locks: it can be read all the same
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def is_held(folder: Path) -> bool:
    """Whether somebody reads from a folder of the cache."""
    import fcntl

    try:
        descriptor = os.open(folder / MANIFEST, os.O_RDWR)
    except FileNotFoundError:  # not finished: nobody reads it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks, as above
        return False
    finally:
        os.close(descriptor)
    return False
