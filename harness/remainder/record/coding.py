"""Codes that are paid for: the rate–distortion curve of an interpretation, and its efficiency.

1. Bits of a rung or step are a ratio of sums: bits of its codes over spliced tokens, document by document.
2. The reference curve is KL of transform coding by its bits: at none (the mean activation), and at each step.
   Between its points log(KL + 10⁻⁶) is linear in bits; resamples keep to the two points in between of which
   the number lies, so that it is a smooth function.
3. efficiency = log[(KL_ref + 10⁻⁶)/(KL + 10⁻⁶)] at equal bits; R₀ = bits at which KL_ref is 1 % of that of
   the mean. Both are smooth functions of means over documents, and have the interval of one: the documents
   of a resample give bits and KL of both curves, which keeps them paired.

Source: protocol 2, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import CodedPoint, CodedStep, CodingMetrics, ReferencePoint
from remainder.record.number import Number
from remainder.record.rungs import CODED, CURVE, REFERENCE_MEAN, reference_step
from remainder.record.values import STEP_BITS, STEP_SQUARES, Totals, column, gap, pooled

__all__ = ["FULL", "coding_metrics", "scored_rung", "step_bits"]

FULL = 0.01
"""Share of the mean's KL at which the reference is taken to be complete."""

_FLOOR = 1e-6
"""Nats that are added to KL under a logarithm: far below what any task tells apart."""

_NO_REFERENCE = "transform coding was not measured beside it"

Array = NDArray[np.float64]


def scored_rung(totals: Totals) -> str:
    """The rung that a record's ladder stands on: `coded`, or where nothing is quantised, `raw`."""
    return CODED if CODED in totals else "raw"


def step_bits(totals: Totals, step: int) -> Ratio | str:
    """Bits per spliced token if codes are quantised with the step of this number, or why there are none."""
    raw = totals["raw"]
    return Ratio(column(raw, STEP_BITS[step]), column(raw, "spliced"), "positive")


def coding_metrics(bootstrap: Bootstrap, totals: Totals) -> CodingMetrics | None:
    """The curves of a record; None if its codes are not paid for."""
    raw = totals.get("raw")
    if raw is None or STEP_BITS[0] not in raw:
        return None
    spliced, centred = column(raw, "spliced"), column(raw, "centred_ss")
    reference = _reference(totals)
    return CodingMetrics(
        points={rung: _point(bootstrap, totals, rung, reference) for rung in CURVE if rung in totals},
        steps=tuple(
            CodedStep(
                bits=Number.of_ratio(bootstrap, Ratio(column(raw, bits), spliced, "positive")),
                fvu=Number.of_ratio(bootstrap, Ratio(column(raw, squares), centred, "positive")),
            )
            for bits, squares in zip(STEP_BITS, STEP_SQUARES, strict=True)
        ),
        reference=tuple(
            ReferencePoint(
                bits=Number.of_ratio(bootstrap, _bits(totals, rung)),
                kl=Number.of_ratio(bootstrap, pooled(totals, rung, "kl")),
            )
            for rung in reference
        ),
        full_bits=_full_bits(bootstrap, totals, reference),
    )


def _reference(totals: Totals) -> list[str]:
    """Rungs of the reference, bits ascending: the mean, then its steps from coarse to fine."""
    steps = sorted((step, rung) for rung in totals if (step := reference_step(rung)) is not None)
    return [REFERENCE_MEAN, *(rung for _, rung in steps)] if steps else []


def _bits(totals: Totals, rung: str) -> Ratio:
    return Ratio(column(totals[rung], "bits"), column(totals["raw"], "spliced"), "positive")


def _point(bootstrap: Bootstrap, totals: Totals, rung: str, reference: list[str]) -> CodedPoint:
    squares = Ratio(column(totals[rung], "residual_ss"), column(totals["raw"], "centred_ss"), "positive")
    return CodedPoint(
        bits=Number.of_ratio(bootstrap, _bits(totals, rung)),
        fvu=Number.of_ratio(bootstrap, squares),
        gap=Number.of_ratio(bootstrap, gap(totals, rung)),
        kl=Number.of_ratio(bootstrap, pooled(totals, rung, "kl")),
        efficiency=_efficiency(bootstrap, totals, rung, reference),
    )


def _curves(means: Array) -> tuple[Array, Array]:
    """Bits per spliced token and log(KL + floor) per scored token, `[..., rungs]` each, from `_columns`."""
    tokens, spliced, rest = means[..., :1], means[..., 1:2], means[..., 2:]
    bits, kl = np.split(rest, 2, axis=-1)
    # A sum of rounded KLs may lie below 0 where nothing was changed.
    return bits / spliced, np.log(np.maximum(kl / tokens, 0.0) + _FLOOR)


def _columns(totals: Totals, rungs: Sequence[str]) -> Array:
    """Scored and spliced tokens, then bits of `rungs`, then their KL: [documents, 2 + 2 rungs]."""
    return np.stack(
        [
            column(totals["clean"], "tokens"),
            column(totals["raw"], "spliced"),
            *(column(totals[rung], "bits") for rung in rungs),
            *(column(totals[rung], "kl") for rung in rungs),
        ],
        axis=-1,
    )


def _efficiency(bootstrap: Bootstrap, totals: Totals, rung: str, reference: Sequence[str]) -> Number:
    """Log ratio of the reference's KL to that of a rung at equal bits."""
    if not reference:
        return Number.null(_NO_REFERENCE)
    bits = _curves(_columns(totals, [rung, *reference]).mean(axis=0))[0]
    own, theirs = float(bits[0]), bits[1:]
    if not theirs[0] <= own <= theirs[-1]:
        return Number.null(
            f"{own:.4g} bits lie outside of the reference's {theirs[0]:.4g} to {theirs[-1]:.4g}"
        )
    place = min(int(np.searchsorted(theirs, own, side="right")), len(theirs) - 1)

    def efficiency(means: Array) -> Array:
        x, y = _curves(means)
        of_reference = _line(x[..., 0], (x[..., 1], y[..., 1]), (x[..., 2], y[..., 2]))
        return np.asarray(of_reference - y[..., 0])

    columns = _columns(totals, [rung, *reference[place - 1 : place + 1]])
    return Number.of(bootstrap.of_function(columns, efficiency))


def _full_bits(bootstrap: Bootstrap, totals: Totals, reference: Sequence[str]) -> Number:
    """R₀ of the reference, or why there is none."""
    if not reference:
        return Number.null(_NO_REFERENCE)
    kl = np.exp(_curves(_columns(totals, reference).mean(axis=0))[1]) - _FLOOR
    reached = np.flatnonzero(kl <= FULL * kl[0])
    if not reached.size or not reached[0]:
        return Number.null(
            f"KL of the finest step of the reference is {kl.min():.3g}, not below {FULL:.0%} of the mean's "
            f"{kl[0]:.3g}"
        )

    def full(means: Array) -> Array:
        x, y = _curves(means)
        target = np.asarray(np.log(FULL * (np.exp(y[..., 0]) - _FLOOR) + _FLOOR))
        return _line(target, (y[..., 1], x[..., 1]), (y[..., 2], x[..., 2]))

    columns = _columns(totals, [reference[0], *reference[reached[0] - 1 : reached[0] + 1]])
    return Number.of(bootstrap.of_function(columns, full))


def _line(at: Array, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
    """The height at `at` of the line through two points (x, y)."""
    (x0, y0), (x1, y1) = first, second
    return np.asarray(y0 + (at - x0) / (x1 - x0) * (y1 - y0))
