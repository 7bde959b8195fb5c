"""Expected values of the mixture of classes and of Bernoulli–Gaussian sources, by simulation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from formulas import assert_mean, load, losses, noisy_sigmoid
from scipy import special, stats

Array = np.ndarray


def nats(logit: Array, positive: Array) -> Array:
    """Cross-entropy of logits where the label is 1 with probability `positive`."""
    return np.logaddexp(0, logit) - positive * logit


@pytest.mark.parametrize(("kept", "seed"), [(4, 1), (4, 2), (7, 1)])
def test_mixture_is_that_of_a_simulation(kept: int, seed: int) -> None:
    module = load("mixture")
    parameters = module.Parameters(kept=kept, seed=seed)
    network, values = module.draw(parameters), module.expected(parameters)
    generator = np.random.default_rng(31)
    count, w = 200_000, network.readout
    classes = generator.integers(0, 8, count)
    noise = generator.multivariate_normal(np.zeros(10), network.covariance, count)
    x = network.means[classes] + noise
    distances = np.stack([np.linalg.norm(x - mean, axis=1) for mean in network.means])
    assert np.array_equal(distances.argmin(0), classes)  # 1e-8 of them would not be
    estimate = network.means[np.where(classes < kept, classes, 7)]
    residual = x - estimate
    centre = network.means.mean(0)
    own = special.expit((x - centre) @ w)
    assert ((x - centre) @ w).std() == pytest.approx(2, rel=0.02)
    label = generator.random(count) < own

    within = np.empty_like(residual)
    groups = np.minimum(classes, kept)
    for group in range(kept + 1):
        members = np.flatnonzero(groups == group)
        within[members] = residual[generator.permutation(members)]
    means = np.stack([residual[groups == group].mean(0) for group in range(kept + 1)])[groups]
    design = np.column_stack([np.ones(count), estimate])
    predicted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    normal = generator.standard_normal(count)
    spread = [((residual - means) @ w)[groups == group].std() for group in range(kept + 1)]
    mean = residual.mean(0)
    lengths = np.log(np.linalg.norm(residual - mean, axis=1))
    scale = np.exp([lengths[groups == group].mean() for group in range(kept + 1)])[groups]
    epsilons = {
        "clean": residual @ w,
        "raw": np.zeros(count),
        "mean": np.full(count, (residual @ w).mean()),
        "full": (residual @ w).mean() + (residual @ w).std() * normal,
        "linear-mean": predicted @ w,
        "linear": predicted @ w + ((residual - predicted) @ w).std() * normal,
        "cluster": means @ w + np.array(spread)[groups] * normal,
        "hetero": (residual @ w).mean() + scale * ((residual @ w - mean @ w) / scale).std() * normal,
        "permuted": np.roll(residual, 1, axis=0) @ w,
        "matched": within @ w,
    }
    base = (estimate - centre) @ w
    for rung, epsilon in epsilons.items():
        assert_mean(losses(base + epsilon, label), values[rung], 1e-4)
        if rung != "clean":
            # What the fit of a mean and a variance to 200,000 rows moves is below 1e-3.
            kl = nats(base + epsilon, own) - nats((x - centre) @ w, own)
            assert_mean(kl, values[f"{rung} kl"], 1e-3)
    yes = noisy_sigmoid(base + (residual @ w).mean(), float((residual @ w).var()))
    assert_mean(-np.log(np.where(label, yes, 1 - yes)), values["full annealed"])
    for rung, same in (
        ("renormalised", "linear"),
        ("renormalised-mean", "linear-mean"),
        ("context", "linear"),
    ):
        assert values[rung] == values[same]
    if kept == 7:
        assert values["shape"] == pytest.approx(0, abs=1e-12)
        assert values["dependence"] == pytest.approx(0, abs=1e-12)
        assert values["cluster"] == pytest.approx(values["full"])
    else:
        assert abs(values["shape"]) > 1e-3
        assert abs(values["dependence"]) > 1e-3  # of either sign, by the seed


def test_mixture_rungs_are_told_apart() -> None:
    """Which rung knows of x̂: the conditional law gives the entropy of the label given the codes."""
    module = load("mixture")
    values = module.expected(module.Parameters(kept=4, seed=1))
    assert values["matched annealed"] < values["cluster annealed"] < values["linear annealed"]
    assert values["linear annealed"] < min(values["full annealed"], values["permuted annealed"])


@pytest.mark.parametrize("seed", [0, 3])
def test_net_bits_of_a_mixture_are_those_of_fitted_gaussians(seed: int) -> None:
    module = load("mixture")
    network = module.draw(module.Parameters(seed=seed))
    generator = np.random.default_rng(32)
    classes = generator.integers(0, 8, 100_000)
    noise = generator.standard_normal((len(classes), 10)) @ network.factor.T
    x = network.means[classes] + noise
    whole = -stats.multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x)
    remainder = -stats.multivariate_normal(noise.mean(0), np.cov(noise.T)).logpdf(noise)
    net = (whole - remainder) / math.log(2) - 3  # eight classes, equally likely
    assert_mean(net, module.net_bits(network))
    assert module.net_bits(network, 0.01) < module.net_bits(network)


@pytest.mark.parametrize(("kept", "step"), [(7, None), (7, 3), (4, 6)])
def test_net_bits_of_coded_indicators_are_those_of_fitted_gaussians(kept: int, step: int | None) -> None:
    module = load("mixture")
    network = module.draw(module.Parameters(seed=5))
    generator = np.random.default_rng(35)
    classes = generator.integers(0, 8, 200_000)
    noise = generator.standard_normal((len(classes), 10)) @ network.factor.T
    x = network.means[classes] + noise
    power = np.trace(np.cov(x.T))
    added = math.sqrt(1e-3 * power / 10) * generator.standard_normal(x.shape)
    delta = None if step is None else math.sqrt(power) / 2 ** (step / 2)
    decoded, bits = np.tile(network.means[-1], (len(x), 1)), np.zeros(len(x))
    for c in range(kept):
        direction = network.means[c] - network.means[-1]
        value = np.where(classes == c, np.linalg.norm(direction), 0.0)
        rounded = value if delta is None else delta * np.round(value / delta)
        decoded += rounded[:, None] * direction / np.linalg.norm(direction)
        share = (rounded != 0).mean()  # all on symbols of a latent are one
        bits -= np.where(rounded != 0, np.log2(share), np.log2(1 - share)) if 0 < share < 1 else 0.0
    rows = (x + added, x + added - decoded)
    whole, rest = (-stats.multivariate_normal(r.mean(0), np.cov(r.T)).logpdf(r) / math.log(2) for r in rows)
    assert_mean(whole - rest - bits, module.coded_net_bits(network, kept, step), allowance=2e-3)
    if step is None:
        told = float(8 * special.entr(1 / 8) / math.log(2))
        apart = float(7 * (special.entr(1 / 8) + special.entr(7 / 8)) / math.log(2))
        noisy = module.net_bits(network, 1e-3 * np.trace(network.covariance + network.between) / 10)
        assert module.coded_net_bits(network, kept) == pytest.approx(noisy + told - apart)


@pytest.fixture(scope="module")
def sources() -> Array:
    generator = np.random.default_rng(33)
    on = generator.random(400_000) < 0.05
    x = 0.1 * generator.standard_normal(len(on)) + on * generator.standard_normal(len(on))
    return np.asarray(x)


def test_bernoulli_gaussian_is_that_of_a_simulation(sources: Array) -> None:
    module = load("bernoulli-gaussian")
    values = module.expected(module.Parameters())
    generator = np.random.default_rng(34)
    own = special.expit(4 * sources)
    label = generator.random(len(sources)) < own
    kept = np.where(np.abs(sources) > 0.38, sources, 0)
    residual = sources - kept
    off = residual[kept == 0]
    epsilons = {
        "clean": residual,
        "raw": np.zeros(len(residual)),
        "full": residual.std() * generator.standard_normal(len(residual)),
        "permuted": generator.permutation(residual),
        "matched": np.where(kept == 0, generator.choice(off, len(residual)), 0),
    }
    for rung, epsilon in epsilons.items():
        assert_mean(losses(4 * (kept + epsilon), label), values[rung])
        if rung != "clean":
            assert_mean(nats(4 * (kept + epsilon), own) - nats(4 * sources, own), values[f"{rung} kl"])


def test_negentropy_and_gain_of_a_code_are_those_of_a_simulation(sources: Array) -> None:
    module = load("bernoulli-gaussian")
    parameters = module.Parameters()
    assert module.negentropy(parameters) == pytest.approx(0.9268, abs=5e-5)
    density = 0.95 * stats.norm.pdf(sources, scale=0.1) + 0.05 * stats.norm.pdf(
        sources, scale=math.sqrt(1.01)
    )
    gain = np.log2(density) - np.log2(stats.norm.pdf(sources, scale=math.sqrt(0.06)))
    assert_mean(gain, module.negentropy(parameters))
    steps = math.sqrt(0.06) * 2.0 ** (-np.arange(6) / 2)
    gains = [module.code_gain(parameters, step) for step in steps]
    for step, expected in zip(steps, gains, strict=True):
        symbols = np.round(np.where(np.abs(sources) > 0.38, sources, 0) / step).astype(int)
        residual = sources - step * symbols
        _, places, counts = np.unique(symbols, return_inverse=True, return_counts=True)
        bits = -np.log2(counts / len(sources))[places.ravel()]
        remainder = -stats.norm.logpdf(residual, scale=residual.std()) / math.log(2)
        whole = -stats.norm.logpdf(sources, scale=sources.std()) / math.log(2)
        assert_mean(whole - remainder - bits, expected, allowance=2e-3)  # tables that fit their own rows
    assert gains == sorted(gains, reverse=True)
    # At fine steps: what is on costs h − log₂ Δ, and its remainder is uniform.
    low = module.expected(parameters)["net bits low"] / parameters.sources
    assert low <= max(gains) <= module.negentropy(parameters)


def test_uniform_quantisation_at_the_size_of_the_noise_loses_a_quarter_bit() -> None:
    """With b known and Δ = √12 s, .2546 bits are lost where a source is on."""
    module = load("bernoulli-gaussian")
    far = module.Parameters(background=1e-8, threshold=1e-3)
    lost = module.negentropy(far) - module.code_gain(far, math.sqrt(12e-8))
    assert lost == pytest.approx(0.05 * module.UNIFORM, abs=0.003)
    assert pytest.approx(0.2546, abs=5e-5) == module.UNIFORM


def test_bounds_hold_where_the_threshold_is_not_tuned() -> None:
    module = load("bernoulli-gaussian")
    for threshold in (0.33, 0.45):
        parameters = dataclasses.replace(module.Parameters(), threshold=threshold)
        assert module.code_gain(parameters, math.sqrt(0.06)) > module.negentropy(parameters) - 0.0427
