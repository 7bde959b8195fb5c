"""The flow: one interpretation with ever fewer of its sources kept, and the scales that its shells show.

1. A shell keeps k sources; all others join the bath. It is measured as any submission is, and has a record.
2. From these records, on the same documents, follow four scales k*. Each criterion asks for numbers below 0,
   which are ratios of sums over documents:

   | scale | criterion |
   |---|---|
   | `shape` | abs(full − permuted) ≤ 5 % of (sampled − zero): real rows cost what Gaussian ones do |
   | `perturbative` | abs(sampled − one) ≤ 10 % of (sampled − zero): one order in the noise tells the loss |
   | `raw` | abs(gap of raw) ≤ 5 % of that with nothing kept |
   | `bath` | the bath, integrated out, helps to predict: of two forms that `Bracket.criterion` tells |

3. All shells' numbers of a criterion have simultaneous intervals. k_hi is the smallest shell from which on
   the upper ends meet the criterion, k_lo the same by lower ends: k* lies between them. With k_lo alone it is
   undecided; with neither it is not reached.
   A shell that leaves nothing out meets every criterion.
4. Several scales are claimed at once, so their levels are Holm's: those that are reached at 1 − 5 %/4 are
   claimed, the others are tried again at 1 − 5 %/m with the m that are left.

`bath`, where amplitudes of source and noise were fitted (`couplings`): annealed(α*, β*) − annealed(0, β₀*)
< 0, both sides fitted on calibration, so that a shrunk source is not credited to the bath. Else
(`amplitudes`): annealed − mean < 0 at amplitude 0.6 or 1. Annealed losses are of all draws that a shell has.

Zero, one and sampled are the orders of `record.orders`, of common draws; of circuits zero is the mean at each
position, and there are no orders.

Source: protocol 1, section 8; protocol 2, sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.record.bath import annealed_less
from remainder.record.intervals import LEVEL, MINIMUM_DOCUMENTS, Bootstrap, Ratio
from remainder.record.number import FrozenModel, Sha256
from remainder.record.orders import order_weights, shape_of, shared_draws
from remainder.record.rungs import AMPLITUDES, BATH, BATH_PAIRS, COUPLINGS
from remainder.record.schema import Record, SubmissionInfo, TaskInfo
from remainder.record.store import StoredRecord
from remainder.record.values import (
    KL_ROUNDING,
    Totals,
    annealed_totals,
    canonical_values,
    column,
    document_totals,
)

__all__ = [
    "SCALES",
    "Bracket",
    "Criterion",
    "Flow",
    "FlowShell",
    "MeasuredFlow",
    "Met",
    "Shells",
    "brackets_of",
    "criteria_of",
    "met",
]

Array = NDArray[np.float64]

SCALES = ("shape", "perturbative", "raw", "bath")
"""Scales that a flow may show, in the order of tables."""

_SHARES = {"shape": 0.05, "perturbative": 0.10, "raw": 0.05}
"""How much of what stands beside it a criterion allows."""


class Bracket(FrozenModel):
    """A scale k*, between two of the shells."""

    low: int | None
    """Number of kept sources from which on the criterion may hold; null where it fails at the largest."""
    high: int | None
    """Number of kept sources from which on it holds; null where that is not shown."""
    reason: str | None = None
    """Why it could not be looked for; null where it was."""
    criterion: Literal["couplings", "amplitudes"] | None = None
    """The form of the criterion, where it has two."""

    @property
    def verdict(self) -> str:
        """A few words for tables."""
        if self.reason is not None:
            return "not measured"
        if self.high is None:
            return "not reached" if self.low is None else f"undecided, ≥ {self.low}"
        return f"{self.high}" if self.low == self.high else f"{self.low} to {self.high}"


class FlowShell(FrozenModel):
    """One shell: how many sources are kept, and the record of it."""

    keep: int
    record: Sha256
    """The `record_id`."""


class Flow(FrozenModel):
    """A flow: shells, and what they show together."""

    flow_version: int = 1
    protocol: str
    task: TaskInfo
    submission: SubmissionInfo
    """The whole interpretation."""
    tier: str
    dtype: str
    """The dtype of the model after the site."""
    order: str
    """The order in which sources are kept."""
    sources: int
    """How many there are to keep; of `dynamic` the largest number at one token."""
    ties: int
    """Sources whose place in the order their index decided."""
    shells: tuple[FlowShell, ...]
    """Ascending."""
    scales: dict[str, Bracket]


class MeasuredFlow(NamedTuple):
    """A flow with the records of its shells, ascending by how many sources they keep."""

    flow: Flow
    records: tuple[Record, ...]


class Shells(NamedTuple):
    """Per-document sums of all shells, ascending by how many sources are kept."""

    keeps: tuple[int, ...]
    totals: tuple[Totals, ...]
    tables: tuple[pd.DataFrame, ...]

    @classmethod
    def of(cls, records: Mapping[int, StoredRecord]) -> Shells:
        """Sums of the values of some records, by how many sources each keeps.

        Raises:
            ValueError: they are of different documents, or of different tokens of these.
        """
        keeps = tuple(sorted(records))
        tables = tuple(canonical_values(records[keep].values) for keep in keeps)
        totals = tuple(map(document_totals, tables))
        first = totals[0]["clean"]
        for keep, one in zip(keeps, totals, strict=True):
            if not one["clean"]["tokens"].equals(first["tokens"]):
                raise ValueError(
                    f"the shell that keeps {keep} is measured on other documents than the one that keeps "
                    f"{keeps[0]}"
                )
        return cls(keeps, totals, tables)


def brackets_of(shells: Shells, *, seed: int) -> dict[str, Bracket]:
    """The scales of a flow.

    Args:
        seed: of the bootstrap, as in the records.
    """
    tokens = column(shells.totals[0]["clean"], "tokens")
    found: dict[str, Bracket] = {}
    criteria: dict[str, Criterion] = {}
    for name, columns in criteria_of(shells).items():
        if isinstance(columns, str):
            found[name] = Bracket(low=None, high=None, reason=columns)
        else:
            criteria[name] = columns
    bootstrap = Bootstrap(len(tokens), seed=seed)
    while criteria:
        at = bootstrap.at_level(1 - (1 - LEVEL) / len(criteria))
        now = {name: _bracket(at, tokens, shells.keeps, one) for name, one in criteria.items()}
        claimed = {name: one for name, one in now.items() if one.high is not None}
        if not claimed or len(claimed) == len(now):
            found |= now
            break
        found |= claimed
        criteria = {name: one for name, one in criteria.items() if name not in claimed}
    return {name: found[name] for name in SCALES}


def criteria_of(shells: Shells) -> dict[str, Criterion | str]:
    """The criterion of each scale, or why there is none."""
    documents = len(shells.totals[0]["clean"])
    why = None
    if len(shells.keeps) < 2:
        why = "one shell shows no scale"
    elif documents < MINIMUM_DOCUMENTS:
        why = f"{documents} documents; an interval needs {MINIMUM_DOCUMENTS}"
    return {name: why or columns_of(shells) for name, columns_of in _COLUMNS.items()}


class Criterion(NamedTuple):
    """Numerators, `[shells, sides, documents]`; the criterion asks that sums are below 0."""

    numerators: Array
    any_side: bool = False
    """Whether one side below 0 is enough; else all have to be."""
    unknown: NDArray[np.bool_] | None = None
    """Sides that have no value, `[shells, sides]`: they may be below 0 or not; None: all have one."""
    form: Literal["couplings", "amplitudes"] | None = None
    """The form of the criterion, where there are two."""


def _bracket(bootstrap: Bootstrap, tokens: Array, keeps: Sequence[int], criterion: Criterion) -> Bracket:
    may, does = met(bootstrap, tokens, criterion)
    return Bracket(low=_first(may, keeps), high=_first(does, keeps), criterion=criterion.form)


class Met(NamedTuple):
    """Whether each shell may meet a criterion, by lower ends, and whether it does, by upper ones."""

    may: NDArray[np.bool_]
    does: NDArray[np.bool_]


def met(bootstrap: Bootstrap, tokens: Array, criterion: Criterion) -> Met:
    """Whether shells meet a criterion, by simultaneous intervals of all."""
    shells, sides, documents = criterion.numerators.shape
    unknown = np.zeros((shells, sides), dtype=np.bool_) if criterion.unknown is None else criterion.unknown
    columns = np.where(unknown[..., None], 0.0, criterion.numerators).reshape(shells * sides, documents).T
    _, low, high = bootstrap.simultaneous(np.ascontiguousarray(columns), tokens)
    lower = np.where(unknown, -np.inf, low.reshape(shells, sides))
    upper = np.where(unknown, np.inf, high.reshape(shells, sides))
    if criterion.any_side:  # a claim that something is below 0
        may, does = (lower < 0).any(1), (upper < 0).any(1)
    else:  # an equivalence
        may, does = (lower <= 0).all(1), (upper <= 0).all(1)
    # Where nothing is left out there is nothing to claim.
    nothing = np.asarray(~criterion.numerators.any(axis=(1, 2)), dtype=np.bool_)
    return Met(may | nothing, does | nothing)


def _first(met: NDArray[np.bool_], keeps: Sequence[int]) -> int | None:
    """The smallest shell from which on all meet the criterion."""
    on = np.logical_and.accumulate(met[::-1])[::-1]
    return keeps[int(on.argmax())] if on.any() else None


def _within(sizes: Sequence[Array], allowed: Sequence[Array], share: float) -> Criterion:
    """|size| ≤ share · allowed, as two sides."""
    pairs = zip(sizes, allowed, strict=True)
    return Criterion(np.stack([[size - share * room, -size - share * room] for size, room in pairs]))


def _loss(totals: Totals, rung: str) -> Array:
    return column(totals[rung], "loss")


def _zero(shells: Shells) -> str:
    """The rung of the bath's mean alone: of circuits the mean at each position."""
    return "raw" if "answer" in shells.totals[0]["clean"] else "mean"


