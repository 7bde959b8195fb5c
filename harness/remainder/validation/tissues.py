"""Claims on tissues of tokens: whether groups of tokens differ.

Tissues are claimed under the name "INTERPRETATION by ORDER in tissues". NAME is `raw`, `full` or `shape`, a
quantity of every token.

1. `K: tau2 NAME`: the variance between tissues with K near sources, nats², with its jackknife error over
   documents.
2. `K: spread NAME`: the same as a standard normal number, by a way of its own. Under no difference the spread
   Q = mᵀAm of the means (`record.between`) is Σ λ_i χ²_i with the eigenvalues λ of AS; a χ² of ν = (Σλ)²/Σλ²
   degrees of freedom, times Σλ/ν, has the same mean and variance (Satterthwaite 1946), and S has those of the
   documents less one. The number is the normal quantile of that F distribution's.

The claims lie beside the script of expected values, in a script `tissues.py` that defines `claims` as that
does, for the hash of a task may not move when claims are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.base.cache import silent
from remainder.errors import MeasurementError
from remainder.loading.loaded import LoadedTask
from remainder.measure.tissues import Cell, TokenValues, measure_tokens
from remainder.record.between import Groups, bands_of, between
from remainder.runs.tissues import plan_tissues, tissues_plan
from remainder.submission.open import submissions_for
from remainder.validation.claims import ClaimedQuantity
from remainder.validation.flows import BY
from remainder.validation.quantities import Measured

__all__ = ["IN_TISSUES", "TISSUES", "TissueMeasurements", "measure_tissues_of", "normal_spread"]

IN_TISSUES = " in tissues"
"""Text behind the order in which near sources are chosen."""

TISSUES = "tissues.py"
"""Name of the script of claims on tissues."""

RUNGS = {"raw": ("raw",), "full": ("full",), "shape": ("full", "permuted")}
"""The rungs that each quantity is made of: the first, less the second."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TissueMeasurements:
    """The values of all tokens, from which claimed quantities can be read."""

    name: str
    """The task and the interpretation, for messages."""
    order: str
    found: TokenValues
    seed: int

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: it has none.
        """
        tokens = self.found.tokens
        documents, number = np.unique(tokens["document"].to_numpy(dtype=str), return_inverse=True)
        label = tokens["tissue"].to_numpy(dtype=np.int64)
        value = self._values(str(quantity.rung), int(quantity.shell or 0))
        freedom = len(documents) - 1
        if quantity.kind == "spread":
            return Measured(normal_spread(number, label, value), 1.0, freedom)
        groups = Groups(number, label, len(documents), int(label.max()) + 1)
        bands = bands_of(None, len(tokens))
        (spread,) = between(groups, value[:, None], bands, seed=self.seed, permutations=1)
        if isinstance(spread, str):
            raise MeasurementError(
                f"{self.name}: {quantity.text} has no value: {spread}",
                fix="claim only what this control can measure",
            )
        return Measured(spread.variance, spread.error, freedom)

    def _values(self, name: str, keep: int) -> Array:
        columns = self.found.values[Cell(self.order, keep)]
        first, *second = (columns[rung] for rung in RUNGS[name])
        return first - second[0] if second else first


def normal_spread(document: NDArray[np.int64], label: NDArray[np.int64], value: Array) -> float:
    """The difference of groups beyond sampling, as a standard normal number (step 2)."""
    from scipy import stats

    frame = pd.DataFrame({"document": document, "label": label, "value": value, "count": 1.0})
    columns = ["value", "count"]
    table = frame.pivot_table(index="document", columns="label", values=columns, aggfunc="sum", fill_value=0)
    sums, counts = (table[name].to_numpy(dtype=np.float64) for name in columns)
    size = counts.sum(0)
    means = sums.sum(0) / size
    errors = (sums - counts * means) / size
    covariance = len(sums) / (len(sums) - 1) * errors.T @ errors
    matrix = np.diag(size) - np.outer(size, size) / size.sum()
    made = matrix @ covariance
    mean, square = float(np.trace(made)), float(np.trace(made @ made))
    chance = stats.f.sf(float(means @ matrix @ means) / mean, mean**2 / square, len(sums) - 1)
    return float(stats.norm.isf(chance))


def measure_tissues_of(
    loaded: LoadedTask, name: str, tier: str, quantities: Sequence[ClaimedQuantity]
) -> TissueMeasurements:
    """Measure the tokens that some claims are made of, on only the rungs that they need.

    Args:
        name: of the interpretation and the order, with `IN_TISSUES`.

    Raises:
        RemainderError: they cannot be measured.
    """
    interpretation, order = name.removesuffix(IN_TISSUES).split(BY)
    keeps = sorted({int(one.shell or 0) for one in quantities})
    rungs = dict.fromkeys(rung for one in quantities for rung in RUNGS[str(one.rung)])
    (entry,) = submissions_for(loaded, [interpretation])
    planned = plan_tissues(loaded, entry, tissues_plan(loaded, tier, None, None), orders=[order], keeps=keeps)
    found = measure_tokens(
        planned.loaded,
        planned.sources,
        planned.plan,
        planned.orders,
        planned.keeps,
        planned.full,
        silent,
        planned.asked,
        tuple(rungs),
    )
    return TissueMeasurements(f"{loaded.task.id}: {name}", order, found, loaded.task.seed)
