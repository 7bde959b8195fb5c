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
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import FrozenModel, Sha256
from remainder.record.ratio import ratio_even, ratio_odd
from remainder.record.rungs import BATH, BATH_PAIRS
from remainder.record.schema import Record, SubmissionInfo, TaskInfo
from remainder.record.shells import ShellsOf
from remainder.record.store import StoredRecord
from remainder.record.values import Totals, annealed_totals, canonical_values, column, document_totals
from remainder.record.verdicts import Sides, Verdict, verdicts_of, within

__all__ = [
    "CONDITIONAL",
    "STATEMENTS",
    "Level",
    "Levels",
    "MeasuredLevels",
    "statements_of_records",
]

Array = NDArray[np.float64]

STATEMENTS = ("shape", "even", "odd", "apart", "bath")
"""Statements of a level, in the order of tables."""

CONDITIONAL = ("cluster", "hetero")
"""Samplers that see the coarser level: where δ has one law they do no better than the Gaussian."""

_SHARE, _RATIO = 0.05, 0.15
"""Room that statements leave: a share of the cost of the noise, and of a ratio."""


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
    shells: ShellsOf | None
    """The submission whose shells the levels are; null where they are submissions."""
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
    sides = {name: [of(one) for one in sums] for name, of in _SIDES.items()}
    return verdicts_of(sides, tokens, seed=seed, any_side=("bath",))


def _lacking(one: _Sums, *rungs: str) -> str | None:
    missing = [rung for rung in rungs if rung not in one.totals]
    if not missing:
        return None
    return one.unmeasured.get(missing[0], f"rung {missing[0]} was not measured")


def _less(one: _Sums, rung: str, other: str) -> Array:
    return column(one.totals[rung], "loss") - column(one.totals[other], "loss")


def _costs(*rungs: str) -> Callable[[_Sums], Sides | str]:
    """The Gaussian costs what these do."""

    def of(one: _Sums) -> Sides | str:
        if lacking := _lacking(one, "full", "mean", *rungs):
            return lacking
        room = _less(one, "full", "mean")
        return Sides.of(*(within(_less(one, "full", rung), room, _SHARE) for rung in rungs))

    return of


def _ratio(of_totals: Callable[[Totals], Ratio | str], wanted: float) -> Callable[[_Sums], Sides | str]:
    """A ratio to noise of its covariance is near what is wanted."""

    def of(one: _Sums) -> Sides | str:
        if lacking := _lacking(one, "mirror", "noise-fitted"):
            return lacking
        found = of_totals(one.totals)
        if isinstance(found, str):
            return found
        return Sides.of(within(found.numerator - wanted * found.denominator, found.denominator, _RATIO))

    return of


def _bath(one: _Sums) -> Sides | str:
    if lacking := _lacking(one, "mean", *BATH):
        return lacking
    points = bath_of(Bootstrap(len(one.totals["clean"]), seed=0), one.table, one.totals) or ()
    annealed = [annealed_totals(one.table, rung).get(2 * BATH_PAIRS[rung]) for rung in BATH]
    if any(each is None for each in annealed):
        return "the amplitudes have too few draws for an annealed loss"
    mean = column(one.totals["mean"], "loss")
    return Sides(
        np.array([column(each, "annealed") - mean for each in annealed if each is not None]),
        np.array([point.difference.value is None for point in points]),
    )


_SIDES: dict[str, Callable[[_Sums], Sides | str]] = {
    "shape": _costs("permuted"),
    "even": _ratio(ratio_even, 1.0),
    "odd": _ratio(ratio_odd, 0.0),
    "apart": _costs(*CONDITIONAL),
    "bath": _bath,
}
"""Sides of each statement at a level, or why there are none."""
