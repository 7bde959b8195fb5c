"""Reconstructions of a batch: by exact codes, and by the quantised ones that a record's ladder stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.measure.coding import CodedBatch, Coder
from remainder.record.rungs import CODED
from remainder.residual.codes import Codes

__all__ = ["Rebuilder", "Rebuilt"]


class Rebuilt(NamedTuple):
    """One batch."""

    codes: Float[Tensor, "docs pos features"]
    """Exact ones."""
    exact: Float[Tensor, "docs pos d"]
    scored: Float[Tensor, "docs pos d"]
    """The reconstruction by quantised codes at the point `coded`; by exact ones where the ladder is exact."""
    coded: CodedBatch | None
    """Null where codes are not paid for."""
    kept: Codes
    """The codes of spliced tokens that `scored` stands on."""


@dataclass(frozen=True)
class Rebuilder:
    """An interpretation with the coder of its codes, if they are paid for."""

    interpretation: Adapted
    coder: Coder | None
    is_coded: bool
    """Whether the ladder is of quantised codes."""

    def rebuild(self, batch: Batch, x: Float[Tensor, "docs pos d"]) -> Rebuilt:
        """Both reconstructions of a batch.

        Args:
            x: the model's own activation; that of the batch may be another interpretation's.
        """
        read = self.interpretation.choose(batch.prefix.x_in, x)
        codes, exact = self.interpretation.reconstruct(read, batch.spliced)
        if self.coder is None:
            return Rebuilt(codes, exact, exact, None, Codes.of(codes[batch.spliced]))
        coded = CodedBatch(self.coder, codes, batch.prefix.x_out, batch.spliced)
        if not self.is_coded:
            return Rebuilt(codes, exact, exact, coded, coded.codes)
        step = self.coder.points[CODED]
        kept = self.coder.rounded(coded.symbols(step), step)
        return Rebuilt(codes, exact, coded.reconstruction(step), coded, kept)
