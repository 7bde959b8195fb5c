"""Two records side by side: paired, on what they share, and never across tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.errors import RecordError
from remainder.record.schema import MethodInfo, SubmissionInfo, TaskInfo
from remainder.record.store import StoredRecord, write_record
from remainder.record.values import canonical_values
from remainder.report.compare import Comparison, compare, compare_records, render_comparison
from remainder.report.layout import FORMATS


def stored(values: pd.DataFrame, **changes: object) -> StoredRecord:
    return StoredRecord(synthetic_record(values, **changes), canonical_values(values))


@pytest.fixture(scope="module")
def a() -> StoredRecord:
    return stored(synthetic_values(documents=40), name="first")


@pytest.fixture(scope="module")
def better() -> StoredRecord:
    """The same with a fifth less KL and loss gap on rung raw, and fewer bits."""
    values = synthetic_values(documents=40)
    raw = values["rung"] == "raw"
    values.loc[raw, "loss"] -= 0.2 * values.loc[raw, "kl"]
    values.loc[raw, "kl"] *= 0.8
    return stored(values, name="second", bits=150.0)


def row(comparison: Comparison, key: str):
    return next(difference for difference in comparison.differences if difference.key == key)


def test_a_record_equals_itself(a: StoredRecord) -> None:
    comparison = compare_records(a, a)
    assert comparison.warnings == ()
    for difference in comparison.differences:
        assert difference.difference.value == 0
        assert difference.separable is (None if difference.key == "bits_per_token" else False)


def test_differences_are_those_of_the_records(a: StoredRecord, better: StoredRecord) -> None:
    comparison = compare_records(a, better)
    first, second = a.record.metrics, better.record.metrics
    expected = {
        "gap_raw": (first.rungs["raw"].quenched.gap, second.rungs["raw"].quenched.gap),
        "kl_raw": (first.rungs["raw"].quenched.kl, second.rungs["raw"].quenched.kl),
        "gap_gaussian": (first.rungs["full"].quenched.gap, second.rungs["full"].quenched.gap),
        "kl_gaussian": (first.rungs["full"].quenched.kl, second.rungs["full"].quenched.kl),
        "gaussian_ratio": (first.gaussian_ratio.fitted, second.gaussian_ratio.fitted),
        "explained_variance": (
            first.reconstruction.explained_variance,
            second.reconstruction.explained_variance,
        ),
    }
    for key, (before, after) in expected.items():
        found = row(comparison, key)
        assert (found.a, found.b) == (before.value, after.value)
        assert found.difference.value == pytest.approx(after.value - before.value, abs=2e-6)
    assert row(comparison, "bits_per_token").difference.value == -30
    assert row(comparison, "bits_per_token").difference.low is None


def test_a_shared_improvement_is_separable_and_no_change_is_not(
    a: StoredRecord, better: StoredRecord
) -> None:
    comparison = compare_records(a, better)
    for key in ("gap_raw", "kl_raw", "gaussian_ratio"):
        assert row(comparison, key).separable is True
        assert row(comparison, key).difference.high < 0
    assert row(comparison, "kl_gaussian").separable is False


def test_rounding_of_another_machine_is_not_separable(a: StoredRecord) -> None:
    def moved(by: float) -> bool | None:
        values = synthetic_values(documents=40)
        raw = values["rung"] == "raw"
        values.loc[raw, "loss"] += by * values.loc[raw, "tokens"]
        return row(compare_records(a, stored(values)), "gap_raw").separable

    assert (moved(2e-8), moved(2e-6)) == (False, True)


def test_swapping_turns_the_sign_and_the_interval(a: StoredRecord, better: StoredRecord) -> None:
    forth, back = compare_records(a, better), compare_records(better, a)
    for key in ("gap_raw", "gaussian_ratio"):
        there, here = row(forth, key).difference, row(back, key).difference
        assert (here.value, here.low, here.high) == (-there.value, -there.high, -there.low)


def test_only_common_windows_count(a: StoredRecord) -> None:
    values = synthetic_values(documents=40)
    part = values[(values["window"] == 0) & (values["document"] != "article-7")]
    smaller = stored(part, tier="tiny")
    comparison = compare_records(a, smaller)
    assert (comparison.documents, comparison.windows) == (39, 39)
    assert comparison.tokens == part.loc[part["rung"] == "clean", "tokens"].sum()
    assert row(comparison, "gap_raw").a == row(comparison, "gap_raw").b
    assert "80 windows (tier quick), B 39 (tier tiny): compared on the 39 in common" in comparison.warnings[0]


def test_nothing_in_common_is_an_error(a: StoredRecord) -> None:
    values = synthetic_values()
    other = stored(values.assign(document="other-" + values["document"]))
    with pytest.raises(RecordError, match="no document and window in common"):
        compare_records(a, other)


def test_records_against_different_models_are_refused(a: StoredRecord) -> None:
    fine = SubmissionInfo(
        name="fine-one",
        kind="reconstruction",
        files={},
        hash=fake_hash("fine"),
        method=MethodInfo(format=None),
    )
    nested = StoredRecord(synthetic_record(a.values, reference=fine), a.values)
    with pytest.raises(RecordError, match="the model stands for itself in one record and fine-one stands"):
        compare_records(a, nested)
    assert compare_records(nested, nested)


def test_other_tasks_are_refused(a: StoredRecord) -> None:
    task = TaskInfo(id="family/task", version="2-0", hash=fake_hash("another"))
    with pytest.raises(RecordError, match=r"different tasks: family/task 1-0 .* and family/task 2-0"):
        compare_records(a, stored(synthetic_values(), task=task))


def test_other_tokens_in_the_same_windows_are_refused(a: StoredRecord) -> None:
    values = synthetic_values().assign(kl_histogram="")
    values["tokens"] += 1
    with pytest.raises(RecordError, match="other tokens"):
        compare_records(a, stored(values))


def test_what_weakens_the_comparison_is_said(a: StoredRecord) -> None:
    values = synthetic_values(documents=40)
    values["loss"] += 0.01 * values["tokens"]
    measurement = a.record.measurement.model_copy(update={"seed": 5, "dtype": "bfloat16"})
    text = "\n".join(compare_records(a, stored(values, measurement=measurement)).warnings)
    for needed in (
        "seed, so that the noise is not common, differs: A 0, B 5",
        "dtype",
        "clean losses differ by 0.01",
    ):
        assert needed in text


def test_a_missing_rung_is_null_with_its_side(a: StoredRecord) -> None:
    values = synthetic_values(documents=40)
    part = values[values["rung"] != "full"]
    measurement = a.record.measurement.model_copy(update={"rungs": ("raw",)})
    found = row(compare_records(a, stored(part, measurement=measurement)), "gap_gaussian")
    assert found.a is not None
    assert (found.b, found.separable) == (None, None)
    assert found.difference.reason == "B: rung full was not measured"


def test_it_reads_files_and_fits_80_columns(a: StoredRecord, better: StoredRecord, tmp_path: Path) -> None:
    for name, record in (("a", a), ("b", better)):
        write_record(record.record, record.values, tmp_path / f"{name}.json")
    comparison = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert comparison == compare_records(a, better)
    text = render_comparison(comparison)
    assert max(len(line) for line in text.splitlines()) <= 80
    for needed in ("A: first (quick)", "B: second (quick)", "40 documents", "yes", "no"):
        assert needed in text


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_every_quantity(a: StoredRecord, better: StoredRecord, format: str) -> None:
    comparison = compare_records(a, better)
    text = render_comparison(comparison, format)
    if format == "json":
        assert [entry["quantity"] for entry in json.loads(text)] == [d.key for d in comparison.differences]
        assert json.loads(text)[0]["separable"] is None
    elif format == "csv":
        assert text.count("\n") == 1 + len(comparison.differences)
    else:
        headings = [
            d.quantity.heading.replace("Δ", r"$\Delta$").replace("ρ", r"$\rho$")
            for d in comparison.differences
        ]
        shown = headings if format == "latex" else [d.quantity.heading for d in comparison.differences]
        assert all(heading in text for heading in shown)
