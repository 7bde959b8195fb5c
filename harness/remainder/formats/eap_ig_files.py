"""The layouts of EAP-IG's files, JSON and .pt: their content as arrays, and back.

1. JSON: cfg {n_layers, n_heads, parallel_attn_mlp, d_model}; nodes {name: {in_graph, score}}, or
   {name: flag}; edges {name: {score, in_graph}}, or {name: score}, or {name: flag}.
2. .pt: cfg, src_nodes, dst_nodes, edges_scores, edges_in_graph, nodes_in_graph, nodes_scores; of these the
   scores may be missing. Nothing but tensors and plain values is ever loaded.
3. An edge or a node that is not listed has no flag, and an edge the score 0, as when EAP-IG reads the file.
   If no edges are listed at all, but nodes are kept, all edges between these are. Fields that are not known
   are refused by name; those of cfg that describe the model are kept.
4. What was read is written as it was: JSON that EAP-IG wrote comes back byte by byte. The one exception is
   the NaN of nodes without a score; these are written without one, which EAP-IG reads as the same.

Source: https://github.com/hannamw/EAP-IG, `src/eap/graph.py`; MIB's `circuit_loading.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.files import LARGEST, brief, parse_json, read_text, require_file
from remainder.circuit.circuit import between
from remainder.errors import InterpretationError
from remainder.formats.archives import require_saved
from remainder.formats.eap_ig_fields import AGAIN, ENTRY, JSON, PT, check_fields, graph_of
from remainder.formats.known import Ignore
from remainder.formats.recognition import Seen, look
from remainder.formats.tensors import load_torch, odd_kind
from remainder.model.architecture import INPUTS, Graph
from remainder.record.json import write_atomically

__all__ = [
    "ENDINGS",
    "StoredCircuit",
    "read",
    "require",
    "write",
]

ENDINGS = frozenset({".json", ".pt"})
"""Endings of files that are written; files that are read are recognised by their content (`recognition`)."""

_PT_SCORES = {"edges_scores", "nodes_scores"}
_SAFE = (
    "only tensors and plain values are ever loaded; where you trust it, convert it once with EAP-IG: "
    "Graph.from_pt(FILE).to_json('circuit.json')"
)


@dataclass(frozen=True)
class StoredCircuit:
    """The content of a file."""

    graph: Graph
    """The graph of the file, with a key and a value edge for each head or group, as the file has them."""
    cfg: Mapping[str, Any]
    kept: NDArray[np.bool_]
    """[writers, readers]"""
    scores: NDArray[np.float64] | None
    """[writers, readers]; None: the file has none."""
    nodes_kept: NDArray[np.bool_]
    """[writers]"""
    node_scores: NDArray[np.float64] | None = None
    """[writers]; NaN: this node has none."""
    flagged: NDArray[np.bool_] | None = None
    """[writers]: which nodes the file has flags of; None: of all."""
    notes: tuple[str, ...] = ()
    """Notes on what was filled in or left out on reading."""


def read(path: Path, graph: Graph, ignore: Ignore | None = None) -> StoredCircuit:
    """Read a file of the architecture of `graph`.

    Args:
        path: .json or .pt.
        graph: of the task's model.
        ignore: fields to be passed over.

    Raises:
        InterpretationError: it is damaged, something else, of another architecture, names an edge that is
            none, has a score that is not finite, or a field that is not known.
    """
    seen = look(path)
    _refuse_others(path, seen)
    try:
        passed = Ignore() if ignore is None else ignore
        if seen.form == "torch":
            return _of_pt(_loaded(path), graph, passed)
        return _of_json(_parsed(path), graph, passed)
    except InterpretationError as problem:
        what = problem.what if problem.what.startswith(str(path)) else f"{path}: {problem.what}"
        raise InterpretationError(what, fix=problem.fix) from None


def require(path: Path) -> None:
    """Whether a file may be one of EAP-IG's, before it is hashed.

    Raises:
        InterpretationError: it is seen to be something else, or too large.
    """
    seen = look(path)
    _refuse_others(path, seen)
    if seen.form == "torch":
        require_saved(path)
    else:
        require_file(path, most=LARGEST)


def _refuse_others(path: Path, seen: Seen) -> None:
    """Refuse what is told to be something else; of what is not, the reader says what it lacks."""
    if seen.format == "feature-graph":
        raise InterpretationError(
            f"{path} is a graph of circuit-tracer, of features; expected a circuit of heads and MLPs",
            fix='name it in a submission.toml of the format "feature-graph"',
        )
    if seen.format is None and (seen.is_known or seen.form == "other"):
        raise seen.refused(path)


def write(path: Path, content: StoredCircuit) -> None:
    """Write a file, whole or not at all.

    Raises:
        InterpretationError: the path ends in neither .json nor .pt.
    """
    if path.suffix not in ENDINGS:
        raise InterpretationError(f"{path} ends in neither .json nor .pt", fix="name the file so")
    write_atomically(path, _json_bytes(content) if path.suffix == ".json" else _pt_bytes(content))


def _parsed(path: Path) -> dict[str, Any]:
    """The object in a JSON file, in which no key is twice."""
    content = parse_json(read_text(path, "JSON", most=LARGEST), path, nan=True)
    if not isinstance(content, dict):
        raise InterpretationError("it holds no JSON object", fix="give cfg, nodes and edges")
    return content


def _loaded(path: Path) -> dict[str, Any]:
    """Load what torch.save wrote, if it is nothing but tensors and plain values."""
    content = load_torch(path, "tensors and plain values", _SAFE)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InterpretationError("it holds no values by name", fix=_SAFE)
    return content


def _of_json(content: Mapping[str, Any], graph: Graph, ignore: Ignore) -> StoredCircuit:
    check_fields(content, "it", JSON, set(), ignore)
    nodes, edges = content["nodes"], content["edges"]
    for name in ("nodes", "edges"):
        if not isinstance(content[name], dict):
            raise InterpretationError(
                f"{name} is no object: {content[name]!r:.60}", fix=f"give {name} by name"
            )
    listed = {name.rpartition("->")[2] for name in edges}
    own, notes = graph_of(content["cfg"], graph, listed, ignore)
    places = {name: (writer, reader) for name, writer, reader in own.names()}
    kept, scores, scored = np.zeros_like(own.exists), np.zeros(own.exists.shape), np.zeros_like(own.exists)
    for name, entry in edges.items():
        place = places.get(name) or own.place(name)
        flag, score = _entry(f"edge {name}", entry, ignore, "edges.")
        kept[place] = bool(flag)
        if score is not None:
            _check_finite(f"edge {name}", score)
            scores[place], scored[place] = score, True
    nodes_kept, flagged = np.zeros((2, len(own.writers)), dtype=np.bool_)
    node_scores = np.full(len(own.writers), np.nan)
    for name, entry in nodes.items():
        flag, score = _entry(f"node {name}", entry, ignore, "nodes.")
        if name == "logits":  # they write nothing, and are always kept
            continue
        if name not in own.writer_index:
            own.place(f"{name}->logits")  # raises the error in which the candidates are listed
        at = own.writer_index[name]
        nodes_kept[at], flagged[at] = bool(flag), flag is not None
        if score is not None and not np.isnan(score):
            _check_finite(f"node {name}", score)
            node_scores[at] = score
    if not edges and nodes_kept.any():
        nodes_kept[0] |= not flagged[0]
        kept = own.exists & between(own, nodes_kept)
        notes.append("no edges are listed: all those between its nodes")
    elif len(edges) < own.edges:
        notes.append(f"{own.edges - len(edges):,} of {own.edges:,} edges are not listed: not kept, score 0")
    elif scored.any() and not scored[own.exists].all():
        notes.append(f"{own.edges - int(scored.sum()):,} of {own.edges:,} edges have no score: 0")
    return StoredCircuit(
        own,
        content["cfg"],
        kept,
        scores if scored.any() else None,
        nodes_kept,
        None if np.isnan(node_scores).all() else node_scores,
        flagged,
        tuple(notes),
    )


def _entry(what: str, entry: Any, ignore: Ignore, within: str) -> tuple[bool | None, float | None]:
    """Flag and score of a node or an edge."""
    if not isinstance(entry, dict):
        entry = {"in_graph" if isinstance(entry, bool) else "score": entry}
    if not entry.keys() <= ENTRY.lines.keys():
        check_fields(entry, what, ENTRY, set(ENTRY.lines), ignore, within)
    flag, score = entry.get("in_graph"), entry.get("score")
    if not isinstance(flag, (bool, type(None))):
        raise InterpretationError(f"in_graph of {what} is {flag!r:.60}", fix="give true or false")
    if isinstance(score, bool) or not isinstance(score, (int, float, type(None))):
        raise InterpretationError(f"the score of {what} is {score!r:.60}", fix="give a number")
    return flag, None if score is None else float(score)


def _check_finite(what: str, score: float) -> None:
    if not np.isfinite(score):
        raise InterpretationError(f"the score of {what} is {score}", fix="give a finite number")


def _of_pt(content: Mapping[str, Any], graph: Graph, ignore: Ignore) -> StoredCircuit:
    # A graph of edges alone has None for the scores of its nodes, and for all that is of neurons.
    content = {
        name: value
        for name, value in content.items()
        if value is not None or not (name in _PT_SCORES or name.startswith("neurons"))
    }
    check_fields(content, "it", PT, _PT_SCORES, ignore)
    for field in ("src_nodes", "dst_nodes"):
        if not isinstance(content[field], (list, tuple)):
            raise InterpretationError(f"{field} is {brief(content[field])}; expected a list", fix=AGAIN)
    sources, targets = ([str(name) for name in content[field]] for field in ("src_nodes", "dst_nodes"))
    own, notes = graph_of(content["cfg"], graph, set(targets), ignore)
    for field, given, known in (("src_nodes", sources, own.writers), ("dst_nodes", targets, own.readers)):
        if sorted(given) != sorted(known):
            strange = ", ".join(sorted(set(given) ^ set(known))[:4])
            raise InterpretationError(
                f"{field} has {len(given):,} names; expected the {len(known):,} of this model, each once"
                + (f" (not in both: {strange})" if strange else ""),
                fix=AGAIN,
            )
    rows = np.argsort([own.writer_index[name] for name in sources])
    columns = np.argsort([own.reader_index[name] for name in targets])
    kept = _flags("edges_in_graph", content, rows, columns)
    nodes_kept = _flags("nodes_in_graph", content, rows)
    if (stray := kept & ~own.exists).any():
        # Of a circuit of nodes EAP-IG flags all pairs of kept nodes, whether there is an edge or not.
        if (kept != between(own, nodes_kept)).any():
            writer, reader = (int(place[0]) for place in np.nonzero(stray))
            own.place(own.name(writer, reader))
        notes.append(f"a circuit of nodes: {int(stray.sum()):,} flags where there is no edge were left out")
        kept = kept & own.exists
    scores = node_scores = None
    if "edges_scores" in content:
        scores = _array("edges_scores", content, rows, columns)
        for writer, reader in zip(*np.nonzero(own.exists & ~np.isfinite(scores)), strict=True):
            _check_finite(f"edge {own.name(int(writer), int(reader))}", float(scores[writer, reader]))
        if (outside := (scores != 0) & ~own.exists).any():
            notes.append(f"{int(outside.sum()):,} scores where there is no edge were left out")
        scores = np.where(own.exists, scores, 0.0)
    if "nodes_scores" in content:
        node_scores = _array("nodes_scores", content, rows)
        for place in np.nonzero(np.isinf(node_scores))[0]:
            _check_finite(f"node {own.writers[place]}", float(node_scores[place]))
    return StoredCircuit(own, content["cfg"], kept, scores, nodes_kept, node_scores, notes=tuple(notes))


def _array(name: str, content: Mapping[str, Any], *orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """A tensor, its axes in the order of the graph."""
    value, shape = content[name], tuple(len(order) for order in orders)
    if isinstance(value, Tensor) and (kind := odd_kind(value)):
        raise InterpretationError(f"{name} is {kind}; expected a dense one", fix="save it with to_dense()")
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InterpretationError(
            f"{name} is {what}; src_nodes and dst_nodes say that it is of shape {shape}", fix=AGAIN
        )
    if value.is_complex() or value.is_quantized:
        raise InterpretationError(
            f"{name} is stored as {str(value.dtype).removeprefix('torch.')}", fix="save it as float32"
        )
    array: NDArray[np.float64] = value.detach().to(torch.float64).numpy()[np.ix_(*orders)]
    return array


def _flags(name: str, content: Mapping[str, Any], *orders: NDArray[np.int64]) -> NDArray[np.bool_]:
    values = _array(name, content, *orders)
    if not np.isin(values, (0, 1)).all():
        raise InterpretationError(f"{name} holds other values than true and false", fix="save booleans")
    return values.astype(np.bool_)


def _in_order(graph: Graph) -> Iterator[tuple[int, int]]:
    """Edges in the order of EAP-IG: by layer; of heads by writer, head and input."""
    shape = graph.architecture
    stages = {stage.name: stage for stage in graph.stages}
    for layer in range(shape.layers):
        inputs = (f"a{layer}.h{head}<{kind}>" for head in range(shape.heads) for kind in INPUTS)
        heads = [graph.reader_index[name] for name in inputs if name in graph.reader_index]
        mlp = [graph.reader_index[f"m{layer}"]] if shape.mlps else []
        for writer in range(stages[f"a{layer}"].sees):
            yield from ((writer, reader) for reader in heads + (mlp if shape.parallel else []))
        if mlp and not shape.parallel:
            yield from ((writer, mlp[0]) for writer in range(stages[f"m{layer}"].sees))
    yield from ((writer, len(graph.readers) - 1) for writer in range(len(graph.writers)))


def _json_bytes(content: StoredCircuit) -> bytes:
    graph, scores, node_scores = content.graph, content.scores, content.node_scores
    nodes: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(graph.writers):
        nodes[name] = {"in_graph": bool(content.nodes_kept[place])}
        if node_scores is not None and not np.isnan(node_scores[place]):
            nodes[name]["score"] = float(node_scores[place])
    nodes["logits"] = {"in_graph": True}
    edges = {}
    for writer, reader in _in_order(graph):
        score = {} if scores is None else {"score": float(scores[writer, reader])}
        edges[graph.name(writer, reader)] = score | {"in_graph": bool(content.kept[writer, reader])}
    return json.dumps({"cfg": dict(content.cfg), "nodes": nodes, "edges": edges}).encode()


def _pt_bytes(content: StoredCircuit) -> bytes:
    saved: dict[str, Any] = {
        "cfg": dict(content.cfg),
        "src_nodes": list(content.graph.writers),
        "dst_nodes": list(content.graph.readers),
        "edges_in_graph": torch.from_numpy(content.kept.copy()),
        "nodes_in_graph": torch.from_numpy(content.nodes_kept.copy()),
    }
    if content.scores is not None:
        saved["edges_scores"] = _exact(content.scores)
    if content.node_scores is not None:
        saved["nodes_scores"] = _exact(content.node_scores)
    stream = io.BytesIO()
    torch.save(saved, stream)
    return stream.getvalue()


def _exact(values: NDArray[np.float64]) -> Tensor:
    """float32, as EAP-IG has it, or float64 if that would round."""
    single = values.astype(np.float32)
    return torch.from_numpy(single if np.array_equal(single, values, equal_nan=True) else values.copy())
