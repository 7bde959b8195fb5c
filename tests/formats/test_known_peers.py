"""What dictionary_learning computes, written out: its nine trainers, with and without scaled activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LATENTS,
    MASK,
    WIDTH,
    K,
    X,
    built,
    write_dictionary_learning,
)
from known_files import (
    LINEAR,
    W,
    edit,
)

# -------------------------------------------------------------------------------- peers' own forward


@pytest.mark.parametrize("norm_factor", [None, 3.7])
@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE"])
def test_a_dictionary_trained_on_scaled_activations_is_stored_for_plain_ones(
    tmp_path: Path, kind: str, norm_factor: float | None
) -> None:
    """x / s was trained on; biases and threshold are stored times s. So x̂ = s · D(E(x / s))."""
    s = 1.0 if norm_factor is None else norm_factor
    name = "bias" if kind == "AutoEncoder" else "b_dec"
    state = {**LINEAR, "encoder.bias": W["b_enc"] * s, name: W["b_dec"] * s}
    state |= {} if kind == "AutoEncoder" else {"k": torch.tensor(K), "threshold": torch.tensor(0.7 * s)}
    hidden = ((X / s - W["b_dec"]) @ W["W_enc"] + W["b_enc"]).relu()
    if kind == "AutoEncoderTopK":
        values, places = hidden.topk(K)
        hidden = torch.zeros_like(hidden).scatter(-1, places, values)
    elif kind == "BatchTopKSAE":
        hidden = hidden * (hidden > 0.7)
    expected = s * (hidden @ W["W_dec"] + W["b_dec"])
    folder = write_dictionary_learning(tmp_path, kind, state, norm_factor=norm_factor)
    adapted = built(folder)
    assert adapted.warnings == ()
    torch.testing.assert_close(adapted.reconstruct(X, MASK)[1], expected, rtol=1e-5, atol=1e-5)


TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "StandardTrainer": ("AutoEncoder", {"l1_penalty": 0.1, "resample_steps": None}),
    "StandardTrainerAprilUpdate": ("AutoEncoder", {"l1_penalty": 0.1}),
    "PAnnealTrainer": (
        "AutoEncoder",
        {"sparsity_function": "Lp", "p_start": 1, "p_end": 0.2, "anneal_start": 9, "sparsity_penalty": 0.1,
         "sparsity_queue_length": 10, "n_sparsity_updates": 10},
    ),
    "GatedAnnealTrainer": ("GatedAutoEncoder", {"sparsity_function": "Lp", "p_start": 1, "p_end": 0}),
    "GatedSAETrainer": ("GatedAutoEncoder", {"l1_penalty": 0.1}),
    "TopKTrainer": ("AutoEncoderTopK", {"auxk_alpha": 0.03, "threshold_beta": 0.999, "k": K}),
    "BatchTopKTrainer": ("BatchTopKSAE", {"auxk_alpha": 0.03, "top_k_aux": 4, "k": K}),
    "MatryoshkaBatchTopKTrainer": ("MatryoshkaBatchTopKSAE", {"group_fractions": [0.5, 0.5], "k": K,
                                   "group_weights": [0.5, 0.5], "group_sizes": [6, 6]}),
    "JumpReluTrainer": ("JumpReluAutoEncoder", {"bandwidth": 0.001, "target_l0": 20.0}),
}  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_the_nine_trainers_write_is_known(tmp_path: Path, trainer: str) -> None:
    kind, own = TRAINERS[trainer]
    level = torch.rand(LATENTS)
    states: dict[str, dict[str, torch.Tensor]] = {
        "AutoEncoder": {**LINEAR, "bias": W["b_dec"]},
        "GatedAutoEncoder": {
            "encoder.weight": LINEAR["encoder.weight"],
            "decoder.weight": LINEAR["decoder.weight"],
            "decoder_bias": W["b_dec"],
            **{name: level for name in ("r_mag", "mag_bias", "gate_bias")},
        },
        "AutoEncoderTopK": {
            **LINEAR,
            "b_dec": W["b_dec"],
            "k": torch.tensor(K),
            "threshold": torch.tensor(-1.0),
        },
        "BatchTopKSAE": {**LINEAR, "b_dec": W["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.5)},
        "MatryoshkaBatchTopKSAE": {
            **W,
            "k": torch.tensor(K),
            "threshold": torch.tensor(0.5),
            "group_sizes": torch.tensor([6, 6]),
        },
        "JumpReluAutoEncoder": {**W, "threshold": level},
    }
    common = {
        "trainer_class": trainer,
        "lr": 1e-3,
        "steps": 100,
        "seed": 0,
        "device": "cuda:0",
        "wandb_name": trainer,
        "warmup_steps": 10,
        "decay_start": 80,
        "sparsity_warmup_steps": 10,
    }
    folder = write_dictionary_learning(tmp_path, kind, states[kind], **{**common, **own})
    buffer = {"d_submodule": WIDTH, "io": "out", "n_ctxs": 10, "ctx_len": 128, "refresh_batch_size": 4}
    edit(folder / "config.json", {"buffer": {**buffer, "out_batch_size": 8, "device": "cpu"}})
    adapted = built(folder)
    assert adapted.warnings == ()
    biased = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    x = X - W["b_dec"] if biased else X
    hidden = x @ W["W_enc"] + W["b_enc"]
    expected = {
        "AutoEncoder": lambda: hidden.relu(),
        "GatedAutoEncoder": lambda: (
            (x @ W["W_enc"] * level.exp() + level).relu() * (x @ W["W_enc"] + level > 0)
        ),
        "AutoEncoderTopK": lambda: torch.zeros_like(hidden).scatter(
            -1, hidden.relu().topk(K).indices, hidden.relu().topk(K).values
        ),
        "BatchTopKSAE": lambda: hidden.relu() * (hidden.relu() > 0.5),
        "MatryoshkaBatchTopKSAE": lambda: hidden.relu() * (hidden.relu() > 0.5),
        "JumpReluAutoEncoder": lambda: (hidden * (hidden > level)).relu(),
    }[kind]()
    found = adapted.reconstruct(X, MASK)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected @ W["W_dec"] + W["b_dec"], rtol=1e-5, atol=1e-5)
