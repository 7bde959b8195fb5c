"""The fields of SAELens' configs: of version 6, flat ones from before, and of objects with a `cfg`.

1. From version 6 on what is computed stands at the top, with fields of its own for each architecture, and
   `metadata` describes; before, all stands at the top. Which it is, is told by `sae_lens_version`.
2. SAELens makes its class of the fields that this has, and drops all others in silence. So everything that
   is no field of the architecture is refused here, but for what only describes. What its class would fill in
   by a default, and computes with, must stand there.
3. Where before version 6 `activation_fn_str` is topk, SAELens takes k from `activation_fn_kwargs`; it knows
   no tanh-relu any more, which is computed here.
4. An object computes by itself, whatever its `cfg` says: of this only the place and the model are looked at,
   and what is not known is told.

Source: https://github.com/decoderesearch/SAELens, `saes/`, `config.py`,
`loading/pretrained_sae_loaders.py`; of versions 3.12 and 5.10 `sae.py`, `training/training_sae.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from remainder.base.files import brief
from remainder.errors import InterpretationError
from remainder.formats.fields import AGAIN, count, file_name, flag, text
from remainder.formats.known import (
    Ignore,
    Line,
    Rest,
    Settings,
    Table,
    block,
    harmless,
    heeded,
    number,
    only,
    optional_count,
    plain,
)
from remainder.formats.model_loading import OPTIONS, check_options
from remainder.formats.module_names import module_named
from remainder.task.spec import Site, Task

__all__ = [
    "ARCHITECTURES",
    "COMMON",
    "METADATA",
    "OBJECT",
    "RELEASE",
    "Looked",
    "TanhReLU",
    "look",
    "table_of",
]

_PLACE: dict[str, Line] = {
    "hook_name": heeded("what it reads, and unless it is a transcoder what it rebuilds", text),
    "hook_point": heeded("an older name of hook_name", text),
    "hook_name_out": heeded("what a transcoder rebuilds", text),
    "hook_layer": heeded(
        "the block, where no hook is named: the residual stream leaving it; else compared with the hook",
        plain,
    ),
    "hook_head_index": only("one head of a hook is no site of a task"),
    "hook_point_layer": heeded("an older name of hook_layer", plain),
    "hook_point_head_index": only("an older name of hook_head_index"),
    "hook_head_index_out": only("one head of a hook is no site of a task"),
    "model_name": heeded("must be the task's model", text),
    "model_class_name": only(
        "hooks of another kind of model are others", "HookedTransformer", "AutoModelForCausalLM",
        "TransformerBridge", "SAETransformerBridge",
    ),
    "model_from_pretrained_kwargs": block("how the model was processed on loading", OPTIONS),
    "prepend_bos": heeded("compared with the task's windows", plain),
    "context_size": heeded("compared with the task's windows", plain),
    "seqpos_slice": heeded("compared with the task's positions", plain),
    "sae_lens_version": heeded("tells whether the config is of version 6, or from before", text),
}  # fmt: skip
"""Where it was made, in `metadata` or at the top."""

METADATA = Table(
    {
        **_PLACE,
        **harmless("the same place in the words of transformers", "hf_hook_name", "hf_hook_name_out"),
        **harmless(
            "about texts and training", "dataset_path", "dataset_trust_remote_code",
            "disable_concat_sequences", "exclude_special_tokens", "neuronpedia_id",
            "sae_lens_training_version", "sequence_separator_token", "training_architecture",
            "training_architecture_details",
        ),
    },
    Rest("harmless", "it describes, and SAELens computes with nothing in it"),
)  # fmt: skip
"""Of `metadata`. What the top computes with must not say anything else here."""

_TRAINING = (
    "act_store_device", "adam_beta1", "adam_beta2", "architecture_details", "autocast", "autocast_lm",
    "autocast_sae", "aux_loss_coefficient", "b_dec_init_method", "cached_activations_path", "checkpoint_path",
    "compile_llm", "compile_sae", "data_column", "dataset_path", "dataset_trust_remote_code",
    "dead_feature_threshold", "dead_feature_window", "decoder_heuristic_init", "decoder_heuristic_init_norm",
    "decoder_init_norm", "decoder_orthogonal_init", "disable_concat_sequences", "eval_batch_size_prompts",
    "eval_every_n_wandb_logs", "exclude_special_tokens", "expansion_factor", "feature_sampling_window",
    "finetuning_method", "finetuning_tokens", "from_pretrained_path", "hf_hook_name", "hf_hook_name_out",
    "hook_eval", "hook_point_eval", "init_encoder_as_decoder_transpose", "is_dataset_tokenized",
    "jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode", "jumprelu_ste_to_input",
    "jumprelu_tanh_scale", "l0_coefficient", "l0_warm_up_steps", "l1_coefficient", "l1_warm_up_steps",
    "llm_compilation_mode", "log_activations_store_to_wandb", "log_optimizer_state_to_wandb", "log_to_wandb",
    "logger", "lp_norm", "lr", "lr_decay_steps", "lr_end", "lr_scheduler_name", "lr_warm_up_steps",
    "mse_loss_normalization", "n_batches_in_buffer", "n_checkpoints", "n_eval_batches", "n_restart_cycles",
    "name", "neuronpedia_id", "noise_scale", "normalize_sae_decoder", "pre_act_loss_coefficient", "resume",
    "run_name", "sae_compilation_mode", "sae_lens_training_version", "scale_sparsity_penalty_by_decoder_norm",
    "seed", "sparsity_penalty", "store_batch_size", "store_batch_size_prompts", "streaming", "target_l0",
    "tokens_per_buffer", "total_training_steps", "total_training_tokens", "train_batch_size",
    "train_batch_size_tokens", "training_tokens", "unique_id", "use_cached_activations", "use_ghost_grads",
    "use_sparse_activations", "verbose", "wandb_entity", "wandb_id", "wandb_log_frequency", "wandb_project",
)  # fmt: skip
"""Flat configs of a training run have these, and checkpoints of version 6."""


def _scaling(content: Mapping[str, Any], name: str, where: Path | str, within: str) -> str | bool | None:
    """Its name; of old configs true or false."""
    return (
        flag(content, name, where, within)
        if isinstance(content.get(name), bool)
        else text(content, name, where, within)
    )


COMMON: dict[str, Line] = {
    "architecture": heeded("which of SAELens' classes computes it", text),
    "d_in": heeded("must be the width of the task's site and of the weights", plain),
    "d_sae": heeded("must be the number of latents of the weights", count),
    "apply_b_dec_to_input": heeded("whether b_dec is subtracted before encoding", flag),
    "normalize_activations": heeded("how activations are scaled before encoding", _scaling),
    "reshape_activations": only("heads come one behind the other in any case", "none", "hook_z"),
    "activation_fn_str": heeded("relu, tanh-relu or topk, before version 6", text, ignorable=True),
    "activation_fn": heeded("an older name of activation_fn_str", text, ignorable=True),
    "activation_fn_kwargs": block(
        "settings of the activation, before version 6",
        Table(
            {
                "k": heeded("the number of active latents of topk", optional_count, ignorable=True),
                "signed": only("what is below zero is not active", False),
            }
        ),
    ),
    "finetuning_scaling_factor": heeded("whether codes are scaled by a tensor of the weights", flag),
    "metadata": block("where it was made; it describes", METADATA),
    **_PLACE,
    **harmless("weights are read as float32", "dtype"),
    **harmless("where it lay", "device"),
    **harmless("of training alone", *_TRAINING),
    "model_kwargs": only("options of the model's forward pass may change its tensors", {}),
}
"""Of every architecture, at the top."""

_TRANSCODER: dict[str, Line] = {"d_out": heeded("must be the width of what the task replaces", plain)}
_TOPK: dict[str, Line] = {
    "k": heeded("the number of active latents", optional_count),
    "rescale_acts_by_decoder_norm": heeded(
        "whether latents compete by their size times their decoder's", flag
    ),
}
ARCHITECTURES: dict[str, dict[str, Line]] = {
    "standard": {},
    "gated": {},
    "topk": _TOPK,
    "abstopk": dict(_TOPK),
    "jumprelu": {},
    "matching_pursuit": {
        "residual_threshold": heeded("where pursuit ends", number),
        "max_iterations": heeded("the most latents that are pursued", optional_count),
        "stop_on_duplicate_support": heeded("whether pursuit ends at a latent that it has", flag),
    },
    "temporal": {
        "n_heads": heeded("of its attention", count),
        "n_attn_layers": heeded("of its attention", count),
        "bottleneck_factor": heeded("of its attention", count),
        "sae_diff_type": only("which of SAELens' two ways there are to code what is new", "topk", "relu"),
        "kval_topk": heeded("the number of active latents of what is new", optional_count),
        "tied_weights": heeded("whether the decoder encodes, too", flag),
        "activation_normalization_factor": heeded("the scale of constant_scalar_rescale", number),
    },
    "transcoder": _TRANSCODER,
    "skip_transcoder": dict(_TRANSCODER),
    "jumprelu_transcoder": dict(_TRANSCODER),
    "jumprelu_skip_transcoder": dict(_TRANSCODER),
}
"""What an architecture has of its own."""

_TRAINED = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu"}
"""Architectures that SAELens has in training alone, and as what it saves them at its end."""

_REQUIRED = {
    "topk": ("k",),
    "abstopk": ("k",),
    "temporal": (
        "n_heads",
        "n_attn_layers",
        "bottleneck_factor",
        "sae_diff_type",
        "kval_topk",
        "tied_weights",
    ),
    "matching_pursuit": ("residual_threshold", "max_iterations"),
}

OBJECT = Table(
    {
        "d_in": COMMON["d_in"],
        "d_sae": heeded("must be the number of latents of W_dec, if it has one", plain),
        "d_out": _TRANSCODER["d_out"],
        "metadata": COMMON["metadata"],
        **_PLACE,
        **harmless(
            "the object itself computes it", "activation_fn", "activation_fn_kwargs", "activation_fn_str",
            "apply_b_dec_to_input", "architecture", "device", "dtype", "finetuning_scaling_factor",
            "normalize_activations", "reshape_activations", "k", "topk_threshold_lr", "use_error_term",
            "matryoshka_widths", "use_matryoshka_aux_loss", "model_kwargs", *_TRAINING,
            *(name for own in ARCHITECTURES.values() for name in own if name != "d_out"),
        ),
    },
    Rest("told", "the object is asked to encode and decode as it is"),
)  # fmt: skip
"""Of the `cfg` of an object, such as a custom SAE of SAEBench."""


RELEASE: dict[str, Line] = harmless(
    "sae-lens's reader of the release wrote it into the weights", "jump_relu_threshold"
)
"""What only sae-lens's own readers of releases say, beside the rest."""


