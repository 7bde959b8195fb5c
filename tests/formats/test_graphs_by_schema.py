"""Graphs that Neuronpedia's schema allows are read as those that circuit-tracer writes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.test_attribution_graph import E0, LINKS, SMALL, T0, T2, F, G, L, drawn, load, whole

from remainder.circuit.feature_graph import FeatureGraph
from remainder.errors import InterpretationError

Change = Callable[[dict[str, Any]], Any]


def nodes(kind: str, **fields: Any) -> Change:
    """Set fields of the nodes of a kind; … takes one out."""

    def change(content: dict[str, Any]) -> None:
        for node in content["nodes"]:
            if kind in ("", node["feature_type"]):
                node.update(fields)
                for name in [name for name, value in fields.items() if value is ...]:
                    del node[name]

    return change


def top(name: str, **fields: Any) -> Change:
    """The same of a field of the whole."""

    def change(content: dict[str, Any]) -> None:
        content[name].update(fields)
        for field in [field for field, value in fields.items() if value is ...]:
            del content[name][field]

    return change


def positions(content: dict[str, Any]) -> None:
    for node in content["nodes"]:
        node["ctx_idx"] = float(node["ctx_idx"])


def layers_as_numbers(content: dict[str, Any]) -> None:
    for node in content["nodes"]:
        node["layer"] = int(node["layer"]) if node["layer"].isdecimal() else node["layer"]


def bare(content: dict[str, Any]) -> None:
    """Nothing but what the schema requires of nodes, links and metadata, and what is null where it may be."""
    wanted = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp")
    content["nodes"] = [{name: node[name] for name in wanted} for node in content["nodes"]]
    kept = ("slug", "scan", "prompt_tokens", "prompt")
    content["metadata"] = {name: content["metadata"][name] for name in kept}
    content["qParams"] = {}


TOKEN, ERROR, FEATURE, LOGIT = (
    "embedding",
    "mlp reconstruction error",
    "cross layer transcoder",
    "logit",
)
SAME: dict[str, Change] = {
    "no qParams": lambda content: content.pop("qParams"),
    "empty qParams": lambda content: content.update(qParams={}),
    "qParams null": lambda content: content.update(qParams=None),
    "pinnedIds null": top("qParams", pinnedIds=None),
    "only pinnedIds": lambda content: content.update(qParams={"pinnedIds": []}),
    "only supernodes": lambda content: content.update(
        qParams={"supernodes": [["a name", "0_12_0", "2_40000_2"], ["gone", "7_7_7"]]}
    ),
    "clicked id that is gone": top("qParams", clickedId="9_9_9", sg_pos="0.5", linkType="both", more=[1]),
    "feature null of tokens": nodes(TOKEN, feature=None),
    "feature null of errors": nodes(ERROR, feature=None),
    "feature null of logits": nodes(LOGIT, feature=None),
    "feature null of features": nodes(FEATURE, feature=None),
    "no feature": nodes("", feature=...),
    "no clerp": nodes("", clerp=...),
    "clerp": nodes("", clerp="a label", remoteClerp="another"),
    "no jsNodeId": nodes("", jsNodeId=...),
    "no flags": nodes("", is_target_logit=..., run_idx=..., reverse_ctx_idx=...),
    "other flags": nodes(LOGIT, isTargetLogit=True, is_target_logit=None),
    "token_prob null": nodes(TOKEN, token_prob=None),
    "more fields": nodes("", isSuperNode=False, ppClerp="x", logitPct=0.1, sourceLinks=[]),
    "positions 1.0": positions,
    "no ctx_idx": nodes("", ctx_idx=...),
    "layers as numbers": layers_as_numbers,
    "prompt missing": top("metadata", prompt=...),
    "prompt null": top("metadata", prompt=None),
    "no slug": top("metadata", slug=..., transcoder_list=..., schema_version=..., node_threshold=...),
    "more metadata": top(
        "metadata",
        feature_details={"neuronpedia_source_set": "gemmascope-transcoder-16k"},
        info={"creator_name": "x", "generator": {"name": "circuit-tracer"}, "create_time_ms": 1},
        generation_settings={"max_n_logits": 10, "desired_logit_prob": 0.95},
        pruning_settings={"node_threshold": 0.8, "edge_threshold": 0.98},
    ),
    "more of links": lambda content: [link.update(pctInput=0.5) for link in content["links"]],
}


NOT_KNOWN: dict[str, Change] = {
    "comment": lambda content: content.update(comment="mine"),
    "nodes.mine": nodes(LOGIT, mine=1),
    "links.mine": lambda content: content["links"][0].update(mine=None),
}


def changed(name: str) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    SAME[name](content)
    return content


def same(one: FeatureGraph, other: FeatureGraph) -> None:
    assert one.nodes == other.nodes
    for field in ("sources", "targets", "weights"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert (one.tokens, one.model, one.pinned_ids) == (other.tokens, other.model, other.pinned_ids)


@pytest.mark.parametrize("name", SAME)
def test_what_is_not_needed_changes_nothing(tmp_path: Path, name: str) -> None:
    graph, expected = load(tmp_path, changed(name)), load(tmp_path, SMALL)
    same(graph, expected)
    assert graph.scores() == expected.scores()
    assert graph.notes == ()
    same(graph.pruned(0.7), expected.pruned(0.7))
    assert graph.prompt in (expected.prompt, "")


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_what_nobody_knows_is_told_and_changes_nothing(tmp_path: Path, name: str) -> None:
    content = copy.deepcopy(SMALL)
    NOT_KNOWN[name](content)
    graph, expected = load(tmp_path, content), load(tmp_path, SMALL)
    same(graph, expected)
    (told,) = graph.notes
    assert f"has the field {name}, which is not known" in told


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_of_the_least_that_the_schema_requires_is_read(tmp_path: Path, seed: int) -> None:
    content = drawn(seed)
    expected = load(tmp_path, content)
    bare(content)
    graph = load(tmp_path, content)
    for node, other in zip(graph.nodes, expected.nodes, strict=True):
        assert node == replace_scores(other)
    assert (graph.features(), graph.errors()) == (expected.features(), expected.errors())
    assert not graph.has_probabilities
    with pytest.raises(InterpretationError, match="no logit of the graph has a probability"):
        graph.scores()
    with pytest.raises(InterpretationError, match="has no influence"):
        graph.pruned(0.5)
    with pytest.raises(InterpretationError, match="pins no node"):
        graph.pinned()


def replace_scores(node: Any) -> Any:
    return node._replace(activation=None, influence=None, probability=0.0)


@pytest.mark.parametrize("field", ["influence", "activation", "token_prob"])
@pytest.mark.parametrize("value", [None, ...])
def test_numbers_may_be_null_or_missing(tmp_path: Path, field: str, value: Any) -> None:
    content = copy.deepcopy(SMALL)
    nodes("", **{field: value})(content)
    graph = load(tmp_path, content)
    attribute = {"token_prob": "probability"}.get(field, field)
    assert {getattr(node, attribute) for node in graph.nodes} <= {None, 0.0}
    assert graph.features() == load(tmp_path, SMALL).features()


def test_a_pinned_id_that_is_gone_is_said_and_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    content = whole(SMALL["nodes"], LINKS, pinnedIds=["2_40000_2", "5_5_5", "9_9_9", "5_5_5"])
    graph = load(tmp_path, content)
    same(replace(graph, pinned_ids=()), load(tmp_path, SMALL))
    assert graph.pinned_ids == ("2_40000_2",)
    assert graph.notes == ("qParams.pinnedIds names '5_5_5', '9_9_9', no node of the graph: left out",)
    assert graph.pruned(0.7).features() == load(tmp_path, SMALL).pruned(0.7).features()
    assert graph.pruned(0.7).notes == graph.notes
    with pytest.raises(InterpretationError, match="'5_5_5', '9_9_9', no node of the graph, and its pinned"):
        graph.pinned()
    content["qParams"]["pinnedIds"] = ["2_40000_2"]
    assert load(tmp_path, content).notes == ()
    assert load(tmp_path, content).pinned().features() == {2: {2: (40_000,)}}
    content["qParams"]["pinnedIds"] = [f"5_{number}_5" for number in range(40)]
    assert "and 37 more" in load(tmp_path, content).notes[0]


NEEDED: dict[str, tuple[Change, str]] = {
    "no metadata": (lambda content: content.pop("metadata"), "it has no metadata, which say of which prompt"),
    "no tokens": (top("metadata", prompt_tokens=...), "prompt_tokens of metadata is None; expected list"),
    "no scan": (top("metadata", scan=None), "scan of metadata is None; expected str"),
    "no nodes": (lambda content: content.update(nodes=None), "nodes of the graph is None; expected list"),
    "no links": (lambda content: content.pop("links"), "links of the graph is None; expected list"),
    "no node_id": (nodes(FEATURE, node_id=...), "node_id of a node is None; expected str"),
    "no layer": (nodes(FEATURE, layer=None), "layer of node 0_12_0 is None; expected str or int"),
    "no kind": (nodes(FEATURE, feature_type=...), "feature_type of node 0_12_0 is None"),
    "half a position": (nodes(FEATURE, ctx_idx=0.5), "ctx_idx of node 0_12_0 is 0.5; expected int"),
    "position in words": (nodes(FEATURE, ctx_idx="0"), "ctx_idx of node 0_12_0 is '0'; expected int"),
    "no position": (
        lambda content: content["nodes"][4].update(node_id="error", ctx_idx=None),
        "ctx_idx of node error is None",
    ),
    "qParams": (lambda content: content.update(qParams=[1]), "qParams of the graph is [1]; expected dict"),
    "pinnedIds": (top("qParams", pinnedIds="0_12_0"), "pinnedIds of qParams is '0_12_0'; expected list"),
    "prompt": (top("metadata", prompt=["a"]), "prompt of metadata is ['a']; expected str"),
    "weight": (lambda content: content["links"][0].update(weight=None), "weight of the link E_11_0 → 0_12_0"),
    "number": (nodes(LOGIT, feature="five"), "feature of node 4_5_2 is 'five'; expected int"),
    "odd digits": (
        lambda content: content["nodes"][2].update(node_id="0_²_0"),
        "node 0_²_0 is in layer 0 at position 0; its id is to be",
    ),
    "odd layer": (nodes(FEATURE, layer="²"), "node 0_12_0 is in layer ², a feature"),
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_is_told_by_name(tmp_path: Path, name: str) -> None:
    change, says = NEEDED[name]
    content = copy.deepcopy(SMALL)
    change(content)
    with pytest.raises(InterpretationError) as caught:
        load(tmp_path, content)
    assert says in caught.value.what
    assert caught.value.fix


def test_a_logit_without_a_number_is_one(tmp_path: Path) -> None:
    content = whole([T0, T2, F, E0, G, L | {"node_id": "out", "feature": None}], [])
    last = load(tmp_path, content).nodes[-1]
    assert (last.kind, last.number, last.position, last.probability) == ("logit", -1, 2, 0.5)
