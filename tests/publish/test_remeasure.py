"""Measuring documents of a record again: honest records repeat, forged ones do not, whatever their hashes."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from terminal import Command
from tiny import Shrink, make_loaded

from remainder.base.paths import cache_root
from remainder.board.tolerance import TOLERANCES, tolerance_of
from remainder.board.verifications import read_verification
from remainder.board.verify import verify_record
from remainder.errors import InterpretationError, RecordError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.plan import Plan, plan
from remainder.measure.reference import REFERENCE_STEPS
from remainder.measure.seal import Remeasured
from remainder.publish import remeasure as module
from remainder.publish.afresh import PINNED, _empty_cache, _environment, _other_threads, measure_afresh
from remainder.publish.comparison import FLIPPED, _bits, _histogram_move
from remainder.publish.remeasure import (
    Rerun,
    _other_batch,
    choose_documents,
    render_rerun,
    rerun,
)
from remainder.record.store import StoredRecord, make_record, read_record, write_record
from remainder.record.values import canonical_values, of_split
from remainder.runs.cells import run
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.submission.submission import Entry

TASK, NAME, BETTER = "tiny/induction", "induction-random-32", "induction-pca-32"
RUNGS = ("true", "coded", "raw", "mean", "isotropic", "full-unshrunk", "full", "permuted", "noise-fitted")
"""What the edits of this page need; conditional rungs would take most of the time."""


def measured(names: Sequence[str], rungs: tuple[str, ...] | None, folder: Path) -> dict[str, Path]:
    """Records of some baselines, by name."""
    loaded = open_task(TASK, device="cpu")
    submissions = [open_submission(name) for name in names]
    rows = run(loaded, submissions, plan(loaded.task, "quick", rungs=rungs), folder)
    return {row.record.submission.name: row.path for row in rows}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A record of each of two baselines, by name."""
    return measured((NAME, BETTER), RUNGS, tmp_path_factory.mktemp("results"))


@pytest.fixture(autouse=True)
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks stay in memory between the tests: opening one takes longer than measuring a few documents."""
    monkeypatch.setattr(module, "open_task", lambda *a, **b: _opened(*a, **{**b, "progress": None}))


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured again depends on submission, plan and documents, not on what a forged record says."""
    measure = SiteTask.remeasure

    def remeasure(
        self: SiteTask, entry: Entry, settings: Plan, documents: Collection[str], **more: Any
    ) -> Remeasured:
        if more.get("reference") is not None:
            return measure(self, entry, settings, documents, **more)
        key = (self.task.hash, entry.hash, settings, frozenset(documents), self.batch_size)
        if key not in _MEASURED:
            _MEASURED[key] = measure(self, entry, settings, documents, **more)
        found = _MEASURED[key]
        return found._replace(values=found.values.copy())

    monkeypatch.setattr(SiteTask, "remeasure", remeasure)


_MEASURED: dict[object, Remeasured] = {}


@cache
def _opened(task: str, *, device: str, batch_size: int | None, progress: None) -> LoadedTask:
    return open_task(task, device=device, batch_size=batch_size, progress=progress)


def forge(folder: Path, stored: StoredRecord, values: pd.DataFrame, **changed: Any) -> Path:
    """A record of other values, with every summary and hash computed from them, as an honest one has."""
    record = stored.record
    kept = {
        name: getattr(record, name)
        for name in (
            *("protocol", "task", "submission", "tier", "model", "corpus", "complexity", "checks"),
            *("calibration", "measurement", "provenance", "warnings"),
        )
    }
    forged = make_record(values, **{**kept, **changed})
    major = forged.task.version.partition("-")[0]
    place = folder / forged.task.id / major / forged.submission.name / f"{forged.record_id}.json"
    write_record(forged, values, place)
    return place


def shares_of(stored: StoredRecord, other: StoredRecord) -> dict[str, Any]:
    """Calibration of one record, with what another one leaves unexplained, and what that one's codes cost.

    Else the two splits differ, and bits are not those of the steps.
    """
    left = other.record.calibration.unexplained
    calibration = stored.record.calibration.model_copy(update={"unexplained": left})
    return {"calibration": calibration, "complexity": other.record.complexity}


