"""Memory that a process took: its own, and not that of the one which started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remainder.base.memory import most_held

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
