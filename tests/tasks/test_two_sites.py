"""Two sites of a linear network: formulas against a simulation, and both sites of a plain module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from formulas import FOLDER, assert_mean, load
from scipy import special

from remainder.errors import MeasurementError, TaskError
from remainder.model.module import ModuleRunner
from remainder.model.sites import SiteModel
from remainder.task.script import load_script
from remainder.task.spec import Site
from remainder.validation.claims import parse_quantity
from remainder.validation.several_sites import measure_sites

Array = np.ndarray


def drawn(generator: np.random.Generator, noise: Any, count: int) -> Array:
    values, vectors = np.linalg.eigh(noise.covariance)
    normal = generator.standard_normal((count, len(values)))
    return noise.mean + normal @ (vectors * np.sqrt(np.maximum(values, 0))).T


@pytest.mark.parametrize("seed", [1, 4])
def test_both_sites_are_those_of_a_simulation(seed: int) -> None:
    """Statistics of the sequential rules are fitted to simulated activations, not taken from the formulas."""
    module = load("two-sites")
    parameters = module.Parameters(seed=seed, site=2)
    network, values = module.draw(parameters), module.expected(parameters)
    generator = np.random.default_rng(41)
    count, d = 300_000, parameters.dimension
    one, two = network.projections
    z, n = generator.standard_normal((2, count, d))
    first = network.mean + z @ network.first.T

    def above(x: Array) -> Array:
        return x @ network.second.T + z @ network.past.T + n @ network.own.T

    def logit(x: Array) -> Array:
        return x @ network.readout + network.offset

    def fitted(rows: Array) -> Any:
        return module.Noise(rows.mean(0), np.cov(rows.T))

    def missing(clean: Array, kept: Array) -> Any:
        values, vectors = np.linalg.eigh(np.cov(clean.T) - np.cov(kept.T))
        return module.Noise(clean.mean(0) - kept.mean(0), (vectors * np.maximum(values, 0)) @ vectors.T)

    second = above(first)
    own = special.expit(logit(second))
    assert logit(second).std() == pytest.approx(2.5, rel=0.02)

    def check(x: Array, expected: float, allowance: float = 0.0) -> None:
        f, clean = logit(x), logit(second)
        kl = np.logaddexp(0, f) - own * f - np.logaddexp(0, clean) + own * clean
        assert_mean(kl, expected, allowance)

    check(second @ two, values["raw kl"])
    alone = fitted(second - second @ two)
    check(second @ two + drawn(generator, alone, count), values["full kl"], 5e-4)
    at_first = fitted(first - first @ one)
    check(above(first @ one) @ two, values["both raw kl"])
    replaced = above(first @ one + drawn(generator, at_first, count))
    check(replaced @ two + drawn(generator, alone, count), values["both full kl"], 1e-3)
    after = fitted(replaced - replaced @ two)
    check(replaced @ two + drawn(generator, after, count), values["both full-sequential kl"], 1e-3)
    replaced = above(first @ one + drawn(generator, missing(first, first @ one), count))
    counter = missing(second, replaced @ two)
    check(replaced @ two + drawn(generator, counter, count), values["both full-counterterm kl"], 2e-3)


def test_the_sequential_covariance_lacks_what_the_first_site_correlates() -> None:
    """Σ₂|₁ = Q₂ Cov(x₂') Q₂ by hand: kept and left-out parts of x₁ are independent in x₁'."""
    module = load("two-sites")
    network = module.draw(module.Parameters(seed=3))
    one, q = network.projections[0], np.eye(8) - network.projections[1]
    s = network.first @ network.first.T
    rest = np.eye(8) - one
    seen = network.second @ (one @ s @ one + rest @ s @ rest) @ network.second.T
    past = network.second @ one @ network.first @ network.past.T
    beside = network.past @ network.past.T + network.own @ network.own.T
    expected = q @ (seen + past + past.T + beside) @ q
    at_second = module.noises(network, "sequential")[1]
    assert at_second.covariance == pytest.approx(expected, abs=1e-12)
    assert np.abs(at_second.covariance - module.noises(network, "single-shot")[1].covariance).max() > 0.01


def test_a_module_is_a_model_of_several_sites() -> None:
    script = load_script(FOLDER / "two-sites/build.py")
    built = script.build(1, FOLDER / "two-sites", site=1)
    inputs = torch.from_numpy(built.examples["fit"].inputs[:3])
    runner = ModuleRunner(built.module, Site(hook_in="first", hook_out="first", width=8), inputs)
    assert isinstance(runner, SiteModel)
    clean = runner.run(inputs, [])
    assert torch.equal(clean, built.module(inputs))
    first = runner.activation(inputs, [], "first")
    doubled = runner.activation(inputs, [("first", lambda x: 2 * x)], "second")
    beside = built.module.beside(inputs)
    assert torch.allclose(doubled, built.module.along(2 * first) + beside, atol=1e-5)
    # The activation is that before any edit at the same place; edits at one place are made in their order.
    assert torch.equal(runner.activation(inputs, [("first", lambda x: 0 * x)], "first"), first)
    twice = [("second", lambda x: x + 1), ("second", lambda x: 2 * x)]
    second = runner.activation(inputs, [], "second")
    expected = built.module.readout(2 * (second + 1))
    assert torch.allclose(runner.run(inputs, twice), expected, atol=1e-5)
    assert torch.equal(runner.run(inputs, [("first", lambda x: None)], [-1]), clean[:, -1:])
    with pytest.raises(TaskError, match="no submodule 'third'"):
        runner.run(inputs, [("third", lambda x: x)])
    with pytest.raises(MeasurementError, match="not finite after changes at second"):
        runner.run(inputs, [("second", lambda x: x / 0)])


def test_what_is_not_measured_of_several_sites_is_an_error() -> None:
    script = load_script(FOLDER / "two-sites/expected.py")
    with pytest.raises(TaskError, match=r"here: a \+ b \+ c is of 3 sites, and SITES names 2"):
        measure_sites(script, "here", "a + b + c", 1, "quick", "cpu")


@pytest.mark.slow
def test_quantities_of_both_sites_are_read() -> None:
    script = load_script(FOLDER / "two-sites/expected.py")
    found = measure_sites(script, "here", "subspace + subspace", 1, "quick", "cpu")
    gap, kl = (found.read(parse_quantity(f"full {kind}", "")) for kind in ("gap", "kl"))
    assert gap.value == pytest.approx(kl.value, abs=5 * gap.error)  # labels are drawn from the model
    low, high = found.result.kl["full"].low, found.result.kl["full"].high
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.98 * kl.error, rel=0.2)
    with pytest.raises(MeasurementError, match="permuted kl is not measured of several sites"):
        found.read(parse_quantity("permuted kl", ""))
