"""Records that were withdrawn stay where they lie, and count no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from synthetic_board import put, scaled, small_board, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.build import build
from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.snapshot import freeze, read_snapshot, results_folder
from remainder.board.verify import record_files, verify_paths
from remainder.errors import RecordError
from remainder.publish.place import describe_place
from remainder.record.chain import hash_after
from remainder.record.find import fullest_record
from remainder.record.schema import TaskInfo
from remainder.record.store import read_summary
from remainder.record.withdrawn import WITHDRAWN, Withdrawal, read_withdrawn, withdraw

WHY = "The weights were those of another layer."


def entries(results: Path) -> dict[str, BoardRow]:
    paths = [path for some in folders_of_tasks(results).values() for path in some]
    return {entry.record.record_id: entry for entry in read_entries(results, paths)[0]}


def test_the_one_before_is_current_again_and_the_record_stays(tmp_path: Path) -> None:
    results, site = tmp_path / "leaderboard" / "results", tmp_path / "site"
    made = small_board(results)
    good, old = made["good"], made["old"]
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    line = withdraw(results, read_summary(good), by="Ada & Co", reason=WHY, replaced_by=read_summary(old))
    assert {path: path.read_bytes() for path in before} == before
    found = entries(results)
    assert (found[good.stem].current, found[good.stem].withdrawn) == (False, line)
    assert found[old.stem].current
    assert describe_place(read_summary(good), results) == [f"It {line.sentence}"]
    assert build(results, site).faults == ()
    page = (site / "records" / f"{good.stem}.html").read_text()
    assert f"withdrawn on {line.date} by Ada &amp; Co: {WHY}" in page
    assert f'href="{old.stem}.html"' in page
    assert "replaced by a later record" not in page
    assert "withdrawn" not in (site / "records" / f"{old.stem}.html").read_text().replace(
        '<span class="quiet">withdrawn', ""
    )
    readme = build(results, None).readme
    withdraw(results, read_summary(old), by="Ada", reason=WHY)
    assert "good" in readme
    assert "good" not in build(results, None).readme


def test_without_the_file_nothing_is_withdrawn(tmp_path: Path) -> None:
    small_board(tmp_path)
    assert read_withdrawn(tmp_path) == {}
    assert all(entry.withdrawn is None for entry in entries(tmp_path).values())
    assert WITHDRAWN not in {path.name for path in results_folder().iterdir()}


def test_a_snapshot_keeps_it_and_the_next_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.board.snapshot.verify_paths", lambda *given, **settings: [])
    results, snapshots = tmp_path / "results", tmp_path / "snapshots"
    made = small_board(results)
    freeze("2026.11", results=results, folder=snapshots)
    withdraw(results, read_summary(made["good"]), by="Ada", reason=WHY)
    freeze("2026.12", results=results, folder=snapshots)
    kept, next_one = (
        {entry.record_id for entry in read_snapshot(name, folder=snapshots).records}
        for name in ("2026.11", "2026.12")
    )
    assert kept - next_one == {made["good"].stem}


def test_one_that_is_withdrawn_disputes_no_other(tmp_path: Path) -> None:
    values, task = (
        synthetic_values(documents=12, seed=1),
        TaskInfo(id="a/b", version="1-A", hash=fake_hash("t")),
    )
    later = synthetic_record(values).provenance.model_copy(update={"timestamp": "2027-02-01T00:00:00+00:00"})
    right = put(tmp_path, values, task=task, submission=submission("method"))
    wrong = put(tmp_path, scaled(values, 0.5), task=task, submission=submission("method"), provenance=later)
    assert len(entries(tmp_path)) == 2
    assert all(entry.disputed for entry in entries(tmp_path).values())
    withdraw(tmp_path, read_summary(wrong), by="Ada", reason=WHY)
    found = entries(tmp_path)
    assert not any(entry.disputed for entry in found.values())
    assert found[right.stem].current


def test_of_several_records_one_that_is_withdrawn_is_taken_last(tmp_path: Path) -> None:
    values = synthetic_values(documents=12, seed=1)
    base = synthetic_record(values)
    fewer = base.measurement.model_copy(update={"rungs": base.measurement.rungs[:3]})
    task = TaskInfo(id="a/b", version="1-A", hash=fake_hash("t"))
    full = put(tmp_path, values, task=task, submission=submission("method"))
    short = put(tmp_path, values, task=task, submission=submission("method"), measurement=fewer)
    assert fullest_record(tmp_path) == full
    withdraw(tmp_path, read_summary(full), by="Ada", reason=WHY)
    assert fullest_record(tmp_path) == short
    withdraw(tmp_path, read_summary(short), by="Ada", reason=WHY)
    assert fullest_record(tmp_path) == full


def copied(folder: Path) -> tuple[Path, Path]:
    """A leaderboard with a few real records, and one of them."""
    results = folder / "leaderboard" / "results"
    source = results_folder() / "tiny" / "digits"
    shutil.copytree(source, results / "tiny" / "digits")
    return results, min((results / "tiny" / "digits").rglob("digits-pca-4/*.json"))


def test_verify_says_so_and_finds_a_list_that_was_touched(tmp_path: Path) -> None:
    results, record = copied(tmp_path)
    line = withdraw(results, read_summary(record), by="Ada", reason=WHY)
    (verdict,) = verify_paths([record])
    assert verdict.passed
    assert line.sentence in verdict.notes
    path = results / WITHDRAWN
    assert record_files(results)[1] == []
    sound = path.read_text()
    for damaged, told in (
        (sound.replace("another", "no other"), None),  # a chain of one: the next line tells
        (sound.replace(record.stem, "0" * 64), "which is not there"),
        (sound.rstrip(), "its last line is cut short"),
        (sound.replace('"by"', '"who"'), "is no line of it"),
        (sound.replace(line.date, "2026-13-01"), "is no line of it"),
        ("", "is empty"),
    ):
        path.write_text(damaged)
        strays = record_files(results)[1]
        assert [told in remark.text for _, remark in strays] == ([True] if told else []), damaged
    with pytest.raises(RecordError, match="is empty"):
        entries(results)


def test_lines_follow_from_each_other(tmp_path: Path) -> None:
    made = small_board(tmp_path)
    for name in ("good", "even"):
        withdraw(tmp_path, read_summary(made[name]), by="Ada", reason=WHY)
    first, second = read_withdrawn(tmp_path).values()
    assert second.after == hash_after([first])
    text = (tmp_path / WITHDRAWN).read_text()
    assert [json.loads(line)["record"] for line in text.splitlines()] == [
        made["good"].stem,
        made["even"].stem,
    ]
    (tmp_path / WITHDRAWN).write_text(text.replace("another", "no other", 1))
    with pytest.raises(RecordError, match="does not follow from the line before"):
        read_withdrawn(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reason": "wrong"}, "--reason: 5 letters; expected 10 to 500"),
        ({"reason": "x" * 501}, "--reason: "),
        ({"by": " "}, "--by: 0 letters"),
        ({"reason": "It was in /home/ada/weights, which are others."}, "holds a path of a machine"),
        ({"by": "A\u202eda"}, "not printed"),
        ({"replaced_by": "good"}, "is the one that is withdrawn"),
        ({"replaced_by": "other"}, "is of another task, other/task"),
        ({"replaced_by": "even"}, "is withdrawn itself"),
    ],
)
def test_what_cannot_stand_in_the_list_is_refused(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    made = {name: read_summary(path) for name, path in small_board(tmp_path).items()}
    withdraw(tmp_path, made["even"], by="Ada", reason=WHY)
    before = (tmp_path / WITHDRAWN).read_bytes()
    given = {"by": "Ada", "reason": WHY, **changes}
    other = made[given.pop("replaced_by")] if "replaced_by" in given else None
    with pytest.raises(RecordError, match=told):
        withdraw(tmp_path, made["good"], replaced_by=other, **given)
    assert (tmp_path / WITHDRAWN).read_bytes() == before


def test_the_command_adds_a_line_and_says_what_to_commit(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, record = copied(tmp_path)
    other = min((results / "tiny" / "digits").rglob("digits-pca-8/*.json"))
    monkeypatch.chdir(tmp_path)
    arguments = ("withdraw", record, "--reason", WHY, "--by", "Ada", "--replaced-by", other)
    done = remainder(*arguments)
    assert done.code == 0, done.err
    (line,) = read_withdrawn(results).values()
    assert isinstance(line, Withdrawal)
    assert (line.record, line.by, line.reason, line.replaced_by) == (record.stem, "Ada", WHY, other.stem)
    assert "git add leaderboard/results/withdrawn.jsonl" in done.out
    assert all(len(text) <= 80 for text in done.out.splitlines())
    again = remainder(*arguments)
    assert again.code == RecordError.exit_code
    assert f"was withdrawn on {line.date} by Ada" in " ".join(again.err.split())
    shutil.copytree(record.parent, tmp_path / "mine")
    apart = remainder("withdraw", tmp_path / "mine" / record.name, "--reason", WHY, "--by", "Ada")
    assert "lies on no leaderboard" in apart.err
    monkeypatch.setenv("PATH", "")
    unknown = remainder("withdraw", other, "--reason", WHY)
    assert "say by whom: --by NAME" in unknown.err


def test_cite_says_that_a_record_was_withdrawn(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, record = copied(tmp_path)
    withdraw(results, read_summary(record), by="Ada", reason=WHY)
    monkeypatch.setattr("remainder.board.shelf.project_root", lambda: tmp_path)
    done = remainder("cite", record)
    assert f"by Ada: {WHY}" in " ".join(done.err.split())
    assert record.stem in done.out
    assert (project_root() / "leaderboard").is_dir()
