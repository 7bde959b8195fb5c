"""Numbers and tables as text: values with intervals, footnotes, and ready cells in every format."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text
from tabulate import tabulate

from remainder.record.number import Number
from remainder.report.layout import WIDTH

__all__ = [
    "MISSING",
    "Cells",
    "Notes",
    "draw",
    "format_interval",
    "format_value",
    "frame_cells",
    "half_width",
    "in_words",
    "plain_table",
    "render_cells",
    "render_frame",
    "ruled_table",
    "with_decimals",
    "written_table",
]

MISSING = "–"

_ROUNDING = 1e-9
"""Sums of numbers that are kept to nine digits leave this much where they should cancel."""
_SIGNS = {
    "Δ": r"$\Delta$",
    "ρ₀": r"$\rho_0$",
    "ρ": r"$\rho$",
    "π": r"$\pi$",
    "τ": r"$\tau$",
    "κ̂": r"$\hat{\kappa}$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    MISSING: "--",
}
"""Signs of headings and cells in LaTeX without packages."""
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Cells(NamedTuple):
    """A table of ready cells, and the lines around it; nothing in it is escaped."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str]
    """Lines below it."""


@dataclass
class Notes:
    """Footnotes of a table: each reason once, with the mark that points to it."""

    reasons: list[str] = field(default_factory=list)
    intervals: bool = False
    """Whether a number was shown with its interval, which a legend has to explain."""

    def mark(self, reason: str | None) -> str:
        """Superscript that points to `reason`; empty without one."""
        if reason is None:
            return ""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return str(self.reasons.index(reason) + 1).translate(_SUPERSCRIPTS)

    def lines(self) -> list[str]:
        """One line per footnote."""
        return [f"{self.mark(reason)} {reason}" for reason in self.reasons]

    def interval(self, number: Number, *, short: bool = False) -> str | None:
        """The interval as `format_interval` writes it, noted for the legend."""
        found = format_interval(number, short=short)
        self.intervals |= found is not None
        return found

    def cell(self, number: Number, mark: str = "") -> str:
        """`value [low, high]`; what is missing is a dash. A reason is its footnote, or the interval's.

        Args:
            mark: a sign behind the value.
        """
        if number.value is None:
            return MISSING + self.mark(number.reason)
        interval = self.interval(number)
        shown = format_value(number.value, half_width(number)) + mark
        return (shown if interval is None else f"{shown} {interval}") + self.mark(number.reason)

    def value(self, number: Number, write: Callable[[float], str] | None = None, *, style: str = "") -> Text:
        """The value alone as `write` gives it (default: to the digits that its interval leaves it).

        It has a footnote only where it is missing.
        """
        if number.value is None:
            return Text(MISSING + self.mark(number.reason))
        shown = format_value(number.value, half_width(number)) if write is None else write(number.value)
        return Text(shown, style=style)

    def stacked(self, number: Number, mark: str = "") -> Text:
        """The value with a sign behind it, and its interval dimmed below."""
        if number.value is None:
            return Text(MISSING + self.mark(number.reason))
        interval = self.interval(number, short=True)
        below = (MISSING if interval is None else interval) + self.mark(number.reason)
        value = format_value(number.value, half_width(number)) + mark
        return Text.assemble((value, "bold"), "\n", (below, "dim"))


def format_value(value: float, spread: float | None = None) -> str:
    """Three decimals, fewer for large numbers, more if the half-width `spread` of its interval asks for them.

    What would look like zero and is not is written as a power of ten.
    """
    return with_decimals(value, _decimals(value, spread or 0.0))


def format_interval(number: Number, *, short: bool = False) -> str | None:
    """`[low, high]` with the decimals of the value, `short` without leading zeros; None if there is none."""
    if number.value is None or number.low is None or number.high is None:
        return None
    decimals = _decimals(number.value, half_width(number) or 0.0)
    low, high = (with_decimals(bound, decimals) for bound in (number.low, number.high))
    if short:
        return f"[{_no_zero(low)},{_no_zero(high)}]"
    return f"[{low}, {high}]"


