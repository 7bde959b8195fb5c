"""The rungs against linear algebra, closed forms, and two controls whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from remainder.errors import MeasurementError
from remainder.record.rungs import AROUND, COUPLED, FOLDS, NULLS, PERTURBATIVE, REFITS, RUNGS
from remainder.residual import calibration as calibration_module
from remainder.residual.calibration import Calibration
from remainder.residual.codes import Codes
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, covariance_of
from remainder.residual.gaussian import Radial, Temporal
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys, folds
from remainder.residual.real import Permuted, Perturbative

KERNELS = {**RUNGS, **NULLS, **AROUND, **REFITS, "coupled": COUPLED._replace(arguments=(0.75, 1.1))}
LADDER = [
    *("raw", "mean", "isotropic", "diagonal", "full", "full-unshrunk", "linear-mean", "linear", "temporal"),
    *("radial", "perturbative-32", "perturbative-8", "perturbative-4", "perturbative-2", "permuted"),
    *("permuted-block", "matched", "true"),
]
"""Rungs that records hold: names and order, which stay as they are when others come."""


def places_of(documents: int, prefix: str = "page") -> NoiseKeys:
    """One window of each of so many documents."""
    return NoiseKeys(3, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def calibrated(
    rows: torch.Tensor,
    reconstruction: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    capacity: int | None = None,
) -> Calibration:
    """Calibration on residuals [docs, pos, d]; if nothing else is said, x̂ = 0 and nothing is masked."""
    calibration = Calibration.empty(rows.shape[-1], capacity)
    if reconstruction is None:
        reconstruction = torch.zeros_like(rows)
    if mask is None:
        mask = torch.ones(rows.shape[:2]).bool()
    calibration.update(places_of(len(rows), "calibration"), reconstruction, rows, mask)
    return calibration


def context_of(residual: torch.Tensor, reconstruction: torch.Tensor | None = None) -> Context:
    """Evaluation windows; if nothing else is said, their reconstruction is nought, so that x = r."""
    mask = torch.ones(residual.shape[:2]).bool()
    if reconstruction is None:
        reconstruction = torch.zeros_like(residual)
    return Context(places_of(len(residual)), reconstruction, mask, residual)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residuals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Skewed, correlated residuals with a mean."""
    mixing = gaussian(shape[-1], shape[-1], seed=100)
    return gaussian(*shape, seed=seed).exp() @ mixing + gaussian(shape[-1], seed=101)


@cache
def coupled_calibration() -> Calibration:
    """Residuals of which x̂, codes and tokens tell something, 40 documents of 9 positions, some masked."""
    rows, x, mask = residuals(40, 9, 4), gaussian(40, 9, 4, seed=7), gaussian(40, 9, seed=8) < 1.2
    calibration = Calibration.empty(4, keep=True)
    codes, tokens = codes_of(x), tokens_of(x)
    told = 2 * x + codes[..., :4] + tokens[..., None]
    calibration.update(places_of(40, "calibration"), x, rows + told, mask, Codes.of(codes[mask]), tokens)
    return calibration


def codes_of(x: torch.Tensor) -> torch.Tensor:
    """Six latents, each off half of the time."""
    return torch.cat([x, x[..., :2].square() - 1], -1).clamp(min=0)


def tokens_of(x: torch.Tensor) -> torch.Tensor:
    """Three tokens."""
    return (x[..., 0] > 0).long() + (x[..., 1] > 0.5).long()


def evaluation(documents: int = 3, positions: int = 5) -> Context:
    """Windows with residual, reconstruction and mask."""
    x = 2 * gaussian(documents, positions, 4, seed=2)
    context = context_of(gaussian(documents, positions, 4, seed=1), x)
    mask = gaussian(documents, positions, seed=3) < 1.2
    return replace(context, mask=mask, codes=Codes.of(codes_of(x)[mask]), tokens=tokens_of(x))


def part_of(context: Context, rows: list[int]) -> Context:
    """Some windows of a context."""
    x, mask = context.reconstruction[rows], context.mask[rows]
    places = NoiseKeys(3, tuple(context.places.documents[i] for i in rows), (0,) * len(rows))
    codes = Codes.of(codes_of(x)[mask])
    return Context(places, x, mask, context.residual[rows], codes=codes, tokens=tokens_of(x))


