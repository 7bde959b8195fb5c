"""Two records of the same content agree, or neither has a place."""

from __future__ import annotations

from pathlib import Path

import pytest
from forging import committed_records
from synthetic_board import coded, put, scaled, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.board.agreement import disagreements
from remainder.board.merge import folders_of_tasks, read_entries
from remainder.board.rank import budgets_of, unplaced_because
from remainder.board.shelf import Shelf
from remainder.board.tolerance import FLOOR, SHARE, TOLERANCES, tolerance_of
from remainder.board.verify import CHECKS, _Subject
from remainder.record.number import Number
from remainder.record.schema import Record, TaskInfo
from remainder.record.store import read_record, read_summary

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
VALUES = synthetic_values(documents=12, seed=1)
BASE = synthetic_record(VALUES)


def of(factor: float = 1.0, *, dtype: str = "float32", pairs: int = 1) -> Record:
    measured = BASE.measurement.model_copy(update={"dtype": dtype, "pairs": pairs})
    return synthetic_record(scaled(VALUES, factor), measurement=measured)


def test_rounding_is_agreed_on_and_a_hundredth_is_not() -> None:
    assert list(disagreements(of(), of())) == []
    assert list(disagreements(of(), of(1 + 1e-4))) == []
    told = list(disagreements(of(), of(0.99)))
    assert any(text.startswith("rungs.raw.kl: ") for text in told)


def test_noise_is_compared_only_if_as_much_was_drawn() -> None:
    told = list(disagreements(of(), of(0.99, pairs=8)))
    assert {text.split(":")[0] for text in told} == {
        f"rungs.{rung}.{what}" for rung in ("raw", "mean", "true") for what in ("kl", "loss")
    } & {text.split(":")[0] for text in told}
    assert any(text.startswith("rungs.raw.kl: ") for text in told)
    assert not any("rungs.full" in text for text in told)


def test_a_cost_that_differs_is_told() -> None:
    cheap = BASE.complexity.model_copy(update={"bits_per_token": Number.bare(90.0, "one pass")})
    (told,) = disagreements(BASE, synthetic_record(VALUES, complexity=cheap))
    assert told.startswith("complexity.bits_per_token: 180 here, 90 in another record")
    none = BASE.complexity.model_copy(update={"bits_per_token": Number.null("no codes")})
    (told,) = disagreements(BASE, synthetic_record(VALUES, complexity=none))
    assert "none (no codes)" in told


def test_no_tolerance_is_larger_than_a_share_of_the_records_own_kl() -> None:
    for path in committed_records():
        record = read_summary(path)
        if record.is_of_circuits or "raw" not in record.metrics.rungs:
            continue
        kl = record.metrics.rungs["raw"].quenched.kl.value
        assert kl is not None
        for same in (True, False):
            found = tolerance_of(record, same_device=same)
            assert found.mean <= max(SHARE * kl, FLOOR)
            assert found.row <= 5 * max(SHARE * kl, FLOOR)
    assert SHARE <= 0.01
    assert all(each.relative <= 0.02 for each in TOLERANCES.values())


def test_the_tolerance_is_bounded_by_the_least_kl_that_a_place_can_depend_on() -> None:
    record = synthetic_record(coded(0.01))
    metrics = record.metrics
    assert metrics.coding is not None
    least = min(point.kl.value for point in metrics.coding.points.values() if point.kl.value is not None)
    raw = metrics.rungs["raw"]
    larger = raw.quenched.model_copy(update={"kl": Number.bare(100 * least, "made up")})
    rungs = {**metrics.rungs, "raw": raw.model_copy(update={"quenched": larger})}
    record = record.model_copy(update={"metrics": metrics.model_copy(update={"rungs": rungs})})
    for same in (True, False):
        assert tolerance_of(record, same_device=same).mean <= max(SHARE * least, FLOOR)
    assert FLOOR < SHARE * least < TOLERANCES["float32", False].mean


def board(results: Path, *others: tuple[float, str]) -> list[Path]:
    """A record, and others whose KL is so many times that of it, in this dtype."""
    return [
        put(
            results,
            scaled(VALUES, factor),
            task=TASK,
            submission=submission("method"),
            measurement=BASE.measurement.model_copy(
                update={
                    "dtype": dtype,
                    "bf16_deviation": None if dtype == "float32" else {"tokens": 1.0},
                    "batch_size": number + 1,
                }
            ),
        )
        for number, (factor, dtype) in enumerate([(1.0, "float32"), *others])
    ]


def test_records_of_one_content_that_disagree_have_no_place(tmp_path: Path) -> None:
    first, forged = board(tmp_path, (0.5, "float32"))
    paths = [path for some in folders_of_tasks(tmp_path).values() for path in some]
    entries, faults = read_entries(tmp_path, paths)
    assert not faults
    assert {entry.record.record_id: entry.disputed for entry in entries} == {
        first.stem: (forged.stem,),
        forged.stem: (first.stem,),
    }
    assert budgets_of(entries) == ()
    assert all("another record of the same content disagrees" in entry.failed for entry in entries)
    assert all("another record of the same content disagrees" in unplaced_because(one) for one in entries)
    for path in (first, forged):
        found = list(CHECKS["agreement"](_Subject(path, *read_record(path), Shelf(tmp_path))))
        assert found
        assert all(remark.is_fault and "verify --rerun" in str(remark.fix) for remark in found)


@pytest.mark.parametrize("other", [(1.00001, "float32"), (0.5, "bfloat16")])
def test_one_that_repeats_or_is_of_another_dtype_is_no_dispute(
    other: tuple[float, str], tmp_path: Path
) -> None:
    paths = board(tmp_path, other)
    entries, _ = read_entries(tmp_path, paths)
    assert [entry.disputed for entry in entries] == [(), ()]
    # Another dtype than the tier's takes nobody's place: it is a group of its own.
    assert len({entry.group for entry in entries}) == (1 if other[1] == "float32" else 2)
    assert sum(entry.current for entry in entries) == (1 if other[1] == "float32" else 2)
    assert {entry.group.label for entry in entries} == {
        "quick" if dtype == "float32" else f"quick, {dtype}" for dtype in ("float32", other[1])
    }
