"""Sets of transcoders of circuit-tracer: the task's layer of them, against the transcoders of sae-lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LATENTS,
    MASK,
    MLP,
    X,
    built,
    make_sae,
    random_weights,
    task_at,
    without_skip,
    write_circuit_tracer,
)
from safetensors.torch import load_file, save_file

from remainder.errors import InterpretationError
from remainder.formats import circuit_tracer
from remainder.submission.open import open_submission
from remainder.task.spec import Site

LAYERS = {layer: random_weights(seed=layer) for layer in range(3)}
LEVELS = torch.linspace(0.2, 1.5, LATENTS)


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("threshold", [None, "activation_function.threshold", "threshold", "one"])
def test_the_transcoder_of_the_task_s_layer_is_read(
    tmp_path: Path, skips: bool, threshold: str | None
) -> None:
    sets = {}
    for layer, weights in LAYERS.items():
        sets[layer] = dict(weights) if skips else without_skip(weights)
        if threshold is not None:
            name = "activation_function.threshold" if threshold == "one" else threshold
            sets[layer][name] = torch.tensor(0.6) if threshold == "one" else LEVELS
    adapted = built(write_circuit_tracer(tmp_path, sets), MLP)
    kind = ("" if threshold is None else "JumpReLU") + ("Skip" if skips else "") + "Transcoder"
    twin = make_sae(kind, d_out=X.shape[-1], apply_b_dec_to_input=False)
    state = {name: value.clone() for name, value in sets[1].items() if "threshold" not in name}
    if threshold is not None:
        state["threshold"] = torch.full((LATENTS,), 0.6) if threshold == "one" else LEVELS.clone()
    twin.load_state_dict(state)
    codes, found = adapted.reconstruct(X, MASK)
    torch.testing.assert_close(codes, twin.encode(X).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, twin(X).detach(), rtol=1e-5, atol=1e-5)
    assert adapted.reads == "in"


LISTS = {
    "no list": None,
    "paths": [f"layer_{layer}.safetensors" for layer in range(3)],
    "entries": [
        {"id": f"t{layer}", "layer": layer, "filepath": f"layer_{layer}.safetensors"} for layer in (2, 1, 0)
    ],
}


@pytest.mark.parametrize("listed", LISTS)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_set_lists_its_files_in_three_ways(tmp_path: Path, listed: str, given: str) -> None:
    sets = {layer: without_skip(weights) for layer, weights in LAYERS.items()}
    folder = write_circuit_tracer(tmp_path / "My Set", sets, LISTS[listed])
    submission = open_submission(folder if given == "folder" else folder / "config.yaml")
    assert submission.name == "my-set"
    assert set(submission.files) == {"config.yaml", *(f"layer_{layer}.safetensors" for layer in range(3))}
    found = built(folder, MLP).reconstruct(X, MASK)[1]
    expected = (
        torch.relu(X @ LAYERS[1]["W_enc"] + LAYERS[1]["b_enc"]) @ LAYERS[1]["W_dec"] + LAYERS[1]["b_dec"]
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_files_that_lie_elsewhere_are_read_and_hashed(tmp_path: Path) -> None:
    sets = {layer: without_skip(weights) for layer, weights in LAYERS.items()}
    far = write_circuit_tracer(tmp_path / "far", sets)
    listed = [str(far / "layer_0.safetensors"), "../far/layer_1.safetensors"]
    near = write_circuit_tracer(tmp_path / "near", {}, listed)
    first = open_submission(near)
    assert len(first.files) == 3
    assert not any(str(tmp_path) in name for name in first.files)
    save_file({**load_file(far / "layer_1.safetensors"), "b_dec": torch.ones(8)}, far / "layer_1.safetensors")
    assert open_submission(near).hash != first.hash
    torch.testing.assert_close(
        built(near, MLP).decode(torch.zeros(1, 1, LATENTS)), torch.ones(1, 1, 8), rtol=0, atol=0
    )


def test_a_skip_matrix_where_it_rebuilds_what_it_reads_is_refused(tmp_path: Path) -> None:
    folder = write_circuit_tracer(tmp_path, LAYERS, feature_input_hook="hook_mlp_out")
    site = Site(hook_in=MLP.hook_out, hook_out=MLP.hook_out, width=8)
    with pytest.raises(InterpretationError, match=r"layer_1\.safetensors: it has a skip matrix") as raised:
        built(folder, site)
    assert "without the matrix" in str(raised.value.fix)


def rewrite(**config: Any) -> Any:
    return lambda folder: write_circuit_tracer(folder, {}, **config)


def store(folder: Path, **changed: torch.Tensor | None) -> None:
    path = folder / "layer_1.safetensors"
    content = {**load_file(path), **changed}
    save_file({k: v for k, v in content.items() if v is not None}, path)


REMOTE = ["hf://mine/set/layer_0.safetensors?revision=main"] * 2
BROKEN = {
    "other model": (
        rewrite(model_name="google/gemma-2-2b"),
        "for the model google/gemma-2-2b",
        "choose a task",
    ),
    "cross-layer": (
        rewrite(model_kind="cross_layer_transcoder"),
        "model_kind is 'cross_layer",
        "one layer each",
    ),
    "other input": (
        rewrite(feature_input_hook="hook_resid_mid"),
        r"to read blocks\.1\.hook_resid_mid and rebuild",
        "score it at the hook that it was made for",
    ),
    "other output": (
        rewrite(feature_output_hook="hook_attn_out"),
        r"has transcoders to hook_attn_out of layers 0, 1, 2; the task replaces blocks\.1\.hook_mlp_out",
        "choose a task",
    ),
    "no layer": (
        rewrite(listed=["layer_0.safetensors"]),
        "to hook_mlp_out of layers 0; the task",
        "choose a task",
    ),
    "empty": (rewrite(listed=[]), "to hook_mlp_out of layers none; the task", "choose a task"),
    "no hook": (
        rewrite(feature_input_hook=None),
        "feature_input_hook is None",
        "such as feature_input_hook: mlp",
    ),
    "remote": (
        rewrite(listed=REMOTE),
        "layer 1 is hf://mine/set/layer_0.safetensors",
        "hf download OWNER/REPO",
    ),
    "other kind": (
        rewrite(listed=["a.npz", "b.npz"]),
        "layer 1 is b.npz, which is no local",
        "save_transcoders",
    ),
    "odd entry": (rewrite(listed=[{"layer": 0}]), r"transcoders\[0\] is .*; expected a path", "filepath:"),
    "no file": (lambda f: (f / "layer_1.safetensors").unlink(), "of layers 0, 2; the task", "choose"),
    "missing file": (
        rewrite(listed=["x.safetensors", "y.safetensors"]),
        r"y\.safetensors does not exist",
        "give",
    ),
    "transposed": (
        lambda f: store(f, W_dec=LAYERS[1]["W_dec"].T.contiguous()),
        r"layer_1.*: W_dec has shape \(8, 12\) \(transposed\)",
        r"must be [d_transcoder, d_model]",
    ),
    "no bias": (lambda f: store(f, b_enc=None), "expected W_dec, W_enc, b_dec, b_enc", "exactly these"),
    "other width": (
        lambda f: save_file(
            {
                **load_file(f / "layer_1.safetensors"),
                "W_enc": torch.ones(12, 9),
                "W_dec": torch.ones(12, 9),
                "b_dec": torch.ones(9),
            },
            f / "layer_1.safetensors",
        ),
        "the weights have d_model = 9; the site has width d_model = 8",
        "one place",
    ),
    "bad YAML": (lambda f: (f / "config.yaml").write_text("a: [1"), "is not valid YAML", "anew"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sets_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message, fix = BROKEN[name]
    write_circuit_tracer(tmp_path, {layer: without_skip(weights) for layer, weights in LAYERS.items()})
    spoil(tmp_path)
    with pytest.raises(InterpretationError) as raised:
        circuit_tracer.load(tmp_path, task_at(MLP))
    assert str(tmp_path) in raised.value.what
    raised.match(message)
    assert fix in (raised.value.fix or "")
