"""Sections of docs/findings.md on codes: what they cost and lose, what else they tell, and what they save.

Each function takes the rows of a task and gives Markdown; sentences follow from the numbers as in
`findings_noise.py`.

Source: protocol 2, sections 4 to 6.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from remainder.record.metrics import CodedPoint
from remainder.record.number import Number
from remainder.record.rungs import CURVE
from remainder.record.schema import ConditionalFit, Record
from remainder.report.text import Notes, format_value
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
    from findings_words import Rows, Side
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))


def default_columns(rows: Rows) -> str:
    """Bits, KL and efficiency of the very codes that are counted, and the best point of each curve."""
    notes = Notes()
    cells = []
    for record in rows.records:
        tail = record.metrics.rungs[words.object_rung(record)].quenched.kl_p99
        best = best_point(record)
        cells.append(
            [
                words.name_of(record),
                words.cell(notes, record.complexity.bits_per_token),
                words.cell(notes, words.kl(record, words.object_rung(record))),
                words.cell(notes, tail),
                words.cell(notes, words.quantity("efficiency")(record)),
                words.cell(notes, best.efficiency if best else None),
                "–" if best is None else f"{format_value(best.bits.value or 0.0)}",
            ]
        )
    headings = (
        "submission",
        "bits",
        "KL coded",
        "99th percentile",
        "efficiency",
        "best of its curve",
        "at bits",
    )
    labels: dict[Side, str] = {
        "above": "Better than transform coding at equal bits, at the finest point of the curve",
        "below": "Worse",
        "open": "Not told apart from it",
        "missing": "Without an efficiency",
    }
    said = [*words.told(words.by_side(rows, words.quantity("efficiency")), labels)]
    said += words.told(
        words.by_side(rows, best_efficiency),
        {"above": "Better at the best point of their curve, which these documents chose"},
    )
    return words.stacked(rows.full_title, words.table(headings, cells, notes), words.bullets(said))


def best_point(record: Record) -> CodedPoint | None:
    """The point of the rate–distortion curve with the largest efficiency; None if none has any."""
    coding = record.metrics.coding
    points = [] if coding is None else [coding.points[name] for name in CURVE if name in coding.points]
    having = [point for point in points if point.efficiency.value is not None]
    return max(having, key=lambda point: point.efficiency.value or 0.0, default=None)


def best_efficiency(record: Record) -> Number | None:
    """The largest efficiency of its curve; None if no point has any."""
    point = best_point(record)
    return None if point is None else point.efficiency


def conditional(rows: Rows) -> str:
    """The Gaussian gap by what the best sampler finds, and the R² of each kernel by rows."""
    notes = Notes()
    kernels = _kernels(rows)
    cells = []
    for record in rows.records:
        found = record.metrics.conditional
        terms = [found.total, found.shape, found.found, found.not_found] if found else [None] * 4
        fits = record.calibration.conditional or {}
        samplers = found.samplers if found else {}
        best = found.best if found else None
        cells.append(
            [
                words.name_of(record),
                *(words.cell(notes, number) for number in terms[:3]),
                best or "–",
                words.cell(notes, terms[3]),
                f"{fits[best].rows:,}" if best in fits else "–",
                *(
                    words.cell(notes, samplers.get(kernel) or _unmeasured(record, kernel))
                    for kernel in kernels
                ),
            ]
        )
    headings = (
        *("submission", "Gaussian gap", "shape", "found", "by", "not found", "with N rows"),
        *(f"permuted − {kernel}" for kernel in kernels),
    )
    said = [
        f"Found by the sampler of highest held-out likelihood. {sentence}"
        for sentence in words.told(words.by_side(rows, _found), {**words.SIGNS, "missing": "No such sampler"})
    ]
    said += _neighbours(rows)
    return words.stacked(
        rows.title,
        words.table(headings, cells, notes),
        "Share of the residual that each kernel explains, R² on documents that it was not fitted to:",
        _explained(rows, kernels),
        words.bullets(said),
    )


def _unmeasured(record: Record, rung: str) -> Number:
    return Number.null(record.measurement.unmeasured.get(rung, "not measured"))


def _kernels(rows: Rows) -> list[str]:
    """The conditional samplers that any row has."""
    found = [record.metrics.conditional for record in rows.records]
    return list(dict.fromkeys(name for terms in found if terms for name in sorted(terms.samplers)))


def _found(record: Record) -> Number | None:
    return None if record.metrics.conditional is None else record.metrics.conditional.found


def _curve(fit: ConditionalFit) -> list[tuple[int, float]]:
    return sorted((int(rows), share) for rows, share in fit.curve.items())


def _explained(rows: Rows, kernels: list[str]) -> str:
    """R² with its curve over rows, and how often the nearest has the same input token."""
    cells = []
    for record in rows.records:
        fits = record.calibration.conditional or {}
        row = [words.name_of(record)]
        for kernel in kernels:
            share = fits[kernel].explained if kernel in fits else None
            row.append("–" if share is None else format_value(share))
        near = fits.get("neighbour")
        curve = (
            "–" if near is None else " · ".join(f"{n:,}: {format_value(share)}" for n, share in _curve(near))
        )
        same = None if near is None else near.same_token
        cells.append([*row, curve, "–" if same is None else f"{100 * same:.0f} %"])
    headings = ("submission", *(f"R² {kernel}" for kernel in kernels), "neighbour, by rows", "same token")
    return words.table(headings, cells, Notes())


def _neighbours(rows: Rows) -> list[str]:
    """Sentences on the nearest x̂: against the best sampler, by rows, and how lexical it is."""
    fits = [record.calibration.conditional or {} for record in rows.records]
    near = [fit["neighbour"] for fit in fits if "neighbour" in fit]
    telescopes = [terms for record in rows.records if (terms := record.metrics.conditional)]
    pairs = [
        (found, terms.found.value)
        for terms in telescopes
        if "neighbour" in terms.samplers and terms.found.value is not None
        if (found := terms.samplers["neighbour"].value) is not None
    ]
    said = []
    if pairs:
        more = words.count(sum(found > best for found, best in pairs), len(pairs), "row")
        said.append(
            "One residual from the nearest x̂, which has no density and so is no candidate for best, finds "
            f"more than the best sampler in {more}."
        )
    curves = [[share for _, share in _curve(fit)] for fit in near if len(fit.curve) > 1]
    if curves:
        rising = [curve for curve in curves if all(a < b for a, b in itertools.pairwise(curve))]
        said.append(
            f"Its R² rises at every step of its curve in {words.count(len(rising), len(curves), 'row')}: "
            "“not found” is a statement about a kernel and a number of rows."
        )
    same = [100 * fit.same_token for fit in near if fit.same_token is not None]
    if same:
        said.append(
            f"The nearest x̂ has the same input token in {min(same):.0f} to {max(same):.0f} % of rows."
        )
    return said


def description(rows: Rows) -> str:
    """Net bits beside FVU, code bits and the bits of a Gaussian remainder."""
    net = words.quantity("net_bits")
    having = rows._replace(records=[record for record in rows.records if record.metrics.description])
    lacking = [record for record in rows.records if not record.metrics.description]
    said = []
    for reason in words.reasons(rows, net):
        names = [record.submission.name for record in lacking if reason_of(record) == reason]
        said.append(f"No net bits for {words.named(names, len(rows.records))}: {reason}.")
    if not having.records:
        return words.stacked(rows.title, words.bullets(said))
    notes = Notes()
    cells = []
    for record in having.records:
        lengths, fit = record.metrics.description, record.calibration.description
        assert lengths is not None
        numbers = (lengths.fvu, lengths.code, lengths.remainder, lengths.net)
        folds = " · ".join(format_value(net) for net in fit.folds) if fit else "–"
        cells.append([words.name_of(record), *(words.cell(notes, number) for number in numbers), folds])
    headings = ("submission", "FVU", "code bits", "remainder bits", "net bits", "of calibration folds")
    said = [
        *(f"Net bits. {sentence}" for sentence in words.told(words.by_side(having, net), words.SIGNS)),
        *_orders_of_net_bits(having),
        *said,
    ]
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said))


def reason_of(record: Record) -> str | None:
    """The reason for which it has no net bits."""
    number = words.quantity("net_bits")(record)
    return None if number is None else number.reason


def _orders_of_net_bits(rows: Rows) -> list[str]:
    """How often net bits order two rows otherwise than FVU and KL do."""

    def negative(record: Record) -> Number | None:
        lengths = record.metrics.description
        if lengths is None or lengths.net.value is None:
            return None
        return Number.bare(-lengths.net.value, "for its order alone")

    said = []
    others = {
        "the FVU beside them": lambda record: record.metrics.description.fvu,
        "KL": lambda record: words.kl(record, words.object_rung(record)),
    }
    for what, of in others.items():
        pairs, total = words.ordered_differently(rows, negative, of)
        said.append(
            f"Net bits and {what} order {words.count(len(pairs), total, 'pair')} of rows differently."
        )
    worth = words.by_side(rows, words.quantity("net_bits")).get("above", [])
    if len(worth) > 1:
        by_net, by_kl = (
            [f"`{name}`" for _, name in words.values(rows, of) if name in worth]
            for of in (negative, others["KL"])
        )
        said.append(
            f"Of rows above 0, most net bits first: {', '.join(by_net)}; least KL first: {', '.join(by_kl)}."
        )
    return said
