"""Tables of code lengths: proper over all integers, and near the entropy of sources that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from remainder.measure.code_tables import StepTable, fit_tables
from remainder.measure.codes import Codes

TOKENS = 20_000
STEP = 0.1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(tokens: int, features: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, features, generator=generator(seed))


def gates(tokens: int, features: int, seed: int, share: float) -> torch.Tensor:
    return torch.rand(tokens, features, generator=generator(seed + 999)) < share


def laplace(tokens: int, features: int, seed: int) -> torch.Tensor:
    uniform = torch.rand(tokens, features, generator=generator(seed)) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.5 - 1e-9))


def table_of(contributions: torch.Tensor, step: float = STEP) -> StepTable:
    return fit_tables(lambda: [Codes.of(contributions)], [step])[0]


def bits(table: StepTable, contributions: torch.Tensor) -> float:
    """Bits per token."""
    codes = Codes.of(contributions)
    symbol = torch.round(codes.value.double() / table.step)
    on = symbol != 0
    return table.off + float(table.bits(codes.latent[on], symbol[on]).sum()) / codes.tokens


def entropy(cdf: Callable[[np.ndarray], np.ndarray], share: float, step: float = STEP) -> float:
    """Bits of round(v/step), v active with probability `share` and then of this law."""
    edges = (np.arange(-200_000, 200_002) - 0.5) * step
    masses = share * np.diff(cdf(edges))
    masses[200_000] += 1 - share
    masses = masses[masses > 0]
    return float(-(masses * np.log2(masses)).sum())


SOURCES: dict[str, tuple[Callable[[int], torch.Tensor], float]] = {
    "dense Gaussian": (lambda seed: normal(TOKENS, 10, seed), 10 * entropy(stats.norm.cdf, 1)),
    "Bernoulli-Gaussian": (
        lambda seed: normal(TOKENS, 20, seed) * gates(TOKENS, 20, seed, 0.05),
        20 * entropy(stats.norm.cdf, 0.05),
    ),
    "sparse log-normal": (
        lambda seed: (0.5 * normal(TOKENS, 20, seed)).exp() * gates(TOKENS, 20, seed, 0.05),
        20 * entropy(stats.lognorm(0.5).cdf, 0.05),
    ),
    "sparse, one sign": (
        lambda seed: -(0.5 * normal(TOKENS, 20, seed)).exp() * gates(TOKENS, 20, seed, 0.05),
        20 * entropy(stats.lognorm(0.5).cdf, 0.05),
    ),
    "dense Laplace": (lambda seed: laplace(TOKENS, 10, seed), 10 * entropy(stats.laplace.cdf, 1)),
    # Five firings a latent: laws are drawn toward each other.
    "rare": (
        lambda seed: (0.3 * normal(TOKENS, 400, seed)).exp() * gates(TOKENS, 400, seed, 2.5e-4),
        400 * entropy(stats.lognorm(0.3).cdf, 2.5e-4),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_known_sources_cost_about_their_entropy(name: str) -> None:
    """Within 3 % (rare ones 8 %), where the source's own draw may be cheaper or dearer than its mean."""
    draw, expected = SOURCES[name]
    table = table_of(draw(1))
    found = np.mean([bits(table, draw(seed)) for seed in range(2, 6)])
    assert found == pytest.approx(expected, rel=0.08 if name == "rare" else 0.03)


def test_a_bell_is_coded_at_any_step_about_as_well_as_by_its_variance() -> None:
    """Principal components: h = ½ log₂(2πe σ²) − log₂ step where the step is fine."""
    scales = torch.tensor([0.3, 1.0, 5.0])
    draw = normal(TOKENS, 3, 1) * scales
    for table in fit_tables(lambda: [Codes.of(draw)], (0.01, 0.03, 0.1)):
        found, step = bits(table, normal(TOKENS, 3, 2) * scales), table.step
        expected = sum(0.5 * math.log2(2 * math.pi * math.e * float(s) ** 2 / step**2) for s in scales)
        assert found == pytest.approx(expected, abs=0.1)


ODD: dict[str, torch.Tensor] = {
    "Gaussian": normal(500, 1, 1),
    "far from zero": 30 + 0.2 * normal(500, 1, 1),
    "Laplace": laplace(500, 1, 1),
    "log-normal": (0.5 * normal(500, 1, 1)).exp() * gates(500, 1, 1, 0.3),
    "both signs, rare": torch.cat([torch.tensor([[3.0], [-2.0]]), torch.zeros(500, 1)]),
    "one firing": torch.cat([torch.tensor([[3.0]]), torch.zeros(500, 1)]),
    "silent": torch.zeros(500, 1),
    "constant": torch.full((500, 1), 2.0),
    "far below the step": 1e-4 * normal(500, 1, 1),
    "an outlier": torch.cat([torch.tensor([[1e6]]), normal(500, 1, 1)]),
}


@pytest.mark.parametrize("step", [0.02, 0.3, 4.0])
@pytest.mark.parametrize("name", ODD)
def test_symbols_other_than_zero_have_probability_one_together(name: str, step: float) -> None:
    table, _ = fit_tables(lambda: [Codes.of(ODD[name])], (step, 0.02))
    most = 300_000
    symbols = torch.arange(1, most + 1).double()
    symbols = torch.cat([-symbols.flip(0), symbols])
    found = float(table.active(torch.zeros(len(symbols), dtype=torch.int64), symbols).sum())
    # Only outliers lie beyond; of an outlier's own latent its law does too.
    size = float(table.laws.size)
    beyond = math.atan(size / ((most + 0.5) * step)) / math.atan(size / (step / 2))
    assert 1 - beyond - 1e-9 <= found <= 1 - 0.009 * beyond + 1e-9
    assert 0 < float(table.rate) < 1


