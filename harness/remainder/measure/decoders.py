"""Decoders of codes by themselves: an affine map where it is one, else `decode` on whole windows.

1. What a decoder gives for no code is read off, and so is what each latent adds. If it has a matrix `W_dec`
   of the right shape, that times one factor is tried: a few rows in which all latents are on at random have
   to decode to what the matrix says.
2. Else each latent is probed, at the size that its codes have. That takes as many rows as there are latents,
   each through the whole decoder.
3. Latents that calibration never saw are probed when they first fire.
4. What is an affine map of codes as they are may be none of rounded ones: a code that is always 0 or 1, as
   that of a codebook, does not tell what is decoded in between. So rows are decoded with moved codes, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted
from remainder.measure.codes import Codes, CodeSample

__all__ = ["AffineDecoder", "affine_decoder"]

_PROBE = 512  # latents probed at a time
_TRIED = 8  # rows in which all latents are on, by which a matrix is tried
_ROUNDING = 3e-5  # of the largest number in such a row, that float32 rounds sums of many latents by
_SAME = 1e-6  # of the variance of what is rebuilt, by which two ways of decoding may differ
_MOVED = 0.5  # of its size, by which a code is moved at most
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
        order: Tensor = torch.empty(len(self.directions), dtype=torch.int64, device=self.row.device)
        known = (self.row >= 0).nonzero()[:, 0]
        order[self.row[known]] = known
        return order

    def rows_of(self, latent: Int[Tensor, " entries"]) -> Int[Tensor, " entries"]:
        """The row of `directions` of each latent, probed now if it was not before."""
        self._learn(latent)
        return self.row[latent]

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
            return self.directions.new_zeros(codes.tokens, width)
        if len(row) > _DENSE * codes.tokens * len(self.directions):
            dense = self.directions.new_zeros(codes.tokens, len(self.directions))
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
        sizes = self.directions.new_full((len(new),), self.size)
        rows = _directions(self.interpretation, self.base, new, sizes, len(self.row), self.device)
        first = len(self.directions)
        self.row[new] = torch.arange(first, first + len(new), device=new.device)
        self.directions = torch.cat([self.directions, rows])


def affine_decoder(sample: CodeSample, interpretation: Adapted, device: torch.device) -> AffineDecoder | str:
    """The decoder as an affine map of the codes, on a device, or why it is none."""
    if sample.counts is None or sample.squares is None or not sample.kept:
        return "no calibration token was seen"
    counts, features = sample.counts.to(device), len(sample.counts)
    live = counts.nonzero()[:, 0]
    row = torch.full((features,), -1, dtype=torch.int64, device=device)
    row[live] = torch.arange(len(live), device=device)
    checked = torch.cat(sample.decoded).to(device) if sample.decoded else None
    part = sample.head(_PROBE if checked is None else len(checked)).to(device)
    try:
        base = _decode_rows(interpretation, torch.zeros(1, 0, device=device), live[:0], features, device)[0]
        sizes = (sample.squares.to(device)[live] / counts[live]).sqrt().clamp(min=1e-30).float()
        directions = _matrix(interpretation, base, live, sizes, features, device)
        if directions is None:
            directions = _directions(interpretation, base, live, sizes, features, device)
        size = math.sqrt(float(sample.squares.sum()) / float(counts.sum())) if len(live) else 1.0
        found = AffineDecoder(base, directions, row, interpretation, device, size)
        shares = torch.rand(len(part.value), generator=torch.Generator().manual_seed(0)).to(device)
        moved = part._replace(value=part.value.float() * (1 + _MOVED * (2 * shares - 1)))
        decoded, elsewhere = (
            _decode_rows(interpretation, _dense(each, row, len(live)), live, features, device)
            for each in (part, moved)
        )
    except InterpretationError as problem:
        # A decoder may lean on what `encode` left behind, as that of a layer-normalised SAE does.
        return f"codes cannot be decoded by themselves: {problem.what}"
    linear, added = base + found.decode(part), found.decode(moved)
    # Codes that nearly cancel do not when they are moved: what is decoded may be large, and so its rounding.
    room = max(sample.variance, float(added.square().sum(-1).mean()))
    # Written so that a NaN is refused as well.
    if not (
        _error(decoded, linear) <= _SAME * sample.variance and _error(elsewhere, base + added) <= _SAME * room
    ):
        return "decode is not affine in the codes, so contributions of features are not defined"
    if checked is not None and not _error(linear, checked) <= _SAME * sample.variance:
        return "what codes are decoded to by themselves is not what they stood for in a pass"
    return found


def _matrix(
    interpretation: Adapted,
    base: Float[Tensor, " d"],
    latent: Int[Tensor, " known"],
    sizes: Float[Tensor, " known"],
    features: int,
    device: torch.device,
) -> Float[Tensor, "known d"] | None:
    """The rows of these latents in a decoder that has a matrix for them, or None."""
    matrix = getattr(interpretation.inner, "W_dec", None)
    if not isinstance(matrix, Tensor) or matrix.shape != (features, len(base)) or not len(latent):
        return None
    rows = matrix.detach().to(device)[latent].float()
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(_TRIED, len(latent), generator=generator).to(device).abs() * sizes
    decoded = _decode_rows(interpretation, codes, latent, features, device) - base
    expected = codes @ rows
    power = float(expected.double().square().sum())
    if not power > 0:
        return None
    factor = float((decoded.double() * expected.double()).sum()) / power
    # The offset is taken off what was decoded, and leaves its rounding behind.
    room = _ROUNDING * float((factor * expected).abs().max()) + 1e-6 * float(base.abs().max())
    if not float((decoded - factor * expected).abs().max()) <= room:
        return None
    return rows * (1.0 if abs(factor - 1) <= _ROUNDING else factor)


def _dense(codes: Codes, row: Int[Tensor, " features"], known: int) -> Float[Tensor, "tokens known"]:
    """Codes of some tokens as rows, of the latents that were probed alone."""
    found = torch.zeros(codes.tokens, known, device=codes.value.device)
    found[codes.token, row[codes.latent]] = codes.value.float()
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
    parts = [base.new_empty(0, len(base))]
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
    full = torch.zeros(1, len(codes), features, device=device)
    full[0][:, latent] = codes
    return interpretation.decode(full)[0]