class Looked(NamedTuple):
    """What a config says beyond what SAELens makes of it."""

    activation: nn.Module | None
    """In place of the class's own."""
    centred: bool
    """Whether the model's writing weights were centred, if it has LayerNorm."""
    hooks: tuple[str, ...]
    """What it reads and rebuilds, as far as it is told; else what the site does."""
    warnings: tuple[str, ...]


class TanhReLU(nn.Module):
    """tanh(ReLU(h))."""

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return torch.tanh(torch.relu(h))


def table_of(config: Mapping[str, Any]) -> Table:
    """All that a config of its architecture may hold."""
    own = ARCHITECTURES.get(str(config.get("architecture", "standard")), {})
    # Before version 6 top-k ones may be called standard.
    legacy = _TOPK if _first(config, "activation_fn_str", "activation_fn") == "topk" else {}
    return Table({**COMMON, **own, **{name: _TOPK[name] for name in ("k",) if name in legacy}})


def look(
    config: Mapping[str, Any],
    task: Task,
    where: Path | str,
    ignore: Ignore | None = None,
    *,
    is_object: bool = False,
    is_release: bool = False,
) -> Looked:
    """Look through a config, as this module's text says.

    Args:
        config: as it stands in the file, or the fields of an object's `cfg`.
        task: whose site and model it must be of.
        where: it is from, for messages.
        ignore: fields to be passed over.
        is_object: whether an object computes, and not SAELens by these fields.
        is_release: whether sae-lens's reader of a release made it, of files that this reader does not see.

    Raises:
        InterpretationError: a field is not known, has a value that is not computed, or two do not agree.
    """
    if not is_object:
        _check_architecture(config, where)
    table = OBJECT if is_object else table_of(config)
    if is_release:
        table = Table({**table.lines, **RELEASE})
    settings = Settings(config, table, where, ignore)
    metadata = settings.block("metadata")
    settings.all()
    metadata.all()
    _check_twins(settings, metadata)
    _check_older_names(settings, metadata)
    hooks = _hooks(settings, metadata, task.site)
    centred = False
    for owner in (settings, metadata):
        options = owner.block("model_from_pretrained_kwargs")
        check_options(options, hooks, task.model)
        centred = centred or bool(options["center_writing_weights"])
    activation = None
    if not is_object:
        _require(settings)
        if settings["reshape_activations"] == "hook_z" and not any(hook.endswith("_z") for hook in hooks):
            raise settings.refuse(
                "reshape_activations", f"SAELens does that at hook_z, and this is {hooks[0]}"
            )
        activation = _activation(settings)
    told = (*settings.warnings, *metadata.warnings, *_layer_warning(settings, metadata))
    return Looked(activation, centred, hooks, told)


