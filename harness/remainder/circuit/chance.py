"""Random circuits of equal size: what a circuit is held against.

As many edges, or nodes, as a circuit keeps, each set of them as likely as any other; nothing is pruned. Of
rankings of edges that is what a size allows, before edges that lead nowhere are dropped: so the same random
circuits serve all rankings of a task. The draw depends on the seed, the number that is kept, and the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remainder.circuit.circuit import Circuit
from remainder.circuit.features import FeatureCircuit
from remainder.circuit.ranking import Circuits, Ranking

__all__ = ["COUNT", "random_circuits", "random_nodes"]

COUNT = 20
"""Random circuits of each size."""


def random_circuits(circuits: Circuits, size: float, *, seed: int, count: int = COUNT) -> tuple[Circuit, ...]:
    """Circuits of as many edges as the one of a size has, or as a ranking may keep; none for no edge."""
    graph = circuits.graph
    ranked = isinstance(circuits, Ranking)
    edges = int(size * graph.edges) if ranked else circuits.at(size, absolute=True).edges
    found = []
    for number in range(count if edges else 0):
        kept = np.zeros_like(graph.exists)
        kept[graph.exists] = _some(graph.edges, edges, [seed, edges, number])
        found.append(Circuit(graph, kept))
    return tuple(found)


def random_nodes(
    circuit: Mapping[str, FeatureCircuit], *, seed: int, count: int = COUNT
) -> tuple[Mapping[str, FeatureCircuit], ...]:
    """Circuits with as many nodes on each template, latents or errors; none for no node at all."""
    if not any(part.nodes for part in circuit.values()):
        return ()
    return tuple(
        {
            template: _nodes(part, [seed, part.nodes, number, place])
            for place, (template, part) in enumerate(sorted(circuit.items()))
        }
        for number in range(count)
    )


def _nodes(circuit: FeatureCircuit, seeds: list[int]) -> FeatureCircuit:
    flags = torch.from_numpy(_some(circuit.of, circuit.nodes, seeds))
    start = 0

    def fill(part: Tensor) -> Tensor:
        nonlocal start
        start += part.numel()
        return flags[start - part.numel() : start].view(part.shape).to(part.device)

    latents = {name: fill(circuit.latents[name]) for name in sorted(circuit.latents)}
    return FeatureCircuit(latents, {name: fill(circuit.errors[name]) for name in sorted(circuit.errors)})


def _some(of: int, count: int, seeds: list[int]) -> NDArray[np.bool_]:
    """`count` of `of` places; uniform doubles only, whose stream numpy keeps stable."""
    drawn = np.random.Generator(np.random.PCG64(seeds)).random(of)
    flags = np.zeros(of, dtype=np.bool_)
    flags[np.argsort(drawn, kind="stable")[:count]] = True
    return flags
