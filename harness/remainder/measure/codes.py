"""Codes of calibration tokens, sparse: what tables of code lengths and steps are fitted to.

As many are kept as memory allows. Where they are more, they are made anew whenever they are looked at, so
that everything is fitted to all tokens whatever the width, and memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.residual.codes import Codes

__all__ = ["FIRST", "CodeSample", "Codes", "Look"]

FIRST = 4096
"""Tokens of which activations are kept too; whatever is a median is of these."""

_MOST_ENTRIES = 12_000_000  # codes that are not zero, of all tokens together
_PART = 1_000_000  # entries that are looked at together
_CHECKED = 2048  # tokens whose pass is compared with what codes decode to by themselves


class Look(NamedTuple):
    """A batch of windows."""

    codes: Codes
    """Codes of the spliced tokens."""
    x: Float[Tensor, "tokens d"]
    """The activations that codes rebuild, less what goes past them."""
    spliced: Bool[Tensor, "docs pos"]


@dataclass
class CodeSample:
    """Codes of the calibration tokens, and activations of the first of them."""

    again: Callable[[], Iterator[Look]] | None = None
    """All batches anew, for codes that do not fit. Without it only the first tokens are looked at."""
    features: int | None = None
    seen: int = 0
    """Tokens that were given, kept or not."""
    kept: int = 0
    """Tokens that are kept: as many as have `_MOST_ENTRIES` codes, whatever the batches."""
    counts: Tensor | None = None
    """Tokens at which each feature was active, of all that was seen."""
    squares: Tensor | None = None
    """Sums of the squares of each feature's codes, of all that was seen."""
    decoded: list[Tensor] = field(default_factory=list)
    """Rows that codes were decoded to in the pass, of the first tokens only."""
    past: bool = False
    """Whether anything went past the codes."""
    _parts: list[Codes] = field(default_factory=list)
    _first: list[Look] = field(default_factory=list)
    _mean: Tensor | None = None
    _scatter: float = 0.0

    def update(
        self,
        codes: Float[Tensor, "tokens features"],
        x: Float[Tensor, "tokens d"],
        left: Float[Tensor, "tokens d"] | None = None,
        spliced: Bool[Tensor, "docs pos"] | None = None,
    ) -> None:
        """Add spliced tokens.

        Args:
            codes: of the tokens.
            x: activations, less what goes past the codes.
            left: x less what these codes were decoded to in the pass.
            spliced: where the tokens stand; `windows` needs it.
        """
        found = Codes.of(codes)
        self._count(found)
        self._spread(x.double())
        self.seen += len(codes)
        # Once a token did not fit, none that comes later is kept either.
        room = _MOST_ENTRIES - sum(len(part.value) for part in self._parts)
        sizes = torch.bincount(found.token, minlength=len(codes)).cumsum(0)
        kept = int((sizes <= room).sum()) if self.kept == self.seen - len(codes) else 0
        if left is not None and (wanted := _CHECKED - sum(map(len, self.decoded))) > 0:
            self.decoded.append((x - left)[: min(kept, wanted)].float())
        if not kept:
            return
        part = found if kept == len(codes) else found.first(kept)
        part = part.to("cpu")
        if spliced is not None and sum(look.codes.tokens for look in self._first) < FIRST:
            self._first.append(Look(part, x[:kept].float(), _first(spliced, kept)))
        self._parts.append(part)
        self.kept += kept

    def _count(self, found: Codes) -> None:
        self.features = found.features
        squares = torch.zeros(found.features, dtype=torch.float64, device=found.value.device)
        squares.index_add_(0, found.latent, found.value.double().square())
        counts = found.counts()
        self.counts = counts if self.counts is None else self.counts + counts
        self.squares = squares if self.squares is None else self.squares + squares

    def _spread(self, x: Tensor) -> None:
        if not len(x):
            return
        mean = x.mean(0)
        if self._mean is None:
            self._mean = torch.zeros_like(mean)
        share, delta = len(x) / (self.seen + len(x)), mean - self._mean
        self._scatter += float((x - mean).square().sum()) + float(delta.square().sum()) * self.seen * share
        self._mean = self._mean + delta * share

    @property
    def variance(self) -> float:
        """The trace of the covariance of the activations that codes rebuild."""
        return self._scatter / max(self.seen, 1)

    @property
    def is_whole(self) -> bool:
        """Whether all tokens that were seen are kept."""
        return self.kept == self.seen

    @property
    def tokens(self) -> int:
        """Tokens that `everything` gives."""
        return self.kept if self.again is None else self.seen

    def everything(self) -> Iterator[Codes]:
        """The codes of all tokens, part by part; of the first ones only, if others cannot be made anew."""
        if not self.is_whole and self.again is not None:
            yield from (look.codes for look in self.again())
            return
        joined: list[Codes] = []
        while self._parts:
            size = 0
            together: list[Codes] = []
            while self._parts and (not together or size + len(self._parts[0].value) <= _PART):
                together.append(self._parts.pop(0))
                size += len(together[-1].value)
            joined.append(Codes.joined(together) if len(together) > 1 else together[0])
        self._parts = joined
        yield from joined

    def windows(self) -> Iterator[Look]:
        """Batches of windows that hold the first `FIRST` tokens, or as many as there are."""
        held = sum(look.codes.tokens for look in self._first)
        if held >= FIRST or self.is_whole or self.again is None:
            yield from self._first
            return
        tokens = 0
        for look in self.again():
            yield look
            tokens += look.codes.tokens
            if tokens >= FIRST:
                return

    def head(self, tokens: int) -> Codes:
        """The codes of the first tokens that are kept, so many at most."""
        if not self._parts:
            nothing = torch.empty(0, dtype=torch.int64)
            return Codes(nothing, nothing, torch.empty(0), 0, self.features or 0)
        parts, held = [], 0
        for part in self._parts:
            parts.append(part.first(tokens - held) if part.tokens > tokens - held else part)
            held += parts[-1].tokens
            if held >= tokens:
                break
        return Codes.joined(parts)

    @property
    def live_features(self) -> int:
        """Features that were active at least once."""
        return 0 if self.counts is None else int((self.counts > 0).sum())


def _first(spliced: Bool[Tensor, "docs pos"], tokens: int) -> Bool[Tensor, "docs pos"]:
    """The first so many of the spliced positions."""
    return spliced & (spliced.flatten().cumsum(0) <= tokens).reshape(spliced.shape)
