"""Expected values of a Gaussian residual that is independent of the activation, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from formulas import assert_mean, load, losses, noisy_sigmoid
from scipy import special

Array = np.ndarray


def nats(logit: Array, positive: Array) -> Array:
    return np.logaddexp(0, logit) - positive * logit


@pytest.mark.parametrize("settings", [(0.4, 0.6, 2.0), (-0.2, 1.2, 3.0)])
def test_independent_residual_is_that_of_a_simulation(settings: tuple[float, float, float]) -> None:
    module = load("independent-residual")
    mu, s, a = settings
    values = module.expected(module.Parameters(*settings))
    generator = np.random.default_rng(51)
    count = 400_000
    x, n, m, z = generator.standard_normal((4, count))
    r = mu + s * n
    own, estimate = special.expit(a * x), x - r
    label = generator.random(count) < own

    def kl(replaced: Array) -> Array:
        return nats(a * replaced, own) - nats(a * x, own)

    slope, offset = np.polyfit(estimate, r, 1)
    given = offset + slope * estimate
    drawn = given + (r - given).std() * m
    share = np.cov(r, drawn)[0, 1] / drawn.var()
    rungs = {
        "raw": np.zeros(count),
        "mean": np.full(count, mu),
        "full": mu + s * m,
        "permuted": np.roll(r, 1),
        "linear-mean": given,
        "linear": drawn,
        "neighbour-mean": mu + share * (drawn - mu),
    }
    for rung, epsilon in rungs.items():
        assert_mean(losses(a * (estimate + epsilon), label), values[rung])
        assert_mean(kl(estimate + epsilon), values[f"{rung} kl"], 1e-4)
    for rung in module.GIVEN:
        assert values[rung] == values["linear"]

    other = np.roll(x, 7)
    length, sign = np.abs(r), np.sign(z)
    around = {
        "mirror": x + r - 2 * mu,
        "minus-mean": x - mu,
        "noise-fitted": x - mu + s * z,
        "noise-centred": x + s * z,
    }
    for rung, replaced in around.items():
        assert_mean(kl(replaced), values[f"{rung} kl"])
    ratio = kl(x - r).mean()
    for name, replaced in {
        "rho": x - mu + s * z,
        "rho noise-run": x - np.roll(r, 3),
        "rho isotropic": x + length * sign,
        "rho activation-difference": x + length * np.sign(other - x),
    }.items():
        # A ratio of means: its numerator less its expected value times its denominator has mean 0.
        assert_mean(kl(x - r) - values[name] * kl(replaced), 0.0)
    odd = kl(x - r) - kl(x + r - 2 * mu)
    assert_mean(odd / 2 / ratio, values["rho odd"])
    small = [kl(x - mu - 0.3 * s * n), kl(x - mu + 0.3 * s * n), kl(x - mu + 0.3 * s * z)]
    assert_mean((small[0] + small[1]) / 2 - values["rho small"] * small[2], 0.0)

    for alpha in (0.6, 1.0):
        yes = noisy_sigmoid(a * (estimate + mu), (a * alpha * s) ** 2)
        annealed = -np.log(np.where(label, yes, 1 - yes))
        assert_mean(annealed - losses(a * (estimate + mu), label), values[f"bath {alpha:g}"])
    at = {alpha: kl(estimate + mu + alpha * s * m) - kl(estimate + mu) for alpha in (0.3, 0.6)}
    a4 = (at[0.6] / 0.36 - at[0.3] / 0.09) / 0.27
    assert_mean(a4, values["a4"])
    assert_mean(at[0.3] / 0.09 - 0.09 * a4, values["a2"])
    interaction = kl(estimate + mu + s * m) - kl(estimate + mu) - (1 + values["interaction"]) * kl(x + s * z)
    assert_mean(interaction, 0.0)
    assert math.isclose(values["rho even"] + values["rho odd"], values["rho"])
