"""Sets of latents that are on together: the share of evaluation tokens whose set of them occurs nowhere else.

A method that has memorised its text has a set of its own for every token; so has an honest one with many
latents on, so that this is shown, and is no fault. A set is the sum of one 64-bit number a latent (Zobrist
1970): two of a million sets share it by accident with a probability of 3e-8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from remainder.measure.codes import Codes
from remainder.record.number import Number

__all__ = ["CodeSets", "keys_of"]

Keys = NDArray[np.uint64]


@dataclass
class CodeSets:
    """Sets of latents that are on after quantising, of calibration and of evaluation tokens."""

    calibration: Keys = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    evaluation: list[Keys] = field(default_factory=list)

    def lone(self) -> Number:
        """The share of evaluation tokens whose set no other token has, of evaluation or calibration."""
        if not self.evaluation:
            return Number.null("codes are not paid for")
        keys = np.concatenate(self.evaluation)
        sets, counts = np.unique(keys, return_counts=True)
        alone = (counts == 1) & ~np.isin(sets, self.calibration)
        return Number.bare(float(alone.sum() / max(len(keys), 1)), "a count on evaluation")


def keys_of(symbols: Codes) -> Keys:
    """One number for each token's set of latents, from its symbols that are not 0."""
    z = (symbols.latent.cpu().numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    # Scrambled as in SplitMix64, so that sums of different sets do not meet.
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys = np.zeros(symbols.tokens, dtype=np.uint64)
    np.add.at(keys, symbols.token.cpu().numpy(), z ^ (z >> np.uint64(31)))
    return keys
