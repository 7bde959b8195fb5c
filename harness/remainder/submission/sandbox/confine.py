"""Everything that a process gives up before it runs the code of a submission, and what cannot be taken here.

It is done first of all in that process, while it has one thread: Landlock holds only for threads that are
started later.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

from remainder.submission.sandbox import landlock, seccomp

__all__ = ["confine", "limit_memory", "unlimited"]

_FILES = 256  # that may be open
_DIE_WITH_PARENT = 1
_CAPABILITIES = 0x20080522  # the version of the structure
_LANDLOCK_TCP, _LANDLOCK_SIGNALS = 4, 6  # versions


def unlimited() -> tuple[str, ...]:
    """Names of what the code of a submission is not kept from on this machine: none on a recent Linux."""
    version, has_filter = landlock.abi(), seccomp.is_known()
    open_doors = []
    if not version:
        open_doors.append("which files it reads and writes")
    if not has_filter and version < _LANDLOCK_TCP:
        open_doors.append("connections")
    elif not has_filter:
        open_doors.append("connections other than TCP")
    if not has_filter:
        open_doors.append("processes that it starts")
        if version < _LANDLOCK_SIGNALS:
            open_doors.append("signals to your other processes")
    if sys.platform != "linux":
        open_doors.append("memory")
    return tuple(open_doors)


def confine(order: dict[str, Any]) -> None:
    """Give up what the code of a submission has no need of.

    Args:
        order: `readable` and `writable`, files and folders; `seconds` of processor time in all; `largest`,
            the bytes of a file that is written.

    Raises:
        OSError: the system refuses what it says it can do.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    # An OSError that says so, in place of a signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    _checked(libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0), "prctl")
    _checked(libc.prctl(seccomp.NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    if landlock.abi():
        landlock.restrict(order["readable"], order["writable"])
    # Root may raise limits and much else; without capabilities it may not.
    header, none = struct.pack("<Ii", _CAPABILITIES, 0), bytes(24)
    _checked(libc.capset(header, none), "capset")
    if seccomp.is_known():
        seccomp.restrict()


def limit_memory(size: int) -> None:
    """Let this process take so many bytes more than it has; elsewhere than on Linux this limits nothing."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
