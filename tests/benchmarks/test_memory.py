"""Memory above that of the model: hardly more with tokens, SAEs, latents or the size of the vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
CASES = {
    "8 windows, vocabulary 50,000, 4,096 latents, 1 SAE": (8, 50_000, 4096, 1, "raw"),
    "8 times the tokens": (64, 50_000, 4096, 1, "raw"),
    "vocabulary 256,000": (8, 256_000, 4096, 1, "raw"),
    "65,536 latents": (8, 50_000, 65_536, 1, "raw"),
    "16 SAEs": (8, 50_000, 4096, 16, "raw"),
    "rung full, with all fits": (8, 50_000, 4096, 1, "full"),
}
MOST = 1.5e9


def measure(case: tuple[Any, ...], cache: Path) -> tuple[float, float]:
    """Bytes of a process with the model loaded, and at most."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    changed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "REMAINDER_CACHE": str(cache)}
    command = [sys.executable, str(HELPERS / "memory_use.py"), *map(str, case)]
    done = subprocess.run(command, env={**os.environ, **changed}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.split())
    return before, after


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("case", CASES)
def test_memory(benchmark: Any, case: str, tmp_path: Path) -> None:
    before, after = benchmark.pedantic(measure, args=(CASES[case], tmp_path), rounds=1)
    benchmark.extra_info.update(case=case, model=before, more=after - before)
    assert after - before <= MOST
