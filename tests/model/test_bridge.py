"""The model in two halves equals the model in one, on five architectures; and every wrong site is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, LAYERS, SITE, WIDTH, make_model, model_folder, save_model, tokens
from transformers import AutoModelForCausalLM

from remainder.errors import AssetError, MeasurementError, TaskError
from remainder.loading.fetch import check_weights, load_bridge
from remainder.model.bridge import BridgeRunner, weights_hash
from remainder.model.device import pick_device
from remainder.task.spec import ModelSpec, Site

SITES = [
    "blocks.2.hook_resid_pre",
    "blocks.2.hook_resid_post",
    "blocks.2.hook_mlp_out",
    "blocks.2.attn.hook_z",
    f"blocks.{LAYERS - 1}.hook_resid_post",
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_mlp_out",
    "hook_embed",
]
TWO_HOOKS = ("blocks.1.ln2.hook_in", "blocks.2.hook_mlp_out")


def bridge(architecture: str = "llama", dtype: str = "float32") -> Any:
    folder = model_folder(architecture)
    return load_bridge(
        ModelSpec(name=architecture, licence="MIT", hub=str(folder)), dtype=dtype, folder=folder
    )


def runner(of: Any, hook: str, hook_out: str | None = None, width: int = WIDTH) -> BridgeRunner:
    return BridgeRunner(of, Site(hook_in=hook, hook_out=hook_out or hook, width=width), tokens(1, seed=9))


def logits(run: BridgeRunner, ids: torch.Tensor, prefix: Any, activations: torch.Tensor) -> torch.Tensor:
    hidden = run.suffix(ids, prefix, activations)
    return torch.stack([run.logits(rows) for rows in hidden])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_suffix_equals_the_full_pass(architecture: str) -> None:
    model, ids = bridge(architecture), tokens(3)
    plain = AutoModelForCausalLM.from_pretrained(model_folder(architecture), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = plain(ids).logits
    for hook in SITES:
        run = runner(model, hook)
        with torch.inference_mode():
            prefix = run.prefix(ids)
            found = logits(run, ids, prefix, prefix.x_out)
            assert torch.equal(found, run.full_logits(ids)), hook
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the bridge's attention is another


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splicing_equals_a_full_pass_with_the_same_replacement(architecture: str) -> None:
    model, ids = bridge(architecture), tokens(3)
    for hook in SITES:
        run = runner(model, hook)
        with torch.inference_mode():
            prefix = run.prefix(ids)
            new = prefix.x_out + torch.randn(prefix.x_out.shape, generator=torch.Generator().manual_seed(1))
            found = logits(run, ids, prefix, new)
            clean = run.full_logits(ids)

            def replace(value: torch.Tensor, hook: Any, new: torch.Tensor = new) -> torch.Tensor:
                return new.reshape(value.shape)

            expected = model.run_with_hooks(ids, fwd_hooks=[(hook, replace)], return_type="logits")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=hook)
        assert float((found - clean).abs().max()) > 0.05, hook  # the replacement does something


def test_a_site_with_two_hooks_reads_one_and_splices_the_other() -> None:
    model, ids = bridge(), tokens(2)
    run = runner(model, *TWO_HOOKS)
    assert run.mode.startswith("blocks after the site only")
    with torch.inference_mode():
        prefix = run.prefix(ids)
        _, cache = model.run_with_cache(ids)
        torch.testing.assert_close(prefix.x_in, cache[TWO_HOOKS[0]])
        torch.testing.assert_close(prefix.x_out, cache[TWO_HOOKS[1]])
        new = torch.zeros_like(prefix.x_out)
        found = logits(run, ids, prefix, new)
        expected = model.run_with_hooks(
            ids, fwd_hooks=[(TWO_HOOKS[1], lambda value, hook: new)], return_type="logits"
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_prefix_holds_the_models_own_hidden_states() -> None:
    plain = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()
    ids = tokens(2)
    with torch.inference_mode():
        expected = plain(ids, output_hidden_states=True).hidden_states[2]
        prefix = runner(bridge(), SITE).prefix(ids)
    torch.testing.assert_close(prefix.x_out, expected, rtol=0, atol=1e-5)
    assert prefix.x_in is prefix.x_out
    assert prefix.entry is prefix.x_out


def test_the_suffix_runs_no_block_before_the_site_and_no_unembedding() -> None:
    model = bridge()
    run = runner(model, SITE)
    ran: list[str] = []
    parts = {f"block {i}": model.blocks[i].mlp for i in range(LAYERS)}
    parts["unembed"] = model.unembed.original_component
    ids = tokens(2)
    prefix = run.prefix(ids)
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    run.suffix(ids, prefix, prefix.x_out)
    assert ran == ["block 2", "block 3"]


@pytest.mark.parametrize(
    ("architecture", "hook", "mode"),
    [
        ("llama", SITE, "blocks after the site only, chunked head"),
        ("gpt2", "blocks.1.attn.hook_z", "blocks after the site only, chunked head"),
        ("llama", "blocks.0.hook_resid_pre", "all blocks, chunked head"),
        # The soft cap comes after the unembedding, so rows of hidden states do not give logits.
        ("gemma-2", SITE, "blocks after the site only, full head"),
        ("gemma-2", "blocks.0.hook_resid_pre", "all blocks, full head"),
    ],
)
def test_the_mode_says_how_the_suffix_runs(architecture: str, hook: str, mode: str) -> None:
    assert runner(bridge(architecture), hook).mode == mode


def test_where_skipping_blocks_is_wrong_all_blocks_run() -> None:
    """A model that carries something from an early block to a late one past the residual stream."""
    model, ids = bridge(), tokens(2)
    carried: list[torch.Tensor] = []
    early, late = (model.blocks[i].mlp.original_component for i in (0, 3))
    early.register_forward_hook(lambda module, args, output: carried.__setitem__(slice(None), [output]))
    late.register_forward_hook(lambda module, args, output: output + carried[0])
    run = runner(model, SITE)
    assert run.mode == "all blocks, chunked head"
    with torch.inference_mode():
        expected, prefix = run.full_logits(ids), run.prefix(ids)
        carried.clear()
        found = logits(run, ids, prefix, prefix.x_out)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_unknown_hook_is_refused_and_the_nearest_are_offered() -> None:
    with pytest.raises(TaskError, match=r"blocks\.2\.hook_resid_pre") as caught:
        runner(bridge(), "blocks.2.hook_residpre")
    assert "no hook 'blocks.2.hook_residpre'" in str(caught.value)


@pytest.mark.parametrize("hook", ["blocks.2.attn.hook_hidden_states", "hook_pos_embed"])
def test_a_hook_that_never_fires_is_refused(hook: str) -> None:
    with pytest.raises(MeasurementError, match=f"{hook} exists but did not fire"):
        runner(bridge(), hook)


@pytest.mark.parametrize("hook", ["blocks.2.attn.hook_result", "blocks.2.hook_q_input"])
def test_a_hook_that_is_switched_off_is_refused(hook: str) -> None:
    with pytest.raises(TaskError, match=f"{hook} is switched off"):
        runner(bridge(), hook)


def test_a_hook_that_fires_twice_is_refused() -> None:
    model = bridge()
    model.blocks[2].mlp.register_forward_hook(lambda module, args, output: module.hook_out(output))
    with pytest.raises(MeasurementError, match=r"blocks\.2\.hook_mlp_out fired 2 times"):
        runner(model, "blocks.2.hook_mlp_out")


def test_a_wrong_width_is_refused_with_the_right_one() -> None:
    with pytest.raises(TaskError, match=f"has width {WIDTH}; the task's .site. says 7"):
        runner(bridge(), SITE, width=7)


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    model = bridge()
    model.blocks[2].register_forward_hook(lambda module, args, output: output + torch.randn(()))
    with pytest.raises(MeasurementError, match="does not give the clean logits"):
        runner(model, SITE)


def test_activations_that_overflow_are_named() -> None:
    run = runner(bridge(), SITE)
    ids = tokens(1)
    prefix = run.prefix(ids)
    with pytest.raises(MeasurementError, match=f"not finite after splicing at {SITE}"):
        run.suffix(ids, prefix, torch.full_like(prefix.x_out, float("nan")))


def test_bfloat16_gives_nearly_the_float32_logits() -> None:
    ids = tokens(3)
    exact, short = runner(bridge(), SITE), runner(bridge(dtype="bfloat16"), SITE)
    assert (exact.dtype, short.dtype) == (torch.float32, torch.bfloat16)
    assert short.mode == exact.mode
    with torch.inference_mode():
        prefix = exact.prefix(ids)
        expected = logits(exact, ids, prefix, prefix.x_out)
        found = logits(short, ids, prefix, prefix.x_out)
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_the_model_is_whole_again_after_an_exception() -> None:
    model, ids = bridge(), tokens(2)
    run = runner(model, SITE)
    with torch.inference_mode():
        expected, prefix = run.full_logits(ids), run.prefix(ids)
        handle = model.blocks[3].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.suffix(ids, prefix, torch.zeros_like(prefix.x_out))
        handle.remove()
        assert torch.equal(run.full_logits(ids), expected)
        assert torch.equal(logits(run, ids, prefix, prefix.x_out), expected)
    replaced = [model.unembed, *model.blocks]
    assert not any("forward" in module.__dict__ for module in replaced)


def test_no_hook_stays_behind() -> None:
    model, ids = bridge(), tokens(2)
    run = runner(model, SITE)
    with torch.inference_mode():
        expected, prefix = run.full_logits(ids), run.prefix(ids)
        run.suffix(ids, prefix, torch.zeros_like(prefix.x_out))
        assert torch.equal(run.full_logits(ids), expected)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


# devices


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_without_cuda_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TaskError, match="no CUDA device"):
        pick_device(name)
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "meta"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match="auto, cpu, cuda"):
        pick_device(name)


def test_auto_takes_cuda_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


# weights


def test_the_hash_of_weights_depends_on_neither_sharding_nor_order(tmp_path: Path) -> None:
    weights = load_file(model_folder() / "model.safetensors")
    expected = weights_hash(model_folder())
    names = list(weights)
    (tmp_path / "sharded").mkdir()
    for shard in range(3):
        part = {name: weights[name] for name in names[shard::3]}
        save_file(part, tmp_path / "sharded" / f"{3 - shard}.safetensors", metadata={"made": "elsewhere"})
    assert weights_hash(tmp_path / "sharded") == expected


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_the_hash_of_weights_moves_with_every_property_of_a_tensor(change: str, tmp_path: Path) -> None:
    weights = load_file(model_folder() / "model.safetensors")
    name = sorted(weights)[0]
    tensor = weights.pop(name)
    if change == "value":
        tensor.view(-1)[0] += 1e-3
    elif change == "dtype":
        tensor = tensor.view(torch.int32)
    elif change == "shape":
        tensor = tensor.reshape(-1)
    weights[name + "x" if change == "name" else name] = tensor
    save_file(weights, tmp_path / "model.safetensors")
    assert weights_hash(tmp_path) != weights_hash(model_folder())


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    right = weights_hash(model_folder())
    spec = ModelSpec(name="tiny", licence="MIT", hub=str(model_folder()), weights_sha256=right)
    assert check_weights(spec, model_folder()) == right
    other = save_model(make_model(seed=1), tmp_path)
    with pytest.raises(AssetError, match=f"the task pins {right[:16]}"):
        check_weights(spec, other)


@pytest.mark.parametrize("left", [0, 100, 20_000, -1])
def test_a_truncated_weight_file_is_named(left: int, tmp_path: Path) -> None:
    whole = (model_folder() / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:left])
    spec = ModelSpec(name="tiny", licence="MIT", hub=str(tmp_path))
    with pytest.raises(AssetError, match=r"model\.safetensors"):
        check_weights(spec, tmp_path)


def test_a_folder_without_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(AssetError, match="safetensors"):
        check_weights(ModelSpec(name="tiny", licence="MIT", hub=str(tmp_path)), tmp_path)
