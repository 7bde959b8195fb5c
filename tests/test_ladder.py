"""The rungs against linear algebra, closed forms, and two controls whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from remainder.errors import MeasurementError
from remainder.residual.ladder import NOISES, RUNGS, Context, symmetric_root
from remainder.residual.moments import Calibration
from remainder.residual.noise import Draw, Places

KERNELS = {**RUNGS, **NOISES}
SEES_X = {"true", "noise-directional", "noise-isotropic"}


def places_of(documents: int, prefix: str = "page") -> Places:
    """One window of each of so many documents."""
    return Places(3, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def calibrated(rows: torch.Tensor, capacity: int = 65536) -> Calibration:
    """Calibration on residuals [docs, pos, d], nothing masked."""
    calibration = Calibration.empty(rows.shape[-1], capacity)
    calibration.update(places_of(len(rows), "calibration"), rows, torch.ones(rows.shape[:2]).bool())
    return calibration


def context_of(residual: torch.Tensor) -> Context:
    """Evaluation windows whose reconstruction is nought, so that x = r."""
    mask = torch.ones(residual.shape[:2]).bool()
    return Context(places_of(len(residual)), torch.zeros_like(residual), mask, residual)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residuals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Skewed, correlated residuals with a mean."""
    mixing = gaussian(shape[-1], shape[-1], seed=100)
    return gaussian(*shape, seed=seed).exp() @ mixing + gaussian(shape[-1], seed=101)


