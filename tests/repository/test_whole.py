"""Whole runs (`--rungs all`) and nested interpretations on a tiny model."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import WIDTH, Shrink, make_loaded, make_task

from remainder.api import evaluate
from remainder.board.consistency import check_measurement
from remainder.errors import InterpretationError
from remainder.interpretation.references import Identity, Projection, principal_components, random_projection
from remainder.measure import kernels
from remainder.measure.codes import CodeSample
from remainder.measure.decoders import AffineDecoder
from remainder.measure.directions import decoder_directions, gradient_directions
from remainder.measure.reference import REFERENCE_STEPS
from remainder.model.bridge import Prefix
from remainder.record.couplings import QUICK_GRID, rung_of
from remainder.record.recompute import recompute
from remainder.record.rungs import (
    AROUND,
    BOARD_RUNGS,
    CURVE,
    NULLS,
    REFERENCE_MEAN,
    REFITS,
    RUNGS,
    reference_rung,
)
from remainder.record.schema import Record
from remainder.record.store import read_record, write_record
from remainder.record.summary import ANNEALED_UNITS
from remainder.task.spec import Positions, Tier

TIER = Tier(evaluation_windows=12, calibration_windows=16, fit_windows=20, pairs=1, dtype="float32")
KEY = ["split", "document", "window", "rung", "draw"]
WITH_TRUE = ("raw", "mean", "full", "permuted", "true")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def run(interpretation: Any, *, batch_size: int = 4, tier: Tier = TIER, **options: Any) -> Any:
    task = make_task(tiers={"quick": tier}, positions=Positions(sink_norm=14.0))
    return evaluate(make_loaded(task, batch_size=batch_size), interpretation, **options)


@once
def projected(rank: int, *, random: bool = False) -> Projection:
    moments = make_loaded(make_task()).fit_moments(20)
    return random_projection(moments, rank, 1) if random else principal_components(moments, rank)


Caught = dict[str, list[np.ndarray]]
"""Losses of every draw of the noisy rungs, by kernel; all windows are in one batch."""


@once
def whole() -> tuple[Record, pd.DataFrame, Caught]:
    """A whole run, with every loss caught on the way."""
    caught: Caught = {}
    real = kernels.spliced_pass
    names: list[str] = []
    splice = kernels.splice

    def named(kernel: Any, *rest: Any) -> Any:
        names.append(kernel.name)
        return splice(kernel, *rest)

    def catching(*args: Any) -> Any:
        scores, loss = real(*args)
        caught.setdefault(names[-1], []).append(loss.double().numpy())
        return scores, loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "spliced_pass", catching)
        patch.setattr(kernels, "splice", named)
        result = run(projected(6), rungs="all", batch_size=12)
    return result.record, result.values, caught


def test_every_rung_is_measured_and_every_part_is_there(tmp_path: Path) -> None:
    record, values, _ = whole()
    reference = {REFERENCE_MEAN, *map(reference_rung, REFERENCE_STEPS)}
    assert set(record.metrics.rungs) == {
        *RUNGS,
        *AROUND,
        *REFITS,
        *NULLS,
        *CURVE,
        *reference,
        "coupled",
        "scaled",
    }
    assert record.measurement.rungs == (*RUNGS, *AROUND)
    assert record.measurement.whole
    assert record.measurement.unmeasured == {}
    for part in ("telescope", "perturbative", "couplings", "calibration_spread", "gaussianity"):
        assert getattr(record.metrics, part) is not None, part
    draws = values[values["split"] == "evaluation"].groupby("rung")["draw"].nunique()
    assert {rung: draws[rung] for rung in ("raw", "full", "permuted", "coupled", "matched")} == {
        "raw": 1,
        "full": 16,
        "permuted": 16,
        "coupled": 16,
        "matched": 2,
    }
    grid = values[values["split"] == "calibration"]
    assert set(grid["rung"]) >= {"clean", *map(rung_of, QUICK_GRID)}  # and what made it longer
    found = record.metrics.couplings
    assert found is not None
    assert found.difference is not None
    last = values[(values["split"] == "evaluation") & (values["rung"] == "coupled") & (values["draw"] == 15)]
    alone = values[(values["split"] == "evaluation") & (values["rung"] == "scaled")]
    worth = (last["annealed"].sum() - alone["loss"].sum()) / last["tokens"].sum()
    moved = (last["annealed_plain"] - last["annealed"]).sum() / last["tokens"].sum()
    if found.difference.value is not None:
        assert found.difference.value == pytest.approx(worth, abs=2e-6)
    else:
        assert f"moves it by {moved:.2g}" in str(found.difference.reason)
    assert list(check_measurement(record, values)) == []
    recompute(record, values)
    write_record(record, values, tmp_path / "record.json")
    recompute(*read_record(tmp_path / "record.json"))


def test_the_board_plan_measures_its_rungs_with_enough_draws() -> None:
    result = run(projected(6), rungs="board", batch_size=12)
    record, values = result.record, result.values
    assert set(record.measurement.rungs) == set(BOARD_RUNGS)
    assert not record.measurement.whole
    draws = values[values["rung"].isin(BOARD_RUNGS)].groupby("rung")["draw"].nunique()
    noisy = {"full": 8, "full-0.6": 8, "full-0.3": 4, "permuted": 2, "noise-fitted": 2, "noise-centred": 2}
    noisy |= {"renormalised": 2, "cluster": 2}
    assert draws.to_dict() == dict.fromkeys(BOARD_RUNGS, 1) | noisy
    assert 30 <= draws.sum() + len(CURVE) - 1 <= 42
    assert record.metrics.orders is not None
    assert list(check_measurement(record, values)) == []
    fewer = values[(values["rung"] != "full") | (values["draw"] < 2)]  # as many as another rung has
    assert any("rungs have" in fault for fault in check_measurement(record, fewer))
    recompute(record, values)


def test_the_telescope_of_a_record_closes() -> None:
    record, _, _ = whole()
    telescope = record.metrics.telescope
    assert telescope is not None
    terms = [telescope.shape.value, telescope.dependence.value, telescope.rest.value]
    assert sum(term or 0 for term in terms) == pytest.approx(telescope.total.value, abs=3e-6)
    gap = record.metrics.rungs["full-unshrunk"].quenched.gap
    assert telescope.total == gap


def test_what_is_left_of_a_projection_is_confined_and_says_so(exact_ladder: None) -> None:
    record = run(projected(6), rungs=["full"], batch_size=12).record
    assert record.calibration.rank == WIDTH - 6
    assert any("lies in a subspace" in warning for warning in record.warnings)
    assert record.calibration.shrinkage is not None
    assert 0 < record.calibration.shrinkage < 1


def test_the_annealed_loss_is_the_jackknife_of_the_probabilities() -> None:
    """Every loss of every draw was caught on the way and is put together by hand."""
    record, _, caught = whole()
    for rung, size in (("full", 2), ("permuted", 1), ("matched", 1)):
        p = np.exp(-np.stack(caught[rung])).reshape(-1, size, len(caught[rung][0])).mean(1)
        count = len(p)
        left_out = [np.log((p.sum(0) - p[unit]) / (count - 1)) for unit in range(count)]
        expected = -(count * np.log(p.mean(0)) - (count - 1) * np.mean(left_out, 0)).mean()
        found = record.metrics.rungs[rung].annealed
        assert found is not None
        assert found.draws == count * size
        if count < ANNEALED_UNITS:
            assert found.loss.value is None
        else:
            assert found.loss.value == pytest.approx(expected, rel=1e-5)
    full = record.metrics.rungs["full"].annealed
    assert full is not None
    assert list(full.nested) == ["4", "8", "16"]
    assert record.metrics.rungs["radial"].annealed is None  # one antithetic pair is one unit


@pytest.mark.slow
def test_batches_change_nothing_of_a_whole_run() -> None:
    record, values, _ = whole()
    other = run(projected(6), rungs="all", batch_size=7)
    one, two = (frame.set_index(KEY).sort_index() for frame in (values, other.values))
    # The grid of couplings only: α* moves in the last digits, and with it what `coupled` adds.
    kept = one.index.get_level_values("rung") != "coupled"
    for column in ("loss", "kl", "annealed"):
        np.testing.assert_allclose(two[column][kept], one[column][kept], atol=2e-3, err_msg=column)
    theirs, mine = other.record.metrics.gaussianity, record.metrics.gaussianity
    assert theirs is not None
    assert mine is not None
    assert theirs.radial_kurtosis.value == pytest.approx(mine.radial_kurtosis.value, rel=1e-4)


def test_linear_mean_finds_what_a_random_projection_leaves_and_principal_components_do_not() -> None:
    gaps = {}
    for name, random in (("random", True), ("principal", False)):
        rungs = run(projected(8, random=random), rungs=["raw", "linear-mean"]).record.metrics.rungs
        gaps[name] = [rungs[rung].quenched.kl.value for rung in ("raw", "linear-mean")]
    raw, linear = gaps["random"]
    assert linear < 0.9 * raw
    raw, linear = gaps["principal"]
    assert linear == pytest.approx(raw, rel=0.05)


# what a residual may not admit


class Shifted(Identity):
    """x̂ = x − c: what is left out is constant."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes - 0.5


