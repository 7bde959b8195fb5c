"""Two workers with one thread each against one: rows of a run in the time that one process takes for them.

Processes are warm: the task is loaded. Rounds are paired; the ratio of times on the clock needs two quiet
cores, that of CPU seconds (those of the one worker over those of the busier of two) does not.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from real_run import Place

from remainder.measure.plan import plan
from remainder.runs.drive import drive
from remainder.runs.job import Source
from remainder.runs.listing import list_cells
from remainder.runs.pool import Event
from remainder.runs.ray_engine import RayPool
from remainder.runs.workers import Workers
from remainder.task.spec import load_task

ROWS, ROUNDS = 24, 3
ENGINES: dict[str, Any] = {"--workers": Workers, "--engine ray": RayPool}
TICKS = os.sysconf("SC_CLK_TCK")


class Lasting:
    """Some slots of a pool that is not closed when a run ends."""

    def __init__(self, pool: Any, slots: int) -> None:
        self.pool, self._slots = pool, slots

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        self.pool.start(slot, numbers, part)

    def event(self) -> Event:
        event: Event = self.pool.event()
        return event

    def close(self) -> None:
        """Not yet."""


def cpu_seconds() -> dict[int, float]:
    """CPU seconds of each process below this one that has cells, by its number."""
    found: dict[int, tuple[int, str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            command = path.with_name("cmdline").read_text()
        except OSError:
            continue
        fields = rest.split()
        spent = (int(fields[11]) + int(fields[12])) / TICKS
        found[int(path.parent.name)] = int(fields[1]), f"{name} {command}", spent

    def is_below(process: int) -> bool:
        while process in found:
            if process == os.getpid():
                return True
            process = found[process][0]
        return False

    works = "spawn_main", "_Actor"
    return {
        process: spent
        for process, (_, words, spent) in found.items()
        if is_below(process) and any(word in words for word in works)
    }


@pytest.mark.benchmark(group="engines")
@pytest.mark.needs("ray")
@pytest.mark.parametrize("engine", ENGINES)
def test_two_workers_against_one(
    engine: str, benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    place = Place(tmp_path, ROWS // 2)
    for name, text in place.environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("remainder.runs.workers.threads_for", lambda _: 1)
    # Twice as many rows as there are submissions: each with another plan.
    sources = [
        Source(str(place.task), plan(load_task(place.task), "quick", pairs=pairs, device="cpu"), "cpu", None)
        for pairs in (1, 2)
    ]
    cells = list_cells(sources, list(map(str, place.submissions)), tmp_path).openings.cells
    pool = ENGINES[engine](sources, cells, 2)

    def run(workers: int, folder: Path) -> tuple[float, float]:
        before, start = cpu_seconds(), time.monotonic()
        with closing(drive(cells, Lasting(pool, workers), folder, fresh=True)) as rows:
            assert [row.problem for row in rows] == [None] * ROWS
        taken = time.monotonic() - start
        return taken, max(spent - before.get(process, 0.0) for process, spent in cpu_seconds().items())

    try:
        benchmark.pedantic(run, args=(2, tmp_path / "warm"), rounds=1)
        rounds = [
            [run(workers, tmp_path / f"{number}-{workers}") for workers in (1, 2)] for number in range(ROUNDS)
        ]
    finally:
        pool.close()
    clock, cpu = ([one[i] / two[i] for one, two in rounds] for i in (0, 1))
    benchmark.extra_info.update(
        {"engine": engine, "rows": ROWS, "clock": statistics.median(clock), "cpu": statistics.median(cpu)}
    )
    print(engine, "clock", [f"{x:.2f}" for x in clock], "cpu", [f"{x:.2f}" for x in cpu], os.getloadavg())
