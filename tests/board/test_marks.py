"""The marks of a record, and what the page says of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from synthetic_board import put, submission
from synthetic_records import fake_hash
from synthetic_values import synthetic_values
from threat_lists import never

from remainder.base.paths import project_root
from remainder.board.merge import BoardRow, read_entries
from remainder.board.pages import TaskText, record_html, task_html
from remainder.board.readme import section
from remainder.board.verifications import RemeasuredDocuments, Verification
from remainder.board.view import boards
from remainder.record.code import CODE
from remainder.record.schema import MethodInfo, TaskInfo
from remainder.report.results import Stored, frame_of
from remainder.report.tables import render


def again(*, passed: bool, documents: str = "abcd", afresh: bool = True) -> RemeasuredDocuments:
    return RemeasuredDocuments(
        documents=tuple(documents),
        chosen_by="commit word",
        largest_deviation=1e-7,
        tolerance=1e-5,
        relative=1e-3,
        device="cpu",
        machine="Linux x86_64, some processor",
        threads=2,
        batch_size=5,
        afresh=afresh,
        passed=passed,
    )


def entry_with(
    root: Path,
    name: str,
    found: RemeasuredDocuments | None,
    *,
    outcome: str = "passed",
    values: pd.DataFrame | None = None,
) -> BoardRow:
    task = TaskInfo(id="family/task", version="2-A", hash=fake_hash("task"))
    table = synthetic_values() if values is None else values
    path = put(root / "results", table, task=task, submission=submission(name))
    verdict = Verification(
        schema_version=2,
        record_id=path.stem,
        result_id=fake_hash("result"),
        task="family/task",
        submission=name,
        verifier="0.1.0",
        checked=("files",),
        outcome="passed" if outcome == "passed" else "failed",
        faults=(),
        notes=(),
        remeasured=found,
    )
    kept = root / "verifications" / path.name
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(verdict.model_dump_json(), encoding="utf-8")
    ((entry,), _) = read_entries(root / "results", [path])
    return entry


@pytest.mark.parametrize(
    ("outcome", "found", "marks"),
    [
        ("passed", None, (True, False)),
        ("passed", again(passed=True), (True, True)),
        ("failed", again(passed=False), (False, False)),
        ("passed", again(passed=True, afresh=False), (True, False)),
        ("passed", again(passed=True, documents="abc"), (True, False)),
        ("passed", again(passed=True, documents="abca"), (True, False)),
    ],
)
def test_two_marks(
    outcome: str, found: RemeasuredDocuments | None, marks: tuple[bool, bool], tmp_path: Path
) -> None:
    entry = entry_with(tmp_path, "method", found, outcome=outcome)
    assert (entry.recomputed, entry.remeasured) == marks


def test_all_documents_are_enough_where_there_are_few(tmp_path: Path) -> None:
    few = synthetic_values(documents=3)
    entry = entry_with(tmp_path, "method", again(passed=True, documents="abc"), values=few)
    assert entry.remeasured
    entry = entry_with(tmp_path, "method", again(passed=True, documents="ab"), values=few)
    assert not entry.remeasured


def test_the_page_says_what_they_mean_and_whose_they_are(tmp_path: Path) -> None:
    names = sorted(path.parent.name for path in (project_root() / "baselines").glob("*/submission.toml"))
    own, foreign = (
        entry_with(tmp_path / name, name, again(passed=True)) for name in (names[0], "zz-nobodys")
    )
    assert (own.is_own, foreign.is_own) == (True, False)
    for entry in (own, foreign):
        page = record_html(entry, [], [entry])
        for words in (
            "some processor",
            "2 threads, 5 windows at a time",
            "on another machine",
            "none of which",
        ):
            assert words in page
        assert ("project&#39;s own" in page or "project's own" in page) == entry.is_own


def test_the_page_names_every_part_that_nothing_catches() -> None:
    text = (project_root() / "harness/remainder/board/templates/marks.html").read_text(encoding="utf-8")
    words = {
        "calibration": "figures of conditional kernels and of descriptions on calibration documents",
        "checks": "values and notes of the checks",
        "compat": "the field's own metrics",
        "complexity": "reasons",
        "measurement": "batch size, the part of the model that ran, why a rung was not measured",
        "metrics": "tests of Gaussianity",
        "provenance": "packages, system, times, commit",
        "reference": "free names",
        "submission": "free names",
        "warnings": "warnings",
    }
    assert {pattern.partition(".")[0] for pattern in never()} == set(words)
    assert all(said in text for said in words.values())


def test_rows_whose_own_code_is_run_are_marked(tmp_path: Path) -> None:
    """On the page of the task, of the record, in the tables, and in data formats."""
    rows = []
    for name, format in (("quantiser", CODE), ("sae", "saelens")):
        stated = submission(name).model_copy(update={"method": MethodInfo(format=format)})
        task = TaskInfo(id="family/task", version="2-A", hash=fake_hash("task"))
        path = put(tmp_path / name, synthetic_values(), task=task, submission=stated)
        ((row,), _) = read_entries(tmp_path / name, [path])
        rows.append(row)
    for row, marked in zip(rows, (True, False), strict=True):
        boards_ = boards([row])
        text = TaskText("family/task", "2", "", [("2", "x.html")])
        assert (">code</span>" in task_html(text, boards_)) == marked
        assert (">code</span>" in record_html(row, [], [row])) == marked
        assert ("(code)" in section("", boards_[0])) == marked
        assert ("its own code encodes and decodes" in render([row.record])) == marked
        assert not row.is_reference
    frame = frame_of([Stored(Path(row.path), row.record) for row in rows])
    assert dict(zip(frame["submission"], frame["format"], strict=True)) == {
        "quantiser": CODE,
        "sae": "saelens",
    }
