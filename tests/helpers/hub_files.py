"""What tests put on a hub: tiny SAEs that are good for nothing; and the settings that lead to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import Hub, serving
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
from tiny import SITE, WIDTH

__all__ = [
    "LATENTS",
    "SAES",
    "SCOPE",
    "SCOPE_ID",
    "connected",
    "point_at",
    "random_sae",
    "release",
    "sae_repository",
    "scope_repository",
    "sha256",
]

LATENTS = 24
SAES = "test/tiny-saes"
SCOPE, SCOPE_ID = "test/gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_3"


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface-hub, which read its settings when it was imported, ask the hub at `url`."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


@contextmanager
def connected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, without a token and with an empty cache."""
    constants = huggingface_hub.constants
    with serving() as hub:
        point_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def random_sae(seed: int = 0, kind: str = "standard", hook: str = SITE) -> Any:
    """A tiny SAE that is good for nothing."""
    if kind == "topk":
        sae: Any = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=LATENTS, k=4))
    elif kind == "jumprelu":
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=WIDTH, d_sae=LATENTS, apply_b_dec_to_input=False))
    else:
        sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=LATENTS))
    sae.cfg.metadata.hook_name = hook
    generator = torch.Generator().manual_seed(seed)
    for value in sae.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator).abs() * 0.3)
    return sae


def sae_repository(folder: Path, seed: int = 0) -> Path:
    """A repository with a README and an SAE at each of two sites, in SAELens' format."""
    for number, hook in enumerate((SITE, "blocks.1.hook_resid_pre")):
        random_sae(seed + number, "topk", hook).save_model(str(folder / hook))
    (folder / "README.md").write_text("Tiny SAEs.\n")
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scope_repository(folder: Path) -> Path:
    """A repository as Gemma Scope's, with one SAE."""
    sae = random_sae(3, "jumprelu")
    place = folder / "layer_1/width_16k/average_l0_3"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{name: value.numpy() for name, value in sae.state_dict().items()})
    return folder


def release(monkeypatch: pytest.MonkeyPatch, repo: str, reader: str | None, **fields: Any) -> None:
    """Put a release `tiny-release` with an SAE `one` on sae-lens's list."""
    filled = {
        "release": "tiny-release",
        "repo_id": repo,
        "model": "tiny",
        "conversion_func": reader,
        "saes_map": {"one": SITE},
        "expected_var_explained": {},
        "expected_l0": {},
        "neuronpedia_id": {},
        "norm_scaling_factor": {},
        "config_overrides": None,
    }
    monkeypatch.setitem(
        get_pretrained_saes_directory(), "tiny-release", PretrainedSAELookup(**{**filled, **fields})
    )
