"""A CUDA device against the CPU: the same noise, the same records, no more memory than is meant.

Nearly all of it also runs on the CPU with other batches, so that the comparison itself is tested where there
is no GPU; what needs one is skipped and says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, WINDOW, Shrink, make_loaded
from together import evaluate_together

from remainder.api import Result, evaluate
from remainder.board.tolerance import TOLERANCES
from remainder.loading.site import _windows_at_a_time
from remainder.model.device import steady
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, normal

NEEDED = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="PyTorch sees no CUDA device here: what runs on one is not tested"
)
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDED)]
RUNGS = ("mean", "full", "permuted")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def on(device: str) -> Any:
    """A small task on a device, in batches of another size than those that it is compared with."""
    place = torch.device(device)
    steady(place)
    return replace(make_loaded(batch_size=3), device=place)


def sums(result: Result) -> Any:
    """Loss and KL of every row but those of clean tokens, [rows, 2], nats per scored token."""
    table = result.values.sort_values(["split", "document", "window", "rung", "draw"])
    return (table[["loss", "kl"]].to_numpy(float).T / table["tokens"].to_numpy(float)).T


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_the_same(device: str) -> None:
    places = NoiseKeys(15, ("a", "b"), (0, 7))
    here = normal(places, Draw(5), 33, 7)
    there = normal(places, Draw(5), 33, 7, device=device)
    assert there.device.type == device
    assert there.dtype == torch.float64
    assert float(((there.cpu() - here).abs() / here.abs()).max()) <= 1e-12


@pytest.mark.usefixtures("exact_ladder")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [{"rungs": RUNGS}, {"rungs": ("raw",), "compat": True}], ids=str)
def test_records_are_the_same(device: str, settings: dict[str, Any]) -> None:
    here, there = (
        evaluate(make_loaded(batch_size=4), Shrink(), **settings),
        evaluate(on(device), Shrink(), **settings),
    )
    allowed = TOLERANCES["float32", device == "cpu"]
    assert np.abs(sums(there) - sums(here)).max() <= allowed.row
    assert abs((sums(there) - sums(here)).mean()) <= allowed.mean
    assert there.record.measurement.device == device
    assert there.record.provenance.tf32 is (None if device == "cpu" else False)
    assert there.record.measurement.rungs == here.record.measurement.rungs
    if settings.get("compat"):
        ours, theirs = (each.record.compat.saelens for each in (here, there))  # type: ignore[union-attr]
        assert theirs.kl_div_with_sae.value == pytest.approx(ours.kl_div_with_sae.value, abs=allowed.row)


@pytest.mark.parametrize("device", DEVICES)
def test_codes_that_lie_between_two_steps_move_few_rows(device: str) -> None:
    """Rounding decides to which of two steps such a code goes, and its token moves by the whole step."""
    here, there = evaluate(make_loaded(batch_size=4), Shrink()), evaluate(on(device), Shrink())
    allowed = TOLERANCES["float32", device == "cpu"]
    moved = np.abs(sums(there) - sums(here)).max(1)
    assert (moved > allowed.row).mean() <= 0.01
    assert moved.max() <= 0.05
    assert abs((sums(there) - sums(here)).mean()) <= allowed.mean


@pytest.mark.parametrize("device", DEVICES)
def test_a_second_run_gives_the_same_bits(device: str) -> None:
    first, second = (evaluate(on(device), Shrink(), rungs=RUNGS) for _ in range(2))
    assert first.record.documents.sha256 == second.record.documents.sha256


@NEEDED
def test_memory_is_that_of_the_model_and_a_group() -> None:
    loaded = on("cuda")
    loaded.runner("float32")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = evaluate_together(loaded, [Shrink(0.9 - 0.02 * i) for i in range(16)], rungs=RUNGS)
    assert all(isinstance(each, Result) for each in found)
    assert torch.cuda.max_memory_allocated() - before <= 1.5e9


def test_a_gpu_takes_as_many_windows_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a quarter of its free memory; the smallest batch is that of the CPU."""
    loaded = make_loaded()
    outputs = VOCABULARY * WINDOW
    place = torch.device("cuda")
    monkeypatch.setattr("remainder.loading.site._OUTPUTS", outputs)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4 * 24 * 5 * outputs, 2**40))
    assert _windows_at_a_time(VOCABULARY, loaded.corpus, place) == 5
    assert _windows_at_a_time(VOCABULARY, loaded.corpus) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    assert _windows_at_a_time(VOCABULARY, loaded.corpus, place) == 32


@pytest.mark.parametrize("device", DEVICES)
def test_a_scatter_of_no_rows_takes_no_memory(device: str) -> None:
    """Three of twice the width stand in every row, also where nothing is fitted: at 2,304 they would be
    510 MB."""
    none = Moments.empty(4608, device)
    assert none.scatter.untyped_storage().nbytes() == 8
    rows = torch.randn(5, 3, dtype=torch.float64, device=device)
    few = Moments.of(rows)
    expected = (rows - rows.mean(0)).T @ (rows - rows.mean(0))
    assert float((few.scatter - expected).abs().max()) <= 1e-12
