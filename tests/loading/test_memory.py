"""A device that runs out of memory: every verb goes on with half the batch, on tasks of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import remainder
from remainder.circuit import backgrounds
from remainder.circuit.circuit import Circuit
from remainder.errors import MeasurementError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import on_prompts, open_task
from remainder.measure import prompts, site
from remainder.measure.plan import plan
from remainder.publish import remeasure
from remainder.record.schema import Record
from remainder.runs.cells import run
from remainder.submission.open import open_submission

BASELINES = {"tiny/induction": "induction-random-32", "tracr/reverse-circuit": "random-edges"}


@pytest.fixture(params=BASELINES, scope="module")
def opened(request: pytest.FixtureRequest) -> LoadedTask:
    return open_task(request.param, device="cpu")


@pytest.fixture
def loaded(opened: LoadedTask, monkeypatch: pytest.MonkeyPatch) -> LoadedTask:
    monkeypatch.setattr(opened, "batch_size", 8)
    return opened


def out_of_memory(monkeypatch: pytest.MonkeyPatch, above: int) -> list[int]:
    """Fail with batches `above` a size; gives the sizes that are tried."""
    tried: list[int] = []

    def limited(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(loaded: LoadedTask, *arguments: Any, **others: Any) -> Any:
            tried.append(loaded.batch_size)
            if loaded.batch_size > above:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(loaded, *arguments, **others)

        return call

    # `measure` of a site is a group of one.
    for module, name in ((site, "measure_group"), (prompts, "measure")):
        monkeypatch.setattr(module, name, limited(getattr(module, name)))
        monkeypatch.setattr(module, "remeasure", limited(module.remeasure))
    return tried


def gaps(record: Record) -> dict[str, float | None]:
    return {name: rung.quenched.gap.value for name, rung in record.metrics.rungs.items()}


@pytest.mark.slow
def test_every_verb_halves_the_batch(
    loaded: LoadedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = open_submission(BASELINES[loaded.task.id])
    expected = remainder.evaluate(loaded, BASELINES[loaded.task.id]).record
    tried = out_of_memory(monkeypatch, above=2)
    found = remainder.evaluate(loaded, BASELINES[loaded.task.id]).record
    assert tried == [8, 4, 2]
    assert gaps(found) == pytest.approx(gaps(expected), abs=1e-5)
    loaded.batch_size = 8
    (row,) = run(loaded, [baseline], plan(loaded.task, "quick"), tmp_path)
    assert tried[3:] == [8, 4, 2]
    assert gaps(row.record) == pytest.approx(gaps(expected), abs=1e-5)
    loaded.batch_size = 8
    monkeypatch.setattr(remeasure, "open_task", lambda *_, **__: loaded)
    assert remeasure.rerun(row.path, documents=2).passed
    assert tried[6:9] == [8, 4, 2]


def test_memory_for_less_than_one_is_an_error(loaded: LoadedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = out_of_memory(monkeypatch, above=0)
    with pytest.raises(MeasurementError, match=f"too little memory for {loaded.task.kind.samples} one at a"):
        remainder.evaluate(loaded, BASELINES[loaded.task.id])
    assert tried == [8, 4, 2, 1]


def test_passes_of_circuits_are_half_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = on_prompts(open_task("tracr/reverse-circuit", device="cpu"))
    model, (calibration, *_), (evaluation, *_) = (
        loaded.circuit_model(),
        loaded.prompts("calibration"),
        loaded.prompts("evaluation"),
    )
    passes: list[int] = []
    real = backgrounds.run_circuit

    def counted(model: Any, circuit: Any, tokens: torch.Tensor, *others: Any, **named: Any) -> Any:
        passes.append(len(tokens))
        return real(model, circuit, tokens, *others, **named)

    monkeypatch.setattr(backgrounds, "run_circuit", counted)
    logits = {}
    for rows in (16, 8, 1):
        passes.clear()
        scene = backgrounds.Scene(model, calibration, evaluation, seed=0, rows=rows)
        logits[rows] = scene.run(Circuit.empty(model.graph), backgrounds.BACKGROUNDS["full"])
        assert max(passes) == len(evaluation) * rows // 16
        assert sum(passes) == len(evaluation)
    torch.testing.assert_close(logits[16], logits[8])
    torch.testing.assert_close(logits[16], logits[1])
