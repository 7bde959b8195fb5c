"""Verdicts on sealed texts stay with the submission that they are of."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_board import coded, put, submission
from synthetic_records import fake_hash

from remainder.board.audits import AuditVerdict, audit_path, keep_verdict, read_audits, uses_of
from remainder.board.merge import BoardRow, read_entries
from remainder.errors import RecordError
from remainder.record.number import Number
from remainder.record.schema import TaskInfo
from remainder.record.store import read_summary

TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
_ONE = Number(value=1.0, low=0.9, high=1.1)


def verdict(*faults: str, text: str = "text") -> AuditVerdict:
    return AuditVerdict(
        text=fake_hash(text), use=1, documents=12, quantity="efficiency", public=_ONE, audited=_ONE,
        unexplained_public=_ONE, unexplained_audited=_ONE, faults=faults, verifier="0",
    )  # fmt: skip


def entry_of(root: Path, path: Path) -> BoardRow:
    (entry,), faults = read_entries(root, [path])
    assert not faults
    return entry


def test_a_failure_stays_with_the_content_whatever_is_measured_again_or_renamed(tmp_path: Path) -> None:
    root, own = tmp_path / "results", submission("own")
    first = put(root, coded(0.4), task=TASK, submission=own)
    keep_verdict(root, verdict("KL doubles."), read_summary(first))
    again = put(root, coded(0.4, seed=1), task=TASK, submission=own)
    renamed = put(root, coded(0.4), task=TASK, submission=own.model_copy(update={"name": "another"}))
    assert len({first.stem, again.stem, renamed.stem}) == 3
    for path in (first, again, renamed):
        entry = entry_of(root, path)
        assert (entry.audit, "audit on a sealed text" in entry.failed) == ("audit failed", True)


def test_other_weights_and_other_tasks_are_unaudited(tmp_path: Path) -> None:
    root, own = tmp_path / "results", submission("own")
    keep_verdict(root, verdict("KL doubles."), read_summary(put(root, coded(0.4), task=TASK, submission=own)))
    others = (
        (TASK, own.model_copy(update={"hash": fake_hash("new weights")})),
        (TaskInfo(id="family/other", version="1-A", hash=fake_hash("other")), own),
    )
    for task, info in others:
        entry = entry_of(root, put(root, coded(0.4), task=task, submission=info))
        assert (entry.audit, entry.failed) == ("unaudited", [])


def test_no_later_verdict_makes_up_for_a_failure(tmp_path: Path) -> None:
    root = tmp_path / "results"
    path = put(root, coded(0.4), task=TASK, submission=submission("own"))
    record = read_summary(path)
    words = []
    for number, faults in enumerate(((), ("KL doubles.",), ())):
        keep_verdict(root, verdict(*faults, text=f"text {number}"), record)
        words.append(entry_of(root, path).audit)
    assert words == ["audited", "audit failed", "audit failed"]
    assert len(read_audits(audit_path(root, record)).verdicts) == 3
    assert uses_of(root, fake_hash("text 1")) == 1


def test_verdicts_state_what_they_are_of(tmp_path: Path) -> None:
    root = tmp_path / "results"
    one, other = (
        read_summary(put(root, coded(0.4), task=TASK, submission=submission(name)))
        for name in ("one", "other")
    )
    kept = keep_verdict(root, verdict(), one)
    found = read_audits(kept)
    assert (found.task_hash, found.submission_hash) == (one.task.hash, one.submission.hash)
    moved = audit_path(root, other)
    kept.rename(moved)
    with pytest.raises(RecordError, match="is of another task or submission"):
        read_audits(moved)
