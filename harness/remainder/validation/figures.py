"""Figures of a validation, declared by the controls: measured beside expected values.

The script of expected values of a control may define `figure() -> dict`. It may show tasks of other controls
too; every value in it must be claimed by its control. The form, by example:

    {
        "name": "width",                       # docs/figures/validation-width.png
        "title": "The shape gap falls as 1/n",
        "caption": "Plain words for below the figure.",
        "panels": [
            {
                "kind": "law",                 # or "sweep", or "bars"
                "title": "ReLU, six layers",   # may be ""
                "xlabel": "width n",           # "" for bars
                "ylabel": "shape gap (nats)",
                "series": [{"quantity": "shape", "label": "shape gap"}],
                "points": [
                    {"task": "controls/width-16", "interpretation": "mean", "x": 16},
                    {"task": "controls/width-32", "interpretation": "mean", "x": 32},
                ],
            },
        ],
    }

- `bars`: a group of bars at each point, one for each series, and a black line at the expected value. x is
  the name of the group.
- `sweep`: x is a number; points show measured values, lines expected ones.
- `law`: the same on logarithmic axes, by size, with the fitted power law of each series.

A number is the mean over the seeds of the run, its error bar the 95 % interval of that mean (1.96 standard
errors).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remainder.base.messages import placed_fault
from remainder.errors import TaskError
from remainder.task.script import guarded

__all__ = ["FigureSpec", "Panel", "PanelPoint", "Series", "file_name", "read_figure"]


class _FigureModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Series(_FigureModel):
    """One quantity, at every point of a panel."""

    quantity: str
    label: str


class PanelPoint(_FigureModel):
    """The place of a control in a panel."""

    task: str
    interpretation: str
    x: float | str


class Panel(_FigureModel):
    """One pair of axes."""

    kind: Literal["bars", "sweep", "law"]
    title: str
    xlabel: str
    ylabel: str
    series: tuple[Series, ...] = Field(min_length=1)
    points: tuple[PanelPoint, ...] = Field(min_length=1)


class FigureSpec(_FigureModel):
    """A figure as a control declares it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    caption: str
    panels: tuple[Panel, ...] = Field(min_length=1, max_length=4)

    def every_point(self) -> Iterator[PanelPoint]:
        """Points of all panels."""
        for panel in self.panels:
            yield from panel.points

    def every_number(self) -> Iterator[tuple[str, str, str]]:
        """Task, interpretation and quantity of everything in the figure."""
        for panel in self.panels:
            for point in panel.points:
                for series in panel.series:
                    yield point.task, point.interpretation, series.quantity


def read_figure(script: ModuleType, place: str) -> FigureSpec | None:
    """The figure that a script declares, if any.

    Raises:
        TaskError: if it has another form.
    """
    if not hasattr(script, "figure"):
        return None
    try:
        with guarded(f"{place}: figure()"):
            made = script.figure()
        figure = FigureSpec.model_validate(made)
    except ValidationError as problem:
        raise TaskError(
            f"{place}: figure(): {placed_fault(problem, 'the whole')}",
            fix="follow the form in remainder.validation.figures",
        ) from None
    for panel in figure.panels:
        named = panel.kind == "bars"
        for point in panel.points:
            if isinstance(point.x, str) != named or (panel.kind == "law" and float(point.x) <= 0):
                wanted = "a name" if named else "a positive number" if panel.kind == "law" else "a number"
                raise TaskError(f"{place}: figure(): x is {point.x!r}", fix=f"{panel.kind} need {wanted}")
    return figure


def file_name(figure: FigureSpec) -> str:
    """The name of its file."""
    return f"validation-{figure.name}.png"
