"""Metrics against sums written out by hand, and the quantile of the histogram against the sample's."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from synthetic_values import histogram, synthetic_values

from remainder.errors import MeasurementError
from remainder.record.number import Number
from remainder.record.summary import histogram_quantile, summaries_of, summarise
from remainder.record.values import canonical_values, values_from_csv, values_to_csv


def total(values: pd.DataFrame, rung: str, column: str) -> float:
    """Sum over documents and windows, mean over draws."""
    rows = values[values["rung"] == rung]
    return sum(rows[column]) / rows["draw"].nunique()


def counted(values: pd.DataFrame) -> dict[str, Number]:
    return summaries_of(canonical_values(values), seed=0).complexity


def test_values_are_the_ratios_of_plain_sums() -> None:
    values = synthetic_values(pairs=2)
    metrics = summarise(values, seed=0)
    tokens = total(values, "clean", "tokens")
    clean = total(values, "clean", "loss") / tokens
    assert metrics.clean.loss.value == pytest.approx(clean, rel=1e-5)
    for rung in ("raw", "mean", "full", "permuted", "noise-fitted"):
        quenched = metrics.rungs[rung].quenched
        assert quenched.loss.value == pytest.approx(total(values, rung, "loss") / tokens, rel=1e-5)
        assert quenched.gap.value == pytest.approx(total(values, rung, "loss") / tokens - clean, rel=1e-5)
        assert quenched.kl.value == pytest.approx(total(values, rung, "kl") / tokens, rel=1e-5)
        assert quenched.top1.value == pytest.approx(total(values, rung, "top1") / tokens, rel=1e-5)
    for name in ("fitted", "directional", "isotropic"):
        ratio = total(values, "raw", "kl") / total(values, f"noise-{name}", "kl")
        assert getattr(metrics.gaussian_ratio, name).value == pytest.approx(ratio, rel=1e-5)
    unexplained = total(values, "raw", "residual_ss") / total(values, "raw", "centred_ss")
    assert metrics.reconstruction.explained_variance.value == pytest.approx(1 - unexplained, rel=1e-5)
    l0 = total(values, "raw", "active") / total(values, "raw", "spliced")
    assert counted(values)["l0"].value == pytest.approx(l0, rel=1e-5)


def test_every_interval_holds_its_value() -> None:
    quenched = summarise(synthetic_values(), seed=0).rungs["raw"].quenched
    for number in (quenched.loss, quenched.gap, quenched.kl, quenched.top1):
        assert number.low < number.value < number.high


def test_the_gap_is_paired_and_signed() -> None:
    values = synthetic_values()
    values.loc[values["rung"] == "raw", "loss"] -= 0.5 * values["tokens"]
    metrics = summarise(values, seed=0)
    gap, loss = metrics.rungs["raw"].quenched.gap, metrics.rungs["raw"].quenched.loss
    assert gap.high < 0
    assert gap.high - gap.low < 0.1 * (loss.high - loss.low)


def test_the_order_of_rows_does_not_matter() -> None:
    values = synthetic_values()
    assert summarise(values.sample(frac=1.0, random_state=3), seed=0) == summarise(values, seed=0)


def test_the_document_is_the_unit_not_the_window() -> None:
    """Two identical windows per document carry no more information than one."""
    values = synthetic_values(windows=1)
    doubled = pd.concat([values, values.assign(window=1)])
    once, twice = summarise(values, seed=0), summarise(doubled, seed=0)
    assert twice.clean == once.clean
    assert twice.rungs["raw"].quenched.kl == once.rungs["raw"].quenched.kl


def test_what_was_not_measured_is_null_with_a_reason() -> None:
    values = synthetic_values()
    values = values[values["rung"] != "noise-fitted"]
    values = values.assign(residual_ss=np.nan, centred_ss=np.nan, active=np.nan, spliced=np.nan)
    metrics = summarise(values, seed=0)
    assert metrics.gaussian_ratio.fitted == Number.null("rung noise-fitted was not measured")
    assert metrics.gaussian_ratio.isotropic.value is not None
    assert metrics.reconstruction.explained_variance == Number.null("sums of squares were not kept")
    assert counted(values)["l0"] == Number.null("codes were not counted")


def test_a_perfect_interpretation_has_no_ratio_where_the_noise_is_nothing() -> None:
    values = synthetic_values()
    values.loc[values["rung"].isin(["raw", "noise-fitted"]), "kl"] = 0.0
    metrics = summarise(values, seed=0)
    nothing = Number.null("the KL of raw is 0: below 1e-08 nats per token")
    assert metrics.gaussian_ratio.fitted == metrics.gaussian_ratio.isotropic == nothing
    values = synthetic_values()
    values.loc[values["rung"] == "noise-fitted", "kl"] = 0.0
    reason = "the KL of noise-fitted is 0: below 1e-08 nats per token"
    assert summarise(values, seed=0).gaussian_ratio.fitted == Number.null(reason)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_kl_that_is_rounding_is_0_and_has_no_ratio(sign: int) -> None:
    """The identity: passes that agree but for the last bits of float32."""
    values = synthetic_values()
    everywhere = values["rung"] != "clean"
    values.loc[everywhere, "kl"] *= sign * 1e-9 / 0.1
    metrics = summarise(values, seed=0)
    assert {rung.quenched.kl for rung in metrics.rungs.values()} == {Number(value=0, low=0, high=0)}
    assert metrics.gaussian_ratio.fitted.value is None
    values.loc[everywhere, "kl"] *= 1e3  # far above rounding; below 0 it is shown as it is
    assert (summarise(values, seed=0).rungs["raw"].quenched.kl.value or 0) * sign == pytest.approx(
        1e-6, rel=0.2
    ) or sign == -1


def test_a_ratio_over_noise_in_one_document_has_a_flag() -> None:
    values = synthetic_values()
    noise = values["rung"] == "noise-fitted"
    values.loc[noise & (values["document"] == "article-3"), "kl"] *= 30
    found = summarise(values, seed=0).gaussian_ratio.fitted
    assert found.reason == "one document holds over half of the denominator"
    assert found.low is not None
    assert 0 < found.low < (found.value or 0)
    values.loc[noise & ~values["document"].isin(["article-3", "article-4", "article-5"]), "kl"] = 0
    found = summarise(values, seed=0).gaussian_ratio.fitted
    assert found.low is None
    assert found.reason == "all of the denominator is in 3 of 12 documents; an interval needs 4"


def test_the_quantile_of_the_histogram_is_that_of_the_sample() -> None:
    generator = np.random.default_rng(0)
    documents = [generator.lognormal(-3, 1.5, 200) for _ in range(50)]
    estimate = histogram_quantile([histogram(kl) for kl in documents], 0.99, tokens=10_000)
    assert estimate.value == pytest.approx(np.quantile(np.concatenate(documents), 0.99), rel=0.02)
    assert estimate.low is None
    assert "no interval" in estimate.reason


def test_the_quantile_interpolates_in_the_logarithm() -> None:
    half = histogram_quantile(["-20:10", "", "-40:10"], 0.75, tokens=20)
    assert half.value == pytest.approx(10 ** (-19.5 / 20))


def test_a_quantile_in_the_lowest_bin_is_a_bound_not_a_value() -> None:
    estimate = histogram_quantile(["-160:99;-20:1"], 0.99, tokens=100)
    assert estimate.value is None
    assert "1.1e-08" in estimate.reason


def test_a_histogram_that_lost_tokens_is_refused() -> None:
    values = synthetic_values()
    first = values.index[values["rung"] == "full"][0]
    values.loc[first, "kl_histogram"] = "-20:1"
    with pytest.raises(MeasurementError, match="kl_histogram counts"):
        summarise(values, seed=0)


def test_no_scored_token_is_an_error() -> None:
    values = synthetic_values(documents=2).assign(tokens=0, top1=0, kl_histogram="")
    with pytest.raises(MeasurementError, match="no token is scored"):
        summarise(values, seed=0)


def test_a_null_needs_a_reason_and_only_then_shows_one() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Number(value=None, low=None, high=None)
    assert Number(value=1.0, low=0.0, high=2.0).model_dump() == {"value": 1.0, "low": 0.0, "high": 2.0}
    assert Number.null("why").model_dump()["reason"] == "why"


def test_summaries_and_records_need_no_torch() -> None:
    """Checked in a fresh interpreter, where nothing else can have imported it."""
    modules = ("record.summary", "record.store", "report.tables", "report.compare")
    code = f"import sys, {', '.join(f'remainder.{name}' for name in modules)}; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False"


def with_annealed(log_p: np.ndarray) -> pd.DataFrame:
    """A table whose rung `full` has, for every token, units with these log-probabilities."""
    values = synthetic_values(pairs=len(log_p))
    values["annealed_plain"] = np.nan
    for units in range(2, len(log_p) + 1):
        found = annealed_by_hand(np.exp(log_p[:units]))
        rows = (values["rung"] == "full") & (values["draw"] == 2 * units - 1)
        for name, loss in zip(("annealed", "annealed_plain"), found, strict=True):
            values.loc[rows, name] = loss * values.loc[rows, "tokens"]
    return values


def annealed_by_hand(p: np.ndarray) -> tuple[float, float]:
    """The jackknifed and the plain −log mean p, by the definition."""
    left_out = [-np.log(np.delete(p, unit).mean()) for unit in range(len(p))]
    plain = -np.log(p.mean())
    return len(p) * plain - (len(p) - 1) * float(np.mean(left_out)), float(plain)


def test_an_annealed_loss_that_one_draw_decides_is_not_given() -> None:
    """Eight units, one with p = 1: the jackknife says −21.5 nats, and the truth may be 2.08."""
    outlying = np.array([0.0, *[-30.0] * 7])
    assert annealed_by_hand(np.exp(outlying))[0] == pytest.approx(-21.5, abs=0.1)
    found = summarise(with_annealed(outlying), seed=0).rungs["full"].annealed
    assert found is not None
    assert found.loss.value is None
    assert found.gap.value is None
    assert "moves by over 10%" in (found.loss.reason or "")


def test_an_annealed_loss_is_given_from_eight_units_on() -> None:
    log_p = -np.linspace(0.9, 1.1, 8)
    found = summarise(with_annealed(log_p), seed=0).rungs["full"].annealed
    assert found is not None
    assert found.loss.value == pytest.approx(annealed_by_hand(np.exp(log_p))[0], rel=1e-5)
    assert found.draws == 16
    few = summarise(with_annealed(log_p[:7]), seed=0).rungs["full"].annealed
    assert few is not None
    assert few.loss == few.gap == Number.null("7 independent draws; an annealed loss needs 8")
    # Nor is the same number given among those that show where it stops moving.
    assert few.nested
    assert all(number.value is None for number in few.nested.values())
    assert found.nested["16"].value is not None
    assert found.nested["8"].value is None


def test_an_annealed_loss_is_never_below_0() -> None:
    values = with_annealed(-np.linspace(0.09, 0.11, 8))
    last = values["annealed"].notna() & (values["draw"] == 15)
    below = last & (values["document"].isin(["article-3", "article-4"]))
    values.loc[below, "annealed"] *= -1
    values.loc[below, "annealed_plain"] *= -1
    found = summarise(values, seed=0).rungs["full"].annealed
    assert found is not None
    assert found.loss.value is not None
    assert 0 <= (found.loss.low or 0) <= found.loss.value
    values.loc[last, ["annealed", "annealed_plain"]] = -0.01
    found = summarise(values, seed=0).rungs["full"].annealed
    assert found is not None
    assert found.loss.value is None


def test_the_plain_estimate_survives_the_file_and_is_absent_where_nothing_is_annealed() -> None:
    values = canonical_values(with_annealed(-np.linspace(0.9, 1.1, 8)))
    pd.testing.assert_frame_equal(values_from_csv(values_to_csv(values)), values)
    empty = synthetic_values()
    empty["annealed_plain"] = np.nan
    assert "annealed_plain" not in canonical_values(empty)
