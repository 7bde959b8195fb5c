"""The engine keeps what is finished, finds it again, and trusts nothing that is not whole."""

from __future__ import annotations

import errno
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import make_loaded, make_task

from remainder import __version__
from remainder.errors import InterpretationError, MeasurementError, RecordError
from remainder.loading.loaded import LoadedTask
from remainder.measure import losses, splices
from remainder.measure.plan import plan
from remainder.record.turns import RUNS
from remainder.record.values import canonical_values
from remainder.runs import cells as engine
from remainder.runs.batches import Batches
from remainder.runs.cells import FinishedRun
from remainder.submission.method import read_method
from remainder.submission.submission import Submission

TINY_RUNGS = ("raw", "full")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


def submission(name: str, **method: Any) -> Submission:
    settings = method or {"format": "random-projection", "rank": 8, "seed": 1}
    return Submission(
        name=name, kind="reconstruction", title=name, authors=(), licence="MIT", method=read_method(settings)
    )


FIRST, SECOND = submission("first"), submission("second", format="pca", rank=4)


def run(
    out: Path, *submissions: Submission, loaded: LoadedTask | None = None, **options: Any
) -> list[FinishedRun]:
    loaded = loaded or make_loaded()
    extra = {name: options.pop(name) for name in ("fresh", "progress") if name in options}
    chosen = plan(loaded.task, "quick", **{"rungs": TINY_RUNGS, **options})
    return list(engine.run(loaded, submissions or (FIRST, SECOND), chosen, out, **extra))


def kept(rows: list[FinishedRun]) -> list[bool]:
    return [row.kept for row in rows]


def stop_at(name: str) -> Callable[[str, int, int | None], None]:
    """Ctrl-C in the middle of evaluating the submission called `name`."""

    def progress(doing: str, done: int, total: int | None) -> None:
        if doing == name and total is not None and done > total / 2:
            raise KeyboardInterrupt

    return progress


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.rglob("*") if path.is_file() and RUNS not in path.parts)


def test_a_second_run_finds_everything(out: Path) -> None:
    first = run(out)
    second = run(out)
    assert kept(first) == [False, False]
    assert kept(second) == [True, True]
    assert [row.record for row in first] == [row.record for row in second]
    for one, other in zip(first, second, strict=True):
        assert one.path == other.path
        pd.testing.assert_frame_equal(canonical_values(one.values), other.values)


def test_a_record_lies_where_its_task_version_and_name_say(out: Path) -> None:
    (row,) = run(out, FIRST)
    assert row.path == out / "tiny/site/1/first" / f"{row.record.record_id}.json"
    assert row.path.with_suffix(".csv.gz").is_file()
    assert len(files(out)) == 2


def test_what_is_found_needs_no_model(out: Path) -> None:
    run(out)
    loaded = make_loaded()
    assert kept(run(out, loaded=loaded)) == [True, True]
    assert loaded._runners == {}


def test_an_interrupt_loses_the_rows_in_progress_and_nothing_else(out: Path) -> None:
    run(out, FIRST)
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=stop_at("second"))
    assert len(files(out)) == 2  # the first row's
    rows = run(out)
    assert kept(rows) == [True, False]
    assert [row.record.submission.name for row in rows] == ["first", "second"]
    assert kept(run(out)) == [True, True]


