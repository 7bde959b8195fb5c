"""The Gaussian ratio taken apart: closed forms of a linear model, sums that must close, and nulls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tests.helpers.tables import table_of

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import RatioParts
from remainder.record.ratio import NESTED, OTHERS, gaussian_ratio, ratio_parts
from remainder.record.rungs import AROUND, NULLS
from remainder.record.values import canonical_values, document_totals
from remainder.residual.calibration import Calibration
from remainder.residual.kernel import Context
from remainder.residual.ladder import prepare
from remainder.residual.noise import Draw, NoiseKeys

DOCUMENTS, POSITIONS, WIDTH = 60, 30, 4
GENERATOR = torch.Generator().manual_seed(0)
MIXING = torch.randn(WIDTH, WIDTH, generator=GENERATOR, dtype=torch.float64)
READS = torch.randn(2, WIDTH, generator=GENERATOR, dtype=torch.float64)
MEAN = torch.tensor([0.4, -0.3, 0.2, 0.5]).double()


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def keys(documents: int, prefix: str) -> NoiseKeys:
    return NoiseKeys(2, tuple(f"{prefix}-{i:05d}" for i in range(documents)), (0,) * documents)


def measured(residual: torch.Tensor, calibration: Calibration, x: torch.Tensor) -> pd.DataFrame:
    """Values of a model that reads two directions and adds Gaussian noise: KL is half a squared distance,
    and a cube makes it differ between the two sides of x."""
    context = Context(keys(len(x), "page"), x - residual, torch.ones(x.shape[:2]).bool(), residual)

    def kl(moved: torch.Tensor) -> np.ndarray:
        read = moved @ READS.T
        return (read.square().sum(-1) / 2 * (1 + 0.5 * torch.tanh(read.sum(-1)))).mean(1).numpy()

    found = {"clean": np.zeros(len(x)), "raw": kl(-residual)}
    for name, rung in (NULLS | AROUND).items():
        model = prepare(rung, calibration)
        draws = range(1 if rung.noise == "none" else 4)
        found[name] = np.stack([kl(model.sample(context, Draw(draw))) for draw in draws], axis=1)
    losses = {rung: 3 + values for rung, values in found.items()}
    return canonical_values(table_of(losses, kl=found))


def gaussian_residual(documents: int) -> torch.Tensor:
    return MEAN + gaussian(documents, POSITIONS, WIDTH) @ MIXING


def parts(table: pd.DataFrame) -> RatioParts:
    found = ratio_parts(Bootstrap(DOCUMENTS, seed=1), document_totals(table))
    assert found is not None
    return found


def calibrated(residual: torch.Tensor) -> Calibration:
    calibration = Calibration.empty(WIDTH)
    x = 3 * gaussian(*residual.shape)
    calibration.update(keys(len(residual), "calibration"), x, residual, torch.ones(residual.shape[:2]).bool())
    return calibration


def made(scale: float = 1.0) -> pd.DataFrame:
    """A Gaussian residual, on evaluation `scale` times as large as on calibration."""
    x = 3 * gaussian(DOCUMENTS, POSITIONS, WIDTH)
    return measured(scale * gaussian_residual(DOCUMENTS), calibrated(gaussian_residual(400)), x)


def test_a_gaussian_independent_residual_with_a_mean_is_like_its_noise_and_has_no_side() -> None:
    table = measured(
        gaussian_residual(DOCUMENTS),
        calibrated(gaussian_residual(400)),
        3 * gaussian(DOCUMENTS, POSITIONS, WIDTH),
    )
    found = parts(table)
    assert found.odd.low is not None
    assert found.odd.high is not None
    assert found.odd.low <= 0 <= found.odd.high
    assert found.odd.high - found.odd.low < 0.15  # so that a side would have been seen
    for number in (found.even, found.small, found.others["noise-run"]):
        assert number.low is not None
        assert number.high is not None
        assert number.low <= 1 <= number.high
    assert found.factors["residual"].value == pytest.approx(0, abs=0.15)


def test_a_skewed_residual_has_a_side() -> None:
    def skewed(documents: int) -> torch.Tensor:
        """Skewed along the direction in which the model tells its sides apart."""
        along = READS.sum(0) / READS.sum(0).square().sum()
        return gaussian_residual(documents) * 0.3 + (gaussian(documents, POSITIONS, 1).exp() - 1.65) * along

    table = measured(skewed(DOCUMENTS), calibrated(skewed(400)), 3 * gaussian(DOCUMENTS, POSITIONS, WIDTH))
    odd = parts(table).odd
    assert odd.low is not None
    assert odd.high is not None
    assert odd.low > 0.02 or odd.high < -0.02


def test_parts_are_what_they_are_called_and_add_up() -> None:
    table = measured(
        gaussian_residual(DOCUMENTS) * 1.3,
        calibrated(gaussian_residual(400)),
        gaussian(DOCUMENTS, POSITIONS, WIDTH),
    )
    found, totals = parts(table), document_totals(table)
    kl = {rung: rows["kl"].sum() for rung, rows in totals.items()}
    noise = kl["noise-fitted"]
    assert found.even.value == pytest.approx((kl["raw"] + kl["mirror"]) / 2 / noise, rel=1e-5)
    assert found.odd.value == pytest.approx((kl["raw"] - kl["mirror"]) / 2 / noise, rel=1e-4)
    assert found.even.value + found.odd.value == pytest.approx(kl["raw"] / noise, rel=1e-5)
    small = (kl["residual-0.3"] + kl["mirror-0.3"]) / 2 / kl["noise-0.3"]
    assert found.small.value == pytest.approx(small, rel=1e-5)
    assert found.mean_kl.value == pytest.approx(kl["minus-mean"] / (100 * DOCUMENTS), rel=1e-5)
    chain = [*NESTED, "raw"]
    assert list(found.factors) == [*NESTED[1:], "residual"]
    for name, before, number in zip(chain[1:], chain, found.factors.values(), strict=False):
        assert number.value == pytest.approx(np.log(kl[name] / kl[before]), abs=1e-5)
    assert sum(number.value or 0 for number in found.factors.values()) == pytest.approx(
        np.log(kl["raw"] / kl["noise-isotropic"]), abs=1e-5
    )
    assert {rung: number.value for rung, number in found.others.items()} == pytest.approx(
        {rung: kl["raw"] / kl[rung] for rung in OTHERS}, rel=1e-5
    )


def test_the_interval_of_a_log_factor_is_that_of_its_ratio() -> None:
    table = measured(
        gaussian_residual(DOCUMENTS),
        calibrated(gaussian_residual(400)),
        gaussian(DOCUMENTS, POSITIONS, WIDTH),
    )
    number = parts(table).factors["residual"]
    totals = document_totals(table)
    one, other = (totals[rung]["kl"].to_numpy() for rung in ("raw", "noise-run"))
    generator = np.random.default_rng(0)
    chosen = generator.integers(DOCUMENTS, size=(4000, DOCUMENTS))
    logs = np.log(one[chosen].sum(1) / other[chosen].sum(1))
    assert number.low is not None
    assert number.high is not None
    assert (number.high - number.low) / (2 * 1.96) == pytest.approx(logs.std(), rel=0.15)


def test_what_was_not_measured_or_is_0_is_null_with_its_reason() -> None:
    generator = np.random.default_rng(0)
    clean = generator.lognormal(1, 0.1, 12)
    kl = {rung: generator.lognormal(-3, 0.3, 12) for rung in ("raw", "noise-fitted", "mirror")}

    def of(**changed: np.ndarray) -> RatioParts | None:
        losses = {"clean": clean} | {rung: clean + values for rung, values in (kl | changed).items()}
        return ratio_parts(Bootstrap(12, seed=1), document_totals(canonical_values(table_of(losses))))

    found = of()
    assert found is not None
    assert found.small.reason == "rung residual-0.3 was not measured"
    assert found.mean_kl.reason == "rung minus-mean was not measured"
    assert found.factors == {}
    assert found.others == {}
    nothing = of(**{"noise-fitted": np.zeros(12)})
    assert nothing is not None
    assert "the KL of noise-fitted is 0" in str(nothing.even.reason)
    exact = of(raw=np.zeros(12))
    assert exact is not None
    assert "the KL of raw is 0" in str(exact.odd.reason)
    del kl["mirror"]
    assert of() is None


def test_of_a_ladder_of_quantised_codes_the_ratio_is_of_these() -> None:
    clean = np.full(12, 2.0)
    kl = {"raw": 0.1, "coded": 0.2, "mirror": 0.1, "noise-fitted": 0.1}
    losses = {"clean": clean} | {rung: clean + value for rung, value in kl.items()}
    totals = document_totals(canonical_values(table_of(losses)))
    found = ratio_parts(Bootstrap(12, seed=1), totals)
    assert found is not None
    assert (found.even.value, found.odd.value) == pytest.approx((1.5, 0.5))
    ratio = gaussian_ratio(totals, "noise-fitted")
    assert isinstance(ratio, Ratio)
    assert ratio.numerator.sum() / ratio.denominator.sum() == pytest.approx(2.0)
