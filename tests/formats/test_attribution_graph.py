"""Attribution graphs in circuit-tracer's layout; their scores by hand, and from powers of a dense matrix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remainder.circuit.feature_graph import FeatureGraph
from remainder.errors import InterpretationError
from remainder.formats import attribution_graph, eap_ig
from remainder.task.spec import ModelSpec

MODEL = ModelSpec(name="gpt2", hub="openai-community/gpt2", licence="MIT")
LAYERS = 3
POSITIONS = 3


def feature(layer: int, number: int, position: int, **more: Any) -> dict[str, Any]:
    """A feature as circuit-tracer writes it; its field `feature` pairs layer and number in one."""
    paired = (layer + number) * (layer + number + 1) // 2 + number
    return node(
        f"{layer}_{number}_{position}", paired, str(layer), position, "cross layer transcoder", **more
    )


def error(layer: int, position: int, **more: Any) -> dict[str, Any]:
    return node(f"{layer}_-1_{position}", -1, str(layer), position, "mlp reconstruction error", **more)


def token(word: int, position: int, **more: Any) -> dict[str, Any]:
    return node(f"E_{word}_{position}", position, "E", position, "embedding", **more)


def logit(word: int, probability: float) -> dict[str, Any]:
    last = POSITIONS - 1
    more = {"token_prob": probability, "influence": None}
    return node(f"{LAYERS + 1}_{word}_{last}", word, str(LAYERS + 1), last, "logit", **more)


def node(name: str, number: int, layer: str, position: int, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": number,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{name}-0",
        "clerp": "",
        "influence": 0.5,
        "activation": 2.5 if kind == "cross layer transcoder" else None,
    } | more


def link(source: dict[str, Any], target: dict[str, Any], weight: float) -> dict[str, Any]:
    return {"source": source["node_id"], "target": target["node_id"], "weight": weight}


def whole(nodes: list[dict[str, Any]], links: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "slug": "made-here",
            "scan": "gpt2",
            "transcoder_list": [],
            "prompt_tokens": ["The", " cat", " sat"],
            "prompt": "The cat sat",
            "node_threshold": 0.8,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
        | more,
        "nodes": nodes,
        "links": links,
    }


def put(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "graph.json"
    path.write_text(json.dumps(content, indent=2))
    return path


def load(folder: Path, content: dict[str, Any], layers: int = LAYERS) -> FeatureGraph:
    return attribution_graph.load(put(folder, content), MODEL, layers)


# By hand: a token gives to feature f, this and an error to feature g, g and an error to the logit.
T0, T2 = token(11, 0, influence=0.3), token(7, 2, influence=0.9)
F = feature(0, 12, 0, influence=0.6)
F2 = feature(0, 4, 0, influence=0.99)
E0 = error(1, 1, influence=0.8)
G = feature(2, 40_000, 2, influence=0.2)
L = logit(5, 0.5)
LINKS = [link(T0, F, 3.0), link(F, G, -1.0), link(E0, G, 3.0), link(G, L, 2.0), link(T2, L, -2.0)]
SMALL = whole([T0, T2, F, F2, E0, G, L], LINKS)


def test_a_small_graph_is_read(tmp_path: Path) -> None:
    graph = load(tmp_path, SMALL)
    assert attribution_graph.found_in(tmp_path / "graph.json")
    assert not eap_ig.found_in(tmp_path / "graph.json")
    assert attribution_graph.files(tmp_path / "graph.json") == [tmp_path / "graph.json"]
    assert (graph.model, graph.prompt, graph.tokens) == ("gpt2", "The cat sat", ("The", " cat", " sat"))
    assert graph.features() == {0: {0: (4, 12)}, 2: {2: (40_000,)}}
    assert graph.errors() == {1: (1,)}
    kinds = {entry.id: (entry.kind, entry.layer, entry.number, entry.position) for entry in graph.nodes}
    assert kinds == {
        "E_11_0": ("token", -1, 11, 0),
        "E_7_2": ("token", -1, 7, 2),
        "0_12_0": ("feature", 0, 12, 0),
        "0_4_0": ("feature", 0, 4, 0),
        "1_-1_1": ("error", 1, -1, 1),
        "2_40000_2": ("feature", 2, 40_000, 2),
        "4_5_2": ("logit", 3, 5, 2),
    }
    assert graph.nodes[2].activation == 2.5
    assert [entry.probability for entry in graph.nodes if entry.probability] == [0.5]


def test_scores_of_the_small_graph_are_those_by_hand(tmp_path: Path) -> None:
    """Of the logit's ½ a half goes to g, a half to the second token; of g's ¼ passes to f, ¾ to the error."""
    scores = load(tmp_path, SMALL).scores()
    tokens, errors = 0.5 * (1 / 2 + 1 / 2 * 1 / 4), 0.5 * 1 / 2 * 3 / 4
    assert scores.replacement == pytest.approx(tokens / (tokens + errors), abs=1e-12)
    # Influence or probability: logit ½, g and the second token ¼, f and the first 1/16, the error 3/16.
    total = 1 / 2 + 1 / 4 + 1 / 4 + 1 / 16 + 3 / 16 + 1 / 16
    assert scores.completeness == pytest.approx((total - 3 / 4 * 1 / 4) / total, abs=1e-12)


def drawn(seed: int) -> dict[str, Any]:
    """A random graph: several features, errors at places, and links from what is before, one in two."""
    generator = np.random.default_rng(seed)
    nodes = [token(100 + place, place) for place in range(POSITIONS)]
    for layer in range(LAYERS):
        for place in range(POSITIONS):
            nodes += [feature(layer, int(n), place) for n in generator.choice(500, 3, replace=False)]
            nodes.append(error(layer, place))
    nodes += [logit(word, probability) for word, probability in ((1, 0.6), (2, 0.25))]
    depth = {"E": -1, str(LAYERS + 1): LAYERS}
    links = [
        link(source, target, float(generator.standard_normal()))
        for source in nodes
        for target in nodes
        if depth.get(source["layer"], int(source["layer"]) if source["layer"].isdigit() else 0)
        < depth.get(target["layer"], int(target["layer"]) if target["layer"].isdigit() else -2)
        and source["ctx_idx"] <= target["ctx_idx"]
        and target["feature_type"] != "mlp reconstruction error"
        and generator.random() < 0.5
    ]
    generator.shuffle(nodes)
    generator.shuffle(links)
    return whole(nodes, links)


def dense(content: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    """[targets, sources] shares, weights of logits, kinds; straight from the JSON."""
    names = [entry["node_id"] for entry in content["nodes"]]
    matrix = np.zeros((len(names), len(names)))
    for entry in content["links"]:
        matrix[names.index(entry["target"]), names.index(entry["source"])] = abs(entry["weight"])
    matrix /= np.maximum(matrix.sum(1, keepdims=True), 1e-10)
    weight = np.array([entry["token_prob"] for entry in content["nodes"]])
    return matrix, weight, np.array([entry["feature_type"] for entry in content["nodes"]])


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_power_series(tmp_path: Path, seed: int) -> None:
    content = drawn(seed)
    matrix, weight, kinds = dense(content)
    influence = np.zeros(len(weight))
    power = matrix.copy()
    for _ in range(LAYERS + 3):
        influence += weight @ power
        power = power @ matrix
    assert not power.any()
    errors = kinds == "mlp reconstruction error"
    tokens = influence[kinds == "embedding"].sum()
    free = 1 - matrix[:, errors].sum(1)
    scores = load(tmp_path, content).scores()
    assert 0 < scores.completeness < 1
    assert scores.replacement == pytest.approx(tokens / (tokens + influence[errors].sum()), abs=1e-12)
    assert scores.completeness == pytest.approx(
        (free * (influence + weight)).sum() / (influence + weight).sum(), abs=1e-12
    )


def test_links_of_nothing_are_dropped_wherever_they_lead(tmp_path: Path) -> None:
    zeros = [link(F, F, 0.0), link(G, F, 0.0), link(T0, F, -0.0)]
    graph, same = load(tmp_path, whole(SMALL["nodes"], [*zeros, *LINKS])), load(tmp_path, SMALL)
    assert graph.weights.tolist() == same.weights.tolist()
    assert graph.scores() == same.scores()


def test_without_links_there_is_nothing_to_replace(tmp_path: Path) -> None:
    scores = load(tmp_path, whole([T0, L], [])).scores()
    assert scores == (None, 1.0)
    with pytest.raises(InterpretationError, match="no logit of the graph has a probability"):
        load(tmp_path, whole([T0, logit(5, 0.0)], [])).scores()


def test_pinned_nodes_are_kept_with_tokens_and_logits(tmp_path: Path) -> None:
    content = whole(SMALL["nodes"], LINKS, pinnedIds=["2_40000_2", "1_-1_1", "4_5_2"])
    graph = load(tmp_path, content).pinned()
    assert graph.features() == {2: {2: (40_000,)}}
    assert graph.errors() == {1: (1,)}
    assert [entry.id for entry in graph.nodes] == ["E_11_0", "E_7_2", "1_-1_1", "2_40000_2", "4_5_2"]
    linked = [
        (graph.nodes[s].id, graph.nodes[t].id) for s, t in zip(graph.sources, graph.targets, strict=True)
    ]
    assert linked == [("1_-1_1", "2_40000_2"), ("2_40000_2", "4_5_2"), ("E_7_2", "4_5_2")]
    assert graph.weights.tolist() == [3.0, 2.0, -2.0]
    with pytest.raises(InterpretationError, match="pins no node"):
        load(tmp_path, SMALL).pinned()


@pytest.mark.parametrize(
    ("share", "features", "errors"),
    [
        (0.1, {}, {}),  # of influence .2, the first to reach it, g has nothing left to take
        (0.5, {0: {0: (12,)}, 2: {2: (40_000,)}}, {}),  # .6 is the first beyond
        (0.7, {0: {0: (12,)}, 2: {2: (40_000,)}}, {1: (1,)}),
        (1.0, {0: {0: (12,)}, 2: {2: (40_000,)}}, {1: (1,)}),  # f2 gives to nothing
    ],
)
def test_nodes_are_pruned_by_their_share_of_influence(
    tmp_path: Path, share: float, features: dict[int, Any], errors: dict[int, Any]
) -> None:
    graph = load(tmp_path, SMALL).pruned(share)
    assert (graph.features(), graph.errors()) == (features, errors)
    assert {entry.id for entry in graph.nodes} >= {"E_11_0", "E_7_2", "4_5_2"}


def test_a_share_is_a_share_and_needs_influence(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError, match=r"2\.0 is not a share"):
        load(tmp_path, SMALL).pruned(2.0)
    bare = whole([T0, feature(0, 1, 0, influence=None), L], [])
    with pytest.raises(InterpretationError, match="node 0_1_0 has no influence"):
        load(tmp_path, bare).pruned(0.5)


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """The small graph with its feature f changed."""
    return whole([T0, T2, F | change, G, E0, L], [LINKS[4]])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no nodes": ({"metadata": SMALL["metadata"], "qParams": SMALL["qParams"]}, "nodes of the graph is None"),
    "no scan": (SMALL | {"metadata": {"prompt_tokens": []}}, "scan of metadata is None; expected str"),
    "kind": (
        changed({"feature_type": "lorsa"}),
        "node 0_12_0 is of the type 'lorsa'.*cross layer transcoder",
    ),
    "position": (changed({"ctx_idx": 3}), "node 0_12_0 is at position 3; the prompt has 3"),
    "other layer": (changed({"layer": "1"}), "0_12_0 is in layer 1 at position 0; its id is to be .* 1_…_0"),
    "no number": (changed({"node_id": "f12"}), "f12 is in layer 0 at position 0; its id"),
    "activation": (changed({"activation": "big"}), "activation of node 0_12_0 is 'big'"),
    "twice": (whole([T0, F, F, L], []), "two nodes are called '0_12_0'"),
    "no logit": (whole([T0, F], []), "no node is a logit"),
    "missing node": (
        whole([T0, L], [link(F, L, 1.0)]),
        "the link 0_12_0 → 4_5_2: there is no node '0_12_0'",
    ),
    "cycle": (
        whole([T0, F, G, L], [link(F, G, 1.0), link(G, F, 1.0)]),
        "2_40000_2 → 0_12_0 goes backwards, from layer 2 and position 2 to layer 0",
    ),
    "itself": (whole([T0, F, L], [link(F, F, 1.0)]), "0_12_0 → 0_12_0 goes backwards"),
    "earlier position": (
        whole([T2, F, L], [link(T2, F, 1.0)]),
        "E_7_2 → 0_12_0 goes backwards, from layer -1 and position 2 to layer 0 and position 0",
    ),
    "weight": (whole([T0, F, L], [link(T0, F, float("nan"))]), "weight of the link E_11_0 → 0_12_0 is nan"),
    "two links": (whole([T0, F, L], [link(T0, F, 1.0)] * 2), "the link E_11_0 → 0_12_0 stands there twice"),
    "pins": (whole([T0, L], [], pinnedIds="5_5_5"), "pinnedIds of qParams is '5_5_5'; expected list"),
    "deeper": (
        whole([T0, feature(3, 1, 1), L], []),
        "3_1_1 is in layer 3, a feature; .*3 blocks, expected 0 to 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_once(tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    with pytest.raises(InterpretationError) as caught:
        load(tmp_path, content)
    assert re.search(says, caught.value.what)
    assert caught.value.what.count(str(tmp_path / "graph.json")) == 1
    assert caught.value.fix


def test_a_graph_of_another_model_is_refused(tmp_path: Path) -> None:
    other = SMALL | {"metadata": SMALL["metadata"] | {"scan": "gemma-2-2b"}}
    with pytest.raises(InterpretationError, match=r"made for the model gemma-2-2b; the task's is gpt2"):
        load(tmp_path, other)
    with pytest.raises(
        InterpretationError, match="in layer 4, a logit; of the task's model, of 12 blocks, expected 13"
    ):
        load(tmp_path, SMALL, layers=12)
    transcoders = SMALL | {"metadata": SMALL["metadata"] | {"scan": "someone/gemma-scope-transcoders"}}
    assert load(tmp_path, transcoders).model == "someone/gemma-scope-transcoders"


def test_a_truncated_file_is_no_graph(tmp_path: Path) -> None:
    path = put(tmp_path, SMALL)
    path.write_text(path.read_text()[:-20])
    assert attribution_graph.found_in(path)
    with pytest.raises(InterpretationError, match="is not valid JSON"):
        attribution_graph.load(path, MODEL, LAYERS)


def test_an_error_with_the_id_of_a_feature_is_told_apart(tmp_path: Path) -> None:
    """circuit-tracer 0.5.0 calls the error of block 1 at position 0 as feature 1 of block 0 there."""
    one = feature(0, 1, 0)
    other = error(1, 0) | {"node_id": "0_1_0"}
    last = link(one, L, 2.0)
    graph = load(tmp_path, whole([T0, one, other, G, L], [last, last, LINKS[3]], pinnedIds=["0_1_0"]))
    assert graph.features() == {0: {0: (1,)}, 2: {2: (40_000,)}}
    assert graph.errors() == {1: (0,)}
    assert len(graph.weights) == 1
    assert graph.shared_ids == ("0_1_0",)
    assert "each the id of a feature and of an error" in graph.notes[0]
    for refused in (graph.pinned, graph.scores, lambda: graph.pruned(0.5)):
        with pytest.raises(InterpretationError, match="'0_1_0' is the id of a feature and of an error"):
            refused()
    newer = error(1, 0)
    with pytest.raises(InterpretationError, match="two nodes are called '1_-1_0'"):
        load(tmp_path, whole([one, other, newer, L], []))
