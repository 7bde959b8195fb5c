"""The effect of `center_writing_weights` on the tensors that an SAE of sae-lens was trained on.

TransformerLens takes the mean over the width out of all weights that write to the residual stream, of models
with LayerNorm; the embeddings, what MLP and attention give, and the stream itself then lack their mean. Of a
model with RMSNorm it passes over the setting, and so do we.

Source: https://github.com/TransformerLensOrg/TransformerLens, `weight_processing.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from remainder.errors import InterpretationError
from remainder.formats.places import has_layer_norm, tensor_of
from remainder.formats.saelens_checks import Looked
from remainder.interpretation.protocol import Reads
from remainder.task.spec import ModelSpec, Task

__all__ = ["is_centred", "means_warning"]

# What is written to the residual stream, and that itself: nothing else is centred.
_WRITTEN = ("residual stream", "output of the MLP", "output of the attention")
_WRITTEN_TOO = re.compile(
    r"(?:hook_|pos_|hook_pos_)?embed(?:\.hook_out)?|ln_final\.hook_in|"
    r"blocks\.\d+\.(?:ln1\.hook_in|hook_mlp_in)"
)
_BY_HEADS = re.compile(r"attn\.hook_result$|hook_attn_in$|hook_[qkv]_input$")


def means_warning(looked: Looked, task: Task, reads: Reads, name: str) -> tuple[str, ...]:
    """A warning for a transcoder whose target had its mean over the width taken out in training."""
    target = looked.hooks[-1]
    rebuilds_what_it_reads = len(looked.hooks) == 1 or reads == "out"
    if not looked.centred or rebuilds_what_it_reads or not _is_written(target):
        return ()
    if has_layer_norm(task.model) is not True:
        return ()
    return (
        f"{Path(name).name} was trained on {target} less its mean over the width (center_writing_weights); "
        "here that mean counts as residual.",
    )


def is_centred(looked: Looked, model: ModelSpec, name: str) -> bool:
    """Whether it was trained on a residual stream whose mean over the width had been taken out.

    Raises:
        InterpretationError: if it was so unless the model has RMSNorm, and its norm cannot be told.
    """
    if not looked.centred:
        return False
    layer_norm = has_layer_norm(model)
    if layer_norm is not False and _BY_HEADS.search(looked.hooks[0]):
        raise InterpretationError(
            f"{name}: center_writing_weights is true, and at {looked.hooks[0]} that takes a mean out of each "
            "head's part",
            fix="train it on the model as it is: center_writing_weights: false",
        )
    if not _is_written(looked.hooks[0]):
        return False
    if layer_norm is None:
        raise InterpretationError(
            f"{name}: center_writing_weights is true, which takes a mean out of the residual stream of a "
            f"model with LayerNorm, and not with RMSNorm; which of them {model.name} has cannot be told",
            fix="in the config's model_from_pretrained_kwargs write what was done: false, if it has RMSNorm; "
            "else name the model in [model] of the task as TransformerLens does",
        )
    return layer_norm


def _is_written(hook: str) -> bool:
    """Whether a tensor is what is written to the residual stream, or that itself."""
    return tensor_of(hook).startswith(_WRITTEN) or _WRITTEN_TOO.fullmatch(hook) is not None
