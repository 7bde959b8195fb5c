"""`--until-ci`: documents are added until an interval is narrow enough, and stopping there does no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminal import Command
from tiny import Shrink, make_loaded

from remainder.api import evaluate
from remainder.errors import TaskError
from remainder.measure.plan import plan
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.part import Part
from remainder.record.store import StoredRecord, read_record
from remainder.report.compare import compare_records
from remainder.runs.until import _level, looks, rule, widest
from remainder.task.spec import load_task


def test_looks_double_up_to_the_whole_tier() -> None:
    assert looks(load_task("smollm2-135m/resid-15"), "quick") == (8, 16, None)
    assert looks(load_task("smollm2-135m/resid-15"), "standard") == (8, 16, 32, None)
    with pytest.raises(TaskError, match="is no text"):
        looks(load_task("tiny/digits"), "quick")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRecord]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMAINDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        loaded = make_loaded()
        results = [
            evaluate(loaded, Shrink(factor), rungs=("raw",), name=f"s{factor}") for factor in (0.9, 0.7)
        ]
    return [StoredRecord(result.record, result.values) for result in results]


def half(low: float | None, high: float | None) -> float:
    assert low is not None
    assert high is not None
    return (high - low) / 2


def test_with_one_look_it_is_the_interval_of_a_comparison(pair: list[StoredRecord]) -> None:
    known = widest(pair, 1)
    names = [each.record.submission.name for each in pair]
    rung = known.what.split()[1]
    assert known.what == f"KL {rung} of {names[1]} less that of {names[0]}"
    (row,) = [row for row in compare_records(*pair).differences if row.key == f"kl_{rung}"]
    assert known.half_width == pytest.approx(half(row.difference.low, row.difference.high), rel=1e-5)


def test_of_one_alone_it_is_the_interval_of_its_own(pair: list[StoredRecord]) -> None:
    known = widest(pair[1:], 1)
    rung = known.what.split()[1]
    kl = pair[1].record.metrics.rungs[rung].quenched.kl
    assert known.half_width == pytest.approx(half(kl.low, kl.high), rel=1e-5)


def test_more_looks_make_each_interval_wider(pair: list[StoredRecord]) -> None:
    widths = [widest(pair, number).half_width for number in (1, 2, 4, 8)]
    assert widths == sorted(widths)  # type: ignore[type-var]
    assert widths[-1] > 1.2 * widths[0]  # type: ignore[operator]


def test_intervals_at_which_measuring_stops_hold_the_truth() -> None:
    """Documents with differences of standard deviation 1 around 0; 95 % a look would not be enough."""
    generator = np.random.default_rng(5)
    numbers, worlds, wanted = (8, 16, 32, 64), 400, 0.45

    def held(levels: int) -> float:
        count = 0
        for world in range(worlds):
            values = generator.standard_t(5, size=max(numbers)) / np.sqrt(5 / 3)
            for number in numbers:
                bootstrap = Bootstrap(number, seed=world, resamples=400, level=_level(levels))
                ratio = Ratio(values[:number], np.ones(number))
                found = bootstrap.difference(ratio, Ratio(np.zeros(number), np.ones(number)))
                if half(found.low, found.high) <= wanted:
                    break
            count += bool(found.low <= 0 <= found.high)  # type: ignore[operator]
        return count / worlds

    assert held(1) < 0.945
    assert held(len(numbers)) > 0.945


def test_the_plan_of_a_look_says_why_it_ended() -> None:
    whole = plan(load_task("tiny/wiki"), "quick")
    look = whole.of_documents(8, rule(0.005, 4))
    assert look.tier == Part("quick", 8).name
    assert look.documents == 8
    assert look.notes == (Part("quick", 8).note, rule(0.005, 4))
    assert "98.75%" in rule(0.005, 4)
    assert whole.of_documents(None) == whole


def records(out: Path) -> dict[str, StoredRecord]:
    found = [read_record(path) for path in out.rglob("*.json") if path.with_suffix(".csv.gz").is_file()]
    return {f"{each.record.submission.name}, {each.record.tier}": each for each in found}


def test_it_ends_as_soon_as_the_difference_is_known(tmp_path: Path, remainder: Command) -> None:
    arguments = ["run", "tiny/wiki", "--with", "wiki-topk", "--with", "wiki-l1", "--rungs", "raw"]
    done = remainder(*arguments, "--out", tmp_path, "--until-ci", "0.3")
    assert done.code == 0
    assert "8 documents; KL" in done.err
    assert "narrow enough" in done.err
    assert "16 documents;" not in done.err
    found = records(tmp_path)
    assert set(found) == {"wiki-topk, quick (8 documents)", "wiki-l1, quick (8 documents)"}
    for each in found.values():
        assert rule(0.3, 4) in each.record.warnings


@pytest.mark.slow
def test_it_ends_with_the_tier_at_the_latest(tmp_path: Path, remainder: Command) -> None:
    done = remainder(
        "run", "tiny/wiki", "--with", "wiki-topk", "--rungs", "raw", "--out", tmp_path, "--until-ci", "1e-9"
    )
    assert done.code == 0
    assert "the tier has no more" in done.err
    found = records(tmp_path)
    assert set(found) == {f"wiki-topk, {Part('quick', number).name}" for number in (8, 16, 32)} | {
        "wiki-topk, quick"
    }
    assert rule(1e-9, 4) not in found["wiki-topk, quick"].record.warnings


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--documents", "8"], "not with --documents"),
        (["--shard", "1/2"], "not with --shard"),
        (["tiny/wiki-mlp"], "not with 2 tasks"),
        (["--tier", "demo"], "has a fixed number of documents"),
    ],
)
def test_what_does_not_go_together_is_refused(
    more: list[str], words: str, tmp_path: Path, remainder: Command
) -> None:
    done = remainder("run", "tiny/wiki", *more, "--out", tmp_path, "--until-ci", "0.1")
    assert done.code != 0
    assert words in done.err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("width", ["0", "-1", "nan", "inf"])
def test_a_width_must_be_one(width: str, tmp_path: Path, remainder: Command) -> None:
    done = remainder("run", "tiny/wiki", "--out", tmp_path, "--until-ci", width)
    assert done.code != 0
    assert "half the width" in done.err
