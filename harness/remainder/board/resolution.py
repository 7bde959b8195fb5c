"""The smallest difference in KL that the documents of a task can tell apart, for who plans a training.

1. Rows of a table are compared as those of a budget are: all pairs at once, paired by document
   (`board.paired`). Two rows are told apart if their KL differ by more than the pair's margin c s_ij.
2. s_ij depends on the pair: rows that are wrong on the same documents have a small one. So the median over
   all pairs is stated, with the least and the largest, and the median as a share of the mean KL of the pair.
3. Pairs of trained rows count; where there are fewer than two of these, pairs of all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from remainder.board.merge import BoardRow
from remainder.board.paired import separate

__all__ = ["Resolution", "resolution"]


class Resolution(NamedTuple):
    """Differences in KL at which pairs of rows are told apart, nats per scored token."""

    least: float
    middle: float
    most: float
    share: float
    """The median over pairs of the margin over their mean KL."""
    pairs: int
    documents: int
    trained: bool
    """Whether the pairs are of trained rows."""

    @property
    def sentence(self) -> str:
        """The resolution in a sentence."""
        of = "pairs of submissions" if self.trained else "pairs of rows, references among them"
        return (
            f"Its {self.documents:,} documents tell two rows apart whose KL differ by {self.middle:.2g} nats "
            f"({100 * self.share:.2g} % of their KL; median of {self.pairs:,} {of}, from {self.least:.2g} to "
            f"{self.most:.2g}), all pairs compared at once."
        )


def resolution(entries: Sequence[BoardRow], by: str) -> Resolution | None:
    """The resolution of a table; None where no two rows can be compared.

    Args:
        entries: rows of one table.
        by: the KL: `coded` or `raw`.
    """
    able = [entry for entry in entries if by in entry.sums.kl and not entry.failed]
    trained = [entry for entry in able if not entry.is_reference]
    rows = trained if len(trained) > 1 else able
    common = Counter((entry.sums.documents, entry.sums.tokens.tobytes()) for entry in rows)
    if not common:
        return None
    most = max(common, key=lambda key: (common[key], len(key[0]), key))
    rows = [entry for entry in rows if (entry.sums.documents, entry.sums.tokens.tobytes()) == most]
    if len(rows) < 2:
        return None
    sums = np.stack([entry.sums.kl[by] for entry in rows])
    tokens = rows[0].sums.tokens
    margin = separate(sums, tokens, seed=rows[0].record.measurement.seed).margin
    losses = sums.sum(axis=1) / tokens.sum()
    upper = np.triu_indices(len(rows), k=1)
    margins, means = margin[upper], (losses[:, None] + losses[None, :])[upper] / 2
    finite = np.isfinite(margins) & (means > 0)
    if not finite.any():
        return None
    found = margins[finite]
    return Resolution(
        float(found.min()),
        float(median(found)),
        float(found.max()),
        float(median(found / means[finite])),
        int(finite.sum()),
        len(tokens),
        len(trained) > 1,
    )
