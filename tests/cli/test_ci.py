"""`remainder ci`: what it refuses, compares, leaves and says; measuring itself is that of `run`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.snapshot import results_folder
from remainder.cli import ci
from remainder.record.store import read_record, values_path
from remainder.task.spec import list_tasks

TASKS = ("tiny/digits", "tiny/rule-and-noise")
MEASURED = "| a table |"


def stored(task: str, submission: str) -> Path:
    """A record of the benchmark's own."""
    (path,) = (results_folder() / task).glob(f"*/{submission}/*.json")
    return path


def copy(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    shutil.copy(values_path(source), values_path(target))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Measuring replaced by records that are there; gives the tasks that were measured."""
    done: list[str] = []

    def run(tasks: list[str], *, with_: list[str], json: Path, **settings: object) -> None:
        assert (settings["format"], settings["tier"]) == ("markdown", "quick")
        copy(stored(tasks[0], with_[0]), json)
        done.append(tasks[0])
        print(MEASURED)

    monkeypatch.setattr(ci, "run", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return done


def keep(folder: Path, submission: str) -> None:
    """Keep records of both tasks as `ci` names them."""
    folder.mkdir()
    for task in TASKS:
        copy(stored(task, submission), folder / f"{task.replace('/', '-')}.json")


def test_a_job_leaves_its_files_outputs_and_summary(
    measured: list[str], tmp_path: Path, remainder: Command
) -> None:
    keep(tmp_path / "good", "mean-only")
    done = remainder(
        "ci",
        "--submission=mean-only",
        f"--task={TASKS[0]}\n {TASKS[1]} ",
        "--baseline-record=good",
        "--suite=",
    )
    assert done.code == 0, done.err
    assert measured == list(TASKS)
    names = ("csv.gz", "json", "md", "png", "rows.json", "compare.md")
    expected = {f"{task.replace('/', '-')}.{name}" for task in TASKS for name in names}
    assert {path.name for path in (tmp_path / "remainder-results").iterdir()} == expected
    outputs = dict(line.split("=", 1) for line in (tmp_path / "outputs").read_text().splitlines())
    assert outputs["record"] == "remainder-results/tiny-digits.json"
    record = read_record(tmp_path / outputs["record"]).record
    assert float(outputs["gap-raw"]) == record.metrics.rungs["raw"].quenched.gap.value
    assert float(outputs["gap-gaussian"]) == record.metrics.rungs["full"].quenched.gap.value
    assert [row["task"] for row in json.loads(outputs["results"])] == list(TASKS)
    summary = (tmp_path / "summary").read_text()
    assert summary.startswith("## Remainder\n")
    assert summary.count(MEASURED) == summary.count("Is B worse than A?") == 2
    assert "To mend it" not in summary


@pytest.mark.slow
def test_every_task_is_compared_before_the_job_fails(
    measured: list[str], tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci, "explain", lambda record, save: None)
    keep(tmp_path / "good", "identity")
    arguments = ("ci", "--submission=mean-only", "--baseline-record=good", "--task", TASKS[0])
    done = remainder(*arguments, "--task", TASKS[1], "--fail-on-regression=kl_raw=0")
    assert done.code == 1
    for task in TASKS:
        assert f"remainder: mean-only (B) is worse than identity (A) on {task}" in done.err
    summary = (tmp_path / "summary").read_text()
    assert summary.count("is worse than identity (A)") == summary.count("To mend it") == 2
    assert "gap-raw=" in (tmp_path / "outputs").read_text()  # for later steps that run in spite of it
    passed = remainder(*arguments, "--fail-on-regression=")
    assert (passed.code, "To mend it" in passed.err) == (0, False)
    assert not (tmp_path / "remainder-results" / "tiny-digits.error").exists()


def test_without_a_stored_record_nothing_is_compared(
    measured: list[str], tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    done = remainder("ci", "--submission=mean-only", "--task", TASKS[0], "--out=mine")
    assert done.code == 0, done.err
    assert not list((tmp_path / "mine").glob("*.compare.md"))
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", ""), "no task is named To mend it: give `task` or `suite`"),
        (("--task", "tiny/digit"), "there is no task 'tiny/digit' To mend it: did you mean tiny/digits"),
        (("--suite", "tinny"), "there is no suite 'tinny'"),
        (("--tier", "slow"), "task tiny/digits has no tier 'slow'"),
        (("--baseline-record", "good/tiny-digits.json"), "is one record, and there are 2 tasks"),
        (("--baseline-record", "nowhere"), "nowhere"),
        (("--baseline-record", "empty"), "empty/tiny-digits.json"),
        (("--baseline-record", "good", "--out", "good"), "would be overwritten before it is compared with"),
        (("--baseline-record", "good", "--fail-on-regression", "gape=1"), "there is no quantity 'gape'"),
        (("--fail-on-regression", "gape=1"), "there is no quantity 'gape'"),
        (
            ("--baseline-record", "old"),
            "old/tiny-digits.json is of tiny/rule-and-noise 2-A (hash ",
        ),
        (("--out", "good/tiny-digits.json"), "good/tiny-digits.json"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(
    measured: list[str], tmp_path: Path, remainder: Command, arguments: tuple[str, ...], message: str
) -> None:
    keep(tmp_path / "good", "mean-only")
    keep(tmp_path / "old", "mean-only")
    (tmp_path / "empty").mkdir()
    copy(stored(TASKS[1], "mean-only"), tmp_path / "old" / "tiny-digits.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    tasks = () if "--task" in arguments or "--suite" in arguments else ("--task", " ".join(TASKS))
    done = remainder("ci", "--submission", "mean-only", *tasks, *arguments)
    assert done.code != 0
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert measured == []
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    summary = after.pop(tmp_path / "summary").decode()
    assert after == before
    assert "was not measured: see the log." in summary or "Nothing was measured: see the log." in summary


def test_tables_of_an_earlier_job_are_not_shown_as_this_ones(
    measured: list[str], tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remainder-results").mkdir()
    (tmp_path / "remainder-results" / "tiny-digits.md").write_text("of yesterday")

    def fail(*arguments: object, **settings: object) -> None:
        raise ci.RecordError("no room")

    monkeypatch.setattr(ci, "run", fail)
    assert remainder("ci", "--submission=mean-only", "--task", TASKS[0]).code != 0
    assert "of yesterday" not in (tmp_path / "summary").read_text()


def test_a_suite_is_all_its_tasks_after_those_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root() / "tasks")
    found = ci._cases(["tracr/reverse", "tiny/digits"], "tiny", None, "", tmp_path)
    tiny = [name for name in list_tasks("tiny") if name != "tiny/digits"]
    assert [case.task for case in found] == ["tracr/reverse", "tiny/digits", *tiny]
    assert found[0].stem == tmp_path / "tracr-reverse"
    with pytest.raises(ci.TaskError, match="another task has files called tiny-digits too"):
        ci._cases(["tiny/digits", "./tiny/digits"], None, None, "", tmp_path)
