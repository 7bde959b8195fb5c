"""Settings beside those that people reported: each is computed as its library does, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LATENTS,
    MLP,
    SITE,
    WIDTH,
    X,
    built,
    make_sae,
    random_weights,
    task_at,
    without_skip,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from safetensors.torch import save_file

from remainder.errors import InterpretationError
from remainder.formats.coder import Above
from remainder.formats.places import MisfitError
from remainder.interpretation.protocol import Adapted
from remainder.model.module_names import Module, is_in_block, module_named
from remainder.submission.objects import object_submission
from remainder.submission.open import open_submission
from remainder.task.spec import Site, load_task

W = random_weights()
STORED = {name: value.contiguous() for name, value in without_skip(W).items()}
PRE = X @ W["W_enc"] + W["b_enc"]
CENTRED_PRE = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
MODEL = "HuggingFaceTB/SmolLM2-135M"
OLD: dict[str, Any] = {
    "architecture": "standard",
    "d_in": WIDTH,
    "d_sae": LATENTS,
    "dtype": "float32",
    "device": "cpu",
    "model_name": MODEL,
    "hook_name": SITE.hook_in,
    "hook_layer": 1,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "sae_lens_training_version": "3.1.0",
    "prepend_bos": True,
    "context_size": 128,
    "normalize_activations": "none",
}
LINEAR = {
    "encoder.weight": W["W_enc"].T.contiguous(),
    "encoder.bias": W["b_enc"],
    "decoder.weight": W["W_dec"].T.contiguous(),
    "bias": W["b_dec"],
}


def write_old(folder: Path, weights: dict[str, torch.Tensor] = STORED, **changed: Any) -> Path:
    """A flat config, as SAELens before version 6 writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {name: value for name, value in {**OLD, **changed}.items() if value is not ...}
    (folder / "cfg.json").write_text(json.dumps(fields))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def write_new(folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    """A folder that sae-lens itself saves, with fields of its `metadata` changed."""
    make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in}).save_model(str(folder))
    file = folder / "cfg.json"
    config = json.loads(file.read_text())
    config["metadata"].update(metadata or {})
    file.write_text(json.dumps(config))
    return folder


def ignoring(folder: Path, *names: str, site: Site = SITE) -> Adapted:
    def never() -> Any:
        raise AssertionError("moments were asked for in vain")

    return open_submission(folder, ignore_fields=names).build(task_at(site), never)


def active(adapted: Adapted) -> int:
    """The most latents at a token."""
    return int((adapted.encode(X) != 0).sum(-1).max())


# ---------------------------------------------------------------------------------------------- SAELens


def test_from_version_6_on_k_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    """SAELens takes 100 then, and of many latents nobody would notice."""
    folder = tmp_path / "many"
    make_sae("TopKSAE", metadata={"hook_name": SITE.hook_in}, d_sae=200, k=3).save_model(str(folder))
    file = folder / "cfg.json"
    config = json.loads(file.read_text())
    del config["k"]
    file.write_text(json.dumps({**config, "activation_fn_kwargs": {"k": 3}}))
    with pytest.raises(InterpretationError, match=r"k is missing, .*does not look into activation_fn_kwargs"):
        built(folder)
    file.write_text(json.dumps({**config, "k": 3}))
    assert active(built(folder)) == 3


def test_sae_lens_does_not_see_what_is_ignored(tmp_path: Path) -> None:
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    two = write_old(tmp_path / "two", **topk, architecture="topk", k=3)
    with pytest.raises(InterpretationError, match=r"activation_fn_kwargs\.k is 4; k is 3"):
        built(two)
    kept = ignoring(two, "activation_fn_kwargs.k")
    assert active(kept) == 3
    assert kept.warnings == (
        "The field activation_fn_kwargs.k of cfg.json was ignored as asked; what it changes is not computed.",
    )
    relu = ignoring(write_old(tmp_path / "relu", **topk), "activation_fn_str", "activation_fn_kwargs.k")
    assert torch.allclose(relu.encode(X), CENTRED_PRE.relu(), atol=1e-6)
    assert len(relu.warnings) == 2


def test_a_k_at_the_top_is_enough(tmp_path: Path) -> None:
    """sae-lens would look for it in the empty object, and fail."""
    folder = write_old(tmp_path, architecture="topk", k=3, activation_fn_str="topk", activation_fn_kwargs={})
    assert active(built(folder)) == 3


