"""Gaussianity: a Gaussian passes every diagnostic, and four departures are told apart by which ones fire.

Nulls are held against surrogates drawn row by row, statistics and densities against scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import special, stats

from remainder.measure import gaussianity as module
from remainder.measure.gaussianity import measure_gaussianity
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import Gaussianity, NullTest
from remainder.record.number import Number
from remainder.residual.calibration import Bank, Calibration
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, covariance_of, fit_covariance
from remainder.residual.linear import fit_linear
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys

Array = np.ndarray
Sampler = Callable[[np.random.Generator, int], "tuple[Array, Array]"]
"""Residuals and their reconstructions, each [rows, d]."""


@dataclass(frozen=True)
class Data:
    """A calibration, and an evaluation residual of the same law."""

    calibration: Calibration
    rows: torch.Tensor
    reconstructions: torch.Tensor
    documents: list[int]

    def measure(self, *, seed: int = 1, surrogates: int = 50, **directions: Array) -> Gaussianity:
        given = {name: torch.from_numpy(np.atleast_2d(u)) for name, u in directions.items()}
        return measure_gaussianity(
            self.calibration,
            self.rows,
            self.reconstructions,
            self.documents,
            given,
            seed=seed,
            surrogates=surrogates,
        )

    @property
    def covariance(self) -> DenseCovariance:
        found = covariance_of(self.calibration)
        assert isinstance(found, DenseCovariance)
        return found

    @property
    def squares(self) -> Array:
        """(r − μ)ᵀΣ̂⁻¹(r − μ) on evaluation, without any whitening."""
        return squares_of(self.covariance, self.rows)


def squares_of(covariance: DenseCovariance, rows: torch.Tensor) -> Array:
    centred = (rows - covariance.mean).numpy()
    return np.einsum("ni,ni->n", centred, np.linalg.solve(covariance.matrix.numpy(), centred.T).T)


def calibrated(residual: Array, reconstruction: Array, documents: int = 20) -> Calibration:
    """A calibration on windows of equal length, one a document."""
    width = residual.shape[1]
    r, x = (torch.from_numpy(part).reshape(documents, -1, width) for part in (residual, reconstruction))
    places = NoiseKeys(0, tuple(f"page-{i}" for i in range(documents)), (0,) * documents)
    calibration = Calibration.empty(width)
    calibration.update(places, x, r, torch.ones(r.shape[:2], dtype=torch.bool))
    return calibration


def data(
    sample: Sampler, *, calibration: int = 3000, evaluation: int = 2000, documents: int = 40, seed: int = 0
) -> Data:
    generator = np.random.default_rng(seed)
    known = calibrated(*sample(generator, calibration))
    r, x = sample(generator, evaluation)
    owners = [i * documents // evaluation for i in range(evaluation)]
    return Data(known, torch.from_numpy(r), torch.from_numpy(x), owners)


def mixing(width: int) -> Array:
    generator = np.random.default_rng(1000 + width)
    scales = np.geomspace(0.1, 10, width)
    return (generator.normal(size=(width, width)) / np.sqrt(width) + np.eye(width)) * scales


def sampler(width: int, first: Callable[[np.random.Generator, int], Array] | None = None) -> Sampler:
    """Mixed independent sources of variance 1: normal, but for the first if it is given; x̂ is independent."""

    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        z = generator.normal(size=(count, width))
        if first is not None:
            z[:, 0] = first(generator, count)
        return z @ mixing(width) + 0.5, generator.normal(size=(count, width))

    return sample


def unmixing(width: int, sources: int) -> Array:
    """Directions u with (r − μ)·u the first sources [sources, d]."""
    return np.linalg.inv(mixing(width)).T[:sources]


def fired(found: Gaussianity) -> set[str]:
    """Diagnostics that a Gaussian would rarely show."""
    tests = {"radial": found.radial_kurtosis, "maximum": found.maximum_kurtosis}
    for name, along in found.directions.items():
        for kind in ("skewness", "kurtosis", "negentropy"):
            tests[f"{name} {kind}"] = getattr(along, kind)
    gains = {"radial gain": found.radial_gain, "linear gain": found.linear_gain}
    return {name for name, test in tests.items() if not test.inside} | {
        name for name, gain in gains.items() if above_zero(gain)
    }


def above_zero(gain: Number) -> bool:
    assert gain.low is not None
    return gain.low > 0


# ------------------------------------------------------------------------------- what fires, and what not


@pytest.mark.slow
def test_a_gaussian_residual_passes_every_diagnostic() -> None:
    # Five tests at 5 %, two of them dependent, and two gains: one seed in five would fail by chance, and this
    # is one of the others. How often each diagnostic fires is counted in a slow test below.
    found = data(sampler(256), seed=1).measure(surrogates=60, gradient=unmixing(256, 16))
    assert fired(found) == set()
    assert found.rank == 256
    assert found.surrogates == 60
    assert found.directions["gradient"].directions == 16
    # The covariance is estimated: on evaluation, κ̂ of a Gaussian is above zero, which the null knows.
    assert found.radial_kurtosis.null_low > 0


def two_valued(generator: np.random.Generator, count: int) -> Array:
    return generator.choice([-1.0, 1.0], count)


def rare(generator: np.random.Generator, count: int) -> Array:
    """0 in four of five, else ±√5: excess kurtosis 2."""
    return math.sqrt(5) * generator.choice([-1.0, 0, 1.0], count, p=[0.1, 0.8, 0.1])


def skewed(generator: np.random.Generator, count: int) -> Array:
    """A Bernoulli variable of skewness √2 without excess kurtosis, pq = 1/6, blurred: skewness √2·0.8^1.5."""
    p = (1 - 1 / math.sqrt(3)) / 2
    bernoulli = (generator.random(count) < p) - p
    return math.sqrt(0.8 * 6) * bernoulli + math.sqrt(0.2) * generator.normal(size=count)


def test_a_scale_mixture_shows_in_the_radius_and_as_kurtosis_everywhere() -> None:
    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        rows, x = sampler(64)(generator, count)
        return np.sqrt(generator.choice([0.5, 1.5], count))[:, None] * (rows - 0.5), x

    found = data(sample).measure(gradient=unmixing(64, 8))
    assert {"radial", "radial gain"} <= fired(found)
    assert "linear gain" not in fired(found)
    # E s⁴/(E s²)² − 1 = 1.25 − 1; the standard error is about 0.006.
    assert found.radial_kurtosis.value == pytest.approx(0.25, abs=0.03)
    # Every projection has three times that, ± 0.2 for the largest of eight.
    assert found.directions["gradient"].kurtosis.value == pytest.approx(0.75, abs=0.5)
    assert "gradient kurtosis" in fired(found)


def test_skewness_along_a_direction() -> None:
    found = data(sampler(64, skewed)).measure(gradient=unmixing(64, 8), other=unmixing(64, 9)[1:])
    assert fired(found) == {"gradient skewness", "gradient negentropy"}
    assert found.directions["gradient"].skewness.value == pytest.approx(math.sqrt(2) * 0.8**1.5, abs=0.15)


def test_two_values_along_a_direction() -> None:
    found = data(sampler(64, two_valued)).measure(gradient=unmixing(64, 8), other=unmixing(64, 9)[1:])
    assert fired(found) == {"gradient kurtosis", "gradient negentropy"}
    # In size: the kurtosis itself is −2.
    assert found.directions["gradient"].kurtosis.value == pytest.approx(2, abs=0.01)


def test_heavy_tails_along_a_direction() -> None:
    found = data(sampler(64, rare)).measure(gradient=unmixing(64, 8), other=unmixing(64, 9)[1:])
    # The search for the largest kurtosis may come across it too.
    assert fired(found) - {"maximum"} == {"gradient kurtosis", "gradient negentropy"}
    assert found.directions["gradient"].kurtosis.value == pytest.approx(2, abs=0.3)


def test_coupling_to_the_reconstruction_shows_in_the_linear_gain_only() -> None:
    width = 64
    coupling = np.random.default_rng(5).normal(size=(width, width)) / np.sqrt(width) / 2

    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        x, noise = generator.normal(size=(2, count, width))
        return x @ coupling + noise, x

    found = data(sample, seed=2).measure(gradient=np.eye(width)[:8])
    assert fired(found) == {"linear gain"}
    # Entropy without less entropy with x̂; A and both covariances are estimated, at a cost of about d/2N each.
    expected = np.linalg.slogdet(coupling.T @ coupling + np.eye(width))[1] / 2 / width
    assert found.linear_gain.value == pytest.approx(expected, abs=2 * width / 2 / 3000)


@pytest.mark.slow
def test_a_discrete_direction_that_nobody_names_is_invisible() -> None:
    # κ̂ moves by κ₄/(d(d + 2)) = −2/(256·258) = −3e-5, with a standard error of √(8/2000)/256 = 2e-4.
    drawn = data(sampler(256, two_valued))
    found = drawn.measure(decoder=unmixing(256, 17)[1:])
    assert fired(found) == set()
    along = stats.kurtosis((drawn.rows.numpy() @ unmixing(256, 1).T)[:, 0])
    assert along == pytest.approx(-2, abs=0.01)


def test_the_search_finds_a_heavy_tail_that_nobody_names() -> None:
    drawn = data(sampler(16, rare))
    found = drawn.measure(other=unmixing(16, 9)[1:])
    assert fired(found) == {"maximum"}
    along = stats.kurtosis((drawn.rows.numpy() @ unmixing(16, 1).T)[:, 0])
    assert found.maximum_kurtosis.value == pytest.approx(along, abs=0.1)


def test_the_search_is_scored_on_rows_that_it_has_not_seen() -> None:
    drawn = data(sampler(64), calibration=500, evaluation=500)
    assert drawn.measure().maximum_kurtosis.inside
    seen = drawn.calibration.bank.rows().double()
    again = Data(drawn.calibration, seen, seen, drawn.documents)
    in_sample = again.measure().maximum_kurtosis
    assert in_sample.value > 3 * in_sample.null_high


@pytest.mark.slow
def test_false_alarms_are_as_frequent_as_they_should_be() -> None:
    repetitions = 100
    results = [
        data(sampler(6), calibration=100, evaluation=200, seed=seed).measure(seed=seed, gradient=np.eye(6))
        for seed in range(repetitions)
    ]
    alarms = [fired(found) for found in results]
    for name in ("radial", "maximum", "gradient skewness", "gradient kurtosis", "gradient negentropy"):
        # More than this with a probability of 1e-4 each.
        assert sum(name in alarm for alarm in alarms) <= stats.binom.isf(1e-4, repetitions, 0.05)
    for name in ("radial gain", "linear gain"):
        assert sum(name in alarm for alarm in alarms) <= stats.binom.isf(1e-4, repetitions, 0.025)


# ----------------------------------------------------------------------------------------------- nulls


def same_law(one: list[float], other: list[float]) -> bool:
    return bool(stats.ks_2samp(one, other).pvalue > 1e-3)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 30], ids=lambda count: f"{count} rows")
def test_surrogate_moments_have_the_law_of_moments_of_rows(count: int) -> None:
    width, repetitions = 5, 500
    generator = np.random.default_rng(count)
    root, mean = torch.from_numpy(mixing(width)), torch.arange(width, dtype=torch.float64)
    drawn, expected = [], []
    for index in range(repetitions):
        places = NoiseKeys(7, (f"surrogate {index}",), (0,))
        drawn.append(module._surrogate_moments(mean, root, count, places, "fold"))
        rows = torch.from_numpy(generator.normal(size=(count, width))) @ root + mean
        expected.append(Moments.of(rows))
    assert {part.count for part in (*drawn, *expected)} == {count}

    def compared(of: Callable[[Moments], float]) -> bool:
        return same_law([of(part) for part in drawn], [of(part) for part in expected])

    assert all(compared(lambda part, i=i: float(part.mean[i])) for i in range(width))
    assert compared(lambda part: float(part.mean @ part.mean))
    if count == 1:
        assert all(not part.scatter.any() for part in drawn)
        return
    assert compared(lambda part: float(part.scatter.trace()))
    assert compared(lambda part: float(part.scatter[0, 1]))
    assert compared(lambda part: float(torch.linalg.eigvalsh(part.scatter)[-1]))
    assert compared(lambda part: float(part.mean @ part.scatter @ part.mean))
    if count > width:
        assert compared(lambda part: float(torch.logdet(part.scatter)))
    else:
        assert {int(torch.linalg.matrix_rank(part.scatter)) for part in drawn} == {count - 1}


def test_no_rows_give_empty_moments() -> None:
    root = torch.eye(3, dtype=torch.float64)
    found = module._surrogate_moments(root[0], root, 0, NoiseKeys(0, ("surrogate",), (0,)), "fold")
    assert found.count == 0
    assert not found.scatter.any()


def test_nulls_are_those_of_rows_drawn_fitted_and_scored_one_by_one() -> None:
    width, rows, repetitions = 5, 30, 250
    drawn = data(sampler(width), calibration=40, evaluation=rows, documents=10)
    covariance, counts = drawn.covariance, [fold.count for fold in drawn.calibration.residual_folds]
    u = unmixing(width, 3)
    along = module._along(covariance, torch.from_numpy(u), covariance.whiten(drawn.rows))
    radials, (shapes,) = module._null(drawn.calibration, covariance, [along], rows, 1, repetitions)
    generator = np.random.default_rng(8)

    def gaussian(count: int) -> torch.Tensor:
        mean, matrix = covariance.mean.numpy(), covariance.matrix.numpy()
        return torch.from_numpy(generator.multivariate_normal(mean, matrix, count))

    radial, skewness, kurtosis, negentropy = [], [], [], []
    for _ in range(repetitions):
        refit, scored = fit_covariance([Moments.of(gaussian(count)) for count in counts]), gaussian(rows)
        squares = squares_of(refit, scored)
        radial.append(width / (width + 2) * np.mean(squares**2) / np.mean(squares) ** 2 - 1)
        skew, kurt = stats.skew(scored.numpy() @ u.T), stats.kurtosis(scored.numpy() @ u.T)
        skewness.append(np.abs(skew).max())
        kurtosis.append(np.abs(kurt).max())
        negentropy.append(np.mean(skew**2 / 12 + kurt**2 / 48))
    assert len(radials) == len(shapes) == repetitions
    assert same_law(radials.tolist(), radial)
    assert same_law([np.abs(shape.skewness).max() for shape in shapes], skewness)
    assert same_law([np.abs(shape.kurtosis).max() for shape in shapes], kurtosis)
    assert same_law([shape.negentropy for shape in shapes], negentropy)


def test_ends_of_a_null_leave_out_a_fortieth_or_a_twentieth_of_further_gaussians() -> None:
    # A further value falls below the k-th smallest of 79 with probability k/80.
    drawn = data(sampler(4), calibration=60, evaluation=50, documents=10)
    found = drawn.measure(surrogates=79, gradient=unmixing(4, 2))
    covariance = drawn.covariance
    along = module._along(covariance, torch.from_numpy(unmixing(4, 2)), covariance.whiten(drawn.rows))
    radials, (shapes,) = module._null(drawn.calibration, covariance, [along], 50, 1, 79)
    radial = np.sort(radials)
    assert found.radial_kurtosis.null_low == recorded(radial[1])
    assert found.radial_kurtosis.null_high == recorded(radial[-2])
    kurtosis = np.sort([np.abs(shape.kurtosis).max() for shape in shapes])
    assert found.directions["gradient"].kurtosis.null_low == 0
    assert found.directions["gradient"].kurtosis.null_high == recorded(kurtosis[75])
    assert found.maximum_kurtosis.null_low < 0 < found.maximum_kurtosis.null_high


# ------------------------------------------------------------------------------------------ statistics


@pytest.fixture(scope="module")
def small() -> Data:
    """Coupled, skewed, and of few rows, so that nothing is as it would be in the limit."""

    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        rows, x = sampler(6, skewed)(generator, count)
        return rows + x @ mixing(6)[:, ::-1] / 3, x

    return data(sample, calibration=100, evaluation=150, documents=12)


@pytest.fixture(scope="module")
def measured(small: Data) -> Gaussianity:
    return small.measure(gradient=unmixing(6, 4), decoder=np.eye(6)[:1])


def recorded(value: float) -> object:
    """As a record keeps it: six significant digits."""
    return pytest.approx(value, rel=1e-5)


def test_radial_kurtosis_by_its_formula(small: Data, measured: Gaussianity) -> None:
    squares = small.squares
    expected = 6 / 8 * np.mean(squares**2) / np.mean(squares) ** 2 - 1
    assert measured.radial_kurtosis.value == recorded(expected)


def test_shapes_along_directions_are_those_of_scipy(small: Data, measured: Gaussianity) -> None:
    for name, u in (("gradient", unmixing(6, 4)), ("decoder", np.eye(6)[:1])):
        along = small.rows.numpy() @ u.T
        skew, kurt = stats.skew(along), stats.kurtosis(along)
        found = measured.directions[name]
        assert found.directions == len(u)
        assert found.skewness.value == recorded(np.abs(skew).max())
        assert found.kurtosis.value == recorded(np.abs(kurt).max())
        assert found.negentropy.value == recorded(np.mean(skew**2 / 12 + kurt**2 / 48))


def test_lengths_of_directions_do_not_matter(small: Data, measured: Gaussianity) -> None:
    assert small.measure(gradient=1e-3 * unmixing(6, 4)).directions["gradient"].skewness.value == recorded(
        measured.directions["gradient"].skewness.value
    )


def assert_gain(found: Number, gains: Array, small: Data, seed: int = 1) -> None:
    """The pooled mean of these gains per dimension, and an interval over documents."""
    totals = np.array([gains[np.array(small.documents) == i].sum() for i in range(12)])
    counts = np.array([small.documents.count(i) for i in range(12)], dtype=float)
    expected = Bootstrap(12, seed=seed).estimate(Ratio(totals, 6 * counts))
    assert found.value == recorded(gains.mean() / 6)
    assert expected.low is not None
    assert expected.high is not None
    assert found.low == recorded(expected.low)
    assert found.high == recorded(expected.high)


def test_radial_gain_is_that_of_the_density_in_space(small: Data, measured: Gaussianity) -> None:
    covariance = small.covariance
    full = stats.multivariate_normal(covariance.mean.numpy(), covariance.matrix.numpy()).logpdf(small.rows)
    logs = np.log(squares_of(covariance, small.calibration.bank.rows().double())) / 2
    radius = np.sqrt(small.squares)
    # A kernel estimate with Scott's bandwidth; then from log R to R, spread over the sphere, and stretched.
    bandwidth = logs.std(ddof=1) * len(logs) ** (-1 / 5)
    of_log = stats.norm.pdf((np.log(radius)[:, None] - logs) / bandwidth).mean(1) / bandwidth
    sphere = math.log(2) + 3 * math.log(math.pi) - special.gammaln(3) + 5 * np.log(radius)
    stretch = np.linalg.slogdet(covariance.matrix.numpy())[1] / 2
    radial = np.log(of_log / radius) - sphere - stretch
    assert_gain(measured.radial_gain, radial - full, small)


def test_linear_gain_is_that_of_the_conditional_density(small: Data, measured: Gaussianity) -> None:
    covariance, coupling = small.covariance, fit_linear(small.calibration)
    full = stats.multivariate_normal(covariance.mean.numpy(), covariance.matrix.numpy()).logpdf(small.rows)
    unexplained = small.rows - coupling.predict(small.reconstructions)
    noise = fit_covariance(coupling.folds).matrix.numpy()
    linear = stats.multivariate_normal(np.zeros(6), noise).logpdf(unexplained)
    assert_gain(measured.linear_gain, linear - full, small)
    assert above_zero(measured.linear_gain)


def test_the_histogram_holds_every_row(small: Data, measured: Gaussianity) -> None:
    edges, counts = np.array(measured.radii.edges), np.array(measured.radii.counts)
    radius = np.sqrt(small.squares)
    assert len(edges) == 61
    assert counts.sum() == len(radius)
    np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / 60, rtol=1e-3)
    assert edges[0] <= min(radius.min(), stats.chi.ppf(0.001, 6))
    assert edges[-1] >= max(radius.max(), stats.chi.ppf(0.999, 6))
    np.testing.assert_array_equal(counts, np.histogram(radius, edges)[0])


def test_the_histogram_holds_the_first_and_the_last_row_however_edges_are_rounded() -> None:
    for seed in range(30):
        near, far = np.random.default_rng(seed).uniform([0, 10], [0.1, 1e4])
        counts = module._histogram(np.array([near, 2.5, 2.5, far]), 6).counts
        assert sum(counts) == 4
        assert counts[0] >= 1
        assert counts[-1] == 1


def test_a_number_inside_its_null() -> None:
    assert NullTest(value=1.0, null_low=0.0, null_high=1.0).inside
    assert not NullTest(value=1.1, null_low=0.0, null_high=1.0).inside


# ---------------------------------------------------------------------------------------- reproducible


def test_the_same_seed_gives_the_same_result(small: Data, measured: Gaussianity) -> None:
    with torch.inference_mode():
        again = small.measure(gradient=unmixing(6, 4), decoder=np.eye(6)[:1])
    assert again == measured


def test_torch_keeps_its_threads(small: Data) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        small.measure()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_another_seed_moves_the_null_and_no_value(small: Data, measured: Gaussianity) -> None:
    other = small.measure(seed=2, gradient=unmixing(6, 4))
    assert other.radial_kurtosis.value == measured.radial_kurtosis.value
    assert other.radial_kurtosis.null_high != measured.radial_kurtosis.null_high
    assert other.radial_gain.value == measured.radial_gain.value
    assert other.radial_gain.low != measured.radial_gain.low


# --------------------------------------------------------------------------------------------- corners


def flat(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
    """A residual in 10 of 16 dimensions."""
    z = generator.normal(size=(count, 10))
    return z @ np.random.default_rng(3).normal(size=(10, 16)) + 2, generator.normal(size=(count, 16))


def test_a_residual_in_a_subspace() -> None:
    drawn = data(flat, calibration=400, evaluation=300)
    basis = np.random.default_rng(3).normal(size=(10, 16))
    outside = np.linalg.svd(basis)[2][10:]
    found = drawn.measure(inside=basis[:2], mixed=np.concatenate([basis[:2], outside]), outside=outside)
    assert found.rank == 10
    assert fired(found) == set()
    assert found.directions.keys() == {"inside", "mixed"}
    assert found.directions["mixed"] == found.directions["inside"]


def test_more_dimensions_than_rows() -> None:
    found = data(sampler(64), calibration=40, evaluation=100).measure()
    assert found.rank == 64
    assert found.maximum_kurtosis.inside
    assert all(
        math.isfinite(end) for end in (found.radial_kurtosis.null_low, found.radial_kurtosis.null_high)
    )


def test_a_direction_that_does_not_vary_on_evaluation_is_left_out(small: Data) -> None:
    rows = small.rows.clone()
    rows[:, 0] = 1.0
    frozen = Data(small.calibration, rows, small.reconstructions, small.documents)
    found = frozen.measure(first=np.eye(6)[:1], both=np.eye(6)[:2])
    assert found.directions.keys() == {"both"}
    assert found.directions["both"].directions == 1


def test_one_dimension_of_two_values() -> None:
    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        return two_valued(generator, count)[:, None], generator.normal(size=(count, 1))

    found = data(sample, calibration=200, evaluation=200).measure(only=np.ones((1, 1)))
    assert {"radial", "maximum", "only kurtosis"} <= fired(found)
    # Nearly: its mean is not exactly zero.
    assert found.maximum_kurtosis.value == pytest.approx(-2, abs=0.05)
    # κ̂ = (1/3)·1 − 1.
    assert found.radial_kurtosis.value == pytest.approx(-2 / 3, abs=0.05)


def test_lengths_without_a_density_have_no_radial_gain() -> None:
    balanced = np.tile([[1.0], [-1.0]], (100, 1))
    x = np.random.default_rng(0).normal(size=(200, 1))
    drawn = Data(calibrated(balanced, x), torch.from_numpy(balanced), torch.from_numpy(x), [0] * 200)
    found = drawn.measure()
    assert found.radial_gain.value is None
    assert "one length" in str(found.radial_gain.reason)
    exact = np.concatenate([balanced[:-40], np.zeros((40, 1))])
    drawn = Data(calibrated(exact, x), torch.from_numpy(balanced), torch.from_numpy(x), [0] * 200)
    assert "equals the mean" in str(drawn.measure().radial_gain.reason)


def test_densities_of_unequal_dimensions_do_not_compare() -> None:
    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        x, noise = generator.normal(size=(2, count, 4))
        rows = x + 0.01 * noise
        # What x̂ leaves of it is less than the rounding of its mean.
        rows[:, 0] = 1000 + x[:, 0]
        return rows, x

    found = data(sample, calibration=200, evaluation=100).measure()
    assert found.linear_gain.value is None
    assert "3 dimensions, without it 4" in str(found.linear_gain.reason)
    assert found.radial_gain.value is not None


def test_few_documents_have_gains_without_intervals(small: Data) -> None:
    few = Data(small.calibration, small.rows, small.reconstructions, [i % 3 for i in range(150)])
    found = few.measure()
    assert found.radial_gain.value is not None
    assert found.radial_gain.low is None
    assert "3 documents" in str(found.radial_gain.reason)


@pytest.mark.parametrize("value", [0.0, 3.7])
def test_a_constant_residual_is_not_measurable(value: float) -> None:
    def sample(generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        return np.full((count, 4), value), generator.normal(size=(count, 4))

    with pytest.raises(NotMeasurableError, match="constant on calibration"):
        data(sample, calibration=100, evaluation=100).measure()


@pytest.mark.parametrize("where", ["mean", "elsewhere"])
def test_a_residual_that_is_constant_on_evaluation_is_not_measurable(small: Data, where: str) -> None:
    value = small.covariance.mean if where == "mean" else torch.ones(6, dtype=torch.float64)
    frozen = Data(small.calibration, value.expand(150, 6), small.reconstructions, small.documents)
    with pytest.raises(NotMeasurableError, match="constant on evaluation"):
        frozen.measure()


def test_too_many_dimensions_are_not_measurable(small: Data) -> None:
    large = Data(Calibration(6, (), Bank(10), tokens=100), small.rows, small.reconstructions, small.documents)
    with pytest.raises(NotMeasurableError, match="covariance as a matrix"):
        large.measure()


def test_too_few_rows_are_not_measurable(small: Data) -> None:
    few = Data(small.calibration, small.rows[:19], small.reconstructions[:19], small.documents[:19])
    with pytest.raises(NotMeasurableError, match="evaluation has 19"):
        few.measure()
    with pytest.raises(NotMeasurableError, match="calibration has 0"):
        Data(Calibration.empty(6), small.rows, small.reconstructions, small.documents).measure()


def test_too_few_surrogates_or_documents_are_refused(small: Data) -> None:
    with pytest.raises(ValueError, match="at least 50 surrogates, not 49"):
        small.measure(surrogates=49)
    with pytest.raises(ValueError, match="149 document numbers for 150 rows"):
        Data(small.calibration, small.rows, small.reconstructions, small.documents[1:]).measure()
