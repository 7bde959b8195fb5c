"""An SAE or transcoder of one encoder and one decoder matrix: what most formats come down to.

1. h = (x − b_dec) W_enc + b_enc; b_dec is subtracted only if `centred`.
2. codes = activation(h).
3. x̂ = codes W_dec + b_dec, and for a skip-transcoder + x W_skipᵀ.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Above", "Coder", "Gated", "GroupMax", "JumpReLU", "Largest", "TopK", "make_coder"]


class Coder(nn.Module):
    """Steps 1 to 3 of this module's text; make one with `make_coder`."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, weights: dict[str, Tensor], activation: nn.Module, *, centred: bool) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, value.contiguous())
        self.activation, self.centred = activation, centred

    def encode(self, x: Float[Tensor, "docs pos d_in"]) -> Float[Tensor, "docs pos features"]:
        """Codes of activations."""
        inputs = x - self.b_dec if self.centred else x
        codes: Tensor = self.activation(inputs @ self.W_enc + self.b_enc)
        return codes

    def decode(self, codes: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos d_out"]:
        """The reconstruction that codes stand for."""
        return codes @ self.W_dec + self.b_dec


class SkipCoder(Coder):
    """A coder with a linear path past the codes."""

    W_skip: Tensor

    def skip(self, x: Float[Tensor, "docs pos d_in"]) -> Float[Tensor, "docs pos d_out"]:
        """The part that is added to the decoded codes."""
        return x @ self.W_skip.T


def make_coder(weights: dict[str, Tensor], activation: nn.Module, *, centred: bool) -> Coder:
    """A coder of float32 weights.

    Args:
        weights: W_enc [d_in d_sae], b_enc [d_sae], W_dec [d_sae d_out], b_dec [d_out], and for a
            skip-transcoder W_skip [d_out d_in].
        activation: from [docs pos d_sae] to codes of the same shape.
        centred: whether b_dec is subtracted from what is encoded.
    """
    kind = SkipCoder if "W_skip" in weights else Coder
    return kind(weights, activation, centred=centred)


class Largest(nn.Module):
    """The k largest of h at each token, whether above zero or not."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        values, places = h.topk(self.k, dim=-1)
        return torch.zeros_like(h).scatter(-1, places, values)


class TopK(Largest):
    """The k largest of ReLU(h) at each token."""

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return super().forward(h.relu())


class GroupMax(Largest):
    """The largest of ReLU(h) in each of k groups of neighbouring latents."""

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        groups = h.relu().reshape(*h.shape[:-1], self.k, -1)
        values, places = groups.max(dim=-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, places, values).reshape(h.shape)


class Above(nn.Module):
    """h where it is above a threshold, which may be below zero, of each latent or of all."""

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return torch.where(h > self.threshold, h, 0.0)


class JumpReLU(Above):
    """ReLU(h) where h is above a threshold, of each latent or of all."""

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return h.relu() * (h > self.threshold)


class Gated(nn.Module):
    """ReLU(exp(r_mag) h + b_mag) where h + b_gate is above zero; [features] all three."""

    r_mag: Tensor
    b_mag: Tensor
    b_gate: Tensor

    def __init__(self, r_mag: Tensor, b_mag: Tensor, b_gate: Tensor) -> None:
        super().__init__()
        for name, value in (("r_mag", r_mag), ("b_mag", b_mag), ("b_gate", b_gate)):
            self.register_buffer(name, value)

    def forward(self, h: Float[Tensor, "docs pos features"]) -> Float[Tensor, "docs pos features"]:
        return (h * self.r_mag.exp() + self.b_mag).relu() * (h + self.b_gate > 0)
