"""The jackknifed annealed loss: by brute force, and its bias by enumeration of a two-point noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from remainder.base.paths import project_root
from remainder.measure.annealed import annealed_loss, plain_loss, unit_log_means

LOW, HIGH = 0.2, 0.9
MEAN = (LOW + HIGH) / 2
VARIANCE = (HIGH - LOW) ** 2 / 4


def jackknife(p: np.ndarray) -> float:
    """From probabilities of units, as the definition has it."""
    count = len(p)
    left_out = [-math.log(np.delete(p, u).mean()) for u in range(count)]
    return count * -math.log(p.mean()) - (count - 1) * float(np.mean(left_out))


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=9))
def test_jackknife_by_brute_force(p: list[float]) -> None:
    units = torch.tensor(p, dtype=torch.float64).log()
    both = torch.stack([units, units.flip(0)], 1)  # two tokens
    assert annealed_loss(both).tolist() == pytest.approx([jackknife(np.array(p))] * 2, rel=1e-9, abs=1e-9)


def test_tiny_probabilities_do_not_underflow() -> None:
    p = np.array([0.3, 0.5, 0.2, 0.6])
    found = float(annealed_loss(torch.tensor(p).log()[:, None] - 2000)[0])
    assert found == pytest.approx(jackknife(p) + 2000, rel=1e-12)
    assert float(annealed_loss(torch.tensor([[-3.0], [-3.0], [-3.0]]))[0]) == pytest.approx(3, rel=1e-12)


def test_units_are_means_of_consecutive_draws() -> None:
    p = np.random.default_rng(0).random((7, 5))
    found = unit_log_means(torch.from_numpy(p).float().log(), 2)
    assert found.dtype == torch.float64
    assert found.shape == (3, 5)  # the seventh draw has no partner
    np.testing.assert_allclose(found.exp(), (p[0:6:2] + p[1:6:2]) / 2, rtol=1e-6)
    single = torch.from_numpy(p).log()
    assert torch.equal(unit_log_means(single, 1), single)


@pytest.mark.parametrize("units", [0, 1])
def test_one_unit_leaves_nothing_to_leave_out(units: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 units, not {units}"):
        annealed_loss(torch.zeros(units, 3))


def biases(units: int) -> tuple[float, float]:
    """Exact bias of the plain and the jackknifed estimate: all outcomes of a fair two-point noise."""
    highs = np.arange(units + 1)
    weights = stats.binom.pmf(highs, units, 0.5)
    outcomes = torch.tensor([[HIGH] * h + [LOW] * (units - h) for h in highs]).double().log().T
    plain = math.log(units) - torch.logsumexp(outcomes, 0).numpy()
    truth = -math.log(MEAN)
    return float(weights @ plain) - truth, float(weights @ annealed_loss(outcomes).numpy()) - truth


def test_the_bias_left_is_of_second_order() -> None:
    sizes = [8, 16, 32, 64, 128]
    plain, jackknifed = np.array([biases(units) for units in sizes]).T
    # The plain one is Var(p)/(2 S p̄²), and halves with twice the draws …
    np.testing.assert_allclose(plain * sizes, VARIANCE / (2 * MEAN**2), rtol=0.15)
    np.testing.assert_allclose(plain[-1] * sizes[-1], VARIANCE / (2 * MEAN**2), rtol=0.01)
    # … of the jackknifed one a quarter is left.
    np.testing.assert_allclose(jackknifed[1:] / jackknifed[:-1], 0.25, rtol=0.25)
    assert jackknifed[-2] / jackknifed[-1] == pytest.approx(4, rel=0.05)
    assert (np.abs(jackknifed) < 0.2 * plain).all()


def test_the_bias_measured_is_the_bias_enumerated() -> None:
    generator = np.random.default_rng(0)
    p = torch.from_numpy(np.where(generator.random((8, 200_000)) < 0.5, LOW, HIGH))
    measured = annealed_loss(p.log()).numpy()
    error = measured.std() / np.sqrt(measured.size)
    plain, jackknifed = biases(8)
    assert measured.mean() + math.log(MEAN) == pytest.approx(jackknifed, abs=4 * error)
    assert plain > 50 * error  # which would have been seen


def test_an_antithetic_pair_is_one_unit() -> None:
    """Where p is odd in z, a pair's mean is exact; taken draw by draw, the jackknife would spoil it."""
    z = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, 5000)))
    draws = (0.5 + 0.45 * torch.stack([z, -z], 1).reshape(8, -1)).log()
    paired = annealed_loss(unit_log_means(draws, 2))
    torch.testing.assert_close(paired, torch.full_like(paired, math.log(2)))
    single = annealed_loss(unit_log_means(draws, 1))
    # It subtracts Var(p)/(2 S p̄²) of a bias that is not there.
    expected = (0.45**2 / 3) / (2 * 8 * 0.25)
    assert float((single - math.log(2)).mean()) == pytest.approx(-expected, rel=0.3)


def bias_of_four(p: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Bias of the plain and the jackknifed estimate of four units that have the values p, all outcomes."""
    places = np.stack(np.meshgrid(*[np.arange(len(p))] * 4, indexing="ij")).reshape(4, -1)
    units = torch.from_numpy(p[places]).log()
    weight = weights[places].prod(0)
    truth = -math.log(float(weights @ p))
    found = (weight @ made(units).numpy() - truth for made in (plain_loss, annealed_loss))
    plain, jackknifed = map(float, found)
    return plain, jackknifed


def test_the_page_on_intervals_states_the_bias_at_four_pairs() -> None:
    text = (project_root() / "docs" / "intervals.md").read_text(encoding="utf-8")
    table = text[text.index("Jackknife's move |") :].splitlines()[2:9]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    laws: list[tuple[np.ndarray, np.ndarray]] = []
    nodes, weights = np.polynomial.hermite_e.hermegauss(52)
    half = nodes > 0  # a pair is the same at ±z
    for sd in (0.5, 1.0, 2.0, 4.0):
        pair = (special.expit(-2 + sd * nodes[half]) + special.expit(-2 - sd * nodes[half])) / 2
        laws.append((pair, weights[half] / weights[half].sum()))
    for chance, other in ((0.5, 0.01), (0.1, 0.1), (0.02, 0.01)):
        laws.append((np.array([1.0, other]), np.array([chance, 1 - chance])))
    for (_, *stated), (p, weight) in zip(rows, laws, strict=True):
        plain, jackknifed = bias_of_four(p, weight)
        given = [float(cell.replace("−", "-")) for cell in stated]
        assert given == pytest.approx([plain, jackknifed, plain - jackknifed], rel=0.01, abs=1.5e-4)
