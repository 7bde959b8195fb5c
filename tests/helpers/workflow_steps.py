"""The steps of the workflows, run by bash as a runner would, beside a GitHub that is a folder.

1. `run_workflow` runs the jobs of a workflow one after the other, each in an empty folder of its own:
   conditions, outputs, environments and expressions are those of the file. Steps that set up Python or
   install are left out: the interpreter of the tests stands for them.
2. `GitHub` holds what GitHub knows: a bare repository, pull requests, comments, statuses, artifacts. A script
   `gh`, first on the path, answers from it, by `git` and `jq`.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from remainder.base.paths import project_root

__all__ = ["FOLDER", "WORKFLOWS", "GitHub", "Job", "Ran", "load", "run_workflow", "steps"]

FOLDER = project_root() / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
SECRET = "a secret of thirty-two bytes or more"
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_TOKEN = "the token"
_LEFT_OUT = ("actions/setup-python", "Install")


def load(name: str) -> dict[str, Any]:
    """A workflow; YAML 1.1 takes the key `on` for true."""
    content: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    if True in content:
        content["on"] = content.pop(True)
    return content


def steps(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of every job."""
    for job in workflow["jobs"].values():
        yield from job["steps"]


class Ran(NamedTuple):
    """A step's command that was run."""

    name: str
    code: int
    output: str
    environment: dict[str, str]
    """What the step's and the job's `env` gave it."""


@dataclass
class Job:
    """The outcome of a job."""

    result: str = "success"
    """As `needs.JOB.result` has it."""
    outputs: dict[str, str] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)

    @property
    def output(self) -> str:
        """The log of all steps."""
        return "\n".join(one.output for one in self.ran)