# what is honest repeats


@pytest.mark.slow
def test_an_honest_record_repeats_in_any_of_its_documents(tmp_path: Path) -> None:
    place = measured((NAME,), None, tmp_path)[NAME]
    found = rerun(place, documents=3, seed="commit", nonce="word")
    assert found.passed, found.faults
    # clean; raw, coded, mean; three more points; the reference; nearest neighbour, mirror, minus-mean
    still = 1 + 3 + 3 + (1 + len(REFERENCE_STEPS)) + 3
    # pairs of full × .3, × .6 and × 1; and of permuted, cluster, renormalised, noise-centred, noise-fitted
    assert found.rows == 3 * (still + 2 * (2 + 4 + 4 + 5))
    assert found.largest < 1e-6
    text = render_rerun(found)
    assert "as recorded" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
    kept = found.kept(afresh=False)
    assert (kept.documents, kept.chosen_by, kept.passed) == (found.documents, "commit word", True)
    again = rerun(place, documents=3, seed="commit", nonce="word")
    assert again.documents == found.documents


def test_documents_are_drawn_by_commit_and_nonce(honest: dict[str, Path]) -> None:
    stored = read_record(honest[NAME])
    draws = {choose_documents(stored, 4, seed, nonce) for seed in "ab" for nonce in "cd"}
    assert len(draws) == 4
    every = choose_documents(stored, 10_000, "a", "b")
    assert list(every) == sorted(of_split(stored.values)["document"].unique())
    # Every document can be drawn: nothing is left to be forged at leisure.
    drawn = {name for number in range(400) for name in choose_documents(stored, 4, "a", str(number))}
    assert drawn == set(every)


@pytest.mark.parametrize("nested", [False, True])
def test_a_document_measured_alone_has_the_values_that_it_has_among_all(nested: bool) -> None:
    loaded = make_loaded()
    subject = object_submission(Shrink(), "shrink")
    reference = object_submission(Shrink(0.9, 0.0), "finer") if nested else None
    chosen = plan(loaded.task, "quick", rungs=("full", "radial", "permuted", "matched"), pairs=1)
    record, values = loaded.measure(subject, chosen, reference=reference)
    names = sorted(set(of_split(canonical_values(values))["document"]))[::3]
    found = loaded.remeasure(subject, chosen, names, reference=reference)
    expected = of_split(canonical_values(values))
    expected = expected.loc[expected["document"].isin(names)]
    assert set(found.values["document"]) == set(names)
    pd.testing.assert_frame_equal(
        found.values.reset_index(drop=True),
        expected.reset_index(drop=True),
        rtol=1e-6,
        atol=1e-7,
    )
    assert found.complexity.coding == record.complexity.coding
    assert found.calibration == record.calibration


@pytest.mark.slow
def test_of_a_circuit_all_prompts_are_measured_again(tmp_path: Path) -> None:
    loaded = open_task("tracr/reverse-circuit", device="cpu")
    submission = open_submission("random-edges")
    (row,) = run(loaded, [submission], plan(loaded.task, "quick"), tmp_path / "honest")
    found = rerun(row.path, documents=1, seed="s", nonce="n")
    assert found.passed, found.faults
    assert len(found.documents) == row.record.documents.documents
    assert "documents: all" in render_rerun(found)
    values = row.values.copy()
    values.loc[values["rung"] == "raw", "answer"] *= 1.05
    found = rerun(forge(tmp_path, StoredRecord(row.record, values), values), seed="s", nonce="n")
    assert {fault.split(" at ")[0] for fault in found.faults} == {"answer"}


# what is forged does not


