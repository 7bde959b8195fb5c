"""Landlock: which files and ports this process, and whatever it starts, may still reach. Linux only.

Source: https://docs.kernel.org/userspace-api/landlock.html. The three system calls have no wrapper in libc.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence

__all__ = ["abi", "restrict"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_BENEATH = 1
_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_ALL_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version knows of."""
_TCP, _SCOPES = 0b11, 0b11
_NEVER = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15
"""Rights that nothing is given: to execute, to make devices, sockets and pipes, and to control devices."""


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    return result


def abi() -> int:
    """The version that this kernel has; 0: none, or it is not in use."""
    if sys.platform != "linux":
        return 0
    return max(_call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)), 0)


def restrict(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Let this thread reach no more than these files and folders, no TCP port, and no process outside.

    Whatever is in `writable` may be read too. What is not there is passed over. The process must have given
    up the right to gain privileges.

    Raises:
        OSError: the kernel refuses.
    """
    version = abi()
    handled = _ALL_FILES[max(known for known in _ALL_FILES if known <= version)]
    attributes = struct.pack("<QQQ", handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)[
        : 24 if version >= 6 else 16 if version >= 4 else 8
    ]
    ruleset = _checked(_call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    try:
        for place in readable:
            _allow(ruleset, place, _READ_FILE | _READ_DIR)
        for place in writable:
            _allow(ruleset, place, handled & ~_NEVER)
        _checked(_call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, place: str, rights: int) -> None:
    try:
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        rule = struct.pack("<Qi", rights, opened)
        _checked(_call(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_BENEATH), rule, ctypes.c_uint32(0)))
    finally:
        os.close(opened)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
