"""The public face: what docs and messages name is there; what hashed scripts of tasks import stays."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import remainder
from remainder.base.paths import project_root
from remainder.task.spec import list_tasks, load_task

ROOT = project_root()
HARNESS = ROOT / "harness" / "remainder"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").rglob("*.py"))

DOTTED = re.compile(r"\bremainder\.[A-Za-z_][\w.]*\w")
NOT_NAMES = {"yml", "methods", "submissions", "tasks"}
"""What follows `remainder.` in names of files and of groups of entry points."""


def resolve(dotted: str) -> Any:
    """The module, or the attribute of a module, of that name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AttributeError(dotted)


def imported(source: str) -> Iterator[str]:
    """Dotted names that the import lines of a text ask of this package."""
    lines = re.findall(r"^ *from (remainder[\w.]*) import (?:\(([^)]*)\)|(.+))", source, re.MULTILINE)
    for module, several, one in lines:
        yield from (f"{module}.{name.split()[0]}" for name in (several or one).split(",") if name.strip())


def messages(path: Path) -> Iterator[str]:
    """Strings of a source file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def named(text: str) -> set[str]:
    """Dotted names of this package in a text."""
    names = {match.rstrip(".") for match in DOTTED.findall(text)}
    return {name for name in names if name.split(".")[1] not in NOT_NAMES and "__" not in name}


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_the_docs_use_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = {path.replace("/", ".") for path in re.findall(r"^# harness/(\S+)\.py$", text, re.MULTILINE)}
    for name in named(text) | set(imported(text)):
        if name not in made:  # a recipe makes that module, and another test makes it so
            resolve(name)


def test_every_name_in_a_message_exists() -> None:
    names = {name for path in HARNESS.rglob("*.py") for text in messages(path) for name in named(text)}
    assert "remainder.evaluate" in names
    for name in names - {"remainder._scripts"}:  # the names under which scripts of tasks are imported
        resolve(name)


def test_a_name_that_is_not_there_would_be_found() -> None:
    for name in named("see `remainder.evaluat` and remainder.measure.sequential, remainder.record.store.no."):
        with pytest.raises(AttributeError):
            resolve(name)


def test_public_names_used_in_docs_are_public() -> None:
    """`remainder.NAME` and `from remainder import NAME` are of the face, or rooms."""
    rooms = {path.stem for path in HARNESS.iterdir()}
    for page in [*PAGES, *EXAMPLES]:
        text = page.read_text(encoding="utf-8")
        for name in named(text) | set(imported(text)):
            assert name.split(".")[1] in {*remainder.__all__, *rooms}, f"{page.name}: {name}"


@pytest.mark.parametrize("name", sorted(set(remainder.__all__) - {"__version__"}))
def test_a_public_name_says_what_it_is(name: str) -> None:
    thing = getattr(remainder, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing):
        assert thing.__doc__, f"{name} has the docstring of what it inherits from"
    assert getattr(importlib.import_module(thing.__module__), "__all__", [name]).count(name) == 1


def test_types_and_values_come_from_one_place() -> None:
    """A type checker reads the same names of the same modules as are imported when they are asked for."""
    tree = ast.parse(inspect.getsource(remainder))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == remainder._HOMES
    assert sorted(remainder.__all__) == sorted([*typed, "__version__"])


LIGHT = ("Record", "Task", "compare_records", "list_tasks", "load_task", "read_record", "RemainderError")


def test_what_only_reads_needs_no_torch() -> None:
    code = (
        f"import remainder, sys; [getattr(remainder, n) for n in {LIGHT!r}]; 'torch' in sys.modules and 1/0"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(HARNESS.parent)}, check=True)


USER = """
import remainder
from remainder import Circuit, Graph, Reconstruction, RemainderError, Task, evaluate
from remainder.testing import InterpretationTests


def gap(interpretation: Reconstruction, name: str) -> float | None:
    task: Task = remainder.load_task(name)
    result: remainder.Result = evaluate(task, interpretation)
    return result.record.metrics.rungs["full"].quenched.gap.value


def rows(name: str) -> int:
    loaded = remainder.open_task(name)
    remainder.evaluate_sites([loaded], [name], calibration_windows=1, evaluation_windows=1)
    return len(loaded.rows("fit")) if isinstance(loaded, remainder.SiteTask) else 0


