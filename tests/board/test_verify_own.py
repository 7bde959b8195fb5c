"""One's own records, wherever they lie: verified against themselves, and never accused of another's place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forging import (
    Original,
    comes_with_the_benchmark,
    committed_records,
    plain,
    put,
    read,
    remember_values,
    seal,
    write,
)
from terminal import Command
from tiny import Shrink, make_loaded

import remainder
from remainder.board.agreement import disagreements
from remainder.board.plausibility import check_cost
from remainder.board.shelf import Shelf, is_board, results_root
from remainder.board.snapshot import results_folder
from remainder.board.verifications import verification_path
from remainder.board.verify import Verdict, verify_paths, verify_record
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES
from remainder.record.store import read_record, values_path, write_record

OTHER = "5" * 64  # a hash of another content


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """All is about places; what follows from the values of the one record is computed once."""
    with pytest.MonkeyPatch.context() as patch:
        remember_values(patch)
        yield


@pytest.fixture(scope="module")
def original() -> Original:
    """The smallest committed record of a submission that has files."""
    known = [Original(path, content, b"") for path, content in committed_records().items()]
    return plain([one for one in known if comes_with_the_benchmark(one.content)])


@pytest.fixture
def one(original: Original, tmp_path: Path) -> Path:
    """A copy of it where `remainder run` would have put it."""
    path = tmp_path / "results" / original.path.relative_to(results_folder())
    copy(original.path, path)
    return path


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    shutil.copy(values_path(source), values_path(target))
    return target


def the_verdict(path: Path) -> Verdict:
    (verdict,) = verify_paths([path], jobs=1)
    return verdict


@pytest.mark.parametrize("levels", range(5))
def test_every_folder_above_a_record_may_be_given(one: Path, levels: int, tmp_path: Path) -> None:
    """The root is found from the record's place: levels 0 to 4 are its submission's folder to the results."""
    given = one.parents[levels]
    verdict = the_verdict(given)
    assert verdict.faults == ()
    assert verdict.root == tmp_path / "results"
    assert not any("place was not checked" in note for note in verdict.notes)


def test_a_relative_path_and_a_link_to_the_results_are_followed(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(one.parent.parent)
    assert the_verdict(Path(one.parent.name)).passed
    assert the_verdict(Path("..") / one.parent.parent.name).passed
    (tmp_path / "link").symlink_to(tmp_path / "results")
    assert the_verdict(tmp_path / "link" / one.parents[2].relative_to(tmp_path / "results")).passed


def test_records_of_the_same_task_are_compared_from_below_too(one: Path) -> None:
    """What a folder further up would tell of the neighbours is told from the submission's folder."""
    for place in (one.parent, one.parents[3]):
        assert any("no other record of this task" in note for note in the_verdict(place).notes)
    content, data = read(one)
    put(content, ("model", "sha256"), "0" * 64)
    content["submission"]["name"] = "another-submission"
    other = write(seal(content), data, one.parents[4])
    assert any("model: " in fault for fault in the_verdict(other.parent).faults)


@pytest.mark.parametrize(
    "place",
    ["backup/{id}", "mine", "copy/1/name/{id}", "digits/name/{id}", "runs/2026/november/best"],
)
def test_a_copy_elsewhere_is_not_compared_with_a_place(one: Path, tmp_path: Path, place: str) -> None:
    target = copy(one, tmp_path / "elsewhere" / f"{place.format(id=one.stem)}.json")
    for given in (target, target.parent, tmp_path / "elsewhere"):
        verdict = the_verdict(given)
        assert verdict.faults == ()
        assert any("place was not checked" in note for note in verdict.notes)


