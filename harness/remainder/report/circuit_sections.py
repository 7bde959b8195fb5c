"""What a record of circuits says: the behaviour, every size, areas, and where the Gaussian gap comes from.

Needs no torch.

Source: protocol 1, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from remainder.record.metrics import CircuitMetrics, CircuitPoint
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.tables import MISSING, Notes, format_interval, format_value

__all__ = ["circuit_sections", "half_width"]

_HEADLINE = "headline"
_SHOWN = (("counterfactual", "faithfulness"), ("raw", "gap"), ("full", "gap"))

Line = str | tuple[str, ...]


class CircuitSection(NamedTuple):
    """A heading, and what stands below it."""

    heading: str
    body: Sequence[Line]


def circuit_sections(record: Record, notes: Notes) -> Iterator[CircuitSection]:
    """The sections in their order; what a record does not hold is left out."""
    circuit = record.metrics.circuit
    assert circuit is not None
    yield CircuitSection("The behaviour", [_behaviour(record, circuit)])
    sizes = [size for size in circuit.points if size != _HEADLINE]
    if record.complexity.circuits is not None and record.complexity.circuits[_HEADLINE].edges is None:
        yield CircuitSection(
            "Circuits by threshold of scores, nats (f and completeness: mean background)",
            list(_thresholds(record, notes)),
        )
    elif len(sizes) > 1:
        yield CircuitSection(
            "Circuits by size (+: edges by signed scores; f: counterfactual background)",
            list(_sizes(record, notes)),
        )
        rows: list[Line] = [("", "CPR", "CMD")]
        for background in sorted(circuit.cmd):
            cpr = circuit.cpr.get(background)
            rows.append(
                (background, MISSING if cpr is None else notes.cell(cpr), notes.cell(circuit.cmd[background]))
            )
        yield CircuitSection(
            "Areas under f (CPR) and |1 − f| (CMD; 0 is best) over sizes, by background", rows
        )
    yield from _telescope(circuit.points[_HEADLINE])
    fitted = notes.cell(record.metrics.gaussian_ratio.fitted)
    yield CircuitSection("ρ: KL of raw over KL of noise around the clean values", [("fitted", fitted)])
    fit = record.calibration
    rank = "" if fit.rank is None else f"; rank {fit.rank:,} in each template"
    yield CircuitSection(
        "What backgrounds were fitted on", [f"{fit.documents:,} prompts, position by position{rank}."]
    )


def _behaviour(record: Record, circuit: CircuitMetrics) -> str:
    tried = record.measurement.behaviour
    shown = _cell(circuit.answer)
    said = f"Mean answer (log-odds of right against wrong) of the clean model: {shown} nats."
    if tried is None:
        return said
    share = tried.solved / tried.candidates
    return (
        f"The model solves {tried.solved:,} of {tried.candidates:,} prompts that it was tried on "
        f"({100 * share:.0f} %), with a mean answer of {format_value(tried.answer)} nats; only prompts that "
        f"it solves are used. {said}"
    )


def _sizes(record: Record, notes: Notes) -> Iterator[Line]:
    circuit, costs = record.metrics.circuit, record.complexity.circuits
    assert circuit is not None
    assert costs is not None
    yield ("size", "edges", "bits", "f", "Δ raw", "Δ Gaussian")
    for size in sorted((size for size in circuit.points if size != _HEADLINE), key=_order):
        rungs, cost = circuit.points[size].rungs, costs[size]
        cells = []
        for background, name in _SHOWN:
            rung = rungs.get(background)
            cells.append("" if rung is None else _short(getattr(rung, name), notes))
        yield (size, f"{cost.edges:,}", f"{cost.bits:,.0f}", *cells)


def _thresholds(record: Record, notes: Notes) -> Iterator[Line]:
    """Of features; completeness is of the mean background, as the first of both gaps is."""
    circuit, costs = record.metrics.circuit, record.complexity.circuits
    assert circuit is not None
    assert costs is not None
    yield ("beyond", "nodes", "errors", "bits", "f", "complete", "Δ raw", "Δ Gaussian")
    for size in sorted(circuit.points, key=lambda size: (-costs[size].nodes, size != _HEADLINE)):
        rungs, cost = circuit.points[size].rungs, costs[size]
        raw, full = rungs["raw"], rungs.get("full")
        numbers = (raw.faithfulness, raw.completeness, raw.gap, None if full is None else full.gap)
        yield (
            "none" if size == "0" else size.removeprefix(">"),
            f"{cost.nodes:,}",
            f"{cost.errors:,}",
            f"{cost.bits:,.0f}",
            *("" if number is None else _bare(number, notes) for number in numbers),
        )


def _bare(number: Number, notes: Notes) -> str:
    """A value to the digits that its interval leaves, without the interval."""
    return (
        notes.cell(number) if number.value is None else format_value(number.value, half_width(number) or 0.0)
    )


def _short(number: Number, notes: Notes) -> str:
    """Value and interval in as few columns as may be."""
    interval = format_interval(number, short=True)
    if number.value is None or interval is None:
        return notes.cell(number)
    return f"{format_value(number.value, (half_width(number) or 0.0))} {interval}"


def half_width(number: Number) -> float | None:
    """Half the width of the interval; None without one."""
    return None if number.low is None or number.high is None else (number.high - number.low) / 2


def _order(size: str) -> tuple[float, bool]:
    return float(size), size.startswith("+")


def _telescope(point: CircuitPoint) -> Iterator[CircuitSection]:
    terms = point.telescope
    if terms is None:
        return
    rows: list[Line] = []
    for name, number, what in (
        ("Gaussian gap", terms.total, "full − clean"),
        ("= shape", terms.shape, "full − permuted"),
        ("+ dependence on the prompt", terms.dependence, "permuted − counterfactual"),
        ("+ what matters", terms.rest, "counterfactual − clean"),
    ):
        rows.append((name, _cell(number), what))
    yield CircuitSection("Where the Gaussian gap comes from (nats per scored token)", rows)


def _cell(number: Number) -> str:
    if number.value is None:
        return MISSING
    interval = format_interval(number)
    return format_value(number.value, half_width(number) or 0.0) + (f" {interval}" if interval else "")
