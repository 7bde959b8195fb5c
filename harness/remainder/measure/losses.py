"""Loss, KL to the clean model and top-1 agreement of spliced passes, from chunked logits.

With clean probabilities p and logits z of a spliced pass, per token and in nats,
    loss = log Σ exp z − z_y,    KL(p ‖ q) = Σ p log p − Σ p z + log Σ exp z.
Only p of one batch is kept ([scored tokens of the batch, vocabulary]); spliced logits exist for `CHUNK`
tokens at a time. Σ p log p is computed from the clean logits by the very same operations, so that rounding
cancels where the two passes agree.

Source: protocol 1, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.activations import Batch
from remainder.errors import MeasurementError
from remainder.measure.summary import BINS_PER_DECADE, LOWEST_BIN
from remainder.model import Runner

__all__ = ["CHUNK", "Clean", "WindowScores", "clean_pass", "kl_histogram", "spliced_pass", "window_sums"]

CHUNK = 128
"""Tokens whose logits exist at a time."""


@dataclass(frozen=True)
class WindowScores:
    """Sums over the scored tokens of each window of a batch."""

    tokens: list[int]
    loss: list[float]  # nats
    kl: list[float]  # nats
    top1: list[int]
    kl_histogram: list[str]


class Clean(NamedTuple):
    """The untouched model on one batch: what spliced passes are compared with."""

    batch: Batch
    targets: Int[Tensor, " scored"]
    probabilities: Float[Tensor, "scored vocabulary"]
    negentropy: Float[Tensor, " scored"]  # Σ p log p, nats
    top1: Int[Tensor, " scored"]
    scores: WindowScores


def clean_pass(runner: Runner, batch: Batch) -> Clean:
    """Run the suffix on the clean activations of a batch."""
    hidden = runner.suffix(batch.tokens, batch.prefix, batch.prefix.x_out)[batch.scored]
    targets = torch.roll(batch.tokens, -1, dims=1)[batch.scored]
    probabilities, negentropy, top1, loss = [], [], [], []
    for start in range(0, max(len(hidden), 1), CHUNK):  # one empty chunk if nothing is scored
        target = targets[start : start + CHUNK]
        logits = runner.logits(hidden[start : start + CHUNK])
        partition = torch.logsumexp(logits, -1)
        p = torch.exp(logits - partition[:, None])
        probabilities.append(p)
        negentropy.append(torch.linalg.vecdot(p, logits) - partition)
        top1.append(logits.argmax(-1))
        loss.append(partition - logits.gather(-1, target[:, None])[:, 0])
    losses = torch.cat(loss)
    zero = torch.zeros_like(losses)
    scores = _by_window(batch, losses, zero, torch.ones_like(losses, dtype=torch.bool))
    return Clean(batch, targets, torch.cat(probabilities), torch.cat(negentropy), torch.cat(top1), scores)


def spliced_pass(
    runner: Runner, clean: Clean, activations: Float[Tensor, "docs pos d"]
) -> tuple[WindowScores, Float[Tensor, " scored"]]:
    """Run the suffix with `activations` at the site, and compare it with the clean pass.

    Gives sums by window, and the loss of each scored token.

    `activations` is used as it is: the caller has left the clean values where nothing is spliced.
    """
    hidden = runner.suffix(clean.batch.tokens, clean.batch.prefix, activations)[clean.batch.scored]
    loss, kl, agree = [], [], []
    for start in range(0, max(len(hidden), 1), CHUNK):  # one empty chunk if nothing is scored
        part = slice(start, start + CHUNK)
        logits = runner.logits(hidden[part])
        partition = torch.logsumexp(logits, -1)
        loss.append(partition - logits.gather(-1, clean.targets[part, None])[:, 0])
        cross = torch.linalg.vecdot(clean.probabilities[part], logits)
        kl.append(clean.negentropy[part] - cross + partition)
        agree.append(logits.argmax(-1) == clean.top1[part])
    losses = torch.cat(loss)
    return _by_window(clean.batch, losses, torch.cat(kl), torch.cat(agree)), losses


def kl_histogram(kl: Float[np.ndarray, " tokens"]) -> str:
    """Counts of KL in bins of log10, 20 a decade, as `bin:count;…`; the lowest takes all up to 1e-8."""
    floor = 10.0 ** (LOWEST_BIN / BINS_PER_DECADE)
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(kl, floor))).astype(int)
    values, counts = np.unique(np.maximum(bins, LOWEST_BIN), return_counts=True)
    return ";".join(f"{value}:{count}" for value, count in zip(values, counts, strict=True))


def _by_window(batch: Batch, loss: Tensor, kl: Tensor, agree: Tensor) -> WindowScores:
    """Sums in float64 over the scored tokens of each window."""
    counts: list[int] = batch.scored.sum(1).tolist()
    losses, kls, agrees = loss.double().cpu(), kl.double().cpu(), agree.cpu()
    if not (torch.isfinite(losses).all() and torch.isfinite(kls).all()):
        raise MeasurementError(
            "a loss or KL is NaN or infinite",
            fix="the spliced activations are too large for the model's dtype; try --dtype float32",
        )
    parts = _parts(counts)
    return WindowScores(
        counts,
        window_sums(batch, losses),
        window_sums(batch, kls),
        [int(agrees[part].sum()) for part in parts],
        [kl_histogram(kls[part].numpy()) for part in parts],
    )


def window_sums(batch: Batch, values: Float[Tensor, " scored"]) -> list[float]:
    """Sums in float64 of values at scored tokens, window by window."""
    numbers = values.double().cpu()
    counts: list[int] = batch.scored.sum(1).tolist()
    return [float(numbers[part].sum()) for part in _parts(counts)]


def _parts(counts: list[int]) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
