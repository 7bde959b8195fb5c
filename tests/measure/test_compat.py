"""The field's metrics against brute force in float64, one token after another."""

from __future__ import annotations

import math
from functools import cache as once
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import BOS, EOS, WIDTH, Shrink, make_loaded, make_model, make_task, model_folder, save_model
from transformers import AutoModelForCausalLM

from remainder.api import evaluate
from remainder.errors import TaskError
from remainder.interpretation.protocol import adapt
from remainder.loading.fetch import load_tokenizer
from remainder.loading.site import LanguageTask
from remainder.measure.codes import Codes, CodeSample
from remainder.measure.compat import measure_compat, special_ids
from remainder.measure.mdl import BIN_COUNTS, description_length
from remainder.measure.plan import plan
from remainder.record.compat import Compat
from remainder.record.number import Number
from remainder.record.recompute import recompute
from remainder.record.store import read_record
from remainder.report.explain import explain
from remainder.task.spec import Positions, load_task

WINDOWS = 10
SPECIAL = (BOS, EOS)
"""The tokenizer's; the task masks id 0 too, and positions of large norm, which no peer does."""


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))


class Halves:
    """x̂ = relu(x) W + b: codes that are often zero, a reconstruction that is rather bad."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weight = 0.4 * torch.randn(WIDTH, WIDTH, generator=generator) + torch.eye(WIDTH)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.weight.to(codes) + 0.3


def measured(
    interpretation: Any = None, *, batch_size: int = 4, loaded: LanguageTask | None = None
) -> Compat:
    loaded = loaded or make_loaded(make_task(positions=Positions(sink_norm=14.0)), batch_size=batch_size)
    with torch.inference_mode():
        return measure_compat(loaded, adapt(interpretation or Halves(), WIDTH), WINDOWS, CodeSample())


@once
def found() -> Compat:
    """What `measured()` finds."""
    return measured()


# --- Brute force ---


class Token:
    """One position: its id, its activation and reconstruction, and what the model says after it."""

    def __init__(self, token: int, target: int | None, x: Any, estimate: Any, codes: Any) -> None:
        self.token, self.target, self.x, self.estimate, self.codes = token, target, x, estimate, codes
        self.residual = x - estimate
        self.loss: dict[str, float] = {}
        self.kl: dict[str, float] = {}


@once
def tokens() -> list[Token]:
    """Every position of the evaluation windows, by a plain transformers model in float64."""
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float64).eval()
    interpretation, positions = Halves(), []

    def log_p(ids: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        def put(module: Any, args: Any) -> Any:
            return (new[None], *args[1:])

        handle = model.model.layers[2].register_forward_pre_hook(put)
        try:
            return torch.log_softmax(model(ids[None]).logits[0], -1)
        finally:
            handle.remove()

    for row in make_loaded(make_task()).corpus.windows("evaluation").first(WINDOWS).inputs:
        ids = torch.from_numpy(row)
        with torch.inference_mode():
            x = model(ids[None], output_hidden_states=True).hidden_states[2][0]
            codes = interpretation.encode(x)
            estimate = interpretation.decode(codes)
            special = torch.tensor([int(token) in SPECIAL for token in ids])
            new = {
                "clean": x,
                "zero": torch.zeros_like(x),
                "everywhere": estimate,
                "but special": torch.where(special[:, None], x, estimate),
            }
            logs = {name: log_p(ids, spliced).numpy() for name, spliced in new.items()}
        for t, token in enumerate(row.tolist()):
            target = int(row[t + 1]) if t + 1 < len(row) else None
            one = Token(token, target, x[t].numpy(), estimate[t].numpy(), codes[t].numpy())
            for name, log in logs.items():
                if target is not None:
                    one.loss[name] = -float(log[t, target])
                p = np.exp(logs["clean"][t])
                one.kl[name] = float((p * (logs["clean"][t] - log[t])).sum())
            positions.append(one)
    return positions


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def expected(spliced: str) -> dict[str, float]:
    """What SAELens computes, one number after another, if it splices `spliced`."""
    kept = [token for token in tokens() if token.token not in SPECIAL]
    scored = [token for token in kept if token.target is not None]
    assert len(scored) < len(kept) < len(tokens())
    x, estimate, residual = (
        np.array([getattr(token, name) for token in kept]) for name in ("x", "estimate", "residual")
    )
    clean, sae, zero = (mean([token.loss[name] for token in scored]) for name in ("clean", spliced, "zero"))
    kl_sae, kl_zero = (mean([token.kl[name] for token in kept]) for name in (spliced, "zero"))
    norms, norms_out = np.linalg.norm(x, axis=1), np.linalg.norm(estimate, axis=1)
    squares = (residual**2).sum(1)
    return {
        "tokens": len(kept),
        "ce_loss_without_sae": clean,
        "ce_loss_with_sae": sae,
        "ce_loss_with_ablation": zero,
        "ce_loss_score": (zero - sae) / (zero - clean),
        "kl_div_with_sae": kl_sae,
        "kl_div_with_ablation": kl_zero,
        "kl_div_score": (kl_zero - kl_sae) / kl_zero,
        "explained_variance": 1 - squares.mean() / ((x**2).sum(1).mean() - (x.mean(0) ** 2).sum()),
        "explained_variance_legacy": (1 - squares / ((x - x.mean(0)) ** 2).sum(1)).mean(),
        "mse": squares.mean(),
        "cossim": ((x * estimate).sum(1) / norms / norms_out).mean(),
        "l2_norm_in": norms.mean(),
        "l2_norm_out": norms_out.mean(),
        "l2_ratio": (norms_out / norms).mean(),
        "relative_reconstruction_bias": (norms_out**2).mean() / (x * estimate).sum(1).mean(),
        "l0": mean([float((token.codes != 0).sum()) for token in kept]),
    }


def test_saelens_is_brute_force() -> None:
    for name, value in expected("but special").items():
        number = getattr(found().saelens, name)
        assert (number.value if isinstance(number, Number) else number) == pytest.approx(value, rel=2e-5), (
            name
        )


def test_saebench_is_brute_force() -> None:
    """x̂ at special positions too; a variance of its own; no MSE that depends on the batch size."""
    ours, brute = found().saebench, expected("everywhere")
    kept = np.array([token.x for token in tokens() if token.token not in SPECIAL])
    square = (kept**2).sum(1).mean()
    # As its code has it: the mean over tokens and dimensions of x², squared, taken off the mean of ‖x‖².
    brute["explained_variance"] = 1 - brute["mse"] / (square - (kept**2).mean() ** 2)
    del brute["mse"]
    for name, value in brute.items():
        number = getattr(ours, name)
        assert (number.value if isinstance(number, Number) else number) == pytest.approx(value, rel=2e-5), (
            name
        )
    assert ours.mse.value is None
    assert "batch size" in str(ours.mse.reason)
    assert ours.ce_loss_with_sae != found().saelens.ce_loss_with_sae


def test_dictionary_learning_is_brute_force() -> None:
    """Every input counts; targets but padding, which is EOS here; the residual's mean is free."""
    ours = found().dictionary_learning
    scored = [token for token in tokens() if token.target not in (None, EOS)]
    clean, sae, zero = (mean([t.loss[name] for t in scored]) for name in ("clean", "everywhere", "zero"))
    kept = [token for token in tokens() if token.token != EOS]
    x, residual = (np.array([getattr(token, name) for token in kept]) for name in ("x", "residual"))
    assert ours.loss_original.value == pytest.approx(clean, rel=2e-5)
    assert ours.loss_reconstructed.value == pytest.approx(sae, rel=2e-5)
    assert ours.loss_zero.value == pytest.approx(zero, rel=2e-5)
    assert ours.frac_recovered.value == pytest.approx((sae - zero) / (clean - zero), rel=2e-5)
    explained = 1 - residual.var(0, ddof=1).sum() / x.var(0, ddof=1).sum()
    assert ours.frac_variance_explained.value == pytest.approx(explained, rel=2e-5)
    assert abs(explained - (1 - (residual**2).sum() / ((x - x.mean(0)) ** 2).sum())) > 0.01


