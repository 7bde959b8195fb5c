"""Levels over each other: what a finer interpretation adds to a coarser one, and whether that is a bath.

1. Levels x̂₁, x̂₂ … x̂_N go from coarse to fine, and the model's own activation x is above them all. Each is
   measured with the next finer one in the model's place: its residual is δ = x̂_{n+1} − x̂_n, its clean loss
   that of x̂_{n+1}. So the gaps of `raw` of all levels add up to that of the coarsest in the model itself. Of
   the last level the model stands for itself: it is an ordinary row.
2. Statements that the picture of a hierarchy makes of a level, each of which asks for numbers below 0:

   | statement | of δ | asks |
   |---|---|---|
   | `shape` | real differences cost what Gaussian ones do | abs(full − permuted) ≤ 5 % of full − mean |
   | `even` | it harms as noise of its covariance does | abs(ρ_even − 1) ≤ 0.15 |
   | `odd` | its sign does not matter | abs(ρ_odd) ≤ 0.15 |
   | `apart` | the coarser level does not tell its law | abs(full − `cluster`), abs(full − `hetero`) ≤ 5 % |
   | `bath` | integrated out, it helps to predict | annealed − mean < 0 at amplitude 0.6 or 1 |

3. A statement holds at a level where the upper ends are below 0, it fails where a lower end is above. Ends
   are simultaneous over levels. That a statement holds, and that it fails, are two families of claims, whose
   levels are Holm's: a family is done when it claims all of its levels, and the others share what it had. So
   all claims hold together in 95 % of samples.

Source: protocol 1, section 8; protocol 2, sections 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.record.bath import bath_of
from remainder.record.flow import Criterion, met
from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.number import FrozenModel, Sha256
from remainder.record.ratio import ratio_even, ratio_odd
from remainder.record.rungs import BATH, BATH_PAIRS
from remainder.record.schema import Record, SubmissionInfo, TaskInfo
from remainder.record.store import StoredRecord
from remainder.record.values import Totals, annealed_totals, canonical_values, column, document_totals

__all__ = [
    "CONDITIONAL",
    "STATEMENTS",
    "Level",
    "Levels",
    "MeasuredLevels",
    "Verdict",
    "statements_of_records",
]

Array = NDArray[np.float64]

STATEMENTS = ("shape", "even", "odd", "apart", "bath")
"""Statements of a level, in the order of tables."""

CONDITIONAL = ("cluster", "hetero")
"""Samplers that see the coarser level: where δ has one law they do no better than the Gaussian."""

_SHARE, _RATIO = 0.05, 0.15
"""Room that statements leave: a share of the cost of the noise, and of a ratio."""


class Verdict(FrozenModel):
    """The documents' answer to a statement at a level."""

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


class Level(FrozenModel):
    """One level, in the next finer one."""

    submission: SubmissionInfo
    record: Sha256
    """The `record_id`."""


class Levels(FrozenModel):
    """Levels from coarse to fine, and what is said of each."""

    levels_version: int = 1
    protocol: str
    task: TaskInfo
    tier: str
    levels: tuple[Level, ...]
    statements: dict[str, tuple[Verdict, ...]]
    """Verdicts on each level, by the name of the statement."""


class MeasuredLevels(NamedTuple):
    """Levels with their records, from coarse to fine."""

    levels: Levels
    records: tuple[Record, ...]


class _Sums(NamedTuple):
    """Sums of one level over each document."""

    totals: Totals
    table: pd.DataFrame
    unmeasured: Mapping[str, str]
    """The reason why a rung has no values, by its name."""


def statements_of_records(records: Sequence[StoredRecord], *, seed: int) -> dict[str, tuple[Verdict, ...]]:
    """The verdicts on levels that were measured over each other, from coarse to fine.

    Args:
        seed: of the bootstrap, as in the records.

    Raises:
        ValueError: they are of different documents, or one is not in the next.
    """
    _require_chain([one.record for one in records])
    tables = [canonical_values(one.values) for one in records]
    sums = [
        _Sums(document_totals(table), table, one.record.measurement.unmeasured)
        for table, one in zip(tables, records, strict=True)
    ]
    if any(list(one.totals["clean"].index) != list(sums[0].totals["clean"].index) for one in sums):
        raise ValueError("levels are measured on the same documents")
    return _statements(sums, seed=seed)


def _require_chain(records: Sequence[Record]) -> None:
    """Raise ValueError unless each record is of a level in the next one, the last in the model itself."""
    if len(records) < 2:
        raise ValueError("one level has no other to stand over")
    for coarse, fine in zip(records, [*records[1:], None], strict=True):
        stands, wanted = coarse.reference, None if fine is None else fine.submission
        if (stands and stands.hash) != (wanted and wanted.hash):
            above = "the model" if wanted is None else wanted.name
            raise ValueError(
                f"{coarse.submission.name} stands in {'the model' if stands is None else stands.name}, not "
                f"in {above}"
            )


