"""Shrinkage by directions: the same as by densities for Gaussian rows, and not moved by their lengths."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from remainder.residual.covariance import NotMeasurableError, fit_covariance
from remainder.residual.elliptical import elliptical_intensity
from remainder.residual.moments import Moments

WIDTH, DOCUMENT = 40, 20


def rows_of(count: int, law: str, seed: int) -> torch.Tensor:
    """Rows of a covariance of moderate spread; of law `heavy`, documents share a length of 3 freedoms."""
    generator, fixed = np.random.default_rng(seed), np.random.default_rng(7)
    turn, back = (np.linalg.qr(fixed.normal(size=(WIDTH, WIDTH)))[0] for _ in range(2))
    rows = generator.normal(size=(count, WIDTH)) @ (turn * np.geomspace(1, 0.25, WIDTH)) @ back
    if law == "heavy":
        lengths = np.sqrt(3 / generator.chisquare(3, count // DOCUMENT))
        rows = rows * np.repeat(lengths, DOCUMENT)[:, None]
    return torch.from_numpy(rows)


def dealt(rows: torch.Tensor) -> list[torch.Tensor]:
    edges = [0, len(rows) // 3 // DOCUMENT * DOCUMENT, 2 * (len(rows) // 3) // DOCUMENT * DOCUMENT, len(rows)]
    return [rows[a:b] for a, b in pairwise(edges)]


def both(parts: list[torch.Tensor]) -> tuple[float, float]:
    """λ by densities, which is today's rule, and by directions."""
    folds = [Moments.of(part) for part in parts]
    found = elliptical_intensity(folds, lambda fold: torch.split(parts[fold], 64))
    return fit_covariance(folds).intensity, found


def best(parts: list[torch.Tensor]) -> float:
    """The λ whose covariance has the right shape: least log det V + d log tr V⁻¹Σ, with the true Σ."""
    fixed = np.random.default_rng(7)
    _, back = (np.linalg.qr(fixed.normal(size=(WIDTH, WIDTH)))[0] for _ in range(2))
    truth = torch.from_numpy(back.T @ np.diag(np.geomspace(1, 0.25, WIDTH) ** 2) @ back)
    folds = [Moments.of(part) for part in parts]

    def cost(exponent: float) -> float:
        sigma = fit_covariance(folds, given=10.0**exponent).matrix
        return float(torch.logdet(sigma) + WIDTH * torch.linalg.solve(sigma, truth).trace().log())

    grid = np.linspace(-3, 0, 61)
    return float(10 ** grid[int(np.argmin([cost(one) for one in grid]))])


def test_for_gaussian_rows_directions_say_what_densities_say() -> None:
    for seed in range(3):
        density, direction = both(dealt(rows_of(600, "gaussian", seed)))
        assert abs(math.log(direction / density)) < 0.3


def test_heavy_tails_inflate_the_density_and_not_the_direction() -> None:
    found = []
    for seed in range(6):
        parts = dealt(rows_of(2000, "heavy", seed))
        found.append((*both(parts), best(parts)))
    density, direction, oracle = np.exp(np.log(np.array(found)).mean(0))
    # .26 by densities, .12 by directions; .11 gives the best shape
    assert density > 1.6 * direction
    assert abs(math.log(direction / oracle)) < 0.35
    assert abs(math.log(density / oracle)) > 0.5


def test_the_length_of_a_held_out_row_does_not_matter() -> None:
    parts = dealt(rows_of(600, "gaussian", 1))
    folds = [Moments.of(part) for part in parts]
    centres = [
        Moments.merged([other for j, other in enumerate(folds) if j != i]).mean for i in range(len(folds))
    ]
    stretched = [
        centre + (part - centre) * torch.linspace(0.1, 9, len(part))[:, None]
        for part, centre in zip(parts, centres, strict=True)
    ]
    plain, other = (
        elliptical_intensity(folds, lambda fold, given=given: [given[fold]]) for given in (parts, stretched)
    )
    assert plain == other


def test_the_cost_is_the_angular_central_gaussian_density() -> None:
    """By brute force in the plane: the density of the angle of N(0, V), integrated to one by its formula."""
    from remainder.residual.elliptical import _GRID, _cost

    eigenvalues, target = torch.tensor([2.0, 0.3]).double(), 1.0
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    costs = _cost(z.square(), eigenvalues, target)
    for place in (10, 40, 60):
        intensity = 10.0 ** _GRID[place]
        v = ((1 - intensity) * eigenvalues + intensity * target).numpy()
        angles = np.arctan2(z[:, 1].numpy(), z[:, 0].numpy())
        density = 1 / (
            2 * math.pi * math.sqrt(v.prod()) * (np.cos(angles) ** 2 / v[0] + np.sin(angles) ** 2 / v[1])
        )
        lengths = z.square().sum(-1).log().sum()
        expected = -2 * np.log(density).sum() - 2 * 40 * math.log(2 * math.pi) + 2 * float(lengths)
        assert costs[place] == pytest.approx(expected, rel=1e-9)


def test_what_has_no_directions_says_so() -> None:
    rows = rows_of(100, "gaussian", 1)
    with pytest.raises(NotMeasurableError, match="one fold"):
        elliptical_intensity([Moments.of(rows), Moments.empty(WIDTH)], lambda _: [rows])
    constant = torch.ones(30, WIDTH).double()
    with pytest.raises(NotMeasurableError, match="constant"):
        elliptical_intensity([Moments.of(constant)] * 2, lambda _: [constant])


def test_a_residual_in_a_subspace_is_shrunk_within_it() -> None:
    plane = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3)).double()
    parts = dealt(rows_of(600, "gaussian", 2)[:, :8] @ plane)
    density, direction = both(parts)
    assert 0 < direction < 1
    assert abs(math.log10(direction / density)) < 0.5