def test_a_record_forged_throughout_passes_every_check_but_this_one(
    honest: dict[str, Path], tmp_path: Path
) -> None:
    """A better interpretation's values under another's name: no hash and no summary can tell."""
    mine, better = read_record(honest[NAME]), read_record(honest[BETTER])
    place = forge(tmp_path, mine, better.values, **shares_of(mine, better))
    assert place.stem != honest[NAME].stem
    assert verify_record(place).faults == ()
    found = rerun(place, documents=1, seed="s", nonce="n")
    assert not found.passed
    assert any(fault.startswith("mean kl of rung raw") for fault in found.faults)
    assert found.largest > 0.01
    assert "NOT as recorded" in render_rerun(found)


def scaled(values: pd.DataFrame, column: str, rung: str, factor: float) -> pd.DataFrame:
    changed = values.copy()
    rows = changed["rung"] == rung
    changed.loc[rows, column] = np.round(changed.loc[rows, column] * factor)
    if column in ("loss", "kl", "residual_ss", "centred_ss"):
        changed.loc[rows, column] = values.loc[rows, column] * factor
    return changed


def test_every_column_is_compared(honest: dict[str, Path], tmp_path: Path) -> None:
    """A few per cent of a column are caught, whatever is made consistent around it."""
    stored = read_record(honest[NAME])
    edits = [
        ("kl", "raw", 0.98),
        ("kl", "full", 0.98),
        ("loss", "mean", 0.99),
        ("loss", "noise-fitted", 1.02),
        ("residual_ss", "raw", 0.95),
        ("centred_ss", "raw", 1.05),
        ("active", "raw", 0.9),
        ("bits", "coded", 0.95),
        ("bits_3", "raw", 0.95),
        ("ss_3", "raw", 0.95),
        ("kl", "reference-2", 1.05),
        ("top1", "permuted", 1.3),
        ("correct", "permuted", 0.5),
    ]
    values = stored.values
    for column, rung, factor in edits:
        values = scaled(values, column, rung, factor)
    values["top1"] = values["top1"].clip(upper=values["tokens"])
    found = rerun(forge(tmp_path, stored, values), documents=4, seed="s", nonce="n")
    for column, rung, _ in edits:
        told = rf"{column} at document [^,]*, window 0, rung {rung},|mean {column} of rung {rung}:"
        assert any(re.match(told, fault) for fault in found.faults), (column, rung)
    honest_rungs = {"full-unshrunk", "true", "isotropic"}
    assert not any(f"rung {rung}" in fault for rung in honest_rungs for fault in found.faults)


def test_what_no_values_give_is_compared_too(honest: dict[str, Path], tmp_path: Path) -> None:
    """Cost and calibration are no sums of per-document values, so a forger can write what he likes."""
    stored = read_record(honest[NAME])
    assert stored.record.complexity.coding is not None
    coarse = stored.record.complexity.coding.model_copy(update={"rms": 3.0})
    cheap = stored.record.complexity.model_copy(update={"coding": coarse})
    found = rerun(forge(tmp_path, stored, stored.values, complexity=cheap), documents=1, seed="s", nonce="n")
    assert [fault.split(":")[0] for fault in found.faults] == ["complexity.coding.rms"]
    shrunk = stored.record.calibration.model_copy(update={"shrinkage": 0.9})
    found = rerun(
        forge(tmp_path, stored, stored.values, calibration=shrunk), documents=1, seed="s", nonce="n"
    )
    assert [fault.split(":")[0] for fault in found.faults] == ["calibration.shrinkage"]


def test_documents_that_were_left_out_are_missed(honest: dict[str, Path], tmp_path: Path) -> None:
    stored = read_record(honest[NAME])
    raw = of_split(stored.values).query("rung == 'raw'").sort_values("kl")
    worst = set(raw["document"].tail(10))
    place = forge(tmp_path, stored, stored.values.loc[~stored.values["document"].isin(worst)])
    found = rerun(place, documents=1, seed="s", nonce="n")
    assert found.faults == ("windows: 0 are none of the tier quick, 10 of its 64 are missing",)