def test_the_number_of_a_head_can_be_ignored_wherever_it_stands(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old", hook_head_index=3)
    new = write_new(tmp_path / "new", metadata={"hook_head_index": 3})
    for folder, name in ((old, "hook_head_index"), (new, "metadata.hook_head_index")):
        with pytest.raises(InterpretationError, match=f"{name} is 3; it can be null") as raised:
            built(folder)
        assert f"--ignore-field {name} " in (raised.value.fix or "")
        (warning,) = ignoring(folder, name).warnings
        assert f"The field {name} of cfg.json was ignored as asked" in warning
    sae = make_sae("StandardSAE", metadata={"hook_name": SITE.hook_in, "hook_head_index": 3})
    (warning,) = object_submission(sae, "mine", ["metadata.hook_head_index"]).build(task_at()).warnings
    assert "metadata.hook_head_index of mine was ignored" in warning


def test_a_field_and_its_older_name_say_one_thing(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "two", hook_point="blocks.5.hook_mlp_out")
    with pytest.raises(
        InterpretationError, match=r"hook_name is .*and hook_point, its older name, 'blocks\.5"
    ):
        built(folder)
    assert built(write_old(tmp_path / "one", hook_point=SITE.hook_in)).warnings == ()


def test_a_layer_that_is_not_the_hooks_is_told(tmp_path: Path) -> None:
    for name in ("hook_layer", "hook_point_layer"):
        (warning,) = built(write_old(tmp_path / name, **{"hook_layer": None, name: 3})).warnings
        assert warning == f"cfg.json: {name} is 3, and the hook is {SITE.hook_in}; this counts."


def test_an_older_name_of_the_layer_tells_the_place(tmp_path: Path) -> None:
    adapted = built(write_old(tmp_path, hook_name=..., hook_layer=..., hook_point_layer=0))
    assert adapted.reads == "in"
    assert adapted.warnings == ()
    with pytest.raises(MisfitError, match=r"trained at blocks\.4\.hook_resid_post"):
        built(write_old(tmp_path, hook_name=..., hook_layer=..., hook_point_layer=4))


GPT2 = load_task("gpt2/resid-8").model
CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}, "model_name": "gpt2"}


@pytest.mark.parametrize(
    "hook",
    [
        "hook_embed",
        "hook_pos_embed",
        "ln_final.hook_in",
        "blocks.1.ln1.hook_in",
        "blocks.1.ln2.hook_in",
        "blocks.1.hook_mlp_in",
        "blocks.1.hook_attn_out",
        "transformer.h.1",
    ],
)
def test_all_that_is_written_to_the_residual_stream_was_centred(tmp_path: Path, hook: str) -> None:
    write_new(tmp_path, metadata={"hook_name": hook, **CENTRED})
    sae = make_sae("StandardSAE")
    place = "blocks.1.hook_resid_post" if hook.startswith("transformer") else hook
    adapted = built(tmp_path, Site(hook_in=place, hook_out=place, width=WIDTH), model=GPT2)
    mean = X.mean(-1, keepdim=True)
    codes, x = adapted.reconstruct(X)
    assert torch.allclose(codes, sae.encode(X - mean), atol=1e-6)
    assert torch.allclose(x, sae(X - mean) + mean, atol=1e-5)


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.1.mlp.hook_in"])
def test_nothing_else_was_centred(tmp_path: Path, hook: str) -> None:
    write_new(tmp_path, metadata={"hook_name": hook, **CENTRED})
    adapted = built(tmp_path, Site(hook_in=hook, hook_out=hook, width=WIDTH), model=GPT2)
    assert torch.allclose(adapted.encode(X), make_sae("StandardSAE").encode(X), atol=1e-6)


def test_what_heads_write_each_cannot_be_centred(tmp_path: Path) -> None:
    hook = "blocks.1.attn.hook_result"
    write_new(tmp_path, metadata={"hook_name": hook, **CENTRED})
    with pytest.raises(
        InterpretationError, match=r"center_writing_weights is true, .*a mean out of each head"
    ):
        built(tmp_path, Site(hook_in=hook, hook_out=hook, width=WIDTH), model=GPT2)


def test_left_out_blocks_move_what_is_behind_the_last_one(tmp_path: Path) -> None:
    few = {"model_name": "gpt2", "model_from_pretrained_kwargs": {"first_n_layers": 4}}
    hook = "ln_final.hook_normalized"
    write_new(tmp_path / "behind", metadata={"hook_name": hook, **few})
    with pytest.raises(InterpretationError, match=r"first_n_layers is 4; with it, the blocks above are left"):
        built(tmp_path / "behind", Site(hook_in=hook, hook_out=hook, width=WIDTH), model=GPT2)
    assert built(write_new(tmp_path / "before", metadata=few), model=GPT2).warnings == ()


