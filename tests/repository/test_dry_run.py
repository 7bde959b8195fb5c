"""The workflows from a pull request to the board, by the very commands of their steps, in a small repository.

An honest submission passes, is merged, and stands on the board with its line of `order.jsonl`, its table and
its verification. Hostile ones are refused, each with its reason.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hub_server import serving
from workflow_steps import SECRET, GitHub, run_workflow

from remainder.base.paths import project_root
from remainder.record.store import make_record, read_record, values_path, write_record

pytestmark = pytest.mark.slow

ROOT = project_root()
EXAMPLES = ("docs/examples/my-sae", "docs/examples/my-method")
COPIED = ("harness", "tasks/tiny/induction", *EXAMPLES, "baselines/induction-pca-32")
FILES = (
    "pyproject.toml",
    "tasks/lock.json",
    "tasks/windows.json",
    "baselines/train.py",
    ".gitignore",
    ".gitattributes",
)
FIELDS = "protocol task submission tier model corpus complexity checks calibration measurement provenance"


@dataclass
class World:
    """A GitHub, a clone of an author, and what `remainder submit` wrote there."""

    hub: GitHub
    author: Path
    honest: Path
    """A copy of the written files, by their place in the checkout."""

    def git(self, *arguments: str) -> str:
        names = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "core.autocrlf=false")
        command = ["git", "-C", str(self.author), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self, *, honest: bool = True) -> None:
        """The checkout as main has it, with the honest submission if it is wanted."""
        self.git("fetch", "--quiet", "origin")
        self.git("checkout", "--quiet", "--force", "--detach", "origin/main")
        self.git("clean", "--quiet", "-ffd")
        if honest:
            shutil.copytree(self.honest, self.author, dirs_exist_ok=True)

    def submit(self, *words: str) -> None:
        """Run `remainder submit` in the author's clone."""
        own = {"PYTHONPATH": str(self.author / "harness"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "remainder", "submit", *words],
            cwd=self.author,
            env={**os.environ, **self.hub.environment, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def record(self) -> Path:
        (path,) = self.author.glob("leaderboard/results/tiny/induction/*/my-sae/*.json")
        return path

    def propose(self, number: int) -> str:
        """Commit everything as a pull request, and review it; gives its head."""
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", f"pull request {number}")
        self.git("push", "--quiet", "--force", "origin", f"HEAD:refs/pull/{number}/head")
        head = self.git("rev-parse", "HEAD")
        self.hub.open_pull(number, head)
        return head

    def reviewed(self, number: int) -> str:
        """The comment on what the checkout holds now."""
        head = self.propose(number)
        done = self.hub.review(head)
        comment = self.hub.comment()
        assert comment.startswith(f"**Review of {head}.**"), [one.output for one in done.values()]
        passed = done["measure"].result == "success"
        state = self.hub.read("statuses")[-1]
        assert (state["sha"], state["state"]) == (head, "success" if passed else "failure")
        assert (".** Passed. Author: somebody." in comment) == passed
        for ran in done["measure"].ran:  # neither token nor secret
            assert not {SECRET, "the token"} & set(ran.environment.values())
        return comment


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small copy of this project on a GitHub, and the example submitted in a clone of it."""
    folder = tmp_path_factory.mktemp("world")
    source, author = folder / "source", folder / "author"
    for name in COPIED:
        ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in FILES:
        shutil.copyfile(ROOT / name, source / name)
    cache = {"REMAINDER_CACHE": str(folder / "cache")}
    hub = GitHub(folder / "hub", dict(cache))
    made = World(hub, author, folder / "honest")
    for where, arguments in (
        (source, ("init", "--quiet", "--initial-branch=main")),
        (source, ("add", ".")),
        (source, ("-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--message", "base")),
        (folder, ("clone", "--quiet", "--bare", str(source), str(hub.origin))),
        (folder, ("clone", "--quiet", str(hub.origin), str(author))),
    ):
        subprocess.run(["git", "-C", str(where), *arguments], check=True, capture_output=True)
    made.submit(EXAMPLES[0])
    for name in ("baselines/my-sae", "leaderboard"):
        shutil.copytree(author / name, made.honest / name)
    return made


def forge(world: World, change: Callable[[pd.DataFrame], None] | None = None, **fields: Any) -> None:
    """Put another record in place of the honest one, its summaries and hashes computed from its values."""
    world.start()
    path = world.record()
    stored = read_record(path)
    values = stored.values.copy()
    if change is not None:
        change(values)
    forged = make_record(values, **{name: getattr(stored.record, name) for name in FIELDS.split()} | fields)
    for old in (path, values_path(path)):
        old.unlink()
    write_record(forged, values, path.with_name(f"{forged.record_id}.json"))


def faults(comment: str) -> str:
    """The part of a report that holds the faults."""
    return comment.partition("### Faults")[2].partition("### Measured again")[0]


def test_a_quarter_of_the_documents_is_never_forged_unseen(world: World) -> None:
    """Pushed again and again with other documents, as another record each time; failures are counted."""
    world.hub.write("comments", [])
    rng = random.Random(0)
    for push in range(4):
        chosen: set[str] = set()

        def change(values: pd.DataFrame) -> None:
            names = sorted(values.loc[values["split"] == "evaluation", "document"].unique())
            chosen.update(rng.sample(names, math.ceil(len(names) / 4)))  # noqa: B023
            values.loc[(values["rung"] == "full") & values["document"].isin(chosen), "loss"] /= 2  # noqa: B023

        forge(world, change)
        comment = world.reviewed(20 + push)  # a new pull request does not reset the count
        met = set(re.findall(r"loss at document (\S+),", faults(comment)))
        assert met, comment
        assert met <= chosen
        assert f"Failed reviews of this author so far, in all pull requests: {push + 1};" in comment
        assert ("documents: all" in comment) == (push >= 3)


def future(world: World) -> None:
    stored = read_record(next(world.honest.glob("leaderboard/results/*/*/*/my-sae/*.json")))
    forge(
        world,
        provenance=stored.record.provenance.model_copy(update={"timestamp": "2131-01-01T00:00:00+00:00"}),
    )


def renamed_documents(world: World) -> None:
    def change(values: pd.DataFrame) -> None:
        values["document"] = "x" + values["document"].astype(str)

    forge(world, change)


def many_files(world: World) -> None:
    world.start()
    for number in range(250):
        (world.author / "baselines/my-sae" / f"f{number}").write_text("x")


def out_of_code(world: World) -> None:
    """Git and GitHub show it as one renamed file, whose new name is that of a submission's file."""
    world.start()
    world.git("mv", "harness/remainder/errors.py", "baselines/my-sae/errors.py")


def link(world: World) -> None:
    world.start()
    (world.author / "baselines/my-sae/cfg.json").symlink_to("/etc/passwd")


def workflow(world: World) -> None:
    world.start()
    path = world.author / ".github" / "workflows" / "submission.yml"
    path.parent.mkdir(parents=True)
    path.write_text("on: push\n")
    (world.author / "harness/remainder/review.py").write_text("raise SystemExit(0)\n")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (future, "in the future"),
        (renamed_documents, "windows: documents, windows or scored tokens are not those of tier quick"),
        (many_files, "25[0-9] files are changed, at most 250 may be"),
        (out_of_code, r"'harness/remainder/errors\.py' is neither of a submission nor a record"),
        (link, "'baselines/my-sae/cfg.json' has mode 120000: plain files only"),
        (workflow, r"'\.github/workflows/submission\.yml' is neither of a submission nor a record"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_hostile_request_is_refused_with_its_reason(
    make: Callable[[World], None], words: str, world: World
) -> None:
    make(world)
    comment = world.reviewed(8)
    assert re.search(words, faults(comment)), comment
    # Nothing of it was taken that is no data of a submission.
    measured = world.hub.folder / "runners" / "measure" / "work"
    assert (measured / "harness/remainder/errors.py").is_file()
    assert not (measured / "harness/remainder/review.py").exists()


def test_code_waits_for_a_label_of_its_commit_and_is_then_run(world: World) -> None:
    world.hub.write("comments", [])
    world.start(honest=False)
    world.submit(EXAMPLES[1], "--trust-code")
    head = world.propose(30)
    outcomes = []
    for labels in ([], [f"run-code:{'0' * 40}"], [f"run-code:{head}"]):
        world.hub.open_pull(30, head, labels=labels)
        done = world.hub.review(head)
        comment, status = world.hub.comment(), world.hub.read("statuses")[-1]
        outcomes.append((done["measure"].outputs["waits"], status["state"]))
        assert "Failed reviews of this author so far, in all pull requests: 0;" in comment
        assert ("my-method on tiny/induction: measured again" in comment) == (
            labels[-1:] == [f"run-code:{head}"]
        )
        assert (f"gh pr edit NUMBER --add-label run-code:{head}" in comment) == (status["state"] == "pending")
        for ran in done["measure"].ran:
            assert not {SECRET, "the token"} & set(ran.environment.values())
    assert outcomes == [("true", "pending"), ("true", "pending"), ("", "success")]


@pytest.fixture
def weights(world: World, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A hub with a repository whose weights are said to take 11 GB, and its commit."""
    before = dict(world.hub.environment)
    with serving() as served:
        files = tmp_path / "files"
        shutil.copytree(ROOT / "docs/examples/my-sae/weights", files)
        commit = served.add("test/big", files)
        served.claimed = {path.name: 11_000_000_000 for path in files.glob("*.safetensors")}
        world.hub.environment |= {
            "HF_ENDPOINT": served.url,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_HUB_OFFLINE": "0",
        }
        yield served, commit
    world.hub.environment = before


def test_a_submission_that_would_fill_the_runner_is_refused(world: World, weights: tuple[Any, str]) -> None:
    """A request that touches `baselines/` alone, too."""
    served, commit = weights
    world.start(honest=False)
    folder = world.author / "baselines" / "my-sae"
    folder.mkdir()
    text = (ROOT / "docs/examples/my-sae/submission.toml").read_text()
    (folder / "submission.toml").write_text(
        text.replace('path = "weights"', f'hub = "test/big:."\nrevision = "{commit}"')
    )
    comment = world.reviewed(9)
    assert re.search(r"files on the hub take 11 GB .*at most 10 GB may be downloaded", faults(comment)), (
        comment
    )
    assert served.downloads() == []


def test_an_honest_request_passes_and_lands(world: World) -> None:
    """And a bad record that is merged all the same stops nothing: it is named, and the run fails at last."""
    world.start()
    first, second = world.reviewed(10), world.reviewed(10)
    assert "Submission my-sae: everything came out as it is recorded" in first
    drawn = re.findall(r"documents: (.*(?:\n    .*)*)", first)
    assert drawn
    assert drawn == re.findall(r"documents: (.*(?:\n    .*)*)", second)  # closed and opened again
    world.git("push", "--quiet", "origin", "HEAD:main")

    board = run_workflow("board.yml", world.hub, {})
    assert [job.result for job in board.values()] == [*["success"] * 4, "skipped"], board["make"].output
    world.start(honest=False)
    record = world.record()
    lines = (world.author / "leaderboard/results/order.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in lines] == [record.stem]
    text = (world.author / "leaderboard/README.md").read_text()
    assert "my-sae" in text
    assert "Left out" not in text
    kept = json.loads((world.author / "leaderboard/verifications" / f"{record.stem}.json").read_text())
    assert kept["outcome"] == "passed"
    assert kept["remeasured"]["passed"]
    count = read_record(record).record.documents.documents
    assert len(kept["remeasured"]["documents"]) == count - math.ceil(count / 4) + 1

    # A second run on the same records changes nothing.
    before = world.hub.main()
    again = run_workflow("board.yml", world.hub, {})
    assert [again[name].result for name in ("draw", "make", "tell")] == ["skipped", "success", "skipped"]
    assert world.hub.main() == before

    bad = record.with_name(f"{'0' * 64}.json")
    bad.write_text('{"schema_version": 5}')
    world.git("add", ".")
    world.git("commit", "--quiet", "--message", "merged by mistake")
    world.git("push", "--quiet", "origin", "HEAD:main")
    broken = run_workflow("board.yml", world.hub, {})
    assert broken["make"].result == "success", broken["make"].output
    assert bad.stem in broken["make"].output
    assert broken["commit"].result == "success"
    assert broken["tell"].result == "failure"
    world.start(honest=False)
    text = (world.author / "leaderboard/README.md").read_text().replace("\\", "")
    assert "| my-sae" in text
    assert f"my-sae/{bad.name}: " in text.partition("## Left out")[2]
