"""Minima of quadratics against a numerical optimiser, and fitted couplings against curves that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, special

from remainder.errors import MeasurementError
from remainder.record.couplings import (
    FULL_GRID,
    QUICK_GRID,
    Grid,
    GridPoint,
    farther,
    fit_couplings,
    minimum_in_box,
    point_of,
    rung_of,
)


@pytest.mark.parametrize("grid", [QUICK_GRID, FULL_GRID])
def test_minima_are_those_of_a_numerical_optimiser(grid: tuple[GridPoint, ...]) -> None:
    """Bowls and domes that are even in α, with random centres, many of them outside the box."""
    generator = np.random.default_rng(0)
    low, high = np.min(grid, 0), np.max(grid, 0)
    edges = 0
    for _ in range(60):
        a, b = generator.uniform(0, 2.5), generator.uniform(0.7, 1.3)
        tilt, bend = generator.normal(0, 0.3), generator.uniform(-1, 6)

        def surface(at: np.ndarray, c: tuple[float, ...] = (a, b, tilt, bend)) -> float:
            x, v = (at[0] ** 2 - c[0] ** 2) / 2, at[1] - c[1]
            return float(x * x / 4 + c[3] * v * v + c[2] * x * v)

        losses = np.array([[surface(np.array(point)) for point in grid]])
        best, edge = minimum_in_box(grid, losses)
        starts = itertools.product(np.linspace(low[0], high[0], 4), np.linspace(low[1], high[1], 3))
        bounds = list(zip(low, high, strict=True))
        theirs = min(optimize.minimize(surface, start, bounds=bounds).fun for start in starts)
        assert surface(best[0]) == pytest.approx(theirs, abs=2e-3)
        outer = [best[0][0] > high[0] - 1e-9, best[0][1] < low[1] + 1e-9 or best[0][1] > high[1] - 1e-9]
        assert edge[0].tolist() == outer
        edges += any(outer)
    assert 15 < edges < 50


def test_where_the_source_does_not_matter_it_is_left_alone() -> None:
    losses = np.array([[2 + (point.alpha**2 - 0.36) ** 2 for point in QUICK_GRID]])
    best, edge = minimum_in_box(QUICK_GRID, losses)
    np.testing.assert_allclose(best, [[0.6, 1.0]], atol=0.01)
    assert not edge.any()


def test_no_noise_at_all_is_no_edge() -> None:
    losses = np.array([[2 + point.alpha**2 + (point.beta - 0.9) ** 2 for point in FULL_GRID]])
    best, edge = minimum_in_box(FULL_GRID, losses)
    np.testing.assert_allclose(best, [[0.0, 0.9]], atol=1e-9)
    assert not edge.any()


def test_points_that_are_no_grid_are_refused() -> None:
    for points in (QUICK_GRID[1:], ()):
        with pytest.raises(MeasurementError, match="are no grid of"):
            minimum_in_box(points, np.zeros((1, len(points))))


def test_a_point_is_found_again_from_the_name_of_its_rung() -> None:
    for point in FULL_GRID:
        assert point_of(rung_of(point)) == point
    assert point_of("full") is None
    assert point_of("coupled") is None


def grid_with(losses: dict[GridPoint, np.ndarray], clean: float = 0.0) -> Grid:
    """A grid whose annealed losses are the quenched ones, 100 tokens a document."""
    documents = len(next(iter(losses.values())))
    return Grid(losses, losses, np.full(documents, clean), np.full(documents, 100.0), 4)


def losses_of(
    alpha: float, beta: float, documents: int = 20, points: tuple[GridPoint, ...] = QUICK_GRID
) -> dict[GridPoint, np.ndarray]:
    """Sums over 100 tokens of each document: a bowl around (α, β), a little elsewhere in each document.

    Without noise the best β is lower by .05.
    """
    shift = np.random.default_rng(1).normal(0, 0.05, documents)
    return {
        p: 100 * (2 + (p.alpha**2 - alpha**2 - shift) ** 2 / 4 + 20 * (p.beta - beta + shift / 20) ** 2)
        + (p.alpha == 0) * 200 * (p.beta - beta)
        for p in points
    }


def test_the_fit_finds_the_bowl_with_an_interval_around_it() -> None:
    losses = losses_of(1.0, 1.02, points=FULL_GRID)
    found = fit_couplings(grid_with(losses, 150.0), seed=0)
    assert not found.edge
    # The pooled bowl lies at the mean of the documents' own.
    shift = np.random.default_rng(1).normal(0, 0.05, 20)
    assert found.alpha.value == pytest.approx(np.sqrt(1 + shift.mean()), abs=5e-3)
    assert found.beta.value == pytest.approx((1.02 - shift / 20).mean(), abs=1e-3)
    assert found.beta_alone is not None
    assert found.beta_alone.value == pytest.approx((0.97 - shift / 20).mean(), abs=1e-3)
    for number, spread in ((found.alpha, shift.std() / 2), (found.beta, shift.std() / 20)):
        assert number.low is not None
        assert number.high is not None
        assert number.high - number.low == pytest.approx(2 * 1.96 * spread / 20**0.5, rel=0.15)
    point = next(p for p in found.grid if (p.alpha, p.beta) == (0.6, 1.0))
    assert point.annealed.value == pytest.approx((losses[GridPoint(0.6, 1.0)].sum() - 3000) / 2000, rel=1e-5)


def test_a_minimum_outside_is_put_on_the_edge_and_flagged_and_the_grid_made_longer_there() -> None:
    found = fit_couplings(grid_with(losses_of(2.2, 1.0)), seed=0)
    assert found.edge
    assert found.alpha.value == 1.6
    more = farther(found)
    assert set(more) == {GridPoint(alpha, beta) for alpha in (2.0, 2.5) for beta in (0.8, 1.0, 1.2)}
    longer = fit_couplings(grid_with(losses_of(2.2, 1.0, points=(*QUICK_GRID, *more))), seed=0)
    assert not longer.edge
    assert longer.alpha.value == pytest.approx(2.2, abs=0.02)
    assert farther(longer) == ()


@pytest.mark.parametrize(("beta", "more"), [(0.6, (0.5, 0.65)), (1.6, (1.5, 2.0))])
def test_the_grid_is_made_longer_where_the_source_is(beta: float, more: tuple[float, ...]) -> None:
    found = fit_couplings(grid_with(losses_of(1.0, beta)), seed=0)
    assert found.edge
    added = farther(found)
    assert {point.beta for point in added} == set(more)
    assert {point.alpha for point in added} == {point.alpha for point in QUICK_GRID}


def test_the_source_alone_makes_the_grid_longer_too() -> None:
    found = fit_couplings(grid_with(losses_of(1.0, 0.83)), seed=0)
    assert found.beta.value == pytest.approx(0.83, abs=0.01)
    assert found.beta_alone is not None
    assert found.beta_alone.value == 0.8
    assert {point.beta for point in farther(found)} == {0.5, 0.65}


def test_an_amplitude_that_moves_nothing_has_no_value() -> None:
    losses = {point: np.full(20, 200 + 100 * (point.alpha**2 - 0.49) ** 2) for point in QUICK_GRID}
    found = fit_couplings(grid_with(losses), seed=0)
    assert found.alpha.value == pytest.approx(0.7, abs=0.02)
    assert found.beta.value is None
    assert found.beta.reason == "source of any amplitude gives the same loss"
    assert not found.edge
    flat = {point: np.full(20, 200.0) for point in QUICK_GRID}
    found = fit_couplings(grid_with(flat), seed=0)
    assert found.alpha.value is found.beta.value is None


def test_few_documents_give_no_interval() -> None:
    found = fit_couplings(grid_with(losses_of(1.0, 1.0, documents=3)), seed=0)
    assert found.alpha.low is None
    assert found.alpha.reason is not None
    assert "3 documents" in found.alpha.reason


@pytest.mark.parametrize(("kept", "weak"), [(0, True), (4, False), (8, False)])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_control_d_has_the_couplings_that_enumeration_gives(decay: float, kept: int, weak: bool) -> None:
    """Planted impurities: exact annealed losses on the grid, and their exact minimum beside it.

    With every impurity left in the background the noise must be weakened; with the big ones kept it need not.
    """
    p, s, a, count = 0.1, 0.05**0.5, 4.0, 12
    c = 2.0 ** (-decay * np.arange(count))
    c = c / np.sqrt((c**2).sum() * p * (1 - p))
    tau = p * c.sum() + 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(81)
    weights = weights / weights.sum()

    def states(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bits = np.array(list(itertools.product([0, 1], repeat=len(c)))).reshape(2 ** len(c), len(c))
        return bits @ c, np.where(bits == 1, p, 1 - p).prod(1)

    source, source_p = states(c[:kept])
    rest, rest_p = states(c[kept:])
    # The model's own probability of y = 1 given the kept features, over all that is left out.
    logits = a * (source[:, None, None] + rest[:, None] + s * nodes - tau)
    truth = np.einsum("krn,r,n->k", special.expit(logits), rest_p, weights)
    mean = p * c[kept:].sum()
    deviation = np.sqrt(p * (1 - p) * (c[kept:] ** 2).sum() + s**2)
    centre = source @ source_p

    def loss(at: np.ndarray) -> float:
        alpha, beta = at
        x = centre + beta * (source - centre) + mean
        predicted = special.expit(a * (x[:, None] + alpha * deviation * nodes - tau)) @ weights
        return float(-(truth * np.log(predicted) + (1 - truth) * np.log1p(-predicted)) @ source_p)

    losses = {point: np.full(20, 100 * loss(np.array(point))) for point in FULL_GRID}
    found = fit_couplings(grid_with(losses), seed=0)
    exact = optimize.minimize(loss, [1.0, 1.0], bounds=[(0.0, 1.6), (0.8, 1.2)]).x
    assert (found.beta.value is None) is (kept == 0)  # nothing is kept: there is no source
    assert found.alpha.value is not None
    assert found.alpha.value == pytest.approx(exact[0], abs=0.05)
    assert (found.alpha.value < 0.86) is weak
