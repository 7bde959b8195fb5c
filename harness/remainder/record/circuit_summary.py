"""Metrics of circuits: answers, faithfulness over sizes, and the areas that MIB reports.

Rows of the table belong to a background and a circuit: `raw@0.01` is the background `raw` with the circuit
that keeps 1 % of all edges, the best by size of their scores; `raw@+0.01` the best with their sign, where
that is another one; `raw@0` the empty circuit; `raw` alone the circuit that the headline numbers are of. Of
circuits of features, `raw@>0.01` has all nodes whose score is beyond 0.01 nats, and `raw@~>0.01` all others,
its complement. `random@0.01` is no background: it is the lower median, by KL, of random circuits of equal
size, with the background `raw`.

1. f_k = (m(C_k) − m(∅)) / (m(M) − m(∅)), m the mean answer, ∅ the empty circuit with the same background.
2. CPR = ∫ f_k dk over circuits chosen with the sign, CMD = ∫ |1 − f_k| dk over those chosen by size;
   trapezoids in k from the smallest to the largest size, as MIB takes them. CMD is no ratio of sums but a
   function of such (`Bootstrap.of_function`). Thresholds are not sizes, so there is no area over them.
3. Completeness = (m(M∖C) − m(∅)) / (m(M) − m(∅)), M∖C the complement (Marks et al., 2024).
4. efficiency = log[(KL_random + 10⁻⁶)/(KL + 10⁻⁶)] with the background `raw`, paired by prompt: by how much
   better a circuit is than chance. Where both lose nothing, it is 0.
5. Telescope: gap(full) = [full − permuted] + [permuted − counterfactual] + [counterfactual − clean].

Source: Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025; protocol 1, section 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.metrics import CircuitMetrics, CircuitPoint, CircuitRung, CircuitTelescope
from remainder.record.number import Number
from remainder.record.values import Totals, column, gap, pooled

__all__ = [
    "AGAINST_RANDOM",
    "AT",
    "BEYOND",
    "COMPLEMENT",
    "EMPTY",
    "HEADLINE",
    "RANDOM",
    "circuit_metrics",
    "rung_at",
    "rung_of_random",
]

AT = "@"
"""Separates background and circuit in the name of a rung."""
EMPTY = "0"
"""The size of the empty circuit."""
HEADLINE = "headline"
"""The point whose rungs carry no size."""
BEYOND = ">"
"""Marks a threshold that stands for the size."""
COMPLEMENT = "~"
"""Marks the complement: everything that the circuit of that size does not keep."""
AGAINST_RANDOM = "raw"
"""The background with which a circuit is held against random ones."""
RANDOM = "random"
"""The beginning of the name of their rung."""
_ROUNDING = 1e-5
"""Relative difference that two float32 passes of one and the same prediction may have."""
_FLOOR = 1e-6
"""Nats that are added to KL under a logarithm: far below what any task tells apart."""


def rung_at(background: str, size: str) -> str:
    """The rung of a background with the circuit of a size."""
    return background if size == HEADLINE else f"{background}{AT}{size}"


def rung_of_random(size: str) -> str:
    """The rung of random circuits as large as the one of a size."""
    return f"{RANDOM}{AT}{size}"


def circuit_metrics(bootstrap: Bootstrap, totals: Totals) -> CircuitMetrics | None:
    """All of them; None if the table has no answers."""
    if "answer" not in totals["clean"].columns:
        return None
    named = {rung for rung in totals if rung != "clean"}
    sizes: dict[str, list[str]] = {}
    for rung in sorted(named):
        background, _, size = rung.partition(AT)
        if background == RANDOM:
            continue
        sizes.setdefault(size or HEADLINE, []).append(background)
    points = {
        size: _point(bootstrap, totals, size, found)
        for size, found in sizes.items()
        if not size.startswith(COMPLEMENT)
    }
    cpr, cmd = {}, {}
    for background in sizes.get(EMPTY, []):
        places = [
            size
            for size, found in sizes.items()
            if size not in (HEADLINE, EMPTY)
            and not size.startswith((BEYOND, COMPLEMENT))
            and background in found
        ]
        absolute = {float(size): size for size in places if not size.startswith("+")}
        if len(absolute) < 2:
            continue
        cmd[background] = _area(bootstrap, totals, background, absolute, distance=True)
        # Circuits chosen by sign are other ones at some sizes: CPR needs the background at all of these.
        others = {float(size): size for size in sizes if size.startswith("+")}
        if all(background in sizes[size] for size in others.values()):
            cpr[background] = _area(bootstrap, totals, background, absolute | others, distance=False)
    return CircuitMetrics(
        answer=Number.of_ratio(bootstrap, pooled(totals, "clean", "answer")),
        points=points,
        cpr=cpr,
        cmd=cmd,
    )


def _point(bootstrap: Bootstrap, totals: Totals, size: str, backgrounds: list[str]) -> CircuitPoint:
    def less(second: str, first: str) -> Number:
        return Number.of_ratio(bootstrap, gap(totals, second, first))

    rungs = {}
    for background in backgrounds:
        rung = rung_at(background, size)
        rest = f"{background}{AT}{COMPLEMENT}{size}"
        rungs[background] = CircuitRung(
            answer=Number.of_ratio(bootstrap, pooled(totals, rung, "answer")),
            faithfulness=_faithfulness(bootstrap, totals, background, rung),
            completeness=_faithfulness(bootstrap, totals, background, rest) if rest in totals else None,
            gap=less(rung, "clean"),
            kl=Number.of_ratio(bootstrap, pooled(totals, rung, "kl")),
        )
    needed = [rung_at(name, size) for name in ("full", "permuted", "counterfactual")]
    telescope = None
    if all(rung in totals for rung in needed):
        full, permuted, counterfactual = needed
        telescope = CircuitTelescope(
            total=less(full, "clean"),
            shape=less(full, permuted),
            dependence=less(permuted, counterfactual),
            rest=less(counterfactual, "clean"),
        )
    efficiency = _efficiency(bootstrap, totals, size) if rung_of_random(size) in totals else None
    return CircuitPoint(rungs=rungs, telescope=telescope, efficiency=efficiency)


def _efficiency(bootstrap: Bootstrap, totals: Totals, size: str) -> Number:
    """Log ratio of the KL of random circuits to that of the one of a size; what rounding parts is equal.

    An interval that no prompts could give, were KL 0 on one side and the largest seen on the other, is none.
    """
    tokens, own = column(totals["clean"], "tokens"), column(totals[rung_at(AGAINST_RANDOM, size)], "kl")
    chance = column(totals[rung_of_random(size)], "kl")
    chance = np.where(np.isclose(chance, own, rtol=_ROUNDING, atol=_FLOOR * _ROUNDING), own, chance)

    def log_ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
        kl = np.maximum(means[..., :2] / means[..., 2:], 0.0) + _FLOOR
        return np.asarray(np.log(kl[..., 0] / kl[..., 1]))

    found = bootstrap.of_function(np.stack([chance, own, tokens], axis=-1), log_ratio)
    most, least = (np.log1p(float((part / tokens).max()) / _FLOOR) for part in (chance, own))
    if found.low is not None and found.high is not None and not -least <= found.low <= found.high <= most:
        return Number(value=found.value, low=None, high=None, reason="too few prompts carry its KL")
    return Number.of(found)


def _span(totals: Totals, background: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    """Answers of the empty circuit, and what the whole model adds to them, by document."""
    empty = rung_at(background, EMPTY)
    if empty not in totals:
        return "the empty circuit was not measured with this background"
    floor = column(totals[empty], "answer")
    return floor, column(totals["clean"], "answer") - floor


def _faithfulness(bootstrap: Bootstrap, totals: Totals, background: str, rung: str) -> Number:
    span = _span(totals, background)
    if isinstance(span, str):
        return Number.null(span)
    floor, whole = span
    return Number.of_ratio(bootstrap, Ratio(column(totals[rung], "answer") - floor, whole, guarded=True))


def _area(
    bootstrap: Bootstrap, totals: Totals, background: str, sizes: Mapping[float, str], *, distance: bool
) -> Number:
    """The area under f, or under its distance from 1, by trapezoids over sizes."""
    span = _span(totals, background)
    assert not isinstance(span, str)
    floor, whole = span
    places = np.array(sorted(sizes))
    steps = np.diff(places)
    weights = np.zeros(len(places))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    parts = np.stack(
        [column(totals[rung_at(background, sizes[place])], "answer") - floor for place in places.tolist()],
        axis=1,
    )
    if not distance:
        return Number.of_ratio(bootstrap, Ratio(parts @ weights, whole, guarded=True))
    if (refusal := bootstrap.refusal(Ratio(whole, whole, guarded=True))) is not None:
        return Number.null(refusal)

    def away(means: NDArray[np.float64]) -> NDArray[np.float64]:
        area: NDArray[np.float64] = np.abs(1 - means[..., 1:] / means[..., :1]) @ weights
        return area

    return Number.of(bootstrap.of_function(np.column_stack([whole, parts]), away, "positive"))
