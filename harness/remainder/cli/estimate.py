"""The option `--estimate` of `remainder run`: what it would take, and nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from remainder.base.progress import errors, reporting
from remainder.measure.estimate import estimate
from remainder.record.find import find_record
from remainder.runs.listing import list_cells

if TYPE_CHECKING:
    from remainder.cli.session import Wanted
    from remainder.runs.job import Source
    from remainder.runs.work import Cell

__all__ = ["print_estimates"]


def print_estimates(wanted: Wanted, sources: Sequence[Source]) -> None:
    """Print passes, seconds, memory and disk of each task.

    Raises:
        RemainderError: a task cannot be opened, or its time not be foreseen.
    """
    with reporting() as progress:
        openings, notes, problems, _ = list_cells(sources, wanted.named, wanted.out, progress=progress)
    for note in notes:
        errors.print(f"! {note}", markup=False, soft_wrap=True)
    for number, source in enumerate(sources):
        if (problem := problems.get(number)) is not None:
            raise problem
        of_task = [place for place, cell in enumerate(openings.cells) if cell.source == number]
        cells = [place for place in of_task if not _is_finished(openings.cells[place], wanted)]
        print(f"{source.task}, tier {source.plan.tier}: {len(cells)} of {len(of_task)} row(s) to measure")
        if not cells:
            continue
        with reporting() as progress:
            progress("timing a few passes", 0, None)
            loaded = openings.task(number)
            found = estimate(loaded, [openings.entry(place) for place in cells], source.plan)
        for line in found.lines():
            print(f"  {line}")


def _is_finished(cell: Cell, wanted: Wanted) -> bool:
    """Whether a run would take the record from the folder of results."""
    folder = wanted.out / cell.folder
    return (
        cell.is_pinned and not wanted.fresh and folder.is_dir() and find_record(folder, cell.key) is not None
    )
