"""Tables say once what the deep plan alone measures, and which Gaussian KL are arithmetic of the raw one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.report.test_explain import full_record, short_record, with_metrics
from tests.report.test_order_sections import number, orders

from remainder.record.rungs import AROUND, BOARD_RUNGS, CURVE, NULLS, REFITS, RUNGS, is_deep
from remainder.record.schema import Record
from remainder.report.footers import interaction_lines, mark_of, shown_of
from remainder.report.quantities import QUANTITIES, quantity
from remainder.report.tables import render


def named(record: Record, name: str) -> Record:
    submission = record.submission.model_copy(update={"name": name})
    return record.model_copy(update={"submission": submission})


@pytest.fixture(scope="module")
def deep() -> Record:
    return named(full_record(), "deep-one")


@pytest.fixture(scope="module")
def shallow(deep: Record) -> Record:
    """The same, as if of another plan: the same documents, so a row of the same table."""
    stated = deep.measurement.model_copy(
        update={"whole": False, "rungs": ("raw", "mean", "full", "permuted"), "unmeasured": {}}
    )
    rungs = {name: rung for name, rung in deep.metrics.rungs.items() if name in stated.rungs}
    record = with_metrics(named(deep, "plain-one"), telescope=None, rungs=rungs)
    return record.model_copy(update={"measurement": stated})


@pytest.fixture(scope="module")
def plain() -> Record:
    return named(short_record(), "plain-one")


def table(records: list[Record], *columns: str, **settings: Any) -> str:
    return " ".join(render(records, columns=columns, **settings).split())


def test_deep_rungs_are_those_that_no_row_of_the_board_has() -> None:
    found = {rung for rung in (*RUNGS, *AROUND, *NULLS, *REFITS) if is_deep(rung)}
    assert not found & {*BOARD_RUNGS, *CURVE, "true"}
    assert found >= {"full-temporal", "matched", "noise-isotropic", "residual-0.3", "full-fold-1"}
    assert not is_deep("counterfactual")  # a background of circuits


def test_a_column_that_no_row_has_is_said_and_not_shown(plain: Record) -> None:
    text = table([plain], "dependence", "kl_raw", "gap_temporal")
    assert "Dependence, Δ temporal: measured by --rungs all alone, which no row here was." in text
    assert "–" not in text
    assert "not measured" not in text
    for format in ("markdown", "latex"):
        written = render([plain], format, columns=["dependence", "kl_raw"])
        assert "Dependence: measured by --rungs all alone" in written
        assert "| Dependence" not in written


def test_a_column_that_some_rows_have_is_marked_and_left_empty_in_the_others(
    deep: Record, shallow: Record
) -> None:
    text = render([deep, shallow], columns=["dependence", "kl_raw"])
    (heading,) = (line for line in text.splitlines() if line.startswith("Submission"))
    assert heading.split() == ["Submission", "Dependence", "†", "KL", "raw"]
    assert "† Dependence: measured by --rungs all alone; of these rows, deep-one." in " ".join(text.split())
    assert "–" not in text
    assert "†" not in render([deep], columns=["dependence"])
    frame = render([deep, shallow], "csv", columns=["dependence"])
    assert "†" not in frame


def test_what_was_asked_for_and_could_not_be_measured_keeps_its_reason(plain: Record) -> None:
    stated = plain.measurement.model_copy(update={"unmeasured": {"temporal": "the windows are too short"}})
    text = table([plain.model_copy(update={"measurement": stated})], "gap_temporal")
    assert "the windows are too short" in text
    assert "--rungs all" not in text


def test_beside_shape_stands_its_power(plain: Record) -> None:
    record = with_metrics(plain, orders=orders())
    text = table([record], "shape")
    assert "Shape κ̂ min" in text
    assert "6.20" in text
    assert "a size" not in text  # it is no estimate, and has no dash below it
    assert [one.key for one in shown_of([QUANTITIES["kl_raw"]], [record]).columns] == ["kl_raw"]


def test_a_gaussian_kl_that_is_no_arithmetic_is_marked(plain: Record) -> None:
    beyond, within, across = (
        named(with_metrics(plain, orders=orders(interaction=number(size, half))), name)
        for name, size, half in (("beyond", 0.3, 0.05), ("within", 0.05, 0.05), ("across", 0.15, 0.05))
    )
    rows, column = [beyond, within, across], QUANTITIES["kl_gaussian"]
    assert [mark_of(column, row) for row in rows] == ["‡", "", ""]
    assert [mark_of(QUANTITIES["kl_raw"], row) for row in rows] == ["", "", ""]
    text = table(rows, "kl_gaussian")
    value = beyond.metrics.rungs["full"].quenched.kl.value
    assert f"{value:.3f}‡" in text
    assert text.count("‡") == 2  # the number, and the legend
    assert "‡ interaction beyond ±0.15: noise costs another amount at x̂ than at x (1 of 3 rows)." in text
    assert "within ±0.15: KL Gaussian is arithmetic of the raw one" in text
    assert "across ±0.15: which of the two is not resolved (1 of 3 rows)." in text
    assert interaction_lines([QUANTITIES["kl_raw"]], rows) == []
    assert interaction_lines([column], [plain]) == []  # not measured: nothing is said of it
    assert "‡" not in table(rows, "kl_raw")


def test_brackets_are_explained_under_tables_that_have_some(plain: Record) -> None:
    assert "Brackets" in table([plain], "kl_raw")
    assert "Brackets" not in table([plain], "bits_per_token")
    assert "Brackets" not in table([plain], "kl_temporal")


def test_every_rung_has_its_column_and_knows_its_plan() -> None:
    for rung in RUNGS:
        found = quantity(f"kl_{rung}")
        if found is not None:
            assert found.deep is is_deep(rung)
