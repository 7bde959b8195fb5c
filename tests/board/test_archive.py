"""The archive of protocol 1: whole, verified by hash, never recomputed, and found where it is asked for."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from forging import read, seal, write
from synthetic_board import small_board
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.archive import archived, section
from remainder.board.build import build
from remainder.board.shelf import archived_protocol, archives, place_in, relative_place, results_folder
from remainder.board.snapshot import check_snapshot, make_snapshot, read_snapshot
from remainder.board.verify import verify_paths, verify_record
from remainder.board.which import record_of
from remainder.errors import RecordError
from remainder.record.json import sha256
from remainder.record.store import read_record, values_path

ARCHIVE = project_root() / "leaderboard" / "archive" / "1"
LOCK = "881ec6eaebd5e2dcc6072f267d653948c88ec2508093364304b5d2ee0ef882af"
VERDICTS = "b3f07aad11fe60a439de6dade47f5a51a5934e6e317d9468462cbe85ac66792e"
OLD = Path("tiny/digits/1/digits-pca-4")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A copy of an archived record in an archive of its own."""
    root = tmp_path / "leaderboard" / "archive" / "1" / "results"
    shutil.copytree(ARCHIVE / "results" / OLD, root / OLD)
    shutil.copy(ARCHIVE / "lock.json", root.parent / "lock.json")
    (tmp_path / "leaderboard" / "results").mkdir()
    return next(root.rglob("*.json"))


def faults_of(path: Path) -> str:
    return "\n".join(fault for verdict in verify_paths([path], jobs=1) for fault in verdict.faults)