@pytest.mark.slow
def test_a_constant_residual_is_measured_as_far_as_it_goes(exact_ladder: None, tmp_path: Path) -> None:
    result = run(Shifted(), rungs="all", batch_size=12)
    record = result.record
    unmeasured = record.measurement.unmeasured
    assert set(unmeasured) == {"temporal", "full-temporal", "radial", "noise-directional", "gaussianity"}
    assert any("the residual is constant on calibration" in warning for warning in record.warnings)
    assert any(warning.startswith("radial was not measured: ") for warning in record.warnings)
    rungs = record.metrics.rungs
    assert rungs["raw"].quenched.kl.value > 1e-4
    for rung in ("mean", "full", "permuted", "linear", "matched"):
        assert rungs[rung].quenched.kl.value == pytest.approx(0, abs=1e-6), rung
    assert record.metrics.gaussian_ratio.directional.value is None
    assert record.metrics.gaussianity is None
    write_record(record, result.values, tmp_path / "record.json")
    assert read_record(tmp_path / "record.json").record == record


def test_few_calibration_tokens_are_said_to_be_few() -> None:
    few = TIER.model_copy(update={"calibration_windows": 2})
    record = run(Shrink(0.5, 0.1), tier=few).record
    assert record.calibration.tokens < 5 * WIDTH
    assert any("fewer than 5 a dimension" in warning for warning in record.warnings)
    assert record.calibration.shrinkage is not None
    assert record.calibration.shrinkage > 0.01


