"""Deviations between two measurements of the same thing that are rounding, and nothing wrong.

Noise is keyed by document, so two measurements differ only by the order in which sums are taken: by batch
size, by the number of threads, by the machine. What that moves depends on the dtype of the suffix alone. A
tolerance that is larger than what is measured buys places, so it has two parts, and both are bounded:

1. A share of the recorded KL (`relative`): what moves much, rounds much.
2. A constant (`row`, `mean`), but no more than `SHARE` of the smallest KL that a place of the record can
   depend on, and no less than `FLOOR`, below which a KL is rounding itself. That is the KL of `raw` or of a
   point of the curve: codes that were rounded can do better than exact ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from remainder.record.schema import Record

__all__ = ["FLOOR", "SHARE", "TOLERANCES", "Tolerance", "tolerance_of"]

SHARE = 0.005
"""Largest constant tolerance of a mean, as a share of the smallest KL that a place can depend on."""

FLOOR = 1e-6
"""Smallest constant tolerance of a mean, nats per scored token: float32 repeats to 2e-7 on one machine."""

_ROWS = 5  # how much farther one window may deviate than the mean of all


class Tolerance(NamedTuple):
    """Deviations from recorded numbers that are allowed."""

    row: float
    """Loss and KL of one row of values (a window, a rung, a draw), nats per scored token."""
    mean: float
    """Signed, mean over all rows of a rung that were measured again; nats per scored token."""
    relative: float
    """Share of the recorded KL that is allowed on top of `row` and `mean`."""
    answers: float
    """Share of the scored tokens whose most likely class may change, and one token more."""
    share: float
    """Relative deviation of sums of squares, active features and figures of the fit."""
    bins: float
    """Mean move of a token's KL in bins of its histogram, 20 a decade."""
    floor: int
    """The bin below which KL is rounding."""
    turned: float = 1.0
    """How many times as far one of all windows may deviate, one of whose codes may have turned."""


TOLERANCES: Mapping[tuple[str, bool], Tolerance] = {
    # By the dtype of the suffix, and whether both were made on one kind of device. bfloat16 rounds to eight
    # bits in an order that depends on the batch, which moves rows by up to 0.013.
    ("float32", True): Tolerance(2e-5, 1e-5, 1e-3, 0.005, 5e-4, 0.5, -100),
    ("float32", False): Tolerance(1e-3, 2e-4, 5e-3, 0.02, 5e-3, 1.0, -60),
    ("bfloat16", True): Tolerance(0.05, 0.015, 0.02, 0.1, 1e-3, 4.0, -40),
    ("bfloat16", False): Tolerance(0.05, 0.015, 0.02, 0.1, 5e-3, 4.0, -40),
}


_CODED = Tolerance(1e-4, 2e-5, 5e-3, 0.02, 0.02, 1.0, -100, turned=10.0)
"""The least for records whose codes are rounded to steps: one that lies between two is rounded otherwise
where the order of sums is another, and the fit and every rung of its token move with it. In float32 on one
machine this moved the fit of 336 tokens by 0.7 %, and a row by 0.1 % of its KL; of 197 records that were
measured again, four documents each, it moved one window of one by 0.075 nats in 126 tokens."""


def tolerance_of(record: Record, *, same_device: bool) -> Tolerance:
    """The tolerance for another measurement of a record, its constants bounded by the record's own KL.

    Args:
        same_device: whether both were made on one kind of device.
    """
    base = TOLERANCES[record.measurement.dtype, same_device]
    if "coded" in record.metrics.rungs:
        base = Tolerance._make(max(one, other) for one, other in zip(base, _CODED, strict=True))
    kl = _smallest_kl(record)
    if kl is None:
        return base
    most = max(SHARE * kl, FLOOR)
    return base._replace(row=min(base.row, _ROWS * most), mean=min(base.mean, most))


def _smallest_kl(record: Record) -> float | None:
    """The smallest KL that a place can depend on: of `raw`, points of the curve, circuits; nats per token."""
    raw, coding = record.metrics.rungs.get("raw"), record.metrics.coding
    found = [] if raw is None else [raw.quenched.kl.value]
    found += [] if coding is None else [point.kl.value for point in coding.points.values()]
    found += [
        point.rungs["raw"].kl.value for point in record.circuits.points.values() if "raw" in point.rungs
    ]
    return min((kl for kl in found if kl is not None), default=None)
