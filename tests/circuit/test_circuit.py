"""The graph of a transformer, its circuits and rankings, against counts of MIB and paths of networkx."""

from __future__ import annotations

import math
from itertools import combinations

import networkx
import numpy as np
import pytest
from numpy.typing import NDArray

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Circuits, NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError
from remainder.model.architecture import Architecture, Graph
from remainder.task.spec import SIZES

GROUPED = Graph(Architecture(3, 4, 2, 8))
GRAPHS = {
    "plain": Graph(Architecture(3, 2, 2, 8)),
    "grouped": GROUPED,
    "parallel": Graph(Architecture(2, 3, 3, 8, parallel=True)),
    "attention only": Graph(Architecture(3, 2, 2, 8, mlps=False)),
}


@pytest.mark.parametrize(
    ("layers", "heads", "nodes", "edges"),
    [
        (12, 12, 158, 32_491),  # GPT-2
        (24, 14, 362, 179_749),  # Qwen2.5-0.5B, keys and values by head
        (26, 8, 236, 74_218),  # Gemma-2-2B
        (32, 32, 1_058, 1_592_881),  # Llama-3.1-8B
        (6, 4, 32, 1_108),  # InterpBench
    ],
)
def test_there_are_as_many_nodes_and_edges_as_mib_says(
    layers: int, heads: int, nodes: int, edges: int
) -> None:
    """Counts from MIB's EDGE_COUNTS, nodes as 2 + layers (heads + 1)."""
    graph = Graph(Architecture(layers, heads, heads, 64))
    assert (len(graph.writers) + 1, graph.edges) == (nodes, edges)


def test_groups_have_one_key_and_one_value_edge() -> None:
    """30 layers of 9 heads in 3 groups: each layer's 9 + 3 + 3 inputs read all that is before it."""
    graph = Graph(Architecture(30, 9, 3, 576))
    before = [1 + 10 * layer for layer in range(30)]
    assert graph.edges == sum(15 * n + n + 9 for n in before) + 301 == 70_651
    assert (len(graph.writers), len(graph.readers)) == (301, 481)


def wired(graph: Graph, kept: NDArray[np.bool_]) -> networkx.DiGraph[str]:
    """Nodes as in the graph; an input of a head leads to all heads that it feeds."""
    built: networkx.DiGraph[str] = networkx.DiGraph()
    built.add_nodes_from(["input", "logits"])
    for writer, reader in zip(*np.nonzero(kept), strict=True):
        built.add_edge(f"from {graph.writers[writer]}", f"into {graph.readers[reader]}")
    built.add_edge("input", "from input")
    built.add_edge("into logits", "logits")
    for reader in graph.readers[:-1]:
        node, _, kind = reader.rstrip(">").partition("<")
        layer, _, head = node.partition(".h")
        size = graph.architecture.heads // graph.architecture.groups
        if kind in ("k", "v"):
            fed = [f"{layer}.h{int(head) * size + place}" for place in range(size)]
        else:
            fed = [node]
        built.add_edges_from((f"into {reader}", f"from {name}") for name in fed)
    return built


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pair_in_order_of_computation_is_an_edge_and_there_is_no_cycle(name: str) -> None:
    graph = GRAPHS[name]
    shape = graph.architecture

    def when(node: str) -> float:
        if node in ("input", "logits"):
            return -1.0 if node == "input" else math.inf
        layer = int(node[1:].partition(".")[0])
        return layer + (0.0 if node.startswith("a") or shape.parallel else 0.5)

    for writer, source in enumerate(graph.writers):
        for reader, target in enumerate(graph.readers):
            before = when(source) < when(target.partition("<")[0])
            assert graph.exists[writer, reader] == before, (source, target)
    assert networkx.is_directed_acyclic_graph(wired(graph, graph.exists))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_pruning_keeps_what_is_on_a_path_from_input_to_logits(name: str, density: float) -> None:
    graph = GRAPHS[name]
    generator = np.random.default_rng(7)
    sizes = []
    for _ in range(20):
        kept = graph.exists & (generator.random(graph.exists.shape) < density)
        built = wired(graph, kept)
        live = networkx.descendants(built, "input") & networkx.ancestors(built, "logits")
        expected = np.array(
            [
                [
                    kept[w, r] and f"from {source}" in live and f"into {target}" in live
                    for r, target in enumerate(graph.readers)
                ]
                for w, source in enumerate(graph.writers)
            ]
        )
        pruned = Circuit(graph, kept).pruned()
        np.testing.assert_array_equal(pruned.kept, expected)
        sizes.append(pruned.edges)
    assert max(sizes) > 0 or density < 0.1


