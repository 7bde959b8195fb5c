"""Sums over the kept edges into every reader, in a pass of a circuit.

Writers with a kept edge are stored one after another, so that the sum of a stage is one matrix product. Each
product reads everything that was stored before, and waits for memory more than it computes: so readers of
several stages ahead are summed at once over the writers there are by then, and a stage adds only what was
written since.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.model.architecture import Graph, Stage

__all__ = ["KeptSums", "readers_ahead"]

_AHEAD = 64
"""Readers that are summed at once, those of one stage at least."""


class KeptSums:
    """Outputs of the writers with a kept edge, and their sums.

    Args:
        graph: the graph of the circuit.
        kept: kept edges [writers, readers].
        factor: what every sum is multiplied by.
    """

    def __init__(self, graph: Graph, kept: NDArray[np.bool_], factor: float = 1.0) -> None:
        self._kept, self._factor = kept, factor
        self._single = np.asarray(kept.any(1))
        self._places = np.flatnonzero(self._single)
        self._groups = _groups(graph)
        self._stored: Tensor | None = None
        self._parts: list[Tensor] = []
        self._filled = 0
        self._ahead: tuple[Stage, int, Tensor] | None = None
        """First stage of a group, the number of writers in its sums, and the sums [readers, values]."""

    def of(self, stage: Stage) -> NDArray[np.int64]:
        """The stage's writers that have a kept edge."""
        return np.flatnonzero(self._single[stage.writers])

    def add(self, outputs: Float[Tensor, "writers rows pos d"]) -> None:
        """Store the outputs of a stage's writers that have a kept edge."""
        self._filled += len(outputs)
        if torch.is_grad_enabled():  # a tensor that a product has read must not change before its gradient
            self._parts.append(outputs)
            return
        if self._stored is None:
            self._stored = outputs.new_empty(len(self._places), *outputs.shape[1:])
        self._stored[self._filled - len(outputs) : self._filled] = outputs

    def into(self, stage: Stage, like: Float[Tensor, "rows pos d"]) -> Float[Tensor, "readers rows pos d"]:
        """Sums over the kept edges into each reader of the stage; the result may be changed in place."""
        first, last = self._groups[stage.name]
        if self._ahead is None or self._ahead[0] != first:
            done = self._count(first.sees)
            readers = slice(first.readers.start, last.readers.stop)
            self._ahead = first, done, self._sum(self._weights(0, done, readers), 0, done, like)
        done = self._ahead[1]
        start = first.readers.start
        sums = self._ahead[2][stage.readers.start - start : stage.readers.stop - start]
        since = self._count(stage.sees)
        weights = self._weights(done, since, stage.readers)
        if torch.is_grad_enabled():  # what changed these in place would change those of the next stages
            sums = sums + self._sum(weights, done, since, like)
        elif weights.any():
            sums.addmm_(self._matrix(weights, like), self._rows(done, since))
        return sums.view(-1, *like.shape)

    def _count(self, sees: int) -> int:
        """Stored writers among the first `sees`."""
        return int(np.searchsorted(self._places, sees))

    def _weights(self, start: int, stop: int, readers: slice) -> NDArray[np.bool_]:
        return np.asarray(self._kept[self._places[start:stop], readers])

    def _matrix(self, weights: NDArray[np.bool_], like: Tensor) -> Float[Tensor, "readers writers"]:
        return torch.from_numpy(weights.T * self._factor).to(like)

    def _sum(
        self, weights: NDArray[np.bool_], start: int, stop: int, like: Tensor
    ) -> Float[Tensor, "readers values"]:
        if not weights.any():
            return like.new_zeros(weights.shape[1], like.numel())
        return self._matrix(weights, like) @ self._rows(start, stop)

    def _rows(self, start: int, stop: int) -> Float[Tensor, "writers values"]:
        """Outputs of stored writers, each as one row."""
        if self._parts:  # they end where stages do, and so do start and stop
            ends = np.cumsum([len(part) for part in self._parts])
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            return torch.cat(self._parts[first : last + 1]).flatten(1)
        assert self._stored is not None
        return self._stored[start:stop].flatten(1)


def readers_ahead(graph: Graph) -> int:
    """The largest number of readers whose sums are held at once."""
    most: int = max(last.readers.stop - first.readers.start for first, last in _groups(graph).values())
    return most


def _groups(graph: Graph) -> dict[str, tuple[Stage, Stage]]:
    """First and last stage of the group that each stage is summed with, by its name."""
    groups: list[list[Stage]] = []
    for stage in graph.stages[1:]:
        if groups and stage.readers.stop - groups[-1][0].readers.start <= _AHEAD:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return {stage.name: (group[0], group[-1]) for group in groups for stage in group}