def test_a_copy_beside_the_record_is_noted_and_a_moved_one_told_where_it_belongs(
    one: Path, tmp_path: Path, remainder: Command
) -> None:
    renamed = copy(one, one.with_name("mine.json"))
    backup = copy(one, one.parent.with_name("backup") / one.name)
    found = {verdict.path: verdict for verdict in verify_paths([tmp_path / "results"], jobs=1)}
    assert [verdict.faults for verdict in found.values()] == [(), (), ()]
    where = one.relative_to(tmp_path / "results")
    for path in (renamed, backup):
        assert f"is a copy of {where}: its place was not checked" in found[path].notes
    one.unlink()
    values_path(one).unlink()
    done = remainder("verify", backup.parent)
    assert done.code == 1
    assert "lies at the wrong place; expected" in done.out
    assert str(where) in done.out.split()  # never broken at a hyphen
    assert "move a record that lies at the wrong place" in done.err
    assert "never edit" not in done.err


def test_a_damaged_record_is_still_at_fault_and_says_so(one: Path, remainder: Command) -> None:
    one.write_bytes(one.read_bytes().replace(b'"tier"', b'"tyer"', 1))
    done = remainder("verify", one.parents[2])
    assert done.code == 1
    assert "never edit a record" in done.err


@pytest.mark.parametrize("files", ["the same", "bare", "other", "none"])
def test_another_content_under_the_name_of_a_submission_is_noted(one: Path, files: str) -> None:
    """A folder is scored, described in a submission.toml, and submitted: then its hash is another one."""
    content, data = read(one)
    stated = content["submission"]
    bare = {Path(file).name: digest for file, digest in stated["files"].items()}
    stated |= {
        "hash": OTHER,
        "files": {"bare": bare, "other": dict.fromkeys(bare, OTHER), "none": {}}.get(files, stated["files"]),
    }
    mine = write(seal(content), data, one.parents[4])
    for given in (mine, mine.parent, mine.parents[2]):
        (verdict,) = (found for found in verify_paths([given], jobs=1) if found.path == mine)
        assert verdict.faults == ()
        assert any(f"another {stated['name']} comes with the benchmark" in note for note in verdict.notes)
    # In a leaderboard a name stands for one content for good.
    assert "submission.hash" in "\n".join(verify_record(mine, Shelf(one.parents[4])).faults)


def test_retrained_weights_of_the_same_name_are_noted(one: Path) -> None:
    """Their hash is that of the same settings and other files."""
    from remainder.submission.method import submission_hash
    from remainder.submission.open import open_submission

    content, data = read(one)
    stated = content["submission"]
    stated["files"] = dict.fromkeys(stated["files"], OTHER)
    stated["hash"] = submission_hash(open_submission(stated["name"]).method, stated["files"])
    mine = write(seal(content), data, one.parents[4])
    assert the_verdict(mine).faults == ()
    assert any("was not compared" in note for note in the_verdict(mine).notes)
    assert not verify_record(mine, Shelf(one.parents[4])).passed


@pytest.mark.parametrize("edit", ["files", "kind", "outside"])
def test_what_has_the_hash_of_a_submission_is_still_compared_with_it(one: Path, edit: str) -> None:
    content, data = read(one)
    stated = content["submission"]
    if edit == "kind":
        stated["kind"] = "other"
    elif edit == "outside":
        stated["files"]["../../pyproject.toml"] = OTHER
    else:
        stated["files"] = dict.fromkeys(stated["files"], OTHER)
    assert the_verdict(write(seal(content), data, one.parents[4])).faults


@pytest.mark.parametrize(("place", "value"), [("id", "mine/own"), ("hash", OTHER)])
def test_a_task_of_ones_own_is_noted(one: Path, place: str, value: str) -> None:
    content, data = read(one)
    content["task"][place] = value
    content["submission"] |= {"name": "of-my-own", "hash": OTHER}
    mine = write(seal(content), data, one.parents[4])
    (verdict,) = verify_paths([mine.parent], jobs=1)
    assert verdict.faults == ()
    assert any(note.startswith("task: ") and "was not compared" in note for note in verdict.notes)
    assert "tasks/lock.json" in "\n".join(verify_record(mine, Shelf(one.parents[4])).faults)


def test_an_edited_setting_of_a_known_task_is_at_fault(one: Path) -> None:
    content, data = read(one)
    content["measurement"]["seed"] += 1
    forged = write(seal(content), data, one.parents[4])
    assert the_verdict(one).faults == ()
    assert any("measurement.seed" in fault for fault in the_verdict(forged).faults)


