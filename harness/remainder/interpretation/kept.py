"""An interpretation of which only some sources are kept; all others join what is left out.

1. `dynamic`: of each token the k sources whose contributions ‖a_j d_j‖ are largest.
2. Static: the same k sources at every token, the first of a ranking.

Sources of equal contribution are kept in the order of their indices, so that a tie has one outcome whatever
the batch.

Source: protocol 1, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Kept", "Shared", "Some"]


def _largest(
    contributions: Float[Tensor, "docs pos features"], keep: int
) -> Bool[Tensor, "docs pos features"]:
    """The `keep` largest of each position that are not 0; of equal ones those that come first."""
    if keep == 0:
        return torch.zeros_like(contributions, dtype=torch.bool)
    active = contributions > 0
    if keep >= contributions.shape[-1]:
        return active
    least = contributions.topk(keep, dim=-1).values[..., -1:]
    above, equal = contributions > least, (contributions == least) & active
    room = keep - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


@dataclass(frozen=True)
class Some:
    """A choice of sources, which are kept."""

    keep: int
    """How many; of `dynamic`, at each token."""
    sizes: Float[Tensor, " features"] | None = None
    """‖d_j‖ of `dynamic`; None for a static choice."""
    chosen: Bool[Tensor, " features"] | None = None
    """The sources of a static choice."""

    def of(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        """Codes with 0 for what is not kept."""
        if self.chosen is not None:
            return codes * self.chosen.to(codes)
        assert self.sizes is not None
        contributions = codes.detach().abs() * self.sizes.to(codes)
        return torch.where(_largest(contributions, self.keep), codes, torch.zeros_like(codes))


class Shared:
    """An interpretation that several shells ask in turn: the codes of the last activations are at hand.

    Encoding takes most of a reconstruction's time, and all shells begin with the same codes. Whether `encode`
    is deterministic has to be checked of `inner` itself.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._asked: Tensor | None = None
        self._codes: Tensor | None = None
        if callable(getattr(inner, "skip", None)):
            self.skip = inner.skip
        if isinstance(matrix := getattr(inner, "W_dec", None), Tensor):
            self.W_dec = matrix

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        """All codes, which nobody may change in place."""
        if self._codes is None or self._asked is None or not _same(self._asked, x):
            self._asked = x.clone()  # encode may work in place
            self._codes = self.inner.encode(x)
        return self._codes

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by these codes."""
        decoded: Tensor = self.inner.decode(codes)
        return decoded


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


class Kept:
    """An object with `encode`, `decode` and, where `inner` has one, `skip`.

    Args:
        inner: the whole interpretation.
        some: the sources that are kept.
    """

    def __init__(self, inner: Any, some: Some) -> None:
        self.inner, self.some = inner, some
        if callable(getattr(inner, "skip", None)):
            self.skip = inner.skip
        if isinstance(matrix := getattr(inner, "W_dec", None), Tensor):
            self.W_dec = matrix

    def encode(self, x: Float[Tensor, "docs pos d"]) -> Float[Tensor, "docs pos features"]:
        """Codes of the sources that are kept."""
        return self.some.of(self.inner.encode(x))

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d"]:
        """The reconstruction by these codes alone."""
        decoded: Tensor = self.inner.decode(codes)
        return decoded
