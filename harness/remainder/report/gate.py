"""A gate for CI: is record B worse than record A by more than a margin, and not by chance?

Steps, for each `KEY=MARGIN`:

1. How much worse B is than A, on the documents and windows that both measured: B − A of what is better when
   it is small (KL, L0, bits), A − B of explained variance, and |Δ_B| − |Δ_A| of gaps, which are signed: a
   model can be beaten by its denoised self, and that is not faithfulness either.
2. Its 95 % interval, paired document by document (`record.intervals`). |Δ| has a kink at 0, so every sign is
   tried: |Δ_B| − |Δ_A| = max over s of min over t of (s Δ_B − t Δ_A), s and t being ±1, which is no less than
   its min over t at any s, and no more than its max over s at any t. So the max over s of the min over t of
   the lower ends is a lower end, and the min over t of the max over s of the upper ends an upper one. Where
   both signs are plain this is the interval of the difference; else it is wider.
3. It is a regression if the estimate exceeds the margin **and** the interval lies above 0. A margin is at
   least what rounding does on another machine (`compare.ROUNDING`). What exceeds the margin and may be chance
   passes, and is reported as not separable. Without an interval (bits, or fewer documents than one needs) the
   estimate alone decides.

So an unchanged interpretation, measured anew, differs by rounding and passes. One that was retrained and is
as good fails about one time in 40 for each key if the margin is 0, and more rarely the larger the margin. One
that is worse by clearly more than both the margin and half the width of the interval fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from remainder.errors import RecordError, RemainderError
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.record.number import Number
from remainder.record.store import StoredRecord
from remainder.record.values import document_totals
from remainder.report.compare import ROUNDING, common_rows, compare_records
from remainder.report.layout import WIDTH
from remainder.report.quantities import QUANTITIES, Quantity, quantity, suggestion
from remainder.report.text import Notes, draw, format_interval, format_value, plain_table, render_cells

__all__ = ["KEYS", "Change", "RegressionError", "find_changes", "parse_margins", "refuse", "render_changes"]


class RegressionError(RemainderError):
    """A record is worse than the one it is held against, by more than the margin and not by chance."""

    exit_code = 1


KEYS: Mapping[str, str] = {
    entry.key: f"{entry.heading}, {entry.unit}" for entry in QUANTITIES.values() if entry.better is not None
}
"""Quantities that can be given a margin, with their units; `gap_RUNG` and `kl_RUNG` of any rung besides."""

_LEGEND = (
    "Worse by: on the same documents; of Δ, by its size. Brackets: 95 %, paired.",
    "Regression: worse by more than the margin, and the interval lies above 0.",
    "Not separable: more than the margin, maybe by chance; more documents would tell.",
)


@dataclass(frozen=True)
class Change:
    """How much worse B is than A in one quantity, and the margin that it is held against."""

    quantity: Quantity
    a: float
    b: float
    worse: Number
    """Negative where B is better."""
    margin: float

    @property
    def verdict(self) -> str:
        """`passed`, `not separable` or `regression`; see the module's step 3."""
        assert self.worse.value is not None
        if self.worse.value <= max(self.margin, ROUNDING):
            return "passed"
        return "regression" if self.worse.low is None or self.worse.low > 0 else "not separable"

    def __str__(self) -> str:
        """One sentence: by how much, whether it is separable, and what the margin was."""
        assert self.worse.value is not None
        interval = format_interval(self.worse)
        if interval is None:
            chance = f"no interval: {self.worse.reason}"
        elif self.verdict == "passed":
            chance = f"95 % interval {interval}"
        else:
            chance = f"{'separable' if self.verdict == 'regression' else 'not separable'} from 0: {interval}"
        size = format_value(abs(self.worse.value))
        moved = f"is worse by {size}" if self.worse.value > 0 else f"is better by {size}"
        if self.worse.value == 0:
            moved = "is the same"
        values = f"{format_value(self.a)} -> {format_value(self.b)}"
        return (
            f"{self.quantity.key} ({self.quantity.heading}, {values}) {moved} {self.quantity.unit}, "
            f"margin {self.margin:g} ({chance})"
        )


def parse_margins(text: str) -> dict[str, float]:
    """Margins from `KEY=MARGIN,KEY=MARGIN`, e.g. `gap_raw=0.01,kl_raw=0.02`; `KEYS` has the keys.

    Raises:
        RecordError: a key is unknown (near names are offered) or given twice, or a margin is no number >= 0.
    """
    margins: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, written = (piece.strip() for piece in part.partition("="))
        stated = quantity(key)
        if stated is None or stated.better is None:
            raise RecordError(
                f"--fail-on-regression: there is no quantity {key!r} that can have a margin, in {text!r}",
                fix=suggestion(key, KEYS),
            )
        if key in margins:
            raise RecordError(
                f"--fail-on-regression: {key} is given twice in {text!r}", fix="give one margin for each"
            )
        margins[key] = _margin(stated, written if equals else "nothing", text)
    if not margins:
        raise RecordError(
            "--fail-on-regression: no margin is given",
            fix=f"write KEY=MARGIN, e.g. gap_raw=0.01; keys are {', '.join(KEYS)}",
        )
    return margins


