"""dictionary_learning: a folder with `config.json` and `ae.pt`, the state of one of its classes.

1. `config.json`, field `trainer`: dict_class, activation_dim, dict_size, k, layer, lm_name, submodule_name.
2. The place: `submodule_name`, a module of the model (`remainder.model.module_names`), a hook, or free
   words with a layer; without one it is the residual stream leaving block `layer`, which is what the
   library's own scripts train on. It hooks modules, so an MLP or an attention means the module's own output,
   whatever the block does with it afterwards; with `buffer.io` = `in` its input.
3. `ae.pt`, tensors only. An `nn.Linear` keeps its weight as [out in], so matrices are transposed, but for the
   classes that keep W_enc and W_dec themselves.
4. What stands beside the weights must agree with the config: k, and the sizes of groups, which add up to all
   latents.
5. Codes as the class's `encode` gives them by default: top-k a token for AutoEncoderTopK; for BatchTopKSAE
   and MatryoshkaBatchTopKSAE the threshold that training left behind, not the top k of a batch.

Source: https://github.com/saprmarks/dictionary_learning, `dictionary.py`, `trainers/`, `utils.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from remainder.base.files import brief, present
from remainder.errors import InterpretationError
from remainder.formats.coder import Coder, Gated, JumpReLU, TopK, make_coder
from remainder.formats.context import context_warnings
from remainder.formats.fields import AGAIN, text
from remainder.formats.known import (
    Ignore,
    Rest,
    Settings,
    Table,
    block,
    harmless,
    heeded,
    optional_count,
    plain,
)
from remainder.formats.places import (
    HookPlace,
    Loaded,
    check_count,
    check_model,
    check_width,
    place_at,
    place_untold,
)
from remainder.formats.tensors import Layout, missing_weights, read_json, read_torch
from remainder.model.module_names import is_in_block, module_named
from remainder.task.spec import Task

__all__ = ["CONFIG", "FIELDS", "WEIGHTS", "files", "found_in", "load"]

CONFIG, WEIGHTS = "config.json", "ae.pt"

_TRAINER = Table(
    {
        "dict_class": heeded("which class the weights are of", plain),
        "activation_dim": heeded("must be the width of the task's site and of the weights", plain),
        "dict_size": heeded("must be the number of latents of the weights", optional_count),
        "k": heeded(
            "of AutoEncoderTopK the number of active latents; must be that beside the weights", plain
        ),
        "layer": heeded("the block that it is of", plain),
        "submodule_name": heeded("the place in the block", text),
        "lm_name": heeded("must be the task's model", text),
        "group_sizes": heeded("must add up to the number of latents, as all groups are used", plain),
        **harmless("names the trainer; the class is told by dict_class", "trainer_class"),
        **harmless("biases and thresholds were scaled back when the weights were saved", "norm_factor"),
        **harmless("of training: which groups were weighed how", "group_fractions", "group_weights"),
        **harmless(
            "of training alone",
            "anneal_end",
            "anneal_start",
            "auxk_alpha",
            "bandwidth",
            "decay_end",
            "decay_start",
            "device",
            "entropy",
            "initial_p",
            "l1_penalty",
            "l1_penalty_dict",
            "lr",
            "n_sparsity_updates",
            "p_end",
            "p_start",
            "resample_steps",
            "seed",
            "sparsity_coeff",
            "sparsity_function",
            "sparsity_penalty",
            "sparsity_penalty_dict",
            "sparsity_queue_length",
            "sparsity_warmup_steps",
            "steps",
            "target_l0",
            "temperature",
            "threshold_beta",
            "threshold_start_step",
            "top_k_aux",
            "wandb_name",
            "warmup_steps",
        ),
    },
    Rest("told", "of a trainer all but the listed fields is taken to be about training alone"),
)
_BUFFER = Table(
    {
        "io": heeded("whether it was trained on a module's output (out, as if missing) or input (in)", plain),
        "ctx_len": heeded("compared with the task's windows", plain),
        "add_special_tokens": heeded("compared with the task's windows", plain),
        **harmless(
            "how activations were collected",
            "d_submodule",
            "device",
            "layer",
            "n_ctxs",
            "out_batch_size",
            "refresh_batch_size",
            "remove_bos",
        ),
    },
    Rest("harmless", "it describes how activations were collected"),
)
FIELDS = Table(
    {
        "trainer": block("what the class computes, and where it was trained", _TRAINER),
        "buffer": block("which side of the module it was trained on", _BUFFER),
        **harmless("of training alone", "logger", "eval_results", "wandb"),
    }
)
"""Fields of config.json."""

_LINEAR: dict[str, tuple[str | int, ...]] = {
    "encoder.weight": ("dict_size", "activation_dim"),
    "encoder.bias": ("dict_size",),
    "decoder.weight": ("activation_dim", "dict_size"),
}
_OWN: dict[str, tuple[str | int, ...]] = {
    "W_enc": ("activation_dim", "dict_size"),
    "b_enc": ("dict_size",),
    "W_dec": ("dict_size", "activation_dim"),
    "b_dec": ("activation_dim",),
}
_GATED: dict[str, tuple[str | int, ...]] = {
    "encoder.weight": ("dict_size", "activation_dim"),
    "decoder.weight": ("activation_dim", "dict_size"),
    "decoder_bias": ("activation_dim",),
    "r_mag": ("dict_size",),
    "mag_bias": ("dict_size",),
    "gate_bias": ("dict_size",),
}
_BIAS: tuple[str | int, ...] = ("activation_dim",)
_TENSORS: dict[str, dict[str, tuple[str | int, ...]]] = {
    "AutoEncoder": {**_LINEAR, "bias": _BIAS},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": _BIAS},
    "GatedAutoEncoder": _GATED,
    "AutoEncoderTopK": {**_LINEAR, "b_dec": _BIAS},
    "BatchTopKSAE": {**_LINEAR, "b_dec": _BIAS, "threshold": ()},
    "MatryoshkaBatchTopKSAE": {**_OWN, "threshold": ()},
    "JumpReluAutoEncoder": {**_OWN, "threshold": ("dict_size",)},
}
_COUNTERS = {
    "AutoEncoderTopK": frozenset({"k", "threshold"}),
    "BatchTopKSAE": frozenset({"k"}),
    "MatryoshkaBatchTopKSAE": frozenset({"k", "group_sizes"}),
}
"""Tensors beside the weights of a class; a class of top k a token keeps its threshold for other uses."""
_HINT = {"threshold": "a latent is active above it, so codes are not known without; export the SAE again"}
_NO_LAYER = -1  # what the library writes where none was given
_PLACES = (
    (r"resid_pre", "blocks.{}.hook_resid_pre"),
    (r"resid_mid", "blocks.{}.hook_resid_mid"),
    (r"resid", "blocks.{}.hook_resid_post"),
    (r"mlp_in", "blocks.{}.mlp.hook_in"),
    (r"hook_mlp_out", "blocks.{}.hook_mlp_out"),
    (r"mlp", "blocks.{}.mlp.hook_out"),
    (r"head|hook_z", "blocks.{}.attn.hook_z"),
    (r"hook_attn_out", "blocks.{}.hook_attn_out"),
    (r"att", "blocks.{}.attn.hook_out"),
    (r"^layer", "blocks.{}.hook_resid_post"),  # last: `layers.8.mlp` is an MLP
)


def found_in(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return present(path / WEIGHTS) or (
        present(path / CONFIG) and isinstance(read_json(path / CONFIG).get("trainer"), dict)
    )


def files(path: Path) -> list[Path]:
    """Files whose content can change a score; these are hashed."""
    return [path / name for name in (CONFIG, WEIGHTS) if present(path / name)]


def load(path: Path, task: Task, ignore: Ignore | None = None) -> Loaded:
    """The SAE in a folder, for the task's site.

    Args:
        path: of the folder.
        task: whose site and model it must be of.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: naming the file, what was found and what was expected.
    """
    where = path / CONFIG
    config = Settings(read_json(where), FIELDS, where, ignore)
    if not isinstance(config.content.get("trainer"), dict):
        raise InterpretationError(
            f"{where} has no field `trainer`", fix="take the config.json that training wrote beside ae.pt"
        )
    trainer, buffer = config.block("trainer"), config.block("buffer")
    kind = trainer["dict_class"]
    if not isinstance(kind, str) or kind not in _TENSORS:
        raise InterpretationError(
            f"{where}: trainer.dict_class is {brief(kind)}; known are {', '.join(_TENSORS)}",
            fix="convert it to one of these, or score the object: remainder.evaluate(task, dictionary)",
        )
    named = check_model(trainer["lm_name"], task.model, where)
    place = _place(trainer, buffer, task, where)
    check_width(trainer["activation_dim"], task.site, where, "trainer.activation_dim")
    sizes = {"activation_dim": int(trainer["activation_dim"])}
    says = f"{CONFIG} says activation_dim = {sizes['activation_dim']}"
    if "dict_size" in trainer:
        sizes["dict_size"] = trainer["dict_size"]
        says += f", dict_size = {sizes['dict_size']}"
    if not present(path / WEIGHTS):
        raise missing_weights(path, WEIGHTS, "give the folder that training wrote")
    layout = Layout(_TENSORS[kind], sizes, says, hints=_HINT, counters=_COUNTERS.get(kind, frozenset()))
    found = read_torch(path / WEIGHTS, layout)
    coder = _make(kind, found, trainer, path)
    _check_counters(found, trainer, coder.W_enc.shape[1], path / WEIGHTS)
    place = place._replace(warnings=place.warnings + named + trainer.warnings)
    return Loaded(coder, *place)


def _check_counters(found: dict[str, Tensor], trainer: Settings, latents: int, weights: Path) -> None:
    """k and the sizes of groups, in the config and beside the weights."""
    if "k" in trainer and "k" in found and found["k"].tolist() != trainer["k"]:
        raise InterpretationError(
            f"{weights}: k is {found['k'].tolist():g}; {CONFIG} says k = {brief(trainer['k'])}",
            fix="one of the two belongs to something else; take both from one place",
        )
    groups: list[tuple[Path, Any]] = []
    groups += [(weights, found["group_sizes"].tolist())] if "group_sizes" in found else []
    groups += [(Path(trainer.where), trainer["group_sizes"])] if "group_sizes" in trainer else []
    for where, sizes in groups:
        whole = type(sizes) is list and {type(size) for size in sizes} <= {int, float}
        if not whole or sum(sizes) != latents:
            raise InterpretationError(
                f"{where}: group_sizes is {brief(sizes)}; expected sizes that add up to {latents} latents",
                fix="one of the two belongs to something else; take both from one place",
            )


def _make(kind: str, found: dict[str, Tensor], trainer: Settings, path: Path) -> Coder:
    weights = {
        "W_enc": found["W_enc"] if "W_enc" in found else found["encoder.weight"].T,
        "W_dec": found["W_dec"] if "W_dec" in found else found["decoder.weight"].T,
        "b_dec": next(found[name] for name in _BIASES if name in found),
    }
    latents = weights["W_enc"].shape[1]
    weights["b_enc"] = next(
        (found[name] for name in ("b_enc", "encoder.bias") if name in found), torch.zeros(latents)
    )
    activation: nn.Module = nn.ReLU()
    if kind == "GatedAutoEncoder":
        activation = Gated(found["r_mag"], found["mag_bias"], found["gate_bias"])
    elif kind == "AutoEncoderTopK":
        k = trainer["k"] if "k" in trainer else _whole(found.get("k"))
        activation = TopK(check_count(k, latents, path / CONFIG, "trainer.k"))
    elif "threshold" in _TENSORS[kind]:
        if kind != "JumpReluAutoEncoder" and float(found["threshold"]) < 0:
            raise InterpretationError(
                f"{path / WEIGHTS}: threshold is {float(found['threshold'])}: training ended before it was "
                "estimated",
                fix="train past threshold_start_step, or set it to what keeps k latents active on average",
            )
        activation = JumpReLU(found["threshold"])
    return make_coder(weights, activation, centred=kind not in ("JumpReluAutoEncoder", "AutoEncoderNew"))


def _whole(stored: Tensor | None) -> int | float | None:
    """A number beside the weights, whole if it is."""
    if stored is None or stored.numel() != 1:
        return None
    value = float(stored)
    return int(value) if value.is_integer() else value


_BIASES = ("b_dec", "bias", "decoder_bias", "decoder.bias")


def _place(trainer: Settings, buffer: Settings, task: Task, where: Path) -> HookPlace:
    """The place of the task that it belongs to, and warnings about that.

    Raises:
        InterpretationError: if it was made at another place, or one that is not known.
    """
    notes = context_warnings(
        buffer.all(), task, where, length="ctx_len", first="add_special_tokens", within="buffer."
    )
    ends, end = _hooks(trainer, where), "out" if buffer["io"] is None else buffer["io"]
    if end not in ("in", "out"):
        raise InterpretationError(
            f"{where}: buffer.io is {brief(end)}; expected out, or in where a module's input was trained on",
            fix="convert it to sae-lens or sparsify, which know transcoders, or score the object: "
            "remainder.evaluate(task, dictionary)",
        )
    if ends is None:
        place = place_untold(task, where, "neither trainer.submodule_name nor trainer.layer")
    else:
        hook = ends[0] if end == "in" else ends[1]
        place = place_at((hook, hook), task, where)
    return place._replace(warnings=place.warnings + notes)


def _hooks(trainer: Settings, where: Path) -> tuple[str, str] | None:
    """Hooks of what goes into and comes out of the place that a trainer's settings mean; None if they say
    nothing. A hook that is named itself has one end."""
    name: str | None = trainer["submodule_name"]
    layer = _layer(trainer, where)
    hook = re.fullmatch(r"blocks\.(\d+)\..*hook_.+", name or "")
    module = None if name is None or hook is not None else module_named(name)
    own = re.findall(r"layers?_?(\d+)", name or "")
    if hook is not None:
        own = [hook[1]]
    elif module is not None:
        own = [str(module.layer)]
    if layer is not None and own and int(own[-1]) != layer:
        raise InterpretationError(
            f"{where}: trainer.submodule_name is {name}, and trainer.layer {layer}",
            fix="write the block that it was made at into both",
        )
    if name is not None and hook is not None:
        return name, name
    if module is not None:
        return module.reads, module.gives
    if name is not None and is_in_block(name):
        raise _unknown_place(name, where)
    numbers = re.findall(r"\d+", name or "")
    if layer is None:
        if not numbers:
            return None
        layer = int(numbers[-1])
    if name is None:
        return f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post"
    return _by_words(name, layer, where)


def _layer(trainer: Settings, where: Path) -> int | None:
    """The number of a block, if the library was given one."""
    layer = trainer["layer"]
    if layer is None or layer == _NO_LAYER:
        return None
    if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
        raise InterpretationError(
            f"{where}: trainer.layer is {brief(layer)}; expected the number of a block, from 0", fix=AGAIN
        )
    return layer


def _by_words(name: str, layer: int, where: Path) -> tuple[str, str]:
    """Hooks of what goes into and comes out of a place in free words, such as `mlp_out_layer_3`.

    A word that is not known may turn it into another place (`lm_head`, `mlp_gate`), and so may `in` and
    `post` beside a part of the block: `attn_in` may be behind the norm, or the heads' outputs.
    """
    words = set(re.findall(r"[a-z]+", name.lower()))
    part = words & _OF_PARTS
    unclear = (part & _ATTENTION and words & _INWARD) or ("mlp" in words and words & {"post", "pre", "mid"})
    is_residual = bool(words & _RESIDUAL)
    if not words - _WORDS and (is_residual or not unclear):
        for pattern, hook in _PLACES:
            if re.search(pattern, name.lower()):
                return _INPUTS.get(hook, hook).format(layer), hook.format(layer)
    raise _unknown_place(name, where)


def _unknown_place(name: str, where: Path) -> InterpretationError:
    return InterpretationError(
        f"{where}: trainer.submodule_name is {brief(name)}, which names no place that is known",
        fix="write the hook's name there, such as blocks.8.hook_resid_post, or the module's, such as "
        "model.layers.8.mlp",
    )


_ATTENTION = frozenset({"att", "attn", "attention"})
_INWARD = frozenset({"in", "input", "inputs"})
_RESIDUAL = frozenset({"resid", "residual"})
_OF_PARTS = _ATTENTION | {"mlp"}
_WORDS = (
    _OF_PARTS
    | _RESIDUAL
    | _INWARD
    | {"stream", "pre", "mid", "post", "out", "output", "outputs", "layer", "layers", "block", "blocks", "h"}
    | {"head", "heads", "hook", "z"}
)
_INPUTS = {
    "blocks.{}.hook_resid_post": "blocks.{}.hook_resid_pre",
    "blocks.{}.mlp.hook_out": "blocks.{}.mlp.hook_in",
    "blocks.{}.attn.hook_out": "blocks.{}.attn.hook_in",
}