def test_it_is_to_the_byte_what_was_frozen() -> None:
    """All of it stands in snapshot 2026.12, whose root test_snapshot.py holds; the rest is held here."""
    snapshot = read_snapshot("2026.12")
    paths = sorted((ARCHIVE / "results").rglob("*.json"))
    assert {path.stem for path in paths} == {entry.record_id for entry in snapshot.records}
    files = [path for path in ARCHIVE.rglob("*") if path.is_file()]
    assert len(files) == 3 * len(paths) + 1  # values, verdicts, and the lock
    assert sha256((ARCHIVE / "lock.json").read_bytes()) == LOCK
    digest = hashlib.sha256()
    for path in sorted((ARCHIVE / "verifications").iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest() == VERDICTS


@pytest.mark.slow
def test_every_archived_record_passes_by_its_hash_and_the_lock() -> None:
    verdicts = verify_paths([ARCHIVE], jobs=1)
    assert len(verdicts) == 254
    assert [(verdict.path.name, verdict.faults) for verdict in verdicts if not verdict.passed] == []
    assert {verdict.notes for verdict in verdicts} == {
        ("is of protocol 1: verified by hash, not recomputed",)
    }


def test_verify_says_that_nothing_was_recomputed(one: Path, remainder: Command) -> None:
    for given in (one, one.parent, one.parents[5]):
        done = remainder("verify", given)
        assert done.code == 0, done.out + done.err
        assert "note: is of protocol 1: verified by hash, not recomputed" in done.out
        assert "1 of them of a protocol that is over: verified by hash, not recomputed" in done.out
    (told,) = json.loads(remainder("verify", one, "--format", "json").out)
    assert (told["passed"], told["recomputed"]) == (True, False)


def test_nothing_of_it_is_recomputed(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("recomputed")

    monkeypatch.setattr("remainder.board.consistency.recompute", never)
    assert faults_of(one) == ""
    committed = next((results_folder() / "tiny" / "digits").rglob("*.json"))
    with pytest.raises(AssertionError, match="recomputed"):
        verify_record(committed)


@pytest.mark.parametrize("edit", ["record", "values", "task", "place", "protocol"])
def test_an_edit_in_the_archive_is_a_fault(edit: str, one: Path) -> None:
    content, values = read(one)
    if edit == "record":
        one.write_bytes(one.read_bytes().replace(b'"pairs": 1', b'"pairs": 2', 1))
        assert "it was edited" in faults_of(one)
    elif edit == "values":
        values_path(one).write_bytes(gzip.compress(values.replace(b"1", b"2", 1)))
        assert "content hash" in faults_of(one)
    elif edit == "task":
        content["task"]["hash"] = "0" * 64
        assert "is not in the archive's lock.json" in faults_of(write(seal(content), values, one.parents[4]))
    elif edit == "place":
        moved = one.parents[1] / "another" / one.name
        shutil.move(one.parent, moved.parent)
        assert "lies at the wrong place" in faults_of(moved)
    else:
        content["protocol"] = "2"
        forged = write(seal(content), values, one.parents[4])
        assert "protocol: '2', the records of this folder are of protocol 1" in faults_of(forged)


def test_a_leaderboard_takes_no_record_of_a_protocol_that_is_over(one: Path, tmp_path: Path) -> None:
    target = tmp_path / "leaderboard" / "results" / OLD
    shutil.copytree(one.parent, target)
    assert "protocol: '1', the records of this folder are of protocol 2" in faults_of(target)
    elsewhere = tmp_path / "results" / OLD  # one's own: kept, and said not to be recomputed
    shutil.copytree(one.parent, elsewhere)
    (verdict,) = verify_paths([elsewhere], jobs=1)
    assert verdict.passed
    assert not verdict.recomputed


def test_a_protocol_that_never_was_is_a_fault(one: Path, tmp_path: Path) -> None:
    content, values = read(one)
    content["protocol"] = "7"
    assert "protocol: '7', there are 1, 2" in faults_of(write(seal(content), values, tmp_path / "results"))


def test_its_verdicts_are_kept_as_they_were(one: Path, remainder: Command) -> None:
    done = remainder("verify", one, "--write")
    assert done.code == 7
    assert "lies in an archive, whose verdicts are kept as they were" in done.err


def test_it_is_not_measured_again(one: Path, remainder: Command) -> None:
    done = remainder("verify", one, "--rerun")
    assert done.code == 7
    assert "protocol 1" in done.err


def test_places_are_relative_to_results_or_an_archive() -> None:
    (root,) = archives(results_folder())
    assert root == ARCHIVE / "results"
    assert archived_protocol(root) == "1"
    assert archived_protocol(results_folder()) is None
    old = next((root / OLD).glob("*.json"))
    assert relative_place(old, results_folder()) == (OLD / old.name).as_posix()
    assert place_in(results_folder(), (OLD / old.name).as_posix()) == old
    new = next((results_folder() / "tiny").rglob("*.json"))
    assert place_in(results_folder(), relative_place(new, results_folder())) == new


def test_a_current_record_is_meant_before_an_archived_one() -> None:
    assert read_record(record_of("digits-pca-4")).record.protocol == "2"
    assert read_record(record_of("tiny/digits/1/digits-pca-4")).record.protocol == "1"
    old = next((ARCHIVE / "results" / OLD).glob("*.json"))
    assert record_of(old.stem[:10]) == old


def test_commands_that_show_a_record_show_an_archived_one(remainder: Command) -> None:
    old = OLD.as_posix()
    for command in (
        ("explain", old),
        ("show", old),
        ("compare", old, "tiny/digits/1/digits-pca-8"),
        ("cite", next((ARCHIVE / "results" / OLD).glob("*.json")).stem),
    ):
        done = remainder(*command)
        assert done.code == 0, (command, done.err)
        assert "digits-pca-4" in done.out
    mixed = remainder("compare", old, "tiny/digits/2/digits-pca-4")
    assert mixed.code == 7
    assert "on the same version of one task" in mixed.err


def test_it_is_listed_as_history_and_what_does_not_fit_is_told(one: Path) -> None:
    results = one.parents[7] / "results"
    found, faults = archived(results, {one.stem: ("2026.12",)})
    ((protocol, (row,)),) = found
    assert (faults, protocol) == ([], "1")
    record = read_record(one).record
    assert (row.task, row.name, row.version) == ("tiny/digits", "digits-pca-4", "1-A")
    assert (row.record_id, row.snapshots) == (one.stem, ("2026.12",))
    assert row.place == (OLD / one.name).as_posix()
    assert row.verdict == "no verdict was kept"
    assert float(row.kl_raw.order) == record.metrics.rungs["raw"].quenched.kl.value
    assert float(row.bits.order) == record.complexity.bits_per_token.value
    (text,) = section(found)
    assert text.startswith("## Protocol 1 (archived, verified by hash, not recomputed)\n")
    assert "[archive/1](archive/README.md) holds 1 record of 1 task, as" in text
    values_path(one).write_bytes(gzip.compress(b"other"))
    found, (fault,) = archived(results)
    assert found[0].rows == ()
    assert fault.path == f"archive/1/{row.place}"
    assert "content hash" in fault.what


def test_the_benchmarks_own_is_all_history() -> None:
    (one,), faults = archived(results_folder())
    assert not faults
    assert (len(one.rows), one.tasks) == (254, 38)
    assert {row.verdict.partition(",")[0] for row in one.rows} == {"passed"}


def test_the_site_shows_it_as_history_and_its_snapshots_hold(one: Path, tmp_path: Path) -> None:
    """As it is with 2026.12: frozen among the results, and archived since."""
    results = one.parents[7] / "results"
    made = small_board(results)
    snapshots = results.parent / "snapshots"
    snapshots.mkdir()
    frozen = make_snapshot("2026.12", results, [one, made["good"]])
    (snapshots / "2026.12.json").write_bytes(frozen.content)
    built = build(results, tmp_path / "site")
    assert not built.faults
    assert "## Protocol 1 (archived, verified by hash, not recomputed)\n" in built.readme
    assert built.readme == build(results, None).readme
    page = (tmp_path / "site" / "history.html").read_text(encoding="utf-8")
    before, _, after = page.partition('id="archive"')
    assert "Protocol 1 (archived, verified by hash, not recomputed)" in after
    assert one.stem[:12] in after
    assert one.stem[:12] not in before
    assert not (tmp_path / "site" / "records" / f"{one.stem}.html").exists()
    page = (tmp_path / "site" / "snapshots" / "2026.12.html").read_text(encoding="utf-8")
    assert page.count("<td>archived</td>") == 1
    assert "is not among the records" not in page
    assert check_snapshot("2026.12", results=results, folder=snapshots) == frozen
    for path in (one, values_path(one)):
        path.unlink()
    (fault,) = build(results, None).faults
    assert "is not among the records" in fault.what


def test_without_an_archive_no_page_speaks_of_one(tmp_path: Path) -> None:
    small_board(tmp_path / "results")
    built = build(tmp_path / "results", tmp_path / "site")
    assert "archived" not in built.readme
    assert "archived" not in (tmp_path / "site" / "history.html").read_text(encoding="utf-8")


def test_an_installed_package_holds_no_records_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.setattr("remainder.board.shelf.project_root", lambda: tmp_path)
    with pytest.raises(RecordError, match="an installed package carries no records"):
        check_snapshot("2026.12")
    done = remainder("board", "build", "--site", tmp_path / "site")
    assert done.code == RecordError.exit_code
    assert "remainder show SUITE/TASK" in done.err
    assert not (tmp_path / "site").exists()
