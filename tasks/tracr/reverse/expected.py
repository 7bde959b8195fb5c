"""Expected values of tracr/reverse: a query of an attention head is left out, or what nothing reads.

Source: CONTROLS, G; Lindner et al. 2023 for the compiled head.

The last layer of `reverse` is one attention head. At position i of L letters (both from 0) its query is
one-hot `opp_idx-1` = L − 1 − i; a key is its position; BOS has the score 1/2 for every query. Scores are
multiplied by 100/√12: tracr compiles 100, and the softmax divides by √(key size), here 12 (ten values of
`opp_idx-1`, `one`, BOS). The value is the letter, zero for BOS. Logits are `gain` times what is attended
to.

Steps:
1. `drop-unread`, `keep-all-read`: no weight reads what is left out, so nothing changes under any kernel.
2. `drop-needed` replaces the query by its mean, P(j) = (5 − j)/15: every document has one sequence of each
   length 1 to 5, and `opp_idx-1` is uniform on 0 to L − 1 in each. So P is exact in every sample. raw: the
   query is P itself; the losses follow by enumerating all sequences of each length.
3. permuted: the query is one-hot at j, drawn from P whatever the sequence and the position. For j ≥ L
   nothing is selected, the head attends to BOS, and logits are nearly equal. By enumeration again.
4. full: whatever the noise, it knows neither position nor letters. The best that a head could answer with
   at all positions of a sequence is its commonest letter: error ≥ 1 − E[count of the commonest letter / L],
   over tokens.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

__all__ = ["claims", "enumerated", "least_error"]

LENGTH, LETTERS = 5, 4
SCALE = 100 / np.sqrt(12)
TOKENS = LENGTH * (LENGTH + 1) // 2
"""Of a document."""


def _sequences(length: int) -> NDArray[np.int64]:
    """All sequences of letters [sequences, length]."""
    return np.array(list(itertools.product(range(LETTERS), repeat=length)))


def _logits(query: NDArray[np.float64], letters: NDArray[np.int64], gain: float) -> NDArray[np.float64]:
    """Logits [queries, sequences, letters] of the head for queries [queries, LENGTH]."""
    length = letters.shape[1]
    scores = np.concatenate([query[:, :length], np.full((len(query), 1), 0.5)], axis=1)
    weights = np.exp(SCALE * (scores - scores.max(1, keepdims=True)))
    weights /= weights.sum(1, keepdims=True)
    return gain * np.einsum("qj,sjv->qsv", weights[:, :length], np.eye(LETTERS)[letters])


def _scores(logits: NDArray[np.float64], letters: NDArray[np.int64]) -> tuple[float, float]:
    """Error and loss, in the mean over all sequences and all positions that are asked for."""
    normalised = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    answer = logits.argmax(-1)
    error = np.mean([answer != target for target in letters.T])
    loss = -np.mean([np.take_along_axis(normalised, target[:, None], 1) for target in letters.T])
    return float(error), float(loss)


def enumerated(gain: float) -> dict[str, float]:
    """Errors and losses of clean, raw and permuted, nats per token (steps 2 and 3)."""
    values = dict.fromkeys(["clean", "raw", "raw error", "permuted", "permuted error"], 0.0)
    marginal = (LENGTH - np.arange(LENGTH)) / TOKENS
    one_hot = np.eye(LENGTH)
    for length in range(1, LENGTH + 1):
        letters, share = _sequences(length), length / TOKENS
        for target in range(length):
            exact = _logits(one_hot[target : target + 1], letters, gain)[0]
            values["clean"] += _scores(exact, letters[:, target : target + 1])[1] / TOKENS
        error, loss = _scores(_logits(marginal[None], letters, gain)[0], letters)
        values["raw error"] += share * error
        values["raw"] += share * loss
        for j, logits in enumerate(_logits(one_hot, letters, gain)):
            error, loss = _scores(logits, letters)
            values["permuted error"] += share * marginal[j] * error
            values["permuted"] += share * marginal[j] * loss
    return values


def least_error() -> float:
    """Error of answering with the commonest letter of the sequence everywhere (step 4)."""
    right = 0.0
    for length in range(1, LENGTH + 1):
        counts = (_sequences(length)[:, :, None] == np.arange(LETTERS)).sum(1)
        right += counts.max(1).mean() / TOKENS
    return float(1 - right)


def claims(
    seed: int, program: str, documents: int = 200, gain: float = 10.0
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Errors are shares of tokens, the rest nats per token; the same in every world."""
    values = enumerated(gain)
    clean: dict[str, float | tuple[float, float]] = {"clean": (values["clean"], 1e-5), "clean error": 0.0}
    harmless = {
        f"{rung} {quantity}": 0.0
        for rung in ("raw", "full", "permuted")
        for quantity in ("gap", "kl", "error")
    }
    return {
        "drop-unread": {**clean, **harmless},
        "keep-all-read": {**clean, **harmless},
        "drop-needed": {
            **clean,
            "raw error": values["raw error"],
            "raw gap": (values["raw"] - values["clean"], 1e-4),
            "full error at least": least_error(),
            "permuted error": values["permuted error"],
            "permuted gap": (values["permuted"] - values["clean"], 1e-4),
        },
    }
