"""`compat` against SAELens' own evaluator on the same model, SAE and token ids.

Its hooks fire on the bridge's own names only: `blocks.N.hook_out`, not the alias `blocks.N+1.hook_resid_pre`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sae_lens import SAE
from sae_lens.evals import get_recons_loss
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.util import get_special_token_ids
from saelens_peer import all_numbers, as_saelens

from remainder.loading.activations import SiteActivations, prefix_pass
from remainder.loading.open import open_task
from remainder.loading.site import LanguageTask
from remainder.measure.codes import CodeSample
from remainder.measure.compat import SpecialIds, measure_compat, special_ids
from remainder.record.compat import Compat
from remainder.submission.open import open_submission
from remainder.task.text import Split, Windows

ROOT = Path(__file__).resolve().parents[2]
LOSSES = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "ce_loss_score",
    "kl_div_with_sae",
    "kl_div_with_ablation",
    "kl_div_score",
)
ACTIVATIONS = (
    "explained_variance",
    "explained_variance_legacy",
    "mse",
    "cossim",
    "l2_norm_in",
    "l2_norm_out",
    "l2_ratio",
    "relative_reconstruction_bias",
    "l0",
)
CLOSE = 1e-5
"""Nats by which losses of the small model may differ, six digits of a loss of 8 among them."""


class Both(NamedTuple):
    """One SAE, measured here and made ready for SAELens."""

    ours: Compat
    ids: SpecialIds
    sae: Any
    model: Any
    tokens: torch.Tensor

    def saelens(self, batches: int = 1, **options: Any) -> dict[str, float]:
        """All numbers of `run_evals` in one dict."""
        return all_numbers(self.sae, self.model, self.tokens, batches, **options)

    def everywhere(self, kept: torch.Tensor) -> dict[str, float]:
        """What SAEBench has: x̂ at special positions too, which are left out of the means only."""
        found = get_recons_loss(self.sae, self.model, ActivationScaler(), self.tokens, True, True)
        means = {
            name: float(values[kept[:, : values.shape[1]]].double().mean()) for name, values in found.items()
        }
        clean, spliced, zero = (means[name] for name in (LOSSES[0], LOSSES[1], LOSSES[2]))
        means["ce_loss_score"] = (zero - spliced) / (zero - clean)
        means["kl_div_score"] = 1 - means["kl_div_with_sae"] / means["kl_div_with_ablation"]
        return means


class WithSpecialTokens(LanguageTask):
    """A task with the beginning-of-sequence token in every other window once more, each time elsewhere."""

    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        chosen = self.windows(split).first(windows or 0)
        inputs = chosen.inputs.copy()
        for number in range(0, len(inputs), 2):
            inputs[number, -1 - 5 * number] = self.task.corpus.bos  # type: ignore[union-attr]
        chosen = Windows(**{**chosen._asdict(), "inputs": inputs})
        return SiteActivations(self.task, chosen, prefix_pass(self.runner("float32"), chosen, 4, "", None))


def measured(task: str, baseline: str, windows: int, hook: str) -> Both:
    """Both sides on windows with special tokens."""
    opened = open_task(task, device="cpu", batch_size=3)
    assert isinstance(opened, LanguageTask)
    loaded = WithSpecialTokens(opened.task, opened.device, 3, None, opened.corpus, opened.given)
    interpretation = open_submission(ROOT / "baselines" / baseline).build(
        loaded.task, lambda: opened.fit_moments(2)
    )
    with torch.inference_mode():
        ours = measure_compat(loaded, interpretation, windows, CodeSample())
        tokens = torch.from_numpy(loaded.activations("evaluation", windows).windows.inputs)
    model = as_saelens(loaded.given.bridge())
    sae = SAE.load_from_disk(ROOT / "baselines" / baseline / "weights", dtype="float32").eval()
    sae.cfg.metadata.hook_name = hook
    return Both(ours, special_ids(loaded.given.tokenizer), sae, model, tokens)


@pytest.fixture(
    scope="module", params=[("wiki", "blocks.1.hook_out"), ("wiki-mlp", "blocks.2.mlp.hook_out")], ids=str
)
def tiny(request: pytest.FixtureRequest) -> Both:
    """The residual stream, and an MLP's output, whose zeros leave the model more than nothing."""
    torch.set_num_threads(1)
    site, hook = request.param
    return measured(f"tiny/{site}", f"{site}-topk", windows=8, hook=hook)


