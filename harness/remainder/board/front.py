"""Pages that all tasks share: the front, methods over tasks, circuits, records, snapshots, how to read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from remainder.base.address import repository
from remainder.board.archive import Archive, ArchivedRow
from remainder.board.by_size import SizeTable
from remainder.board.changes import history_of_changes
from remainder.board.data import BoardFile, DataRow, csv_text, json_text
from remainder.board.figures import spark
from remainder.board.frozen import Frozen
from remainder.board.merge import Fault
from remainder.board.overall import LEAST, Overall
from remainder.board.pages import HistoryRow, plain_page
from remainder.board.rank import size_of, unit_of
from remainder.board.resolution import Resolution
from remainder.board.view import Board, Cell, cell, points
from remainder.report.quantities import QUANTITIES
from remainder.task.spec import PROTOCOL

__all__ = ["MARK", "Badge", "Best", "Shared", "TaskLine", "TierText", "tier_text", "write_shared"]

_CONTROLS = "controls"

_STEPS = (
    (
        "Check the folder",
        "The metadata, the shapes, and the rules that every interpretation keeps; it says what to mend.",
        "remainder check MY-FOLDER --task SUITE/TASK",
    ),
    (
        "Measure it",
        "The whole tier that the tables are of; it prints where the row would stand here.",
        "remainder run SUITE/TASK --with MY-FOLDER",
    ),
    (
        "Make the submission",
        "It verifies the records, puts folder and records in place in your checkout, and prints the git "
        "commands of a pull request, from your fork.",
        "remainder submit MY-FOLDER",
    ),
)
"""Steps of a submission: heading, text, command."""
_PLAIN = {
    "task": "Its id",
    "version": "Of the task: results are comparable if and only if the number before the letter is equal",
    "tier": "How much was measured",
    "submission": "Its name",
    "kind": "reconstruction, circuit or feature-circuit",
    "format": "The way in which it is read or made; null of an object in memory",
    "submission_hash": "SHA-256 over its settings and files",
    "places": "Of each budget: `budget`, its `bits`, `first` and `last` place that it may have, `of` all",
}
"""Fields of the data that need no description in the schema."""

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
    efficiency: Cell


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
    real: bool = False
    """Whether its model is a public pretrained one."""


class Suite(NamedTuple):
    """Tasks that stand together."""

    name: str
    real: bool
    """Whether they are of a public pretrained model."""
    tasks: list[TaskLine]

    @property
    def folded(self) -> bool:
        """Whether it is shown on demand: controls check the measurement, and no interpretation."""
        return self.name == _CONTROLS


class Badge(NamedTuple):
    """A badge of a row."""

    name: str
    task: str
    file: str
    """The path of its page below the site, without the ending."""


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
    data: Sequence[DataRow] = ()
    """Every row of every table."""
    resolutions: Sequence[tuple[str, str, Resolution]] = ()
    """Tasks with their pages, and the smallest differences that they tell apart."""
    badges: Sequence[Badge] = ()
    """Badges of rows at sites of public models."""
    paths: Mapping[str, str] = {}
    """Records that are there, archived ones not: place below the results -> id."""


def write_shared(site: Path, it: Shared) -> None:
    """Write these pages into the site's folder."""
    suites = [
        Suite(suite, real, list(some))
        for (real, suite), some in groupby(
            sorted(it.lines, key=lambda line: (not line.real, line.task.partition("/")[0] == _CONTROLS)),
            key=lambda line: (line.real, line.task.partition("/")[0]),
        )
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
            "index.html",
            root="",
            here="tasks",
            suites=suites,
            counts=counts,
            faults=it.faults,
            overall=it.overall,
            least=LEAST,
            snapshot=it.snapshots[0] if it.snapshots else None,
        ),
        "overall": plain_page("overall.html", root="", here="overall", overall=it.overall, least=LEAST),
        "circuits": plain_page("circuits.html", root="", here="circuits", tables=it.circuits),
        "history": plain_page("history.html", root="", here="history", records=history, archives=it.archives),
        "snapshots": plain_page("snapshots.html", root="", here="snapshots", snapshots=frozen),
        "about": plain_page("about.html", root="", here="about", least=LEAST),
        "submit": plain_page(
            "submit.html",
            root="",
            here="submit",
            steps=_STEPS,
            address=repository(),
            resolutions=it.resolutions,
        ),
        "cite": plain_page(
            "cite.html",
            root="",
            here="cite",
            snapshot=it.snapshots[0] if it.snapshots else None,
            badge=it.badges[0] if it.badges else None,
        ),
        "changes": plain_page(
            "changes.html",
            root="",
            here="snapshots",
            changes=history_of_changes(it.snapshots, it.paths),
            rows_of={**former, **rows},
            current=rows,
        ),
        "data": plain_page(
            "data.html",
            root="",
            here="data",
            rows=len(it.data),
            version=BoardFile.model_fields["schema_version"].default,
            fields=[(name, one.description or _PLAIN[name]) for name, one in DataRow.model_fields.items()],
            quantities=QUANTITIES.values(),
        ),
    }
    for name, text in pages.items():
        (site / f"{name}.html").write_text(text, encoding="utf-8")
    newest = it.snapshots[0].snapshot.name if it.snapshots else None
    (site / "leaderboard.json").write_text(json_text(it.data, PROTOCOL, newest), encoding="utf-8")
    (site / "leaderboard.csv").write_text(csv_text(it.data), encoding="utf-8")
    schema = json.dumps(BoardFile.model_json_schema(), indent=1, ensure_ascii=False)
    (site / "leaderboard.schema.json").write_text(f"{schema}\n", encoding="utf-8")
    (site / MARK).write_text("made by remainder board build\n", encoding="utf-8")


def _newest(one: Frozen, rows: Mapping[str, HistoryRow | ArchivedRow]) -> str:
    """When the last of its records was written."""
    return max((rows[e.record_id].written for e in one.snapshot.records if e.record_id in rows), default="")


def tier_text(board: Board) -> TierText:
    """A table in a line of the front page: its first row that is no reference.

    Its figure is of one unit: edges are not nodes.
    """
    best = None
    for row in board.rows:
        entry = row.entry
        if not entry.is_reference and not entry.failed and row.cells[f"kl_{board.lead}"].order:
            size = cell(size_of(entry), count=board.of_circuits)
            kl = row.cells[f"kl_{board.lead}"]
            name, efficiency = entry.record.submission.name, row.cells["efficiency"]
            best = Best(name, kl, board.lead, size, unit_of(entry), efficiency)
            break
    references = len(board.rows) - board.submissions
    drawn = points(board, board.lead)
    units = Counter(point.unit for point in drawn)
    most = max(units, key=lambda unit: (units[unit], unit), default="")
    figure = spark([point for point in drawn if point.unit == most])
    return TierText(board.group.tier, board.submissions, references, best, figure)
