"""circuit-tracer: an attribution graph, as its frontend has it (JSON), read as a circuit of features.

1. Nodes are features of transcoders, their errors, tokens and logits, each at a position; a link says how
   much its source adds directly to its target; links of 0 are dropped (an export without pruning has all
   pairs). Every other goes from an earlier layer to a later one, and not to an earlier position, so there is
   no cycle.
2. `FeatureGraph.pinned` and `.pruned` choose nodes: those that a person pinned, or those that account for a
   share of all influence.
3. `FeatureGraph.features` and `.errors` say what is kept where, for a run with everything else replaced.
4. `FeatureGraph.scores` are circuit-tracer's own, of the links alone, without a pass of the model. With A the
   sizes of the links, each target's divided by their sum, and w the logits' probabilities:
   influence I = Σₙ w Aⁿ; replacement = I_tokens / (I_tokens + I_errors);
   completeness = Σᵢ (1 − Σ_errors Aᵢ)(Iᵢ + wᵢ) / Σᵢ (Iᵢ + wᵢ).
   These are of the graph in the file, which circuit-tracer has mostly pruned; its own are of the whole one.

5. Neuronpedia's schema allows more than circuit-tracer writes, and what is not needed here is not required:
   of qParams nothing, of metadata `scan` and `prompt_tokens`. A number or a position that stands in a node's
   id may be missing beside it. A pinned id that is no node's is said, and refused if pinned nodes are asked
   for.
6. Two nodes that share an id (`_told_apart`) are both read, but which of them a link means is not known: such
   links are left out, and what would rest on links is refused.

Source: https://github.com/safety-research/circuit-tracer, `frontend/graph_models.py`, `graph.py`
(`compute_graph_scores`, `find_threshold`), `utils/create_graph_files.py`;
https://github.com/hijohnnylin/neuronpedia, `apps/webapp/app/api/graph/graph-schema.json`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from remainder.base.files import LARGEST, brief
from remainder.circuit.feature_graph import FeatureGraph, FeatureNode, Kind
from remainder.errors import InterpretationError
from remainder.formats.known import Rest, Table, block, harmless, heeded, plain
from remainder.formats.places import check_model
from remainder.formats.recognition import look
from remainder.formats.tensors import read_json
from remainder.task.spec import ModelSpec

__all__ = [
    "FIELDS",
    "LINK",
    "NODE",
    "files",
    "found_in",
    "load",
]

_KINDS: dict[str, Kind] = {
    "cross layer transcoder": "feature",  # also written of transcoders of a single layer
    "mlp reconstruction error": "error",
    "embedding": "token",
    "logit": "logit",
}
NODE = Table(
    {
        "node_id": heeded("its name, with layer, number and position", plain),
        "feature": heeded("its number, of a logit", plain),
        "layer": heeded("the block", plain),
        "ctx_idx": heeded("the position", plain),
        "feature_type": heeded("feature, error, token or logit", plain),
        "token_prob": heeded("probability of a logit", plain),
        "activation": heeded("kept beside it", plain),
        "influence": heeded("by which shares are taken", plain),
        **harmless(
            "for the viewer", "active_feature_idx", "clerp", "ctx_from_end", "featureDetailsJSON",
            "featureExplanations", "featureId", "featureIndex", "inputAbsSum", "inputAbsSumExternalSn",
            "inputError", "isError", "isFeature", "isLogit", "isSuperNode", "isTargetLogit",
            "is_target_logit", "jsNodeId", "layerLocationLabel", "localClerp", "logitPct", "logitToken",
            "memberNodeIds", "memberNodes", "memberSet", "nodeColor", "nodeId", "nodeIndex", "pctInputError",
            "pos", "ppClerp", "ppLayer", "remoteClerp", "reverse_ctx_idx", "run_idx", "sgSnInputWeighting",
            "sourceLinks", "streamIdx", "supernodeId", "targetLinks", "tmpClickedLink",
            "tmpClickedSourceLink", "tmpClickedTargetLink", "token", "topk_logits", "topk_logits_neg",
            "topk_logits_pos", "url", "vis_link", "visLink", "xOffset", "yOffset",
        ),
    },
    Rest("told", "nodes are read without it"),
)  # fmt: skip
"""Fields of a node."""

LINK = Table(
    {
        "source": heeded("the node that adds to the other", plain),
        "target": heeded("the node that is added to", plain),
        "weight": heeded("how much of the target is from the source", plain),
        **harmless("for the viewer", "absWeight", "color", "pctInput", "pctInputColor", "sourceNode",
                   "strokeWidth", "targetNode", "tmpClickedCtxOffset", "tmpClickedLink", "tmpColor"),
    },
    Rest("told", "links are read without it"),
)  # fmt: skip
"""Fields of a link."""

FIELDS = Table(
    {
        "metadata": block(
            "model, prompt and tokens",
            Table(
                {
                    "scan": heeded("must be the task's model, unless it names transcoders", plain),
                    "prompt_tokens": heeded("one a position", plain),
                    "prompt": heeded("kept beside it", plain),
                },
                Rest("harmless", "it describes how the graph was made and cut"),
            ),
        ),
        "qParams": block(
            "what a person chose in the viewer",
            Table(
                {"pinnedIds": heeded("nodes that a person pinned", plain)},
                Rest("harmless", "it describes what the viewer shows"),
            ),
        ),
        "nodes": block("a list of nodes", NODE),
        "links": block("a list of links", LINK),
    },
    Rest("told", "the graph is read without it"),
)
"""Fields of a graph."""


def found_in(path: Path) -> bool:
    """Whether `path` is a file of this kind, sound or not."""
    return path.is_file() and look(path).format == "feature-graph"


def files(path: Path) -> list[Path]:
    """Files whose content can change a score: the graph, or all graphs of a folder."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def load(path: Path, model: ModelSpec, layers: int) -> FeatureGraph:
    """The graph in a file, of the task's model.

    Args:
        path: JSON.
        model: of the task.
        layers: its number of blocks.

    Raises:
        InterpretationError: naming the file and the node or link, what was found and what was expected; or it
            is of another model.
    """
    seen = look(path)
    if seen.format == "eap-ig":
        raise InterpretationError(
            f"{path} is a circuit of heads and MLPs in EAP-IG's layout; expected a graph of features",
            fix='name it in a submission.toml of the format "eap-ig"',
        )
    if seen.format is None and (seen.is_known or seen.form != "JSON"):
        raise seen.refused(path)
    content = read_json(path, most=LARGEST, nan=True)
    try:
        return _read(content, path, model, layers)
    except InterpretationError as problem:
        raise type(problem)(f"{path}: {problem.what.removeprefix(f'{path}: ')}", fix=problem.fix) from None


