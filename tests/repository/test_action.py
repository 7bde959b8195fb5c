"""The GitHub Action, run step by step in a repository of somebody else: what lies in docs/examples/ci.

The `run:` steps are those of action.yml, executed by bash with what GitHub gives them: files for outputs and
the summary, inputs as environment variables. Only the step that installs is left out: the commands that it
would install start the interpreter of the tests instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from safetensors.numpy import load_file, save_file

from remainder import __version__
from remainder.base.cache import sha256_file
from remainder.cli.main import app
from remainder.record.store import read_record
from remainder.report.gate import KEYS, parse_margins
from remainder.task.spec import load_task

ROOT = Path(__file__).resolve().parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXAMPLE = ROOT / "docs" / "examples" / "ci"
WORKFLOW_TEXT = (EXAMPLE / ".github" / "workflows" / "remainder.yml").read_text(encoding="utf-8")
WORKFLOW: dict[str, Any] = yaml.safe_load(WORKFLOW_TEXT)
WITH: dict[str, str] = WORKFLOW["jobs"]["score"]["steps"][-1]["with"]
INSTALL, SCORE = "Install Remainder", "Score and compare"
COMMAND = typer.main.get_command(app).commands["ci"]  # type: ignore[attr-defined]
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")


@dataclass
class Job:
    """What became of a run of the action."""

    succeeded: bool = True
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    ran: list[str] = field(default_factory=list)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    """By action: what it was given."""


class Machine:
    """Runs the action in a folder as a GitHub runner would."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.temp = repository, folder
        commands = self.temp / "remainder" / "bin"  # where the step that installs puts them
        commands.mkdir(parents=True)
        for name, arguments in {"python": "", "remainder": "-m remainder.cli.main"}.items():
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            (commands / name).chmod(0o755)

    def run(self, **given: str) -> Job:
        """All steps, with some inputs and the defaults of all others."""
        inputs = {name: spec.get("default", "") for name, spec in ACTION["inputs"].items()}
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        assert set(inputs) == set(ACTION["inputs"])
        job = Job()
        known = {f"inputs.{name}": value for name, value in inputs.items()}
        known |= {"runner.temp": str(self.temp), "runner.os": "Linux", "github.action_path": str(ROOT)}
        known["steps.python.outputs.python-path"] = sys.executable
        for step in STEPS:
            due = {None: job.succeeded, "always()": True}[step.get("if")]
            if not due or step["name"] == INSTALL:
                continue
            job.ran.append(step["name"])
            if "uses" in step:
                job.used[step["uses"].partition("@")[0]] = {
                    name: fill(value, known) for name, value in step["with"].items()
                }
                continue
            environment = {name: fill(value, known) for name, value in step["env"].items()}
            self._bash(step["run"], environment, job)
            known |= {f"steps.{step.get('id')}.outputs.{name}": value for name, value in job.outputs.items()}
        if job.outputs:
            stated = {name: fill(spec["value"], known) for name, spec in ACTION["outputs"].items()}
            assert stated == job.outputs
        return job

    def _bash(self, script: str, environment: dict[str, str], job: Job) -> None:
        files = {name: self.temp / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        (self.temp / "step.sh").write_text(script)
        kept = (
            "PATH",
            "HOME",
            "PYTHONPATH",
            "REMAINDER_CACHE",
            "OMP_NUM_THREADS",
            "HF_HUB_OFFLINE",
            "MPLBACKEND",
        )
        environment = {name: os.environ[name] for name in kept if name in os.environ} | environment
        harness = str(ROOT / "harness")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (harness, environment.get("PYTHONPATH"))))
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(self.temp / "step.sh")],
            cwd=self.repository,
            env=environment | {name: str(path) for name, path in files.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        job.log += done.stdout
        job.succeeded &= done.returncode == 0
        job.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        job.outputs |= dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())


