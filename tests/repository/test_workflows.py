"""The workflows that take submissions: what they are allowed to do, and their very commands, run in bash.

Steps that install the package or set up Python are left out: the interpreter of these tests stands for them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from remainder.base.paths import project_root
from remainder.record.store import make_record, read_record, write_record

ROOT = project_root()
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
HEAD = "a" * 40


def load(name: str) -> dict[str, Any]:
    """A workflow; YAML 1.1 takes the key `on` for true."""
    content: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    if True in content:
        content["on"] = content.pop(True)
    return content


def steps(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


class Ran(NamedTuple):
    code: int
    said: str


def run_step(
    step: Mapping[str, Any], where: Path, values: Mapping[str, str], extra: Mapping[str, str]
) -> Ran:
    """A step's command as the runner runs it, with the expressions in its `env` filled in."""
    assert not EXPRESSION.search(step["run"])
    given = {
        name: EXPRESSION.sub(lambda match: values[match[1]], str(text))
        for name, text in step.get("env", {}).items()
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=where,
        env={**os.environ, **extra, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stdout + done.stderr)


# what they are allowed to do


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_that_others_write_is_pasted_into_a_command(path: Path) -> None:
    workflow = load(path.name)
    assert "pull_request_target" not in workflow["on"]
    assert "permissions" in workflow
    for step in steps(workflow):
        assert "${{" not in step.get("run", "")
        assert "github-script" not in step.get("uses", "")


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / "action.yml"], ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    for step in content["runs"]["steps"] if "runs" in content else steps(content):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
            assert re.search(rf"{re.escape(step['uses'])} # v\d+\.\d+\.\d+$", text, re.MULTILINE)


def test_what_measures_cannot_write() -> None:
    workflow = load("submission.yml")
    assert workflow["on"] == {"pull_request": {"paths": ["leaderboard/results/**"]}}
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert "secrets." not in (FOLDER / "submission.yml").read_text()
    (checkout,) = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    # The base's code does the work.
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert checkout["with"]["persist-credentials"] is False
    (upload,) = [step for step in steps(workflow) if "upload-artifact" in step.get("uses", "")]
    assert upload["if"] == "always()"


def test_what_writes_runs_nothing_of_a_pull_request() -> None:
    workflow = load("submission-comment.yml")
    assert workflow["on"] == {
        "workflow_run": {"workflows": [load("submission.yml")["name"]], "types": ["completed"]}
    }
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert all("uses" not in step for step in job["steps"])  # no checkout, no action, no script
    text = "\n".join(step["run"] for step in job["steps"])
    assert not re.search(r"\b(git|pip|python3?|node|eval|source)\b", text)
    assert "size_in_bytes < 500000" in text


