"""Trainings that differ in the seed alone are one entry with its spread, and have one place."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest
from synthetic_board import coded, let_give_places, put, submission
from synthetic_records import fake_hash, synthetic_record

from remainder.board.build import build
from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.rank import Budget, rank
from remainder.board.snapshot import results_folder
from remainder.record.schema import Record, TaskInfo
from remainder.record.seeds import stem_of, trainings
from remainder.report.footers import seed_lines
from remainder.report.quantities import default_columns, number_of
from remainder.report.tables import render

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
FACTORS = {"sae-seed-0": 0.5, "sae-seed-1": 0.9, "sae-seed-7": 0.6, "other": 0.7}
HALF = Budget("1/2", 126.5)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("sae-seed-0", "sae"),
        ("topk-sae-32-seed-12", "topk-sae-32"),
        ("a-seed-1-seed-2", "a-seed-1"),
        ("sae-seed-01", None),
        ("sae-seed-", None),
        ("-seed-1", None),
        ("seed-1", None),
        ("sae-seeds-1", None),
        ("sae", None),
    ],
)
def test_names_of_trainings(name: str, stem: str | None) -> None:
    assert stem_of(name) == stem


def record_of(name: str, factor: float, **changes: object) -> Record:
    made = submission(name).model_copy(update=changes)
    return synthetic_record(coded(factor, bits=120.0), task=TASK, submission=made)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [record_of(name, factor) for name, factor in FACTORS.items()]


def test_what_shares_a_name_and_nothing_else_is_no_training(records: list[Record]) -> None:
    found = trainings(records)
    assert {stem: [one.submission.name for one in some] for stem, some in found.items()} == {
        "sae": ["sae-seed-0", "sae-seed-1", "sae-seed-7"]
    }
    assert trainings(records[:1]) == {}
    assert trainings([records[0], records[0]]) == {}
    other = record_of("sae-seed-3", 1.0, family="another")
    assert len(trainings([*records, other])["sae"]) == 3
    # Two methods under one name: neither is stated.
    assert trainings([*records, other, record_of("sae-seed-4", 1.0, family="another")]) == {}


def test_one_content_under_two_seeds_is_one_training(records: list[Record]) -> None:
    first, second, third, _ = records
    content = second.submission.model_copy(update={"hash": first.submission.hash})
    same = second.model_copy(update={"submission": content})
    columns = default_columns(records)
    said = "sae-seed-1: of the content of another seed, and no training of its own."
    assert seed_lines(columns, [first, same]) == [said]
    assert seed_lines(columns, [first, same, third]) == [said, *seed_lines(columns, [first, third])]
    assert seed_lines(columns, [first, third])[0].startswith("sae, 2 seeds")


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_tables_state_mean_and_standard_deviation(records: list[Record], format: str) -> None:
    text = " ".join(render(records, format).replace("\n- ", " ").split())
    seeds = [one for one in records if one.submission.name != "other"]
    stated = text.partition("sae, 3 seeds: ")[2]
    assert "(mean ± standard deviation over trainings, where brackets are over documents)" in stated
    compared = 0
    for column in default_columns(seeds):
        values = [value for one in seeds if (value := number_of(one, column.key).value) is not None]
        if len(values) == len(seeds):
            mean, _, spread, *_ = stated.partition(f"{column.heading} ")[2].split(" ", 3)
            assert float(mean.replace(",", "")) == pytest.approx(fmean(values), rel=0.05), column.key
            assert float(spread.strip(",")) == pytest.approx(stdev(values), rel=0.05, abs=1e-9), column.key
            compared += stdev(values) > 0
    assert compared
    assert "seeds:" not in render([records[0], records[3]], format)


def entries_of(results: Path) -> list[BoardRow]:
    (paths,) = folders_of_tasks(results).values()
    return read_entries(results, paths)[0]


def test_the_least_efficient_training_has_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, factor in FACTORS.items():
        put(tmp_path, coded(factor, bits=120.0), task=TASK, submission=submission(name))
    entries = entries_of(tmp_path)
    names = {entry.record.record_id: entry.record.submission.name for entry in entries}
    ranking = rank(entries, HALF)
    assert [names[one.entry.record.record_id] for one in ranking.order] == ["other", "sae-seed-1"]
    assert {names[record]: why for record, why in ranking.apart.items()} == dict.fromkeys(
        ("sae-seed-0", "sae-seed-7"), "of the 3 seeds of sae the least efficient counts, sae-seed-1"
    )
    assert {place.of for place in ranking.places.values()} == {2}
    let_give_places(monkeypatch, TASK.id)
    built = build(tmp_path, tmp_path / "site")
    assert "sae, 3 seeds: " in built.readme
    page = next((tmp_path / "site" / "tasks").glob("*.html")).read_text()
    assert "sae, 3 seeds: " in page
    assert "of the 3 seeds of sae the least efficient counts" in page


def test_no_record_of_the_board_is_of_several_trainings_yet() -> None:
    """Else its tables and places would have moved when trainings became one entry."""
    assert [path for path in results_folder().glob("*/*/*/*") if stem_of(path.name)] == []
