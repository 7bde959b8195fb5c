"""Submissions of circuits: scores that rank edges or nodes, or circuits given outright.

1. A ranking of edges gives a circuit at every size: the ⌊size·E⌋ edges of largest score, then pruned. As in
   MIB, the product is rounded down; edges of equal score are taken in the order of the graph.
2. A ranking of nodes gives the ⌊size·N⌋ best of N scored nodes, all nodes without a score, and all edges
   between them, then pruned.
3. Given circuits have one size each; nothing is ranked.

Scores count with their sign or by absolute value: MIB uses signed scores for its CPR, absolute ones for its
CMD.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025 (`evaluate_area_under_curve`),
and EAP-IG's `Graph.apply_topn` and `Graph.prune`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from remainder.circuit.circuit import Circuit, between
from remainder.errors import InterpretationError
from remainder.model.architecture import Graph
from remainder.task.spec import SIZES

__all__ = ["Circuits", "NodeRanking", "Ranking", "Sized", "ties_of"]


@runtime_checkable
class Circuits(Protocol):
    """A family of circuits, one for each of some sizes."""

    @property
    def graph(self) -> Graph: ...

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes to look at, ascending."""

    def at(self, size: float, absolute: bool) -> Circuit:
        """The circuit of a size, ranked by absolute or by signed scores, where there are any."""


@dataclass(frozen=True)
class Ranking:
    """A ranking by scores of all edges.

    Raises:
        InterpretationError: if the shape is wrong, or an edge's score is not finite.
    """

    graph: Graph
    scores: NDArray[np.float64]
    """[writers, readers]; entries that are not edges are ignored."""
    sizes = SIZES
    """MIB's shares of all edges."""

    def __post_init__(self) -> None:
        if self.scores.shape != self.graph.exists.shape:
            raise InterpretationError(
                f"scores of shape {self.scores.shape}; expected {self.graph.exists.shape}: writers, readers",
                fix="give one score for every edge of the graph",
            )
        bad = self.graph.exists & ~np.isfinite(self.scores)
        if bad.any():
            writer, reader = (int(places[0]) for places in np.nonzero(bad))
            raise InterpretationError(
                f"the score of edge {self.graph.name(writer, reader)} is {self.scores[writer, reader]}"
                + (f"; {int(bad.sum()) - 1:,} more are NaN or infinite" if bad.sum() > 1 else ""),
                fix="score every edge by a finite number",
            )

    def at(self, size: float, absolute: bool) -> Circuit:
        """The circuit of the best edges, pruned, so that there may be fewer than asked for.

        Args:
            size: share of all edges, 0 to 1.
            absolute: whether to rank by absolute value instead of by signed score.
        """
        count = _count(size, self.graph.edges)
        return Circuit.top(self.graph, self.scores, count, absolute=absolute)


@dataclass(frozen=True)
class NodeRanking:
    """A ranking by scores of nodes: of all writers, which excludes the logits.

    Raises:
        InterpretationError: the shape is wrong, a score is infinite, or a node other than the input has none.
    """

    graph: Graph
    scores: NDArray[np.float64]
    """[writers]; a node with NaN has no score and is always kept, as in EAP-IG; only the input may be one."""
    sizes = SIZES
    """MIB's shares, here of the scored nodes."""

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.graph.writers),):
            raise InterpretationError(
                f"scores of shape {self.scores.shape}; expected ({len(self.graph.writers)},), one a node",
                fix="give one score for every node but the logits, NaN for those without",
            )
        if np.isinf(self.scores).any() or np.isnan(self.scores).all():
            raise InterpretationError(
                "scores of nodes are infinite, or there are none", fix="score nodes by finite numbers"
            )
        # Such nodes would be in circuits of every size, free of charge.
        without = [name for name, none in zip(self.graph.writers, np.isnan(self.scores), strict=True) if none]
        if without := [name for name in without if name != "input"]:
            more = f" and {len(without) - 1:,} more have" if len(without) > 1 else " has"
            raise InterpretationError(
                f"node {without[0]}{more} no score, and would be in the circuit of every size",
                fix="score all nodes, by 0 where one does not matter; the input alone may have no score",
            )

    def at(self, size: float, absolute: bool) -> Circuit:
        """The edges between the best nodes, pruned; empty if the input is scored and not among them.

        Args:
            size: share of the scored nodes, 0 to 1.
            absolute: whether to rank by absolute value instead of by signed score.
        """
        scored = ~np.isnan(self.scores)
        values = np.abs(self.scores) if absolute else self.scores
        ranked = np.nonzero(scored)[0][np.argsort(-values[scored], kind="stable")]
        chosen = ~scored
        chosen[ranked[: _count(size, len(ranked))]] = True
        return Circuit(self.graph, self.graph.exists & between(self.graph, chosen)).pruned()


@dataclass(frozen=True)
class Sized:
    """Circuits given outright, one for each of one or more sizes.

    Raises:
        InterpretationError: there is none, a size is not a share, or a circuit is of another graph or keeps
            more edges than its size says.
    """

    graph: Graph
    circuits: Mapping[float, Circuit]
    """Circuits by size, a share of all edges."""

    def __post_init__(self) -> None:
        if not self.circuits or not all(0 <= size <= 1 for size in self.circuits):
            raise InterpretationError(
                f"circuits of sizes {', '.join(map(str, self.circuits)) or 'none'}",
                fix="give at least one circuit, by its share of all edges, 0 to 1",
            )
        if any(circuit.graph != self.graph for circuit in self.circuits.values()):
            raise InterpretationError("a circuit is of another graph", fix="make all for one model")
        for size, circuit in self.circuits.items():
            if circuit.edges > size * self.graph.edges * (1 + 1e-9):
                raise InterpretationError(
                    f"the circuit of size {size:g} keeps {circuit.edges:,} of {self.graph.edges:,} edges",
                    fix="give each at least the size that it has: its edges over all edges",
                )

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes given, ascending."""
        return tuple(sorted(self.circuits))

    def at(self, size: float, absolute: bool) -> Circuit:
        """The circuit of a size; `absolute` changes nothing.

        Raises:
            InterpretationError: if there is none of this size.
        """
        if size not in self.circuits:
            raise InterpretationError(
                f"there is no circuit of size {size}", fix=f"choose one of {', '.join(map(str, self.sizes))}"
            )
        return self.circuits[size]


def ties_of(circuits: Circuits) -> int:
    """Edges, or nodes, whose score has the size of the one before: their place in the graph decides.

    None of circuits that were given outright.
    """
    if isinstance(circuits, Ranking):
        scores = circuits.scores[circuits.graph.exists]
    elif isinstance(circuits, NodeRanking):
        scores = circuits.scores[~np.isnan(circuits.scores)]
    else:
        return 0
    sizes = np.sort(np.abs(scores))
    return int((sizes[1:] == sizes[:-1]).sum())


def _count(size: float, of: int) -> int:
    if not 0 <= size <= 1:
        raise InterpretationError(f"size {size} is no share", fix="sizes are from 0 to 1")
    return int(size * of)
