"""The tier `demo`, a first table of a text: few passes, honest about it, and nothing that counts takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Shrink, make_loaded, make_task

from remainder.api import Result, evaluate
from remainder.board.build import build
from remainder.errors import TaskError
from remainder.measure.plan import plan
from remainder.record.part import Part
from remainder.report.tables import render
from remainder.task.spec import DEMO, Tier, list_tasks, load_task

TOLD: list[tuple[str, int, int | None]] = []
"""What a person is told while it is measured: what is done, how much of it, and of how much."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMAINDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        TOLD.clear()
        return evaluate(make_loaded(), Shrink(), tier=DEMO, progress=lambda *told: TOLD.append(told))


def test_every_text_has_it_and_nothing_else_has() -> None:
    for task in map(load_task, list_tasks()):
        assert (DEMO in task.every_tier) == (task.corpus is not None)
        assert DEMO not in task.tiers  # and so in no hash


def test_few_rungs_are_measured_on_eight_documents(demo: Result) -> None:
    record = demo.record
    assert record.tier == Part(DEMO, 8).name
    assert (record.documents.documents, record.documents.windows) == (8, 8)
    assert record.measurement.rungs == ("raw", "coded", "full")
    raw = record.metrics.rungs["raw"].quenched.kl
    assert raw.low is not None
    assert raw.low < raw.value < raw.high  # type: ignore[operator]


def test_transform_coding_is_measured_beside_it_and_ratios_are_not(demo: Result) -> None:
    """The headline is that of every table; ρ costs two passes a row, and no default column has it."""
    coding = demo.record.metrics.coding
    assert coding is not None
    assert len(coding.reference) > 2
    assert coding.points["coded"].efficiency.value is not None
    assert "efficiency" in render([demo.record])
    assert demo.record.metrics.gaussian_ratio.fitted.value is None
    assert plan(make_task(), DEMO).nulls == ()
    assert len(plan(make_task(), DEMO, rungs=("all",)).nulls) == 3


@pytest.mark.usefixtures("demo")
def test_no_phase_stands_still_under_the_name_of_another() -> None:
    """Passes of transform coding are counted: the model may be loaded after the phase was named."""
    counted = [(done, total) for doing, done, total in TOLD if doing.startswith("transform coding") and total]
    assert len(counted) > 2
    assert [done for done, _ in counted] == sorted({done for done, _ in counted})
    assert all(
        done < total for done, total in counted
    )  # told before each pass: it is never full and still at work


def test_the_table_says_what_it_is(demo: Result) -> None:
    assert f"tier {Part(DEMO, 8).name}" in render([demo.record])
    assert Part(DEMO, 8).note in demo.record.warnings


def test_the_plan_of_its_record_is_its_own() -> None:
    task = make_task()
    assert plan(task, Part(DEMO, 8).name) == plan(task, DEMO) == plan(task, DEMO, documents=8)
    assert plan(task, DEMO).documents is None
    for tier, documents in ((DEMO, 4), (Part(DEMO, 8).name, 6), (Part(DEMO, 4).name, None)):
        with pytest.raises(TaskError, match=r"is of 8 documents, and [46] were asked for"):
            plan(task, tier, documents=documents)


def test_no_board_takes_it(demo: Result, tmp_path: Path) -> None:
    record = demo.record
    place = tmp_path / "results" / record.task.id / "1" / record.submission.name
    place.mkdir(parents=True)
    demo.save(place / f"{record.record_id}.json")
    built = build(tmp_path / "results", tmp_path / "site", processes=1)
    assert built.records == 0
    assert [fault.what for fault in built.faults] == [Part(DEMO, 8).note]


def test_it_is_a_word_of_its_own() -> None:
    with pytest.raises(ValueError, match="every text has a tier demo already"):
        make_task(
            tiers={
                DEMO: Tier(
                    evaluation_windows=9, calibration_windows=9, fit_windows=9, pairs=1, dtype="float32"
                )
            }
        )
    with pytest.raises(TaskError, match="has no tier 'demo'"):
        plan(load_task("tiny/digits"), DEMO)
