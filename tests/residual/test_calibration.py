"""What residual models are fitted to: folds, merging, and the bank of windows against a plain sort."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from remainder.errors import MeasurementError
from remainder.record.rungs import FOLDS
from remainder.residual import calibration as module
from remainder.residual.calibration import LARGE, Bank, Calibration
from remainder.residual.noise import NoiseKeys, folds, priorities

WINDOWS, POSITIONS = 12, 10
DOCUMENTS, INDICES = tuple(f"page-{i % 7}" for i in range(WINDOWS)), tuple(i // 7 for i in range(WINDOWS))
# A row says where it is from: document, window, position.
VALUES = torch.tensor(
    [[[i % 7, i // 7, t] for t in range(POSITIONS)] for i in range(WINDOWS)], dtype=torch.float64
)
MASK = torch.rand(WINDOWS, POSITIONS, generator=torch.Generator().manual_seed(0)) < 0.7


def places_of(windows: list[int], seed: int = 5) -> NoiseKeys:
    return NoiseKeys(seed, tuple(DOCUMENTS[i] for i in windows), tuple(INDICES[i] for i in windows))


def bank_of(capacity: int, batches: list[list[int]], seed: int = 5) -> Bank:
    """A bank that was offered these batches of windows; reconstructions are the residuals plus 100."""
    bank = Bank(capacity)
    for batch in batches:
        bank.update(places_of(batch, seed), VALUES[batch] + 100, VALUES[batch], MASK[batch])
    return bank


def assert_same_bank(one: Bank, other: Bank) -> None:
    for mine, theirs in zip(one.filled, other.filled, strict=True):
        assert torch.equal(mine, theirs)


def expected_windows(capacity: int, seed: int = 5) -> list[int]:
    """By brute force: windows in the order of their keys, as long as their spliced rows fit."""
    chosen: list[int] = []
    for i in np.argsort(priorities(places_of(list(range(WINDOWS)), seed))).tolist():
        if chosen and int(MASK[[*chosen, i]].sum()) > capacity:
            break
        chosen.append(i)
    return chosen


# A window that does not fit is dropped for good: nothing beyond it may take the room that is left.
BY_KEY = np.argsort(priorities(places_of(list(range(WINDOWS))))).tolist()
LAST_FIRST = [*BY_KEY[:6], *BY_KEY[:5:-1]]


@given(st.permutations(range(WINDOWS)), st.integers(1, WINDOWS), st.integers(1, 100))
@example(LAST_FIRST, 6, 20)
@example(LAST_FIRST, 6, 25)
@example(LAST_FIRST, 6, 30)
def test_the_bank_depends_neither_on_batches_nor_on_order(order: list[int], size: int, capacity: int) -> None:
    bank = bank_of(capacity, [order[i : i + size] for i in range(0, WINDOWS, size)])
    chosen = expected_windows(capacity)
    residual, reconstruction, mask = bank.filled
    assert torch.equal(mask, MASK[chosen])
    assert torch.equal(residual.double(), torch.where(mask[..., None], VALUES[chosen], 0.0))
    assert torch.equal(reconstruction.double(), torch.where(mask[..., None], VALUES[chosen] + 100, 0.0))
    assert torch.equal(bank.rows().double(), VALUES[chosen][MASK[chosen]])
    assert torch.equal(bank.reconstructions(), bank.rows() + 100)


@given(st.permutations(range(WINDOWS)), st.integers(1, WINDOWS - 1), st.integers(1, 100))
def test_merged_banks_are_the_bank_of_everything(order: list[int], cut: int, capacity: int) -> None:
    merged = bank_of(capacity, [order[:cut]])
    merged.merge(bank_of(capacity, [order[cut:]]))
    merged.merge(Bank(capacity))
    assert_same_bank(merged, bank_of(capacity, [list(range(WINDOWS))]))


def test_a_window_larger_than_the_bank_is_kept_alone() -> None:
    assert bank_of(1, [list(range(WINDOWS))]).filled[2].shape == (1, POSITIONS)
    assert len(expected_windows(30)) > 1  # else the tests above would show little


def test_a_smaller_bank_is_the_head_of_a_larger_one_and_the_seed_matters() -> None:
    everything = [list(range(WINDOWS))]
    large, small, other = bank_of(60, everything), bank_of(20, everything), bank_of(20, everything, seed=6)
    assert torch.equal(large.rows()[: len(small.rows())], small.rows())
    assert small.rows().shape != other.rows().shape or not torch.equal(other.rows(), small.rows())


def test_the_bank_is_a_uniform_sample_of_windows() -> None:
    full = torch.ones(WINDOWS, POSITIONS).bool()
    places, times = places_of(list(range(WINDOWS))), 900
    chosen = np.zeros((7, 2), dtype=int)
    for seed in range(times):
        bank = Bank(3 * POSITIONS)
        bank.update(places._replace(seed=seed), VALUES, VALUES, full)
        for document, window, _ in bank.filled[0][:, 0].long().tolist():
            chosen[document, window] += 1
    counts = np.array([chosen[i % 7, i // 7] for i in range(WINDOWS)])
    assert counts.sum() == chosen.sum() == 3 * times
    # Without replacement, counts scatter less than a multinomial's, by (n − k)/(n − 1).
    statistic = stats.chisquare(counts).statistic / ((WINDOWS - 3) / (WINDOWS - 1))
    assert stats.chi2(WINDOWS - 1).ppf(0.0005) < statistic < stats.chi2(WINDOWS - 1).ppf(0.9995)


@pytest.mark.parametrize("offered", [False, True])
def test_an_empty_bank_says_so(offered: bool) -> None:
    bank = Bank(10)
    if offered:
        bank.update(places_of([0, 1]), VALUES[:2], VALUES[:2], torch.zeros(2, POSITIONS).bool())
    for read in (bank.rows, bank.reconstructions):
        with pytest.raises(MeasurementError, match="bank of real residuals is empty"):
            read()


# ------------------------------------------------------------------------------------------ calibration


def activations(windows: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reconstruction and residual [windows, pos, d], skewed, correlated and coupled; and a mask."""
    generator = np.random.default_rng(seed)
    raw = generator.exponential(size=(windows, POSITIONS, 2 * width))
    both = torch.from_numpy(raw @ generator.normal(size=(2 * width, 2 * width)) + 3.0)
    mask = torch.from_numpy(generator.random((windows, POSITIONS)) < 0.8)
    return both[..., :width], both[..., width:], mask


