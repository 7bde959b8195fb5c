"""Progress on standard error while a person waits: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from remainder.base.cache import Progress as Report

__all__ = ["errors", "reporting"]

errors = Console(stderr=True, highlight=False, markup=False)  # paths may look like markup

_LINE_SECONDS = 10.0  # between lines about the same work where there is no terminal


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a function that reports what is being done, how much of it is done, and how much there is."""
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
            scale = 1_000_000 if (total or 0) > 10_000_000 else 1  # megabytes rather than bytes
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
