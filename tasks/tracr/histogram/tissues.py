"""Expected values of tissues of the compiled program: groups of tokens by the number that they have counted.

With nothing kept `keep-all-read` costs what `drop-needed` costs. Its codes are the count and a constant, so
that tissues are made of counts. With counts of 1, of 2 and of more as tissues, the variance of the loss of
`full` between them follows from the staircase (`expected.py`, step 5, by count). k-means may divide the last,
and counts are sampled: at least half of it must show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from remainder.build import load_script

__all__ = ["between_counts", "claims"]

expected = load_script(Path(__file__).parent / "expected.py")


def between_counts(seed: int, documents: int, gain: float) -> float:
    """Variance between counts 1, 2 and more of what `full` costs without them, nats²."""
    sampled = expected.sampled_counts(seed, documents)["calibration"]
    x = 1 / (np.arange(expected.LENGTH + 1) + 1)
    mean = float(sampled @ x)
    z = np.linspace(-8, 8, 40_001)
    weights = np.exp(-(z**2) / 2)
    logits = gain * expected.staircase(mean + np.sqrt(sampled @ (x - mean) ** 2) * z)
    losses = (np.log(np.exp(logits).sum(1))[:, None] - logits).T @ weights / weights.sum()
    chance, count = expected.counts(), np.arange(len(x))
    groups = [count == 1, count == 2, count > 2]
    shares = np.array([chance[group].sum() for group in groups])
    means = np.array([chance[group] @ losses[group] / chance[group].sum() for group in groups])
    return float(shares @ (means - shares @ means) ** 2 / (1 - shares @ shares))


def claims(
    seed: int, program: str, documents: int = 200, gain: float = 10.0
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Nats²."""
    least = between_counts(seed, documents, gain) / 2
    return {"keep-all-read by index in tissues": {"0: tau2 full at least": least}}
