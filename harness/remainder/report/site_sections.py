"""Sections on the whole ladder of a record, in words and numbers.

The reading goes by rules that a reader can check: a term whose interval includes 0 is unresolved, and of two
terms whose intervals overlap in size neither is called the larger. Whatever a record does not hold is named,
with how to measure it. Needs no torch.

Source: protocol 1, sections 3 to 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from remainder.record.metrics import Gaussianity, NullTest
from remainder.record.number import Number
from remainder.record.rungs import ALL, AMPLITUDES, BATH, BESIDE, PERTURBATIVE, RUNGS, SMALL, is_deep
from remainder.record.schema import Record
from remainder.record.summary import ANNEALED_UNITS
from remainder.report.circuit_sections import Section, circuit_sections
from remainder.report.conditional_sections import (
    description_length,
    found_by_conditioning,
    told_of_the_residual,
)
from remainder.report.order_sections import bath_section, order_section, power_of_shape, ratio_section
from remainder.report.text import MISSING, Notes, format_value, half_width, in_words, with_decimals

__all__ = ["aligned", "has_annealed", "sections"]

_ROUNDING = 1e-6
"""Nats per token below which losses of float32 passes do not differ."""

_MOST_DECIMALS = 7

_TERMS = {
    "shape": "shape",
    "dependence": "dependence on x̂",
    "rest": "the rest",
}

_MEANS = {
    "shape": (
        "At single tokens what was left out is not Gaussian, and the model notices.",
        "Real residuals from elsewhere cost more than Gaussian ones.",
    ),
    "dependence": (
        "What was left out can be told from x̂, and the model uses it.",
        "Residuals of like x̂ cost more than any others.",
    ),
    "rest": (
        "What was left out belongs to its own context, token order and target: "
        "no residual from elsewhere stands in for it.",
        "Real residuals of like x̂ do better than the model's own.",
    ),
}
"""The meaning of a positive term, and of a negative one."""

_NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "telescope": ("the terms of the gap", ("full", "full-unshrunk", "permuted", "matched")),
    "perturbative": (
        "cumulants",
        ("full-unshrunk", "permuted", *(f"perturbative-{m}" for m in PERTURBATIVE)),
    ),
    "orders": ("orders", ("mean", *AMPLITUDES)),
    "bath": ("the bath", ("mean", *BATH)),
    "couplings": ("couplings", ("full",)),
    "calibration_spread": ("the spread of refits", ("full",)),
    "gaussianity": ("Gaussianity", ("full",)),
}
"""Optional parts of the metrics, what they are called here, and the rungs that they need."""


def has_annealed(record: Record) -> bool:
    """Whether some rung has an annealed loss of its own, beside what the bath makes of two of them."""
    annealed = (rung.annealed for rung in record.metrics.rungs.values())
    return any(one is not None and one.gap.value is not None for one in annealed)


_DEEP_PARTS = {
    "ρ directional": "noise-directional",
    "ρ isotropic": "noise-isotropic",
    "ρ₀": f"residual-{SMALL:g}",
}
"""Parts of ρ that the deep plan alone has, and a rung of each."""


def sections(record: Record, notes: Notes) -> list[Section]:
    """Every section that a record has something for, in the order of reading."""
    if record.is_of_circuits:
        return list(circuit_sections(record, notes))
    noted = (
        *(_nested, _telescope, found_by_conditioning, told_of_the_residual, description_length),
        *(_perturbative, order_section, bath_section, _couplings),
        *(_ratio, ratio_section, _calibration, _gaussianity, _compat),
    )
    every = [*(make(record, notes) for make in noted), _reading(record), _missing(record)]
    return [section for section in every if section is not None]


def _nested(record: Record, notes: Notes) -> Section | None:
    if record.reference is None:
        return None
    says = (
        f"Clean stands for the finer interpretation {record.reference.name} everywhere: the residual is what "
        f"{record.submission.name} leaves out of that one."
    )
    model = record.metrics.rungs.get("model")
    if model is not None:
        says += f" The untouched model itself is at Δ {notes.cell(model.quenched.gap)}."
    return Section("Two interpretations, nested", [says])


def _telescope(record: Record, notes: Notes) -> Section | None:
    telescope = record.metrics.telescope
    if telescope is None:
        return None
    rows = [
        ("Gaussian gap", telescope.total, "full-unshrunk − clean"),
        ("= shape", telescope.shape, "full-unshrunk − permuted"),
        ("+ dependence on x̂", telescope.dependence, "permuted − matched"),
        ("+ rest", telescope.rest, "matched − clean: context, target, tokens jointly"),
        ("apart: shrinkage", telescope.shrinkage, "full − full-unshrunk"),
    ]
    if telescope.across_tokens is not None:
        rows.append(("apart: across tokens", telescope.across_tokens, "full-temporal − full"))
    texts = aligned([number for _, number, _ in rows])
    body: list[str | tuple[str, ...]] = []
    for (name, number, what), (value, half) in zip(rows, texts, strict=True):
        mark = "" if value and half else notes.mark(number.reason)
        body.append((name, value or MISSING + mark, f"± {half}" if half else mark if value else "", what))
    body += power_of_shape(record)
    return Section("Where the Gaussian gap comes from (nats per token, ± half a 95 % interval)", body)


def _perturbative(record: Record, notes: Notes) -> Section | None:
    fit = record.metrics.perturbative
    if fit is None:
        return None
    body = [
        ("L_G", notes.cell(fit.limit), "the Gaussian limit, m → ∞"),
        ("c1", notes.cell(fit.c1), "third cumulants"),
        ("c2", notes.cell(fit.c2), "fourth cumulants, squares of third ones"),
    ]
    return Section("As cumulants fade: Δ(m) = L_G + c1 m^(−1/2) + c2/m (nats per token)", body)


def _couplings(record: Record, notes: Notes) -> Section | None:
    couplings = record.metrics.couplings
    if couplings is None:
        return None
    alpha = couplings.alpha
    body: list[str | tuple[str, ...]] = [
        ("α* (noise)", notes.cell(alpha)),
        ("β* (source)", notes.cell(couplings.beta)),
    ]
    if couplings.beta_alone is not None:
        body.append(("β₀* (source, no noise)", notes.cell(couplings.beta_alone)))
    if couplings.edge:
        body.append(
            "On the edge of the grid, where intervals are cut off: the best amplitudes may lie farther out."
        )
    elif alpha.low is not None and alpha.high is not None and not alpha.low <= 1 <= alpha.high:
        side, amount = ("below", "less") if alpha.high < 1 else ("above", "more")
        body.append(f"α* is {side} 1: {amount} noise than the residual's own size predicts best.")
    coupled = record.metrics.rungs.get("coupled")
    if coupled is not None and coupled.annealed is not None:
        scored = f"Δ {notes.cell(coupled.quenched.gap)} quenched, {notes.cell(coupled.annealed.gap)} annealed"
        body.append(f"Scored with them on evaluation: {scored}.")
    if couplings.difference is not None:
        body.append(f"Annealed loss less that of β₀* without noise: {notes.cell(couplings.difference)}.")
    what = f"annealed loss on calibration, {couplings.draws} draws a point"
    return Section(f"Amplitudes that predict best ({what})", body)


def _ratio(record: Record, notes: Notes) -> Section:
    ratio = record.metrics.gaussian_ratio
    rows = [
        ("fitted", ratio.fitted, "noise of the residual's covariance"),
        ("directional", ratio.directional, "the same, token by token as long"),
        ("isotropic", ratio.isotropic, "as long, in any direction"),
    ]
    body = [
        (name, notes.cell(number), what)
        for name, number, what in rows
        if not _is_left_out(record, f"noise-{name}")
    ]
    return Section("ρ: KL of the residual over KL of noise around x (1: like noise)", body)


def _calibration(record: Record, notes: Notes) -> Section | None:
    fit, spread = record.calibration, record.metrics.calibration_spread
    if not fit.tokens:  # raw alone was asked for
        return None
    body: list[str | tuple[str, ...]] = [
        f"N = {fit.tokens:,} tokens of {fit.documents:,} documents in d = {fit.dimension:,} dimensions"
        + ("" if fit.rank is None else f", rank {fit.rank:,}")
        + f"; N/d = {format_value(fit.tokens / fit.dimension)}."
    ]
    if fit.shrinkage is not None:
        beside = (
            "" if fit.oas is None else f"; for independent rows (OAS) it would be {format_value(fit.oas)}"
        )
        body.append(f"Correlations shrunk by {format_value(fit.shrinkage)}{beside}.")
    if fit.held_out_mahalanobis is not None:
        value = format_value(fit.held_out_mahalanobis)
        body.append(f"Squared whitened residual on held-out documents: {value} per dimension (sound: 1).")
    if fit.bank_rows is not None:
        cells = "" if fit.cells is None else f"; {fit.cells:,} cells of x̂"
        if fit.cells_explained is not None:
            cells += f", which explain {_percent(fit.cells_explained, 1)} of its variance"
        body.append(f"Real residuals to draw from: {fit.bank_rows:,}{cells}.")
    if spread is not None:
        *gaps, shown = (
            notes.value(gap, format_value).plain for gap in (*spread.gaps.values(), spread.spread)
        )
        body.append(f"Δ full refitted without one fold each: {', '.join(gaps)} (spread {shown}).")
    return Section("What the Gaussian was fitted on", body)


def _gaussianity(record: Record, notes: Notes) -> Section | None:
    tests = record.metrics.gaussianity
    if tests is None:
        return None
    body: list[str | tuple[str, ...]] = [_tested(name, test) for name, test in _tests(tests)]
    gains = f"radial {notes.cell(tests.radial_gain)}, linear {notes.cell(tests.linear_gain)}"
    body.append(f"Log-likelihood over full, nats per dimension: {gains}.")
    what = f"rank {tests.rank:,}; brackets: 95 % of {tests.surrogates} Gaussian surrogates"
    return Section(f"How Gaussian the residual is ({what})", body)


def _tests(gaussianity: Gaussianity) -> Iterator[tuple[str, NullTest]]:
    yield "length, κ̂", gaussianity.radial_kurtosis
    for name, tests in gaussianity.directions.items():
        group = f"{name} ({tests.directions})"
        yield f"{group}: skewness", tests.skewness
        yield f"{group}: excess kurtosis", tests.kurtosis
        yield f"{group}: negentropy", tests.negentropy
    yield "largest excess kurtosis", gaussianity.maximum_kurtosis


def _tested(name: str, test: NullTest) -> tuple[str, ...]:
    parts = (test.value, test.null_low, test.null_high)
    decimals = _decimals(max(map(abs, parts)), (test.null_high - test.null_low) / 2)
    value, low, high = (with_decimals(part, decimals) for part in parts)
    return name, value, f"[{low}, {high}]", "inside the null" if test.inside else "outside the null"


def _compat(record: Record, notes: Notes) -> Section | None:
    """The metrics that papers quote most, with each peer's masks."""
    if record.compat is None:
        return None
    measured = {"SAELens'": record.compat.saelens, "SAEBench's": record.compat.saebench}
    peers = [(whose, peer) for whose, peer in measured.items() if peer is not None]
    if not peers:
        return None
    body: list[str | tuple[str, ...]] = []
    for name, field in (
        ("ce_loss_score", "ce_loss_score"),
        ("kl_div_score", "kl_div_score"),
        ("explained variance", "explained_variance"),
        ("L0", "l0"),
    ):
        first, *others = (notes.cell(getattr(peer, field)) for _, peer in peers)
        body.append((name, first, *(f"SAEBench: {cell}" for cell in others)))
    beside = "".join(f"; beside it {whose}" for whose, _ in peers[1:])
    return Section(f"In the field's own terms ({peers[0][0]} masks{beside})", body)


