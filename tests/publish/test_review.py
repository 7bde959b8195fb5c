"""Reviewing a pull request: which files it may bring, and that nothing else is ever taken from it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from remainder.errors import RecordError
from remainder.publish.requirements import LIMIT
from remainder.publish.review import ChangedFile, Review, changes, faults_of_changes, review

RECORD = "leaderboard/results/tiny/induction/1/my-sae/" + "a" * 64
GOOD = {
    "baselines/my-sae/submission.toml": "name",
    "baselines/my-sae/weights/cfg.json": "{}",
    f"{RECORD}.json": "{}",
    f"{RECORD}.csv.gz": "values",
}

Branch = Callable[[dict[str, str | None]], list[ChangedFile]]


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Git in a repository with one commit, which has tables, a record and code."""

    def call(*arguments: str) -> str:
        settings = ("-c", "user.name=A", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    call("init", "--quiet", "--initial-branch=main")
    for name in ("leaderboard/README.md", f"{RECORD.replace('my-sae', 'other')}.json", "harness/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    call("add", ".")
    call("commit", "--quiet", "--message", "base")
    return call


@pytest.fixture
def branch(git: Callable[..., str], tmp_path: Path) -> Branch:
    """Commit files (None: delete it) on a branch; gives what changed."""

    def make(files: dict[str, str | None]) -> list[ChangedFile]:
        git("switch", "--quiet", "--create", "submission")
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            elif content.startswith("-> "):
                path.symlink_to(content.removeprefix("-> "))
            else:
                path.write_text(content)
        git("add", ".")
        git("commit", "--quiet", "--message", "submission")
        return changes(tmp_path, "main", "submission")

    return make


def test_a_submission_with_its_records_may_come(branch: Branch) -> None:
    found = branch(dict(GOOD))
    assert {change.path: change.size for change in found} == {name: len(text) for name, text in GOOD.items()}
    assert {change.status for change in found} == {"A"}
    assert list(faults_of_changes(found)) == []


def test_nested_records_belong_to_the_coarser_of_both(branch: Branch) -> None:
    nested = RECORD.replace("my-sae", "my-sae-to-other")
    files = {**GOOD, f"{nested}.json": "{}", f"{nested}.csv.gz": "values"}
    assert list(faults_of_changes(branch(dict(files)))) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({".github/workflows/submission.yml": "mine"}, "neither of a submission nor a record"),
        ({"harness/code.py": "mine"}, "neither of a submission nor a record"),
        ({"tasks/tiny/induction/task.toml": "mine"}, "neither of a submission nor a record"),
        ({"leaderboard/verifications/x.json": "{}"}, "made on the main branch"),
        ({"leaderboard/results/order.jsonl": "{}"}, "made on the main branch"),
        ({"leaderboard/snapshots/2026.12.json": "{}"}, "neither of a submission nor a record"),
        ({"leaderboard/results/withdrawn.jsonl": "{}"}, "neither of a submission nor a record"),
        ({"baselines/train.py": "mine"}, "neither of a submission nor a record"),
        ({"baselines/my-sae/.git/config": "mine"}, "neither of a submission nor a record"),
        ({"baselines/my-sae/a b": "mine"}, "neither of a submission nor a record"),
        ({"baselines/my-s\u0430e/submission.toml": "mine"}, "neither of a submission nor a record"),
        (
            {"leaderboard/results/tiny/induction/1/my-sae/x.json": "{}"},
            "neither of a submission nor a record",
        ),
        ({f"{RECORD.replace('/1/', '/0/')}.json": "{}"}, "neither of a submission nor a record"),
        ({f"{RECORD.replace('my-sae', 'other')}.json": "new"}, "only ever added"),
        ({f"{RECORD.replace('my-sae', 'other')}.json": None}, "only ever added"),
        ({"leaderboard/README.md": None}, "made on the main branch"),
        ({"leaderboard/README.md": "tables"}, "made on the main branch"),
        ({"baselines/my-sae/link": "-> /etc/passwd"}, "mode 120000"),
        ({"baselines/my-sae/big": "x" * (LIMIT + 1)}, "put the weights on a hub"),
        ({f"{RECORD}.json": "x" * 4_000_001}, "4,000,001 bytes"),
        ({"baselines/other/submission.toml": "name"}, "several submissions (my-sae, other)"),
        ({f"{RECORD.replace('aaaa', 'bbbb')}.csv.gz": "values"}, "values without their record"),
    ],
)
def test_what_else_it_brings_is_refused(files: dict[str, str | None], words: str, branch: Branch) -> None:
    name = next(iter(files))
    # Git itself takes no folder of that name.
    within = ChangedFile("A", "100644", "0" * 40, 1, name)
    found = [within] if "/.git/" in name else branch({**GOOD, **files})
    faults = list(faults_of_changes(found))
    assert any(words in fault for fault in faults), faults


def test_an_executable_is_refused() -> None:
    (fault,) = faults_of_changes([ChangedFile("A", "100755", "0" * 40, 1, "baselines/my-sae/train.py")])
    assert "mode 100755" in fault


def test_what_was_moved_is_deleted_and_added(git: Callable[..., str], branch: Branch, tmp_path: Path) -> None:
    """A record that is moved has lost its place: it is not hidden behind a rename."""
    name = f"{RECORD.replace('my-sae', 'other')}.json"
    faults = list(faults_of_changes(branch({name: None, f"{RECORD}.json": "old"})))
    assert any("only ever added" in fault for fault in faults)


def test_nothing_and_too_much_are_refused() -> None:
    assert next(faults_of_changes([])) == "nothing is changed"
    many = [ChangedFile("A", "100644", "0", 1, f"baselines/my-sae/f{number}") for number in range(251)]
    assert list(faults_of_changes(many)) == ["251 files are changed, at most 250 may be"]
    other = [ChangedFile("A", "100644", "0", 1, "docs/x.md")]
    assert "there is no submission and no record in it" in list(faults_of_changes(other))


def test_a_commit_is_no_option_of_git(tmp_path: Path) -> None:
    for name in ("--upload-pack=x", "", "a b", "-x"):
        with pytest.raises(RecordError, match="is no commit"):
            review("main", name)
    with pytest.raises(RecordError, match="git rev-parse --verify failed"):
        review("main", "0" * 40)


def test_a_report_holds_what_others_wrote_in_fences_only() -> None:
    evil = "``` \n# Heading <img src=x> @everyone\n```"
    text = Review("my-sae", "0" * 40, [evil, "x" * 100_000]).markdown()
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif "Heading" in line or "xxx" in line:
            assert inside
    assert not inside
    assert len(text) < 30_000
