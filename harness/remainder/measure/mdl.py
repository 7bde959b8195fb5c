"""Description length of codes as SAEBench counts it, bits per token.

1. Bins: as many equal ones as asked for, from 0 to the largest code of the feature, and never less than 100;
2. H(active): a code is active above 0;
3. H(bin): over all tokens, the silent ones among them, which lie in the first bin;
4. bits = Σ over features of H(active) + p(active) H(bin).

With a bin of active codes only the sum would be H(active?, bin), the entropy of the whole code: that is ours
(`measure.complexity`, with bins of its own). Step 3 makes it another number: where active codes keep out of
the first bin, H(bin) = H(active) + p H(bin given active), so that bits = (1 + p) H(active) + p² H(bin given
active), and the values of rare features cost next to nothing.

Source: SAEBench 0.6.0, `evals/mdl/main.py`, after Ayonrinde et al. 2024, "MDL-SAEs".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from remainder.measure.codes import Codes

__all__ = ["BIN_COUNTS", "description_length"]

BIN_COUNTS = (8, 16, 32, 64)
"""Numbers of bins that SAEBench runs; it keeps the result of each."""

_LEAST_RANGE = 100.0


def description_length(parts: Callable[[], Iterable[Codes]], features: int, bins: int) -> float:
    """Bits per token of codes at `bins` bins a feature.

    Args:
        parts: gives the codes of some tokens after another; called twice.
    """
    top = np.full(features, _LEAST_RANGE)
    for codes in parts():
        np.maximum.at(top, codes.latent.cpu().numpy(), codes.value.cpu().numpy().astype(np.float64))
    counts = np.zeros((features, bins), dtype=np.int64)
    active, tokens = np.zeros(features), 0
    for codes in parts():
        # Only what is not zero is looked at one by one; the rest is counted.
        columns, values = codes.latent.cpu().numpy(), codes.value.cpu().numpy().astype(np.float64)
        # What is below 0 lies outside the bins; the last one holds its upper edge.
        inside = values >= 0
        at = np.minimum((values[inside] / top[columns[inside]] * bins).astype(np.int64), bins - 1)
        counts += np.bincount(columns[inside] * bins + at, minlength=counts.size).reshape(counts.shape)
        counts[:, 0] += codes.tokens - np.bincount(columns, minlength=features)
        active += np.bincount(columns[values > 0], minlength=features)
        tokens += codes.tokens
    active = active / tokens
    gates = _entropy(np.stack([active, 1 - active], axis=1))
    # A feature below 0 at every token has no bin at all, and H(bin) counts for nothing there.
    binned = _entropy(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return float((gates + active * binned).sum())


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits of each row of probabilities."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: NDArray[np.float64] = -(shares * logs).sum(1)
    return entropy
