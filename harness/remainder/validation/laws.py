"""The coverage of 95 % intervals for documents of known laws, near-normal and not.

Controls have documents that are nearly normal; those of real tasks often are not. Each law here has a truth
in closed form, and its interval is made as a record's, on the scale of its kind of quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.base.cache import Progress, silent
from remainder.record.intervals import Bootstrap, Ratio
from remainder.validation.coverage import Coverage, wilson

__all__ = ["LAWS", "SIZES", "DocumentLaw", "cover_laws"]

SIZES = (15, 25, 32, 44)
"""Numbers of documents; the real tasks have 32 in their quick, 44 in their standard tier."""

Array = NDArray[np.float64]
_NAME = "documents drawn by law"


class DocumentLaw(NamedTuple):
    """A law that documents are drawn by: `draw` gives numerators and denominators, `[documents]` each."""

    draw: Callable[[np.random.Generator, int], tuple[Array, Array]]
    truth: float
    """The ratio of their expectations."""


def _over_tokens(draw: Callable[[np.random.Generator, int], Array]) -> Callable[..., tuple[Array, Array]]:
    """Documents of one length each."""
    return lambda generator, count: (draw(generator, count), np.ones(count))


LAWS: Mapping[str, DocumentLaw] = {
    "near normal": DocumentLaw(_over_tokens(lambda g, n: g.gamma(16.0, 1 / 16, n)), 1.0),
    "exponential": DocumentLaw(_over_tokens(lambda g, n: g.exponential(1.0, n)), 1.0),
    "lognormal": DocumentLaw(_over_tokens(lambda g, n: g.lognormal(0.0, 1.0, n)), math.exp(0.5)),
    "two points": DocumentLaw(_over_tokens(lambda g, n: np.where(g.random(n) < 0.2, 10.0, 1.0)), 2.8),
    "ratio, heavy below": DocumentLaw(
        lambda g, n: (g.lognormal(0.0, 1.0, n), g.lognormal(0.0, 2.0, n)), math.exp(0.5 - 2.0)
    ),
}
"""Gamma of shape 16; exponential; lognormal, σ = 1; 1 and, in a fifth of all documents, 10; and a ratio of
lognormals with σ = 1 above and 2 below."""


def cover_laws(
    *,
    documents: Sequence[int] = SIZES,
    replications: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Coverage]:
    """The share of intervals that hold the truth, for each law and number of documents.

    Sets with too few documents for an interval do not count.
    """
    found: list[Coverage] = []
    for number, (name, law) in enumerate(LAWS.items()):
        for count in documents:
            (progress or silent)(name, len(found), len(LAWS) * len(documents))
            generator = np.random.default_rng([seed, number, count])
            held, widths = 0, []
            for replication in range(replications):
                above, below = law.draw(generator, count)
                estimate = Bootstrap(count, seed=replication).estimate(Ratio(above, below, "positive"))
                if estimate.low is not None and estimate.high is not None:
                    held += estimate.low <= law.truth <= estimate.high
                    widths.append(estimate.high - estimate.low)
            sets = len(widths)
            low, high = wilson(held, sets)
            found.append(
                Coverage(
                    task=_NAME,
                    interpretation=name,
                    quantity="mean",
                    documents=count,
                    expected=law.truth,
                    sets=sets,
                    held=held / sets,
                    low=low,
                    high=high,
                    held_mean=held / sets,
                    width=float(np.mean(widths)),
                    shown_only=True,
                )
            )
    return found
