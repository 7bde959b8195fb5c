"""The error that one Gaussian mode a shell makes, over the ratio of shells: what is told of a discretisation.

For the quenched loss Γ of a bath's Gaussian, per scored token:

1. `bath` is Γ(full) − Γ(mean), what its noise costs; `sources` is Γ(one independent mode a source) − Γ(full),
   what their correlations matter.
2. Of each Λ the losses of all shifts z are averaged, document by document. `error` is that mean less
   Γ(one independent mode a source), which it meets as Λ falls to 1.
3. `spread` is the largest loss of a shift less the smallest: what one of them alone may be off by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import FrozenModel, Number, Real
from remainder.record.values import Totals, column

__all__ = ["KINDS", "Discretisation", "Discretised", "discretisation_of", "mode_rung"]

KINDS = ("reading", "trace")
"""The power of its shell that a mode keeps: gᵀΣg, or tr Σ."""


def mode_rung(kind: str, ratio: float, shift: float) -> str:
    """The name of a discretised bath among rungs."""
    return f"{kind} {ratio:g} {shift:g}"


class Discretised(FrozenModel):
    """Shells of one ratio, each of them one mode."""

    kind: str
    ratio: Real
    shells: tuple[int, ...]
    """Numbers of shells, by shift."""
    error: Number
    """Mean over shifts less one independent mode a source, nats a token."""
    spread: Real
    """Largest less smallest loss of a shift, nats a token."""


class Discretisation(FrozenModel):
    """A bath by modes."""

    task: str
    tier: str
    submission: str
    hash: str
    order: str
    keep: int
    sources: int
    shifts: tuple[Real, ...]
    bath: Number
    sources_apart: Number
    modes: tuple[Discretised, ...]


def discretisation_of(
    totals: Totals,
    shells: Mapping[tuple[float, float], int],
    ratios: Sequence[float],
    shifts: Sequence[float],
    *,
    seed: int,
) -> tuple[Number, Number, tuple[Discretised, ...]]:
    """The cost of a bath's noise, the part of it that correlations of sources make, and every ratio's error.

    Args:
        totals: of rungs `clean`, `mean`, `full`, `independent` and those of `mode_rung`.
        shells: their number, by ratio and shift.
        seed: of the bootstrap.
    """
    tokens = column(totals["clean"], "tokens")
    bootstrap = Bootstrap(len(tokens), seed=seed)

    def loss(rung: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return column(totals[rung], "loss")

    def number(numerator: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Number:
        return Number.of_ratio(bootstrap, Ratio(numerator, tokens))

    rows = []
    for kind in KINDS:
        for ratio in ratios:
            losses = np.stack([loss(mode_rung(kind, ratio, shift)) for shift in shifts])
            pooled = losses.sum(1) / tokens.sum()
            rows.append(
                Discretised(
                    kind=kind,
                    ratio=ratio,
                    shells=tuple(shells[ratio, shift] for shift in shifts),
                    error=number(losses.mean(0) - loss("independent")),
                    spread=float(pooled.max() - pooled.min()),
                )
            )
    return number(loss("full") - loss("mean")), number(loss("independent") - loss("full")), tuple(rows)
