"""Many dimensions: no d × d matrix, and memory that stays within bounds."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import time
import torch
from remainder.residual.calibration import Calibration
from remainder.record.rungs import RUNGS
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.base.memory import most_held
from remainder.residual.noise import Draw, NoiseKeys

width, windows, positions = 8192, 160, 125
calibration = Calibration.empty(width)
mixing = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
for start in range(0, windows, 8):
    noise = torch.Generator().manual_seed(1 + start)
    residual = torch.randn(8, positions, 64, generator=noise) @ mixing
    residual += torch.randn(8, positions, width, generator=noise)
    places = NoiseKeys(0, tuple(f"page-{i}" for i in range(start, start + 8)), (0,) * 8)
    calibration.update(places, torch.zeros_like(residual), residual, torch.ones(8, positions).bool())
began = time.perf_counter()
context = Context(NoiseKeys(0, ("one", "two"), (0, 0)), torch.zeros(2, 128, width), torch.ones(2, 128).bool())
for name in ("full", "diagonal", "full-unshrunk", "permuted"):
    sample = prepare(RUNGS[name], calibration).sample(context, Draw(0))
    power = float(sample.square().mean())
    assert 0.9 < power / 65 < 1.1, (name, power)
print(calibration.tokens, most_held() / 1024, time.perf_counter() - began)
"""


@pytest.mark.slow
def test_eight_thousand_dimensions_fit_and_sample_within_six_gigabytes() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tokens, kilobytes, seconds = done.stdout.split()
    print(f"{tokens} rows of 8192: {float(kilobytes) / 1e6:.2f} GB at most, fit and sample {seconds} s")
    assert int(tokens) == 20_000
    assert float(kilobytes) < 6e6
