"""`leaderboard/README.md`: the tables in short, for readers of the repository itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from remainder.board.merge import Fault
from remainder.board.numbers import in_words
from remainder.board.overall import LEAST, Overall
from remainder.board.pages import ordered
from remainder.board.text import markdown
from remainder.board.view import Board, Cell
from remainder.report.footers import seed_lines
from remainder.report.text import MISSING, written_table

__all__ = ["readme", "section"]

_MOST_FAULTS = 20  # that are named
_CODE = " (code)"
"""A mark behind names of rows whose own code encodes and decodes."""
_LONGEST = 25
"""Rows of a table; the page of the task has all."""

_TOP = """\
# Leaderboard

Made by `remainder board build` from the records below `results/`; not to be edited by hand. The same command
makes a site with every number and its interval, the figures, and a page for each record.

- **KL coded**: from the untouched model's predictions, nats per token, with the very codes in place that the
  **bits** write, quantised at the point where that adds 1 % to the error. **KL raw**: with exact codes.
  **Gaussian**: noise of equal mean and covariance stands for what is left out.
- **efficiency**: log of the KL of transform coding at equal bits, less log KL: above 0, better than that. Of
  circuits: against the median of 20 random circuits of equal size.
- **Places** are given on tasks of public pretrained models, within budgets that are shares of R₀, the bits
  that transform coding takes; a range such as 2–5 holds the true place. All other tasks are checks.
- Rows without a place are **references**, or have no bits, or a check failed.
- ● is on the Pareto front of KL against bits; of circuits, against the edges that they keep. Brackets: 95 %
  intervals.
"""


def readme(sections: Sequence[str], over: Overall, faults: Sequence[Fault]) -> str:
    """The whole file: files that were left out, methods over tasks, and the sections of its tables."""
    return _TOP + "".join(f"\n{text}" for text in [*_left_out(faults), _over_tasks(over), *sections])


def _left_out(faults: Sequence[Fault]) -> Iterator[str]:
    """A section that names files at fault, if there are any."""
    if faults:
        lines = [f"- {markdown(one.path, 200)}: {markdown(one.what, 300)}" for one in faults[:_MOST_FAULTS]]
        if len(faults) > _MOST_FAULTS:
            lines.append(f"- and {len(faults) - _MOST_FAULTS} more")
        yield (
            "## Left out\n\nThese files are at fault and in none of the tables.\n\n" + "\n".join(lines) + "\n"
        )


def _over_tasks(over: Overall) -> str:
    heading = (
        f"## Over tasks\n\nMean efficiency at the +1 % point, on at least {LEAST} sites of public models"
    )
    if not over.methods:
        return f"{heading}: nothing yet.\n"
    rows = [
        [markdown(one.name, 48) + _CODE * one.runs_code, in_words(one.mean), str(len(one.by_task))]
        for one in over.methods[:_LONGEST]
    ]
    table = written_table(("Method", "Mean efficiency", "Tasks"), rows, ["left", "right", "right"])
    return (
        f"{heading}, each weighted once. Intervals are over documents; tasks are not resampled.\n\n{table}\n"
    )


def section(title: str, board: Board) -> str:
    """One table with its heading: places, and the default columns."""
    group = board.group
    columns = [column for column in board.columns if column.default]
    cells = []
    for row in board.rows[:_LONGEST]:
        submission = row.entry.record.submission
        marks = _CODE * submission.runs_code + (" ●" if row.front else "")
        name = markdown(submission.name, 48) + marks
        places = [MISSING if place is None else place.text for place in row.places.values()]
        shown = [_cell(row.cells[one.key], interval=not one.quantity.is_cost) for one in columns]
        cells.append([*places, name, *shown])
    budgets = [f"≤ {ranking.budget.name}" for ranking in board.rankings]
    headings = [*budgets, "Submission", *(column.quantity.heading for column in columns)]
    table = written_table(headings, cells, [*["right"] * len(budgets), "left", *["right"] * len(columns)])
    heading = f"## {markdown(group.task, 80)}, version {group.major}, tier {markdown(group.tier, 30)}\n"
    said = f"{markdown(title, 200)}\n\n" if title else ""
    below = [ordered(board)] if board.places else []
    failed = [markdown(row.entry.record.submission.name, 48) for row in board.rows if row.entry.failed]
    if failed:
        below.append(f"In no place, since a check failed: {', '.join(failed)}.")
    if any(row.entry.record.submission.runs_code for row in board.rows[:_LONGEST]):
        below.append("(code): it encodes and decodes by code of its own, which ran in a sandbox.")
    below += seed_lines(
        [column.quantity for column in board.columns], [row.entry.record for row in board.rows]
    )
    if len(board.rows) > _LONGEST:
        below.append(f"{len(board.rows) - _LONGEST} more rows are on the site.")
    if board.nested:
        count = len(board.nested)
        below.append(f"{count} nested record{'s are' if count > 1 else ' is'} listed apart, on the site.")
    return f"{heading}\n{said}{table}\n" + (f"\n{' '.join(below)}\n" if below else "")


def _cell(one: Cell, *, interval: bool) -> str:
    return f"{one.value} {one.interval}" if interval and one.interval else one.value
