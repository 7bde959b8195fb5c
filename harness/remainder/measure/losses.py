"""Loss, KL to the clean model and answers of spliced passes, from outputs computed in chunks.

Only what the clean pass leaves of one batch is kept (for a language model p, [scored tokens of the batch,
vocabulary]); of spliced outputs no more than `CHUNK` numbers exist at a time. How outputs are read:
`measure.likelihood`.

Source: protocol 1, section 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.loading.activations import Batch
from remainder.measure.likelihood import Kept, likelihood_of
from remainder.model.bridge import Runner
from remainder.record.summary import BINS_PER_DECADE, LOWEST_BIN

__all__ = ["CHUNK", "Clean", "WindowScores", "clean_pass", "kl_histogram", "spliced_pass", "window_sums"]

CHUNK = 128 * 49_152
"""Outputs that exist at a time: 128 tokens of a large vocabulary, many of a small one."""


class WindowScores(NamedTuple):
    """Sums over the scored tokens of each window of a batch."""

    tokens: list[int]
    loss: list[float]  # nats
    kl: list[float]  # nats
    top1: list[float]  # NaN where the target is no class
    correct: list[float]  # likewise
    kl_histogram: list[str]


class Clean(NamedTuple):
    """The untouched model on one batch: what spliced passes are compared with."""

    batch: Batch
    targets: Shaped[Tensor, " scored"]
    kept: Kept
    answers: Int[Tensor, " scored"] | None
    scores: WindowScores


def clean_pass(runner: Runner, batch: Batch) -> Clean:
    """Run the suffix on the clean activations of a batch."""
    hidden = runner.suffix(batch.inputs, batch.prefix, batch.prefix.x_out)[batch.scored]
    targets = batch.targets[batch.scored]
    likelihood = likelihood_of(targets)
    parts, losses, answers = [], [], []
    for part in _chunks(len(hidden), runner.logits(hidden[:1]).shape[-1]):
        outputs = runner.logits(hidden[part])
        kept = likelihood.keep(outputs)
        compared = likelihood.compare(kept, outputs, targets[part])
        parts.append(kept)
        losses.append(compared.loss)
        answers.append(compared.answers)
    loss = torch.cat(losses)
    most_likely = _joined(answers)
    scores = _by_window(batch, loss, torch.zeros_like(loss), most_likely, most_likely, targets)
    return Clean(
        batch, targets, tuple(torch.cat(same) for same in zip(*parts, strict=True)), most_likely, scores
    )


def spliced_pass(
    runner: Runner, clean: Clean, activations: Float[Tensor, "docs pos d"]
) -> tuple[WindowScores, Float[Tensor, " scored"]]:
    """Run the suffix with `activations` at the site, and compare it with the clean pass.

    Gives sums by window, and the loss of each scored token.

    `activations` is used as it is: the caller has left the clean values where nothing is spliced.
    """
    batch = clean.batch
    hidden = runner.suffix(batch.inputs, batch.prefix, activations)[batch.scored]
    likelihood = likelihood_of(clean.targets)
    found = []
    for part in _chunks(len(hidden), clean.kept[0].shape[-1]):
        kept = tuple(tensor[part] for tensor in clean.kept)
        found.append(likelihood.compare(kept, runner.logits(hidden[part]), clean.targets[part]))
    loss = torch.cat([compared.loss for compared in found])
    kl = torch.cat([compared.kl for compared in found])
    answers = _joined([compared.answers for compared in found])
    return _by_window(batch, loss, kl, answers, clean.answers, clean.targets), loss


def _chunks(rows: int, outputs: int) -> list[slice]:
    """Rows of so many outputs each; one empty chunk if nothing is scored."""
    size = max(CHUNK // outputs, 1)
    return [slice(start, start + size) for start in range(0, max(rows, 1), size)]


def _joined(answers: list[Tensor | None]) -> Tensor | None:
    given = [part for part in answers if part is not None]
    return torch.cat(given) if given else None


def kl_histogram(kl: Float[np.ndarray, " tokens"]) -> str:
    """Counts of KL in bins of log10, 20 a decade, as `bin:count;…`; the lowest takes all up to 1e-8."""
    floor = 10.0 ** (LOWEST_BIN / BINS_PER_DECADE)
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(kl, floor))).astype(int)
    values, counts = np.unique(np.maximum(bins, LOWEST_BIN), return_counts=True)
    return ";".join(f"{value}:{count}" for value, count in zip(values, counts, strict=True))


def _by_window(
    batch: Batch, loss: Tensor, kl: Tensor, answers: Tensor | None, clean: Tensor | None, targets: Tensor
) -> WindowScores:
    """Sums in float64 over the scored tokens of each window."""
    losses, kls = loss.double().cpu(), kl.double().cpu()
    if not (torch.isfinite(losses).all() and torch.isfinite(kls).all()):
        raise MeasurementError(
            "a loss or KL is NaN or infinite",
            fix="the spliced activations are too large for the model's dtype; try --dtype float32",
        )
    counts: list[int] = batch.scored.sum(1).tolist()

    def equal(others: Tensor | None) -> list[float]:
        if answers is None or others is None:
            return [math.nan] * len(counts)
        return window_sums(batch, (answers == others).double())

    return WindowScores(
        counts,
        window_sums(batch, losses),
        window_sums(batch, kls),
        equal(clean),
        equal(targets),
        [kl_histogram(kls[part].numpy()) for part in _parts(counts)],
    )


def window_sums(batch: Batch, values: Float[Tensor, " scored"]) -> list[float]:
    """Sums in float64 of values at scored tokens, window by window."""
    numbers = values.double().cpu()
    counts: list[int] = batch.scored.sum(1).tolist()
    return [float(numbers[part].sum()) for part in _parts(counts)]


def _parts(counts: list[int]) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
