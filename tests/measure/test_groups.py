"""Several interpretations at once: the numbers of each alone, and no pass twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import Shrink, make_loaded, make_task
from together import evaluate_together

from remainder.api import Result, evaluate
from remainder.errors import AssetError, InterpretationError, RemainderError, TaskError
from remainder.loading.site import SiteTask
from remainder.measure import losses, site
from remainder.measure.plan import Plan, plan
from remainder.record.compat import PEERS
from remainder.submission.method import read_method
from remainder.submission.objects import object_submission
from remainder.submission.submission import Submission
from remainder.task.spec import Positions, Tier

KEY = ["split", "document", "window", "rung", "draw"]
WINDOWS, BATCH = 14, 4
TIER = Tier(evaluation_windows=WINDOWS, calibration_windows=16, fit_windows=20, pairs=1, dtype="float32")
RUNGS = ("raw", "mean", "full", "permuted")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def loaded_task(sink_norm: float = 14.0, **changed: Any) -> SiteTask:
    task = make_task(tiers={"quick": TIER}, positions=Positions(sink_norm=sink_norm), **changed)
    loaded = make_loaded(task, batch_size=BATCH)
    assert isinstance(loaded, SiteTask)
    return loaded


def projection(seed: int, rank: int = 8) -> Submission:
    method = read_method({"format": "random-projection", "rank": rank, "seed": seed})
    return Submission(
        name=f"projection-{seed}", kind="reconstruction", title="A projection", authors=("Nobody",),
        licence="MIT", method=method,
    )  # fmt: skip


class Broken(Shrink):
    """It looks well until it has seen calibration: then its codes are NaN."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return super().encode(x) * (1.0 if self.left > 0 else float("nan"))


