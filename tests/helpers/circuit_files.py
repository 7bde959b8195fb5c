"""Files of circuits as EAP-IG would write them, by its own loops, and what to put into them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remainder.circuit.circuit import Circuit
from remainder.model.architecture import Architecture, Graph

PLAIN = Graph(Architecture(2, 3, 3, 8))
PARALLEL = Graph(Architecture(2, 3, 3, 8, parallel=True))
GROUPED = Graph(Architecture(2, 4, 2, 8))
BLIND = Graph(Architecture(2, 3, 3, 8, mlps=False))
GRAPHS = {"plain": PLAIN, "parallel": PARALLEL, "grouped": GROUPED, "attention only": BLIND}


@dataclass
class Written:
    """What EAP-IG would write of a model, by its own order: lists of names, as its loops make them."""

    layers: int
    heads: int
    parallel: bool = False
    width: int = 8

    def __post_init__(self) -> None:
        self.nodes, self.edges, self.targets = ["input"], [], []
        stream = ["input"]
        for layer in range(self.layers):
            heads = [f"a{layer}.h{head}" for head in range(self.heads)]
            self.targets += [f"{head}<{kind}>" for kind in "qkv" for head in heads]
            self.targets.append(f"m{layer}")
            self.nodes += [*heads, f"m{layer}"]
            for node in stream:
                self.edges += [f"{node}->{head}<{kind}>" for head in heads for kind in "qkv"]
                if self.parallel:
                    self.edges.append(f"{node}->m{layer}")
            stream += heads
            if not self.parallel:
                self.edges += [f"{node}->m{layer}" for node in stream]
            stream.append(f"m{layer}")
        self.edges += [f"{node}->logits" for node in stream]
        self.nodes.append("logits")
        self.targets.append("logits")
        self.cfg = {
            "n_layers": self.layers,
            "n_heads": self.heads,
            "parallel_attn_mlp": self.parallel,
            "d_model": self.width,
        }
        # float32, as EAP-IG's scores are, in all magnitudes
        drawn = np.random.default_rng(5).standard_normal((2, len(self.edges)))
        values = (drawn[0] * 10.0 ** (3 * drawn[1])).astype(np.float32)
        self.scores = dict(zip(self.edges, map(float, values), strict=True))

    def json(self, kept: Collection[str] = (), nodes: Collection[str] = ()) -> dict[str, Any]:
        """As to_json does it, with flags of these edges and nodes."""
        nodes = {*nodes, "logits"}
        return {
            "cfg": dict(self.cfg),
            "nodes": {name: {"in_graph": name in nodes} for name in self.nodes},
            "edges": {n: {"score": self.scores[n], "in_graph": n in kept} for n in self.edges},
        }

    def pt(self, content: dict[str, Any]) -> dict[str, Any]:
        """The same in tensors."""
        sources = [name for name in content["nodes"] if name != "logits"]
        scores = torch.zeros(len(sources), len(self.targets))
        kept = torch.zeros(len(sources), len(self.targets), dtype=torch.bool)
        for name, entry in content["edges"].items():
            source, _, target = name.partition("->")
            place = sources.index(source), self.targets.index(target)
            scores[place], kept[place] = entry["score"], entry["in_graph"]
        return {
            "cfg": dict(content["cfg"]),
            "src_nodes": sources,
            "dst_nodes": list(self.targets),
            "edges_scores": scores,
            "edges_in_graph": kept,
            "nodes_in_graph": torch.tensor([content["nodes"][name]["in_graph"] for name in sources]),
        }


WRITTEN = {"plain": Written(2, 3), "parallel": Written(2, 3, parallel=True), "grouped": Written(2, 4)}


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_bytes(json.dumps(content).encode())
    else:
        torch.save(content, path)
    return path


def chosen(written: Written, graph: Graph) -> tuple[set[str], set[str]]:
    """A pruned circuit, as names of edges and of nodes: the third of the edges of largest size."""
    ranked = sorted(written.edges, key=lambda name: -abs(written.scores[name]))
    kept = Circuit.of_edges(graph, ranked[: len(ranked) // 3]).pruned().names()
    nodes = {part.partition("<")[0] for name in kept for part in name.split("->")}
    return set(kept), nodes
