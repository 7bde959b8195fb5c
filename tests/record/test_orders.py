"""Orders of the quenched loss against Gauss–Hermite integrals and derivatives of a small softmax model."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from tests.helpers.tables import table_of

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.orders import interaction, order_weights, orders_of
from remainder.record.rungs import AMPLITUDES, RUNGS
from remainder.record.values import canonical_values, document_totals
from remainder.residual.calibration import Calibration
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys

GENERATOR = torch.Generator().manual_seed(5)
WEIGHTS = torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)
MIXING = 0.5 * torch.randn(3, 3, generator=GENERATOR, dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.2, 0.1]).double()
DOCUMENTS, POSITIONS = 60, 8


def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy at activations x `[..., 3]` of classes y `[...]`."""
    return -torch.log_softmax(x @ WEIGHTS.T, -1).gather(-1, y[..., None])[..., 0]


def grid(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss–Hermite nodes `[n, 3]` of N(0, Σ) with Σ = MIXINGᵀ MIXING, and their weights."""
    nodes, weights = hermegauss(points)
    z = torch.tensor(list(itertools.product(nodes, repeat=3))).double()
    w = torch.tensor([np.prod(w) for w in itertools.product(weights / weights.sum(), repeat=3)])
    return z @ MIXING, w


def gamma(x: torch.Tensor, y: torch.Tensor, alpha: float, scale: float) -> torch.Tensor:
    """Γ(α) of every position, exact: x `[n, 3]`, y `[n]`."""
    z, w = grid(11)
    moved = x[:, None] + MEAN + alpha * scale * z
    return loss(moved, y[:, None].expand(moved.shape[:2])) @ w


def taylor(x: torch.Tensor, y: torch.Tensor, scale: float) -> tuple[float, float]:
    """a₂ = ½ E zᵀHz by double backward and a₄ = E d⁴L/dα⁴ / 24 by two more, means over positions."""
    z, w = grid(6)  # exact up to z⁴
    alpha = torch.zeros(len(x), len(z), dtype=torch.float64, requires_grad=True)
    moved = x[:, None] + MEAN + alpha[..., None] * scale * z
    derivative = loss(moved, y[:, None].expand(alpha.shape))
    orders = []
    for order in range(1, 5):
        (derivative,) = torch.autograd.grad(derivative.sum(), alpha, create_graph=order < 4)
        orders.append(float((derivative.detach() @ w).mean()))
    assert orders[0] == pytest.approx(0, abs=1e-12)
    return orders[1] / 2, orders[3] / 24


def positions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(DOCUMENTS * POSITIONS, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (len(x),), generator=generator)


def losses(of: torch.Tensor) -> np.ndarray:
    """Means over the positions of each document."""
    return of.reshape(DOCUMENTS, POSITIONS, -1).mean(1).numpy()


def exact_table(scale: float) -> pd.DataFrame:
    x, y = positions()
    clean = losses(torch.zeros(len(x)).double())[:, 0]
    table = {"clean": clean, "mean": losses(gamma(x, y, 0.0, scale))[:, 0]}
    table |= {rung: losses(gamma(x, y, alpha, scale))[:, 0] for rung, alpha in AMPLITUDES.items()}
    return canonical_values(table_of(table))


def test_of_a_weak_bath_the_fit_gives_the_coefficients_of_taylor() -> None:
    scale = 0.4
    table = exact_table(scale)
    found = orders_of(Bootstrap(DOCUMENTS, seed=1), table, document_totals(table))
    assert found is not None
    a2, a4 = taylor(*positions(), scale)
    # The sixth order comes with .3²·.6² in a₄, which it may move by as much as it moves Γ(1).
    assert found.loss.a2.value == pytest.approx(a2, rel=1e-3)
    assert found.loss.a4.value == pytest.approx(a4, rel=0.06)
    assert abs(a4) > 1e-3 * abs(a2)


def test_the_extrapolation_is_that_of_the_exact_curve_and_no_taylor_coefficient_of_a_strong_bath() -> None:
    x, y = positions()
    for scale, close in ((1.0, True), (4.0, False)):
        curve = {alpha: float(gamma(x, y, alpha, scale).mean()) for alpha in (0.0, 0.3, 0.6, 1.0)}
        above = np.array([curve[0.3] - curve[0.0], curve[0.6] - curve[0.0]])
        powers = np.array([0.3, 0.6])[:, None] ** [2, 4]
        a2, a4 = np.linalg.lstsq(powers, above, rcond=None)[0]
        table = exact_table(scale)
        found = orders_of(Bootstrap(DOCUMENTS, seed=1), table, document_totals(table))
        assert found is not None
        terms = found.loss
        wanted = (curve[0.0], curve[0.0] + a2, curve[0.0] + a2 + a4, curve[1.0], a2, a4)
        given = (terms.zero, terms.one, terms.two, terms.sampled, terms.a2, terms.a4)
        assert [number.value for number in given] == pytest.approx(wanted, rel=1e-5)
        assert terms.remainder.value == pytest.approx(wanted[2] - wanted[3], abs=1e-6)
        assert terms.missing.value == pytest.approx(wanted[3] - wanted[1], abs=1e-6)
        assert terms.perturbativity.value == pytest.approx((wanted[3] - wanted[1]) / a2, rel=1e-4)
        assert bool(abs(a4 / taylor(x, y, scale)[1] - 1) < 0.1) is close


def test_rungs_of_the_ladder_sample_the_curve_with_one_noise() -> None:
    """Two antithetic pairs give a₂ and a₄ of the exact curve within their sampling error."""
    x, y = positions()
    rows = MEAN + torch.randn(400, 50, 3, generator=GENERATOR, dtype=torch.float64) @ MIXING
    calibration = Calibration.empty(3)
    keys = NoiseKeys(3, tuple(f"calibration-{i}" for i in range(400)), (0,) * 400)
    calibration.update(keys, torch.zeros_like(rows), rows, torch.ones(400, 50).bool())
    shape = (DOCUMENTS, POSITIONS, 3)
    places = NoiseKeys(4, tuple(f"page-{i:05d}" for i in range(DOCUMENTS)), (0,) * DOCUMENTS)
    context = Context(places, x.reshape(shape), torch.ones(shape[:2]).bool())

    def sampled(rung: str, draws: int) -> np.ndarray:
        model = prepare(RUNGS[rung], calibration)
        moved = [x + model.sample(context, Draw(draw)).reshape(-1, 3) for draw in range(draws)]
        return np.stack([losses(loss(at, y))[:, 0] for at in moved], axis=1)

    table = {"clean": losses(torch.zeros(len(x)).double())[:, 0], "mean": sampled("mean", 1)}
    table |= {rung: sampled(rung, 4 if rung == "full-0.3" else 8) for rung in AMPLITUDES}
    values = canonical_values(table_of(table))
    found = orders_of(Bootstrap(DOCUMENTS, seed=1), values, document_totals(values))
    exact = orders_of(Bootstrap(DOCUMENTS, seed=1), exact_table(1.0), document_totals(exact_table(1.0)))
    assert found is not None
    assert exact is not None
    # z and −z of 2 pairs at 480 positions: ½ zᵀHz has a relative error of about √(2/3/960).
    assert found.loss.a2.value == pytest.approx(exact.loss.a2.value, rel=5 * np.sqrt(2 / 3 / 960) + 0.05)
    assert found.loss.a4.value == pytest.approx(exact.loss.a4.value, rel=0.35)
    assert found.loss.sampled.value == pytest.approx(table["full"][:, :4].mean(), rel=1e-5)  # of shared draws


def noisy(seed: int = 0, a2: float = 0.04, a4: float = 0.002, left: float = 0.0) -> dict[str, np.ndarray]:
    """Losses of 30 documents whose Γ(α) is a polynomial that wobbles between them, 2 draws each."""
    generator = np.random.default_rng(seed)
    clean = generator.lognormal(1.0, 0.1, 30)
    mean = clean + 0.05 + 0.005 * generator.normal(size=30)
    found = {"clean": clean, "mean": mean}
    wobble = generator.normal(size=(30, 2))
    for rung, alpha in AMPLITUDES.items():
        gap = a2 * alpha**2 * (1 + 0.1 * wobble[:, :1]) + a4 * alpha**4 * (1 + 0.2 * wobble[:, 1:])
        rest = left * (1 + 0.2 * wobble[:, :1]) + 1e-4 * generator.normal(size=(30, 2))
        found[rung] = mean[:, None] + gap + (alpha == 1) * rest
    found["permuted"] = found["full"] + 0.01 * generator.normal(size=(30, 1))
    found["noise-centred"] = clean[:, None] + a2 * (1 + 0.1 * wobble[:, :1])
    return found


def orders(losses: dict[str, np.ndarray]) -> object:
    table = canonical_values(table_of(losses))
    return orders_of(Bootstrap(30, seed=1), table, document_totals(table))


def test_a_polynomial_converges_and_a_curve_that_bends_away_does_not() -> None:
    found = orders(noisy())
    assert found.loss.converges is True
    assert found.loss.perturbativity.value == pytest.approx(0.05, rel=0.1)
    assert orders(noisy(left=0.01)).loss.converges is False
    few = {rung: values[:3] for rung, values in noisy().items()}
    table = canonical_values(table_of(few))
    of_few = orders_of(Bootstrap(3, seed=1), table, document_totals(table))
    assert of_few.loss.converges is None
    assert of_few.smallest_kurtosis.value is None


def test_what_has_no_denominator_is_null_with_its_reason() -> None:
    flat = orders(noisy(a2=0.0, a4=0.0))
    assert flat.loss.perturbativity.value is None
    assert "a2 is 0" in str(flat.loss.perturbativity.reason)
    assert flat.smallest_kurtosis.value is None
    assert "holds 0" in str(flat.smallest_kurtosis.reason)
    assert "KL of noise-centred is 0" in str(flat.interaction.reason)
    unsure = noisy()
    sign = np.where(np.arange(30) % 2, 1.0, -1.0)[:, None]
    for rung, alpha in AMPLITUDES.items():
        unsure[rung] = unsure[rung] + alpha**2 * sign
    assert "includes 0" in str(orders(unsure).loss.perturbativity.reason)
    lacking = {rung: values for rung, values in noisy().items() if rung not in ("noise-centred", "permuted")}
    assert orders(lacking).interaction.reason == "rung noise-centred was not measured"
    assert orders(lacking).smallest_kurtosis.reason == "rung permuted was not measured"
    for rung in ("mean", *AMPLITUDES):
        assert orders({name: values for name, values in noisy().items() if name != rung}) is None


def test_the_smallest_kurtosis_is_2_8_standard_errors_of_shape_over_a4() -> None:
    losses = noisy()
    found = orders(losses)
    shape = (losses["full"] - losses["permuted"]).mean(1)
    error = shape.std(ddof=1) / np.sqrt(30)
    assert found.shape.value == pytest.approx(shape.mean(), abs=1e-6)
    assert found.smallest_kurtosis.value == pytest.approx(2.8 * error / abs(found.loss.a4.value), rel=1e-4)


def test_interaction_is_what_the_noise_costs_more_at_the_reconstruction() -> None:
    losses = noisy()
    table = canonical_values(table_of(losses))
    ratio = interaction(table, document_totals(table))
    assert isinstance(ratio, Ratio)
    # Of the one draw that both have.
    full, mean, noise = (losses[rung].reshape(30, -1)[:, 0] for rung in ("full", "mean", "noise-centred"))
    expected = (full - mean).mean() / (noise - losses["clean"]).mean() - 1
    assert ratio.numerator.sum() / ratio.denominator.sum() == pytest.approx(expected, rel=1e-6)


def test_weights_invert_the_powers() -> None:
    amplitudes = np.array([0.3, 0.6])
    a2, a4 = 0.7, -0.4
    assert order_weights(amplitudes) @ (a2 * amplitudes**2 + a4 * amplitudes**4) == pytest.approx([a2, a4])
