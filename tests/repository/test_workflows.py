"""The workflows that take submissions: what they are allowed to do, and their commands on made-up answers."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow_steps import FOLDER, SECRET, WORKFLOWS, GitHub, load, run_workflow, steps

from remainder.base.paths import project_root

ROOT = project_root()
RECORD = "leaderboard/results/tiny/induction/2/my-sae/"
WRITES = {("review.yml", "comment"), ("board.yml", "commit")}
"""Jobs with a right to write."""
DRAWS = {("review.yml", "draw"), ("board.yml", "draw")}
MEASURES = {("review.yml", "measure"), ("board.yml", "make")}

jobs = pytest.mark.parametrize(
    ("name", "job"),
    [(path.name, job) for path in WORKFLOWS for job in load(path.name)["jobs"] if path.name != "ci.yml"],
)


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


@jobs
def test_no_job_has_more_than_it_needs(name: str, job: str) -> None:
    """Whoever writes runs no code; who measures has neither token nor secret; who draws does nothing else."""
    workflow = load(name)
    assert workflow["permissions"] == {}
    content = workflow["jobs"][job]
    text = yaml.safe_dump(content)
    granted = content.get("permissions", {})
    writes = any(right == "write" for right in granted.values())
    assert writes == ((name, job) in WRITES)
    assert ("secrets." in text) == ((name, job) in DRAWS)
    if writes:
        commands = "\n".join(step.get("run", "") for step in content["steps"])
        assert not re.search(r"\b(pip|python3?|node|remainder|eval|source)\b", commands)
    if (name, job) in MEASURES | DRAWS:
        assert granted == {}
        assert "github.token" not in text
        assert not any("checkout" in step.get("uses", "") for step in content["steps"])
    if (name, job) in DRAWS:
        (step,) = content["steps"]
        assert content["environment"] == "draw"
        assert step["env"].keys() == {"SECRET", "RECORDS"}
    for step in content["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_workflow_that_a_pull_request_may_change_has_nothing() -> None:
    workflow = load("submission.yml")
    types = ["opened", "synchronize", "reopened", "labeled"]
    assert workflow["on"] == {
        "pull_request": {"types": types, "paths": ["leaderboard/results/**", "baselines/**"]}
    }
    assert workflow["permissions"] == {}
    assert "secrets." not in (FOLDER / "submission.yml").read_text()
    assert all("uses" not in step for step in steps(workflow))
    assert load("review.yml")["on"] == {
        "workflow_run": {"workflows": [workflow["name"]], "types": ["completed"]}
    }
    assert load("board.yml")["on"] == {"push": {"branches": ["main"]}}


def test_both_draws_are_one() -> None:
    review, board = (load(name)["jobs"]["draw"] for name in ("review.yml", "board.yml"))
    assert review["steps"][0]["run"] == board["steps"][0]["run"]


def test_what_reviews_or_writes_uses_no_cache_and_installs_by_hash() -> None:
    for name in ("submission.yml", "review.yml", "board.yml"):
        for step in steps(load(name)):
            assert "actions/cache" not in step.get("uses", "")
            assert "cache" not in step.get("with", {})
            commands = step.get("run", "").replace("\\\n", " ").splitlines()
            installs = [line for line in commands if "pip install" in line]
            assert all("--no-cache-dir --require-hashes" in line for line in installs)
            # pip fetches what a source is built with without a hash, unless it is told to take what is there.
            assert all("--no-build-isolation" in line for line in installs[1:])


@pytest.mark.parametrize("path", [FOLDER / "ci.yml", ROOT / "action.yml"], ids=lambda path: path.name)
def test_other_caches_hold_only_files_that_are_named_by_their_hash(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = [
        step["with"]
        for step in (content["runs"]["steps"] if "runs" in content else steps(content))
        if step.get("uses", "").startswith("actions/cache@")
    ]
    assert [cache["path"] for cache in found] == ["~/.cache/remainder/files"]
    assert all("restore-keys" not in cache for cache in found)


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("requirements.txt", {"torch", "transformers", "numpy", "pydantic"}),
        ("requirements-build.txt", {"setuptools"}),
    ],
)
def test_what_is_installed_by_hash_is_what_the_constraints_name(name: str, some: set[str]) -> None:
    text = (ROOT / ".github" / name).read_text(encoding="utf-8")
    logical = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    pinned = {}
    for line in logical:
        package, version, hashes = re.fullmatch(  # type: ignore[union-attr]
            r"([a-z0-9.-]+)==([^ ]+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line
        ).groups()
        assert hashes
        pinned[package] = version
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints: dict[str, set[str]] = {}
    for line in lines:
        if found := re.match(r"([a-z0-9.-]+)==([^ ;]+)", line):
            constraints.setdefault(found[1], set()).add(found[2])
    assert some <= pinned.keys()
    for package, version in pinned.items():
        # torch's own libraries are not among the constraints.
        assert version in constraints.get(package, {version}), package
    assert "://" not in text


# their commands, on what GitHub answers


@pytest.fixture
def hub(tmp_path: Path) -> GitHub:
    """A repository with one commit on main, and a pull request 7 with one record."""
    made = GitHub(tmp_path / "hub")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", made.origin], check=True)
    subprocess.run(
        ["git", "clone", "--quiet", made.origin, tmp_path / "author"], check=True, capture_output=True
    )
    commit(made, {"leaderboard/README.md": "old\n", "harness/code.py": "code\n" * 50}, "main")
    return made


def commit(hub: GitHub, files: dict[str, str | None], to: str = "refs/pull/7/head") -> str:
    """Commit files (None: delete) on top of main, and push."""
    author = hub.folder.parent / "author"

    def git(*arguments: str) -> str:
        names = ("-c", "user.name=A", "-c", "user.email=a@b")
        command = ["git", "-C", str(author), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    if git("ls-remote", "origin", "main"):
        git("checkout", "--quiet", "--force", "--detach", "origin/main")
    for name, text in files.items():
        path = author / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    git("add", ".")
    git("commit", "--quiet", "--message", "change")
    git("push", "--quiet", "--force", "origin", f"HEAD:{to}")
    git("fetch", "--quiet", "origin")
    return git("rev-parse", "HEAD")


def ask(hub: GitHub, head: str, branch: str = "mine") -> dict[str, str]:
    """The outputs of the job `request`."""
    event = "github.event.workflow_run"
    values = {
        f"{event}.event": "pull_request",
        f"{event}.head_sha": head,
        f"{event}.head_branch": branch,
        f"{event}.head_repository.owner.login": "somebody",
    }
    job = run_workflow("review.yml", hub, values, only=("request",))["request"]
    assert job.result == "success", job.output
    return job.outputs


def test_a_request_is_what_github_says(hub: GitHub) -> None:
    ids = sorted(hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    head = commit(
        hub, {f"{RECORD}{ids[0]}.json": "{}", f"{RECORD}{ids[1]}.json": "{}", f"{RECORD}x.json": "{}"}
    )
    hub.open_pull(7, head)
    hub.open_pull(8, "b" * 40, branch="other")
    asked = ask(hub, head)
    assert asked == {
        "number": "7",
        "author": "somebody",
        "failed": "0",
        "records": json.dumps(ids, separators=(",", ":")),
        "code": "false",
    }
    # Another head, branch or base is none of ours.
    assert ask(hub, head, branch="other")["number"] == ""
    hub.open_pull(7, "c" * 40)
    assert ask(hub, head)["number"] == ""


def test_code_is_run_only_with_a_label_of_this_very_commit(hub: GitHub) -> None:
    head = commit(hub, {f"{RECORD}{'a' * 64}.json": "{}"})
    others = [f"run-code:{'b' * 40}", f"run-code:{head[:12]}", "run-code", f"run-code:{head} ", head]
    hub.open_pull(7, head, labels=others)
    assert ask(hub, head)["code"] == "false"
    hub.open_pull(7, head, labels=[*others, f"run-code:{head}"])
    assert ask(hub, head)["code"] == "true"
    assert len(f"run-code:{head}") <= 50  # the longest name that GitHub gives a label
    # A push after it is another commit, which nobody has read.
    later = commit(hub, {f"{RECORD}{'c' * 64}.json": "{}"})
    hub.open_pull(7, later, labels=[f"run-code:{head}"])
    assert ask(hub, later)["code"] == "false"
    # What measures reads the label by way of the request's word, and nothing else tells it to run code.
    review, board = (load(name) for name in ("review.yml", "board.yml"))
    told = [
        (name, step)
        for name, job in review["jobs"].items()
        for step in job["steps"]
        if "--trust-code" in step.get("run", "")
    ]
    ((name, step),) = told
    assert name == "measure"
    assert step["env"]["CODE"] == "${{ needs.request.outputs.code }}"
    assert 'if [[ "$CODE" == true ]]; then trust=(--trust-code); fi' in step["run"].splitlines()
    assert {name for name, job in board["jobs"].items() if "--trust-code" in yaml.safe_dump(job)} == {"make"}


@pytest.mark.parametrize(
    "files",
    [
        {"leaderboard/README.md": "new\n"},
        {"harness/code.py": None},
        {"harness/code.py": None, f"baselines/my-sae/code.py": "code\n" * 50},  # noqa: F541
        {f"baselines/my-sae/{number}": "x" for number in range(250)},
        {f"{RECORD}{number:064x}.json": "x" for number in range(21)},
    ],
    ids=["changed", "deleted", "renamed", "many files", "many records"],
)
def test_nothing_is_drawn_for_a_request_that_is_refused_anyway(
    files: dict[str, str | None], hub: GitHub
) -> None:
    head = commit(hub, {f"{RECORD}{'a' * 64}.json": "{}", **files})
    hub.open_pull(7, head)
    assert ask(hub, head)["records"] == "[]"


def test_failed_reviews_of_an_author_are_counted(hub: GitHub) -> None:
    """In whatever pull request they failed: a new one starts no new count."""
    head = commit(hub, {f"{RECORD}{'a' * 64}.json": "{}"})
    hub.open_pull(7, head)

    def said(line: str, login: str = "github-actions[bot]", issue: str = "5") -> dict[str, Any]:
        body = f"{line}\n\n**Review of b.** Failed. Author: somebody."
        return {"issue": issue, "user": {"login": login}, "body": body}

    lines = ("Failed. Author: somebody.", "Passed. Author: somebody.", "Failed. Author: somebody-else.")
    first = [said(f"**Review of {'a' * 40}.** {line}") for line in lines]
    forged = said(f"**Review of {'a' * 40}.** Failed. Author: somebody.", "somebody-else")
    here = said(f"**Review of {'b' * 40}.** {lines[0]}", issue="7")
    hub.write("comments", [*first, forged, first[0], here])
    assert ask(hub, head)["failed"] == "3"


def drawn(hub: GitHub, records: str, **values: str) -> tuple[str, dict[str, str]]:
    """Result of the job `draw`, and the keys."""
    known = {"needs.request.outputs.number": "7", "needs.request.outputs.records": records, **values}
    job = run_workflow("review.yml", hub, known, only=("draw",))["draw"]
    assert SECRET not in job.output
    return job.result, json.loads(job.outputs["draws"] or "{}")


def test_a_key_is_the_hmac_of_the_record(hub: GitHub) -> None:
    ids = ["a" * 64, "b" * 64]
    result, keys = drawn(hub, json.dumps(ids))
    assert result == "success"
    # RFC 2104, written out.
    block = SECRET.encode().ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    for record in ids:
        digest = hashlib.sha256(outer + hashlib.sha256(inner + record.encode()).digest()).hexdigest()
        assert keys[record] == digest == hmac.new(SECRET.encode(), record.encode(), "sha256").hexdigest()
    assert drawn(hub, json.dumps(ids)) == (result, keys)
    assert drawn(hub, "[]") == ("success", {})


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_without_a_secret_nothing_is_drawn(secret: str, hub: GitHub) -> None:
    assert drawn(hub, "[]", **{"secrets.DRAW_SECRET": secret}) == ("failure", {})


# the comment: its commands with a report that somebody made up


def post(
    hub: GitHub, files: dict[str, bytes], result: str = "success", failed: str = "0", waits: str = ""
) -> str:
    """Run the job `comment` beside an artifact with these files; gives the comment."""
    hub.keep_artifact("review", files)
    needs = {"number": "7", "author": "somebody", "failed": failed}
    values = {f"needs.request.outputs.{name}": text for name, text in needs.items()}
    values |= {"needs.measure.result": result, "needs.measure.outputs.waits": waits}
    values |= {"github.event.workflow_run.head_sha": "a" * 40}
    job = run_workflow("review.yml", hub, values, only=("comment",))["comment"]
    assert job.result == "success", job.output
    return hub.comment()


def test_a_report_becomes_a_comment_and_a_mark(hub: GitHub) -> None:
    comment = post(hub, {"review.md": "## Submission my-sae\n\n| a | Δ |\n".encode()})
    assert comment.startswith(f"**Review of {'a' * 40}.** Passed. Author: somebody.\n")
    assert "```text\n## Submission my-sae\n\n| a | Δ |\n" in comment
    assert "Failed reviews of this author so far, in all pull requests: 0;" in comment
    (status,) = hub.read("statuses")
    assert (status["sha"], status["state"], status["context"]) == ("a" * 40, "success", "Review")


@pytest.mark.parametrize(
    ("result", "waits", "word", "state", "failed"),
    [
        ("failure", "", "Failed", "failure", 3),
        ("failure", "true", "Failed", "failure", 3),
        ("cancelled", "", "Failed", "failure", 3),
        ("skipped", "", "Not made", "error", 2),
        ("success", "true", "Waits", "pending", 2),  # for a label: it has neither passed nor failed
        ("success", "anything", "Failed", "failure", 3),
    ],
)
def test_a_review_that_does_not_pass_is_counted_and_shown(
    result: str, waits: str, word: str, state: str, failed: int, hub: GitHub
) -> None:
    comment = post(hub, {}, result, "2", waits)
    assert f".** {word}. Author: somebody." in comment
    assert f"Failed reviews of this author so far, in all pull requests: {failed};" in comment
    assert "There is no report: the log says why." in comment
    assert [status["state"] for status in hub.read("statuses")] == [state]


def test_a_report_that_means_harm_stays_text(hub: GitHub) -> None:
    evil = (
        "```\n# out <img src=https://evil.example/x> @everyone $(touch pwned) `touch pwned`\n~~~\n```text\n"
        "\x1b[31mred\x00 \u202eturned\u202c \u2066x\u2069\n<!-- hidden -->\n"
    )
    comment = post(hub, {"review.md": evil.encode() + b"\xff\xfe" + b"y" * 2_000_000}, "failure")
    head, fence, rest = comment.partition("```text\n")
    assert "Failed" in head
    inside, closing, after = rest.rpartition("\n```\n")
    assert (fence, closing, after) == ("```text\n", "\n```\n", "")
    assert "`" not in inside
    assert not set(inside) & {"\x1b", "\x00", "\u202e", "\u202c", "\u2066", "\u2069"}
    assert len(comment) < 60_000
    assert not list(hub.folder.rglob("pwned"))


def test_a_file_outside_of_the_report_is_not_read(hub: GitHub) -> None:
    assert "evil" not in post(hub, {"../review.md": b"evil", "/tmp/review.md": b"evil", "x": b"evil"})


# the board


def test_new_records_are_those_without_a_verification(hub: GitHub) -> None:
    ids = [letter * 64 for letter in "abc"]
    files = {f"{RECORD}{name}.json": "{}" for name in ids} | {f"{RECORD}{ids[0]}.csv.gz": "x"}
    commit(
        hub, {**files, f"leaderboard/verifications/{ids[1]}.json": "{}", f"{RECORD}note.json": "{}"}, "main"
    )
    job = run_workflow("board.yml", hub, {}, only=("new",))["new"]
    assert job.outputs == {"records": json.dumps([ids[0], ids[2]], separators=(",", ":"))}
    commit(hub, {f"leaderboard/verifications/{name}.json": "{}" for name in ids}, "main")
    assert run_workflow("board.yml", hub, {}, only=("new",))["new"].outputs == {"records": "[]"}


@pytest.fixture
def patch(hub: GitHub) -> Callable[[], str]:
    """Keep a patch of README, order, a verification, and of code, which is not to come; gives main."""

    def make() -> str:
        names = ("README.md", "results/order.jsonl", f"verifications/{'a' * 64}.json")
        files = {f"leaderboard/{name}": "new\n" for name in names} | {"harness/code.py": "mine\n"}
        head, base = commit(hub, files), hub.main()
        command = ["git", "-C", str(hub.origin), "diff", "--binary", base, head]
        made = subprocess.run(command, check=True, capture_output=True).stdout
        hub.keep_artifact("board", {"board.patch": made})
        return base

    return make


def test_the_board_is_committed_where_main_stands_and_nothing_else(
    hub: GitHub, patch: Callable[[], str]
) -> None:
    base = patch()
    job = run_workflow("board.yml", hub, {"needs.make.result": "success"}, only=("commit",))["commit"]
    assert job.result == "success", job.output
    command = ["git", "-C", str(hub.origin), "diff", "--name-only", base, "main"]
    changed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    names = ("README.md", "results/order.jsonl", f"verifications/{'a' * 64}.json")
    assert changed == [f"leaderboard/{name}" for name in names]


@pytest.mark.parametrize("why", ["main has moved on", "all is current"])
def test_otherwise_nothing_is_committed(why: str, hub: GitHub, patch: Callable[[], str]) -> None:
    base = patch()
    values = {"needs.make.result": "success"}
    if why == "main has moved on":
        values["github.sha"] = "0" * 40
    else:
        hub.keep_artifact("board", {"board.patch": b""})
    job = run_workflow("board.yml", hub, values, only=("commit",))["commit"]
    assert (job.result, hub.main()) == ("success", base)
    assert why in job.output


@pytest.mark.parametrize(("faulty", "result"), [("true", "failure"), ("false", "skipped")])
def test_a_record_at_fault_fails_the_run_when_all_else_is_done(faulty: str, result: str, hub: GitHub) -> None:
    values = {"needs.make.outputs.faulty": faulty}
    assert run_workflow("board.yml", hub, values, only=("tell",))["tell"].result == result
