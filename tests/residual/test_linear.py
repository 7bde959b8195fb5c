"""What x̂ tells linearly, from moments alone, against scikit-learn on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from remainder.errors import MeasurementError
from remainder.record.rungs import FOLDS
from remainder.residual import calibration as calibration_module
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import covariance_of, fit_covariance
from remainder.residual.linear import LinearCoupling, fit_linear
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys, folds

RIDGES = 10.0 ** np.linspace(-6, 3, 37)
"""In units of the correlation of x̂, as the package tries them."""


class Data:
    """Windows of (x̂, r), which document each row is of, and the calibration on them."""

    def __init__(self, x: np.ndarray, r: np.ndarray, documents: int) -> None:
        self.x, self.r = x, r
        places = NoiseKeys(3, tuple(f"c-{i}" for i in range(documents)), (0,) * documents)
        windows = [torch.from_numpy(part).reshape(documents, -1, part.shape[1]) for part in (x, r)]
        self.calibration = Calibration.empty(x.shape[1])
        self.calibration.update(places, *windows, torch.ones(windows[0].shape[:2]).bool())
        self.fold = np.repeat(folds(places, FOLDS), len(x) // documents)


def coupled(
    count: int, width: int = 5, strength: float = 1.0, seed: int = 0, documents: int = 20
) -> tuple[Data, np.ndarray]:
    """r = B x̂ + noise, x̂ correlated and of unequal scales; and B."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, width)) @ generator.normal(size=(width, width))
    x = (x + 2) * np.geomspace(0.1, 10, width)
    matrix = strength * generator.normal(size=(width, width)) / np.geomspace(0.1, 10, width)
    r = x @ matrix.T + generator.normal(size=(count, width)) * np.arange(1, width + 1) + 7
    return Data(x, r, documents), matrix


def ridge_on_rows(x: np.ndarray, r: np.ndarray, scale: np.ndarray, ridge: float) -> Ridge:
    return Ridge(alpha=ridge * len(x), solver="svd").fit(x / scale, r)


def errors_on_rows(data: Data) -> np.ndarray:
    """Squared error on the documents left out for each ridge, and last without A, row by row."""
    scale = data.x.std(0)
    errors = np.zeros(len(RIDGES) + 1)
    for fold in range(FOLDS):
        mine = data.fold == fold
        for place, ridge in enumerate(RIDGES):
            model = ridge_on_rows(data.x[~mine], data.r[~mine], scale, ridge)
            errors[place] += np.square(data.r[mine] - model.predict(data.x[mine] / scale)).sum()
        errors[-1] += np.square(data.r[mine] - data.r[~mine].mean(0)).sum()
    return errors


@pytest.mark.parametrize(
    ("count", "strength", "seed"),
    [(60, 1.0, 0), (60, 0.3, 1), (100, 0.1, 2), (100, 0.05, 3), (60, 0.0, 0), (40, 1.0, 5), (5000, 1.0, 6)],
)
def test_ridge_and_its_strength_are_those_of_the_rows(count: int, strength: float, seed: int) -> None:
    data, _ = coupled(count, strength=strength, seed=seed)
    coupling = fit_linear(data.calibration)
    errors = errors_on_rows(data)
    best = int(errors.argmin())
    scale = data.x.std(0)
    if best == len(RIDGES):
        assert coupling.ridge is None
        assert not coupling.matrix.any()
        expected = np.broadcast_to(data.r.mean(0), data.r.shape)
    else:
        assert coupling.ridge == pytest.approx(RIDGES[best], rel=1e-12)
        model = ridge_on_rows(data.x, data.r, scale, RIDGES[best])
        np.testing.assert_allclose(coupling.matrix, model.coef_ / scale, rtol=1e-6, atol=1e-9)
        expected = model.predict(data.x / scale)
    predicted = coupling.predict(torch.from_numpy(data.x))
    assert predicted.dtype == torch.float64
    np.testing.assert_allclose(predicted, expected, rtol=1e-7, atol=1e-7)


def test_the_cases_above_hold_weak_strong_and_no_ridges() -> None:
    chosen = [
        fit_linear(coupled(count, strength=strength, seed=seed)[0].calibration).ridge
        for count, strength, seed in [(60, 0.3, 1), (60, 0.0, 0), (5000, 1.0, 6)]
    ]
    assert len(set(chosen)) == 3


def test_many_rows_recover_the_coupling() -> None:
    data, matrix = coupled(40_000)
    coupling = fit_linear(data.calibration)
    # The standard error of least squares: noise variance times the inverse scatter of x̂.
    centred = data.x - data.x.mean(0)
    spread = np.linalg.inv(centred.T @ centred).diagonal()
    error = np.arange(1, 6)[:, None] * np.sqrt(spread)
    assert (np.abs(coupling.matrix.numpy() - matrix) < 5 * error).all()
    assert (error < 0.2 * np.abs(matrix).max(0)).all()
    # What it leaves is the noise.
    left = fit_covariance(coupling.folds).matrix.numpy()
    variances = np.arange(1, 6) ** 2.0
    assert (
        np.abs(left - np.diag(variances)) < 5 * np.sqrt(2 / 40_000) * np.outer(variances, variances) ** 0.5
    ).all()


