"""Folders of dictionary_learning: every class of it against the SAE of sae-lens that computes the same."""

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
    RESIDUAL,
    WIDTH,
    K,
    X,
    built,
    make_sae,
    random_weights,
    task_at,
    write_dictionary_learning,
)
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.formats import dictionary_learning
from remainder.submission.open import open_submission
from remainder.task.spec import Site

W = random_weights()
LINEAR = {"encoder.weight": W["W_enc"].T, "decoder.weight": W["W_dec"].T}
OWN = {name: W[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
GATES = {
    name: torch.randn(LATENTS, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("rmg")
}
LEVEL = torch.tensor(0.7)

CLASSES: dict[str, tuple[dict[str, Tensor], str, dict[str, Any], dict[str, Tensor]]] = {
    "AutoEncoder": ({**LINEAR, "encoder.bias": W["b_enc"], "bias": W["b_dec"]}, "StandardSAE", {}, OWN),
    "AutoEncoderNew": (
        {**LINEAR, "encoder.bias": W["b_enc"], "decoder.bias": W["b_dec"]},
        "StandardSAE",
        {"apply_b_dec_to_input": False},
        OWN,
    ),
    "GatedAutoEncoder": (
        {
            **LINEAR,
            "decoder_bias": W["b_dec"],
            "r_mag": GATES["r"],
            "mag_bias": GATES["m"],
            "gate_bias": GATES["g"],
        },
        "GatedSAE",
        {},
        {
            **{name: W[name] for name in ("W_enc", "W_dec", "b_dec")},
            "r_mag": GATES["r"],
            "b_mag": GATES["m"],
            "b_gate": GATES["g"],
        },
    ),
    "AutoEncoderTopK": (
        {
            **LINEAR,
            "encoder.bias": W["b_enc"],
            "b_dec": W["b_dec"],
            "k": torch.tensor(K),
            # Kept for other uses: `encode` takes the top k.
            "threshold": torch.tensor(-1.0),
        },
        "TopKSAE",
        {"k": K},
        OWN,
    ),
    "BatchTopKSAE": (
        {
            **LINEAR,
            "encoder.bias": W["b_enc"],
            "b_dec": W["b_dec"],
            "k": torch.tensor(K),
            "threshold": LEVEL,
        },
        "JumpReLUSAE",
        {},
        {**OWN, "threshold": LEVEL.expand(LATENTS)},
    ),
    "MatryoshkaBatchTopKSAE": (
        {**OWN, "k": torch.tensor(K), "threshold": LEVEL, "group_sizes": torch.tensor([4, 8])},
        "JumpReLUSAE",
        {},
        {**OWN, "threshold": LEVEL.expand(LATENTS)},
    ),
    "JumpReluAutoEncoder": (
        {**OWN, "threshold": GATES["r"].abs()},
        "JumpReLUSAE",
        {"apply_b_dec_to_input": False},
        {**OWN, "threshold": GATES["r"].abs()},
    ),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_computes_what_its_twin_in_sae_lens_does(tmp_path: Path, kind: str) -> None:
    state, twin, settings, weights = CLASSES[kind]
    sae = make_sae(twin, **settings)
    sae.load_state_dict({name: value.clone() for name, value in weights.items()})
    folder = write_dictionary_learning(tmp_path, kind, state)
    assert set(open_submission(folder).files) == {"config.json", "ae.pt"}
    codes, found = built(folder).reconstruct(X, MASK)
    torch.testing.assert_close(codes, sae.encode(X).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, sae(X).detach(), rtol=1e-5, atol=1e-5)
    assert 0 < (codes != 0).float().mean() < 1


PLACES = [
    ({"submodule_name": "resid_post_layer_0", "layer": 0}, RESIDUAL),
    ({"submodule_name": "resid_pre_layer_1", "layer": 1}, RESIDUAL),
    ({"submodule_name": None, "layer": 0}, RESIDUAL),
    ({"submodule_name": "resid_post_layer_0", "layer": None}, RESIDUAL),
    ({"submodule_name": "resid_out_layer0", "layer": None}, RESIDUAL),
    ({"submodule_name": "blocks.1.hook_resid_pre", "layer": None}, RESIDUAL),
    ({"submodule_name": None, "layer": None}, RESIDUAL),
    ({"submodule_name": None, "layer": -1}, RESIDUAL),
    ({"submodule_name": "mlp_out_layer1", "layer": 1}, "blocks.1.hook_mlp_out"),
    ({"submodule_name": "mlp", "layer": 1}, "blocks.1.hook_mlp_out"),
    ({"submodule_name": "layers.1.mlp", "layer": None}, "blocks.1.hook_mlp_out"),
    ({"submodule_name": "layers.0", "layer": None}, RESIDUAL),
    ({"submodule_name": "attn_out_layer1", "layer": 1}, "blocks.1.hook_attn_out"),
]


@pytest.mark.parametrize(("named", "hook"), PLACES)
def test_the_place_is_told_by_submodule_and_layer(tmp_path: Path, named: dict[str, Any], hook: str) -> None:
    folder = write_dictionary_learning(tmp_path, "AutoEncoder", CLASSES["AutoEncoder"][0], **named)
    site = Site(hook_in=hook, hook_out=hook, width=WIDTH)
    assert dictionary_learning.load(folder, task_at(site)).reads == "in"
    if named != {"submodule_name": None, "layer": None} and named["layer"] != -1:
        other = Site(hook_in="blocks.7.hook_resid_mid", hook_out="blocks.7.hook_resid_mid", width=WIDTH)
        with pytest.raises(InterpretationError, match="it was trained at blocks"):
            built(folder, other)


def test_an_sae_of_the_mlp_reads_its_output_beside_transcoders(tmp_path: Path) -> None:
    state = CLASSES["AutoEncoder"][0]
    mlp = {"submodule_name": "mlp_out_layer_1", "layer": 1}
    assert built(write_dictionary_learning(tmp_path, "AutoEncoder", state, **mlp), MLP).reads == "out"


def change(folder: Path, **trainer: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["trainer"] |= trainer
    (folder / "config.json").write_text(json.dumps(content))


def store(folder: Path, **changed: Tensor | None) -> None:
    state = {**CLASSES["BatchTopKSAE"][0], **changed}
    torch.save({name: value for name, value in state.items() if value is not None}, folder / "ae.pt")


BROKEN = {
    "no trainer": (
        lambda f: (f / "config.json").write_text("{}"),
        "has no field `trainer`",
        "that training wrote",
    ),
    "other class": (
        lambda f: change(f, dict_class="CrossCoder"),
        "dict_class is 'CrossCoder'; known are AutoEncoder, ",
        "object",
    ),
    "other model": (lambda f: change(f, lm_name="gpt2"), "made for the model gpt2", "choose a task"),
    "other layer": (
        lambda f: change(f, layer=3, submodule_name="resid_post_layer_3"),
        r"trained at blocks\.3\.hook_resid_post",
        "score it at the hook",
    ),
    "odd place": (
        lambda f: change(f, submodule_name="embed"),
        "'embed', which names no place",
        "hook's name",
    ),
    "other width": (
        lambda f: change(f, activation_dim=9),
        "trainer.activation_dim is 9; .* width 8",
        "choose",
    ),
    "other dict_size": (
        lambda f: change(f, dict_size=24),
        "the weights have dict_size = 12; config.json says activation_dim = 8, dict_size = 24",
        "from one place",
    ),
    "transposed": (
        lambda f: store(f, **{"decoder.weight": W["W_dec"].clone()}),
        r"decoder.weight has .*transposed",
        "must be",
    ),
    "no threshold": (
        lambda f: store(f, threshold=None),
        "expected .*, threshold",
        "threshold is missing: a latent is active",
    ),
    "threshold untrained": (
        lambda f: store(f, threshold=torch.tensor(-1.0)),
        "threshold is -1.0: training ended before",
        "train past",
    ),
    "NaN": (lambda f: store(f, b_dec=W["b_dec"] * torch.nan), "b_dec holds NaN or infinity, in 8", "again"),
    "no weights": (lambda f: (f / "ae.pt").unlink(), r"has no ae\.pt$", "that training wrote"),
    "other pickle": (
        lambda f: (f / "ae.pt").rename(f / "sae.pkl"),
        r"has no ae\.pt, only sae\.pkl",
        "convert once",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message, fix = BROKEN[name]
    write_dictionary_learning(tmp_path, "BatchTopKSAE", CLASSES["BatchTopKSAE"][0])
    spoil(tmp_path)
    with pytest.raises(InterpretationError) as raised:
        dictionary_learning.load(tmp_path, task_at())
    assert str(tmp_path) in raised.value.what
    raised.match(message.replace("$", "(?m:$)"))
    assert fix in (raised.value.fix or "")


@pytest.mark.parametrize("k", [None, 0, 13, -1, 2.5, True, "3"])
def test_top_k_needs_its_k(tmp_path: Path, k: Any) -> None:
    state = {name: value for name, value in CLASSES["AutoEncoderTopK"][0].items() if name != "k"}
    write_dictionary_learning(tmp_path, "AutoEncoderTopK", state, k=k)
    with pytest.raises(InterpretationError, match=r"trainer\.k is .*; expected a whole number from 1 to 12"):
        built(tmp_path)


def test_thresholds_below_zero_keep_what_is_above_zero(tmp_path: Path) -> None:
    """Training may drive one there. A latent below zero is never active: it is a ReLU, and no dense code."""
    state = {**OWN, "threshold": torch.full((LATENTS,), -5.0)}
    codes = built(write_dictionary_learning(tmp_path, "JumpReluAutoEncoder", state)).encode(X)
    torch.testing.assert_close(codes, torch.relu(X @ W["W_enc"] + W["b_enc"]))
    assert 0.2 < (codes != 0).float().mean() < 0.8
