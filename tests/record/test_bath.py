"""The bath against integrals of a logistic model, its guard, and Holm's rule against p-values."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from tests.helpers.tables import table_of

from remainder.measure.annealed import annealed_loss, plain_loss, unit_log_means
from remainder.record.bath import bath_of, holm
from remainder.record.intervals import Bootstrap
from remainder.record.metrics import BathPoint
from remainder.record.rungs import AMPLITUDES, BATH
from remainder.record.values import canonical_values, document_totals

DOCUMENTS, TOKENS = 40, 100
NODES, WEIGHTS = hermegauss(60)


def logistic(scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that a model sees and labels that follow sigmoid(logit + scale z): the bath holds z."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(DOCUMENTS, TOKENS))
    chance = 1 / (1 + np.exp(-logits - scale * generator.normal(size=logits.shape)))
    return logits, np.where(generator.random(logits.shape) < chance, 1.0, -1.0)


def exact(logits: np.ndarray, labels: np.ndarray, noise: float) -> np.ndarray:
    """−log E sigmoid(label (logit + noise z)), means over tokens `[documents]`."""
    p = 1 / (1 + np.exp(-labels[..., None] * (logits[..., None] + noise * NODES)))
    return -np.log(p @ WEIGHTS / WEIGHTS.sum()).mean(1)


def measured(scale: float, pairs: int = 4, seed: int = 1) -> pd.DataFrame:
    """The table of a run with four antithetic pairs at both amplitudes, the noise as large as the bath."""
    logits, labels = logistic(scale)
    z = np.random.default_rng(seed).normal(size=(pairs, *logits.shape))
    z = np.stack([z, -z], 1).reshape(-1, *logits.shape)
    losses = {"clean": exact(logits, labels, 0.0), "mean": exact(logits, labels, 0.0)}
    ends: dict[str, np.ndarray] = {}
    plain: dict[str, np.ndarray] = {}
    for rung in BATH:
        log_p = torch.from_numpy(-np.log1p(np.exp(-labels * (logits + AMPLITUDES[rung] * scale * z))))
        losses[rung] = -log_p.mean(2).numpy().T
        units = unit_log_means(log_p.reshape(len(z), -1), 2)
        ends[rung], plain[rung] = (np.full((DOCUMENTS, len(z)), np.nan) for _ in range(2))
        for count in range(2, pairs + 1):
            for made, into in ((annealed_loss, ends), (plain_loss, plain)):
                mean = made(units[:count]).reshape(DOCUMENTS, TOKENS).mean(1)
                into[rung][:, 2 * count - 1] = mean.numpy()
    return canonical_values(table_of(losses, annealed=ends, plain=plain))


def bath(table: pd.DataFrame) -> tuple[BathPoint, ...]:
    found = bath_of(Bootstrap(DOCUMENTS, seed=1), table, document_totals(table))
    assert found is not None
    return found


def test_the_bath_of_a_bayesian_model_pays_what_the_integral_says() -> None:
    scale = 1.5
    logits, labels = logistic(scale)
    for point, alpha in zip(bath(measured(scale)), (0.6, 1.0), strict=True):
        assert point.amplitude == alpha
        loss = exact(logits, labels, alpha * scale)
        # Of 4,000 tokens with four pairs each; the standard deviation of a token's estimate is about .05.
        assert point.loss.value == pytest.approx(loss.mean(), abs=0.004)
        expected = (loss - exact(logits, labels, 0.0)).mean()
        assert point.difference.value == pytest.approx(expected, abs=0.004)
        assert expected < -0.008
        assert point.pays is True
        assert point.difference.high < 0


def test_noise_where_there_is_no_bath_does_not_pay() -> None:
    logits, _ = logistic(0.0)
    labels = np.where(np.random.default_rng(3).random(logits.shape) < 1 / (1 + np.exp(-logits)), 1.0, -1.0)
    assert (exact(logits, labels, 2.0) - exact(logits, labels, 0.0)).mean() > 0
    weak = measured(0.0)  # no noise: the difference is exactly 0
    for point in bath(weak):
        assert point.difference.value == 0
        assert point.pays is False


def test_a_value_that_the_jackknife_makes_is_not_given() -> None:
    table = measured(2.0)
    spoilt = table.copy()
    there = spoilt["annealed"].notna() & (spoilt["rung"] == "full")
    spoilt.loc[there, "annealed"] -= 60.0  # a correction of .6 nats a token
    moved = bath(canonical_values(spoilt))
    assert moved[0] == bath(table)[0]
    assert moved[1].pays is None
    for number in (moved[1].loss, moved[1].difference):
        assert number.value is None
        assert "the jackknife moves it by 0.6" in str(number.reason)
    below = table.copy()
    for name in ("annealed", "annealed_plain"):
        below.loc[there, name] -= 300.0
    assert "below 0" in str(bath(canonical_values(below))[1].loss.reason)


def test_too_few_draws_and_unmeasured_amplitudes_have_no_bath() -> None:
    for point in bath(measured(2.0, pairs=3)):
        assert point.pays is None
        assert "fewer than 8 draws" in str(point.difference.reason)
    more = measured(2.0, pairs=6)
    assert [point.loss.value for point in bath(more)] == pytest.approx(
        [point.loss.value for point in bath(measured(2.0, pairs=6).loc[more["draw"] < 8])]
    )
    table = measured(2.0)
    for rung in ("mean", *BATH):
        part = table.loc[table["rung"] != rung]
        assert bath_of(Bootstrap(DOCUMENTS, seed=1), part, document_totals(part)) is None


def test_holms_rule_is_that_of_p_values() -> None:
    """Ends of one-sided normal intervals against the step-down procedure on p-values."""
    from scipy import stats

    single, strict = (float(stats.norm.isf(level)) for level in (0.025, 0.0125))
    for z in itertools.product((-3.5, -2.3, -2.1, -1.0, 1.0), repeat=2):
        p = [2 * stats.norm.cdf(one) if one < 0 else 1.0 for one in z]
        smaller, larger = np.argsort(p)
        expected = [False, False]
        if p[smaller] < 0.025:
            expected[smaller] = True
            expected[larger] = bool(p[larger] < 0.05)
        assert holm([(one + single, one + strict) for one in z]) == expected
    assert holm([(None, None), (-0.1, -0.05)]) == [None, True]
    assert holm([(None, None), (-0.1, 0.05)]) == [None, False]
    assert holm([(None, None), (None, None)]) == [None, None]