def circuit(graph: Graph) -> Circuit:
    return Circuit.of_edges(graph, ["input->logits"])


def record(path: str) -> remainder.Record:
    from pathlib import Path

    try:
        return remainder.read_record(Path(path)).record
    except RemainderError as problem:
        print(problem.fix)
        raise
"""


@pytest.mark.slow
def test_a_script_that_uses_the_face_passes_strict_type_checks(tmp_path: Path) -> None:
    script = tmp_path / "user.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(script)]

    def checked(text: str) -> str:
        script.write_text(text, encoding="utf-8")
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    assert checked(USER) == ""
    assert "has no attribute" in checked(USER.replace("quenched.gap", "quenched.gop"))


def hashed_scripts() -> set[Path]:
    """Python files whose text is part of a task's identity."""
    builds = [task.build for task in map(load_task, list_tasks()) if task.build is not None]
    paths = {(Path(build.folder) / name).resolve() for build in builds for name in build.sha256 or {}}
    return {path for path in paths if path.suffix == ".py"}


FACES = {"remainder.build", "remainder.circuit.plain", "remainder.circuit.prompts"}
"""Modules that are there for hashed scripts alone."""


def test_hashed_scripts_import_what_is_there() -> None:
    """They cannot be changed without another version of their tasks, so these names stay."""
    modules = set()
    for script in hashed_scripts():
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remainder"):
                scope: dict[str, Any] = {}
                exec(ast.unparse(node), scope)
                assert {alias.name for alias in node.names} <= set(scope)
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("remainder") for alias in node.names), script
    assert modules == FACES | {"remainder.formats.eap_ig"}


@pytest.mark.parametrize("face", sorted(FACES))
def test_a_face_holds_nothing_but_names(face: str) -> None:
    module = importlib.import_module(face)
    (note, *body) = ast.parse(inspect.getsource(module)).body
    assert isinstance(note, ast.Expr)
    assert all(isinstance(node, (ast.ImportFrom, ast.Assign)) for node in body)
    lines = {line for node in body for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    assert len(lines) <= 10
    assert set(module.__all__) <= set(vars(module))


WRONG = """
import remainder, torch

class Good:
    def encode(self, x): return x
    def decode(self, codes): return codes

def refused(what, fix, **given):
    try:
        remainder.evaluate(**{"task": "tiny/digits", "interpretation": Good(), **given})
    except remainder.RemainderError as problem:
        assert problem.what.startswith(what) and fix in problem.fix, problem
    else:
        raise AssertionError(f"{given} is not refused")

refused("the task is 3", "give its id", task=3)
refused("rungs is 3", 'such as ["raw", "full"]', rungs=3)
refused("pairs is 1.5", "whole number", pairs=1.5)
refused("pairs is '2'", "whole number", pairs="2")
refused("documents is '3'", "whole number", documents="3")
refused("the tier is 5", "such as", tier=5)
refused("there is no device '5'", "choose from", device=5)
refused("batch_size is -1", "at least 1", batch_size=-1)
refused("the name", "letters", name=("a", 5))
refused("progress is 3", "give True, False", progress=3)
refused("documents is 2.5", "give 2 to 39", documents=2.5)
refused("Good is a class", "give an instance, Good(...)", interpretation=Good)
refused("Good is a class", "give an instance, Good(...)", coarse=Good)
refused("NoneType has no method encode or decode", "give it encode", interpretation=None)
refused("Tensor has no method encode or decode", "give it encode", interpretation=torch.zeros(2))
"""


def test_an_argument_of_another_type_is_refused() -> None:
    """In a process of its own, since tests check all types at run time and users do not."""
    subprocess.run(
        [sys.executable, "-c", WRONG], env={**os.environ, "PYTHONPATH": str(HARNESS.parent)}, check=True
    )


def test_what_open_submission_gives_is_public() -> None:
    assert isinstance(remainder.open_submission("digits-pca-8"), remainder.Submission)


def test_a_record_is_read_by_the_name_of_its_file() -> None:
    path = next(iter(sorted((project_root() / "leaderboard" / "results").rglob("*.json"))))
    assert remainder.read_record(str(path)).record == remainder.read_record(path).record
