"""CPU time of commands that measure nothing, of a process each."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from typing import Any

import pytest

from remainder.base.paths import project_root

RECORD = min((project_root() / "leaderboard/results").glob("controls/*/*/*/*.json"))
COMMANDS = {
    "--help": ["--help"],
    "tasks": ["tasks"],
    "show TASK": ["show", "smollm2-135m/resid-15"],
    "show RECORD": ["show", str(RECORD)],
    "verify RECORD": ["verify", str(RECORD)],
}


def seconds(arguments: list[str]) -> float:
    """CPU seconds of one process."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "remainder", *arguments]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return spent() - before


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("command", COMMANDS)
def test_start_up(benchmark: Any, command: str) -> None:
    times = [seconds(COMMANDS[command]) for _ in range(5)]
    benchmark.pedantic(seconds, args=(COMMANDS[command],), rounds=1)
    benchmark.extra_info.update(command=command, seconds=statistics.median(times))