def _is_left_out(record: Record, rung: str) -> bool:
    """Whether the deep plan alone would have measured this rung."""
    it = record.measurement
    return is_deep(rung) and not it.whole and rung not in {*it.rungs, *it.unmeasured, *record.metrics.rungs}


def _missing(record: Record) -> Section | None:
    """Parts that the record does not hold: why not, or how to get them."""
    unmeasured = record.measurement.unmeasured
    absent, body = [], []
    for part, (name, rungs) in _NEEDS.items():
        if getattr(record.metrics, part) is not None:
            continue
        barred = [rung for rung in rungs if rung in unmeasured]
        if part in unmeasured:
            continue  # the reason follows below
        if barred:
            body.append(f"{name}: rung {barred[0]} could not be measured ({unmeasured[barred[0]]}).")
        else:
            absent.append(name)
    left_out = [name for name, rung in _DEEP_PARTS.items() if _is_left_out(record, rung)]
    if not has_annealed(record) and "full" in record.metrics.rungs:
        left_out.append(f"annealed losses (from {ANNEALED_UNITS} independent units of draws)")
    absent += left_out
    if absent:
        body.append(
            f"{', '.join(absent)}. To measure: run with --rungs {ALL}, or evaluate with rungs='{ALL}'."
        )
    others = {rung: why for rung, why in unmeasured.items() if rung not in {**RUNGS, **BESIDE}}
    body += [f"{rung}: {why}." for rung, why in others.items()]
    return Section("Not in this record", body) if body else None


