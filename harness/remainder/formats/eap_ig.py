"""EAP-IG: a circuit or edge scores from a file, and files of them; the layouts are in `eap_ig_files`.

1. Flags are a circuit; scores without flags are a ranking, of edges, or of nodes if only these have scores.
   With both, the flags are the circuit, unless it is a file of importances (called so, or said to be one).
2. A circuit is pruned, as EAP-IG does before it runs one, and must not keep an edge, on a path from the input
   to the logits, of which it does not keep a node.
3. Grouped queries: EAP-IG gives every head its own key and value edges. Here they belong to a group of
   heads: scores are added, as attribution is linear; an edge is kept if any head's is.
4. Files are written with an edge a group, and come back exactly. Other tools take `ungrouped` ones: each
   head's copy has an equal part of the score, which adds up to it within its last digit.

Source: https://github.com/hannamw/EAP-IG, `src/eap/graph.py`, `src/eap/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import Circuits, NodeRanking, Ranking, Sized
from remainder.errors import InterpretationError
from remainder.formats.eap_ig_fields import GROUPS, config
from remainder.formats.eap_ig_files import StoredCircuit, read, require, write
from remainder.formats.known import Ignore
from remainder.formats.recognition import look
from remainder.model.architecture import Graph

__all__ = [
    "IMPORTANCES",
    "Found",
    "files",
    "found",
    "found_in",
    "load",
    "require",
    "save",
    "stored",
]

IMPORTANCES = "importances"
"""The name that MIB gives to files of scores."""


class Found(NamedTuple):
    """Circuits that were read or found."""

    circuits: Circuits
    notes: tuple[str, ...]
    """Notes for people on what was merged, filled in or decided."""


def found_in(path: Path) -> bool:
    """Whether `path` is a file in EAP-IG's layout, judged by its content; it may still be malformed."""
    return path.is_file() and look(path).format == "eap-ig"


def files(path: Path) -> list[Path]:
    """Files whose content can change a score: the file itself."""
    return [path]


def load(path: Path, graph: Graph, *, importances: bool | None = None, ignore: Ignore | None = None) -> Found:
    """Circuits for a model from a file.

    Args:
        path: JSON, or a file that torch.save wrote, with any ending.
        graph: of the task's model.
        importances: whether scores count where there are flags too; by default, if the file is called so.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: naming file and field, what was found and what was expected.
    """
    if importances is None:
        importances = path.stem.lower() == IMPORTANCES
    return found(read(path, graph, ignore), graph, path, importances=importances)


def save(path: Path, obj: Circuit | Ranking | NodeRanking, *, ungrouped: bool = False) -> None:
    """Write a circuit or scores as .json or .pt; see `stored`.

    Raises:
        InterpretationError: the path ends in neither.
    """
    write(path, stored(obj, ungrouped=ungrouped))


def found(content: StoredCircuit, graph: Graph, where: Path, *, importances: bool) -> Found:
    """Translate a file's content to the graph of the task's model; `where` names the file in messages.

    Raises:
        InterpretationError: an edge is kept and its node is not, or importances score nothing.
    """
    notes = list(content.notes)
    flags = bool(content.kept.any())
    if content.graph != graph:
        size = graph.architecture.heads // graph.architecture.groups
        notes.append(
            f"keys and values of {size} heads are one edge here: {content.graph.edges:,} edges of the file "
            f"became {graph.edges:,}; scores were added, an edge is kept if any was"
        )
    scores = content.scores if content.scores is not None and content.scores.any() else None
    node_scores = content.node_scores
    if importances and scores is None and node_scores is None and not flags:
        raise InterpretationError(
            f"{where} scores no edge and no node, and keeps none", fix="give scores, or flags of kept edges"
        )
    if importances or not flags:
        if flags and (scores is not None or node_scores is not None):
            notes.append("its flags are not looked at: the scores rank")
        if scores is not None:
            if node_scores is not None:
                notes.append("scores of nodes are not looked at: those of edges rank")
            return Found(Ranking(graph, _merged(scores, content.graph, graph)), tuple(notes))
        if node_scores is not None:
            return Found(NodeRanking(graph, node_scores), tuple(notes))
    _check_nodes(content, where)
    if not flags and content.nodes_kept.any():
        notes.append("it keeps nodes, and no edge: an empty circuit")
    if scores is not None and not _is_top(Circuit(content.graph, content.kept), scores):
        notes.append(
            f"the {int(content.kept.sum()):,} edges it keeps are not those of largest score, neither with "
            "sign nor by size; the flags are the circuit"
        )
    # Before heads are merged: what leads nowhere in the file must not do so through another head of a group.
    pruned = Circuit(content.graph, content.kept).pruned()
    if lost := int(content.kept.sum()) - pruned.edges:
        notes.append(f"{lost:,} kept edges on no path from the input to the logits were pruned")
    circuit = Circuit(graph, _merged(pruned.kept, content.graph, graph))
    return Found(Sized(graph, {circuit.edges / graph.edges: circuit}), tuple(notes))