def _check_architecture(config: Mapping[str, Any], where: Path | str) -> None:
    """Refuse a checkpoint of training whose class computes otherwise than what SAELens saves in the end.

    Without it, its fields would be refused one by one, as ones of another architecture.
    """
    saved = _TRAINED.get(str(config.get("architecture")))
    if saved is not None:
        raise InterpretationError(
            f"{where}: architecture is {config['architecture']}, a checkpoint of training; SAELens saves it "
            f"as {saved} when training ends",
            fix="save it so: sae_lens.TrainingSAE.load_from_disk(FOLDER).save_inference_model(OTHER_FOLDER), "
            "and give that folder, with the activation_scaler.json of the first if it has one",
        )


def _require(settings: Settings) -> None:
    """What SAELens would fill in by a default of its class, and computes with, must stand there."""
    architecture = settings["architecture"] or "standard"
    wanted = _REQUIRED.get(architecture, ())
    if settings["normalize_activations"] == "constant_scalar_rescale":
        wanted = (*wanted, "activation_normalization_factor")
    for name in wanted:
        is_elsewhere = name == "k" and "k" in settings.block("activation_fn_kwargs")
        if is_elsewhere and not _is_of_version_6(settings):
            continue
        if name not in settings.content:
            raise InterpretationError(
                f"{settings.where}: {name} is missing, which the architecture {architecture} computes with"
                + (": from version 6 on SAELens does not look into activation_fn_kwargs" * is_elsewhere),
                fix="write k at the top, as training had it" if is_elsewhere else AGAIN,
            )


