"""Whether codes that are paid for agree with their own record: steps, bits, squares and the reference.

1. What is stated of the steps: points of the curve in their order, each coarser than the one before.
2. The values: columns of bits where there is coding, a rung for every point, bits and squared residual of a
   rung those of its step, window by window.
3. The reference: all of its rungs or none; no bits for the mean, and more bits for finer steps.

Every function yields faults: what was found, what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from remainder.record.rungs import CODED, CURVE, REFERENCE_MEAN, STEPS, reference_rung, reference_step
from remainder.record.schema import CodingInfo, Record
from remainder.record.values import STEP_BITS, STEP_SQUARES, of_split

__all__ = ["check_coding"]

_DIGITS = 1e-6  # what nine digits and sums in another order may move, relative
_ARITHMETIC = 1e-3  # of squares, between the arithmetic of an affine decoder and `decode` itself
_FLOAT = 1e-6  # of the activation's squares, which float32 rounds
_DECODED = ("decoded_calibration", "decoded_evaluation")


def check_coding(record: Record, values: pd.DataFrame) -> Iterator[str]:
    """Everything about codes that are paid for that the record contradicts."""
    coding, place = record.complexity.coding, "complexity.coding"
    if (STEP_BITS[0] in values) != (coding is not None):
        yield f"{place}: {_is(coding is not None)} there, the columns of bits {_is(coding is None)}"
        return
    if coding is None:
        if record.submission.kind == "reconstruction" and record.complexity.bits_per_token.value is not None:
            yield "complexity.bits_per_token: has a value, and no codes are paid for"
        return
    faults = [*_steps(record, coding)]
    yield from faults
    if not faults:
        rows = of_split(values)
        yield from _numbers(rows)
        yield from _curve(record, coding, rows)
        yield from _reference(record, coding, rows)


def _steps(record: Record, coding: CodingInfo) -> Iterator[str]:
    """Faults of the stated steps."""
    place, steps = "complexity.coding", list(coding.steps.values())
    expected = list(CURVE)[: len(steps)]
    if not steps or set(coding.steps) != set(expected) or set(coding.added) != set(expected):
        yield f"{place}: points {', '.join(coding.steps)}, with additions {', '.join(coding.added)}"
        return
    ordered = [coding.steps[name] for name in expected]
    if not all(0 <= step < STEPS for step in ordered) or sorted(set(ordered), reverse=True) != ordered:
        yield f"{place}.steps: {ordered}; each is one of {STEPS} and coarser than the one before"
    if not coding.rms >= 0:
        yield f"{place}.rms: {coding.rms:g}"
    features, live = record.complexity.features, record.complexity.live_features.value
    if features is None or not 0 <= coding.silent <= features:
        yield f"{place}.silent: {coding.silent} of {features}"
    elif live is not None and coding.silent < features - live:
        yield f"{place}.silent: {coding.silent}, and {live:g} of {features} were active on calibration"


def _numbers(rows: pd.DataFrame) -> Iterator[str]:
    """Numbers that nothing could have."""
    for name in ("bits", *STEP_BITS, *STEP_SQUARES):
        if (rows[name] < 0).any():
            yield f"values: {name} is negative"


def _curve(record: Record, coding: CodingInfo, rows: pd.DataFrame) -> Iterator[str]:
    """Rungs of the curve, against the steps that they are of."""
    found = set(rows["rung"]) & set(CURVE)
    is_coded = CODED in record.measurement.rungs
    expected = set(coding.steps) if is_coded else set()
    if found != expected:
        yield f"values: points {_listed(found)}, expected {_listed(expected)}"
        return
    # Without anything to fit no residual of the calibration split is made.
    unfitted = {_DECODED[0]} if record.is_unfitted else set()
    if is_coded and (lacking := [name for name in _DECODED if name not in {*record.checks, *unfitted}]):
        yield f"checks.{lacking[0]}: is missing"
    keys = ["document", "window"]
    raw = rows.loc[rows["rung"] == "raw"].set_index(keys).sort_index()
    for rung in sorted(found):
        own = rows.loc[rows["rung"] == rung].set_index(keys).sort_index()
        step = coding.steps[rung]
        bits, squares = raw[STEP_BITS[step]].to_numpy(), raw[STEP_SQUARES[step]].to_numpy()
        if not np.allclose(own["bits"].to_numpy(), bits, rtol=_DIGITS, atol=_DIGITS):
            yield f"values: bits of rung {rung} are not those of step {step}"
        room = _ARITHMETIC * squares + _FLOAT * raw["centred_ss"].to_numpy()
        if (np.abs(own["residual_ss"].to_numpy() - squares) > room).any():
            yield f"values: residual_ss of rung {rung} is not that of step {step}"


def _reference(record: Record, coding: CodingInfo, rows: pd.DataFrame) -> Iterator[str]:
    """Rungs of transform coding."""
    steps = sorted(coding.reference_steps)
    found = {
        rung for rung in rows["rung"].unique() if reference_step(rung) is not None or rung == REFERENCE_MEAN
    }
    expected = {REFERENCE_MEAN, *map(reference_rung, steps)} if steps else set()
    if found != expected:
        yield f"values: reference at {_listed(found)}, complexity.coding gives {_listed(expected)}"
        return
    wanted = CODED in record.measurement.rungs and record.reference is None
    if bool(steps) != (wanted and "reference" not in record.measurement.unmeasured):
        yield f"complexity.coding.reference_steps: {len(steps)}; that it is there {_is(wanted)} expected"
    bits = [float(rows.loc[rows["rung"] == reference_rung(step), "bits"].sum()) for step in steps]
    if steps and (rows.loc[rows["rung"] == REFERENCE_MEAN, "bits"] != 0).any():
        yield f"values: rung {REFERENCE_MEAN} costs bits"
    if sorted(bits) != bits:
        yield "values: a finer step of the reference costs fewer bits"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _is(said: bool) -> str:
    return "is" if said else "is not"
