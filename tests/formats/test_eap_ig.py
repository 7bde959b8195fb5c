"""EAP-IG's files, against such that are written here, byte by byte, in their layout."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from circuit_files import GRAPHS, GROUPED, PLAIN, WRITTEN, Written, chosen, put

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats import eap_ig, mib
from remainder.formats.eap_ig_files import read, write
from remainder.model.architecture import Architecture, Graph


def test_the_order_is_that_of_a_file_of_mib() -> None:
    """Names at some places of `circuits/ioi-eap-ig.json` of the MIB track, GPT-2."""
    written = Written(12, 12, width=768)
    graph = Graph(Architecture(12, 12, 12, 768))
    names = [*json.loads(_bytes(eap_ig.stored(Circuit.full(graph))))["edges"]]
    assert names == written.edges
    assert names[:4] == ["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>", "input->a0.h1<q>"]
    assert names[34:38] == ["input->a0.h11<k>", "input->a0.h11<v>", "input->m0", "a0.h0->m0"]
    assert names[48:50] == ["a0.h11->m0", "input->a1.h0<q>"]
    assert names[84:87] == ["input->a1.h11<v>", "a0.h0->a1.h0<q>", "a0.h0->a1.h0<k>"][-3:]


def _bytes(content: Any) -> bytes:
    """What `write` puts into a JSON file."""
    from remainder.formats import eap_ig_files

    return eap_ig_files._json_bytes(content)


@pytest.mark.parametrize("name", ["plain", "parallel"])
@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("extra", [{}, {"model_name": "toy", "n_ctx": 64}])
def test_what_is_read_is_written_byte_by_byte(
    tmp_path: Path, name: str, flags: bool, extra: dict[str, Any]
) -> None:
    written, graph = WRITTEN[name], GRAPHS[name]
    content = written.json(*chosen(written, graph)) if flags else written.json()
    content["cfg"] |= extra
    path = put(tmp_path / "circuit.json", content)
    write(tmp_path / "again.json", read(path, graph))
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    # Over tensors, and back.
    write(tmp_path / "over.pt", read(path, graph))
    write(tmp_path / "back.json", read(tmp_path / "over.pt", graph))
    assert (tmp_path / "back.json").read_bytes() == path.read_bytes()
    expected, found = (
        torch.load(p, weights_only=True)
        for p in (put(tmp_path / "their.pt", written.pt(content)), tmp_path / "over.pt")
    )
    assert found.keys() == expected.keys()
    for field, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[field], value, rtol=0, atol=0)
        else:
            assert found[field] == value


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_rankings_and_circuits_come_back_exactly(tmp_path: Path, name: str, ending: str) -> None:
    graph = GRAPHS[name]
    generator = np.random.default_rng(1)
    scores = np.where(graph.exists, generator.standard_normal(graph.exists.shape), 0.0)
    eap_ig.save(tmp_path / f"scores{ending}", Ranking(graph, scores))
    found, notes = eap_ig.load(tmp_path / f"scores{ending}", graph)
    assert isinstance(found, Ranking)
    np.testing.assert_array_equal(found.scores, scores)
    assert notes == ()
    circuit = Ranking(graph, scores).at(0.3, True)
    assert 0 < circuit.edges < graph.edges
    eap_ig.save(tmp_path / f"circuit{ending}", circuit)
    back, notes = eap_ig.load(tmp_path / f"circuit{ending}", graph)
    assert isinstance(back, Sized)
    assert back.sizes == (circuit.edges / graph.edges,)
    np.testing.assert_array_equal(back.at(back.sizes[0], True).kept, circuit.kept)
    assert notes == ()
    nodes = generator.standard_normal(len(graph.writers))
    nodes[0] = np.nan
    eap_ig.save(tmp_path / f"nodes{ending}", NodeRanking(graph, nodes))
    ranked, notes = eap_ig.load(tmp_path / f"nodes{ending}", graph)
    assert isinstance(ranked, NodeRanking)
    np.testing.assert_array_equal(ranked.scores, nodes)
    assert notes == ()
    assert b"NaN" not in (tmp_path / f"nodes{ending}").read_bytes()


def test_an_empty_circuit_comes_back(tmp_path: Path) -> None:
    eap_ig.save(tmp_path / "none.json", Circuit.empty(PLAIN))
    found, _ = eap_ig.load(tmp_path / "none.json", PLAIN)
    assert found.sizes == (0.0,)
    assert found.at(0.0, True).edges == 0


@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_edges_of_query_heads_are_merged_into_groups(tmp_path: Path, ending: str) -> None:
    """Heads 0 and 1 are group 0; by hand: scores of a0.h0<k> and a0.h1<k> add up, flags too."""
    written = WRITTEN["grouped"]
    content = written.json()
    path = put(tmp_path / f"scores{ending}", content if ending == ".json" else written.pt(content))
    found, notes = eap_ig.load(path, GROUPED)
    assert isinstance(found, Ranking)
    for name, writer, reader in GROUPED.names():
        source, _, target = name.partition("->")
        parts = [name]
        if target[-2:-1] in ("k", "v"):
            layer, _, group = target[:-3].partition(".h")
            parts = [f"{source}->{layer}.h{2 * int(group) + more}{target[-3:]}" for more in (0, 1)]
        assert found.scores[writer, reader] == sum(written.scores[part] for part in parts), name
    assert "keys and values of 2 heads are one edge here: 110 edges of the file became 82" in notes[0]
    kept = {"input->a0.h3<v>", "a0.h2->m0", "m0->logits", "a0.h3->logits"}
    nodes = {"input", "a0.h2", "a0.h3", "m0"}
    flagged = written.json(kept, nodes)
    for entry in flagged["edges"].values():
        entry["score"] = 0.0
    path = put(tmp_path / f"flags{ending}", flagged if ending == ".json" else written.pt(flagged))
    found, _ = eap_ig.load(path, GROUPED)
    # The value of group 1 feeds head 2 too, but in the file a0.h2->m0 leads from nowhere.
    assert found.at(found.sizes[0], True).names() == ["input->a0.h1<v>", "a0.h3->logits"]


@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_ungrouped_copies_can_be_written_for_other_tools(tmp_path: Path, ending: str) -> None:
    """What is written has all names that EAP-IG knows, and reads back to the same."""
    scores = np.random.default_rng(4).standard_normal(GROUPED.exists.shape)
    eap_ig.save(tmp_path / f"u{ending}", Ranking(GROUPED, scores), ungrouped=True)
    if ending == ".json":
        assert [*json.loads((tmp_path / "u.json").read_text())["edges"]] == WRITTEN["grouped"].edges
    else:
        assert torch.load(tmp_path / "u.pt", weights_only=True)["dst_nodes"] == WRITTEN["grouped"].targets
    found, notes = eap_ig.load(tmp_path / f"u{ending}", GROUPED)
    assert isinstance(found, Ranking)
    np.testing.assert_allclose(found.scores, np.where(GROUPED.exists, scores, 0), rtol=3e-16, atol=0)
    assert len(notes) == 1
    circuit = Ranking(GROUPED, scores).at(0.4, True)
    eap_ig.save(tmp_path / f"c{ending}", circuit, ungrouped=True)
    found, _ = eap_ig.load(tmp_path / f"c{ending}", GROUPED)
    np.testing.assert_array_equal(found.at(found.sizes[0], True).kept, circuit.kept)


def test_files_of_groups_are_told_by_cfg_or_by_their_names(tmp_path: Path) -> None:
    scores = np.random.default_rng(4).standard_normal(GROUPED.exists.shape)
    eap_ig.save(tmp_path / "g.json", Ranking(GROUPED, scores))
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["cfg"].pop("n_key_value_heads") == 2
    found, notes = eap_ig.load(put(tmp_path / "bare.json", content), GROUPED)
    assert isinstance(found, Ranking)
    np.testing.assert_array_equal(found.scores, np.where(GROUPED.exists, scores, 0))
    assert notes == ()
    # Without either, a head's edge is a head's: a0.h1<k> is of group 0.
    few = {"cfg": content["cfg"], "nodes": {}, "edges": {"input->a0.h1<k>": True, "a0.h1->logits": True}}
    found, _ = eap_ig.load(put(tmp_path / "few.json", few), GROUPED)
    assert found.at(found.sizes[0], True).names() == ["input->a0.h0<k>", "a0.h1->logits"]


def test_flags_beside_scores_are_the_circuit_unless_the_file_is_one_of_importances(tmp_path: Path) -> None:
    written = WRITTEN["plain"]
    kept, nodes = chosen(written, PLAIN)
    content = written.json(kept, nodes)
    found, notes = eap_ig.load(put(tmp_path / "circuit.json", content), PLAIN)
    assert isinstance(found, Sized)
    assert set(found.at(found.sizes[0], True).names()) == kept
    assert notes == ()
    found, notes = eap_ig.load(put(tmp_path / "importances.json", content), PLAIN)
    assert isinstance(found, Ranking)
    assert notes == ("its flags are not looked at: the scores rank",)
    found, _ = eap_ig.load(tmp_path / "circuit.json", PLAIN, importances=True)
    assert isinstance(found, Ranking)
    for name, writer, reader in PLAIN.names():
        assert found.scores[writer, reader] == written.scores[name]


@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_flags_beside_scores_of_nodes_are_the_circuit_and_all_of_it(tmp_path: Path, ending: str) -> None:
    """Nodes that are kept and score high bring no edge along that is not flagged."""
    written = WRITTEN["plain"]
    kept = {"input->m0", "m0->logits"}
    content = written.json(kept, written.nodes)
    for node in content["nodes"].values():
        node["score"] = 1e9
    tensors = written.pt(content) | {"nodes_scores": torch.full((len(written.nodes) - 1,), 1e9)}
    path = put(tmp_path / f"c{ending}", content if ending == ".json" else tensors)
    found, _ = eap_ig.load(path, PLAIN)
    assert isinstance(found, Sized)
    assert found.sizes == (2 / PLAIN.edges,)
    assert set(found.at(found.sizes[0], True).names()) == kept
    for name in [*content["edges"]]:  # without a score of edges, flags of these count as well
        del content["edges"][name]["score"]
    del tensors["edges_scores"]
    path = put(tmp_path / f"n{ending}", content if ending == ".json" else tensors)
    found, _ = eap_ig.load(path, PLAIN)
    assert set(found.at(found.sizes[0], True).names()) == kept


def test_flags_that_are_no_top_of_the_scores_are_said(tmp_path: Path) -> None:
    written = WRITTEN["plain"]
    kept, nodes = chosen(written, PLAIN)
    # Of those that are left out, an edge between nodes that are kept.
    other = next(
        name
        for name in sorted(written.edges, key=lambda name: abs(written.scores[name]))
        if {part.partition("<")[0] for part in name.split("->")} <= nodes
    )
    found, notes = eap_ig.load(put(tmp_path / "c.json", written.json(kept | {other}, nodes)), PLAIN)
    assert set(found.at(found.sizes[0], True).names()) == kept | {other}
    assert len(notes) == 1
    assert f"the {len(kept) + 1} edges it keeps are not those of largest score" in notes[0]
    # By sign, too, a top is one.
    ranked = sorted(written.edges, key=lambda name: -written.scores[name])[: len(written.edges) // 2]
    signed = Circuit.of_edges(PLAIN, ranked).pruned().names()
    _, notes = eap_ig.load(put(tmp_path / "s.json", written.json(set(signed), set(written.nodes))), PLAIN)
    assert signed
    assert notes == ()


def test_edges_that_lead_nowhere_are_pruned_and_said(tmp_path: Path) -> None:
    written = WRITTEN["plain"]
    content = written.json({"input->m0", "m0->logits", "a0.h0->m1"}, {"input", "m0"})
    found, notes = eap_ig.load(put(tmp_path / "c.json", content), PLAIN)
    assert found.at(found.sizes[0], True).names() == ["input->m0", "m0->logits"]
    assert "1 kept edges on no path from the input to the logits were pruned" in notes


OLDER: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no d_model, flags of nodes": lambda c: {
        "cfg": {name: value for name, value in c["cfg"].items() if name != "d_model"},
        "nodes": {name: entry["in_graph"] for name, entry in c["nodes"].items()},
        "edges": c["edges"],
    },
    "flags only": lambda c: c | {"edges": {n: {"in_graph": e["in_graph"]} for n, e in c["edges"].items()}},
    "bare flags": lambda c: c | {"edges": {n: e["in_graph"] for n, e in c["edges"].items()}},
    "those kept": lambda c: c | {"edges": {n: e for n, e in c["edges"].items() if e["in_graph"]}},
}


@pytest.mark.parametrize("name", OLDER)
def test_other_forms_of_circuits_are_read(tmp_path: Path, name: str) -> None:
    written = WRITTEN["plain"]
    kept, nodes = chosen(written, PLAIN)
    content = OLDER[name](written.json(kept, nodes))
    found, notes = eap_ig.load(put(tmp_path / "c.json", content), PLAIN)
    assert isinstance(found, Sized)
    assert set(found.at(found.sizes[0], True).names()) == kept
    said = [
        f"{len(written.edges) - len(kept)} of {len(written.edges)} edges are not listed: not kept, score 0"
    ]
    assert list(notes) == (said if name == "those kept" else [])


def test_bare_scores_rank_and_what_is_missing_is_zero(tmp_path: Path) -> None:
    written = WRITTEN["plain"]
    content = written.json()
    content["edges"] = {name: score for name, score in written.scores.items() if name != "m0->logits"}
    found, notes = eap_ig.load(put(tmp_path / "s.json", content), PLAIN)
    assert isinstance(found, Ranking)
    assert found.scores[PLAIN.place("m0->logits")] == 0
    assert found.scores[PLAIN.place("m1->logits")] == written.scores["m1->logits"]
    assert notes == (f"1 of {len(written.edges)} edges are not listed: not kept, score 0",)


@pytest.mark.parametrize("ending", [".json", ".pt"])
def test_a_circuit_without_scores_has_none_when_it_is_written(tmp_path: Path, ending: str) -> None:
    written = WRITTEN["plain"]
    content = OLDER["flags only"](written.json(*chosen(written, PLAIN)))
    source = put(tmp_path / "c.json", content)
    write(tmp_path / f"d{ending}", read(source, PLAIN))
    write(tmp_path / "e.json", read(tmp_path / f"d{ending}", PLAIN))
    assert (tmp_path / "e.json").read_bytes() == source.read_bytes()


def test_nodes_alone_keep_all_edges_between_them(tmp_path: Path) -> None:
    content = {"cfg": WRITTEN["plain"].cfg, "nodes": {"a0.h1": True, "m1": True, "m0": False}, "edges": {}}
    found, notes = eap_ig.load(put(tmp_path / "c.json", content), PLAIN)
    expected = Circuit.of_nodes(PLAIN, ["a0.h1", "m1"])
    np.testing.assert_array_equal(found.at(found.sizes[0], True).kept, expected.kept)
    assert notes == ("no edges are listed: all those between its nodes",)


def test_flags_of_a_circuit_of_nodes_are_cut_to_edges(tmp_path: Path) -> None:
    """EAP-IG's topn of nodes flags whole rows, and pruning leaves all pairs of kept nodes."""
    written = WRITTEN["plain"]
    content = written.pt(written.json(set(), {"input", "m0", "a1.h0"}))
    readers = ["m0", "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "logits"]
    for node in ("input", "m0", "a1.h0"):
        for reader in readers:
            content["edges_in_graph"][content["src_nodes"].index(node), written.targets.index(reader)] = True
    content["edges_scores"].zero_()
    found, notes = eap_ig.load(put(tmp_path / "c.pt", content), PLAIN)
    expected = Circuit.of_nodes(PLAIN, ["m0", "a1.h0"])
    np.testing.assert_array_equal(found.at(found.sizes[0], True).kept, expected.kept)
    assert notes == ("a circuit of nodes: 5 flags where there is no edge were left out",)


def test_tensors_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    written = WRITTEN["plain"]
    content = written.pt(written.json(*chosen(written, PLAIN)))
    rows = torch.randperm(len(content["src_nodes"]), generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(len(content["dst_nodes"]), generator=torch.Generator().manual_seed(2))
    turned = content | {
        "src_nodes": [content["src_nodes"][row] for row in rows],
        "dst_nodes": [content["dst_nodes"][column] for column in columns],
        "edges_scores": content["edges_scores"][rows][:, columns],
        "edges_in_graph": content["edges_in_graph"][rows][:, columns],
        "nodes_in_graph": content["nodes_in_graph"][rows],
    }
    first, second = (read(put(tmp_path / f"{n}.pt", c), PLAIN) for n, c in (("a", content), ("b", turned)))
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.kept, second.kept)
    np.testing.assert_array_equal(first.nodes_kept, second.nodes_kept)


def changed(**change: Any) -> dict[str, Any]:
    content = WRITTEN["plain"].json({"input->m0", "m0->logits"}, {"input", "m0"})
    for place, value in change.items():
        content[place] = content[place] | value if isinstance(value, dict) else value
    return content


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        changed(cfg={"n_layers": 12, "d_model": 768}),
        "another architecture: cfg says n_layers = 12, n_heads = 3, parallel_attn_mlp = False, d_model = 768"
        "; the task's model has n_layers = 2, n_heads = 3, parallel_attn_mlp = False, d_model = 8",
    ),
    "parallel": (changed(cfg={"parallel_attn_mlp": True}), "says .* parallel_attn_mlp = True.*False"),
    "groups": (
        changed(cfg={"n_key_value_heads": 1}),
        "says .*n_key_value_heads = 1; .*n_key_value_heads = 3",
    ),
    "cfg": (changed(cfg=None), "cfg is None"),
    "bare cfg": ({**changed(), "cfg": {"n_layers": 2}}, "cfg lacks n_heads, parallel_attn_mlp"),
    "no nodes": ({"cfg": WRITTEN["plain"].cfg, "edges": {}}, "it lacks nodes; expected cfg, edges, nodes"),
    "more": (changed(extra=1) if False else {**changed(), "supernodes": {}}, "it has supernodes"),
    "neurons": ({**changed(), "neurons": {}}, "it has neurons; circuits of single neurons are not measured"),
    "a node's neurons": (
        changed(nodes={"m0": {"in_graph": True, "neurons": [True] * 8}}),
        "node m0 has neurons; circuits of single neurons",
    ),
    "list": (changed(edges=[]), r"edges is no object: \[\]"),
    "missing node": (changed(edges={"m9->logits": 1.0}), "edge m9->logits: this model has no node 'm9'"),
    "listed node": (changed(nodes={"a0.h7": True}), "edge a0.h7->logits: this model has no node 'a0.h7'"),
    "cycle": (changed(edges={"m1->a0.h0<q>": True}), "m1->a0.h0<q> goes backwards.*close a cycle"),
    "nan": (changed(edges={"m0->logits": float("nan")}), "the score of edge m0->logits is nan"),
    "infinite": (changed(nodes={"m0": {"score": float("inf")}}), "the score of node m0 is inf"),
    "text": (changed(edges={"m0->logits": {"score": "high"}}), "score of edge m0->logits is 'high'"),
    "no flag": (changed(edges={"m0->logits": {"in_graph": 1}}), "in_graph of edge m0->logits is 1"),
    "field": (
        changed(edges={"m0->logits": {"weight": 1}}),
        "edge m0->logits has weight; expected in_graph, score",
    ),
    "flags disagree": (
        changed(nodes={"m0": {"in_graph": False}}),
        "in_graph of edge input->m0 is true, of its node m0 false, and so it is with 1 more edges",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_once(tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    path = put(tmp_path / "c.json", content)
    with pytest.raises(InterpretationError) as caught:
        eap_ig.load(path, PLAIN)
    assert re.search(says, caught.value.what)
    assert caught.value.what.count(str(path)) == 1
    assert caught.value.fix


def tensors(**change: Any) -> dict[str, Any]:
    written = WRITTEN["plain"]
    return written.pt(changed()) | change


FULL = torch.ones(9, 21, dtype=torch.bool)
BAD_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "names": (tensors(src_nodes=["input"]), "src_nodes has 1 names; expected the 9 of this model.*a0.h0"),
    "shape": (tensors(edges_in_graph=FULL[:4]), r"edges_in_graph is of shape \(4, 21\); .* shape \(9, 21\)"),
    "no tensor": (tensors(nodes_in_graph=[1]), "nodes_in_graph is a list"),
    "no flags": (tensors(nodes_in_graph=torch.arange(9)), "nodes_in_graph holds other values"),
    "cycle": (tensors(edges_in_graph=FULL), "a0.h0->a0.h0<q> goes backwards.*close a cycle"),
    "nan": (tensors(edges_scores=torch.full((9, 21), torch.nan)), "score of edge input->a0.h0<q> is nan"),
    "node": (tensors(nodes_scores=torch.full((9,), torch.inf)), "score of node input is inf"),
    "neurons": (tensors(neurons_in_graph=torch.ones(9, 8)), "neurons_in_graph; circuits of single neurons"),
    "missing": ({"cfg": WRITTEN["plain"].cfg}, "it lacks dst_nodes, edges_in_graph"),
    "architecture": (tensors(cfg=WRITTEN["grouped"].cfg), "another architecture: cfg says .*n_heads = 4"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_what_is_wrong_with_tensors_is_said_once(tmp_path: Path, name: str) -> None:
    content, says = BAD_TENSORS[name]
    path = put(tmp_path / "c.pt", content)
    with pytest.raises(InterpretationError) as caught:
        eap_ig.load(path, PLAIN)
    assert re.search(says, caught.value.what)
    assert caught.value.what.count(str(path)) == 1


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json", WRITTEN["plain"].json())
    path.write_bytes(path.read_bytes()[:-9])
    assert eap_ig.found_in(path)
    with pytest.raises(InterpretationError, match=r"(?s)c\.json is not valid JSON .*may be truncated"):
        eap_ig.load(path, PLAIN)
    text = json.dumps(WRITTEN["plain"].json()).replace('"edges": {', '"edges": {"m0->logits": 1, ')
    path.write_text(text)
    with pytest.raises(InterpretationError, match="'m0->logits' stands there twice"):
        eap_ig.load(path, PLAIN)
    path.write_text('["cfg"]')
    with pytest.raises(InterpretationError, match="holds no JSON object"):
        eap_ig.load(path, PLAIN)
    path = put(tmp_path / "c.pt", tensors())
    path.write_bytes(path.read_bytes()[:-200])
    assert not eap_ig.found_in(path)
    with pytest.raises(
        InterpretationError, match=r"c\.pt \(.* kB\) is no file that torch\.save wrote, or it is tr"
    ):
        eap_ig.load(path, PLAIN)
    for name in ("c.pkl", "old.pickle"):
        (tmp_path / name).write_bytes(pickle.dumps({"cfg": 1}))
        assert not eap_ig.found_in(tmp_path / name)
        with pytest.raises(
            InterpretationError, match=r"(?s)is a pickle, and these are never loaded.*to_json"
        ):
            eap_ig.load(tmp_path / name, PLAIN)
    with pytest.raises(InterpretationError, match=r"none\.json does not exist"):
        eap_ig.load(tmp_path / "none.json", PLAIN)
    (tmp_path / "c.yaml").write_text("cfg: 1")
    with pytest.raises(InterpretationError, match=r"c\.yaml is text that is no JSON"):
        eap_ig.load(tmp_path / "c.yaml", PLAIN)
    with pytest.raises(InterpretationError, match=r"ends in neither"):
        eap_ig.save(tmp_path / "c.yaml", Circuit.full(PLAIN))


class _Opened:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path = put(tmp_path / "c.pt", tensors(cfg=_Opened(tmp_path / "opened")))
    with pytest.raises(InterpretationError, match=r"c\.pt holds more than tensors and plain values: getattr"):
        eap_ig.load(path, PLAIN)
    assert not (tmp_path / "opened").exists()


def test_importances_that_score_nothing_are_refused(tmp_path: Path) -> None:
    eap_ig.save(tmp_path / "importances.json", Circuit.empty(PLAIN))
    with pytest.raises(InterpretationError, match=r"importances\.json scores no edge and no node"):
        eap_ig.load(tmp_path / "importances.json", PLAIN)


def test_only_such_files_are_taken_for_them(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "d_in": 8}))
    torch.save({"bias": torch.zeros(3)}, tmp_path / "ae.pt")
    assert not eap_ig.found_in(tmp_path / "cfg.json")
    assert not eap_ig.found_in(tmp_path / "ae.pt")
    assert not mib.found_in(tmp_path)
    assert not eap_ig.found_in(tmp_path)
    assert eap_ig.found_in(put(tmp_path / "c.pt", tensors()))
    assert mib.found_in(tmp_path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x", "edges_in_graph")
    (tmp_path / "z.pt").write_bytes(stream.getvalue())
    assert not eap_ig.found_in(tmp_path / "z.pt")
