"""Coverage studies: pools are what the harness scores, and shares of intervals are counted right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.validation.test_run import write_control

from remainder.api import evaluate
from remainder.errors import TaskError
from remainder.loading.open import open_task
from remainder.record.intervals import Bootstrap, Ratio
from remainder.task.spec import load_task
from remainder.validation.coverage import Coverage, cover, cover_controls, coverage, render_coverage, wilson
from remainder.validation.pool import Pool, fill_pool


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (19, 20), (950, 1000), (1000, 1000)])
def test_wilson_is_that_of_scipy(successes: int, trials: int) -> None:
    found = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((found.low, found.high))


def pool(windows: int, seed: int = 0) -> Pool:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(50, 128, windows).astype(float)
    return Pool(tokens, {"raw": tokens * generator.normal(2.0, 0.4, windows)})


def test_a_set_is_cut_from_the_pool_window_by_window() -> None:
    found = pool(40)
    one = cover(found, "raw", 2.0, 10, most=100)
    assert one.sets == 4
    held = widths = 0.0
    for i in range(4):
        part = slice(10 * i, 10 * i + 10)
        estimate = Bootstrap(10, seed=i).estimate(
            Ratio(found.sums["raw"][part], found.tokens[part], "positive")
        )
        assert estimate.low is not None
        assert estimate.high is not None
        held += (estimate.low <= 2.0 <= estimate.high) / 4
        widths += (estimate.high - estimate.low) / 4
    assert (one.share, one.width) == pytest.approx((held, widths))


def test_windows_are_gathered_into_documents() -> None:
    found = pool(60)
    one = cover(found, "raw", 2.0, 10, windows=(3, 3), most=1)
    tokens, totals = (array[:30].reshape(10, 3).sum(1) for array in (found.tokens, found.sums["raw"]))
    estimate = Bootstrap(10, seed=0).estimate(Ratio(totals, tokens, "positive"))
    assert estimate.low is not None
    assert estimate.high is not None
    assert (one.sets, one.width) == (1, pytest.approx(estimate.high - estimate.low))
    # Between one and three windows make a document: more sets fit into the pool.
    assert (
        cover(found, "raw", 2.0, 10, windows=(1, 3)).sets >= cover(found, "raw", 2.0, 10, windows=(3, 3)).sets
    )


def test_intervals_of_normal_documents_hold_the_truth_in_95_of_100() -> None:
    one = cover(pool(20 * 600), "raw", 2.0, 20, most=600)
    assert one.sets == 600
    assert stats.binomtest(round(one.share * 600), 600, 0.95).pvalue > 1e-3
    assert one.share_of_mean == pytest.approx(one.share, abs=0.02)


def test_a_wrong_value_is_rarely_held() -> None:
    one = cover(pool(20 * 100), "raw", 2.5, 20, most=100)
    assert one.share < 0.3 < 0.8 < one.share_of_mean


def test_a_pool_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="12 windows does not fill 13 documents"):
        cover(pool(12), "raw", 2.0, 13)


def test_the_pool_holds_what_the_harness_measures(tmp_path: Path) -> None:
    """With one seed of evaluation examples: the sums of the pool are those of a run on the same examples."""
    place = write_control(tmp_path)
    text = (place / "task.toml").read_text()
    found = fill_pool(load_task(place), "keep-2", ["clean", "raw", "full kl", "permuted"], 40)
    assert len(found.tokens) == 40
    (place / "task.toml").write_text(text.replace("parameters = {", "parameters = { evaluation_seed = 0"))
    loaded = open_task(load_task(place))
    result = evaluate(loaded, loaded.interpretations["keep-2"], rungs=["raw", "full", "permuted"])
    metrics = result.record.metrics
    total = found.tokens.sum()
    assert found.sums["clean"].sum() / total == pytest.approx(metrics.clean.loss.value, rel=1e-5)
    assert found.sums["raw"].sum() / total == pytest.approx(
        metrics.rungs["raw"].quenched.loss.value, rel=1e-5
    )
    # Noise is keyed by the document, whose name tells the seed here: another draw of the same law.
    for name, number in (("full kl", "kl"), ("permuted", "loss")):
        rung = metrics.rungs[name.split()[0]].quenched
        spread = found.sums[name] / found.tokens
        error = spread.std(ddof=1) / math.sqrt(40)
        assert found.sums[name].sum() / total == pytest.approx(getattr(rung, number).value, abs=5 * error)


def test_errors_are_counted(tmp_path: Path) -> None:
    place = write_control(tmp_path, parameters="classes = true, evaluation_seed = 0")
    found = fill_pool(load_task(place), "keep-2", ["raw error"], 40)
    loaded = open_task(load_task(place))
    accuracy = evaluate(loaded, loaded.interpretations["keep-2"], rungs=["raw"]).record.metrics.rungs["raw"]
    assert found.sums["raw error"].sum() / found.tokens.sum() == pytest.approx(
        1 - (accuracy.quenched.accuracy.value or 0), abs=1e-6
    )


def test_coverage_of_a_control(tmp_path: Path) -> None:
    place = write_control(tmp_path)
    seen: list[int] = []
    found = coverage(
        load_task(place),
        "keep-2",
        documents=(10, 20),
        replications=100,
        parameters={"documents": 500},
        progress=lambda doing, done, total: seen.append(done),
    )
    assert [(one.quantity, one.documents, one.sets) for one in found] == [
        ("raw", 10, 100),
        ("raw", 20, 100),
        ("full", 10, 100),
        ("full", 20, 100),
    ]
    assert all(stats.binomtest(round(one.held * 100), 100, 0.95).pvalue > 1e-3 for one in found)
    assert seen == [500, 1000, 1500, 2000]
    assert found[1].width < found[0].width
    assert all(one.passed and not one.judged for one in found)  # too few documents to be judged
    for one in found:
        assert (one.low, one.high) == pytest.approx(wilson(round(100 * one.held), 100))


STUDIED = """