def test_a_transcoder_that_does_not_tell_its_target_is_told(tmp_path: Path) -> None:
    metadata = {"hook_name": MLP.hook_in, "hook_name_out": MLP.hook_out}
    make_sae("Transcoder", metadata=metadata, d_out=WIDTH, apply_b_dec_to_input=False).save_model(
        str(tmp_path / "told")
    )
    assert built(tmp_path / "told", MLP).warnings == ()
    del metadata["hook_name_out"]
    make_sae("Transcoder", metadata=metadata, d_out=WIDTH, apply_b_dec_to_input=False).save_model(
        str(tmp_path / "untold")
    )
    (warning,) = built(tmp_path / "untold", MLP).warnings
    assert warning.startswith(
        "cfg.json does not tell what it rebuilds (no hook_name_out): that it was made for"
    )


def test_heads_are_reshaped_where_there_are_some(tmp_path: Path) -> None:
    folder = write_old(tmp_path / "sae", reshape_activations="hook_z")
    with pytest.raises(
        InterpretationError, match="reshape_activations is 'hook_z'; SAELens does that at hook_z"
    ):
        built(folder)
    ignored = ignoring(folder, "reshape_activations")
    assert torch.allclose(ignored.encode(X), CENTRED_PRE.relu(), atol=1e-6)


# --------------------------------------------------------------------------------------- circuit-tracer


def traced(folder: Path, more: dict[str, torch.Tensor], **config: Any) -> Adapted:
    """With these tensors beside the weights of the task's layer."""
    write_circuit_tracer(folder, {1: without_skip(W)}, **config)
    save_file({**STORED, "W_enc": W["W_enc"].T.contiguous(), **more}, folder / "layer_1.safetensors")
    return built(folder, MLP)


@pytest.mark.parametrize("config", [{"activation": "topk", "k": 3}, {"activation": "topk"}, {}])
def test_k_beside_the_weights_as_circuit_tracer_writes_it(tmp_path: Path, config: dict[str, Any]) -> None:
    values, places = PRE.topk(3, dim=-1)
    expected = torch.zeros_like(PRE).scatter(-1, places, values)
    adapted = traced(tmp_path, {"k": torch.tensor(3)}, **config)
    assert torch.allclose(adapted.encode(X), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "topk", "k": 4}, r"layer_1\.safetensors: k is 3.*; config\.yaml says k = 4"),
        ({"activation": "relu"}, "activation is relu, and the weights have a number k"),
    ],
)
def test_k_beside_the_weights_agrees_with_the_set(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InterpretationError, match=message):
        traced(tmp_path, {"k": torch.tensor(3)}, **config)


def test_circuit_tracer_keeps_what_is_above_a_threshold_below_zero(tmp_path: Path) -> None:
    threshold = torch.full((LATENTS,), -0.5)
    codes = traced(tmp_path, {"activation_function.threshold": threshold}).encode(X)
    assert torch.allclose(codes, PRE * (threshold < PRE), atol=1e-6)
    assert float(codes.min()) < 0
    assert not Above(threshold)(torch.full((1, 1, LATENTS), -torch.inf)).any()


def test_a_layer_is_listed_once(tmp_path: Path) -> None:
    twice = [{"layer": 1, "filepath": "layer_1.safetensors"}, {"layer": 1, "filepath": "layer_0.safetensors"}]
    write_circuit_tracer(tmp_path, {0: without_skip(W), 1: without_skip(W)}, twice)
    with pytest.raises(InterpretationError, match="lists layer 1 more than once: layer_1"):
        built(tmp_path, MLP)


def test_hooks_of_a_set_stand_without_their_block(tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path, {1: without_skip(W)}, feature_input_hook="blocks.1.mlp.hook_in")
    with pytest.raises(InterpretationError, match="expected the name of a hook within a block") as raised:
        built(tmp_path, MLP)
    assert raised.value.fix == "write it, such as feature_input_hook: mlp.hook_in"


# --------------------------------------------------------------------------------------------- sparsify

OF_TODAY = {"embed_skip": False, "gram_lookup": False, "lookup_max_order": 4, "gram_table_hash": None}


def test_what_sparsify_writes_today_is_known(tmp_path: Path) -> None:
    plain = built(write_sparsify(tmp_path / "a" / "layers.0", W))
    today = built(write_sparsify(tmp_path / "b" / "layers.0", W, **OF_TODAY))
    assert torch.equal(plain.encode(X), today.encode(X))
    assert today.warnings == ()


@pytest.mark.parametrize("name", ["embed_skip", "gram_lookup"])
def test_paths_past_the_codes_of_sparsify_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_sparsify(tmp_path / "layers.0", W, **{**OF_TODAY, name: True})
    with pytest.raises(InterpretationError, match=f"{name} is True; it can be false"):
        built(folder)
    assert f"The field {name} of cfg.json was ignored" in ignoring(folder, name).warnings[0]