def test_an_interrupt_loses_the_batch_in_progress_and_nothing_else(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = run(out / "whole", FIRST)
    batches = out / RUNS / "batches"
    with pytest.raises(KeyboardInterrupt):
        run(out, FIRST, progress=stop_at("first"))
    assert not list(out.glob("tiny/**/*.json"))
    kept_batches = list(batches.iterdir())
    assert kept_batches
    asked: list[bool] = []
    real = Batches.get

    def get(self: Batches, key: str) -> Any:
        found = real(self, key)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(Batches, "get", get)
    (row,) = run(out, FIRST)
    assert sum(asked) == len(kept_batches) < len(asked)
    assert row.record.result_id == whole.record.result_id
    assert not batches.exists()
    # Who wants it fresh gets it fresh.
    with pytest.raises(KeyboardInterrupt):
        run(out, FIRST, progress=stop_at("first"), fresh=True)
    assert not batches.exists()


def test_a_batch_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Batches(tmp_path)
    assert store.get("a") is None
    store.put("a", {"rows": [1.5, None]})
    assert store.get("a") == {"rows": [1.5, None]}
    (path,) = (tmp_path / RUNS / "batches").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert store.get("a") is None
    monkeypatch.setattr("remainder.record.json.os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        store.put("b", {})
    assert [path.name for path in path.parent.iterdir()] == ["a.batch"]


def refuse(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_in_one_submission_keeps_those_before_it(out: Path) -> None:
    broken = submission("broken", format="pca", rank=1000)
    with pytest.raises(InterpretationError, match="rank is 1000"):
        run(out, FIRST, broken, SECOND)
    assert kept(run(out, FIRST, SECOND)) == [True, False]


def test_rows_come_as_they_are_finished(out: Path) -> None:
    loaded = make_loaded()
    rows = engine.run(loaded, (FIRST, SECOND), plan(loaded.task, "quick", rungs=TINY_RUNGS), out)
    assert next(rows).record.submission.name == "first"
    assert len(files(out)) == 2


def test_fresh_measures_again(out: Path) -> None:
    (first,) = run(out, FIRST)
    (second,) = run(out, FIRST, fresh=True)
    assert not second.kept
    assert second.record.result_id == first.record.result_id


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16"},
        {"pairs": 2},
        {"rungs": ("raw", "mean", "full")},
        {"loaded": "other seed"},
        {"submission": submission("first", format="random-projection", rank=8, seed=2)},
    ],
    ids=["dtype", "pairs", "rungs", "task", "submission"],
)
def test_whatever_moves_a_number_is_measured_again(options: dict[str, Any], out: Path) -> None:
    run(out, FIRST)
    changed = dict(options)
    subject = changed.pop("submission", FIRST)
    if "loaded" in changed:
        changed["loaded"] = make_loaded(make_task(seed=6))
    (row,) = run(out, subject, **changed)
    assert not row.kept
    assert kept(run(out, FIRST)) == [True]  # and the old one is still there


def test_the_order_of_rungs_is_the_same_measurement(out: Path) -> None:
    run(out, FIRST, rungs=("full", "raw"))
    assert kept(run(out, FIRST, rungs=("raw", "full"))) == [True]


@pytest.mark.parametrize("installed", ["0.0.0", None])
def test_what_metadata_say_of_this_package_does_not_matter(
    installed: str | None, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout may not be installed, or its metadata may be older than its source."""
    real = metadata.version

    def version(name: str) -> str:
        if name != "remainder":
            return real(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    (row,) = run(out, FIRST)
    assert row.record.provenance.packages["remainder"] == __version__
    assert kept(run(out, FIRST)) == [True]


# what is not whole


def test_a_half_written_record_is_not_trusted(out: Path) -> None:
    (row,) = run(out, FIRST)
    text = row.path.read_bytes()
    row.path.write_bytes(text[: text.index(row.record.measurement_key.encode()) + 20])
    (again,) = run(out, FIRST)
    assert not again.kept
    assert again.record.result_id == row.record.result_id


def test_a_damaged_record_is_named_and_measured_again(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    (row,) = run(out, FIRST)
    text = row.path.read_bytes()
    row.path.write_bytes(text[:-20])
    (again,) = run(out, FIRST)
    assert not again.kept
    assert "not whole JSON" in caplog.text
    assert row.path.name in caplog.text


def test_a_record_whose_values_are_gone_is_named_and_measured_again(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = run(out, FIRST)
    row.path.with_suffix(".csv.gz").unlink()
    (again,) = run(out, FIRST)
    assert not again.kept
    assert "not beside it" in caplog.text


def test_a_crash_while_writing_leaves_no_record(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if str(target).endswith(".json"):
            raise OSError("power cut")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RecordError, match="power cut"):
        run(out, FIRST)
    monkeypatch.setattr(Path, "replace", real)
    assert not [name for name in files(out) if name.endswith((".json", ".tmp"))]
    assert kept(run(out, FIRST)) == [False]


# out of memory


def out_of_memory(monkeypatch: pytest.MonkeyPatch, above: int) -> list[int]:
    """A device that holds `above` windows at most; gives the sizes of batches that were tried."""
    tried: list[int] = []
    real = losses.compared_pass

    def limited(runner: Any, clean: Any, activations: torch.Tensor) -> Any:
        tried.append(len(activations))
        if len(activations) > above:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(runner, clean, activations)

    for module in (losses, splices):
        monkeypatch.setattr(module, "compared_pass", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_moves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = run(out / "a", FIRST, loaded=make_loaded(batch_size=8))
    tried = out_of_memory(monkeypatch, above=3)
    loaded = make_loaded(batch_size=8)
    (found,) = run(out / "b", FIRST, loaded=loaded)
    assert [size for size in tried if size > 3] == [8, 4]
    assert loaded.batch_size == found.record.measurement.batch_size == 2
    key = ["document", "window", "rung", "draw"]
    one, other = (row.values.set_index(key).sort_index() for row in (expected, found))
    assert (one["loss"] - other["loss"]).abs().max() < 1e-4
    assert (one["kl"] - other["kl"]).abs().max() < 1e-4


def test_a_device_too_small_for_one_window_is_said_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = out_of_memory(monkeypatch, above=0)
    with pytest.raises(MeasurementError, match="too little memory for windows one at a time"):
        run(out, FIRST)
    assert tried == [4, 2, 1]
    assert files(out) == []