@pytest.mark.slow
def test_bits_that_are_all_shifted_alike_are_noticed(honest: dict[str, Path], tmp_path: Path) -> None:
    """What one window is allowed is not allowed to each of nine; nor in the reference's rows."""
    stored = read_record(honest[NAME])
    share = 0.98 * tolerance_of(stored.record, same_device=True).relative
    for column, rung in (("bits", "coded"), ("bits_3", "raw"), ("bits", "reference-2")):
        values = stored.values.copy()
        rows = (values["rung"] == rung) & (values["split"] == "evaluation")
        assert values.loc[rows, column].min() > 2 * FLIPPED
        values.loc[rows, column] -= share * values.loc[rows, column] + FLIPPED - 1
        found = rerun(forge(tmp_path, stored, values), documents=9, seed="s", nonce="n")
        told = [fault for fault in found.faults if " bits" in fault or fault.startswith("bits")]
        assert [fault.partition(":")[0] for fault in told] == [f"sum of {column} of rung {rung}"]


@pytest.mark.slow
def test_one_window_whose_code_turned_is_rounding_and_two_are_not(
    honest: dict[str, Path], tmp_path: Path
) -> None:
    """Its rows may deviate by more than others, but no mean of a rung by more than ever."""
    stored = read_record(honest[NAME])
    tolerance = tolerance_of(stored.record, same_device=True)
    assert tolerance.turned > 1
    evaluation = stored.values["split"] == "evaluation"
    documents = sorted(stored.values.loc[evaluation, "document"].unique())
    few = len(documents)

    def faults(turned: list[str], times: float) -> list[str]:
        values = stored.values.copy()
        for document in turned:
            rows = evaluation & (values["document"] == document) & (values["rung"] == "coded")
            room = tolerance.row * values.loc[rows, "tokens"] + tolerance.relative * values.loc[rows, "kl"]
            values.loc[rows, "loss"] += times * room
        return list(rerun(forge(tmp_path, stored, values), documents=few, seed="s", nonce="n").faults)

    assert faults(documents[:1], 1.5) == []
    assert any(fault.startswith("loss at document") for fault in faults(documents[:2], 1.5))
    assert any(
        fault.startswith("loss at document") for fault in faults(documents[:1], 1.5 * tolerance.turned)
    )
    assert any(fault.startswith("mean loss of rung coded") for fault in faults(documents, 0.999))


def test_bits_that_flip_to_either_side_are_rounding() -> None:
    """As many bits a window, half of them up and half down, or √n windows' worth to one side."""

    def faults(shift: list[float], recorded: float = 1000.0) -> list[str]:
        stated = np.array(shift) + recorded
        rows = {"rung": "coded", "_merge": "both", "bits": stated, "bits_now": recorded}
        return list(_bits(pd.DataFrame(rows), TOLERANCES["float32", True]))

    up, down, none = float(FLIPPED), -float(FLIPPED), 0.0
    assert faults([up, down] * 8) == []
    assert faults([up] * 4 + [none] * 12) == []  # √16 of them
    assert len(faults([up] * 6 + [none] * 10)) == 1  # a thousandth of the sum, too, is 16
    assert len(faults([math.nan, up, up, up])) == 1  # what is missing hides nothing


def test_a_histogram_that_was_thinned_is_noticed() -> None:
    assert _histogram_move("-20:3;0:1", "-20:3;0:1", -100) == 0
    assert _histogram_move("-20:3;0:1", "-20:4", -100) == pytest.approx(5)
    assert _histogram_move("-20:3;0:1", "-20:3", -100) == math.inf  # another number of tokens
    assert _histogram_move("-160:4", "-120:4", -100) == 0  # rounding of what is nothing
    assert _histogram_move("", "", -100) == 0


def test_rounding_of_bfloat16_is_allowed_and_no_more() -> None:
    """Orders of magnitude: what bfloat16 moves rows by is allowed for it, and would be a fault of float32."""
    for same in (True, False):
        exact, rounded = TOLERANCES["float32", same], TOLERANCES["bfloat16", same]
        assert exact.row < 0.013 < rounded.row  # the largest that was seen
        assert exact.mean < exact.row
        assert rounded.mean < rounded.row


