"""Description lengths against densities, entropies and sources whose net bits are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tiny import WIDTH, make_loaded, make_task

from remainder.api import evaluate
from remainder.board.consistency import check_measurement
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import principal_components
from remainder.measure.code_tables import StepTable, fit_tables
from remainder.measure.codes import Codes, CodeSample
from remainder.measure.coding import CodedBatch, Coder, fit_coder
from remainder.measure.description import (
    Description,
    Gaussian,
    describable,
    fit_description,
    fit_gaussian,
)
from remainder.record.description import NOISES
from remainder.record.recompute import recompute
from remainder.record.store import read_record, write_record
from remainder.record.values import DESCRIPTION
from remainder.report.explain import explain
from remainder.report.quantities import number_of
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys
from remainder.residual.rows import Rows, Seen
from remainder.task.spec import SplitSpec, Tier

CPU = torch.device("cpu")
COST = 0.5 * math.log2(2 * math.pi * math.e / 12)  # .2546: a uniform error taken for a Gaussian one


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Directions:
    """Orthonormal directions that all x is written in."""

    def __init__(self, width: int, seed: int = 3) -> None:
        self.basis = torch.linalg.qr(normal(width, width, seed=seed)).Q

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.basis

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.basis.T


class Thresholds:
    """Coordinates beyond a threshold, one latent each."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs() > self.threshold, x, 0.0)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


class Classes:
    """The nearest of some means, one latent each."""

    def __init__(self, means: torch.Tensor) -> None:
        self.means = means

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        nearest = (x[..., None, :] - self.means).square().sum(-1).argmin(-1)
        return torch.nn.functional.one_hot(nearest, len(self.means)).float()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.means


def gathered(thing: Any, x: torch.Tensor) -> tuple[Rows, Coder]:
    """Calibration windows [windows, pos, d] of as many documents, and a coder that was fitted to them."""
    interpretation, sample, rows = adapt(thing, x.shape[-1]), CodeSample(), Rows(x.shape[-1])
    for start in range(0, len(x), 50):
        part = x[start : start + 50]
        mask = torch.ones(part.shape[:2]).bool()
        codes, decoded = interpretation.reconstruct(part, mask)
        sample.update(codes[mask], part[mask], (part - decoded)[mask], mask)
        names = tuple(f"page-{start + i}" for i in range(len(part)))
        sparse = Codes.of(codes[mask])
        rows.update(NoiseKeys(1, names, (0,) * len(part)), Seen(part[..., :0], mask, sparse), part)
    coder = fit_coder(sample, interpretation, CPU)
    assert isinstance(coder, Coder), coder
    return rows, coder


def described(thing: Any, x: torch.Tensor, fresh: torch.Tensor) -> tuple[Description, np.ndarray]:
    """A description fitted to x, and its columns on other windows: [windows, columns], per position."""
    description = fit_description(*gathered(thing, x))
    assert isinstance(description, Description), description
    mask = torch.ones(fresh.shape[:2]).bool()
    batch = CodedBatch(description.coder, description.coder.interpretation.encode(fresh), fresh, mask)
    columns = description.columns(batch)
    assert all(tuple(row) == DESCRIPTION for row in columns)
    return description, np.array([list(row.values()) for row in columns]) / fresh.shape[1]


def net(columns: np.ndarray) -> np.ndarray:
    return columns[:, 2] - columns[:, 0] - columns[:, 3]


# ----------------------------------------------------------------------------------------- densities


def test_bits_are_densities_with_the_noise_in_expectation() -> None:
    root = normal(3, 3, seed=1).double()
    model = Gaussian(normal(3, seed=2).double(), root @ root.T, "a test")
    rows, floor = normal(20, 3, seed=3).double(), 0.2
    law = stats.multivariate_normal(model.mean.numpy(), (model.matrix + floor * torch.eye(3)).numpy())
    generator = np.random.default_rng(0)
    noise = generator.normal(0, math.sqrt(floor), (4000, 20, 3))
    entropy = 1.5 * math.log2(2 * math.pi * math.e * floor)
    drawn = -law.logpdf(rows.numpy() + noise) / math.log(2) - entropy
    found = model.bits(rows, floor).numpy()
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert (np.abs(found - drawn.mean(0)) < 5 * error).all()
    assert model.total(Moments.of(rows), floor) == pytest.approx(float(found.sum()), rel=1e-10)
    # In its own dimensions and with nothing else, a Gaussian is worth its capacity.
    own = Moments.of(model.mean + normal(200000, 3, seed=4).double() @ root.T)
    capacity = 0.5 * torch.log2(1 + torch.linalg.eigvalsh(model.matrix) / floor).sum()
    assert model.total(own, floor) / own.count == pytest.approx(float(capacity), abs=0.02)


