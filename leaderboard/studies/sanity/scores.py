"""Scores as functions of sums over documents: what rows of the studies keep, and what follows from them.

Formulas are those of `remainder.record`; they are spelled out here once more, since the studies resample
documents of several rows together. `measure.py` refuses a row whose scores differ from its record's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Columns = Mapping[str, Array]


class Score(NamedTuple):
    """A score."""

    title: str
    better: Literal["large", "small", "one"]
    """`one`: the nearer to 1, the better."""
    columns: tuple[str, ...]
    of: Callable[[Columns], Array]
    """From means of the columns over documents, arrays of one shape, to the score."""
    ours: bool = True

    def oriented(self, value: Array) -> Array:
        """More is better."""
        if self.better == "one":
            return -np.abs(np.log(value))
        return value if self.better == "large" else -value


def _per(column: str, base: str | None = None, tokens: str = "tokens") -> Callable[[Columns], Array]:
    def of(c: Columns) -> Array:
        return (c[column] - (c[base] if base else 0.0)) / c[tokens]

    return of


SCORES: dict[str, Score] = {
    "gap_raw": Score("raw gap, nats", "small", ("raw", "clean", "tokens"), _per("raw", "clean")),
    "kl_raw": Score("KL raw, nats", "small", ("kl_raw", "tokens"), _per("kl_raw")),
    "kl_coded": Score("KL coded, nats", "small", ("kl_coded", "tokens"), _per("kl_coded")),
    "kl_gaussian": Score("KL Gaussian, nats", "small", ("kl_full", "tokens"), _per("kl_full")),
    "gap_annealed": Score(
        "annealed gap, nats", "small", ("annealed", "clean", "tokens"), _per("annealed", "clean")
    ),
    "annealed_difference": Score(
        "Δ annealed, nats", "small", ("annealed", "mean", "tokens"), _per("annealed", "mean")
    ),
    "gaussian_ratio": Score("ρ", "one", ("kl_coded", "kl_noise"), lambda c: c["kl_coded"] / c["kl_noise"]),
    "rho_even": Score(
        "ρ even",
        "one",
        ("kl_coded", "kl_mirror", "kl_noise"),
        lambda c: (c["kl_coded"] + c["kl_mirror"]) / (2 * c["kl_noise"]),
    ),
    "net_bits": Score("net bits", "large", ("net", "spliced"), _per("net", tokens="spliced")),
    "bits_per_token": Score("bits", "small", ("bits", "spliced"), _per("bits", tokens="spliced")),
    "explained_variance": Score(
        "explained variance",
        "large",
        ("residual", "centred"),
        lambda c: 1 - c["residual"] / c["centred"],
        False,
    ),
    "ce_recovered": Score(
        "CE recovered",
        "large",
        ("raw", "clean", "zero"),
        lambda c: (c["zero"] - c["raw"]) / (c["zero"] - c["clean"]),
        False,
    ),
}
COLUMNS = tuple(dict.fromkeys(column for score in SCORES.values() for column in score.columns))
