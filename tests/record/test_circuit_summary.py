"""Metrics of circuits against MIB's definitions, written out on plain arrays."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from remainder.record.circuit_summary import circuit_metrics
from remainder.record.intervals import Bootstrap
from remainder.record.metrics import CircuitMetrics
from remainder.record.summary import summarise
from remainder.record.values import canonical_values, document_totals, values_from_csv, values_to_csv

SIZES = (0.001, 0.01, 0.1, 0.5, 1.0)
DOCUMENTS = 40


def row(document: int, rung: str, answer: float, loss: float, draw: int = 0) -> dict[str, object]:
    kl = 0.0 if rung == "clean" else abs(loss)
    return {
        "split": "evaluation",
        "document": f"d{document:03}",
        "window": 0,
        "rung": rung,
        "draw": draw,
        "tokens": 1,
        "loss": loss,
        "kl": kl,
        "top1": 1,
        "correct": 1,
        "kl_histogram": f"{max(math.floor(20 * math.log10(max(kl, 1e-8))), -160)}:1",
        "annealed": math.nan,
        "residual_ss": math.nan,
        "centred_ss": math.nan,
        "active": math.nan,
        "spliced": math.nan,
        "answer": answer,
    }


def answers() -> dict[str, np.ndarray]:
    """Per rung [documents]: f grows with size, above 1 in the middle."""
    generator = np.random.default_rng(3)
    clean = 3 + generator.normal(size=DOCUMENTS)
    found = {"clean": clean}
    for background, floor in (("counterfactual", -2.0), ("raw", 0.0), ("full", -0.5)):
        empty = floor + 0.3 * generator.normal(size=DOCUMENTS)
        found[f"{background}@0"] = empty
        for size, f in zip(SIZES, (0.1, 0.6, 1.2, 0.9, 1.0), strict=True):
            noise = 0.1 * generator.normal(size=DOCUMENTS) if size < 1 else 0.0
            found[f"{background}@{size:g}"] = empty + (f + noise) * (clean - empty)
    # At one size the circuit chosen with the sign of the scores is another one.
    empty = found["counterfactual@0"]
    found["counterfactual@+0.1"] = empty + 1.5 * (clean - empty)
    for background in ("counterfactual", "raw", "full"):
        found[background] = found[f"{background}@0.1"]
    found["permuted"] = found["full"] + 0.2
    return found


def table() -> pd.DataFrame:
    return pd.DataFrame(
        row(document, rung, float(value), -0.2 * float(value))
        for rung, values in answers().items()
        for document, value in enumerate(values)
    )


def metrics() -> CircuitMetrics:
    totals = document_totals(canonical_values(table()))
    found = circuit_metrics(Bootstrap(DOCUMENTS, seed=0), totals)
    assert found is not None
    return found


def mib(background: str, size: str) -> float:
    m = {name: values.mean() for name, values in answers().items()}
    floor = m[f"{background}@0"]
    return float((m[f"{background}@{size}"] - floor) / (m["clean"] - floor))


@pytest.mark.parametrize("background", ["counterfactual", "raw", "full"])
def test_faithfulness(background: str) -> None:
    points = metrics().points
    for size in SIZES:
        number = points[f"{size:g}"].rungs[background].faithfulness
        assert number.value == pytest.approx(mib(background, f"{size:g}"), rel=1e-5)
        if size < 1:
            assert number.low is not None
            assert number.low < number.value < number.high
    assert points["0"].rungs[background].faithfulness.value == pytest.approx(0, abs=1e-9)
    assert points["headline"].rungs[background] == points["0.1"].rungs[background]


def test_areas_are_mibs() -> None:
    """Trapezoids in the size; CPR by sign where that is another circuit, CMD by size of the scores."""
    found = metrics()
    f = np.array([mib("counterfactual", f"{size:g}") for size in SIZES])
    signed = f.copy()
    signed[2] = mib("counterfactual", "+0.1")
    trapezoid = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    assert found.cpr["counterfactual"].value == pytest.approx(trapezoid(signed, SIZES), rel=1e-5)
    assert found.cmd["counterfactual"].value == pytest.approx(trapezoid(np.abs(1 - f), SIZES), rel=1e-5)
    # The others were not measured on the circuit that was chosen by sign.
    assert set(found.cpr) == {"counterfactual"}
    assert set(found.cmd) == {"counterfactual", "raw", "full"}


def test_interval_of_an_area_covers_what_it_should() -> None:
    number = metrics().cmd["raw"]
    assert number.low is not None
    assert number.low < number.value < number.high
    assert number.high - number.low < 0.1


def with_random(kl: np.ndarray) -> CircuitMetrics:
    """Of the same table, the median random circuit of size 0.1 with these KLs."""
    rows = [row(document, "random@0.1", 0.0, float(value)) for document, value in enumerate(kl)]
    totals = document_totals(canonical_values(pd.concat([table(), pd.DataFrame(rows)])))
    found = circuit_metrics(Bootstrap(DOCUMENTS, seed=0), totals)
    assert found is not None
    return found


def test_efficiency_is_the_log_ratio_to_the_median_random_circuit() -> None:
    kl = np.abs(0.2 * answers()["raw@0.1"])
    chance = kl * np.random.default_rng(2).uniform(3, 5, DOCUMENTS)
    found = with_random(chance)
    assert set(found.points) == {
        "0",
        "headline",
        "+0.1",
        *(f"{size:g}" for size in SIZES),
    }  # it is no circuit
    efficiency = found.points["0.1"].efficiency
    assert efficiency is not None
    assert efficiency.value == pytest.approx(math.log((chance.mean() + 1e-6) / (kl.mean() + 1e-6)), rel=1e-5)
    assert efficiency.low is not None
    assert efficiency.high is not None
    assert math.log(3) < efficiency.low < efficiency.value < efficiency.high < math.log(5)
    assert found.points["0.5"].efficiency is None
    assert metrics().points["0.1"].efficiency is None
    assert "efficiency" not in metrics().points["0.1"].model_dump()  # older records keep their bytes


def test_what_rounding_parts_is_no_better_than_chance() -> None:
    kl = np.abs(0.2 * answers()["raw@0.1"])
    efficiency = with_random(kl * (1 + 1e-7 * np.arange(DOCUMENTS))).points["0.1"].efficiency
    assert efficiency is not None
    assert (efficiency.value, efficiency.low, efficiency.high) == (0, 0, 0)


def test_telescope_adds_up() -> None:
    point = metrics().points["headline"]
    assert point.telescope is not None
    terms = point.telescope
    assert terms.total.value == pytest.approx(
        terms.shape.value + terms.dependence.value + terms.rest.value, abs=1e-5
    )
    assert terms.total == point.rungs["full"].gap
    assert metrics().points["0.5"].telescope is None


def test_draws_are_averaged_before_anything_is_summed() -> None:
    once = table()
    twice = pd.concat(
        [once, once.loc[once["rung"] == "full"].assign(draw=1, answer=lambda t: t["answer"] + 1)]
    )
    totals = document_totals(canonical_values(twice))
    found = circuit_metrics(Bootstrap(DOCUMENTS, seed=0), totals)
    assert found is not None
    before = metrics().points["headline"].rungs["full"].answer.value
    assert found.points["headline"].rungs["full"].answer.value == pytest.approx(before + 0.5, rel=1e-5)


def test_rungs_of_other_sizes_are_kept_apart_from_the_headline() -> None:
    found = summarise(table(), seed=0)
    assert set(found.rungs) == {"counterfactual", "raw", "full", "permuted"}
    assert found.circuit is not None


def test_a_table_without_answers_has_no_circuits_and_keeps_its_form() -> None:
    plain = table().drop(columns="answer")
    plain = plain.loc[~plain["rung"].str.contains("@")]
    found = summarise(plain, seed=0)
    assert found.circuit is None
    assert "circuit" not in found.model_dump(mode="json")
    assert b"answer" not in values_to_csv(plain)


def test_answers_survive_the_file() -> None:
    data = values_to_csv(table())
    assert values_to_csv(values_from_csv(data)) == data


def test_an_empty_circuit_as_good_as_the_model_has_no_faithfulness() -> None:
    flat = table()
    clean = flat.loc[flat["rung"] == "clean", ["document", "answer"]].set_index("document")["answer"]
    at_zero = flat["rung"] == "counterfactual@0"
    noise = np.random.default_rng(0).normal(size=int(at_zero.sum()))
    flat.loc[at_zero, "answer"] = clean.loc[flat.loc[at_zero, "document"]].to_numpy() + noise
    totals = document_totals(canonical_values(flat))
    found = circuit_metrics(Bootstrap(DOCUMENTS, seed=0), totals)
    assert found is not None
    number = found.points["0.5"].rungs["counterfactual"].faithfulness
    assert number.value is None
    assert number.reason == "the denominator's interval includes 0"
