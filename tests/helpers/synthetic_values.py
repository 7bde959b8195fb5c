"""A small made-up table of per-document values, and records of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from remainder.record.rungs import STEPS
from remainder.record.values import CODING

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


CODED_STEPS = {"coded": 9, "coded-10": 6, "coded-35": 4, "coded-100": 2}
"""The step at each point of the curve of `with_coding`."""

REFERENCE_STEPS = tuple(range(2, 13))


def with_coding(values: pd.DataFrame, *, bits: float = 180.0, reference: bool = True) -> pd.DataFrame:
    """The table as it is where codes are paid for: about `bits` a token at the point `coded`.

    Quantising with step j adds 1 % · 2^(9 − j) to squared residuals and KL. The reference loses
    4 exp(−bits/55) nats: .15 at 180 bits, and R₀ is 253. Give it to `synthetic_record` as it is.
    """
    generator = np.random.default_rng(5)
    raw = values.loc[values["rung"] == "raw"].copy()
    clean = values.loc[values["rung"] == "clean"].set_index(["document", "window"])["loss"]
    base = clean.loc[list(zip(raw["document"], raw["window"], strict=True))].to_numpy()
    tokens, wobble = raw["tokens"].to_numpy(), generator.lognormal(0, 0.1, len(raw))
    added = {step: 0.01 * 2.0 ** (CODED_STEPS["coded"] - step) for step in range(STEPS)}
    for step in range(STEPS):
        raw[f"bits_{step}"] = bits * (1 + 0.1 * (step - CODED_STEPS["coded"])) * tokens * wobble
        raw[f"ss_{step}"] = raw["residual_ss"] * (1 + added[step])

    def rows(rung: str, kl: np.ndarray, spent: np.ndarray, squares: np.ndarray) -> pd.DataFrame:
        """Rows of a rung that is paid for."""
        new = raw[["split", "document", "window", "draw", "tokens", "top1", "correct"]].copy()
        new["rung"], new["kl"], new["loss"], new["annealed"] = rung, kl, base + kl, np.nan
        new["bits"], new["residual_ss"], new["kl_histogram"] = spent, squares, ""
        return new

    parts = [values.loc[values["rung"] != "raw"], raw]
    for rung, step in CODED_STEPS.items():
        kl = raw["kl"].to_numpy() * (1 + added[step])
        parts.append(rows(rung, kl, raw[f"bits_{step}"].to_numpy(), raw[f"ss_{step}"].to_numpy()))
    for step in REFERENCE_STEPS if reference else ():
        spent = 25.0 * (step - 1)
        kl = 4 * np.exp(-spent / 55) * tokens * generator.lognormal(-0.005, 0.1, len(raw))
        squares = raw["centred_ss"].to_numpy() * np.exp(-spent / 55)
        parts.append(rows(f"reference-{step}", kl, spent * tokens * wobble, squares))
    if reference:
        kl = 4.0 * tokens * generator.lognormal(-0.005, 0.1, len(raw))
        parts.append(rows("reference-mean", kl, np.zeros(len(raw)), raw["centred_ss"].to_numpy()))
    table = pd.concat(parts, ignore_index=True)
    table["kl_histogram"] = table["kl_histogram"].fillna("")
    for name in CODING:
        if name not in table:
            table[name] = np.nan
    return table
