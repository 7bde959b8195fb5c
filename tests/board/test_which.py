"""Which record is meant: one answer for every command, and none where several are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.board.which import record_of, records_of
from remainder.errors import RecordError
from remainder.record.find import fullest_record
from remainder.record.schema import MethodInfo, Record, SubmissionInfo, TaskInfo
from remainder.record.store import values_path, write_record

VALUES = synthetic_values()


def stated(name: str, content: str | None = None) -> SubmissionInfo:
    digest = fake_hash(content or name)
    return SubmissionInfo(
        name=name,
        kind="reconstruction",
        files={"ae.pt": digest},
        hash=digest,
        method=MethodInfo(format=None),
    )


def put(root: Path, name: str, content: str | None = None, **changes: object) -> tuple[Path, Record]:
    """A record where `remainder run` puts it."""
    record = synthetic_record(VALUES, submission=stated(name, content), **changes)
    major = record.task.version.partition("-")[0]
    path = root / record.task.id / major / name / f"{record.record_id}.json"
    write_record(record, VALUES, path)
    return path, record


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands are run in, with results and a leaderboard of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("remainder.board.which.results_folder", lambda: tmp_path / "board")
    (tmp_path / "board").mkdir()
    return tmp_path


@pytest.fixture
def one(here: Path) -> Path:
    put(Path("board"), "of-the-board")
    put(Path("results"), "another")
    return put(Path("results"), "mine")[0]


def ways(path: Path) -> dict[str, str]:
    folder = path.parent
    return {
        "file": str(path),
        "absolute": str(path.absolute()),
        "values": str(values_path(path)),
        "folder": str(folder),
        "slash": f"{folder}/",
        "name": "mine",
        "task and name": "family/task/mine",
        "version and name": "family/task/1/mine",
        "prefix of the id": path.stem[:8],
        "id": path.stem,
        "without its ending": str(path.with_suffix("")),
        "beginning of the path": str(folder / path.stem[:6]),
    }


@pytest.mark.parametrize("way", ways(Path("results/family/task/1/mine/0.json")))
def test_every_way_of_naming_a_record_leads_to_it(one: Path, way: str) -> None:
    what = ways(one)[way]
    assert record_of(what).resolve() == one.resolve()
    assert [path.resolve() for path in records_of(what)] == [one.resolve()]


@pytest.mark.parametrize("way", ways(Path("results/family/task/1/mine/0.json")))
def test_every_command_takes_every_way(one: Path, way: str, remainder: Command) -> None:
    what = ways(one)[way]
    for command in (
        ("explain", what),
        ("compare", what, "another"),
        ("compare", "of-the-board", what),
        ("show", what),
    ):
        done = remainder(*command)
        assert done.code == 0, (command, done.err)
        assert "mine" in done.out
    verified = remainder("verify", what, "--format", "json")
    assert [Path(one_["path"]).name for one_ in json.loads(verified.out)] == [one.name]


def test_records_of_the_leaderboard_are_found_too(one: Path) -> None:
    assert record_of("of-the-board").parent.name == "of-the-board"


def test_what_was_submitted_is_one_record_in_two_places(one: Path) -> None:
    put(Path("board"), "mine")
    assert record_of("mine") == one


def test_ones_own_results_come_before_the_leaderboard(one: Path) -> None:
    put(Path("board"), "mine", "another content")
    assert record_of("mine") == one
    assert record_of("family/task/mine") == one


def test_one_submission_gives_its_fullest_record(here: Path) -> None:
    full, record = put(Path("results"), "mine", tier="standard")
    fewer = record.measurement.model_copy(update={"rungs": record.measurement.rungs[:-1]})
    newer = record.provenance.model_copy(update={"timestamp": "2026-02-01T00:00:00+00:00"})
    put(Path("results"), "mine", measurement=fewer, provenance=newer)
    assert record_of("mine") == record_of("results") == full


def test_the_commands_say_which_record_they_took(one: Path, remainder: Command) -> None:
    assert f"record: {one}" in remainder("explain", "mine").err.replace("\n", "")
    assert remainder("explain", one).err == ""


@pytest.mark.parametrize("command", [("explain",), ("show",), ("compare", "another")])
def test_two_submissions_of_one_name_are_never_mixed(
    one: Path, remainder: Command, command: tuple[str, ...]
) -> None:
    """Two runs of `trainer_0`, trained at different places, in one folder of results."""
    first, _ = put(Path("results"), "trainer_0", "of layer 3")
    second, _ = put(Path("results"), "trainer_0", "of layer 4")
    # `show` has a table of all records of a folder, with names that tell them apart.
    folder = () if command == ("show",) else (str(first.parent),)
    for what in ("trainer_0", *folder):
        done = remainder(*command, what)
        assert done.code == 7
        assert done.out == ""
        assert "2 different submissions are called trainer_0 on family/task" in done.err
        assert str(first) in done.err
        assert str(second) in done.err
    assert remainder(*command, first).code == 0


def test_other_tasks_versions_and_standings_are_told_apart(here: Path) -> None:
    put(Path("results"), "mine")
    for change in (
        {"task": TaskInfo(id="family/other", version="1-A", hash=fake_hash("other"))},
        {"task": TaskInfo(id="family/task", version="2-A", hash=fake_hash("newer"))},
        {"reference": stated("finer")},
    ):
        path, _ = put(Path("results"), "mine", **change)
        with pytest.raises(RecordError, match="holds records of mine "):
            record_of("mine")
        path.unlink()
        values_path(path).unlink()
    assert record_of("mine")


@pytest.mark.slow
def test_a_beginning_that_several_records_have_is_refused(here: Path) -> None:
    found = [put(Path("results"), f"mine-{number}")[0] for number in range(40)]
    folder = Path("copies")
    folder.mkdir()
    for number, path in enumerate(found[:2]):
        (folder / f"abc{number}.json").write_bytes(path.read_bytes())
    with pytest.raises(RecordError, match="2 records begin with copies/abc") as raised:
        record_of("copies/abc")
    assert "copies/abc0.json" in str(raised.value)
    by_digit: dict[str, list[Path]] = {}
    for path in found:
        by_digit.setdefault(path.stem[:1], []).append(path)
    assert max(map(len, by_digit.values())) > 1


@pytest.mark.parametrize(
    "what", ["min", "mine2", "../mine", "/mine", "abcdef0", "", " ", "nothing.json", "*", "[a-"]
)
def test_what_is_no_record_is_told_and_near_names_offered(one: Path, what: str, remainder: Command) -> None:
    for command in (("explain", what), ("compare", what, "mine"), ("verify", what)):
        done = remainder(*command)
        assert done.code == 7, (command, done)
        assert "To mend it: " in done.err
        assert "Traceback" not in done.err
    if what == "mine2":
        assert "did you mean mine" in remainder("explain", what).err


def test_show_prefers_a_task_and_tells_near_tasks(one: Path, remainder: Command) -> None:
    assert "model" in remainder("show", "tiny/digits").out
    wrong = remainder("show", "tiny/digit")
    assert wrong.code == 3
    assert "tiny/digits" in wrong.err


def test_a_folder_with_two_contents_names_both_records(here: Path) -> None:
    first, _ = put(Path("results"), "same", "one")
    put(Path("results"), "same", "two")
    with pytest.raises(RecordError, match="different submissions are called same") as raised:
        fullest_record(first.parent)
    assert raised.value.fix is not None