def in_words(number: Number, *, bare: str = "") -> str:
    """Value and interval in a line without a footnote; `bare` stands behind a value without an interval."""
    if number.value is None:
        return MISSING
    interval = format_interval(number)
    return format_value(number.value, half_width(number)) + (bare if interval is None else f" {interval}")


def frame_cells(key: str, number: Number) -> dict[str, float]:
    """A number's value and the ends of its interval as cells of a frame, NaN where there is none."""
    parts = {"": number.value, "_low": number.low, "_high": number.high}
    return {key + suffix: math.nan if part is None else part for suffix, part in parts.items()}


def render_frame(frame: pd.DataFrame, format: str) -> str:
    """The frame as `csv`, or as `json` (a list of rows; NaN becomes null)."""
    if format == "csv":
        text: str = frame.to_csv(index=False, lineterminator="\n")
        return text
    content = [
        {
            str(name): None if isinstance(cell, float) and math.isnan(cell) else cell
            for name, cell in row.items()
        }
        for row in frame.astype(object).to_dict("records")
    ]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def render_cells(
    headings: Sequence[str], cells: Sequence[Sequence[str]], format: str, *, title: str, notes: Sequence[str]
) -> str:
    """A table of ready cells as `markdown` or `latex`, the title above it and the notes below."""
    align = ["left", *["right"] * (len(headings) - 1)]
    if format == "markdown":
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        table = written_table(headings, escaped, align)
        return f"**{title}**\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    table = written_table(headings, cells, align, "latex_booktabs")
    commented = "\n".join(f"% {line}" for line in [title, *notes])
    return f"{commented}\n{_to_latex(table)}\n"


def written_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], align: Sequence[str], format: str = "github"
) -> str:
    """A table by `tabulate` in one of its formats, its cells as they are; `align`: left or right."""
    text: str = tabulate(rows, headers=headings, tablefmt=format, disable_numparse=True, colalign=align)
    return text


def ruled_table(
    words: Sequence[Column], numbers: Sequence[str], *, padding: tuple[int, ...] = (0, 1, 0, 0)
) -> Table:
    """An empty table with a rule below its headings: `words`, then numbers on the right, never wrapped."""
    right = [Column(heading, justify="right", no_wrap=True) for heading in numbers]
    return Table(*words, *right, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)  # type: ignore[arg-type]


def plain_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """A table of ready cells for a terminal, none of them wrapped."""
    table = ruled_table([Column(headings[0], no_wrap=True)], headings[1:], padding=(0, 1))
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def draw(renderables: Sequence[RenderableType], *, width: int = WIDTH, color: bool = False) -> str:
    """Rich renderables as text of `width` columns."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(Group(*renderables))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _decimals(value: float, spread: float) -> int | None:
    """Decimals for `value` with an interval of half-width `spread`; None stands for scientific notation."""
    size = max(abs(value), spread)
    if size < _ROUNDING:
        return 3
    if 0 < size < 0.0005:
        return None
    decimals = 3 - sum(size >= limit for limit in (1, 10, 1000))
    while 0 < spread * 10**decimals < 2 and decimals < 4:
        decimals += 1
    return decimals


def half_width(number: Number) -> float | None:
    """Half the width of the interval; None without one."""
    return None if number.low is None or number.high is None else (number.high - number.low) / 2


def with_decimals(value: float, decimals: int | None) -> str:
    """`value` with that many decimals and no minus before a zero; None stands for scientific notation."""
    if decimals is None:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}" if value else "0"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _no_zero(text: str) -> str:
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _to_latex(table: str) -> str:
    for sign, command in _SIGNS.items():
        table = table.replace(sign, command)
    for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹"):
        table = table.replace(sign, rf"\textsuperscript{{{digit}}}")
    return table