def _read(content: dict[str, Any], path: Path, model: ModelSpec, layers: int) -> FeatureGraph:
    if not isinstance(content.get("metadata"), dict):
        raise InterpretationError(
            "it has no metadata, which say of which prompt and model it is",
            fix="export it with circuit-tracer's create_graph_files, or download it whole from Neuronpedia",
        )
    metadata = content["metadata"]
    params = _optional(content, "qParams", dict, "the graph") or {}
    scan = _field(metadata, "scan", str, "metadata")
    if "/" not in scan:  # else it names the transcoders
        check_model(scan, model, path)
    tokens = tuple(str(token) for token in _field(metadata, "prompt_tokens", list, "metadata"))
    entries = _field(content, "nodes", list, "the graph")
    nodes, shared = _told_apart([_node(entry, len(tokens), layers) for entry in entries])
    places = {node.id: place for place, node in enumerate(nodes)}
    if not any(node.kind == "logit" for node in nodes):
        raise InterpretationError("no node is a logit", fix="export it again with circuit-tracer")
    links: dict[tuple[int, int], float] = {}
    for entry in _field(content, "links", list, "the graph"):
        if {_field(entry, end, str, "a link") for end in ("source", "target")} & shared:
            continue
        place, weight = _link(entry, places, nodes)
        if weight == 0:
            continue
        if place in links:
            raise InterpretationError(
                f"the link {entry['source']} → {entry['target']} stands there twice",
                fix="remove one of the two",
            )
        links[place] = weight
    pinned = [str(name) for name in _optional(params, "pinnedIds", list, "qParams") or ()]
    ends = np.array(list(links), dtype=np.int64).reshape(-1, 2)
    return FeatureGraph(
        model=scan,
        prompt=_optional(metadata, "prompt", str, "metadata") or "",
        tokens=tokens,
        nodes=tuple(nodes),
        sources=ends[:, 0],
        targets=ends[:, 1],
        weights=np.array(list(links.values()), dtype=np.float64),
        pinned_ids=tuple(name for name in pinned if name in places),
        gone_ids=tuple(dict.fromkeys(name for name in pinned if name not in places)),
        shared_ids=tuple(sorted(shared)),
        unknown=_unknown(content, path),
    )


