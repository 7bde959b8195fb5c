"""Which records the board shows, and that nothing is left out silently."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from synthetic_board import put, scaled, small_board, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.base.paths import project_root
from remainder.board.merge import BoardRow, document_sums, folders_of_tasks, groups, read_entries, strays
from remainder.board.pages import record_html
from remainder.board.verifications import Verification
from remainder.errors import RecordError
from remainder.record.json import canonical_json, content_hash, sha256
from remainder.record.schema import Check, TaskInfo
from remainder.record.store import _result_id, values_path
from remainder.record.values import column, document_totals, values_to_csv


def all_entries(results: Path) -> tuple[list[BoardRow], list[tuple[str, str]]]:
    paths = [path for some in folders_of_tasks(results).values() for path in some]
    entries, faults = read_entries(results, paths)
    return entries, [tuple(fault) for fault in [*faults, *strays(results)]]  # type: ignore[misc]


def test_sums_are_those_of_the_reader_of_values() -> None:
    values = synthetic_values(documents=7, pairs=2, seed=3)
    found = document_sums(values_to_csv(values).decode(), "here")
    totals = document_totals(values)
    assert list(found.documents) == list(totals["clean"].index)
    np.testing.assert_allclose(found.tokens, column(totals["clean"], "tokens"), rtol=0)
    np.testing.assert_allclose(found.kl["raw"], column(totals["raw"], "kl"), rtol=1e-7)
    np.testing.assert_allclose(found.kl["gaussian"], column(totals["full"], "kl"), rtol=1e-7)


def test_the_newest_content_of_a_submission_is_current_in_its_fullest_record(tmp_path: Path) -> None:
    values = synthetic_values(documents=6, windows=1)
    base = synthetic_record(values)

    def record(day: int, rungs: int, content: str) -> Path:
        chosen = ("raw", "mean", "full", "permuted")[:rungs]
        return put(
            tmp_path,
            values,
            task=TaskInfo(id="family/task", version="1-A", hash=fake_hash("task")),
            submission=submission("method").model_copy(update={"hash": fake_hash(content)}),
            measurement=base.measurement.model_copy(update={"rungs": chosen}),
            provenance=base.provenance.model_copy(update={"timestamp": f"2026-01-{day:02}T00:00:00+00:00"}),
        )

    record(1, 4, "first weights")
    record(2, 3, "second weights")
    wanted = record(3, 3, "second weights")
    record(4, 2, "second weights")
    entries, faults = all_entries(tmp_path)
    assert not faults
    assert [entry.path for entry in entries if entry.current] == [wanted.relative_to(tmp_path).as_posix()]


def test_groups_keep_apart_what_is_not_comparable(tmp_path: Path) -> None:
    small_board(tmp_path)
    values = synthetic_values()
    put(tmp_path, values, task=TaskInfo(id="family/task", version="2-A", hash=fake_hash("new")))
    put(
        tmp_path,
        values,
        task=TaskInfo(id="family/task", version="1-A", hash=fake_hash("task")),
        tier="standard",
    )
    entries, faults = all_entries(tmp_path)
    assert not faults
    assert [tuple(group) for group in groups(entries)] == [
        ("family/task", "1", "quick", "float32"),
        ("family/task", "1", "standard", "float32"),
        ("family/task", "2", "quick", "float32"),
        ("other/task", "2", "quick", "float32"),
    ]


def test_references_and_nested_records_are_told_from_the_others(tmp_path: Path) -> None:
    made = small_board(tmp_path)
    entries, _ = all_entries(tmp_path)
    by_path = {tmp_path / entry.path: entry for entry in entries}
    assert {name for name, path in made.items() if by_path[path].is_reference} == {"identity", "mean"}
    assert {name for name, path in made.items() if by_path[path].is_nested} == {"nested"}
    assert {name for name, path in made.items() if not by_path[path].current} == {"old"}


def test_circuits_found_on_prompts_are_no_references() -> None:
    root = project_root() / "leaderboard" / "archive" / "1" / "results"
    entries, _ = read_entries(root, sorted((root / "smollm2-135m" / "ioi").rglob("*.json")))
    kinds = {entry.record.submission.name: entry.is_reference for entry in entries}
    assert kinds == {
        **dict.fromkeys(("empty-graph", "full-graph", "random-edges"), True),
        **dict.fromkeys(("eap", "eap-ig", "node-attribution", "feature-circuit"), False),
    }


def resealed(path: Path, **changes: object) -> Path:
    """The record at `path` with some fields changed and all hashes recomputed, under its new name."""
    content = json.loads(path.read_bytes()) | changes
    del content["record_id"]
    content["result_id"] = _result_id(content)
    content["record_id"] = content_hash(content)
    new = path.with_name(f"{content['record_id']}.json")
    new.write_text(canonical_json(content, indent=1), encoding="utf-8")
    values_path(path).rename(values_path(new))
    path.unlink()
    return new


def damage(kind: str, path: Path) -> None:
    """Do one thing to the record at `path` that must be noticed."""
    values = values_path(path)
    content = json.loads(path.read_bytes())
    if kind == "no JSON":
        path.write_text("{", encoding="utf-8")
    elif kind == "no object":
        path.write_text("[]", encoding="utf-8")
    elif kind == "nested JSON":
        path.write_text("[" * 200_000 + "]" * 200_000, encoding="utf-8")
    elif kind == "edited":
        path.write_text(path.read_text(encoding="utf-8").replace('"quick"', '"quack"'), encoding="utf-8")
    elif kind == "no values":
        values.unlink()
    elif kind == "values cut":
        values.write_bytes(values.read_bytes()[:-20])
    elif kind == "other values":
        values.write_bytes(gzip.compress(b"a,b\n"))
    elif kind == "values edited":
        better = scaled(synthetic_values(documents=12, seed=1), 0.39)
        values.write_bytes(gzip.compress(values_to_csv(better)))
    elif kind == "other folder":
        path.parent.rename(path.parent.with_name("somebody-else"))
    elif kind == "other name":
        values.rename(values.with_name("x.csv.gz"))
        path.rename(path.with_name("x.json"))
    elif kind == "no table":
        data = b"a,b\n1,2\n"
        values.write_bytes(gzip.compress(data))
        resealed(path, documents=content["documents"] | {"sha256": sha256(data)})
    elif kind == "version":
        resealed(path, task=content["task"] | {"version": "../../1"})
    elif kind == "task":
        resealed(path, task=content["task"] | {"id": "../family/task"})
    else:
        path.with_name("notes.txt").write_text("hello", encoding="utf-8")


KINDS = (
    "no JSON",
    "no object",
    "nested JSON",
    "edited",
    "no values",
    "values cut",
    "other values",
    "values edited",
    "other folder",
    "other name",
    "no table",
    "version",
    "task",
    "stray file",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_trusted_is_named_and_the_rest_is_shown(kind: str, tmp_path: Path) -> None:
    made = small_board(tmp_path)
    damage(kind, made["good"])
    entries, faults = all_entries(tmp_path)
    assert len(entries) == len(made) - (kind != "stray file") - (kind == "other folder")
    assert faults
    for path, what in faults:
        assert "good" in path or "somebody-else" in path
        assert what
        assert str(tmp_path) not in what


def test_a_failed_check_is_named(tmp_path: Path) -> None:
    checks = {"conformance": Check(passed=False), "suffix": Check(passed=True)}
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    put(tmp_path, synthetic_values(), task=task, checks=checks)
    ((entry,), _) = all_entries(tmp_path)
    assert entry.failed == ["conformance"]


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_the_verdict_of_the_checker_stands_beside_a_record(
    outcome: Literal["passed", "failed"], tmp_path: Path
) -> None:
    made = small_board(tmp_path / "results")
    verdict = Verification(
        schema_version=1,
        record_id=made["good"].stem,
        result_id=fake_hash("result"),
        task="family/task",
        submission="good",
        verifier="0.1.0",
        checked=("files", "hashes"),
        outcome=outcome,
        faults=() if outcome == "passed" else ("metrics: another number",),
        notes=(),
    )
    kept = tmp_path / "verifications" / made["good"].name
    kept.parent.mkdir()
    kept.write_text(verdict.model_dump_json(), encoding="utf-8")
    entries, faults = all_entries(tmp_path / "results")
    assert not faults
    (entry,) = (one for one in entries if one.record.record_id == made["good"].stem)
    assert entry.failed == ([] if outcome == "passed" else ["verification"])
    page = record_html(entry, [], [entry])
    assert f'<span class="tag {"good" if outcome == "passed" else "bad"}">' in page
    assert ("metrics: another number" in page) == (outcome == "failed")

    kept.write_text("{}", encoding="utf-8")
    again, faults = all_entries(tmp_path / "results")
    assert len(again) == len(made)
    ((place, what),) = faults
    assert place == made["good"].name
    assert "is no verification" in what


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such folder"):
        folders_of_tasks(tmp_path / "nowhere")
