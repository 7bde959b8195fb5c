"""Sections on a record of circuits: the behaviour, every size, areas, and where the Gaussian gap comes from.

Needs no torch.

Source: protocol 1, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from remainder.record.circuit_summary import HEADLINE
from remainder.record.metrics import CircuitPoint
from remainder.record.number import Number
from remainder.record.rungs import CIRCUIT_RUNGS
from remainder.record.schema import Record
from remainder.report.quantities import by_background, number_of
from remainder.report.text import MISSING, Notes, format_interval, format_value, half_width, in_words

__all__ = ["Section", "circuit_sections"]

_SHOWN = (("counterfactual", "faithfulness"), ("raw", "gap"), ("full", "gap"))

Line = str | tuple[str, ...]


class Section(NamedTuple):
    """A heading and the lines below it: sentences, and rows of cells that are aligned."""

    heading: str
    body: Sequence[Line]


def circuit_sections(record: Record, notes: Notes) -> Iterator[Section]:
    """The sections in their order; what a record does not hold is left out."""
    circuit = record.circuits
    yield Section("The behaviour", [_behaviour(record)])
    sizes = [size for size in circuit.points if size != HEADLINE]
    if record.keeps_nodes:
        yield Section(
            "Circuits by threshold of scores, nats (f and completeness: mean background)",
            list(_thresholds(record, notes)),
        )
    elif len(sizes) > 1:
        yield Section(
            "Circuits by size (+: signed scores; f: counterfactual; efficiency: over chance)",
            list(_sizes(record, notes)),
        )
        rows: list[Line] = [("", "CPR", "CMD")]
        for background in sorted(circuit.cmd):
            cpr = circuit.cpr.get(background)
            rows.append(
                (background, MISSING if cpr is None else notes.cell(cpr), notes.cell(circuit.cmd[background]))
            )
        yield Section("Areas under f (CPR) and |1 − f| (CMD; 0 is best) over sizes, by background", rows)
    yield from _backgrounds(record, notes)
    yield from _telescope(circuit.points[HEADLINE])
    fitted = notes.cell(record.metrics.gaussian_ratio.fitted)
    yield Section("ρ: KL of raw over KL of noise around the clean values", [("fitted", fitted)])
    fit = record.calibration
    rank = "" if fit.rank is None else f"; rank {fit.rank:,} in each template"
    yield Section(
        "What backgrounds were fitted on", [f"{fit.documents:,} prompts, position by position{rank}."]
    )


def _behaviour(record: Record) -> str:
    tried = record.measurement.behaviour
    shown = in_words(record.circuits.answer)
    answer = f"Mean answer (log-odds of right against wrong) of the clean model: {shown} nats."
    if tried is None:
        return answer
    share = tried.solved / tried.candidates
    return (
        f"The model solves {tried.solved:,} of {tried.candidates:,} prompts that it was tried on "
        f"({100 * share:.0f} %), with a mean answer of {format_value(tried.answer)} nats; only prompts that "
        f"it solves are used. {answer}"
    )


def _sizes(record: Record, notes: Notes) -> Iterator[Line]:
    circuit, costs = record.circuits, record.circuit_sizes
    yield ("size", "edges", "f", "Δ raw", "Δ Gaussian", "efficiency")
    for size in sorted((size for size in circuit.points if size != HEADLINE), key=_order):
        rungs, cost = circuit.points[size].rungs, costs[size]
        cells = []
        for background, name in _SHOWN:
            rung = rungs.get(background)
            cells.append("" if rung is None else _short(getattr(rung, name), notes))
        yield (size, f"{cost.edges:,}", *cells, _efficiency(circuit.points[size], notes))


def _thresholds(record: Record, notes: Notes) -> Iterator[Line]:
    """Circuits of features; completeness has the mean background, as the first of both gaps has."""
    circuit, costs = record.circuits, record.circuit_sizes
    yield ("beyond", "nodes", "errors", "f", "complete", "Δ raw", "Δ Gaussian", "efficiency")
    for size in sorted(circuit.points, key=lambda size: (-costs[size].nodes, size != HEADLINE)):
        rungs, cost = circuit.points[size].rungs, costs[size]
        raw, full = rungs["raw"], rungs.get("full")
        numbers = (raw.faithfulness, raw.completeness, raw.gap, None if full is None else full.gap)
        yield (
            "none" if size == "0" else size.removeprefix(">"),
            f"{cost.nodes:,}",
            f"{cost.errors:,}",
            *("" if number is None else notes.value(number).plain for number in numbers),
            _efficiency(circuit.points[size], notes),
        )


def _backgrounds(record: Record, notes: Notes) -> Iterator[Section]:
    """Faithfulness by what removed edges carry: how far one number of it depends on that choice."""
    found = by_background(record)
    if not found:
        return
    rows: list[Line] = [
        (name, notes.cell(number), CIRCUIT_RUNGS[name].partition(";")[0]) for name, number in found.items()
    ]
    rows.append(("range", notes.value(number_of(record, "faithfulness_range")).plain, "largest − smallest"))
    others = [name for name in CIRCUIT_RUNGS if name not in found]
    missing = [f"Not measured: {', '.join(others)}."] if others else []
    yield Section("f of the headline circuit by background: what removed edges carry", [*rows, *missing])


def _efficiency(point: CircuitPoint, notes: Notes) -> str:
    """The value alone: log KL of the median random circuit of equal size, less log KL, mean background."""
    return "" if point.efficiency is None else notes.value(point.efficiency).plain


def _short(number: Number, notes: Notes) -> str:
    """Value and interval in as few columns as may be."""
    interval = format_interval(number, short=True)
    if number.value is None or interval is None:
        return notes.cell(number)
    return f"{format_value(number.value, half_width(number))} {interval}"


def _order(size: str) -> tuple[float, bool]:
    return float(size), size.startswith("+")


def _telescope(point: CircuitPoint) -> Iterator[Section]:
    terms = point.telescope
    if terms is None:
        return
    rows = [
        ("Gaussian gap", in_words(terms.total), "full − clean"),
        ("= shape", in_words(terms.shape), "full − permuted"),
        ("+ dependence on the prompt", in_words(terms.dependence), "permuted − counterfactual"),
        ("+ what matters", in_words(terms.rest), "counterfactual − clean"),
    ]
    yield Section("Where the Gaussian gap comes from (nats per scored token)", rows)
