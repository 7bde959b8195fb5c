"""A package of somebody else, built and installed by pip in a fresh environment, adds to the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from remainder.base.paths import project_root

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "third-party"
version = "0.1"
dependencies = ["remainder"]

[project.entry-points."remainder.formats"]
negated = "third_party:NEGATED"

[project.entry-points."remainder.submissions"]
third-negated = "third_party:SUBMISSION"

[project.entry-points."remainder.tasks"]
"third/digits" = "third_party:TASK"
"third/broken" = "third_party.gone:TASK"

[tool.hatch.build.targets.wheel]
packages = ["third_party"]
"""
MODULE = '''"""A format, an interpretation and a task."""

from pathlib import Path

from remainder.submission.method import Format, Method

NEGATED = Format("negated", "reconstruction", Method, make="third_party.negated:make")
SUBMISSION = Path(__file__).parent / "submission"
TASK = Path(__file__).parent / "task"
'''
CODE = '''"""The activations, with codes of the other sign."""

from remainder.formats.places import beside_output


class Negated:
    def encode(self, x):
        return -x

    def decode(self, codes):
        return -codes


def make(submission, task, fit):
    return beside_output(Negated(), task)
'''
TOML = """name = "third-negated"
kind = "reconstruction"
title = "Negated codes"
authors = ["A"]
licence = "MIT"
tasks = ["third/digits"]

[method]
format = "negated"
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a fresh environment that sees this one's packages, and none of anybody else."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    beneath = [str(project_root() / "harness"), *site.getsitepackages()]
    (packages / "beneath.pth").write_text("\n".join(beneath))
    return folder / "bin" / "python"


def write_package(folder: Path) -> None:
    package = folder / "third_party"
    (package / "submission").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text(MODULE)
    (package / "negated.py").write_text(CODE)
    (package / "submission" / "submission.toml").write_text(TOML)
    shutil.copytree(project_root() / "tasks/tiny/digits", package / "task")


@pytest.mark.slow
def test_a_package_that_pip_installs_adds_a_format_an_interpretation_and_a_task(
    tmp_path: Path, python: Path
) -> None:
    write_package(tmp_path / "third-party")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PIP_NO_INDEX": "1", "COLUMNS": "80"}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = list(map(str, words))
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    def remainder(*words: object) -> subprocess.CompletedProcess[str]:
        return call(python, "-m", "remainder", *words)

    def listed() -> list[str]:
        return [one["id"] for one in json.loads(remainder("tasks", "--format", "json").stdout)]

    assert "third/digits" not in listed()
    assert remainder("check", "third-negated").returncode != 0
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
    done = call(*pip, "--no-build-isolation", "./third-party")
    assert done.returncode == 0, done.stderr
    assert listed()[-1] == "third/digits"
    told = " ".join(remainder("tasks").stderr.split())
    assert "! third/broken: not listed: the package third-party 0.1 registers" in told
    checked = remainder("check", "third-negated")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "format negated" in checked.stdout
    ran = remainder("run", "third/digits", "--with", "third-negated", "--rungs", "raw")
    assert ran.returncode == 0, ran.stderr
    (record,) = (tmp_path / "results" / "third" / "digits").rglob("*.json")
    content = json.loads(record.read_text())
    assert content["submission"]["name"] == "third-negated"
    assert content["metrics"]["rungs"]["raw"]["quenched"]["kl"]["value"] < 1e-9
