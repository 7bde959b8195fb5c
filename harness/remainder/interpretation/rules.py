"""Rules that every interpretation must keep, checked on real activations before it is scored.

1. Deterministic: the same activations give the same codes and the same reconstruction.
2. Causal: codes and reconstruction at a position do not change when later positions do. Otherwise the next
   token, which is the target, could be carried past the bottleneck.
3. Local: they do not change when other windows of the batch do.
4. By its codes: kept codes give the same reconstruction again after other activations were encoded, and so
   does one window by itself. Otherwise the codes that are counted need not be what is decoded: an object
   could keep x when it encodes, and return it.
5. Where an interpretation rebuilds the activations that it reads, `skip` passes at most two numbers per token
   past the codes: a scale and a mean, as with normalised activations. A linear map there could be the
   identity, for no bits at all.
6. The reconstruction is at most `_LARGEST` times as large as the activations: x is lost in the rounding of
   anything larger, and so is its residual.

Source: protocol 1, section 10; 4 and 5 for section 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.errors import InterpretationError
from remainder.interpretation.protocol import Adapted

__all__ = ["Conformance", "Rule", "check_conformance", "measure_conformance"]

_TOLERANCE = 1e-4  # share of a root mean square, well above the rounding of reordered sums in float32
_LARGEST = 1e6
"""Largest root mean square of a reconstruction, in those of the activations; float32 has seven digits."""
_PAST = 2
"""Numbers per token that may bypass the codes where an interpretation rebuilds its own input."""


class Conformance(NamedTuple):
    """The largest changes seen where nothing should change.

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
        """Each rule with the changes seen."""
        seen = (self.repeated, self.later_positions, self.other_windows)
        found = [
            Rule(name, when, *max((change, "the reconstruction"), (of_codes, "the code")))
            for (name, when), change, of_codes in zip(_RULES, seen, self.codes, strict=True)
        ]
        return (*found, Rule(*_BY_CODES, self.decoded, "the reconstruction"))


class Rule(NamedTuple):
    """A rule, and the largest changes seen against it."""

    name: str
    when: str
    change: float
    what: str
    """The part that changed most: the reconstruction or the code."""

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
        """A remedy for an interpretation that breaks it."""
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
        interpretation: the interpretation to check.
        x: the activations that it reads.
        mask: positions that are spliced.
        target: the activations that it rebuilds; default: those that it reads.

    Raises:
        InterpretationError: if a rule is broken; names the rule.
    """
    conformance = measure_conformance(interpretation, x, mask, target)
    for rule in conformance.rules:
        if not rule.is_kept:
            raise InterpretationError(rule.broken_by(interpretation.name), fix=rule.fix)
    return conformance


@torch.no_grad()  # parameters of a module from a notebook usually require gradients
def measure_conformance(
    interpretation: Adapted,
    x: Float[Tensor, "docs pos d"],
    mask: Bool[Tensor, "docs pos"],
    target: Float[Tensor, "docs pos e"] | None = None,
) -> Conformance:
    """Measure how far codes and reconstruction move where a rule forbids it; see `check_conformance`.

    Raises:
        InterpretationError: if its results are not a reconstruction, the activations that it rebuilds are all
            zero, too much bypasses its codes, or the reconstruction is too large.
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
    _check_size(interpretation.name, reference[mask], scale)
    active = codes[mask][codes[mask] != 0]
    unit = float(active.square().mean().sqrt()) if len(active) else 1.0
    # A window of other real activations, shuffled: as far from these as the model's activations ever are.
    order = torch.randperm(int(mask.sum()), generator=torch.Generator().manual_seed(0))
    pool = x[mask][order.to(x.device)]
    other = pool[torch.arange(x[0].shape[0], device=x.device) % len(pool)]
    probe = _Probe(interpretation, x, mask, other, codes, reference, scale, unit)
    repeated, later, windows = probe.change(x, torch.ones_like(mask)), probe.later(), probe.windows()
    # If a rule is broken already, `decode` need not work on a single window.
    is_kept = max(*repeated, *later, *windows) <= _TOLERANCE
    decoded = probe.decoded(alone=is_kept)
    return Conformance(
        repeated[0], later[0], windows[0], (repeated[1], later[1], windows[1]), decoded / scale
    )


class _Change(NamedTuple):
    reconstruction: float
    codes: float


