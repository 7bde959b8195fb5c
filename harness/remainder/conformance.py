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

__all__ = ["BROKEN", "Conformance", "Rule", "check_conformance", "measure_conformance"]

_TOLERANCE = 1e-4  # of the root mean square of x, well above what reordered sums cost in float32


class Conformance(NamedTuple):
    """Largest changes of the reconstruction that were seen, relative to the root mean square of x."""

    repeated: float
    later_positions: float
    other_windows: float
    limit: float = _TOLERANCE

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Each rule with what was seen of it."""
        seen = (self.repeated, self.later_positions, self.other_windows)
        return tuple(Rule(name, when, change) for (name, when), change in zip(_RULES, seen, strict=True))


class Rule(NamedTuple):
    """A rule, and how far the reconstruction moved when it should not have."""

    name: str
    when: str
    change: float

    @property
    def is_kept(self) -> bool:
        return self.change <= _TOLERANCE


_RULES = (
    ("deterministic", "the same activations are given again"),
    ("causal", "only activations at later positions change"),
    ("local", "only other windows of the batch change"),
)
BROKEN = "make encode and decode deterministic, of the same and earlier positions of one window only"
"""How to mend what breaks a rule."""


def check_conformance(
    interpretation: Adapted, x: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
) -> Conformance:
    """Check the three rules on at least two windows of real activations, at positions in `mask`.

    Raises:
        InterpretationError: naming the rule that is broken.
    """
    found = measure_conformance(interpretation, x, mask)
    for rule in found.rules:
        if not rule.is_kept:
            raise InterpretationError(
                f"{interpretation.name}: the reconstruction at a position changes by {rule.change:.2g} of "
                f"the root mean square of x when {rule.when}",
                fix=BROKEN,
            )
    return found


def measure_conformance(
    interpretation: Adapted, x: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
) -> Conformance:
    """How far the reconstruction moves where a rule forbids it; arguments as of `check_conformance`.

    Raises:
        InterpretationError: if it gives what is no reconstruction, or x is all zero.
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
    return Conformance(repeated, later, windows)
