"""Options of loading a model, and what they do to its tensors: `model_from_pretrained_kwargs`.

SAELens trains on `HookedTransformer.from_pretrained_no_processing(model_name, **options)`; a task's model is
not processed either, so an option that is off changes nothing. One that is on changes the tensors named here,
and leaves all others as they are:

1. center_writing_weights takes the mean over the width out of what is written to the residual stream, of a
   model with LayerNorm: computed by the reader.
2. fold_ln moves the gain of a norm into the matrices behind it: another tensor right behind the norms.
3. fold_value_biases moves b_V into the output's bias: heads' values and their weighted sums lack it.
4. refactor_factored_attn_matrices rotates queries, keys, values and what heads give.
5. center_unembed shifts logits.
6. A revision or checkpoint has other weights.

Source: https://github.com/TransformerLensOrg/TransformerLens, `HookedTransformer.from_pretrained`,
`weight_processing.py`; https://github.com/decoderesearch/SAELens, `load_model.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from remainder.formats.fields import flag
from remainder.formats.known import Settings, Table, harmless, heeded, only, plain
from remainder.task.spec import ModelSpec

__all__ = ["OPTIONS", "check_options"]

OPTIONS = Table(
    {
        "center_writing_weights": heeded(
            "the mean over the width is taken out, of a model with LayerNorm, and added past the codes", flag
        ),
        "fold_ln": heeded("refused at what leaves a norm; no other tensor moves", flag, ignorable=True),
        "fold_value_biases": heeded(
            "refused at heads' values and outputs (hook_v, hook_z); no other tensor moves",
            flag,
            ignorable=True,
        ),
        "refactor_factored_attn_matrices": heeded(
            "refused inside attention; no other tensor moves", flag, ignorable=True
        ),
        "center_unembed": heeded("refused at the logits; no other tensor moves", flag, ignorable=True),
        "revision": heeded("must be the revision of the task's model, or main", plain, ignorable=True),
        "checkpoint_index": only("another checkpoint has other weights"),
        "checkpoint_value": only("another checkpoint has other weights"),
        "checkpoint_label": only("another checkpoint has other weights"),
        "load_in_8bit": only("quantised weights give other activations", False),
        "load_in_4bit": only("quantised weights give other activations", False),
        "quantization_config": only("quantised weights give other activations"),
        **harmless("how long texts may be; the tensors of a shorter one stay", "n_ctx"),
        "first_n_layers": heeded(
            "refused behind the last block; no tensor of a block moves", plain, ignorable=True
        ),
        **harmless("of generation; SAELens tokenises by prepend_bos", "default_prepend_bos"),
        **harmless("of generation", "default_padding_side", "use_cache"),
        **harmless("how precise the model was in training", "dtype", "torch_dtype"),
        **harmless("where the model lay", "device", "device_map", "n_devices", "move_to_device",
                   "low_cpu_mem_usage", "max_memory", "offload_folder"),
        **harmless("how it was fetched", "cache_dir", "force_download", "local_files_only", "token",
                   "trust_remote_code", "use_auth_token", "use_safetensors"),
        **harmless("which code computes attention", "attn_implementation"),
    }
)  # fmt: skip
"""Fields of `model_from_pretrained_kwargs`."""

_BEHIND_NORMS = r"hook_normalized|(?:ln\w*\.|^ln_final\.)hook_out|mlp\.hook_in|attn\.hook_in|unembed\.hook_in"
_MOVED = {
    "fold_ln": (_BEHIND_NORMS, "with it, what leaves a norm has not been multiplied by the norm's weight"),
    "fold_value_biases": (
        r"attn\.(?:hook_v|v\.hook_out|hook_z|o\.hook_in|hook_result)$",
        "with it, heads' values lack the model's value bias, which they have here",
    ),
    "refactor_factored_attn_matrices": (
        r"attn\.(?:hook_(?:rot_)?[qkvz]|[qkv]\.hook_out|o\.hook_in|hook_result)$",
        "with it, queries, keys, values and what heads give are rotated",
    ),
    "first_n_layers": (r"^ln_final|^unembed|logits", "with it, the blocks above are left out"),
    "center_unembed": (r"^unembed|logits", "with it, the mean over all words is taken out of the logits"),
}


def check_options(options: Settings, hooks: Iterable[str], model: ModelSpec) -> None:
    """Refuse options under which the model had other tensors at these hooks than the task's model has.

    Args:
        options: of the SAE's config.
        hooks: what it reads, and what it rebuilds.
        model: of the task.

    Raises:
        InterpretationError: naming the option.
    """
    values = options.all()
    for name, (pattern, why) in _MOVED.items():
        moved = [hook for hook in hooks if re.search(pattern, hook)]
        if values.get(name) and moved:
            raise options.refuse(name, f"{why} (at {moved[0]})")
    revision = values.get("revision")
    if revision not in (None, "main", model.revision):
        raise options.refuse(
            "revision",
            f"the task's model is of revision {model.revision or 'main'}, whose weights may differ",
        )
