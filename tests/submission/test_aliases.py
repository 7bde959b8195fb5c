"""Hooks taken for one tensor by their names: on loaded models of many architectures, and in a run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from format_files import built, make_sae, random_weights, write_dictionary_learning, write_sparsify
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    Glm4Config,
    GPTJConfig,
    GraniteConfig,
    MptConfig,
    Olmo2Config,
    OPTConfig,
    PretrainedConfig,
)

from remainder import evaluate
from remainder.errors import AssetError, TaskError
from remainder.formats.places import MisfitError, place_at, tensor_of, two_tensors
from remainder.interpretation.protocol import Adapted, Alias
from remainder.loading.fetch import load_bridge, quiet
from remainder.loading.loaded import LoadedTask
from remainder.publish.check import check, check_whole
from remainder.submission import aliases
from remainder.submission.aliases import LIMIT, require_same
from remainder.submission.objects import object_submission
from remainder.task.spec import ModelSpec, Site, Task

BLOCK = 2
_SMALL: dict[str, Any] = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2}
_KEYS = {"num_key_value_heads": 2}
CONFIGS: dict[str, Any] = {
    "granite": lambda: GraniteConfig(**tiny._SHARED, **_KEYS, residual_multiplier=0.3),
    "granite-unscaled": lambda: GraniteConfig(**tiny._SHARED, **_KEYS),
    "bloom": lambda: BloomConfig(**_SMALL, hidden_size=16, n_layer=4, n_head=4),
    "olmo2": lambda: Olmo2Config(**tiny._SHARED, **_KEYS, pad_token_id=2),
    "gptj": lambda: GPTJConfig(**_SMALL, n_embd=16, n_layer=4, n_head=4, n_positions=64, rotary_dim=4),
    "opt": lambda: OPTConfig(
        **_SMALL,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        pad_token_id=2,
    ),
    "gemma-3": lambda: Gemma3TextConfig(**tiny._SHARED, **_KEYS, head_dim=4, sliding_window=8),
    "glm4": lambda: Glm4Config(**tiny._SHARED, **_KEYS, head_dim=4, pad_token_id=2),
    "mpt": lambda: MptConfig(vocab_size=97, d_model=16, n_layers=4, n_heads=4, max_seq_len=64),
}
QUICK = ("gemma-2", "llama")
SLOW = ("gpt2", "gpt-neox", "qwen2", *CONFIGS)
GROUPS = (
    ("hook_resid_pre", "hook_in"),
    ("hook_resid_mid", "ln2.hook_in"),
    ("hook_mlp_out", "mlp.hook_out", "mlp.out.hook_out", "ln2_post.hook_out"),
    ("hook_attn_out", "attn.hook_out", "attn.o.hook_out", "ln1_post.hook_out"),
    ("attn.hook_z", "attn.o.hook_in"),
    ("mlp.hook_in", "ln2.hook_out"),
    ("attn.hook_in", "ln1.hook_out"),
)
FIRST = {group[0] for group in GROUPS}
TWO = {  # by architecture, names of another tensor than the first of their group
    "gemma-2": {"mlp.hook_out", "mlp.out.hook_out", "attn.hook_out", "attn.o.hook_out"},
    "gemma-3": {"mlp.hook_out", "mlp.out.hook_out", "attn.hook_out", "attn.o.hook_out"},
    "glm4": {"mlp.hook_out", "mlp.out.hook_out", "attn.hook_out", "attn.o.hook_out"},
    "granite": {"mlp.hook_out", "mlp.out.hook_out", "attn.hook_out", "attn.o.hook_out"},
    "bloom": {"mlp.hook_out", "attn.hook_out"},
    "mpt": {"mlp.hook_out"},
    "olmo2": {
        "mlp.hook_out",
        "mlp.out.hook_out",
        "attn.hook_out",
        "attn.o.hook_out",
        "ln2.hook_in",
        "ln2.hook_out",
        "ln1.hook_out",
    },
}


@cache
def folder_of(architecture: str) -> Path:
    """A random model whose norms have gains, too: without these some tensors were one by chance."""
    configs: dict[str, Any] = tiny._CONFIGS
    made: PretrainedConfig = (CONFIGS.get(architecture) or configs[architecture])()
    configs = {**configs, architecture: lambda: made}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "_CONFIGS", configs)
        model = tiny.make_model(architecture)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return tiny.save_model(model, tiny._FOLDER / f"{architecture}-gains")


def spec_of(architecture: str) -> ModelSpec:
    return ModelSpec(name=f"tiny {architecture}", licence="MIT", hub=str(folder_of(architecture)))


@cache
def bridge_of(architecture: str) -> Any:
    with quiet():
        return load_bridge(spec_of(architecture), folder=folder_of(architecture))


def seen_by_hand(bridge: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """Activations at hooks on other tokens than those of the harness, [tokens, d]."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(value: torch.Tensor, hook: object) -> None:
            seen[name] = value.detach().reshape(3 * tiny.WINDOW, -1).clone()

        return hook

    with torch.inference_mode(), quiet():
        bridge.run_with_hooks(tiny.tokens(), fwd_hooks=[(name, keep(name)) for name in names])
    return seen


