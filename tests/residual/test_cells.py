"""Cells of reconstructions: nearest centres by brute force, and the variance that they explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from remainder.record.rungs import RUNGS
from remainder.residual.calibration import Calibration
from remainder.residual.cells import MINIMUM, Cells, fit_cells
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys


def rows(count: int, width: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width))).float()


def members_of(cells: Cells) -> list[torch.Tensor]:
    return [
        cells.members[start : start + size]
        for start, size in zip(cells.starts.tolist(), cells.sizes.tolist(), strict=True)
    ]


def assert_sound(cells: Cells, x: torch.Tensor) -> None:
    """Every row is in one cell, that of the nearest centre, and no cell has too few."""
    members = members_of(cells)
    assert torch.equal(torch.cat(members).sort().values, torch.arange(len(x)))
    assert len(cells.centres) == 1 or int(cells.sizes.min()) >= MINIMUM
    distances = torch.cdist(x.double(), cells.centres.double())
    nearest = distances.min(1).values
    assigned = cells.assign(x)
    for cell, mine in enumerate(members):
        assert bool((assigned[mine] == cell).all())
        # Ties are decided by rounding.
        assert float((distances[mine, cell] - nearest[mine]).max()) < 1e-5 * (1 + float(nearest.max()))


@pytest.mark.parametrize("count", [1, 29, 100, 119, 120, 1000, 20_000])
def test_members_are_nearest_to_their_centre_and_cells_large_enough(count: int) -> None:
    x = rows(count) * 3 + 50
    cells = fit_cells(x, rows(count, seed=1))
    assert_sound(cells, x)
    assert len(cells.centres) <= max(1, min(256, count // 60))
    assert len(cells.centres) > 1 or count < 120


def test_cells_are_found_again() -> None:
    x = rows(2000)
    one, other = fit_cells(x, x), fit_cells(x, x)
    assert torch.equal(one.centres, other.centres)
    assert torch.equal(one.members, other.members)


def test_small_groups_are_given_up_to_their_neighbours() -> None:
    # Ten rows far away would make a cell of their own.
    x = torch.cat([rows(600), rows(600) + 40, rows(10) + 60])
    cells = fit_cells(x, rows(1210, seed=1))
    assert_sound(cells, x)
    owner = int(cells.assign(x[1200:])[0])
    assert bool((cells.assign(x[1200:]) == owner).all())
    assert float((cells.centres[owner] - 40).norm()) < float((cells.centres[owner] - 60).norm())


def test_fewer_distinct_reconstructions_than_cells() -> None:
    x = torch.tensor([[0.0, 0], [5, 0], [0, 7]]).repeat_interleave(torch.tensor([100, 400, 300]), 0)
    cells = fit_cells(x, rows(800, 2))
    assert_sound(cells, x)
    assert sorted(cells.sizes.tolist()) == [100, 300, 400]


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_reconstructions_are_one_cell(value: float) -> None:
    x = torch.full((500, 4), value)
    cells = fit_cells(x, rows(500))
    assert_sound(cells, x)
    assert len(cells.centres) == 1
    assert cells.explained == pytest.approx(0, abs=1e-12)
    assert fit_cells(x, torch.ones(500, 4)).explained is None
    assert fit_cells(x[:1], rows(1)).explained is None


def test_the_share_explained_is_zero_for_what_is_independent() -> None:
    found, width, count = [], 3, 3000
    for seed in range(8):
        cells = fit_cells(rows(count, width, seed=2 * seed), rows(count, width, seed=2 * seed + 1))
        assert cells.explained is not None
        # Between-cell sums of squares are χ²(K − 1) in each dimension.
        found.append(cells.explained / np.sqrt(2 * (len(cells.centres) - 1) / width) * count)
    assert np.abs(found).max() < 4
    assert abs(np.mean(found)) < 4 / np.sqrt(len(found))


def test_the_share_explained_is_one_way_analysis_of_variance() -> None:
    x = rows(1500)
    residual = rows(1500, seed=1) + x.abs()
    cells = fit_cells(x, residual)
    count, groups = 1500, len(cells.centres)
    within = sum(
        float((residual[m].double() - residual[m].double().mean(0)).square().sum()) for m in members_of(cells)
    )
    total = float((residual.double() - residual.double().mean(0)).square().sum())
    assert cells.explained == pytest.approx(1 - within / total * (count - 1) / (count - groups), rel=1e-9)
    # The F statistic of one dimension says the same.
    one = fit_cells(x, residual * torch.tensor([1.0, 0, 0, 0]))
    statistic = stats.f_oneway(*(residual[m, 0].double().numpy() for m in members_of(one))).statistic
    share = statistic * (groups - 1) / (statistic * (groups - 1) + count - groups)
    assert one.explained == pytest.approx(1 - (1 - share) * (count - 1) / (count - groups), rel=1e-9)


def test_the_share_explained_of_a_function_of_the_group() -> None:
    """r = value of the group + noise: Var(values)/(Var(values) + σ²), however groups are cut up."""
    generator, count, sigma = np.random.default_rng(0), 12_000, 1.5
    group = generator.integers(0, 8, count)
    x = torch.from_numpy(100.0 * np.eye(8)[group] + generator.normal(size=(count, 8))).float()
    values = np.arange(8) - 3.5
    residual = (
        torch.from_numpy(values[group] + sigma * generator.normal(size=count))[:, None] * torch.eye(8)[3]
    )
    expected = np.mean(values**2) / (np.mean(values**2) + sigma**2)
    cells = fit_cells(x, residual)
    assert len(cells.centres) > 8
    # Relative errors of within and total sums of squares are √(2/N) and less.
    assert cells.explained == pytest.approx(expected, abs=5 * (1 - expected) * np.sqrt(4 / count))


def test_matched_draws_come_from_the_cell_and_uniformly_from_all_of_it() -> None:
    generator = np.random.default_rng(0)
    group = torch.from_numpy(generator.integers(0, 3, (40, 25)))
    x = 100.0 * torch.nn.functional.one_hot(group, 3).double() + torch.from_numpy(
        generator.normal(size=(40, 25, 3))
    )
    # A residual says which row and group it is of.
    residual = torch.stack(
        [torch.arange(1000.0).reshape(40, 25), group.float(), group.float() * 0], -1
    ).double()
    mask = torch.from_numpy(generator.random((40, 25)) < 0.9)
    calibration = Calibration.empty(3)
    calibration.update(NoiseKeys(3, tuple(f"c-{i}" for i in range(40)), (0,) * 40), x, residual, mask)
    model = prepare(RUNGS["matched"], calibration)

    wanted = torch.from_numpy(generator.integers(0, 3, (300, 50)))
    reconstruction = 100.0 * torch.nn.functional.one_hot(wanted, 3).double()
    places = NoiseKeys(3, tuple(f"e-{i}" for i in range(300)), (0,) * 300)
    context = Context(places, reconstruction, torch.ones(300, 50).bool())
    sample = model.sample(context, Draw(0))
    assert torch.equal(sample[..., 1].long(), wanted)
    cells = fit_cells(calibration.bank.reconstructions(), calibration.bank.rows())
    numbers = calibration.bank.rows()[:, 0].double()
    assigned = cells.assign(reconstruction)
    for cell, mine in enumerate(members_of(cells)):
        drawn = sample[..., 0][assigned == cell]
        assert set(drawn.tolist()) <= set(numbers[mine].tolist())
        if len(drawn):
            counts = [int((drawn == number).sum()) for number in numbers[mine]]
            assert stats.chisquare(counts).pvalue > 0.001
    assert not torch.equal(sample, model.sample(context, Draw(1)))