def test_a_perfect_reconstruction_has_perfect_scores() -> None:
    perfect = measured(Shrink(1.0, 0.0))
    for peer in (perfect.saelens, perfect.saebench):
        for name in ("ce_loss_score", "kl_div_score", "explained_variance_legacy", "cossim", "l2_ratio"):
            assert getattr(peer, name).value == pytest.approx(1, abs=1e-5), name
        assert peer.kl_div_with_sae.value == pytest.approx(0, abs=1e-6)
    assert perfect.dictionary_learning.frac_recovered.value == pytest.approx(1, abs=1e-5)


# --- What must not matter, and what cannot be had ---


def leaves(compat: Compat) -> dict[str, Any]:
    return {
        f"{peer}.{name}": number["value"] if isinstance(number, dict) else number
        for peer, numbers in compat.model_dump(exclude={"mdl_bits"}).items()
        for name, number in numbers.items()
    }


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_moves_nothing(batch_size: int) -> None:
    one, other = leaves(found()), leaves(measured(batch_size=batch_size))
    for name, value in one.items():
        assert other[name] == (None if value is None else pytest.approx(value, rel=2e-5)), name


def test_the_task_s_own_masks_move_nothing() -> None:
    """Neither special ids of the task nor attention sinks are masked."""
    task = make_task(positions=Positions(sink_norm=1e-3))
    assert leaves(measured(loaded=make_loaded(task))) == leaves(found())