def coverage():
    return {"keep-2": ["raw"]}
"""

BY_PARAMETER = """

def coverage(**parameters):
    return {"keep-4": ["raw error"]} if parameters.get("classes") else {}
"""


def test_controls_say_what_is_studied(tmp_path: Path) -> None:
    places = [
        write_control(tmp_path, "one", more=STUDIED),
        write_control(tmp_path, "two", parameters="classes = true", more=BY_PARAMETER),
    ]
    found = cover_controls([load_task(place) for place in places], documents=(8,), replications=10)
    assert [(one.task, one.interpretation, one.quantity, one.sets) for one in found] == [
        ("made/one", "keep-2", "raw", 10),
        ("made/two", "keep-4", "raw error", 10),
    ]
    for name, more in (("silent", ""), ("other", BY_PARAMETER)):
        with pytest.raises(TaskError, match=rf"made/{name}: expected\.py does not say what coverage"):
            cover_controls([load_task(write_control(tmp_path, name, more=more))])


@pytest.mark.parametrize(
    ("documents", "held", "passed"),
    [(32, 0.93, True), (32, 0.929, False), (44, 0.97, True), (44, 0.971, False), (20, 0.5, True)],
)
def test_shares_are_judged_at_the_size_of_real_tasks(documents: int, held: float, passed: bool) -> None:
    one = Coverage("c/1", "keep-2", "raw", documents, 1.0, 1000, held, held - 0.01, held + 0.01, held, 0.1)
    assert one.passed is passed
    text = render_coverage([one])
    assert ("FAIL" in text) is not passed
    assert ("pass" in text) is (passed and documents >= 30)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert f"{held:.1%}" in text
    (row,) = json.loads(render_coverage([one], "json"))
    assert (row["held"], row["passed"]) == (held, passed)


def test_what_cannot_be_studied_is_refused(tmp_path: Path) -> None:
    place = write_control(tmp_path)
    with pytest.raises(TaskError, match=r"nothing is claimed of mean of keep-2\n.*clean, raw, full"):
        coverage(load_task(place), "keep-2", quantities=["mean"])
    with pytest.raises(TaskError, match="coverage of shape cannot be studied"):
        fill_pool(load_task(place), "keep-2", ["shape"], 10)
    text = (place / "build.py").read_text()
    (place / "build.py").write_text(text.replace("if evaluation_seed is None", "if True"))
    with pytest.raises(TaskError, match="ignores evaluation_seed"):
        fill_pool(load_task(place), "keep-2", ["raw"], 80)
    (place / "build.py").write_text(text.replace("evaluation_seed", "another_seed"))
    with pytest.raises(TaskError, match=r"no evaluation examples anew\n.*evaluation_seed: int"):
        fill_pool(load_task(place), "keep-2", ["raw"], 80)