def stored(
    obj: Circuit | Ranking | NodeRanking,
    *,
    scores: NDArray[np.float64] | None = None,
    ungrouped: bool = False,
) -> StoredCircuit:
    """The content of a file.

    Args:
        obj: a circuit, or scores of edges or nodes.
        scores: [writers, readers], to go with a circuit.
        ungrouped: a key and a value edge for every head, as EAP-IG reads them, and not for every group.
    """
    graph, shape = obj.graph, obj.graph.architecture
    target = Graph(replace(shape, groups=shape.heads)) if ungrouped else graph
    cfg = config(shape)
    if target.architecture.groups < shape.heads:
        cfg[GROUPS] = shape.groups
    kept: NDArray[np.bool_] = obj.kept if isinstance(obj, Circuit) else np.zeros_like(graph.exists)
    values = obj.scores if isinstance(obj, Ranking) else scores
    if values is None:  # EAP-IG reads no file without
        values = np.zeros(kept.shape)
    into = graph.fed_by()[kept.any(axis=0)].any(axis=0)
    source = _readers(target, graph)
    copies = np.bincount(source)[source]
    return StoredCircuit(
        graph=target,
        cfg=cfg,
        kept=kept[:, source],
        scores=np.where(target.exists, values[:, source] / copies, 0.0),
        nodes_kept=np.logical_or(kept.any(axis=1), into),
        node_scores=obj.scores if isinstance(obj, NodeRanking) else None,
    )


def _check_nodes(content: StoredCircuit, where: Path) -> None:
    """An edge on a path from the input to the logits is not kept if one of its nodes is not."""
    graph = content.graph
    on_path = Circuit(graph, content.kept).pruned().kept
    off = ~content.nodes_kept if content.flagged is None else content.flagged & ~content.nodes_kept
    feeds = graph.fed_by()
    into_off = feeds.any(1) & ~np.any(feeds & ~off[None], axis=1)  # a group's, if all its heads are off
    wrong = on_path & (off[:, None] | into_off[None])
    if wrong.any():
        writer, reader = (int(place[0]) for place in np.nonzero(wrong))
        node = graph.writers[writer] if off[writer] else graph.readers[reader].partition("<")[0]
        more = f", and so it is with {int(wrong.sum()) - 1:,} more edges" if wrong.sum() > 1 else ""
        raise InterpretationError(
            f"{where}: in_graph of edge {graph.name(writer, reader)} is true, of its node {node} false{more}",
            fix="keep the node too, or remove its edges",
        )


def _is_top(circuit: Circuit, scores: NDArray[np.float64]) -> bool:
    """Whether these are the best edges, of any number, pruned or not; ties may fall either way."""
    for values in (scores, np.abs(scores)):
        least = values[circuit.kept].min(initial=np.inf)
        best = circuit.graph.exists & (values > least) | circuit.kept
        if (best == circuit.kept).all() or (Circuit(circuit.graph, best).pruned().kept == circuit.kept).all():
            return True
    return False


def _readers(own: Graph, graph: Graph) -> NDArray[np.int64]:
    """[readers of own]: the reader of `graph` that each is, or is part of."""
    size = own.architecture.groups // graph.architecture.groups
    names = []
    for name in own.readers:
        node, _, kind = name.partition("<")
        layer, _, head = node.partition(".h")
        names.append(f"{layer}.h{int(head) // size}<{kind}" if kind in ("k>", "v>") else name)
    return np.array([graph.reader_index[name] for name in names])


def _merged(values: NDArray[Any], own: Graph, graph: Graph) -> NDArray[Any]:
    """[writers, readers of own] → [writers, readers of graph]: added, or any."""
    if own == graph:
        return values
    merged = np.zeros((len(graph.writers), len(graph.readers)), dtype=values.dtype)
    combine = np.logical_or if values.dtype == np.bool_ else np.add
    combine.at(merged.T, _readers(own, graph), values.T)
    return merged
