"""A first look, `--documents N`: a record of one's own that is honest, and that no board takes. And what text
for a terminal keeps, when it is broken into lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from terminal import Command

from remainder.base.files import require_folder
from remainder.base.paths import project_root
from remainder.base.wrapping import fill
from remainder.board.build import build
from remainder.board.snapshot import freeze
from remainder.board.verify import verify_paths
from remainder.board.which import record_of
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.measure import precision
from remainder.measure.plan import plan
from remainder.record.part import Part, part_of
from remainder.record.store import read_record, values_path
from remainder.report.compare import compare, render_comparison
from remainder.submission.open import open_submission
from remainder.task.spec import load_task

FOLDER = Path(f"tiny/digits/{load_task('tiny/digits').major}/digits-pca-4")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one submission a record of six documents with three rungs, and one of the whole tier with two."""
    from remainder.loading.open import open_task
    from remainder.runs.cells import run

    out = tmp_path_factory.mktemp("look") / "results"
    loaded = open_task("tiny/digits", device="cpu")
    entry = open_submission("digits-pca-4")
    for documents, rungs in ((6, ("raw", "full", "mean")), (None, ("raw", "full"))):
        (_,) = run(loaded, [entry], plan(loaded.task, "quick", rungs=rungs, documents=documents), out)
    return out


def of_tier(results: Path, tier: str) -> Path:
    (found,) = [path for path in (results / FOLDER).glob("*.json") if read_record(path).record.tier == tier]
    return found


@pytest.fixture
def part(results: Path) -> Path:
    return of_tier(results, "quick (6 documents)")


def test_the_name_of_a_part_is_read_back() -> None:
    assert part_of(Part("quick", 6).name) == Part("quick", 6)
    for whole in (
        "quick",
        "quick (documents)",
        "quick (0 documents)",
        "quick (-2 documents)",
        "(6 documents)",
    ):
        assert part_of(whole) is None


def test_the_checker_does_not_accuse_a_first_look_of_ones_own(results: Path, part: Path) -> None:
    verdicts = verify_paths([results], jobs=1)
    assert [verdict.passed for verdict in verdicts] == [True, True]
    (told,) = [verdict for verdict in verdicts if verdict.path == part]
    assert any("no board takes this record" in note for note in told.notes)
    (alone,) = verify_paths([part], jobs=1)
    assert alone.passed


def test_a_leaderboard_is_told_what_to_put_in_its_place(results: Path, part: Path, tmp_path: Path) -> None:
    board = tmp_path / "leaderboard" / "results"
    shutil.copytree(results, board)
    faulty = [verdict for verdict in verify_paths([board], jobs=1) if not verdict.passed]
    assert [verdict.path.name for verdict in faulty] == [part.name]
    assert faulty[0].faults == (f"tier: {Part('quick', 6).note}",)
    assert "without --documents" in " ".join(faulty[0].fixes)
    with pytest.raises(RecordError, match="Only 6 documents of tier quick"):
        freeze("2026.12", results=board, folder=tmp_path)


def test_a_tier_that_promises_other_documents_than_it_has_is_at_fault(part: Path, tmp_path: Path) -> None:
    from forging import read, seal, write

    content, values = read(part)
    content["tier"] = "quick (7 documents)"
    (verdict,) = verify_paths([write(seal(content), values, tmp_path)], jobs=1)
    assert "documents.documents: 6, its tier says 7" in verdict.faults


def test_no_board_takes_it(results: Path, part: Path, tmp_path: Path, remainder: Command) -> None:
    built = build(results, tmp_path / "site", processes=1)
    assert built.records == 1
    assert [(fault.path, fault.what) for fault in built.faults] == [
        (str(part.relative_to(results)), Part("quick", 6).note)
    ]
    before, _, after = built.readme.partition("## Left out\n")
    left_out, _, tables = after.partition("\n## ")
    assert "6 documents" in left_out
    assert "6 documents" not in before + tables
    assert remainder("board", "build", "--results", results, "--site", tmp_path / "site").code != 0


