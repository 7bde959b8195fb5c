"""Quantities made of several rungs: orders, the bath, and the Gaussian ratio taken apart.

Each is one line of a table: where a record states it, and of which sums over documents it is a ratio. The
second is written apart from the code that makes the number, and gives the standard error; where the two give
different values, `Measurements.read` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from remainder.record.metrics import Metrics
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES, BATH

__all__ = ["COMBINED", "Combined", "Terms"]

Terms = Mapping[tuple[str, str], float]
"""Factors of sums over a document, averaged over draws, by rung and column of the table of values."""

TOKENS: Terms = {("clean", "tokens"): 1.0}


class Combined(NamedTuple):
    """A quantity of a record: `numerator` over `denominator`, both summed over documents."""

    place: str
    """Fields of `Metrics`, keys of tables and numbers of places in tuples, with dots between them."""
    numerator: Terms
    denominator: Terms = TOKENS
    together: tuple[str, ...] = ()
    """Rungs of which only the draws that all have are used."""
    beside: tuple[str, ...] = ()
    """Rungs without which the record does not state it."""

    @property
    def rungs(self) -> tuple[str, ...]:
        """All rungs that it takes."""
        own = dict.fromkeys(rung for rung, _ in (*self.numerator, *self.denominator) if rung != "clean")
        return tuple(dict.fromkeys((*own, *self.together, *self.beside)))

    def number(self, metrics: Metrics) -> Number | None:
        """The number of a record; None where it has no such part."""
        found: Any = metrics
        for name in self.place.split("."):
            if found is None:
                return None
            if isinstance(found, dict):
                found = found.get(name)
            else:
                found = found[int(name)] if name.isdecimal() else getattr(found, name)
        assert found is None or isinstance(found, Number)
        return found


def _plus(*terms: Terms, factors: tuple[float, ...] = (1.0, 1.0)) -> Terms:
    total: dict[tuple[str, str], float] = {}
    for one, factor in zip(terms, factors, strict=True):
        for key, value in one.items():
            total[key] = total.get(key, 0.0) + factor * value
    return total


def _above(rung: str, column: str) -> Terms:
    return {(rung, "kl"): 1.0} if column == "kl" else {(rung, "loss"): 1.0, ("clean", "loss"): -1.0}


def _orders(column: str) -> dict[str, Combined]:
    """Orders of the loss above the clean one, or of the KL; a₂ and a₄ by elimination."""
    zero, small, large, sampled = (_above(rung, column) for rung in ("mean", "full-0.3", "full-0.6", "full"))
    first, second = (_plus(one, zero, factors=(1.0, -1.0)) for one in (small, large))
    a4 = _plus(second, first, factors=(1 / 0.36 / 0.27, -1 / 0.09 / 0.27))
    a2 = _plus(first, a4, factors=(1 / 0.09, -0.09))
    one = _plus(zero, a2)
    two = _plus(one, a4)
    missing = _plus(sampled, one, factors=(1.0, -1.0))
    terms = {
        "zero": zero,
        "one": one,
        "two": two,
        "sampled": sampled,
        "a2": a2,
        "a4": a4,
        "remainder": _plus(two, sampled, factors=(1.0, -1.0)),
        "missing": missing,
    }
    suffix = "" if column == "loss" else f" {column}"
    place, together = f"orders.{column}.", tuple(AMPLITUDES)
    found = {f"{name}{suffix}": Combined(place + name, own, TOKENS, together) for name, own in terms.items()}
    ratio = Combined(f"{place}perturbativity", missing, a2, together)
    return {**found, f"perturbativity{suffix}": ratio}


def _ratio(place: str, above: Mapping[str, float], below: str, beside: tuple[str, ...] = ()) -> Combined:
    """A ratio of KLs."""
    numerator = {(rung, "kl"): factor for rung, factor in above.items()}
    return Combined(place, numerator, {(below, "kl"): 1.0}, beside=beside)


_FULL, _MEAN, _NOISE = ("full", "kl"), ("mean", "kl"), ("noise-centred", "kl")
_AMPLITUDES = tuple(AMPLITUDES)

COMBINED: dict[str, Combined] = {
    **_orders("loss"),
    **_orders("kl"),
    "interaction": Combined(
        "orders.interaction",
        {_FULL: 1.0, _MEAN: -1.0, _NOISE: -1.0},
        {_NOISE: 1.0},
        (*AMPLITUDES, "noise-centred"),
    ),
    **{
        f"bath {AMPLITUDES[rung]:g}": Combined(
            f"bath.{number}.difference",
            {(rung, "annealed"): 1.0, ("mean", "loss"): -1.0},
            beside=_AMPLITUDES,
        )
        for number, rung in enumerate(BATH)
    },
    "rho": _ratio("gaussian_ratio.fitted", {"raw": 1.0}, "noise-fitted"),
    "rho directional": _ratio("gaussian_ratio.directional", {"raw": 1.0}, "noise-directional"),
    "rho isotropic": _ratio("gaussian_ratio.isotropic", {"raw": 1.0}, "noise-isotropic"),
    "rho even": _ratio("ratio_parts.even", {"raw": 0.5, "mirror": 0.5}, "noise-fitted"),
    "rho odd": _ratio("ratio_parts.odd", {"raw": 0.5, "mirror": -0.5}, "noise-fitted"),
    "rho small": _ratio("ratio_parts.small", {"residual-0.3": 0.5, "mirror-0.3": 0.5}, "noise-0.3"),
    "net bits": Combined(
        "description.net",
        {("raw", "x_bits"): 1.0, ("raw", "code_bits"): -1.0, ("raw", "remainder_bits"): -1.0},
        {("raw", "spliced"): 1.0},
        beside=("renormalised-mean",),  # with conditional rungs codes are described
    ),
    "code bits": Combined(
        "description.code",
        {("raw", "code_bits"): 1.0},
        {("raw", "spliced"): 1.0},
        beside=("renormalised-mean",),
    ),
    **{
        f"rho {rung}": _ratio(f"ratio_parts.others.{rung}", {"raw": 1.0}, rung)
        for rung in ("noise-run", "cov-random", "real-mixture", "activation-difference")
    },
}
"""All of them, by the name that a control gives."""