@dataclass
class GitHub:
    """A repository `o/r` on a server that is a folder."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    """What every step finds in its environment, on top of this process's own."""

    def __post_init__(self) -> None:
        commands = self.folder / "bin"
        commands.mkdir(parents=True)
        (self.folder / "artifacts").mkdir()
        for name, content in {"pulls": [], "comments": [], "statuses": []}.items():
            self.write(name, content)
        scripts = {name: f'exec "{sys.executable}" "$@"' for name in ("python", "python3")}
        scripts["gh"] = f'exec "{sys.executable}" "{Path(__file__).with_name("gh_stand_in.py")}" "$@"'
        for name, command in scripts.items():
            (commands / name).write_text(f"#!/bin/sh\n{command}\n")
            (commands / name).chmod(0o755)
        self.environment |= {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "GH_STATE": str(self.folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def origin(self) -> Path:
        """The bare repository."""
        return self.folder / "o" / "r"

    def write(self, name: str, content: Any) -> None:
        """Set what is known under a name."""
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    def read(self, name: str) -> Any:
        """What is known under a name."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def main(self) -> str:
        """The commit of the main branch."""
        command = ["git", "-C", str(self.origin), "rev-parse", "main"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def open_pull(
        self,
        number: int,
        head: str,
        *,
        author: str = "somebody",
        branch: str = "mine",
        labels: Sequence[str] = (),
    ) -> None:
        """A pull request into main with this head; one of the same number is replaced."""
        pull = {
            "labels": [{"name": name} for name in labels],
            "number": number,
            "head": {"sha": head, "label": f"{author}:{branch}"},
            "base": {"ref": "main"},
        }
        others = [one for one in self.read("pulls") if one["number"] != number]
        self.write("pulls", [*others, {**pull, "user": {"login": author}}])

    def comment(self) -> str:
        """The last comment."""
        body: str = self.read("comments")[-1]["body"]
        return body

    def keep_artifact(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep files as the only artifact of a name."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        (self.folder / "artifacts" / f"{name}.zip").write_bytes(packed.getvalue())

    def review(self, head: str, *, author: str = "somebody", branch: str = "mine") -> dict[str, Job]:
        """Run the workflow `Review` on a commit of a pull request."""
        event = "github.event.workflow_run"
        values = {
            f"{event}.event": "pull_request",
            f"{event}.head_sha": head,
            f"{event}.head_branch": branch,
            f"{event}.head_repository.owner.login": author,
        }
        return run_workflow("review.yml", self, values)


def run_workflow(
    name: str, hub: GitHub, values: Mapping[str, str], only: tuple[str, ...] = ()
) -> dict[str, Job]:
    """Run a workflow of this checkout where main stands; gives its jobs.

    Args:
        values: what expressions stand for, besides those that are the same in every run.
        only: names of jobs; default: all.
    """
    done: dict[str, Job] = {}
    known = {
        "github.sha": hub.main(),
        "github.token": _TOKEN,
        "github.repository": "o/r",
        "github.server_url": str(hub.folder),
        "github.run_id": "5",
        "secrets.DRAW_SECRET": SECRET,
        **values,
    }
    for job, content in load(name)["jobs"].items():
        if only and job not in only:
            continue
        needs = content.get("needs", [])
        for need in [needs] if isinstance(needs, str) else needs:
            if need in done:
                known[f"needs.{need}.result"] = done[need].result
                known |= {f"needs.{need}.outputs.{key}": text for key, text in done[need].outputs.items()}
        sound = all(
            done[one].result == "success"
            for one in ([needs] if isinstance(needs, str) else needs)
            if one in done
        )
        done[job] = Job("skipped")
        if _holds(content.get("if", "success()"), known, sound):
            done[job] = _run_job(job, content, hub, known)
    return done


def _holds(condition: str, known: Mapping[str, str], sound: bool) -> bool:
    """Whether a condition holds; without a function on the status it needs all to be well."""
    text = _EXPRESSION.sub(r"\1", condition)
    anyway = "always()" in text or "cancelled()" in text
    text = re.sub(r"[a-z_]+(\.[\w-]+)+", lambda match: repr(known.get(match[0], "")), text)
    for old, new in {
        "&&": " and ",
        "!cancelled()": "True",
        "always()": "True",
        "success()": "True",
    }.items():
        text = text.replace(old, new)
    assert re.fullmatch(r"(?:'[^']*'|True|and|[!=]=|\s)+", text), text
    return bool(eval(text)) and (sound or anyway)


def _run_job(name: str, job: Mapping[str, Any], hub: GitHub, known: Mapping[str, str]) -> Job:
    where = hub.folder / "runners" / name
    shutil.rmtree(where, ignore_errors=True)
    work, temp = where / "work", where / "temp"
    work.mkdir(parents=True)
    temp.mkdir()
    values = {**known, "github.workspace": str(work), "runner.temp": str(temp)}
    done = Job()
    for step in job["steps"]:
        title = step.get("name", step.get("uses", "run").partition("@")[0])
        if title in _LEFT_OUT or not _holds(step.get("if", "success()"), values, done.result == "success"):
            continue
        if "uses" in step:
            _act(title if "name" not in step else step["uses"].partition("@")[0], step, hub, values, work)
            continue
        ran, outputs = _bash(title, step, job.get("env", {}), hub, values, work)
        done.ran.append(ran)
        values |= {f"steps.{step.get('id')}.outputs.{key}": text for key, text in outputs.items()}
        if ran.code:
            done.result = "failure"
    done.outputs = {key: fill(text, values) for key, text in job.get("outputs", {}).items()}
    return done


def fill(text: str, values: Mapping[str, str]) -> str:
    """A text with its expressions filled in; what is not known is empty, as on GitHub."""
    return _EXPRESSION.sub(lambda match: values.get(match[1], ""), str(text))


def _bash(
    title: str,
    step: Mapping[str, Any],
    of_job: Mapping[str, str],
    hub: GitHub,
    values: Mapping[str, str],
    work: Path,
) -> tuple[Ran, dict[str, str]]:
    assert not _EXPRESSION.search(step["run"])
    given = {key: fill(text, values) for key, text in {**of_job, **step.get("env", {})}.items()}
    files = {name: work.parent / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    files["GITHUB_OUTPUT"].write_text("")
    outer = {key: text for key, text in os.environ.items() if not key.startswith(("GH_", "GITHUB_"))}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=work,
        env={**outer, **hub.environment, **{key: str(path) for key, path in files.items()}, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    return Ran(title, done.returncode, done.stdout + done.stderr, given), outputs


def _act(action: str, step: Mapping[str, Any], hub: GitHub, values: Mapping[str, str], work: Path) -> None:
    """Do what one of GitHub's own actions does."""
    given = {key: fill(text, values) for key, text in step.get("with", {}).items()}
    if action == "actions/checkout":
        assert given.get("ref", "main") == "main"
        subprocess.run(
            ["git", "clone", "--quiet", str(hub.origin), str(work)], check=True, capture_output=True
        )
    elif action == "actions/upload-artifact":
        source = work / given["path"]
        paths = sorted(path for path in source.rglob("*") if path.is_file())
        assert paths or given.get("if-no-files-found") == "ignore"
        if paths:
            files = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
            hub.keep_artifact(given["name"], files)
    elif action == "actions/download-artifact":
        with zipfile.ZipFile(hub.folder / "artifacts" / f"{given['name']}.zip") as archive:
            archive.extractall(given["path"])
    else:
        raise AssertionError(f"unexpected: {action}")
