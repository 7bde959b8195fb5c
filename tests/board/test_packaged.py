"""What an installed package, which carries no records, knows of the board: one row a record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.cite import cite
from remainder.board.packaged import LARGEST_FILE, packaged, rows_file
from remainder.board.rows import context, newest_snapshot, rows_of
from remainder.board.shelf import results_folder
from remainder.board.snapshot import make_snapshot, read_snapshot
from remainder.errors import RecordError
from remainder.record.part import Part
from remainder.record.store import read_summary, values_path
from remainder.task.spec import load_task

TASK = "tiny/digits"
FILES = sorted((results_folder() / TASK / str(load_task(TASK).major)).glob("*/*.json"))
Package = Callable[[list[Path]], Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes an installed package of a snapshot of some records; gives the file of its rows."""

    def make(files: list[Path]) -> Path:
        frozen = make_snapshot("2026.11", results_folder(), files)
        content = rows_of(frozen, results_folder())
        (tmp_path / "leaderboard" / "snapshots").mkdir(parents=True)
        (tmp_path / "leaderboard" / "snapshots" / "2026.11.json").write_bytes(frozen.content)
        for module in ("base.paths", "board.packaged", "board.shelf", "board.snapshot"):
            monkeypatch.setattr(f"remainder.{module}.project_root", lambda: tmp_path)
        rows_file().write_bytes(content)
        monkeypatch.chdir(tmp_path)  # and no records of one's own
        return rows_file()

    return make


def test_the_committed_rows_are_those_of_the_newest_snapshot() -> None:
    newest = newest_snapshot()
    assert newest is not None
    content = (project_root() / "leaderboard" / "leaderboard.json").read_bytes()
    assert content == rows_of(newest, results_folder())
    assert len(json.loads(content)["rows"]) == len(newest.records)
    assert len(content) <= LARGEST_FILE == 1_000_000


def test_freezing_writes_the_rows_of_the_newest_snapshot_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    results = tmp_path / "leaderboard" / "results"
    for path in FILES[:2]:
        place = results / path.parent.relative_to(results_folder())
        place.mkdir(parents=True)
        for file in (path, values_path(path)):
            shutil.copy(file, place)
    (tmp_path / "leaderboard" / "snapshots").mkdir()
    (tmp_path / "pyproject.toml").touch()
    for module in ("base.paths", "board.packaged", "board.shelf", "board.snapshot"):
        monkeypatch.setattr(f"remainder.{module}.project_root", lambda: tmp_path)
    assert remainder("board", "freeze", "2026.11").code == 0
    written = rows_file().read_bytes()
    assert written == rows_of(read_snapshot("2026.11"), results)
    assert len(json.loads(written)["rows"]) == 2
    assert remainder("board", "freeze", "2026.10").code == 0
    assert rows_file().read_bytes() == written
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert remainder("board", "freeze", "2026.12", "--out", elsewhere).code == 0
    assert rows_file().read_bytes() == written


def test_where_the_records_are_nobody_reads_rows() -> None:
    assert packaged() is None
    assert context([read_summary(FILES[0])]) == []


def test_cite_says_of_a_row_what_it_says_of_the_record(package: Package) -> None:
    expected = {path.stem: cite(path.stem) for path in FILES[:3]}
    package(FILES)
    assert {start: cite(start[:16]) for start in expected} == expected
    assert "2026.11" in cite("2026.11")
    with pytest.raises(RecordError, match="there is no snapshot or record"):
        cite("0" * 16)


def test_show_gives_the_rows_of_a_task_a_submission_and_an_id(package: Package, remainder: Command) -> None:
    package(FILES)
    name, record = FILES[0].parent.name, read_summary(FILES[0])
    task = remainder("show", TASK)
    assert "On the board, snapshot 2026.11" in task.out
    assert all(path.parent.name in task.out for path in FILES)
    assert max(map(len, task.out.splitlines())) <= 80
    for what in (name, record.record_id[:12]):
        shown = remainder("show", what)
        assert shown.code == 0, shown.err
        assert name in shown.out
        (row,) = json.loads(remainder("show", what, "--format", "json").out)
        assert row["record_id"] == record.record_id
        assert row["task"] == TASK
    for format in ("csv", "markdown", "latex"):
        assert remainder("show", name, "--format", format).code == 0
    assert "nobody" in remainder("show", "nobody-has-this").err


def test_a_run_is_set_beside_the_rows_of_no_more_bits(package: Package) -> None:
    records = [read_summary(path) for path in FILES]
    coded = [one for one in records if one.metrics.rungs.get("coded") is not None]
    most = max(coded, key=lambda one: one.complexity.bits_per_token.value)
    package(FILES)
    (line,) = context([most])
    assert line.startswith(f"{most.submission.name}: KL coded ")
    assert "in snapshot 2026.11 the least is " in line
    fewest = min(coded, key=lambda one: one.complexity.bits_per_token.value)
    assert context([fewest]) == []  # itself alone has so few
    assert len(context([most] * 9)) == 3
    (look,) = context([most.model_copy(update={"tier": Part("quick", 8).name})])
    assert "in snapshot 2026.11, measured on all documents, the least is " in look


def test_a_damaged_file_is_told(package: Package) -> None:
    path = package(FILES)
    path.write_text(path.read_text().replace('"root"', '"boot"'))
    with pytest.raises(RecordError, match=r"leaderboard\.json: .*(boot|root)"):
        packaged()
    path.write_text("x" * (LARGEST_FILE + 1))
    with pytest.raises(RecordError):
        packaged()


def test_without_rows_there_is_nothing_to_say(package: Package, remainder: Command) -> None:
    package(FILES).unlink()
    assert packaged() is None
    assert "On the board" not in remainder("show", TASK).out
