"""The Gaussian residual in space and time: against an autoregression, dense linear algebra, and a readout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remainder.errors import MeasurementError
from remainder.record.rungs import BOARD_RUNGS, RUNGS
from remainder.residual import calibration as calibration_module
from remainder.residual import spacetime
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import NotMeasurableError, covariance_of, fit_covariance
from remainder.residual.held_out import conditional_figures, floor_of
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys, folds
from remainder.residual.spacetime import FullTemporal, toeplitz

D, POSITIONS, LAGS = 3, 10, 3
MEAN = 1.5


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MIXING = gaussian(D, D, seed=50)
TURN = torch.tensor([[0.0, 0.8, 0.0], [-0.8, 0.0, 0.0], [0.3, 0.0, -0.4]]).double()
"""A token's whitened residual on the one before: directions turn into each other, which no ρ(l) can say."""


def law() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Whitened covariances of r_t and r_{t−l}, l = 0 … LAGS, of the stationary process, from its equation."""
    spread = torch.eye(D).double()
    for _ in range(2000):
        spread = TURN @ spread @ TURN.T + torch.eye(D).double()
    return spread, [torch.linalg.matrix_power(TURN, lag) @ spread for lag in range(LAGS + 1)]


def turning(documents: int, seed: int) -> torch.Tensor:
    """Windows of that process, mixed, with a mean."""
    noise = gaussian(documents, POSITIONS, D, seed=seed)
    root = torch.linalg.cholesky(law()[0])
    rows = [noise[:, 0] @ root.T]
    for t in range(1, POSITIONS):
        rows.append(rows[-1] @ TURN.T + noise[:, t])
    return torch.stack(rows, 1) @ MIXING.T + MEAN


def places_of(documents: int, prefix: str = "calibration") -> NoiseKeys:
    return NoiseKeys(3, tuple(f"{prefix}-{i}" for i in range(documents)), (0,) * documents)


def calibrated(rows: torch.Tensor, mask: torch.Tensor | None = None) -> Calibration:
    calibration = Calibration.empty(rows.shape[-1], keep=True)
    mask = torch.ones(rows.shape[:2]).bool() if mask is None else mask
    calibration.update(places_of(len(rows)), torch.zeros_like(rows), rows, mask)
    return calibration


def fitted(rows: torch.Tensor, mask: torch.Tensor | None = None) -> FullTemporal:
    model = prepare(RUNGS["full-temporal"], calibrated(rows, mask))
    assert isinstance(model, FullTemporal)
    return model


def covariance_of_draws(model: FullTemporal, positions: int, width: int = D) -> torch.Tensor:
    """The covariance of a whole window's draw, exact: a draw is linear in noise, here unit vectors."""
    count = positions * width
    units = torch.eye(count).double().reshape(count, positions, width)
    zeros = torch.zeros_like(units)
    context = Context(places_of(count), zeros, torch.ones(count, positions).bool(), memo={0: units})
    response = (model.sample(context, Draw(0)) - model.mean).reshape(count, count)
    return response.T @ response


def block(whole: torch.Tensor, later: int, earlier: int, width: int = D) -> torch.Tensor:
    return whole[width * later : width * (later + 1), width * earlier : width * (earlier + 1)]


def test_only_the_deep_plan_has_it() -> None:
    assert RUNGS["full-temporal"].needs == ()
    assert "full-temporal" not in BOARD_RUNGS


