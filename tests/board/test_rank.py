"""Places and ties of the board, against the comparison of two records and against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_board import put, scaled, small_board, submission
from synthetic_records import fake_hash
from synthetic_values import synthetic_values

from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.pareto import front, fronts
from remainder.board.rank import difference, kl_of, rank, unranked_because
from remainder.record.number import Number
from remainder.record.schema import Check, Complexity, TaskInfo
from remainder.record.store import read_record
from remainder.report.compare import compare_records

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))


def entries_of(results: Path) -> list[BoardRow]:
    (paths,) = (some for task, some in folders_of_tasks(results).items() if task == TASK.id)
    entries, faults = read_entries(results, paths)
    assert not faults
    return entries


def separable(results: Path, a: BoardRow, b: BoardRow, key: str) -> tuple[bool | None, Number]:
    """What `remainder compare` says of two records."""
    comparison = compare_records(read_record(results / a.path), read_record(results / b.path))
    (found,) = (row for row in comparison.differences if row.key == key)
    return found.separable, found.difference


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven submissions close to each other, so that there are ties and steps."""
    results = tmp_path_factory.mktemp("crowd")
    for number in range(7):
        values = scaled(synthetic_values(documents=14, windows=1, seed=number % 3), 1.0 + 0.02 * number)
        put(results, values, task=TASK, submission=submission(f"method-{number}"), bits=100.0 + number)
    return results


@pytest.mark.parametrize(("by", "key"), [("raw", "kl_raw"), ("gaussian", "kl_gaussian")])
def test_places_follow_the_rule_by_what_compare_says(crowd: Path, by: str, key: str) -> None:
    entries = entries_of(crowd)
    ranking = rank(entries, by)
    order = sorted(entries, key=lambda entry: kl_of(entry, by).value)  # type: ignore[arg-type, return-value]
    assert list(ranking.order) == order

    groups: list[list[BoardRow]] = []
    for entry in order:
        verdict = separable(crowd, groups[-1][0], entry, key)[0] if groups else True
        if verdict:
            groups.append([entry])
        else:
            groups[-1].append(entry)
    assert 1 < len(groups) < len(order)  # else the rule would not be seen at work
    first = 1
    for number, group in enumerate(groups):
        for entry in group:
            place = ranking.places[entry.record.record_id]
            assert (place.first, place.last, place.group) == (first, first + len(group) - 1, number)
            assert place.leader == group[0].record.record_id
        first += len(group)
    assert ranking.comparisons == 6
    assert ranking.by_chance == pytest.approx(0.3)


def test_the_difference_is_that_of_compare(crowd: Path) -> None:
    a, b = entries_of(crowd)[:2]
    mine = difference(b, a, "gaussian")
    _, theirs = separable(crowd, a, b, "kl_gaussian")
    assert (mine.value, mine.low, mine.high) == pytest.approx(
        (theirs.value, theirs.low, theirs.high), rel=1e-4, abs=1e-7
    )


def test_only_documents_that_both_measured_count(tmp_path: Path) -> None:
    values = synthetic_values(documents=12, seed=1)
    few = values.loc[values["document"].isin([f"article-{number}" for number in range(8)])]
    put(tmp_path, values, task=TASK, submission=submission("all"))
    put(tmp_path, scaled(few, 1.5), task=TASK, submission=submission("some"))
    a, b = entries_of(tmp_path)
    assert (len(a.sums.documents), len(b.sums.documents)) == (12, 8)
    tokens = b.sums.tokens.sum()
    shared = np.isin(a.sums.documents, b.sums.documents)
    wanted = (b.sums.kl["raw"].sum() - a.sums.kl["raw"][shared].sum()) / tokens
    assert difference(b, a, "raw").value == pytest.approx(wanted)


def test_what_cannot_be_compared_is_not_called_separable(tmp_path: Path) -> None:
    values = synthetic_values(documents=6, seed=1)
    other = values.assign(document="other-" + values["document"])
    put(tmp_path, values, task=TASK, submission=submission("here"))
    put(tmp_path, scaled(other, 50.0), task=TASK, submission=submission("there"))
    ranking = rank(entries_of(tmp_path), "raw")
    assert {place.text for place in ranking.places.values()} == {"1–2"}


def test_references_nested_replaced_failed_and_uncosted_have_no_place(tmp_path: Path) -> None:
    small_board(tmp_path)
    values = synthetic_values(documents=12, seed=5)
    put(tmp_path, values, task=TASK, submission=submission("bad"), checks={"suffix": Check(passed=False)})
    put(
        tmp_path,
        values,
        task=TASK,
        submission=submission("free"),
        complexity=Complexity(
            live_features=Number.null("not counted"), bits_per_token=Number.null("no codes"), features=None
        ),
    )
    entries = entries_of(tmp_path)
    ranking = rank(entries, "raw")
    names = [entry.record.submission.name for entry in ranking.order]
    assert names[0] == "good"
    assert sorted(names) == ["equal", "even", "good"]
    assert [ranking.places[entry.record.record_id].text for entry in ranking.order] == ["1", "2–3", "2–3"]
    why = {entry.record.submission.name: unranked_because(entry, "raw") for entry in entries if entry.current}
    assert "check failed: suffix" in why["bad"]
    assert why["free"] == "its complexity is not stated: no codes"
    assert "reference" in why["copy"]


costs = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(costs, max_size=9))
def test_the_front_is_what_nothing_beats_in_both(points: list[tuple[int, int]]) -> None:
    def beaten(one: tuple[int, int]) -> bool:
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points)

    found = front([(float(bits), float(loss)) for bits, loss in points])
    assert sorted(found) == [number for number, one in enumerate(points) if not beaten(one)]
    assert [points[number] for number in found] == sorted(points[number] for number in found)


def test_edges_are_not_weighed_against_nodes() -> None:
    points = [
        ("nodes kept", 5.0, 1.0),
        ("edges kept", 4.0, 0.5),
        ("nodes kept", 6.0, 0.8),
        ("nodes kept", 7.0, 0.9),
    ]
    assert fronts(points) == [[1], [0, 2]]
    assert fronts([("bits", bits, loss) for _, bits, loss in points]) == [
        front([point[1:] for point in points])
    ]
    assert fronts([]) == []