def holding(bridge: Any, spec: ModelSpec) -> LoadedTask:
    """A task whose model is loaded already; None: one that is behind no bridge."""
    loaded = tiny.make_loaded(tiny.make_task().model_copy(update={"model": spec}))
    loaded.__dict__["hooked"] = lambda dtype: bridge
    return loaded


def as_task(architecture: str) -> LoadedTask:
    return holding(bridge_of(architecture), spec_of(architecture))


def with_alias(told: str, ours: str) -> Adapted:
    return Adapted(object(), 16, "mine", aliases=(Alias(told, ours),))


def pairs_that_fire(bridge: Any) -> Iterator[tuple[str, str]]:
    """Every pair of the groups' names of which both are hooks of the model that fire."""
    names = [f"blocks.{BLOCK}.{name}" for group in GROUPS for name in group]
    seen = seen_by_hand(bridge, [name for name in names if name in bridge.hook_dict])
    for group in GROUPS:
        there = [f"blocks.{BLOCK}.{name}" for name in group if f"blocks.{BLOCK}.{name}" in seen]
        for first, one in enumerate(there):
            for other in there[first + 1 :]:
                yield one, other
    yield f"blocks.{BLOCK - 1}.hook_resid_post", f"blocks.{BLOCK}.hook_resid_pre"


def compare_all(architecture: str) -> None:
    """Names are taken for one, compared and known from the config as their values, seen by hand, are."""
    bridge, spec, task = bridge_of(architecture), spec_of(architecture), as_task(architecture)
    two: set[str] = set()
    pairs = list(pairs_that_fire(bridge))
    assert len(pairs) >= 5
    for one, other in pairs:
        assert tensor_of(one) == tensor_of(other)
        values = seen_by_hand(bridge, [one, other])
        same = torch.allclose(values[one], values[other], rtol=1e-5, atol=1e-6)
        # What the config tells is no guess, and tells all of it for the architectures at hand.
        assert two_tensors(one, other, spec) is not same, (one, other)
        if same:
            assert "on the loaded model" in require_same(task, with_alias(one, other))[0]
        else:
            with pytest.raises(MisfitError, match="two tensors: they differ by"):
                require_same(task, with_alias(one, other))
            two |= {other.split(".", 2)[2]} if one.split(".", 2)[2] in FIRST else set()
    assert two == TWO.get(architecture, set())


@pytest.mark.parametrize("architecture", QUICK)
def test_two_names_are_one_tensor_or_refused(architecture: str) -> None:
    compare_all(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SLOW)
def test_two_names_are_one_tensor_or_refused_in_other_architectures(architecture: str) -> None:
    compare_all(architecture)


def test_a_hook_that_the_model_lacks_is_not_taken_for_the_sites() -> None:
    alias = with_alias("blocks.2.ln2_post.hook_out", "blocks.2.hook_mlp_out")
    with pytest.raises(
        MisfitError, match="tiny llama does not have, so that it cannot be compared"
    ) as raised:
        require_same(as_task("llama"), alias)
    assert "write blocks.2.hook_mlp_out into the file" in (raised.value.fix or "")


def test_a_site_that_the_model_lacks_is_the_tasks_fault() -> None:
    alias = with_alias("blocks.2.hook_mlp_out", "blocks.2.ln2_post.hook_out")
    with pytest.raises(TaskError, match=r"no hook 'blocks\.2\.ln2_post\.hook_out'"):
        require_same(as_task("llama"), alias)


def test_a_module_of_a_script_has_names_of_its_own() -> None:
    alias = with_alias("blocks.1.hook_out", "blocks.2.hook_in")
    with pytest.raises(MisfitError, match="whose names are its own"):
        require_same(holding(None, spec_of("llama")), alias)


def test_nothing_is_loaded_where_there_is_no_alias() -> None:
    loaded = tiny.make_loaded()
    assert require_same(loaded, Adapted(object(), 16, "mine")) == []
    assert loaded._runners == {}


