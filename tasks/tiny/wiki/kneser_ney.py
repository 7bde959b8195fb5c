"""Interpolated modified Kneser-Ney n-gram models: what a language model on this text must beat.

Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section 3
and equations 26 to 28 of its journal form. For a history h of k − 1 tokens, with h' its last k − 2:

    p_k(w | h) = max(c(h w) − D(c(h w)), 0) / c(h ·) + λ(h) p_{k−1}(w | h'),
    λ(h) = (D₁ N₁(h ·) + D₂ N₂(h ·) + D₃ N₃₊(h ·)) / c(h ·),      p_k(w | h) = p_{k−1}(w | h') if c(h ·) = 0.

1. Documents are padded on the left with n − 1 beginning-of-sequence tokens; one n-gram ends at every token.
2. c is the count at the highest order, and below it the number of different tokens that precede the k-gram
   (its continuation count).
3. Discounts of each order come from its counts of counts n₁ … n₄: with Y = n₁ / (n₁ + 2 n₂),
   D₁ = 1 − 2Y n₂/n₁, D₂ = 2 − 3Y n₃/n₂, D₃ (for 3 and more) = 3 − 4Y n₄/n₃. Where one is negative, above its
   count or not defined, as for the subwords of a vocabulary that all occur often, the three are ½, 1 and 1½
   (KenLM's `--discount_fallback`).
4. Order 0 is uniform over all tokens but the beginning-of-sequence token, which is never predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

__all__ = ["KneserNey", "discounts"]


def discounts(counts: Int[np.ndarray, " ngrams"]) -> Float[np.ndarray, " 4"]:
    """What is taken off a count of 0, 1, 2, and 3 or more (step 3)."""
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found >= 0).all() and (found <= np.arange(4)).all():
            return found
    return np.array([0.0, 0.5, 1.0, 1.5])


class _Order(NamedTuple):
    """One order of the model; n-grams and histories are sorted integer keys."""

    ngrams: NDArray[np.int64]
    kept: NDArray[np.float64]  # of each n-gram: (count − discount) / count of its history
    histories: NDArray[np.int64]
    backoff: NDArray[np.float64]  # λ of each history


@dataclass(frozen=True)
class KneserNey:
    """An n-gram model over `vocabulary` token ids, `bos` among them. Make one with `fit`."""

    vocabulary: int
    bos: int
    orders: tuple[_Order, ...]  # unigrams first

    @classmethod
    def fit(
        cls, documents: Sequence[Int[np.ndarray, " tokens"]], *, order: int, vocabulary: int, bos: int
    ) -> KneserNey:
        """Count n-grams of token ids and estimate discounts.

        Raises:
            ValueError: if the keys of n-grams do not fit 63 bits.
        """
        if vocabulary**order >= 2**63:
            raise ValueError(f"{order}-grams of {vocabulary} tokens do not fit 63 bits")
        keys = np.concatenate([_keys(document, order, vocabulary, bos) for document in documents])
        ngrams, counts = np.unique(keys, return_counts=True)
        orders = [_order(ngrams, counts, vocabulary)]
        for length in range(order - 1, 0, -1):
            # Every n-gram of the order above adds one to its suffix, however often it occurs.
            ngrams, counts = np.unique(ngrams % vocabulary**length, return_counts=True)
            orders.insert(0, _order(ngrams, counts, vocabulary))
        return cls(vocabulary, bos, tuple(orders))

    def probabilities(self, windows: Int[np.ndarray, "windows pos"]) -> Float[np.ndarray, "windows pos"]:
        """Of every token given those before it in its row; a row is padded on the left as a document is."""
        order = len(self.orders)
        keys = np.stack([_keys(row, order, self.vocabulary, self.bos) for row in windows])
        probability = np.full(keys.shape, 1 / (self.vocabulary - 1))
        for length, (ngrams, kept, histories, backoff) in enumerate(self.orders, start=1):
            ngram = keys % self.vocabulary**length
            probability = _look_up(ngrams, kept, ngram, 0.0) + probability * _look_up(
                histories, backoff, ngram // self.vocabulary, 1.0
            )
        return probability


def _keys(tokens: NDArray[np.integer], order: int, vocabulary: int, bos: int) -> NDArray[np.int64]:
    """The n-gram that ends at each token, as one integer whose last digit is that token."""
    padded = np.concatenate([np.full(order - 1, bos), tokens]).astype(np.int64)
    keys = np.zeros(len(tokens), dtype=np.int64)
    for place in range(order):
        keys = keys * vocabulary + padded[place : place + len(tokens)]
    return keys


def _order(ngrams: NDArray[np.int64], counts: NDArray[np.int64], vocabulary: int) -> _Order:
    taken = discounts(counts)[np.minimum(counts, 3)]
    histories, which = np.unique(ngrams // vocabulary, return_inverse=True)
    totals = np.bincount(which, weights=counts)
    return _Order(
        ngrams, (counts - taken) / totals[which], histories, np.bincount(which, weights=taken) / totals
    )


def _look_up(
    keys: NDArray[np.int64], values: NDArray[np.float64], wanted: NDArray[np.int64], missing: float
) -> NDArray[np.float64]:
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)
