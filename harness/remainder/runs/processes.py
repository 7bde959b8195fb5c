"""Processes that a run starts: what they inherit, and that they end with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, parent_process

__all__ = ["follow", "inherited"]


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """A context in which processes are started with these variables, and deaf to Ctrl-C.

    Ctrl-C is for the process of the run, which ends the others.
    """
    before = {name: os.environ.get(name) for name in variables}
    is_main = threading.current_thread() is threading.main_thread()
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        if is_main:
            signal.signal(signal.SIGINT, heard)


def follow() -> None:
    """Let this process end when its parent ends, in the middle of whatever it does."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
