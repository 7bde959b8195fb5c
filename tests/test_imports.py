"""What imports what: reading records stays instant, and the harness knows no task and no baseline by name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from remainder.paths import project_root
from remainder.submission import Method, Submission
from remainder.task import list_tasks

HARNESS = Path(__file__).resolve().parent.parent / "harness"
SOURCES = sorted(HARNESS.rglob("*.py"))

LIGHT = [
    "remainder",
    "remainder.board.build",
    "remainder.board.cite",
    "remainder.board.snapshot",
    "remainder.board.verifications",
    "remainder.board.verify",
    "remainder.cli",
    "remainder.cli_board",
    "remainder.cli_publish",
    "remainder.compare",
    "remainder.explain",
    "remainder.measure.intervals",
    "remainder.measure.summary",
    "remainder.method",
    "remainder.pytest_plugin",
    "remainder.record",
    "remainder.regression",
    "remainder.report",
    "remainder.schema",
    "remainder.standing",
    "remainder.task",
]
HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "sklearn"}

MAY_IMPORT = {
    "residual": {"residual", "rungs", "errors"},
    "rungs": set(),
    "task": {"circuit", "errors", "files", "foreign", "paths"},
    "corpus": {"task", "errors"},
    "foreign": set(),
    "casting": {"foreign", "errors"},
    "bridging": {"foreign", "files", "errors"},
    "model": {"bridging", "task", "errors"},
    "interpretation": {"casting", "foreign", "residual", "errors"},
    "hub": {"assets", "foreign", "errors"},
    "formats": {
        *("task", "interpretation", "circuit", "hub", "assets", "canonical", "errors", "files", "formats"),
        *("casting", "foreign", "paths"),
    },
    "conformance": {"interpretation", "errors"},
    "schema": {"canonical", "measure"},
    "canonical": {"errors", "files"},
    "files": {"errors"},
    "method": set(),
    "paths": set(),
    "errors": set(),
}
"""The rooms that each room may import from."""


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(HARNESS)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_reading_results_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    assert run_python(code).split() == []


def test_every_public_name_is_there_when_asked_for() -> None:
    code = "import remainder; print(*(getattr(remainder, name) and name for name in remainder.__all__))"
    names = run_python(code).split()
    assert {"evaluate", "read_record", "load_task", "Reconstruction"} <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import remainder

    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = remainder.evaluat


def rooms_of(path: Path) -> Iterator[str]:
    """Rooms of `remainder` that a source file imports from, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = below if node.module == "remainder" else [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "remainder" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_data_flow_one_way(room: str) -> None:
    files = [
        path
        for path in SOURCES
        if room == path.relative_to(HARNESS / "remainder").parts[0].removesuffix(".py")
    ]
    assert files
    for path in files:
        assert set(rooms_of(path)) <= MAY_IMPORT[room], path


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a source file with their lines, without docstrings: what the code can act on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A string that stands by itself says something to a reader and nothing to the program.
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.lineno, node.value


def test_the_harness_knows_no_task_and_no_baseline_by_name() -> None:
    baselines = {path.parent.name for path in (project_root() / "baselines").glob("*/submission.toml")}
    # A baseline may be called by what it is: words of a submission.toml are no names.
    formats = set(get_args(Method.model_fields["format"].annotation))
    formats |= set(get_args(Submission.model_fields["kind"].annotation))
    tasks = set(list_tasks())
    # Of the words that ids consist of, those that are no ordinary ones.
    words = {part for name in tasks for part in name.split("/") if re.search(r"[-\d]", part)}
    names = (baselines - formats) | tasks | words
    assert len(names) > 5
    found = [
        f"{path.name}:{line}: {name}"
        for path in SOURCES
        for line, text in spoken(path)
        for name in names
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    ]
    assert found == []
