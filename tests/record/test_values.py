"""The table of per-document values: its canonical form, its CSV, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_values import synthetic_values

from remainder.errors import MeasurementError
from remainder.record.json import significant
from remainder.record.values import (
    DIGITS,
    _rounded,
    canonical_values,
    document_totals,
    values_from_csv,
    values_to_csv,
)


def test_the_csv_gives_back_exactly_the_canonical_table() -> None:
    values = synthetic_values()
    data = values_to_csv(values)
    pd.testing.assert_frame_equal(values_from_csv(data), canonical_values(values), check_exact=True)
    assert values_to_csv(values_from_csv(data)) == data


def test_the_order_of_rows_columns_and_index_does_not_matter() -> None:
    values = synthetic_values()
    shuffled = values.sample(frac=1.0, random_state=1)[sorted(values.columns, reverse=True)]
    assert values_to_csv(shuffled) == values_to_csv(values)


@pytest.mark.parametrize("name", ["NA", "null", "7", "Ærø, “the” island", 'a "quoted", name'])
def test_any_printable_name_survives_the_csv(name: str) -> None:
    values = synthetic_values(documents=2)
    values["document"] = values["document"].replace("article-0", name)
    assert set(values_from_csv(values_to_csv(values))["document"]) == {name, "article-1"}


def test_floats_keep_nine_digits() -> None:
    values = synthetic_values(documents=1)
    values["loss"] = 123.456789012
    assert set(canonical_values(values)["loss"]) == {123.456789}


def test_totals_sum_windows_and_average_draws() -> None:
    values = synthetic_values(documents=3, windows=2, pairs=2)
    totals = document_totals(canonical_values(values))["full"]
    assert list(totals.index) == ["article-0", "article-1", "article-2"]
    rows = values[(values["rung"] == "full") & (values["document"] == "article-1")]
    by_draw = [rows.loc[rows["draw"] == draw, "kl"].sum() for draw in range(4)]
    assert totals.loc["article-1", "kl"] == pytest.approx(np.mean(by_draw), rel=1e-8)
    assert totals.loc["article-1", "tokens"] == rows.loc[rows["draw"] == 0, "tokens"].sum()


def spoil(column: str, rung: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(values: pd.DataFrame) -> pd.DataFrame:
        values = values.astype({column: object})
        values.loc[values.index[values["rung"] == rung][0], column] = value
        return values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil("loss", "full", np.nan),
            "loss is nan at split evaluation, document article-0, window 0, rung full, draw 0",
        ),
        (spoil("kl", "raw", np.inf), "kl is inf"),
        (spoil("tokens", "raw", 3), "tokens is 3 .* as many as for rung clean"),
        (spoil("top1", "raw", 1.5), "top1 is 1.5 .* a count"),
        (spoil("residual_ss", "raw", np.nan), "residual_ss is nan .* every row of this rung"),
        (spoil("active", "full", 1.0), "active is 1.0 .* nothing on this rung"),
        (spoil("document", "full", "two\nlines"), "not a printable"),
        (
            lambda values: values.drop(index=values.index[values["rung"] == "full"][0]),
            "rung full has 47 rows",
        ),
        (lambda values: pd.concat([values, values.tail(1)]), "each key once"),
        (lambda values: values[values["rung"] != "clean"], "rung clean is missing"),
        (spoil("annealed", "full", 1.0), "annealed is nan .* a number in every window"),
        (lambda values: pd.concat([values, values.assign(split="fit")]), "no split 'fit'"),
        (lambda values: values.assign(split="calibration"), "no row is of split evaluation"),
        (lambda values: values.drop(columns="kl"), r"missing \['kl'\]"),
        (lambda values: values.assign(extra=1), r"foreign \['extra'\]"),
    ],
)
def test_faulty_tables_are_refused(change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        canonical_values(change(synthetic_values()))


@given(st.lists(st.floats(allow_infinity=False) | st.integers(-(10**12), 10**12).map(float), min_size=1))
def test_a_column_is_rounded_as_each_of_its_numbers_is(numbers: list[float]) -> None:
    found = _rounded(np.array(numbers))
    expected = np.array([significant(number, DIGITS) for number in numbers])
    np.testing.assert_array_equal(found, expected)
    assert not np.signbit(found[found == 0]).any()