def _told_apart(nodes: list[FeatureNode]) -> tuple[list[FeatureNode], frozenset[str]]:
    """Nodes of which no two have one id, and the ids that a feature and an error had in common.

    Up to circuit-tracer 0.5.0 the error of block 3 at position 5 is called 0_3_5, as feature 3 of block 0
    there; later 3_-1_5. The error gets the later name.

    Raises:
        InterpretationError: other nodes share an id.
    """
    counts = Counter(node.id for node in nodes)
    kinds = {(node.id, node.kind) for node in nodes}
    shared = {name for name, count in counts.items() if count > 1}
    shared = {name for name in shared if {(name, "error"), (name, "feature")} <= kinds}
    apart = [
        node._replace(id=f"{node.layer}_-1_{node.position}")
        if node.kind == "error" and node.id in shared
        else node
        for node in nodes
    ]
    for name, count in Counter(node.id for node in apart).items():
        if count > 1:
            raise InterpretationError(
                f"two nodes are called {name!r}", fix="export it again with circuit-tracer"
            )
    return apart, frozenset(shared)


def _unknown(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """One sentence for each field that no table has, of the graph, its nodes and its links."""
    found: dict[str, str] = {}
    for within, table, entries in (
        ("", FIELDS, [content]),
        ("nodes.", NODE, content["nodes"]),
        ("links.", LINK, content["links"]),
    ):
        known = table.lines.keys()
        assert table.rest is not None
        for entry in entries:
            found |= {f"{within}{name}": table.rest.why for name in entry.keys() - known}
    return tuple(
        f"{path.name} has the field {name}, which is not known: {why}." for name, why in sorted(found.items())
    )


def _node(entry: Any, positions: int, layers: int) -> FeatureNode:
    name = _field(entry, "node_id", str, "a node")
    what = f"node {name}"
    written = _field(entry, "feature_type", str, what)
    if written not in _KINDS:
        raise InterpretationError(
            f"{what} is of the type {written!r}; expected one of {', '.join(_KINDS)}",
            fix="give a graph of transcoders of MLPs",
        )
    kind = _KINDS[written]
    parts = name.split("_")
    position = _whole(entry, "ctx_idx", parts, 2, what)
    if not 0 <= position < positions:
        raise InterpretationError(
            f"{what} is at position {brief(position)}; the prompt has {positions} (metadata.prompt_tokens)",
            fix="take nodes and tokens from one graph",
        )
    written_layer = _field({"layer": _in_json(entry.get("layer"))}, "layer", (str, int), what)
    layer = _layer(written_layer, kind, layers, what)
    number = -1
    if kind in ("feature", "token"):  # their field `feature` is another number
        if not _digits(parts, 1) or parts[::2] != [str(written_layer), str(position)]:
            raise InterpretationError(
                f"{what} is in layer {written_layer} at position {position}; its id is to be "
                f"LAYER_NUMBER_POSITION, {written_layer}_…_{position}",
                fix="export it again with circuit-tracer",
            )
        number = int(parts[1])
    elif kind == "logit" and (entry.get("feature") is not None or _digits(parts, 1)):
        number = _whole(entry, "feature", parts, 1, what)
    activation, influence = (
        _number(entry.get(field), f"{field} of {what}") for field in ("activation", "influence")
    )
    probability = _number(entry.get("token_prob"), f"token_prob of {what}") or 0.0
    return FeatureNode(
        name, kind, layer, number, position, activation, influence, probability if kind == "logit" else 0.0
    )


def _layer(written: str | int, kind: Kind, layers: int, what: str) -> int:
    """The layer: -1 for a token, the number of blocks for a logit (circuit-tracer: E, and one more)."""
    expected = {"token": "E", "logit": str(layers + 1)}.get(kind)
    number = int(written) if re.fullmatch(r"\d{1,9}", str(written), re.ASCII) else -1
    if str(written) != expected if expected else not 0 <= number < layers:
        raise InterpretationError(
            f"{what} is in layer {written}, a {kind}; of the task's model, of {layers} blocks, expected "
            f"{expected or f'0 to {layers - 1}'}",
            fix="choose a task of the model that the graph was made of, and a graph whose layers are "
            "numbered as those of circuit-tracer: E, blocks from 0, logits the number of blocks and one",
        )
    return {"token": -1, "logit": layers}.get(kind, number)


def _link(entry: Any, places: dict[str, int], nodes: list[FeatureNode]) -> tuple[tuple[int, int], float]:
    ends = [_field(entry, end, str, "a link") for end in ("source", "target")]
    what = f"the link {ends[0]} → {ends[1]}"
    for name in ends:
        if name not in places:
            raise InterpretationError(
                f"{what}: there is no node {name!r}", fix="list the node, or drop the link"
            )
    weight = _number(_field(entry, "weight", (int, float), what), f"weight of {what}")
    source, target = (nodes[places[name]] for name in ends)
    if weight and (source.layer >= target.layer or source.position > target.position):
        raise InterpretationError(
            f"{what} goes backwards, from layer {source.layer} and position {source.position} to layer "
            f"{target.layer} and position {target.position}, so it could close a cycle",
            fix="links go from earlier layers to later ones, and not to earlier positions",
        )
    return (places[source.id], places[target.id]), weight or 0.0


def _field(entry: Any, name: str, kind: type | tuple[type, ...], what: str) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise InterpretationError(
            f"{name} of {what} is {value!r:.60}; expected {' or '.join(each.__name__ for each in kinds)}",
            fix="export it again with circuit-tracer",
        )
    return value


def _optional(entry: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """A field that may be null or missing, but not something else."""
    return None if entry.get(name) is None else _field(entry, name, kind, what)


def _whole(entry: Mapping[str, Any], name: str, parts: list[str], place: int, what: str) -> int:
    """A whole number, 1.0 too, as in JSON's schemas; where it is null or missing, that of the node's id."""
    value = entry.get(name)
    if value is None and _digits(parts, place):
        return int(parts[place])
    number: int = _field({name: _in_json(value)}, name, int, what)
    return number


def _in_json(value: Any) -> Any:
    """1 of 1.0, which is a whole number in JSON's schemas; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digits(parts: list[str], place: int) -> bool:
    """Whether an id is LAYER_NUMBER_POSITION, with a number at that place."""
    return len(parts) == 3 and parts[place].isdecimal() and parts[place].isascii()


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InterpretationError(f"{what} is {value!r:.60}; expected a finite number", fix="export it again")
    return float(value)
