"""The shrunk covariance against scikit-learn, scipy, and likelihoods computed row by row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn.covariance import OAS

from remainder.residual import calibration as calibration_module
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import (
    DenseCovariance,
    MemoryFreeCovariance,
    NotMeasurableError,
    bank_covariance,
    covariance_of,
    fit_covariance,
    oas_intensity,
)
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw, NoiseKeys, normal
from remainder.residual.support import largest_eigenvalue


def rows_of(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated Gaussian rows of very unequal scales, with a mean."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) + 1.5 * np.eye(width)
    scales = np.geomspace(0.01, 100, width)
    return torch.from_numpy((generator.normal(size=(count, width)) @ mixing + 3.0) * scales)


def dealt(rows: torch.Tensor, parts: int = 3) -> list[torch.Tensor]:
    """Rows in unequal folds."""
    edges = (np.linspace(0, 1, parts + 1) ** 0.8 * len(rows)).astype(int)
    return [rows[a:b] for a, b in pairwise(edges)]


def fitted(parts: list[torch.Tensor], **options: bool) -> DenseCovariance:
    return fit_covariance([Moments.of(part) for part in parts], **options)


def standardised(rows: torch.Tensor) -> np.ndarray:
    return ((rows - rows.mean(0)) / rows.std(0)).numpy()


def coloured(covariance: DenseCovariance | MemoryFreeCovariance, windows: int, positions: int) -> np.ndarray:
    """Centred samples [windows·positions, d]."""
    places = NoiseKeys(3, tuple(f"page-{i}" for i in range(windows)), (0,) * windows)
    z = normal(places, Draw(0), positions, len(covariance.mean))
    return covariance.colour(z, places, Draw(0)).reshape(windows * positions, -1).numpy()


def assert_covariance(samples: np.ndarray, expected: np.ndarray) -> None:
    """Centred Gaussian samples have this covariance: Var of an entry = (Σᵢᵢ Σⱼⱼ + Σᵢⱼ²)/n."""
    variances, count = np.diag(expected), len(samples)
    error = np.sqrt((np.outer(variances, variances) + expected**2) / count)
    assert (np.abs(samples.T @ samples / count - expected) <= 5 * error + 1e-12 * variances.max()).all()
    assert (np.abs(samples.mean(0)) <= 5 * np.sqrt(variances / count) + 1e-12).all()


# ------------------------------------------------------------------------------------------- shrinkage


@pytest.mark.parametrize(("count", "width"), [(40, 8), (200, 8), (12, 20), (5000, 3)])
def test_oas_is_that_of_scikit_learn(count: int, width: int) -> None:
    rows = rows_of(count, width)
    expected = OAS().fit(standardised(rows)).shrinkage_
    assert fitted(dealt(rows)).oas == pytest.approx(expected, rel=1e-8)
    values = torch.from_numpy(np.linalg.eigvalsh(np.corrcoef(rows.numpy(), rowvar=False)))
    assert oas_intensity(float(values.square().sum()), float(values.sum()), width, count) == pytest.approx(
        expected, rel=1e-8
    )


def held_out_by_rows(parts: list[torch.Tensor], intensity: float) -> tuple[float, float]:
    """Log-likelihood and mean squared whitened length per dimension of each fold under the others."""
    everything = torch.cat(parts)
    scale = everything.std(0).numpy()
    likelihood, squares = 0.0, []
    for index, part in enumerate(parts):
        others = torch.cat([rows for other, rows in enumerate(parts) if other != index]).numpy() / scale
        shrunk = (1 - intensity) * np.cov(others, rowvar=False) + intensity * np.eye(len(scale))
        mean, mine = others.mean(0), part.numpy() / scale
        likelihood += stats.multivariate_normal(mean, shrunk).logpdf(mine).sum()
        squares.append(np.einsum("ni,ij,nj->n", mine - mean, np.linalg.inv(shrunk), mine - mean))
    return likelihood, float(np.concatenate(squares).mean() / len(scale))


@pytest.mark.parametrize(("count", "width"), [(25, 12), (60, 6), (400, 4)])
def test_the_intensity_maximises_the_likelihood_of_rows_left_out(count: int, width: int) -> None:
    parts = dealt(rows_of(count, width, seed=count))
    covariance = fitted(parts)
    best, mahalanobis = held_out_by_rows(parts, covariance.intensity)
    grid = np.geomspace(1e-6, 1, 400)
    likelihoods = [held_out_by_rows(parts, intensity)[0] for intensity in grid]
    assert best >= max(likelihoods) - 1e-9 * abs(best)
    assert abs(np.log(covariance.intensity / grid[int(np.argmax(likelihoods))])) < 2 * np.log(
        grid[1] / grid[0]
    )
    assert covariance.held_out == pytest.approx(mahalanobis, rel=1e-8)
    # And it is what the correlation of all rows is shrunk by.
    rows = torch.cat(parts)
    scale = rows.std(0).numpy()
    correlation = np.corrcoef(rows.numpy(), rowvar=False)
    expected = (1 - covariance.intensity) * correlation + covariance.intensity * np.eye(width)
    np.testing.assert_allclose(covariance.matrix.numpy() / np.outer(scale, scale), expected, atol=1e-9)
    np.testing.assert_allclose(covariance.variances, scale**2, rtol=1e-9)
    np.testing.assert_allclose(covariance.mean, rows.mean(0), rtol=1e-12)


def test_shrinkage_depends_on_documents_and_not_on_rows() -> None:
    # Every row thrice: held-out likelihood knows better than OAS, which takes copies for new data.
    parts = dealt(rows_of(30, 10, seed=1))
    once, thrice = fitted(parts), fitted([part.repeat(3, 1) for part in parts])
    assert thrice.oas is not None
    assert once.oas is not None
    assert thrice.oas < 0.5 * once.oas
    assert thrice.intensity == pytest.approx(once.intensity, rel=0.1)


def test_shrinkage_fades_with_rows_and_held_out_length_is_one() -> None:
    few, many = fitted(dealt(rows_of(30, 8))), fitted(dealt(rows_of(30_000, 8)))
    assert many.intensity < 0.001 < 0.01 < few.intensity
    # Var of a mean of χ²(d)/d over n rows is 2/(nd).
    assert many.held_out == pytest.approx(1, abs=5 * np.sqrt(2 / (30_000 * 8)) + 8 / 20_000)


def test_without_shrinkage_held_out_rows_look_too_long_by_the_known_factor() -> None:
    count, width, repetitions = 60, 10, 300
    lengths = [
        float(
            fitted([rows_of(count, width, seed)], shrink=False)
            .whiten(rows_of(200, width, 10_000 + seed))
            .square()
            .mean()
        )
        for seed in range(repetitions)
    ]
    error = float(np.std(lengths)) / np.sqrt(repetitions)
    # Inverse Wishart, and the mean is estimated as well.
    expected = (count - 1) / (count - width - 2) * (1 + 1 / count)
    assert error < 0.01
    assert np.mean(lengths) == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize(("count", "warned"), [(39, True), (40, False)])
def test_fewer_than_five_rows_a_dimension_warn(count: int, warned: bool) -> None:
    covariance = fitted(dealt(rows_of(count, 8)))
    assert any("fewer than 5 a dimension" in warning for warning in covariance.warnings) is warned
    assert any(f"fitted to {count} tokens" in warning for warning in covariance.warnings) is warned


def test_fewer_rows_than_dimensions_need_shrinkage_and_get_it() -> None:
    rows = rows_of(12, 30)
    covariance = fitted(dealt(rows))
    assert 0.01 < covariance.intensity <= 1
    assert covariance.rank == 30
    assert float(covariance.values.min()) > 0
    assert torch.isfinite(covariance.log_density(rows_of(5, 30, seed=1))).all()
    assert not any("lies in" in warning for warning in covariance.warnings)  # the rows show no subspace
    bare = fitted([rows], shrink=False)
    assert (bare.rank, bare.intensity, bare.oas, bare.held_out) == (11, 0.0, None, None)
    sample = np.cov(rows.numpy(), rowvar=False)
    np.testing.assert_allclose(bare.matrix, sample, atol=1e-9 * sample.max())


@pytest.mark.parametrize("dimensions", [1, 3, 9])
def test_a_residual_in_a_subspace_stays_there(dimensions: int) -> None:
    """As that of a projection does, in the float32 values of a network."""
    width = 10
    basis = linalg.orth(np.random.default_rng(5).normal(size=(width, dimensions)))
    raw = rows_of(400, width).numpy() / np.geomspace(0.01, 100, width) @ basis @ basis.T
    covariance = fitted(dealt(torch.from_numpy(raw).float()))
    assert covariance.rank == dimensions
    assert any("lies in a subspace" in w for w in covariance.warnings)
    samples = coloured(covariance, 20, 100)
    assert np.abs(samples @ (np.eye(width) - basis @ basis.T)).max() < 1e-6
    assert_covariance(samples, covariance.matrix.numpy())
    whitened = covariance.whiten(torch.from_numpy(samples) + covariance.mean).numpy()
    assert whitened.shape[1] == dimensions
    assert_covariance(whitened, np.eye(dimensions))
    # Shrinkage keeps the total power.
    scale = raw.std(0, ddof=1)
    power = np.trace(covariance.matrix.numpy() / np.outer(scale, scale))
    assert power == pytest.approx(width, rel=1e-4)


def test_constant_coordinates_get_no_noise() -> None:
    rows = rows_of(200, 6)
    rows[:, 1], rows[:, 4] = 0.1, -1e4 / 3
    covariance = fitted(dealt(rows))
    assert any("constant in 2 of 6 coordinates" in warning for warning in covariance.warnings)
    samples = coloured(covariance, 5, 100)
    assert np.abs(samples[:, [1, 4]]).max() < 1e-12
    assert covariance.rank == 4
    alone = fitted(dealt(rows[:, [0, 2, 3, 5]]))
    assert covariance.intensity == pytest.approx(alone.intensity, rel=1e-5)
    assert covariance.oas == pytest.approx(alone.oas, rel=1e-9)
    assert covariance.held_out == pytest.approx(alone.held_out, rel=1e-6)
    varying = np.ix_([0, 2, 3, 5], [0, 2, 3, 5])
    np.testing.assert_allclose(covariance.matrix.numpy()[varying], alone.matrix, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e4 / 3])
@pytest.mark.parametrize("count", [2, 100, 999])
def test_a_constant_residual_has_no_noise(value: float, count: int) -> None:
    rows = torch.full((count, 4), value, dtype=torch.float64)
    rows[:, 1] *= 3.3  # whose mean, computed, is off by a rounding
    covariance = fitted(dealt(rows))
    assert covariance.rank == 0
    assert covariance.warnings == ("the residual is constant on calibration: Gaussian rungs add no noise",)
    assert np.abs(coloured(covariance, 2, 3)).max() == 0
    torch.testing.assert_close(covariance.mean, rows[0], rtol=1e-14, atol=0)


def test_one_document_falls_back_to_oas() -> None:
    rows = rows_of(50, 6)
    empty = Moments.empty(6)
    covariance = fit_covariance([empty, Moments.of(rows), empty])
    assert covariance.intensity == covariance.oas == pytest.approx(OAS().fit(standardised(rows)).shrinkage_)
    assert covariance.held_out is None
    assert any("not from held-out likelihood but OAS" in warning for warning in covariance.warnings)
    assert not any("OAS" in warning for warning in fitted(dealt(rows)).warnings)


def test_a_dominant_direction_is_flagged() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 6)))
    assert not fitted(dealt(rows)).warnings
    rows[:, 2] *= 4
    expected = np.linalg.eigvalsh(np.cov(rows.numpy(), rowvar=False))
    share = expected[-1] / expected.sum()
    assert share > 0.5
    assert fitted(dealt(rows)).warnings == (f"one direction holds {share:.0%} of the residual's variance",)


def test_too_few_rows_are_not_measurable() -> None:
    with pytest.raises(NotMeasurableError, match="at least 2 rows, 1"):
        fitted([rows_of(1, 3)])


# ------------------------------------------------------------------------------ sampling and whitening


def test_root_samples_and_density_agree_with_linear_algebra() -> None:
    rows = rows_of(90, 5)
    covariance = fitted(dealt(rows))
    matrix = covariance.matrix.numpy()
    torch.testing.assert_close(covariance.root, covariance.root.T)
    np.testing.assert_allclose(covariance.root, linalg.sqrtm(matrix), rtol=1e-6, atol=1e-9 * matrix.max())
    assert_covariance(coloured(covariance, 200, 100), matrix)
    fresh = rows_of(40, 5, seed=1)
    expected = stats.multivariate_normal(covariance.mean.numpy(), matrix).logpdf(fresh.numpy())
    np.testing.assert_allclose(covariance.log_density(fresh), expected, rtol=1e-8)
    # Whitened by Σ̂ itself: what Σ̂ colours is white again, length for length.
    samples = torch.from_numpy(coloured(covariance, 4, 10)) + covariance.mean
    places = NoiseKeys(3, tuple(f"page-{i}" for i in range(4)), (0,) * 4)
    z = normal(places, Draw(0), 10, 5).reshape(-1, 5)
    torch.testing.assert_close(covariance.whiten(samples).norm(dim=-1), z.norm(dim=-1))


def test_whitening_without_shrinkage_gives_the_identity() -> None:
    rows = rows_of(90, 5)
    covariance = fitted([rows], shrink=False)
    whitened = covariance.whiten(rows)
    # Rounding of the matrix is magnified by its condition number, and processors round in different orders.
    rounding = 4 * np.finfo(np.float64).eps * np.linalg.cond(covariance.matrix.numpy())
    assert rounding < 1e-6
    np.testing.assert_allclose(np.cov(whitened.numpy(), rowvar=False), np.eye(5), atol=max(rounding, 1e-9))
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-9)


def test_density_on_a_subspace_is_that_of_scipy() -> None:
    basis = linalg.orth(np.random.default_rng(5).normal(size=(6, 2)))
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(80, 2)) @ np.diag([1, 2]) @ basis.T)
    covariance = fitted(dealt(rows))
    expected = stats.multivariate_normal(
        covariance.mean.numpy(), covariance.matrix.numpy(), allow_singular=True
    ).logpdf(rows.numpy())
    np.testing.assert_allclose(covariance.log_density(rows), expected, rtol=1e-6)


# ----------------------------------------------------------------------------- through a calibration


def calibrated(rows: torch.Tensor, documents: int, capacity: int = 65536) -> Calibration:
    calibration = Calibration.empty(rows.shape[-1], capacity)
    windows = rows.reshape(documents, -1, rows.shape[-1])
    places = NoiseKeys(3, tuple(f"c-{i}" for i in range(documents)), (0,) * documents)
    calibration.update(places, torch.zeros_like(windows), windows, torch.ones(windows.shape[:2]).bool())
    return calibration


def test_a_calibration_is_fitted_once_by_folds_of_its_documents() -> None:
    calibration = calibrated(rows_of(120, 4), 12)
    covariance = covariance_of(calibration)
    assert covariance is covariance_of(calibration)
    assert covariance.intensity == fit_covariance(calibration.residual_folds).intensity


def test_the_banks_covariance_is_that_of_its_rows_divided_by_their_number() -> None:
    calibration = calibrated(rows_of(120, 4), 12, capacity=60)
    covariance = bank_covariance(calibration)
    rows = calibration.bank.rows().double().numpy()
    assert len(rows) == 60
    assert isinstance(covariance, DenseCovariance)
    np.testing.assert_allclose(covariance.mean, rows.mean(0), rtol=1e-12)
    expected = np.cov(rows, rowvar=False, ddof=0)
    np.testing.assert_allclose(covariance.matrix, expected, rtol=1e-8, atol=1e-12)
    assert (covariance.intensity, covariance.oas, covariance.held_out) == (0.0, None, None)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five dimensions count as many."""
    monkeypatch.setattr(calibration_module, "LARGE", 5)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("count", [40, 6])
