"""Statements about levels, told from made-up sums over documents: what holds, what fails, what is open."""

from __future__ import annotations

import numpy as np
import pytest

from remainder.record.flow import Criterion
from remainder.record.intervals import Bootstrap
from remainder.record.verdicts import Verdict, claims, decided, within

TOKENS = np.full(40, 10.0)


def spread(means: list[float], sd: float, seed: int = 4) -> np.ndarray:
    """Sums over documents whose ratios to `TOKENS` are about `means`, `[levels, documents]`."""
    noise = np.random.default_rng(seed).normal(size=(len(means), 40))
    noise -= noise.mean(1, keepdims=True)
    return 10.0 * (np.array(means)[:, None] + sd * noise)


def verdicts(**criteria: Criterion) -> dict[str, list[str]]:
    found = claims(Bootstrap(40, seed=0), TOKENS, criteria)
    return {
        name: [
            Verdict(holds=decided(bool(holds), bool(fails))).word
            for holds, fails in zip(found[name, "holds"], found[name, "fails"], strict=True)
        ]
        for name in criteria
    }


def equivalence(means: list[float], sd: float) -> Criterion:
    """|size| ≤ 0.1."""
    sizes, room = spread(means, sd), spread([1.0], 0.0)[0]
    return Criterion(np.array([within(size, room, 0.1) for size in sizes]))


def test_what_documents_say_of_an_equivalence() -> None:
    found = verdicts(shape=equivalence([0.0, 0.5, -0.5, 0.1], 0.02))
    assert found["shape"] == ["holds", "fails", "fails", "open"]
    assert verdicts(shape=equivalence([0.0, 0.2], 2.0))["shape"] == ["open", "open"]


def test_what_documents_say_of_a_claim_that_one_side_may_meet() -> None:
    sides = np.stack([spread([-1.0, 1.0, 0.0], 0.1), spread([1.0, 1.0, 0.0], 0.1, seed=5)], axis=1)
    unknown = np.zeros((3, 2), dtype=np.bool_)
    assert verdicts(bath=Criterion(sides, any_side=True, unknown=unknown))["bath"] == [
        "holds",
        "fails",
        "open",
    ]
    unknown[1, 1] = unknown[0, 0] = True  # what has no value may be below 0
    assert verdicts(bath=Criterion(sides, any_side=True, unknown=unknown))["bath"] == ["open"] * 3


def test_where_two_levels_are_one_nothing_fails() -> None:
    assert verdicts(shape=Criterion(np.zeros((2, 2, 40))))["shape"] == ["holds", "holds"]


@pytest.mark.parametrize("others", [0, 4])
def test_more_statements_make_each_harder_until_they_are_done(others: int) -> None:
    """Families that claim all of their levels leave what they had to the others; open ones keep it."""
    edge = equivalence([0.0935, 0.0935], 0.013)
    open_ones = {f"open {number}": equivalence([0.1, 0.1], 0.2) for number in range(others)}
    clear = {f"clear {number}": equivalence([0.0, 0.0], 0.01) for number in range(others)}
    alone, beside = verdicts(edge=edge)["edge"], verdicts(edge=edge, **open_ones)["edge"]
    assert alone == ["holds", "holds"]
    assert beside == (["open", "open"] if others else alone)
    # Each clear statement is done in that it holds, and stays in the list in that it might fail.
    assert verdicts(edge=edge, **clear)["edge"].count("holds") >= beside.count("holds")


def test_false_claims_are_as_rare_as_they_should_be() -> None:
    """At the very edge of an equivalence, on all levels of two statements, a claim is false either way."""
    wrong, tries = 0, 150
    for seed in range(tries):
        noise = np.random.default_rng(seed).normal(size=(2, 3, 40))
        criteria = {
            name: Criterion(np.array([within(10 * (0.5 + 0.2 * one), TOKENS, 0.5) for one in part]))
            for name, part in zip(("one", "two"), noise, strict=True)
        }
        found = claims(Bootstrap(40, seed=seed, resamples=400), TOKENS, criteria)
        wrong += any(one.any() for one in found.values())
    assert wrong / tries <= 0.10
