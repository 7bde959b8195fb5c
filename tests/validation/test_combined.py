"""Quantities of several rungs: values of the record, and their errors against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import synthetic_record
from tables import table_of

from remainder.errors import MeasurementError
from remainder.record.rungs import KERNELS
from remainder.record.values import DESCRIPTION, canonical_values
from remainder.validation.claims import needs, parse_quantity
from remainder.validation.combined import COMBINED
from remainder.validation.quantities import Measured, Measurements

DOCUMENTS = 20
DRAWS = {"full-0.3": 4, "full-0.6": 8, "full": 8, "permuted": 4, "noise-fitted": 4, "noise-centred": 4}
DRAWS |= {"mirror": 1, "minus-mean": 1, "residual-0.3": 1, "mirror-0.3": 1, "noise-0.3": 4, "noise-run": 4}
DRAWS |= {"noise-directional": 4, "noise-isotropic": 4}
DRAWS |= {"cov-random": 4, "real-mixture": 4, "activation-difference": 4}


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    """Losses of all rungs, larger the more is added, with noise of documents and of draws."""
    generator = np.random.default_rng(3)
    clean = generator.uniform(1, 3, DOCUMENTS)
    sizes = generator.uniform(0.2, 0.6, DOCUMENTS)
    losses: dict[str, np.ndarray] = {"clean": clean, "raw": clean + sizes, "mean": clean + 0.9 * sizes}
    amplitudes = {"full-0.3": 0.3, "full-0.6": 0.6, "residual-0.3": 0.3, "mirror-0.3": 0.3, "noise-0.3": 0.3}
    for rung, draws in DRAWS.items():
        size = amplitudes.get(rung, 1.0)
        added = sizes[:, None] * (1 + size**2 + 0.1 * generator.standard_normal((DOCUMENTS, draws)))
        losses[rung] = clean[:, None] + added
    annealed = {
        rung: np.where(np.arange(8) == 7, losses[rung].mean(1, keepdims=True) - 0.1, np.nan)
        for rung in ("full-0.6", "full")
    }
    kl = {rung: 1.3 * (found.reshape(DOCUMENTS, -1) - clean[:, None]) for rung, found in losses.items()}
    table = table_of(losses, kl, annealed, annealed)
    raw = table["rung"] == "raw"
    table.loc[raw, ["spliced", "active", "residual_ss", "centred_ss"]] = 90.0
    for name in DESCRIPTION:
        table.loc[raw, name] = generator.uniform(200, 900, raw.sum())
    return canonical_values(table)


@pytest.fixture(scope="module")
def measurements(values: pd.DataFrame) -> Measurements:
    return Measurements(synthetic_record(values), values)


def brute(values: pd.DataFrame, ratio: Any) -> Measured:
    """A function of a table, with the jackknife over its documents."""
    documents = sorted(set(values["document"]))
    each = np.array([ratio(values[values["document"] != one]) for one in documents])
    error = math.sqrt((len(each) - 1) / len(each) * float(((each - each.mean()) ** 2).sum()))
    return Measured(ratio(values), error, len(documents) - 1)


def mean(values: pd.DataFrame, rung: str, name: str, draws: int = 99) -> float:
    """A column per token, over the first so many draws."""
    rows = values[(values["rung"] == rung) & (values["draw"] < draws)]
    return float(rows[name].sum() / rows["tokens"].sum())


def orders(values: pd.DataFrame, name: str) -> dict[str, float]:
    base = mean(values, "clean", name) if name == "loss" else 0.0
    zero = mean(values, "mean", name) - base
    at = {alpha: mean(values, rung, name, 4) - base for rung, alpha in (("full-0.3", 0.3), ("full-0.6", 0.6))}
    matrix = [[alpha**2, alpha**4] for alpha in at]
    a2, a4 = np.linalg.solve(matrix, [found - zero for found in at.values()])
    sampled = mean(values, "full", name, 4) - base
    found = {"zero": zero, "one": zero + a2, "two": zero + a2 + a4, "sampled": sampled, "a2": a2, "a4": a4}
    found |= {"remainder": zero + a2 + a4 - sampled, "missing": sampled - zero - a2}
    return {**found, "perturbativity": (sampled - zero - a2) / a2}


def kl(values: pd.DataFrame, rung: str) -> float:
    return mean(values, rung, "kl")


def bits(values: pd.DataFrame, name: str) -> float:
    rows = values[values["rung"] == "raw"]
    return float(rows[name].sum() / rows["spliced"].sum())


def annealed(values: pd.DataFrame, rung: str) -> float:
    rows = values[(values["rung"] == rung) & (values["draw"] == 7)]
    return float(rows["annealed"].sum() / rows["tokens"].sum())


def interaction(values: pd.DataFrame) -> float:
    full, none, noise = (mean(values, rung, "kl", 4) for rung in ("full", "mean", "noise-centred"))
    return (full - none) / noise - 1


EXPECTED: dict[str, Any] = {
    **{
        f"{order}{suffix}": lambda table, order=order, name=name: orders(table, name)[order]
        for order in ("zero", "one", "two", "sampled", "a2", "a4", "remainder", "missing", "perturbativity")
        for name, suffix in (("loss", ""), ("kl", " kl"))
    },
    "interaction": interaction,
    "net bits": lambda table: (
        bits(table, "x_bits") - bits(table, "code_bits") - bits(table, "remainder_bits")
    ),
    "code bits": lambda table: bits(table, "code_bits"),
    "bath 0.6": lambda table: annealed(table, "full-0.6") - mean(table, "mean", "loss"),
    "bath 1": lambda table: annealed(table, "full") - mean(table, "mean", "loss"),
    "rho": lambda table: kl(table, "raw") / kl(table, "noise-fitted"),
    "rho directional": lambda table: kl(table, "raw") / kl(table, "noise-directional"),
    "rho isotropic": lambda table: kl(table, "raw") / kl(table, "noise-isotropic"),
    "rho even": lambda table: (kl(table, "raw") + kl(table, "mirror")) / 2 / kl(table, "noise-fitted"),
    "rho odd": lambda table: (kl(table, "raw") - kl(table, "mirror")) / 2 / kl(table, "noise-fitted"),
    "rho small": lambda table: (
        (kl(table, "residual-0.3") + kl(table, "mirror-0.3")) / 2 / kl(table, "noise-0.3")
    ),
    **{
        f"rho {null}": lambda table, null=null: kl(table, "raw") / kl(table, null)
        for null in ("noise-run", "cov-random", "real-mixture", "activation-difference")
    },
}


def test_every_combined_quantity_is_tested() -> None:
    assert EXPECTED.keys() == COMBINED.keys()


@pytest.mark.parametrize("text", sorted(EXPECTED))
def test_combined_quantities_are_those_of_the_values(
    measurements: Measurements, values: pd.DataFrame, text: str
) -> None:
    found, expected = measurements.read(parse_quantity(text, "here")), brute(values, EXPECTED[text])
    assert found.value == pytest.approx(expected.value, rel=1e-5, abs=1e-7)
    assert found.error == pytest.approx(expected.error, rel=2e-3)
    assert found.freedom == DOCUMENTS - 1


@pytest.mark.parametrize("text", sorted(COMBINED))
def test_their_rungs_are_measured_with_the_draws_of_records(text: str) -> None:
    wanted = needs([parse_quantity(f"{text} at most", "here")])
    assert wanted.pairs is None
    assert set(COMBINED[text].rungs) <= set(wanted.rungs) <= {"raw", *KERNELS}


def test_a_number_that_is_not_that_of_its_sums_is_an_error(values: pd.DataFrame) -> None:
    record = synthetic_record(values)
    other = values.copy()
    other.loc[other["rung"] == "full-0.6", "loss"] *= 1.001
    with pytest.raises(MeasurementError, match=r"a4 is -?\d\.\d+ in the record, -?\d\.\d+ by hand"):
        Measurements(record, other).read(parse_quantity("a4", ""))


def test_what_was_not_measured_is_an_error(values: pd.DataFrame) -> None:
    short = canonical_values(values[values["rung"] != "full-0.3"])
    with pytest.raises(MeasurementError, match="a4 kl has no value: it was not measured"):
        Measurements(synthetic_record(short), short).read(parse_quantity("a4 kl", ""))
