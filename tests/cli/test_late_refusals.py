"""What cannot be is refused before anything is measured; and nothing is written where nobody asked for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Command

from remainder.base.files import IMAGES, require_target
from remainder.base.paths import is_within, machine_paths, project_root
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.interpretation.references import Identity
from remainder.measure import site as measuring
from remainder.record.recordable import require_recordable
from remainder.record.schema import SubmissionInfo
from remainder.submission.submission import Submission
from remainder.task.spec import ModelSpec, is_task, load_task

TASK, RECORD, INTERPRETATION = 3, 7, 5
DIGITS = project_root() / "tasks" / "tiny" / "digits"


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task is opened and nothing is measured."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a task was opened")

    for place in (
        "remainder.loading.open.open_task",
        "remainder.publish.submit.open_task",
        "remainder.publish.check.open_task",
    ):
        monkeypatch.setattr(place, fail)


# ---------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize(
    "folder", ["/abs/model", "~/model", "../model", "a/../../b", "C:\\model", "C:/model", ""]
)
def test_a_model_outside_of_the_project_is_refused_when_the_task_is_loaded(
    tmp_path: Path, folder: str, remainder: Command
) -> None:
    toml = (project_root() / "tasks" / "tiny" / "wiki" / "task.toml").read_text()
    assert 'folder = "tasks/tiny/wiki/model"' in toml
    place = tmp_path / "mine" / "wiki"
    place.mkdir(parents=True)
    (place / "task.toml").write_text(toml.replace('folder = "tasks/tiny/wiki/model"', f"folder = '{folder}'"))
    with pytest.raises(TaskError, match="relative to the project's root") as raised:
        load_task(place)
    assert "hub = " in raised.value.what
    assert remainder("run", place, "--with", "identity").code == TASK
    with pytest.raises(ValueError, match="relative to the project's root"):
        ModelSpec(name="x", licence="MIT", folder=folder)


def test_models_of_the_project_and_of_a_hub_are_still_taken(tmp_path: Path) -> None:
    assert ModelSpec(name="x", licence="MIT", folder="tasks/tiny/wiki/model").folder
    assert ModelSpec(name="x", licence="MIT", hub=str(tmp_path)).source == f"local:{tmp_path.name}"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A task of one's own, made by a script."""
    return Path(shutil.copytree(DIGITS, tmp_path / "mine" / "digits"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('data = "', 'data = "/data/images/', "build.data"),
        ('data = "', 'data = "from ~/data ', "build.data"),
        ("[model]\nname = \"", "[model]\nname = \"/home/me/", "model.source"),
        ("[tiers.quick]", '[tiers."/tmp/quick/x"]', "tiers"),
        ('script = "', f'script = "{DIGITS}/', "no such file"),
    ],
)  # fmt: skip
def test_words_that_no_record_may_hold_are_refused_when_the_task_is_loaded(
    own: Path, old: str, new: str, words: str
) -> None:
    path = own / "task.toml"
    text = path.read_text()
    if old not in text:
        path = own.parent / "family.toml"
        shutil.copy(DIGITS.parent / "family.toml", path)
        text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TaskError, match=words):
        load_task(own)


def test_a_behaviour_is_named_relative_to_the_task() -> None:
    task = load_task("gpt2/ioi")
    assert task.circuit is not None
    content = task.circuit.model_dump() | {"behaviour": "/home/me/ioi.toml"}
    with pytest.raises(ValueError, match="relative to the folder of the task"):
        type(task.circuit)(**content)


@pytest.mark.parametrize(("name", "within"), [("a/b", True), (".", True), ("a..b/c", True), ("a/..", False)])
def test_whether_a_name_leads_elsewhere(name: str, within: bool) -> None:
    assert is_within(name) == within


def test_a_folder_is_a_task_if_it_holds_one(own: Path) -> None:
    assert is_task(str(own))
    assert is_task("tiny/digits")
    assert not is_task(str(own.parent))


# ------------------------------------------------------------------------------------------ submissions


def stated(**changes: object) -> SubmissionInfo:
    content = {"name": "mine", "kind": "reconstruction", "files": {"ae.pt": "0" * 64}, "hash": "0" * 64}
    return SubmissionInfo.model_validate(content | changes)


@pytest.mark.parametrize("file", ["lr=/best/x.pt", "my /run/x.pt", "x\u202ey.pt", "n" * 300])
def test_names_of_files_that_no_record_may_hold_are_refused(file: str) -> None:
    require_recordable([stated()], ["A warning of `cfg.json`."])
    with pytest.raises(InterpretationError, match="submission mine"):
        require_recordable([stated(), stated(files={file: "0" * 64})], [])