def _missing(shells: Shells, *rungs: str) -> str | None:
    lacking = [rung for rung in rungs if not all(rung in totals for totals in shells.totals)]
    return f"rung {lacking[0]} was not measured" if lacking else None


def _raw(shells: Shells) -> Criterion | str:
    if shells.keeps[0] != 0:
        return "no shell keeps nothing"
    gaps = [_loss(totals, "raw") - _loss(totals, "clean") for totals in shells.totals]
    return _within(gaps, [gaps[0]] * len(gaps), _SHARES["raw"])


def _shape(shells: Shells) -> Criterion | str:
    zero = _zero(shells)
    if lacking := _missing(shells, "full", "permuted", zero):
        return lacking
    shapes = [shape.numerator for totals in shells.totals if isinstance(shape := shape_of(totals), Ratio)]
    rooms = [_loss(totals, "full") - _loss(totals, zero) for totals in shells.totals]
    return _within(shapes, rooms, _SHARES["shape"])


def _perturbative(shells: Shells) -> Criterion | str:
    if lacking := _missing(shells, "mean", *AMPLITUDES):
        return lacking
    small = {rung: amplitude for rung, amplitude in AMPLITUDES.items() if amplitude != 1}
    weights = order_weights(np.array(list(small.values())))
    left, rooms = [], []
    for totals, table in zip(shells.totals, shells.tables, strict=True):
        same = shared_draws(table, list(AMPLITUDES))
        assert same is not None
        zero, sampled = _loss(totals, "mean"), _loss(same, "full")
        a2 = weights[0] @ np.stack([_loss(same, rung) - zero for rung in small])
        left.append(sampled - zero - a2)
        rooms.append(sampled - zero)
    return _within(left, rooms, _SHARES["perturbative"])