# what cannot be measured again is said


def test_another_submission_of_the_name_is_refused(honest: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"with hash .*here has"):
        rerun(honest[NAME], submission=BETTER)
    stored = read_record(honest[NAME])
    stranger = stored.record.submission.model_copy(update={"name": "no-such-submission"})
    with pytest.raises(InterpretationError, match="no-such-submission"):
        rerun(forge(tmp_path, stored, stored.values, submission=stranger))


def test_another_task_of_the_name_is_refused(honest: dict[str, Path], tmp_path: Path) -> None:
    stored = read_record(honest[NAME])
    other = stored.record.task.model_copy(update={"hash": "0" * 64})
    with pytest.raises(RecordError, match=r"hash 000000000000"):
        rerun(forge(tmp_path, stored, stored.values, task=other))


# the command


@pytest.mark.slow
def test_the_command_measures_again_and_keeps_what_it_found(
    honest: dict[str, Path], tmp_path: Path, remainder: Command
) -> None:
    mine, better = read_record(honest[NAME]), read_record(honest[BETTER])
    results = tmp_path / "results"
    forge(results, mine, mine.values)
    good = remainder("verify", results, "--rerun", "--documents", 2, "--nonce", "n", "--seed", "s", "--write")
    assert good.code == 0, good
    assert "as recorded" in good.out
    (kept,) = (tmp_path / "verifications").glob("*.json")
    again = read_verification(kept).remeasured
    assert again is not None
    assert (again.chosen_by, again.afresh, again.passed) == ("s n", True, True)
    stated = mine.record
    assert again.batch_size != stated.measurement.batch_size
    assert again.threads != stated.provenance.threads
    assert "Linux" in again.machine or "Darwin" in again.machine
    assert platform.node() not in again.machine
    forge(tmp_path / "bad", mine, better.values, **shares_of(mine, better))
    bad = remainder("verify", tmp_path / "bad", "--rerun", "--documents", 1)
    assert bad.code == 1
    assert "NOT as recorded" in bad.out
    assert remainder("verify", tmp_path / "bad").code == 0  # what files alone can tell


def test_batches_and_threads_are_others_than_the_records() -> None:
    assert all(_other_batch(size) != size and _other_batch(size) >= 1 for size in (None, *range(1, 200)))
    assert all(_other_batch(size) <= size for size in range(3, 200))
    assert all(_other_threads(count) != count for count in (None, *range(1, 64)))


def test_its_cache_holds_pinned_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path))
    for kind in (*PINNED, "activations", "behaviours", "random-circuits"):
        (tmp_path / kind / "made").mkdir(parents=True)
    with _empty_cache() as cache, _environment(cache, 3):
        assert cache_root() == cache
        assert {path.name for path in cache.iterdir()} == set(PINNED)
        assert (cache / "files" / "made").is_dir()
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert cache_root() == tmp_path
    assert not cache.exists()
    assert (tmp_path / "files" / "made").is_dir()


@pytest.mark.slow
def test_nothing_of_this_process_reaches_the_other(
    honest: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that is patched here is not there; nor are tasks that are in memory here."""
    monkeypatch.setattr(module, "_compared", lambda *a: pytest.fail("compared in this process"))
    ((path, found),) = measure_afresh({honest[NAME]: {"documents": 1, "seed": "s", "nonce": "n"}})
    assert isinstance(found, Rerun)
    assert (path, found.passed) == (honest[NAME], True), found.faults


def test_an_error_of_the_other_process_is_told(honest: dict[str, Path]) -> None:
    ((path, problem),) = measure_afresh({honest[NAME]: {"submission": BETTER}})
    assert path == honest[NAME]
    assert isinstance(problem, RecordError)
    assert re.search("with hash .*here has", problem.what)


def test_its_options_need_each_other(tmp_path: Path, remainder: Command) -> None:
    outcome = remainder("verify", tmp_path, "--nonce", "n")
    assert outcome.code == RecordError.exit_code
    assert "add --rerun" in outcome.err
