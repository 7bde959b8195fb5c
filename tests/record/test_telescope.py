"""The telescope closes, and the fit over m against numpy's own least squares."""

from __future__ import annotations

import numpy as np
import pytest

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.rungs import PERTURBATIVE
from remainder.record.telescope import (
    conditional_telescope,
    perturbative_fit,
    perturbative_weights,
    telescope,
)

DOCUMENTS = 12
TOKENS = np.random.default_rng(0).integers(90, 127, DOCUMENTS).astype(float)
BOOTSTRAP = Bootstrap(DOCUMENTS, seed=1)


def gap_of(mean: float, spread: float, seed: int) -> Ratio:
    noise = np.random.default_rng(seed).normal(0, spread, DOCUMENTS)
    return Ratio((mean + noise) * TOKENS, TOKENS)


def test_the_telescope_closes_and_has_intervals() -> None:
    names = ("full", "full-unshrunk", "permuted", "matched")
    gaps = {name: gap_of(0.2 + 0.1 * i, 0.05, i) for i, name in enumerate(names)}
    found = telescope(BOOTSTRAP, gaps)
    assert found is not None
    terms = [found.shape.value, found.dependence.value, found.rest.value]
    assert all(term is not None for term in terms)
    assert sum(t for t in terms if t is not None) == pytest.approx(found.total.value, abs=2e-6)
    pooled = {name: ratio.numerator.sum() / TOKENS.sum() for name, ratio in gaps.items()}
    assert found.shape.value == pytest.approx(pooled["full-unshrunk"] - pooled["permuted"], rel=1e-5)
    assert found.shrinkage.value == pytest.approx(pooled["full"] - pooled["full-unshrunk"], rel=1e-5)
    for number in (found.total, found.shape, found.dependence, found.rest):
        assert number.value is not None
        assert number.low is not None
        assert number.high is not None
        assert number.low < number.value < number.high
    for name in names:
        assert telescope(BOOTSTRAP, {k: v for k, v in gaps.items() if k != name}) is None
    # Records from before there was a rung for it keep their bytes.
    assert "across_tokens" not in found.model_dump(mode="json")
    gaps["full-temporal"] = gap_of(0.9, 0.05, 9)
    more = telescope(BOOTSTRAP, gaps)
    assert more is not None
    assert more.across_tokens is not None
    above = gaps["full-temporal"].numerator.sum() / TOKENS.sum() - pooled["full"]
    assert more.across_tokens.value == pytest.approx(above, rel=1e-5)
    assert more.model_copy(update={"across_tokens": None}) == found


CONDITIONAL = ("full", "full-unshrunk", "permuted", "mean", "hetero", "cluster", "neighbour", "token")


def test_with_conditional_samplers_it_closes_too() -> None:
    gaps = {name: gap_of(0.2 + 0.1 * i, 0.05, i) for i, name in enumerate(CONDITIONAL)}
    found = conditional_telescope(BOOTSTRAP, gaps, "cluster")
    assert found is not None
    terms = [found.shape.value, found.found.value, found.not_found.value]
    assert sum(t for t in terms if t is not None) == pytest.approx(found.total.value, abs=2e-6)
    pooled = {name: ratio.numerator.sum() / TOKENS.sum() for name, ratio in gaps.items()}
    assert found.not_found.value == pytest.approx(pooled["cluster"], rel=1e-5)
    assert found.total.value == pytest.approx(pooled["full-unshrunk"], rel=1e-5)
    assert list(found.samplers) == ["cluster", "hetero", "neighbour"]
    assert found.samplers["neighbour"].value == pytest.approx(
        pooled["permuted"] - pooled["neighbour"], rel=1e-5
    )
    assert found.means["token"].value == pytest.approx(pooled["mean"] - pooled["token"], rel=1e-5)


def test_without_a_best_sampler_or_a_rung_it_says_so() -> None:
    gaps = {name: gap_of(0.2 + 0.1 * i, 0.05, i) for i, name in enumerate(CONDITIONAL)}
    for best in (None, "renormalised"):
        found = conditional_telescope(BOOTSTRAP, gaps, best)
        assert found is not None
        assert found.best is None
        assert found.found.value is None
        assert found.found.reason == "no conditional sampler with a density was measured"
    few = {name: gaps[name] for name in ("full", "hetero", "token")}
    found = conditional_telescope(BOOTSTRAP, few, "hetero")
    assert found is not None
    assert found.total.value == pytest.approx(gaps["full"].numerator.sum() / TOKENS.sum(), rel=1e-5)
    assert found.shape.reason == "rung permuted was not measured"
    assert found.means["token"].reason == "rung mean was not measured"
    assert conditional_telescope(BOOTSTRAP, {"full": gaps["full"]}, None) is None


def test_differences_are_paired_document_by_document() -> None:
    shared = gap_of(0.5, 1.0, 3)
    shifted = Ratio(shared.numerator + 0.1 * TOKENS, TOKENS)
    gaps = {"full": shared, "full-unshrunk": shifted, "permuted": shared, "matched": shared}
    found = telescope(BOOTSTRAP, gaps)
    assert found is not None
    assert (found.shape.low, found.shape.high) == (0.1, 0.1)
    assert found.rest.low is not None
    assert found.rest.low < 0.3


def test_the_weights_are_those_of_least_squares() -> None:
    orders = np.array([np.inf, 1.0, 2.0, 4.0, 8.0, 32.0])
    losses = np.random.default_rng(2).normal(size=6)
    # In s = m^(−1/2) the model is a parabola.
    c2, c1, limit = np.polyfit(np.where(np.isinf(orders), 0, orders**-0.5), losses, 2)
    np.testing.assert_allclose(perturbative_weights(orders) @ losses, [limit, c1, c2], rtol=1e-10)


def test_the_fit_recovers_what_it_is_given() -> None:
    limit, c1, c2 = 0.4, -0.2, 0.07
    gaps = {"full-unshrunk": gap_of(limit, 0, 0), "permuted": gap_of(limit + c1 + c2, 0, 0)}
    gaps |= {f"perturbative-{m}": gap_of(limit + c1 * m**-0.5 + c2 / m, 0, 0) for m in PERTURBATIVE}
    found = perturbative_fit(BOOTSTRAP, gaps)
    assert found is not None
    assert [found.limit.value, found.c1.value, found.c2.value] == pytest.approx([limit, c1, c2], abs=1e-6)
    del gaps["perturbative-8"]
    assert perturbative_fit(BOOTSTRAP, gaps) is None