def test_early_transcoders_of_sparsify_are_named_by_their_run_alone(tmp_path: Path) -> None:
    """Their own config lacks the field, and b_dec is subtracted from the input, as sparsify itself does."""
    folder = write_sparsify(tmp_path / "layers.1.mlp", W, skip_connection=True)
    file = folder / "cfg.json"
    config = json.loads(file.read_text())
    del config["transcode"]
    file.write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model": MODEL, "transcode": True}))
    adapted = built(folder, MLP)
    codes, x = adapted.reconstruct(X)
    values, places = CENTRED_PRE.relu().topk(3, dim=-1)
    assert adapted.reads == "in"
    assert torch.allclose(codes, torch.zeros_like(CENTRED_PRE).scatter(-1, places, values), atol=1e-5)
    assert torch.allclose(x, codes @ W["W_dec"] + W["b_dec"] + X @ W["W_skip"].T, atol=1e-5)
    file.write_text(json.dumps({**config, "transcode": False}))
    with pytest.raises(InterpretationError, match=r"transcode is True; cfg\.json of the module says false"):
        built(folder, MLP)


# ---------------------------------------------------------------------------------- dictionary_learning


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.post_attention_layernorm",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.mlp.act_fn",
        "model.layers.1.mlp.gate_proj",
        "transformer.h.1.attn.resid_dropout",
        "lm_head",
        "attn_in_layer_1",
        "mlp_post_layer_1",
        "mlp_gate_layer_1",
        "attn_q_layer_1",
    ],
)
@pytest.mark.parametrize("hook", ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_a_part_of_a_part_is_not_taken_for_the_whole(tmp_path: Path, name: str, hook: str) -> None:
    write_dictionary_learning(tmp_path, "AutoEncoder", LINEAR, submodule_name=name, layer=1)
    with pytest.raises(InterpretationError, match=r"trainer\.submodule_name is .*which names no place"):
        built(tmp_path, Site(hook_in=hook, hook_out=hook, width=WIDTH))


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("mlp_out_layers_1", "blocks.1.hook_mlp_out"),
        ("attn_out_layers_1", "blocks.1.hook_attn_out"),
        ("Attention_output_layer_1", "blocks.1.hook_attn_out"),
        ("mlp_in_layer_1", "blocks.1.mlp.hook_in"),
        ("heads_layer_1", "blocks.1.attn.hook_z"),
        ("resid_mid_layer_1", "blocks.1.hook_resid_mid"),
        ("post_mlp_residual", "blocks.1.hook_resid_post"),
        ("residual_stream_post_layer_1", "blocks.1.hook_resid_post"),
    ],
)
def test_free_words_name_a_place(tmp_path: Path, name: str, hook: str) -> None:
    write_dictionary_learning(tmp_path, "AutoEncoder", LINEAR, submodule_name=name, layer=1)
    adapted = built(tmp_path, Site(hook_in=hook, hook_out=hook, width=WIDTH))
    assert torch.allclose(adapted.encode(X), CENTRED_PRE.relu(), atol=1e-6)


def test_words_before_a_number_are_no_path() -> None:
    assert module_named("mlp_out_layers_1") is None
    assert not is_in_block("mlp_out_layers_1")
    assert module_named("model_layers_1") == Module(1, "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")
    assert is_in_block("model.layers.1.self_attn.q_proj")
    assert not is_in_block("lm_head")


def test_a_hook_and_a_layer_name_one_block(tmp_path: Path) -> None:
    hook = "blocks.0.hook_resid_post"
    write_dictionary_learning(tmp_path, "AutoEncoder", LINEAR, submodule_name=hook, layer=3)
    with pytest.raises(InterpretationError, match=rf"submodule_name is {hook}, and trainer\.layer 3"):
        built(tmp_path)


def test_a_buffer_without_special_tokens_is_told(tmp_path: Path) -> None:
    write_dictionary_learning(tmp_path, "AutoEncoder", LINEAR)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for given, words in ((True, ""), (False, "(buffer.add_special_tokens is false)")):
        config["buffer"]["add_special_tokens"] = given
        file.write_text(json.dumps(config))
        warnings = built(tmp_path).warnings
        assert len(warnings) == (not given)
        assert words in "".join(warnings)


def test_k_beside_the_weights_is_enough(tmp_path: Path) -> None:
    """As for the library itself, whose `from_pretrained` looks there alone."""
    state = {name: value for name, value in LINEAR.items() if name != "bias"} | {"b_dec": W["b_dec"]}
    write_dictionary_learning(tmp_path, "AutoEncoderTopK", {**state, "k": torch.tensor(3)}, k=None)
    values, places = CENTRED_PRE.relu().topk(3, dim=-1)
    expected = torch.zeros_like(CENTRED_PRE).scatter(-1, places, values)
    assert torch.allclose(built(tmp_path).encode(X), expected, atol=1e-6)
