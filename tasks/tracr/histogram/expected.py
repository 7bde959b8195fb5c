"""Expected values of tracr/histogram: one number is left out, or the letters that it was made from.

Source: CONTROLS, G; Lindner et al. 2023 for the compiled staircase.

`hist` counts c, how often a letter occurs in its sequence. Attention to BOS and to all equal letters leaves
x = 1/(c + 1) at the site; an MLP turns x into one-hot c. With the values 1/6, 1/5, …, 1 in rising order and
thresholds t half-way between them, it gives the class of the value around x, and goes over to the next one
linearly from t − 1/100 to t. Logits are `gain` times the outputs.

Steps:
1. `drop-unread` and `keep-all-read` leave out the letters (and the positions): nothing reads them after
   attention.
2. Tokens: each document has one sequence of each length L = 1 to 5, so L has chance L/15 over tokens, and c
   − 1 ~ Binomial(L − 1, 1/4). This gives P(c), and mean m and variance v of x.
3. `drop-needed` replaces x by m. raw: one class for all tokens.
4. permuted: x is that of another token, of class c' ~ P independently: error 1 − Σ P(c)².
5. full: x ~ N(m, v), independent of c: a one-dimensional integral over the staircase.
6. m is estimated on `fit` for raw, m and v on `calibration` for full, P on `calibration` for permuted; for
   all of these the sequences of the world itself are counted, drawn as `build.py` draws them. No allowance
   could take their place: m may fall onto the ramp between two classes, where the loss is a third less.
"""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["claims", "counts", "sampled_counts", "staircase"]

LENGTH, LETTERS, EXACTNESS = 5, 4, 100

ROUNDING = 1e-3
"""Nats by which a mean that is rounded to float32 moves the loss on a ramp: its slope times 1e-7."""

Array = NDArray[np.float64]


def counts() -> Array:
    """P(c) for c = 0 to LENGTH (step 2)."""
    chance = np.zeros(LENGTH + 1)
    for length in range(1, LENGTH + 1):
        for others in range(length):
            binomial = comb(length - 1, others) / LETTERS**others * (1 - 1 / LETTERS) ** (length - 1 - others)
            chance[others + 1] += binomial * length / (LENGTH * (LENGTH + 1) / 2)
    return chance


def sampled_counts(seed: int, documents: int) -> dict[str, Array]:
    """Share of each c among the tokens of `fit` and of `calibration` in the world of `seed` (step 6)."""
    found = {}
    for split, stream in zip(("fit", "calibration"), np.random.default_rng(seed).spawn(3)[:2], strict=True):
        total = np.zeros(LENGTH + 1)
        for window in range(documents * LENGTH):
            each = np.bincount(stream.integers(0, LETTERS, 1 + window % LENGTH))
            total += np.bincount(each, weights=each, minlength=LENGTH + 1)
        found[split] = total / total.sum()
    return found


def staircase(x: Array) -> Array:
    """Outputs [points, classes] of the compiled MLP for x [points]."""
    values = 1 / (np.arange(LENGTH, -1, -1) + 1)
    thresholds = (values[1:] + values[:-1]) / 2
    steps = np.clip(EXACTNESS * (x[:, None] - thresholds) + 1, 0, 1)
    # From c = LENGTH downwards: each step moves from one class to that below.
    reached = np.concatenate([np.ones((len(x), 1)), steps], axis=1)
    left = np.concatenate([steps, np.zeros((len(x), 1))], axis=1)
    return (reached - left)[:, ::-1]


def _scores(x: Array, weights: Array, chance: Array, gain: float) -> Array:
    """Error and loss, x with these weights and the count of P independent of it."""
    logits = gain * staircase(x)
    normalised = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    error = 1 - chance[logits.argmax(1)]
    return np.array([weights @ error, -weights @ normalised @ chance])


def _gaussian(mean: float, variance: float, chance: Array, gain: float) -> Array:
    """Error and loss for x ~ N(mean, variance)."""
    z = np.linspace(-8, 8, 400_001)
    weights = np.exp(-(z**2) / 2)
    return _scores(mean + sqrt(variance) * z, weights / weights.sum(), chance, gain)


def claims(
    seed: int, program: str, documents: int = 200, gain: float = 10.0
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Errors are shares of tokens, the rest nats per token."""
    chance, sampled = counts(), sampled_counts(seed, documents)
    x = 1 / (np.arange(LENGTH + 1) + 1)
    clean_loss = float(np.log1p(LENGTH * np.exp(-gain)))

    raw = _scores(np.array([sampled["fit"] @ x]), np.ones(1), chance, gain)
    mean = float(sampled["calibration"] @ x)
    full = _gaussian(mean, float(sampled["calibration"] @ (x - mean) ** 2), chance, gain)
    permuted = _scores(x, sampled["calibration"], chance, gain)

    clean: dict[str, float | tuple[float, float]] = {"clean": clean_loss, "clean error": 0.0}
    harmless = {
        f"{rung} {quantity}": 0.0
        for rung in ("raw", "full", "permuted")
        for quantity in ("gap", "kl", "error")
    }
    needed: dict[str, float | tuple[float, float]] = {}
    for rung, (error, loss) in (("raw", raw), ("full", full), ("permuted", permuted)):
        needed[f"{rung} error"] = float(error)
        needed[f"{rung} gap"] = (float(loss) - clean_loss, ROUNDING)
    return {
        "drop-unread": {**clean, **harmless},
        "keep-all-read": {**clean, **harmless},
        "drop-needed": {**clean, **needed},
    }
