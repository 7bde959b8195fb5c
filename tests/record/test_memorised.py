"""The comparison of what is left unexplained on evaluation with what is left on other splits."""

from __future__ import annotations

import math

import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values

from remainder.board.consistency import check_checks
from remainder.record.memorised import BAND, CHECK, FLOOR, check_memorised, compared, unexplained_by
from remainder.record.number import Number
from remainder.record.schema import Check


def share(value: float, half: float = 0.0) -> Number:
    return Number(value=value, low=value - half, high=value + half)


def explained(value: float, half: float = 0.0) -> Number:
    return share(1 - value, half)


def test_the_ratio_of_two_shares_has_the_interval_of_a_quotient() -> None:
    found = compared(share(0.2, 0.02), share(0.1, 0.03))
    assert found is not None
    first = [math.log(x + FLOOR) for x in (0.2, 0.18, 0.22)]
    second = [math.log(x + FLOOR) for x in (0.1, 0.07, 0.13)]
    assert math.log(found.value) == pytest.approx(first[0] - second[0])
    # The lower end takes the numerator's lower and the denominator's upper end; the upper end the others.
    assert math.log(found.low) == pytest.approx(
        first[0] - second[0] - math.hypot(first[0] - first[1], second[2] - second[0])
    )
    assert math.log(found.high) == pytest.approx(
        first[0] - second[0] + math.hypot(first[2] - first[0], second[0] - second[1])
    )


@pytest.mark.parametrize("number", [Number.null("few"), Number.bare(0.1, "few documents")])
def test_without_intervals_nothing_is_compared(number: Number) -> None:
    assert compared(number, share(0.1)) is None
    assert compared(share(0.1), number) is None
    assert check_memorised({"calibration": number}, share(0.9)).passed


@pytest.mark.parametrize(
    ("calibration", "fit", "evaluation", "passed"),
    [
        (0.10, 0.10, 0.10, True),
        (0.10, 0.05, 0.10, True),  # overfitting, which harms nobody
        (0.10, 0.10, 0.05, False),  # evaluation is memorised
        (0.05, 0.10, 0.05, False),  # calibration and evaluation are
        (0.05, 0.10, 0.10, False),  # calibration is: the residual that is fitted there is too small
        (0.0, 0.0, 0.0, True),  # the identity
        (0.10, 0.10, 0.092, True),  # inside the band
    ],
)
def test_which_splits_may_differ(calibration: float, fit: float, evaluation: float, passed: bool) -> None:
    found = check_memorised(
        {"calibration": share(calibration, 1e-6), "fit": share(fit, 1e-6)}, explained(evaluation, 1e-6)
    )
    assert found.passed is passed
    assert (found.value == 0) is passed


def test_a_wide_interval_is_no_fault_and_a_narrow_one_is() -> None:
    for half, passed in ((0.04, True), (0.001, False)):
        assert check_memorised({"fit": share(0.1, half)}, explained(0.07, half)).passed is passed


def test_the_value_is_how_far_the_interval_lies_outside() -> None:
    found = check_memorised({"fit": share(0.2)}, explained(0.1))
    assert found.value == pytest.approx(math.log(BAND[0]) - math.log((0.1 + FLOOR) / (0.2 + FLOOR)), rel=1e-5)


def test_what_is_explained_is_turned_round() -> None:
    found = unexplained_by(Number(value=0.9, low=0.85, high=0.92))
    assert [found.value, found.low, found.high] == [
        pytest.approx(0.1),
        pytest.approx(0.08),
        pytest.approx(0.15),
    ]
    assert unexplained_by(Number.null("none")).reason == "none"


def test_a_fault_is_told_in_words() -> None:
    record = synthetic_record(synthetic_values())
    calibration = record.calibration.model_copy(update={"unexplained": {"fit": share(0.2)}})
    found = list(check_checks(record.model_copy(update={"calibration": calibration}), synthetic_values()))
    told = next(fault for fault in found if "memorised" in fault)
    assert "is missing; the figures give " in told
    assert "Check(" not in told
    assert "passed=" not in told
    forged = record.checks | {CHECK: Check(passed=True, value=0.0, limit=0.0, note="x")}
    record = record.model_copy(update={"calibration": calibration, "checks": forged})
    told = next(fault for fault in check_checks(record, synthetic_values()) if "memorised" in fault)
    assert "passed (0, limit 0; x); the figures give" in told
