"""Every committed record has a verdict beside it that it passed, and the board says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from generated import made_on_main

from remainder.board.merge import read_entries
from remainder.board.pages import TaskText, history_row, record_html, task_html
from remainder.board.shelf import archives
from remainder.board.snapshot import read_snapshot, results_folder, snapshots_folder
from remainder.board.verifications import read_verification, verification_path, write_verification
from remainder.board.verify import verify_paths
from remainder.board.view import boards
from remainder.record.store import read_summary

FOLDER = verification_path(results_folder(), "x").parent
RECORDS = sorted(results_folder().rglob("*.json"))
(ARCHIVE,) = archives(results_folder())
ARCHIVED = sorted(ARCHIVE.rglob("*.json"))


@made_on_main
def test_every_record_has_one() -> None:
    lacking = sorted({path.stem for path in RECORDS} - {path.stem for path in FOLDER.glob("*.json")})
    assert not lacking, "run: remainder verify leaderboard/results --write"


def test_every_record_of_a_snapshot_has_one() -> None:
    folders = (FOLDER, verification_path(ARCHIVE, "x").parent)
    for file in snapshots_folder().glob("*.json"):
        for entry in read_snapshot(file.stem).records:
            assert any((folder / f"{entry.record_id}.json").is_file() for folder in folders), entry.path


@pytest.mark.parametrize(
    ("folder", "records", "least"),
    [(FOLDER, RECORDS, 162), (verification_path(ARCHIVE, "x").parent, ARCHIVED, 254)],
    ids=["results", "archive"],
)
def test_each_is_of_a_record_that_is_there_and_has_passed(
    folder: Path, records: list[Path], least: int
) -> None:
    paths = {path.stem: path for path in records}
    kept = sorted(folder.glob("*.json"))
    assert len(kept) >= least
    for file in kept:
        found = read_verification(file)
        record = read_summary(paths[file.stem])
        assert (found.record_id, found.result_id) == (record.record_id, record.result_id)
        assert (found.task, found.submission) == (record.task.id, record.submission.name)
        assert (found.outcome, found.faults) == ("passed", ()), file.name
        assert file.stat().st_size < 2_000


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.json")) < 1_500 * len(RECORDS)


def test_the_board_shows_it() -> None:
    folder = results_folder() / "tiny" / "digits"
    entries, faults = read_entries(results_folder(), sorted(folder.rglob("*.json")))
    assert not faults
    entries = [entry for entry in entries if entry.verification is not None]
    assert len(entries) > 5
    assert all(", recomputed" in history_row(entry).state for entry in entries)
    page = record_html(entries[0], [], entries[:1])
    assert '">recomputed</span>' in page
    assert "not yet verified" not in page
    text = task_html(TaskText("tiny/digits", "1", "", [("1", "x.html")]), boards(entries))
    assert text.count(">recomputed</span>") == sum(entry.current for entry in entries)


@pytest.mark.slow
def test_writing_them_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this version of the package; what was measured again is kept."""
    written: dict[str, bytes] = {}
    monkeypatch.setattr(
        "remainder.board.verifications.write_atomically",
        lambda path, data: written.__setitem__(path.name, data),
    )
    for verdict in verify_paths([results_folder()], jobs=1):
        write_verification(verdict)
    kept = {file.name: file.read_bytes() for file in FOLDER.glob("*.json")}
    assert {name: data for name, data in written.items() if name in kept} == kept
