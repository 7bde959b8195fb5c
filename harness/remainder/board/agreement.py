"""Whether two records of the same content say the same: one submission, one task, one tier and dtype.

Noise is keyed, so a second measurement must give the same numbers but for rounding. Compared are those that
do not depend on how much else was measured: losses and KL of every rung that both have, what is
reconstructed, and the cost where both counted it. Rungs with noise are compared if both took as many draws.
"""

from __future__ import annotations

from collections.abc import Iterator

from remainder.board.tolerance import Tolerance, tolerance_of
from remainder.record.number import Number
from remainder.record.rungs import NULLS, RUNGS, draws_of
from remainder.record.schema import Record

__all__ = ["content_of", "disagreements"]

_STILL = frozenset(name for name, rung in RUNGS.items() if rung.noise == "none")


def content_of(record: Record) -> tuple[str, str, str]:
    """The identity of what a record measures: hashes of task, submission and finer submission."""
    finer = "" if record.reference is None else record.reference.hash
    return record.task.hash, record.submission.hash, finer


def disagreements(first: Record, second: Record) -> Iterator[str]:
    """Numbers that differ by more than rounding allows, each with both values."""
    same_device = first.measurement.device == second.measurement.device
    tolerance = tolerance_of(first, same_device=same_device)
    mine, theirs = _numbers(first), _numbers(second)
    # Beside exact codes alone, noise has their residual; else that of quantised codes.
    apart = NULLS.keys() if first.is_bare != second.is_bare else ()
    for place in sorted(mine.keys() & theirs.keys()):
        part, _, rest = place.partition(".")
        rung = rest.partition(".")[0]
        if part == "rungs" and rung in apart:
            continue
        drawn = part == "circuit" or (part == "rungs" and rung not in _STILL)
        as_many = not drawn or _draws(first, rung) == _draws(second, rung)
        (one, allowed), (other, _) = mine[place], theirs[place]
        if as_many and not _agree(one, other, allowed, tolerance):
            yield f"{place}: {_said(one)} here, {_said(other)} in another record of the same content"


def _draws(record: Record, rung: str) -> int:
    """Number of draws of a noisy rung; some have more in the company of others (of circuits none)."""
    stated = record.measurement
    rungs = () if record.is_of_circuits else stated.rungs
    return draws_of(rung, rungs, stated.pairs, stated.annealed_draws // 2, whole=stated.whole)


def _numbers(record: Record) -> dict[str, tuple[Number, float | None]]:
    """Numbers by place, each with the KL that its deviation may be a share of; None: a share of itself."""
    metrics, cost = record.metrics, record.complexity
    found: dict[str, tuple[Number, float | None]] = {
        "clean.loss": (metrics.clean.loss, 0.0),
        "reconstruction.explained_variance": (metrics.reconstruction.explained_variance, None),
        "complexity.l0": (cost.l0, None),
    }
    counted = {"bits_per_token": cost.bits_per_token, "live_features": cost.live_features}
    for name, number in counted.items():
        # One that did not ask for it says nothing about it; whatever it states all the same is compared.
        if not record.is_bare or number.value is not None:
            found[f"complexity.{name}"] = number, None
    for name, rung in metrics.rungs.items():
        kl = rung.quenched.kl.value or 0.0
        found[f"rungs.{name}.loss"] = rung.quenched.loss, kl
        found[f"rungs.{name}.kl"] = rung.quenched.kl, kl
    for size, point in record.circuits.points.items():
        for name, of_circuit in point.rungs.items():
            found[f"circuit.{size}.{name}.kl"] = of_circuit.kl, of_circuit.kl.value or 0.0
    return found


def _agree(one: Number, other: Number, kl: float | None, tolerance: Tolerance) -> bool:
    if one.value is None or other.value is None:
        return one.value is other.value
    if kl is None:
        allowed = tolerance.relative * max(abs(one.value), abs(other.value))
    else:
        allowed = tolerance.mean + tolerance.relative * abs(kl)
    # Six digits are kept.
    return abs(one.value - other.value) <= allowed + 1e-5 * abs(one.value)


def _said(number: Number) -> str:
    return f"none ({number.reason})" if number.value is None else f"{number.value:g}"
