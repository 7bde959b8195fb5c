"""Chunked losses against token-by-token sums in float64, on a model that is a single matrix."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from remainder.errors import MeasurementError
from remainder.loading.activations import Batch
from remainder.measure import losses
from remainder.measure.losses import clean_pass, kl_histogram, spliced_pass, window_sums
from remainder.model.bridge import Prefix
from remainder.task.text import Windows

WINDOWS, POSITIONS, WIDTH, VOCABULARY = 4, 75, 6, 40


@dataclass
class MatrixRunner:
    """Nothing lies between the site and the unembedding; notes how many rows were unembedded at a time."""

    mode = "a single matrix"
    dtype = torch.float32
    unembedding: torch.Tensor = field(default_factory=lambda: 0.8 * random(WIDTH, VOCABULARY, seed=9))
    sizes: list[int] = field(default_factory=list)

    def prefix(self, tokens):
        raise NotImplementedError("the batch has its prefix")

    def suffix(self, tokens, prefix, activations):
        return activations

    def logits(self, rows):
        self.sizes.append(len(rows))
        return rows @ self.unembedding


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch() -> Batch:
    """Four windows; of the third nothing is scored."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (WINDOWS, POSITIONS), generator=generator)
    spliced = torch.rand(WINDOWS, POSITIONS, generator=generator) < 0.9
    spliced[2] = False
    scored = spliced.clone()
    scored[:, -1] = False
    x = random(WINDOWS, POSITIONS, WIDTH, seed=1)
    windows = Windows(tokens.numpy(), ("a", "b", "c", "a"), (0, 0, 0, 1))
    return Batch(windows, tokens, torch.roll(tokens, -1, dims=1), Prefix(x, x, x), spliced, scored)


def by_hand(runner: MatrixRunner, batch: Batch, activations: torch.Tensor) -> list[dict[str, list[float]]]:
    """Per window, loss, KL and agreement of every scored token, float64, one token after another."""
    weights = runner.unembedding.double().numpy()
    windows = []
    for tokens, x, new, scored in zip(
        batch.inputs.numpy(), batch.prefix.x_out.double().numpy(), activations.double().numpy(), batch.scored,
        strict=True,
    ):  # fmt: skip
        window: dict[str, list[float]] = {"loss": [], "kl": [], "top1": [], "correct": []}
        for t in range(POSITIONS):
            if scored[t]:
                clean, spliced = log_softmax(x[t] @ weights), log_softmax(new[t] @ weights)
                window["loss"].append(-spliced[tokens[t + 1]])
                window["kl"].append(rel_entr(np.exp(clean), np.exp(spliced)).sum())
                window["top1"].append(float(clean.argmax() == spliced.argmax()))
                window["correct"].append(float(spliced.argmax() == tokens[t + 1]))
        windows.append(window)
    return windows


def parsed(histogram: str) -> dict[int, int]:
    return {int(pair.split(":")[0]): int(pair.split(":")[1]) for pair in histogram.split(";") if pair}


@pytest.mark.parametrize("chunk", [128, 7, 10_000])
def test_sums_equal_those_made_by_hand(batch: Batch, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk * VOCABULARY)
    runner = MatrixRunner()
    total = int(batch.scored.sum())
    assert total > 128
    assert total % 128
    new = batch.prefix.x_out + 0.7 * random(WINDOWS, POSITIONS, WIDTH, seed=2)
    clean = clean_pass(runner, batch)
    spliced, per_token = spliced_pass(runner, clean, new)
    assert max(runner.sizes) == min(chunk, total)
    for scores, activations in ((clean.scores, batch.prefix.x_out), (spliced, new)):
        expected = by_hand(runner, batch, activations)
        assert scores.tokens == [len(window["loss"]) for window in expected]
        assert scores.loss == pytest.approx([sum(window["loss"]) for window in expected], rel=1e-5)
        assert scores.kl == pytest.approx([sum(window["kl"]) for window in expected], rel=1e-5, abs=1e-4)
        assert scores.top1 == [sum(window["top1"]) for window in expected]
        assert scores.correct == [sum(window["correct"]) for window in expected]
    assert scores.tokens[2] == scores.loss[2] == scores.kl[2] == 0
    assert scores.kl_histogram[2] == ""
    by_token = [loss for window in by_hand(runner, batch, new) for loss in window["loss"]]
    assert per_token.tolist() == pytest.approx(by_token, rel=1e-5, abs=1e-5)
    assert window_sums(batch, per_token) == spliced.loss
    assert 0 < sum(spliced.top1) < total
    assert sum(spliced.kl) > 10
    for window, histogram in zip(by_hand(runner, batch, new), spliced.kl_histogram, strict=True):
        counts = parsed(histogram)
        # A KL that lies on an edge to rounding may fall on either side.
        sure = [kl for kl in window["kl"] if abs(20 * math.log10(kl) - round(20 * math.log10(kl))) > 1e-2]
        for kl in sure:
            assert counts[math.floor(20 * math.log10(kl))] > 0
        assert sum(counts.values()) == len(window["kl"])


