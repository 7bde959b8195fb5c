"""`leaderboard/README.md`: the tables in short, for readers of the repository itself."""

from __future__ import annotations

from collections.abc import Sequence

from remainder.board.pages import multiple
from remainder.board.text import markdown
from remainder.board.view import Board, Cell
from remainder.report.quantities import QUANTITIES
from remainder.report.text import written_table

__all__ = ["readme", "section"]

_KEYS = ("bits_per_token", "kl_raw", "kl_gaussian", "gap_raw", "gap_gaussian", "gaussian_ratio")
_HEADINGS = ("Place", "Submission", *(QUANTITIES[key].heading for key in _KEYS))
_LONGEST = 25
"""Rows of a table; the page of the task has all."""

_TOP = """\
# Leaderboard

Made by `remainder board build` from the records below `results/`; not to be edited by hand. The same command
makes a site with every number and its interval, the figures, and a page for each record.

- **Places** are by KL from the untouched model (nats per token) with what is left out set to zero (raw), and
  say something only together with the bits per token beside them. A range such as 2–5 is a tie: paired on the
  same documents, the 95 % interval of the difference to the best of the group holds 0.
- Rows without a place are **references**: they hold nothing that was trained, nor found on prompts.
- **Gaussian**: noise of equal mean and covariance stands for what is left out. **Δ** is the signed gap in
  loss; it orders nothing. **ρ** is the KL of raw over the KL of equally large, equally correlated noise.
- ● is on the Pareto front of KL raw against bits; of circuits, against the edges that they keep. Brackets:
  95 % intervals.
"""


def readme(sections: Sequence[str]) -> str:
    """The whole file from the sections of its tables."""
    return _TOP + "".join(f"\n{text}" for text in sections)


def section(title: str, board: Board) -> str:
    """One table with its heading."""
    group = board.group
    cells = []
    for row in board.rows[:_LONGEST]:
        place = row.places["raw"]
        name = markdown(row.entry.record.submission.name, 48) + (" ●" if "raw" in row.fronts else "")
        shown = [_cell(row.cells[key], interval=key in ("kl_raw", "kl_gaussian")) for key in _KEYS]
        cells.append(["" if place is None else place.text, name, *shown])
    table = written_table(_HEADINGS, cells, ["right", "left", *["right"] * len(_KEYS)])
    heading = f"## {markdown(group.task, 80)}, version {group.major}, tier {markdown(group.tier, 30)}\n"
    said = f"{markdown(title, 200)}\n\n" if title else ""
    below = [multiple(board.rankings["raw"])] if board.rankings["raw"].comparisons else []
    if len(board.rows) > _LONGEST:
        below.append(f"{len(board.rows) - _LONGEST} more rows are on the site.")
    if board.nested:
        count = len(board.nested)
        below.append(f"{count} nested record{'s are' if count > 1 else ' is'} listed apart, on the site.")
    return f"{heading}\n{said}{table}\n" + (f"\n{' '.join(below)}\n" if below else "")


def _cell(one: Cell, *, interval: bool) -> str:
    return f"{one.value} {one.interval}" if interval and one.interval else one.value