def shard_of(
    windows: list[int], data: tuple[torch.Tensor, torch.Tensor, torch.Tensor], capacity: int
) -> Calibration:
    """Calibration on some windows, one batch; documents have two windows each."""
    calibration = Calibration.empty(data[0].shape[-1], capacity)
    places = NoiseKeys(5, tuple(f"c-{i // 2}" for i in windows), tuple(i % 2 for i in windows))
    calibration.update(places, *(part[windows] for part in data))
    return calibration


def test_moments_and_folds_equal_numpy() -> None:
    x, r, mask = activations(40, 4)
    calibration = shard_of(list(range(40)), (x, r, mask), 100)
    rows = np.concatenate([x[mask].numpy(), r[mask].numpy()], 1)
    joint = calibration.joint
    assert joint.count == calibration.tokens == len(rows)
    np.testing.assert_allclose(joint.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(joint.covariance, np.cov(rows, rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(calibration.moments.covariance, np.cov(rows[:, 4:], rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(calibration.mean, rows[:, 4:].mean(0), rtol=1e-12)
    np.testing.assert_allclose(calibration.reconstruction_mean, rows[:, :4].mean(0), rtol=1e-12)
    assert calibration.documents == {f"c-{i}" for i in range(20)}
    # A fold holds all windows of its documents, and no others.
    dealt = np.array(folds(NoiseKeys(5, tuple(f"c-{i // 2}" for i in range(40)), (0,) * 40), FOLDS))
    assert set(dealt) == set(range(FOLDS))
    assert (dealt[::2] == dealt[1::2]).all()
    for fold, (whole, part) in enumerate(zip(calibration.folds, calibration.residual_folds, strict=True)):
        mine = torch.from_numpy(dealt == fold)
        assert whole.count == part.count == int(mask[mine].sum())
        np.testing.assert_allclose(part.mean, r[mine][mask[mine]].mean(0), rtol=1e-12)
        np.testing.assert_allclose(part.covariance, np.cov(r[mine][mask[mine]].T.numpy()), rtol=1e-9)
        np.testing.assert_allclose(whole.mean[:4], x[mine][mask[mine]].mean(0), rtol=1e-12)


@given(
    st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4), st.randoms(use_true_random=False)
)
def test_merging_shards_in_any_order_agrees(order: list[int], cuts: list[int], random) -> None:
    data = activations(12, 3)
    whole = shard_of(list(range(12)), data, 40)
    edges = [0, *sorted(set(cuts)), 12]
    shards = [shard_of(order[a:b], data, 40) for a, b in pairwise(edges)]
    while len(shards) > 1:  # a random tree of merges
        left, right = shards.pop(random.randrange(len(shards))), shards.pop()
        left.merge(right)
        shards.append(left)
    merged = shards[0]
    assert merged.tokens == whole.tokens
    assert merged.documents == whole.documents
    assert_same_bank(merged.bank, whole.bank)
    for mine, theirs in zip(merged.folds, whole.folds, strict=True):
        assert mine.count == theirs.count
        for a, b in ((mine.mean, theirs.mean), (mine.scatter, theirs.scatter)):
            assert float((a - b).abs().max()) <= 1e-12 * float(b.abs().max())


def test_what_was_fitted_is_shared_until_more_is_seen() -> None:
    data = activations(12, 3)
    calibration = shard_of([0, 1, 2], data, 40)
    seen: list[int] = []

    def fit(calibration: Calibration) -> int:
        seen.append(calibration.tokens)
        return calibration.tokens

    assert calibration.once("tokens", fit) == calibration.once("tokens", fit) == calibration.tokens
    assert len(seen) == 1
    calibration.merge(shard_of([3, 4], data, 40))
    assert calibration.once("tokens", fit) == calibration.tokens == int(data[2][:5].sum())
    calibration.update(NoiseKeys(5, ("c-9",), (0,)), *(part[9:10] for part in data))
    assert calibration.once("tokens", fit) == calibration.tokens == seen[-1]
    assert len(seen) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["residual", "reconstruction"])
def test_what_is_not_finite_is_refused_where_it_is_spliced_and_harmless_elsewhere(
    name: str, bad: float
) -> None:
    x, r, mask = activations(6, 3)
    calibration, clean = shard_of([0, 1], (x, r, mask), 40), shard_of([0, 1], (x, r, mask), 40)
    spoilt = {"reconstruction": x.clone(), "residual": r.clone()}
    hidden = (~mask[2:4]).nonzero().tolist()
    assert len(hidden) > 1
    for window, position in hidden:
        spoilt[name][2 + window, position, 1] = bad
    calibration.update(places_of([2, 3]), spoilt["reconstruction"][2:4], spoilt["residual"][2:4], mask[2:4])
    clean.update(places_of([2, 3]), x[2:4], r[2:4], mask[2:4])
    assert_same_bank(calibration.bank, clean.bank)
    assert torch.equal(calibration.joint.scatter, clean.joint.scatter)

    window, position = mask[4:].nonzero()[0].tolist()
    spoilt[name][4 + window, position, 2] = bad
    with pytest.raises(MeasurementError, match=f"1 of {int(mask[4:].sum())} rows of the {name} hold NaN"):
        calibration.update(places_of([4, 5]), spoilt["reconstruction"][4:], spoilt["residual"][4:], mask[4:])
    # It left no trace.
    assert_same_bank(calibration.bank, clean.bank)
    assert torch.equal(calibration.joint.scatter, clean.joint.scatter)
    assert (calibration.tokens, calibration.documents) == (clean.tokens, clean.documents)


def test_nothing_seen_yet() -> None:
    calibration = Calibration.empty(4)
    assert calibration.tokens == calibration.joint.count == 0
    with pytest.raises(MeasurementError, match="at least 2 rows, 0"):
        _ = calibration.moments.covariance


def test_large_widths_keep_only_the_bank() -> None:
    assert not Calibration.empty(100).is_large
    calibration = Calibration.empty(LARGE)
    assert calibration.is_large
    x, r = torch.randn(2, 3, 5, LARGE, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 5).bool()
    mask[0, 0] = False
    calibration.update(NoiseKeys(1, ("a", "b", "c"), (0, 0, 0)), x, r, mask)
    torch.testing.assert_close(calibration.mean, r[mask].double().mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        calibration.reconstruction_mean, x[mask].double().mean(0), rtol=1e-10, atol=1e-12
    )
    for name in ("joint", "residual_folds", "moments"):
        with pytest.raises(MeasurementError, match=f"covariance of {LARGE} dimensions as a matrix"):
            getattr(calibration, name)


def test_the_limit_is_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 5)
    assert [Calibration.empty(width).is_large for width in (4, 5, 6)] == [False, True, True]