@pytest.mark.parametrize("name", GRAPHS)
def test_a_circuit_of_nodes_has_all_edges_between_them(name: str) -> None:
    graph = GRAPHS[name]
    for nodes in combinations(graph.writers[1:], 3):
        circuit = Circuit.of_nodes(graph, nodes)
        wanted = {"input", "logits", *nodes}
        size = graph.architecture.heads // graph.architecture.groups
        for edge, writer, reader in graph.names():
            node, _, kind = graph.readers[reader].rstrip(">").partition("<")
            fed = {node}
            if kind in ("k", "v"):
                layer, _, group = node.partition(".h")
                fed = {f"{layer}.h{int(group) * size + place}" for place in range(size)}
            kept = graph.writers[writer] in wanted and bool(fed & wanted)
            assert circuit.kept[writer, reader] == kept, (nodes, edge)


def test_names_lead_to_places_and_back() -> None:
    for name, writer, reader in GROUPED.names():
        assert GROUPED.place(name) == (writer, reader)
    assert sum(1 for _ in GROUPED.names()) == GROUPED.edges
    circuit = Circuit.of_edges(GROUPED, ["input->a0.h1<k>", "a0.h3->m0", "m2->logits"])
    assert circuit.names() == ["input->a0.h1<k>", "a0.h3->m0", "m2->logits"]
    assert (circuit.edges, circuit.nodes) == (3, 6)  # input, a0.h2, a0.h3, m0, m2, logits


@pytest.mark.parametrize(
    ("edge", "says"),
    [
        ("input", "'input' has no arrow"),
        ("m7->logits", "no node 'm7'.*did you mean m"),
        ("input->a0.h2<k>", "no node 'a0.h2<k>'.*a0.h"),
        ("logits->m0", "no node 'logits'"),
        ("m1->a1.h0<q>", "goes backwards.*close a cycle"),
        ("m1->m1", "goes backwards.*close a cycle"),
    ],
)
def test_an_edge_that_there_is_not_is_refused_by_name(edge: str, says: str) -> None:
    with pytest.raises(InterpretationError, match=f"(?s){says}"):
        Circuit.of_edges(GROUPED, [edge])


def test_what_is_no_circuit_is_refused() -> None:
    with pytest.raises(InterpretationError, match=r"no node 'a9\.h0'"):
        Circuit.of_nodes(GROUPED, ["a9.h0"])
    with pytest.raises(InterpretationError, match="which is no edge"):
        Circuit(GROUPED, np.ones_like(GROUPED.exists))
    with pytest.raises(InterpretationError, match=r"shape \(2, 2\)"):
        Circuit(GROUPED, np.ones((2, 2), dtype=np.bool_))
    with pytest.raises(InterpretationError, match="4 heads in 3 groups"):
        Architecture(2, 4, 3, 8)


def test_bits_are_those_of_choosing_the_edges() -> None:
    for count in (0, 1, 7, GROUPED.edges):
        kept = np.zeros_like(GROUPED.exists)
        kept[tuple(places[:count] for places in np.nonzero(GROUPED.exists))] = True
        assert Circuit(GROUPED, kept).bits == pytest.approx(
            math.log2(math.comb(GROUPED.edges, count)), abs=1e-9
        )


def scored(graph: Graph, *, seed: int = 0) -> NDArray[np.float64]:
    """Scores of edges, noise where there is none."""
    return np.random.default_rng(seed).standard_normal(graph.exists.shape)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_ranking_takes_the_best_edges_and_cuts_their_number_down(absolute: bool) -> None:
    """MIB: int(size · edges), not rounded: .005 of 32,491 is 162.455, .002 of it 64.982, that is 64."""
    graph = Graph(Architecture(12, 12, 12, 64))
    ranking = Ranking(graph, scored(graph))
    assert isinstance(ranking, Circuits)
    ranked = sorted(
        (-(abs(ranking.scores[w, r]) if absolute else ranking.scores[w, r]), w, r)
        for _, w, r in graph.names()
    )
    for size, count in ((0.002, 64), (0.005, 162), (0.5, 16_245)):
        kept = np.zeros_like(graph.exists)
        for _, writer, reader in ranked[:count]:
            kept[writer, reader] = True
        expected = Circuit(graph, kept).pruned()
        np.testing.assert_array_equal(ranking.at(size, absolute).kept, expected.kept)
    assert ranking.at(0.0, absolute).edges == 0
    np.testing.assert_array_equal(ranking.at(1.0, absolute).kept, graph.exists)
    assert ranking.sizes == SIZES


