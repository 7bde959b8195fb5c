"""Scales that sae-lens leaves beside the weights, or trips over: the right x̂, or file and tensor by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LATENTS,
    MASK,
    MLP,
    SITE,
    WIDTH,
    K,
    X,
    built,
    make_sae,
    random_weights,
    task_at,
    without_skip,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.formats.saelens import CONFIG, WEIGHTS
from remainder.interpretation.rules import check_conformance
from remainder.submission.objects import object_submission

HERE = {"hook_name": SITE.hook_in}
FACTOR = torch.linspace(-0.5, 2, LATENTS)


def reconstructed(adapted: Any) -> Tensor:
    found: Tensor = adapted.reconstruct(X, MASK)[1]
    return found


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def save(sae: Any, folder: Path) -> Path:
    sae.save_model(str(folder))
    return folder


def old_weights(kind: str) -> dict[str, Tensor]:
    """Tensors of an SAE of before version 6, of one of its architectures."""
    weights = without_skip(random_weights())
    extra = random_weights(seed=5)["b_enc"]
    if kind == "gated":
        del weights["b_enc"]
        return {**weights, "r_mag": 0.1 * extra, "b_mag": extra.flip(0), "b_gate": -extra}
    return {**weights, "threshold": extra.abs()} if kind == "jumprelu" else weights


def write_old(
    folder: Path,
    kind: str = "standard",
    tensor: str = "scaling_factor",
    factor: Tensor | None = FACTOR,
    dtype: torch.dtype = torch.float32,
    **changed: Any,
) -> Path:
    """A folder as SAELens 2 to 5 wrote it; None takes a field out."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "architecture": "standard" if kind == "topk" else kind,
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "HuggingFaceTB/SmolLM2-135M",
        "hook_name": SITE.hook_in,
        "hook_layer": 1,
        "activation_fn_str": "topk" if kind == "topk" else "relu",
        "activation_fn_kwargs": {"k": K} if kind == "topk" else {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": True,
        "normalize_activations": "none",
        "prepend_bos": True,
        "context_size": 128,
        "sae_lens_training_version": "3.1.0",
        **changed,
    }
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    weights = old_weights(kind)
    if factor is not None:
        weights[tensor] = factor
    save_file({name: value.to(dtype).contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    return folder


def old_forward(kind: str, x: Tensor, factor: Tensor) -> Tensor:
    """x̂ = (f(x) · s) W_dec + b_dec, written out."""
    w = old_weights(kind)
    inner = (x - w["b_dec"]) @ w["W_enc"]
    if kind == "gated":
        codes = (inner + w["b_gate"] > 0) * (inner * w["r_mag"].exp() + w["b_mag"]).relu()
    else:
        codes = (inner + w["b_enc"]).relu()
    if kind == "jumprelu":
        codes = codes * (inner + w["b_enc"] > w["threshold"])
    if kind == "topk":
        values, places = codes.topk(K, dim=-1)
        codes = torch.zeros_like(codes).scatter(-1, places, values)
    return (codes * factor) @ w["W_dec"] + w["b_dec"]


# ------------------------------------------------------------------------------------- fine-tuned factors


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu", "topk"])
@pytest.mark.parametrize("tensor", ["scaling_factor", "finetuning_scaling_factor"])
def test_a_fine_tuned_factor_is_worked_into_the_decoder(tmp_path: Path, kind: str, tensor: str) -> None:
    adapted = built(write_old(tmp_path, kind, tensor))
    same(reconstructed(adapted), old_forward(kind, X, FACTOR))
    assert not adapted.warnings


def test_a_fine_tuned_factor_of_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    adapted = built(write_old(tmp_path, dtype=torch.bfloat16))
    assert {value.dtype for value in adapted.inner.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(reconstructed(adapted), old_forward("standard", X, FACTOR), rtol=0.1, atol=0.3)


def test_an_old_sae_without_fine_tuning_is_as_it_was(tmp_path: Path) -> None:
    ones = torch.ones(LATENTS)
    expected = old_forward("standard", X, ones)
    cases = {"a": (None, False), "b": (ones, False), "c": (ones, True), "d": (ones, None)}
    for name, (factor, is_said) in cases.items():
        folder = write_old(tmp_path / name, factor=factor, finetuning_scaling_factor=is_said)
        same(reconstructed(built(folder)), expected)


@pytest.mark.parametrize(
    ("changed", "message", "fix"),
    [
        (
            {"factor": None},
            "is true, and the weights have no tensor scaling_factor or finetuning_sc",
            "false",
        ),
        (
            {"finetuning_scaling_factor": False},
            "tensor scaling_factor .* finetuning_scaling_factor is F",
            "true",
        ),
        (
            {"finetuning_scaling_factor": None},
            "tensor scaling_factor .* finetuning_scaling_factor is '",
            "true",
        ),
        ({"finetuning_scaling_factor": "yes"}, "finetuning_scaling_factor is 'yes'; expected true or", ""),
        ({"factor": FACTOR[:5]}, r"scaling_factor has shape \(5,\); cfg.json says", "[d_sae]"),
        ({"factor": torch.full((LATENTS,), float("nan"))}, "scaling_factor holds NaN", "again"),
    ],
)
def test_config_and_weights_that_disagree_on_the_factor_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(InterpretationError, match=message) as raised:
        built(write_old(tmp_path, **changed))
    assert fix in (raised.value.fix or "")


def test_two_factors_that_differ_are_refused(tmp_path: Path) -> None:
    write_old(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    save_file({**weights, "finetuning_scaling_factor": FACTOR}, tmp_path / WEIGHTS)
    same(reconstructed(built(tmp_path)), old_forward("standard", X, FACTOR))
    save_file({**weights, "finetuning_scaling_factor": FACTOR + 1}, tmp_path / WEIGHTS)
    with pytest.raises(InterpretationError, match="both finetuning_scaling_factor and scaling_factor"):
        built(tmp_path)


def test_an_architecture_that_was_never_fine_tuned_so_is_refused(tmp_path: Path) -> None:
    sae = make_sae("MatchingPursuitSAE", metadata=HERE, max_iterations=3)  # its encoder is its decoder
    save(sae, tmp_path)
    content = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**content, "finetuning_scaling_factor": True}))
    save_file({**load_file(tmp_path / WEIGHTS), "scaling_factor": FACTOR}, tmp_path / WEIGHTS)
    with pytest.raises(InterpretationError, match="true for the architecture matching_pursuit"):
        built(tmp_path)


# ------------------------------------------------------------------------------------- scales of activations

FOLDED: dict[str, dict[str, Any]] = {
    "StandardSAE": {},
    "GatedSAE": {},
    "TopKSAE": {"k": K},
    "AbsTopKSAE": {"k": K},
    "JumpReLUSAE": {},
    "MatchingPursuitSAE": {"max_iterations": 3},
}
RESCALED = {"k": K, "rescale_acts_by_decoder_norm": True}


def checkpoint(folder: Path, kind: str, scaler: Any, normalised: str = "expected_average_only_in") -> Any:
    """A folder as sae-lens leaves it in the middle of training; its SAE."""
    settings = RESCALED if kind == "rescaled" else FOLDED[kind]
    sae = make_sae(
        "TopKSAE" if kind == "rescaled" else kind, metadata=HERE, normalize_activations=normalised, **settings
    )
    save(sae, folder)
    if scaler is not None:
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    return sae


@pytest.mark.parametrize("kind", [*FOLDED, "rescaled"])
@pytest.mark.parametrize("with_b_dec", [True, False])
def test_the_factor_beside_a_checkpoint_is_worked_in(tmp_path: Path, kind: str, with_b_dec: bool) -> None:
    sae = checkpoint(tmp_path, kind, {"scaling_factor": 0.25, "has_whitening": False})
    sae.cfg.apply_b_dec_to_input = with_b_dec
    save(sae, tmp_path)
    expected = sae(X * 0.25) / 0.25  # as in training: scaled, rebuilt, scaled back
    same(reconstructed(built(tmp_path)), expected)


def whitening(generator: torch.Generator) -> dict[str, Tensor]:
    rotated, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))
    scales = torch.linspace(0.2, 3, WIDTH, dtype=torch.float64)
    return {
        "mean": torch.randn(WIDTH, generator=generator, dtype=torch.float64),
        "matrix": (rotated * scales).contiguous(),
        "inverse_matrix": (rotated / scales).T.contiguous(),
    }


