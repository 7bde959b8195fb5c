"""The course of `remainder run` on a terminal: list, measure, show each task's table, say what went wrong."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from remainder.base.progress import errors, reporting, say
from remainder.base.wrapping import fill
from remainder.cli.options import print_text
from remainder.errors import RecordError, RemainderError
from remainder.record.rungs import ALL, BOARD

if TYPE_CHECKING:
    from remainder.base.cache import Progress
    from remainder.record.schema import Record
    from remainder.runs.job import Openings, Source
    from remainder.runs.pool import Pool
    from remainder.runs.work import Cell, Row, Shard

__all__ = ["Session", "Wanted"]

_WIDTH = 80


class Wanted(NamedTuple):
    """Settings of a run, besides its tasks."""

    named: tuple[str, ...]
    out: Path
    fresh: bool
    shard: Shard
    pool: Callable[[Openings], Pool]
    """Makes those who measure."""


@dataclass
class Session:
    """A run: each task is shown as it is finished."""

    wanted: Wanted
    sources: Sequence[Source]
    format: str
    further: tuple[str, ...]
    """Rungs that were asked for, which tables show besides those that they always show."""
    columns: tuple[str, ...] = ()
    """Columns that were asked for, in place of those that tables show else."""
    rows: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))
    """Rows by the place of their task."""
    records: list[Record] = field(default_factory=list)
    """Records that were shown."""
    _counts: Counter[int] = field(default_factory=Counter)
    _problems: list[tuple[str, RemainderError]] = field(default_factory=list)
    _rungs: dict[str, None] = field(default_factory=dict)
    _stated: set[str] = field(default_factory=set)
    """Notes that an earlier table has below it."""
    _report: Progress | None = None
    _slots: int = 1
    _unlisted: int = 0
    """Tasks and submissions that could not be opened, and so have no cells."""

    @property
    def finished(self) -> int:
        """Rows that have a record."""
        return sum(row.finished is not None for rows in self.rows.values() for row in rows)

    def measure(self) -> None:
        """Measure all, and print the table of each task when it is complete.

        Raises:
            RemainderError: the only row cannot be measured, or something concerns all of them.
        """
        from remainder.runs.drive import drive
        from remainder.runs.journal import open_journal
        from remainder.runs.listing import list_cells
        from remainder.runs.work import take_shard

        with reporting() as self._report:
            openings, notes, problems, unread = list_cells(
                self.sources,
                self.wanted.named,
                self.wanted.out,
                fresh=self.wanted.fresh,
                progress=self._progress,
            )
        self._problems += [(self.sources[number].task, problem) for number, problem in problems.items()]
        self._problems += unread
        self._unlisted = len(self._problems)
        self._say([*notes, *(f"{title}: not measured: {problem.what}" for title, problem in self._problems)])
        cells = openings.cells
        chosen = take_shard(cells, self.wanted.shard)
        self._counts.update(cells[number].source for number in chosen)
        if not chosen:
            shard = "/".join(map(str, self.wanted.shard))
            self._say([f"shard {shard} holds none of the {len(cells)} row(s)"])
        journal = open_journal(self.wanted.out, cells)
        self._say(_past(cells, journal.past().failed & set(chosen)))
        pool = self.wanted.pool(openings)
        del openings  # and with it the tasks, which the pool may have no use for
        self._slots = pool.slots
        rows = drive(
            cells,
            pool,
            self.wanted.out,
            chosen=chosen,
            fresh=self.wanted.fresh,
            journal=journal,
            progress=self._progress,
        )
        shown = 0
        with closing(rows):
            while shown < len(self.sources):
                with reporting() as self._report:
                    self._complete(rows, shown)
                self._show(shown)
                shown += 1
            for _ in rows:  # it tidies up once it is asked for more than there is
                raise AssertionError("a row beyond the list")

    def _progress(self, doing: str, done: int, total: int | None) -> None:
        # A bar does not stand while a table is printed: each task's is another one.
        if self._report is not None:
            self._report(doing, done, total)

    def _complete(self, rows: Iterator[Row], source: int) -> None:
        """Take rows until a task has all of its own."""
        while len(self.rows[source]) < self._counts[source]:
            if self._slots > 1:
                done, total = sum(map(len, self.rows.values())), sum(self._counts.values())
                self._progress(f"measuring with {self._slots} workers", done, total)
            row = next(rows)
            of = row.cell.source
            self.rows[of].append(row)
            place = f"{len(self.rows[of])}/{self._counts[of]} {row.cell.name}"
            if row.finished is None:
                assert row.problem is not None
                self._problems.append((row.cell.title, row.problem))
                errors.print(f"{place}: not measured: {row.problem.what}", markup=False, soft_wrap=True)
                continue
            timings = row.finished.record.provenance.timings
            state = "found finished" if row.finished.kept else f"measured in {sum(timings.values()):.0f} s"
            say(f"{place}: {state}")
            say("  " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in timings.items()), level=1)

    def _show(self, source: int) -> None:
        from remainder.board.rows import context
        from remainder.report.tables import render

        records = [row.finished.record for row in self.rows[source] if row.finished is not None]
        if not records:
            return
        plan = self.sources[source].plan
        further = plan.rungs if {ALL, BOARD} & set(self.further) else self.further
        if self.format == "table":
            if self.records:
                print()
            color = sys.stdout.isatty()
            print_text(render(records, rungs=further, columns=self.columns, color=color, stated=self._stated))
            self._place(self.rows[source])
            sys.stdout.flush()  # tables of a suite appear as they are finished, in a pipe too
        for line in context(records):
            errors.print(line, markup=False, highlight=False, soft_wrap=True)
        self.records += records
        self._rungs |= dict.fromkeys(further)

    def _place(self, rows: Sequence[Row]) -> None:
        """Print where these rows would stand on the board, where that can be told."""
        from remainder.board.shelf import results_folder
        from remainder.board.stand import render_standing, stand

        finished = [row.finished for row in rows if row.finished is not None]
        try:
            found = stand([(row.record, row.values) for row in finished], results_folder())
        except RecordError as problem:  # the rows are measured and shown; what is at fault is the board's
            self._say([f"no place on the board: {problem.what}"])
            return
        if found is not None:
            print()
            print_text(render_standing(found))

    def show_all(self) -> None:
        """Print what is for programs, all records as one; and what could not be measured.

        Raises:
            RemainderError: the only row could not be measured.
            typer.Exit: some could not.
        """
        from remainder.report.tables import render

        if self.format != "table" and self.records:
            print_text(render(self.records, self.format, rungs=self._rungs, columns=self.columns))
        if not self._problems:
            return
        total = sum(self._counts.values()) + self._unlisted
        if total == len(self.sources) == len(self._problems) == 1:
            raise self._problems[0][1]
        shown = sys.stdout if self.format == "table" else sys.stderr
        print(f"\nNot measured, {len(self._problems)} of {total}:", file=shown)
        for title, problem in self._problems:
            text = f"  {title}: {problem.what}" + (f"\n    To mend it: {problem.fix}" if problem.fix else "")
            print(fill(text, _WIDTH, hanging="    "), file=shown)
        codes = {problem.exit_code for _, problem in self._problems}
        errors.print(
            f"remainder: {len(self._problems)} row(s) could not be measured; {self.finished} are kept in "
            f"{self.wanted.out}; run again to try the others once more",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(codes.pop() if len(codes) == 1 else RemainderError.exit_code)

    def _say(self, notes: Sequence[str]) -> None:
        for note in notes:
            errors.print(f"! {note}", markup=False, soft_wrap=True)


def _past(cells: Sequence[Cell], failed: frozenset[int] | set[int]) -> list[str]:
    """The note on rows that failed before."""
    if not failed:
        return []
    names = ", ".join(cells[number].name for number in sorted(failed)[:4])
    more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
    return [f"could not be measured when this was run before, and is tried again: {names}{more}"]
