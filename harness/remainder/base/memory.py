"""The memory that this process took so far, and what it may still take."""

from __future__ import annotations

import math
import re
import resource
import sys
from pathlib import Path

__all__ = ["free_memory", "most_held"]

_STATUS = Path("/proc/self/status")
_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def most_held() -> float:
    """The most bytes that this process held so far.

    Linux tells it of the program that runs; `getrusage` also counts what the process that started it held.
    """
    if _STATUS.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.M)):
        return 1024.0 * int(found[1])
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory() -> float:
    """Bytes that can still be taken: by what Linux states, and by the limit of a container; else infinite.

    Pages that hold files count as free, since they are given up when memory is asked for; so does swap.
    """
    free = math.inf
    if _SYSTEM.is_file():
        stated = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _SYSTEM.read_text(), re.M))
        if "MemAvailable" in stated:
            free = 1024.0 * (int(stated["MemAvailable"]) + int(stated.get("SwapFree", 0)))
    limit, used = (_GROUP / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdigit():
        files = re.search(r"^inactive_file (\d+)$", (_GROUP / "memory.stat").read_text(), re.M)
        left = int(most) - int(used.read_text()) + (int(files[1]) if files else 0)
        free = min(free, float(max(left, 0)))
    return free
