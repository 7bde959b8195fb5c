"""What imports what: reading records stays instant, and the harness knows no task and no baseline by name."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from remainder.base.paths import project_root
from remainder.submission.method import FORMATS
from remainder.submission.submission import Submission
from remainder.task.spec import list_tasks

HARNESS = Path(__file__).resolve().parents[2] / "harness"
SOURCES = sorted(HARNESS.rglob("*.py"))

LIGHT = [
    "remainder",
    "remainder.board.build",
    "remainder.board.cite",
    "remainder.board.snapshot",
    "remainder.board.verifications",
    "remainder.board.verify",
    "remainder.cli.main",
    "remainder.cli.board",
    "remainder.cli.publish",
    "remainder.report.compare",
    "remainder.report.explain",
    "remainder.report.export",
    "remainder.report.results",
    "remainder.record.intervals",
    "remainder.record.summary",
    "remainder.submission.method",
    "remainder.pytest_plugin",
    "remainder.record.store",
    "remainder.report.gate",
    "remainder.report.tables",
    "remainder.record.schema",
    "remainder.publish.place",
    "remainder.task.spec",
]
HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens", "sklearn"}
SLOW = HEAVY | {"pandas", "scipy", "numpy", "pyarrow", "matplotlib"}
"""Packages that take more than a moment to load."""
RESULTS = project_root() / "leaderboard/results"
RECORD = min(RESULTS.glob("controls/*/*/*/*.json"))
BOARD, SITE = "board", "site"
"""A folder of one record, and what is made of it."""
COMMANDS = {
    ("--help",): SLOW,
    ("run", "--help"): SLOW,
    ("tasks",): SLOW,
    ("show", "smollm2-135m/resid-15"): SLOW,
    ("show", str(RECORD)): HEAVY | {"scipy", "matplotlib"},
    ("export", "--help"): SLOW,
    ("cite", str(RECORD)): HEAVY | {"scipy", "matplotlib"},
    ("verify", str(RECORD)): HEAVY | {"matplotlib"},
    ("compare", str(RECORD), str(RECORD)): HEAVY | {"matplotlib"},
    ("board", "build", "--results", BOARD, "--site", SITE): HEAVY | {"matplotlib"},
}
"""Packages that a command must do without."""


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(HARNESS)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_results_imports_nothing_heavy() -> None:
    code = f"""if True:
        import importlib, sys
        for module in {LIGHT!r}:
            importlib.import_module(module)
            if found := {HEAVY!r} & set(sys.modules):
                sys.exit(print(module, *sorted(found)))"""
    assert run_python(code) == ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command[0]} {command[-1][:8]}")
def test_a_command_loads_only_what_it_needs(command: tuple[str, ...], tmp_path: Path) -> None:
    if BOARD in command:
        shutil.copytree(RECORD.parent, tmp_path / BOARD / RECORD.parent.relative_to(RESULTS))
    code = f"""if True:
        import contextlib, io, os, sys
        from remainder.cli.main import main
        os.chdir({str(tmp_path)!r})
        sys.argv = {["remainder", *command]!r}
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                main()
            except SystemExit as end:
                assert not end.code
        assert out.getvalue()
        print(*sorted({COMMANDS[command]!r} & set(sys.modules)))"""
    assert run_python(code).split() == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    import remainder

    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = remainder.evaluat


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
    formats = set(FORMATS)
    formats |= set(get_args(Submission.model_fields["kind"].annotation))
    tasks = set(list_tasks())
    # Of the words that ids consist of, those that are no ordinary ones.
    words = {part for name in tasks for part in name.split("/") if re.search(r"[-\d]", part)}
    names = (baselines - formats) | tasks | words
    assert len(names) > 5
    # The longest first, so that a name within another hides none.
    words_of = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{words_of})(?![\w-])")
    found = [
        f"{path.name}:{line}: {match[0]}"
        for path in SOURCES
        for line, text in spoken(path)
        if (match := pattern.search(text))
    ]
    assert found == []
