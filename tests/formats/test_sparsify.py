"""Folders of sparsify: against sae-lens, and against a loop over tokens."""

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
    without_skip,
    write_sparsify,
)
from safetensors.torch import load_file, save_file

from remainder.errors import InterpretationError
from remainder.formats import sparsify
from remainder.formats.places import MisfitError
from remainder.submission.open import open_submission
from remainder.task.spec import Site

W = random_weights()


def test_an_sae_computes_what_its_twin_in_sae_lens_does(tmp_path: Path) -> None:
    folder = write_sparsify(tmp_path / "layers.0", W)
    assert set(open_submission(folder).files) == {"cfg.json", "sae.safetensors"}
    sae = make_sae("TopKSAE", k=K)
    sae.load_state_dict({name: value.clone() for name, value in without_skip(W).items()})
    codes, found = built(folder).reconstruct(X, MASK)
    torch.testing.assert_close(codes, sae.encode(X).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, sae(X).detach(), rtol=1e-5, atol=1e-5)


def by_loop(x: torch.Tensor, activation: str, k: int, transcode: bool, skip: bool) -> torch.Tensor:
    """A token at a time: the k best latents one after another, or the best of each of k groups."""
    out = W["b_dec"].clone()
    inputs = x if transcode else x - W["b_dec"]
    h = torch.stack([inputs @ W["W_enc"][:, j] + W["b_enc"][j] for j in range(LATENTS)]).clamp(min=0)
    groups = [range(LATENTS)] if activation == "topk" else torch.arange(LATENTS).chunk(k)
    for group in groups:
        best = sorted((int(j) for j in group), key=lambda j: -float(h[j]))
        for j in best[: k if activation == "topk" else 1]:
            out += h[j] * W["W_dec"][j]
    return out + W["W_skip"] @ x if skip else out


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize(("transcode", "skip"), [(False, False), (True, False), (True, True)])
def test_every_setting_computes_what_a_loop_does(
    tmp_path: Path, activation: str, transcode: bool, skip: bool
) -> None:
    name = "layers.1.mlp" if transcode else "layers.0"
    settings = {"activation": activation, "transcode": transcode, "skip_connection": skip, "k": 4}
    adapted = built(write_sparsify(tmp_path / name, W, **settings), MLP if transcode else task_at().site)
    assert adapted.reads == "in"
    found = adapted.reconstruct(X, MASK)[1]
    expected = torch.stack([by_loop(x, activation, 4, transcode, skip) for x in X.reshape(-1, WIDTH)])
    torch.testing.assert_close(found, expected.reshape(X.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [{"num_latents": 0, "expansion_factor": 2}, {"num_latents": 16}])
def test_the_number_of_latents_is_given_in_two_ways(tmp_path: Path, stored: dict[str, int]) -> None:
    folder = write_sparsify(tmp_path / "layers.0", random_weights(latents=16), **stored)
    assert built(folder).encode(X).shape[-1] == 16


HOOKS = [
    ("layers.0", False, RESIDUAL, RESIDUAL, "in"),
    ("h.0", False, RESIDUAL, RESIDUAL, "in"),
    ("gpt_neox.layers.0", False, RESIDUAL, RESIDUAL, "in"),
    ("layers.0/seed7", False, RESIDUAL, RESIDUAL, "in"),
    ("layers.1.mlp", False, MLP.hook_in, MLP.hook_out, "out"),
    ("layers.1.mlp", True, MLP.hook_in, MLP.hook_out, "in"),
    ("h.1.attn", False, "blocks.1.hook_attn_out", "blocks.1.hook_attn_out", "in"),
    ("layers.1.self_attn", False, "blocks.1.hook_attn_out", "blocks.1.hook_attn_out", "in"),
]


@pytest.mark.parametrize(("name", "transcode", "hook_in", "hook_out", "reads"), HOOKS)
def test_the_place_is_told_by_the_folder(
    tmp_path: Path, name: str, transcode: bool, hook_in: str, hook_out: str, reads: str
) -> None:
    folder = write_sparsify(tmp_path / name, W, transcode=transcode)
    assert built(folder, Site(hook_in=hook_in, hook_out=hook_out, width=WIDTH)).reads == reads


@pytest.mark.parametrize(
    ("name", "transcode", "site"),
    [
        ("layers.3", False, task_at().site),
        ("layers.0.mlp", False, task_at().site),
        ("layers.1", False, MLP),
        ("layers.2.mlp", True, MLP),
    ],
)
def test_another_place_is_refused(tmp_path: Path, name: str, transcode: bool, site: Site) -> None:
    with pytest.raises(InterpretationError, match=f"{name}: it was trained (at|to read) blocks"):
        built(write_sparsify(tmp_path / name, W, transcode=transcode), site)


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("name", ["weights", "layers", "layers.x", "mlp", "seed1"])
def test_a_folder_that_names_no_module_is_refused(tmp_path: Path, name: str, transcode: bool) -> None:
    folder = write_sparsify(tmp_path / "run" / name, W, transcode=transcode)
    with pytest.raises(MisfitError, match=r"cannot be told whether it was made for") as raised:
        built(folder, MLP if transcode else task_at().site)
    assert "layers.15.mlp" in (raised.value.fix or "")


def change(folder: Path, **settings: Any) -> None:
    content = {**json.loads((folder / "cfg.json").read_text()), **settings}
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def store(folder: Path, **changed: torch.Tensor | None) -> None:
    content = {**load_file(folder / "sae.safetensors"), **changed}
    save_file({k: v for k, v in content.items() if v is not None}, folder / "sae.safetensors")


BROKEN = {
    "other model": (
        lambda f: (f.parent / "config.json").write_text('{"model": "gpt2"}'),
        "for the model gpt2",
        "choose a task",
    ),
    "other width": (lambda f: change(f, d_in=9), "d_in is 9; .* has width 8", "choose"),
    "other size": (
        lambda f: change(f, num_latents=24),
        "num_latents = 12; cfg.json says .* num_latents = 24",
        "one place",
    ),
    "size in words": (
        lambda f: change(f, num_latents="many"),
        "num_latents is 'many'; expected a number",
        "that training wrote",
    ),
    "no k": (lambda f: change(f, k=None), "k is None; expected a number", "that training wrote"),
    "large k": (lambda f: change(f, k=13), "k is 13; expected a whole number from 1 to 12", "training wrote"),
    "k of zero": (lambda f: change(f, k=0), "k is 0; expected a number", "that training wrote"),
    "half a latent": (lambda f: change(f, k=2.5), r"k is 2\.5; expected a number", "that training wrote"),
    "uneven groups": (
        lambda f: change(f, activation="groupmax", k=5),
        "k is 5, which does not divide 12 latents",
        "that training wrote",
    ),
    "other activation": (
        lambda f: change(f, activation="sum"),
        "activation is 'sum'; known",
        "remainder.evaluate",
    ),
    "signed": (lambda f: change(f, signed=True), "signed is true; known are", "remainder.evaluate"),
    "transposed": (
        lambda f: store(f, W_dec=W["W_dec"].T.contiguous()),
        r"W_dec has shape \(8, 12\) \(transposed\)",
        "must be",
    ),
    "no decoder": (lambda f: store(f, W_dec=None), "holds b_dec, .*; expected W_dec, b_dec", "exactly these"),
    "skip": (lambda f: change(f, skip_connection=True), "it would rebuild what it reads", "as a transcoder"),
    "NaN": (lambda f: store(f, b_dec=W["b_dec"] * torch.nan), "b_dec holds NaN", "again"),
    "no weights": (
        lambda f: (f / "sae.safetensors").unlink(),
        r"has no sae\.safetensors$",
        "that sparsify saved",
    ),
    "pickle": (
        lambda f: (f / "sae.safetensors").rename(f / "sae.pt"),
        r"has no sae\.safetensors, only sae\.pt",
        "once",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(tmp_path: Path, name: str) -> None:
    spoil, message, fix = BROKEN[name]
    folder = write_sparsify(tmp_path / "layers.0", W)
    spoil(folder)
    with pytest.raises(InterpretationError) as raised:
        sparsify.load(folder, task_at())
    assert str(tmp_path) in raised.value.what
    raised.match(message.replace("$", "(?m:$)"))
    assert fix in (raised.value.fix or "")
