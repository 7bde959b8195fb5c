"""Passes of one interpretation over one batch: a window that is spliced in the same way twice runs once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.measure.likelihood import Compared
from remainder.measure.losses import Clean, compared_pass
from remainder.model.bridge import Runner

__all__ = ["Splices"]


@dataclass
class Splices:
    """Activations that were put in so far, and their comparisons.

    Splices differ in few windows where they differ in masks only: peers also put x̂ at attention sinks, which
    hardly any window has. Codes that quantising leaves as they are decode to the same again.
    """

    runner: Runner
    clean: Clean
    _done: list[tuple[Float[Tensor, "docs pos d"], list[Compared]]] = field(default_factory=list)
    """Activations, and the comparison of each window."""

    def compare(self, activations: Float[Tensor, "docs pos d"]) -> Compared:
        """Do what `compared_pass` does, running only windows that no earlier call had."""
        found = [self._known(window, new) for window, new in enumerate(activations)]
        left = [window for window, known in enumerate(found) if known is None]
        if left:
            some = self.clean if len(left) == len(found) else self.clean.take(left)
            passed = compared_pass(self.runner, some, activations[left])
            for window, one in zip(left, passed.split(some.rows.sum(1).tolist()), strict=True):
                found[window] = one
        parts = [part for part in found if part is not None]
        self._done.append((activations, parts))
        return Compared.joined(parts)

    def _known(self, window: int, new: Float[Tensor, "pos d"]) -> Compared | None:
        same = (parts[window] for earlier, parts in self._done if torch.equal(earlier[window], new))
        return next(same, None)
