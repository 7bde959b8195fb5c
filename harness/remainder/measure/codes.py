"""Codes of calibration tokens, kept sparsely: what tables of code lengths and steps are fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["CodeSample", "Codes"]

_MOST_ENTRIES = 24_000_000  # codes that are not zero, of all tokens together
_CHECKED = 2048  # tokens whose pass is compared with what codes decode to by themselves


class Codes(NamedTuple):
    """The codes of some tokens that are not zero, token after token."""

    token: Int[Tensor, " entries"]
    latent: Int[Tensor, " entries"]
    value: Float[Tensor, " entries"]
    tokens: int
    features: int

    @classmethod
    def of(cls, codes: Float[Tensor, "tokens features"]) -> Codes:
        """The sparse form of codes."""
        token, latent = codes.nonzero(as_tuple=True)
        return cls(token, latent, codes[token, latent], *codes.shape)

    def to(self, device: torch.device | str) -> Codes:
        """A copy on a device."""
        return Codes(self.token.to(device), self.latent.to(device), self.value.to(device), *self[3:])

    def first(self, tokens: int) -> Codes:
        """The codes of the first tokens."""
        inside = self.token < tokens
        return Codes(self.token[inside], self.latent[inside], self.value[inside], tokens, self.features)

    def placed(self, spliced: Bool[Tensor, "docs pos"]) -> Float[Tensor, "docs pos features"]:
        """The codes at the spliced positions, and none elsewhere; dense, on the device of `spliced`."""
        at, (token, latent, value, *_) = spliced.nonzero(), self.to(spliced.device)
        full = torch.zeros(*spliced.shape, self.features, device=spliced.device)
        full[at[token, 0], at[token, 1], latent] = value.float()
        return full

    def counts(self) -> Int[Tensor, " features"]:
        """How many tokens each latent is active on."""
        return torch.bincount(self.latent, minlength=self.features)


@dataclass
class CodeSample:
    """Codes and activations of the first calibration tokens, as many as memory allows."""

    features: int | None = None
    seen: int = 0
    """Tokens that were given, kept or not."""
    tokens: int = 0
    """Tokens that are kept: as many as have `_MOST_ENTRIES` codes, whatever the batches."""
    parts: list[Codes] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    """The activations that codes rebuild, less what goes past them, [tokens d] together."""
    decoded: list[Tensor] = field(default_factory=list)
    """Rows that codes were decoded to in the pass, of the first tokens only."""
    masks: list[Tensor] = field(default_factory=list)
    """Masks of where the tokens of each batch stand, [docs pos]."""
    live: Tensor | None = None
    """Features that were active at all, of all that was seen."""
    past: bool = False
    """Whether anything went past the codes."""

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
        found = Codes.of(codes).to("cpu")
        self.features = found.features
        active = found.counts() > 0
        self.live = active if self.live is None else self.live | active
        self.seen += len(codes)
        # Once a token did not fit, none that comes later is kept either.
        room = _MOST_ENTRIES - sum(len(part.value) for part in self.parts)
        sizes = torch.bincount(found.token, minlength=len(codes)).cumsum(0)
        kept = int((sizes <= room).sum()) if self.tokens == self.seen - len(codes) else 0
        if not kept:
            return
        inside = found.token < kept
        token, latent, value = found.token[inside], found.latent[inside], found.value[inside]
        self.parts.append(Codes(token + self.tokens, latent, value.float(), kept, found.features))
        self.x.append(x[:kept].float().cpu())
        if left is not None and self.tokens < _CHECKED:
            self.decoded.append((x - left)[: min(kept, _CHECKED - self.tokens)].float().cpu())
        if spliced is not None:
            self.masks.append(_first(spliced, kept))
        self.tokens += kept

    def windows(self) -> Iterator[tuple[Codes, Float[Tensor, "tokens d"], Bool[Tensor, "docs pos"]]]:
        """Batch by batch what is kept: codes, the activations that they rebuild, and where they stand."""
        start = 0
        for part, x, spliced in zip(self.parts, self.x, self.masks, strict=True):
            yield part._replace(token=part.token - start), x, spliced
            start += part.tokens

    @property
    def codes(self) -> Codes:
        """All that is kept."""
        if not self.parts:
            nothing = torch.empty(0, dtype=torch.int64)
            return Codes(nothing, nothing, torch.empty(0), self.tokens, self.features or 0)
        return Codes(
            torch.cat([part.token for part in self.parts]),
            torch.cat([part.latent for part in self.parts]),
            torch.cat([part.value for part in self.parts]),
            self.tokens,
            self.features or 0,
        )

    @property
    def live_features(self) -> int:
        """Features that were active at least once."""
        return 0 if self.live is None else int(self.live.sum())


def _first(spliced: Bool[Tensor, "docs pos"], tokens: int) -> Bool[Tensor, "docs pos"]:
    """The first so many of the spliced positions."""
    return spliced & (spliced.flatten().cumsum(0) <= tokens).reshape(spliced.shape)
