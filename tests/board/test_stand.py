"""Where rows that were just measured would stand: as on the board, on the documents that all scored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from synthetic_board import coded, let_give_places, put, submission
from synthetic_records import fake_hash, synthetic_record

from remainder.board.merge import read_entries
from remainder.board.rank import budgets_of, rank
from remainder.board.stand import render_standing, stand
from remainder.record.part import Part
from remainder.record.schema import Record, TaskInfo

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
BOARD = {"best": (0.2, 100.0), "near": (1.01, 110.0), "dear": (0.1, 190.0), "mine": (7.0, 120.0)}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    let_give_places(monkeypatch, TASK.id)
    for seed, (name, (factor, bits)) in enumerate(BOARD.items()):
        values = coded(factor, bits=bits, seed=seed)
        put(tmp_path, values, task=TASK, submission=submission(name))
    return tmp_path


def measured(
    values: pd.DataFrame, name: str = "mine", *, files: bool = True, tier: str = "quick"
) -> tuple[Record, pd.DataFrame]:
    made = synthetic_record(values, task=TASK, submission=submission(name, files=files), tier=tier)
    return made, values


def test_places_are_those_that_the_board_would_give(results: Path) -> None:
    """The board's own row of that name makes way for it."""
    row = measured(coded(0.5, bits=108.0, seed=9))
    found = stand([row], results)
    assert found is not None
    for old in results.glob("family/task/1/mine/*"):
        old.unlink()
    put(results, row[1], task=TASK, submission=submission("mine"))
    entries, faults = read_entries(results, sorted(results.rglob("*.json")))
    assert faults == []
    budgets = budgets_of(entries)
    assert found.budgets == budgets
    (name,) = [one.record.record_id for one in entries if one.record.submission.name == "mine"]
    expected = [rank(entries, budget).places.get(name) for budget in budgets]
    assert [None if one is None else one.place for one in found.places["mine"]] == expected
    assert expected[-1] is not None
    assert expected[-1].of == 4


def test_a_part_is_placed_by_its_documents(results: Path) -> None:
    values = coded(0.5, bits=108.0, seed=9)
    first = sorted(set(values.loc[values["split"] == "evaluation", "document"]))[:6]
    part = values[(values["split"] != "evaluation") | values["document"].isin(first)].reset_index(drop=True)
    found = stand([measured(part, tier=Part("quick", 6).name)], results)
    assert found is not None
    assert found.documents == 6
    stood = found.places["mine"][-1]
    assert stood is not None
    # By KL of six documents: behind those that lose a fifth and a tenth of what the seed does.
    assert (stood.at, stood.place.of) == (3, 4)
    assert stood.place.first <= 3 <= stood.place.last
    shown = render_standing(found)
    assert "by 6 documents" in " ".join(shown.split())
    assert "first look" in " ".join(shown.split())
    assert "3 of 4" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_has_no_place_is_told_why(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [measured(coded(0.5, bits=108.0)), measured(coded(0.3, bits=90.0), "copy", files=False)]
    found = stand(rows, results)
    assert found is not None
    assert [*found.places] == ["mine"]
    assert "copy: no place: a reference" in render_standing(found)
    assert stand([], results) is None
    assert stand(rows, results / "nowhere") is None
    let_give_places(monkeypatch)  # of no task
    assert stand(rows, results) is None
