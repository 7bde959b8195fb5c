"""The fields of SAELens' configs: of version 6, flat ones from before, and of objects with a `cfg`.

1. From version 6 on what is computed stands at the top, with fields of its own for each architecture, and
   `metadata` describes; before, all stands at the top. `sae_lens_version` says which of the two it is.
2. SAELens makes its class of the fields that this has, and drops all others in silence. So everything that
   is no field of the architecture is refused here, but for what only describes. What its class would fill in
   by a default, and computes with, must stand there.
3. An object computes by itself, whatever its `cfg` says: of this only the place and the model are looked at,
   and what is not known is told.

How configs are looked through: `saelens_checks`.

Source: https://github.com/decoderesearch/SAELens, `saes/`, `config.py`,
`loading/pretrained_sae_loaders.py`; of versions 3.12 and 5.10 `sae.py`, `training/training_sae.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remainder.formats.fields import count, flag, number, text
from remainder.formats.known import (
    Line,
    Rest,
    Table,
    block,
    harmless,
    heeded,
    only,
    optional_count,
    plain,
)
from remainder.formats.model_loading import OPTIONS

__all__ = ["ARCHITECTURES", "COMMON", "METADATA", "OBJECT", "RELEASE", "first_of", "table_of"]

_PLACE: dict[str, Line] = {
    "hook_name": heeded("what it reads, and unless it is a transcoder what it rebuilds", text),
    "hook_point": heeded("an older name of hook_name", text),
    "hook_name_out": heeded("what a transcoder rebuilds", text),
    "hook_layer": heeded(
        "the block, where no hook is named: the residual stream leaving it; else compared with the hook",
        plain,
    ),
    "hook_head_index": only("one head of a hook is not a site of a task"),
    "hook_point_layer": heeded("an older name of hook_layer", plain),
    "hook_point_head_index": only("an older name of hook_head_index"),
    "hook_head_index_out": only("one head of a hook is not a site of a task"),
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
"""Fields that tell where it was made, in `metadata` or at the top."""

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
"""Fields of `metadata`. What the top computes with must not say anything else here."""

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
    """The name of a scaling; in old configs, true or false."""
    read = flag if isinstance(content.get(name), bool) else text
    return read(content, name, where, within)


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
"""Fields of every architecture, at the top."""

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
        "tied_weights": heeded("whether the decoder also encodes", flag),
        "activation_normalization_factor": heeded("the scale of constant_scalar_rescale", number),
    },
    "transcoder": _TRANSCODER,
    "skip_transcoder": dict(_TRANSCODER),
    "jumprelu_transcoder": dict(_TRANSCODER),
    "jumprelu_skip_transcoder": dict(_TRANSCODER),
}
"""Fields that an architecture has of its own."""

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
"""Fields of the `cfg` of an object, such as a custom SAE of SAEBench."""


RELEASE: dict[str, Line] = harmless(
    "sae-lens's reader of the release wrote it into the weights", "jump_relu_threshold"
)
"""Fields that only sae-lens's own readers of releases write, beside the rest."""


def table_of(config: Mapping[str, Any]) -> Table:
    """All that a config of its architecture may hold."""
    own = ARCHITECTURES.get(str(config.get("architecture", "standard")), {})
    # Before version 6 top-k ones may be called standard.
    legacy = _TOPK if first_of(config, "activation_fn_str", "activation_fn") == "topk" else {}
    return Table({**COMMON, **own, **{name: _TOPK[name] for name in ("k",) if name in legacy}})


def first_of(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is present."""
    return next((config[name] for name in names if config.get(name) is not None), None)
