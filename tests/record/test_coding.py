"""Codes that are paid for: plain sums, the reference's curve, efficiency, and records of both kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import synthetic_record
from synthetic_values import CODED_STEPS, REFERENCE_STEPS, synthetic_values, with_coding

from remainder.errors import MeasurementError
from remainder.record.metrics import CodingMetrics
from remainder.record.recompute import recompute
from remainder.record.rungs import CURVE, RUNGS, STEPS, is_paid, reference_rung, reference_step
from remainder.record.store import read_record, write_record
from remainder.record.summary import summarise
from remainder.record.values import CODING, canonical_values, values_from_csv, values_to_csv


def coding(values: pd.DataFrame) -> CodingMetrics:
    found = summarise(values, seed=0).coding
    assert found is not None
    return found


def total(values: pd.DataFrame, rung: str, name: str) -> float:
    return float(values.loc[values["rung"] == rung, name].sum())


def test_names_of_rungs_that_are_paid_for() -> None:
    assert [reference_step(reference_rung(step)) for step in range(STEPS)] == list(range(STEPS))
    assert reference_step("reference-mean") is None
    assert is_paid("coded")
    assert is_paid("reference-mean")
    assert is_paid("reference-3")
    assert not any(is_paid(rung) for rung in RUNGS if rung != "coded")
    assert list(CURVE.values()) == sorted(CURVE.values())


def test_points_and_steps_are_ratios_of_plain_sums() -> None:
    values = with_coding(synthetic_values())
    found = coding(values)
    spliced, centred = total(values, "raw", "spliced"), total(values, "raw", "centred_ss")
    assert list(found.points) == list(CURVE)
    for rung, point in found.points.items():
        assert point.bits.value == pytest.approx(total(values, rung, "bits") / spliced, rel=1e-5)
        assert point.fvu.value == pytest.approx(total(values, rung, "residual_ss") / centred, rel=1e-5)
        kl = total(values, rung, "kl") / total(values, "clean", "tokens")
        assert point.kl.value == pytest.approx(kl, rel=1e-5)
        assert point.bits == found.steps[CODED_STEPS[rung]].bits
        for number in (point.bits, point.fvu, point.kl, point.efficiency):
            assert number.value is not None
            assert number.low is not None
            assert number.high is not None
            assert number.low < number.value < number.high
    for step, at in enumerate(found.steps):
        assert at.bits.value == pytest.approx(total(values, "raw", f"bits_{step}") / spliced, rel=1e-5)
        assert at.fvu.value == pytest.approx(total(values, "raw", f"ss_{step}") / centred, rel=1e-5)
    assert len(found.reference) == 1 + len(REFERENCE_STEPS)
    bits = [point.bits.value or 0.0 for point in found.reference]
    assert bits == sorted(bits)
    assert bits[0] == 0


def test_ratios_to_noise_are_of_the_codes_that_are_paid_for() -> None:
    values = synthetic_values()
    exact, paid = summarise(values, seed=0), summarise(with_coding(values), seed=0)
    assert exact.coding is None
    ratio = exact.gaussian_ratio.fitted.value
    assert ratio is not None
    assert paid.gaussian_ratio.fitted.value == pytest.approx(1.01 * ratio, rel=1e-5)
    assert paid.rungs["raw"] == exact.rungs["raw"]
    assert paid.reconstruction == exact.reconstruction


def test_efficiency_and_full_bits_of_a_reference_that_is_exponential() -> None:
    """KL 4 exp(−bits/55) is linear in bits under the logarithm, so interpolation is exact."""
    values = with_coding(synthetic_values(documents=200))
    found = coding(values)
    for rung, point in found.points.items():
        assert point.bits.value is not None
        assert point.kl.value is not None
        expected = np.log(4 * np.exp(-point.bits.value / 55) / point.kl.value)
        # The documents' own factors are drawn anew for every rung.
        assert point.efficiency.value == pytest.approx(expected, abs=0.03), rung
    assert found.full_bits.value == pytest.approx(55 * np.log(100), rel=0.02)


def test_a_row_at_the_reference_has_no_efficiency() -> None:
    values = with_coding(synthetic_values())
    own, ref = values["rung"] == "coded", values["rung"] == "reference-8"
    for name in ("bits", "kl", "loss"):
        values.loc[own, name] = values.loc[ref, name].to_numpy()
    point = coding(values).points["coded"]
    assert point.efficiency.value == pytest.approx(0, abs=1e-12)
    assert point.efficiency.low == pytest.approx(0, abs=1e-9)
    assert point.efficiency.high == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("bits", "reason"), [(900.0, "lie outside of the reference's"), (20.0, None)])
def test_beyond_the_reference_there_is_no_efficiency(bits: float, reason: str | None) -> None:
    point = coding(with_coding(synthetic_values(), bits=bits)).points["coded"]
    assert (point.efficiency.value is None) == (reason is not None)
    assert reason is None or reason in str(point.efficiency.reason)


def test_without_a_reference_efficiency_says_so() -> None:
    found = coding(with_coding(synthetic_values(), reference=False))
    assert found.reference == ()
    for number in (found.full_bits, *(point.efficiency for point in found.points.values())):
        assert "transform coding was not measured" in str(number.reason)


def test_a_reference_that_stays_above_one_per_cent_has_no_full_bits() -> None:
    values = with_coding(synthetic_values())
    fine = values["rung"].isin([reference_rung(step) for step in range(10, 13)])
    found = coding(values.loc[~fine])
    assert found.full_bits.value is None
    assert "not below 1% of the mean's" in str(found.full_bits.reason)


def test_efficiency_and_full_bits_are_those_of_numpy() -> None:
    values = with_coding(synthetic_values())
    tokens, spliced = total(values, "clean", "tokens"), total(values, "raw", "spliced")
    rungs = ["reference-mean", *(reference_rung(step) for step in REFERENCE_STEPS)]
    bits = np.array([total(values, rung, "bits") / spliced for rung in rungs])
    logs = np.log(np.array([total(values, rung, "kl") / tokens for rung in rungs]) + 1e-6)
    found = coding(values)
    for rung, point in found.points.items():
        own = np.log(total(values, rung, "kl") / tokens + 1e-6)
        expected = np.interp(total(values, rung, "bits") / spliced, bits, logs) - own
        assert point.efficiency.value == pytest.approx(expected, rel=1e-4)
    target = np.log(0.01 * (np.exp(logs[0]) - 1e-6) + 1e-6)
    # KL falls from point to point, so bits are a function of it too.
    assert found.full_bits.value == pytest.approx(np.interp(-target, -logs, bits), rel=1e-5)


def test_values_hold_all_columns_of_coding_or_none() -> None:
    plain, coded = synthetic_values(), with_coding(synthetic_values())
    assert not set(CODING) & set(canonical_values(plain).columns)
    table = canonical_values(coded)
    assert set(CODING) <= set(table.columns)
    pd.testing.assert_frame_equal(values_from_csv(values_to_csv(table)), table)
    with pytest.raises(MeasurementError, match="columns missing"):
        canonical_values(coded.drop(columns="bits_3"))


@pytest.mark.parametrize(
    ("rung", "name", "value"),
    [
        ("mean", "bits", 1.0),
        ("raw", "bits", 1.0),
        ("coded", "bits_0", 1.0),
        ("full", "residual_ss", 1.0),
        ("coded", "residual_ss", np.nan),
        ("raw", "ss_3", np.nan),
    ],
)
def test_numbers_on_the_wrong_rung_or_missing_are_refused(rung: str, name: str, value: float) -> None:
    table = with_coding(synthetic_values())
    table.loc[table.index[table["rung"] == rung][0], name] = value
    with pytest.raises(MeasurementError, match=name):
        canonical_values(table)


def test_a_coded_record_is_written_read_and_recomputed(tmp_path: Path) -> None:
    values = with_coding(synthetic_values())
    record = synthetic_record(values)
    assert record.metrics.coding is not None
    assert record.complexity.bits_per_token == record.metrics.coding.points["coded"].bits
    path = tmp_path / "record.json"
    write_record(record, values, path)
    stored = read_record(path)
    assert stored.record == record
    recompute(stored.record, stored.values)


def test_records_without_coding_do_not_name_it() -> None:
    content = synthetic_record(synthetic_values()).model_dump(mode="json")
    assert "coding" not in content["metrics"]
    assert "coding" not in content["complexity"]
