"""Loss, KL to the clean model and answers of spliced passes, from outputs computed in chunks.

Of the clean outputs no more than `KEPT` numbers are kept for a batch (of a language model p, [compared
tokens, vocabulary]); where there are more, each pass makes them again, chunk by chunk. Of spliced outputs no
more than `CHUNK` numbers exist at a time. How outputs are read: `measure.likelihood`.

Source: protocol 1, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.loading.activations import Batch
from remainder.measure.likelihood import Compared, Kept, likelihood_of
from remainder.model.bridge import Runner
from remainder.record.summary import BINS_PER_DECADE, LOWEST_BIN

__all__ = [
    "CHUNK",
    "KEPT",
    "Clean",
    "WindowScores",
    "clean_entropy",
    "clean_pass",
    "compared_pass",
    "kl_histogram",
    "spliced_pass",
    "window_scores",
    "window_sums",
]

CHUNK = 2**24
"""Outputs that exist at a time, 67 MB of them: 341 tokens of a vocabulary of 49,152, 65 of one of 256,000."""

KEPT = 2**27
"""Clean outputs that are kept for a batch, 537 MB of them."""


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
    rows: Bool[Tensor, "docs pos"]
    """Positions whose outputs are compared: the scored ones, or all where peers are to count others too."""
    targets: Shaped[Tensor, " rows"]
    hidden: Float[Tensor, "rows hidden"]
    kept: Kept | None
    """Parts of the clean outputs; None, if there would be more than `KEPT` numbers."""
    compared: Compared
    """Loss and answers of the clean outputs, and a KL of 0."""
    scores: WindowScores

    def take(self, windows: Sequence[int]) -> Clean:
        """Windows at these places, in this order."""
        sizes = self.rows.sum(1).tolist()
        at = torch.split(torch.arange(len(self.targets), device=self.targets.device), sizes)
        rows = torch.cat([at[window] for window in windows])
        columns = self.scores._asdict().items()
        return Clean(
            self.batch.take(windows),
            self.rows[list(windows)],
            self.targets[rows],
            self.hidden[rows],
            None if self.kept is None else tuple(part[rows] for part in self.kept),
            self.compared.take(rows),
            WindowScores(**{name: [column[i] for i in windows] for name, column in columns}),
        )


def clean_pass(runner: Runner, batch: Batch, *, everywhere: bool = False) -> Clean:
    """Run the suffix on the clean activations of a batch.

    Args:
        everywhere: whether outputs of every position are compared, or those of scored ones only.
    """
    rows = torch.ones_like(batch.scored) if everywhere else batch.scored
    hidden, targets = runner.suffix(batch.inputs, batch.prefix, batch.prefix.x_out)[rows], batch.targets[rows]
    likelihood = likelihood_of(targets)
    outputs = runner.logits(hidden[:1]).shape[-1]
    keeps = len(hidden) * outputs <= KEPT
    parts, found = [], []
    for part in _chunks(len(hidden), outputs):
        kept, own = likelihood.clean(runner.logits(hidden[part]), targets[part])
        found.append(own)
        if keeps:
            parts.append(kept)
    compared = Compared.joined(found)
    everything = tuple(torch.cat(same) for same in zip(*parts, strict=True)) if keeps else None
    scored = _scored(batch, rows, compared)
    scores = _by_window(batch, scored, scored.answers, batch.targets[batch.scored])
    return Clean(batch, rows, targets, hidden, everything, compared, scores)


def clean_entropy(runner: Runner, clean: Clean) -> Float[Tensor, " rows"] | None:
    """Entropy of the clean predictions, nats; None where targets are numbers."""
    likelihood = likelihood_of(clean.targets)
    found = [
        likelihood.entropy(runner.logits(clean.hidden[part]))
        for part in _chunks(len(clean.hidden), runner.logits(clean.hidden[:1]).shape[-1])
    ]
    known = [part for part in found if part is not None]
    return torch.cat(known) if known else None


def compared_pass(runner: Runner, clean: Clean, activations: Float[Tensor, "docs pos d"]) -> Compared:
    """Run the suffix with `activations` at the site, and compare it with the clean pass, row by row.

    `activations` is used as it is: the caller has left the clean values where nothing is spliced.
    """
    hidden = runner.suffix(clean.batch.inputs, clean.batch.prefix, activations)[clean.rows]
    likelihood = likelihood_of(clean.targets)
    found = []
    for part in _chunks(len(hidden), runner.logits(hidden[:1]).shape[-1]):
        if clean.kept is None:
            kept = likelihood.keep(runner.logits(clean.hidden[part]))
        else:
            kept = tuple(tensor[part] for tensor in clean.kept)
        found.append(likelihood.compare(kept, runner.logits(hidden[part]), clean.targets[part]))
    return Compared.joined(found)


def window_scores(clean: Clean, compared: Compared) -> tuple[WindowScores, Float[Tensor, " scored"]]:
    """Sums by window over the scored tokens, and the loss of each of them.

    Raises:
        MeasurementError: if a loss or KL is not finite there.
    """
    batch = clean.batch
    scored = _scored(batch, clean.rows, compared)
    answers = _scored(batch, clean.rows, clean.compared).answers
    return _by_window(batch, scored, answers, batch.targets[batch.scored]), scored.loss


def spliced_pass(
    runner: Runner, clean: Clean, activations: Float[Tensor, "docs pos d"]
) -> tuple[WindowScores, Float[Tensor, " scored"]]:
    """Do what `compared_pass` and `window_scores` do."""
    return window_scores(clean, compared_pass(runner, clean, activations))


def _scored(batch: Batch, rows: Bool[Tensor, "docs pos"], compared: Compared) -> Compared:
    """The comparison of scored tokens, out of that of all rows."""
    chosen = batch.scored[rows]
    return compared if chosen.all() else compared.take(chosen)


def _chunks(rows: int, outputs: int) -> list[slice]:
    """Rows of so many outputs each; one empty chunk if nothing is scored."""
    size = max(CHUNK // outputs, 1)
    return [slice(start, start + size) for start in range(0, max(rows, 1), size)]


def kl_histogram(kl: Float[np.ndarray, " tokens"]) -> str:
    """Counts of KL in bins of log10, 20 a decade, as `bin:count;…`; the lowest takes all up to 1e-8."""
    return _histograms(kl, [len(kl)])[0]


def _histograms(kl: Float[np.ndarray, " tokens"], counts: list[int]) -> list[str]:
    """The histogram of each window, of so many tokens one after another."""
    floor = 10.0 ** (LOWEST_BIN / BINS_PER_DECADE)
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(kl, floor))).astype(int)
    above = np.maximum(bins, LOWEST_BIN) - LOWEST_BIN
    # All windows at once: each has a range of numbers of its own.
    size = int(above.max(initial=0)) + 1
    found, times = np.unique(np.repeat(np.arange(len(counts)), counts) * size + above, return_counts=True)
    values = (found % size + LOWEST_BIN).tolist()
    texts = [f"{value}:{count}" for value, count in zip(values, times.tolist(), strict=True)]
    ends = np.searchsorted(found // size, np.arange(len(counts)), side="right").tolist()
    return [";".join(texts[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _by_window(batch: Batch, compared: Compared, clean: Tensor | None, targets: Tensor) -> WindowScores:
    """Sums in float64 over the scored tokens of each window."""
    losses, kls = compared.loss.double().cpu(), compared.kl.double().cpu()
    answers = compared.answers
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
        _histograms(kls.numpy(), counts),
    )


def window_sums(batch: Batch, values: Float[Tensor, " scored"]) -> list[float]:
    """Sums in float64 of values at scored tokens, window by window."""
    numbers = values.double().cpu()
    counts: list[int] = batch.scored.sum(1).tolist()
    found: list[float] = torch.segment_reduce(numbers, "sum", lengths=torch.tensor(counts)).tolist()
    return found
