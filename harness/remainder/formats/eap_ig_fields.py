"""The fields of EAP-IG's files, and the graph that their `cfg` describes.

Fields that are not known are refused by name; those of `cfg` that describe the model are kept.

With grouped queries, is there a key and a value edge for each head, or for each group of heads? The latter if
cfg has n_key_value_heads, or if just these edges are listed; but the former, whatever cfg has, if numbers
beyond those of the groups are listed: a cfg that is copied from a model's config has the field, and EAP-IG
does not heed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remainder.base.files import brief
from remainder.errors import InterpretationError
from remainder.formats.known import Ignore, Table, block, harmless, heeded, plain
from remainder.model.architecture import Architecture, Graph

__all__ = ["AGAIN", "CFG", "ENTRY", "GROUPS", "JSON", "PT", "check_fields", "config", "graph_of"]

AGAIN = "save it with EAP-IG's to_json or to_pt"
GROUPS = "n_key_value_heads"
"""The field of cfg that says that keys and values have an edge a group; TransformerLens' name."""
_GROUP_NAMES = (GROUPS, "num_key_value_heads", "n_kv_heads")
"""Names of that field in other libraries, which get into a cfg that is copied from a model's config."""

CFG = Table(
    {
        "n_layers": heeded("must be that of the task's model", plain),
        "n_heads": heeded("must be that of the task's model", plain),
        "parallel_attn_mlp": heeded("must be that of the task's model", plain),
        "d_model": heeded("must be that of the task's model, if it is there", plain),
        **dict.fromkeys(
            _GROUP_NAMES, heeded("whether keys and values have an edge for each group of heads", plain)
        ),
        **harmless(
            "about the model, which the task has; it is kept",
            "act_fn", "attention_dir", "attn_only", "attn_scale", "d_head", "d_mlp", "d_vocab", "d_vocab_out",
            "default_prepend_bos", "device", "dtype", "eps", "final_rms", "gated_mlp", "init_weights",
            "initializer_range", "model_name", "n_ctx", "n_devices", "n_params", "normalization_type",
            "original_architecture", "positional_embedding_type", "rotary_dim", "seed", "tokenizer_name",
            "use_attn_result", "use_attn_scale", "use_hook_mlp_in", "use_split_qkv_input",
            "ungroup_grouped_query_attention",
        ),
    }
)  # fmt: skip
"""Fields of `cfg`."""

ENTRY = Table(
    {
        "in_graph": heeded("whether it is kept", plain),
        "score": heeded("how large it is; ranks", plain),
    }
)
"""Fields of a node or an edge."""

JSON = Table(
    {
        "cfg": block("the architecture", CFG),
        "nodes": block("flags and scores of nodes, by name", ENTRY),
        "edges": block("flags and scores of edges, by name", ENTRY),
    }
)
"""Fields of a .json file."""

PT = Table(
    {
        "cfg": block("the architecture", CFG),
        "src_nodes": heeded("names of writers, in the order of the tensors", plain),
        "dst_nodes": heeded("names of readers, in the order of the tensors", plain),
        "edges_in_graph": heeded("which edges are kept", plain),
        "nodes_in_graph": heeded("which nodes are kept", plain),
        "edges_scores": heeded("scores of edges, if it is there", plain),
        "nodes_scores": heeded("scores of nodes, if it is there", plain),
    }
)
"""Fields of a .pt file."""


def check_fields(
    content: Mapping[str, Any], what: str, table: Table, optional: set[str], ignore: Ignore, within: str = ""
) -> None:
    """Refuse what is missing and what the table does not have, by name.

    Args:
        content: fields and their values.
        what: they are of, for messages.
        table: of the fields.
        optional: those that may be missing.
        ignore: fields to be passed over.
        within: the block that they lie in, with a dot behind it.
    """
    known = {str(name) for name, line in table.lines.items() if line.how == "heeded"}
    required = known - optional
    missing = sorted(required - content.keys())
    surplus = sorted(
        str(name)
        for name in content
        if not ignore.take(f"{within}{name}", table.lines.get(str(name)), what)
        and str(name) not in table.lines
    )
    if neurons := [name for name in surplus if name.startswith("neurons")]:
        raise InterpretationError(
            f"{what} has {', '.join(neurons)}; circuits of single neurons are not measured here",
            fix="give a circuit of edges or of whole nodes",
        )
    if missing or surplus:
        found = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(surplus)}"] * bool(
            surplus
        )
        raise InterpretationError(
            f"{what} {' and '.join(found)}; expected {', '.join(sorted(known))}",
            fix=AGAIN if missing else f"{AGAIN}; if it changes nothing, --ignore-field {within}{surplus[0]}",
        )


def graph_of(cfg: Any, graph: Graph, listed: set[str], ignore: Ignore) -> tuple[Graph, list[str]]:
    """The file's graph, of the model's architecture, and what is to be said of its groups; see the module.

    Args:
        cfg: as it stands in the file.
        graph: of the task's model.
        listed: readers that the file names.
        ignore: fields to be passed over.
    """
    if not isinstance(cfg, Mapping):
        raise InterpretationError(f"cfg is {cfg!r:.60}", fix=AGAIN)
    shape = graph.architecture
    wanted = config(shape)
    # Older files have no d_model.
    check_fields(cfg, "cfg", CFG, {"d_model", *_GROUP_NAMES}, ignore, "cfg.")
    name = next((name for name in _GROUP_NAMES if cfg.get(name) is not None), GROUPS)
    groups = cfg.get(name)
    other = any(cfg.get(name, value) != value for name, value in wanted.items())
    if other or groups not in (None, shape.groups, shape.heads):
        wanted[name] = shape.groups
        stated = ", ".join(f"{name} = {brief(cfg[name])}" for name in wanted if name in cfg)
        here = ", ".join(f"{name} = {value}" for name, value in wanted.items() if name in cfg)
        raise InterpretationError(
            f"it is of another architecture: cfg says {stated}; the task's model has {here}",
            fix="choose a task of the model that it was made for",
        )
    heads = replace(shape, groups=shape.heads)
    if shape.groups == shape.heads:
        return graph, []
    beyond = sorted(listed & (set(Graph(heads).readers) - set(graph.readers)))
    if groups == shape.groups and beyond:
        return Graph(heads), [
            f"cfg says {name} = {groups}, and keys and values of {shape.heads} heads are listed, such as "
            f"{beyond[-1]}: they were read as edges of heads"
        ]
    if groups == shape.heads and listed == set(graph.readers):
        raise InterpretationError(
            f"cfg says {name} = {groups}, an edge for the key of every head; keys and values of "
            f"{shape.groups} a layer are listed, as of the groups of the task's model",
            fix=f"write {GROUPS} = {shape.groups} into cfg if they are of groups, or list those of all heads",
        )
    by_group = groups == shape.groups or (groups is None and listed == set(graph.readers))
    return (graph if by_group else Graph(heads)), []


def config(shape: Architecture) -> dict[str, Any]:
    """EAP-IG's cfg."""
    return {
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "parallel_attn_mlp": shape.parallel,
        "d_model": shape.width,
    }