def _margin(stated: Quantity, written: str, text: str) -> float:
    key = stated.key
    try:
        margin = float(written)
    except ValueError:
        margin = math.nan
    if not (math.isfinite(margin) and margin >= 0):
        raise RecordError(
            f"--fail-on-regression: the margin of {key} in {text!r} is {written}, not a number of 0 or more",
            fix=f"write e.g. {key}=0.01 ({stated.heading}, {stated.unit})",
        )
    return margin


def find_changes(a: StoredRecord, b: StoredRecord, margins: Mapping[str, float]) -> tuple[Change, ...]:
    """How much worse B is than A in every quantity that has a margin.

    Args:
        a: the record to hold B against.
        b: the new one, of the same task and against the same model.
        margins: what `parse_margins` gives.

    Raises:
        RecordError: the records cannot be compared, or one of them lacks a quantity that has a margin.
    """
    if not margins:
        return ()
    compare_records(a, b)  # refuses what is not comparable
    totals_a, totals_b = map(document_totals, common_rows(a, b))
    bootstrap = Bootstrap(len(totals_a["clean"]), seed=a.record.measurement.seed)
    changes = []
    for key, margin in margins.items():
        stated = quantity(key)
        if stated is None or stated.better is None:
            raise KeyError(key)  # no key of `parse_margins`
        if stated.of_totals is None:
            first, second = (
                _present(key, side, stated.of_record(one.record)) for side, one in (("A", a), ("B", b))
            )
            worse = Number.bare(_raised(first, second, stated.better), "as the records state it")
        else:
            before, after = stated.of_totals(totals_a), stated.of_totals(totals_b)
            first = _present(key, "A", Number.of_ratio(bootstrap, before))
            second = _present(key, "B", Number.of_ratio(bootstrap, after))
            assert isinstance(before, Ratio)  # else it is not present
            assert isinstance(after, Ratio)
            worse = Number.of(_worse(bootstrap, before, after, stated.better))
        changes.append(Change(stated, first, second, worse, margin))
    return tuple(changes)


def refuse(changes: Sequence[Change], a: StoredRecord, b: StoredRecord) -> None:
    """Raise RegressionError if one of the changes is a regression of `b` from `a`."""
    worse = [str(change) for change in changes if change.verdict == "regression"]
    if worse:
        raise RegressionError(
            f"{b.record.submission.name} (B) is worse than {a.record.submission.name} (A) "
            f"on {b.record.task.id}: {'; '.join(worse)}",
            fix="find out what changed; if the change is meant, store its record in place of A",
        )


def render_changes(
    changes: Sequence[Change], format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """The changes as a `table` for a terminal, `markdown` or `latex`; of `csv` and `json`, as sentences."""
    if format in ("csv", "json"):
        return "".join(f"{change.verdict}: {change}\n" for change in changes)
    notes = Notes()
    headings = ["", "A", "B", "Worse by", "Margin", "Verdict"]
    cells = [
        [
            change.quantity.heading,
            format_value(change.a),
            format_value(change.b),
            notes.cell(change.worse),
            f"{change.margin:g}",
            change.verdict,
        ]
        for change in changes
    ]
    below = [*notes.lines(), *_LEGEND]
    if format != "table":
        return render_cells(headings, cells, format, title="Is B worse than A?", notes=below)
    footer = [Text(line, style="dim") for line in below]
    return draw([plain_table(headings, cells), Text(""), *footer], width=width, color=color)


def _worse(bootstrap: Bootstrap, before: Ratio, after: Ratio, better: str) -> Estimate:
    """How much worse `after` is; steps 1 and 2."""
    if better == "small":
        return bootstrap.difference(after, before)
    if better == "large":
        return bootstrap.difference(before, after)
    value = _raised(_value(before), _value(after), better)
    signs = (1.0, -1.0)
    estimates = [
        [bootstrap.difference(_times(s, after), _times(t, before)) for t in signs] for s in signs
    ]  # rows: sign of `after`; columns: sign of `before`
    low, high = -math.inf, math.inf
    for row in estimates:
        lows = []
        for estimate in row:
            if estimate.low is None:
                return Estimate(value, None, None, estimate.reason)
            lows.append(estimate.low)
        low = max(low, min(lows))
    for column in zip(*estimates, strict=True):
        high = min(high, max(estimate.high for estimate in column if estimate.high is not None))
    return Estimate(value, low, high)


def _raised(before: float, after: float, better: str) -> float:
    """How much worse `after` is."""
    if better == "near zero":
        return abs(after) - abs(before)
    return before - after if better == "large" else after - before


def _times(sign: float, ratio: Ratio) -> Ratio:
    return replace(ratio, numerator=sign * ratio.numerator)


def _value(ratio: Ratio) -> float:
    return float(ratio.numerator.sum() / ratio.denominator.sum())


def _present(key: str, side: str, number: Number) -> float:
    """The value of a quantity that has a margin: a gate on what was not measured would always be open."""
    if number.value is None:
        raise RecordError(
            f"--fail-on-regression: record {side} has no {key}: {number.reason}",
            fix=f"measure {side} with what it takes, or give no margin for {key}",
        )
    return number.value
