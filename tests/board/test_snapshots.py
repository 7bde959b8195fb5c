"""Snapshots on the site: every one is listed, cited and linked; what is wrong with one is told."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from synthetic_board import small_board
from synthetic_records import fake_hash

from remainder.board.build import build
from remainder.board.cite import of_snapshot, styles
from remainder.board.snapshot import (
    Snapshot,
    SnapshotEntry,
    leaves_of,
    make_snapshot,
    merkle_root,
    read_snapshot,
)
from remainder.board.verify import record_files
from remainder.record.schema import TaskInfo


def shelf(folder: Path, *names: str) -> dict[str, Path]:
    """A small board with snapshots of all its records."""
    made = small_board(folder / "results")
    (folder / "snapshots").mkdir()
    for name in names:
        snapshot = make_snapshot(name, folder / "results", record_files(folder / "results")[0])
        (folder / f"snapshots/{name}.json").write_bytes(snapshot.content)
    return made


def resealed(snapshot: Snapshot, *records: SnapshotEntry) -> bytes:
    """The snapshot with other records, and the root that these give."""
    root = merkle_root(leaves_of(records))
    return snapshot.model_copy(update={"records": records, "root": root}).content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("board")
    patch = pytest.MonkeyPatch()
    patch.setattr("remainder.board.frozen.added_on", lambda file: "2026-11-29")
    shelf(where, "2026.01", "2026.12", "2026.12.2", "2026.12.10")
    assert not build(where / "results", where / "site").faults
    patch.undo()
    return where


def text_of(page: Path) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))).split())


def test_all_are_listed_the_newest_first(folder: Path) -> None:
    page = (folder / "site/snapshots.html").read_text(encoding="utf-8")
    names = re.findall(r'href="snapshots/([\d.]+)\.html"', page)
    assert names == ["2026.12.10", "2026.12.2", "2026.12", "2026.01"]
    snapshot = read_snapshot("2026.12", folder=folder / "snapshots")
    assert page.count(snapshot.root) == 4  # the same records, whatever the name
    row = text_of(folder / "site/snapshots.html").partition("2026.12 2026-11-29")[2]
    assert row.split()[:4] == ["2026-01-01", "00:00", "8", "2"]
    for other in ("index.html", "history.html", "about.html", "tasks/family.task.v1.html"):
        assert 'snapshots.html">Snapshots' in (folder / "site" / other).read_text(encoding="utf-8")


def test_the_page_of_one_names_every_record_and_how_to_cite_it(folder: Path) -> None:
    snapshot = read_snapshot("2026.12", folder=folder / "snapshots")
    page = (folder / "site/snapshots/2026.12.html").read_text(encoding="utf-8")
    assert set(re.findall(r"records/([0-9a-f]{64})\.html", page)) == {e.record_id for e in snapshot.records}
    shown = [html.unescape(one) for one in re.findall(r'id="cite-\d"><code>(.*?)</code>', page, re.DOTALL)]
    assert shown == list(styles(of_snapshot(snapshot, "2026-11-29")).values())
    assert all(snapshot.root in one for one in shown)
    kept = folder / "site/snapshots/2026.12.json"
    assert kept.read_bytes() == snapshot.content


def test_without_a_history_a_snapshot_has_no_date(tmp_path: Path) -> None:
    shelf(tmp_path, "2026.12")
    build(tmp_path / "results", tmp_path / "site")
    assert "2026.12 – 2026-01-01" in text_of(tmp_path / "site/snapshots.html")
    assert "with no date: it is that of its commit" in text_of(tmp_path / "site/snapshots/2026.12.html")


def test_a_record_says_where_it_is_held(folder: Path, tmp_path: Path) -> None:
    made = shelf(tmp_path, "2026.12")
    snapshot = read_snapshot("2026.12", folder=tmp_path / "snapshots")
    some = tuple(entry for entry in snapshot.records if entry.record_id != made["even"].stem)
    (tmp_path / "snapshots/2026.12.json").write_bytes(resealed(snapshot, *some))
    assert not build(tmp_path / "results", tmp_path / "site").faults
    for key, held in (("good", True), ("even", False)):
        page = (tmp_path / f"site/records/{made[key].stem}.html").read_text(encoding="utf-8")
        assert ('href="../snapshots/2026.12.html">snapshot 2026.12<' in page) is held
    lines = (tmp_path / "site/history.html").read_text(encoding="utf-8").split("<tr>")
    (line,) = [line for line in lines if f"records/{made['even'].stem}.html" in line]
    assert "snapshots/2026.12.html" not in line


def test_what_is_wrong_with_a_snapshot_is_told(tmp_path: Path) -> None:
    made = shelf(tmp_path, "2026.01", "2026.02", "2026.03")
    first, second, third = (tmp_path / f"snapshots/2026.0{number}.json" for number in (1, 2, 3))
    content = json.loads(first.read_bytes())
    content["root"] = fake_hash("another")
    first.write_text(json.dumps(content), encoding="utf-8")
    second.write_text("{}", encoding="utf-8")
    (tmp_path / "snapshots/notes.json").write_text("{}", encoding="utf-8")
    gone, moved = made["other"], read_snapshot("2026.03", folder=tmp_path / "snapshots")
    gone.unlink()
    gone.with_name(f"{gone.stem}.csv.gz").unlink()
    built = build(tmp_path / "results", tmp_path / "site")
    told = {fault.path: fault.what for fault in built.faults}
    assert set(told) == {f"snapshots/{name}.json" for name in ("2026.01", "2026.02", "2026.03", "notes")}
    assert "states the root" in told["snapshots/2026.01.json"]
    assert "is not the name of a snapshot" in told["snapshots/notes.json"]
    assert "other/task/2/even" in told["snapshots/2026.03.json"]
    assert "is not among the records" in told["snapshots/2026.03.json"]
    page = text_of(tmp_path / "site/snapshots/2026.03.html")
    assert "is not among the records" in page
    # A file that was changed since, by a byte that no hash inside it covers.
    entries = tuple(
        entry if entry.record_id != made["good"].stem else entry.model_copy(update={"sha256": fake_hash("x")})
        for entry in moved.records
        if entry.record_id != gone.stem
    )
    third.write_bytes(resealed(moved, *entries))
    told = {fault.path: fault.what for fault in build(tmp_path / "results", None).faults}
    assert "has changed since it was frozen" in told["snapshots/2026.03.json"]


def test_whatever_a_snapshot_says_is_shown_escaped(tmp_path: Path) -> None:
    shelf(tmp_path, "2026.12")
    snapshot = read_snapshot("2026.12", folder=tmp_path / "snapshots")
    evil = "<script>alert(1)</script>\u202e" + "x" * 5000
    entry = snapshot.records[0].model_copy(update={"record_id": fake_hash("gone"), "path": evil})
    task = TaskInfo(id=evil, version=evil, hash=fake_hash("task"))
    changed = snapshot.model_copy(update={"tasks": (task,)})
    (tmp_path / "snapshots/2026.12.json").write_bytes(resealed(changed, entry, *snapshot.records[1:]))
    assert build(tmp_path / "results", tmp_path / "site").faults
    for path in (tmp_path / "site").rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "x" * 1000 not in page


def test_without_a_snapshot_the_page_says_so(tmp_path: Path) -> None:
    small_board(tmp_path / "results")
    assert not build(tmp_path / "results", tmp_path / "site").faults
    assert "There is no snapshot yet" in text_of(tmp_path / "site/snapshots.html")
