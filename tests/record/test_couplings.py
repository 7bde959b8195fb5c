"""Minima of quadratics against a numerical optimiser, and fitted couplings against curves that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, special

from remainder.record.couplings import (
    FULL_GRID,
    QUICK_GRID,
    GridPoint,
    fit_couplings,
    minimum_in_box,
    point_of,
    rung_of,
)


@pytest.mark.parametrize("grid", [QUICK_GRID, FULL_GRID])
def test_minima_are_those_of_a_numerical_optimiser(grid: tuple[GridPoint, ...]) -> None:
    """Bowls, saddles and domes with random centres, many of them outside the box."""
    generator = np.random.default_rng(0)
    low, high = np.min(grid, 0), np.max(grid, 0)
    edges = 0
    for _ in range(100):
        c = generator.normal(size=8) * [1, 1, 2, 1, 1, 1, 1, 2] + [0, 0, 2, 0, 1, 0, 0, 2]

        def polynomial(at: np.ndarray, c: np.ndarray = c) -> float:
            u, v = (np.asarray(at) - low) / (high - low) * 2 - 1
            return float(c @ [1, u, u**2, u**3, u**4, v, u * v, v * v])

        losses = np.array([[polynomial(np.array(point)) for point in grid]])
        best, edge = minimum_in_box(grid, losses)
        starts = itertools.product(np.linspace(low[0], high[0], 4), np.linspace(low[1], high[1], 3))
        bounds = list(zip(low, high, strict=True))
        theirs = min(optimize.minimize(polynomial, start, bounds=bounds).fun for start in starts)
        assert polynomial(best[0]) == pytest.approx(theirs, abs=1e-4)
        on_edge = bool((np.abs(best[0] - low) < 1e-9).any() or (np.abs(best[0] - high) < 1e-9).any())
        assert bool(edge[0].any()) is on_edge
        edges += on_edge
    assert 20 < edges < 80


def test_where_the_source_does_not_matter_it_is_left_alone() -> None:
    losses = np.array([[2 + (point.alpha - 0.6) ** 2 for point in QUICK_GRID]])
    best, edge = minimum_in_box(QUICK_GRID, losses)
    np.testing.assert_allclose(best, [[0.6, 1.0]], atol=1e-3)
    assert not edge.any()


def test_a_point_is_found_again_from_the_name_of_its_rung() -> None:
    for point in FULL_GRID:
        assert point_of(rung_of(point)) == point
    assert point_of("full") is None
    assert point_of("coupled") is None


def losses_of(alpha: float, beta: float, documents: int = 20) -> dict[GridPoint, np.ndarray]:
    """Sums over 100 tokens of each document: a bowl around (α, β), a little elsewhere in each document."""
    shift = np.random.default_rng(1).normal(0, 0.05, documents)
    return {
        point: 100 * (2 + (point.alpha - alpha - shift) ** 2 + 20 * (point.beta - beta + shift / 20) ** 2)
        for point in QUICK_GRID
    }


def test_the_fit_finds_the_bowl_with_an_interval_around_it() -> None:
    losses = losses_of(0.8, 1.02)
    tokens = np.full(20, 100.0)
    found = fit_couplings(losses, losses, np.full(20, 150.0), tokens, draws=4, seed=0)
    assert not found.edge
    # The pooled bowl lies at the mean of the documents' own.
    shift = np.random.default_rng(1).normal(0, 0.05, 20)
    for number, centre in ((found.alpha, 0.8 + shift), (found.beta, 1.02 - shift / 20)):
        assert number.value == pytest.approx(centre.mean(), abs=1e-3)
        assert number.low is not None
        assert number.high is not None
        assert number.high - number.low == pytest.approx(2 * 1.96 * centre.std() / 20**0.5, rel=0.1)
    point = next(p for p in found.grid if (p.alpha, p.beta) == (0.75, 1.0))
    assert point.annealed.value == pytest.approx((losses[GridPoint(0.75, 1.0)].sum() - 3000) / 2000, rel=1e-5)


def test_a_minimum_outside_is_put_on_the_edge_and_flagged() -> None:
    losses = losses_of(2.0, 1.0)
    found = fit_couplings(losses, losses, np.zeros(20), np.full(20, 100.0), draws=4, seed=0)
    assert found.edge
    assert found.alpha.value == 1.25


def test_an_amplitude_that_moves_nothing_has_no_value() -> None:
    losses = {point: np.full(20, 200 + 100 * (point.alpha - 0.7) ** 2) for point in QUICK_GRID}
    found = fit_couplings(losses, losses, np.zeros(20), np.full(20, 100.0), draws=4, seed=0)
    assert found.alpha.value == pytest.approx(0.7, abs=1e-3)
    assert found.beta.value is None
    assert found.beta.reason == "source of any amplitude gives the same loss"
    assert not found.edge
    flat = {point: np.full(20, 200.0) for point in QUICK_GRID}
    found = fit_couplings(flat, flat, np.zeros(20), np.full(20, 100.0), draws=4, seed=0)
    assert found.alpha.value is found.beta.value is None


def test_few_documents_give_no_interval() -> None:
    losses = losses_of(0.8, 1.0, documents=3)
    found = fit_couplings(losses, losses, np.zeros(3), np.full(3, 100.0), draws=4, seed=0)
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
    found = fit_couplings(losses, losses, np.zeros(20), np.full(20, 100.0), draws=2, seed=0)
    exact = optimize.minimize(loss, [1.0, 1.0], bounds=[(0.25, 1.25), (0.9, 1.1)]).x
    assert (found.beta.value is None) is (kept == 0)  # nothing is kept: there is no source
    assert found.alpha.value is not None
    assert found.alpha.value == pytest.approx(exact[0], abs=0.05)
    assert (found.alpha.value < 0.87) is weak
