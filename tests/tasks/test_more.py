"""What protocol 2 adds to the expected values of earlier controls, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from formulas import FOLDER, assert_mean
from scipy import special

from remainder.task.lock import read_lock
from remainder.task.script import load_script
from remainder.task.spec import load_task

Array = np.ndarray


def coefficients(small: Array, large: Array) -> tuple[Array, Array]:
    """a₂ and a₄ from Γ(.3) − Γ(0) and Γ(.6) − Γ(0)."""
    a4 = (large / 0.36 - small / 0.09) / 0.27
    return small / 0.09 - 0.09 * a4, a4


@pytest.mark.parametrize("name", ["linear-gaussian", "two-point"])
def test_formulas_that_are_added_move_no_hash(name: str) -> None:
    task = load_task(f"controls/{name}")
    assert task.build is not None
    assert task.build.expected == "more.py"
    assert "more.py" not in task.build.sha256
    assert task.hash == read_lock().tasks[task.id].hash
    module = load_script(FOLDER / name / "more.py")
    before = load_script(FOLDER / name / "expected.py").claims(3)
    now = module.claims(3)
    for interpretation, quantities in before.items():
        assert quantities.items() <= now[interpretation].items()
        assert len(now[interpretation]) > len(quantities) + 8


def test_orders_and_ratios_of_a_linear_network_are_those_of_a_simulation() -> None:
    module = load_script(FOLDER / "linear-gaussian/more.py")
    network = module.draw(module.Parameters(dimension=10, kept=4, seed=3))
    values = module.added(network)
    generator = np.random.default_rng(61)
    count = 300_000
    x = generator.multivariate_normal(network.mean, network.covariance, count)
    kept = x @ network.projection
    residual = x - kept
    mean, covariance = residual.mean(0), np.cov(residual.T)
    a = network.readout
    f, base, c, shift = x @ a, kept @ a + mean @ a, (residual - mean) @ a, mean @ a
    noise = math.sqrt(a @ covariance @ a) * generator.standard_normal(count)
    own, taught = special.expit(f), special.expit(x @ network.teacher)

    def kl(logit: Array) -> Array:
        return np.logaddexp(0, logit) - own * logit - np.logaddexp(0, f) + own * f

    def loss(logit: Array) -> Array:
        return np.logaddexp(0, logit) - taught * logit - np.logaddexp(0, f) + taught * f

    for suffix, cost in (("", loss), (" kl", kl)):
        above = [cost(base + alpha * noise) - cost(base) for alpha in (0.3, 0.6)]
        a2, a4 = coefficients(*above)
        assert_mean(a2, values[f"a2{suffix}"], 1e-3)
        assert_mean(a4, values[f"a4{suffix}"], 1e-3)
        assert_mean(cost(base) + a2, values[f"one{suffix}"], 1e-3)
        assert_mean(cost(base) + a2 + a4, values[f"two{suffix}"], 1e-3)
    raw, mirror, fitted = kl(f - shift - c), kl(f - shift + c), kl(f - shift + noise)
    assert_mean(mirror, values["mirror kl"], 1e-3)
    assert_mean(kl(f - shift), values["minus-mean kl"], 1e-3)
    assert_mean(raw - values["rho"] * fitted, 0.0, 1e-3)
    assert_mean((raw + mirror) / 2 - values["rho even"] * fitted, 0.0, 1e-3)
    assert_mean((raw - mirror) / 2 - values["rho odd"] * fitted, 0.0, 1e-3)
    run = kl(f - shift - np.roll(c, 5))
    assert_mean(raw - values["rho noise-run"] * run, 0.0, 1e-3)
    small = kl(f - shift - 0.3 * c) + kl(f - shift + 0.3 * c)
    assert_mean(small / 2 - values["rho small"] * kl(f - shift + 0.3 * noise), 0.0, 1e-3)
    full = kl(base + noise) - kl(base)
    assert_mean(full - (1 + values["interaction"]) * kl(f + noise), 0.0, 2e-3)


def test_orders_and_ratios_of_two_points_are_those_of_a_simulation() -> None:
    module = load_script(FOLDER / "two-point/more.py")
    values = module.added(module.Parameters())
    generator = np.random.default_rng(62)
    count = 400_000
    z, sign = generator.standard_normal(count), generator.choice((-1.0, 1.0), count)

    def loss(size: Array) -> Array:
        return np.logaddexp(0, 4 * (size - 1.5))

    right = special.expit(2.0)

    def kl(size: Array) -> Array:
        """Σ p log(p/p') over the two classes."""
        there = special.expit(4 * (1.5 - size))
        return right * np.log(right / there) + (1 - right) * np.log((1 - right) / (1 - there))

    raw, mirror = float(kl(np.array(0.0))), float(kl(np.array(2.0)))
    fitted = kl(np.abs(1 + z))
    assert_mean(fitted, values["noise-fitted kl"])
    assert values["mirror kl"] == pytest.approx(mirror)
    assert_mean(raw - values["rho"] * fitted, 0.0)
    assert_mean((raw + mirror) / 2 - values["rho even"] * fitted, 0.0)
    assert values["rho odd"] == pytest.approx(values["rho"] - values["rho even"])
    for null in module.SIGNS:
        assert_mean(raw - values[f"rho {null}"] * kl(np.abs(1 + sign)), 0.0)
    zero = float(loss(np.array(0.0)))
    a2, a4 = coefficients(*(loss(alpha * np.abs(z)) - zero for alpha in (0.3, 0.6)))
    assert_mean(a2, values["a2"])
    assert_mean(a4, values["a4"])
    clean = float(loss(np.array(1.0)))
    assert_mean(zero + a2 - clean, values["one"])
    assert_mean(zero + a2 + a4 - clean, values["two"])
