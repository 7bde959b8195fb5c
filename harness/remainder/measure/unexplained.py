"""The share of the variance of activations that an interpretation leaves, on splits that score nothing.

F = Σ‖x − x̂‖² / Σ‖x − mean x‖² over spliced tokens, with an interval over documents. On evaluation the same is
1 less the explained variance, which is in the metrics; `record.memorised` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.loading.activations import Batch
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import Number
from remainder.task.text import Split

__all__ = ["Unexplained"]


@dataclass
class _Sums:
    """Sums over the spliced tokens of one document."""

    tokens: int
    left: float
    """Σ‖x − x̂‖²."""
    square: float
    """Σ‖x‖²."""
    total: Float[Tensor, " d"]
    """Σ x."""


@dataclass
class Unexplained:
    """Sums over documents of several splits, gathered batch by batch."""

    _documents: dict[Split, dict[str, _Sums]] = field(default_factory=dict)

    def update(self, split: Split, batch: Batch, residual: Float[Tensor, "docs pos d"]) -> None:
        """Add a batch of windows, and x less the reconstruction."""
        documents = self._documents.setdefault(split, {})
        for row, name in enumerate(batch.windows.documents):
            kept = batch.spliced[row]
            here, left = batch.prefix.x_out[row][kept].double(), residual[row][kept].double()
            sums = documents.setdefault(name, _Sums(0, 0.0, 0.0, torch.zeros_like(here.sum(0))))
            sums.tokens += len(here)
            sums.left += float(left.square().sum())
            sums.square += float(here.square().sum())
            sums.total += here.sum(0)

    def shares(self, seed: int) -> dict[str, Number]:
        """The share of the variance that is left, by the split; null where nothing varies.

        Args:
            seed: of the bootstrap over documents.
        """
        return {split: _share(list(found.values()), seed) for split, found in self._documents.items()}


def _share(found: list[_Sums], seed: int) -> Number:
    tokens = sum(sums.tokens for sums in found)
    if not tokens:
        return Number.null("no token was spliced")
    mean = torch.stack([sums.total for sums in found]).sum(0) / tokens
    # Σ‖x − m‖² of a document, from its sums; in float64 little is lost.
    centred = [
        sums.square - 2 * float(mean @ sums.total) + sums.tokens * float(mean @ mean) for sums in found
    ]
    if sum(centred) <= 0:
        return Number.null("the activations do not vary")
    ratio = Ratio(np.array([sums.left for sums in found]), np.array(centred))
    return Number.of_ratio(Bootstrap(len(found), seed=seed), ratio)
