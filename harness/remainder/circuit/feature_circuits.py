"""Circuits of features by name and template, ready to be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from remainder.circuit.circuit import bits_of
from remainder.circuit.feature_scores import NodeScores
from remainder.circuit.features import FeatureCircuit, FeatureSite
from remainder.errors import InterpretationError

__all__ = ["FeatureCircuits", "NodeCount"]


class NodeCount(NamedTuple):
    """Nodes of a circuit over all templates."""

    latents: int
    errors: int
    of: int

    @property
    def nodes(self) -> int:
        """Number of nodes that are kept."""
        return self.latents + self.errors

    @property
    def bits(self) -> float:
        """log₂ of the number of circuits with as many nodes."""
        return bits_of(self.of, self.nodes)


@dataclass(frozen=True)
class FeatureCircuits:
    """Circuits of features, ready to be run.

    Raises:
        InterpretationError: there is no circuit.
    """

    sites: tuple[FeatureSite, ...]
    circuits: Mapping[str, Mapping[str, FeatureCircuit]]
    """Circuits by name, then by template, the largest first; all have the same templates."""
    scores: Mapping[str, NodeScores] | None = None
    """Scores of nodes by template, if circuits were cut from any."""

    def __post_init__(self) -> None:
        if not self.circuits:
            raise InterpretationError("there is no circuit of features", fix="give at least one")

    def count(self, name: str) -> NodeCount:
        """Nodes of a circuit."""
        parts = self.circuits[name].values()
        return NodeCount(
            sum(int(flags.sum()) for part in parts for flags in part.latents.values()),
            sum(int(flags.sum()) for part in parts for flags in part.errors.values()),
            sum(part.of for part in parts),
        )

    def nearest(self, share: float) -> str:
        """The circuit whose share of all nodes is nearest to `share`; of two, the smaller."""
        sums = {name: self.count(name) for name in self.circuits}
        return min(sums, key=lambda name: (abs(sums[name].nodes / sums[name].of - share), sums[name].nodes))
