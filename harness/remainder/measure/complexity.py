"""The cost of an interpretation: active features, and bits per token.

Bits per token:
1. the contribution of feature j is c_j = a_j ‖d_j‖, with d_j what `decode` adds for a unit code;
2. contributions are quantised uniformly, with the step that adds 1 % of max(MSE, 10⁻³ tr Cov x) to the
   mean squared error, found by bisection on the error itself;
3. bits = Σ_j H(active?, bin) over calibration tokens, the plug-in entropy of each code by itself.

Source: protocol 1, section 9 (after the description lengths of Ayonrinde et al. 2024, "MDL-SAEs").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted
from remainder.record.number import Number
from remainder.record.schema import Complexity

__all__ = [
    "AffineDecoder",
    "CodeSample",
    "affine_decoder",
    "bits_per_token",
    "complexity_of",
    "entropy_bits",
    "quantisation_step",
]

_MAX_ENTRIES = 48_000_000  # codes kept for the entropy, as float32
_STEP_TOKENS = 2048  # tokens on which the step is found
_ADDED, _FLOOR = 0.01, 1e-3
_PROBE = 512  # features probed at a time


@dataclass
class CodeSample:
    """Codes and activations of calibration tokens, as many as memory allows, and which features were live."""

    features: int | None = None
    live: Tensor | None = None
    codes: list[Tensor] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)
    tokens: int = 0
    seen: int = 0

    def update(
        self,
        codes: Float[Tensor, "tokens features"],
        x: Float[Tensor, "tokens d"],
        left: Float[Tensor, "tokens d"] | None = None,
    ) -> None:
        """Add spliced tokens.

        Args:
            codes: of the tokens.
            x: activations, less what goes past the codes.
            left: x less what these codes were decoded to in the pass.
        """
        active = (codes != 0).any(0).cpu()
        self.features = codes.shape[-1]
        self.live = active if self.live is None else self.live | active
        self.seen += len(codes)
        room = max(_MAX_ENTRIES // max(self.features, 1) - self.tokens, 0)
        if room:
            self.codes.append(codes[:room].float().cpu())
            self.x.append(x[:room].float().cpu())
            if left is not None and self.tokens < _STEP_TOKENS:
                self.left.append(left[:room].float().cpu())
            self.tokens += min(len(codes), room)

    @property
    def live_features(self) -> int:
        """Features that were active at least once."""
        return 0 if self.live is None else int(self.live.sum())


class AffineDecoder(NamedTuple):
    """`decode` as far as live features go: what it gives for none, and what a unit code of each adds."""

    live: Int[Tensor, " live"]
    base: Float[Tensor, " d"]
    directions: Float[Tensor, "live d"]


def affine_decoder(sample: CodeSample, interpretation: Adapted, device: torch.device) -> AffineDecoder | str:
    """The decoder as an affine map of the codes, or why it is none."""
    if sample.live is None or not sample.codes:
        return "no calibration token was seen"
    live = sample.live.nonzero()[:, 0]
    x = torch.cat(sample.x)
    if len(live) == 0:
        return AffineDecoder(live, x.mean(0), torch.zeros(0, x.shape[1]))
    part = torch.cat(sample.codes)[:_STEP_TOKENS, live]
    try:
        base, directions = _directions(interpretation, live, sample.live.numel(), device)
        decoded = _decode_rows(interpretation, part, live, sample.live.numel(), device)
    except InterpretationError as problem:
        # A decoder may lean on what `encode` left behind, as that of a layer-normalised SAE does.
        return f"codes cannot be decoded by themselves: {problem.what}"
    scale = float((x - x.mean(0)).square().sum(-1).mean())
    miss = float((decoded - base - part @ directions).square().sum(-1).mean())
    # Written so that a NaN is refused as well.
    if not miss <= 1e-6 * scale:
        return "decode is not affine in the codes, so contributions of features are not defined"
    if sample.left:
        left = torch.cat(sample.left)[:_STEP_TOKENS]
        by_codes = x[: len(left)] - base - part[: len(left)] @ directions
        if not float((by_codes - left).square().sum(-1).mean()) <= 1e-6 * scale:
            return "what codes are decoded to by themselves is not what they stood for in a pass"
    return AffineDecoder(live, base, directions)


def complexity_of(sample: CodeSample, decoder: AffineDecoder | str) -> Complexity:
    """Everything that is counted on calibration; L0 is counted on evaluation."""
    bits, note = bits_per_token(sample, decoder)
    return Complexity(
        live_features=Number.bare(float(sample.live_features), "a count on the calibration split"),
        bits_per_token=Number.null(note) if bits is None else Number.bare(bits, note),
        features=sample.features,
    )


def bits_per_token(sample: CodeSample, decoder: AffineDecoder | str) -> tuple[float | None, str]:
    """Bits that the codes of a token take, and a note on how that was found or why it was not."""
    if isinstance(decoder, str):
        return None, decoder
    live, base, directions = decoder
    if len(live) == 0:
        return 0.0, "no feature is ever active"
    codes, x = torch.cat(sample.codes)[:, live], torch.cat(sample.x)
    part = codes[:_STEP_TOKENS]
    scale = float((x - x.mean(0)).square().sum(-1).mean())
    norms = directions.norm(dim=-1)
    step = quantisation_step(
        x[:_STEP_TOKENS], base, part * norms, directions / norms.clamp(min=1e-30)[:, None], scale
    )
    bins = torch.round(codes * norms / step).to(torch.int64).numpy()
    bits = entropy_bits(bins, (codes != 0).numpy())
    return bits, f"step {step:.4g}, {len(codes)} tokens"


def quantisation_step(
    x: Float[Tensor, "tokens d"],
    base: Float[Tensor, " d"],
    contributions: Float[Tensor, "tokens features"],
    units: Float[Tensor, "features d"],
    variance: float,
) -> float:
    """The step that adds `_ADDED`·max(MSE, `_FLOOR`·variance) to the MSE, to 0.1 %.

    Args:
        x: activations.
        base: what `decode` gives for no active feature.
        contributions: a_j ‖d_j‖.
        units: d_j/‖d_j‖.
        variance: tr Cov x.
    """

    def error(values: Tensor) -> float:
        squares: Tensor = (x - base - values @ units).double().square()
        return float(squares.sum(-1).mean())

    mse = error(contributions)
    allowed = _ADDED * max(mse, _FLOOR * variance)
    # Independent rounding errors of uniform law would add step²/12 for each active feature.
    active = max(float((contributions != 0).sum(-1).double().mean()), 1e-9)
    low = high = math.sqrt(12 * allowed / active)

    def added(step: float) -> float:
        return error(torch.round(contributions / step) * step) - mse

    for _ in range(60):
        if added(high) > allowed:
            break
        high *= 2.0
    else:
        return high  # quantising everything to zero costs less than is allowed
    for _ in range(60):
        if added(low) <= allowed:
            break
        low /= 2
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if added(middle) <= allowed else (low, middle)
    return low


def entropy_bits(bins: NDArray[np.int64], active: NDArray[np.bool_]) -> float:
    """Σ_j H(active?, bin) in bits per token, for integer `bins` and boolean `active` [tokens, features]."""
    tokens, features = bins.shape
    rows, columns = np.nonzero(active)
    used = bins[rows, columns]
    # One integer for each (feature, bin), since sorting integers is fast.
    lowest, span = (int(used.min()), int(np.ptp(used)) + 1) if used.size else (0, 1)
    _, counts = np.unique(columns * span + (used - lowest), return_counts=True)
    silent = tokens - np.bincount(columns, minlength=features)
    shares = np.concatenate([counts, silent[silent > 0]]) / tokens
    return float((shares * -np.log2(shares)).sum())


def _directions(
    interpretation: Adapted, live: Tensor, features: int, device: torch.device
) -> tuple[Float[Tensor, " d"], Float[Tensor, "live d"]]:
    """The result of `decode` for zero codes, and what a unit code of each live feature adds to it."""
    zero = torch.zeros(1, len(live))
    base = _decode_rows(interpretation, zero, live, features, device)[0]
    rows = [
        _decode_rows(interpretation, torch.eye(len(live))[start : start + _PROBE], live, features, device)
        for start in range(0, len(live), _PROBE)
    ]
    return base, torch.cat(rows) - base


def _decode_rows(
    interpretation: Adapted,
    codes: Float[Tensor, "rows live"],
    live: Tensor,
    features: int,
    device: torch.device,
) -> Float[Tensor, "rows d"]:
    full = torch.zeros(1, len(codes), features)
    full[0][:, live] = codes
    return interpretation.decode(full.to(device))[0].cpu()