def fill(text: str, known: dict[str, str]) -> str:
    """Text with its expressions replaced; one that is not known is a KeyError."""
    return EXPRESSION.sub(lambda found: known[found[1]], str(text))


def git(repository: Path, *arguments: str) -> None:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(["git", *who, *arguments], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A runner with the example checked out as a repository of its own."""
    repository = tmp_path / "repository"
    shutil.copytree(EXAMPLE, repository)
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "An SAE")
    return Machine(repository, tmp_path / "temp")


def worsen(repository: Path) -> None:
    """Commit an SAE of which every third latent has died."""
    path = repository / "my-sae" / "sae_weights.safetensors"
    weights = load_file(path)
    weights["W_enc"][:, ::3] = 0
    save_file(weights, path)
    git(repository, "commit", "--quiet", "--all", "--message", "A better SAE")


def inputs(**changes: str) -> dict[str, str]:
    return {**{name.replace("-", "_"): value for name, value in WITH.items()}, **changes}


@pytest.mark.slow
def test_an_unchanged_sae_passes(machine: Machine) -> None:
    job = machine.run(**inputs())
    assert job.succeeded, job.log
    assert job.ran == [step["name"] for step in STEPS if step["name"] != INSTALL]
    record = read_record(machine.repository / job.outputs["record"]).record
    assert float(job.outputs["gap-raw"]) == record.metrics.rungs["raw"].quenched.gap.value
    assert float(job.outputs["gap-gaussian"]) == record.metrics.rungs["full"].quenched.gap.value
    (row,) = json.loads(job.outputs["results"])
    assert (row["submission"], row["task"]) == ("my-sae", WITH["task"])
    for needed in ("## Remainder", "| my-sae ", "Is B worse than A?", "passed"):
        assert needed in job.summary
    assert "To mend it" not in job.summary
    kept = machine.repository / job.used["actions/upload-artifact"]["path"]
    for name in ("tiny-digits.json", "tiny-digits.csv.gz", "tiny-digits.md", "tiny-digits.compare.md"):
        assert (kept / name).stat().st_size > 0
    assert (kept / "tiny-digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_worsened_sae_fails_and_is_shown_all_the_same(machine: Machine) -> None:
    worsen(machine.repository)
    job = machine.run(**inputs())
    assert not job.succeeded
    assert job.ran[-2:] == [SCORE, "Keep records, tables and figures"]
    assert "remainder: my-sae (B) is worse than my-sae (A) on tiny/digits: " in job.log
    assert "Traceback" not in job.log
    for needed in ("| my-sae ", "regression", "margin 0.02 (separable from 0: ", "To mend it"):
        assert needed in job.summary
    # What was measured is known to later steps of the job that run in spite of it.
    assert float(job.outputs["gap-raw"]) == json.loads(job.outputs["results"])[0]["gap_raw"]
    kept = machine.repository / job.used["actions/upload-artifact"]["path"]
    assert {"tiny-digits.json", "tiny-digits.csv.gz", "tiny-digits.png"} <= {
        path.name for path in kept.iterdir()
    }


@pytest.mark.slow
def test_several_tasks_are_compared_with_a_folder_of_records(machine: Machine) -> None:
    tasks = ["tiny/digits", "tiny/rule-and-noise"]
    out = machine.repository / "remainder-results"
    first = machine.run(submission="mean-only", task="\n".join(tasks))
    assert first.succeeded, first.log
    assert [row["task"] for row in json.loads(first.outputs["results"])] == tasks
    shutil.copytree(out, machine.repository / "good", ignore=shutil.ignore_patterns("*.rows.json"))
    again = machine.run(submission="identity", task=" ".join(tasks), baseline_record="good", out="new")
    assert again.succeeded, again.log
    assert again.summary.count("Is B worse than A?") == 2
    swapped = machine.run(
        submission="mean-only",
        task=" ".join(tasks),
        baseline_record="new",
        out="other",
        fail_on_regression="kl_raw=0",
    )
    assert not swapped.succeeded
    assert swapped.summary.count("is worse than identity (A)") == 2  # both, not only the first


def test_nothing_measured_is_said_in_the_summary(machine: Machine) -> None:
    job = machine.run(**inputs(task=""))
    assert not job.succeeded
    assert "remainder: no task is named" in job.log
    assert "give `task` or `suite`" in job.log
    assert "Nothing was measured" in job.summary
    assert job.ran[-1] == "Keep records, tables and figures"


def test_inputs_are_never_a_part_of_a_program(machine: Machine) -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", ""), step["name"]
    hostile = '"; touch owned; "$(touch owned)`touch owned` --help'
    for names in (("submission", "tier"), ("task", "suite", "baseline_record", "fail_on_regression")):
        job = machine.run(**inputs(**dict.fromkeys(names, hostile)))
        assert not job.succeeded
        assert "remainder: " in job.log
        assert "Traceback" not in job.log
    assert not list(machine.repository.rglob("owned"))
    left = {path.name for path in machine.repository.iterdir()} - {path.name for path in EXAMPLE.iterdir()}
    assert left <= {".git", "remainder-results"}


def test_the_action_is_one_command_with_its_inputs() -> None:
    (step,) = (step for step in STEPS if step["name"] == SCORE)
    options = set(re.findall(r"--([a-z-]+)=", step["run"]))
    inputs = set(ACTION["inputs"]) - {"artifact-name", "python-version", "package", "cache-key"}
    assert options == inputs
    assert step["run"].count("\n") == 2
    assert set(re.findall(r"inputs\.([\w-]+)", json.dumps(step["env"]))) == inputs
    known = {word for one in COMMAND.params for word in one.opts}
    assert {f"--{name}" for name in options} <= known
    defaults = {one.opts[0].removeprefix("--"): one.default for one in COMMAND.params}
    for name, spec in ACTION["inputs"].items():
        if name in options and "default" in spec:
            assert spec["default"] == str(defaults[name] or ""), name


def test_every_input_is_described_used_and_has_a_default_or_is_required() -> None:
    text = json.dumps(ACTION["runs"])
    for name, spec in ACTION["inputs"].items():
        assert spec["description"]
        assert spec.get("required") or isinstance(spec["default"], str)
        assert f"inputs.{name} " in text, name
    assert set(parse_margins(ACTION["inputs"]["fail-on-regression"]["default"])) <= set(KEYS)
    for key in KEYS:
        assert key in ACTION["inputs"]["fail-on-regression"]["description"]


def test_the_example_and_the_page_use_the_action_as_it_is() -> None:
    (step,) = (step for step in WORKFLOW["jobs"]["score"]["steps"] if "remainder@" in step["uses"])
    assert step["uses"].endswith(f"/remainder@v{__version__}")
    required = {name for name, spec in ACTION["inputs"].items() if spec.get("required")}
    assert required <= set(step["with"]) <= set(ACTION["inputs"])
    assert WORKFLOW["permissions"] == {"contents": "read"}
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert shown == WORKFLOW_TEXT
    (test,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert test.strip() in (EXAMPLE / "tests/test_faithfulness.py").read_text(encoding="utf-8")
    for name in ACTION["inputs"]:
        assert f"`{name}`" in page, name
    for key in KEYS:
        assert f"`{key}`" in page, key


def test_the_stored_record_is_that_of_the_example() -> None:
    record = read_record(EXAMPLE / WITH["baseline-record"]).record
    assert (record.task.id, record.submission.name) == (WITH["task"], WITH["submission"])
    assert record.task.hash == load_task(record.task.id).hash  # else the example's own job fails
    files = {path.name: sha256_file(path) for path in (EXAMPLE / WITH["submission"]).iterdir()}
    assert record.submission.files == files  # else its weights have changed, and it is no record of theirs
