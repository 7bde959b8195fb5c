"""Claims on the flow of an interpretation: its shells, and the scales k* that they show together.

A flow is claimed under the name "INTERPRETATION by ORDER", such as "identity by index". Its shells are those
that claims are made of: `K: QUANTITY` is any quantity of the record of the shell that keeps K sources. Of
all shells together are

1. `k SCALE`: where the criterion of the scale is crossed. The criterion asks that some sums over documents
   are below 0 (`record.flow.Criterion`). Between neighbouring shells they are taken to be linear in k; the
   crossing is the k from which on the criterion holds, or the smallest shell if it holds there already. So
   the smallest shell that meets the criterion is the next one from there on, and k* has a standard error:
   the jackknife over documents.
2. `K: margin SCALE`: by how much, nats per scored token, a shell misses the criterion; below 0 it is met. Of
   sides that must all be met the largest counts, of those of which one is enough the smallest.

The bracket that the flow states must hold the point estimate of its crossing.

The claims lie beside the script of expected values, in a script `flow.py` that defines `claims` as that does,
for the hash of a task may not move when claims are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from remainder.errors import MeasurementError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import plan
from remainder.record.flow import Bracket, Criterion, Shells, brackets_of, criteria_of
from remainder.record.store import StoredRecord
from remainder.record.values import column
from remainder.runs.flow import plan_flow
from remainder.submission.open import submissions_for
from remainder.validation.claims import ClaimedQuantity, needs
from remainder.validation.quantities import Measured, Measurements, jackknife, ratio_error

__all__ = ["BY", "FLOWS", "FlowMeasurements", "crossing", "measure_flow_of"]

Array = NDArray[np.float64]

BY = " by "
"""Text between an interpretation and the order in which its sources are kept."""

FLOWS = "flow.py"
"""Name of the script of claims on flows."""


@dataclass(frozen=True)
class FlowMeasurements:
    """The shells of one flow, from which claimed quantities can be read."""

    name: str
    """The task and the flow, for messages."""
    records: dict[int, StoredRecord]
    """Shells by how many sources each keeps, ascending."""

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: if it was not measured, or the bracket of a scale does not hold its crossing.
        """
        if quantity.inner is not None:
            assert quantity.shell is not None
            return Measurements(*self.records[quantity.shell]).read(quantity.inner)
        criterion = criteria_of(self._shells)[str(quantity.rung)]
        if isinstance(criterion, str):
            raise self._missing(quantity, criterion)
        return (
            self._scale(quantity, criterion) if quantity.shell is None else self._margin(quantity, criterion)
        )

    @cached_property
    def _shells(self) -> Shells:
        return Shells.of(self.records)

    @cached_property
    def _tokens(self) -> Array:
        return column(self._shells.totals[0]["clean"], "tokens")

    @cached_property
    def _brackets(self) -> dict[str, Bracket]:
        seed = next(iter(self.records.values())).record.measurement.seed
        return brackets_of(self._shells, seed=seed)

    def _margin(self, quantity: ClaimedQuantity, criterion: Criterion) -> Measured:
        place = self._shells.keeps.index(int(quantity.shell or 0))
        if criterion.unknown is not None and criterion.unknown[place].any():
            raise self._missing(quantity, "a side of the criterion has no value")
        sides = criterion.numerators[place]
        totals = sides.sum(-1)
        side = sides[int(totals.argmin() if criterion.any_side else totals.argmax())]
        value = float(side.sum() / self._tokens.sum())
        return Measured(value, ratio_error(side, self._tokens), len(self._tokens) - 1)

    def _scale(self, quantity: ClaimedQuantity, criterion: Criterion) -> Measured:
        keeps = np.array(self._shells.keeps, dtype=np.float64)
        if criterion.unknown is not None and criterion.unknown.any():
            raise self._missing(quantity, "a side of the criterion has no value at some shell")
        totals = criterion.numerators.sum(-1)
        whole = crossing(keeps, totals, any_side=criterion.any_side)
        if whole is None:
            raise self._missing(quantity, "it is not reached")
        left_out = [
            crossing(keeps, totals - own, any_side=criterion.any_side)
            for own in np.moveaxis(criterion.numerators, -1, 0)
        ]
        if None in left_out:
            raise self._missing(quantity, "it is not reached without one of the documents")
        self._require_bracket(str(quantity.rung), whole)
        error = jackknife(np.array(left_out, dtype=np.float64))
        return Measured(whole, error, len(self._tokens) - 1)

    def _require_bracket(self, scale: str, whole: float) -> None:
        """The bracket must hold the smallest shell that meets the criterion."""
        first = next(keep for keep in self._shells.keeps if keep >= whole)
        bracket = self._brackets[scale]
        low, high = bracket.low, bracket.high
        if low is None or low > first or (high is not None and high < first):
            raise MeasurementError(
                f"{self.name}: k {scale} is {bracket.verdict}, and by hand {first}",
                fix="this is a fault of the harness; please report it",
            )

    def _missing(self, quantity: ClaimedQuantity, why: str) -> MeasurementError:
        return MeasurementError(
            f"{self.name}: {quantity.text} has no value: {why}",
            fix="claim only what this control can measure",
        )


def crossing(keeps: Array, sides: Array, *, any_side: bool = False) -> float | None:
    """The k from which on a criterion holds; None where the largest shell fails.

    Args:
        keeps: ascending, `[shells]`.
        sides: sums that the criterion asks to be below 0, `[shells, sides]`; 0 is not above it.
        any_side: whether one side is enough.
    """
    crossed = [_crossing(keeps, side) for side in sides.T]
    known = [one for one in crossed if one is not None]
    if not known or (len(known) < len(crossed) and not any_side):
        return None
    return min(known) if any_side else max(known)


def _crossing(keeps: Array, values: Array) -> float | None:
    above = np.flatnonzero(values > 0)
    if not len(above):
        return float(keeps[0])
    last = int(above[-1])
    if last == len(keeps) - 1:
        return None
    share = values[last] / (values[last] - values[last + 1])
    return float(keeps[last] + share * (keeps[last + 1] - keeps[last]))


def measure_flow_of(
    loaded: LoadedTask, name: str, tier: str, quantities: Sequence[ClaimedQuantity]
) -> FlowMeasurements:
    """Measure the shells that some claims on a flow are made of, on only the rungs that they need.

    Args:
        name: of the interpretation and the order.

    Raises:
        TaskError: fewer than two shells are claimed of.
        RemainderError: a shell cannot be measured.
    """
    interpretation, order = name.split(BY)
    keeps = sorted({one.shell for one in quantities if one.shell is not None})
    place = f"{loaded.task.id}: {name}"
    if len(keeps) < 2:
        raise TaskError(f"{place}: claims are made of {len(keeps)} shells", fix="claim of two or more")
    wanted = needs(quantities)
    settings = plan(loaded.task, tier, rungs=wanted.rungs, pairs=wanted.pairs, device=loaded.device.type)
    (entry,) = submissions_for(loaded, [interpretation])
    with torch.inference_mode():
        planned = plan_flow(loaded, entry, settings, order=order, keeps=keeps)
        outcomes = loaded.measure_group(list(planned.shells.values()), planned.plan)
        records = {keep: outcome.record() for keep, outcome in zip(planned.shells, outcomes, strict=True)}
    return FlowMeasurements(place, records)
