"""The same place in other libraries' words: names of modules, in every reader's files, and links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from format_files import (
    MLP,
    WIDTH,
    built,
    make_sae,
    random_weights,
    write_dictionary_learning,
    write_sparsify,
)

from remainder.errors import InterpretationError
from remainder.formats.places import MisfitError
from remainder.interpretation.protocol import Adapted
from remainder.model.module_names import Module, module_named
from remainder.submission.open import open_submission
from remainder.task.spec import Site

W = random_weights()
LINEAR = {
    "encoder.weight": W["W_enc"].T.contiguous(),
    "encoder.bias": W["b_enc"],
    "decoder.weight": W["W_dec"].T.contiguous(),
    "bias": W["b_dec"],
}
BLOCKS = [
    "layers.0",
    "model.layers.0",
    "model.layers[0]",
    ".model.layers.0",
    "h.0",
    "transformer.h.0",
    "gpt_neox.layers.0",
    "model.gpt_neox.layers.0",
    "model.decoder.layers.0",
    "language_model.model.layers.0",
    "model.language_model.layers.0",
    "transformer.blocks.0",
]
PARTS = [
    ("model.layers.1.mlp", "mlp.hook_in", "mlp.hook_out"),
    ("transformer.h.1.mlp", "mlp.hook_in", "mlp.hook_out"),
    ("transformer.blocks.1.ffn", "mlp.hook_in", "mlp.hook_out"),
    ("model.layers.1.block_sparse_moe", "mlp.hook_in", "mlp.hook_out"),
    ("model.layers.1.mlp.down_proj", "mlp.out.hook_in", "mlp.out.hook_out"),
    ("transformer.h.1.mlp.c_proj", "mlp.out.hook_in", "mlp.out.hook_out"),
    ("gpt_neox.layers.1.mlp.dense_4h_to_h", "mlp.out.hook_in", "mlp.out.hook_out"),
    ("model.decoder.layers.1.fc2", "mlp.out.hook_in", "mlp.out.hook_out"),
    ("model.layers.1.self_attn", "attn.hook_in", "attn.hook_out"),
    ("gpt_neox.layers.1.attention", "attn.hook_in", "attn.hook_out"),
    ("transformer.h.1.attn", "attn.hook_in", "attn.hook_out"),
    ("transformer.h.1.self_attention", "attn.hook_in", "attn.hook_out"),
    ("model.layers.1.self_attn.o_proj", "attn.o.hook_in", "attn.o.hook_out"),
    ("gpt_neox.layers.1.attention.dense", "attn.o.hook_in", "attn.o.hook_out"),
    ("model.layers.1.input_layernorm", "ln1.hook_in", "ln1.hook_out"),
    ("model.layers.1.pre_feedforward_layernorm", "ln2.hook_in", "ln2.hook_out"),
]
UNKNOWN = [
    "",
    "layers",
    "layers.x",
    "model.embed_tokens",
    "model.norm",
    "seed1",
    "resid_post_layer_3",
    "blocks.1.hook_resid_pre",
    "model.layers.1.mlp.act_fn",
    # In Llama it precedes the MLP, in Gemma 2 it follows the attention, in OLMo 2 too.
    "model.layers.1.post_attention_layernorm",
    "vision_tower.vision_model.encoder.layers.1",
    "model.visual.blocks.1",
    "model.encoder.layers.1",
]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_named_in_many_ways(name: str) -> None:
    assert module_named(name) == Module(0, "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")


@pytest.mark.parametrize(("name", "reads", "gives"), PARTS)
def test_parts_of_a_block(name: str, reads: str, gives: str) -> None:
    assert module_named(name) == Module(1, f"blocks.1.{reads}", f"blocks.1.{gives}")


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_names_no_place_of_the_language_model(name: str) -> None:
    assert module_named(name) is None


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt-neox"])
def test_modules_are_where_their_hooks_are(architecture: str) -> None:
    """What transformers' own modules give, against what the hooks of the bridge see."""
    compare_with_transformers(architecture)


def test_modules_of_gemma_2_are_where_their_hooks_are() -> None:
    compare_with_transformers("gemma-2")


def compare_with_transformers(architecture: str) -> None:
    import torch

    from remainder.loading.fetch import load_bridge, quiet
    from remainder.task.spec import ModelSpec

    folder = tiny.model_folder(architecture)
    model = tiny.make_model(architecture)
    with quiet():
        bridge = load_bridge(ModelSpec(name="tiny", licence="MIT", hub=str(folder)), folder=folder)
    ends: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if (found := module_named(name)) is None or found.gives not in bridge.hook_dict:
            continue

        def keep(module: object, inputs: Any, output: Any, gives: str = found.gives) -> None:
            ends[gives] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(keep)
    seen: dict[str, torch.Tensor] = {}
    with torch.inference_mode(), quiet():
        model(tiny.tokens())
        hooks = [(name, lambda v, hook, n=name: seen.__setitem__(n, v.clone())) for name in ends]
        bridge.run_with_hooks(tiny.tokens(), fwd_hooks=hooks)
    assert len(ends) >= 4 * tiny.LAYERS
    for name, value in ends.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-4, msg=name)


# -------------------------------------------------------------------------------------- in the readers


def saelens(folder: Path, hook: str, kind: str = "StandardSAE", **metadata: Any) -> Path:
    said = {"hook_name": hook, "model_class_name": "AutoModelForCausalLM", **metadata}
    make_sae(kind, metadata=said).save_model(str(folder))
    return folder


