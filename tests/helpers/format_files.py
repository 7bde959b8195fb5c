"""Tiny random SAEs and transcoders, and folders of them as each format's own library writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sae_lens
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from remainder.interpretation.protocol import Adapted
from remainder.residual.moments import Moments
from remainder.submission.open import open_submission
from remainder.task.spec import Site, Task, load_task

WIDTH, LATENTS, K = 8, 12, 3
RESIDUAL = "blocks.1.hook_resid_pre"
SITE = Site(hook_in=RESIDUAL, hook_out=RESIDUAL, width=WIDTH)
MLP = Site(hook_in="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out", width=WIDTH)
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 5).bool()


def task_at(site: Site = SITE, **changed: Any) -> Task:
    """A task that is never run: what readers look at is its site and the name of its model."""
    return load_task("smollm2-135m/resid-15").model_copy(update={"site": site, **changed})


def never() -> Moments:
    raise AssertionError("moments were asked for in vain")


def built(path: Path, site: Site = SITE, **changed: Any) -> Adapted:
    """What a path holds, read for a site."""
    return open_submission(path).build(task_at(site, **changed), never)


def random_weights(width: int = WIDTH, latents: int = LATENTS, seed: int = 0) -> dict[str, Tensor]:
    """W_enc [d_in d_sae], b_enc, W_dec [d_sae d_out], b_dec and W_skip [d_out d_in], none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "W_enc": (width, latents),
        "b_enc": (latents,),
        "W_dec": (latents, width),
        "b_dec": (width,),
        "W_skip": (width, width),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def make_sae(kind: str, seed: int = 0, metadata: dict[str, Any] | None = None, **settings: Any) -> Any:
    """An object of sae-lens (`kind` as in `TopKSAE`) with random weights and positive thresholds."""
    config = getattr(sae_lens, f"{kind}Config")(
        **{"d_in": WIDTH, "d_sae": LATENTS, **settings},
        metadata=sae_lens.saes.sae.SAEMetadata(**(metadata or {})),
    )
    sae = getattr(sae_lens, kind)(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(values.abs() if name == "threshold" else values)
    return sae.eval()


def write_dictionary_learning(folder: Path, kind: str, state: dict[str, Tensor], **trainer: Any) -> Path:
    """`ae.pt` and `config.json`, as its training script writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    content = {
        "dict_class": kind,
        "activation_dim": WIDTH,
        "dict_size": LATENTS,
        "k": K,
        "layer": 0,
        "lm_name": "HuggingFaceTB/SmolLM2-135M",
        "submodule_name": "resid_post_layer_0",
        **trainer,
    }
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps({"trainer": content, "buffer": {"ctx_len": 128}}))
    return folder


def write_sparsify(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """`cfg.json` and `sae.safetensors`, as `SparseCoder.save_to_disk` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    if config.get("skip_connection"):
        stored["W_skip"] = weights["W_skip"]
    save_file(stored, folder / "sae.safetensors")
    width, latents = weights["W_enc"].shape
    settings = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": latents,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": width,
        **config,
    }
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


def write_circuit_tracer(
    folder: Path, layers: dict[int, dict[str, Tensor]], listed: Any = None, **config: Any
) -> Path:
    """`config.yaml` and `layer_N.safetensors`, as `TranscoderSet.to_safetensors` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for layer, weights in layers.items():
        stored = {**weights, "W_enc": weights["W_enc"].T.contiguous()}
        save_file(stored, folder / f"layer_{layer}.safetensors")
    content = {
        "model_name": "HuggingFaceTB/SmolLM2-135M",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        **({} if listed is None else {"transcoders": listed}),
        **config,
    }
    (folder / "config.yaml").write_text(
        yaml.safe_dump({name: value for name, value in content.items() if value is not None})
    )
    return folder


def without_skip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name != "W_skip"}
