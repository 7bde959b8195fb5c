"""Every architecture of sae-lens, from a folder and from a notebook: x̂ is what its own `forward` gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
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
    never,
    task_at,
    write_dictionary_learning,
    write_sparsify,
)
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from remainder.base.paths import project_root
from remainder.errors import InterpretationError
from remainder.formats import saelens
from remainder.formats.places import has_layer_norm
from remainder.formats.saelens import CONFIG, WEIGHTS
from remainder.interpretation.protocol import Adapted
from remainder.interpretation.rules import check_conformance
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.task.spec import ModelSpec, Site, load_task

HERE = {"hook_name": SITE.hook_in, "model_name": "HuggingFaceTB/SmolLM2-135M"}
THERE = {"hook_name": MLP.hook_in, "hook_name_out": MLP.hook_out}

SAES: dict[str, dict[str, Any]] = {
    "StandardSAE": {},
    "GatedSAE": {},
    "TopKSAE": {"k": K},
    "JumpReLUSAE": {},
    "MatchingPursuitSAE": {"max_iterations": 3},
    "TemporalSAE": {"n_heads": 2, "bottleneck_factor": 2, "kval_topk": K},
}
CENTRED = {
    "hook_name": SITE.hook_in,
    "model_from_pretrained_kwargs": {"center_writing_weights": True},
}
LAYER_NORMED = load_task("gpt2/resid-8").model
NAMELESS = ModelSpec(name="nobody's model", licence="MIT")
TRANSCODERS = ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder")


def save(sae: Any, folder: Path) -> Path:
    sae.save_model(str(folder))
    return folder


def make_transcoder(kind: str, **metadata: Any) -> Any:
    settings = {"d_out": WIDTH, "apply_b_dec_to_input": False}
    return make_sae(kind, metadata={**THERE, **metadata}, **settings)


def read(thing: Any, where: str, folder: Path, site: Site = SITE) -> Adapted:
    """An object of sae-lens, saved into a folder first or as it is in a notebook."""
    return (
        built(save(thing, folder), site)
        if where == "folder"
        else object_submission(thing).build(task_at(site))
    )


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("normalised", ["none", "layer_norm", "constant_norm_rescale"])
def test_an_sae_reconstructs_what_sae_lens_does(tmp_path: Path, kind: str, normalised: str) -> None:
    if kind == "TemporalSAE":
        normalised = "none" if normalised == "none" else "constant_scalar_rescale"
    sae = make_sae(kind, metadata=HERE, normalize_activations=normalised, **SAES[kind])
    if normalised == "constant_scalar_rescale":
        sae.cfg.activation_normalization_factor = 0.3
    adapted = built(save(sae, tmp_path))
    expected = sae(X)
    codes, found = adapted.reconstruct(X, MASK)
    same(found, expected)
    if kind != "TemporalSAE":  # of which sae-lens gives the novel codes alone
        assert torch.equal(codes != 0, sae.encode(X) != 0)
        assert 0 < (codes != 0).float().mean() < 1
    # `decode` is a function of codes alone, whatever was encoded before.
    adapted.encode(X * 3)
    passed = adapted.skip(X)
    same(adapted.decode(codes) + (0 if passed is None else passed), expected)
    with torch.inference_mode():
        check_conformance(adapted, X, MASK)


@pytest.mark.parametrize("kind", TRANSCODERS)
def test_a_transcoder_reads_the_input_and_passes_on_what_it_skips(tmp_path: Path, kind: str) -> None:
    transcoder = make_transcoder(kind)
    adapted = built(save(transcoder, tmp_path), MLP)
    assert adapted.reads == "in"
    assert (adapted.skip(X) is not None) == ("Skip" in kind)
    codes, found = adapted.reconstruct(X, MASK)
    same(found, transcoder(X))
    same(codes, transcoder.encode(X))


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK"])
def test_a_batch_top_k_sae_comes_with_the_threshold_of_its_training(tmp_path: Path, kind: str) -> None:
    extra = {"matryoshka_widths": [4, LATENTS]} if kind.startswith("M") else {}
    trained = make_sae(f"{kind}TrainingSAE", metadata=HERE, k=K, **extra)
    trained.topk_threshold.fill_(0.8)
    trained.save_inference_model(tmp_path)
    codes, found = built(tmp_path).reconstruct(X, MASK)
    before = (X - trained.b_dec) @ trained.W_enc + trained.b_enc
    norms = trained.W_dec.norm(dim=-1)
    expected = torch.where(before * norms > 0.8, before.relu(), 0)
    torch.testing.assert_close(found, expected @ trained.W_dec + trained.b_dec, rtol=1e-4, atol=1e-4)
    assert torch.equal(codes != 0, expected != 0)


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    sae = make_sae("StandardSAE", metadata=HERE)
    save(sae, tmp_path)
    half = {name: value.half() for name, value in load_file(tmp_path / WEIGHTS).items()}
    save_file(half, tmp_path / WEIGHTS)
    loaded = built(tmp_path).inner
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float())


def test_an_old_config_is_read(tmp_path: Path) -> None:
    """As sae-lens 3 wrote it: one flat object, `activation_fn_str`."""
    sae = make_sae("TopKSAE", k=K)
    save(sae, tmp_path)
    old = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "dtype": "torch.float32",
        "device": "cuda",
        "model_name": "SmolLM2-135M",
        "hook_name": SITE.hook_in,
        "hook_layer": 1,
        "hook_head_index": None,
        "prepend_bos": True,
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "sae_lens_training_version": "3.12.0",
    }
    (tmp_path / CONFIG).write_text(json.dumps(old))
    same(built(tmp_path).reconstruct(X, MASK)[1], sae(X))
    (tmp_path / CONFIG).write_text(json.dumps({**old, "hook_name": "blocks.3.hook_resid_pre"}))
    with pytest.raises(InterpretationError, match=r"it was trained at blocks\.3"):
        built(tmp_path)


def test_ones_that_sae_lens_once_stored_are_no_surplus(tmp_path: Path) -> None:
    sae = make_sae("StandardSAE", metadata=HERE)
    save(sae, tmp_path)
    save_file({**load_file(tmp_path / WEIGHTS), "scaling_factor": torch.ones(LATENTS)}, tmp_path / WEIGHTS)
    same(built(tmp_path).reconstruct(X, MASK)[1], sae(X))


def test_a_real_baseline_reconstructs_what_sae_lens_does() -> None:
    folder = project_root() / "baselines" / "wiki-topk" / "weights"
    sae = SAE.load_from_disk(folder, dtype="float32")
    width = sae.cfg.d_in
    x = 5 * torch.randn(2, 9, width, generator=torch.Generator().manual_seed(3))
    hook = sae.cfg.metadata.hook_name
    task = task_at(Site(hook_in=hook, hook_out=hook, width=width))
    same(open_submission(folder).build(task, never).reconstruct(x)[1], sae(x))


@pytest.mark.parametrize("where", ["folder", "notebook"])
@pytest.mark.parametrize("k", [0, -1, LATENTS + 1, 2.5, True])
def test_a_number_of_active_latents_that_is_none_is_refused(tmp_path: Path, where: str, k: Any) -> None:
    for kind, field in (("TopKSAE", "k"), ("MatchingPursuitSAE", "max_iterations")):
        sae = make_sae(kind, metadata=HERE, **{field: k})
        with pytest.raises(InterpretationError, match=f"{field} is {k}; expected a (whole )?number"):
            read(sae, where, tmp_path / kind)


def test_thresholds_below_zero_keep_what_is_above_zero(tmp_path: Path) -> None:
    """A latent below zero is never active, so such a threshold makes a ReLU of it, and no dense code."""
    sae = make_sae("JumpReLUSAE", metadata=HERE)
    sae.threshold.fill_(-5.0)
    codes = built(save(sae, tmp_path)).encode(X)
    same(codes, torch.relu((X - sae.b_dec) @ sae.W_enc + sae.b_enc))
    assert 0.2 < (codes != 0).float().mean() < 0.8


@pytest.mark.parametrize("where", ["folder", "notebook"])
@pytest.mark.parametrize("kind", ["SkipTranscoder", "JumpReLUSkipTranscoder"])
def test_a_skip_matrix_where_it_rebuilds_what_it_reads_is_refused(
    tmp_path: Path, kind: str, where: str
) -> None:
    """W_skip = I and no code at all would be a perfect reconstruction at no bits."""
    output = Site(hook_in="blocks.1.mlp.hook_out", hook_out="blocks.1.hook_mlp_out", width=WIDTH)
    for site in (SITE, output):  # the second: two names of one tensor
        transcoder = make_transcoder(kind, hook_name=site.hook_in, hook_name_out=site.hook_out)
        transcoder.W_skip.copy_(torch.eye(WIDTH))
        transcoder.W_dec.zero_()
        transcoder.b_dec.zero_()
        same(transcoder(X), X)
        with pytest.raises(InterpretationError, match=r"it has a skip matrix \(W_skip\), and at blocks\.1"):
            read(transcoder, where, tmp_path / site.hook_in, site)


def test_the_prediction_of_a_temporal_sae_is_counted() -> None:
    """It can be x itself: a constant prediction is scaled to the token, an attention layer for each axis."""
    sae = make_sae("TemporalSAE", metadata=HERE, n_attn_layers=WIDTH, n_heads=1, bottleneck_factor=1)
    for parameter in sae.parameters():
        parameter.zero_()
    sae.W_dec[:WIDTH] = torch.eye(WIDTH)
    for axis, layer in enumerate(sae.attn_layers):
        layer.c_proj.bias[axis] = 1.0
    assert sae.encode(X).max() < 1e-6  # nothing is new to it,
    torch.testing.assert_close(sae(X), X, rtol=1e-4, atol=1e-4)  # and nothing is left out
    adapted = object_submission(sae).build(task_at())
    codes, found = adapted.reconstruct(X, MASK)
    same(found, sae(X))
    assert adapted.skip(X) is None
    assert (codes.abs() > 1e-3).sum(-1).min() == WIDTH


# ------------------------------------------------------------------------------------- places


def test_an_sae_of_the_output_reads_the_output_at_a_task_that_reads_another_place(tmp_path: Path) -> None:
    sae = make_sae("StandardSAE", metadata={"hook_name": "blocks.1.mlp.hook_out"})
    assert built(save(sae, tmp_path), MLP).reads == "out"
    unnamed = make_sae("StandardSAE")
    assert saelens.load(save(unnamed, tmp_path / "unnamed"), task_at(MLP)).reads == "out"
    wrong = make_sae("StandardSAE", metadata={"hook_name": MLP.hook_in})
    with pytest.raises(InterpretationError, match=r"it was trained at blocks\.1\.mlp\.hook_in"):
        built(save(wrong, tmp_path / "wrong"), MLP)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hook_name": "blocks.1.hook_resid_mid"}, "trained to read blocks.1.hook_resid_mid and rebuild"),
        ({"hook_name_out": "blocks.2.hook_mlp_out"}, "rebuild blocks.2.hook_mlp_out"),
        ({"model_name": "gpt2"}, "it was made for the model gpt2"),
    ],
)
def test_a_transcoder_of_another_place_is_refused(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(InterpretationError, match=message):
        built(save(make_transcoder("Transcoder", **changed), tmp_path), MLP)


def test_the_output_of_a_transcoder_has_a_width_too(tmp_path: Path) -> None:
    wide = make_sae("Transcoder", metadata=THERE, d_out=WIDTH + 1, apply_b_dec_to_input=False)
    with pytest.raises(InterpretationError, match=r"d_out is 9; the task's site .* has width 8"):
        built(save(wide, tmp_path), MLP)


HEADS = "blocks.1.attn.hook_z"


@pytest.mark.parametrize("where", ["folder", "notebook"])
def test_the_heads_of_an_attention_sae_come_one_behind_the_other(tmp_path: Path, where: str) -> None:
    sae = make_sae("StandardSAE", metadata={"hook_name": HEADS}, reshape_activations="hook_z")
    site = Site(hook_in=HEADS, hook_out=HEADS, width=WIDTH)
    if where == "folder":
        adapted = built(save(sae, tmp_path), site)
    else:
        adapted = object_submission(sae).build(task_at(site))
    found = adapted.placed(torch.device("cpu")).reconstruct(X, MASK)[1]
    # sae-lens itself takes [docs pos heads d_head].
    same(found, sae(X.reshape(2, 5, 4, 2)).reshape(X.shape))
    assert sae.hook_z_reshaping_mode  # the notebook's own object is as it was


def test_an_sae_of_a_centred_residual_stream_is_given_one(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        sae = make_sae("StandardSAE", metadata=CENTRED, normalize_activations="layer_norm")
    mean = X.mean(-1, keepdim=True)
    adapted = built(save(sae, tmp_path), model=LAYER_NORMED)
    same(adapted.reconstruct(X, MASK)[1], sae(X - mean) + mean)
    with torch.inference_mode():  # the mean and the scale of a token may go past the codes
        check_conformance(adapted, X, MASK)
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        heads = make_sae("StandardSAE", metadata={**CENTRED, "hook_name": HEADS})
    site = Site(hook_in=HEADS, hook_out=HEADS, width=WIDTH)
    same(built(save(heads, tmp_path / "z"), site, model=NAMELESS).reconstruct(X, MASK)[1], heads(X))


@pytest.mark.parametrize("where", ["folder", "notebook"])
def test_nothing_was_centred_in_a_model_with_rms_norm(tmp_path: Path, where: str) -> None:
    """TransformerLens passes over the setting there; all names of such models are its own."""
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        sae = make_sae("StandardSAE", metadata=CENTRED)
    assert task_at().model.name.startswith("SmolLM2-135M")
    adapted = read(sae, where, tmp_path)
    same(adapted.reconstruct(X, MASK)[1], sae(X))
    assert adapted.skip(X) is None


def test_where_the_norm_cannot_be_told_a_centred_sae_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        sae = make_sae("StandardSAE", metadata=CENTRED)
    with pytest.raises(InterpretationError, match="which of them nobody's model has cannot be told"):
        built(save(sae, tmp_path), model=NAMELESS)
    with pytest.raises(InterpretationError, match=r"^standardsae: .* cannot be told"):
        object_submission(sae).build(task_at(model=NAMELESS))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt2", True),
        ("gpt2-small", True),
        ("EleutherAI/pythia-70m-deduped", True),
        ("gemma-2-2b-it", False),
        ("SmolLM2-135M, dequantised", False),
        ("Qwen/Qwen2.5-0.5B", False),
        ("nobody's model", None),
    ],
)
def test_the_norm_of_a_model_is_told_by_its_name(name: str, found: bool | None) -> None:
    """As their papers have it."""
    assert has_layer_norm(ModelSpec(name=name, licence="MIT")) is found
    assert "," in name or has_layer_norm(ModelSpec(name="", hub=name, licence="MIT")) is found


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_norm_of_a_model_is_told_by_its_folder(architecture: str) -> None:
    folder = tiny.model_folder(architecture)
    norms = {type(module).__name__ for module in tiny.make_model(architecture).modules()}
    layer_norm = "LayerNorm" in norms
    assert layer_norm != any(name.endswith("RMSNorm") for name in norms)
    assert has_layer_norm(ModelSpec(name="gpt2", hub=str(folder), licence="MIT")) is layer_norm


@pytest.mark.parametrize("kind", ["Transcoder", "SkipTranscoder"])
def test_a_transcoder_of_a_centred_residual_stream_gives_no_mean_back(tmp_path: Path, kind: str) -> None:
    """What it rebuilds is another tensor than the one whose mean was taken out."""
    site = Site(hook_in="blocks.1.hook_resid_mid", hook_out=MLP.hook_out, width=WIDTH)
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        transcoder = make_transcoder(kind, **{**CENTRED, "hook_name": site.hook_in})
    found = built(save(transcoder, tmp_path), site, model=LAYER_NORMED).reconstruct(X, MASK)[1]
    same(found, transcoder(X - X.mean(-1, keepdim=True)))


# ------------------------------------------------------------------------------------- notebooks


@pytest.mark.parametrize("kind", ["SkipTranscoder", "JumpReLUSkipTranscoder"])
def test_an_object_from_a_notebook_keeps_its_skip(kind: str) -> None:
    transcoder = make_transcoder(kind).to(dtype=torch.float16)
    adapted = object_submission(transcoder).build(task_at(MLP)).placed(torch.device("cpu"))
    assert adapted.reads == "in"
    same(adapted.reconstruct(X, MASK)[1], transcoder.to(dtype=torch.float32)(X))


@dataclass
class BenchConfig:
    """As SAEBench asks for it: no `to_dict`."""

    model_name: str = "HuggingFaceTB/SmolLM2-135M"
    d_in: int = WIDTH
    d_sae: int = LATENTS
    hook_layer: int = 0
    hook_name: str | None = "blocks.0.hook_resid_post"


class BenchSAE(torch.nn.Module):
    """A custom SAE of SAEBench: encode, decode, four weights, a config."""

    def __init__(self, **changed: Any) -> None:
        super().__init__()
        sae = make_sae("StandardSAE")
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            setattr(self, name, getattr(sae, name))
        self.cfg = BenchConfig(**changed)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec + self.b_dec


def test_a_custom_object_of_saebench_is_scored_as_it_is() -> None:
    adapted = object_submission(BenchSAE()).build(task_at())
    assert isinstance(adapted.inner, BenchSAE)
    same(adapted.reconstruct(X, MASK)[1], make_sae("StandardSAE")(X))
    by_layer = object_submission(BenchSAE(hook_name=None)).build(task_at())
    assert by_layer.reads == "in"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hook_name": "blocks.4.hook_resid_post"}, r"benchsae: it was trained at blocks\.4"),
        ({"hook_name": None, "hook_layer": 4}, r"benchsae: it was trained at blocks\.4"),
        ({"d_in": 9}, "benchsae: d_in is 9"),
        ({"model_name": "pythia-70m-deduped"}, "benchsae: it was made for the model pythia-70m-deduped"),
    ],
)
def test_a_custom_object_of_another_place_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpretationError, match=message):
        object_submission(BenchSAE(**changed)).build(task_at())


# ------------------------------------------------------------------------------------- bad folders


def change_config(folder: Path, **changed: Any) -> None:
    content = {**json.loads((folder / CONFIG).read_text()), **changed}
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_weights(folder: Path, **changed: torch.Tensor | None) -> None:
    content = {**load_file(folder / WEIGHTS), **changed}
    save_file({k: v for k, v in content.items() if v is not None}, folder / WEIGHTS)


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "sae.pt").write_bytes(b"\x80\x04.")


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


NAN = torch.full((LATENTS,), float("nan"))
BROKEN = {
    "pickle": (only_a_pickle, rf"has no {WEIGHTS}, only sae\.pt", "pickles are never loaded; convert once"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), rf"has no {WEIGHTS}$", "save the SAE"),
    "truncated": (truncate, "is not a readable safetensors file", "truncated"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "not a readable safetensors", "copy it again"),
    "NaN": (lambda f: change_weights(f, b_enc=NAN), "b_enc holds NaN", "again"),
    "transposed": (
        lambda f: change_weights(f, W_dec=torch.ones(WIDTH, LATENTS)),
        r"W_dec has shape \(8, 12\) \(transposed\); cfg.json says d_in = 8, d_sae = 12",
        "W_dec must be [d_sae, d_out]",
    ),
    "other encoder": (
        lambda f: change_weights(f, W_enc=torch.ones(LATENTS, WIDTH)),
        "W_enc .*transposed",
        "W_enc must be",
    ),
    "other d_sae": (
        lambda f: change_config(f, d_sae=24),
        "the weights have d_sae = 12; cfg.json .* = 24",
        "one place",
    ),
    "integers": (
        lambda f: change_weights(f, W_dec=torch.ones(LATENTS, WIDTH).to(torch.int8)),
        "as I8",
        "float16",
    ),
    "no threshold": (lambda f: change_weights(f, threshold=None), "expected .*threshold", "is active above"),
    "other width": (lambda f: change_config(f, d_in=9), "d_in is 9; the task's .* width 8", "choose"),
    "no width": (lambda f: change_config(f, d_in=None), "d_in is None", "choose"),
    "other architecture": (
        lambda f: change_config(f, architecture="none"),
        "is 'none'; sae-lens knows .*topk",
        "anew",
    ),
    "scale not folded": (
        lambda f: change_config(f, normalize_activations="expected_average_only_in"),
        "its weights are for rescaled activations",
        "fold",
    ),
    "odd metadata": (lambda f: change_config(f, metadata=3), "metadata is 3; expected an object", "correct"),
    "bad JSON": (lambda f: (f / CONFIG).write_text('{"d_in": 8,'), "is not valid JSON", "anew"),
    "JSON list": (lambda f: (f / CONFIG).write_text("[8]"), "holds no JSON object", "anew"),
    "no config": (lambda f: (f / CONFIG).unlink(), f"{CONFIG} does not exist", "put the file there"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message, fix = BROKEN[name]
    save(make_sae("JumpReLUSAE", metadata=HERE), tmp_path)
    spoil(tmp_path)
    with pytest.raises(InterpretationError) as raised:
        saelens.load(tmp_path, task_at())
    assert str(tmp_path) in raised.value.what
    raised.match(message.replace("$", "(?m:$)"))
    assert fix in (raised.value.fix or "")


def test_a_temporal_sae_of_layer_normed_activations_cannot_be_taken_apart(tmp_path: Path) -> None:
    sae = make_sae("TemporalSAE", metadata=HERE, normalize_activations="layer_norm", **SAES["TemporalSAE"])
    with pytest.raises(InterpretationError, match="cannot be taken apart"):
        built(save(sae, tmp_path))


# ------------------------------------------------------------------------------------- one SAE in all formats


def test_a_trained_sae_is_the_same_in_every_format_that_can_hold_it(tmp_path: Path) -> None:
    folder = project_root() / "baselines" / "topk-sae-32" / "weights"
    sae = SAE.load_from_disk(folder, dtype="float32").requires_grad_(False)
    hook, width, k = sae.cfg.metadata.hook_name, sae.cfg.d_in, sae.cfg.k
    # Other libraries choose the largest k without the norms of the decoder: these go into the encoder.
    sae.fold_W_dec_norm()
    weights = {name: getattr(sae, name).data.clone() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    block = int(hook.split(".")[1]) - 1
    state = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T,
        "b_dec": weights["b_dec"],
    }
    sizes = {"activation_dim": width, "dict_size": sae.cfg.d_sae, "k": k, "layer": block}
    write_dictionary_learning(tmp_path / "a", "AutoEncoderTopK", state, submodule_name=None, **sizes)
    write_sparsify(tmp_path / f"layers.{block}", weights, k=k)
    sae.save_model(str(tmp_path / "c"))
    noise = torch.randn(2, 40, width, generator=torch.Generator().manual_seed(4))
    x = sae.b_dec + 20 * noise + 30 * sae.W_dec[:80].reshape(2, 40, width)
    site = Site(hook_in=hook, hook_out=hook, width=width)
    expected = SAE.load_from_disk(folder, dtype="float32")(x).detach()
    for made in (folder, tmp_path / "a", tmp_path / f"layers.{block}", tmp_path / "c"):
        with torch.inference_mode():
            codes, found = built(made, site).reconstruct(x)
        assert float((found - expected).norm() / expected.norm()) < 1e-5, made
        assert int((codes != 0).sum(-1).max()) == k
