"""Submissions that bring code: nobody runs it unasked, and the example is scored as in one's own process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from code_files import write_code
from terminal import Command

import remainder as face
from remainder.base import paths
from remainder.base.cache import sha256_file
from remainder.base.paths import project_root
from remainder.board import origin, rank, view
from remainder.board.merge import BoardRow, folders_of_tasks, read_entries
from remainder.board.readme import section
from remainder.board.verify import verify_paths
from remainder.cli import publish as commands
from remainder.errors import InterpretationError, RecordError
from remainder.publish import remeasure, review
from remainder.publish.place import describe_place
from remainder.publish.submit import Destinations, Submitted, submit
from remainder.record.code import CODE
from remainder.record.schema import Record, SubmissionInfo
from remainder.record.store import read_record
from remainder.submission.description import Description, read_description
from remainder.submission.method import FORMATS

EXAMPLE = project_root() / "docs" / "examples" / "my-method"
TASK = "tiny/induction"


def destinations(root: Path) -> Destinations:
    return Destinations(root, root / "baselines", root / "results")


def test_the_format_that_records_state_is_the_one_that_runs_code() -> None:
    assert [name for name, row in FORMATS.items() if row.runs_code] == [CODE]


def test_without_trust_nothing_is_run_and_nothing_written(tmp_path: Path, remainder: Command) -> None:
    told = ("--out", tmp_path / "results", "--submissions", tmp_path / "baselines")
    done = remainder("submit", EXAMPLE, *told)
    assert done.code == InterpretationError.exit_code
    assert f"{EXAMPLE}/method.py is executed" in done.err
    assert "--trust-code" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_method_of_an_installed_package_is_not_submitted(tmp_path: Path) -> None:
    """Who has the repository alone could not measure it again."""
    folder = write_code(tmp_path / "mine", name="mine")
    text = (folder / "submission.toml").read_text()
    (folder / "submission.toml").write_text(text.replace("method.py:build", "elsewhere"))
    with pytest.raises(InterpretationError, match="no installed package registers 'elsewhere'"):
        submit(str(folder), destinations(tmp_path / "to"), trust_code=True)


def test_a_file_that_code_could_read_and_no_record_names_is_told(tmp_path: Path) -> None:
    folder = write_code(tmp_path / "mine", name="mine")
    (folder / ".notes").write_text("hidden")
    described = read_description(folder, Description)
    files = {"method.py": sha256_file(folder / "method.py")}
    stated = SubmissionInfo(name="mine", kind="reconstruction", files=files, hash="0" * 64)
    assert list(origin._files(folder, described.method, stated, "submission")) == []
    (folder / "deep").mkdir()
    (folder / "deep" / "table.txt").write_text("what it leans on")
    (remark,) = origin._files(folder, described.method, stated, "submission")
    assert remark.text == "submission.files: lacks deep/table.txt"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Baselines one of which is code, for a task of digits."""
    root, other = tmp_path / "checkout", "digits-pca-4"
    shutil.copytree(project_root() / "baselines" / other, root / "baselines" / other)
    write_code(root / "baselines" / "coded")
    monkeypatch.setattr(paths, "project_root", lambda: root)
    monkeypatch.chdir(tmp_path)
    return other


