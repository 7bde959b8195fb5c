"""Records whose codes are paid for: an honest one passes, and whatever contradicts itself is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values, with_coding

from remainder.board.coding_checks import check_coding
from remainder.record.number import Number
from remainder.record.schema import Check, Record
from remainder.record.values import canonical_values

DECODED = {
    f"decoded_{split}": Check(passed=True, value=0.0, limit=1e-4) for split in ("calibration", "evaluation")
}


def record_of(values: pd.DataFrame) -> Record:
    return synthetic_record(values, checks=DECODED)


def faults(record: Record, values: pd.DataFrame) -> str:
    return "\n".join(check_coding(record, canonical_values(values)))


def coding(record: Record, **changed: Any) -> Record:
    assert record.complexity.coding is not None
    info = record.complexity.coding.model_copy(update=changed)
    return record.model_copy(update={"complexity": record.complexity.model_copy(update={"coding": info})})


@pytest.mark.parametrize("values", [with_coding(synthetic_values()), synthetic_values()])
def test_honest_records_have_no_fault(values: pd.DataFrame) -> None:
    record = record_of(values)
    if "bits" not in values:
        nothing = record.complexity.model_copy(
            update={"bits_per_token": Number.null("a path past the codes")}
        )
        record = record.model_copy(update={"complexity": nothing})
    assert faults(record, values) == ""


def test_bits_without_codes_that_are_paid_for_are_a_fault() -> None:
    values = synthetic_values()
    assert "no codes are paid for" in faults(record_of(values), values)
    assert "complexity.coding: is there" in faults(record_of(with_coding(values)), values)


def scaled(rung: str, column: str, factor: float) -> Callable[[pd.DataFrame], None]:
    def change(values: pd.DataFrame) -> None:
        rows = values.index[values["rung"] == rung][:1]
        values.loc[rows, column] *= factor

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (scaled("coded", "bits", 0.99), "bits of rung coded are not those of step 9"),
        (scaled("raw", "bits_6", 0.99), "bits of rung coded-10 are not those of step 6"),
        (scaled("coded-35", "residual_ss", 0.99), "residual_ss of rung coded-35 is not that of step 4"),
        (scaled("raw", "ss_2", 1.02), "residual_ss of rung coded-100 is not that of step 2"),
        (scaled("raw", "bits_0", -1.0), "bits_0 is negative"),
    ],
)
def test_values_that_contradict_each_other(change: Callable[[pd.DataFrame], None], fault: str) -> None:
    values = with_coding(synthetic_values())
    record = record_of(values)
    change(values)
    assert fault in faults(record, values)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"steps": {"coded": 9, "coded-10": 9, "coded-35": 4, "coded-100": 2}},
            "coarser than the one before",
        ),
        ({"steps": {"coded": 12, "coded-10": 6, "coded-35": 4, "coded-100": 2}}, "each is one of 12"),
        ({"steps": {"coded": 9, "coded-35": 4}}, "complexity.coding: points coded, coded-35"),
        ({"steps": {"coded": 8, "coded-10": 6, "coded-35": 4, "coded-100": 2}}, "are not those of step 8"),
        ({"silent": 5}, "500 of 512 were active"),
        ({"silent": 513}, "513 of 512"),
        ({"reference_steps": (2, 3)}, "reference at"),
        ({"reference_steps": ()}, "reference at"),
    ],
)
def test_what_is_stated_of_the_steps(changed: dict[str, Any], fault: str) -> None:
    values = with_coding(synthetic_values())
    assert fault in faults(coding(record_of(values), **changed), values)


def test_rungs_of_the_curve_and_of_the_reference_are_there_or_not_asked_for() -> None:
    values = with_coding(synthetic_values())
    record = record_of(values)
    assert "values: points" in faults(record, values.loc[values["rung"] != "coded-35"])
    assert "reference at" in faults(record, values.loc[values["rung"] != "reference-mean"])
    alone = with_coding(synthetic_values(), reference=False)
    assert "that it is there is expected" in faults(record_of(alone), alone)
    finer = alone.assign()
    nested = record_of(finer).model_copy(update={"reference": record.submission})
    assert faults(nested, finer) == ""
    assert "is missing" in faults(synthetic_record(values), values)


def test_finer_steps_of_the_reference_cost_more() -> None:
    values = with_coding(synthetic_values())
    record = record_of(values)
    rows = values["rung"] == "reference-9"
    values.loc[rows, "bits"] = values.loc[values["rung"] == "reference-2", "bits"].to_numpy()
    assert "a finer step of the reference costs fewer bits" in faults(record, values)
    values.loc[values["rung"] == "reference-mean", "bits"] = 1.0
    assert "rung reference-mean costs bits" in faults(record, values)
