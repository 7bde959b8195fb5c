"""All pairs of rows at once: against plain loops, and how often equals are told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from remainder.board.paired import RESAMPLES, separate
from remainder.record.intervals import Bootstrap, Ratio

SEED = 3


def drawn(rows: int, documents: int, seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """KL sums of rows that are equal in truth, on documents that differ, and their tokens."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(200, 400, documents).astype(float)
    harm = tokens * generator.lognormal(0, 0.5, documents)
    return 0.05 * harm * generator.lognormal(0, spread, (rows, documents)), tokens


def plainly(sums: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences and margins, pair by pair and resample by resample."""
    rows, count = sums.shape
    weights = Bootstrap(count, seed=SEED, resamples=RESAMPLES).weights

    def of(i: int, j: int, w: np.ndarray) -> tuple[float, float]:
        """D and s of a pair under weights."""
        first, second = ((w @ sums[k]) / (w @ tokens) for k in (i, j))
        scale = (w @ tokens) / count
        influence = (sums[i] - first * tokens - sums[j] + second * tokens) / scale
        return first - second, math.sqrt((w @ influence**2) / (count * (count - 1)))

    ones = np.ones(count)
    base = {(i, j): of(i, j, ones) for i in range(rows) for j in range(rows) if i != j}
    largest = []
    for w in weights:
        moved = []
        for (i, j), (d, s) in base.items():
            new, error = of(i, j, w)
            moved.append(abs(new - d) / max(error, 0.1 * s))
        largest.append(max(moved))
    quantile = np.sort(largest)[math.ceil(0.95 * (RESAMPLES + 1)) - 1]
    differences, margins = np.zeros((rows, rows)), np.zeros((rows, rows))
    for (i, j), (d, s) in base.items():
        differences[i, j], margins[i, j] = d, quantile * s
    return differences, margins


def test_it_is_the_plain_account() -> None:
    sums, tokens = drawn(4, 9, seed=1)
    sums[2] *= 3
    found = separate(sums, tokens, seed=SEED)
    differences, margins = plainly(sums, tokens)
    assert found.differences == pytest.approx(differences, abs=1e-12)
    off = ~np.eye(4, dtype=bool)
    assert found.margin[off] == pytest.approx(margins[off], rel=1e-6)
    assert found.better[0, 2]
    assert not found.better[2, 0]


def test_of_two_rows_the_margin_is_about_that_of_their_interval() -> None:
    sums, tokens = drawn(2, 30, seed=2)
    both = Bootstrap(30, seed=SEED).estimate(Ratio(sums[0] - sums[1], tokens))
    assert both.high is not None
    assert both.low is not None
    margin = separate(sums, tokens, seed=SEED).margin[0, 1]
    assert margin == pytest.approx((both.high - both.low) / 2, rel=0.25)


def test_equal_rows_few_documents_and_rounding_tell_nothing_apart() -> None:
    sums, tokens = drawn(2, 20, seed=3)
    same = np.stack([sums[0], sums[0], sums[0] + 4e-7 * tokens])
    assert not separate(same, tokens, seed=SEED).better.any()
    assert separate(np.stack([sums[0], sums[0] + 1e-3 * tokens]), tokens, seed=SEED).better[0, 1]
    assert not separate(sums[:, :3] * [[1], [9]], tokens[:3], seed=SEED).better.any()
    assert separate(sums[:1], tokens, seed=SEED).better.shape == (1, 1)


@pytest.mark.parametrize(
    ("rows", "documents", "spread"), [(2, 15, 0.3), (8, 15, 0.3), (8, 32, 0.3), (8, 32, 1.0)]
)
def test_equals_are_told_apart_in_at_most_one_table_of_twenty(
    rows: int, documents: int, spread: float
) -> None:
    tables = 200
    wrong = sum(
        bool(
            separate(*drawn(rows, documents, seed=seed, spread=spread), seed=SEED, resamples=399).better.any()
        )
        for seed in range(tables)
    )
    # At a true rate of 5 %, 16 or more of 200 have a probability of .04.
    assert wrong < 16


def test_what_is_apart_is_told_apart() -> None:
    sums, tokens = drawn(6, 32, seed=5)
    better = separate(sums * np.array([0.5, 1, 1, 1, 1, 2.0])[:, None], tokens, seed=SEED).better
    assert better[0, 1:].all()
    assert better[:5, 5].all()
    assert not better[1:5, 1:5].any()
