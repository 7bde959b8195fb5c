"""Folders of every format with a field more, another or none, for tests of what readers know of fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from format_files import (
    LATENTS,
    MLP,
    SITE,
    WIDTH,
    K,
    X,
    make_sae,
    random_weights,
    without_skip,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from safetensors.torch import save_file

from remainder.formats import circuit_tracer, dictionary_learning, gemma_scope, saelens, sparsify
from remainder.formats.known import Line
from remainder.task.spec import Site, load_task

W = without_skip(random_weights())
HIDDEN = (X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]
LINEAR = {"encoder.weight": W["W_enc"].T, "encoder.bias": W["b_enc"], "decoder.weight": W["W_dec"].T}
LAYER_NORMED = load_task("gpt2/resid-8").model


def write_saelens(folder: Path, **changed: Any) -> Path:
    """A folder as SAELens 6 saves it."""
    make_sae("TopKSAE", k=K, metadata={"hook_name": SITE.hook_in}).save_model(str(folder))
    return edit(folder / "cfg.json", changed)


def write_old(folder: Path, **changed: Any) -> Path:
    """A flat config, as SAELens 3 saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in W.items()}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "context_size": 128,
        "model_name": "HuggingFaceTB/SmolLM2-135M",
        "hook_name": SITE.hook_in,
        "hook_layer": 1,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "text",
        "dataset_trust_remote_code": True,
        "dtype": "torch.float32",
        "device": "cpu",
        "sae_lens_training_version": "3.12.0",
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return edit(folder / "cfg.json", changed)


def write_learned(folder: Path, **changed: Any) -> Path:
    state = {**LINEAR, "b_dec": W["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    write_dictionary_learning(folder, "AutoEncoderTopK", state)
    return edit(folder / "config.json", changed)


def write_sparse(folder: Path, **changed: Any) -> Path:
    return edit(write_sparsify(folder / "layers.0", random_weights()) / "cfg.json", changed)


def write_traced(folder: Path, **changed: Any) -> Path:
    write_circuit_tracer(folder, {1: W})
    content = nested(yaml.safe_load((folder / "config.yaml").read_text()), changed)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def write_scope(folder: Path, **changed: Any) -> Path:
    folder /= "gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_71"  # which tells the place
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in W.items()} | {"threshold": np.ones(LATENTS, np.float32)}
    np.savez(folder / "params.npz", **arrays, **changed)
    return folder


def nested(content: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """With these fields, of blocks if there are dots in a name; `...` takes one out."""
    for name, value in changed.items():
        *blocks, last = name.split(".")
        place = content
        for part in blocks:
            place[part] = place.get(part) or {}
            place = place[part]
        if value is ...:
            place.pop(last, None)
        else:
            place[last] = value
    return content


def edit(path: Path, changed: dict[str, Any]) -> Path:
    path.write_text(json.dumps(nested(json.loads(path.read_text()), changed)))
    return path.parent


class Reader(NamedTuple):
    write: Callable[..., Path]
    site: Site
    module: Any
    invented: tuple[str, ...]
    """Places where nobody knows a field."""


READERS = {
    "saelens": Reader(
        write_saelens, SITE, saelens, ("invented", "metadata.model_from_pretrained_kwargs.invented")
    ),
    "saelens, old": Reader(
        write_old,
        SITE,
        saelens,
        ("invented", "activation_fn_kwargs.invented", "model_from_pretrained_kwargs.invented"),
    ),
    "dictionary-learning": Reader(write_learned, SITE, dictionary_learning, ("invented",)),
    "sparsify": Reader(write_sparse, SITE, sparsify, ("invented",)),
    "circuit-tracer": Reader(write_traced, MLP, circuit_tracer, ("invented",)),
    "gemma-scope": Reader(write_scope, SITE, gemma_scope, ("invented",)),
}
INVENTED = [(reader, name) for reader, about in READERS.items() for name in about.invented]


class Custom:
    """A custom SAE of SAEBench."""

    def __init__(self, sae: Any, cfg: dict[str, Any]) -> None:
        self.encode, self.decode, self.cfg = sae.encode, sae.decode, cfg
        self.W_dec = sae.W_dec


@contextmanager
def without(lines: dict[str, Line], name: str) -> Iterator[None]:
    """A table with one line taken out; afterwards it is as before, in the same order."""
    before = dict(lines)
    del lines[name]
    try:
        yield
    finally:
        lines.clear()
        lines.update(before)
