"""A small made-up table of per-document values, and records of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

RUNGS = {
    "raw": 0.10,
    "mean": 0.09,
    "full": 0.20,
    "permuted": 0.21,
    "noise-fitted": 0.05,
    "noise-directional": 0.04,
    "noise-isotropic": 0.03,
}
"""Each rung's mean KL, nats per token."""


def synthetic_values(*, documents: int = 12, windows: int = 2, pairs: int = 1, seed: int = 0) -> pd.DataFrame:
    """Skewed documents, `windows` each; `seed` changes the numbers and keeps the keys and clean losses."""
    keys = np.random.default_rng(7)
    generator = np.random.default_rng(seed)
    rows = []
    for document in range(documents):
        for window in range(windows):
            tokens = int(keys.integers(90, 127))
            clean = float(keys.lognormal(1.0, 0.3)) * tokens
            key = {"split": "evaluation", "document": f"article-{document}", "window": window}
            rows.append(
                {
                    **key,
                    "rung": "clean",
                    "draw": 0,
                    "tokens": tokens,
                    "loss": clean,
                    "kl": 0.0,
                    "top1": tokens,
                    "correct": tokens // 2,
                }
            )
            for rung, mean in RUNGS.items():
                for draw in range(1 if rung in ("raw", "mean") else 2 * pairs):
                    kl = mean * generator.lognormal(-0.125, 0.5, tokens)
                    row = {**key, "rung": rung, "draw": draw, "tokens": tokens, "kl": float(kl.sum())}
                    row["loss"] = clean + float(kl.sum() + generator.normal(0, 0.5))
                    row["top1"] = int(generator.binomial(tokens, 0.9))
                    row["correct"] = tokens // 3
                    row["kl_histogram"] = histogram(kl)
                    if rung == "raw":
                        centred = float(generator.lognormal(0, 0.2)) * tokens
                        row |= {"residual_ss": 0.2 * centred * float(generator.uniform(0.8, 1.2))}
                        row |= {"centred_ss": centred, "spliced": tokens, "active": 32 * tokens + document}
                    rows.append(row)
    table = pd.DataFrame(rows)
    table["annealed"] = np.nan
    return table


def histogram(kl: np.ndarray) -> str:
    """KL per token as the sparse log-binned text of the table."""
    bins = np.maximum(np.floor(20 * np.log10(np.maximum(kl, 1e-300))), -160).astype(int)
    values, counts = np.unique(bins, return_counts=True)
    return ";".join(f"{b}:{c}" for b, c in zip(values, counts, strict=True))
