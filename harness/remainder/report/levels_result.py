"""Levels over each other as an object: what scripts, consoles and notebooks show of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from remainder.record.levels import Levels
from remainder.record.schema import Record
from remainder.record.verdicts import Verdict
from remainder.report.levels import levels_frame, render_levels, tables_of_levels
from remainder.report.notebook import cells_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LevelsResult"]


@dataclass(frozen=True, repr=False)
class LevelsResult:
    """Levels, each measured in the next finer one, and what is said of each.

    `print` shows their tables, a notebook the same as HTML.
    """

    levels: Levels
    records: tuple[Record, ...]
    """Records of the levels, from coarse to fine."""
    path: Path
    """The file of the levels; the records lie in the folders beside it."""

    @property
    def statements(self) -> Mapping[str, tuple[Verdict, ...]]:
        """Verdicts on each level, from coarse to fine, by the name of the statement."""
        return self.levels.statements

    def table(self) -> pd.DataFrame:
        """One row a level: every number with the ends of its interval, and the verdicts."""
        return levels_frame(self.levels, self.records)

    def plot(self) -> Figure:
        """Draw what each level costs in the next finer one; see `report.plot_levels`."""
        from remainder.report.plot_levels import levels_figure

        return levels_figure(self.levels, self.records)

    def save(self, path: str | Path) -> Path:
        """Draw it to `path` (.png or .svg), as `remainder levels --save` does; gives the path.

        Raises:
            RecordError: the name has another ending, or there is no folder to put it in.
        """
        from remainder.report.plot import save

        save(self.plot(), Path(path))
        return Path(path)

    def __str__(self) -> str:
        return render_levels(self.levels, self.records)

    def __repr__(self) -> str:
        """Two lines: what was measured, and how many levels each statement holds of."""
        levels = self.levels
        names = [level.submission.name for level in levels.levels]
        head = f"{names[0]} to {names[-1]} on {levels.task.id}, version {levels.task.version}, {levels.tier}"
        words = "; ".join(
            f"{name} {', '.join(verdict.word for verdict in found)}"
            for name, found in levels.statements.items()
        )
        return f"<LevelsResult: {head}\n {words}>"

    def _repr_html_(self) -> str:
        return cells_html(tables_of_levels(self.levels, self.records))
