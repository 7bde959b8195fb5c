"""Places in a model, by TransformerLens' names and by those of its modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from remainder.errors import TaskError
from remainder.loading.adapt import GivenModel, given_model
from remainder.loading.hooks import find_site
from remainder.model.bridge import BridgeRunner
from remainder.task.spec import Site

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "gpt-neox": "gpt_neox.layers"}
ATTENTION = {"gpt2": "attn", "llama": "self_attn", "gpt-neox": "attention"}


@cache
def given(architecture: str) -> GivenModel:
    return given_model(tiny.model_folder(architecture))


@pytest.mark.parametrize("architecture", BLOCKS)
def test_a_module_is_what_it_gives(architecture: str) -> None:
    """Compared with a hook on the module itself, in the model of transformers."""
    plain = AutoModelForCausalLM.from_pretrained(tiny.model_folder(architecture), dtype=torch.float32).eval()
    blocks, ids = BLOCKS[architecture], tiny.tokens(2)
    names = [f"{blocks}.1", f"{blocks}.2.mlp", f"{blocks}.2.{ATTENTION[architecture]}"]
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: object, args: object, output: object) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

        return hook

    for name in names:
        plain.get_submodule(name).register_forward_hook(keep(name))
    with torch.inference_mode():
        plain(ids)
        for name in names:
            site = find_site(given(architecture), name)
            assert site.width == tiny.WIDTH
            found = BridgeRunner(given(architecture).bridge(), site, tiny.tokens(1)).prefix(ids)
            torch.testing.assert_close(found.x_out, seen[name], rtol=0, atol=1e-5)


def test_both_ways_of_naming_lead_to_one_hook() -> None:
    def site(hook: str, hook_out: str | None = None) -> Site:
        return find_site(given("llama"), hook, hook_out)

    assert site("model.layers.1").hook_in == "blocks.1.hook_resid_post"
    assert site(".model.layers[1].output[0]") == site("layers.1") == site("model.layers.1")
    assert site("model.layers.1.input").hook_in == "blocks.1.hook_resid_pre"
    assert site("model.layers.1.mlp") == site("blocks.1.hook_mlp_out")
    assert site("blocks.1.hook_resid_pre").hook_out == "blocks.1.hook_resid_pre"
    transcoder = site("model.layers.1.mlp.input", "model.layers.1.mlp.output[0]")
    assert (transcoder.hook_in, transcoder.hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    assert site("model.layers.1.mlp.gate_proj").width == 2 * tiny.WIDTH
    assert site("blocks.1.attn.hook_z").width == tiny.WIDTH


@pytest.mark.parametrize(
    ("hook", "message", "near"),
    [
        ("blocks.2.hook_resid_pree", "no hook 'blocks.2.hook_resid_pree'", "blocks.2.hook_resid_pre"),
        ("model.layers.9", "no hook or hooked module 'model.layers.9'", "model.layers.0"),
        ("model.layers.1.mpl", "no hook or hooked module 'model.layers.1.mpl'", "model.layers.1.mlp"),
        ("mlp", "several modules are called mlp: model.layers.0.mlp", "write the whole path"),
        ("residual", "the model has no hook 'residual'", "did you mean"),
        ("blocks.1.attn.hook_result", "is switched off", "always on"),
        ("lm_head", "hook unembed.hook_out is of the unembedding", "before it"),
        ("blocks.1.attn.hook_pattern", "expected .docs, positions, width.", "a value for every token"),
    ],
)
def test_a_name_that_the_model_lacks_or_has_twice(hook: str, message: str, near: str) -> None:
    with pytest.raises(TaskError, match=message) as raised:
        find_site(given("llama"), hook)
    assert near in (raised.value.fix or "")


def test_nothing_is_rebuilt_that_is_computed_before_what_is_read() -> None:
    for read, written in (
        ("blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"),
        ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in"),
        ("model.layers.2", "hook_embed"),
    ):
        with pytest.raises(TaskError, match="is rebuilt, which the model computes before it"):
            find_site(given("llama"), read, written)
        assert find_site(given("llama"), written, read).hook_out


def test_a_model_whose_weights_hold_nan_is_named(tmp_path: Path) -> None:
    model = tiny.make_model()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    said = r"the model .* itself gives NaN or infinite logits: its weight .*down_proj"
    with pytest.raises(TaskError, match=said):
        find_site(given_model(model, tokenizer=None), "model.layers.0")
    tiny.save_model(model, tmp_path / "model")
    with pytest.raises(TaskError, match=said):
        find_site(given_model(tmp_path / "model"), "model.layers.0")


def test_two_hooks_of_two_widths() -> None:
    with pytest.raises(TaskError, match=r"hook_mlp_out has width 16, .*mlp.out.hook_in has width 32"):
        find_site(given("llama"), "blocks.1.hook_mlp_out", "blocks.1.mlp.out.hook_in")