@dataclass(frozen=True)
class _Probe:
    """The first reconstruction of some windows, and how far others of the same activations are from it."""

    interpretation: Adapted
    x: Float[Tensor, "docs pos d"]
    mask: Bool[Tensor, "docs pos"]
    other: Float[Tensor, "pos d"]
    """Activations that take the place of those that a rule allows to change."""
    codes: Float[Tensor, "docs pos features"]
    reference: Float[Tensor, "docs pos e"]
    scale: float
    """Root mean square of the activations that are rebuilt."""
    unit: float
    """Root mean square of active codes."""

    def change(self, changed: Tensor, kept: Tensor) -> _Change:
        """Largest change where `kept` holds, when `changed` is given in place of x."""
        kept = kept & self.mask
        codes, reconstruction = self.interpretation.reconstruct(changed, kept)
        if codes.shape != self.codes.shape:
            raise InterpretationError(
                f"{self.interpretation.name}: encode gave {codes.shape[-1]} features, before "
                f"{self.codes.shape[-1]}",
                fix="give codes of one width, whatever is encoded",
            )
        return _Change(
            _moved(reconstruction, self.reference, kept) / self.scale,
            _moved(codes, self.codes, kept) / self.unit,
        )

    def later(self) -> _Change:
        """Largest change when only later positions change."""
        positions = self.x.shape[1]
        changes = [_Change(0.0, 0.0)]
        # Neighbouring cuts, so that a method that works on blocks of any length is cut inside a block.
        for cut in sorted({c + i for c in (positions // 4, positions // 2, positions - 3) for i in (0, 1)}):
            changed = self.x.clone()
            changed[:, cut + 1 :] = self.other[cut + 1 :]
            kept = torch.zeros_like(self.mask)
            kept[:, : cut + 1] = True
            changes.append(self.change(changed, kept))
        return _Change(*map(max, zip(*changes, strict=True)))

    def windows(self) -> _Change:
        """Largest change when only other windows change."""
        changes = []
        # The first and the last window, so that leaks are seen in both directions.
        for own in (0, len(self.x) - 1):
            changed = self.other.expand_as(self.x).clone()
            changed[own] = self.x[own]
            kept = torch.zeros_like(self.mask)
            kept[own] = True
            changes.append(self.change(changed, kept))
        return _Change(*map(max, zip(*changes, strict=True)))

    def decoded(self, *, alone: bool) -> float:
        """Largest change when kept codes are decoded again, and if `alone`, a window at a time."""
        decode = self.interpretation.decode
        # An object that kept x when it encoded must not find it again: encode something else first.
        self.interpretation.encode(self.other.expand_as(self.x))
        passed = self.interpretation.skip(self.x)
        expected = self.reference if passed is None else self.reference - passed
        changes = [
            _moved(decode(self.codes), expected, self.mask),
            _moved(decode(self.codes.flip(0)).flip(0), expected, self.mask),
        ]
        for own in (0, len(self.x) - 1) if alone else ():
            single = decode(self.codes[own : own + 1])[0]
            changes.append(_moved(single, expected[own], self.mask[own]))
        return max(changes)


def _moved(values: Tensor, expected: Tensor, kept: Tensor) -> float:
    if not values.shape[-1]:  # an interpretation without features
        return 0.0
    return float(torch.where(kept, (values - expected).abs().amax(-1), 0.0).max())


def _check_size(name: str, reconstruction: Float[Tensor, "rows e"], scale: float) -> None:
    """Check rule 6."""
    size = float(reconstruction.double().square().mean().sqrt()) / scale
    if size > _LARGEST:
        raise InterpretationError(
            f"{name}: its reconstruction is {size:.2g} times as large as what it rebuilds (root mean "
            f"squares), and more than {_LARGEST:g} times is lost in rounding",
            fix="check the scale of its weights: activations are given as they are, not normalised",
        )


def _check_past(
    interpretation: Adapted, x: Tensor, mask: Bool[Tensor, "docs pos"], rebuilt: Tensor, scale: float
) -> None:
    """Check rule 5: the skipped rows of tokens lie in a plane, where it rebuilds the activations it reads."""
    passed = interpretation.skip(x)
    # Compared by value, since one tensor has several hook names.
    if passed is None or x.shape != rebuilt.shape or not torch.equal(x[mask], rebuilt[mask]):
        return
    rows = passed[mask].double()
    if not rows.isfinite().all():
        return  # reported for the reconstruction, which is not finite either
    sizes = torch.linalg.svdvals(rows - rows.mean(0))[_PAST:]
    beyond = float(sizes.square().sum() / rows.numel()) ** 0.5 / scale
    if beyond > _TOLERANCE:
        raise InterpretationError(
            f"{interpretation.name}: it rebuilds what it reads, and past its codes goes more than {_PAST} "
            f"numbers a token ({beyond:.2g} of the root mean square of what it rebuilds): the reconstruction "
            "is not by the codes that are counted",
            fix="leave `skip` to transcoders, which rebuild another place; put what is needed into codes",
        )
