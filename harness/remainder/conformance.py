"""Rules that every interpretation keeps, checked on real activations before it is scored.

1. Deterministic: the same activations give the same reconstruction.
2. Causal: the reconstruction at a position does not change when later positions do. Else it could carry
   the next token, which is the target, past the bottleneck.
3. Local: it does not change when other windows of the batch do.

Source: protocol 1, section 10.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation import Adapted

__all__ = ["Conformance", "check_conformance"]

_TOLERANCE = 1e-4  # of the root mean square of x, well above what reordered sums cost in float32


class Conformance(NamedTuple):
    """Largest changes of the reconstruction that were seen, relative to the root mean square of x."""

    repeated: float
    later_positions: float
    other_windows: float
    limit: float = _TOLERANCE


def check_conformance(
    interpretation: Adapted, x: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
) -> Conformance:
    """Check the three rules on at least two windows of real activations, at positions in `mask`.

    Raises:
        InterpretationError: naming the rule that is broken.
    """
    if len(x) < 2:
        raise ValueError(f"conformance needs at least 2 windows, {len(x)} given")
    scale = float(x[mask].square().mean().sqrt())
    if scale == 0:
        raise InterpretationError(
            "the activations at the site are all zero", fix="choose a site at which something happens"
        )
    reference = interpretation.reconstruct(x, mask)[1]
    generator = torch.Generator().manual_seed(0)
    # A window of other real activations, shuffled: as far away as activations of the model ever are.
    order = torch.randperm(int(mask.sum()), generator=generator)
    pool = x[mask][order.to(x.device)]
    other = pool[torch.arange(x[0].shape[0], device=x.device) % len(pool)]

    def change(changed: Tensor, kept: Tensor) -> float:
        difference = (interpretation.reconstruct(changed, kept & mask)[1] - reference).abs().amax(-1)
        return float(torch.where(kept & mask, difference, 0.0).max()) / scale

    repeated = change(x, torch.ones_like(mask))
    later = 0.0
    positions = x.shape[1]
    # Neighbouring cuts, so that a method that works on blocks of any length is cut inside a block.
    for cut in sorted({c + i for c in (positions // 4, positions // 2, positions - 3) for i in (0, 1)}):
        changed = x.clone()
        changed[:, cut + 1 :] = other[cut + 1 :]
        kept = torch.zeros_like(mask)
        kept[:, : cut + 1] = True
        later = max(later, change(changed, kept))
    windows = 0.0
    # The first and the last window, so that both what leaks forward and what leaks backward is seen.
    for own in (0, len(x) - 1):
        changed = other.expand_as(x).clone()
        changed[own] = x[own]
        kept = torch.zeros_like(mask)
        kept[own] = True
        windows = max(windows, change(changed, kept))
    result = Conformance(repeated, later, windows)
    _refuse(interpretation.name, "the same activations are given again", result.repeated)
    _refuse(interpretation.name, "only activations at later positions change", result.later_positions)
    _refuse(interpretation.name, "only other windows of the batch change", result.other_windows)
    return result


def _refuse(name: str, when: str, change: float) -> None:
    if change > _TOLERANCE:
        raise InterpretationError(
            f"{name}: the reconstruction at a position changes by {change:.2g} of the root mean square of x "
            f"when {when}",
            fix="make encode and decode deterministic, of the same and earlier positions of one window only",
        )
