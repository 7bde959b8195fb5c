"""Streaming moments against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remainder.errors import MeasurementError
from remainder.residual.moments import Moments


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


def test_parts_sums_and_other_centres_equal_numpy() -> None:
    rows = correlated(3, 400, 5)
    parts = [moments_of(part) for part in rows.split([150, 1, 249])]
    counts = [part.count for part in parts]
    assert_same(Moments.merged(parts), moments_of(rows))
    assert counts == [part.count for part in parts]  # they stay as they were
    assert_same(Moments.of(rows), moments_of(rows), 0.0)
    assert_same(Moments.of(rows).part(slice(1, 4)), Moments.of(rows[:, 1:4]))
    centre = rows[7]
    about = ((rows - centre).T @ (rows - centre)).numpy()
    np.testing.assert_allclose(Moments.of(rows).about(centre), about, rtol=1e-11, atol=1e-11 * about.max())