# nested interpretations


def test_a_finer_interpretation_stands_in_for_the_model(exact_ladder: None) -> None:
    fine, coarse = projected(10), projected(4)
    nested = run(fine, coarse=coarse, rungs=WITH_TRUE)
    alone = run(fine).record.metrics
    rungs = nested.record.metrics.rungs
    assert nested.record.metrics.clean.loss.value == pytest.approx(
        alone.rungs["raw"].quenched.loss.value, rel=1e-5
    )
    assert rungs["model"].quenched.loss.value == pytest.approx(alone.clean.loss.value, rel=1e-5)
    assert rungs["true"].quenched.kl.value == pytest.approx(0, abs=1e-6)
    # What is spliced for `raw` is the coarse reconstruction itself, whatever it is measured against.
    assert rungs["raw"].quenched.loss.value == pytest.approx(
        run(coarse).record.metrics.rungs["raw"].quenched.loss.value, rel=1e-5
    )
    assert nested.record.reference is not None
    assert nested.record.reference.hash != nested.record.submission.hash
    # The difference of two nested projections lies in the 6 directions between them.
    assert nested.record.calibration.rank == 6
    other = run(projected(12), coarse=coarse).record
    assert other.submission == nested.record.submission
    assert (
        len({other.measurement_key, nested.record.measurement_key, run(coarse).record.measurement_key}) == 3
    )
    assert other.result_id != nested.record.result_id


