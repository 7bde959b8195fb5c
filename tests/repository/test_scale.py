"""The commands of docs/scale.md do what the page says; its scripts are scripts, with options that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from remainder.base.paths import project_root
from remainder.cli.main import app
from remainder.record.turns import RUNS

PAGE = (project_root() / "docs/scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "console" for line in block.splitlines()]
SCRIPTS = [block for language, block in BLOCKS if language == "bash"]
RUN = [line for line in COMMANDS if line.startswith("remainder run")]


def test_the_page_has_what_it_speaks_of() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "bash"}
    assert len(SCRIPTS) == 2
    for words in ("--workers 2", "--shard 1/2", "--shard 2/2", "--engine ray"):
        assert any(words in line for line in RUN)
    (install,) = (line for line in COMMANDS if line not in RUN)
    (extra,) = re.findall(r'pip install "remainder\[(\w+)\]"', install)
    content = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))
    assert extra in content["project"]["optional-dependencies"]


def test_every_option_exists() -> None:
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts}
    lines = [line for script in SCRIPTS for line in script.splitlines() if "remainder run" in line]
    assert len(lines) == 2
    for line in [*RUN, *lines]:
        # Those of printf and srun stand before or within the command.
        named = re.findall(r"(?<!-)--[a-z][a-z-]*", line.partition("remainder run")[2])
        assert set(named) <= known, line


@pytest.mark.parametrize("script", SCRIPTS, ids=["array", "ray"])
def test_scripts_are_sound(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert script.startswith("#!/bin/bash\n#SBATCH ")


def test_events_of_the_journal_are_those_of_the_code() -> None:
    code = (project_root() / "harness/remainder/runs/drive.py").read_text(encoding="utf-8")
    written = set(re.findall(r'_note\("(\w+)"', code))
    (told,) = re.findall(r"one line of JSON an event: (.*?) with time", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", told)) == written
    assert f"results/{RUNS}/" in PAGE


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    """Each section's in a folder of its own, one after another."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(project_root() / "harness"),
        "OMP_NUM_THREADS": "1",
    }
    tables = []
    for number, (language, block) in enumerate(BLOCKS):
        if language != "console":
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        for line in block.splitlines():
            if line in RUN:
                words = [sys.executable, "-m", *line.split()]
                done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert len([*folder.rglob("*.json")]) == 2
        tables.append(done.stdout)
    assert len(set(tables)) == 1
    assert done.stderr.count("measured in") == 2