def test_a_name_of_ones_own_that_reads_like_another_is_noted(one: Path) -> None:
    content, data = read(one)
    stated = content["submission"]
    name, digest = stated["name"], stated["hash"]
    stated |= {"name": name.replace("-", "_"), "hash": OTHER}
    mine = write(seal(content), data, one.parents[4])
    verdict = the_verdict(mine.parent)
    assert verdict.faults == ()
    assert any("reads like" in note for note in verdict.notes)
    mine.unlink()
    values_path(mine).unlink()
    stated["hash"] = digest  # the other's own content under such a name
    assert "reads like" in "\n".join(the_verdict(write(seal(content), data, one.parents[4]).parent).faults)


def test_the_leaderboard_of_any_checkout_is_held_to_places(one: Path, tmp_path: Path) -> None:
    board = tmp_path / "checkout" / "leaderboard" / "results"
    target = copy(one, board / "somewhere" / one.name)
    assert results_root(target) == board
    assert is_board(board)
    assert is_board(results_folder())
    assert not is_board(tmp_path / "results")
    assert "lies at the wrong place" in "\n".join(the_verdict(target).faults)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"task": 3}', b'{"task": {"id": 1, "version": 2}}'])
def test_what_is_no_record_has_no_root(one: Path, data: bytes) -> None:
    one.write_bytes(data)
    assert results_root(one) is None
    assert not the_verdict(one.parents[2]).passed


def test_verdicts_are_kept_beside_the_results_whatever_is_given(
    one: Path, tmp_path: Path, remainder: Command
) -> None:
    for given in (one, one.parent, one.parents[2]):
        done = remainder("verify", given, "--write")
        assert done.code == 0, done.out + done.err
        kept = verification_path(tmp_path / "results", one.stem)
        assert json.loads(kept.read_bytes())["outcome"] == "passed"
        kept.unlink()


def test_write_is_refused_before_anything_is_measured_again(
    one: Path, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = copy(one, tmp_path / "alone" / "mine.json")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("remainder.publish.remeasure.rerun", never)
    done = remainder("verify", alone, "--rerun", "--write")
    assert done.code == 7
    assert "does not lie in a folder of results" in done.err


PLANS: tuple[dict[str, Any], ...] = (
    {"rungs": "raw"},
    {"rungs": ("raw", "true")},
    {"rungs": "coded"},
    {"rungs": "full"},
    {"rungs": "raw", "compat": True},
    {"rungs": ("full", *AMPLITUDES)},
    {},
)
"""Plans of which each lacks something that another one measures."""


def test_records_that_measured_less_accuse_none_and_are_accused_by_none(tmp_path: Path) -> None:
    loaded, shelf = make_loaded(), Shelf(tmp_path, board=False)
    paths = []
    for plan in PLANS:
        result = remainder.evaluate(loaded, Shrink(), documents=6, **plan)
        path = shelf.place(result.record)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(result.record, result.values, path)
        paths.append(path)
    verdicts = {one.path: one.faults for one in verify_paths([tmp_path], jobs=1)}
    assert [fault for faults in verdicts.values() for fault in faults] == []
    assert sorted(verdicts) == sorted(paths)
    bare, whole = (read_record(path).record for path in (paths[0], paths[-1]))
    assert bare.complexity.bits_per_token.value is None
    # What a whole record lacks, and what a bare one states all the same, is compared as before.
    for record, number in ((whole, Number.null("hidden")), (bare, Number.bare(1.0, "made up"))):
        cost = record.complexity.model_copy(update={"bits_per_token": number})
        told = list(disagreements(record.model_copy(update={"complexity": cost}), whole))
        assert [text.partition(":")[0] for text in told] == ["complexity.bits_per_token"]
    unfitted = whole.model_copy(update={"calibration": bare.calibration})
    assert any(text.startswith("calibration.documents: 0, ") for text in check_cost(unfitted))
