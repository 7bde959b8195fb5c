"""The real SmolLM2 on real text: halves equal the whole to the bit, and a sae-lens SAE is scored in one call.

Fetches what is not in the cache yet (about 120 MB, once); activations go to a cache of the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import remainder
from remainder.interpretation.references import principal_components
from remainder.loading.fetch import fetch
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.task.spec import Task, Tier, load_task

pytestmark = pytest.mark.slow  # test_model and test_evaluate ask the same of small models

TASK = "smollm2-135m/resid-15"
TINY = Tier(evaluation_windows=2, calibration_windows=4, fit_windows=4, pairs=1, dtype="float32")
KEY = ["document", "window", "rung", "draw"]


def tiny_task() -> Task:
    return load_task(TASK).model_copy(update={"tiers": {"tiny": TINY}})


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads wait for each other, five times as long
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedTask]:
    fetch(load_task(TASK))
    opened = open_task(tiny_task(), device="cpu", batch_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMAINDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield opened


@pytest.fixture(scope="module")
def ids(loaded: LoadedTask) -> torch.Tensor:
    return torch.from_numpy(loaded.corpus.windows("evaluation").first(2).inputs)


def test_the_text_is_the_pinned_one(loaded: LoadedTask) -> None:
    corpus = loaded.corpus
    assert corpus.hash == loaded.task.corpus.tokens_sha256
    splits = {split: corpus.documents(split) for split in ("evaluation", "calibration", "fit")}  # type: ignore[arg-type]
    assert {split: len(documents) for split, documents in splits.items()} == {
        "evaluation": 44,
        "calibration": 20,
        "fit": 40,
    }
    assert len(set().union(*splits.values())) == 104  # disjoint


def test_the_weights_are_the_pinned_ones(loaded: LoadedTask) -> None:
    assert loaded.model.sha256 == load_task(TASK).model.weights_sha256


def test_the_suffix_equals_the_full_pass_to_the_bit(loaded: LoadedTask, ids: torch.Tensor) -> None:
    runner = loaded.runner("float32")
    assert runner.mode == "blocks after the site only, chunked head"
    with torch.inference_mode():
        expected, prefix = runner.full_logits(ids), runner.prefix(ids)
        hidden = runner.suffix(ids, prefix, prefix.x_out)
        for window in range(len(ids)):
            assert torch.equal(runner.logits(hidden[window]), expected[window])


@pytest.mark.slow
def test_the_site_is_what_transformers_calls_it(loaded: LoadedTask, ids: torch.Tensor) -> None:
    plain = AutoModelForCausalLM.from_pretrained(loaded.given.folder, dtype=torch.float32).eval()
    runner = loaded.runner("float32")
    with torch.inference_mode():
        output = plain(ids[:1], output_hidden_states=True)
        x = runner.prefix(ids[:1]).x_out
        torch.testing.assert_close(x, output.hidden_states[15], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(runner.full_logits(ids[:1]), output.logits, rtol=1e-3, atol=2e-3)


def test_the_first_token_is_a_sink_and_most_others_are_spliced(loaded: LoadedTask) -> None:
    (batch,) = loaded.activations("evaluation", 2).batches(2)
    norms = batch.prefix.x_out.norm(dim=-1)
    assert not batch.spliced[:, 0].any()
    assert float(norms[:, 0].min()) > loaded.task.positions.sink_norm
    assert float(batch.spliced[:, 1:].float().mean()) > 0.98
    assert float(norms[batch.spliced].median()) < loaded.task.positions.sink_norm / 5


@pytest.fixture(scope="module")
def measured(loaded: LoadedTask) -> remainder.Result:
    """PCA of a few directions on two windows at once."""
    return remainder.evaluate(
        loaded,
        principal_components(loaded.fit_moments(4), 128),
        name="pca",
        tier="tiny",
        rungs=loaded.task.rungs,
    )


def pooled(result: remainder.Result) -> pd.Series:
    sums = result.values.groupby("rung")[["loss", "tokens"]].sum()
    ratio: pd.Series = sums["loss"] / sums["tokens"]
    return ratio


def test_the_true_residual_gives_back_the_clean_loss_exactly(measured: remainder.Result) -> None:
    values = measured.values.set_index(KEY).sort_index()
    clean, true = (values.xs(rung, level="rung")["loss"] for rung in ("clean", "true"))
    assert (clean == true).all()
    assert (values.xs("true", level="rung")["kl"].abs() < 1e-4).all()


def test_losses_are_of_the_size_that_is_known(measured: remainder.Result) -> None:
    """Loss near 3.3; PCA-128 costs about half a nat raw, and a Gaussian more (few windows: wide margins)."""
    losses = pooled(measured)
    assert 2.3 < losses["clean"] < 4.3
    assert 0.1 < losses["raw"] - losses["clean"] < 1.5
    assert losses["full"] > losses["raw"]
    assert measured.record.warnings  # 4 windows are far too few for 576 dimensions


@pytest.mark.slow
def test_the_batch_size_moves_nothing(
    loaded: LoadedTask, measured: remainder.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rungs with activations computed afresh, one window at a time."""
    pca = principal_components(loaded.fit_moments(4), 128)
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path))
    monkeypatch.setattr(loaded, "batch_size", 1)
    result = remainder.evaluate(loaded, pca, name="pca", tier="tiny", rungs=loaded.task.rungs)
    found = result.values.set_index(KEY).sort_index()
    expected = measured.values.set_index(KEY).sort_index()
    assert list(found.index) == list(expected.index)
    for column in ("loss", "kl"):
        per_token = (found[column] - expected[column]).abs() / expected["tokens"]
        assert per_token.max() < 1e-4, column


def test_a_sae_lens_sae_is_scored_in_one_call(loaded: LoadedTask, tmp_path: Path) -> None:
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=576, d_sae=1024, k=16))
    with torch.no_grad():
        for weight in sae.parameters():
            torch.nn.init.normal_(weight, std=0.03)
    result = remainder.evaluate(loaded, sae, tier="tiny", rungs=["full"])
    record = result.record
    assert record.submission.name == "topksae"
    assert record.complexity.features == 1024
    assert record.complexity.l0.value == pytest.approx(16, abs=1e-6)
    assert record.complexity.bits_per_token.value is not None
    gap = record.metrics.rungs["raw"].quenched.gap.value
    assert gap is not None
    assert gap > 1  # a random SAE explains nothing
    assert result.frame()["gap_raw"][0] == gap
    assert "topksae" in str(result)
    stored = remainder.read_record(result.save(tmp_path / "sae.json"))
    assert stored.record == record