def test_a_run_of_all_baselines_leaves_out_code_and_says_so(
    bundled: str, tmp_path: Path, remainder: Command
) -> None:
    """Else nobody could run all baselines any more, once one of them is code."""
    done = remainder("run", "tiny/digits", "--rungs", "raw", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "tiny/digits: not measured, since they are code: coded (read it, and add --trust-code)" in done.err
    assert bundled in done.out
    assert "coded" not in done.out


@pytest.mark.slow
def test_a_run_of_all_baselines_has_code_that_is_trusted(
    bundled: str, tmp_path: Path, remainder: Command
) -> None:
    done = remainder("run", "tiny/digits", "--rungs", "raw", "--out", tmp_path / "out", "--trust-code")
    assert done.code == 0, done.err
    assert "not measured" not in done.err
    assert "code: coded: its own code encodes and decodes, in a sandbox." in done.out


# a review


@pytest.fixture
def proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A request with the folder of a method; gives the settings that it is measured again with."""
    name = "mine"
    write_code(tmp_path / "baselines" / name, 'raise SystemExit("it was run")', name=name)
    changed = review.ChangedFile("A", "100644", "0" * 40, 1, f"baselines/{name}/method.py")
    record = tmp_path / "leaderboard/results/tiny/digits/2" / name / f"{'a' * 64}.json"
    measured: list[dict[str, Any]] = []
    stated = read_record(next((project_root() / "leaderboard/results/tiny/digits").rglob("*.json"))).record

    def again(path: Path, result: Any, settings: dict[str, Any], progress: None) -> None:
        measured.append(settings)

    for what, value in {
        "project_root": lambda: tmp_path,
        "_commit": lambda root, commit: commit,
        "_git": lambda root, *arguments: b"base",
        "changes": lambda root, base, head: [
            changed,
            changed._replace(path=record.relative_to(tmp_path).as_posix()),
        ],
        "_take": lambda root, head, change: None,
        "verify_paths": lambda paths, jobs: [_Sound(record, stated)],
        "describe_place": lambda found, results: [],
        "_missing_tasks": lambda submission, results: [],
        "_measure_again": again,
    }.items():
        monkeypatch.setattr(review, what, value)
    return measured


class _Sound:
    """A verdict without faults."""

    faults = ()
    passed = True

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self.record = path, record


def test_a_review_waits_where_code_would_have_to_be_run(proposed: list[dict[str, Any]]) -> None:
    found = review.review("base", "h" * 40)
    assert proposed == []
    assert (found.faults, found.passed) == ([], False)
    text = found.markdown()
    assert "## Submission mine: it waits for a maintainer" in text
    assert "### Not looked at yet" in text
    assert f"gh label create run-code:{'h' * 40}" in text.splitlines()


def test_a_review_runs_code_when_it_is_told_to(
    proposed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "unlimited", lambda: ())
    found = review.review("base", "h" * 40, trust_code=True)
    assert [settings["trust_code"] for settings in proposed] == [True]
    assert found.passed
    assert "waits" not in found.markdown()


def test_a_review_runs_no_code_where_nothing_confines_it(
    proposed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "unlimited", lambda: ("connections", "memory"))
    with pytest.raises(RecordError, match="nothing limits here connections, memory"):
        review.review("base", "h" * 40, trust_code=True)
    assert proposed == []
    assert review.review("base", "h" * 40).waits


@pytest.mark.parametrize(
    ("faults", "waits", "code"), [([], [], 0), (["x"], [], 1), (["x"], ["y"], 1), ([], ["y"], 8)]
)
def test_a_review_that_waits_is_neither_passed_nor_failed(
    faults: list[str], waits: list[str], code: int, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = review.Review("mine", "h" * 40, faults=faults, waits=waits)
    monkeypatch.setattr(review, "review", lambda *commits, **settings: found)
    assert remainder("review", "base", "head").code == code
    workflow = (project_root() / ".github/workflows/review.yml").read_text(encoding="utf-8")
    assert f"if ((code == {commands._WAITS})); then" in workflow


def test_code_is_trusted_where_records_are_measured_again_and_nowhere_else(remainder: Command) -> None:
    done = remainder("verify", EXAMPLE, "--trust-code")
    assert done.code == 7
    assert "add --rerun" in done.err


# the example, from its folder to the board


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REMAINDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield submit(str(EXAMPLE), destinations(tmp_path_factory.mktemp("to")), device="cpu", trust_code=True)


@pytest.fixture(scope="module")
def beside(submitted: Submitted) -> BoardRow:
    """Its row, beside the records of the other submissions to its task."""
    results = submitted.places.results
    for path in (project_root() / "leaderboard" / "results" / TASK).rglob("*"):
        if path.is_file():
            copy = results / path.relative_to(project_root() / "leaderboard" / "results")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    entries, faults = read_entries(results, folders_of_tasks(results)[TASK])
    assert faults == []
    (found,) = (one for one in entries if one.record.submission.name == "my-method")
    return found


@pytest.mark.slow
def test_the_example_is_scored_and_says_that_it_is_code(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = submitted.rows
    record = row.record
    assert record.submission.format == CODE
    assert record.submission.runs_code
    assert set(record.submission.files) == {path.name for path in EXAMPLE.iterdir()} - {
        *("submission.toml", "__pycache__")
    }
    # As in a checkout, where its files are compared, too.
    monkeypatch.setattr(origin, "baseline", lambda name: submitted.places.submissions / name)
    (verdict,) = verify_paths([row.path], jobs=1)
    assert verdict.passed, verdict.faults
    assert any(note.startswith("complexity.features: its code alone") for note in verdict.notes)
    assert not record.failed_checks
    coding = record.metrics.coding
    assert coding is not None
    assert coding.points["coded"].efficiency.low is not None
    assert coding.points["coded"].efficiency.low > 0  # better than transform coding at equal bits
    assert record.complexity.bits_per_token.value == pytest.approx(18, abs=0.5)


@pytest.mark.slow
def test_the_example_scores_as_in_ones_own_process(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values to 1e-6, document by document, on every rung."""
    spec = importlib.util.spec_from_file_location("my_method", EXAMPLE / "method.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_method", module)
    spec.loader.exec_module(module)
    site = face.SiteInfo.of(face.load_task(TASK))
    own = face.evaluate(TASK, module.build(EXAMPLE, site), device="cpu")
    theirs = read_record(submitted.rows[0].path)
    keys = ["split", "rung", "document", "window", "draw"]
    numbers = ["loss", "kl"]
    one, other = (table.set_index(keys)[numbers].sort_index() for table in (own.values, theirs.values))
    assert len(one) == len(other) > 1000
    assert float((one - other).abs().max().max()) < 1e-6
    # Beyond the loss: bits, curve and fits are those of the same codes.
    curves = [each.metrics.coding for each in (theirs.record, own.record)]
    assert curves[0] is not None
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_the_example_has_a_place_within_a_budget_and_its_mark(
    beside: BoardRow, submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Treated as a task of a public model: tiny ones give no places."""
    from remainder.publish import place

    for module in (place, view):
        monkeypatch.setattr(module, "gives_places", lambda task: True)
    lines = describe_place(beside.record, submitted.places.results)
    assert any(line.startswith("Within 1/2 of R₀") and "place 1 of" in line for line in lines), lines
    entries, _ = read_entries(submitted.places.results, folders_of_tasks(submitted.places.results)[TASK])
    (board,) = view.boards(entries)
    assert rank.unplaced_because(beside) == ""
    table = section("", board)
    assert any("my-method (code)" in line for line in table.splitlines())
    assert "(code): it encodes and decodes by code of its own" in table


@pytest.mark.slow
def test_the_example_is_measured_again_only_where_its_code_is_trusted(submitted: Submitted) -> None:
    path = submitted.rows[0].path
    settings: dict[str, Any] = {"documents": 6, "seed": "s", "nonce": "n", "submission": EXAMPLE}
    with pytest.raises(InterpretationError, match=r"method\.py is executed on this machine"):
        remeasure.rerun(path, **settings)
    found = remeasure.rerun(path, **settings, trust_code=True)
    assert found.passed, found.faults