def test_a_whole_tier_stands_for_a_submission_before_a_first_look(results: Path, part: Path) -> None:
    assert record_of(results / FOLDER) == of_tier(results, "quick")
    whole = of_tier(results, "quick")
    alone = results.parent / "alone" / FOLDER
    alone.mkdir(parents=True, exist_ok=True)
    for path in (part, values_path(part)):
        shutil.copy(path, alone)
    assert record_of(alone).name == part.name != whole.name


def test_two_records_of_one_submission_are_named_in_one_line_each(results: Path, part: Path) -> None:
    whole = of_tier(results, "quick")
    lines = render_comparison(compare(part, whole)).splitlines()
    assert f"A: digits-pca-4, digits-pca-4/{part.name[:12]}… (quick (6 documents))" in lines
    assert f"B: digits-pca-4, digits-pca-4/{whole.name[:12]}… (quick)" in lines
    assert max(map(len, lines)) <= 80


def test_two_numbers_of_documents_are_one_too_many() -> None:
    task = load_task("tiny/digits")
    assert plan(task, "quick (7 documents)").documents == 7
    assert plan(task, "quick (7 documents)", documents=7).tier == "quick (7 documents)"
    with pytest.raises(TaskError, match="is of 7 documents, and 9 were asked for"):
        plan(task, "quick (7 documents)", documents=9)


def test_what_is_said_of_too_few_documents_is_true() -> None:
    with pytest.raises(TaskError) as raised:
        plan(load_task("tiny/digits"), "quick", documents=1)
    assert (
        raised.value.fix == "give 2 to 39 (fewer than 4 have no intervals); without a number all are measured"
    )


@pytest.mark.parametrize("rungs", ["", ",", " , "])
def test_rungs_that_name_none_are_not_the_tasks_own(rungs: str, remainder: Command) -> None:
    told = remainder("run", "tiny/digits", "--with", "identity", "--rungs", rungs)
    assert told.code == 3
    assert "names no rung" in told.err


def test_a_message_of_ours_has_no_prefix_of_the_library_that_passed_it_on(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError) as raised:
        open_submission("identity", ["a"])
    assert raised.value.what.startswith("identity: `ignore_fields` is not a setting of format identity")
    place = tmp_path / "suite" / "mine"
    shutil.copytree(project_root() / "tasks" / "tiny" / "digits", place)
    toml = (place / "task.toml").read_text()
    (place / "task.toml").write_text(toml.replace("[model]\n", '[model]\nfolder = "/abs/model"\n'))
    with pytest.raises(TaskError, match=r"model: `folder` is relative to the project's root"):
        load_task(place)


def test_the_product_that_is_timed_is_that_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie as `[out, in]`: the other way round bfloat16 takes another routine, ten times as slow."""
    seen = []

    def linear(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append((rows.shape[1] == weights.shape[1], weights.is_contiguous(), weights.dtype))
        return rows @ weights.T

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    precision.bfloat16_cost.cache_clear()
    assert precision.bfloat16_cost(torch.device("cpu")) > 0
    precision.bfloat16_cost.cache_clear()
    assert {(True, True, torch.float32), (True, True, torch.bfloat16)} == set(seen)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_only_its_mode_says_can_be_written_to_is_refused_at_once() -> None:
    with pytest.raises(RecordError, match="--out"):
        require_folder(Path("/proc/results"), "--out", RecordError)


def test_nothing_is_left_in_a_folder_that_was_tried(tmp_path: Path) -> None:
    require_folder(tmp_path / "a" / "b", "--out", RecordError)
    assert not list(tmp_path.iterdir())


def test_columns_stay_apart_when_a_line_is_broken() -> None:
    line = "name      one two three four"
    assert fill(line, 20, hanging=" " * 10) == "name      one two\n          three four"
    assert fill("  a  bb   ccc", 5) == "  a\nbb\nccc"
    assert fill("   " + "x" * 30, 10) == "   " + "x" * 30


def test_the_lists_of_tasks_and_of_what_one_measures_are_columns(remainder: Command) -> None:
    lines = remainder("tasks", "--suite", "tiny").out.splitlines()
    starts = {line.index(" 2-A  ") for line in lines if line.startswith("tiny/")}
    assert len(starts) == 1
    shown = remainder("show", "tiny/digits").out
    for word in ("data", "baselines", "site"):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{word} ")]
        assert line[len(word) : 11].isspace()
        assert line[11] != " "
