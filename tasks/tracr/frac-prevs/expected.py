"""Expected values of tracr/frac-prevs: a boolean that is averaged later is left out, or the letters it is of.

Source: CONTROLS, G; Lindner et al. 2023 for the compiled program.

b = 1 where the letter is "a", p = 1/4. The network's output at position i (from 0) is the mean of b over
positions 0 to i, exactly, and so is the target. The loss is squared error, (y − f)²/2 + log(2π)/2.

Steps:
1. `drop-unread` and `keep-all-read` leave out the letters: once b is made nothing reads them.
2. H = E[1/(i + 1)] over tokens: each document has one sequence of each length L = 1 to 5, so H = Σ_L
   Σ_{i<L} 1/(i + 1) / 15.
3. `drop-needed`, raw: f is the mean of b on `fit`, whose expectation is p. E(y − f)² = p(1 − p)H + (f −
   p)².
4. full and permuted: f is the mean of i + 1 independent draws with the mean and variance v of b on
   `calibration`; beyond two moments the kernel does not matter. E(y − f)² = p(1 − p)H + vH + (m − p)², in
   expectation 2p(1 − p)H: twice raw, as for any model that is exact and linear in what was left out.
5. m and v are estimated from n = 15 · documents tokens, which are independent. Allowances are three
   standard errors of each: (m − p)² up to 9p(1 − p)/n; v with the standard error √[(μ₄ − v²)/n].
"""

from __future__ import annotations

from math import log, pi, sqrt

__all__ = ["claims", "harmonic"]

LENGTH, CHANCE = 5, 1 / 4


def harmonic() -> float:
    """H, the mean over tokens of the reciprocal of how many positions are averaged (step 2)."""
    tokens = [1 / (i + 1) for length in range(1, LENGTH + 1) for i in range(length)]
    return sum(tokens) / len(tokens)


def claims(
    seed: int, program: str, documents: int = 200, gain: float = 10.0
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Nats per token, which are halves of squared errors; the same in every world."""
    variance = CHANCE * (1 - CHANCE)
    fourth = variance * (1 - 3 * variance)
    tokens = documents * LENGTH * (LENGTH + 1) // 2
    mean_allowance = 9 * variance / tokens / 2
    variance_allowance = 3 * sqrt((fourth - variance**2) / tokens) * harmonic() / 2

    raw = variance * harmonic() / 2
    clean: dict[str, float | tuple[float, float]] = {"clean": log(2 * pi) / 2}
    harmless = {
        f"{rung} {quantity}": 0.0 for rung in ("raw", "full", "permuted") for quantity in ("gap", "kl")
    }
    full = (2 * raw, mean_allowance + variance_allowance)
    return {
        "drop-unread": {**clean, **harmless},
        "keep-all-read": {**clean, **harmless},
        "drop-needed": {
            **clean,
            "raw gap": (raw, mean_allowance),
            "raw kl": (raw, mean_allowance),
            "full gap": full,
            "permuted gap": full,
        },
    }
