"""Rules that every interpretation keeps, checked on real activations before it is scored.

1. Deterministic: the same activations give the same codes and the same reconstruction.
2. Causal: codes and reconstruction at a position do not change when later positions do. Else it could carry
   the next token, which is the target, past the bottleneck.
3. Local: they do not change when other windows of the batch do.
4. By its codes: codes that were kept give the same reconstruction again after other activations were
   encoded, and so does one window by itself. Else what is counted is not what is decoded: an object could
   keep x when it encodes, and give it back.
5. What goes past the codes (`skip`) is at most two numbers a token where it rebuilds what it reads: a scale
   and a mean, as where activations are normalised first. A linear map could be the identity there, for no
   bits at all.

Source: protocol 1, section 10; 4 and 5 for section 9.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted

__all__ = ["Conformance", "Rule", "check_conformance", "measure_conformance"]

_TOLERANCE = 1e-4  # of a root mean square, well above what reordered sums cost in float32
_PAST = 2
"""Numbers a token that may go past the codes where it rebuilds what it reads."""


class Conformance(NamedTuple):
    """The largest changes that were seen in what should not move.

    Changes of reconstructions are relative to the root mean square of the activations that are rebuilt;
    changes of codes are relative to that of active codes.
    """

    repeated: float
    later_positions: float
    other_windows: float
    codes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Changes of the codes, in the same three cases."""
    decoded: float = 0.0
    """Change of the reconstruction when kept codes are decoded later, or a window at a time."""
    limit: float = _TOLERANCE

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Each rule with what was seen of it."""
        seen = (self.repeated, self.later_positions, self.other_windows)
        found = [
            Rule(name, when, *max((change, "the reconstruction"), (of_codes, "the code")))
            for (name, when), change, of_codes in zip(_RULES, seen, self.codes, strict=True)
        ]
        return (*found, Rule(*_BY_CODES, self.decoded, "the reconstruction"))


class Rule(NamedTuple):
    """A rule, and how far what moved most did so when it should not have."""

    name: str
    when: str
    change: float
    what: str
    """Whichever moved most: the reconstruction or the code."""

    @property
    def is_kept(self) -> bool:
        return self.change <= _TOLERANCE

    def broken_by(self, name: str) -> str:
        """The message for the interpretation `name`, which breaks this rule."""
        scale = "active codes" if self.what == "the code" else "what it rebuilds"
        return (
            f"{name}: {self.what} at a position changes by {self.change:.2g} of the root mean square of "
            f"{scale} when {self.when}"
        )

    @property
    def fix(self) -> str:
        """Advice to the author of an interpretation that breaks it."""
        return _NOT_BY_CODES if self.name == _BY_CODES[0] else _BROKEN


_RULES = (
    ("deterministic", "the same activations are given again"),
    ("causal", "only activations at later positions change"),
    ("local", "only other windows of the batch change"),
)
_BY_CODES = ("by its codes", "its codes are decoded after others were encoded, or a window at a time")
_BROKEN = "make encode and decode deterministic, of the same and earlier positions of one window only"
_NOT_BY_CODES = "make decode a function of the codes alone: put what it needs of x into them"


def check_conformance(
    interpretation: Adapted,
    x: Float[Tensor, "docs pos d"],
    mask: Bool[Tensor, "docs pos"],
    target: Float[Tensor, "docs pos e"] | None = None,
) -> Conformance:
    """Check the rules on at least two windows of real activations, at positions in `mask`.

    Args:
        interpretation: what is checked.
        x: the activations that it reads.
        mask: positions that are spliced.
        target: the activations that it rebuilds; default: those that it reads.

    Raises:
        InterpretationError: naming the rule that is broken.
    """
    found = measure_conformance(interpretation, x, mask, target)
    for rule in found.rules:
        if not rule.is_kept:
            raise InterpretationError(rule.broken_by(interpretation.name), fix=rule.fix)
    return found


@torch.no_grad()  # parameters of a module from a notebook usually require gradients
def measure_conformance(
    interpretation: Adapted,
    x: Float[Tensor, "docs pos d"],
    mask: Bool[Tensor, "docs pos"],
    target: Float[Tensor, "docs pos e"] | None = None,
) -> Conformance:
    """Measure how far codes and reconstruction move where a rule forbids it; see `check_conformance`.

    Raises:
        InterpretationError: if it gives what is no reconstruction, what it rebuilds is all zero, or more goes
            past its codes than may.
    """
    if len(x) < 2:
        raise ValueError(f"conformance needs at least 2 windows, {len(x)} given")
    rebuilt = x if target is None else target
    scale = float(rebuilt[mask].square().mean().sqrt())
    if scale == 0:
        raise InterpretationError(
            "the activations at the site are all zero", fix="choose a site at which something happens"
        )
    _check_past(interpretation, x, mask, rebuilt, scale)
    codes, reference = interpretation.reconstruct(x, mask)
    active = codes[mask][codes[mask] != 0]
    unit = float(active.square().mean().sqrt()) if len(active) else 1.0
    generator = torch.Generator().manual_seed(0)
    # A window of other real activations, shuffled: as far away as activations of the model ever are.
    order = torch.randperm(int(mask.sum()), generator=generator)
    pool = x[mask][order.to(x.device)]
    other = pool[torch.arange(x[0].shape[0], device=x.device) % len(pool)]

    def moved(found: Tensor, expected: Tensor, kept: Tensor) -> float:
        if not found.shape[-1]:  # no codes at all
            return 0.0
        return float(torch.where(kept, (found - expected).abs().amax(-1), 0.0).max())

    def change(changed: Tensor, kept: Tensor) -> tuple[float, float]:
        """Change of the reconstruction, and of the codes."""
        found = interpretation.reconstruct(changed, kept & mask)
        if found[0].shape != codes.shape:
            raise InterpretationError(
                f"{interpretation.name}: encode gave {found[0].shape[-1]} features, before {codes.shape[-1]}",
                fix="give codes of one width, whatever is encoded",
            )
        return moved(found[1], reference, kept & mask) / scale, moved(found[0], codes, kept & mask) / unit

    repeated = change(x, torch.ones_like(mask))
    later = [(0.0, 0.0)]
    positions = x.shape[1]
    # Neighbouring cuts, so that a method that works on blocks of any length is cut inside a block.
    for cut in sorted({c + i for c in (positions // 4, positions // 2, positions - 3) for i in (0, 1)}):
        changed = x.clone()
        changed[:, cut + 1 :] = other[cut + 1 :]
        kept = torch.zeros_like(mask)
        kept[:, : cut + 1] = True
        later.append(change(changed, kept))
    windows = []
    # The first and the last window, so that both what leaks forward and what leaks backward is seen.
    for own in (0, len(x) - 1):
        changed = other.expand_as(x).clone()
        changed[own] = x[own]
        kept = torch.zeros_like(mask)
        kept[own] = True
        windows.append(change(changed, kept))
    # What was encoded last is none of these windows.
    interpretation.encode(other.expand_as(x))
    passed = interpretation.skip(x)
    expected = reference if passed is None else reference - passed
    decoded = [moved(interpretation.decode(codes), expected, mask)]
    decoded.append(moved(interpretation.decode(codes.flip(0)).flip(0), expected, mask))
    of_later, of_windows = (tuple(map(max, zip(*found, strict=True))) for found in (later, windows))
    if max(*repeated, *of_later, *of_windows) <= _TOLERANCE:  # else it need not stand a batch of one
        for own in (0, len(x) - 1):
            alone = interpretation.decode(codes[own : own + 1])[0]
            decoded.append(moved(alone, expected[own], mask[own]))
    return Conformance(
        repeated[0],
        of_later[0],
        of_windows[0],
        (repeated[1], of_later[1], of_windows[1]),
        max(decoded) / scale,
    )


def _check_past(
    interpretation: Adapted, x: Tensor, mask: Bool[Tensor, "docs pos"], rebuilt: Tensor, scale: float
) -> None:
    """Rule 5: tokens' rows of what goes past the codes lie in a plane, where it rebuilds what it reads."""
    passed = interpretation.skip(x)
    # Compared by value: one tensor has several hook names.
    if passed is None or x.shape != rebuilt.shape or not torch.equal(x[mask], rebuilt[mask]):
        return
    rows = passed[mask].double()
    if not rows.isfinite().all():
        return  # told of the reconstruction, which is not finite either
    sizes = torch.linalg.svdvals(rows - rows.mean(0))[_PAST:]
    beyond = float(sizes.square().sum() / rows.numel()) ** 0.5 / scale
    if beyond > _TOLERANCE:
        raise InterpretationError(
            f"{interpretation.name}: it rebuilds what it reads, and past its codes goes more than {_PAST} "
            f"numbers a token ({beyond:.2g} of the root mean square of what it rebuilds): the reconstruction "
            "is not by the codes that are counted",
            fix="leave `skip` to transcoders, which rebuild another place; put what is needed into codes",
        )
