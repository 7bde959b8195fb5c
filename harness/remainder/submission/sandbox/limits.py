"""How much the code of a submission may take, and which places of the system it may read."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import remainder
from remainder.base.paths import gigabytes, positive

__all__ = ["MEMORY", "SECONDS", "Limits", "current_limits", "system_places"]

MEMORY = "REMAINDER_CODE_GB"
SECONDS = "REMAINDER_CODE_SECONDS"
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"),
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system"),
    *("/dev/urandom", "/dev/random", "/dev/zero"),
)
"""Libraries of the system, and what libraries ask it about itself."""


@dataclass(frozen=True)
class Limits:
    """The most that the process of one submission may take."""

    memory: int
    """Bytes beside those that it has once torch is loaded."""
    seconds: float
    """Wall time of one answer: of building the method, or of one batch."""
    start: float = 300.0
    """Wall time until torch is loaded, in seconds."""
    total: int = 24 * 3600
    """Processor time of the process, in seconds: a second line of defence."""
    largest: int = 1_000_000_000
    """Bytes that it writes to its folder, in one file or in all."""
    files: int = 10_000
    """Files and folders that it may have there."""
    answer: int = 4_000_000_000
    """Bytes of an answer."""


def current_limits() -> Limits:
    """The limits, as far as environment variables state others: 8 GB, and 120 seconds an answer.

    Raises:
        AssetError: a variable is not a number above 0.
    """
    return Limits(memory=int(min(gigabytes(MEMORY, 8.0), 1e15)), seconds=positive(SECONDS, 120.0))


def system_places() -> list[str]:
    """The files and folders that Python, its packages and this package are read from."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    for base in (sys.base_prefix, sys.base_exec_prefix):
        paths.append(str(Path(base) / "lib"))
    paths += [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    paths += [str(Path(remainder.__file__).parent), str(Path(sys.prefix) / "pyvenv.cfg")]
    return sorted({*map(os.path.realpath, filter(None, paths)), *_SYSTEM})
