"""Splices around the clean activation against their definitions, and a residual that has no side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from remainder.record.rungs import AROUND, NULLS, RUNGS
from remainder.residual.around import CovRandom
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import NotMeasurableError
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys

WIDTH = 3


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MIXING = gaussian(WIDTH, WIDTH, seed=100)
MEAN = torch.tensor([1.0, -2.0, 0.5]).double()


def keys(documents: int, prefix: str) -> NoiseKeys:
    return NoiseKeys(3, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def calibrated(reconstruction: torch.Tensor, residual: torch.Tensor) -> Calibration:
    calibration = Calibration.empty(WIDTH)
    mask = torch.ones(residual.shape[:2]).bool()
    calibration.update(keys(len(residual), "calibration"), reconstruction, residual, mask)
    return calibration


def ordinary() -> Calibration:
    """x̂ and r correlated, r with a mean."""
    x, r = gaussian(60, 40, WIDTH, seed=1), gaussian(60, 40, WIDTH, seed=2)
    return calibrated(2 * x + 5, MEAN + 0.5 * x + r @ MIXING)


def context(documents: int = 20, positions: int = 30) -> Context:
    shape = (documents, positions, WIDTH)
    mask = torch.ones(documents, positions).bool()
    x, r = gaussian(*shape, seed=3), gaussian(*shape, seed=4)
    return Context(keys(documents, "page"), 2 * x + 5, mask, MEAN + r @ MIXING)


def drawn(name: str, calibration: Calibration, at: Context, draw: int = 0) -> torch.Tensor:
    return prepare({**RUNGS, **NULLS, **AROUND}[name], calibration).sample(at, Draw(draw))


def test_images_of_the_residual_are_about_its_mean() -> None:
    calibration, at = ordinary(), context()
    mu, r = calibration.mean, at.residual
    assert r is not None
    for name, expected in {
        "mirror": r - 2 * mu,
        "minus-mean": -mu.expand(r.shape),
        "residual-0.3": -mu - 0.3 * (r - mu),
        "mirror-0.3": -mu + 0.3 * (r - mu),
    }.items():
        torch.testing.assert_close(drawn(name, calibration, at), expected)
    # x − r and the mirror image lie opposite of x − μ.
    torch.testing.assert_close((drawn("mirror", calibration, at) - r) / 2, -mu.expand(r.shape))


def test_noises_share_their_draw_and_differ_by_mean_and_size() -> None:
    calibration, at = ordinary(), context()
    mu = calibration.mean
    centred = drawn("noise-centred", calibration, at)
    torch.testing.assert_close(drawn("full", calibration, at), centred + mu)
    torch.testing.assert_close(drawn("noise-fitted", calibration, at), centred - mu)
    torch.testing.assert_close(drawn("noise-0.3", calibration, at), 0.3 * centred - mu)
    torch.testing.assert_close(drawn("full-0.3", calibration, at), 0.3 * centred + mu)
    torch.testing.assert_close(drawn("full-0.6", calibration, at), 0.6 * centred + mu)


def test_a_run_is_the_negative_of_a_block_of_real_residuals() -> None:
    calibration, at = ordinary(), context()
    for draw in (0, 1):
        block = drawn("permuted-block", calibration, at, draw)
        torch.testing.assert_close(drawn("noise-run", calibration, at, draw), -block)


@pytest.mark.parametrize("name", ["cov-random", "real-mixture", "activation-difference"])
def test_directions_come_with_the_residuals_own_length(name: str) -> None:
    calibration, at = ordinary(), context()
    assert at.residual is not None
    sample = drawn(name, calibration, at)
    torch.testing.assert_close(sample.norm(dim=-1), at.residual.norm(dim=-1))


def test_the_covariance_of_directions_is_that_of_the_activation() -> None:
    """From joint moments of (x̂, r) alone, r correlated with x̂: that of their sum."""
    calibration = ordinary()
    x = calibration.bank.reconstructions().double() + calibration.bank.rows().double()
    model = prepare(AROUND["cov-random"], calibration)
    assert isinstance(model, CovRandom)
    expected, (scale, intensity) = torch.cov(x.T), (x.std(0), model.covariance.intensity)
    # Correlations are shrunk, which keeps variances.
    shrunk = (1 - intensity) * expected + intensity * torch.diag(scale.square())
    torch.testing.assert_close(model.covariance.matrix, shrunk, rtol=1e-5, atol=1e-5)
    assert intensity < 0.1
    torch.testing.assert_close(model.covariance.mean, x.mean(0), rtol=1e-6, atol=1e-6)


def test_differences_are_of_real_activations() -> None:
    """On activations along one line all directions are ± that line, and one end is the token's own."""
    line = torch.tensor([1.0, 2.0, -1.0]).double()
    place = gaussian(30, 20, 1, seed=6)
    calibration = calibrated(place * line, gaussian(30, 20, WIDTH, seed=7) * 0)
    at = context(4, 200)
    assert at.residual is not None
    mixture = drawn("real-mixture", calibration, at)
    along = mixture @ line / line.norm() / at.residual.norm(dim=-1)
    torch.testing.assert_close(along.abs(), torch.ones_like(along))
    assert stats.binomtest(int((along > 0).sum()), along.numel()).pvalue > 0.001
    # With x on the same line at +∞ all differences point back, and x = x̂ + r is what they start from.
    far = replace(at, reconstruction=1e6 * line - at.residual)
    back = drawn("activation-difference", calibration, far)
    torch.testing.assert_close(back, -at.residual.norm(dim=-1, keepdim=True) * line / line.norm())