def test_draws_have_the_fitted_covariance_at_every_lag() -> None:
    model = fitted(turning(400, seed=0))
    whole = covariance_of_draws(model, POSITIONS)
    root = model.covariance.vectors * model.covariance.values.sqrt()
    for lag in range(LAGS + 1):
        expected = root @ model.lags[lag] @ root.T
        for t in range(lag, POSITIONS):
            torch.testing.assert_close(block(whole, t, t - lag), expected, rtol=1e-9, atol=1e-9)
    assert isinstance(model.covariance.matrix, torch.Tensor)
    torch.testing.assert_close(block(whole, 4, 4), model.covariance.matrix, rtol=1e-9, atol=1e-9)
    # Beyond them, by the normal equations of a prediction from three tokens (NumPy, all at once).
    lags = [(root @ lag @ root.T).numpy() for lag in model.lags]
    normal = np.block([[lags[j - i] if j >= i else lags[i - j].T for j in range(LAGS)] for i in range(LAGS)])
    weights = np.linalg.solve(normal.T, np.hstack(lags[1:]).T).T
    known = list(lags)
    for lag in range(LAGS + 1, POSITIONS):
        known.append(sum(weights[:, D * j : D * (j + 1)] @ known[lag - 1 - j] for j in range(LAGS)))
        np.testing.assert_allclose(block(whole, lag, 0).numpy(), known[lag], rtol=1e-8, atol=1e-9)


def test_it_finds_a_law_that_one_correlation_function_cannot_say() -> None:
    documents = 3000
    rows = turning(documents, seed=1)
    calibration = calibrated(rows)
    model = prepare(RUNGS["full-temporal"], calibration)
    assert isinstance(model, FullTemporal)
    whole = covariance_of_draws(model, POSITIONS)
    spread, lags = law()
    size = (MIXING @ spread @ MIXING.T).diagonal()
    # Tokens of a window are correlated: a standard error as of one token a window bounds it.
    error = torch.outer(size, size).sqrt() * np.sqrt(2 / documents)
    for lag in range(LAGS + 1):
        found, expected = block(whole, 7, 7 - lag), MIXING @ lags[lag] @ MIXING.T
        assert bool(((found - expected).abs() < 4 * error).all()), lag
    other = prepare(RUNGS["temporal"], calibration)
    separable = covariance_of_draws(other, POSITIONS)
    assert bool(((block(separable, 7, 6) - MIXING @ lags[1] @ MIXING.T).abs() > 20 * error).any())
    # The share of r that the tokens before tell: the noise of the equation is what they leave.
    figures = calibration.conditional["full-temporal"]
    left = float((MIXING @ MIXING.T).trace()) / float(size.sum())
    assert figures.explained == pytest.approx(1 - left, abs=0.02)
    assert figures.note == "γ 1, lags 3"
    everything = conditional_figures(calibration)
    assert everything["best"] is None  # no kernel of x̂
    # In nats: the entropy of one token, with the noise that is added, less that given three before it.
    gain = everything["conditional"]["full"].surprise - figures.surprise
    known = torch.stack([MIXING @ lag @ MIXING.T for lag in lags])
    known[0] += floor_of(calibration) * torch.eye(D)
    volumes = [float(torch.linalg.slogdet(toeplitz(known[:n]))[1]) for n in (1, LAGS, LAGS + 1)]
    assert gain == pytest.approx(0.5 * (volumes[0] + volumes[1] - volumes[2]), abs=0.02)


def test_a_linear_readout_across_tokens_has_its_closed_form() -> None:
    """E (Σ_t c_t·r_t)² over real windows, by draws of this rung; others miss the covariance of tokens."""
    rows = turning(3000, seed=2)
    calibration = calibrated(rows)
    # One direction at every second token, and the one that it turns into at those between.
    read = (
        torch.eye(D).double()[torch.arange(POSITIONS) % 2]
        * torch.tensor([1, 1, -1, -1] * 3)[:POSITIONS, None]
    )
    weights = read @ torch.linalg.inv(MIXING)
    spread, _ = law()
    # The law's own answer: noise n_s of the equation reaches token t as TURN^(t−s), the first by its root.
    response = torch.zeros(POSITIONS, D).double()
    expected, reached = 0.0, weights @ MIXING
    for s in reversed(range(POSITIONS)):
        response[s] = reached[s] + (response[s + 1] @ TURN if s + 1 < POSITIONS else 0)
        expected += float(response[s] @ (spread if s == 0 else torch.eye(D).double()) @ response[s])
    flat = weights.flatten()
    found = {}
    for name in ("full", "temporal", "full-temporal"):
        whole = covariance_of_draws(prepare(RUNGS[name], calibration), POSITIONS)
        found[name] = float(flat @ whole @ flat)
    real = ((rows - MEAN) * weights).sum((1, 2)).square()
    assert float(real.mean()) == pytest.approx(expected, abs=4 * float(real.std()) / np.sqrt(3000))
    assert found["full-temporal"] == pytest.approx(expected, rel=0.06)
    for name in ("full", "temporal"):
        assert abs(found[name] / expected - 1) > 0.2, name


