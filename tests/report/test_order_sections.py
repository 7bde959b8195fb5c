"""Sentences on orders, the bath and ρ say what the intervals allow, and null results carry their power."""

from __future__ import annotations

import math

import pytest
from tests.report.test_explain import full_record, said, with_metrics

from remainder.record.metrics import BathPoint, Orders, OrderTerms, RatioParts
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.explain import explain
from remainder.report.order_sections import factor_of
from remainder.report.quantities import chosen, number_of


def number(value: float, half: float = 0.01) -> Number:
    return Number(value=value, low=value - half, high=value + half)


def terms(remainder: Number, missing: float = 0.02) -> OrderTerms:
    return OrderTerms(
        zero=number(0.05),
        one=number(0.09),
        two=number(0.10),
        sampled=number(0.11),
        a2=number(0.04),
        a4=number(0.01),
        remainder=remainder,
        missing=number(missing),
        perturbativity=number(0.5),
    )


def orders(
    remainder: Number | None = None, interaction: Number | None = None, smallest: Number | None = None
) -> Orders:
    fitting = terms(number(0.001) if remainder is None else remainder)
    return Orders(
        loss=fitting,
        kl=fitting,
        interaction=number(0.0) if interaction is None else interaction,
        shape=number(0.002),
        smallest_kurtosis=Number.bare(6.2, "a size") if smallest is None else smallest,
    )


@pytest.fixture(scope="module")
def record() -> Record:
    return full_record()


@pytest.mark.parametrize(
    ("remainder", "words"),
    [
        (number(0.001), "two terms are enough"),
        (number(0.02, 0.05), "two terms are not enough"),  # 0 in its interval, but too large
        (number(0.005, 0.001), "two terms are not enough"),
        (Number.bare(0.001, "three documents"), "cannot be said without intervals"),
    ],
)
def test_two_terms_are_enough_where_their_remainder_may_be_0_and_is_small(
    record: Record, remainder: Number, words: str
) -> None:
    assert words in said(with_metrics(record, orders=orders(remainder)))


@pytest.mark.parametrize(
    ("interaction", "words"),
    [
        (number(0.05), "arithmetic"),
        (number(0.30), "beyond ±0.15"),
        (number(-0.30), "beyond ±0.15"),
        (number(0.15), "is not resolved"),
        (Number.null("no noise"), "Interaction: none (no noise)"),
    ],
)
def test_the_interaction_says_whether_the_quenched_column_is_arithmetic(
    record: Record, interaction: Number, words: str
) -> None:
    assert words in said(with_metrics(record, orders=orders(interaction=interaction)))


def test_a_null_of_shape_carries_its_power(record: Record) -> None:
    text = said(with_metrics(record, orders=orders()))
    assert "Shape 0.002 [-0.008, 0.012]: it could have shown a κ̂ of 6.20 or more" in text
    assert record.metrics.gaussianity is not None
    assert "the residual has" in text
    assert text.count("could have shown") == 1
    alone = said(with_metrics(record, orders=orders(), telescope=None))
    assert alone.count("could have shown a κ̂ of 6.20 or more") == 1
    without = said(with_metrics(record, orders=orders(smallest=Number.null("it is 0")), gaussianity=None))
    assert "no κ̂ that it could have shown (it is 0)." in without


def test_the_bath_pays_as_its_test_says(record: Record) -> None:
    def of(*verdicts: bool | None) -> str:
        points = tuple(
            BathPoint(amplitude=size, loss=number(2.0), difference=number(-0.02), pays=verdict)
            for size, verdict in zip((0.6, 1.0), verdicts, strict=True)
        )
        return said(with_metrics(record, bath=points))

    assert "noise × 0.6 -0.020 [-0.030, -0.010] pays noise × 1 -0.020 [-0.030, -0.010] does not pay" in of(
        True, False
    )
    # A null carries its power: 2.8 standard errors, of an interval of ± 0.010.
    assert "does not pay; a gain of 0.014 would have shown" in of(False, False)
    assert "predicts better than the mean residual alone" in of(True, False)
    assert "predicts better" not in of(False, None)


def test_factors_are_shown_as_they_multiply(record: Record) -> None:
    parts = record.metrics.ratio_parts
    assert parts is not None
    factors = dict.fromkeys(parts.factors, Number(value=math.log(2), low=0.0, high=math.log(4)))
    text = said(with_metrics(record, ratio_parts=parts.model_copy(update={"factors": factors})))
    for what in ("covariance", "length at each token", "real, in order", "the residual's own place"):
        assert f"× {what} 2.00 [1.00, 4.00]" in text
    assert factor_of(Number.null("why")).reason == "why"
    bare = RatioParts(
        even=number(1.4),
        odd=number(0.2),
        small=Number.null("not there"),
        mean_kl=number(0.1),
        factors={},
        others={},
    )
    shorter = said(with_metrics(record, ratio_parts=bare))
    assert "four factors" not in shorter
    assert "turns the answer" not in shorter


def test_amplitudes_are_fitted_on_both_sides(record: Record) -> None:
    couplings = record.metrics.couplings
    assert couplings is not None
    changed = couplings.model_copy(update={"beta_alone": number(0.95), "difference": number(-0.02)})
    text = said(with_metrics(record, couplings=changed))
    assert "β₀* (source, no noise) 0.950 [0.940, 0.960]" in text
    assert "Annealed loss less that of β₀* without noise: -0.020 [-0.030, -0.010]." in text
    older = couplings.model_copy(update={"beta_alone": None, "difference": None})
    assert "β₀*" not in said(with_metrics(record, couplings=older))


def test_the_legend_states_the_draws_of_the_record(record: Record) -> None:
    assert "from 16 draws for full, permuted and coupled, from few for the others." in said(record)
    measurement = record.measurement.model_copy(update={"annealed_draws": 0, "whole": False})
    assert "integrated out, from few draws." in said(record.model_copy(update={"measurement": measurement}))


def test_all_of_it_fits_80_columns_and_records_without_it_are_silent(record: Record) -> None:
    assert all(len(line) <= 80 for line in explain(record).splitlines())
    text = said(with_metrics(record, orders=None, bath=None, ratio_parts=None))
    for words in ("Order by order", "as a bath", "ρ taken apart"):
        assert words not in text
        assert words in said(record)


def test_columns_can_be_asked_for(record: Record) -> None:
    keys = ["annealed_difference", "annealed_difference_0.6", "perturbativity", "interaction"]
    keys += ["smallest_kurtosis", "rho_even", "rho_odd", "rho_small"]
    assert [entry.key for entry in chosen(keys, [record])] == keys
    metrics = record.metrics
    assert metrics.bath is not None
    assert metrics.ratio_parts is not None
    assert number_of(record, keys[0]) == metrics.bath[1].difference
    assert number_of(record, keys[1]) == metrics.bath[0].difference
    assert number_of(record, "rho_odd") == metrics.ratio_parts.odd
    assert number_of(record, "shape") == record.metrics.telescope.shape  # type: ignore[union-attr]
    board = with_metrics(record, telescope=None, orders=orders())
    assert number_of(board, "shape") == number(0.002)
    silent = with_metrics(record, orders=None, bath=None, ratio_parts=None)
    for key in keys:
        assert number_of(silent, key).reason == "its rungs were not measured"