class Count:
    """Windows that go through the suffix."""

    def __init__(self, loaded: SiteTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = 0
        runner = loaded.runner("float32")
        real = runner.suffix

        def suffix(inputs: Any, prefix: Any, activations: torch.Tensor) -> torch.Tensor:
            self.windows += len(activations)
            return real(inputs, prefix, activations)

        monkeypatch.setattr(runner, "suffix", suffix)


def values(found: Result | RemainderError) -> pd.DataFrame:
    assert isinstance(found, Result)
    return found.values.set_index(KEY).sort_index()


# ---------------------------------------------------------------------------------------- one by one


def test_a_group_gives_what_each_gives_alone() -> None:
    loaded = loaded_task()
    things = {"halves": Shrink(), "other": projection(1).build(loaded.task, lambda: loaded.fit_moments(20))}
    together = evaluate_together(loaded, things, rungs=RUNGS, compat=True)
    for (name, thing), found in zip(things.items(), together, strict=True):
        alone = evaluate(loaded, thing, name=name, rungs=RUNGS, compat=True)
        assert isinstance(found, Result)
        assert found.record.result_id == alone.record.result_id
        assert values(found).equals(values(alone))
        assert found.record.checks == alone.record.checks
        assert set(found.record.provenance.timings) == set(alone.record.provenance.timings)
        assert min(found.record.provenance.timings.values()) >= 0


def test_an_error_ends_its_own_row() -> None:
    loaded = loaded_task()
    broken = Broken(calls=12)
    first, second, third = evaluate_together(loaded, {"a": Shrink(), "b": broken, "c": Shrink()}, rungs=RUNGS)
    assert isinstance(second, InterpretationError)
    assert second.what.startswith("b: encode gave")
    assert values(first).equals(values(third))


def test_a_group_that_cannot_be_measured_as_a_whole_is_measured_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that holds one interpretation at a time, and something that is no reconstruction."""
    loaded = loaded_task()
    real = site.measure_group

    def limited(task: SiteTask, entries: Any, *rest: Any, **more: Any) -> Any:
        if len(entries) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(task, entries, *rest, **more)

    monkeypatch.setattr(site, "measure_group", limited)
    wrong = projection(3).model_copy(update={"kind": "circuit"})
    chosen = plan(loaded.task, "quick", rungs=("raw",))
    first, refused, last = loaded.measure_group([projection(1), wrong, projection(2)], chosen)
    assert isinstance(refused.problem, RemainderError)
    assert "projection-3" in str(refused.problem)
    assert [one.record().record.submission.name for one in (first, last)] == ["projection-1", "projection-2"]


def test_what_fails_alone_is_raised() -> None:
    with pytest.raises(InterpretationError, match="encode gave"):
        evaluate(loaded_task(), Broken(calls=12), rungs=RUNGS)


@pytest.mark.slow
def test_groups_are_as_large_as_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_task()
    sizes: list[int] = []
    real = SiteTask.measure_part

    def noted(self: SiteTask, entries: Any, *rest: Any, **more: Any) -> Any:
        sizes.append(len(entries))
        return real(self, entries, *rest, **more)

    monkeypatch.setattr(SiteTask, "measure_part", noted)
    chosen = plan(loaded.task, "quick", rungs=RUNGS)
    wrapped = object_submission(Shrink())
    need = loaded.bytes_of(wrapped, chosen)
    assert need > 4 * 8 * loaded.task.site.width**2  # the moments of x̂ and r alone
    monkeypatch.setenv("REMAINDER_GROUP_GB", str(2.5 * need / 1e9))
    evaluate_together(loaded, [Shrink()] * 5, rungs=RUNGS)
    assert sizes == [2, 2, 1]
    monkeypatch.setenv("REMAINDER_GROUP_GB", "1e-9")
    sizes.clear()
    evaluate_together(loaded, [Shrink()] * 2, rungs=("raw",))
    assert sizes == [2]  # nothing is fitted, and the objects have no files
    monkeypatch.setenv("REMAINDER_GROUP_GB", "little")
    with pytest.raises(AssetError, match="REMAINDER_GROUP_GB is 'little', not a number above 0"):
        evaluate_together(loaded, [Shrink()], rungs=("raw",))


# ---------------------------------------------------------------------------------------- passes


def passes(loaded: SiteTask, count: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """Windows that went through the suffix, of `count` interpretations that differ."""
    loaded.runner("float32")
    counted = Count(loaded, monkeypatch)
    things = [Shrink(0.5 + 0.1 * number) for number in range(count)]
    evaluate_together(loaded, things, **options)
    return counted.windows


def checked(loaded: SiteTask) -> int:
    """Windows that splices are checked on."""
    batch = next(loaded.activations("evaluation", WINDOWS).batches(BATCH))
    return min(1 + int((batch.scored.sum(1).cumsum(0) < 64).sum()), BATCH)


def test_raw_alone_takes_two_passes_and_one_for_each_further(monkeypatch: pytest.MonkeyPatch) -> None:
    few = checked(loaded_task())
    # Beside them a clean pass, one without the site, and the true residual of each, on a few windows.
    for count in (1, 2, 4):
        found = passes(loaded_task(), count, monkeypatch, rungs=("raw",))
        assert found == (1 + count) * WINDOWS + (2 + count) * few


def test_peers_share_the_clean_pass_and_windows_that_are_spliced_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without sinks, and where SAELens and the task leave the same tokens alone, raw is SAELens' splice."""
    loaded = loaded_task(sink_norm=1e9)
    inputs = loaded.windows("evaluation").first(WINDOWS).inputs
    special = set(loaded.corpus.spec.special_tokens) if hasattr(loaded, "corpus") else set()
    few = checked(loaded)
    alike = passes(loaded, 1, monkeypatch, rungs=("raw",), compat=("saelens",))
    base = 3 * WINDOWS + 3 * few  # clean, zeros, raw; and the checks
    assert base <= alike < base + WINDOWS
    others = sum(0 in row for row in inputs.tolist())  # of id 0 the peers know nothing
    assert 0 in special
    assert alike == base + others
    both = passes(loaded_task(sink_norm=1e9), 1, monkeypatch, rungs=("raw",), compat=True)
    assert both > alike


def test_clean_outputs_too_large_to_keep_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = evaluate(loaded_task(), Shrink(), rungs=RUNGS, compat=True)
    monkeypatch.setattr(losses, "KEPT", 1)
    again = evaluate(loaded_task(), Shrink(), rungs=RUNGS, compat=True)
    assert (values(kept)["kl"] - values(again)["kl"]).abs().max() < 1e-5
    assert again.record.compat is not None
    assert kept.record.compat is not None
    one, other = (found.record.compat.saelens for found in (kept, again))  # type: ignore[union-attr]
    assert one.kl_div_score.value == pytest.approx(other.kl_div_score.value, rel=1e-4)


# ---------------------------------------------------------------------------------------- only what is asked


def test_raw_alone_fits_nothing_and_says_so() -> None:
    found = evaluate(loaded_task(), Shrink(), rungs=("raw",)).record
    assert set(found.metrics.rungs) == {"clean", "raw"} or "raw" in found.metrics.rungs
    assert found.calibration.tokens == 0
    assert found.complexity.bits_per_token.reason == "bits were not asked for"
    assert found.complexity.live_features.value is None
    assert found.complexity.l0.value is not None
    assert found.checks["conformance"].passed


def test_numbers_of_raw_are_the_same_however_much_is_asked_for() -> None:
    alone, among = (evaluate(loaded_task(), Shrink(), rungs=rungs) for rungs in (("raw",), RUNGS))
    one, other = values(alone), values(among)
    columns = ["loss", "kl", "residual_ss", "active"]
    assert one.loc[:, columns].equals(other.loc[one.index, columns])


@pytest.mark.parametrize("peers", [("saelens",), ("saebench", "dictionary_learning")])
def test_some_peers_alone_are_those_of_all(peers: tuple[str, ...]) -> None:
    some, every = (evaluate(loaded_task(), Shrink(), rungs=RUNGS, compat=asked) for asked in (peers, True))
    assert some.record.compat is not None
    assert some.record.measurement.peers == peers
    assert every.record.measurement.peers is None
    assert some.record.measurement_key != every.record.measurement_key
    for peer in PEERS:
        expected = getattr(every.record.compat, peer) if peer in peers else None
        assert getattr(some.record.compat, peer) == expected


def test_a_peer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TaskError, match="compat names 'saelense'"):
        evaluate(loaded_task(), Shrink(), compat=("saelense",))