def test_its_surprise_is_that_of_dense_densities() -> None:
    rows = turning(60, seed=3)
    calibration = calibrated(rows)
    model = prepare(RUNGS["full-temporal"], calibration)
    assert isinstance(model, FullTemporal)
    weight = float(calibration.conditional["full-temporal"].note.split(",")[0].removeprefix("γ "))
    floor, dealt = floor_of(calibration), folds(places_of(60), 3)
    stacked = rows.float().double().unfold(1, LAGS + 1, 1).permute(0, 1, 3, 2).flatten(2)
    total, count = 0.0, 0
    for fold in range(3):
        own = torch.tensor([place == fold for place in dealt])
        covariance = fit_covariance([p for i, p in enumerate(calibration.residual_folds) if i != fold])
        others = stacked[~own].flatten(0, 1)
        scatter = np.cov(others.T.numpy(), bias=True)
        white = (covariance.vectors / covariance.values.sqrt()).numpy()
        lags = []
        for lag in range(LAGS + 1):
            parts = [scatter[D * (i + lag) :, D * i :][:D, :D] for i in range(LAGS + 1 - lag)]
            lags.append(white.T @ np.mean(parts, axis=0) @ white)
        shared = [np.trace(lag) / np.trace(lags[0]) * np.eye(D) for lag in lags]
        mixed = [weight * lag + (1 - weight) * one for lag, one in zip(lags, shared, strict=True)]
        mixed[0] = np.eye(D)
        back = np.kron(np.eye(LAGS + 1), (covariance.vectors * covariance.values.sqrt()).numpy())
        dense = toeplitz(torch.tensor(np.stack(mixed))).numpy()
        dense = back @ dense @ back.T + floor * np.eye(len(dense))
        held = stacked[own].flatten(0, 1).numpy() - np.tile(covariance.mean.numpy(), LAGS + 1)

        def surprise(size: int, held: np.ndarray = held, dense: np.ndarray = dense) -> float:
            part, inverse = held[:, :size], np.linalg.inv(dense[:size, :size])
            quadratic = np.einsum("ni,ij,nj->", part, inverse, part) + len(part) * floor * np.trace(inverse)
            constant = np.linalg.slogdet(dense[:size, :size])[1] + size * np.log(2 * np.pi)
            return float(0.5 * (quadratic + len(part) * constant))

        total += surprise(D * (LAGS + 1)) - surprise(D * LAGS)
        count += len(held)
    assert calibration.conditional["full-temporal"].rows == count == 60 * (POSITIONS - LAGS)
    assert calibration.conditional["full-temporal"].surprise == pytest.approx(total / count, rel=1e-5)


def test_nothing_is_credited_where_tokens_are_independent() -> None:
    rows = gaussian(300, POSITIONS, D, seed=4) @ MIXING.T
    calibration = calibrated(rows)
    model = prepare(RUNGS["full-temporal"], calibration)
    figures = conditional_figures(calibration)["conditional"]
    assert figures["full-temporal"].explained == pytest.approx(0, abs=0.01)
    assert figures["full-temporal"].surprise == pytest.approx(figures["full"].surprise, abs=0.02)
    zeros = torch.zeros(4, POSITIONS, D).double()
    context = Context(places_of(4, "page"), zeros, torch.ones(4, POSITIONS).bool())
    full = prepare(RUNGS["full"], calibration).sample(context, Draw(1))
    assert float((model.sample(context, Draw(1)) - full).abs().max()) < 0.3 * float(full.std())


