"""What is said of a new record: its place, its ties, and the record that it is held against."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_board import put, scaled, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.errors import RecordError
from remainder.publish.place import describe_place
from remainder.record.schema import TaskInfo
from remainder.record.store import read_record
from remainder.report.compare import compare_records

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))


def add(results: Path, name: str, factor: float, bits: float, seed: int = 0, files: bool = True) -> Path:
    values = scaled(synthetic_values(seed=seed), factor)
    return put(results, values, task=TASK, submission=submission(name, files=files), bits=bits)


def told(results: Path, path: Path) -> list[str]:
    return describe_place(read_record(path).record, results)


def difference(a: Path, b: Path, key: str) -> float:
    """What `remainder compare` says."""
    (row,) = [row for row in compare_records(read_record(a), read_record(b)).differences if row.key == key]
    assert row.difference.value is not None
    return row.difference.value


def test_place_ties_and_the_nearest_in_bits(tmp_path: Path) -> None:
    add(tmp_path, "best", 0.5, 500.0)
    near = add(tmp_path, "near", 1.01, 110.0, seed=1)
    add(tmp_path, "floor", 0.1, 101.0, files=False)  # a reference, which takes no place
    mine = add(tmp_path, "mine", 1.0, 108.0, seed=2)
    lines = told(tmp_path, mine)
    assert lines[0] == "Place 2–3 of 3 by KL raw, tied with near."
    assert lines[1].startswith("Place 2–3 of 3 by KL Gaussian")
    for line, key in zip(lines[2:], ("kl_raw", "kl_gaussian"), strict=True):
        match = re.fullmatch(
            r"Against near \(nearest in bits: 110, this one 108\): KL \w+ ([+-][\d.e-]+) \[.*\], "
            r"not separable\.",
            line,
        )
        assert match, line
        assert float(match[1]) == pytest.approx(difference(near, mine, key), rel=0.01)


def test_a_second_record_is_held_against_the_first(tmp_path: Path) -> None:
    first = add(tmp_path, "mine", 1.0, 100.0)
    add(tmp_path, "other", 1.0, 101.0)
    second = put(
        tmp_path,
        scaled(synthetic_values(), 0.5),
        task=TASK,
        submission=submission("mine").model_copy(update={"hash": fake_hash("other weights")}),
        bits=100.0,
        provenance=synthetic_record(synthetic_values()).provenance.model_copy(
            update={"timestamp": "2026-02-01T00:00:00+00:00"}
        ),
    )
    lines = told(tmp_path, second)
    assert lines[0] == "Place 1 of 2 by KL raw."
    assert lines[2].startswith(f"Against mine (its previous record {first.stem[:12]}): KL raw -")
    assert lines[2].endswith(", separable.")
    assert told(tmp_path, first) == [
        "Not the current record of its submission: another one has more rungs, or came later."
    ]


def test_alone_or_as_a_reference_it_has_less_to_be_told(tmp_path: Path) -> None:
    alone = add(tmp_path, "mine", 1.0, 100.0)
    assert told(tmp_path, alone) == ["Place 1 of 1 by KL raw.", "Place 1 of 1 by KL Gaussian."]
    floor = add(tmp_path, "floor", 1.0, 50.0, files=False)
    lines = told(tmp_path, floor)
    assert lines[0].startswith("No place by KL raw: a reference")
    assert lines[2].startswith("Against mine (nearest in bits")
    with pytest.raises(RecordError, match="does not lie below"):
        describe_place(synthetic_record(synthetic_values(seed=5), task=TASK), tmp_path)
