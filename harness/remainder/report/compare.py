"""Two records of one task, compared on the documents and windows that both measured.

Differences are B - A, paired document by document: what the documents share cancels, so that two
interpretations can be told apart long before their own intervals part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.text import Text

from remainder.errors import RecordError
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.naming import differing_ends, told_apart
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.store import StoredRecord, read_record
from remainder.record.values import Totals, canonical_values, column, document_totals, of_split
from remainder.report.layout import WIDTH, require_format
from remainder.report.quantities import Quantity, applicable
from remainder.report.text import MISSING, Notes, draw, format_value, plain_table, render_cells, render_frame

__all__ = [
    "ROUNDING",
    "Comparison",
    "Difference",
    "common_rows",
    "compare",
    "compare_records",
    "render_comparison",
]

CLEAN_TOLERANCE = 1e-3
"""Nats per token by which the clean losses of two runs may differ before a warning."""

_ID = 12  # digits of a record's id that are shown

ROUNDING = 1e-6
"""Difference that two machines may find in one float32 measurement: nats per token, or a share."""

_LEGEND = (
    "B − A on the same documents and tokens; brackets: 95 % intervals, paired.",
    "Separable: the interval leaves out 0, and it is more than rounding (1e-6).",
    "Δ and KL: nats per token, bits: per token.",
    "Raw: what is left out is zero. Gaussian: it is noise of equal mean, covariance.",
    "ρ: KL of the residual over KL of equally large, equally correlated noise.",
)

_VERDICT = {True: "yes", False: "no", None: MISSING}


@dataclass(frozen=True)
class Difference:
    """One quantity of both records on their common windows, and B - A."""

    quantity: Quantity
    a: float | None
    b: float | None
    difference: Number
    separable: bool | None
    """Whether the interval of the difference excludes 0, and it is more than `ROUNDING`; None without an
    interval."""

    @property
    def key(self) -> str:
        """The quantity's name in data formats."""
        return self.quantity.key


@dataclass(frozen=True)
class Comparison:
    """Two records of one task side by side."""

    a: Record
    b: Record
    documents: int
    windows: int
    tokens: int
    """Scored tokens in common, as the documents and windows."""
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    paths: tuple[Path, Path] | None = field(default=None, compare=False)
    """The files of both, if they were read from files."""

    @property
    def names(self) -> tuple[str, str]:
        """Names for A and B: where the submissions have one name, followed by what differs in their paths."""
        names = (self.a.submission.name, self.b.submission.name)
        if names[0] != names[1]:
            return names
        parts = [_called(path) for path in self.paths or ()]
        ends = differing_ends(parts, "/".join) if parts else None
        if ends is not None:
            return (f"{names[0]}, {ends[0]}", f"{names[1]}, {ends[1]}")
        a, b = told_apart([self.a, self.b])
        return (a.submission.name, b.submission.name)

    def frame(self) -> pd.DataFrame:
        """One row per quantity; missing numbers are NaN."""
        table = [
            {
                "quantity": row.key,
                "a": np.nan if row.a is None else row.a,
                "b": np.nan if row.b is None else row.b,
                "difference": np.nan if row.difference.value is None else row.difference.value,
                "low": np.nan if row.difference.low is None else row.difference.low,
                "high": np.nan if row.difference.high is None else row.difference.high,
                "separable": row.separable,
                "reason": row.difference.reason,
            }
            for row in self.differences
        ]
        frame: pd.DataFrame = pd.DataFrame(table)
        return frame


def _called(path: Path) -> tuple[str, ...]:
    """The parts of a record's path; of its id, which no line has room for, as much as it can be named by."""
    *above, name = path.absolute().parts
    return (*above, f"{name[:_ID]}…" if re.fullmatch(r"[0-9a-f]{64}\.json", name) else name)


def compare(a_path: Path, b_path: Path) -> Comparison:
    """Read two records and compare them; see `compare_records`."""
    return compare_records(read_record(a_path), read_record(b_path), paths=(a_path, b_path))


def _reference(record: Record) -> str | None:
    return None if record.reference is None else record.reference.hash


def _model(record: Record) -> str:
    """The model that a record's clean loss is of."""
    if record.reference is None:
        return "the model stands for itself"
    return f"{record.reference.name} stands for the model"


def compare_records(
    a: StoredRecord, b: StoredRecord, *, paths: tuple[Path, Path] | None = None
) -> Comparison:
    """Paired differences B - A on the common windows.

    Args:
        paths: where both lie, by which two submissions of one name are told apart.

    Raises:
        RecordError: the tasks differ, or there is no common window or it has other tokens.
    """
    first, second = a.record.task, b.record.task
    if (first.id, first.hash) != (second.id, second.hash):
        raise RecordError(
            f"the records are of different tasks: {first.id} {first.version} (hash {first.hash[:12]}…) "
            f"and {second.id} {second.version} (hash {second.hash[:12]}…)",
            fix="measure both submissions on the same version of one task",
        )
    if _reference(a.record) != _reference(b.record):
        raise RecordError(
            f"{_model(a.record)} in one record and {_model(b.record)} in the other: "
            "their clean losses are of different things",
            fix="compare records that are measured against the same",
        )
    rows_a, rows_b = common_rows(a, b)
    totals_a, totals_b = document_totals(rows_a), document_totals(rows_b)
    clean = totals_a["clean"]
    if not np.array_equal(column(clean, "tokens"), column(totals_b["clean"], "tokens")):
        raise RecordError(
            "the records score other tokens in the same windows", fix="measure both with one package version"
        )
    bootstrap = Bootstrap(len(clean), seed=a.record.measurement.seed)
    differences = [
        _recorded(a.record, b.record, quantity)
        if quantity.of_totals is None
        else _difference(bootstrap, quantity, quantity.of_totals(totals_a), quantity.of_totals(totals_b))
        for quantity in applicable([a.record, b.record])
    ]
    windows = int((rows_a["rung"] == "clean").sum())
    return Comparison(
        a=a.record,
        b=b.record,
        documents=len(clean),
        windows=windows,
        tokens=int(clean["tokens"].sum()),
        differences=tuple(differences),
        warnings=tuple(_warnings(a.record, b.record, totals_a, totals_b, windows)),
        paths=paths,
    )


