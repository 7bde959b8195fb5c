"""Tiny models as people hold them in memory: of transformers, behind TransformerLens' hooks, in a wrapper."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import tiny
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from remainder.loading.fetch import quiet

__all__ = ["Wrapped", "bridged", "hooked", "of_transformers"]


@cache
def _of_transformers(architecture: str) -> Any:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(tiny.model_folder(architecture), dtype=torch.float32)


def of_transformers(architecture: str) -> Any:
    """A model of its own that came from the folder of `tiny`."""
    return copy.deepcopy(_of_transformers(architecture)).eval()


def bridged(architecture: str) -> Any:
    """The same behind the bridge, with its tokenizer."""
    folder = tiny.model_folder(architecture)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = of_transformers(architecture)
        return TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer)


def hooked(architecture: str) -> Any:
    """The same as a HookedTransformer whose weights were not processed."""
    model = of_transformers(architecture)
    gpt2 = architecture == "gpt2"
    config = HookedTransformerConfig(
        model_name=f"tiny-{architecture}",
        original_architecture=type(model).__name__,
        n_layers=tiny.LAYERS,
        d_model=tiny.WIDTH,
        n_ctx=64,
        d_head=4,
        n_heads=4,
        d_mlp=(4 if gpt2 else 2) * tiny.WIDTH,
        d_vocab=tiny.VOCABULARY,
        device="cpu",
        eps=model.config.layer_norm_epsilon if gpt2 else model.config.rms_norm_eps,
        **(_GPT2 if gpt2 else _LLAMA),
    )
    with quiet():  # it is deprecated, and people have it
        made = HookedTransformer(config)
    convert = convert_gpt2_weights if gpt2 else convert_llama_weights
    made.load_state_dict(convert(model, config), strict=False)
    return made.eval()


_GPT2: dict[str, Any] = {"act_fn": "gelu_new", "normalization_type": "LN"}
_LLAMA: dict[str, Any] = {
    "act_fn": "silu",
    "normalization_type": "RMS",
    "final_rms": True,
    "gated_mlp": True,
    "n_key_value_heads": 2,
    "positional_embedding_type": "rotary",
    "rotary_dim": 4,
    "rotary_base": 10000,
}


class Wrapped:
    """A stand-in with the surface of nnsight's `LanguageModel`, which is no dependency.

    As there, the wrapper is no module, the model is in `_module`, every other name is looked up on the model,
    and each module has a `forward` of the wrapper's in its `__dict__`, which calls the one of its class.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.__dict__.update(_module=model, tokenizer=tokenizer, calls=[])
        for module in model.modules():
            module.__dict__["forward"] = Controller(self, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


class Controller:
    """A stand-in for nnsight's `Controller`: it cannot be copied, as it holds its wrapper's state."""

    __module__ = "nnsight.intervention.source"

    def __init__(self, wrapper: Wrapped, module: Any) -> None:
        self.wrapper, self.module = wrapper, module

    def __call__(self, *args: Any, **settings: Any) -> Any:
        self.wrapper.__dict__["calls"].append(type(self.module).__name__)
        return type(self.module).forward(self.module, *args, **settings)

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot copy a controller")
