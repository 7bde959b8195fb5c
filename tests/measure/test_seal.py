"""Times that a record states: on the clock and of processors, each stage once, shared ones in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Shrink, make_loaded
from together import evaluate_together

from remainder.api import evaluate
from remainder.board.consistency import check_provenance
from remainder.measure.seal import Log, Spent
from remainder.record.schema import Record


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def test_a_stage_that_comes_again_is_added_and_a_share_is_a_share() -> None:
    log = Log()
    log.add("codes", Spent(2.0, 3.0))
    log.add("codes", Spent(1.0, 5.0), 0.5)
    log.add("codes", Spent(0.25, 0.5), -1.0)
    assert log.spent == {"codes": Spent(2.25, 5.0)}


def test_both_clocks_run() -> None:
    log = Log()
    with log.timed("work"):
        sum(range(300_000))
    assert log.spent["work"].wall > 0
    assert log.spent["work"].cpu > 0


def test_a_record_states_cpu_seconds_and_speed() -> None:
    record = evaluate(make_loaded(), Shrink(), rungs=("raw",)).record
    told = record.provenance
    assert told.cpu is not None
    assert told.cpu.keys() == told.timings.keys() >= {"build", "evaluation"}
    assert told.threads == 1
    speed = record.documents.tokens / told.timings["evaluation"]
    assert told.tokens_per_second == pytest.approx(speed, rel=1e-4)
    assert list(check_provenance(record)) == []


def test_rows_of_a_group_share_the_time_of_what_is_shared() -> None:
    """Counted twice, it would be more than there was."""
    start = Spent.now()
    rows = evaluate_together(make_loaded(), [Shrink(0.9), Shrink(0.7), Shrink(0.5)], rungs=("raw",))
    spent = start.since()
    told = [row.record.provenance for row in rows]  # type: ignore[union-attr]
    assert sum(sum(each.timings.values()) for each in told) <= spent.wall
    assert sum(sum(each.cpu.values()) for each in told if each.cpu) <= spent.cpu
    assert all(each.timings["evaluation"] > 0 for each in told)


def test_times_below_zero_are_at_fault() -> None:
    record = evaluate(make_loaded(), Shrink(), rungs=("raw",)).record
    forged = {"cpu": {"evaluation": -1.0}, "tokens_per_second": -3.0}
    told = record.provenance.model_copy(update=forged)
    faults = list(check_provenance(record.model_copy(update={"provenance": told})))
    assert faults == ["provenance.cpu.evaluation: -1 seconds", "provenance.tokens_per_second: -3"]


def test_a_record_from_before_keeps_its_bytes() -> None:
    record = evaluate(make_loaded(), Shrink(), rungs=("raw",)).record
    before = record.provenance.model_dump()
    for name in ("cpu", "tokens_per_second"):
        del before[name]
    assert type(record.provenance).model_validate(before).model_dump() == before
    assert Record.model_validate({**record.model_dump(), "provenance": before}).provenance.cpu is None
