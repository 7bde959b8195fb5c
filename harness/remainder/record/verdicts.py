"""Statements about several things at once, each of which holds, fails or stays open, by Holm's rule.

A statement asks for numbers below 0, which are ratios of sums over documents (`record.flow.Criterion`). It
holds of a thing (a level, a site with so many sources kept) where the upper ends are below 0, and fails where
a lower end is above. Ends are simultaneous over things. That a statement holds, and that it fails, are two
families of claims, whose levels are Holm's: a family is done when it claims all of its things, and the others
share what it had. So all claims hold together in 95 % of samples.

A statement may also rest on a test of each thing, by its p. Then it can hold or be open, and is one family,
which takes its level over things as Bonferroni does.

Source: Holm, "A simple sequentially rejective multiple test procedure", 1979; protocol 2, section 8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.record.flow import Criterion, met
from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap
from remainder.record.number import FrozenModel

__all__ = ["WORDS", "Sides", "Verdict", "claims", "decided", "verdicts_of", "within"]

Array = NDArray[np.float64]

WORDS = ("holds", "fails")
"""Claims that are made of a statement."""


class Verdict(FrozenModel):
    """The documents' answer to a statement."""

    holds: bool | None
    """Null where they leave it open, or where it was not measured."""
    reason: str | None = None
    """Why it was not measured; null where it was."""

    @property
    def word(self) -> str:
        """One word for tables."""
        if self.reason is not None:
            return "–"
        return "open" if self.holds is None else "holds" if self.holds else "fails"


def decided(holds: bool, fails: bool) -> bool | None:
    """The verdict on a statement of which this is claimed; None: open."""
    return True if holds else False if fails else None


def within(size: Array, room: Array, share: float) -> list[Array]:
    """|size| ≤ share · room, as two sides."""
    return [size - share * room, -size - share * room]


class Sides(NamedTuple):
    """Numerators of a statement about one thing, which it asks to be below 0."""

    numerators: Array
    """`[sides, documents]`."""
    unknown: NDArray[np.bool_]
    """Sides that have no value, `[sides]`."""

    @classmethod
    def of(cls, *pairs: Sequence[Array]) -> Sides:
        """Sides of which each has a value."""
        numerators = np.array([side for pair in pairs for side in pair])
        return cls(numerators, np.zeros(len(numerators), dtype=np.bool_))


def verdicts_of(
    sides: Mapping[str, Sequence[Sides | str]],
    tokens: Array,
    *,
    seed: int,
    any_side: Collection[str] = (),
    tests: Mapping[str, Sequence[float | str]] | None = None,
) -> dict[str, tuple[Verdict, ...]]:
    """Verdicts on statements about several things.

    Args:
        sides: of each statement at each thing, or why it was not measured there.
        tokens: the denominator of all, `[documents]`.
        seed: of the bootstrap.
        any_side: statements of which one side below 0 is enough.
        tests: p of statements that rest on a test, at each thing, or why it was not made there.
    """
    tests = tests or {}
    if len(tokens) < MINIMUM_DOCUMENTS:
        too_few = f"{len(tokens)} documents; an interval needs {MINIMUM_DOCUMENTS}"
        sides = {name: [too_few] * len(found) for name, found in sides.items()}
    criteria = {
        name: Criterion(
            np.stack([one.numerators for one in known]),
            any_side=name in any_side,
            unknown=np.stack([one.unknown for one in known]),
        )
        for name, found in sides.items()
        if (known := [one for one in found if not isinstance(one, str)])
    }
    chances = {
        name: np.array(made)
        for name, ps in tests.items()
        if (made := [p for p in ps if not isinstance(p, str)])
    }
    any_claim = criteria or chances
    claimed = claims(Bootstrap(len(tokens), seed=seed), tokens, criteria, chances) if any_claim else {}
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    for name, found in sides.items():
        holds, fails = (iter(claimed.get((name, word), ())) for word in WORDS)
        verdicts[name] = tuple(
            Verdict(holds=None, reason=one)
            if isinstance(one, str)
            else Verdict(holds=decided(bool(next(holds)), bool(next(fails))))
            for one in found
        )
    for name, ps in tests.items():
        holds = iter(claimed.get((name, "holds"), ()))
        verdicts[name] = tuple(
            Verdict(holds=None, reason=p) if isinstance(p, str) else Verdict(holds=bool(next(holds)) or None)
            for p in ps
        )
    return verdicts


def claims(
    bootstrap: Bootstrap,
    tokens: Array,
    criteria: Mapping[str, Criterion],
    chances: Mapping[str, Array] | None = None,
) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Whether each family of claims, a statement and a word, claims each of its things, by Holm's rule.

    Args:
        chances: p of statements that rest on tests, `[things]`.
    """
    chances = chances or {}
    found: dict[tuple[str, str], NDArray[np.bool_]] = {}
    left = {(name, word) for name in criteria for word in WORDS} | {(name, "holds") for name in chances}
    while left:
        # Two one-sided families take the two tails of one region.
        share = (1 - LEVEL) / max(len(left), 2)
        at = bootstrap.at_level(1 - 2 * share)
        for name in {name for name, _ in left}:
            if name in chances:
                found[name, "holds"] = np.asarray(chances[name] * len(chances[name]) <= share)
                continue
            may, does = met(at, tokens, criteria[name])
            of = {"holds": does, "fails": ~may}
            found |= {(name, word): of[word] for word in WORDS if (name, word) in left}
        done = {family for family in left if found[family].all()}
        if not done:
            break
        left -= done
    return found
