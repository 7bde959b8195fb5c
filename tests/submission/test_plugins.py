"""Formats, submissions and tasks of another package: one file and one entry point, none of ours changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.snapshot import results_folder
from remainder.errors import InterpretationError, TaskError
from remainder.submission.method import FORMATS
from remainder.submission.open import open_submission
from remainder.submission.registry import find
from remainder.task.spec import list_tasks, load_task

TASK = "tiny/digits"

FORMAT = '''"""A format: x̂ = E x + s (x − E x)."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from torch import Tensor

from remainder.formats.places import beside_output
from remainder.submission.method import Format, Method


class ShrinkMethod(Method):
    scale: float = Field(gt=0, description="what is left of x − E x, such as scale = 0.5")
    offset: float | None = None


@dataclass
class Shrunk:
    mean: Tensor
    scale: float

    def encode(self, x):
        return (x - self.mean.to(x)) * self.scale

    def decode(self, codes):
        return self.mean.to(codes) + codes


def make(submission, task, fit):
    return beside_output(Shrunk(fit().mean.float(), submission.method.get("scale")), task)


FORMAT = Format("shrink", "reconstruction", ShrinkMethod, make="shrink_format:make")
OTHER = Format("other", "reconstruction", ShrinkMethod, make="shrink_format:nothing")
FOLDER = Path(__file__).parent / "folder"
TASK = Path(__file__).parent / "task"
'''
"""The new file. In the table of the benchmark's own formats it would be one line, of the same words."""

TOML = """name = "shrunk"
kind = "reconstruction"
title = "Half of the way to the mean"
authors = ["A"]
licence = "MIT"
tasks = ["tiny/digits"]

[method]
format = "shrink"
scale = 0.5
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module with these entry points, as pip leaves it on the disk."""

    def make(groups: dict[str, dict[str, str]], module: str | None = FORMAT, name: str = "shrink") -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        if module is not None:
            (site / "shrink_format.py").write_text(module)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "\n".join(
                f"[{group}]\n" + "\n".join(f"{entry} = {place}" for entry, place in entries.items())
                for group, entries in groups.items()
            )
        )
        monkeypatch.syspath_prepend(site)
        return site

    yield make
    sys.modules.pop("shrink_format", None)


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    folder = tmp_path / "shrunk"
    folder.mkdir()
    (folder / "submission.toml").write_text(TOML)
    return folder


CODE = "format shrink: its code, shrink_format:make (make),"
SHRINK = {"remainder.formats": {"shrink": "shrink_format:FORMAT"}}


def test_a_format_of_one_file_is_checked_run_and_verified(
    install: Install, submission: Path, tmp_path: Path, remainder: Command
) -> None:
    assert "shrink" not in FORMATS
    install(SHRINK)
    checked = remainder("check", submission, "--task", TASK, "--format", "json")
    assert checked.code == 0, checked.out + checked.err
    numbers = json.loads(checked.out)["numbers"]
    assert numbers["fvu"] == pytest.approx(0.25, rel=0.05)  # half of every deviation is left
    ran = remainder("run", TASK, "--with", submission, "--out", tmp_path / "results")
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "results").rglob("*.json")
    content = json.loads(record.read_text())
    assert content["submission"]["name"] == "shrunk"
    assert content["submission"]["hash"] == open_submission(submission).hash
    verified = remainder("verify", tmp_path / "results")
    assert verified.code == 0, verified.out


def test_its_settings_are_checked_as_any(install: Install, submission: Path) -> None:
    install(SHRINK)
    first = open_submission(submission).hash
    for old, new, words in (
        ("scale = 0.5", "", "format shrink needs `scale`: what is left"),
        (
            "scale = 0.5",
            "scale = 0.5\nrank = 3",
            "`rank` is not a setting of format shrink; it has `scale`, `offset`",
        ),
        ("scale = 0.5", "scale = -1.0", "method.scale: Input should be greater than 0"),
        (
            '"reconstruction"',
            '"circuit"',
            "format shrink makes a reconstruction, and `kind` says circuit",
        ),
    ):
        (submission / "submission.toml").write_text(TOML.replace(old, new))
        with pytest.raises(InterpretationError, match=words):
            open_submission(submission)
    for new in ("scale = 0.25", "scale = 0.5\noffset = 0.0"):
        (submission / "submission.toml").write_text(TOML.replace("scale = 0.5", new))
        assert open_submission(submission).hash != first


def test_what_is_not_installed_is_no_format(submission: Path) -> None:
    with pytest.raises(InterpretationError, match="this version has no format 'shrink'"):
        open_submission(submission)


@pytest.mark.parametrize(
    ("groups", "module", "words"),
    [
        (SHRINK, "import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        (SHRINK, "FORMAT = 1 / 0", "cannot be imported: ZeroDivisionError"),
        (SHRINK, "FORMAT = 3", "is registered in remainder.formats as type int"),
        (
            {"remainder.formats": {"shrink": "shrink_format:OTHER"}},
            FORMAT,
            "is registered in remainder.formats as the format other",
        ),
        (SHRINK, FORMAT.replace("shrink_format:make", "shrink_format:gone"), "code as 'shrink_format:gone'"),
        (
            SHRINK,
            "raise SystemExit",
            "the package shrink 1.0 registers 'shrink' in remainder.formats as shrink_format:FORMAT, which "
            "cannot be imported: SystemExit",
        ),
        (SHRINK, FORMAT.replace("shrink_format:make", "shrink_format"), 'write "module:function"'),
        (
            SHRINK,
            FORMAT.replace('make="shrink_format:make"', "make=lambda *a: 3"),
            "which cannot be imported: ",
        ),
        (
            SHRINK,
            FORMAT.replace("return beside_output(", "return 3 or ("),
            f"{CODE} gave 3; expected",
        ),
        (
            SHRINK,
            FORMAT.replace("return beside_output(", "None and ("),
            f"{CODE} gave None; expected",
        ),
        (SHRINK, FORMAT.replace("return beside_output(", "raise KeyError("), f"{CODE} raised KeyError: "),
        (SHRINK, FORMAT.replace("return beside_output(", "raise SystemExit("), f"{CODE} raised SystemExit: "),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    install: Install, submission: Path, remainder: Command,
    groups: dict[str, dict[str, str]], module: str, words: str,
) -> None:  # fmt: skip
    install(groups, module)
    results = submission.parent / "results"
    for command in (
        ("check", submission, "--task", TASK),
        ("run", TASK, "--with", submission, "--out", results),
    ):
        sys.modules.pop("shrink_format", None)
        done = remainder(*command)
        assert done.code != 0
        assert words in " ".join((done.out + done.err).split())
        assert "To mend it: " in done.out + done.err
        assert "Traceback" not in done.err


def test_submit_refuses_a_format_that_nobody_could_verify(
    install: Install, submission: Path, tmp_path: Path, remainder: Command
) -> None:
    install(SHRINK)
    to = ("--submissions", tmp_path / "baselines", "--out", tmp_path / "results")
    done = remainder("submit", submission, *to)
    assert done.code == 5
    assert "method.format: shrink does not come with the benchmark" in " ".join(done.err.split())
    assert not (tmp_path / "results").exists()


def test_two_packages_of_one_name_are_told_apart_by_nobody(install: Install) -> None:
    install(SHRINK)
    install({"remainder.formats": {"shrink": "another_format:FORMAT"}}, name="another")
    with pytest.raises(
        InterpretationError, match=r"twice in remainder\.formats: another_format.* and shrink_"
    ):
        find("shrink")


def test_a_format_of_ours_is_ours(install: Install) -> None:
    """No package takes the place of a format that comes with the benchmark."""
    install({"remainder.formats": {"pca": "shrink_format:FORMAT"}}, "raise SystemExit")
    assert find("pca") is FORMATS["pca"]


def test_verify_runs_nothing_of_another_package(
    install: Install, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source, *_) = sorted((results_folder() / TASK).glob("*/digits-pca-4/*.json"))
    baselines = tmp_path / "project" / "baselines" / "digits-pca-4"
    baselines.mkdir(parents=True)
    (baselines / "submission.toml").write_text(TOML.replace('"shrunk"', '"digits-pca-4"'))
    (tmp_path / "project" / "tasks").symlink_to(project_root() / "tasks")
    monkeypatch.setattr("remainder.base.paths.project_root", lambda: tmp_path / "project")
    install(SHRINK, "raise SystemExit('run')")
    done = remainder("verify", source)
    assert done.code == 1
    assert "this version has no format 'shrink'" in " ".join(done.out.split())
    assert "shrink_format" not in sys.modules


def test_a_submission_and_a_task_are_opened_by_the_name_that_a_package_gives_them(
    install: Install, remainder: Command
) -> None:
    site = install({**SHRINK, "remainder.submissions": {"half": "shrink_format:FOLDER"}})
    (site / "folder").mkdir()
    (site / "folder" / "submission.toml").write_text(TOML)
    assert open_submission("half").name == "shrunk"
    with pytest.raises(InterpretationError, match="there is no such folder, and no baseline of that name"):
        open_submission("third")
    site = install({"remainder.tasks": {"third/digits": "shrink_format:TASK"}}, name="tasks")
    sys.modules.pop("shrink_format", None)
    shutil.copytree(project_root() / "tasks" / TASK, site / "task")
    task = load_task("third/digits")
    assert (task.id, task.site) == ("third/digits", load_task(TASK).site)
    assert "third/digits" not in list_tasks()
    with pytest.raises(TaskError, match="there is no task 'third/other'"):
        load_task("third/other")


def test_what_is_registered_and_is_no_folder_is_named(install: Install) -> None:
    install(
        {
            "remainder.submissions": {"half": "shrink_format:FOLDER"},
            "remainder.tasks": {"a/b": "shrink_format:OTHER"},
        }
    )
    with pytest.raises(InterpretationError, match=r"which is no folder with a submission\.toml"):
        open_submission("half")
    with pytest.raises(TaskError, match=r"which is no folder with a task\.toml"):
        load_task("a/b")


THIRD = {
    "remainder.formats": {"shrink": "shrink_format:FORMAT"},
    "remainder.submissions": {"half": "shrink_format:FOLDER"},
    "remainder.tasks": {"third/digits": "shrink_format:TASK"},
}


@pytest.fixture
def third(install: Install) -> Path:
    """The folder of an installed package with a format, an interpretation and a task."""
    site = install(THIRD)
    (site / "folder").mkdir()
    (site / "folder" / "submission.toml").write_text(TOML.replace(TASK, "third/digits"))
    shutil.copytree(project_root() / "tasks" / TASK, site / "task")
    return site


def test_tasks_check_and_run_know_what_a_package_adds(
    third: Path, tmp_path: Path, remainder: Command
) -> None:
    listed = json.loads(remainder("tasks", "--format", "json").out)
    assert [one["id"] for one in listed] == [*list_tasks(), "third/digits"]
    # Its place apart, which its hash covers, it is the task that it was copied from.
    ours = next(one for one in listed if one["id"] == TASK)
    different = {"id": "third/digits", "suite": "third", "hash": listed[-1]["hash"]}
    assert listed[-1] == {**ours, **different}
    assert remainder("tasks", "--suite", "third").out.split()[:2] == ["third/digits", "2-A"]
    checked = remainder("check", "half")
    assert checked.code == 0, checked.out + checked.err
    assert "half on third/digits" in checked.out
    ran = remainder("run", "--suite", "third", "--with", "half", "--out", tmp_path / "results")
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "results" / "third" / "digits").rglob("*.json")
    assert json.loads(record.read_text())["task"]["hash"] == listed[-1]["hash"]


def test_what_cannot_be_imported_is_named_and_spoils_nothing_else(
    install: Install, third: Path, remainder: Command
) -> None:
    install({"remainder.tasks": {"broken/task": "nothing_of_that_name:TASK"}}, None, "broken-package")
    install({"remainder.tasks": {"../up": "shrink_format:TASK"}}, None, "odd")
    done = remainder("tasks")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines() if "/" in line][-1] == "third/digits"
    told = " ".join(done.err.split())
    assert (
        "! broken/task: not listed: the package broken-package 1.0 registers 'broken/task' in "
        "remainder.tasks as nothing_of_that_name:TASK, which cannot be imported: ModuleNotFoundError"
    ) in told
    assert "To mend it: mend or uninstall broken-package" in told
    assert "'../up', which is no id To mend it: register it as SUITE/TASK" in told
    assert remainder("check", "half").code == 0
    assert remainder("run", "broken/task").code == TaskError.exit_code
    assert "did you mean broken/task" in " ".join(remainder("run", "broken/tasks").err.split())


def test_a_task_of_the_benchmark_is_never_a_packages(install: Install, remainder: Command) -> None:
    install({"remainder.tasks": {TASK: "shrink_format:TASK"}}, "raise SystemExit")
    done = remainder("tasks")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) >= len(list_tasks())
    assert "shrink_format" not in sys.modules


def test_only_what_reads_a_submission_or_a_task_loads_a_package(
    third: Path, remainder: Command, tmp_path: Path
) -> None:
    (third / "shrink_format.py").write_text("raise SystemExit('run')")
    first, second, *_ = sorted((results_folder() / TASK).glob("*/*/*.json"))
    results = tmp_path / "results"
    shutil.copytree(first.parent, results / first.parent.relative_to(results_folder()))
    for command in (
        ("verify", first),
        ("compare", first, second),
        ("cite", first),
        ("show", first),
        ("board", "build", "--site", tmp_path / "board", "--results", results),
    ):
        done = remainder(*command)
        assert "shrink_format" not in sys.modules
        assert done.code == 0, f"{command}: {done.err}"


def test_tasks_of_a_folder_are_listed_checked_and_run(tmp_path: Path, remainder: Command) -> None:
    shutil.copytree(project_root() / "tasks" / TASK, tmp_path / "mine" / "some" / "digits")
    there = ("--tasks", tmp_path / "mine")
    assert remainder("tasks", *there).out.split()[:2] == ["some/digits", "2-A"]
    (listed,) = json.loads(remainder("tasks", *there, "--format", "json").out)
    assert (listed["id"], listed["tiers"]) == ("some/digits", ["quick", "standard"])
    checked = remainder("check", "mean-only", "--task", "some/digits", *there)
    assert checked.code == 0, checked.err
    ran = remainder(
        "run", "some/digits", *there, "--with", "mean-only", "--rungs", "raw", "--out", tmp_path / "results"
    )
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "results" / "some" / "digits").rglob("*.json")
    assert json.loads(record.read_text())["task"]["hash"] == listed["hash"]
    (tmp_path / "mine" / "some" / "torn").mkdir()
    (tmp_path / "mine" / "some" / "torn" / "task.toml").write_text("title = 3")
    done = remainder("tasks", "--suite", "some", *there)
    assert done.out.split()[0] == "some/digits"
    assert "torn: not listed: " in done.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("tasks", "--tasks", "nowhere"), "--tasks nowhere is no folder"),
        (("tasks", "--tasks", "."), "--tasks . holds no SUITE/TASK/task.toml"),
        (
            ("tasks", "--tasks", "mine", "--suite", "other"),
            "there is no suite 'other' To mend it: choose one of: some",
        ),
        (
            ("run", "some/digit", "--tasks", "mine"),
            "holds no task 'some/digit' To mend it: it has: some/digits",
        ),
        (("run", TASK, "--tasks", "mine"), f"--tasks mine holds no task '{TASK}'"),
        (("tasks", "--format", "csv"), "there is no format 'csv'"),
    ],
)
def test_what_a_folder_of_tasks_lacks_is_told(
    tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], words: str
) -> None:
    (tmp_path / "mine" / "some" / "digits").mkdir(parents=True)
    (tmp_path / "mine" / "some" / "digits" / "task.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    done = remainder(*command)
    assert done.code != 0
    assert words in " ".join(done.err.split())
