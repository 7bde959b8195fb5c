"""Pages that all tasks share: the front, methods over tasks, circuits, records, snapshots, how to read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from remainder.board.archive import Archive, ArchivedRow
from remainder.board.by_size import SizeTable
from remainder.board.figures import spark
from remainder.board.frozen import Frozen
from remainder.board.merge import Fault
from remainder.board.overall import LEAST, Overall
from remainder.board.pages import HistoryRow, plain_page
from remainder.board.rank import size_of, unit_of
from remainder.board.view import Board, Cell, cell, points

__all__ = ["MARK", "Best", "Shared", "TaskLine", "TierText", "tier_text", "write_shared"]

MARK = ".remainder-board"
"""A file that tells a site of ours from a folder that must not be replaced."""


class Best(NamedTuple):
    """The first of a table, for the front page."""

    name: str
    kl: Cell
    lead: str
    """The kind of KL: `coded` or `raw`."""
    size: Cell
    unit: str


class TierText(NamedTuple):
    """A table in a line of the front page."""

    tier: str
    submissions: int
    references: int
    best: Best | None
    spark: Markup


class TaskLine(NamedTuple):
    """A task in one major version, as the front page lists it."""

    task: str
    major: str
    title: str
    page: str
    newest: bool
    tiers: tuple[TierText, ...]


class Shared(NamedTuple):
    """Everything that these pages are made from."""

    lines: Sequence[TaskLine]
    history: Sequence[HistoryRow]
    """All records of the protocol that is in force."""
    overall: Overall
    circuits: Sequence[SizeTable]
    snapshots: Sequence[Frozen]
    archives: Sequence[Archive]
    faults: Sequence[Fault]


def write_shared(site: Path, it: Shared) -> None:
    """Write these pages into the site's folder."""
    suites = [
        (suite, list(some)) for suite, some in groupby(it.lines, key=lambda line: line.task.partition("/")[0])
    ]
    tiers = [tier for line in it.lines for tier in line.tiers]
    counts = {
        "submissions": sum(tier.submissions for tier in tiers),
        "references": sum(tier.references for tier in tiers),
        "tasks": len({line.task for line in it.lines}),
        "records": len(it.history),
        "archived": sum(len(one.rows) for one in it.archives),
    }
    history = sorted(
        it.history, key=lambda row: (row.written, row.task, row.name, row.record_id), reverse=True
    )
    rows = {row.record_id: row for row in history}
    former = {row.record_id: row for one in it.archives for row in one.rows}
    for one in it.snapshots:
        listed = sorted(one.snapshot.records, key=lambda entry: (entry.path, entry.record_id))
        known = {"rows": rows, "former": former}
        page = plain_page("snapshot.html", root="../", here="snapshots", one=one, listed=listed, **known)
        (site / one.page).write_text(page, encoding="utf-8")
        shutil.copyfile(one.file, (site / one.page).with_name(one.file.name))
    frozen = [(one, _newest(one, {**former, **rows})) for one in it.snapshots]
    pages = {
        "index": plain_page(
            "index.html", root="", here="tasks", suites=suites, counts=counts, faults=it.faults
        ),
        "overall": plain_page("overall.html", root="", here="overall", overall=it.overall, least=LEAST),
        "circuits": plain_page("circuits.html", root="", here="circuits", tables=it.circuits),
        "history": plain_page("history.html", root="", here="history", records=history, archives=it.archives),
        "snapshots": plain_page("snapshots.html", root="", here="snapshots", snapshots=frozen),
        "about": plain_page("about.html", root="", here="about", least=LEAST),
    }
    for name, text in pages.items():
        (site / f"{name}.html").write_text(text, encoding="utf-8")
    (site / MARK).write_text("made by remainder board build\n", encoding="utf-8")


def _newest(one: Frozen, rows: Mapping[str, HistoryRow | ArchivedRow]) -> str:
    """When the last of its records was written."""
    return max((rows[e.record_id].written for e in one.snapshot.records if e.record_id in rows), default="")


def tier_text(board: Board) -> TierText:
    """A table in a line of the front page: its first row that is no reference."""
    best = None
    for row in board.rows:
        entry = row.entry
        if not entry.is_reference and not entry.failed and row.cells[f"kl_{board.lead}"].order:
            size = cell(size_of(entry), count=board.of_circuits)
            kl = row.cells[f"kl_{board.lead}"]
            best = Best(entry.record.submission.name, kl, board.lead, size, unit_of(entry))
            break
    references = len(board.rows) - board.submissions
    return TierText(board.group.tier, board.submissions, references, best, spark(points(board, board.lead)))
