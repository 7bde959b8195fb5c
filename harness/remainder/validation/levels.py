"""Claims on levels and modes: shells in the next finer one, and a bath by one Gaussian mode a shell.

1. Levels are claimed under "INTERPRETATION by ORDER in levels", such as "identity by index in levels". Its
   shells are those that claims are made of, each measured in the next one and the last in the model;
   `K: QUANTITY` is any quantity of the record of the level that keeps K sources.
2. Modes are claimed under "INTERPRETATION by ORDER in modes". `K: bath` is the cost of the noise of a bath of
   which K sources are kept, `K: sources apart` what correlations of its sources matter, and `K: reading Λ` or
   `K: trace Λ` the error of one mode a shell, nats a token.

The claims lie beside the script of expected values, in scripts `levels.py` and `modes.py` that define
`claims` as that does, for the hash of a task may not move when claims are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from remainder.errors import MeasurementError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import at_site
from remainder.measure.modes import measure_modes
from remainder.measure.plan import plan
from remainder.record.modes import Discretisation, numerators_of
from remainder.record.store import StoredRecord
from remainder.runs.flow import plan_flow
from remainder.submission.open import submissions_for
from remainder.submission.submission import SiteEntry
from remainder.validation.claims import ClaimedQuantity, needs
from remainder.validation.quantities import Measured, Measurements, ratio_error

__all__ = [
    "IN_LEVELS",
    "IN_MODES",
    "LEVELS",
    "MODES",
    "LevelMeasurements",
    "ModeMeasurements",
    "measure_levels_of",
    "measure_modes_of",
]

IN_LEVELS, IN_MODES = " in levels", " in modes"
"""Text behind the interpretation and the order."""

LEVELS, MODES = "levels.py", "modes.py"
"""Names of the scripts of claims."""

_BY = " by "


@dataclass(frozen=True)
class LevelMeasurements:
    """Levels, from which claimed quantities can be read."""

    records: dict[int, StoredRecord]
    """The records of levels by how many sources each keeps, ascending."""

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity."""
        assert quantity.inner is not None
        assert quantity.shell is not None
        return Measurements(*self.records[quantity.shell]).read(quantity.inner)


@dataclass(frozen=True)
class ModeMeasurements:
    """Discretisations, from which claimed quantities can be read."""

    name: str
    """The task and the interpretation, for messages."""
    found: dict[int, Discretisation]
    """The discretisations by how many sources each keeps."""

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: there is no such ratio.
        """
        assert quantity.shell is not None
        one = self.found[quantity.shell]
        numerators = numerators_of(one.values, one.ratios, one.shifts)
        if quantity.rung not in numerators:
            raise MeasurementError(
                f"{self.name}: {quantity.text} has no value: there is no such ratio",
                fix=f"claim one of {', '.join(numerators)}",
            )
        tokens = np.array(one.values.tokens, dtype=np.float64)
        above = numerators[quantity.rung]
        return Measured(float(above.sum() / tokens.sum()), ratio_error(above, tokens), len(tokens) - 1)


def measure_levels_of(
    loaded: LoadedTask, name: str, tier: str, quantities: Sequence[ClaimedQuantity]
) -> LevelMeasurements:
    """Measure the levels that some claims are made of, on only the rungs that they need.

    Args:
        name: of the interpretation and the order, and `IN_LEVELS`.

    Raises:
        TaskError: fewer than two levels are claimed of, or a claim is of no level.
        RemainderError: a level cannot be measured.
    """
    interpretation, order = name.removesuffix(IN_LEVELS).split(_BY)
    place = f"{loaded.task.id}: {name}"
    keeps = _keeps_of(place, quantities, "of a shell", least=2)
    wanted = needs(quantities)
    settings = plan(loaded.task, tier, rungs=wanted.rungs, pairs=wanted.pairs, device=loaded.device.type)
    (entry,) = submissions_for(loaded, [interpretation])
    with torch.inference_mode():
        shells = plan_flow(loaded, entry, settings, order=order, keeps=keeps).shells
        finer = [*list(shells.values())[1:], None]
        records = {
            keep: loaded.measure(shell, settings, reference=above)
            for (keep, shell), above in zip(shells.items(), finer, strict=True)
        }
    return LevelMeasurements(records)


def measure_modes_of(
    loaded: LoadedTask, name: str, tier: str, quantities: Sequence[ClaimedQuantity]
) -> ModeMeasurements:
    """Measure the discretisations that some claims are made of.

    Args:
        name: of the interpretation and the order, and `IN_MODES`.

    Raises:
        TaskError: a claim is of no modes.
        RemainderError: they cannot be measured.
    """
    interpretation, order = name.removesuffix(IN_MODES).split(_BY)
    place = f"{loaded.task.id}: {name}"
    keeps = _keeps_of(place, quantities, "of modes", least=1)
    settings = plan(loaded.task, tier, device=loaded.device.type)
    (entry,) = submissions_for(loaded, [interpretation])
    assert isinstance(entry, SiteEntry)
    found = {keep: measure_modes(at_site(loaded), entry, settings, order=order, keep=keep) for keep in keeps}
    return ModeMeasurements(place, found)


def _keeps_of(place: str, quantities: Sequence[ClaimedQuantity], kind: str, *, least: int) -> list[int]:
    """How many sources are kept where claims are made, ascending.

    Raises:
        TaskError: one is of another kind, or they are too few.
    """
    if other := [one.text for one in quantities if one.kind != kind]:
        raise TaskError(f"{place}: {other[0]} is no quantity {kind}", fix="write `K: QUANTITY`")
    keeps = sorted({one.shell for one in quantities if one.shell is not None})
    if len(keeps) < least:
        raise TaskError(f"{place}: claims are made of {len(keeps)} levels", fix="claim of two or more")
    return keeps
