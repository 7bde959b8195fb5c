"""Progress while a person waits.

`reporting` is that of commands, on standard error: bars on a terminal, lines elsewhere. `shown` is that of
functions: a bar of tqdm, as a widget where the notebook has widgets.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from remainder.base.cache import Progress as Report
from remainder.base.cache import silent
from remainder.errors import TaskError

__all__ = ["errors", "in_notebook", "reporting", "say", "set_talk", "shown", "talk"]

errors = Console(stderr=True, highlight=False, markup=False)  # paths may look like markup

_LINE_SECONDS = 10.0  # between lines about the same work where there is no terminal
_LARGE = 10_000_000  # totals above it are of bytes

_talk = 0


def set_talk(level: int) -> None:
    """Set how much commands say beside results: -1 no progress, 0 as usual, 1 what helps to find a fault."""
    global _talk
    _talk = level


def talk() -> int:
    """The level that `set_talk` set."""
    return _talk


def say(text: str, level: int = 0) -> None:
    """Print a remark on the course of a command to standard error, unless less than its level is wanted."""
    if _talk >= level:
        errors.print(text, soft_wrap=True)


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that reports what is being done, how much of it is done, and how much there is."""
    if _talk < 0:
        yield silent
        return
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bars:
        current: dict[str, int] = {}

        def report(doing: str, done: int, total: int | None) -> None:
            if doing not in current and done == total:
                return  # over before there was anything to wait for
            if doing not in current:
                for name in list(current):  # only one piece of work runs at a time
                    bars.remove_task(bars.task_ids[0])
                    del current[name]
                current[doing] = bars.add_task(doing, total=total)
            scale = 1_000_000 if (total or 0) > _LARGE else 1  # megabytes rather than bytes
            bars.update(
                bars.task_ids[0],
                description=f"{doing} (MB)" if scale > 1 else doing,
                completed=done // scale,
                total=None if total is None else total // scale,
            )

        yield report


def _lines() -> Report:
    last_doing, last_time = "", 0.0

    def report(doing: str, done: int, total: int | None) -> None:
        nonlocal last_doing, last_time
        now = time.monotonic()
        if doing != last_doing and done == total:
            return  # over before there was anything to wait for
        if doing == last_doing and now - last_time < _LINE_SECONDS:
            return
        share = f" {100 * done // total} %" if total and doing == last_doing else ""
        print(f"{doing}{share} …", file=sys.stderr, flush=True)
        last_doing, last_time = doing, now

    return report


@contextmanager
def shown(progress: Report | bool | None) -> Iterator[Report | None]:
    """Give the function that a caller's `progress` stands for, and take its bar away in the end.

    Args:
        progress: a function that is told; True: a bar; False: nothing; None: a bar in a notebook, else what
            the work would tell without it.

    Raises:
        TaskError: if it is none of these.
    """
    if progress is None and not in_notebook():
        yield None
    elif progress is None or progress is True:
        with closing(_Bar()) as bar:
            yield bar
    elif progress is False:
        yield silent
    elif callable(progress):
        yield progress
    else:
        fix = "give True, False, or a function of what is done, how much of it, and how much there is"
        raise TaskError(f"progress is {progress!r}", fix=fix)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


class _Bar:
    """A bar of tqdm; a new piece of work takes the place of the one before."""

    def __init__(self) -> None:
        self._doing = ""
        self._bar: Any = None

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # without widgets the bar is of text
            from tqdm.auto import tqdm

        if self._bar is None or doing != self._doing or total != self._bar.total:
            self.close()
            if done == total:
                return  # over before there was anything to wait for
            bytes_ = (total or 0) > _LARGE
            unit, style = "B" if bytes_ else "", None if total else "{desc} … {elapsed}"
            self._doing = doing
            self._bar = tqdm(
                desc=doing,
                total=total,
                initial=done,
                leave=False,
                unit=unit,
                unit_scale=bytes_,
                bar_format=style,
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
