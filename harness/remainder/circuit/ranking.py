"""What a submission of a circuit is: scores that rank edges or nodes, or circuits that are given outright.

1. A ranking gives a circuit at every size: the ⌊size·E⌋ edges of largest score, then pruned. As MIB does it,
   the product is cut down, not rounded; edges of one score are taken in the order of the graph.
2. Scores of nodes give the ⌊size·N⌋ best of N scored nodes, those without a score always, and all edges
   between them; then pruned.
3. Given circuits have a size each; nothing is ranked.

By the sign or by size: MIB takes signed scores for its CPR, absolute ones for its CMD.

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025 (`evaluate_area_under_curve`),
and EAP-IG's `Graph.apply_topn` and `Graph.prune`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from remainder.circuit.circuit import Circuit
from remainder.errors import InterpretationError
from remainder.model.architecture import Graph
from remainder.task.spec import SIZES

__all__ = ["Circuits", "NodeRanking", "Ranking", "Sized", "between"]


@runtime_checkable
class Circuits(Protocol):
    """A circuit at every one of some sizes."""

    @property
    def graph(self) -> Graph: ...

    @property
    def sizes(self) -> tuple[float, ...]:
        """Where to look, ascending."""

    def at(self, size: float, absolute: bool) -> Circuit:
        """The circuit of a size; by size of the scores or with their sign, where there are any."""


@dataclass(frozen=True)
class Ranking:
    """Scores of all edges.

    Raises:
        InterpretationError: of another shape, or an edge's score is not finite.
    """

    graph: Graph
    scores: NDArray[np.float64]
    """[writers, readers]; what is no edge is not looked at."""

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

    @property
    def sizes(self) -> tuple[float, ...]:
        """MIB's shares of all edges."""
        return SIZES

    def at(self, size: float, absolute: bool) -> Circuit:
        """The best edges, pruned, so there may be fewer than asked for.

        Args:
            size: share of all edges, 0 to 1.
            absolute: by size of the scores, instead of with their sign.
        """
        count = _count(size, self.graph.edges)
        return Circuit.top(self.graph, self.scores, count, absolute=absolute)


@dataclass(frozen=True)
class NodeRanking:
    """Scores of nodes: of what writes, that is all but the logits.

    Raises:
        InterpretationError: of another shape, infinite, or a node has no score. The input may have none.
    """

    graph: Graph
    scores: NDArray[np.float64]
    """[writers]; NaN: has no score, and is always kept, as EAP-IG does it: that may be the input alone."""

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
        # In circuits of every size, however small, they would come for nothing.
        without = [name for name, none in zip(self.graph.writers, np.isnan(self.scores), strict=True) if none]
        if without := [name for name in without if name != "input"]:
            more = f" and {len(without) - 1:,} more have" if len(without) > 1 else " has"
            raise InterpretationError(
                f"node {without[0]}{more} no score, and would be in the circuit of every size",
                fix="score all nodes, by 0 where one does not matter; the input alone may have no score",
            )

    @property
    def sizes(self) -> tuple[float, ...]:
        """MIB's shares, here of the nodes that have a score."""
        return SIZES

    def at(self, size: float, absolute: bool) -> Circuit:
        """All edges between the best nodes, pruned: nothing, if the input is scored and not among them.

        Args:
            size: share of the scored nodes, 0 to 1.
            absolute: by size of the scores, instead of with their sign.
        """
        scored = ~np.isnan(self.scores)
        values = np.abs(self.scores) if absolute else self.scores
        ranked = np.nonzero(scored)[0][np.argsort(-values[scored], kind="stable")]
        chosen = ~scored
        chosen[ranked[: _count(size, len(ranked))]] = True
        return Circuit(self.graph, self.graph.exists & between(self.graph, chosen)).pruned()


@dataclass(frozen=True)
class Sized:
    """A circuit for each of some sizes, or a single one.

    Raises:
        InterpretationError: there is none, a size is no share, or a circuit is of another graph or keeps more
            edges than its size says.
    """

    graph: Graph
    circuits: Mapping[float, Circuit]
    """By size, a share of all edges."""

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
        """Those there are, ascending."""
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


def between(graph: Graph, nodes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[writers, readers]: whether both ends are kept nodes; the logits are one.

    Args:
        nodes: [writers]
    """
    into = np.any(graph.fed_by() & nodes[None], axis=1)
    into[graph.reader_index["logits"]] = True
    return np.outer(nodes, into)


def _count(size: float, of: int) -> int:
    if not 0 <= size <= 1:
        raise InterpretationError(f"size {size} is no share", fix="sizes are from 0 to 1")
    return int(size * of)