def test_unspliced_tokens_are_never_read() -> None:
    rows, mask = turning(200, seed=5), gaussian(200, POSITIONS, seed=6) < 1
    one = fitted(rows, mask)
    other = fitted(torch.where(mask[..., None], rows, 1e6), mask)
    assert torch.equal(one.lags, other.lags)
    together = (mask[:, 3:] & mask[:, 2:-1] & mask[:, 1:-2] & mask[:, :-3]).sum()
    calibration = calibrated(rows, mask)
    prepare(RUNGS["full-temporal"], calibration)
    assert calibration.conditional["full-temporal"].rows == int(together)


def test_it_stays_a_covariance_where_lags_are_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the sample's own blocks (γ = 1) of a few windows there is no such process.
    monkeypatch.setattr(spacetime, "_WEIGHTS", (1.0,))
    rows = turning(6, seed=13).repeat_interleave(1, 0)
    model = fitted(rows)
    values = torch.linalg.eigvalsh(toeplitz(model.lags))
    assert float(values[0]) > 0
    found = spacetime._positive(torch.stack([torch.eye(2), 0.9 * torch.eye(2), -0.9 * torch.eye(2)]).double())
    least = torch.linalg.eigvalsh(toeplitz(found))[0]
    assert float(least) == pytest.approx(2e-6, abs=1e-9)
    assert float(found[1, 0, 0] / found[2, 0, 0]) == pytest.approx(-1)


def test_a_residual_in_a_subspace_stays_in_it() -> None:
    inside = turning(300, seed=8)
    wide = torch.cat([inside, inside[..., :1] - inside[..., 1:2]], -1)
    model = fitted(wide)
    assert model.covariance.rank == D
    context = Context(places_of(5, "page"), torch.zeros(5, 7, D + 1).double(), torch.ones(5, 7).bool())
    sample = model.sample(context, Draw(2))
    torch.testing.assert_close(sample[..., 3], sample[..., 0] - sample[..., 1], rtol=1e-4, atol=1e-4)


def test_short_windows_have_fewer_lags() -> None:
    model = fitted(turning(300, seed=9)[:, :2])
    assert len(model.lags) == 2
    whole = covariance_of_draws(model, 5)
    root = model.covariance.vectors * model.covariance.values.sqrt()
    torch.testing.assert_close(block(whole, 4, 3), root @ model.lags[1] @ root.T, rtol=1e-9, atol=1e-9)


def test_what_admits_no_such_gaussian_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(rows: torch.Tensor, reason: str, mask: torch.Tensor | None = None) -> None:
        with pytest.raises(NotMeasurableError, match=reason):
            fitted(rows, mask)

    alternate = (torch.arange(POSITIONS) % 2 == 0).expand(40, POSITIONS)
    refused(turning(40, seed=1), "two spliced tokens in a row, and calibration has none", alternate)
    refused(torch.ones(40, POSITIONS, D).double(), "constant on calibration")
    refused(turning(3, seed=1), "at least 50 calibration rows")
    single = torch.zeros(40, POSITIONS).bool()
    single[:, 0] = True
    lone = [i for i, fold in enumerate(folds(places_of(40), 3)) if fold == 0]
    single[lone] = True
    refused(turning(40, seed=1), "all fell into one fold", single)
    monkeypatch.setattr(spacetime, "_WIDEST", 12)
    refused(turning(40, seed=1), "a matrix of 12 dimensions; the limit is 11")
    monkeypatch.setattr(calibration_module, "LARGE", D)
    refused(turning(40, seed=1), "as a matrix")
    bare = Calibration.empty(2)
    bare.update(places_of(30), torch.zeros(30, 9, 2), gaussian(30, 9, 2, seed=1), torch.ones(30, 9).bool())
    with pytest.raises(MeasurementError, match="which were not kept"):
        prepare(RUNGS["full-temporal"], bare)
    assert covariance_of(bare).rank == 2
