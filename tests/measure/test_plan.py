"""What a plan measures: only what somebody reads, in a dtype that the device is fast in, and it says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from terminal import Command
from tiny import Shrink, make_loaded, make_task

from remainder.api import evaluate
from remainder.board.origin import check_task
from remainder.errors import MeasurementError, TaskError
from remainder.loading.open import on_prompts, open_task
from remainder.measure import plan as plans
from remainder.measure import precision
from remainder.measure.answers import groups_of
from remainder.measure.plan import plan
from remainder.measure.reference import REFERENCE_STEPS
from remainder.record.rungs import CURVE, reference_rung
from remainder.record.store import read_record, write_record
from remainder.report.tables import render
from remainder.residual.ladder import TrueResidual
from remainder.runs.cells import run as run_rows
from remainder.task.spec import Tier, load_task

CPU = torch.device("cpu")
TIERS = {
    "quick": Tier(evaluation_windows=14, calibration_windows=16, fit_windows=20, pairs=1, dtype="bfloat16"),
    "standard": Tier(evaluation_windows=20, calibration_windows=16, fit_windows=20, pairs=1, dtype="float32"),
}


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def without_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "has_bfloat16_units", lambda device: False)


@pytest.fixture
def with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "has_bfloat16_units", lambda device: True)


def rungs_of(values: pd.DataFrame) -> set[str]:
    return set(values.loc[values["split"] == "evaluation", "rung"])


# the dtype


@pytest.mark.usefixtures("without_units")
def test_a_cpu_without_units_runs_float32_whatever_the_tier_says() -> None:
    chosen = plan(make_task(tiers=TIERS), "quick")
    assert chosen.dtype == "float32"
    (note,) = chosen.notes
    assert note.startswith("Measured in float32 instead of bfloat16")
    assert plan(make_task(tiers=TIERS), "standard").notes == ()


@pytest.mark.usefixtures("with_units")
def test_a_cpu_with_units_does_what_the_tier_says() -> None:
    chosen = plan(make_task(tiers=TIERS), "quick")
    assert (chosen.dtype, chosen.notes) == ("bfloat16", ())
    assert plan(make_task(tiers=TIERS), "quick", dtype="float32").notes == ()  # it was asked for


@pytest.mark.usefixtures("without_units")
def test_bfloat16_can_be_asked_for_and_the_cost_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "bfloat16_cost", lambda device: 3.84)
    chosen = plan(make_task(tiers=TIERS), "quick", dtype="bfloat16")
    assert chosen.dtype == "bfloat16"
    assert chosen.notes == (
        "This CPU has no units for bfloat16: a linear layer takes 3.8 times as long as in float32.",
    )


def test_the_cost_is_that_of_this_machine() -> None:
    assert 0.02 < precision.bfloat16_cost(CPU) < 500


@pytest.mark.parametrize(
    ("onednn", "capabilities", "expected"),
    [
        (True, {"avx512_bf16": True}, True),
        (True, {"amx_bf16": True}, True),
        (True, {"bf16": True}, True),  # on Arm
        (True, {"avx512_f": True, "avx512_bf16": False}, False),  # oneDNN would emulate it
        (False, {"avx512_bf16": True}, False),  # masked
    ],
)
def test_torch_is_asked_for_units_and_for_masks(
    monkeypatch: pytest.MonkeyPatch, onednn: bool, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.has_bfloat16_units(CPU) is expected
    assert precision.has_bfloat16_units(torch.device("cuda"))


def test_instruction_sets_that_are_masked_do_not_count() -> None:
    code = (
        "import torch; from remainder.measure.precision import has_bfloat16_units; "
        "print(has_bfloat16_units(torch.device('cpu')))"
    )
    masked = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **masked}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"


@pytest.mark.usefixtures("without_units")
@pytest.mark.slow
def test_record_table_and_resumed_run_know_of_the_other_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remainder.submission.objects import object_submission

    loaded = make_loaded(make_task(tiers=TIERS))
    submissions = [object_submission(Shrink(), "shrink")]
    (row,) = run_rows(loaded, submissions, plan(loaded.task, "quick"), tmp_path)
    assert row.record.measurement.dtype == "float32"
    assert row.record.measurement.bf16_deviation is None
    assert "Measured in float32 instead of bfloat16" in " ".join(render([row.record]).split())
    (again,) = run_rows(loaded, submissions, plan(loaded.task, "quick"), tmp_path)
    assert again.kept
    # The same results folder on a machine with units: it does not take the other dtype's row for its own.
    monkeypatch.setattr(plans, "has_bfloat16_units", lambda device: True)
    (other,) = run_rows(loaded, submissions, plan(loaded.task, "quick"), tmp_path)
    assert not other.kept
    assert other.record.measurement.dtype == "bfloat16"


# passes


def test_the_quick_tier_makes_the_passes_that_its_table_shows() -> None:
    task = make_task(tiers=TIERS)
    assert "true" in task.rungs
    assert plan(task, "quick").nulls == ("noise-fitted",)
    assert "true" not in plan(task, "quick").rungs
    assert set(plan(task, "standard").nulls) == {"noise-fitted", "noise-directional", "noise-isotropic"}
    assert plan(task, "quick", rungs=("raw",)).nulls == ()
    assert plan(task, "standard", rungs=("raw",)).nulls == ()
    everything = plan(task, "quick", rungs=("all",))
    assert len(everything.nulls) == 3
    assert "true" in everything.rungs
    assert "true" in plan(task, "quick", rungs=("true",)).rungs


@pytest.mark.usefixtures("without_units")
def test_values_hold_those_rungs_and_the_check_is_made_all_the_same() -> None:
    loaded = make_loaded(make_task(tiers=TIERS))
    found = evaluate(loaded, Shrink())
    paid = {*CURVE, "reference-mean", *map(reference_rung, REFERENCE_STEPS)}
    assert rungs_of(found.values) == {"clean", "raw", "mean", "full", "permuted", "noise-fitted"} | paid
    check = found.record.checks["true_equals_clean"]
    assert check.passed
    assert check.value == pytest.approx(0, abs=1e-6)
    assert check.note is not None
    assert "one batch" in check.note
    raw = evaluate(loaded, Shrink(), rungs="raw")
    assert rungs_of(raw.values) == {"clean", "raw"}
    coded = evaluate(loaded, Shrink(), rungs="coded")
    assert rungs_of(coded.values) == {"clean", "raw"} | paid
    assert raw.record.metrics.gaussian_ratio.fitted.value is None
    assert raw.record.metrics.gaussian_ratio.fitted.reason == "rung noise-fitted was not measured"
    # What both measure is the same to the last digit.
    kept = ["document", "window", "rung", "draw"]
    both = found.values.merge(raw.values, on=kept, suffixes=("", "_raw"))
    assert (both["loss"] == both["loss_raw"]).all()


@pytest.mark.usefixtures("without_units")
def test_a_broken_splice_is_found_on_the_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrueResidual, "sample", lambda self, context, draw: 0.9 * context.residual)
    with pytest.raises(MeasurementError, match="true residual back misses the clean loss"):
        evaluate(make_loaded(make_task(tiers=TIERS)), Shrink())


# a part of the documents


@pytest.mark.usefixtures("without_units")
@pytest.mark.parametrize("tier", ["quick", "standard"])
@pytest.mark.slow
def test_a_part_is_the_first_documents_of_the_tier(tier: str, tmp_path: Path) -> None:
    loaded = make_loaded(make_task(tiers=TIERS))
    whole = evaluate(loaded, Shrink(), tier=tier)
    order = list(dict.fromkeys(loaded.windows("evaluation").first(TIERS[tier].evaluation_windows).documents))
    part = evaluate(loaded, Shrink(), tier=tier, documents=5)
    assert part.record.documents.documents == 5
    assert set(part.values["document"]) == set(order[:5])
    keys = ["document", "window", "rung", "draw"]
    both = part.values.merge(whole.values, on=keys, how="left", suffixes=("", "_whole"))
    assert (both["loss"] - both["loss_whole"]).abs().max() < 1e-4  # other batches, the same noise
    # All windows of these documents, and none of others.
    of_tier = whole.values.loc[whole.values["document"].isin(order[:5])]
    assert len(part.values) == len(of_tier)
    # Its name is also how it is asked for, so that it can be measured again.
    again = plan(loaded.task, part.record.tier)
    assert (again.tier, again.documents) == (f"{tier} (5 documents)", 5)
    write_record(part.record, part.values, tmp_path / "part.json")
    assert read_record(tmp_path / "part.json").record.tier == f"{tier} (5 documents)"


@pytest.mark.usefixtures("without_units")
def test_the_record_of_a_part_says_so() -> None:
    loaded = make_loaded(make_task(tiers=TIERS))
    record = evaluate(loaded, Shrink(), documents=4).record
    assert "Only 4 documents of tier quick were measured: no board takes this record." in record.warnings
    assert "tier quick (4 documents)" in " ".join(render([record]).split())


@pytest.mark.parametrize("documents", [-1, 0, 1, 14, 15])
def test_a_part_is_more_than_one_document_and_less_than_all(documents: int) -> None:
    task = make_task(tiers=TIERS)
    most = min(14, task.splits.evaluation)  # type: ignore[union-attr]
    with pytest.raises(TaskError, match=f"documents is {documents}; tier quick of .* has {most}"):
        plan(task, "quick", documents=documents)


def test_the_option_of_the_command(remainder: Command, tmp_path: Path) -> None:
    task = "tiny/modular-addition"
    arguments = (
        "run",
        task,
        "--with",
        "modular-addition-key-frequencies",
        "--documents",
        "6",
        "--rungs",
        "full",
        "--out",
        tmp_path / "out",
    )
    done = remainder(*arguments)
    assert done.code == 0, done.err
    assert "! Only 6 documents of tier quick were measured" in done.err
    assert "tier quick (6 documents)" in " ".join(done.out.split())
    assert "found finished" in remainder(*arguments).err
    assert "measured in" in remainder(*arguments[:-6], "--documents", "7", *arguments[-4:]).err
    refused = remainder(*arguments[:-6], "--documents", "1", *arguments[-4:])
    assert refused.code != 0
    assert "documents is 1" in refused.err
    for path in (tmp_path / "out").rglob("*.json"):  # no board takes it
        faults = [one.text for one in check_task(read_record(path).record) if one.is_fault]
        assert any(
            re.search(r"^tier: Only \d documents of tier quick were measured: no board", one)
            for one in faults
        )


def test_circuits_take_fewer_prompts() -> None:
    task = load_task("tracr/reverse-circuit")
    few = plan(task, "quick", documents=4)
    assert sum(len(evaluation) for _, evaluation in groups_of(on_prompts(open_task(task)), few)) == 4
    assert plan(task, "quick", documents=4).tier == "quick (4 documents)"
    assert plan(task, "quick", rungs=("raw",)).nulls == ()
