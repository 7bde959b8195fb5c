"""Standard errors, verdicts and power laws, against brute force, scipy and simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values

from remainder.errors import MeasurementError
from remainder.record.couplings import QUICK_GRID, Grid, GridPoint, fit_couplings, rung_of
from remainder.record.metrics import DirectionTests, Gaussianity, NullTest, RadiusHistogram
from remainder.record.number import Number
from remainder.record.values import canonical_values
from remainder.validation.claims import Claim, Law, parse_quantity
from remainder.validation.quantities import Measured, Measurements, jackknife, ratio_error
from remainder.validation.verdict import Finding, fit_power_law, holm, judge, judge_law

# ------------------------------------------------------------------------------------- standard errors


def test_the_jackknife_of_a_mean_is_the_textbook_error() -> None:
    values = np.random.default_rng(0).lognormal(size=30)
    left_out = np.array([np.delete(values, i).mean() for i in range(30)])
    assert jackknife(left_out) == pytest.approx(stats.sem(values))


def test_the_error_of_a_ratio_leaves_out_one_document_at_a_time() -> None:
    generator = np.random.default_rng(1)
    b = generator.integers(50, 900, 25).astype(float)
    a = b * generator.lognormal(size=25)
    each = [np.delete(a, i).sum() / np.delete(b, i).sum() for i in range(25)]
    expected = math.sqrt(24 / 25 * sum((one - np.mean(each)) ** 2 for one in each))
    assert ratio_error(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_error_of_a_ratio_is_about_that_of_the_bootstrap() -> None:
    generator = np.random.default_rng(2)
    b = generator.integers(80, 130, 60).astype(float)
    a = b * generator.normal(2, 0.5, 60)
    drawn = stats.bootstrap(
        (a, b),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    assert ratio_error(a, b) == pytest.approx(drawn.standard_error, rel=0.08)


def test_the_error_of_a_ratio_is_the_spread_of_many_ratios() -> None:
    generator = np.random.default_rng(4)
    ratios, errors = [], []
    for _ in range(2000):
        b = generator.integers(80, 130, 40).astype(float)
        a = 1.5 * b + generator.normal(0, 30, 40)
        ratios.append(a.sum() / b.sum())
        errors.append(ratio_error(a, b))
    assert float(np.sqrt(np.mean(np.square(errors)))) == pytest.approx(np.std(ratios), rel=0.05)


def test_tiny_differences_of_large_sums_have_no_error_of_rounding() -> None:
    b = np.full(40, 1e4)
    assert ratio_error(3.0 * b, b) == 0
    assert ratio_error(3.0 * b + np.resize([1e-6, -1e-6], 40), b) == pytest.approx(
        stats.sem(np.resize([1e-10, -1e-10], 40)), rel=1e-3
    )


def test_one_document_has_no_error() -> None:
    with pytest.raises(ValueError, match="two documents, not 1"):
        ratio_error(np.ones(1), np.ones(1))


# ------------------------------------------------------------------------------ quantities of a record


def with_matched() -> pd.DataFrame:
    """Two pairs of draws, annealed losses, right answers, and all rungs of the telescope."""
    values = synthetic_values(documents=15, pairs=2)
    extra = []
    for rung, shift in (("full-unshrunk", 0.01), ("matched", 0.02)):
        rows = values[values["rung"] == "permuted"].copy()
        rows["rung"], rows["loss"] = rung, rows["loss"] + shift * rows["tokens"]
        extra.append(rows)
    values = pd.concat([values, *extra], ignore_index=True)
    generator = np.random.default_rng(5)
    values["correct"] = generator.binomial(values["tokens"], 0.6)
    annealed = (values["draw"] == 3) & ~values["rung"].isin(["raw", "mean", "clean"])
    values.loc[annealed, "annealed"] = values["loss"] - 0.05 * values["tokens"]
    return values


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    return with_matched()


@pytest.fixture(scope="module")
def measurements(values: pd.DataFrame) -> Measurements:
    return Measurements(synthetic_record(values), canonical_values(values))


def brute(values: pd.DataFrame, terms: dict[tuple[str, str], float], drawn: int | None = None) -> Measured:
    """Σ factor · mean over draws of a column, over tokens, leaving out one document at a time."""

    def estimate(documents: set[str]) -> float:
        kept = values[values["document"].isin(documents)]
        total = 0.0
        for (rung, name), factor in terms.items():
            rows = kept[kept["rung"] == rung]
            draws = rows["draw"].unique() if drawn is None else [drawn]
            total += factor * sum(rows.loc[rows["draw"] == draw, name].sum() for draw in draws) / len(draws)
        return float(total / kept.loc[kept["rung"] == "clean", "tokens"].sum())

    everyone = set(values["document"])
    each = np.array([estimate(everyone - {one}) for one in sorted(everyone)])
    count = len(everyone)
    error = math.sqrt((count - 1) / count * float(((each - each.mean()) ** 2).sum()))
    return Measured(estimate(everyone), error, count - 1)


@pytest.mark.parametrize(
    ("text", "terms", "drawn"),
    [
        ("clean", {("clean", "loss"): 1}, None),
        ("clean error", {("clean", "tokens"): 1, ("clean", "correct"): -1}, None),
        ("raw", {("raw", "loss"): 1}, None),
        ("full", {("full", "loss"): 1}, None),
        ("full kl", {("full", "kl"): 1}, None),
        ("full error", {("clean", "tokens"): 1, ("full", "correct"): -1}, None),
        ("full gap at least", {("full", "loss"): 1, ("clean", "loss"): -1}, None),
        ("permuted annealed", {("permuted", "annealed"): 1}, 3),
        ("raw annealed", {("raw", "loss"): 1}, None),
        ("shape", {("full-unshrunk", "loss"): 1, ("permuted", "loss"): -1}, None),
        ("dependence", {("permuted", "loss"): 1, ("matched", "loss"): -1}, None),
        ("rest", {("matched", "loss"): 1, ("clean", "loss"): -1}, None),
    ],
)
def test_quantities_are_those_of_the_values(
    measurements: Measurements, values: pd.DataFrame, text: str, terms: Any, drawn: int | None
) -> None:
    found, expected = measurements.read(parse_quantity(text, "here")), brute(values, terms, drawn)
    assert found.value == pytest.approx(expected.value, rel=1e-7, abs=1e-9)
    assert found.error == pytest.approx(expected.error, rel=1e-5, abs=1e-9)
    assert found.freedom == expected.freedom == 14


def test_values_agree_with_the_record(measurements: Measurements) -> None:
    metrics = measurements.record.metrics
    assert metrics.telescope is not None
    for text, number in (
        ("clean", metrics.clean.loss),
        ("full kl", metrics.rungs["full"].quenched.kl),
        ("shape", metrics.telescope.shape),
        ("dependence", metrics.telescope.dependence),
        ("rest", metrics.telescope.rest),
    ):
        assert measurements.read(parse_quantity(text, "")).value == pytest.approx(number.value, abs=1e-5)
    accuracy = metrics.rungs["full"].quenched.accuracy.value
    assert accuracy is not None
    assert measurements.read(parse_quantity("full error", "")).value == pytest.approx(1 - accuracy, abs=1e-5)


def test_shape_without_a_telescope_is_that_of_full(values: pd.DataFrame) -> None:
    short = values[~values["rung"].isin(["matched"])]
    found = Measurements(synthetic_record(short), short).read(parse_quantity("shape", ""))
    expected = brute(short, {("full", "loss"): 1, ("permuted", "loss"): -1})
    assert found.value == pytest.approx(expected.value, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("temporal", "rung temporal: no tokens in a row"),
        ("radial", "rung radial: it was not measured"),
        ("alpha", "alpha has no value: not measured"),
        ("radial kurtosis", "radial kurtosis has no value"),
    ],
)
def test_what_has_no_value_is_an_error(values: pd.DataFrame, text: str, words: str) -> None:
    measurement = synthetic_record(values).measurement
    record = synthetic_record(
        values, measurement=measurement.model_copy(update={"unmeasured": {"temporal": "no tokens in a row"}})
    )
    with pytest.raises(MeasurementError, match=words):
        Measurements(record, values).read(parse_quantity(text, ""))


def test_numbers_have_no_errors_and_one_unit_no_annealed_loss() -> None:
    table = synthetic_values(documents=8)
    table["correct"] = np.nan
    measurements = Measurements(synthetic_record(table), table)
    with pytest.raises(MeasurementError, match="have no correct answers"):
        measurements.read(parse_quantity("raw error", ""))
    with pytest.raises(MeasurementError, match="two independent units"):
        measurements.read(parse_quantity("full annealed", ""))


def test_alpha_has_the_error_of_its_resampled_fits() -> None:
    generator = np.random.default_rng(6)
    tokens, best = np.full(40, 100.0), generator.normal(0.8, 0.15, 40)
    rows = []
    annealed: dict[GridPoint, np.ndarray] = {}
    for point in QUICK_GRID:
        loss = 100 * (1 + (point.alpha**2 - best**2) ** 2 + 4 * (point.beta - 1) ** 2)
        annealed[point] = loss
        for i, total in enumerate(loss):
            row = {"split": "calibration", "document": f"c{i:02d}", "window": 0, "rung": rung_of(point)}
            row |= {"draw": 3, "tokens": 100, "loss": total, "kl": 0.0, "top1": 0, "correct": 0}
            rows += [{**row, "draw": draw, "annealed": total if draw == 3 else np.nan} for draw in range(4)]
    clean = [
        {
            "split": "calibration",
            "document": f"c{i:02d}",
            "window": 0,
            "rung": "clean",
            "draw": 0,
            "tokens": 100,
            "loss": 90.0,
            "kl": 0.0,
            "top1": 100,
            "correct": 0,
        }
        for i in range(40)
    ]
    evaluation = synthetic_values(documents=8).assign(correct=0)
    table = pd.concat([evaluation, pd.DataFrame(rows), pd.DataFrame(clean)], ignore_index=True)
    table["kl_histogram"] = table["kl_histogram"].fillna("")
    found = Measurements(synthetic_record(table), table).read(parse_quantity("alpha", ""))
    fitted = fit_couplings(Grid(annealed, annealed, np.full(40, 90.0), tokens, 4), seed=0)
    # In α² the pooled loss is a parabola around the mean of the documents' own best.
    middle = np.sqrt(np.mean(best**2))
    assert found.value == fitted.alpha.value == pytest.approx(middle, abs=0.015)
    assert found.error == pytest.approx(stats.sem(best**2) / (2 * middle), rel=0.15)
    assert found.freedom == 39


def test_radial_kurtosis_is_beside_the_middle_of_its_null(values: pd.DataFrame) -> None:
    test = NullTest(value=0.05, null_low=-0.01, null_high=0.03)
    gaussianity = Gaussianity(
        rank=8,
        surrogates=60,
        radial_kurtosis=test,
        directions={"gradient": DirectionTests(directions=1, skewness=test, kurtosis=test, negentropy=test)},
        maximum_kurtosis=test,
        radial_gain=Number.null("no"),
        linear_gain=Number.null("no"),
        radii=RadiusHistogram(edges=(0.0, 1.0), counts=(1,)),
    )
    found = Measurements(synthetic_record(values, gaussianity=gaussianity), values).read(
        parse_quantity("radial kurtosis", "")
    )
    assert found.value == pytest.approx(0.04)
    assert found.error == pytest.approx(0.04 / (2 * stats.norm.ppf(0.975)))
    assert found.freedom == 30


def test_quantiles_of_sixty_values_tell_a_spread_no_worse_than_half_as_many_would() -> None:
    generator = np.random.default_rng(7)
    low, high = np.quantile(generator.normal(size=(4000, 60)), [0.025, 0.975], axis=1)
    spread = (high - low) / (2 * stats.norm.ppf(0.975))
    # A standard deviation of f degrees of freedom has the relative spread 1/√(2f).
    freedom = 1 / (2 * (spread.std() / spread.mean()) ** 2)
    assert 30 < freedom < 50


# ------------------------------------------------------------------------------------------- verdicts


def finding(
    value: float, *, text: str = "raw", expected: float = 1.0, allowance: float = 0.0, error: float = 0.1
) -> Finding:
    claim = Claim("one", parse_quantity(text, ""), expected, allowance)
    return Finding("c/1", 0, claim, Measured(value, error, 39))


def step_down(p: np.ndarray, level: float) -> list[bool]:
    """Holm as it is told: test the smallest p at level/m, the next at level/(m − 1), and so on."""
    rejected = [False] * len(p)
    for step, place in enumerate(np.argsort(p, kind="stable")):
        if p[place] > level / (len(p) - step):
            break
        rejected[place] = True
    return rejected


def test_holm_is_the_step_down_procedure() -> None:
    generator = np.random.default_rng(8)
    for size, level in itertools.product((1, 2, 5, 12), (0.01, 0.05, 0.3)):
        for _ in range(50):
            p = generator.uniform(size=size) ** 3
            p[0] = p[-1]  # ties
            assert list(holm(p) <= level) == step_down(p, level)


def test_holm_is_that_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(9).uniform(size=40) ** 4
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("arguments", "z"),
    [
        ({"value": 1.3}, 3.0),
        ({"value": 0.7}, -3.0),
        ({"value": 1.3, "allowance": 0.1}, 2.0),
        ({"value": 0.7, "allowance": 0.1}, -2.0),
        ({"value": 1.05, "allowance": 0.1}, 0.0),
        ({"value": 1.3, "text": "raw at least"}, 0.0),
        ({"value": 0.7, "text": "raw at least"}, -3.0),
        ({"value": 0.7, "text": "raw at least", "allowance": 0.2}, -1.0),
        ({"value": 0.7, "text": "raw at most"}, 0.0),
        ({"value": 1.3, "text": "raw at most"}, 3.0),
        ({"value": 1.0 + 5e-7, "error": 0.0}, 0.0),
        ({"value": 1.0 + 5e-7, "error": 1e-9}, 0.0),
        ({"value": 1.0 + 2e-6, "error": 0.0}, math.inf),
        ({"value": 1.0 - 2e-6, "error": 1e-9}, -math.inf),
        ({"value": 1.05, "error": 0.0, "allowance": 0.06}, 0.0),
        ({"value": 1.07, "error": 0.0, "allowance": 0.06}, math.inf),
        ({"value": 1.07, "error": 0.0, "text": "raw at least"}, 0.0),
    ],
)
def test_the_deviation_beyond_the_allowance_counts(arguments: dict[str, Any], z: float) -> None:
    (one,) = judge([finding(**arguments)])
    assert one.z == (z if math.isinf(z) else pytest.approx(z, abs=2e-5))
    sides = 1 if one.one_sided else 2
    assert one.p == pytest.approx(sides * stats.t.sf(abs(z), 39) if z else 1.0, rel=1e-3)
    assert one.passed is (one.p > 0.01)


def test_all_comparisons_share_one_level() -> None:
    alone = judge([finding(1.35)])[0]  # z = 3.5, p = .0012
    among = judge([finding(1.35), *[finding(1.0)] * 99])[0]
    assert (alone.passed, among.passed) == (False, True)
    assert among.p == pytest.approx(100 * alone.p, rel=1e-9)
    assert not judge([finding(1.8), *[finding(1.0)] * 99])[0].passed


def test_no_comparison_is_no_failure() -> None:
    assert judge([]) == ()


@pytest.mark.parametrize("documents", [10, 40])
def test_false_alarms_are_as_rare_as_said(documents: int) -> None:
    """At a level of 20 %, so that alarms can be counted."""
    generator = np.random.default_rng(documents)
    alarms, runs = 0, 400
    for _ in range(runs):
        table = generator.normal(3.0, 1.0, (30, documents))
        findings = [
            Finding(
                "c",
                0,
                Claim("one", parse_quantity("raw", ""), 3.0),
                Measured(float(row.mean()), ratio_error(row, np.ones(documents)), documents - 1),
            )
            for row in table
        ]
        alarms += any(not one.passed for one in judge(findings, level=0.2))
    # Holm of 30 independent true hypotheses: 1 − (1 − .2/30)^30 = .182.
    assert stats.binomtest(alarms, runs, 0.182).pvalue > 1e-3


# ---------------------------------------------------------------------------------------- power laws


def test_a_power_law_without_noise_is_found() -> None:
    x = np.array([16.0, 32.0, 64.0, 128.0])
    for sign in (1.0, -1.0):
        fit = fit_power_law(x, sign * 0.3 * x**-1.25, np.full(4, 1e-5))
        assert (fit.prefactor, fit.exponent) == pytest.approx((0.3, -1.25), rel=1e-4)


def test_the_fitted_exponent_is_unbiased_and_its_error_is_right() -> None:
    generator = np.random.default_rng(10)
    x = np.array([16.0, 32.0, 64.0, 128.0, 256.0, 512.0])
    errors = np.full(6, 0.0008)  # the last points are lost in it
    fits = [fit_power_law(x, 0.3 / x + generator.normal(size=6) * errors, errors) for _ in range(600)]
    exponents = np.array([fit.exponent for fit in fits])
    assert exponents.mean() == pytest.approx(-1, abs=4 * exponents.std() / math.sqrt(600) + 0.01)
    assert np.mean([fit.error for fit in fits]) == pytest.approx(exponents.std(), rel=0.12)


def test_the_fit_is_the_weighted_one_of_logarithms_where_noise_is_small() -> None:
    generator = np.random.default_rng(11)
    x = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    y = 2 * x**0.7 * (1 + 1e-3 * generator.normal(size=5))
    errors = 1e-3 * y * np.array([1, 2, 1, 3, 1])
    fit = fit_power_law(x, y, errors)
    design = np.stack([np.ones(5), np.log(x)], axis=1)
    weights = (y / errors) ** 2
    normal = design.T @ (weights[:, None] * design)
    exact = np.linalg.solve(normal, design.T @ (weights * np.log(y)))
    assert fit.exponent == pytest.approx(exact[1], abs=1e-5)
    assert fit.error == pytest.approx(math.sqrt(np.linalg.inv(normal)[1, 1]), rel=1e-2)


@pytest.mark.parametrize(
    ("exponent", "passed"), [(-1.0, True), (-0.85, True), (-0.75, False), (-1.25, False)]
)
def test_a_law_holds_within_its_tolerance(exponent: float, passed: bool) -> None:
    law = Law("inverse", "shape", "mean", {"c/1": 1.0, "c/2": 2.0, "c/4": 4.0}, exponent, 0.2)
    points = {
        task: [Measured(factor * 0.3 / x, 0.001, 39) for factor in (0.999, 1.001)]
        for task, x in law.tasks.items()
    }
    found = judge_law(law, points)
    assert found.passed is passed
    assert found.fit.exponent == pytest.approx(-1, abs=1e-3)
    assert found.z == pytest.approx((found.fit.exponent - exponent) / found.fit.error)


def test_a_law_needs_errors() -> None:
    law = Law("inverse", "shape", "mean", {"c/1": 1.0, "c/2": 2.0, "c/4": 4.0}, -1.0, 0.2)
    with pytest.raises(MeasurementError, match="law inverse: a point has no standard error"):
        judge_law(law, {task: [Measured(1.0, 0.0, 39)] for task in law.tasks})
