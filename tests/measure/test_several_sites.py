"""Several sites at once: closed forms of a deep linear network, and a tiny model's passes done apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from remainder.circuit.features import FeatureSite
from remainder.errors import MeasurementError, TaskError
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import Identity, Projection
from remainder.measure.several_sites import evaluate_sites
from remainder.measure.several_sites_fit import SiteBatch, fit_sites, run_sites
from remainder.model.sites import Edits
from remainder.residual.noise import Draw, NoiseKeys

WIDTH, DOCUMENTS, POSITIONS, BATCHES = 6, 100, 60, 4
TOLERANCE = 0.04
"""Relative, of a covariance: the error of one from 24,000 draws is about √(6 / 24000) = 0.016."""


def random(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Linear:
    """x₂ = x₁ W + c; the outputs are x₂. A `SiteModel` in float64 with hooks `one` and `two`."""

    weight: Tensor = field(default_factory=lambda: random(WIDTH, WIDTH, seed=1))
    bias: Tensor = field(default_factory=lambda: random(WIDTH, seed=2))

    def run(self, inputs: Tensor, edits: Edits, positions: Sequence[int] | None = None) -> Tensor:
        x = self._edit("two", self._edit("one", inputs, edits) @ self.weight + self.bias, edits)
        return x if positions is None else x[:, list(positions)]

    def activation(self, inputs: Tensor, edits: Edits, hook: str) -> Tensor:
        return inputs if hook == "one" else self._edit("one", inputs, edits) @ self.weight + self.bias

    @staticmethod
    def _edit(hook: str, x: Tensor, edits: Edits) -> Tensor:
        for name, edit in edits:
            new = edit(x) if name == hook else None
            x = x if new is None else new
        return x


def projection(rank: int, seed: int) -> Projection:
    """On random directions, about a centre that is not the mean."""
    basis, _ = torch.linalg.qr(random(WIDTH, rank, seed=seed))
    return Projection(random(WIDTH, seed=seed + 1), basis.T.contiguous())


MEAN, COVARIANCE = (
    random(WIDTH, seed=3),
    (lambda a: a @ a.T + 0.1 * torch.eye(WIDTH))(random(WIDTH, WIDTH, seed=4)),
)


def gaussian_inputs() -> Tensor:
    """Rows whose sample mean and covariance are exactly those."""
    rows = random(BATCHES * DOCUMENTS * POSITIONS, WIDTH, seed=5)
    rows = rows - rows.mean(0)
    rows = rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T
    rows = rows @ torch.linalg.cholesky(COVARIANCE).T + MEAN
    return rows.view(BATCHES * DOCUMENTS, POSITIONS, WIDTH)


def batches(inputs: Tensor) -> Callable[[], Iterator[SiteBatch]]:
    def give() -> Iterator[SiteBatch]:
        for start in range(0, len(inputs), DOCUMENTS):
            part = inputs[start : start + DOCUMENTS]
            everywhere = torch.ones(part.shape[:2], dtype=torch.bool)
            names = tuple(f"d{start + i}" for i in range(len(part)))
            places = NoiseKeys(7, names, (0,) * len(part))
            spliced = {"one": everywhere, "two": everywhere}
            yield SiteBatch(part, part[..., 0], places, spliced, everywhere)

    return give


def sites(first: Any, second: Any) -> list[FeatureSite]:
    return [FeatureSite("one", "one", first), FeatureSite("two", "two", second)]


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm() / expected.norm()) < TOLERANCE


def test_sequential_statistics_of_a_deep_linear_network_are_the_closed_form() -> None:
    model, first, second = Linear(), projection(3, 10), projection(2, 20)
    found = fit_sites(model, sites(first, second), batches(gaussian_inputs()))
    p, q = (each.directions.T @ each.directions for each in (first, second))
    one = torch.eye(WIDTH, dtype=torch.float64)
    # r₁ = (1 − P)(x − m): its moments; x₂' = W(m + P(x − m) + ε₁) + c; r₂' = (1 − Q)(x₂' − m₂).
    mean_1, covariance_1 = (one - p) @ (MEAN - first.mean), (one - p) @ COVARIANCE @ (one - p)
    w = model.weight.T
    mean_2 = (one - q) @ (w @ MEAN + model.bias - second.mean)
    clean = (one - q) @ w @ COVARIANCE @ w.T @ (one - q)
    coarse = (one - q) @ w @ (p @ COVARIANCE @ p + covariance_1) @ w.T @ (one - q)
    single, sequential = found["single-shot"], found["sequential"]
    assert torch.allclose(single["one"].mean, mean_1, atol=1e-9)
    assert close(single["one"].covariance.matrix, covariance_1)
    assert torch.equal(sequential["one"].covariance.matrix, single["one"].covariance.matrix)
    assert torch.allclose(single["two"].mean, mean_2, atol=1e-9)
    assert close(single["two"].covariance.matrix, clean)
    assert float((sequential["two"].mean - mean_2).norm() / coarse.trace().sqrt()) < 0.02
    assert close(sequential["two"].covariance.matrix, coarse)
    # The two differ by far more than that.
    assert float((coarse - clean).norm() / clean.norm()) > 5 * TOLERANCE


def test_divergence_with_sequential_statistics_is_the_closed_form() -> None:
    model, first, second = Linear(), projection(3, 10), projection(2, 20)
    inputs = gaussian_inputs()
    both = sites(first, second)
    noises = fit_sites(model, both, batches(inputs), "sequential")["sequential"]
    gaps = [
        run_sites(model, both, batch, noises) - model.run(batch.inputs, []) for batch in batches(inputs)()
    ]
    p, q = (each.directions.T @ each.directions for each in (first, second))
    one, w = torch.eye(WIDTH, dtype=torch.float64), model.weight.T
    covariance_1 = (one - p) @ COVARIANCE @ (one - p)
    coarse = (one - q) @ w @ (p @ COVARIANCE @ p + covariance_1) @ w.T @ (one - q)
    # x̂₂(x₂') + ε₂ − x₂ = Q W ε₁ + ε₂ − (Q W r₁ + (1 − Q) W x₁), each part by itself.
    lost = q @ w @ (one - p) + (one - q) @ w
    expected = q @ w @ covariance_1 @ w.T @ q + coarse + lost @ COVARIANCE @ lost.T
    assert close(torch.cov(torch.cat(gaps).flatten(0, 1).T), expected)


def test_a_counterterm_keeps_both_moments_of_every_site() -> None:
    model, shrink = Linear(), tiny.Shrink(0.7, 0.2)
    inputs, both = gaussian_inputs(), sites(shrink, shrink)
    noises = fit_sites(model, both, batches(inputs), "counterterm")["counterterm"]
    # x̂ = 0.7 x + 0.2 has 0.49 of the covariance; single-shot statistics would give 0.09 of it.
    assert close(noises["one"].covariance.matrix, 0.51 * COVARIANCE)
    assert torch.allclose(noises["one"].mean, 0.3 * MEAN - 0.2, atol=1e-7)
    rows = torch.cat([run_sites(model, both, batch, noises) for batch in batches(inputs)()]).flatten(0, 1)
    expected = model.weight.T @ COVARIANCE @ model.weight
    assert close(torch.cov(rows.T), expected)
    mean = MEAN @ model.weight + model.bias
    assert float((rows.mean(0) - mean).norm() / expected.trace().sqrt()) < 0.02


def test_a_counterterm_adds_nothing_where_there_is_too_much() -> None:
    model, grown = Linear(), tiny.Shrink(1.2, 0.0)
    (batch, *_) = list(batches(gaussian_inputs())())
    both = sites(grown, Identity())
    noises = fit_sites(model, both, batches(gaussian_inputs()), "counterterm")["counterterm"]
    assert noises["one"].covariance.rank == 0
    assert torch.allclose(noises["one"].mean, -0.2 * MEAN, atol=1e-6)
    found = noises["one"].sample(batch.places, Draw(0), 3)
    assert torch.allclose(found, noises["one"].mean.expand_as(found), atol=1e-12)


def test_noise_of_two_sites_is_independent() -> None:
    model, inputs = Linear(), gaussian_inputs()
    noises = fit_sites(model, sites(projection(3, 10), projection(3, 10)), batches(inputs), "single-shot")
    places = next(batches(inputs)()).places
    one, two = (
        noises["single-shot"][name].sample(places, Draw(0), 40).flatten(0, 1) for name in ("one", "two")
    )
    joint = np.corrcoef(torch.cat([one, two], 1).T)[:WIDTH, WIDTH:]
    assert np.abs(joint).max() < 0.08  # 4,000 rows: a correlation of 0 is off by 0.016
    again = noises["single-shot"]["one"].sample(places, Draw(1), 40).flatten(0, 1)
    mean = noises["single-shot"]["one"].mean
    assert torch.allclose(again - mean, mean - one, atol=1e-9)


def test_sites_out_of_order_or_never_spliced_are_refused() -> None:
    inputs = gaussian_inputs()
    backwards = sites(Identity(), Identity())[::-1]
    with pytest.raises(TaskError, match="the sites come as one, two"):
        fit_sites(Linear(), backwards, batches(inputs))

    def nowhere() -> Iterator[SiteBatch]:
        for batch in batches(inputs)():
            yield batch._replace(spliced=batch.spliced | {"two": torch.zeros_like(batch.scored)})

    with pytest.raises(MeasurementError, match="spliced at two"):
        fit_sites(Linear(), sites(Identity(), Identity()), nowhere)


HOOKS = ("blocks.1.hook_resid_pre", "blocks.3.hook_resid_pre")


def tasks(*hooks: str) -> list[Any]:
    return [tiny.make_loaded(tiny.make_task(hook=hook)) for hook in hooks]


def test_sites_of_a_language_model_are_replaced_as_hooks_would() -> None:
    loaded = tasks(*HOOKS)
    shrinks = [tiny.Shrink(0.8, 0.1), tiny.Shrink(0.9, -0.1)]
    result, values = evaluate_sites(
        loaded,
        [adapt(shrink, tiny.WIDTH) for shrink in shrinks],
        calibration_windows=12,
        evaluation_windows=10,
        pairs=1,
    )
    # The raw gap by a pass of hooks of its own, loss by torch.
    bridge = loaded[0].runner("float32").bridge
    batch = next(loaded[0].activations("evaluation", 10).batches(10))

    def put(shrink: tiny.Shrink) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: Any) -> Tensor:
            return torch.where(batch.spliced[..., None], shrink.decode(shrink.encode(value)), value)

        return hook

    def losses(hooks: list[Any]) -> Tensor:
        logits = bridge.run_with_hooks(batch.inputs, fwd_hooks=hooks, return_type="logits")
        return torch.nn.functional.cross_entropy(
            logits[batch.scored], batch.targets[batch.scored], reduction="mean"
        )

    with torch.no_grad():
        raw = losses([(hook, put(shrink)) for hook, shrink in zip(HOOKS, shrinks, strict=True)])
        expected = float(raw - losses([]))
    assert result.gap["raw"].value == pytest.approx(expected, abs=1e-5)
    assert result.tokens == int(batch.scored.sum())
    assert set(result.gap) == {"raw", "full", "full-sequential", "full-counterterm"}
    assert result.gap["raw"].low < result.gap["raw"].value < result.gap["raw"].high
    difference = result.gap["full-sequential"].value - result.gap["full"].value
    assert result.difference["full-sequential"].value == pytest.approx(difference, abs=1e-9)
    shift = result.shift["full-sequential"]
    assert shift[HOOKS[0]] == (0, 1, 0)
    assert shift[HOOKS[1]].covariance > 0.01
    assert sorted(values[values.rung == "full"].draw.unique()) == [0, 1]


def test_what_rebuilds_everything_costs_nothing() -> None:
    loaded = tasks(*HOOKS)
    both = [Identity(), adapt(Identity(), tiny.WIDTH)]
    result, _ = evaluate_sites(loaded, both, calibration_windows=6, evaluation_windows=6)
    for rung in ("raw", "full", "full-sequential", "full-counterterm"):
        assert abs(result.gap[rung].value) < 1e-5, rung
        assert abs(result.kl[rung].value) < 1e-5, rung


def test_tasks_that_do_not_belong_together_are_refused(tmp_path: Any) -> None:
    both = [adapt(Identity(), tiny.WIDTH), adapt(Identity(), tiny.WIDTH)]
    amount = {"calibration_windows": 4, "evaluation_windows": 4}
    with pytest.raises(TaskError, match="the sites come as"):
        evaluate_sites(tasks(*HOOKS[::-1]), both, **amount)
    with pytest.raises(TaskError, match="1 tasks and 2 interpretations"):
        evaluate_sites(tasks(HOOKS[0]), both, **amount)
    folder = tiny.save_model(tiny.make_model(seed=9), tmp_path / "other")
    other = tiny.make_loaded(tiny.make_task(folder, HOOKS[1]))
    with pytest.raises(TaskError, match="are of different models"):
        evaluate_sites([tasks(HOOKS[0])[0], other], both, **amount)
