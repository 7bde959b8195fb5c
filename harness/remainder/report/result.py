"""A measurement as an object: what scripts, consoles and notebooks show of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from remainder.record.schema import Record
from remainder.record.store import write_record
from remainder.report.explain import explain, rung_frame
from remainder.report.layout import WIDTH
from remainder.report.notebook import explanation_html, tables_html
from remainder.report.quantities import default_columns, number_of
from remainder.report.tables import render, rows
from remainder.report.text import format_interval, format_value, half_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explanation", "Result"]


@dataclass(frozen=True, repr=False)
class Result:
    """One measurement: the record and the per-document values that all its numbers come from.

    `print` shows its table, a notebook the same as HTML.
    """

    record: Record
    values: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """Headline numbers with their 95 % intervals, one row; see `remainder.report.tables.rows`."""
        return rows([self.record])

    def save(self, path: str | Path) -> Path:
        """Write `path` (JSON) and the values beside it (`.csv.gz`); gives the path."""
        write_record(self.record, self.values, Path(path))
        return Path(path)

    def plot(self) -> Figure:
        """Gap to the clean model on every rung, and where it comes from; see
        `remainder.report.plot.explanation`."""
        return self.explain().plot()

    def explain(self) -> Explanation:
        """Every rung, and in words where the lost nats live: what `remainder explain` shows."""
        return Explanation(self.record)

    def __str__(self) -> str:
        return render([self.record], rungs=self.record.measurement.rungs)

    def __repr__(self) -> str:
        """Two lines: what was measured, and the first headline numbers with their intervals."""
        record = self.record
        head = f"{record.submission.name} on {record.task.id}, version {record.task.version}"
        return f"<Result: {head}, tier {record.tier}\n {_headline(record)}>"

    def _repr_html_(self) -> str:
        return tables_html([self.record])


@dataclass(frozen=True, repr=False)
class Explanation:
    """The whole ladder of a record and what it says, shown as text or in a notebook as HTML."""

    record: Record

    def frame(self) -> pd.DataFrame:
        """One row per rung; see `remainder.report.explain.rung_frame`."""
        return rung_frame(self.record)

    def plot(self) -> Figure:
        """Gap on every rung, and panels of what the record holds beside it."""
        from remainder.report.plot import explanation

        return explanation(self.record)

    def __repr__(self) -> str:
        return explain(self.record)

    def _repr_html_(self) -> str:
        return explanation_html(self.record)


def _headline(record: Record) -> str:
    """The first numbers of the table, each with its interval, up to the end of a line."""
    line = ""
    for column in default_columns([record]):
        number = number_of(record, column.key)
        if number.value is None:
            continue
        shown = f"{column.heading} {format_value(number.value, half_width(number))}"
        interval = format_interval(number, short=True)
        longer = "; ".join(filter(None, (line, shown if interval is None else f"{shown} {interval}")))
        if len(longer) > WIDTH - 2:
            break
        line = longer
    return line