def _reading(record: Record) -> Section | None:
    """A reading of where the lost nats live, as far as the intervals tell."""
    telescope = record.metrics.telescope
    if telescope is None or telescope.total.value is None:
        return None
    total = telescope.total
    terms = {name: getattr(telescope, name) for name in _TERMS}
    resolved = [name for name, number in terms.items() if _resolved(number)]
    sizes = [abs(number.value or 0.0) for number in (total, *terms.values())]
    if max(sizes) < _ROUNDING:
        nothing = f"No nats are lost: all of this is below {_ROUNDING:g}, the rounding of float32."
        return Section("Where the lost nats live", [nothing])
    sentences = [_of_total(total)]
    if resolved:
        largest = max(resolved, key=lambda name: abs(terms[name].value))
        number = terms[largest]
        share = number.value / total.value if _resolved(total) else math.nan
        of = f", {_percent(share)} of it" if 0 < share <= 1 else ""
        sentences.append(f"The largest resolved term is {_TERMS[largest]}: {_cell(number)}{of}.")
        sentences.append(_MEANS[largest][number.value < 0])
        against = [name for name in resolved if terms[name].value * number.value < 0]
        if against:
            for name in against:
                meaning = _MEANS[name][terms[name].value < 0]
                sentences.append(f"Of the other sign: {_TERMS[name]} {_cell(terms[name])}. {meaning}")
        rivals = [_TERMS[name] for name in terms if name != largest and _may_exceed(terms[name], number)]
        if rivals:
            sentences.append(f"Whether {' or '.join(rivals)} is larger in size is not resolved.")
    else:
        sentences.append("None of its three terms is resolved: more documents would tell.")
    unresolved = [name for name in terms if name not in resolved]
    if resolved and unresolved:
        listed = ", ".join(f"{_TERMS[name]} {_cell(terms[name])}" for name in unresolved)
        sentences.append(f"Unresolved, as the interval includes 0: {listed}.")
    full = record.metrics.rungs.get("full")
    if full is not None and full.annealed is not None and full.annealed.gap.value is not None:
        sentences.append(
            f"Of full's Δ {_cell(full.quenched.gap)}, {_cell(full.annealed.gap)} is left with the noise "
            "integrated out."
        )
    return Section("Where the lost nats live", [" ".join(sentences)])