def test_a_pair_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    ordinary = aliases.hooked_pass

    def counted(bridge: Any, points: Any, tokens: torch.Tensor, hooks: Any) -> Any:
        passes.append(tokens.numel())
        return ordinary(bridge, points, tokens, hooks)

    monkeypatch.setattr(aliases, "hooked_pass", counted)
    alias = with_alias("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")
    for _ in range(3):
        require_same(as_task("llama"), alias)
    assert len(passes) == 1
    assert sum(passes) <= 16


def test_a_difference_at_one_token_is_seen_beside_an_attention_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.ones(12, 4)
    rows[0] = 1e8
    other = rows.clone()
    other[5] += 1e-3
    monkeypatch.setattr("remainder.submission.aliases._rows", lambda bridge, *hooks: [rows, other])
    fake = SimpleNamespace(hook_dict={"blocks.0.hook_out", "blocks.1.hook_in"})
    with pytest.raises(MisfitError, match=r"differ by 0\.001"):
        require_same(holding(fake, spec_of("llama")), with_alias("blocks.0.hook_out", "blocks.1.hook_in"))
    assert LIMIT == 1e-5


# ------------------------------------------------------------------------------------ hook_normalized


def task_at(architecture: str, hook_in: str, hook_out: str | None = None) -> Task:
    site = Site(hook_in=hook_in, hook_out=hook_out or hook_in, width=tiny.WIDTH)
    return tiny.make_task(folder_of(architecture)).model_copy(
        update={"site": site, "model": spec_of(architecture)}
    )


def test_before_the_gain_of_an_rms_norm_there_is_one_meaning() -> None:
    hook = "blocks.2.ln2.hook_normalized"
    assert place_at((hook, hook), task_at("llama", hook), "cfg.json").aliases == ()
    for site in ("blocks.2.mlp.hook_in", "blocks.2.ln2.hook_out"):
        with pytest.raises(MisfitError, match="trained at"):
            place_at((hook, hook), task_at("llama", site), "cfg.json")


def test_before_or_behind_the_gain_of_a_layer_norm_cannot_be_told() -> None:
    hook = "blocks.2.ln2.hook_normalized"
    place = place_at((hook, hook), task_at("gpt2", hook), "cfg.json")
    assert [alias[:2] for alias in place.aliases] == [("blocks.2.ln2.hook_out", hook)]
    with pytest.raises(MisfitError, match="HookedTransformer before TransformerLens 3") as raised:
        require_same(as_task("gpt2"), Adapted(object(), 16, "mine", aliases=place.aliases))
    assert "remainder.evaluate(task, object)" in (raised.value.fix or "")


def test_without_gain_and_bias_both_meanings_are_one_tensor() -> None:
    hook = "blocks.2.ln2.hook_normalized"
    # tiny's own GPT-2 has gains of one and biases of zero.
    spec = ModelSpec(name="tiny", licence="MIT", hub=str(tiny.model_folder("gpt2")))
    with quiet():
        bridge = load_bridge(spec, folder=tiny.model_folder("gpt2"))
    place = place_at((hook, hook), tiny.make_task(tiny.model_folder("gpt2"), hook=hook), "cfg.json")
    assert require_same(holding(bridge, spec), Adapted(object(), 16, "mine", aliases=place.aliases))


# ----------------------------------------------------------------------------------- files of the MLP

W = random_weights(width=tiny.WIDTH)
STATE = {
    "encoder.weight": W["W_enc"].T.contiguous(),
    "encoder.bias": W["b_enc"],
    "decoder.weight": W["W_dec"].T.contiguous(),
    "bias": W["b_dec"],
}


def files_of_the_modules_output(folder: Path, part: str) -> dict[str, Path]:
    """By format: an SAE of what a block's `mlp` or `attn` module gives."""
    sae = make_sae("StandardSAE", metadata={"hook_name": f"blocks.2.{part}.hook_out"}, d_in=16, d_sae=12)
    sae.save_model(str(folder / "saelens"))
    return {
        "saelens": folder / "saelens",
        "sparsify": write_sparsify(folder / f"layers.2.{part}", W),
        "dictionary_learning": write_dictionary_learning(
            folder / "dl",
            "AutoEncoder",
            STATE,
            activation_dim=16,
            layer=2,
            submodule_name=f"{part}_out_layer_2",
            lm_name=None,
        ),
    }


