"""Intervals against a slow loop, the t interval, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from remainder.record.intervals import MINIMUM_DOCUMENTS, Bootstrap, Estimate, Ratio


def skewed(generator: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and tokens of documents whose means are lognormal; the expected pooled mean is exp(1/2)."""
    tokens = generator.integers(60, 127, documents).astype(float)
    return generator.lognormal(0.0, 1.0, documents) * tokens, tokens


def by_hand(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """A ratio of sums and its linearised standard error, document by document."""
    n = len(a)
    value = sum(a) / sum(b)
    squares = [((x - value * y) / (sum(b) / n)) ** 2 for x, y in zip(a, b, strict=True)]
    return value, math.sqrt(sum(squares) / (n * (n - 1)))


def loop_interval(bootstrap: Bootstrap, statistic, floor: float = 0.1) -> tuple[float, float]:
    """The studentised interval by an explicit loop; `statistic(indices)` gives a value and its error."""
    value, error = statistic(np.arange(bootstrap.documents))
    studentised = []
    for counts in bootstrap.weights:
        indices = np.repeat(np.arange(bootstrap.documents), counts.astype(int))
        resampled, resampled_error = statistic(indices)
        studentised.append((resampled - value) / max(resampled_error, floor * error))
    studentised.sort()
    k = math.floor((bootstrap.resamples + 1) * (1 - bootstrap.level) / 2)
    return value - studentised[-k] * error, value - studentised[k - 1] * error


def test_the_interval_equals_a_slow_loop() -> None:
    a, b = skewed(np.random.default_rng(0), 9)
    bootstrap = Bootstrap(9, seed=3, resamples=400)
    estimate = bootstrap.estimate(Ratio(a, b))
    low, high = loop_interval(bootstrap, lambda indices: by_hand(a[indices], b[indices]))
    assert estimate.value == pytest.approx(a.sum() / b.sum(), rel=1e-12)
    assert (estimate.low, estimate.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


def test_the_interval_of_a_difference_of_ratios_equals_a_slow_loop() -> None:
    generator = np.random.default_rng(1)
    (a, b), (c, d) = skewed(generator, 9), skewed(generator, 9)

    def statistic(indices: np.ndarray) -> tuple[float, float]:
        n, p, q, r, s = len(indices), a[indices], b[indices], c[indices], d[indices]
        first, second = p.sum() / q.sum(), r.sum() / s.sum()
        influence = (p - first * q) / q.mean() - (r - second * s) / s.mean()
        return first - second, math.sqrt((influence**2).sum() / (n * (n - 1)))

    bootstrap = Bootstrap(9, seed=3, resamples=400)
    estimate = bootstrap.difference(Ratio(a, b), Ratio(c, d))
    low, high = loop_interval(bootstrap, statistic)
    assert estimate.value == pytest.approx(statistic(np.arange(9))[0], rel=1e-12)
    assert (estimate.low, estimate.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))


def efficiency(means: np.ndarray) -> np.ndarray:
    """The log ratio of two KL per token, as `[reference, row, tokens]`."""
    return np.log(means[..., 0] / means[..., 2] + 1e-6) - np.log(means[..., 1] / means[..., 2] + 1e-6)


@pytest.mark.parametrize("numeric", [True, False])
def test_a_ratio_as_a_function_is_the_ratio(numeric: bool) -> None:
    a, b = skewed(np.random.default_rng(7), 12)
    bootstrap = Bootstrap(12, seed=3)
    gradient = None if numeric else lambda m: np.stack([1 / m[..., 1], -m[..., 0] / m[..., 1] ** 2], axis=-1)
    columns = np.stack([a, b], axis=1)
    found = bootstrap.of_function(columns, lambda m: m[..., 0] / m[..., 1], gradient=gradient)
    wanted = bootstrap.estimate(Ratio(a, b))
    for end in ("value", "low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(wanted, end), rel=1e-7 if numeric else 1e-12)


@pytest.mark.parametrize("scale", ["plain", "positive"])
def test_the_interval_of_a_function_equals_a_slow_loop(scale: str) -> None:
    """Standard errors by hand: each document's pull on either logarithm, one document after another."""
    generator = np.random.default_rng(11)
    (a, tokens), (c, _) = skewed(generator, 10), skewed(generator, 10)
    a = 20 * a
    power = 1 / 3 if scale == "positive" else 1

    def statistic(indices: np.ndarray) -> tuple[float, float]:
        n, p, q, t = len(indices), a[indices], c[indices], tokens[indices]
        first, second = p.sum() / t.sum(), q.sum() / t.sum()
        value = math.log(first + 1e-6) - math.log(second + 1e-6)
        pulls = (p - first * t) / t.mean() / (first + 1e-6) - (q - second * t) / t.mean() / (second + 1e-6)
        error = math.sqrt((pulls**2).sum() / (n * (n - 1)))
        return value**power, error * power * value ** (power - 1)

    bootstrap = Bootstrap(10, seed=3, resamples=400)
    found = bootstrap.of_function(np.stack([a, c, tokens], axis=1), efficiency, scale)
    low, high = loop_interval(bootstrap, statistic, 0.5 if scale == "positive" else 0.1)
    assert found.value**power == pytest.approx(statistic(np.arange(10))[0], rel=1e-12)
    assert (found.low, found.high) == (
        pytest.approx(low ** (1 / power), rel=1e-6),
        pytest.approx(high ** (1 / power), rel=1e-6),
    )


def test_the_interval_of_a_function_covers_what_it_should() -> None:
    """The log ratio of two lognormal means, paired; the truth is the difference of their logarithms."""
    generator = np.random.default_rng(12)
    covered, replications, documents = 0, 600, 32
    bootstrap = Bootstrap(documents, seed=1, resamples=1000)
    for _ in range(replications):
        shared = generator.normal(0, 0.6, documents)
        own = generator.normal(0, 0.5, (2, documents))
        kl = np.exp(shared + own) * np.array([[2.0], [1.0]])
        columns = np.column_stack([*kl, np.ones(documents)])
        found = bootstrap.of_function(columns, efficiency)
        covered += found.low <= math.log(2) <= found.high
    assert 0.92 <= covered / replications <= 0.98


def test_a_function_of_documents_that_are_all_alike_is_a_point() -> None:
    tokens = np.array([100.0, 120.0, 90.0, 80.0, 70.0, 110.0])
    columns = np.stack([0.3 * tokens, 0.1 * tokens, tokens], axis=1)
    found = Bootstrap(6, seed=0).of_function(columns, efficiency)
    assert found.low == found.value == found.high == pytest.approx(math.log(3), rel=1e-5)


def test_a_function_that_is_not_defined_has_no_value() -> None:
    found = Bootstrap(6, seed=0).of_function(np.zeros((6, 1)), lambda m: np.log(m[..., 0]))
    assert found == Estimate(None, None, None, "it is not defined at the means of these documents")
    with pytest.raises(ValueError, match=r"shape \(5, 1\), expected \(6, m\)"):
        Bootstrap(6, seed=0).of_function(np.zeros((5, 1)), lambda m: m[..., 0])
    with pytest.raises(ValueError, match="not finite"):
        Bootstrap(6, seed=0).of_function(np.full((6, 1), np.nan), lambda m: m[..., 0])


def test_large_normal_data_give_the_t_interval() -> None:
    a = np.random.default_rng(2).normal(3.0, 1.0, 400)
    estimate = Bootstrap(400, seed=0).estimate(Ratio(a, np.ones(400)))
    low, high = stats.t.interval(0.95, 399, loc=a.mean(), scale=a.std(ddof=1) / 20)
    width = high - low
    assert estimate.low == pytest.approx(low, abs=0.05 * width)
    assert estimate.high == pytest.approx(high, abs=0.05 * width)


@pytest.mark.parametrize(("documents", "least"), [(20, 0.90), (60, 0.92)])
def test_coverage_is_better_than_that_of_percentiles(documents: int, least: float) -> None:
    generator = np.random.default_rng(documents)
    bootstrap = Bootstrap(documents, seed=1)
    replications = 1000
    covered = by_percentiles = 0
    truth = math.exp(0.5)
    for _ in range(replications):
        a, b = skewed(generator, documents)
        estimate = bootstrap.estimate(Ratio(a, b))
        covered += estimate.low <= truth <= estimate.high
        low, high = np.quantile((bootstrap.weights @ a) / (bootstrap.weights @ b), [0.025, 0.975])
        by_percentiles += low <= truth <= high
    assert least <= covered / replications <= 0.97
    assert covered - by_percentiles >= 0.01 * replications


def test_intervals_shift_with_the_data_and_scale_with_them() -> None:
    a, b = skewed(np.random.default_rng(4), 12)
    bootstrap = Bootstrap(12, seed=0)
    plain, moved = bootstrap.estimate(Ratio(a, b)), bootstrap.estimate(Ratio(-2 * a + 5 * b, b))
    assert moved.low == pytest.approx(5 - 2 * plain.high)
    assert moved.high == pytest.approx(5 - 2 * plain.low)


def test_the_same_seed_gives_the_same_resamples() -> None:
    first, second, other = (Bootstrap(8, seed=seed).weights for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(first.sum(axis=1), np.full(2000, 8.0))


def test_the_resamples_of_a_seed_are_pinned() -> None:
    """Stored intervals must stay recomputable: a change of the stream is a change of every record."""
    assert Bootstrap(5, seed=0).weights[:2].tolist() == [[2, 1, 0, 1, 1], [0, 0, 1, 2, 2]]


def test_no_variance_gives_a_point() -> None:
    tokens = np.array([100.0, 120.0, 90.0, 80.0, 70.0, 110.0])
    estimate = Bootstrap(6, seed=0).estimate(Ratio(0.3 * tokens, tokens))
    assert estimate.value == pytest.approx(0.3, rel=1e-15)
    assert estimate.low == estimate.value == estimate.high
    assert Bootstrap(6, seed=0).estimate(Ratio(np.zeros(6), tokens)) == Estimate(0.0, 0.0, 0.0)


def test_too_few_documents_give_a_value_without_an_interval() -> None:
    few = MINIMUM_DOCUMENTS - 1
    estimate = Bootstrap(few, seed=0).estimate(Ratio(np.arange(1.0, few + 1), np.ones(few)))
    assert estimate.value == pytest.approx((few + 1) / 2)
    assert (estimate.low, estimate.high) == (None, None)
    assert "documents" in estimate.reason


def test_one_deviating_document_gives_no_interval() -> None:
    """A third of the resamples lack the only document that differs: their spread is zero."""
    a = np.zeros(30)
    a[3] = 1.0
    estimate = Bootstrap(30, seed=0).estimate(Ratio(a, np.ones(30)))
    assert estimate.value == pytest.approx(1 / 30)
    assert (estimate.low, estimate.high) == (None, None)
    assert estimate.reason == "all of the numerator is in 1 of 30 documents; an interval needs 4"


def test_few_documents_with_errors_give_a_share_wilsons_interval() -> None:
    """Against the formula for single trials: documents of one token are trials."""
    right = np.ones(30)
    right[[4, 17]] = 0
    found = Bootstrap(30, seed=0).estimate(Ratio(right, np.ones(30), "share"))
    # s² = p(1 − p)/(n − 1) here, so that the trials are n − 1; Student's t stands for the normal quantile.
    z, p, n = stats.t.ppf(0.975, 29), 28 / 30, 29
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found.low == pytest.approx((middle - half) / (1 + z * z / n), rel=1e-9)
    assert found.high == pytest.approx((middle + half) / (1 + z * z / n), rel=1e-9)
    assert found.high < 1


def test_a_mirrored_ratio_is_the_mirror_of_a_positive_one() -> None:
    a, b = skewed(np.random.default_rng(8), 20)
    a = 0.1 * a
    bootstrap = Bootstrap(20, seed=0)
    left, explained = (
        bootstrap.estimate(Ratio(a, b, "positive")),
        bootstrap.estimate(Ratio(b - a, b, "mirrored")),
    )
    assert explained.value == pytest.approx(1 - left.value)
    assert explained.low == pytest.approx(1 - left.high, abs=1e-9)
    assert explained.high == pytest.approx(1 - left.low, abs=1e-9)


documents_of = st.integers(4, 24).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=st.one_of(st.just(0.0), st.floats(1e-9, 1e6))),
        arrays(float, n, elements=st.floats(1.0, 1e4)),
    )
)


