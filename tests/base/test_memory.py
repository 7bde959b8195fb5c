"""Memory that a process took: its own, and not that of the one which started it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remainder.base import memory
from remainder.base.memory import free_memory, most_held

CODE = "from remainder.base.memory import most_held; print(most_held())"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux alone tells it of the program")
def test_the_memory_of_the_process_that_started_it_does_not_count() -> None:
    size = 400_000_000
    before = most_held()
    kept = np.ones(size // 8)
    assert most_held() >= max(before, size)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert kept.nbytes == size
    assert 1e6 < float(done.stdout) < size


def test_free_is_what_the_system_states_within_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, group = tmp_path / "meminfo", tmp_path / "group"
    monkeypatch.setattr(memory, "_SYSTEM", system)
    monkeypatch.setattr(memory, "_GROUP", group)
    assert free_memory() == math.inf  # nothing tells
    system.write_text("MemTotal:  9000 kB\nMemAvailable:  3000 kB\nSwapFree:  1000 kB\n")
    assert free_memory() == 4000 * 1024
    group.mkdir()
    for name, text in (("current", "2000000"), ("stat", "anon 5\ninactive_file 500000"), ("max", "max")):
        (group / f"memory.{name}").write_text(text + "\n")
    assert free_memory() == 4000 * 1024  # a container without a limit
    (group / "memory.max").write_text("2100000\n")
    assert free_memory() == 600_000
    (group / "memory.max").write_text("1000\n")
    assert free_memory() == 0
