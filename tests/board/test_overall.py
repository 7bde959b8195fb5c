"""Methods over tasks: plain means, and intervals that are no shorter than they should be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_board import coded, let_give_places, put, submission
from synthetic_records import fake_hash, synthetic_record

from remainder.board.build import build
from remainder.board.merge import read_entries
from remainder.board.overall import LEAST, Scored, mean_of, overall, scored_of
from remainder.board.pages import plain_page
from remainder.board.readme import readme
from remainder.board.view import boards
from remainder.record.number import Number
from remainder.record.schema import TaskInfo

TEXT = frozenset({"a", "b"})


def scored(
    task: str, value: float, *, method: str = "sae", half: float = 0.1, text: frozenset[str] = TEXT
) -> Scored:
    number = Number(value=value, low=value - half, high=value + 2 * half)
    return Scored(method, task, "x.html", fake_hash(task + method), 100, text, number)


def test_the_mean_weighs_each_task_once_and_needs_enough_of_them() -> None:
    rows = [scored(f"t/{number}", value) for number, value in enumerate((1.0, 2.0, 6.0))]
    again = scored("t/2", 3.0)._replace(tokens=200)  # a larger tier of the same task counts in its stead
    few = [scored(f"t/{number}", 9.0, method="few") for number in range(LEAST - 1)]
    found = overall([*rows, again, *few])
    (method,) = found.methods
    assert method.mean.value == pytest.approx(2.0)
    assert found.started == 1
    assert found.tasks == ("t/0", "t/1", "t/2")
    assert overall([]).methods == ()


def test_tasks_of_one_text_go_wrong_together_and_of_others_apart() -> None:
    same = [scored(f"t/{number}", 1.0) for number in range(4)]
    apart = [scored(f"t/{number}", 1.0, text=frozenset({str(number)})) for number in range(4)]
    assert mean_of(same) == Number(value=1, low=0.9, high=1.2)
    assert mean_of(apart) == Number(value=1, low=1 - 0.1 / 2, high=1 + 0.2 / 2)
    # By a third that shares documents with both, two texts are one.
    joined = [scored(str(n), 1.0, text=frozenset(part)) for n, part in enumerate(("ab", "cd", "bc"))]
    assert mean_of(joined) == Number(value=1, low=0.9, high=1.2)
    bare = same[0]._replace(efficiency=Number.bare(1.0, "few documents"))
    assert "few documents" in str(mean_of([*same[1:], bare]).reason)


def test_the_interval_covers_the_mean_whatever_tasks_share() -> None:
    """Normal errors, of which tasks share all, half, or nothing."""
    generator, half = np.random.default_rng(0), 1.96 * 0.1
    for shared, text in ((1.0, TEXT), (0.5, TEXT), (0.0, None)):
        hits = 0
        for _ in range(400):
            common = generator.normal()
            errors = math.sqrt(shared) * common + math.sqrt(1 - shared) * generator.normal(size=4)
            rows = []
            for number, error in enumerate(0.1 * errors):
                documents = frozenset({str(number)}) if text is None else text
                efficiency = Number(value=1 + error, low=1 + error - half, high=1 + error + half)
                rows.append(scored(f"t/{number}", 1.0, text=documents)._replace(efficiency=efficiency))
            found = mean_of(rows)
            assert found.low is not None
            assert found.high is not None
            hits += found.low <= 1 <= found.high
        assert hits >= 0.92 * 400


def test_the_page_and_the_readme_show_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [f"family/site-{number}" for number in range(3)]
    let_give_places(monkeypatch, *tasks)
    for number, name in enumerate(tasks):
        task = TaskInfo(id=name, version="1-A", hash=fake_hash(name))
        put(tmp_path / "results", coded(1.0 + number), task=task, submission=submission("everywhere"))
    built = build(tmp_path / "results", tmp_path / "site", processes=1)
    page = (tmp_path / "site/overall.html").read_text(encoding="utf-8")
    assert page.count("<bdi>everywhere</bdi>") == 2  # over tasks, and by task
    assert all(f">{name}</th>" in page for name in tasks)
    assert "| everywhere" in built.readme


def test_a_method_of_several_names_is_one_by_its_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [f"family/site-{number}" for number in range(3)]
    let_give_places(monkeypatch, *tasks)
    for number, name in enumerate(tasks):
        task = TaskInfo(id=name, version="1-A", hash=fake_hash(name))
        trained = submission(f"sae-{number}").model_copy(update={"family": "trained"})
        put(tmp_path / "results", coded(1.0 + number), task=task, submission=trained)
        put(tmp_path / "results", coded(2.0), task=task, submission=submission(f"alone-{number}"))
    build(tmp_path / "results", tmp_path / "site", processes=1)
    page = (tmp_path / "site/overall.html").read_text(encoding="utf-8")
    assert page.count("<bdi>trained</bdi>") == 2
    assert "<bdi>sae-0</bdi>" not in page
    ranked, _, others = page.partition("On fewer than 3 sites")
    assert "alone" not in ranked
    assert [others.count(f"<bdi>alone-{number}</bdi>") for number in range(3)] == [1, 1, 1]


def test_of_a_family_on_one_task_the_least_efficient_counts() -> None:
    rows = [scored(f"t/{number}", value) for number, value in enumerate((1.0, 2.0, 6.0))]
    better, worse = (scored("t/2", value)._replace(record_id=fake_hash(str(value))) for value in (7.0, 3.0))
    for order in ([*rows, better, worse], [worse, better, *rows]):
        (method,) = overall(order).methods
        assert method.mean.value == pytest.approx(2.0)


def test_rows_of_another_dtype_or_of_other_documents_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    let_give_places(monkeypatch, task.id)
    plain = synthetic_record(coded(1.0)).measurement
    rough = plain.model_copy(update={"dtype": "bfloat16", "bf16_deviation": {"tokens": 1.0}})
    rows = {
        "one": (coded(1.0), plain),
        "two": (coded(1.1), plain),
        "rough": (coded(0.5), rough),
        "picked": (coded(0.5, documents=11), plain),
    }
    root = tmp_path / "results"
    paths = [
        put(root, values, task=task, submission=submission(name), measurement=measurement, bits=150.0)
        for name, (values, measurement) in rows.items()
    ]
    entries, faults = read_entries(root, paths)
    assert not faults
    found = {board.group.dtype: scored_of(board, "x.html") for board in boards(entries)}
    assert {dtype: [row.method for row in rows] for dtype, rows in found.items()} == {
        "float32": ["one", "two"],
        "bfloat16": [],
    }


def test_methods_with_code_are_marked_here_too() -> None:
    rows = [scored(f"t/{number}", 1.0, method=name) for number in range(LEAST) for name in ("sae", "mine")]
    rows = [row._replace(runs_code=row.method == "mine" and row.task == "t/0") for row in rows]
    found = overall(rows)
    assert [(one.name, one.runs_code) for one in found.methods] == [("mine", True), ("sae", False)]
    page = plain_page("overall.html", root="", here="overall", overall=found, least=LEAST)
    assert page.count(">code</span>") == 1
    text = readme([], found, [])
    assert "| mine (code) " in text
    assert "sae (code)" not in text


def test_nothing_yet_is_said(tmp_path: Path) -> None:
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    put(tmp_path / "results", coded(1.0), task=task, submission=submission("alone"))
    built = build(tmp_path / "results", tmp_path / "site")
    assert "Nothing yet" in (tmp_path / "site/overall.html").read_text(encoding="utf-8")
    assert "There is no record of a circuit yet." in (tmp_path / "site/circuits.html").read_text(
        encoding="utf-8"
    )
    assert "sites of public models: nothing yet." in built.readme
