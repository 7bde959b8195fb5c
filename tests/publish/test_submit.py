"""Submitting: what is refused and why, what is written and when, and that a second run changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.verify import verify_paths
from remainder.errors import InterpretationError, RecordError, RemainderError, TaskError
from remainder.publish import submit as module
from remainder.publish.requirements import (
    LIMIT,
    check_description,
    files_of,
    read_described,
    refuse_taken_name,
    required_tasks,
    untold,
)
from remainder.publish.submit import Destinations, git_commands, open_pull_request, places, submit
from remainder.submission.submission import Submission

EXAMPLE = project_root() / "docs" / "examples" / "my-sae"
TASK = "tiny/induction"

Edit = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def to(tmp_path: Path) -> Destinations:
    return Destinations(tmp_path / "checkout", tmp_path / "checkout/baselines", tmp_path / "checkout/results")


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """The example with a part of its submission.toml replaced."""

    def edit(old: str, new: str) -> Path:
        folder = tmp_path / "submission"
        shutil.copytree(EXAMPLE, folder)
        text = (folder / "submission.toml").read_text()
        assert old in text
        (folder / "submission.toml").write_text(text.replace(old, new))
        return folder

    return edit


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# a submission that is made


@pytest.mark.slow
def test_the_example_is_submitted_once_and_for_all(to: Destinations, remainder: Command, cache: Path) -> None:
    """Folder, record and values are there, verify, and stay as they are when it is submitted again."""
    told = ("--out", to.results, "--submissions", to.submissions)
    first = remainder("submit", EXAMPLE, *told)
    assert first.code == 0, first.err
    paths = ("written: ", "  git add ")  # as long as they are
    assert [line for line in first.out.splitlines() if len(line) > 80 and not line.startswith(paths)] == []
    assert "tiny/induction gives no places: they are given at sites" in first.out
    assert "git switch --create submit-my-sae" in first.out
    assert "git commit --message 'Submit my-sae: tiny/induction'" in first.out
    assert "gh repo fork" in first.out
    assert "gh pr create" in first.out
    assert "does not state its training" not in " ".join(first.out.split())

    there = tree(to.root)
    (record,) = [name for name in there if name.endswith(".json") and name.startswith("results/")]
    assert record.startswith("results/tiny/induction/2/my-sae/")
    assert f"{record.removesuffix('.json')}.csv.gz" in there
    copied = {name.removeprefix("baselines/my-sae/") for name in there if name.startswith("baselines/")}
    assert copied == set(files_of(EXAMPLE))
    assert {"submission.toml", "train.py", "train.log", "weights/sae_weights.safetensors"} <= copied
    assert all(verdict.passed for verdict in verify_paths([to.results], jobs=1))
    assert len(first.out.split("written: ")) == 1 + len(there)
    assert not list((cache / "submit").glob("*"))  # what it worked on is gone

    again = remainder("submit", EXAMPLE, *told)
    assert again.code == 0, again.err
    assert "nothing was written" in again.out
    assert tree(to.root) == there
    # From where it lies now, too.
    third = submit(str(to.submissions / "my-sae"), to, device="cpu")
    assert third.written == []
    assert [row.kept for row in third.rows] == [True]
    assert tree(to.root) == there


@pytest.mark.slow
def test_a_failure_at_the_end_leaves_nothing_and_loses_nothing(
    to: Destinations, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = module._verify

    def fails(paths: Sequence[Path], roots: Sequence[Path]) -> None:
        if roots == paths:  # what was published, and not what lies in the staging folder
            raise RecordError("it does not verify", fix="no way")
        verify(paths, roots)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_verify", fails)
        with pytest.raises(RecordError, match="does not verify"):
            submit(str(EXAMPLE), to, device="cpu")
    assert tree(to.root) == {}
    # The measurement is taken up where it was left.
    done = submit(str(EXAMPLE), to, device="cpu")
    assert [row.kept for row in done.rows] == [True]
    assert done.rows[0].path.is_file()
    # What `run` measured before is taken over, too.
    expected = tree(to.root)
    measured = to.results.rename(to.root.with_name("results"))
    shutil.rmtree(to.root)
    done = submit(str(EXAMPLE), to, device="cpu", measured=measured)
    assert [row.kept for row in done.rows] == [True]
    assert tree(to.root) == expected


def test_what_is_not_stated_of_the_training_is_asked_for(edited: Edit) -> None:
    assert untold(read_described(EXAMPLE)) is None
    asked = untold(read_described(edited('script = "train.py"\n', "")))
    assert asked is not None
    assert "does not state its training script, without" in asked
    assert '`script = "train.py"`' in asked
    assert "log" not in asked


# a submission that is refused


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["Remainder contributors"]', "[]", "authors: names nobody"),
        ('["Remainder contributors"]', '["A", " "]', "authors: holds an empty name"),
        ('"MIT"', '"unknown"', "licence: is 'unknown'"),
        ('"MIT"', '" "', "licence: is ' '"),
        ('licence = "MIT"', "", "licence"),
        ('"TopK sparse autoencoder, 128 latents, k = 4"', '" "', "title: is empty"),
        ("128 latents", "\\u202e128 latents", "characters that are not printed"),
        ("128 latents", "x" * 3000, "title: 3032 characters"),
        ('"my-sae"', '"My SAE"', "name"),
        ('"my-sae"', '"my-s\\u0430e"', "name"),  # a Cyrillic a
        ('"my-sae"', '"../my-sae"', "name"),
        ('path = "weights"', 'path = "../weights"', "method"),
        ('"train.py"', '"gone.py"', "training.script: there is no file 'gone.py'"),
        ('"train.log"', '"../my-sae/train.log"', "training.log: there is no file"),
        ("seed = 0", 'seed = "a"', "training.seed"),
        ('["tiny/induction"]', '["tiny/inductoin"]', "tiny/induction"),
        ('["tiny/induction"]', '["tiny/wiki"]', "cannot be scored on tiny/wiki: fits"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    old: str, new: str, words: str, edited: Edit, to: Destinations
) -> None:
    folder = edited(old, new)
    with pytest.raises(RemainderError) as caught:
        submit(str(folder), to, device="cpu")
    assert words in str(caught.value)
    assert caught.value.fix
    assert not to.root.exists()


def test_a_folder_without_a_description_is_told_what_to_write(to: Destinations) -> None:
    with pytest.raises(InterpretationError, match=r"no submission\.toml") as caught:
        submit(str(EXAMPLE / "weights"), to)
    assert caught.value.fix is not None
    assert 'format = "saelens"' in caught.value.fix
    assert "authors = " in caught.value.fix


def test_a_family_is_written_into_the_description_and_changes_no_hash(
    edited: Edit, to: Destinations, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited("licence", "licence")
    before = read_described(folder)
    assert before.family is None
    named = module._of_family(before, "my-method")
    assert (named.family, named.hash) == ("my-method", before.hash)
    assert read_described(folder) == named
    text = (folder / "submission.toml").read_text()
    assert module._of_family(named, "my-method") == named
    assert (folder / "submission.toml").read_text() == text
    with pytest.raises(InterpretationError, match="names the family my-method, and --family other"):
        submit(str(folder), to, device="cpu", family="other")
    with pytest.raises(InterpretationError, match="it is no name"):
        module._of_family(before, "My Method")
    (folder / "submission.toml").write_text(text.replace('"my-method"', "7"))
    with pytest.raises(InterpretationError, match="family: it is 7; expected a name"):
        read_described(folder)


def test_a_description_without_tasks_takes_the_one_that_fits(edited: Edit) -> None:
    found = read_described(edited('tasks = ["tiny/induction"]\n', ""))
    assert [task.id for task in required_tasks(found)] == [TASK]


def test_a_config_that_fits_nothing_or_several_is_asked_for_tasks(edited: Edit) -> None:
    folder = edited('tasks = ["tiny/induction"]\n', "")
    config = folder / "weights" / "cfg.json"
    content = json.loads(config.read_text())
    content["metadata"].pop("hook_name")
    content["metadata"].pop("model_name")
    config.write_text(json.dumps(content))
    with pytest.raises(TaskError, match=r"fits several \("):
        required_tasks(read_described(folder))
    content["metadata"]["hook_name"] = "nowhere"
    config.write_text(json.dumps(content))
    with pytest.raises(TaskError, match="does not tell"):
        required_tasks(read_described(folder))


def test_only_its_own_public_tasks_are_measured(to: Destinations) -> None:
    with pytest.raises(TaskError, match="was made for tiny/induction"):
        submit(str(EXAMPLE), to, tasks=["tiny/wiki"])
    with pytest.raises(TaskError, match="no task of the benchmark"):
        submit(str(EXAMPLE), to, tasks=[str(project_root() / "tasks" / "tiny" / "wiki")])


def test_a_name_stands_for_one_content(edited: Edit, to: Destinations) -> None:
    taken = to.submissions / "my-sae"
    shutil.copytree(EXAMPLE, taken)
    (taken / "README.md").write_text("another")
    with pytest.raises(InterpretationError, match=r"exists already, with another README\.md"):
        submit(str(EXAMPLE), to)
    shutil.rmtree(taken)
    record = to.results / "tiny/induction/2/my-sae/x.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"submission": {"hash": "0"}}')
    with pytest.raises(InterpretationError, match="there is a record of another my-sae"):
        submit(str(EXAMPLE), to)


@pytest.mark.parametrize("name", ["my_sae", "my.sae", "my-5ae"])
def test_a_name_that_reads_like_another_is_refused(name: str) -> None:
    with pytest.raises(InterpretationError, match="reads like my-sae"):
        refuse_taken_name(name, ["my-sae", "other"])


def test_a_name_is_not_taken_for_itself_or_a_longer_one() -> None:
    refuse_taken_name("my-sae", ["my-sae", "my-sae-2", "sae"])


def test_large_weights_are_sent_to_a_hub(edited: Edit, to: Destinations) -> None:
    folder = edited("MIT", "MIT")
    with (folder / "more.bin").open("wb") as file:
        file.truncate(LIMIT)
    with pytest.raises(InterpretationError, match=r"takes 10\.1 MB") as caught:
        submit(str(folder), to)
    assert 'hub = "OWNER/REPO:FOLDER"' in str(caught.value.fix)


def test_what_is_no_plain_file_is_refused(edited: Edit) -> None:
    folder = edited("MIT", "MIT")
    (folder / ".hidden").write_text("left out")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "train.pyc").write_text("left out")
    assert set(files_of(folder)) == set(files_of(EXAMPLE))
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InterpretationError, match="link is a link"):
        files_of(folder)
    (folder / "link").unlink()
    (folder / "a b").write_text("")
    with pytest.raises(InterpretationError, match="other characters"):
        files_of(folder)
    (folder / "a b").unlink()
    for number in range(101):
        (folder / f"file-{number}").touch()
    with pytest.raises(InterpretationError, match="at most 100"):
        files_of(folder)


def test_what_lies_on_a_hub_names_its_commit() -> None:
    folder = EXAMPLE
    content = {
        "name": "my-sae",
        "kind": "reconstruction",
        "title": "t",
        "authors": ("a",),
        "licence": "MIT",
        "folder": folder,
        "files": {"a": "0" * 64},
        "commit": "c" * 40,
    }
    method = {"format": "saelens", "hub": "owner/repo:sae"}
    with pytest.raises(InterpretationError, match=r"revision: is None") as caught:
        check_description(Submission.model_validate({**content, "method": method}))
    assert "c" * 40 in str(caught.value.fix)
    with pytest.raises(InterpretationError, match="revision: is 'main'"):
        check_description(Submission.model_validate({**content, "method": {**method, "revision": "main"}}))
    check_description(Submission.model_validate({**content, "method": {**method, "revision": "c" * 40}}))


def test_an_interpretation_that_breaks_a_rule_is_not_measured(edited: Edit, to: Destinations) -> None:
    folder = edited("MIT", "MIT")
    weights = folder / "weights" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InterpretationError, match="sae_weights"):
        submit(str(folder), to)
    assert not to.root.exists()


def test_outside_of_a_checkout_it_is_said_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    with pytest.raises(RecordError, match="installed package") as caught:
        places(None, tmp_path)
    assert "git clone" in str(caught.value.fix)
    assert places(tmp_path / "r", tmp_path / "s").results == tmp_path / "r"


# git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with a commit and a remote, as a clone has it."""
    origin, checkout = tmp_path / "origin.git", tmp_path / "checkout"
    for command in (
        ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)],
        ["git", "clone", "--quiet", str(origin), str(checkout)],
        ["git", "-C", str(checkout), "config", "user.name", "A"],
        ["git", "-C", str(checkout), "config", "user.email", "a@b"],
        ["git", "-C", str(checkout), "commit", "--quiet", "--allow-empty", "--message", "first"],
        ["git", "-C", str(checkout), "push", "--quiet", "origin", "HEAD:main"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return checkout


@pytest.mark.slow
def test_open_makes_branch_commit_and_pull_request(
    repository: Path, to: Destinations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    # As gh does: this account may not push to the repository, so that its branch goes to a fork.
    (fake / "gh").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/gh.txt\n[ "$2" != view ] || echo READ\n'
        f'[ "$2" != fork ] || git remote add "$5" {tmp_path}/fork.git\n'
    )
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "fork.git")], check=True)
    (fake / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    done = submit(str(EXAMPLE), to, device="cpu")
    (repository / "mine.txt").write_text("not of the submission")
    assert git_commands(done)[1] == ["git", "add", "baselines/my-sae", "results/tiny/induction/2/my-sae"]
    open_pull_request(done)
    asked, forked, made = (tmp_path / "gh.txt").read_text().splitlines()
    assert (asked.split()[:2], forked.split()[:2], made) == (
        ["repo", "view"],
        ["repo", "fork"],
        "pr create --fill",
    )
    assert git_commands(done, fork=False)[3] == ["git", "push", "--set-upstream", "origin", "submit-my-sae"]
    pushed = subprocess.run(
        ["git", "-C", str(tmp_path / "fork.git"), "ls-tree", "-r", "--name-only", "submit-my-sae"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert set(pushed) == {name for name in tree(to.root) if not name.startswith((".git/", "mine"))}
    with pytest.raises(RecordError, match="already exists") as caught:
        open_pull_request(done)
    assert "git push" in str(caught.value.fix)


def test_open_without_gh_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remainder: Command
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = remainder("submit", EXAMPLE, "--open", "--out", tmp_path / "r", "--submissions", tmp_path / "s")
    assert outcome.code == RecordError.exit_code
    assert "needs git and gh" in outcome.err
    assert not (tmp_path / "r").exists()


def test_commands_name_places_in_the_repository_wherever_the_files_are(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "checkout"
    to = Destinations(root, elsewhere / "submissions", elsewhere / "results")
    inside = Destinations(root, root / "baselines", root / "leaderboard" / "results")
    for given in (to, inside):
        found = [
            module._in_repository(given.submissions / "my-sae", given),
            module._in_repository(given.results / "tiny" / "induction" / "2" / "my-sae", given),
        ]
        assert found == ["baselines/my-sae", "leaderboard/results/tiny/induction/2/my-sae"]
