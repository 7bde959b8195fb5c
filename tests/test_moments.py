"""Streaming moments against numpy.cov; the keyed bank against a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from remainder.errors import MeasurementError
from remainder.residual.moments import Bank, Calibration, Moments
from remainder.residual.noise import Places, priorities


def correlated(seed: int, rows: int, width: int) -> torch.Tensor:
    """Skewed, correlated rows with a mean, float64."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(
        generator.exponential(size=(rows, width)) @ generator.normal(size=(width, width)) + 3.0
    )


def moments_of(*parts: torch.Tensor) -> Moments:
    """The parts, one update each."""
    moments = Moments.empty(parts[0].shape[1])
    for part in parts:
        moments.update(part)
    return moments


def assert_same(one: Moments, other: Moments, tolerance: float = 1e-12) -> None:
    """Equal counts; means and scatters equal relative to their largest entry."""
    assert one.count == other.count
    for a, b in ((one.mean, other.mean), (one.scatter, other.scatter)):
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def test_moments_equal_numpy() -> None:
    rows = correlated(0, 501, 6)
    moments = moments_of(*rows.split([1, 200, 0, 37, 263]))
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.numpy(), rowvar=False), rtol=1e-11)
    assert moments.count == 501


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_and_sharding_agrees(sizes: list[int], random) -> None:
    rows = correlated(len(sizes), sum(sizes) + 2, 5)
    shards = [moments_of(part) for part in rows.split([*sizes, 2])]
    random.shuffle(shards)
    while len(shards) > 1:  # a random tree of merges
        left, right = shards.pop(random.randrange(len(shards))), shards.pop()
        left.merge(right)
        shards.append(left)
    assert_same(shards[0], moments_of(rows))


def test_a_huge_mean_costs_no_digits() -> None:
    # The textbook E x² − (E x)² would keep five digits here.
    rows = (correlated(1, 4000, 4) * 1024).round() / 1024  # so that adding 2²⁰ is exact
    near, far = moments_of(*rows.split(100)), moments_of(*(rows + 2.0**20).split(100))
    assert float((far.scatter - near.scatter).abs().max()) <= 1e-9 * float(near.scatter.abs().max())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_refused_and_leave_no_trace(bad: float) -> None:
    rows = correlated(2, 30, 3)
    moments = moments_of(rows)
    spoilt = rows.clone()
    spoilt[4, 1] = spoilt[9, 0] = bad
    with pytest.raises(MeasurementError, match="2 of 30 rows"):
        moments.update(spoilt)
    assert_same(moments, moments_of(rows), 0.0)


def test_a_covariance_needs_two_rows() -> None:
    moments = moments_of(torch.ones(1, 3))
    with pytest.raises(MeasurementError, match="at least 2 rows, 1"):
        _ = moments.covariance


# ------------------------------------------------------------------------------------------------ bank

WINDOWS, POSITIONS = 12, 10
DOCUMENTS, INDICES = tuple(f"page-{i % 7}" for i in range(WINDOWS)), tuple(i // 7 for i in range(WINDOWS))
# A row says where it is from: document, window, position.
VALUES = torch.tensor(
    [[[i % 7, i // 7, t] for t in range(POSITIONS)] for i in range(WINDOWS)], dtype=torch.float64
)
MASK = torch.rand(WINDOWS, POSITIONS, generator=torch.Generator().manual_seed(0)) < 0.7


def bank_of(capacity: int, batches: list[list[int]], seed: int = 5) -> Bank:
    """A bank that was offered these batches of windows."""
    bank = Bank(capacity)
    for batch in batches:
        places = Places(seed, tuple(DOCUMENTS[i] for i in batch), tuple(INDICES[i] for i in batch))
        bank.update(places, VALUES[batch], MASK[batch])
    return bank


@given(st.permutations(range(WINDOWS)), st.integers(1, WINDOWS), st.integers(1, 200))
def test_the_bank_depends_neither_on_batches_nor_on_order(order: list[int], size: int, capacity: int) -> None:
    bank = bank_of(capacity, [order[i : i + size] for i in range(0, WINDOWS, size)])
    # By brute force: all rows sorted by key.
    keys = priorities(Places(5, DOCUMENTS, INDICES), POSITIONS)[MASK.numpy()]
    expected = VALUES[MASK][np.argsort(keys).tolist()][:capacity]
    assert bank.rows is not None
    assert torch.equal(bank.rows.double(), expected)


def test_a_smaller_bank_is_the_head_of_a_larger_one_and_the_seed_matters() -> None:
    everything = [list(range(WINDOWS))]
    large, small, other = bank_of(60, everything), bank_of(20, everything), bank_of(20, everything, seed=6)
    assert large.rows is not None
    assert small.rows is not None
    assert other.rows is not None
    assert torch.equal(large.rows[:20], small.rows)
    assert not torch.equal(other.rows, small.rows)


def test_the_bank_is_a_uniform_sample() -> None:
    chosen = torch.zeros(7, 2, POSITIONS)
    for seed in range(300):
        rows = bank_of(10, [list(range(WINDOWS))], seed).rows
        assert rows is not None
        for document, window, position in rows.long().tolist():
            chosen[document, window, position] += 1
    offered = torch.stack([chosen[i % 7, i // 7] for i in range(WINDOWS)])
    assert float(chosen.sum()) == float(offered[MASK].sum()) == 3000
    # Without replacement, counts scatter a little less than a multinomial's: both tails are tested.
    statistic = stats.chi2(int(MASK.sum()) - 1)
    spread = stats.chisquare(offered[MASK].numpy()).statistic
    shrink = 1 - 10 / int(MASK.sum())
    assert statistic.ppf(0.0005) < spread / shrink < statistic.ppf(0.9995)


def test_calibration_counts_masked_rows_only() -> None:
    calibration = Calibration.empty(3, capacity=8)
    calibration.update(Places(5, DOCUMENTS, INDICES), VALUES, MASK)
    assert calibration.moments.count == int(MASK.sum())
    np.testing.assert_allclose(
        calibration.moments.covariance, np.cov(VALUES[MASK].numpy(), rowvar=False), rtol=1e-11, atol=1e-12
    )
    assert calibration.documents == set(DOCUMENTS)
    assert torch.equal(calibration.bank.rows, bank_of(8, [list(range(WINDOWS))]).rows)
