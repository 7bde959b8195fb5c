"""Circuits: sets of kept edges of a transformer's graph.

Source: Hanna et al., "Have Faith in Faithfulness", 2024; protocol 1, sections 8 and 9.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remainder.errors import InterpretationError
from remainder.model.architecture import Graph

__all__ = ["Circuit", "between", "bits_of"]


@dataclass(frozen=True)
class Circuit:
    """The kept edges of a graph; all others carry background values.

    Raises:
        InterpretationError: if an entry is kept that is no edge, or the array has another shape.
    """

    graph: Graph
    kept: NDArray[np.bool_]
    """[writers, readers]"""

    def __post_init__(self) -> None:
        if self.kept.shape != self.graph.exists.shape or self.kept.dtype != np.bool_:
            raise InterpretationError(
                f"a circuit of shape {self.kept.shape}, {self.kept.dtype}; expected "
                f"{self.graph.exists.shape}, bool",
                fix="give one flag for every writer and reader of the graph",
            )
        if (self.kept & ~self.graph.exists).any():
            writer, reader = (int(place[0]) for place in np.nonzero(self.kept & ~self.graph.exists))
            raise InterpretationError(
                f"a circuit keeps {self.graph.name(writer, reader)}, which is no edge",
                fix="edges go from earlier nodes to later ones",
            )

    @classmethod
    def full(cls, graph: Graph) -> Circuit:
        """The circuit that keeps all edges."""
        return cls(graph, graph.exists.copy())

    @classmethod
    def empty(cls, graph: Graph) -> Circuit:
        """The circuit that keeps no edge."""
        return cls(graph, np.zeros_like(graph.exists))

    @classmethod
    def of_edges(cls, graph: Graph, edges: Iterable[str]) -> Circuit:
        """The circuit of the named edges.

        Raises:
            InterpretationError: if there is no such edge.
        """
        kept = np.zeros_like(graph.exists)
        for edge in edges:
            kept[graph.place(edge)] = True
        return cls(graph, kept)

    @classmethod
    def of_nodes(cls, graph: Graph, nodes: Iterable[str]) -> Circuit:
        """The circuit of all edges between kept nodes; `input` and `logits` are always kept.

        Raises:
            InterpretationError: if there is no such node.
        """
        wanted = {"input", *nodes} - {"logits"}
        if unknown := sorted(wanted - graph.writer_index.keys()):
            near = difflib.get_close_matches(unknown[0], graph.writers, n=3, cutoff=0.5)
            raise InterpretationError(
                f"this model has no node {unknown[0]!r}",
                fix=f"did you mean {', '.join(near or graph.writers[:3])}?",
            )
        from_kept = np.array([name in wanted for name in graph.writers])
        return cls(graph, graph.exists & between(graph, from_kept))

    @classmethod
    def top(
        cls, graph: Graph, scores: NDArray[np.float64], count: int, *, absolute: bool, pruned: bool = True
    ) -> Circuit:
        """The circuit of the `count` edges of largest score; ties go by the order of the graph.

        Args:
            scores: [writers, readers]; entries that are not edges are ignored.
            absolute: whether to rank by absolute value instead of by signed score.
            pruned: whether to drop edges that lead nowhere, so that there may be fewer; see `pruned`.
        """
        values = (np.abs(scores) if absolute else scores)[graph.exists]
        chosen = np.argsort(-values, kind="stable")[:count]
        flags = np.zeros(len(values), dtype=np.bool_)
        flags[chosen] = True
        kept = np.zeros_like(graph.exists)
        kept[graph.exists] = flags
        circuit = cls(graph, kept)
        return circuit.pruned() if pruned else circuit

    def pruned(self) -> Circuit:
        """This circuit without edges that are on no path from the input to the logits."""
        feeds = self.graph.fed_by()
        kept = self.kept.copy()
        while True:
            # A writer is alive if an edge into it and an edge out of it are kept.
            has_input = np.asarray((np.asarray(kept.any(0))[:, None] & feeds).any(0))
            has_input[0] = True
            has_output = np.asarray(kept.any(1))
            reader_used = np.asarray((feeds & has_output[None]).any(1))
            reader_used[-1] = True
            after = kept & has_input[:, None] & reader_used[None]
            if (after == kept).all():
                return Circuit(self.graph, kept)
            kept = after

    @property
    def reaching(self) -> NDArray[np.bool_]:
        """Mask [writers, readers] of the kept edges that are on a path to the logits: the others, such as
        those into a head without a kept edge out of it, change no prediction."""
        feeds = self.graph.fed_by()
        kept = np.zeros_like(self.kept)
        kept[:, -1] = self.kept[:, -1]
        for stage in reversed(self.graph.stages[1:-1]):
            has_output = np.asarray(kept[stage.writers].any(1))
            used = np.asarray((feeds[stage.readers, stage.writers] & has_output).any(1))
            kept[:, stage.readers] = self.kept[:, stage.readers] & used
        return kept

    @property
    def edges(self) -> int:
        """Number of kept edges."""
        return int(self.kept.sum())

    @property
    def nodes(self) -> int:
        """Number of nodes that a kept edge leaves or enters, including input and logits."""
        into = (self.graph.fed_by() & np.asarray(self.kept.any(0))[:, None]).any(0)
        return int((into | self.kept.any(1)).sum()) + int(self.kept[:, -1].any())

    @property
    def bits(self) -> float:
        """log₂ of the number of circuits with as many edges: the bits it takes to write this one down."""
        return bits_of(self.graph.edges, self.edges)

    def names(self) -> list[str]:
        """Names of the kept edges."""
        return [name for name, writer, reader in self.graph.names() if self.kept[writer, reader]]


def between(graph: Graph, nodes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask [writers, readers] of edges between kept nodes; the logits count as kept.

    Args:
        nodes: [writers]
    """
    into = np.any(graph.fed_by() & nodes[None], axis=1)
    into[graph.reader_index["logits"]] = True
    return np.outer(nodes, into)


def bits_of(total: int, kept: int) -> float:
    """log₂ of the number of ways to choose `kept` of `total`."""
    return (math.lgamma(total + 1) - math.lgamma(kept + 1) - math.lgamma(total - kept + 1)) / math.log(2)
