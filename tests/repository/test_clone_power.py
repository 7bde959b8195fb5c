"""Data where a Gaussian clone must fail: its moments, its best classifier, and what was measured."""

from __future__ import annotations

import itertools
import json
from types import ModuleType

import numpy as np
import pytest

from remainder.base.paths import project_root
from remainder.task.script import load_script


@pytest.fixture(scope="module")
def power() -> ModuleType:
    return load_script(project_root() / "docs" / "examples" / "clone_power.py")


def test_classes_differ_in_third_moments_alone(power: ModuleType) -> None:
    """By enumeration of the signs of each class, and in a sample of the data."""
    for label, product in ((0, -1.0), (1, 1.0)):
        signs = np.array([s for s in itertools.product((-1.0, 1.0), repeat=3) if np.prod(s) == product])
        assert signs.mean(0) == pytest.approx(np.zeros(3))
        assert signs.T @ signs / len(signs) == pytest.approx(np.eye(3))
        assert signs.prod(1).mean() == product
        sample = power.pool(60_000, 5)
        own = sample.examples[sample.classes == label]
        assert own.mean(0) == pytest.approx(np.zeros(power.WIDTH), abs=0.03)
        assert np.cov(own.T) == pytest.approx(np.eye(power.WIDTH), abs=0.04)
        turned = own @ power.rotation().T
        third = turned[:, : power.SIGNS].prod(1).mean()
        assert third == pytest.approx(product / (1 + power.NOISE**2) ** 1.5, abs=0.03)


def test_the_best_classifier_is_as_good_as_the_formula_says(power: ModuleType) -> None:
    sample = power.pool(60_000, 6)
    signs = (sample.examples @ power.rotation().T)[:, : power.SIGNS].prod(1)
    assert ((signs > 0) == sample.classes).mean() == pytest.approx(power.best(), abs=0.002)


@pytest.mark.parametrize("rung", ["full", "perturbative-4"])
def test_rungs_have_the_moments_of_their_pool(power: ModuleType, rung: str) -> None:
    source = power.pool(400, 7)
    drawn = power.draw(source, rung, 60_000, 8)
    for label in (0, 1):
        own, there = source.examples[source.classes == label], drawn.examples[drawn.classes == label]
        assert there.mean(0) == pytest.approx(own.mean(0), abs=0.03)
        assert np.cov(there.T) == pytest.approx(np.cov(own.T, ddof=0), abs=0.05)
        third = [((x - x.mean(0)) @ power.rotation().T)[:, :3].prod(1).mean() for x in (own, there)]
        assert third[1] == pytest.approx(0.0 if rung == "full" else third[0] / 2, abs=0.04)


def test_the_clone_failed_and_the_page_says_so(power: ModuleType) -> None:
    found = json.loads(power.FOUND.read_text(encoding="utf-8"))
    accuracy = found["accuracy"]
    for name in ("full", power.UNLIMITED):
        assert accuracy[name]["low"] < 0.5 < accuracy[name]["high"]
    assert accuracy["real"]["high"] > found["best classifier"] - 0.005
    values = [accuracy[rung]["value"] for rung in power.RUNGS]
    assert values == sorted(values)
    page = power.PAGE.read_text(encoding="utf-8")
    digits = json.loads(power.DIGITS.read_text(encoding="utf-8"))
    assert power.words.filled(page, power.blocks(found, digits)) == page
    for m in (2, 32):
        assert f"{100 * m**-0.5:.0f} %" in page


@pytest.mark.slow
def test_a_network_of_the_script_again(power: ModuleType) -> None:
    """One of ten: it learns from the data, and nothing from the clone."""
    fit, held_out = power.pool(power.FIT, 0), power.pool(power.HELD_OUT, 1)
    for rung, low, high in (("real", 0.95, 1.0), ("full", 0.4, 0.6)):
        network = power.trained(fit, rung, 0, power.FIT)
        assert low < (network.predict(held_out.examples) == held_out.classes).mean() <= high