@settings(max_examples=150, deadline=None)
@given(documents_of)
def test_no_interval_is_impossible(found: tuple[np.ndarray, np.ndarray]) -> None:
    """Whatever documents there are: within the range of the quantity, the value inside, bounded upwards."""
    a, b = found
    bootstrap = Bootstrap(len(a), seed=0, resamples=400)
    share = np.minimum(np.floor(a), np.floor(b))
    for ratio, lowest, highest in (
        (Ratio(a, b, "positive"), 0.0, math.inf),
        (Ratio(b - a, b, "mirrored"), -math.inf, 1.0),
        (Ratio(share, np.floor(b), "share"), 0.0, 1.0),
        (Ratio(a - a.mean(), b), -math.inf, math.inf),
    ):
        estimate = bootstrap.estimate(ratio)
        assert estimate.value is not None
        if estimate.low is None or estimate.high is None:
            assert estimate.reason
            continue
        assert lowest <= estimate.low <= estimate.value + 1e-12 * abs(estimate.value)
        assert estimate.value - 1e-12 * abs(estimate.value) <= estimate.high <= highest + 1e-12
        if ratio.scale == "positive":
            assert estimate.high <= 27.001 * estimate.value


def test_a_ratio_needs_a_denominator_that_is_not_zero() -> None:
    generator = np.random.default_rng(5)
    bootstrap = Bootstrap(20, seed=0)
    above = generator.uniform(1.0, 2.0, 20)
    around = np.tile([-1.0, 1.1], 10)
    assert bootstrap.estimate(Ratio(around, above, guarded=True)).value == pytest.approx(
        around.sum() / above.sum()
    )
    refused = Estimate(None, None, None, "the denominator's interval includes 0")
    assert bootstrap.estimate(Ratio(above, around, guarded=True)) == refused
    assert bootstrap.estimate(Ratio(above, np.zeros(20), guarded=True)).reason == "the denominator is zero"
    guarded, sound = Ratio(above, around, guarded=True), Ratio(around, above)
    assert bootstrap.difference(guarded, sound) == refused
    assert bootstrap.difference(sound, guarded) == refused


def test_pairing_cancels_what_documents_share() -> None:
    generator = np.random.default_rng(6)
    tokens = np.full(40, 100.0)
    shared = generator.lognormal(0, 1, 40) * 100
    first, second = shared + generator.normal(0, 1, 40), shared + 5 + generator.normal(0, 1, 40)
    bootstrap = Bootstrap(40, seed=0)
    difference = bootstrap.difference(Ratio(second, tokens), Ratio(first, tokens))
    alone = bootstrap.estimate(Ratio(first, tokens))
    assert difference.excludes_zero()
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)


@pytest.mark.parametrize("bad", [np.ones(4), np.array([1.0, 2, 3, 4, np.nan, 6])])
def test_wrong_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"shape|finite"):
        Bootstrap(6, seed=0).estimate(Ratio(bad, np.ones(6)))