@pytest.mark.parametrize("name", ["Gaussian", "Laplace", "log-normal", "both signs, rare"])
def test_bits_are_those_of_scipy_s_laws(name: str) -> None:
    table = table_of(ODD[name], 0.3)
    laws = table.laws
    centre, spread, size = float(laws.centre), float(laws.spread), float(laws.size)
    q = np.array([-40.0, -3.0, -1.0, 1.0, 2.0, 7.0, 200.0])
    low, high = (q - 0.5) * 0.3, (q + 0.5) * 0.3
    if int(laws.family) == 0:
        law = stats.lognorm(spread, scale=math.exp(centre))
        share = np.where(q < 0, float(laws.negative), 1 - float(laws.negative))
        near, far = np.minimum(abs(low), abs(high)), np.maximum(abs(low), abs(high))
        mass, rest = share * (law.sf(near) - law.sf(far)), law.sf(0.15)
    else:
        law = (stats.norm if int(laws.family) == 1 else stats.laplace)(centre, spread)
        mass, rest = law.cdf(high) - law.cdf(low), law.cdf(-0.15) + law.sf(0.15)
    outlier = stats.cauchy(scale=size)
    mixed = 0.99 * mass / rest + 0.01 * (outlier.cdf(high) - outlier.cdf(low)) / (2 * outlier.sf(0.15))
    rate = float(table.rate)
    expected = -np.log2(rate * mixed) + np.log2(1 - rate)
    found = table.bits(torch.zeros(len(q), dtype=torch.int64), torch.from_numpy(q))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert table.off == pytest.approx(-math.log2(1 - rate), rel=1e-9)


def test_a_million_silent_latents_cost_next_to_nothing() -> None:
    few = normal(2000, 5, 1) * gates(2000, 5, 1, 0.1)
    codes = Codes.of(few)
    padded = codes._replace(features=1_000_000)
    without, padding = (fit_tables(lambda c=c: [c], [STEP])[0].off for c in (codes, padded))
    assert 0 < padding - without < 1e-3


def test_silent_latents_fire_as_often_as_latents_with_one_firing_tell() -> None:
    """Of 20,000 latents that fire once in ten thousand tokens, 4,000 tokens leave most silent."""
    tokens, features, share = 4000, 20_000, 1e-4
    draw = normal(tokens, features, 1).exp() * gates(tokens, features, 1, share)
    table = table_of(draw)
    silent = Codes.of(draw).counts() == 0
    assert float(silent.double().mean()) > 0.6
    assert float(table.rate[silent][0]) == pytest.approx(share, rel=0.1)


def test_codes_of_a_table_cost_their_index() -> None:
    """One-hot codes: log₂ K, and log₂ e for telling nothing of each other; the value costs nothing."""
    for entries in (4, 64):
        chosen = torch.randint(entries, (TOKENS,), generator=generator())
        draw = 3.3 * torch.nn.functional.one_hot(chosen, entries).float()
        found = bits(table_of(draw), draw)
        assert math.log2(entries) < found < math.log2(entries) + math.log2(math.e) + 0.1


def test_outliers_cost_the_logarithm_of_their_size_and_move_no_other_bits() -> None:
    draw = normal(5000, 1, 1)
    table = table_of(draw)
    symbol = torch.tensor([1e3, 1e6, 1e9]).double()
    found = table.bits(torch.zeros(3, dtype=torch.int64), symbol)
    np.testing.assert_allclose(np.diff(found.numpy()), 2 * math.log2(1000), rtol=1e-3)
    planted = draw.clone()
    planted[0] = 1e6
    honest = bits(table, draw)
    assert bits(table_of(planted), draw) < honest + 0.5


def test_law_s_choice_needs_firings() -> None:
    codes = Codes.of(normal(TOKENS, 1, 1))
    assert [int(fit_tables(lambda c=c: [c], [STEP])[0].laws.family) for c in (codes, codes.first(10))] == [
        1,
        0,
    ]


def test_parts_of_the_tokens_make_the_tables_of_all() -> None:
    """Sums are merged part by part, and firings are counted at all steps at once."""
    draw = torch.cat([normal(500, 20, 1), laplace(500, 20, 2), normal(500, 20, 3).exp()], 1)
    draw *= gates(500, 60, 4, 0.3) * torch.logspace(-2, 1, 60)
    steps = (1.0, 0.1, 0.35)
    whole, parts = (
        fit_tables(lambda split=split: split, steps)
        for split in ([Codes.of(draw)], [Codes.of(part) for part in draw.split((1, 17, 400, 82))])
    )
    for one, other in zip(whole, parts, strict=True):
        assert len(set(one.laws.family.tolist())) > 1
        for mine, theirs in zip((*one.laws, one.rate), (*other.laws, other.rate), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        n = (torch.round(draw.double() / one.step) != 0).sum(0)
        torch.testing.assert_close(one.rate[n > 0], ((n + 0.5) / 501)[n > 0].double())