def test_a_warning_with_a_path_of_this_machine_is_refused_before_calibration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import remainder

    def build(self: Submission, task: object, fit: object) -> object:
        from remainder.interpretation.protocol import adapt

        return adapt(Identity(), 64, "identity", "in", ("The file /home/me/cfg.json has no hook.",))

    def calibrate(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(Submission, "build", build)
    monkeypatch.setattr(measuring._Group, "_calibrate", calibrate)
    with pytest.raises(InterpretationError, match="holds a path of this machine"):
        remainder.evaluate("tiny/digits", "identity", device="cpu")


def test_a_reader_may_name_its_files_by_their_paths(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    folder.mkdir()
    found = Submission(
        name="x", kind="reconstruction", title="", authors=(), licence="",
        method={"format": "identity"}, folder=folder,
    )  # fmt: skip
    said = found._named_from_folder(f"{folder}/cfg.json has no hook.")
    assert said == "cfg.json has no hook."
    assert not list(machine_paths(said))


def test_a_submission_for_other_tasks_is_refused_before_the_first_is_measured(
    never: None, remainder: Command
) -> None:
    done = remainder("run", "smollm2-135m/resid-15", "--with", "topk-sae-32", "--with", "wiki-topk")
    assert done.code == INTERPRETATION
    assert "was made for" in done.err


# ---------------------------------------------------------------------------------------------- targets

TARGETS: dict[str, tuple[str, str]] = {
    "missing": ("missing/{}", "there is no folder"),
    "folder": ("folder/{}", "is a folder"),
    "long": ("n" * 250 + "{}", "too long"),
    "pipe": ("pipe{}", "is no plain file"),
    "ending": ("x.bmp", "unknown kind|does not end in"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    return tmp_path


def target(place: Path, kind: str, ending: str) -> str:
    if kind == "folder":
        (place / "folder" / f"x{ending}").mkdir()
        return f"folder/x{ending}"
    if kind == "pipe":
        os.mkfifo(place / f"pipe{ending}")
    return TARGETS[kind][0].format(ending if kind != "missing" else f"x{ending}")


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        (("run", "tiny/digits", "--with", "identity", "--json"), ".json"),
        (("run", "tiny/digits", "--with", "identity", "--figure"), ".png"),
        (("run", "tiny/digits", "--with", "identity", "--figure"), ".svg"),
        (("circuit", "tiny/induction-circuit", "eap", "--save"), ".pt"),
        (("circuit", "tiny/induction-circuit", "eap", "--save"), ".json"),
        (("review", "base", "head", "--out"), ".md"),
        (("board", "build", "--readme"), ".md"),
        (("explain", "x.json", "--save"), ".png"),
    ],
)
def test_where_nothing_can_be_written_is_told_first(
    place: Path, kind: str, arguments: tuple[str, ...], ending: str, never: None, remainder: Command
) -> None:
    import re

    done = remainder(*arguments, target(place, kind, ending))
    assert done.code in (INTERPRETATION, RECORD), done
    assert re.search(TARGETS[kind][1], done.err), done.err
    assert "To mend it: " in done.err
    assert not list(place.glob("results/**/*.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_told_first(place: Path) -> None:
    (place / "folder").chmod(0o500)
    with pytest.raises(RecordError, match="may not be written to"):
        require_target(place / "folder" / "x.png", "--figure", IMAGES)


def test_a_figure_may_end_in_capitals_and_a_pdf_is_refused_at_once(
    place: Path, never: None, remainder: Command
) -> None:
    require_target(place / "x.PNG", "--figure", IMAGES)
    done = remainder("run", "tiny/digits", "--with", "identity", "--figure", "x.pdf")
    assert done.code == RECORD
    assert ".png or .svg" in done.err


def test_values_that_could_not_be_written_beside_a_record_are_told_first(
    place: Path, never: None, remainder: Command
) -> None:
    (place / "x.csv.gz").mkdir()
    done = remainder("run", "tiny/digits", "--with", "identity", "--json", "x.json")
    assert done.code == RECORD
    assert "x.csv.gz is a folder" in done.err


@pytest.mark.parametrize("at", ["tiny", "tiny/digits", "tiny/digits/2", "tiny/digits/2/identity"])
def test_a_file_in_the_way_of_records_is_told_first(
    place: Path, at: str, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    (place / "results" / at).parent.mkdir(parents=True)
    (place / "results" / at).write_text("")

    def fail(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(measuring._Group, "run", fail)
    done = remainder("run", "tiny/digits", "--with", "identity", "--device", "cpu")
    assert done.code == RECORD
    assert f"{at} is no folder" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "0"), "is not a share"),
        (("--size", "1.5"), "is not a share"),
        (("--signed",), "add --size"),
        (("--tier", "huge"), "has no tier"),
    ],
)
def test_options_of_a_circuit_are_looked_at_first(
    place: Path, options: tuple[str, ...], words: str, never: None, remainder: Command
) -> None:
    done = remainder("circuit", "tiny/induction-circuit", "eap", "--save", "x.json", *options)
    assert done.code in (TASK, INTERPRETATION)
    assert words in done.err
    other = remainder("circuit", "tiny/digits", "eap", "--save", "x.json")
    assert other.code == TASK


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--coverage", "--format", "html"), "there is no format"),
        (("--coverage", "--page", "x.md"), "not --coverage"),
        (("--page", "with-a-file/x.md"), "figures is no folder"),
    ],
)
def test_a_validation_looks_at_its_options_first(
    place: Path, options: tuple[str, ...], words: str, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    for name in ("remainder.validation.coverage.cover_controls", "remainder.validation.run.validate"):
        monkeypatch.setattr(name, fail)
    (place / "with-a-file").mkdir()
    (place / "with-a-file" / "figures").write_text("")
    done = remainder("validate", "controls/two-point", *options)
    assert done.code == RECORD
    assert words in done.err


EXAMPLE = project_root() / "docs" / "examples" / "my-sae"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tier", "huge"), "has no tier"),
        (("--out", "file"), "file is no folder"),
        (("--submissions", "file"), "file is no folder"),
        (("--open",), "lies in no checkout"),
    ],
)
def test_submitting_looks_at_where_it_writes_first(
    place: Path,
    options: tuple[str, ...],
    words: str,
    never: None,
    remainder: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place / "file").write_text("")
    monkeypatch.setattr("shutil.which", lambda name: name)
    given = {"--out": "r", "--submissions": "s"} | dict(zip(options[::2], options[1::2], strict=False))
    flags = [word for pair in given.items() for word in pair] + (["--open"] if "--open" in options else [])
    done = remainder("submit", EXAMPLE, *flags)
    assert done.code in (TASK, RECORD), done
    assert words in done.err
    assert not (place / "s").exists()


