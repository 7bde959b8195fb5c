"""The loop on a tiny model: against brute force, and unmoved by all that must not move it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import VOCABULARY, WIDTH, WINDOW, Shrink, make_loaded, make_model, make_task, save_model
from transformers import AutoModelForCausalLM

from remainder.api import evaluate
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.interpretation.references import Identity
from remainder.loading.loaded import LoadedTask
from remainder.measure import reference
from remainder.measure.plan import plan
from remainder.record.rungs import AROUND, BOARD_RUNGS, CURVE, RUNGS
from remainder.record.schema import Record
from remainder.residual.gaussian import Full
from remainder.residual.ladder import TrueResidual
from remainder.task.spec import Positions, Task, Tier
from remainder.task.text import Corpus, Split, Windows

KEY = ["document", "window", "rung", "draw"]
SPECIAL = (0, 1, 2)
TIER = {
    name: Tier(evaluation_windows=14, calibration_windows=16, fit_windows=20, pairs=1, dtype="float32")
    for name in ("quick", "standard")
}
SINKS = Positions(sink_norm=14.0)  # one position in ten is above


@pytest.fixture(autouse=True)  # so that every test computes activations afresh
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


def task_of(**changed: Any) -> Task:
    return make_task(**{"tiers": TIER, "positions": SINKS, **changed})


def run(
    interpretation: Any = None, *, batch_size: int = 4, loaded: LoadedTask | None = None, **options: Any
) -> tuple[Record, pd.DataFrame]:
    """By default on every rung of the task and with every null, which a plan leaves out if nobody asks."""
    loaded = loaded or make_loaded(task_of(), batch_size=batch_size)
    tier = "standard" if "standard" in loaded.task.tiers else "quick"
    options = {"rungs": loaded.task.rungs, "tier": tier, **options}
    result = evaluate(loaded, interpretation or Shrink(), **options)
    return result.record, result.values.drop(columns="split").set_index(KEY).sort_index()


@once
def baseline() -> tuple[Record, pd.DataFrame]:
    """What `run()` finds; do not change it."""
    return run()


def per_rung(values: pd.DataFrame, column: str = "loss") -> pd.Series:
    """Nats per token of every rung, pooled."""
    sums = values.groupby("rung")[["loss", "kl", "tokens"]].sum()
    pooled: pd.Series = sums[column] / sums["tokens"]
    return pooled


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, limit: float = 1e-4) -> None:
    """Equal within `limit` nats per document (and window, rung and draw)."""
    assert list(found.index) == list(expected.index)
    assert (found["tokens"] == expected["tokens"]).all()
    for column in ("loss", "kl"):
        difference = (found[column] - expected[column]).abs()
        assert difference.max() <= limit, (column, difference.idxmax(), difference.max())
    for column in ("residual_ss", "centred_ss", "active", "spliced"):
        np.testing.assert_allclose(found[column].astype(float), expected[column].astype(float), rtol=1e-5)


# brute force: a plain transformers model with one pre-hook, no bridge, no halves, no chunks


@once
def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Brute:
    """One window after another through the whole model, the input of block 2 replaced."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = plain_model(Path(task.model.hub or ""))
        self.loaded = make_loaded(task)

    def windows(self, split: Split, count: int) -> Windows:
        return self.loaded.corpus.windows(split).first(count)

    def clean(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The site's activations [pos d] and where something is spliced [pos]."""
        with torch.inference_mode():
            x = self.model(ids[None], output_hidden_states=True).hidden_states[2][0].clone()
        special = torch.tensor([int(token) in SPECIAL for token in ids])
        return x, ~special & (x.norm(dim=-1) <= self.task.positions.sink_norm)

    def log_p(self, ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [pos vocabulary] with `new` as the input of block 2."""
        with torch.inference_mode():
            handle = self.model.model.layers[2].register_forward_pre_hook(
                lambda module, args: (new[None], *args[1:])
            )
            try:
                found: torch.Tensor = torch.log_softmax(self.model(ids[None]).logits[0].double(), -1)
            finally:
                handle.remove()
        return found

    def residuals(self, interpretation: Any) -> torch.Tensor:
        """Calibration residuals at spliced positions [rows d], float64."""
        rows = []
        for row in self.windows("calibration", 16).inputs:
            x, spliced = self.clean(torch.from_numpy(row))
            rows.append((x - interpretation.decode(interpretation.encode(x)))[spliced].double())
        return torch.cat(rows)

    def scores(
        self, ids: torch.Tensor, epsilon: Callable[[torch.Tensor], torch.Tensor], interpretation: Any
    ) -> tuple[float, float, int]:
        """Sums of loss and KL over the scored tokens of a window, and their number."""
        x, spliced = self.clean(ids)
        estimate = interpretation.decode(interpretation.encode(x))
        new = torch.where(spliced[:, None], (estimate.double() + epsilon(x - estimate)).float(), x)
        clean, log_p = self.log_p(ids, x), self.log_p(ids, new)
        scored = [t for t in range(len(ids) - 1) if bool(spliced[t]) and int(ids[t + 1]) not in SPECIAL]
        loss = -sum(float(log_p[t, ids[t + 1]]) for t in scored)
        kl = sum(float((clean[t].exp() * (clean[t] - log_p[t])).sum()) for t in scored)
        return loss, kl, len(scored)


class Rounded(Shrink):
    """`Shrink` with the codes that a record says it paid for."""

    def __init__(self, record: Record, point: str) -> None:
        super().__init__()
        coding = record.complexity.coding
        assert coding is not None
        self.step = coding.rms * 2.0 ** (-coding.steps[point] / 2) / self.factor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x.double() / self.step).round().mul(self.step).float()


def test_clean_raw_coded_and_mean_equal_brute_force() -> None:
    task, subject = task_of(), Shrink()
    record, values = baseline()
    brute = Brute(task)
    coded = {point: Rounded(record, point) for point in CURVE}
    mean = brute.residuals(coded["coded"]).mean(0)
    passes = {
        "raw": (torch.zeros_like, subject),
        "mean": (lambda r: mean.expand(r.shape), coded["coded"]),
        "clean": (lambda r: r, subject),
        **{point: (torch.zeros_like, rounded) for point, rounded in coded.items()},
    }
    windows = brute.windows("evaluation", 14)
    for row, document, window in zip(windows.inputs, windows.documents, windows.indices, strict=True):
        ids = torch.from_numpy(row)
        for rung, (epsilon, used) in passes.items():
            loss, kl, tokens = brute.scores(ids, epsilon, used)
            found = values.loc[(document, window, rung, 0)]
            assert found["tokens"] == tokens
            assert found["loss"] == pytest.approx(loss, abs=1e-4), rung
            assert found["kl"] == pytest.approx(kl, abs=1e-4), rung


def test_reconstruction_sums_equal_brute_force() -> None:
    task, subject = task_of(), Shrink()
    _, values = baseline()
    brute = Brute(task)
    windows = brute.windows("evaluation", 14)
    clean = [brute.clean(torch.from_numpy(row)) for row in windows.inputs]
    mean = torch.cat([x[spliced] for x, spliced in clean]).mean(0)
    for (x, spliced), document, window in zip(clean, windows.documents, windows.indices, strict=True):
        found = values.loc[(document, window, "raw", 0)]
        residual = (x - subject.decode(x))[spliced]
        assert found["spliced"] == int(spliced.sum())
        assert found["active"] == WIDTH * int(spliced.sum())
        assert found["residual_ss"] == pytest.approx(float(residual.square().sum()), rel=1e-5)
        assert found["centred_ss"] == pytest.approx(float((x[spliced] - mean).square().sum()), rel=1e-5)


def test_the_gaussian_rung_equals_monte_carlo_by_brute_force() -> None:
    """Many draws of `full` against torch's own multivariate normal, each with its standard error."""
    tier = {"quick": TIER["quick"].model_copy(update={"evaluation_windows": 2})}
    task, subject, draws = task_of(tiers=tier), Shrink(0.4, 0.3), 60
    _, values = run(subject, loaded=make_loaded(task), rungs=["full"], pairs=draws // 2)
    brute = Brute(task)
    rows = brute.residuals(subject)
    gaussian = torch.distributions.MultivariateNormal(rows.mean(0), torch.cov(rows.T))
    torch.manual_seed(0)
    windows = brute.windows("evaluation", 2)
    for row, document, window in zip(windows.inputs, windows.documents, windows.indices, strict=True):
        ids = torch.from_numpy(row)
        independent = [
            brute.scores(ids, lambda r: gaussian.sample(r.shape[:1]), subject)[:2] for _ in range(draws)
        ]
        ours = values.loc[(document, window, "full")]
        assert len(ours) == draws
        for place, column in enumerate(("loss", "kl")):
            theirs = np.array([scores[place] for scores in independent])
            pairs = ours[column].to_numpy().reshape(-1, 2).mean(1)
            error = math.hypot(theirs.std() / math.sqrt(draws), pairs.std() / math.sqrt(len(pairs)))
            assert abs(theirs.mean() - pairs.mean()) < 4 * error, column
        raw = values.loc[(document, window, "raw", 0), "kl"]
        assert abs(theirs.mean() - raw) > 8 * error  # so the rung is not `raw` in disguise


def test_the_gaussian_ratio_has_brute_forces_denominators() -> None:
    """ρ's noises are added to x, not to x̂; averages of many draws against torch's own."""
    tier = {"standard": TIER["quick"].model_copy(update={"evaluation_windows": 2})}
    task, subject, draws = task_of(tiers=tier), Shrink(0.4, 0.3), 60
    _, values = run(subject, loaded=make_loaded(task), rungs=["mean"], pairs=draws // 2)
    brute = Brute(task)
    rows = brute.residuals(subject)
    covariance = torch.cov(rows.T)
    fitted = torch.distributions.MultivariateNormal(-rows.mean(0), covariance)
    shape = torch.distributions.MultivariateNormal(torch.zeros(WIDTH).double(), covariance)

    def of_length(r: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        return r.double().norm(dim=-1, keepdim=True) * direction / direction.norm(dim=-1, keepdim=True)

    noises: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "fitted": lambda r: fitted.sample(r.shape[:1]),
        "directional": lambda r: of_length(r, shape.sample(r.shape[:1])),
        "isotropic": lambda r: of_length(r, torch.randn(r.shape).double()),
    }
    torch.manual_seed(0)
    windows = brute.windows("evaluation", 2)
    for name, noise in noises.items():
        theirs = np.zeros(draws)
        tokens = 0
        for row in windows.inputs:
            ids = torch.from_numpy(row)
            for draw in range(draws):
                # From x̂, r + noise(r) goes to x + noise(r).
                _, kl, count = brute.scores(ids, lambda r: r.double() + noise(r), subject)  # noqa: B023
                theirs[draw] += kl
            tokens += count
        theirs /= tokens
        ours = values.xs(f"noise-{name}", level="rung").groupby("draw")[["kl", "tokens"]].sum()
        per_draw = (ours["kl"] / ours["tokens"]).to_numpy()
        error = math.hypot(theirs.std(), per_draw.std()) / math.sqrt(draws)
        assert abs(theirs.mean() - per_draw.mean()) < 4 * error, name


def test_the_gaussian_ratio_is_the_kl_of_the_paid_codes_over_that_of_the_noise() -> None:
    record, values = baseline()
    pooled = per_rung(values, "kl")
    for name in ("fitted", "directional", "isotropic"):
        ratio = getattr(record.metrics.gaussian_ratio, name)
        assert ratio.value == pytest.approx(pooled["coded"] / pooled[f"noise-{name}"], rel=1e-4)


# what must hold


def test_the_true_residual_gives_back_the_clean_model() -> None:
    record, values = run(Shrink(-3.0, 100.0))
    clean, true = values.xs("clean", level="rung"), values.xs("true", level="rung")
    assert ((clean["loss"] - true["loss"]).abs() / clean["tokens"]).max() <= 1e-4
    assert true["kl"].abs().max() <= 1e-4
    assert (true["top1"] == true["tokens"]).all()
    check = record.checks["true_equals_clean"]
    assert check.passed
    assert check.value is not None
    assert abs(check.value) <= 1e-4
    assert abs(per_rung(values)["raw"] - per_rung(values)["clean"]) > 0.1


def test_the_identity_has_no_gap_on_any_rung_of_exact_codes(exact_ladder: None) -> None:
    record, values = run(Identity())
    losses, divergences = per_rung(values), per_rung(values, "kl")
    for rung in ("raw", "mean", "full", "permuted", "true"):
        assert losses[rung] == pytest.approx(losses["clean"], abs=1e-6), rung
        assert divergences[rung] == pytest.approx(0, abs=1e-6), rung
    assert record.metrics.reconstruction.explained_variance.value == 1.0


def test_the_checks_of_a_run_are_all_recorded_and_passed() -> None:
    record, _ = baseline()
    assert set(record.checks) == {
        "suffix",
        "conformance",
        "decoded_calibration",
        "decoded_evaluation",
        "zero_splice",
        "true_equals_clean",
        "memorised",
    }
    assert all(check.passed for check in record.checks.values())
    assert record.checks["suffix"].note.startswith("blocks after the site only, chunked head")
    assert record.measurement.suffix == "blocks after the site only, chunked head"
    assert record.checks["zero_splice"].value != 0


def test_a_wrong_splice_is_caught_by_the_true_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrueResidual, "sample", lambda self, context, draw: 0.9 * context.residual)
    with pytest.raises(MeasurementError, match="misses the clean loss"):
        run()


def test_a_site_that_the_model_does_not_use_is_caught_by_the_zero_splice(tmp_path: Path) -> None:
    model = make_model()
    model.model.layers[2].self_attn.o_proj.weight.data.zero_()
    folder = save_model(model, tmp_path / "model")
    loaded = make_loaded(task_of(folder=folder, hook="blocks.2.attn.hook_z"))
    with pytest.raises(MeasurementError, match=r"zeros at blocks\.2\.attn\.hook_z does not change"):
        run(loaded=loaded)


def test_draws_of_the_gaussian_rung_are_antithetic_and_those_of_real_residuals_are_not(
    exact_ladder: None,
) -> None:
    """Where residuals are small the loss is linear, and +z and −z cancel around the rung `mean`."""
    _, values = run(Shrink(0.999, 0.0), pairs=2)
    centre = values.xs("mean", level="rung")["loss"].to_numpy()[:, None]
    for rung, cancels in (("full", True), ("permuted", False)):
        change = values.xs(rung, level="rung")["loss"].unstack("draw").to_numpy() - centre
        for first in (0, 2):
            left = np.abs(change[:, first] + change[:, first + 1]).mean() / np.abs(change[:, first]).mean()
            assert (left < 0.1) == cancels, (rung, left)
        assert not np.allclose(change[:, 0], change[:, 2], rtol=0.1)


# what must move nothing


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 32])
def test_the_batch_size_moves_nothing(batch_size: int) -> None:
    _, expected = baseline()  # batches of 4
    _, found = run(batch_size=batch_size)
    assert set(found.index.unique("rung")) >= {"clean", "raw", "mean", "full", "permuted", "true"}
    assert_same(found, expected)


def test_the_order_of_documents_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same windows backwards: in calibration, in the bank, and in evaluation."""
    _, expected = baseline()
    real = Corpus.windows

    def backwards(self: Corpus, split: Split) -> Windows:
        count = {"evaluation": 14, "calibration": 16, "fit": 20}[split]
        first = real(self, split).first(count)
        return first.take(range(count - 1, -1, -1))

    monkeypatch.setattr(Corpus, "windows", backwards)
    _, found = run()
    assert_same(found, expected)


def test_another_interpretation_before_moves_nothing() -> None:
    _, expected = baseline()
    loaded = make_loaded(task_of())
    run(Shrink(0.1, 1.0), loaded=loaded)
    run(Identity(), loaded=loaded)
    _, found = run(loaded=loaded)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("rungs", [["full"], ["permuted", "raw"], ["true", "mean"]])
def test_other_rungs_move_nothing(rungs: list[str]) -> None:
    _, expected = baseline()
    record, found = run(rungs=rungs)
    assert set(record.measurement.rungs) == {"raw", "coded", *rungs}
    kept = expected.loc[expected.index.get_level_values("rung").isin(found.index.unique("rung"))]
    pd.testing.assert_frame_equal(found, kept)


def test_more_draws_leave_the_first_ones_as_they_were() -> None:
    _, expected = baseline()
    _, found = run(pairs=3)
    assert set(found.index.unique("draw")) == set(range(6))
    pd.testing.assert_frame_equal(found.loc[found.index.isin(expected.index)], expected)


def test_fewer_windows_are_the_first_ones_with_the_same_values() -> None:
    _, expected = baseline()
    fewer = task_of(tiers={"quick": TIER["quick"].model_copy(update={"evaluation_windows": 5})})
    loaded = make_loaded(fewer)
    _, found = run(loaded=loaded)
    first = loaded.corpus.windows("evaluation").first(5)
    assert {key[:2] for key in found.index} == set(zip(first.documents, first.indices, strict=True))
    # The centred sum of squares is about the mean of the windows that were measured.
    expected = expected.loc[expected.index.isin(found.index)]
    assert_same(found.assign(centred_ss=0.0), expected.assign(centred_ss=0.0))


def test_two_interpretations_see_the_same_noise(monkeypatch: pytest.MonkeyPatch, exact_ladder: None) -> None:
    """With residuals that differ by a constant factor, the fitted noises differ by just that factor."""
    seen: list[torch.Tensor] = []
    real = Full.sample

    def spy(self: Any, context: Any, draw: Any) -> torch.Tensor:
        epsilon = real(self, context, draw)
        seen.append(epsilon - self.mean)
        return epsilon

    monkeypatch.setattr(Full, "sample", spy)
    run(Shrink(0.9, 0.0), rungs=["full"])  # r = 0.1 x
    small = seen.copy()
    seen.clear()
    run(Shrink(0.8, 0.0), rungs=["full"])  # r = 0.2 x
    assert len(small) == len(seen) > 0
    for first, second in zip(small, seen, strict=True):
        torch.testing.assert_close(2 * first, second, rtol=1e-4, atol=1e-6)


def test_the_same_run_twice_finds_the_same_result() -> None:
    first, _ = baseline()
    second, _ = run()
    assert first.result_id == second.result_id
    other, _ = run(Shrink(0.71))
    assert other.result_id != first.result_id


# precision, warnings


def test_bfloat16_records_how_far_it_is_off() -> None:
    exact, exact_values = baseline()
    short, short_values = run(dtype="bfloat16")
    assert exact.measurement.bf16_deviation is None
    deviation = short.measurement.bf16_deviation
    assert deviation is not None
    assert set(deviation) == {"tokens", "clean_loss", "raw_gap", "raw_kl"}
    first = make_loaded(task_of()).corpus.windows("evaluation").first(4)  # the first batch
    keys = list(zip(first.documents, first.indices, strict=True))

    def pooled(values: pd.DataFrame, rung: str, column: str) -> float:
        rows = values.loc[[(*key, rung, 0) for key in keys]]
        return float(rows[column].sum() / rows["tokens"].sum())

    clean = pooled(short_values, "clean", "loss") - pooled(exact_values, "clean", "loss")
    raw = pooled(short_values, "raw", "loss") - pooled(exact_values, "raw", "loss")
    kl = pooled(short_values, "raw", "kl") - pooled(exact_values, "raw", "kl")
    assert deviation["clean_loss"] == pytest.approx(clean, abs=1e-5)
    assert deviation["raw_gap"] == pytest.approx(raw - clean, abs=1e-5)
    assert deviation["raw_kl"] == pytest.approx(kl, abs=1e-5)
    assert 1e-6 < abs(deviation["clean_loss"]) < 0.1
    assert short.measurement.dtype == "bfloat16"


@pytest.mark.parametrize(("windows", "warned"), [(2, True), (16, False)])
def test_too_few_calibration_tokens_are_warned_of_in_the_record(windows: int, warned: bool) -> None:
    tier = {"quick": TIER["quick"].model_copy(update={"calibration_windows": windows})}
    record, _ = run(loaded=make_loaded(task_of(tiers=tier)), rungs=["mean"])
    assert (record.calibration.tokens < 5 * WIDTH) == warned
    assert any("fewer than 5 a dimension" in warning for warning in record.warnings) == warned


def test_the_record_counts_what_was_calibrated_on() -> None:
    record, _ = run(rungs=["mean"])
    brute = Brute(task_of())
    assert record.calibration.tokens == len(brute.residuals(Shrink()))
    assert record.calibration.documents == 8
    assert record.calibration.dimension == WIDTH


# refusals


class Broken(Shrink):
    """NaN where an activation is unusually large, as a real overflow would be."""

    def __init__(self, what: str, above: float = 2.5) -> None:
        super().__init__()
        self.what, self.above = what, above

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > self.above, float("nan"), x) if self.what == "encode" else x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        x = super().decode(codes)
        return torch.where(codes > self.above, float("inf"), x) if self.what == "decode" else x


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_an_interpretation_that_gives_nan_is_refused(what: str) -> None:
    with pytest.raises(InterpretationError, match=f"broken: {what} gave .* values that are NaN or infinite"):
        run(Broken(what))


def test_an_interpretation_of_another_width_is_refused() -> None:
    class Wide(Shrink):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.cat([codes, codes], -1)

    with pytest.raises(InterpretationError, match=f"the site needs .*{WIDTH}"):
        run(Wide())


def test_a_reconstruction_that_the_model_cannot_survive_is_refused() -> None:
    class Huge(Shrink):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes * 3e38

    with pytest.raises((MeasurementError, InterpretationError)):
        run(Huge())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tier": "huge"}, "no tier 'huge'"),
        ({"rungs": ["raw", "ful"]}, "no rung 'ful'"),
        ({"dtype": "float16"}, "no dtype 'float16'"),
        ({"pairs": 0}, "pairs is 0"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        run(**options)


def test_raw_is_always_measured_and_rungs_keep_their_order() -> None:
    task = task_of()
    assert plan(task, "quick", rungs=("true", "mean")).rungs == ("raw", "coded", "mean", "true")
    assert plan(task, "quick").rungs == ("raw", "coded", "mean", "full", "permuted")
    assert plan(task, "quick", rungs=("all",)).rungs == (*RUNGS, *AROUND)
    board = plan(task, "quick", rungs=("board",))
    assert set(board.rungs) == set(BOARD_RUNGS)
    assert board.nulls == ("noise-fitted",)
    assert plan(task, "standard", rungs=board.rungs).nulls == board.nulls
    assert set(plan(task, "quick", rungs=("board", "matched")).rungs) == {*BOARD_RUNGS, "matched"}


def test_the_ladder_of_exact_codes_has_no_coded_rung(exact_ladder: None) -> None:
    task = task_of()
    assert plan(task, "quick", rungs=("mean",)).rungs == ("raw", "mean")
    assert plan(task, "quick", rungs=("all",)).rungs == tuple(
        rung for rung in (*RUNGS, *AROUND) if rung != "coded"
    )
    record, values = run(Identity())
    assert not set(values.index.unique("rung")) & {*CURVE, "reference-mean"}
    assert record.metrics.coding is not None
    assert record.metrics.coding.points == {}
    assert record.metrics.coding.reference == ()
    assert record.complexity.coding is not None
    step = record.complexity.coding.steps["coded"]
    assert record.complexity.bits_per_token == record.metrics.coding.steps[step].bits


def test_rows_of_the_reference_are_measured_once_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of principal components rounded with one step; a second interpretation finds them."""
    seen: list[int] = []
    real = reference._measure
    monkeypatch.setattr(reference, "_measure", lambda *args: seen.append(1) or real(*args))
    first, values = run()
    second, others = run(Shrink(0.5))
    assert seen == [1]
    rungs = [name for name in values.index.unique("rung") if name.startswith("reference-")]
    assert len(rungs) == 1 + len(reference.REFERENCE_STEPS)
    for rung in rungs:
        pd.testing.assert_frame_equal(values.xs(rung, level="rung"), others.xs(rung, level="rung"))
    for record in (first, second):
        assert record.metrics.coding is not None
        bits = [point.bits.value for point in record.metrics.coding.reference]
        assert bits[0] == 0
        assert bits == sorted(bits, key=float)
    assert run(dtype="bfloat16")[0].metrics.coding is not None
    assert seen == [1, 1]


def test_the_reference_equals_brute_force() -> None:
    _, values = baseline()
    brute = Brute(task_of())
    calibration = [brute.clean(torch.from_numpy(row)) for row in brute.windows("calibration", 16).inputs]
    rows = torch.cat([x[here] for x, here in calibration]).double()
    mean = rows.mean(0)
    _, basis = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    rms = float((rows - mean).square().sum(-1).mean().sqrt())
    windows = brute.windows("evaluation", 14)
    row, document, window = windows.inputs[0], windows.documents[0], windows.indices[0]
    ids = torch.from_numpy(row)
    x, spliced = brute.clean(ids)
    for rung, step in (
        ("reference-mean", math.inf),
        ("reference-4", rms / 4),
        ("reference-9", rms * 2**-4.5),
    ):
        estimate = mean.expand(x.shape)
        if step < math.inf:
            estimate = mean + torch.round((x.double() - mean) @ basis / step) * step @ basis.T
        found = values.loc[(document, window, rung, 0)]
        left = (x.double() - estimate)[spliced].square().sum()
        assert found["residual_ss"] == pytest.approx(float(left), rel=1e-4)
        new = torch.where(spliced[:, None], estimate.float(), x)
        clean, log_p = brute.log_p(ids, x), brute.log_p(ids, new)
        scored = [t for t in range(len(ids) - 1) if bool(spliced[t]) and int(ids[t + 1]) not in SPECIAL]
        kl = sum(float((clean[t].exp() * (clean[t] - log_p[t])).sum()) for t in scored)
        assert found["kl"] == pytest.approx(kl, abs=1e-3)


def test_bits_and_squares_of_points_are_those_of_their_steps() -> None:
    record, values = baseline()
    coding = record.complexity.coding
    assert coding is not None
    raw = values.xs("raw", level="rung")
    for point, step in coding.steps.items():
        own = values.xs(point, level="rung")
        np.testing.assert_allclose(own["bits"], raw[f"bits_{step}"], rtol=1e-8)
        np.testing.assert_allclose(own["residual_ss"], raw[f"ss_{step}"], rtol=1e-4)


def test_codes_beside_a_path_past_them_are_not_paid_for() -> None:
    class Skips(Shrink):
        def skip(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(-1, keepdim=True).expand_as(x)

    record, values = run(Skips())
    assert record.complexity.coding is None
    assert "past the codes" in str(record.complexity.bits_per_token.reason)
    assert record.metrics.coding is None
    assert record.measurement.unmeasured["coded"] == record.complexity.bits_per_token.reason
    assert not set(values.index.unique("rung")) & {*CURVE, "reference-mean"}
    assert "bits" not in values


def test_quantised_codes_that_decode_otherwise_later_are_refused() -> None:
    class Moody(Shrink):
        """After enough calls the same codes mean something else."""

        calls = 0

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            self.calls += codes.shape[1] == WINDOW
            return super().decode(codes) * (1.0 if self.calls < 30 else 1.5)

    with pytest.raises(MeasurementError, match="decode to"):
        run(Moody())


def test_where_no_position_is_spliced_it_is_said() -> None:
    with pytest.raises(MeasurementError, match="no position is spliced"):
        run(loaded=make_loaded(task_of(positions=Positions(sink_norm=1e-6))))


def test_cuda_without_cuda_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TaskError, match="no CUDA device"):
        evaluate(task_of(), Shrink(), device="cuda")


def test_the_tiny_model_is_no_trivial_one() -> None:
    """Some positions are sinks, some targets are special, and the model is not one that guesses."""
    brute = Brute(task_of())
    windows = brute.windows("evaluation", 14).inputs
    spliced = torch.stack([brute.clean(torch.from_numpy(row))[1] for row in windows])
    special = torch.isin(torch.from_numpy(windows), torch.tensor(SPECIAL))
    assert int(special[:, 1:].sum()) > 3
    assert 10 < int((~spliced & ~special).sum()) < spliced.numel() / 4
    _, values = baseline()
    assert abs(per_rung(values)["clean"] - math.log(VOCABULARY)) > 0.3
