"""Places within budgets, against a plain account of the rule; and the front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_board import coded, let_give_places, put, small_board, submission
from synthetic_records import fake_hash
from synthetic_values import synthetic_values

from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.pareto import front, fronts
from remainder.board.rank import (
    BUDGETS,
    Budget,
    budgets_of,
    difference,
    gives_places,
    lead_of,
    rank,
    unplaced_because,
)
from remainder.board.view import boards
from remainder.record.number import Number
from remainder.record.schema import Check, Complexity, TaskInfo
from remainder.record.store import read_record
from remainder.report.compare import compare_records

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
HALF = Budget("1/2", 126.5)


def entries_of(results: Path) -> list[BoardRow]:
    (paths,) = (some for task, some in folders_of_tasks(results).items() if task == TASK.id)
    entries, faults = read_entries(results, paths)
    assert not faults
    return entries


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Submissions of several sizes, some close to each other, so that places are open and closed."""
    results = tmp_path_factory.mktemp("crowd")
    for number in range(6):
        bits = 90.0 + 60 * (number % 3)
        values = coded(0.5 + 0.25 * (number // 2), bits=bits, seed=number % 2, documents=14)
        put(results, values, task=TASK, submission=submission(f"method-{number}"))
    return results


def test_budgets_are_shares_of_the_bits_of_the_reference(crowd: Path) -> None:
    entries = entries_of(crowd)
    full = {entry.record.metrics.coding.full_bits.value for entry in entries}  # type: ignore[union-attr]
    assert len(full) <= 2  # two seeds
    budgets = budgets_of(entries)
    assert [budget.name for budget in budgets] == list(BUDGETS) == ["1/32", "1/16", "1/8", "1/4", "1/2"]
    middle = np.median([e.record.metrics.coding.full_bits.value for e in entries])  # type: ignore[union-attr]
    assert [budget.bits for budget in budgets] == pytest.approx([middle / n for n in (32, 16, 8, 4, 2)])
    assert budgets_of([]) == ()


def test_a_row_enters_with_the_best_of_what_it_pays_for(crowd: Path) -> None:
    entries = entries_of(crowd)
    for budget in budgets_of(entries):
        ranking = rank(entries, budget)
        entered = ranking.entered
        for entry in entries:
            coding = entry.record.metrics.coding
            assert coding is not None
            within = [
                (point.kl.value, name)
                for name, point in coding.points.items()
                if point.bits.value is not None and point.bits.value <= budget.bits
            ]
            one = entered.get(entry.record.record_id)
            assert (one is not None) == bool(within)
            if one is not None:
                assert one.point == min(within)[1]
        kls = [one.at.kl.value for one in ranking.order]
        assert kls == sorted(kls)  # type: ignore[type-var]
    assert len(rank(entries, HALF).order) == len(entries)
    assert len(rank(entries, Budget("1/32", 7.9)).order) == 0


def test_places_hold_the_rank_and_part_what_is_clearly_apart(crowd: Path) -> None:
    ranking = rank(entries_of(crowd), HALF)
    for number, one in enumerate(ranking.order, 1):
        place = ranking.places[one.entry.record.record_id]
        assert 1 <= place.first <= number <= place.last <= place.of == len(ranking.order)
    first, last = (ranking.places[ranking.order[n].entry.record.record_id] for n in (0, -1))
    assert first.last < last.first  # half the KL of others on the same documents
    assert any(place.first < place.last for place in ranking.places.values())
    assert first.text.startswith("1")


def test_other_documents_than_most_have_no_place(tmp_path: Path) -> None:
    for name, factor in (("one", 1.0), ("two", 1.2)):
        put(tmp_path, coded(factor, bits=120.0), task=TASK, submission=submission(name))
    few = coded(0.2, bits=120.0)
    few = few.loc[few["document"].isin([f"article-{number}" for number in range(8)])]
    put(tmp_path, few, task=TASK, submission=submission("few"))
    entries = entries_of(tmp_path)
    ranking = rank(entries, HALF)
    assert [one.entry.record.submission.name for one in ranking.order] == ["one", "two"]
    (why,) = ranking.apart.values()
    assert "other documents" in why


def test_references_nested_replaced_failed_and_unpaid_have_no_place(tmp_path: Path) -> None:
    def add(name: str, **changes: object) -> None:
        put(tmp_path, coded(1.0), task=TASK, **({"submission": submission(name)} | changes))  # type: ignore[arg-type]

    add("good")
    add("bad", checks={"suffix": Check(passed=False)})
    add("copy", submission=submission("copy", files=False))
    add("finer", reference=submission("good"))
    unpaid = Complexity(
        live_features=Number.null("not counted"), bits_per_token=Number.null("state is kept"), features=None
    )
    put(tmp_path, synthetic_values(), task=TASK, submission=submission("free"), complexity=unpaid)
    put(tmp_path, synthetic_values(), task=TASK, submission=submission("exact"), bits=100.0)
    entries = entries_of(tmp_path)
    ranking = rank(entries, Budget("1/1", 1000.0))
    assert [one.entry.record.submission.name for one in ranking.order] == ["good"]
    why = {entry.path.split("/")[3]: unplaced_because(entry) for entry in entries}
    assert why["good"] == ""
    assert "check failed: suffix" in why["bad"]
    assert why["free"] == "its bits are not stated: state is kept"
    assert "no curve" in why["exact"]
    assert "reference" in why["copy"]
    assert "finer" in why["finer-to-good"]


def test_only_sites_of_public_models_give_places(crowd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gives_places("smollm2-135m/resid-15")
    for task in ("tiny/wiki", "controls/parity", "tracr/reverse", "smollm2-135m/ioi", "no/task", "../x"):
        assert not gives_places(task)
    (board,) = boards(entries_of(crowd))
    assert (board.places, board.rankings, board.lead) == (False, (), "coded")
    let_give_places(monkeypatch, TASK.id)
    (board,) = boards(entries_of(crowd))
    assert len(board.rankings) == 5
    assert all(set(row.places) == set(BUDGETS) for row in board.rows)


def test_tables_are_ordered_by_the_coded_kl_or_else_the_raw_one(crowd: Path, tmp_path: Path) -> None:
    small_board(tmp_path)
    for entries, lead in ((entries_of(crowd), "coded"), (entries_of(tmp_path), "raw")):
        assert lead_of(entries) == lead
        (board,) = boards(entries)
        orders = [float(row.cells[f"kl_{lead}"].order) for row in board.rows]
        assert orders == sorted(orders)
        assert board.columns[0].key == "bits_per_token"


def test_the_difference_is_that_of_compare(crowd: Path) -> None:
    a, b = entries_of(crowd)[:2]
    comparison = compare_records(read_record(crowd / a.path), read_record(crowd / b.path))
    for by, key in (("gaussian", "kl_gaussian"), ("coded", "kl_coded")):
        mine = difference(b, a, by)
        (theirs,) = (row.difference for row in comparison.differences if row.key == key)
        assert (mine.value, mine.low, mine.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high), rel=1e-4, abs=1e-7
        )


def test_only_documents_that_both_measured_count_in_a_difference(tmp_path: Path) -> None:
    values = coded(1.0)
    few = coded(1.5)
    few = few.loc[few["document"].isin([f"article-{number}" for number in range(8)])]
    put(tmp_path, values, task=TASK, submission=submission("all"))
    put(tmp_path, few, task=TASK, submission=submission("some"))
    a, b = entries_of(tmp_path)
    assert (len(a.sums.documents), len(b.sums.documents)) == (12, 8)
    shared = np.isin(a.sums.documents, b.sums.documents)
    wanted = (b.sums.kl["raw"].sum() - a.sums.kl["raw"][shared].sum()) / b.sums.tokens.sum()
    assert difference(b, a, "raw").value == pytest.approx(wanted)
    assert difference(b, a, "coded-35").value is not None


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