def assert_covariance(rows: torch.Tensor, expected: torch.Tensor, sampled: float = 1.0) -> None:
    """Centred Gaussian rows have this covariance: Var of an entry = (Σᵢᵢ Σⱼⱼ + Σᵢⱼ²)/n."""
    sigma, samples = expected.numpy(), rows.reshape(-1, rows.shape[-1]).numpy()
    variances, count = np.diag(sigma), len(samples)
    assert (np.abs(samples.mean(0)) <= 5 * np.sqrt(variances / count) + 1e-12).all()
    error = np.sqrt((np.outer(variances, variances) + sigma**2) / count)
    assert (np.abs(samples.T @ samples / count - sigma) <= 5 * sampled * error + 1e-12).all()


# ------------------------------------------------------------------------------- true of every kernel


def test_the_names_are_those_of_the_ladder_in_order() -> None:
    assert [name for name in RUNGS if name in LADDER] == LADDER
    assert list(REFITS) == ["full-fold-1", "full-fold-2", "full-fold-3"]
    assert list(NULLS) == ["noise-fitted", "noise-directional", "noise-isotropic"]


def test_only_a_check_and_denominators_may_see_x() -> None:
    sees_x = {name for name, rung in KERNELS.items() if "residual" in rung.needs}
    around = {"mirror", "residual-0.3", "mirror-0.3", "cov-random", "real-mixture"}
    assert sees_x == {"true", "noise-directional", "noise-isotropic", "activation-difference", *around}
    assert {name for name, rung in KERNELS.items() if rung.base == "activation"} == {*NULLS, *AROUND}