@pytest.mark.parametrize("format", ["saelens", "sparsify", "dictionary_learning"])
@pytest.mark.parametrize("part", ["mlp", "attn"])
def test_what_a_module_gives_is_told_apart_from_what_a_block_adds(
    tmp_path: Path, part: str, format: str
) -> None:
    folder = files_of_the_modules_output(tmp_path, part)[format]
    added = Site(hook_in=f"blocks.2.hook_{part}_out", hook_out=f"blocks.2.hook_{part}_out", width=16)
    own = Site(hook_in=f"blocks.2.{part}.hook_out", hook_out=f"blocks.2.{part}.hook_out", width=16)
    with pytest.raises(MisfitError, match=rf"made at blocks\.2\.{part}\.hook_out; .*is another tensor"):
        built(folder, added, model=spec_of("gemma-2"))
    assert built(folder, own, model=spec_of("gemma-2")).aliases == ()
    adapted = built(folder, added, model=spec_of("llama"))
    assert adapted.aliases == (Alias(own.hook_in, added.hook_in),)
    require_same(as_task("llama"), adapted)


def test_without_a_folder_the_architecture_is_that_of_the_models_name(tmp_path: Path) -> None:
    folder = files_of_the_modules_output(tmp_path, "mlp")["saelens"]
    site = Site(hook_in="blocks.2.hook_mlp_out", hook_out="blocks.2.hook_mlp_out", width=16)
    for name, hub in (("Gemma 2", "google/gemma-2-2b"), ("Gemma 3", "google/gemma-3-1b-pt")):
        with pytest.raises(MisfitError, match="is another tensor"):
            built(folder, site, model=ModelSpec(name=name, licence="Gemma", hub=hub))
    assert built(
        folder, site, model=ModelSpec(name="gpt2", licence="MIT", hub="openai-community/gpt2")
    ).aliases


# --------------------------------------------------------------------------------- in check and in runs


def loaded_at(hook: str, architecture: str) -> LoadedTask:
    return tiny.make_loaded(tiny.make_task(tiny.model_folder(architecture), hook=hook))


def object_at(hook: str) -> Any:
    return make_sae("StandardSAE", metadata={"hook_name": hook}, d_in=16, d_sae=12)


def test_a_run_compares_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite's default config says no multiplier, so that only the loaded model can tell."""
    monkeypatch.setattr("remainder.formats.places.two_tensors", lambda *_: False)
    task = loaded_at("blocks.2.hook_mlp_out", "gemma-2")

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr("remainder.measure.site._Group._calibrate", measured)
    with pytest.raises(MisfitError, match="two tensors: they differ by"):
        evaluate(task, object_at("blocks.2.mlp.hook_out"), tier="quick")


def test_a_run_at_an_alias_gives_the_record_no_warning() -> None:
    plain = evaluate(loaded_at("blocks.2.hook_resid_pre", "llama"), object_at("blocks.2.hook_resid_pre"))
    alias = evaluate(loaded_at("blocks.2.hook_resid_pre", "llama"), object_at("blocks.1.hook_resid_post"))
    assert alias.record.warnings == plain.record.warnings
    assert alias.record.complexity == plain.record.complexity


@pytest.fixture
def task_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    return tiny.write_task(tmp_path / "tasks")


def saved(folder: Path, hook: str) -> str:
    object_at(hook).save_model(str(folder))
    return str(folder)


def fits(found: Any) -> str:
    return next(step for step in found.steps if step.name == "fits").detail


def test_check_tells_what_was_compared(task_folder: Path, tmp_path: Path) -> None:
    found = check(saved(tmp_path / "mine", "blocks.1.hook_resid_post"), str(task_folder))
    assert found.passed
    assert fits(found).endswith(
        "blocks.1.hook_resid_post is blocks.2.hook_resid_pre on the loaded model (they differ by 0 of their "
        "size)"
    )
    plain = check(saved(tmp_path / "plain", "blocks.2.hook_resid_pre"), str(task_folder))
    assert fits(plain) == "blocks.2.hook_resid_pre, width 16"


def test_check_without_a_model_says_that_nothing_was_compared(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise AssetError("the model cannot be fetched", fix="go online")

    monkeypatch.setattr("remainder.publish.check.open_task", offline)
    found = check_whole(saved(tmp_path / "mine", "blocks.1.hook_resid_post"), str(task_folder))
    assert isinstance(found.error, AssetError)
    assert "blocks.1.hook_resid_post is taken for blocks.2.hook_resid_pre by its name" in fits(found)
    assert "was not compared on the model" in fits(found)


def test_check_fails_where_the_model_holds_two_tensors(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.submission.aliases._difference", lambda *_: 0.3)
    found = check(saved(tmp_path / "mine", "blocks.1.hook_resid_post"), str(task_folder))
    assert not found.passed
    assert "two tensors: they differ by 0.3" in fits(found)
    assert object_submission(object_at("blocks.1.hook_resid_post")).build(tiny.make_task()).aliases
