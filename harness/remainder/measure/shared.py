"""A batch of evaluation windows, and everything on it that depends on model, text and seed alone.

It is made when it is first asked for, and shared by all interpretations, rungs and draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from remainder.loading.activations import Batch
from remainder.measure.kernels import table_rows
from remainder.measure.losses import Clean, clean_pass, spliced_pass
from remainder.measure.peers import PeerBatch
from remainder.model.bridge import Runner

__all__ = ["SharedBatch"]


@dataclass
class SharedBatch:
    """One batch.

    Args:
        exact: the model in float32, in which the field's own metrics are taken.
        x: the model's own activation; that of the batch may be a finer interpretation's.
        nested: whether it is.
        everywhere: whether outputs of every position are compared, as peers need them.
    """

    runner: Runner
    exact: Runner
    batch: Batch
    x: Float[Tensor, "docs pos d"]
    nested: bool
    everywhere: bool
    noise: dict[int, Tensor] = field(default_factory=dict)
    """Noise of this batch, by the number of its antithetic pair."""

    @property
    def is_exact(self) -> bool:
        """Whether both runners are one."""
        return self.runner is self.exact

    @cached_property
    def clean(self) -> Clean:
        """The untouched model."""
        return clean_pass(self.runner, self.batch, everywhere=self.everywhere and self.is_exact)

    @cached_property
    def exact_clean(self) -> Clean:
        """The untouched model in float32, at every position."""
        return self.clean if self.is_exact else clean_pass(self.exact, self.batch, everywhere=True)

    @cached_property
    def peers(self) -> PeerBatch:
        """The untouched model and the one without the site, at every position."""
        return PeerBatch(self.exact, self.exact_clean)

    @cached_property
    def clean_rows(self) -> list[dict[str, Any]]:
        """Rows `clean` of the table of values."""
        return table_rows(self.batch, "clean", 0, self.clean.scores)

    @cached_property
    def model_rows(self) -> list[dict[str, Any]]:
        """Rows of the model itself, where a finer interpretation stands in for it."""
        if not self.nested:
            return []
        return table_rows(self.batch, "model", 0, spliced_pass(self.runner, self.clean, self.x)[0])
