"""Reconstructions of a batch: by exact codes, and by the quantised ones that a record's ladder stands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from jaxtyping import Bool, Float
from torch import Tensor

from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.measure.coding import CodedBatch, Coder
from remainder.record.rungs import CODED
from remainder.residual.codes import Codes

__all__ = ["Rebuilder", "Rebuilt"]


@dataclass(frozen=True)
class Rebuilt:
    """One batch."""

    codes: Float[Tensor, "docs pos features"]
    """Exact ones."""
    decode: Callable[[], Tensor]
    """Decodes the exact codes."""
    coded: CodedBatch | None
    """Null where codes are not paid for."""
    spliced: Bool[Tensor, "docs pos"]
    step: int | None
    """The step of the codes that `scored` stands on; None: exact ones."""

    @cached_property
    def exact(self) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by exact codes; made when it is first asked for."""
        return self.decode()

    @cached_property
    def scored(self) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by quantised codes at the point `coded`; of an exact ladder, by exact ones."""
        if self.coded is None or self.step is None:
            return self.exact
        return self.coded.reconstruction(self.step)

    @cached_property
    def kept(self) -> Codes:
        """The codes of spliced tokens that `scored` stands on; made when a kernel first asks for them."""
        if self.coded is None:
            return Codes.of(self.codes[self.spliced])
        if self.step is None:
            return self.coded.codes
        return self.coded.coder.rounded(self.coded.symbols(self.step), self.step)


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
        codes = self.interpretation.encode(read)
        decode = partial(self.interpretation.completed, codes, read, batch.spliced)
        if self.coder is None:
            return Rebuilt(codes, decode, None, batch.spliced, None)
        coded = CodedBatch(self.coder, codes, batch.prefix.x_out, batch.spliced)
        step = self.coder.points[CODED] if self.is_coded else None
        return Rebuilt(codes, decode, coded, batch.spliced, step)
