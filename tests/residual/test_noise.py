"""Keyed draws: pure functions of their place, of the right law, by an independent Philox."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from remainder.residual import noise
from remainder.residual.noise import Draw, NoiseKeys, folds, indices, normal, priorities

DOCUMENTS = tuple(f"page-{i}" for i in range(6))
PLACES = NoiseKeys(7, DOCUMENTS, (0, 1, 0, 2, 0, 5))


def philox_words(key: str, count: int) -> list[int]:
    """Philox4x64-10 as in Salmon et al. (2011), figure 2, in plain integers; counters start at 1."""
    full = 2**64 - 1
    digest = hashlib.sha256(key.encode()).digest()
    first, second = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    words: list[int] = []
    for counter in range(1, count // 4 + 2):
        state, k0, k1 = (counter, 0, 0, 0), first, second
        for _ in range(10):
            product0, product1 = 0xD2E7470EE14C6C93 * state[0], 0xCA5A826395121157 * state[2]
            high0, low0, high1, low1 = product0 >> 64, product0 & full, product1 >> 64, product1 & full
            state = (high1 ^ state[1] ^ k0, low1, high0 ^ state[3] ^ k1, low0)
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & full, (k1 + 0xBB67AE8584CAA73B) & full
        words.extend(state)
    return words[:count]


def every_stream(places: NoiseKeys, positions: int = 5, width: int = 3) -> list[torch.Tensor]:
    """All kinds of draw that there are one or more of at every position, [docs, pos, ...]."""
    return [
        normal(places, Draw(2), positions, width),
        normal(places, Draw(3), positions, width, "another"),
        indices(places, 2, positions, 1000),
        indices(places, 2, positions, torch.full((len(places.documents), positions), 77), "another"),
    ]


def test_draws_equal_an_independent_philox() -> None:
    places = NoiseKeys(11, ("page-12",), (3,))
    words = philox_words("11|normal|2|page-12|3", 12)
    expected = [special.ndtri((word // 2**12 + 0.5) / 2**52) for word in words]
    np.testing.assert_allclose(normal(places, Draw(4), 4, 3).ravel(), expected, rtol=1e-13)
    np.testing.assert_array_equal(
        indices(places, 4, 9, 77)[0], [word % 77 for word in philox_words("11|index|4|page-12|3", 9)]
    )
    sizes = [[3, 1, 10**6, 77, 5, 2]]  # one for each position
    np.testing.assert_array_equal(
        indices(places, 4, 6, torch.tensor(sizes), "cell")[0],
        [word % size for word, size in zip(philox_words("11|cell|4|page-12|3", 6), sizes[0], strict=True)],
    )
    assert priorities(places).tolist() == philox_words("11|priority|page-12|3", 1)
    digest = hashlib.sha256(b"11|fold|page-12").digest()
    assert folds(places, 3) == [int.from_bytes(digest[:8], "big") % 3]


def test_golden_values() -> None:
    """May only be appended to: a change here silently changes every record."""
    places = NoiseKeys(15, ("page-10",), (0,))
    found = normal(places, Draw(0), 1, 3).ravel().tolist()
    assert found == pytest.approx([0.584139184261587, -0.5209084931376264, 0.4512630204210807], rel=1e-14)
    assert indices(places, 0, 4, 65536)[0].tolist() == [28832, 64895, 8066, 37544]
    assert priorities(places).tolist() == [14358858728012074812]


@given(st.permutations(range(6)), st.integers(1, 6))
def test_batch_composition_and_order_change_nothing(order: list[int], size: int) -> None:
    chosen = order[:size]
    batch = NoiseKeys(7, tuple(DOCUMENTS[i] for i in chosen), tuple(PLACES.windows[i] for i in chosen))
    for whole, part in zip(every_stream(PLACES), every_stream(batch), strict=True):
        assert torch.equal(part, whole[chosen])
    assert priorities(batch).tolist() == priorities(PLACES)[chosen].tolist()
    assert folds(batch, 3) == [folds(PLACES, 3)[i] for i in chosen]


def test_folds_deal_whole_documents_about_evenly() -> None:
    documents = tuple(f"page-{i // 3}" for i in range(9000))
    dealt = np.array(folds(NoiseKeys(4, documents, tuple(i % 3 for i in range(9000))), 3)).reshape(-1, 3)
    assert (dealt == dealt[:, :1]).all()
    assert stats.chisquare(np.bincount(dealt[:, 0], minlength=3)).pvalue > 0.001
    other = np.array(folds(NoiseKeys(5, documents, (0,) * 9000), 3)).reshape(-1, 3)
    assert stats.contingency.crosstab(dealt[:, 0], other[:, 0]).count.min() > 250  # 333 if independent


def test_a_longer_window_keeps_earlier_positions() -> None:
    for long, short in zip(every_stream(PLACES, positions=9), every_stream(PLACES, positions=4), strict=True):
        assert torch.equal(long[:, :4], short)


def test_seed_document_window_pair_and_stream_all_matter() -> None:
    one = NoiseKeys(7, ("page-1",), (0,))
    others = [
        (NoiseKeys(8, ("page-1",), (0,)), Draw(0)),
        (NoiseKeys(7, ("page-2",), (0,)), Draw(0)),
        (NoiseKeys(7, ("page-1",), (1,)), Draw(0)),
        (one, Draw(2)),
    ]
    reference, rows = normal(one, Draw(0), 500, 40), indices(one, 0, 20_000, 65536)
    named = normal(one, Draw(0), 500, 40, "another")
    assert abs(float(np.corrcoef(reference.ravel(), named.ravel())[0, 1])) < 0.035
    assert float((indices(one, 0, 20_000, 65536, "another") == rows).double().mean()) < 0.001
    for places, draw in others:
        # The correlation of 20,000 independent pairs has standard deviation 0.007.
        other = normal(places, draw, 500, 40)
        assert abs(float(np.corrcoef(reference.ravel(), other.ravel())[0, 1])) < 0.035
        assert float((indices(places, draw.index, 20_000, 65536) == rows).double().mean()) < 0.001


def test_draws_of_a_pair_are_antithetic_and_indices_are_not() -> None:
    assert torch.equal(normal(PLACES, Draw(6), 5, 3), -normal(PLACES, Draw(7), 5, 3))
    assert not torch.equal(normal(PLACES, Draw(6), 5, 3).abs(), normal(PLACES, Draw(8), 5, 3).abs())
    first, second = (indices(PLACES, i, 400, 50) for i in (6, 7))
    assert float((first == second).double().mean()) < 0.05


def test_values_are_standard_normal() -> None:
    many = NoiseKeys(3, tuple(f"page-{i}" for i in range(40)), (0,) * 40)
    z = normal(many, Draw(0), 50, 50).numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.001
    for axis in range(3):  # neighbours along documents, positions and coordinates
        before, after = np.delete(z, -1, axis).ravel(), np.delete(z, 0, axis).ravel()
        assert abs(np.corrcoef(before, after)[0, 1]) < 5 / np.sqrt(before.size)
    # Not only uncorrelated: their squares are too.
    for one, other in pairwise(z[:, :, :8].reshape(-1, 8).T ** 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))


def test_indices_are_uniform() -> None:
    many = NoiseKeys(3, tuple(f"page-{i}" for i in range(40)), (0,) * 40)
    chosen = indices(many, 1, 1000, 37)
    assert stats.chisquare(np.bincount(chosen.ravel(), minlength=37)).pvalue > 0.001
    assert (int(chosen.min()), int(chosen.max())) == (0, 36)


def test_inversion_is_exact_to_float64_and_finite_at_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [0, 2**12 - 1, 2**40, 2**52, 2**60, 2**63, 2**63 + 2**61, 2**64 - 2**40, 2**64 - 1]
    monkeypatch.setattr(noise, "_raw", lambda places, stream, count: np.array([words], dtype=np.uint64))
    found = normal(NoiseKeys(0, ("a",), (0,)), Draw(0), len(words), 1).ravel().tolist()
    with mpmath.workdps(60):
        for word, z in zip(words, found, strict=True):
            u = (mpmath.mpf(word // 2**12) + mpmath.mpf(1) / 2) / 2**52
            exact = mpmath.sqrt(2) * mpmath.erfinv(2 * u - 1)
            assert z == pytest.approx(float(exact), rel=1e-14, abs=1e-15)
    assert found[0] == -found[-1]