def test_what_commits_the_board_runs_nothing_but_git() -> None:
    workflow = load("board.yml")
    assert workflow["on"] == {"push": {"branches": ["main"]}}
    assert workflow["permissions"] == {}
    make, commit = workflow["jobs"]["make"], workflow["jobs"]["commit"]
    assert make["permissions"] == {"contents": "read"}
    assert commit["permissions"] == {"contents": "write"}
    used = [step["uses"].partition("@")[0] for step in commit["steps"] if "uses" in step]
    assert used == ["actions/checkout", "actions/download-artifact"]
    text = "\n".join(step.get("run", "") for step in commit["steps"])
    assert not re.search(r"\b(pip|python3?|node|remainder|eval|source)\b", text)
    for job in (make, commit):
        (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert checkout["with"]["persist-credentials"] is False


def test_the_board_is_committed_where_main_stands_and_nothing_else(tmp_path: Path) -> None:
    """The patch holds another file too, which stays out."""
    (step,) = [step for step in load("board.yml")["jobs"]["commit"]["steps"] if "run" in step]
    origin, main = tmp_path / "origin.git", tmp_path / "main"

    def git(*arguments: str) -> str:
        names = ("-c", "user.name=A", "-c", "user.email=a@b")
        command = ["git", "-C", str(main), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(origin), str(main)], check=True, capture_output=True)
    (main / "leaderboard").mkdir()
    (main / "leaderboard/README.md").write_text("old\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "base")
    git("push", "--quiet", "origin", "HEAD:main")
    base = git("rev-parse", "HEAD")
    for name in ("leaderboard/README.md", "leaderboard/verifications/a.json", "harness.py"):
        (main / name).parent.mkdir(exist_ok=True)
        (main / name).write_text("new\n")
    git("add", ".")
    patch = tmp_path / "board.patch"
    patch.write_text(git("diff", "--cached", "--binary") + "\n")
    git("reset", "--quiet", "--hard")
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "gh").write_text('#!/bin/sh\n[ "$*" = "auth setup-git" ]\n')
    (bin / "gh").chmod(0o755)
    path = {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": "/dev/null"}

    def run(sha: str, made: Path) -> Ran:
        return run_step(step, main, {"github.token": "t", "github.sha": sha}, {**path, "PATCH": str(made)})

    values = {name: text for name, text in step["env"].items() if name == "PATCH"}
    assert values == {"PATCH": "${{ runner.temp }}/made/board.patch"}
    step["env"].pop("PATCH")
    (tmp_path / "empty").touch()
    for sha, made in (("0" * 40, patch), (base, tmp_path / "empty")):
        ran = run(sha, made)
        assert (ran.code, git("rev-parse", "HEAD")) == (0, base), ran.said
    ran = run(base, patch)
    assert ran.code == 0, ran.said
    changed = git("diff", "--name-only", base, "origin/main").splitlines()
    assert changed == ["leaderboard/README.md", "leaderboard/verifications/a.json"]


# the comment: its commands with an artifact that somebody made up


class Hub(NamedTuple):
    """A folder to run in, and a `gh` that knows one run, one artifact and one pull request."""

    folder: Path
    answers: Path

    def comment(self) -> str | None:
        path = self.answers / "comment.md"
        return path.read_text(encoding="utf-8") if path.is_file() else None


GH = r"""#!/bin/bash
# Stands for gh: answers from files.
set -eu
case "$*" in
  "api repos/o/r/actions/runs/5/artifacts --jq "*) cat "$ANSWERS/artifact" ;;
  "api repos/o/r/actions/artifacts/123/zip") cat "$ANSWERS/review.zip" ;;
  "api repos/o/r/pulls/7 --jq .head.sha") cat "$ANSWERS/head" ;;
  "api repos/o/r/pulls/8 --jq .head.sha") echo "another" ;;
  "api --paginate repos/o/r/pulls/7/files --jq .[].filename") cat "$ANSWERS/files" ;;
  "pr comment 7 --body-file "*) cat "${@: -1}" > "$ANSWERS/comment.md" ;;
  *) echo "unexpected: gh $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    folder, answers = tmp_path / "work", tmp_path / "answers"
    (folder / "bin").mkdir(parents=True)
    answers.mkdir()
    gh = folder / "bin" / "gh"
    gh.write_text(GH)
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    (answers / "artifact").write_text("123\n")
    (answers / "head").write_text(f"{HEAD}\n")
    (answers / "files").write_text("baselines/my-sae/submission.toml\n")
    return Hub(folder, answers)


def post(hub: Hub, files: Mapping[str, bytes], conclusion: str = "success") -> list[Ran]:
    """Run the job on an artifact with these files; a step that has no condition, or whose condition holds."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (hub.answers / "review.zip").write_bytes(packed.getvalue())
    output = hub.folder / "output"
    output.touch()
    extra = {
        "PATH": f"{hub.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ANSWERS": str(hub.answers),
        "GITHUB_OUTPUT": str(output),
        "GH_REPO": "o/r",
    }
    ran = []
    for step in steps(load("submission-comment.yml")):
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        if "if" in step and not outputs.get("number"):
            continue
        values = {
            "github.event.workflow_run.id": "5",
            "github.event.workflow_run.head_sha": HEAD,
            "github.event.workflow_run.html_url": "https://example.org/run",
            "github.event.workflow_run.conclusion": conclusion,
            "steps.artifact.outputs.number": outputs.get("number", ""),
        }
        ran.append(run_step(step, hub.folder, values, extra))
        if ran[-1].code:
            break
    return ran


def test_a_report_becomes_a_comment(hub: Hub) -> None:
    ran = post(hub, {"number": b"7", "review.md": "## Submission my-sae\n\n| a | Δ |\n".encode()})
    assert [step.code for step in ran] == [0, 0], ran
    comment = hub.comment()
    assert comment is not None
    assert f"**Review of {HEAD}: success.**" in comment
    assert "```text\n## Submission my-sae\n\n| a | Δ |\n" in comment
    assert "belong to no submission" not in comment


def test_a_report_that_means_harm_stays_text(hub: Hub) -> None:
    evil = (
        "```\n# out <img src=https://evil.example/x> @everyone $(touch pwned) `touch pwned`\n~~~\n```text\n"
        "\x1b[31mred\x00 \u202eturned\u202c \u2066x\u2069\n<!-- hidden -->\n"
    )
    ran = post(
        hub, {"number": b"7\n", "review.md": evil.encode() + b"\xff\xfe" + b"y" * 2_000_000}, "failure"
    )
    assert [step.code for step in ran] == [0, 0], ran
    comment = hub.comment()
    assert comment is not None
    head, fence, rest = comment.partition("```text\n")
    assert ": failure" in head
    inside, closing, after = rest.rpartition("\n```\n")
    assert (fence, closing, after) == ("```text\n", "\n```\n", "")
    assert "`" not in inside
    assert not set(inside) & {"\x1b", "\x00", "\u202e", "\u202c", "\u2066", "\u2069"}
    assert len(comment) < 60_000
    assert not list(hub.folder.rglob("pwned"))


def test_code_in_the_pull_request_is_pointed_out(hub: Hub) -> None:
    (hub.answers / "files").write_text(
        "leaderboard/results/a.json\n.github/workflows/submission.yml\nbaselines2/x\n"
    )
    post(hub, {"number": b"7", "review.md": b"all is well"})
    assert "**2 changed file(s) belong to no submission.**" in str(hub.comment())


@pytest.mark.parametrize(
    "files",
    [
        {"number": b"8", "review.md": b"for somebody else's pull request"},
        {"number": b"7; touch pwned", "review.md": b"x"},
        {"number": b"$(touch pwned)", "review.md": b"x"},
        {"number": b"../../7", "review.md": b"x"},
        {"number": b"-7", "review.md": b"x"},
        {"number": b"7\nnumber=8", "review.md": b"x"},
        {"number": b"", "review.md": b"x"},
        {"review.md": b"x"},
        {"../number": b"7", "/tmp/number": b"7"},
    ],
)
def test_an_artifact_that_lies_about_its_pull_request_is_dropped(files: dict[str, bytes], hub: Hub) -> None:
    ran = post(hub, files)
    assert [step.code for step in ran if step.code] == []
    assert hub.comment() is None
    assert not list(hub.folder.rglob("pwned"))


def test_without_an_artifact_nothing_is_said(hub: Hub) -> None:
    (hub.answers / "artifact").write_text("")
    assert [step.code for step in post(hub, {})] == [0]
    assert hub.comment() is None


def test_a_run_that_broke_off_is_still_told(hub: Hub) -> None:
    """The number is written before anything can fail."""
    assert [step.code for step in post(hub, {"number": b"7"}, "failure")] == [0, 0]
    assert ": failure" in str(hub.comment())


# the review: its commands in a checkout of the base, with a pull request to fetch


class Repository(NamedTuple):
    """A remote with a base and pull requests, the author's clone, and the runner's checkout."""

    author: Path
    runner: Path
    environment: dict[str, str]

    def git(self, *arguments: str, where: Path | None = None) -> str:
        command = [
            "git",
            "-C",
            str(where or self.author),
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def remainder(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, in the author's clone."""
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(self.author / "harness")}
        return subprocess.run(
            [sys.executable, "-m", "remainder.cli.main", *arguments],
            cwd=self.author,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def propose(self, number: int) -> str:
        """Commit everything as a pull request; gives its head."""
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "pull request")
        self.git("push", "--quiet", "--force", "origin", f"HEAD:refs/pull/{number}/head")
        return self.git("rev-parse", "HEAD")

    def review(self, number: int, head: str) -> Ran:
        """Every command of the workflow's steps but the one that installs."""
        self.git("clean", "--quiet", "-fd", where=self.runner)
        self.git("checkout", "--quiet", "--force", "main", where=self.runner)
        values = {
            "github.event.pull_request.number": str(number),
            "github.event.pull_request.base.sha": self.git("rev-parse", "main", where=self.runner),
            "github.event.pull_request.head.sha": head,
        }
        code, said = 0, ""
        for step in steps(load("submission.yml")):
            if "run" not in step or step["name"] == "Install":
                continue
            if code and step.get("if") != "always()":
                continue
            ran = run_step(step, self.runner, values, self.environment)
            code, said = code or ran.code, said + ran.said
        return Ran(code, said)

    def report(self) -> str:
        return (self.runner / "review" / "review.md").read_text(encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Callable[[], Repository]:
    """A small copy of this project under git: one task, its baselines, the example of a submission."""

    def make() -> Repository:
        source, origin, author, runner = (
            tmp_path / name for name in ("source", "origin.git", "author", "runner")
        )
        ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
        for name in ("harness", "tasks/tiny/induction", "docs/examples/my-sae", "baselines/induction-pca-32"):
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        for name in (
            "pyproject.toml",
            "tasks/lock.json",
            "baselines/train.py",
            ".gitignore",
            ".gitattributes",
        ):
            shutil.copyfile(ROOT / name, source / name)
        bin = tmp_path / "bin"
        bin.mkdir()
        command = bin / "remainder"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m remainder.cli.main "$@"\n')
        command.chmod(0o755)
        environment = {
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(runner / "harness"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REMAINDER_CACHE": str(tmp_path / "cache"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        }
        found = Repository(author, runner, environment)
        for arguments in (
            ("init", "--quiet", "--initial-branch=main"),
            ("add", "."),
            ("commit", "--quiet", "--message", "base"),
            ("clone", "--quiet", "--bare", str(source), str(origin)),
            ("clone", "--quiet", str(origin), str(author)),
        ):
            found.git(*arguments, where=source)
        return found

    return make


def ready(repository: Repository) -> None:
    """The runner's checkout, as the action makes it."""
    repository.git("push", "--quiet", "origin", "HEAD:main")
    origin = repository.git("remote", "get-url", "origin")
    repository.git("clone", "--quiet", origin, str(repository.runner))


def test_a_pull_request_that_edits_a_workflow_is_refused(repository: Callable[[], Repository]) -> None:
    """With the base's code, which the pull request changes too."""
    made = repository()
    ready(made)
    made.git("switch", "--quiet", "--create", "evil")
    (made.author / ".github" / "workflows").mkdir(parents=True)
    (made.author / ".github" / "workflows" / "submission.yml").write_text("on: push\n")
    (made.author / "harness" / "remainder" / "review.py").write_text("raise SystemExit(0)\n")
    ran = made.review(7, made.propose(7))
    assert ran.code == 1, ran.said
    assert (made.runner / "review" / "number").read_text() == "7"
    assert "'.github/workflows/submission.yml' is neither of a submission nor a record" in made.report()
    assert "'harness/remainder/review.py' is neither" in made.report()
    assert "workflows" not in [path.name for path in made.runner.rglob("*")]
    assert "neither of a submission" in (made.runner.parent / "summary.md").read_text()


@pytest.mark.slow
def test_a_submission_goes_all_the_way(repository: Callable[[], Repository]) -> None:
    """`remainder submit` in a clone, its git commands, the review of the pull request; then a forged one."""
    made = repository()
    ready(made)
    made.git("switch", "--quiet", "--create", "submission")
    submitted = made.remainder("submit", "docs/examples/my-sae")
    assert submitted.returncode == 0, submitted.stderr
    assert "git add baselines/my-sae leaderboard/results/tiny/induction/2/my-sae" in submitted.stdout
    again = made.remainder("submit", "docs/examples/my-sae")
    assert "nothing was written" in again.stdout, again.stderr
    ran = made.review(7, made.propose(7))
    assert ran.code == 0, ran.said
    report = made.report()
    assert "Submission my-sae: everything came out as it is recorded" in report
    assert "Place 1 of 1 by KL raw." in report
    assert "4 documents, " in report
    assert made.git("status", "--porcelain", "harness", "tasks", where=made.runner) == ""

    # Half the loss, in all values, summaries and hashes: only measuring again can tell.
    (path,) = (made.author / "leaderboard" / "results" / "tiny/induction/2/my-sae").glob("*.json")
    stored = read_record(path)
    names = "protocol task submission tier model corpus complexity checks calibration measurement provenance"
    values = stored.values.copy()
    values.loc[values["rung"] == "full", "loss"] /= 2
    forged = make_record(values, **{name: getattr(stored.record, name) for name in names.split()})
    write_record(forged, values, path.with_name(f"{forged.record_id}.json"))
    for old in (path, path.with_suffix(".csv.gz")):
        old.unlink()
    ran = made.review(8, made.propose(8))
    assert ran.code == 1, ran.said
    faults = made.report().partition("### Faults")[2].partition("### Measured again")[0]
    assert "mean loss of rung full" in faults
    assert all("rung full" in line for line in faults.splitlines() if ": " in line), faults