def test_memory_free_samples_have_the_shrunk_covariance(count: int) -> None:
    rows = (rows_of(count, 8) / torch.from_numpy(np.geomspace(0.1, 10, 8))).float()
    covariance = covariance_of(calibrated(rows, 2))
    assert isinstance(covariance, MemoryFreeCovariance)
    intensity = OAS().fit(standardised(rows.double())).shrinkage_
    assert covariance.intensity == covariance.oas == pytest.approx(intensity, rel=1e-4)
    assert 0.01 < intensity < 1
    sample = np.cov(rows.double().numpy(), rowvar=False)
    np.testing.assert_allclose(covariance.variances, np.diag(sample), rtol=1e-6)
    np.testing.assert_allclose(covariance.mean, rows.double().mean(0), rtol=1e-6)
    assert covariance.rank == min(count - 1, 8)
    assert any(f"fitted to {count} tokens" in w for w in covariance.warnings) is (count < 40)
    shrunk = (1 - intensity) * sample + intensity * np.diag(np.diag(sample))
    assert_covariance(coloured(covariance, 300, 100), shrunk)


@pytest.mark.usefixtures("large")
def test_memory_free_samples_are_antithetic_and_keyed() -> None:
    covariance = covariance_of(calibrated(rows_of(40, 8).float(), 2))
    places = NoiseKeys(3, ("a", "b", "c"), (0, 1, 0))
    first, second = (covariance.colour(normal(places, Draw(i), 4, 8), places, Draw(i)) for i in (4, 5))
    assert torch.equal(first, -second)
    part = NoiseKeys(3, ("c", "a"), (0, 0))
    alone = covariance.colour(normal(part, Draw(4), 4, 8), part, Draw(4))
    torch.testing.assert_close(alone, first[[2, 0]])