def test_low_rank_and_a_diagonal_is_taken_where_it_describes_better() -> None:
    loadings = 3 * normal(2, 32, seed=1).double()
    spread = torch.linspace(0.2, 3, 32).double()

    def rows(seed: int, count: int) -> torch.Tensor:
        return (normal(count, 2, seed=seed).double() @ loadings) + spread * normal(count, 32, seed=seed + 50)

    found = fit_gaussian([Moments.of(rows(i, 60)) for i in range(3)], 1e-3)
    assert found.family == "rank 2 and a diagonal"
    truth = loadings.T @ loadings + torch.diag(spread.square())
    law = Gaussian(torch.zeros(32).double(), truth, "the law")
    fresh = Moments.of(rows(20, 4000))
    best, own = (model.total(fresh, 1e-3) / fresh.count for model in (law, found))
    assert best < own < best + 1.5
    dense = normal(32, 32, seed=9).double()
    full = fit_gaussian([Moments.of(normal(2000, 32, seed=i).double() @ dense) for i in range(3)], 1e-3)
    assert full.family == "shrunk covariance"


# --------------------------------------------------------------------------------- known net bits


def test_a_fine_step_costs_a_quarter_bit_a_coefficient_on_gaussian_data() -> None:
    """Net bits of transform coding with the true covariance: −½ log₂(2πe/12) a coefficient, exactly known."""
    width, spread = 4, torch.tensor([4.0, 3.0, 2.0, 1.5])
    thing = Directions(width)
    x = (normal(300, 200, width) * spread) @ thing.basis.T
    rows, coder = gathered(thing, x)
    step = next(j for j in range(12) if coder.step(j) < 0.4)
    floor, size = 1e-7, coder.step(step)
    truth = thing.basis.double() @ torch.diag(spread.double() ** 2) @ thing.basis.double().T
    law = Gaussian(torch.zeros(width).double(), truth, "the law")
    uniform = Gaussian(torch.zeros(width).double(), size**2 / 12 * torch.eye(width).double(), "the law")
    symbols = coder.symbols(coder.contributions(Codes.of(x.reshape(-1, width) @ thing.basis)), step)
    left = (
        x.reshape(-1, width)
        - thing.decode(coder.rounded(symbols, step).placed(torch.ones(1, 60000).bool()))[0]
    )
    bits = float(coder.bits(symbols, step).mean())
    found = float(law.bits(x.reshape(-1, width), floor).mean() - uniform.bits(left, floor).mean()) - bits
    assert found / width == pytest.approx(-COST, abs=0.01)
    assert len(rows) == 60000


def test_on_gaussian_data_no_fitted_code_is_worth_anything() -> None:
    width = 6
    root = normal(width, width, seed=4) / 2
    coded = principal_components(Moments.of(normal(20000, width, seed=5) @ root), 3)
    # Three coefficients cost a quarter bit each, and a little for tables; thresholds of a Gaussian much more.
    for thing, least in ((coded, -3 * COST - 0.3), (Thresholds(1.0), -10.0)):
        x, fresh = normal(90, 60, width, seed=1) @ root, normal(200, 60, width, seed=2) @ root
        description, columns = described(thing, x, fresh)
        bits = net(columns)
        assert least < bits.mean() < 3 * bits.std() / math.sqrt(len(bits))
        assert max(description.fit.folds) < 0.2, description.fit


def bernoulli_gaussian(*shape: int, seed: int, p: float = 0.05, s2: float = 0.01) -> torch.Tensor:
    on = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < p
    return on * normal(*shape, seed=seed + 1) + math.sqrt(s2) * normal(*shape, seed=seed + 2)


def test_sparse_sources_are_worth_between_their_bounds() -> None:
    """PROTOCOL 2, section 7: J − .2546 p − .03 a source at least, and J at most."""
    p, t2, s2 = 0.05, 1.0, 0.01

    def f(x: float) -> float:
        narrow, wide = stats.norm.pdf(x, 0, math.sqrt(s2)), stats.norm.pdf(x, 0, math.sqrt(s2 + t2))
        return (1 - p) * narrow + p * wide

    whole, _ = integrate.quad(lambda x: f(x) * math.log2(f(x)), -8, 8, points=[-0.3, 0, 0.3], limit=400)
    most = 0.5 * math.log2(2 * math.pi * math.e * (s2 + p * t2)) + whole
    assert most == pytest.approx(0.9268, abs=1e-4)
    width = 5
    x, fresh = bernoulli_gaussian(200, 200, width, seed=1), bernoulli_gaussian(400, 100, width, seed=10)
    _, columns = described(Thresholds(0.28), x, fresh)
    bits = net(columns) / width
    error = bits.std() / math.sqrt(len(bits))
    assert bits.mean() <= most + 3 * error
    assert bits.mean() >= most - COST * p - 0.03 - 3 * error