@pytest.mark.parametrize("rank", [1, 4, 7])
def test_symmetric_root(rank: int) -> None:
    factor = gaussian(7, rank)
    covariance = factor @ factor.T
    root = symmetric_root(covariance)
    torch.testing.assert_close(root, root.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(root @ root, covariance, rtol=0, atol=1e-12 * float(covariance.abs().max()))
    assert float(torch.linalg.eigvalsh(root)[0]) > -1e-12
    if rank == 7:
        np.testing.assert_allclose(root, linalg.sqrtm(covariance.numpy()), atol=1e-8)


def test_symmetric_root_of_nothing_and_of_what_is_no_covariance() -> None:
    assert torch.equal(symmetric_root(torch.zeros(3, 3)), torch.zeros(3, 3).double())
    with pytest.raises(MeasurementError, match=r"eigenvalue -0\.001"):
        symmetric_root(torch.diag(torch.tensor([1.0, 0.5, -0.001])))


@pytest.mark.parametrize("directions", [2, 5])
def test_full_has_the_moments_of_the_residual(directions: int) -> None:
    """Also if residuals live in a plane: nothing leaves it."""
    width = 5
    basis = linalg.orth(gaussian(width, directions).numpy())
    calibration = calibrated(residuals(30, 40, width) @ torch.from_numpy(basis @ basis.T))
    mean, sigma = calibration.moments.mean, calibration.moments.covariance.numpy()
    sample = RUNGS["full"]().fit(calibration).sample(context_of(gaussian(100, 200, width)), Draw(0))
    rows = (sample - mean).reshape(-1, width).numpy()
    count = len(rows)
    variances = np.diag(sigma)
    assert (np.abs(rows.mean(0)) < 5 * np.sqrt(variances / count)).all()
    # Of Gaussian rows: Var of an entry of the sample covariance = (Σᵢᵢ Σⱼⱼ + Σᵢⱼ²)/n.
    error = np.sqrt((np.outer(variances, variances) + sigma**2) / count)
    assert (np.abs(rows.T @ rows / count - sigma) < 5 * error).all()
    assert np.abs(rows @ (np.eye(width) - basis @ basis.T)).max() < 1e-6
    whitened = rows @ linalg.pinv(linalg.sqrtm(sigma + 0j).real, rtol=1e-6)
    squares = (whitened**2).sum(1)
    assert stats.kstest(squares[:5000], stats.chi2(directions).cdf).pvalue > 0.001


def test_raw_mean_and_true_are_exact() -> None:
    rows, context = residuals(8, 9, 4), context_of(gaussian(3, 5, 4, seed=1))
    calibration = calibrated(rows)
    for name, expected in {
        "raw": torch.zeros(3, 5, 4).double(),
        "mean": rows.reshape(-1, 4).mean(0).expand(3, 5, 4),
        "true": context.residual,
    }.items():
        sample = RUNGS[name]().fit(calibration).sample(context, Draw(0))
        torch.testing.assert_close(sample, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_only_those_that_declare_it_can_see_x(name: str) -> None:
    kernel = KERNELS[name]().fit(calibrated(residuals(8, 9, 4)))
    context = context_of(gaussian(3, 5, 4, seed=1))
    assert context.residual is not None
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    # x in another order, given the same reconstruction
    permuted = replace(context, residual=context.residual.reshape(15, 4)[order].reshape(3, 5, 4))
    same = torch.equal(kernel.sample(context, Draw(0)), kernel.sample(permuted, Draw(0)))
    assert kernel.needs_residual is (name in SEES_X)
    assert same is not kernel.needs_residual
    blind = context.without_residual()
    if kernel.needs_residual:
        with pytest.raises(MeasurementError, match="needs the residual"):
            kernel.sample(blind, Draw(0))
    else:
        assert torch.equal(kernel.sample(blind, Draw(0)), kernel.sample(context, Draw(0)))


@pytest.mark.parametrize("name", KERNELS)
def test_batches_and_order_change_no_sample(name: str) -> None:
    kernel = KERNELS[name]().fit(calibrated(residuals(8, 9, 4)))
    context = context_of(gaussian(6, 5, 4, seed=1))
    whole = kernel.sample(context, Draw(3))
    assert whole.dtype == torch.float64
    rows = [4, 0, 5]
    places = Places(3, tuple(context.places.documents[i] for i in rows), (0, 0, 0))
    part = Context(places, context.reconstruction[rows], context.mask[rows], context.residual[rows])
    torch.testing.assert_close(kernel.sample(part, Draw(3)), whole[rows], rtol=1e-12, atol=1e-12)


def test_drivers_say_what_the_draws_do() -> None:
    calibration, context = calibrated(residuals(8, 9, 4)), context_of(gaussian(3, 5, 4, seed=1))
    for name, kind in KERNELS.items():
        kernel = kind().fit(calibration)
        first, second = (kernel.sample(context, Draw(i)) for i in (0, 1))
        centre = {"full": calibration.moments.mean, "noise-fitted": -calibration.moments.mean}.get(name, 0.0)
        if kernel.driver == "normal":  # an antithetic pair
            torch.testing.assert_close(first - centre, centre - second)
        else:
            assert torch.equal(first, second) is (kernel.driver == "none")


def test_permuted_draws_real_residuals_uniformly_and_anew_at_each_position() -> None:
    rows = torch.arange(24.0).reshape(4, 6, 1).double()
    sample = RUNGS["permuted"]().fit(calibrated(rows)).sample(context_of(gaussian(60, 200, 1)), Draw(0))
    counts = np.bincount(sample.long().ravel().numpy(), minlength=24)
    assert set(sample.ravel().tolist()) == set(range(24))
    assert stats.chisquare(counts).pvalue > 0.001
    pairs = np.histogram2d(sample[:, :-1].numpy().ravel(), sample[:, 1:].numpy().ravel(), bins=24)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 0.001


def test_permuted_keeps_rows_whole_and_needs_some() -> None:
    rows = residuals(3, 4, 5).float().double()
    sample = RUNGS["permuted"]().fit(calibrated(rows)).sample(context_of(gaussian(6, 7, 5)), Draw(0))
    distances = torch.cdist(sample.reshape(-1, 5), rows.reshape(-1, 5))
    assert float(distances.amin(1).max()) < 1e-6
    with pytest.raises(MeasurementError, match="empty"):
        RUNGS["permuted"]().fit(Calibration.empty(5))


def test_denominators_have_the_lengths_and_directions_that_they_claim() -> None:
    calibration = calibrated(residuals(20, 30, 4))
    residual = gaussian(40, 50, 4, seed=1)
    residual[0, 0] = 0.0
    context = context_of(residual)
    fitted, directional, isotropic = (
        NOISES[f"noise-{name}"]().fit(calibration).sample(context, Draw(0))
        for name in ("fitted", "directional", "isotropic")
    )
    full = RUNGS["full"]().fit(calibration).sample(context, Draw(0))
    mean = calibration.moments.mean
    torch.testing.assert_close(fitted, full - 2 * mean)  # the same z about −μ
    for sample in (directional, isotropic):
        torch.testing.assert_close(sample.norm(dim=-1), residual.norm(dim=-1))
        assert torch.equal(sample[0, 0], torch.zeros(4).double())
    cosine = torch.nn.functional.cosine_similarity(directional, full - mean, dim=-1)
    assert float(cosine.ravel()[1:].min()) > 1 - 1e-9
    # A coordinate of a uniform direction in d dimensions: (1 + c)/2 is Beta((d−1)/2, (d−1)/2).
    coordinate = (isotropic[..., 2] / isotropic.norm(dim=-1)).ravel()[1:].numpy()
    assert stats.kstest((1 + coordinate) / 2, stats.beta(1.5, 1.5).cdf).pvalue > 0.001


def test_a_direction_cannot_come_from_a_constant_residual() -> None:
    constant = torch.ones(4, 5, 3).double()
    context = context_of(gaussian(2, 2, 3))
    with pytest.raises(MeasurementError, match="covariance is zero"):
        NOISES["noise-directional"]().fit(calibrated(constant)).sample(context, Draw(0))


def rate(wrong: torch.Tensor) -> float:
    return float(wrong.double().mean())


def test_control_two_points() -> None:
    """r = ±a, an error iff |r| > θ: none of real residuals, 2Φ(−θ/a) of Gaussian ones."""
    a, theta = 2.0, 3.0
    signs = torch.tensor([1.0, -1.0]).double().repeat(50 * 100)
    calibration = calibrated(a * signs.reshape(50, 200, 1))
    context = context_of(a * gaussian(400, 1000, 1).sign())
    errors = {
        name: rate(RUNGS[name]().fit(calibration).sample(context, Draw(0)).abs() > theta) for name in RUNGS
    }
    expected = 2 * stats.norm.cdf(-theta / a)
    assert expected == pytest.approx(0.13361, abs=5e-6)
    assert errors.pop("full") == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 400_000))
    assert errors == {"raw": 0, "mean": 0, "permuted": 0, "true": 0}


def test_control_parity() -> None:
    """y is the product of three signs of which x̂ knows nothing: chance on every rung but the true one."""
    context = context_of(gaussian(300, 400, 3, seed=4).sign())
    assert context.residual is not None
    y = context.residual.prod(-1)
    calibration = calibrated(gaussian(60, 200, 3, seed=5).sign())
    for name, kind in RUNGS.items():
        sample = kind().fit(calibration).sample(context, Draw(0))
        wrong = torch.where(sample.prod(-1) >= 0, 1.0, -1.0) != y
        assert rate(wrong) == pytest.approx(0.0 if name == "true" else 0.5, abs=5 * 0.5 / np.sqrt(y.numel()))
        # Nor does its cross-entropy under P(y = 1) = Φ(product) prefer either label.
        right, left = (stats.norm.logcdf(sign * sample.prod(-1).numpy()) for sign in (1, -1))
        loss = -np.where(y.numpy() > 0, right, left).mean()
        expected = -stats.norm.logcdf(1.0) if name == "true" else -(right + left).mean() / 2
        error = np.sqrt(((right - left) ** 2).mean() / 4 / y.numel())
        assert loss == pytest.approx(expected, abs=5 * error)