@pytest.mark.usefixtures("large")
def test_memory_free_bank_covariance_is_divided_by_the_number_of_rows() -> None:
    rows = (rows_of(12, 8) / torch.from_numpy(np.geomspace(0.1, 10, 8))).float()
    covariance = bank_covariance(calibrated(rows, 2))
    assert covariance.intensity == 0.0
    samples = coloured(covariance, 300, 100)
    # Divided by 11 instead of 12 it would be off by 9 %; a standard error here is 0.8 %.
    assert_covariance(samples, np.cov(rows.double().numpy(), rowvar=False, ddof=0))


@pytest.mark.usefixtures("large")
def test_memory_free_edge_cases() -> None:
    constant = covariance_of(calibrated(torch.full((20, 6), 0.1), 2))
    assert constant.warnings == ("the residual is constant on calibration: Gaussian rungs add no noise",)
    assert isinstance(constant, MemoryFreeCovariance)
    assert np.abs(coloured(constant, 2, 3)).max() < 1e-6
    some = rows_of(20, 6).float()
    some[:, 2] = 0.1
    covariance = covariance_of(calibrated(some, 2))
    assert isinstance(covariance, MemoryFreeCovariance)
    alone = standardised(some.double()[:, [0, 1, 3, 4, 5]])
    assert covariance.oas == pytest.approx(OAS().fit(alone).shrinkage_, rel=1e-4)
    with pytest.raises(NotMeasurableError, match="at least 2 rows, 1"):
        covariance_of(calibrated(torch.ones(1, 6), 1))


@pytest.mark.parametrize("width", [5, 200])
def test_the_largest_eigenvalue_is_found_alone(width: int) -> None:
    rows = torch.randn(3 * width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for scale in (1.0, 1e-30, 1e20):
        matrix = scale * rows.T @ rows
        assert largest_eigenvalue(matrix) == pytest.approx(
            float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-10
        )
    assert largest_eigenvalue(torch.zeros(width, width, dtype=torch.float64)) == 0


@pytest.mark.parametrize("smallest", [1e-6, 1e-8])
def test_a_rank_is_told_without_eigenvalues_as_with_them(smallest: float) -> None:
    """One direction lies well above, or well below, what counts as rounding."""
    rows = torch.randn(4000, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows[:, 0] = rows[:, 1] + smallest**0.5 * rows[:, 0]
    moments = [Moments.of(part) for part in rows.split(1000)]
    found = fit_covariance(moments, shrink=False)
    assert found.rank == (70 if smallest == 1e-6 else 69)
    if smallest == 1e-6:
        torch.testing.assert_close(found.matrix, Moments.of(rows).covariance, rtol=1e-9, atol=1e-9)
