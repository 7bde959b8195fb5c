"""Codes of tokens in the form in which they are kept: those that are not zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Codes"]


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
        end = int((self.token < tokens).sum())
        return Codes(self.token[:end], self.latent[:end], self.value[:end], tokens, self.features)

    def placed(self, spliced: Bool[Tensor, "docs pos"]) -> Float[Tensor, "docs pos features"]:
        """The codes at the spliced positions, and none elsewhere; dense, on the device of `spliced`."""
        at, (token, latent, value, *_) = spliced.nonzero(), self.to(spliced.device)
        full = torch.zeros(*spliced.shape, self.features, device=spliced.device)
        full[at[token, 0], at[token, 1], latent] = value.float()
        return full

    @classmethod
    def joined(cls, parts: list[Codes]) -> Codes:
        """The codes of the tokens of several parts, one part after another; at least one."""
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.tokens)
        return cls(
            torch.cat([part.token + start for part, start in zip(parts, starts, strict=False)]),
            torch.cat([part.latent for part in parts]),
            torch.cat([part.value for part in parts]),
            starts[-1],
            parts[0].features,
        )

    def counts(self) -> Int[Tensor, " features"]:
        """How many tokens each latent is active on."""
        return torch.bincount(self.latent, minlength=self.features)
