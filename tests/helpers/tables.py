"""A table of per-document values made of losses that a test has at hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from remainder.record.values import RAW_ONLY

Losses = Mapping[str, np.ndarray]
"""Per rung `[documents, draws]` or `[documents]`, means over the tokens of a document; `clean` among them."""


def table_of(
    losses: Losses,
    kl: Losses | None = None,
    annealed: Losses | None = None,
    plain: Losses | None = None,
) -> pd.DataFrame:
    """A table with 100 tokens a document.

    Args:
        kl: as `losses`; default: loss less clean loss.
        annealed: of some rungs, as `losses`, NaN where no unit ends; default: none.
        plain: the same before the jackknife.
    """
    tokens, clean = 100, np.asarray(losses["clean"])
    rows = []
    for rung, given in losses.items():
        given = np.asarray(given).reshape(len(clean), -1)
        apart = given - clean[:, None] if kl is None else np.asarray(kl[rung]).reshape(given.shape)
        ends = {"annealed": annealed or {}, "annealed_plain": plain or {}}
        for document, draw in np.ndindex(given.shape):
            rows.append(
                {
                    "split": "evaluation",
                    "document": f"page-{document:05d}",
                    "window": 0,
                    "rung": rung,
                    "draw": draw,
                    "tokens": tokens,
                    "loss": given[document, draw] * tokens,
                    "kl": apart[document, draw] * tokens,
                    "top1": tokens,
                    "correct": tokens,
                    "kl_histogram": "",
                    **{
                        name: of[rung][document, draw] * tokens if rung in of else np.nan
                        for name, of in ends.items()
                    },
                    **dict.fromkeys(RAW_ONLY, np.nan),
                }
            )
    return pd.DataFrame(rows)
