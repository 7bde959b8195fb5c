"""A filter of system calls: no process, no connection, and no change of files that Landlock does not see.

A call that is refused fails with EPERM, which Python raises as PermissionError. Linux on x86-64 and ARM64.
Source: https://docs.kernel.org/userspace-api/seccomp_filter.html; numbers are those of the kernel's tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["NO_NEW_PRIVILEGES", "is_known", "restrict"]


class _Machine(NamedTuple):
    """An architecture: its number, and the system calls that are asked about."""

    audit: int
    clone: int
    tgkill: int
    prlimit: int
    fcntl: int
    denied: tuple[int, ...]


_EVERYWHERE = (
    *(425, 434, 424, 452),  # io_uring_setup, pidfd_open, pidfd_send_signal, fchmodat2
)
_CLONE3 = 435
_LOCKS = (6, 7, 37, 38, 1024, 1026)
"""Commands of fcntl that others see: locks of a process or of an open file, leases, notices."""
_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(
        0xC000003E, 56, 234, 302, 72,
        (
            57, 58, 59, 322,  # fork, vfork, execve, execveat
            41,  # socket: what is left is the channel, which is open
            62, 200, 129, 297,  # kill, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo
            101, 310, 311,  # ptrace, process_vm_readv, process_vm_writev
            272, 308,  # unshare, setns
            29, 64, 68, 319,  # shmget, semget, msgget, memfd_create: memory that no limit counts
            321, 298, 323, 248, 249, 250,  # bpf, perf_event_open, userfaultfd, add_key, request_key, keyctl
            90, 268, 92, 94, 260,  # chmod, fchmodat, chown, lchown, fchownat
            188, 189, 197, 198,  # setxattr, lsetxattr, removexattr, lremovexattr
            132, 235, 261, 280,  # utime, utimes, futimesat, utimensat
            76, 141,  # truncate, which Landlock knows from version 3; setpriority
            # flock, inotify_init, inotify_init1, fanotify_init, ioprio_set: what one process does with a file
            # or itself, and another sees; so that encode could tell decode more than the codes.
            73, 253, 294, 300, 251,
        ),
    ),
    "aarch64": _Machine(
        0xC00000B7, 220, 131, 261, 25,
        (
            221, 281, 198, 129, 130, 138, 240, 117, 270, 271, 97, 268, 194, 279,
            280, 241, 282, 217, 218, 219, 53, 54, 5, 6, 14, 15, 88, 186, 190, 45, 140, 32, 26, 262, 30,
        ),  # the same, as far as they exist there
    ),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _DENY, _MISSING = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
# Places in what a filter sees: the last are the low halves of the first two arguments.
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # system calls of another kind, by the same door
NO_NEW_PRIVILEGES = 38
"""The option of prctl without which neither Landlock nor a filter is taken from a user."""
_SECCOMP = 22


def is_known() -> bool:
    """Whether there is a filter for this system."""
    return sys.platform == "linux" and platform.machine() in _MACHINES and sys.byteorder == "little"


def restrict() -> None:
    """Refuse these calls to this process from now on. Its threads may start threads, and signal each other.

    Raises:
        OSError: the kernel refuses.
    """
    program = b"".join(struct.pack("<HBBI", *line) for line in _program(_MACHINES[platform.machine()]))
    lines = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    for arguments in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, 2, ctypes.addressof(whole), 0, 0)):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp: {os.strerror(number)}")


_Line = tuple[int, int, int, int]


def _program(machine: _Machine) -> list[_Line]:
    """The filter: each line is a code, how many lines to skip if it holds and if not, and a number."""

    def returning(value: int) -> _Line:
        return _RETURN, 0, 0, value

    def only_if(call: int, place: int, test: _Line) -> list[_Line]:
        """Allow a call if a test of one of its arguments holds."""
        return [
            (_EQUAL, 0, 4, call), (_LOAD, 0, 0, place), test, returning(_DENY), returning(_ALLOW),
        ]  # fmt: skip

    lines: list[_Line] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, machine.audit), returning(_DENY),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), returning(_DENY),
        # The C library then uses clone, whose flags can be seen.
        (_EQUAL, 0, 1, _CLONE3), returning(_MISSING),
    ]  # fmt: skip
    lines += only_if(machine.clone, _FIRST, (_BITS, 1, 0, _CLONE_THREAD))
    lines += only_if(machine.tgkill, _FIRST, (_EQUAL, 1, 0, os.getpid()))
    # Its own limits may only become lower; those of other processes are none of its business.
    lines += only_if(machine.prlimit, _FIRST, (_EQUAL, 1, 0, 0))
    unseen = [line for command in _LOCKS for line in ((_EQUAL, 0, 1, command), returning(_DENY))]
    lines += [(_EQUAL, 0, len(unseen) + 2, machine.fcntl), (_LOAD, 0, 0, _SECOND), *unseen, returning(_ALLOW)]
    for call in (*machine.denied, *_EVERYWHERE):
        lines += [(_EQUAL, 0, 1, call), returning(_DENY)]
    return [*lines, returning(_ALLOW)]