def _check_twins(settings: Settings, metadata: Settings) -> None:
    """What the top computes with, and what stands there of the place, is not said otherwise in `metadata`."""
    for name, line in settings.table.lines.items():
        if line.how == "harmless" or name not in settings.content or name == "sae_lens_version":
            continue
        here, there = settings.content[name], metadata.content.get(name)
        if there is not None and here is not None and here != there:
            raise InterpretationError(
                f"{settings.where}: {name} is {brief(here)}, and metadata.{name} {brief(there)}",
                fix="one of the two belongs to something else; take the config that training wrote",
            )
    if settings.table is OBJECT:
        return
    computing = {name for name, line in settings.table.lines.items() if line.how == "heeded"}
    for name in sorted(
        (computing - METADATA.lines.keys()) & metadata.content.keys() - settings.content.keys()
    ):
        raise metadata.refuse(name, f"SAELens computes with {name} at the top, and it does not stand there")


_OLDER = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
}


def _check_older_names(settings: Settings, metadata: Settings) -> None:
    """A field and its older name do not say two things."""
    fields = {**settings.content, **metadata.content}
    for older, name in _OLDER.items():
        if fields.get(older) is not None and fields.get(name) not in (None, fields[older]):
            raise InterpretationError(
                f"{settings.where}: {name} is {brief(fields[name])}, and {older}, its older name, "
                f"{brief(fields[older])}",
                fix="one of the two belongs to something else; take the config that training wrote",
            )


