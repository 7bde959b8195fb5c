"""Claims on several sites of one model that are replaced at once, measured by `remainder.evaluate_sites`.

The script of expected values names the tasks of the sites, in the order of a pass, as `SITES`; a claim on all
of them has an interpretation of each for its name, with " + " between: "subspace + subspace". Its quantities
are `RUNG kl` and `RUNG gap` of `raw`, `full`, `full-sequential` and `full-counterterm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.errors import MeasurementError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import open_task
from remainder.measure.several_sites import SitesResult, evaluate_sites
from remainder.submission.objects import ObjectSubmission
from remainder.submission.open import submissions_for
from remainder.task.spec import load_task
from remainder.validation.claims import ClaimedQuantity
from remainder.validation.quantities import Measured, ratio_error

__all__ = ["JOINED", "SitesMeasurements", "interpretation_of", "measure_sites"]

JOINED = " + "
"""Text between the names of the interpretations of several sites."""


@dataclass(frozen=True)
class SitesMeasurements:
    """One measurement of several sites, from which claimed quantities can be read."""

    name: str
    result: SitesResult
    values: pd.DataFrame

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: if it was not measured.
        """
        stated = {"kl": self.result.kl, "gap": self.result.gap}.get(quantity.kind, {})
        rung = str(quantity.rung)
        value = stated[rung].value if rung in stated else None
        if value is None:
            raise MeasurementError(
                f"{self.name}: {quantity.text} is not measured of several sites",
                fix="claim RUNG kl or RUNG gap of raw, full, full-sequential or full-counterterm",
            )
        tokens = self._sums("clean", "tokens")
        name = "kl" if quantity.kind == "kl" else "loss"
        numerator = self._sums(rung, name) - (self._sums("clean", name) if name == "loss" else 0.0)
        return Measured(value, ratio_error(numerator, tokens), len(tokens) - 1)

    def _sums(self, rung: str, name: str) -> NDArray[np.float64]:
        """Sums over documents, averaged over draws."""
        rows = self.values[self.values["rung"] == rung]
        found = rows.groupby("document")[name].sum() / rows["draw"].nunique()
        return np.asarray(found.to_numpy(dtype=np.float64))


def measure_sites(script: Any, place: str, name: str, seed: int, tier: str, device: str) -> SitesMeasurements:
    """Measure all sites of a script in the world of a seed.

    Args:
        place: name of the script in messages.
        name: of the interpretations, one of each site.

    Raises:
        TaskError: if the script names no sites, or not as many as interpretations.
    """
    tasks = [load_task(task) for task in getattr(script, "SITES", ())]
    names = name.split(JOINED)
    if len(tasks) != len(names):
        raise TaskError(
            f"{place}: {name} is of {len(names)} sites, and SITES names {len(tasks)}",
            fix="name the tasks of all sites in SITES",
        )
    loaded = [open_task(task.model_copy(update={"seed": seed}), device=device) for task in tasks]
    amount = tasks[0].tier(tier)
    result, values = evaluate_sites(
        loaded,
        [interpretation_of(task, own) for task, own in zip(loaded, names, strict=True)],
        calibration_windows=amount.calibration_windows,
        evaluation_windows=amount.evaluation_windows,
        pairs=amount.pairs,
        dtype=amount.dtype,
        batch_size=64,
    )
    return SitesMeasurements(f"{place}: {name}", result, values)


def interpretation_of(loaded: LoadedTask, name: str) -> Any:
    """The interpretation of that name that the task brings itself, or the name of a baseline."""
    (entry,) = submissions_for(loaded, [name])
    return entry.obj if isinstance(entry, ObjectSubmission) else name