def _bath(shells: Shells) -> Criterion | str:
    if _missing(shells, *COUPLINGS) is None:
        return _paid(shells, {"coupled": "scaled"}, "couplings")
    if lacking := _missing(shells, "mean", *BATH):
        return lacking
    return _paid(shells, dict.fromkeys(BATH, "mean"), "amplitudes")


def _paid(
    shells: Shells, pairs: Mapping[str, str], form: Literal["couplings", "amplitudes"]
) -> Criterion | str:
    """Annealed losses of some rungs, of all their draws, each less the loss of a rung without noise."""
    sides, unknown = [], []
    bootstrap = Bootstrap(len(shells.totals[0]["clean"]), seed=0)
    for totals, table in zip(shells.totals, shells.tables, strict=True):
        of_shell, tokens = [], column(totals["clean"], "tokens")
        for rung, still in pairs.items():
            draws = annealed_totals(table, rung)
            if max(draws, default=0) < 2 * BATH_PAIRS.get(rung, 2):
                return f"rung {rung} has too few draws for an annealed loss"
            annealed = draws[max(draws)]
            less = column(annealed, "annealed") - _loss(totals, still)
            # What moves nothing has no best amplitude, and rounding would decide.
            of_shell.append(np.zeros_like(less) if np.abs(less).sum() < KL_ROUNDING * tokens.sum() else less)
            unknown.append(annealed_less(bootstrap, annealed, totals, still).value is None)
        sides.append(of_shell)
    is_unknown = np.array(unknown).reshape(len(shells.keeps), len(pairs))
    return Criterion(np.asarray(sides, dtype=np.float64), any_side=True, unknown=is_unknown, form=form)


_COLUMNS = {"shape": _shape, "perturbative": _perturbative, "raw": _raw, "bath": _bath}
