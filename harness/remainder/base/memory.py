"""The memory that this process took so far."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

__all__ = ["most_held"]

_STATUS = Path("/proc/self/status")


def most_held() -> float:
    """The most bytes that this process held so far.

    Linux tells it of the program that runs; `getrusage` also counts what the process that started it held.
    """
    if _STATUS.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.M)):
        return 1024.0 * int(found[1])
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else 1024 * peak
