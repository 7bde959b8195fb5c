"""What the command line gives back in tests; the fixture `remainder` lies in conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Command", "Outcome"]


class Outcome(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]
"""Takes the arguments of `remainder`."""