def _statements(sums: Sequence[_Sums], *, seed: int) -> dict[str, tuple[Verdict, ...]]:
    """A verdict for each level, by statement."""
    tokens = column(sums[0].totals["clean"], "tokens")
    sides: dict[str, list[_Sides | str]] = {}
    for name, of in _SIDES.items():
        too_few = f"{len(tokens)} documents; an interval needs {MINIMUM_DOCUMENTS}"
        sides[name] = [too_few if len(tokens) < MINIMUM_DOCUMENTS else of(one) for one in sums]
    criteria = {
        name: Criterion(
            np.stack([one.numerators for one in known]),
            any_side=name == "bath",
            unknown=np.stack([one.unknown for one in known]),
        )
        for name, found in sides.items()
        if (known := [one for one in found if not isinstance(one, str)])
    }
    claims = _claims(Bootstrap(len(tokens), seed=seed), tokens, criteria) if criteria else {}
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    for name, found in sides.items():
        holds, fails = (iter(claims.get((name, word), ())) for word in _WORDS)
        verdicts[name] = tuple(
            Verdict(holds=None, reason=one)
            if isinstance(one, str)
            else Verdict(holds=_decided(bool(next(holds)), bool(next(fails))))
            for one in found
        )
    return verdicts


_WORDS = ("holds", "fails")


def _decided(holds: bool, fails: bool) -> bool | None:
    return True if holds else False if fails else None


def _claims(
    bootstrap: Bootstrap, tokens: Array, criteria: Mapping[str, Criterion]
) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Whether each family of claims, a statement and a word, claims each of its levels, by Holm's rule."""
    claims: dict[tuple[str, str], NDArray[np.bool_]] = {}
    left = {(name, word) for name in criteria for word in _WORDS}
    while left:
        # Two one-sided families take the two tails of one region.
        at = bootstrap.at_level(1 - 2 * (1 - LEVEL) / max(len(left), 2))
        for name in {name for name, _ in left}:
            may, does = met(at, tokens, criteria[name])
            found = {"holds": does, "fails": ~may}
            claims |= {(name, word): found[word] for word in _WORDS if (name, word) in left}
        done = {family for family in left if claims[family].all()}
        if not done:
            break
        left -= done
    return claims


class _Sides(NamedTuple):
    """Numerators of one level, `[sides, documents]`, and which sides have no value."""

    numerators: Array
    unknown: NDArray[np.bool_]


def _within(size: Array, room: Array, share: float) -> list[Array]:
    """|size| ≤ share · room, as two sides."""
    return [size - share * room, -size - share * room]


def _sides(*pairs: list[Array]) -> _Sides:
    numerators = np.array([side for pair in pairs for side in pair])
    return _Sides(numerators, np.zeros(len(numerators), dtype=np.bool_))


def _lacking(one: _Sums, *rungs: str) -> str | None:
    missing = [rung for rung in rungs if rung not in one.totals]
    if not missing:
        return None
    return one.unmeasured.get(missing[0], f"rung {missing[0]} was not measured")


def _less(one: _Sums, rung: str, other: str) -> Array:
    return column(one.totals[rung], "loss") - column(one.totals[other], "loss")


def _costs(*rungs: str) -> Callable[[_Sums], _Sides | str]:
    """The Gaussian costs what these do."""

    def of(one: _Sums) -> _Sides | str:
        if lacking := _lacking(one, "full", "mean", *rungs):
            return lacking
        room = _less(one, "full", "mean")
        return _sides(*(_within(_less(one, "full", rung), room, _SHARE) for rung in rungs))

    return of


def _ratio(of_totals: Callable[[Totals], Ratio | str], wanted: float) -> Callable[[_Sums], _Sides | str]:
    """A ratio to noise of its covariance is near what is wanted."""

    def of(one: _Sums) -> _Sides | str:
        if lacking := _lacking(one, "mirror", "noise-fitted"):
            return lacking
        found = of_totals(one.totals)
        if isinstance(found, str):
            return found
        return _sides(_within(found.numerator - wanted * found.denominator, found.denominator, _RATIO))

    return of


def _bath(one: _Sums) -> _Sides | str:
    if lacking := _lacking(one, "mean", *BATH):
        return lacking
    points = bath_of(Bootstrap(len(one.totals["clean"]), seed=0), one.table, one.totals) or ()
    annealed = [annealed_totals(one.table, rung).get(2 * BATH_PAIRS[rung]) for rung in BATH]
    if any(each is None for each in annealed):
        return "the amplitudes have too few draws for an annealed loss"
    mean = column(one.totals["mean"], "loss")
    return _Sides(
        np.array([column(each, "annealed") - mean for each in annealed if each is not None]),
        np.array([point.difference.value is None for point in points]),
    )


_SIDES: dict[str, Callable[[_Sums], _Sides | str]] = {
    "shape": _costs("permuted"),
    "even": _ratio(ratio_even, 1.0),
    "odd": _ratio(ratio_odd, 0.0),
    "apart": _costs(*CONDITIONAL),
    "bath": _bath,
}
"""Sides of each statement at a level, or why there are none."""
