"""What is said of a new record: its place, its ties, and the record that it is held against."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_board import coded, let_give_places, put, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.errors import RecordError
from remainder.publish.place import describe_place
from remainder.record.schema import TaskInfo
from remainder.record.store import read_record
from remainder.report.compare import compare_records

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    let_give_places(monkeypatch, TASK.id)


def add(results: Path, name: str, factor: float, bits: float, seed: int = 0, files: bool = True) -> Path:
    values = coded(factor, bits=bits, seed=seed)
    return put(results, values, task=TASK, submission=submission(name, files=files))


def told(results: Path, path: Path) -> list[str]:
    return describe_place(read_record(path).record, results)


def difference(a: Path, b: Path, key: str) -> float:
    """What `remainder compare` says."""
    (row,) = [row for row in compare_records(read_record(a), read_record(b)).differences if row.key == key]
    assert row.difference.value is not None
    return row.difference.value


@pytest.mark.usefixtures("places")
def test_places_within_budgets_and_the_nearest_in_bits(tmp_path: Path) -> None:
    add(tmp_path, "best", 0.2, 500.0)
    near = add(tmp_path, "near", 1.01, 110.0, seed=1)
    add(tmp_path, "floor", 0.1, 101.0, files=False)  # a reference, which takes no place
    mine = add(tmp_path, "mine", 1.0, 108.0, seed=2)
    lines = told(tmp_path, mine)
    assert lines[0].startswith("Within 1/32 of R₀ (7.")
    assert lines[0].endswith("bits): no place, no point of its curve is that cheap.")
    assert re.fullmatch(
        r"Within 1/2 of R₀ \(12\d\.\d bits\): place 1–2 of 2, with its point \+1 %: 10[78]\.?\d? bits, "
        r"KL 0\.\d+; separably worse than 0, better than 0 of 1 others\.",
        lines[4],
    ), lines[4]
    for line, key in zip(lines[5:], ("kl_coded", "kl_gaussian"), strict=True):
        match = re.fullmatch(
            r"Against near \(nearest in bits: 1[01]\d\.?\d?, this one 10\d\.?\d?\), by KL \w+: these "
            r"documents do not tell which is better \(([+-][\d.e-]+) \[.*\] nats\)\.",
            line,
        )
        assert match, line
        assert float(match[1]) == pytest.approx(difference(near, mine, key), rel=0.01)


@pytest.mark.usefixtures("places")
def test_a_second_record_is_held_against_the_first(tmp_path: Path) -> None:
    first = add(tmp_path, "mine", 1.0, 100.0)
    add(tmp_path, "other", 1.0, 101.0)
    second = put(
        tmp_path,
        coded(0.5, bits=100.0),
        task=TASK,
        submission=submission("mine").model_copy(update={"hash": fake_hash("other weights")}),
        provenance=synthetic_record(synthetic_values()).provenance.model_copy(
            update={"timestamp": "2026-02-01T00:00:00+00:00"}
        ),
    )
    lines = told(tmp_path, second)
    assert "place 1 of 2" in lines[4]
    assert lines[5].startswith(
        f"Against mine (its previous record {first.stem[:12]}), by KL coded: better (-"
    )
    assert lines[5].endswith("] nats).")
    assert told(tmp_path, first) == [
        "Not the current record of its submission: another one has more rungs, or came later."
    ]


def test_alone_or_as_a_reference_it_has_less_to_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = add(tmp_path, "mine", 1.0, 100.0)
    assert told(tmp_path, alone) == [
        "family/task gives no places: they are given at sites of public pretrained models."
    ]
    let_give_places(monkeypatch, TASK.id)
    assert "place 1 of 1" in told(tmp_path, alone)[4]
    floor = add(tmp_path, "floor", 1.0, 50.0, files=False)
    lines = told(tmp_path, floor)
    assert lines[0].startswith("No place: a reference")
    assert lines[1].startswith("Against mine (nearest in bits")
    with pytest.raises(RecordError, match="does not lie below"):
        describe_place(synthetic_record(synthetic_values(seed=5), task=TASK), tmp_path)
