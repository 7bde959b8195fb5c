"""Names of modules in models of transformers, and the hooks of TransformerLens' bridge that see the same.

A library that hooks modules itself names the place so: `model.layers.15` (Llama, Qwen, Gemma, OPT),
`transformer.h.15` (GPT-2, GPT-J, Falcon, BLOOM), `gpt_neox.layers.15`, `transformer.blocks.15` (MPT), each
alone or with a part of the block behind it. What stands before the number of the block does not count, but
for a tower of images or sounds and an encoder, whose blocks are not the language model's.

A hook named here is where the module's input or output *is*. Whether a task's site, which has another name,
is the same tensor of its model is asked by `remainder.formats.places`. Norms whose name means another place
in each architecture (`post_attention_layernorm`) are left out on purpose.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Module", "is_in_block", "module_named"]


class Module(NamedTuple):
    """The hooks of a module's two ends."""

    layer: int
    reads: str
    """Hook of what it is given."""
    gives: str
    """Hook of what it returns."""


_BLOCK = re.compile(r"(?P<before>.*[._])?(?:layers|h|blocks)[._](?P<layer>\d+)(?:\.(?P<part>.+))?")
_OF_OTHERS = re.compile(r"encoder|vision|visual|image|audio|speech", re.IGNORECASE)
# `mlp_out_layers_3` is free words on a part of the block, and no path to the block itself.
_WORDS = re.compile(r"mlp|att|resid|norm|embed|head", re.IGNORECASE)
_PARTS: tuple[tuple[str, str, str], ...] = (
    (r"", "hook_resid_pre", "hook_resid_post"),
    (r"mlp|ffn|feed_forward|block_sparse_moe", "mlp.hook_in", "mlp.hook_out"),
    (
        r"mlp\.(?:down_proj|c_proj|dense_4h_to_h|fc_out|fc2)|ffn\.down_proj|fc2",
        "mlp.out.hook_in",
        "mlp.out.hook_out",
    ),
    (r"self_attn|self_attention|attention|attn|attn\.attention", "attn.hook_in", "attn.hook_out"),
    (
        r"(?:self_attn|self_attention|attention|attn|attn\.attention)\.(?:o_proj|out_proj|c_proj|dense)",
        "attn.o.hook_in",
        "attn.o.hook_out",
    ),
    (r"input_layernorm|ln_1", "ln1.hook_in", "ln1.hook_out"),
    (r"pre_feedforward_layernorm|ln_2", "ln2.hook_in", "ln2.hook_out"),
    # What such a norm gives is what is added to the residual stream.
    (r"post_feedforward_layernorm", "ln2_post.hook_in", "hook_mlp_out"),
)


def module_named(name: str) -> Module | None:
    """The module that a name means; None if it names neither a block nor a known part of one.

    Hooks of TransformerLens (`blocks.3.hook_resid_pre`) are no names of modules.
    """
    found = _path(name)
    if found is None or _OF_OTHERS.search(found["before"] or ""):
        return None
    layer = int(found["layer"])
    for pattern, reads, gives in _PARTS:
        if re.fullmatch(pattern, found["part"] or ""):
            return Module(layer, f"blocks.{layer}.{reads}", f"blocks.{layer}.{gives}")
    return None


def hook_of(name: str) -> str:
    """The hook of what a module gives, if `name` means one that is known, else `name` itself."""
    module = module_named(name)
    return name if module is None else module.gives


def is_in_block(name: str) -> bool:
    """Whether a name is a path to a module in a block, known to `module_named` or not."""
    return _path(name) is not None


def _path(name: str) -> re.Match[str] | None:
    found = _BLOCK.fullmatch(re.sub(r"\[(\d+)\]", r".\1", name).strip("."))
    return None if found is None or _WORDS.search(found["before"] or "") else found