def _layer_warning(settings: Settings, metadata: Settings) -> tuple[str, ...]:
    """Where the number of the block is not that in the hook's name, which counts."""
    fields = {**settings.content, **metadata.content}
    hook = _first(fields, "hook_name", "hook_point")
    name = next((one for one in ("hook_layer", "hook_point_layer") if fields.get(one) is not None), None)
    if name is None or not isinstance(hook, str):
        return ()
    module = module_named(hook)
    block = re.match(r"blocks\.(\d+)\.", hook if module is None else module.gives)
    if block is None or fields[name] == int(block[1]):
        return ()
    return (
        f"{file_name(settings.where)}: {name} is {brief(fields[name])}, and the hook is {hook}; this counts.",
    )


def _hooks(settings: Settings, metadata: Settings, site: Site) -> tuple[str, ...]:
    """What it reads and rebuilds; where that is not told, what the task does."""
    named = [
        found
        for name in ("hook_name", "hook_point", "hook_name_out")
        for found in (metadata.content.get(name), settings.content.get(name))
        if isinstance(found, str)
    ]
    modules = [module_named(name) for name in named]
    named = [name if module is None else module.gives for name, module in zip(named, modules, strict=True)]
    return tuple(dict.fromkeys(named)) or (site.hook_in, site.hook_out)


def _activation(settings: Settings) -> nn.Module | None:
    """What `activation_fn_str` asks for, where the class of the architecture computes something else.

    Raises:
        InterpretationError: it cannot be computed, or does not fit the architecture.
    """
    name = "activation_fn" if "activation_fn" in settings else "activation_fn_str"
    both = {settings[each] for each in ("activation_fn", "activation_fn_str") if each in settings}
    if len(both) > 1:
        raise settings.refuse("activation_fn", f"activation_fn_str is {settings['activation_fn_str']}")
    kind = settings[name]
    kwargs = settings.block("activation_fn_kwargs")
    kwargs.all()
    k, architecture = kwargs["k"], settings["architecture"] or "standard"
    if kind == "topk" or (kind is None and architecture in ("topk", "abstopk")):
        _check_k(settings, kwargs, name, architecture)
        return None
    if k is not None:
        raise kwargs.refuse("k", f"it is of topk, and {name} is {brief(kind)}")
    if kind == "relu" and architecture in ("topk", "abstopk"):
        raise settings.refuse(name, f"architecture is {architecture}")
    if kind in (None, "relu"):
        return None
    if kind == "tanh-relu" and architecture == "standard":
        return TanhReLU()
    raise settings.refuse(name, "computed are relu, and of the architecture standard tanh-relu and topk")


def _check_k(settings: Settings, kwargs: Settings, name: str, architecture: str) -> None:
    """The k of a top-k SAE stands at one place, or at two that agree; SAELens must take it from there."""
    k, own = kwargs["k"], settings.content.get("k")
    if architecture not in ("standard", "topk", "abstopk"):
        raise settings.refuse(name, f"architecture is {architecture}")
    if settings.content.get(name) == "topk" and architecture == "standard" and k is None:
        raise InterpretationError(
            f"{settings.where}: {name} is topk, and activation_fn_kwargs has no k: how many latents are "
            "active is not told",
            fix='write it as training had it: "activation_fn_kwargs": {"k": 32}',
        )
    if k is not None and own is not None and k != own:
        raise kwargs.refuse("k", f"k is {brief(own)}")
    if settings.content.get(name) == "topk" and architecture == "standard" and _is_of_version_6(settings):
        raise settings.refuse(name, "from version 6 on that is the architecture topk, and SAELens reads ReLU")


def _is_of_version_6(settings: Settings) -> bool:
    """As SAELens tells it."""
    said = settings["sae_lens_version"] or settings.block("metadata")["sae_lens_version"]
    head = str(said or "0").split(".")[0]
    if not head.isdigit():
        raise InterpretationError(
            f"{settings.where}: sae_lens_version is {brief(said)}; expected a version such as 6.0.0",
            fix=AGAIN,
        )
    return int(head) >= 6


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is there."""
    return next((config[name] for name in names if config.get(name) is not None), None)
