"""A monitor gives the numbers of `evaluate`, and training does not notice it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from tiny import SITE, WIDTH, make_loaded

import remainder
from remainder.loading.site import LanguageTask
from remainder.monitor import _undisturbed
from remainder.report.quantities import number_of


@pytest.fixture(scope="module")
def loaded() -> LanguageTask:
    return make_loaded()


class Coder(torch.nn.Module):
    """An autoencoder with dropout: in training mode another one at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(WIDTH, 32), torch.nn.Linear(32, WIDTH)
        self.dropout = torch.nn.Dropout(0.3)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(self.dropout(x)))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(codes)


def trained(rows: torch.Tensor, watch: Callable[[Coder], dict[str, float]]) -> tuple[Coder, list[Any]]:
    """A coder after a few steps that draw from torch and numpy, and what was logged."""
    torch.manual_seed(0)
    np.random.seed(0)
    coder, logged = Coder(), []
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-2)
    for step in range(6):
        chosen = np.random.permutation(len(rows))[:32]
        x = rows[torch.from_numpy(chosen)]
        loss = (coder.decode(coder.encode(x)) - x).square().mean()
        loss.backward()
        if step % 2:  # in the midst of gradients that are added up
            optimizer.step()
            optimizer.zero_grad()
        logged.append((loss.item(), watch(coder)))
        assert torch.is_grad_enabled()
        assert coder.training
        assert coder.dropout.training
    return coder, logged


def test_training_is_the_same_to_the_bit(loaded: LanguageTask) -> None:
    rows = loaded.rows("fit")
    monitor = remainder.Monitor(loaded, every=2)
    alone, silence = trained(rows, lambda coder: {})
    watched, logged = trained(rows, monitor)
    assert [loss for loss, _ in silence] == [loss for loss, _ in logged]
    for name, weight in watched.state_dict().items():
        assert torch.equal(weight, alone.state_dict()[name]), name
    found = [numbers for _, numbers in logged]
    assert [bool(numbers) for numbers in found] == [False, True] * 3
    record = remainder.evaluate(loaded, watched.eval(), rungs="raw").record
    for key in ("kl_raw", "gap_raw", "explained_variance", "l0"):
        assert found[-1][f"remainder/{key}"] == pytest.approx(number_of(record, key).value, rel=1e-6)
        assert monitor.frame()[key].tolist() == [one[f"remainder/{key}"] for one in found if one]
    assert all(type(value) is float for numbers in found for value in numbers.values())
    assert monitor.frame().index.tolist() == [2, 4, 6]


def test_what_a_measurement_draws_or_sets_is_put_back() -> None:
    """By itself, since the run-time checks of the tests draw from `random` too, at every call."""

    def drawn() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(1).item()]

    def settings() -> list[object]:
        cudnn = torch.backends.cudnn
        return [torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic]

    for source in (random.seed, np.random.seed, torch.manual_seed):
        source(1)
    expected = drawn()
    for source in (random.seed, np.random.seed, torch.manual_seed):
        source(1)
    before = settings()
    with torch.autocast("cpu", dtype=torch.bfloat16), _undisturbed(torch.device("cpu")):
        drawn()
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        assert not torch.is_autocast_enabled("cpu")
    assert drawn() == expected
    assert settings() == before


def test_it_is_an_evaluator_of_sae_lens(loaded: LanguageTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trainer scales activations; what is scored is what it would save in the end."""
    rows, logged = loaded.rows("fit"), []
    monkeypatch.setattr("wandb.log", lambda numbers, step: logged.append(numbers))

    def batches() -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield rows[torch.randint(len(rows), (32,), generator=generator)]

    def fitted(evaluator: Any) -> Any:
        torch.manual_seed(0)
        config = TopKTrainingSAEConfig(
            d_in=WIDTH, d_sae=32, k=4, normalize_activations="expected_average_only_in"
        )
        config.metadata.hook_name = SITE
        trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=128,
                lr_end=3e-4,
                train_batch_size_samples=32,
                n_batches_for_norm_estimate=2,
                logger=LoggingConfig(log_to_wandb=True, wandb_log_frequency=2, eval_every_n_wandb_logs=1),
            ),
            TopKTrainingSAE(config),
            batches(),
            evaluator,
        )
        return trainer.fit()

    alone = fitted(None)
    logged.clear()
    sae = fitted(remainder.Monitor(loaded, every=1))
    assert all(torch.equal(weight, alone.state_dict()[name]) for name, weight in sae.state_dict().items())
    scores = [numbers["remainder/kl_raw"] for numbers in logged if "remainder/kl_raw" in numbers]
    assert len(scores) == 2
    # The last score came with the last step; then the trainer folded the scale in.
    record = remainder.evaluate(loaded, sae, rungs="raw").record
    assert scores[-1] == pytest.approx(number_of(record, "kl_raw").value, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        ({"every": 0}, "every is 0", "1 or more"),
        ({"rungs": "raw, rawest"}, "there is no rung 'rawest'", "choose from"),
        ({"rungs": ("rawest",)}, "there is no rung 'rawest'", "choose from"),
        ({"tier": "huge"}, "huge", "quick"),
    ],
)
def test_what_cannot_be_measured_is_told_before_training(
    loaded: LanguageTask, given: dict[str, Any], what: str, fix: str
) -> None:
    with pytest.raises(remainder.TaskError) as raised:
        remainder.Monitor(loaded, **given)
    assert what in raised.value.what
    assert fix in (raised.value.fix or "")


def test_a_task_is_opened_once(loaded: LanguageTask, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr("remainder.monitor.open_task", lambda task, **_: opened.append(task) or loaded)
    monitor = remainder.Monitor(loaded.task, every=1, documents=3)
    coder = Coder()
    assert monitor(coder) == monitor(coder)
    assert opened == [loaded.task]


def test_what_cannot_be_copied_is_refused(loaded: LanguageTask) -> None:
    coder = Coder()
    coder.last = coder.encode(torch.zeros(2, WIDTH))  # a tensor with a gradient behind it
    with pytest.raises(remainder.InterpretationError, match="a Coder in training cannot be copied"):
        remainder.Monitor(loaded, every=1)(coder)