def render_comparison(
    comparison: Comparison, format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """A comparison as text in one of `text.FORMATS`."""
    require_format(format)
    if format in ("csv", "json"):
        return render_frame(comparison.frame(), format)
    a, b = comparison.a, comparison.b
    title = (
        f"{a.task.id}, version {a.task.version}: {comparison.tokens:,} common tokens "
        f"of {comparison.documents:,} documents"
    )
    named = zip("AB", comparison.names, (a.tier, b.tier), strict=True)
    names = [f"{side}: {name} ({tier})" for side, name, tier in named]
    notes = Notes()
    cells = [
        [
            row.quantity.heading,
            MISSING if row.a is None else format_value(row.a),
            MISSING if row.b is None else format_value(row.b),
            notes.cell(row.difference),
            _VERDICT[row.separable],
        ]
        for row in comparison.differences
    ]
    headings = ["", "A", "B", "B − A", "Separable"]
    below = [*notes.lines(), *(f"! {warning}" for warning in comparison.warnings), *_LEGEND]
    if format != "table":
        return render_cells(headings, cells, format, title=title, notes=[*names, *below])
    top = [Text(title, style="bold"), *(Text(name) for name in names), Text("")]
    footer = [Text(line, style="red" if line.startswith("!") else "dim") for line in below]
    return draw([*top, plain_table(headings, cells), Text(""), *footer], width=width, color=color)


def common_rows(a: StoredRecord, b: StoredRecord) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The evaluation rows of either record whose document and window both have.

    Raises:
        RecordError: there is none.
    """
    first, second = (of_split(canonical_values(stored.values)) for stored in (a, b))
    keys_a, keys_b = (pd.MultiIndex.from_frame(table[["document", "window"]]) for table in (first, second))
    kept_a, kept_b = keys_a.isin(keys_b), keys_b.isin(keys_a)
    if not kept_a.any():
        raise RecordError(
            "the records have no document and window in common", fix="measure both on tiers that overlap"
        )
    return first.loc[kept_a], second.loc[kept_b]


def _difference(bootstrap: Bootstrap, quantity: Quantity, a: Ratio | str, b: Ratio | str) -> Difference:
    """The paired difference of two ratios."""
    first, second = (Number.of_ratio(bootstrap, ratio).value for ratio in (a, b))
    if isinstance(a, str) or isinstance(b, str):
        reason = f"A: {a}" if isinstance(a, str) else f"B: {b}"
        return Difference(quantity, first, second, Number.null(reason), None)
    estimate = bootstrap.difference(b, a)
    number = Number.of(estimate)
    apart = estimate.excludes_zero() and number.value is not None and abs(number.value) > ROUNDING
    return Difference(quantity, first, second, number, apart)


def _recorded(a: Record, b: Record, quantity: Quantity) -> Difference:
    """A difference of two numbers as the records state them, without an interval."""
    first, second = quantity.of_record(a), quantity.of_record(b)
    if first.value is None or second.value is None:
        missing = f"A: {first.reason}" if first.value is None else f"B: {second.reason}"
        return Difference(quantity, first.value, second.value, Number.null(missing), None)
    difference = Number.bare(second.value - first.value, "as recorded, without an interval")
    return Difference(quantity, first.value, second.value, difference, None)


def _warnings(a: Record, b: Record, totals_a: Totals, totals_b: Totals, windows: int) -> list[str]:
    """Reasons why the comparison is weaker than it looks."""
    warnings = []
    if a.tier != b.tier or a.documents.windows != windows or b.documents.windows != windows:
        warnings.append(
            f"A has {a.documents.windows:,} windows (tier {a.tier}), B {b.documents.windows:,} "
            f"(tier {b.tier}): compared on the {windows:,} in common"
        )
    for name, first, second in (
        ("protocol", a.protocol, b.protocol),
        ("seed, so that the noise is not common,", a.measurement.seed, b.measurement.seed),
        ("pairs of draws", a.measurement.pairs, b.measurement.pairs),
        ("dtype", a.measurement.dtype, b.measurement.dtype),
    ):
        if first != second:
            warnings.append(f"{name} differs: A {first}, B {second}")
    tokens = column(totals_a["clean"], "tokens").sum()
    shift = (column(totals_b["clean"], "loss").sum() - column(totals_a["clean"], "loss").sum()) / tokens
    if abs(shift) > CLEAN_TOLERANCE:
        warnings.append(f"the clean losses differ by {shift:.2g} nats per token on the same tokens")
    for name, record in (("A", a), ("B", b)):
        warnings += [f"{name}: check {key} failed" for key in record.failed_checks]
    return warnings