def test_two_tokens_are_never_the_same_one() -> None:
    """Two rows: every difference is ± that between them."""
    rows = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]]).double()
    model = prepare(AROUND["real-mixture"], calibrated(rows, torch.zeros_like(rows)))
    sample = model.sample(context(), Draw(0))
    assert torch.equal(sample[..., 0], sample[..., 1])
    assert not sample[..., 2].any()
    assert {float(sign) for sign in sample[..., 0].sign().unique()} == {-1.0, 1.0}


def test_what_has_no_direction_is_not_measurable() -> None:
    constant = torch.ones(4, 5, WIDTH).double()
    repeated = torch.randint(3, (20, 30, WIDTH), generator=torch.Generator().manual_seed(0)).double()
    for name in ("real-mixture", "activation-difference"):
        for x in (constant, repeated, constant[:1, :1]):
            if x.numel() > WIDTH:
                with pytest.raises(NotMeasurableError, match="activations repeat"):
                    prepare(AROUND[name], calibrated(x, torch.zeros_like(x)))
    with pytest.raises(NotMeasurableError, match="activation is constant"):
        prepare(AROUND["cov-random"], calibrated(constant, torch.zeros_like(constant)))
    # A constant residual around an activation that varies has directions all the same.
    x = gaussian(30, 20, WIDTH, seed=8)
    drawn("cov-random", calibrated(x, torch.ones_like(x)), context())


def test_a_gaussian_residual_with_a_mean_has_no_side() -> None:
    """KL of a linear-Gaussian model is |W(x′ − x)|²/2: both images of the residual cost the same.

    Mirrored about x instead, an exactly Gaussian and independent residual would seem to have one.
    """
    calibration = calibrated(
        gaussian(300, 50, WIDTH, seed=11), MEAN + gaussian(300, 50, WIDTH, seed=12) @ MIXING
    )
    at = context(400, 50)
    assert at.residual is not None

    def kl(moved: torch.Tensor) -> np.ndarray:
        """Means over the positions of each window, of a model whose KL is no quadratic."""
        return torch.log1p((moved @ MIXING).square().sum(-1) + 3 * (moved @ MEAN).relu()).mean(1).numpy()

    noise = np.mean([kl(drawn("noise-fitted", calibration, at, draw)) for draw in range(4)], 0)
    here = kl(-at.residual)
    odd = (here - kl(drawn("mirror", calibration, at))) / 2
    error = odd.std() / np.sqrt(len(odd))
    assert abs(odd.mean()) < 4 * error
    even = (here + kl(drawn("mirror", calibration, at))) / 2 - noise
    assert abs(even.mean()) < 4 * even.std() / np.sqrt(len(even))
    about_x = (here - kl(at.residual)) / 2
    assert abs(about_x.mean()) > 8 * about_x.std() / np.sqrt(len(about_x))
