"""A flow as an object: what scripts, consoles and notebooks show of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from remainder.record.flow import Bracket, Flow
from remainder.record.schema import Record
from remainder.report.flow import flow_frame, render_flow
from remainder.report.notebook import flow_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FlowResult"]


@dataclass(frozen=True, repr=False)
class FlowResult:
    """The shells of an interpretation, and the scales that they show together.

    `print` shows its tables, a notebook the same as HTML.
    """

    flow: Flow
    records: tuple[Record, ...]
    """Records of its shells, ascending by how many sources they keep."""
    path: Path
    """The flow's file; the records of its shells lie in the folders beside it."""

    @property
    def scales(self) -> Mapping[str, Bracket]:
        """The four scales k*, each between two shells."""
        return self.flow.scales

    def table(self) -> pd.DataFrame:
        """One row a shell: how many sources it keeps, and every number with the ends of its interval."""
        return flow_frame(self.flow, self.records)

    def plot(self) -> Figure:
        """Draw what each part of the bath costs over the number of kept sources; see `report.plot_flow`."""
        from remainder.report.plot_flow import flow_figure

        return flow_figure(self.flow, self.records)

    def save(self, path: str | Path) -> Path:
        """Draw it to `path` (.png or .svg), as `remainder flow --save` does; gives the path.

        Raises:
            RecordError: the name has another ending, or there is no folder to put it in.
        """
        from remainder.report.plot import save

        save(self.plot(), Path(path))
        return Path(path)

    def __str__(self) -> str:
        return render_flow(self.flow, self.records)

    def __repr__(self) -> str:
        """Two lines: what was measured, and the scales."""
        flow = self.flow
        head = f"{flow.submission.name} on {flow.task.id}, version {flow.task.version}, tier {flow.tier}"
        scales = "; ".join(f"k_{name} {bracket.verdict}" for name, bracket in flow.scales.items())
        return f"<FlowResult: {head}, {len(flow.shells)} shells\n {scales}>"

    def _repr_html_(self) -> str:
        return flow_html(self.flow, self.records)
