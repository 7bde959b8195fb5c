"""The near sources of single tokens: the k of largest score among those that are on, ties to the lower index.

| order | score of source j at a token |
|---|---|
| `attribution` | \\|a_j d_j·g\\|, g the gradient of the loss with respect to the clean activation |
| `dynamic` | \\|a_j\\| ‖d_j‖ |
| `random` | a number drawn for this token and source |
| `index` | sources in the order of the dictionary, the same at every token: a control |

`attribution` sees targets and later tokens: it bounds what a choice to first order can do, and is no
interpretation. Of `index` k counts sources of the dictionary, of the others those that are on at a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.loading.activations import Batch
from remainder.measure.decoders import AffineDecoder
from remainder.measure.keeping import Sources
from remainder.residual.codes import Codes
from remainder.residual.noise import NoiseKeys, indices

__all__ = ["NEAR", "PER_TOKEN", "Near", "nearest"]

PER_TOKEN = ("attribution", "dynamic", "random")
"""Orders that choose anew at every token."""
NEAR = (*PER_TOKEN, "index")

_NUMBERS = 2**24  # of directions that are gathered at a time
_DENSE = 0.1  # share of codes that are not zero, above which a product with all directions is faster


def nearest(codes: Codes, scores: Float[Tensor, " entries"], keep: int) -> Bool[Tensor, " entries"]:
    """Whether each code is among the `keep` of largest score at its token."""
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[codes.token[by_score].argsort(stable=True)]
    number = torch.bincount(codes.token, minlength=codes.tokens)
    start = number.cumsum(0) - number
    place = torch.arange(len(order), device=order.device) - start[codes.token[order]]
    found = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    found[order] = place < keep
    return found


@dataclass(frozen=True)
class Near:
    """The choice of sources in one order, k of them.

    Args:
        full: how many there are; all of them are the interpretation itself.
    """

    sources: Sources
    order: str
    keep: int
    full: int
    seed: int

    def of(
        self, codes: Float[Tensor, "docs pos features"], batch: Batch, gradients: Tensor | None
    ) -> Float[Tensor, "docs pos features"]:
        """Codes with 0 for what is far.

        Args:
            gradients: of the loss, `[docs, pos, d]`; needed by `attribution` alone.
        """
        if self.keep == 0:
            return torch.zeros_like(codes)
        if self.order == "index":
            return self.sources.keeping(self.keep).of(codes)
        if self.keep >= self.full:
            return codes
        on = Codes.of(codes[batch.spliced])
        near = nearest(on, self._scores(on, batch, gradients), self.keep)
        return Codes(on.token[near], on.latent[near], on.value[near], on.tokens, on.features).placed(
            batch.spliced
        )

    def _scores(self, on: Codes, batch: Batch, gradients: Tensor | None) -> Float[Tensor, " entries"]:
        if self.order == "random":
            return keyed_scores(on, batch, self.seed)
        decoder = self.sources.decoder
        assert isinstance(decoder, AffineDecoder)
        if self.order == "dynamic":
            return on.value.abs().double() * decoder.norms(on.latent)
        assert gradients is not None
        return (on.value * along(decoder, on, gradients[batch.spliced])).abs()


def along(decoder: AffineDecoder, on: Codes, rows: Float[Tensor, "tokens d"]) -> Float[Tensor, " entries"]:
    """d_j·g of every code, g the row of its token."""
    place = decoder.rows_of(on.latent)
    if len(place) > _DENSE * on.tokens * len(decoder.directions):
        return (rows @ decoder.directions.T)[on.token, place]
    step = max(1, _NUMBERS // rows.shape[1])
    parts = [
        torch.linalg.vecdot(decoder.directions[latent], rows[token])
        for latent, token in zip(torch.split(place, step), torch.split(on.token, step), strict=True)
    ]
    return torch.cat(parts) if parts else rows.new_zeros(0)


def keyed_scores(on: Codes, batch: Batch, seed: int) -> Float[Tensor, " entries"]:
    """Numbers that depend on document, window, position and source alone."""
    places = NoiseKeys(seed, batch.windows.documents, batch.windows.indices)
    positions = batch.spliced.shape[1]
    own = indices(places, 0, positions, 2**62, "near")[batch.spliced.cpu()].numpy().astype(np.uint64)
    mixed = own[on.token.cpu().numpy()] + on.latent.cpu().numpy().astype(np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014); sums and products are modulo 2^64.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64)).to(on.value.device)
