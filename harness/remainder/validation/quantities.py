"""Measured values of claimed quantities, with standard errors from per-document values.

1. Nearly all are ratios of sums over documents, sum a / sum b. Differences are paired, so that the variation
   shared by documents cancels.
2. Standard error: delete-one-document jackknife, s² = (n − 1)/n Σ (R₍ᵢ₎ − mean R₍ᵢ₎)² (Efron and Tibshirani
   1993, section 11.5), which for a mean is the textbook one. It has n − 1 degrees of freedom.
3. `alpha` is fitted anew without each calibration document.
4. `radial kurtosis` is compared with the middle of its surrogates; its error is their spread. The
   two outer quantiles of 60 surrogates estimate a spread as well as half as many values would.

5. Quantities of several rungs (`validation.combined`) have the value that the record states.

The intervals of the record are not used, since a check of them must be independent of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from remainder.errors import MeasurementError
from remainder.record.couplings import grid_of, minimum_in_box
from remainder.record.schema import Record
from remainder.record.values import annealed_totals, canonical_values, column, document_totals, of_split
from remainder.validation.claims import ClaimedQuantity
from remainder.validation.combined import COMBINED, Combined, Terms

__all__ = ["Measured", "Measurements", "jackknife", "ratio_error"]

Array = NDArray[np.float64]

_NORMAL_95 = 1.959963984540054

_ROUNDING_OF_SUMS = 2e-8
_ROUNDING = 1e-5
"""Share of itself by which a number of a record, of six digits, may differ from its sums."""


class Measured(NamedTuple):
    """A number with its standard error, and how many degrees of freedom that has."""

    value: float
    error: float
    freedom: int


def jackknife(left_out: Array) -> float:
    """Standard error of an estimate from its values without each one of the documents, `[documents]`."""
    count = len(left_out)
    return float(np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)))


def ratio_error(numerator: Array, denominator: Array) -> float:
    """Standard error of sum(numerator) / sum(denominator), both `[documents]`.

    Raises:
        ValueError: if there are fewer than two documents.
    """
    if len(numerator) < 2:
        raise ValueError(f"a standard error needs two documents, not {len(numerator)}")
    # Centred first, since one document is a small share of the sums and must not be lost to rounding.
    centred = numerator - numerator.sum() / denominator.sum() * denominator
    return jackknife(-centred / (denominator.sum() - denominator))


@dataclass(frozen=True)
class Measurements:
    """One measurement, from which any claimed quantity can be read."""

    record: Record
    values: pd.DataFrame

    def read(self, quantity: ClaimedQuantity) -> Measured:
        """The measured value of a quantity.

        Raises:
            MeasurementError: if the record has none, with the reason.
        """
        if quantity.kind == "alpha":
            return self._alpha(quantity)
        if quantity.kind == "radial kurtosis":
            return self._radial_kurtosis(quantity)
        if quantity.kind == "combined":
            return self._combined(quantity, COMBINED[quantity.bare])
        numerator = self._numerator(quantity)
        tokens = column(self._totals["clean"], "tokens")
        if len(tokens) < 2:
            raise self._missing(quantity, "a standard error takes two documents")
        value = float(numerator.sum() / tokens.sum())
        return Measured(value, ratio_error(numerator, tokens), len(tokens) - 1)

    @cached_property
    def _table(self) -> pd.DataFrame:
        return canonical_values(self.values)

    @cached_property
    def _totals(self) -> dict[str, pd.DataFrame]:
        return document_totals(self._table)

    def _numerator(self, quantity: ClaimedQuantity) -> Array:
        """Values that are summed over documents and divided by their tokens."""
        if quantity.kind == "shape":
            # The telescope starts from the covariance that is not shrunk.
            whole = {"full-unshrunk", "matched"} <= self._totals.keys()
            gaussian = "full-unshrunk" if whole else "full"
            return self._column(quantity, gaussian) - self._column(quantity, "permuted")
        if quantity.kind == "dependence":
            return self._column(quantity, "permuted") - self._column(quantity, "matched")
        if quantity.kind == "rest":
            return self._column(quantity, "matched") - self._column(quantity, "clean")
        assert quantity.rung is not None
        if quantity.kind == "gap":
            return self._column(quantity, quantity.rung) - self._column(quantity, "clean")
        if quantity.kind == "error":
            return self._column(quantity, "clean", "tokens") - self._column(
                quantity, quantity.rung, "correct"
            )
        if quantity.kind == "annealed":
            return self._annealed(quantity)
        return self._column(quantity, quantity.rung, quantity.kind)

    def _column(self, quantity: ClaimedQuantity, rung: str, name: str = "loss") -> Array:
        if rung not in self._totals:
            why = self.record.measurement.unmeasured.get(rung, "it was not measured")
            raise self._missing(quantity, f"rung {rung}: {why}")
        found = column(self._totals[rung], name)
        if np.isnan(found).any():
            raise self._missing(quantity, f"targets of this task have no {name} answers")
        return found

    def _annealed(self, quantity: ClaimedQuantity) -> Array:
        assert quantity.rung is not None
        loss = self._column(quantity, quantity.rung)
        by_draws = annealed_totals(self._table, quantity.rung)
        if by_draws:
            return column(by_draws[max(by_draws)], "annealed")
        rows = of_split(self._table)
        if rows.loc[rows["rung"] == quantity.rung, "draw"].nunique() > 1:
            raise self._missing(quantity, "it takes two independent units of draws")
        return loss  # without noise, annealed is quenched

    def _combined(self, quantity: ClaimedQuantity, combined: Combined) -> Measured:
        number = combined.number(self.record.metrics)
        if number is None or number.value is None:
            raise self._missing(quantity, "it was not measured" if number is None else str(number.reason))
        numerator, denominator = (
            self._summed(quantity, terms, combined.together)
            for terms in (combined.numerator, combined.denominator)
        )
        value = float(numerator.sum() / denominator.sum())
        if abs(value - number.value) > _ROUNDING * abs(value) + _ROUNDING_OF_SUMS:
            raise MeasurementError(
                f"{self.record.task.id}: {quantity.text} is {number.value} in the record, {value} by hand",
                fix="this is a fault of the harness; please report it",
            )
        return Measured(number.value, ratio_error(numerator, denominator), len(numerator) - 1)

    def _summed(self, quantity: ClaimedQuantity, terms: Terms, together: tuple[str, ...]) -> Array:
        """Sums of some rungs over each document."""
        rows = of_split(self._table)
        if together:
            fewest = rows.loc[rows["rung"].isin(together)].groupby("rung")["draw"].nunique().min()
            rows = rows.loc[rows["draw"] < fewest]
        columns = sorted({name for _, name in terms} - {"annealed"})
        means = rows.groupby(["rung", "document"])[columns].sum()
        draws = rows.groupby("rung")["draw"].nunique()
        total = np.zeros(len(self._totals["clean"]))
        for (rung, name), factor in terms.items():
            if name == "annealed":
                total += factor * self._annealed(replace(quantity, rung=rung))
            else:
                total += factor * means.loc[rung][name].to_numpy(dtype=np.float64) / draws[rung]
        return total

    def _alpha(self, quantity: ClaimedQuantity) -> Measured:
        fitted = self.record.metrics.couplings
        if fitted is None or fitted.alpha.value is None:
            raise self._missing(quantity, "not measured" if fitted is None else str(fitted.alpha.reason))
        grid = grid_of(self._table)
        assert grid is not None  # there is a fit to it
        tokens, each = grid.tokens, np.stack(list(grid.annealed.values()), axis=1)
        left_out = (each.sum(0) - each) / (tokens.sum() - tokens)[:, None]
        minima, _ = minimum_in_box(list(grid.annealed), left_out)
        return Measured(fitted.alpha.value, jackknife(minima[:, 0]), len(tokens) - 1)

    def _radial_kurtosis(self, quantity: ClaimedQuantity) -> Measured:
        found = self.record.metrics.gaussianity
        if found is None:
            why = self.record.measurement.unmeasured.get("gaussianity", "it was not measured")
            raise self._missing(quantity, why)
        test = found.radial_kurtosis
        error = (test.null_high - test.null_low) / (2 * _NORMAL_95)
        return Measured(test.value - (test.null_low + test.null_high) / 2, error, found.surrogates // 2)

    def _missing(self, quantity: ClaimedQuantity, why: str) -> MeasurementError:
        return MeasurementError(
            f"{self.record.task.id}: {self.record.submission.name}: {quantity.text} has no value: {why}",
            fix="claim only what this control can measure",
        )