# ---------------------------------------------------------------------------------------- finished batches


class Kept:
    """Finished batches in memory."""

    def __init__(self) -> None:
        self.content: dict[str, Mapping[str, Any]] = {}

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self.content.get(key)

    def put(self, key: str, content: Mapping[str, Any]) -> None:
        assert key not in self.content
        self.content[key] = content


def measured(loaded: SiteTask, chosen: Plan, kept: Kept | None = None) -> list[Result]:
    found = loaded.measure_group([projection(1), projection(2)], chosen, finished=kept)
    return [Result(*one.record()) for one in found]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_what_was_finished_before_a_stop_is_not_measured_again(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_task()
    chosen = plan(loaded.task, "quick", rungs=("all",) if whole else RUNGS, compat=True)
    expected = measured(loaded, chosen)
    kept = Kept()
    put = kept.put

    def stopping(key: str, content: Mapping[str, Any]) -> None:
        put(key, content)
        if len(kept.content) == 5:
            raise KeyboardInterrupt

    kept.put = stopping  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        measured(loaded, chosen, kept)
    kept.put = put  # type: ignore[method-assign]
    found = measured(loaded, chosen, kept)
    assert len(kept.content) == 2 * -(-WINDOWS // BATCH)
    for one, other in zip(expected, found, strict=True):
        assert one.record.result_id == other.record.result_id
        assert values(one).equals(values(other))
    counted = Count(loaded, monkeypatch)
    again = measured(loaded, plan(loaded.task, "quick", rungs=RUNGS, compat=True), Kept() if whole else kept)
    assert [one.record.submission.name for one in again] == ["projection-1", "projection-2"]
    if not whole:  # the checks alone
        assert counted.windows == 4 * checked(loaded)


@pytest.mark.slow
def test_parts_together_are_the_whole() -> None:
    loaded = loaded_task()
    chosen = plan(loaded.task, "quick", rungs=RUNGS)
    kept = Kept()
    for part in range(3):
        for outcome in loaded.measure_part([projection(1), projection(2)], chosen, (part, 3), finished=kept):
            assert outcome.result is None
            assert outcome.problem is None
    found = measured(loaded, chosen, kept)
    for one, other in zip(measured(loaded, chosen), found, strict=True):
        assert one.record.result_id == other.record.result_id