@pytest.mark.parametrize("kind", ["StandardSAE", "GatedSAE", "TopKSAE", "JumpReLUSAE", "rescaled"])
@pytest.mark.parametrize("with_b_dec", [True, False])
@pytest.mark.parametrize(
    "scaler", [{"scaling_factor": None, "has_whitening": True}, {"scaling_factor": None}]
)
def test_the_whitening_beside_a_checkpoint_is_worked_in(
    tmp_path: Path, kind: str, with_b_dec: bool, scaler: dict[str, Any]
) -> None:
    sae = checkpoint(tmp_path, kind, scaler, "covariance_whitening")
    sae.cfg.apply_b_dec_to_input = with_b_dec
    save(sae, tmp_path)
    white = whitening(torch.Generator().manual_seed(2))
    save_file(white, tmp_path / "activation_whitening.safetensors")
    mean, matrix, inverse = (white[name].float() for name in ("mean", "matrix", "inverse_matrix"))
    expected = sae((X - mean) @ matrix) @ inverse + mean
    torch.testing.assert_close(reconstructed(built(tmp_path)), expected.detach(), rtol=1e-4, atol=1e-4)


def test_the_factor_of_an_older_checkpoint_lies_in_the_state_of_its_activations(tmp_path: Path) -> None:
    sae = checkpoint(tmp_path, "StandardSAE", None)
    state = {"n_dataset_processed": torch.tensor(7), "estimated_norm_scaling_factor": torch.tensor(0.25)}
    save_file(state, tmp_path / "activations_store_state.safetensors")
    same(reconstructed(built(tmp_path)), sae(X * 0.25) / 0.25)


