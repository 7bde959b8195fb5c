"""What `run --estimate` foresees: passes as they are counted, bytes as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from terminal import Command
from tiny import WIDTH, WINDOW, Shrink, make_loaded
from together import evaluate_together

from remainder.api import evaluate
from remainder.errors import TaskError
from remainder.loading.open import open_task
from remainder.measure.estimate import Estimate, estimate, passes_of
from remainder.measure.plan import Plan, plan
from remainder.submission.objects import object_submission


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counted(loaded: Any, number: int, settings: dict[str, Any]) -> int:
    """Windows that went through the model after the site while some rows were measured."""
    runner, windows = loaded.runner("float32"), 0
    suffix = runner.suffix

    def count(inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal windows
        windows += len(inputs)
        return suffix(inputs, *rest)

    runner.suffix = count
    try:
        for result in evaluate_together(loaded, [Shrink(0.9 - 0.1 * i) for i in range(number)], **settings):
            assert not isinstance(result, Exception)
    finally:
        del runner.suffix
    return windows


@pytest.mark.parametrize(
    "settings",
    [
        {"rungs": ("raw",)},
        {"rungs": ("raw",), "compat": True},
        {"rungs": ("raw",), "compat": ("saelens",)},
        {},
        pytest.param({"tier": "demo"}, marks=pytest.mark.slow),
        pytest.param({"rungs": ("mean", "full"), "pairs": 2}, marks=pytest.mark.slow),
        {"documents": 6},
    ],
    ids=str,
)
def test_passes_are_those_that_a_runner_counts(settings: dict[str, Any]) -> None:
    """All but those of checks, which are made on few windows; equal splices may run once."""
    loaded = make_loaded()
    chosen = plan(
        loaded.task, settings.get("tier", "quick"), **{k: v for k, v in settings.items() if k != "tier"}
    )
    counted(loaded, 1, settings)  # transform coding is at hand from now on
    one, three = counted(loaded, 1, settings), counted(loaded, 3, settings)
    windows = evaluate(loaded, Shrink(), **settings).record.documents.windows
    passes = passes_of(chosen)
    checks = 12.0  # windows a row: a clean pass and three splices, at most, of few windows
    assert 0 <= (three - one) / 2 - passes.row * windows <= checks
    assert 0 <= one - (passes.shared + passes.row) * windows <= 2 * checks


def foreseen(loaded: Any, chosen: Plan, number: int = 1) -> Estimate:
    entries = [object_submission(Shrink(0.9 - 0.1 * i), None) for i in range(number)]
    return estimate(loaded, entries, chosen)


def test_disk_is_what_the_cache_lacks(cache: Path) -> None:
    loaded = make_loaded()
    chosen = plan(loaded.task, "quick", rungs=("full",))
    before = foreseen(loaded, chosen)
    evaluate(loaded, Shrink(), rungs=("full",))
    written = sum(path.stat().st_size for path in cache.glob("activations/*/*.safetensors"))
    after = foreseen(loaded, chosen)
    assert before.cache - after.cache == pytest.approx(written, rel=0.1)
    windows = chosen.evaluation_windows + chosen.calibration_windows + chosen.fit_windows
    assert before.cache - after.cache <= 4 * WIDTH * WINDOW * windows


def test_transform_coding_counts_until_it_is_measured() -> None:
    loaded = make_loaded()
    chosen = plan(loaded.task, "quick")
    before = foreseen(loaded, chosen).passes.reference
    record = evaluate(loaded, Shrink()).record
    assert record.metrics.coding is not None
    points = len(record.metrics.coding.reference)
    assert before == (points + 1 if points else passes_of(chosen).reference)
    assert foreseen(loaded, chosen).passes.reference == (0 if points else before)


def test_more_submissions_take_more_of_everything() -> None:
    loaded = make_loaded()
    chosen = plan(loaded.task, "quick")
    one, three = foreseen(loaded, chosen), foreseen(loaded, chosen, 3)
    passes = one.passes
    assert three.total - one.total == 2 * passes.row * chosen.evaluation_windows
    assert three.memory > one.memory > 1e6
    assert three.seconds > 0
    assert "for each of 3 submission(s)" in "\n".join(three.lines())


def test_circuits_are_not_foreseen() -> None:
    loaded = open_task("tracr/reverse-circuit", device="cpu")
    with pytest.raises(TaskError, match="whose time is not foreseen"):
        estimate(loaded, [], plan(loaded.task, "quick"))


def test_the_command_says_it_and_measures_nothing(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REMAINDER_CACHE")
    out = tmp_path / "results"
    done = remainder("run", "tiny/wiki", "--with", "wiki-topk", "--estimate", "--out", out)
    assert done.code == 0
    assert "1 of 1 row(s) to measure" in done.out
    for word in ("passes:", "time:", "memory:", "disk:"):
        assert f"  {word}" in done.out
    assert not list(out.rglob("*.json"))