def test_a_reconstruction_of_length_zero_has_no_cosine() -> None:
    zero = measured(Shrink(0.0, 0.0)).saelens
    assert zero.cossim.value is None
    assert f"{zero.tokens} activations or reconstructions of length 0" in str(zero.cossim.reason)
    assert zero.l2_ratio.value == 0
    assert zero.relative_reconstruction_bias.value is None
    assert zero.relative_reconstruction_bias.reason == "the denominator is zero"
    assert zero.ce_loss_score.value is not None  # zeros but at special positions are not zeros everywhere


def test_activations_that_do_not_vary_explain_nothing(tmp_path: Path) -> None:
    """Every embedding the same, so that the input of the first block is one vector."""
    model = make_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = torch.arange(WIDTH) / 8 - 1.0
    hook = "blocks.0.hook_resid_pre"
    task = make_task(save_model(model, tmp_path / "flat"), hook)
    flat = measured(loaded=make_loaded(task))
    for number in (flat.saelens.explained_variance, flat.saebench.explained_variance_legacy):
        assert number.value is None
        assert number.reason
    assert flat.saelens.explained_variance.reason == "the denominator is zero"
    assert "equal to their mean" in str(flat.saelens.explained_variance_legacy.reason)
    assert flat.dictionary_learning.frac_variance_explained.reason == "the activations do not vary"
    assert flat.saelens.mse.value is not None


def test_special_ids_are_asked_for_as_each_peer_does() -> None:
    names = ("bos", "eos", "pad", "sep", "decoder_start")
    full = SimpleNamespace(**{f"{name}_token_id": number for number, name in enumerate(names)})
    assert special_ids(full) == ({0, 1, 2, 3, 4}, {0, 1, 2}, {2})
    bare = SimpleNamespace(bos_token_id=None, eos_token_id=7, pad_token_id=None)
    assert special_ids(bare) == ({7}, {7}, {7})
    assert special_ids(load_tokenizer(model_folder())) == ({BOS, EOS}, {BOS, EOS}, {EOS})


# --- Description length ---