def test_a_config_of_before_version_6_that_only_says_true_means_the_factor(tmp_path: Path) -> None:
    write_old(tmp_path, factor=None, finetuning_scaling_factor=False, normalize_activations=True)
    with pytest.raises(InterpretationError, match=r"nor does activation_scaler\.json or activations_store"):
        built(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    expected = old_forward("standard", X * 0.5, torch.ones(LATENTS)) / 0.5
    same(reconstructed(built(tmp_path)), expected)


@pytest.mark.parametrize(
    "scaler", [None, {"scaling_factor": None, "has_whitening": False}, {"scaling_factor": 1.0}]
)
def test_a_checkpoint_of_the_end_has_its_scale_worked_in(tmp_path: Path, scaler: Any) -> None:
    sae = checkpoint(tmp_path, "StandardSAE", scaler, "none")
    adapted = built(tmp_path)
    same(reconstructed(adapted), sae(X))
    assert not adapted.warnings


def test_a_scale_left_beside_a_finished_sae_is_told(tmp_path: Path) -> None:
    sae = checkpoint(tmp_path, "StandardSAE", {"scaling_factor": 0.25}, "none")
    adapted = built(tmp_path)
    same(reconstructed(adapted), sae(X))
    assert [note for note in adapted.warnings if "activation_scaler.json has a scale" in note]


BOTH = {"scaling_factor": 0.25, "has_whitening": True}
ODD: dict[str, tuple[str, Any, str]] = {
    "no number": ("expected_average_only_in", {"scaling_factor": None}, "nor does activation_scaler.json"),
    "text": (
        "expected_average_only_in",
        {"scaling_factor": "0.25"},
        "scaling_factor is '0.25'; expected a num",
    ),
    "true": (
        "expected_average_only_in",
        {"scaling_factor": True},
        "scaling_factor is True; expected a number",
    ),
    "zero": (
        "expected_average_only_in",
        {"scaling_factor": 0},
        "scaling_factor is 0; expected a number above",
    ),
    "negative": ("expected_average_only_in", {"scaling_factor": -2.0}, "scaling_factor is -2.0; expected"),
    "a list": ("expected_average_only_in", {"scaling_factor": [0.5]}, r"scaling_factor is \[0.5\]; expected"),
    "another name": (
        "expected_average_only_in",
        {"factor": 0.5},
        "has no field scaling_factor, but .'factor'",
    ),
    "bare": ("expected_average_only_in", 0.25, "activation_scaler.json holds no JSON object"),
    "both": ("expected_average_only_in", BOTH, "has a scaling_factor and a whitening"),
    "whitening of a factor": (
        "expected_average_only_in",
        {"scaling_factor": None, "has_whitening": True},
        "activation_whitening.safetensors beside it has a whitening",
    ),
    "factor of a whitening": (
        "covariance_whitening",
        {"scaling_factor": 0.25},
        "activation_scaler.json beside it has a factor",
    ),
    "no whitening": (
        "covariance_whitening",
        {"scaling_factor": None, "has_whitening": True},
        "activation_whitening.safetensors does not exist",
    ),
    "another normalisation": (
        "layer_norm",
        {"scaling_factor": 0.25},
        "is layer_norm, and activation_scaler.json",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_scale_that_is_none_or_another_is_refused(tmp_path: Path, name: str) -> None:
    normalised, scaler, message = ODD[name]
    checkpoint(tmp_path, "StandardSAE", scaler, normalised)
    with pytest.raises(InterpretationError, match=message):
        built(tmp_path)


def test_matrices_that_are_not_each_others_inverse_are_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "StandardSAE", {"scaling_factor": None}, "covariance_whitening")
    white = whitening(torch.Generator().manual_seed(2))
    file = tmp_path / "activation_whitening.safetensors"
    save_file({**white, "inverse_matrix": white["matrix"].clone()}, file)
    with pytest.raises(InterpretationError, match="inverse_matrix is not the inverse of matrix"):
        built(tmp_path)
    save_file({**white, "mean": white["mean"][1:].clone()}, file)
    with pytest.raises(InterpretationError, match=r"mean has shape \(7,\)"):
        built(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("TemporalSAE", {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K}, "into a TemporalSAE"),
        ("Transcoder", {"d_out": WIDTH, "apply_b_dec_to_input": False}, "not how its output was"),
        ("SkipTranscoder", {"d_out": WIDTH, "apply_b_dec_to_input": False}, "not how its output was"),
    ],
)
def test_what_no_scale_can_be_worked_into_is_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    site = MLP if "Trans" in kind else SITE
    hooks = {"hook_name": site.hook_in, "hook_name_out": site.hook_out} if "Trans" in kind else HERE
    sae = make_sae(kind, metadata=hooks, normalize_activations="expected_average_only_in", **settings)
    save(sae, tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    with pytest.raises(InterpretationError, match=message):
        built(tmp_path, site)


@pytest.mark.parametrize("normalised", ["expected_average_only_in", "covariance_whitening"])
def test_an_object_whose_scale_nothing_tells_is_refused(normalised: str) -> None:
    sae = make_sae("StandardSAE", metadata=HERE, normalize_activations=normalised)
    with pytest.raises(InterpretationError, match=f"normalize_activations is {normalised}: its weights"):
        object_submission(sae).build(task_at())
    sae.fold_activation_norm_scaling_factor(0.25)
    same(reconstructed(object_submission(sae).build(task_at())), sae(X))


# ------------------------------------------------------------------------------------- rows of zeros


@pytest.mark.parametrize("where", ["folder", "notebook", "half precision"])
@pytest.mark.parametrize("kind", ["TopKSAE", "AbsTopKSAE"])
@pytest.mark.parametrize("tiny", [0.0, 1e-30])  # the norm of the second is zero in float32
def test_a_latent_with_a_decoder_row_of_zeros_adds_nothing(
    tmp_path: Path, kind: str, where: str, tiny: float
) -> None:
    if where == "half precision" and tiny:
        tiny = 0.0
    sae = make_sae(kind, metadata=HERE, **RESCALED)
    if where == "half precision":
        sae = sae.to(torch.bfloat16)
    sae.W_dec[[2, 5]] = tiny
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    assert not sae(X.to(sae.dtype)).isfinite().all()  # sae-lens: 0/0
    adapted = built(save(sae, tmp_path)) if where == "folder" else object_submission(sae).build(task_at())
    codes, found = adapted.reconstruct(X, MASK)
    # The same SAE without these latents, whose top k is what is left of it.
    rest = [latent for latent in range(LATENTS) if latent not in (2, 5)]
    smaller = make_sae(kind, metadata=HERE, **{**RESCALED, "d_sae": len(rest)})
    smaller.load_state_dict(
        {
            "W_enc": before["W_enc"].float()[:, rest],
            "b_enc": before["b_enc"].float()[rest],
            "W_dec": before["W_dec"].float()[rest],
            "b_dec": before["b_dec"].float(),
        }
    )
    torch.testing.assert_close(found, smaller(X).detach(), rtol=1e-4, atol=1e-4)
    assert not codes[..., [2, 5]].any()
    assert [note for note in adapted.warnings if "rows of zeros (2, 5)" in note]
    assert sae.cfg.rescale_acts_by_decoder_norm
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())
    with torch.inference_mode():
        check_conformance(adapted, X, MASK)


def test_dead_latents_of_a_whitened_checkpoint_add_nothing_either(tmp_path: Path) -> None:
    sae = checkpoint(
        tmp_path, "rescaled", {"scaling_factor": None, "has_whitening": True}, "covariance_whitening"
    )
    sae.W_dec[[2, 5]] = 0
    save(sae, tmp_path)
    save_file(whitening(torch.Generator().manual_seed(2)), tmp_path / "activation_whitening.safetensors")
    codes, found = built(tmp_path).reconstruct(X, MASK)
    assert found.isfinite().all()
    assert not codes[..., [2, 5]].any()


def test_rows_that_are_not_zero_are_left_alone(tmp_path: Path) -> None:
    sae = make_sae("TopKSAE", metadata=HERE, **RESCALED)
    adapted = built(save(sae, tmp_path))
    assert not adapted.warnings
    assert adapted.inner.cfg.rescale_acts_by_decoder_norm
    codes, found = adapted.reconstruct(X, MASK)
    assert torch.equal(codes, sae.encode(X))
    assert torch.equal(found, sae(X))


# ------------------------------------------------------------------------------------- messages of libraries


def test_a_message_of_torch_keeps_the_line_that_names_the_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens import StandardSAE

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError('Error(s) in loading state_dict for StandardSAE:\n\tUnexpected key(s): "W_odd". ')

    save(make_sae("StandardSAE", metadata=HERE), tmp_path)
    monkeypatch.setattr(StandardSAE, "load_state_dict", refuse)
    with pytest.raises(InterpretationError, match=r'for StandardSAE: Unexpected key\(s\): "W_odd"\.'):
        built(tmp_path)
