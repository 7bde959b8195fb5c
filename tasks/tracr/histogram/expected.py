"""Expected values of tracr/histogram: one number is left out, or the letters that it was made from.

Source: CONTROLS, G; Lindner et al. 2023 for the compiled staircase.

`hist` counts c, how often a letter occurs in its sequence. Attention to BOS and to all equal letters leaves
x = 1/(c + 1) at the site; an MLP turns x into one-hot c. With the values 1/6, 1/5, …, 1 in rising order and
thresholds t half-way between them, it gives the class of the value around x, and goes over to the next one
linearly from t to t + 1/100. Logits are `gain` times the outputs.

Steps:
1. `drop-unread` and `keep-all-read` leave out the letters (and the positions): nothing reads them after
   attention.
2. Tokens: each document has one sequence of each length L = 1 to 5, so L has chance L/15 over tokens, and c
   − 1 ~ Binomial(L − 1, 1/4). This gives P(c), and mean m and variance v of x.
3. `drop-needed` replaces x by m. raw: one class for all tokens.
4. permuted: x is that of another token, of class c' ~ P independently: error 1 − Σ P(c)².
5. full: x ~ N(m, v), independent of c: a one-dimensional integral over the staircase.
6. m and v are estimated: m on `fit` for raw, m and v on `calibration` for full, P on `calibration` for
   permuted. Allowances are three standard errors of these, times the derivative; a document's sequences are
   independent, the letters of a sequence are not, so that a sequence counts for one.
"""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["claims", "counts", "staircase"]

LENGTH, LETTERS, EXACTNESS = 5, 4, 100

Array = NDArray[np.float64]


def counts() -> Array:
    """P(c) for c = 0 to LENGTH (step 2)."""
    chance = np.zeros(LENGTH + 1)
    for length in range(1, LENGTH + 1):
        for others in range(length):
            binomial = comb(length - 1, others) / LETTERS**others * (1 - 1 / LETTERS) ** (length - 1 - others)
            chance[others + 1] += binomial * length / (LENGTH * (LENGTH + 1) / 2)
    return chance


def staircase(x: Array) -> Array:
    """Outputs [points, classes] of the compiled MLP for x [points]."""
    values = 1 / (np.arange(LENGTH, -1, -1) + 1)
    thresholds = (values[1:] + values[:-1]) / 2
    steps = np.clip(EXACTNESS * (x[:, None] - thresholds), 0, 1)
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
    """Errors are shares of tokens, the rest nats per token; the same in every world."""
    chance = counts()
    x = 1 / (np.arange(LENGTH + 1) + 1)
    mean = float(chance @ x)
    centred = x - mean
    variance, fourth = float(chance @ centred**2), float(chance @ centred**4)
    clean_loss = float(np.log1p(LENGTH * np.exp(-gain)))

    sequences = documents * LENGTH
    mean_error = 3 * sqrt(variance / sequences)
    variance_error = 3 * sqrt((fourth - variance**2) / sequences)

    one = np.ones(1)
    raw = _scores(np.array([mean]), one, chance, gain)
    near = [_scores(np.array([mean + d]), one, chance, gain) for d in (-mean_error, mean_error)]
    raw_allowance = np.max(np.abs(np.array(near) - raw), axis=0)

    full = _gaussian(mean, variance, chance, gain)
    full_allowance = np.abs(_gaussian(mean + mean_error, variance, chance, gain) - full)
    full_allowance += np.abs(_gaussian(mean, variance + variance_error, chance, gain) - full)

    permuted = _scores(x, chance, chance, gain)
    own = np.array([_scores(x[c : c + 1], one, chance, gain) for c in range(LENGTH + 1)])
    permuted_allowance = 3 * np.sqrt((chance @ own**2 - permuted**2) / sequences)

    clean: dict[str, float | tuple[float, float]] = {"clean": clean_loss, "clean error": 0.0}
    harmless = {
        f"{rung} {quantity}": 0.0
        for rung in ("raw", "full", "permuted")
        for quantity in ("gap", "kl", "error")
    }
    needed: dict[str, float | tuple[float, float]] = {}
    for rung, (error, loss), allowance in (
        ("raw", raw, raw_allowance),
        ("full", full, full_allowance),
        ("permuted", permuted, permuted_allowance),
    ):
        needed[f"{rung} error"] = (float(error), float(allowance[0]))
        needed[f"{rung} gap"] = (float(loss) - clean_loss, float(allowance[1]))
    return {
        "drop-unread": {**clean, **harmless},
        "keep-all-read": {**clean, **harmless},
        "drop-needed": {**clean, **needed},
    }