def test_the_clean_activations_put_back_cost_nothing(batch: Batch) -> None:
    runner = MatrixRunner()
    clean = clean_pass(runner, batch)
    again, _ = spliced_pass(runner, clean, batch.prefix.x_out)
    assert again.loss == clean.scores.loss
    assert again.top1 == again.tokens == clean.scores.top1
    assert max(abs(kl) for kl in again.kl) < 1e-5
    assert clean.scores.kl == [0.0] * WINDOWS
    torch.testing.assert_close(clean.kept[0].sum(-1), torch.ones(int(batch.scored.sum())))


def test_what_is_not_scored_changes_nothing(batch: Batch) -> None:
    runner = MatrixRunner()
    clean = clean_pass(runner, batch)
    new = batch.prefix.x_out + random(WINDOWS, POSITIONS, WIDTH, seed=2)
    loud = torch.where(batch.scored[..., None], new, 1e3)
    assert spliced_pass(runner, clean, loud)[0] == spliced_pass(runner, clean, new)[0]


def test_the_loss_is_that_of_the_target(batch: Batch) -> None:
    """A model that is sure of one token: loss nought where it comes next, large elsewhere."""
    runner = MatrixRunner(unembedding=torch.eye(WIDTH, VOCABULARY))
    targets = torch.cat([batch.inputs[:, 1:], batch.inputs[:, :1]], 1)
    sure = 100 * torch.eye(WIDTH)[targets % WIDTH]
    batch = replace(batch, targets=targets % WIDTH, prefix=Prefix(sure, sure, sure))
    scores = clean_pass(runner, batch).scores
    assert scores.loss == [0.0] * WINDOWS
    assert sum(clean_pass(runner, replace(batch, targets=batch.targets.roll(1, 1))).scores.loss) > 1000


def test_a_batch_of_which_nothing_is_scored(batch: Batch) -> None:
    runner = MatrixRunner()
    clean = clean_pass(runner, replace(batch, scored=torch.zeros_like(batch.scored)))
    scores, _ = spliced_pass(runner, clean, batch.prefix.x_out)
    assert scores.tokens == scores.loss == scores.kl == [0] * WINDOWS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(batch: Batch, bad: float) -> None:
    runner = MatrixRunner()
    clean = clean_pass(runner, batch)
    new = batch.prefix.x_out.clone()
    new[tuple(batch.scored.nonzero()[5])] = bad
    with pytest.raises(MeasurementError, match="NaN or infinite"):
        spliced_pass(runner, clean, new)


@given(st.lists(st.tuples(st.integers(-250, 80), st.floats(0.01, 0.99)), max_size=30))
def test_the_histogram_holds_every_value_in_its_bin(places: list[tuple[int, float]]) -> None:
    values = np.array([10 ** ((place + part) / 20) for place, part in places])
    expected = Counter(max(place, -160) for place, _ in places)
    assert parsed(kl_histogram(values)) == expected


def test_the_lowest_bin_takes_zero_and_what_rounding_made_negative() -> None:
    assert kl_histogram(np.array([0.0, -1e-7, 1e-30, 1.0, 1.5])) == "-160:3;0:1;3:1"
    assert kl_histogram(np.array([])) == ""