# ------------------------------------------------------------------------- what nobody asked to be written


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with few records, in place of the one that the package is of."""
    root = tmp_path / "checkout"
    source = project_root() / "leaderboard" / "results" / "tiny" / "digits"
    shutil.copytree(source, root / "leaderboard" / "results" / "tiny" / "digits")
    (root / "leaderboard" / "README.md").write_text("as it was\n")
    (root / "pyproject.toml").write_text("")
    shutil.copytree(project_root() / "tasks" / "tiny" / "digits", root / "tasks" / "tiny" / "digits")
    for module in ("base.paths", "board.shelf"):
        monkeypatch.setattr(f"remainder.{module}.project_root", lambda: root)
    monkeypatch.chdir(tmp_path)
    return root


def test_the_board_changes_no_tracked_file_unless_it_is_told_to(checkout: Path, remainder: Command) -> None:
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    done = remainder("board", "build", "--site", "site")
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before
    stale = remainder("board", "build", "--site", "site", "--check")
    assert stale.code == RECORD
    assert "remainder board build --readme" in stale.err
    readme = checkout / "leaderboard" / "README.md"
    assert remainder("board", "build", "--site", "site", "--readme", readme).code == 0
    assert readme.read_text() != "as it was\n"
    assert remainder("board", "build", "--site", "site", "--check").code == 0


def test_check_without_a_readme_is_refused(checkout: Path, remainder: Command) -> None:
    results = checkout / "leaderboard" / "results"
    done = remainder("board", "build", "--results", results, "--check")
    assert done.code == RECORD
    assert "--readme" in done.err


def test_the_workflow_that_makes_the_tables_says_so() -> None:
    text = (project_root() / ".github" / "workflows" / "board.yml").read_text(encoding="utf-8")
    assert "remainder board build --site site --readme leaderboard/README.md || faulty=true\n" in text


def test_an_installed_package_writes_no_lock_and_no_snapshot_into_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from remainder.board import snapshot
    from remainder.task.lock import write_lock

    for name in ("remainder.task.lock.is_checkout", "remainder.board.snapshot.is_checkout"):
        monkeypatch.setattr(name, lambda: False)
    with pytest.raises(TaskError, match="installed package"):
        write_lock()
    with pytest.raises(RecordError, match="installed package"):
        snapshot.freeze("2099.01")


SCRIPTS: dict[str, Callable[[Path], Path]] = {
    "docs/examples/findings.py": lambda root: root / "docs" / "findings.md",
    "tasks/tiny/noise_floor.py": lambda root: root / "docs" / "noise-floor.md",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.slow
def test_a_script_writes_into_the_checkout_that_it_lies_in(script: str, tmp_path: Path) -> None:
    """The package may be installed from another one."""
    target = tmp_path / "elsewhere" / script
    target.parent.mkdir(parents=True)
    for path in (project_root() / script).parent.glob("*.py"):  # a script may load another beside it
        shutil.copy(path, target.parent)
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('script', {str(target)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['script'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(module.PAGE)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(project_root() / "harness")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == SCRIPTS[script](tmp_path / "elsewhere")
    ran = subprocess.run(
        [sys.executable, target], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "from a checkout of the repository" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_script_writes_where_the_package_is_installed() -> None:
    """Those that write name their own place."""
    found = [
        path.relative_to(project_root()).as_posix()
        for folder in ("docs", "tasks", "baselines")
        for path in sorted((project_root() / folder).rglob("*.py"))
        if "project_root()" in (text := path.read_text(encoding="utf-8"))
        and any(line for line in text.splitlines() if line[:1].isupper() and "project_root()" in line)
    ]
    assert found == []