def _of_total(total: Number) -> str:
    if not _resolved(total):
        return f"The Gaussian gap {_cell(total)} cannot be told from 0."
    if total.value is not None and total.value < 0:
        return f"The Gaussian residual beats the clean model by Δ {_cell(total)}, which is not faithfulness."
    return f"The Gaussian residual, its covariance not shrunk, loses {_cell(total)} nats per token."


def _resolved(number: Number) -> bool:
    return number.low is not None and number.high is not None and (number.low > 0 or number.high < 0)


def _may_exceed(other: Number, largest: Number) -> bool:
    """Whether the other's interval reaches the largest's, both in size."""
    if other.low is None or other.high is None or largest.low is None or largest.high is None:
        return True
    return max(abs(other.low), abs(other.high)) >= min(abs(largest.low), abs(largest.high))


def aligned(numbers: Sequence[Number]) -> list[tuple[str, str]]:
    """Value and half-width of each with the same decimals: what adds up, adds up as printed.

    Empty where there is none.
    """
    halves = [half_width(number) for number in numbers]
    size = max((abs(number.value) for number in numbers if number.value is not None), default=0.0)
    decimals = _decimals(size, min((half for half in halves if half), default=0.0))
    return [
        (
            "" if number.value is None else with_decimals(number.value, decimals),
            "" if half is None else with_decimals(half, decimals),
        )
        for number, half in zip(numbers, halves, strict=True)
    ]


def _cell(number: Number) -> str:
    """Value and interval without a footnote; those stand in the sections above."""
    return in_words(number, bare=" (no interval)")


def _decimals(size: float, narrowest: float) -> int:
    """Decimals for numbers up to `size` that stand together, with a half-width down to `narrowest`.

    Four significant digits for the largest number, and more if the narrowest half-width needs them.
    """
    if size == 0:
        return 3
    leading = math.floor(math.log10(size))
    wanted = math.ceil(math.log10(2 / narrowest)) if narrowest > 0 else 0
    # A record keeps six significant digits; further decimals of the largest number would be invented.
    return max(min(max(wanted, 3 - max(leading, 0)), 5 - leading, _MOST_DECIMALS), 0)


def _percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f} %"
