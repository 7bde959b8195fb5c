"""The error that one Gaussian mode a shell makes, over the ratio of shells: what is told of a discretisation.

For the quenched loss Γ of a bath's Gaussian, per scored token:

1. `bath` is Γ(full) − Γ(mean), what its noise costs; `sources_apart` is Γ(one independent mode a source) −
   Γ(full), what their correlations matter.
2. Of each Λ the losses of all shifts z are averaged, document by document. `error` is that mean less
   Γ(one independent mode a source), which it meets as Λ falls to 1.
3. `spread` is the largest loss of a shift less the smallest: what one of them alone may be off by.

All of it follows from losses summed over each document, which are kept with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.number import FrozenModel, Number, Real
from remainder.record.schema import Pinned, Provenance, SubmissionInfo, TaskInfo
from remainder.record.values import Totals, column

__all__ = [
    "KINDS",
    "Discretisation",
    "Discretised",
    "DocumentSums",
    "MeasuredModes",
    "discretised",
    "edges_of",
    "mode_rung",
    "numerators_of",
    "rungs_of",
    "sums_of",
]

KINDS = ("reading", "trace")
"""The power of its shell that a mode keeps: gᵀΣg, or tr Σ."""

_COMPARED = ("mean", "full", "independent")
"""Rungs beside those of modes."""


def edges_of(full: int, ratio: float, shift: float, keep: int) -> tuple[int, ...]:
    """Edges of shells, ascending: how many are kept, then k_n = round(full · ratio^(−n − shift)) and `full`.

    Args:
        full: how many sources there are.
        ratio: Λ, above 1.
        shift: z.
        keep: how many are kept, below `full`.
    """
    found, number = {keep, full}, 0
    while (edge := round(full * ratio ** -(number + shift))) > keep:
        found.add(edge)
        number += 1
    return tuple(sorted(found))


def mode_rung(kind: str, ratio: float, shift: float) -> str:
    """The name of a discretised bath among rungs."""
    return f"{kind} {ratio:g} {shift:g}"


def rungs_of(ratios: Sequence[float], shifts: Sequence[float]) -> tuple[str, ...]:
    """Rungs of a discretisation, without the clean model."""
    modes = (mode_rung(kind, ratio, shift) for kind in KINDS for ratio in ratios for shift in shifts)
    return (*_COMPARED, *modes)


class DocumentSums(FrozenModel):
    """Losses summed over each document's scored tokens."""

    documents: tuple[str, ...]
    tokens: tuple[int, ...]
    """Scored tokens of each document."""
    above: dict[str, tuple[Real, ...]]
    """Loss of each rung less that of the clean model, nats, averaged over draws of the noise."""


class Discretised(FrozenModel):
    """Shells of one ratio, each of them one mode."""

    kind: str
    ratio: Real
    shells: tuple[int, ...]
    """Numbers of shells, by shift."""
    error: Number
    """Mean over shifts less one independent mode a source, nats a token."""
    shifted: tuple[Real, ...]
    """The value for each shift alone."""
    spread: Real
    """Largest less smallest loss of a shift, nats a token."""


class Discretisation(FrozenModel):
    """A bath by modes."""

    modes_version: int = 1
    protocol: str
    task: TaskInfo
    submission: SubmissionInfo
    model: Pinned
    corpus: Pinned
    tier: str
    dtype: str
    seed: int
    """The seed of the noise and of the bootstrap."""
    order: str
    """The order in which sources are kept, with all that it depends on besides the submission."""
    keep: int
    sources: int
    """How many there are to keep."""
    ratios: tuple[Real, ...]
    shifts: tuple[Real, ...]
    values: DocumentSums
    bath: Number
    sources_apart: Number
    modes: tuple[Discretised, ...]
    provenance: Provenance


class MeasuredModes(NamedTuple):
    """A discretisation, as what renders and draws it is given it."""

    found: Discretisation


def sums_of(totals: Totals, ratios: Sequence[float], shifts: Sequence[float]) -> DocumentSums:
    """The part of a table of values that is kept.

    Args:
        totals: of the clean model and of `rungs_of` these.
    """
    clean = totals["clean"]
    return DocumentSums(
        documents=tuple(map(str, clean.index)),
        tokens=tuple(int(each) for each in column(clean, "tokens")),
        above={
            rung: tuple(float(each) for each in column(totals[rung], "loss") - column(clean, "loss"))
            for rung in rungs_of(ratios, shifts)
        },
    )


def discretised(
    values: DocumentSums, full: int, keep: int, ratios: Sequence[float], shifts: Sequence[float], *, seed: int
) -> Mapping[str, Any]:
    """The cost of a bath's noise, the part of it that correlations of sources make, and every ratio's error.

    Args:
        values: of all `rungs_of` these.
        full: how many sources there are, of which `keep` are kept.
        seed: of the bootstrap.

    Returns:
        `bath`, `sources_apart` and `modes` of a `Discretisation`.
    """
    tokens = np.array(values.tokens, dtype=np.float64)
    bootstrap = Bootstrap(len(tokens), seed=seed)
    numbers = {
        name: Number.of_ratio(bootstrap, Ratio(numerator, tokens))
        for name, numerator in numerators_of(values, ratios, shifts).items()
    }
    loss = _losses(values)
    rows = []
    for kind in KINDS:
        for ratio in ratios:
            losses = np.stack([loss[mode_rung(kind, ratio, shift)] for shift in shifts])
            pooled = (losses - loss["independent"]).sum(1) / tokens.sum()
            rows.append(
                Discretised(
                    kind=kind,
                    ratio=ratio,
                    shells=tuple(len(edges_of(full, ratio, shift, keep)) - 1 for shift in shifts),
                    error=numbers[f"{kind} {ratio:g}"],
                    shifted=tuple(float(each) for each in pooled),
                    spread=float(pooled.max() - pooled.min()),
                )
            )
    return {
        "bath": numbers["bath"],
        "sources_apart": numbers["sources apart"],
        "modes": tuple(rows),
    }


def numerators_of(
    values: DocumentSums, ratios: Sequence[float], shifts: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """The sums of a discretisation over each document, `[documents]`, in nats.

    Returns:
        `bath`, `sources apart`, and the error of each kind of mode and ratio, such as `reading 4`.
    """
    loss = _losses(values)
    found = {"bath": loss["full"] - loss["mean"], "sources apart": loss["independent"] - loss["full"]}
    for kind in KINDS:
        for ratio in ratios:
            shifted = [loss[mode_rung(kind, ratio, shift)] for shift in shifts]
            found[f"{kind} {ratio:g}"] = np.mean(shifted, axis=0) - loss["independent"]
    return found


def _losses(values: DocumentSums) -> dict[str, NDArray[np.float64]]:
    return {rung: np.array(above, dtype=np.float64) for rung, above in values.above.items()}