def test_raw_mean_and_true_are_exact() -> None:
    rows, context = residuals(8, 9, 4), context_of(gaussian(3, 5, 4, seed=1))
    calibration = calibrated(rows)
    for name, expected in {
        "raw": torch.zeros(3, 5, 4).double(),
        "mean": rows.reshape(-1, 4).mean(0).expand(3, 5, 4),
        "true": context.residual,
    }.items():
        sample = prepare(RUNGS[name], calibration).sample(context, Draw(0))
        torch.testing.assert_close(sample, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_only_those_that_declare_it_can_see_x(name: str) -> None:
    kernel = prepare(KERNELS[name], coupled_calibration())
    context = evaluation()
    assert context.residual is not None
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    # x in another order, given the same reconstruction
    permuted = replace(context, residual=context.residual.reshape(15, 4)[order].reshape(3, 5, 4))
    same = torch.equal(kernel.sample(context, Draw(0)), kernel.sample(permuted, Draw(0)))
    needs = KERNELS[name].needs
    assert same is ("residual" not in needs)
    given = kernel.sample(context.limited_to(needs), Draw(0))
    assert torch.equal(given, kernel.sample(context, Draw(0)))
    if needs:
        with pytest.raises(MeasurementError, match=f"needs the {needs[0]}"):
            kernel.sample(context.limited_to(()), Draw(0))


@pytest.mark.parametrize("name", KERNELS)
def test_batches_and_order_change_no_sample(name: str) -> None:
    kernel = prepare(KERNELS[name], coupled_calibration())
    context = evaluation(6)
    whole = kernel.sample(context, Draw(3))
    assert whole.dtype == torch.float64
    assert whole.shape == (6, 5, 4)
    rows = [4, 0, 5]
    part = part_of(context, rows)
    torch.testing.assert_close(kernel.sample(part, Draw(3)), whole[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_memoised_noise_is_the_same_noise(name: str) -> None:
    kernel = prepare(KERNELS[name], coupled_calibration())
    shared, draws = evaluation(), [Draw(i) for i in (0, 1, 2, 1, 0)]
    for draw in draws:
        assert torch.equal(kernel.sample(shared, draw), kernel.sample(evaluation(), draw))


def test_drivers_say_what_the_draws_do_and_pairs_are_mirror_images() -> None:
    calibration, context = coupled_calibration(), evaluation()
    mean = calibration.mean.expand(3, 5, 4)
    told = prepare(RUNGS["linear-mean"], calibration).sample(context, Draw(0))
    drawn_to = {
        **dict.fromkeys(("isotropic", "diagonal", "full", "temporal", "radial"), mean),
        "full-unshrunk": calibration.bank.rows().double().mean(0).expand(3, 5, 4),
        "linear": told,
        "noise-fitted": -mean,
        "noise-directional": torch.zeros(3, 5, 4).double(),
        "noise-isotropic": torch.zeros(3, 5, 4).double(),
        **dict.fromkeys(("full-0.3", "full-0.6"), mean),
        "noise-0.3": -mean,
        **dict.fromkeys(("noise-centred", "cov-random"), torch.zeros(3, 5, 4).double()),
        "coupled": mean + 0.1 * (context.reconstruction - calibration.reconstruction_mean),
    }
    for fold in range(FOLDS):
        others = [part for i, part in enumerate(calibration.residual_folds) if i != fold]
        rows = sum(part.count for part in others)
        drawn_to[f"full-fold-{fold + 1}"] = (
            torch.stack([part.count * part.mean for part in others]).sum(0) / rows
        ).expand(3, 5, 4)
    for name, rung in KERNELS.items():
        kernel = prepare(rung, calibration)
        first, second, third, fourth = (kernel.sample(context, Draw(i)) for i in (0, 1, 2, 3))
        if rung.noise == "normal":
            centre = drawn_to.get(name, (third + fourth) / 2)
            torch.testing.assert_close((first + second) / 2, centre, rtol=1e-9, atol=1e-9)
            # there is noise at every position where something is spliced
            assert float((first - second)[context.mask].abs().amax(-1).min()) > 1e-3
            assert not torch.equal(first, third)
        elif rung.noise == "none":
            assert torch.equal(first, second)
        else:  # real residuals: negated, they would lose their odd cumulants
            assert not torch.equal(first, second)
            spliced = context.mask
            assert float((first + second - 2 * mean)[spliced].abs().amax(-1).max()) > 1e-3
    assert {KERNELS[name].noise for name in drawn_to} == {"normal"}
    of_bank = [*(f"perturbative-{m}" for m in PERTURBATIVE), "permuted", "permuted-block", "matched"]
    of_bank += ["noise-run", "real-mixture", "activation-difference"]
    assert {KERNELS[name].noise for name in of_bank} == {"bank"}
    assert {KERNELS[name].noise for name in ("raw", "mean", "linear-mean", "true")} == {"none"}


# -------------------------------------------------------------------------------------- Gaussian rungs


@pytest.mark.parametrize("directions", [2, 5])
def test_full_is_gaussian_with_the_shrunk_covariance(directions: int) -> None:
    """Also if residuals live in a plane: nothing leaves it."""
    width = 5
    basis = linalg.orth(gaussian(width, directions).numpy())
    calibration = calibrated(residuals(30, 40, width) @ torch.from_numpy(basis @ basis.T))
    covariance = covariance_of(calibration)
    assert isinstance(covariance, DenseCovariance)
    sample = prepare(RUNGS["full"], calibration).sample(context_of(gaussian(100, 200, width)), Draw(0))
    rows = sample - calibration.mean
    assert_covariance(rows, covariance.matrix)
    assert float((rows @ torch.from_numpy(np.eye(width) - basis @ basis.T)).abs().max()) < 1e-6
    squares = covariance.whiten(sample).square().sum(-1).ravel().numpy()
    assert stats.kstest(squares[:5000], stats.chi2(directions).cdf).pvalue > 0.001


def test_isotropic_diagonal_and_full_unshrunk_have_their_covariances() -> None:
    rows = residuals(30, 40, 4)
    flat = rows.reshape(-1, 4)
    calibration = calibrated(rows, capacity=600)
    sample = torch.cov(flat.T)
    bank = calibration.bank.rows().double()
    assert len(bank) == 600
    expected = {
        "isotropic": (flat.mean(0), sample.trace() / 4 * torch.eye(4)),
        "diagonal": (flat.mean(0), sample.diagonal().diag()),
        "full-unshrunk": (bank.mean(0), torch.cov(bank.T, correction=0)),
    }
    for name, (mean, sigma) in expected.items():
        noise = prepare(RUNGS[name], calibration).sample(context_of(gaussian(100, 200, 4)), Draw(0))
        assert_covariance(noise - mean, sigma)


def test_refits_leave_the_documents_of_one_fold_out() -> None:
    rows, context = residuals(30, 10, 3), context_of(gaussian(4, 5, 3, seed=1))
    calibration = calibrated(rows)
    dealt = np.array(folds(places_of(30, "calibration"), FOLDS))
    for fold in range(FOLDS):
        kept = np.flatnonzero(dealt != fold).tolist()
        part = Calibration.empty(3)
        places = NoiseKeys(3, tuple(f"calibration-{i}" for i in kept), (0,) * len(kept))
        part.update(places, torch.zeros(len(kept), 10, 3), rows[kept], torch.ones(len(kept), 10).bool())
        refitted = prepare(REFITS[f"full-fold-{fold + 1}"], calibration)
        expected = prepare(RUNGS["full"], part)
        torch.testing.assert_close(refitted.sample(context, Draw(0)), expected.sample(context, Draw(0)))
    part = Calibration.empty(3)
    kept = np.flatnonzero(dealt != 1).tolist()
    places = NoiseKeys(3, tuple(f"calibration-{i}" for i in kept), (0,) * len(kept))
    part.update(places, torch.zeros(len(kept), 10, 3), rows[kept], torch.ones(len(kept), 10).bool())
    with pytest.raises(NotMeasurableError, match="no document fell into fold 2"):
        prepare(REFITS["full-fold-2"], part)


def test_linear_is_the_gaussian_of_r_given_the_reconstruction() -> None:
    width = 3
    x = gaussian(300, 100, width, seed=4) @ gaussian(width, width, seed=5) + 1.0
    matrix, mixing = gaussian(width, width, seed=6), gaussian(width, width, seed=8)
    r = x @ matrix.T + gaussian(300, 100, width, seed=9) @ mixing.T + 2.0
    calibration = calibrated(r, x)
    context = context_of(gaussian(200, 100, width), gaussian(200, 100, width, seed=10) + 3.0)
    noise = prepare(RUNGS["linear"], calibration).sample(context, Draw(0))
    told = prepare(RUNGS["linear-mean"], calibration).sample(context, Draw(0))
    assert_covariance(noise - told, mixing @ mixing.T, sampled=np.sqrt(1 + 20_000 / 30_000))
    # Where x̂ lies by its own law, predictions are known to √(d/N) of the noise; here it lies farther out.
    error = 5 * float(mixing.norm()) * np.sqrt(width / 30_000) * 4
    assert float((told - context.reconstruction @ matrix.T - 2.0).abs().mean()) < error


def test_coupled_is_its_formula() -> None:
    calibration, context = coupled_calibration(), evaluation()
    full = prepare(RUNGS["full"], calibration).sample(context, Draw(2))
    mean, centre = calibration.mean, calibration.reconstruction_mean
    assert float(centre.abs().max()) > 0.01
    for alpha, beta in [(1.0, 1.0), (0.0, 1.0), (0.5, 0.9), (1.25, 1.1)]:
        expected = (beta - 1) * (context.reconstruction - centre) + mean + alpha * (full - mean)
        rung = COUPLED._replace(arguments=(alpha, beta))
        sample = prepare(rung, calibration).sample(context, Draw(2))
        torch.testing.assert_close(sample, expected, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------- temporal, radial

RHO, POSITIONS = 0.7, 12


def autoregressive(documents: int, seed: int) -> torch.Tensor:
    """Gaussian, correlated RHO^lag across positions and by a matrix across coordinates, with a mean."""
    noise = gaussian(documents, POSITIONS, 3, seed=seed)
    rows = [noise[:, 0]]
    for t in range(1, POSITIONS):
        rows.append(RHO * rows[-1] + np.sqrt(1 - RHO**2) * noise[:, t])
    return torch.stack(rows, 1) @ MIXING.T + 1.5


MIXING = gaussian(3, 3, seed=50)


def lag_products(windows: torch.Tensor, lag: int) -> torch.Tensor:
    """Mean whitened product at a lag of each window [windows], by the true covariance."""
    w = (windows - 1.5) @ torch.linalg.inv(MIXING).T
    return (w[:, : POSITIONS - lag] * w[:, lag:]).mean((1, 2))


def test_temporal_reproduces_an_autoregression() -> None:
    rows = autoregressive(1500, seed=0)
    calibration = calibrated(rows)
    model = prepare(RUNGS["temporal"], calibration)
    sample = model.sample(context_of(torch.zeros(1500, POSITIONS, 3).double()), Draw(0))
    for lag in range(POSITIONS):
        found, fitted = lag_products(sample, lag), lag_products(rows, lag)
        error = np.sqrt(float(found.var() + fitted.var()) / 1500)
        assert error < 0.025
        assert float(found.mean()) == pytest.approx(RHO**lag, abs=5 * error)
    covariance = covariance_of(calibration)
    assert isinstance(covariance, DenseCovariance)
    for position in (0, 5, POSITIONS - 1):  # of one position alone it is `full`
        assert_covariance(sample[:, position] - calibration.mean, covariance.matrix)
    # Directions do not mix: coordinates of different positions are correlated as ρ(l) Σ.
    cross = (sample[:, 4] - 1.5).T @ (sample[:, 6] - 1.5) / 1500
    expected = RHO**2 * (MIXING @ MIXING.T)
    spread = np.sqrt(np.outer(*[(MIXING @ MIXING.T).diagonal().numpy()] * 2) * 2 / 1500)
    assert ((cross - expected).abs().numpy() < 5 * spread * np.sqrt(2)).all()


def test_temporal_estimates_lags_between_spliced_positions_only() -> None:
    rows, mask = autoregressive(800, seed=1), gaussian(800, POSITIONS, seed=2) < 0.5
    spoilt = torch.where(mask[..., None], rows, 1e6)
    one, other = (prepare(RUNGS["temporal"], calibrated(data, mask=mask)) for data in (rows, spoilt))
    assert isinstance(one, Temporal)
    assert isinstance(other, Temporal)
    assert torch.equal(one.correlation, other.correlation)
    covariance = covariance_of(calibrated(rows, mask=mask))
    assert isinstance(covariance, DenseCovariance)
    w = covariance.whiten(rows)
    expected = []
    for lag in range(POSITIONS):  # by brute force
        products = [
            w[i, t] @ w[i, t + lag]
            for i in range(800)
            for t in range(POSITIONS - lag)
            if mask[i, t] and mask[i, t + lag]
        ]
        expected.append(float(torch.stack(products).mean()))
    np.testing.assert_allclose(one.correlation, np.array(expected) / expected[0], rtol=1e-6, atol=1e-8)


def test_temporal_stays_a_covariance_where_lags_are_rough_and_fits_shorter_windows() -> None:
    # Three windows: lag correlations as estimated are no covariance at all.
    rows = autoregressive(3, seed=3)
    model = prepare(RUNGS["temporal"], calibrated(rows))
    assert isinstance(model, Temporal)
    lags = (torch.arange(POSITIONS)[:, None] - torch.arange(POSITIONS)).abs()
    assert float(torch.linalg.eigvalsh(model.correlation[lags])[0]) < -0.01
    correlation = model.root @ model.root
    torch.testing.assert_close(correlation.diagonal(), torch.ones(POSITIONS).double())
    long = model.sample(context_of(torch.zeros(4000, POSITIONS, 3).double()), Draw(0))
    short = model.sample(context_of(torch.zeros(4000, 5, 3).double()), Draw(0))
    for sample in (long[:, :5], short):
        centred = (sample - model.mean) @ torch.linalg.pinv(model.covariance.root)
        products = torch.einsum("bsd,btd->st", centred, centred) / (4000 * 3)
        assert float((products - correlation[:5, :5]).abs().max()) < 5 * np.sqrt(2 / 12_000)
    with pytest.raises(MeasurementError, match="windows of 13 positions, calibrated on 12"):
        model.sample(context_of(torch.zeros(2, 13, 3).double()), Draw(0))


def test_radial_has_real_lengths_and_uniform_directions() -> None:
    calibration = calibrated(residuals(5, 6, 4))
    model = prepare(RUNGS["radial"], calibration)
    covariance = covariance_of(calibration)
    assert isinstance(model, Radial)
    assert isinstance(covariance, DenseCovariance)
    bank = calibration.bank.rows().double()
    inverse = torch.linalg.inv(covariance.matrix)
    centred = bank - calibration.mean
    lengths = torch.einsum("ni,ij,nj->n", centred, inverse, centred).sqrt()
    white = covariance.whiten(model.sample(context_of(gaussian(150, 100, 4)), Draw(0))).reshape(-1, 4)
    distance, which = (white.norm(dim=-1)[:, None] - lengths).abs().min(1)
    assert float(distance.max()) < 1e-6
    assert stats.chisquare(np.bincount(which.numpy(), minlength=30)).pvalue > 0.001
    # A coordinate of a uniform direction in d dimensions: (1 + c)/2 is Beta((d−1)/2, (d−1)/2).
    directions = white / white.norm(dim=-1, keepdim=True)
    for axis in range(4):
        assert stats.kstest((1 + directions[:, axis].numpy()) / 2, stats.beta(1.5, 1.5).cdf).pvalue > 0.001
    assert float((directions.T @ directions / len(directions) - torch.eye(4) / 4).abs().max()) < 0.015
    # Length and direction know nothing of each other, nor of the next position.
    for other in (directions[:, 0] ** 2, white.norm(dim=-1).roll(1)):
        assert stats.spearmanr(white.norm(dim=-1), other).pvalue > 0.001


@pytest.mark.parametrize("name", ["temporal", "radial"])
def test_what_cannot_be_whitened_is_not_measurable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotMeasurableError, match="constant on calibration"):
        prepare(RUNGS[name], calibrated(torch.ones(4, 5, 3).double()))
    monkeypatch.setattr(calibration_module, "LARGE", 3)
    with pytest.raises(NotMeasurableError, match="as a matrix"):
        prepare(RUNGS[name], calibrated(residuals(4, 5, 3)))


def test_from_large_widths_on_rungs_need_no_matrix_or_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "LARGE", 4)
    calibration, context, missing = coupled_calibration.__wrapped__(), evaluation(), set()
    assert calibration.is_large
    for name, rung in KERNELS.items():
        try:
            kernel = prepare(rung, calibration)
        except NotMeasurableError:
            missing.add(name)
            continue
        sample = kernel.sample(context, Draw(0))
        assert torch.isfinite(sample).all()
        if name in ("isotropic", "diagonal", "full", "full-unshrunk"):
            middle = (sample + kernel.sample(context, Draw(1))) / 2
            torch.testing.assert_close(middle, calibration.mean.expand(3, 5, 4), rtol=1e-5, atol=1e-5)
    assert missing & {*LADDER, *NULLS, *REFITS, "coupled"} == {
        "linear-mean", "linear", "temporal", "radial", *REFITS
    }  # fmt: skip


def test_a_constant_residual_leaves_the_mean() -> None:
    calibration = calibrated(torch.full((6, 5, 3), 0.1).double())
    for name in set(LADDER) - {"raw", "true", "temporal", "radial"}:
        sample = prepare(RUNGS[name], calibration).sample(context_of(gaussian(2, 2, 3)), Draw(0))
        torch.testing.assert_close(sample, torch.full((2, 2, 3), 0.1).double(), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------- real residuals


def test_permuted_draws_real_residuals_uniformly_and_anew_at_each_position() -> None:
    rows = torch.arange(24.0).reshape(4, 6, 1).double()
    sample = prepare(RUNGS["permuted"], calibrated(rows)).sample(context_of(gaussian(60, 200, 1)), Draw(0))
    counts = np.bincount(sample.long().ravel().numpy(), minlength=24)
    assert set(sample.ravel().tolist()) == set(range(24))
    assert stats.chisquare(counts).pvalue > 0.001
    pairs = np.histogram2d(sample[:, :-1].numpy().ravel(), sample[:, 1:].numpy().ravel(), bins=24)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 0.001


@pytest.mark.parametrize("name", ["permuted", "permuted-block", "matched"])
def test_real_residuals_are_kept_whole_and_some_are_needed(name: str) -> None:
    rows = residuals(3, 4, 5).float().double()
    mask = torch.ones(3, 4).bool()
    mask[1, 2] = False
    sample = prepare(RUNGS[name], calibrated(rows, mask=mask)).sample(context_of(gaussian(6, 7, 5)), Draw(0))
    distances = torch.cdist(sample.reshape(-1, 5), rows[mask])
    assert float(distances.amin(1).max()) < 1e-6
    with pytest.raises(MeasurementError, match="empty"):
        prepare(RUNGS[name], Calibration.empty(5))


def cumulants(rows: np.ndarray) -> np.ndarray:
    """Second to fourth of values that are all there is."""
    centred = rows - rows.mean()
    second, third, fourth = (np.mean(centred**n) for n in (2, 3, 4))
    return np.array([second, third, fourth - 3 * second**2])


@pytest.mark.parametrize("order", [1, *PERTURBATIVE])
def test_perturbative_scales_every_cumulant_by_its_power(order: int) -> None:
    rows = residuals(10, 30, 2)
    calibration = calibrated(rows)
    model = Perturbative(calibration, order)
    if order > 1:
        model = prepare(RUNGS[f"perturbative-{order}"], calibration)
    sample = model.sample(context_of(gaussian(200, 1000, 2)), Draw(0))
    for direction in ([1.0, 0.0], [0.6, -0.8]):
        along = sample.numpy() @ direction
        bank = calibration.bank.rows().double().numpy() @ direction
        expected = cumulants(bank) * order ** (1 - np.array([2, 3, 4]) / 2)
        found = np.array([[stats.kstat(window, n) for n in (2, 3, 4)] for window in along])
        error = found.std(0, ddof=1) / np.sqrt(len(found))
        assert (np.abs(found.mean(0) - expected) < 5 * error).all()
        assert along.mean() == pytest.approx(bank.mean(), abs=5 * np.sqrt(expected[0] / along.size))
        if order <= 8:  # there is a skewness to see
            assert abs(expected[1]) > 10 * error[1]


def test_perturbative_begins_at_permuted_and_its_residuals_are_nested() -> None:
    calibration, context = calibrated(residuals(10, 30, 3)), context_of(gaussian(4, 50, 3))
    mean = calibration.bank.rows().double().mean(0)
    one, two, four, permuted = (
        model.sample(context, Draw(5))
        for model in (*(Perturbative(calibration, m) for m in (1, 2, 4)), Permuted(calibration))
    )
    torch.testing.assert_close(one, permuted, rtol=1e-12, atol=1e-12)
    # What the second and what the next two added are real residuals again.
    second = np.sqrt(2) * (two - mean) - (permuted - mean) + mean
    bank = calibration.bank.rows().double()
    assert float(torch.cdist(second.reshape(-1, 3), bank).amin(1).max()) < 1e-6
    rest = 2 * (four - mean) - np.sqrt(2) * (two - mean) + 2 * mean
    pairs = (bank[:, None] + bank).reshape(-1, 3)
    assert float(torch.cdist(rest.reshape(-1, 3)[:20], pairs).amin(1).max()) < 1e-5


def test_permuted_block_is_a_contiguous_run_of_one_window() -> None:
    windows, positions = 9, 6
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(windows, positions, generator=generator) < 0.7
    seen[3] = False  # a window without a spliced position is never drawn
    # A residual says its window and its number among that window's spliced ones.
    number = torch.where(seen, seen.cumsum(1) - 1, -1)
    rows = torch.stack([torch.arange(windows)[:, None].expand(windows, positions), number], -1).double()
    lengths = seen.sum(1).tolist()
    mask = torch.rand(2000, 15, generator=generator) < 0.8
    context = replace(context_of(gaussian(2000, 15, 2)), mask=mask)
    model = prepare(RUNGS["permuted-block"], calibrated(rows, mask=seen))
    sample = model.sample(context, Draw(0))
    assert not sample[~mask].any()
    starts: dict[int, list[int]] = {window: [] for window in range(windows) if window != 3}
    for run, kept in zip(sample, mask, strict=True):
        drawn = run[kept].long()
        assert drawn[:, 0].unique().numel() == 1
        window = int(drawn[0, 0])
        for before, after in pairwise(drawn[:, 1].tolist()):
            assert after == (before + 1) % lengths[window]
        starts[window].append(int(drawn[0, 1]))
    assert stats.chisquare([len(found) for found in starts.values()]).pvalue > 0.001
    for window, found in starts.items():
        assert stats.chisquare(np.bincount(found, minlength=lengths[window])).pvalue > 0.001
    other = model.sample(context, Draw(1))
    same = (other[:, :, 0] == sample[:, :, 0]).all(1).double().mean()
    assert float(same) == pytest.approx(1 / 8, abs=5 * np.sqrt(1 / 8 / 2000))


# ------------------------------------------------------------------------------------------ denominators


def test_denominators_have_the_lengths_and_directions_that_they_claim() -> None:
    calibration = calibrated(residuals(20, 30, 4))
    residual = gaussian(40, 50, 4, seed=1)
    residual[0, 0] = 0.0
    context = context_of(residual)
    fitted, directional, isotropic = (
        prepare(NULLS[f"noise-{name}"], calibration).sample(context, Draw(0))
        for name in ("fitted", "directional", "isotropic")
    )
    full = prepare(RUNGS["full"], calibration).sample(context, Draw(0))
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
    context = context_of(gaussian(2, 2, 3))
    with pytest.raises(NotMeasurableError, match="no direction to follow"):
        prepare(NULLS["noise-directional"], calibrated(torch.ones(4, 5, 3).double()))
    # If it is nought on calibration, it may be nought on evaluation as well; if it is not, that is an error.
    model = prepare(NULLS["noise-directional"], calibrated(torch.zeros(4, 5, 3).double()))
    nought = context_of(torch.zeros(2, 2, 3).double())
    assert not model.sample(nought, Draw(0)).any()
    with pytest.raises(MeasurementError, match="covariance is zero"):
        model.sample(context, Draw(0))


# ----------------------------------------------------------------------------------------- two controls


def rate(wrong: torch.Tensor) -> float:
    return float(wrong.double().mean())


def test_control_two_points() -> None:
    """r = ±a, an error iff |r| > θ: none of real residuals, 2Φ(−θ/a) of Gaussian ones."""
    a, theta = 2.0, 3.0
    signs = torch.tensor([1.0, -1.0]).double().repeat(50 * 100)
    calibration = calibrated(a * signs.reshape(50, 200, 1))
    context = context_of(a * gaussian(1000, 200, 1).sign())
    gaussian_rate = 2 * stats.norm.cdf(-theta / a)
    assert gaussian_rate == pytest.approx(0.13361, abs=5e-6)
    expected = dict.fromkeys(LADDER, 0.0)
    # Correlation across positions is noticed by `temporal`: neighbours are of opposite sign.
    expected |= dict.fromkeys(
        ("isotropic", "diagonal", "full", "full-unshrunk", "linear", "temporal"), gaussian_rate
    )
    for m in PERTURBATIVE:  # a sum of signs is binomial
        ups = np.arange(m + 1)
        beyond = np.abs(2 * ups - m) * a / np.sqrt(m) > theta
        expected[f"perturbative-{m}"] = float(stats.binom.pmf(ups, m, 0.5)[beyond].sum())
    for name in LADDER:
        wrong = prepare(RUNGS[name], calibration).sample(context, Draw(0))[..., 0].abs() > theta
        error = float(wrong.double().mean(1).std()) / np.sqrt(1000)
        assert rate(wrong) == pytest.approx(expected[name], abs=3 * error), name


def test_control_parity() -> None:
    """y is the product of three signs of which x̂ knows nothing: chance on every rung but the true one."""
    context = context_of(gaussian(300, 200, 3, seed=4).sign())
    assert context.residual is not None
    y = context.residual.prod(-1)
    calibration = calibrated(gaussian(60, 200, 3, seed=5).sign())
    for name in LADDER:
        sample = prepare(RUNGS[name], calibration).sample(context, Draw(0))
        wrong = torch.where(sample.prod(-1) >= 0, 1.0, -1.0) != y
        assert rate(wrong) == pytest.approx(0.0 if name == "true" else 0.5, abs=5 * 0.5 / np.sqrt(y.numel()))
        # Nor does its cross-entropy under P(y = 1) = Φ(product) prefer either label.
        right, left = (stats.norm.logcdf(sign * sample.prod(-1).numpy()) for sign in (1, -1))
        loss = -np.where(y.numpy() > 0, right, left).mean()
        expected = -stats.norm.logcdf(1.0) if name == "true" else -(right + left).mean() / 2
        error = np.sqrt(((right - left) ** 2).mean() / 4 / y.numel())
        assert loss == pytest.approx(expected, abs=5 * error)