@pytest.mark.parametrize("seed", range(5))
def test_without_coupling_predictions_are_nought_or_tiny(seed: int) -> None:
    data, _ = coupled(2000, strength=0.0, seed=seed)
    coupling = fit_linear(data.calibration)
    told = (coupling.predict(torch.from_numpy(data.x)).numpy() - data.r.mean(0)).var(0)
    least_squares = LinearRegression().fit(data.x, data.r).predict(data.x).var(0)
    assert told.sum() < least_squares.sum()  # 5/2000 of the variance of r
    assert told.sum() < 0.0025 * data.r.var(0).sum()


def test_some_of_these_choose_no_coupling_at_all() -> None:
    assert None in {
        fit_linear(coupled(2000, strength=0.0, seed=seed)[0].calibration).ridge for seed in range(5)
    }


@pytest.mark.parametrize("dimensions", [1, 3])
def test_reconstructions_in_a_subspace(dimensions: int) -> None:
    """As those of a projection; r is told by them in part, and outside of it nothing is learnt."""
    generator = np.random.default_rng(1)
    basis = np.linalg.qr(generator.normal(size=(6, dimensions)))[0]
    x = (generator.normal(size=(3000, dimensions)) @ basis.T).astype(np.float32)
    r = x @ generator.normal(size=(6, 6)) + 0.1 * generator.normal(size=(3000, 6))
    data = Data(x, r.astype(np.float32), 30)
    coupling = fit_linear(data.calibration)
    expected = LinearRegression().fit(x @ basis, r).predict(x @ basis)
    np.testing.assert_allclose(coupling.predict(torch.from_numpy(x)), expected, atol=1e-3)
    # A ridge on scaled coordinates learns only along the span of (x̂ over its squared scale).
    learnt = np.linalg.qr(basis / x.std(0)[:, None] ** 2)[0]
    outside = coupling.matrix.numpy() @ (np.eye(6) - learnt @ learnt.T)
    assert np.abs(outside).max() < 0.02 * np.abs(coupling.matrix.numpy()).max()


def test_constant_reconstructions_tell_nothing() -> None:
    r = np.random.default_rng(0).normal(size=(300, 4))
    for x in (np.zeros((300, 4)), np.full((300, 4), 0.1)):
        coupling = fit_linear(Data(x, r, 30).calibration)
        predicted = coupling.predict(torch.from_numpy(x))
        np.testing.assert_allclose(predicted, np.broadcast_to(r.mean(0), r.shape), atol=1e-12)


def row_by_row(data: Data, coupling: LinearCoupling) -> list[np.ndarray]:
    """r − A(x̂ − m) of each fold, which has the mean of r."""
    told = (data.x - data.x.mean(0)) @ coupling.matrix.numpy().T
    return [(data.r - told)[data.fold == fold] for fold in range(FOLDS)]


@pytest.mark.parametrize("count", [60, 4000])
def test_what_is_left_has_the_moments_of_the_rows(count: int) -> None:
    data, _ = coupled(count, seed=3)
    coupling = fit_linear(data.calibration)
    assert coupling.ridge is not None
    parts = row_by_row(data, coupling)
    for fold, rows in zip(coupling.folds, parts, strict=True):
        assert fold.count == len(rows)
        np.testing.assert_allclose(fold.mean, rows.mean(0), rtol=1e-8)
        np.testing.assert_allclose(fold.covariance, np.cov(rows, rowvar=False), rtol=1e-7, atol=1e-7)
    expected = fit_covariance([Moments.of(torch.from_numpy(rows)) for rows in parts])
    found = fit_covariance(coupling.folds)
    assert found.intensity == pytest.approx(expected.intensity, rel=1e-4)
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.mean, data.calibration.mean)


def test_of_uncoupled_data_everything_is_left() -> None:
    data, _ = coupled(60, strength=0.0, seed=0)
    coupling = fit_linear(data.calibration)
    assert coupling.ridge is None
    torch.testing.assert_close(
        fit_covariance(coupling.folds).matrix, fit_covariance(data.calibration.residual_folds).matrix
    )


def test_a_residual_told_entirely_leaves_nothing() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(500, 3))
    data = Data(x, x @ np.array([[1.0, 2, 0], [0, 1, 1], [3, 0, 1]]), 25)
    coupling = fit_linear(data.calibration)
    np.testing.assert_allclose(coupling.predict(torch.from_numpy(x)), data.r, atol=1e-4)
    left = fit_covariance(coupling.folds).matrix
    assert float(left.abs().max()) < 1e-8
    assert float(covariance_of(data.calibration).variances.min()) > 1


def test_one_document_leaves_none_out_and_so_tells_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    coupling = fit_linear(Data(x, 2 * x, 1).calibration)
    assert coupling.ridge is None
    assert not coupling.matrix.any()


def test_many_dimensions_have_no_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "LARGE", 5)
    with pytest.raises(MeasurementError, match="5 dimensions as a matrix"):
        fit_linear(coupled(60)[0].calibration)