def dictionary(folder: Path, name: str, **trainer: Any) -> Path:
    return write_dictionary_learning(folder, "AutoEncoder", LINEAR, submodule_name=name, **trainer)


def reads(folder: Path, hook: str) -> Adapted:
    return built(folder, Site(hook_in=hook, hook_out=hook, width=WIDTH))


@pytest.mark.parametrize("name", ["model.layers.0", "transformer.h.0", "gpt_neox.layers.0"])
def test_each_reader_takes_a_block_by_its_name(tmp_path: Path, name: str) -> None:
    for folder in (
        saelens(tmp_path / "saelens", name),
        dictionary(tmp_path / "dictionary", name),
        write_sparsify(tmp_path / name, W),
    ):
        assert built(folder).reads == "in"
        with pytest.raises(MisfitError, match=r"trained at blocks\.0\.hook_resid_post"):
            reads(folder, "blocks.0.hook_resid_pre")


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("model.layers.1.mlp", "blocks.1.hook_mlp_out"),
        ("model.layers.1.self_attn", "blocks.1.hook_attn_out"),
        ("model.layers.1.mlp.down_proj", "blocks.1.hook_mlp_out"),
        ("model.layers.1.self_attn.o_proj", "blocks.1.hook_attn_out"),
    ],
)
def test_each_reader_takes_a_part_by_its_name(tmp_path: Path, name: str, hook: str) -> None:
    for folder in (
        saelens(tmp_path / "saelens", name),
        dictionary(tmp_path / "dictionary", name, layer=1),
        write_sparsify(tmp_path / name, W),
    ):
        adapted = reads(folder, hook)
        assert [alias.ours for alias in adapted.aliases] == [hook]


def test_a_transcoder_of_sae_lens_names_what_modules_give(tmp_path: Path) -> None:
    names = {"hook_name": "model.layers.1.pre_feedforward_layernorm", "hook_name_out": "model.layers.1.mlp"}
    sae = make_sae("Transcoder", metadata=names, d_out=WIDTH, apply_b_dec_to_input=False)
    sae.save_model(str(tmp_path))
    assert built(tmp_path, MLP).reads == "in"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vision_tower.encoder.layers.0", "it was trained at vision_tower"),
        ("model.layers.0.post_attention_layernorm", "it was trained at model"),
    ],
)
def test_other_modules_are_refused_in_their_own_words(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(MisfitError, match=message):
        built(saelens(tmp_path, name))


@pytest.mark.parametrize("name", ["model.layers.0", "resid_post_layer_0", "resid_post_layer0"])
def test_a_trainer_that_names_two_blocks_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InterpretationError, match=rf"submodule_name is {name}, and trainer\.layer 3"):
        built(dictionary(tmp_path, name, layer=3))


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("resid_post_layer_1", "blocks.1.hook_resid_pre"),
        ("mlp_out_layer_1", "blocks.1.mlp.hook_in"),
        ("model.layers.1.mlp", "blocks.1.mlp.hook_in"),
        ("attn_out_layer_1", "blocks.1.attn.hook_in"),
    ],
)
def test_a_buffer_of_inputs_is_of_the_modules_input(tmp_path: Path, name: str, hook: str) -> None:
    folder = dictionary(tmp_path, name, layer=1)
    content = json.loads((folder / "config.json").read_text())
    content["buffer"]["io"] = "in"
    (folder / "config.json").write_text(json.dumps(content))
    assert reads(folder, hook).aliases == ()
    content["buffer"]["io"] = "in_and_out"
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InterpretationError, match=r"buffer\.io is 'in_and_out'"):
        reads(folder, hook)


# ------------------------------------------------------------------------------------------------ links


def linked(tmp_path: Path, link: str, target: str) -> Path:
    store = write_sparsify(tmp_path / "store" / target, W)
    place = tmp_path / "links" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(store)
    return place


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("layers.0", "store-17"),
        ("layers.0", "sha256-0a1b2c"),
        # Its own name counts, whatever the other says.
        ("layers.0", "layers.7"),
        ("layers.0.mlp/seed3", "layers.0"),
        # Where it says nothing, the other's is asked.
        ("best", "layers.0"),
    ],
)
def test_a_link_is_judged_by_its_own_name(tmp_path: Path, link: str, target: str) -> None:
    folder = linked(tmp_path, link, target)
    if "mlp" in link:
        with pytest.raises(MisfitError, match=r"trained at blocks\.0\.mlp\.hook_out"):
            built(folder)
    else:
        assert built(folder).reads == "in"


def test_a_submission_is_called_as_the_link_is(tmp_path: Path) -> None:
    assert open_submission(linked(tmp_path, "layers.0", "store-17")).name == "layers.0"


def test_a_folder_is_found_by_dots_and_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = linked(tmp_path, "layers.0", "store-17")
    assert built(folder.parent / ".." / "links" / "layers.0").reads == "in"
    monkeypatch.chdir(write_sparsify(tmp_path / "layers.0", W))
    assert built(Path()).reads == "in"
    assert open_submission(".").name == "layers.0"


def test_the_run_of_several_seeds_is_asked_for_its_model(tmp_path: Path) -> None:
    folder = write_sparsify(tmp_path / "layers.0" / "seed3", W)
    (tmp_path / "config.json").write_text(json.dumps({"model": "gpt2", "ctx_len": 128}))
    with pytest.raises(MisfitError, match="for the model gpt2"):
        built(folder)
    (tmp_path / "config.json").write_text(
        json.dumps({"model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 2048})
    )
    assert "contexts of 2048 tokens (ctx_len)" in built(folder).warnings[0]
