"""Decoders of codes by themselves: an affine map where it is one, else `decode` on whole windows.

An affine decoder is probed: what it gives for no code, and what each latent adds, at the size that the
latent's codes have. Latents that calibration never saw are probed when they first fire.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted
from remainder.measure.codes import Codes, CodeSample

__all__ = ["AffineDecoder", "affine_decoder"]

_PROBE = 512  # latents probed at a time
_SAME = 1e-6  # of the variance of what is rebuilt, by which two ways of decoding may differ
_DENSE = 0.02  # share of codes that are not zero, above which products of dense matrices are faster


@dataclass
class AffineDecoder:
    """`decode` as an affine map of the codes: base + Σ_j a_j d_j."""

    base: Float[Tensor, " d"]
    directions: Float[Tensor, "known d"]
    """d_j of the latents that were probed."""
    row: Int[Tensor, " features"]
    """The row of each latent in `directions`; −1: not probed yet."""
    interpretation: Adapted | None = None
    device: torch.device | None = None
    size: float = 1.0
    """Root mean square of active codes: the size at which latents are probed that were never seen."""
    _norms: Tensor | None = None

    @property
    def live(self) -> Int[Tensor, " known"]:
        """The latents of `directions`, in its order."""
        order: Tensor = torch.empty(len(self.directions), dtype=torch.int64)
        known = (self.row >= 0).nonzero()[:, 0]
        order[self.row[known]] = known
        return order

    def norms(self, latent: Int[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        """‖d_j‖, float64."""
        self._learn(latent)
        # They are asked for at every step of every batch.
        if self._norms is None or len(self._norms) != len(self.directions):
            self._norms = self.directions.norm(dim=-1).double()
        return self._norms[self.row[latent]]

    def decode(self, codes: Codes) -> Float[Tensor, "tokens d"]:
        """Rows that the codes of some tokens add to `base`."""
        self._learn(codes.latent)
        row, width = self.row[codes.latent], self.directions.shape[1]
        if not len(row):
            return torch.zeros(codes.tokens, width)
        if len(row) > _DENSE * codes.tokens * len(self.directions):
            dense = torch.zeros(codes.tokens, len(self.directions))
            dense[codes.token, row] = codes.value.float()
            return dense @ self.directions
        ends = torch.bincount(codes.token, minlength=codes.tokens).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        added: Tensor = torch.nn.functional.embedding_bag(
            row, self.directions, starts, mode="sum", per_sample_weights=codes.value.float()
        )
        return added

    def _learn(self, latent: Int[Tensor, " entries"]) -> None:
        """Probe those latents that were not yet."""
        if len(self.directions) == len(self.row):
            return
        new = torch.bincount(latent[self.row[latent] < 0], minlength=1).nonzero()[:, 0]
        if not len(new):
            return
        assert self.interpretation is not None
        assert self.device is not None
        sizes = torch.full((len(new),), self.size)
        rows = _directions(self.interpretation, self.base, new, sizes, len(self.row), self.device)
        self.row[new] = torch.arange(len(self.directions), len(self.directions) + len(new))
        self.directions = torch.cat([self.directions, rows])


def affine_decoder(sample: CodeSample, interpretation: Adapted, device: torch.device) -> AffineDecoder | str:
    """The decoder as an affine map of the codes, or why it is none."""
    if sample.live is None or not sample.tokens:
        return "no calibration token was seen"
    codes, x = sample.codes, torch.cat(sample.x)
    features = codes.features
    live = codes.counts().nonzero()[:, 0]
    row = torch.full((features,), -1, dtype=torch.int64)
    row[live] = torch.arange(len(live))
    try:
        base = _decode_rows(interpretation, torch.zeros(1, 0), live[:0], features, device)[0]
        squares = torch.zeros(features).index_add_(0, codes.latent, codes.value.square())
        sizes = (squares[live] / codes.counts()[live]).sqrt().clamp(min=1e-30)
        directions = _directions(interpretation, base, live, sizes, features, device)
        size = float(codes.value.square().mean().sqrt()) if len(codes.value) else 1.0
        found = AffineDecoder(base, directions, row, interpretation, device, size)
        checked = torch.cat(sample.decoded) if sample.decoded else x[:0]
        part = codes.first(len(checked) or min(sample.tokens, _PROBE))
        dense = torch.zeros(part.tokens, len(live))
        dense[part.token, row[part.latent]] = part.value
        decoded = _decode_rows(interpretation, dense, live, features, device)
    except InterpretationError as problem:
        # A decoder may lean on what `encode` left behind, as that of a layer-normalised SAE does.
        return f"codes cannot be decoded by themselves: {problem.what}"
    scale = float((x - x.mean(0)).square().sum(-1).mean())
    linear = base + found.decode(part)
    # Written so that a NaN is refused as well.
    if not float((decoded - linear).square().sum(-1).mean()) <= _SAME * scale:
        return "decode is not affine in the codes, so contributions of features are not defined"
    if not _error(linear[: len(checked)], checked) <= _SAME * scale:
        return "what codes are decoded to by themselves is not what they stood for in a pass"
    return found


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().sum(-1).mean()) if len(expected) else 0.0


def _directions(
    interpretation: Adapted,
    base: Float[Tensor, " d"],
    latent: Int[Tensor, " new"],
    sizes: Float[Tensor, " new"],
    features: int,
    device: torch.device,
) -> Float[Tensor, "new d"]:
    """Rows that a unit code of each latent adds to `base`, found by codes of `sizes`."""
    parts = [torch.empty(0, len(base))]
    for start in range(0, len(latent), _PROBE):
        own, size = latent[start : start + _PROBE], sizes[start : start + _PROBE]
        rows = _decode_rows(interpretation, torch.diag(size), own, features, device)
        parts.append((rows - base) / size[:, None])
    return torch.cat(parts)


def _decode_rows(
    interpretation: Adapted,
    codes: Float[Tensor, "rows latents"],
    latent: Int[Tensor, " latents"],
    features: int,
    device: torch.device,
) -> Float[Tensor, "rows d"]:
    """Rows decoded as positions of one window, with codes of some latents."""
    full = torch.zeros(1, len(codes), features)
    full[0][:, latent] = codes
    return interpretation.decode(full.to(device))[0].cpu()
