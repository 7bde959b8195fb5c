"""The systems that this package runs on."""

from __future__ import annotations

import sys

from remainder.errors import RemainderError

__all__ = ["require_platform"]


def require_platform() -> None:
    """Raise RemainderError on Windows, where nothing was ever tested and memory is not told as it must be."""
    if sys.platform == "win32":
        raise RemainderError(
            "Windows is not supported: Remainder is tested on Linux alone, and needs what POSIX systems tell "
            "of memory and processes",
            fix="use WSL 2 (https://learn.microsoft.com/windows/wsl), which is Linux",
        )