def test_a_nested_record_has_a_curve_and_no_reference() -> None:
    record = run(projected(10), coarse=projected(4)).record
    coding = record.metrics.coding
    assert coding is not None
    assert list(coding.points) == list(CURVE)
    assert coding.reference == ()
    assert "transform coding was not measured" in str(coding.points["coded"].efficiency.reason)
    assert record.complexity.coding is not None
    assert record.complexity.coding.reference_steps == ()


class Ahead(Shrink):
    """A reconstruction that looks at the next position."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.roll(x, -1, dims=1)


def test_what_stands_in_for_the_model_must_keep_the_rules_too() -> None:
    with pytest.raises(InterpretationError, match="position"):
        run(Ahead(), coarse=projected(4))


def test_an_interpretation_over_itself_leaves_nothing(exact_ladder: None) -> None:
    rungs = run(projected(4), coarse=projected(4), rungs=WITH_TRUE).record.metrics.rungs
    for rung in WITH_TRUE:
        assert rungs[rung].quenched.kl.value == pytest.approx(0, abs=1e-6)
    assert rungs["model"].quenched.kl.value > 0.01


# directions


def test_loss_gradients_are_those_of_finite_differences() -> None:
    loaded = make_loaded(make_task(positions=Positions(sink_norm=14.0)))
    runner = loaded.runner("float32")
    batch = next(iter(loaded.activations("calibration", 1).batches(1)))
    targets = torch.roll(batch.inputs, -1, dims=1)

    steps = 0.05 * torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    copies = len(steps)
    inputs, scored = (part.expand(copies, -1) for part in (batch.inputs, batch.scored))
    prefix = Prefix(*(part.expand(copies, -1, -1) for part in batch.prefix))

    def losses(x: torch.Tensor) -> torch.Tensor:
        """Of every copy of the window, summed over its scored tokens."""
        hidden = runner.suffix(inputs, prefix, x)[scored]
        log_p = torch.log_softmax(runner.logits(hidden).double(), -1)
        found = -log_p.gather(-1, targets.expand(copies, -1)[scored][:, None])
        return found.reshape(copies, -1).sum(-1)

    with torch.inference_mode():
        found = gradient_directions(runner, [batch], WIDTH)
        rows = []
        for _, position in batch.spliced.nonzero().tolist():
            x = batch.prefix.x_out.repeat(copies, 1, 1)
            x[:, position] += steps
            up, down = losses(x).split(WIDTH)
            rows.append((up - down) / 0.1)
    _, _, expected = torch.linalg.svd(torch.stack(rows))
    torch.testing.assert_close(found @ found.T, torch.eye(WIDTH).double())
    assert (found[:3] * expected[:3]).sum(-1).abs().min() > 0.99


def test_decoder_directions_are_those_that_carry_most() -> None:
    rows = torch.eye(5, WIDTH) * torch.tensor([[1.0], [10.0], [3.0], [0.1], [1.0]])
    sample = CodeSample()
    codes = torch.ones(8, 5) * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    sample.update(codes, codes @ rows)
    found = decoder_directions(sample, AffineDecoder(torch.zeros(WIDTH), rows, torch.arange(5)), 3)
    assert found is not None
    torch.testing.assert_close(found, torch.eye(WIDTH).double()[[1, 2, 0]])
    silent = AffineDecoder(torch.zeros(WIDTH), torch.zeros(5, WIDTH), torch.arange(5))
    assert decoder_directions(sample, silent) is None