def test_ties_fall_by_place() -> None:
    graph = GRAPHS["attention only"]
    ranking = Ranking(graph, np.ones(graph.exists.shape))
    first = Circuit.top(graph, ranking.scores, 10, absolute=True, pruned=False)
    assert first.names() == [name for name, _, _ in graph.names()][:10]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_ranking_of_nodes_keeps_the_best_and_an_input_without_a_score(absolute: bool) -> None:
    scores = np.random.default_rng(3).standard_normal(len(GROUPED.writers))
    scores[0] = np.nan
    ranking = NodeRanking(GROUPED, scores)
    values = np.abs(scores) if absolute else scores
    order = sorted(range(1, len(scores)), key=lambda place: -values[place])
    for size in (0.2, 0.5, 0.75):
        names = [GROUPED.writers[place] for place in order[: int(size * len(order))]]
        expected = Circuit.of_nodes(GROUPED, names).pruned()
        np.testing.assert_array_equal(ranking.at(size, absolute).kept, expected.kept)
    np.testing.assert_array_equal(ranking.at(1.0, absolute).kept, GROUPED.exists)


@pytest.mark.parametrize(("unscored", "told"), [([5], "m0 has"), ([0, 5, 6], r"m0 and 1 more have")])
def test_nodes_without_a_score_are_no_free_part_of_every_circuit(unscored: list[int], told: str) -> None:
    """EAP-IG keeps such a node always. Of all but one, that is nearly the whole model at .1 % of its size."""
    scores = np.zeros(len(GROUPED.writers))
    scores[unscored] = np.nan
    with pytest.raises(InterpretationError, match=f"node {told} no score, and would be in the circuit of"):
        NodeRanking(GROUPED, scores)


def test_a_circuit_larger_than_its_size_is_refused() -> None:
    ranking = Ranking(GROUPED, np.random.default_rng(0).random(GROUPED.exists.shape))
    circuit = Circuit.top(GROUPED, ranking.scores, 7, absolute=True, pruned=False)
    share = 7 / GROUPED.edges
    assert Sized(GROUPED, {share: circuit, 0.9: circuit}).sizes == (share, 0.9)
    with pytest.raises(InterpretationError, match=rf"of size 0.01 keeps 7 of {GROUPED.edges} edges"):
        Sized(GROUPED, {0.01: circuit})


@pytest.mark.parametrize("size", [*SIZES[5:]])
def test_no_ranking_gives_more_edges_than_the_size_says(size: float) -> None:
    """Of nodes too: those between a share of the nodes are fewer than that share of the edges."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        edges = Ranking(GROUPED, generator.standard_normal(GROUPED.exists.shape))
        nodes = NodeRanking(GROUPED, generator.standard_normal(len(GROUPED.writers)))
        for ranking in (edges, nodes):
            for absolute in (True, False):
                assert ranking.at(size, absolute).edges <= size * GROUPED.edges


def test_without_the_input_among_them_nodes_make_no_circuit() -> None:
    scores = np.arange(len(GROUPED.writers), dtype=np.float64)
    assert NodeRanking(GROUPED, scores).at(0.5, True).edges == 0
    assert NodeRanking(GROUPED, -scores).at(0.5, False).edges > 0


def test_given_circuits_are_given_back() -> None:
    full, empty = Circuit.full(GROUPED), Circuit.empty(GROUPED)
    sized = Sized(GROUPED, {1.0: full, 0.0: empty})
    assert isinstance(sized, Circuits)
    assert sized.sizes == (0.0, 1.0)
    assert sized.at(1.0, True) is full
    with pytest.raises(InterpretationError, match=r"(?s)no circuit of size 0\.5.*0\.0, 1\.0"):
        sized.at(0.5, True)


def test_what_ranks_nothing_is_refused() -> None:
    scores = scored(GROUPED)
    writer, reader = GROUPED.place("m0->logits")
    scores[writer, reader] = np.nan
    with pytest.raises(InterpretationError, match=r"the score of edge m0->logits is nan\n"):
        Ranking(GROUPED, scores)
    with pytest.raises(InterpretationError, match=r"shape \(3,\)"):
        NodeRanking(GROUPED, np.zeros(3))
    with pytest.raises(InterpretationError, match="infinite, or there are none"):
        NodeRanking(GROUPED, np.full(len(GROUPED.writers), np.nan))
    with pytest.raises(InterpretationError, match=r"size 2\.0 is no share"):
        Ranking(GROUPED, scored(GROUPED)).at(2.0, True)
    with pytest.raises(InterpretationError, match="circuits of sizes none"):
        Sized(GROUPED, {})
    with pytest.raises(InterpretationError, match="another graph"):
        Sized(GROUPED, {1.0: Circuit.full(GRAPHS["plain"])})