def codes_of(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(400, 7, generator=generator).abs() * torch.tensor([1.0, 5, 20, 60, 90, 150, 300])
    gates = torch.rand(400, 7, generator=generator) < torch.tensor([0.0, 0.02, 0.2, 0.5, 0.9, 0.99, 1.0])
    codes = sizes * gates
    codes[::5, 3] *= -1  # below the first bin, and not active
    codes[:, 6] = -codes[:, 6]  # nothing but such
    return codes


@pytest.mark.parametrize("bins", BIN_COUNTS)
def test_the_description_length_is_that_of_numpy_s_histograms(bins: int) -> None:
    codes, total = codes_of(), 0.0
    for column in codes.numpy().T.astype(np.float64):
        counts, _ = np.histogram(column, np.linspace(0, max(100.0, column.max()), bins + 1))
        p = (column > 0).mean()
        total += stats.entropy([p, 1 - p], base=2)
        total += p * stats.entropy(counts, base=2) if counts.sum() else 0.0
    for size in (len(codes), 70):
        found = description_length(lambda size=size: map(Codes.of, codes.split(size)), codes.shape[1], bins)
        assert found == pytest.approx(total, rel=1e-12)


def test_ours_and_theirs_differ_by_whose_bin_it_is() -> None:
    """Of active codes: H(active?, bin), which is ours. Of all: (1 + p) H(active) + p² H(bin given active)."""
    codes = codes_of().clamp(min=0).clamp(max=99.9).numpy()
    codes[codes > 0] = np.maximum(codes[codes > 0], 13)  # out of the first of 8 bins of 12.5
    bins = np.floor(codes / 12.5).astype(np.int64)
    ours = theirs = 0.0
    for column, binned in zip(codes.T, bins.T, strict=True):
        p = float((column > 0).mean())
        gate = stats.entropy([p, 1 - p], base=2)
        _, counts = np.unique(binned[column > 0], return_counts=True)
        value = stats.entropy(counts, base=2) if counts.size else 0.0
        ours += gate + p * value
        theirs += (1 + p) * gate + p**2 * value
    whole = Codes.of(torch.from_numpy(codes))
    assert description_length(lambda: [whole], whole.features, 8) == pytest.approx(theirs, rel=1e-6)
    assert ours != pytest.approx(theirs, rel=1e-3)


# --- In a record ---


@pytest.fixture
def text() -> LanguageTask:
    return make_loaded(make_task(positions=Positions(sink_norm=14.0)))


def test_a_record_holds_them_if_asked(text: LanguageTask, tmp_path: Path) -> None:
    result = evaluate(text, Halves(), rungs=["raw"], compat=True)
    plain = evaluate(text, Halves(), rungs=["raw"])
    assert result.record.compat is not None
    assert result.record.compat.saelens == found().saelens
    bits = result.record.compat.mdl_bits
    assert list(bits) == ["8", "16", "32", "64"]
    assert all(number.value is not None and number.value > 0 for number in bits.values())
    assert plain.record.compat is None
    assert plain.record.measurement_key != result.record.measurement_key
    assert plain.record.metrics == result.record.metrics
    stored = read_record(result.save(tmp_path / "record.json"))
    recompute(*stored)
    assert stored.record == result.record
    content = stored.record.model_dump(mode="json")
    assert content["schema_version"] == 5


def test_explain_shows_them_in_a_section_of_their_own(text: LanguageTask) -> None:
    record = evaluate(text, Halves(), rungs=["raw"], compat=True).record
    assert record.compat is not None
    shown = explain(record)
    section = shown[shown.index("In the field's own terms") :]
    for peer in (record.compat.saelens, record.compat.saebench):
        for number in (peer.ce_loss_score, peer.kl_div_score, peer.explained_variance, peer.l0):
            assert number.value is not None
            assert f"{number.value:.3f}"[:4] in section
    assert "In the field's own terms" in explain(record, "markdown")
    assert "In the field's own terms" not in explain(record.model_copy(update={"compat": None}))


def test_a_whole_run_of_a_text_has_them(text: LanguageTask) -> None:
    assert plan(text.task, "quick", rungs=("all",)).compat
    assert not plan(text.task, "quick").compat
    script = load_task("tiny/digits")
    assert not plan(script, "quick", rungs=("all",)).compat
    with pytest.raises(TaskError, match="has no text"):
        plan(script, "quick", compat=True)


def test_nested_interpretations_have_none(text: LanguageTask) -> None:
    record = evaluate(text, Halves(), coarse=Shrink(), rungs=["raw"], compat=True).record
    assert record.compat is None
    assert "nested" in record.measurement.unmeasured["compat"]


class Overflowing(Halves):
    """Not finite where nothing of ours is read: at the first token of a window."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        estimate = super().decode(codes)
        if estimate.ndim == 3 and estimate.shape[1] > 1:
            estimate[:, 0] = math.inf
        return estimate


def test_a_reconstruction_not_finite_at_special_positions_is_said(text: LanguageTask) -> None:
    record = evaluate(text, Overflowing(), rungs=["raw"], compat=True).record
    assert record.compat is None
    assert "NaN or infinite" in record.measurement.unmeasured["compat"]
    assert any("the field's metrics were not measured" in warning for warning in record.warnings)
    assert record.metrics.rungs["raw"].quenched.gap.value is not None
