"""Faithfulness of circuits over backgrounds: how much one number of it hangs on what removed edges carry.

f is (answer − that of the empty circuit)/(answer of the model − that of the empty circuit), each with the
same background. Differences of f between two backgrounds are paired by prompt, from the values of the
records.

Source: protocol 1, section 8; Miller, Chughtai and Saunders (2024) on the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from remainder.record.circuit_summary import EMPTY, HEADLINE, rung_at
from remainder.record.find import fullest_record
from remainder.record.intervals import Bootstrap
from remainder.record.number import Number
from remainder.record.rungs import CIRCUIT_RUNGS
from remainder.record.schema import Record
from remainder.record.store import read_record
from remainder.record.values import canonical_values, column, document_totals
from remainder.report.palette import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from remainder.report.quantities import by_background
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

USUAL, OTHER = "counterfactual", "raw"
"""The background that the literature's f has, and the mean at each position."""
MARKS = {
    "raw": (BLUE, "o"),
    "full": (VERMILION, "D"),
    "permuted": (ORANGE, "s"),
    "counterfactual": (GREEN, "^"),
}
"""Colour and marker of a background; others are grey."""


class Spread(NamedTuple):
    """The faithfulness of a circuit over backgrounds."""

    record: Record
    shares: dict[str, Number]
    """f by background."""
    difference: Number
    """f with the counterfactual less f with the mean, paired by prompt."""

    @property
    def range(self) -> float:
        """The largest less the smallest."""
        values = [number.value for number in self.shares.values() if number.value is not None]
        return max(values) - min(values)


def spreads(results: Path, records: Sequence[Record]) -> list[Spread]:
    """Every circuit of `_spreads`, with paired differences of those of public models."""
    return _spreads(results, records)


def _spreads(results: Path | None, records: Sequence[Record]) -> list[Spread]:
    """Every circuit that was looked for and found something, with f for two backgrounds at least.

    Those that keep nothing or everything are left out, and so are edges chosen at random. Differences are
    computed for public models alone, and where there is a folder of results to read values from.
    """
    found = []
    for record in records:
        chosen = record.is_of_circuits and not words.is_bound(record)
        if not chosen or words.format_of(record) == "random-edges" or not record.circuit_sizes[HEADLINE].kept:
            continue
        shares = by_background(record)
        if len(shares) > 1:
            paired = results is not None and is_public(record) and {USUAL, OTHER} <= shares.keys()
            difference = _difference(results, record) if results and paired else Number.null("not computed")
            found.append(Spread(record, shares, difference))
    return found


def ranges(records: Sequence[Record]) -> list[float]:
    """The range of f over backgrounds of each circuit of a public model, from summaries alone."""
    return [spread.range for spread in _spreads(None, records) if is_public(spread.record)]


def is_public(record: Record) -> bool:
    """Whether it is of a model that others released."""
    return words.suite(record) not in ("tiny", "tracr", "controls")


def _difference(results: Path, record: Record) -> Number:
    """f with one background less f with the other: a smooth function of means over prompts."""
    folder = results / record.task.id / str(record.task.version).partition("-")[0] / record.submission.name
    stored = read_record(fullest_record(folder))
    totals = document_totals(canonical_values(stored.values))
    clean = column(totals["clean"], "answer")
    parts = []
    for background in (USUAL, OTHER):
        floor = column(totals[rung_at(background, EMPTY)], "answer")
        parts += [column(totals[background], "answer") - floor, clean - floor]
    bootstrap = Bootstrap(len(clean), seed=record.measurement.seed)

    def less(means: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = means[..., 0] / means[..., 1] - means[..., 2] / means[..., 3]
        return result

    return Number.of(bootstrap.of_function(np.stack(parts, axis=-1), less))


def not_measured(found: Sequence[Spread]) -> list[str]:
    """Backgrounds that no circuit was measured with."""
    known = {name for spread in found for name in spread.shares}
    return [name for name in CIRCUIT_RUNGS if name not in known]


def said(found: Sequence[Spread]) -> str:
    """The table, and what it says."""
    names = [name for name in CIRCUIT_RUNGS if any(name in spread.shares for spread in found)]
    ordered = sorted(found, key=lambda spread: -spread.range)
    wide = words.jointly([s.record for s in ordered], lambda r: _of(ordered, r).difference)
    number = {record.record_id: found for record, found in wide}
    placed = words.sides(wide)
    public = [spread for spread in ordered if is_public(spread.record)]
    above, below, open_ = (placed.get(side, []) for side in ("above", "below", "open"))
    sentences = [
        f"f has a range over the {len(names)} backgrounds {', '.join(names)} of "
        f"{format_value(float(np.median([s.range for s in public])))} at the median of {len(public)} "
        "circuits of "
        f"public models, and of {format_value(float(np.median([s.range for s in ordered])))} of all "
        f"{len(ordered)}; "
        f"the largest is {format_value(ordered[0].range)} (`{ordered[0].record.submission.name}` at "
        f"{ordered[0].record.task.id}).",
        f"In public models f with the counterfactual prompt is above f with the mean in {len(above)} of "
        f"{len(wide)} "
        f"circuits{words.few(above)}, below it in {len(below)}{words.few(below)}, and not told apart in "
        f"{len(open_)}{words.few(open_)}; intervals are paired by prompt and hold together for all "
        f"{len(wide)}.",
        f"Backgrounds that no record has: {', '.join(f'`{name}`' for name in not_measured(found))}.",
    ]
    notes = Notes()
    cells = [
        [
            spread.record.task.id,
            f"`{spread.record.submission.name}`",
            *(_share(spread, name) for name in names),
            format_value(spread.range),
            in_words(number[spread.record.record_id]) if spread.record.record_id in number else "–",
        ]
        for spread in ordered
        if spread in public
    ]
    headings = ("task", "circuit", *(f"f, {name}" for name in names), "range", f"{USUAL} − {OTHER}, joint")
    table = words.table(headings, cells, notes) if cells else ""
    return str(words.stacked(words.bullets(sentences), table))


def _of(found: Sequence[Spread], record: Record) -> Spread:
    return next(spread for spread in found if spread.record is record)


def _share(spread: Spread, name: str) -> str:
    number = spread.shares.get(name)
    return "–" if number is None or number.value is None else format_value(number.value)


def figure(found: Sequence[Spread]) -> Figure:
    """f of each circuit with each background on one line, the widest range on top."""
    ordered = sorted((s for s in found if s.range > 0.005), key=lambda spread: spread.range)
    drawn = Figure(figsize=(7.4, 0.9 + 0.22 * len(ordered)), layout="constrained", dpi=110)
    axes = drawn.subplots()
    told: set[str] = set()
    for place, spread in enumerate(ordered):
        values = [number.value for number in spread.shares.values() if number.value is not None]
        axes.plot([min(values), max(values)], [place] * 2, color="#cccccc", lw=2, zorder=1)
        for name, number in spread.shares.items():
            colour, marker = MARKS.get(name, (GREY, "x"))
            label = "_" if name in told else name
            told.add(name)
            axes.plot(number.value, place, marker, color=colour, ms=5, label=label, zorder=3)
            if number.low is not None and number.high is not None:
                axes.plot([number.low, number.high], [place] * 2, color=colour, lw=1, alpha=0.6, zorder=2)
    axes.axvline(1, color=BLACK, lw=0.7, ls=":")
    labels = [f"{s.record.task.id}, {s.record.submission.name}" for s in ordered]
    axes.set_yticks(range(len(ordered)), labels, fontsize=7)
    axes.set_xlabel("f: share of the answer that the circuit keeps; 1 is the model's", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return drawn