def test_classes_far_apart_are_worth_their_separation_less_the_code() -> None:
    """½ log₂ det(I + Σ_g⁻¹B), less what indicators cost that are coded one by one: K·H(1/K), not H(C)."""
    classes, width = 8, 10
    means = 12 * normal(classes, width, seed=1)
    label = torch.randint(0, classes, (300, 200), generator=torch.Generator().manual_seed(2))
    x = means[label] + normal(300, 200, width, seed=3)
    description, columns = described(Classes(means), x[:200], x[200:])
    between = torch.cov(means.T, correction=0).double()
    separation = 0.5 * float(torch.log2(torch.linalg.eigvalsh(between) + 1).sum())
    p = 1 / classes
    code = classes * -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    noise = description.fit.noise
    assert noise is not None
    # The noise that is added takes a part of the separation away.
    noisy = 0.5 * float(torch.log2(torch.linalg.eigvalsh(between) / (1 + noise) + 1).sum())
    assert noisy < separation
    assert columns[:, 0].mean() == pytest.approx(code, abs=0.15)
    assert net(columns).mean() == pytest.approx(noisy - code, abs=0.25)


def test_another_amount_of_noise_stands_beside_it() -> None:
    x = bernoulli_gaussian(90, 100, 4, seed=1)
    description, columns = described(Thresholds(0.28), x, x[:20])
    total = Moments.of(x.reshape(-1, 4))
    variance = float(total.covariance.trace()) / 4
    assert description.fit.noise == pytest.approx(NOISES[0] * variance, rel=1e-5)
    for place, share in enumerate(NOISES):
        expected = description.x.bits(x[:20].reshape(-1, 4), share * variance).reshape(20, 100).mean(1)
        np.testing.assert_allclose(columns[:, 2 + 2 * place], expected.numpy(), rtol=1e-6)
    ceiling = 0.5 * torch.log2(1 + torch.linalg.eigvalsh(description.x.matrix) / (NOISES[0] * variance)).sum()
    assert description.fit.ceiling == pytest.approx(float(ceiling), rel=1e-5)


def test_tables_of_a_fold_are_those_of_the_other_documents() -> None:
    from remainder.measure import description as module

    rows, coder = gathered(Thresholds(0.28), bernoulli_gaussian(60, 50, 4, seed=1))
    found = module._tables(rows, coder, 1)
    codes = rows.some(rows.order(without=1)).seen.codes
    assert codes is not None
    expected = fit_tables(lambda: [coder.contributions(codes)], [coder.step(j) for j in range(12)])
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, StepTable)
        torch.testing.assert_close(one.rate, other.rate)
        torch.testing.assert_close(one.laws.centre, other.laws.centre)


# ------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_described_says_why() -> None:
    x = bernoulli_gaussian(60, 50, 4, seed=1)
    rows, coder = gathered(Thresholds(0.28), x)
    assert describable(4, 200, coder) is None
    assert "199 calibration tokens for 4 dimensions" in str(describable(4, 199, coder))
    assert describable(4, 200, "no codes") == "no codes"
    discrete, its = gathered(Thresholds(0.28), x[:1, :9].repeat(60, 5, 1))
    assert "discrete" in str(fit_description(discrete, its))
    alone = Rows(4)
    some = rows.some(rows.order())
    alone.update(NoiseKeys(1, ("page",) * len(x), tuple(range(len(x)))), some.seen, some.residual)
    assert "fewer than 3 folds" in str(fit_description(alone, coder))


# ------------------------------------------------------------------------------------ whole runs


@pytest.mark.slow
def test_a_run_with_conditional_rungs_states_net_bits_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    tier = Tier(evaluation_windows=20, calibration_windows=60, fit_windows=20, pairs=1, dtype="float32")
    loaded = make_loaded(
        make_task(tiers={"quick": tier}, splits=SplitSpec(seed=3, evaluation=10, calibration=18))
    )
    thing = principal_components(loaded.fit_moments(20), 6)
    result = evaluate(loaded, thing, rungs=["raw", "neighbour"])
    record, values = result.record, result.values
    fit, lengths = record.calibration.description, record.metrics.description
    assert fit is not None
    assert fit.rows > 50 * WIDTH
    assert lengths is not None
    raw = values[values["rung"] == "raw"]
    sums = raw[[*DESCRIPTION, "spliced", f"bits_{fit.step}", f"ss_{fit.step}"]].sum()
    assert sums["code_bits"] == pytest.approx(sums[f"bits_{fit.step}"], rel=1e-6)
    assert sums["code_ss"] == pytest.approx(sums[f"ss_{fit.step}"], rel=1e-4)
    expected = (sums["x_bits"] - sums["code_bits"] - sums["remainder_bits"]) / sums["spliced"]
    assert lengths.net.value == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert number_of(record, "net_bits") == lengths.net
    assert "= net bits" in explain(record)
    assert list(check_measurement(record, values)) == []
    forged = record.calibration.model_copy(update={"best": "cluster"})
    (fault,) = check_measurement(record.model_copy(update={"calibration": forged}), values)
    assert "calibration.best: cluster" in fault
    write_record(record, values, tmp_path / "record.json")
    recompute(*read_record(tmp_path / "record.json"))
    few = evaluate(make_loaded(make_task()), thing, rungs=["raw", "neighbour"]).record
    assert few.metrics.description is None
    assert "calibration tokens for 16 dimensions" in str(number_of(few, "net_bits").reason)
    assert "Not measured:" in explain(few)