def assert_equal(ours: Any, theirs: dict[str, float], names: tuple[str, ...], **tolerance: float) -> None:
    for name in names:
        found = getattr(ours, name)
        assert found.value == pytest.approx(theirs[name], **tolerance), name
        assert found.low <= found.value <= found.high, name


def assert_saelens(both: Both, nats: float) -> None:
    theirs = both.saelens()
    assert_equal(both.ours.saelens, theirs, LOSSES, abs=nats, rel=0)
    assert_equal(both.ours.saelens, theirs, ("explained_variance",), abs=1e-5, rel=0)
    assert_equal(both.ours.saelens, theirs, ACTIVATIONS, rel=1e-5, abs=0)


def assert_saebench(both: Both, nats: float) -> None:
    """With the ids that it asks for; its own two formulas are tested elsewhere."""
    kept = ~torch.isin(both.tokens, torch.tensor(sorted(both.ids.saebench)))
    theirs = both.everywhere(kept)
    assert_equal(both.ours.saebench, theirs, LOSSES, abs=nats, rel=0)


def test_special_ids_are_those_that_saelens_asks_for(tiny: Both) -> None:
    assert tiny.ids.saelens == set(get_special_token_ids(tiny.model.tokenizer))
    special = torch.isin(tiny.tokens, torch.tensor(sorted(tiny.ids.saelens)))
    assert special.sum(1).tolist() == [2, 1] * 4
    assert special[0, -1]  # where KL would count and the loss has no target
    assert tiny.ours.saelens.tokens == int((~special).sum())


def test_saelens_gives_the_same(tiny: Both) -> None:
    assert_saelens(tiny, CLOSE)


def test_saebench_gives_the_same(tiny: Both) -> None:
    assert_saebench(tiny, CLOSE)


def test_dictionary_learning_gives_the_same(tiny: Both) -> None:
    """Its loss is of all targets but padding, the first token among the inputs."""
    found = get_recons_loss(tiny.sae, tiny.model, ActivationScaler(), tiny.tokens, False, True)
    kept = ~torch.isin(tiny.tokens[:, 1:], torch.tensor(sorted(tiny.ids.padding)))
    clean, spliced, zero = (float(found[name][kept].double().mean()) for name in LOSSES[:3])
    ours = tiny.ours.dictionary_learning
    for number, value in (
        (ours.loss_original, clean),
        (ours.loss_reconstructed, spliced),
        (ours.loss_zero, zero),
        (ours.frac_recovered, (spliced - zero) / (clean - zero)),
    ):
        assert number.value == pytest.approx(value, abs=CLOSE)


def test_other_masks_would_not_pass(tiny: Both) -> None:
    """Each of the masks moves some number by several times the tolerance."""
    ours = tiny.ours
    unmasked = tiny.saelens(exclude_special_tokens=False)
    for name in ("ce_loss_without_sae", "kl_div_with_sae", "mse", "explained_variance"):
        assert abs(getattr(ours.saelens, name).value - unmasked[name]) > 10 * CLOSE, name
    spliced = (ours.saelens.kl_div_with_sae.value, ours.saebench.kl_div_with_sae.value)
    assert abs(spliced[0] - spliced[1]) > 5 * CLOSE
    assert abs(ours.dictionary_learning.loss_original.value - ours.saelens.ce_loss_without_sae.value) > 1e-3


def test_what_saelens_averages_over_batches_we_pool(tiny: Both) -> None:
    """Two of its numbers depend on the batch size, the rest does not."""
    whole, halves = tiny.saelens(), tiny.saelens(batches=4)
    moved = {name for name in (*LOSSES, *ACTIVATIONS) if abs(whole[name] / halves[name] - 1) > 1e-5}
    assert moved == {"explained_variance_legacy", "relative_reconstruction_bias"}


@pytest.mark.slow
def test_saelens_and_saebench_give_the_same_on_a_real_model() -> None:
    both = measured("smollm2-135m/resid-15", "topk-sae-32", windows=6, hook="blocks.14.hook_out")
    assert_saelens(both, 1e-4)
    assert_saebench(both, 1e-4)
