"""Pages of the site from tables and records, by the templates beside this file.

Everything is escaped by the templates (autoescape is on for all of them); files are named by hashes, or by
ids of the usual form (`text.page_name`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from remainder.board.curves import Curve, Named, curves_of, overlay
from remainder.board.figures import pareto, rungs
from remainder.board.merge import RUNGS, BoardRow, Fault
from remainder.board.numbers import in_words
from remainder.board.rank import BoardRanking, TiedRank, cost_of, kl_of
from remainder.board.text import oddities, page_name, visible
from remainder.board.view import COLUMNS, Board, Cell, Column, cell, cells_of, explorable, points, record_page
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.text import MISSING, format_value

__all__ = ["HistoryRow", "TaskText", "history_row", "plain_page", "record_html", "task_html"]


_NAMES = {"raw": "raw", "gaussian": "Gaussian"}
_SAYS = {"raw": "what is left out is zero", "gaussian": "it is noise of equal mean and covariance"}
_SAYS_OF_CIRCUITS = {
    "raw": "what is removed carries its mean",
    "gaussian": "it carries noise of equal mean and covariance",
}
"""Sentences on what replaces the removed part, by rung."""


class TaskText(NamedTuple):
    """The text of a page about its task."""

    id: str
    major: str
    title: str
    """Empty if the task does not come with this package."""
    majors: list[tuple[str, str]]
    """Every major version with records, and its page."""


class HistoryRow(NamedTuple):
    """A record in a list of records."""

    task: str
    page: str
    name: str
    version: str
    tier: str
    written: str
    rungs: int
    bits: Cell
    kl_raw: Cell
    kl_gaussian: Cell
    hash: str
    state: str
    record_id: str
    snapshots: tuple[str, ...]
    """Names of those that hold it."""


def history_row(entry: BoardRow, snapshots: Sequence[str] = ()) -> HistoryRow:
    """The row of a record in a list."""
    record, group = entry.record, entry.group
    state = "current" if entry.current else "replaced"
    if entry.is_nested:
        state += ", nested"
    if entry.failed:
        state += ", check failed"
    if entry.verified:
        state += ", verified"
    return HistoryRow(
        task=group.task,
        page=page_name(group.task, group.major),
        name=record.submission.name,
        version=record.task.version,
        tier=record.tier,
        written=record.provenance.timestamp[:16].replace("T", " "),
        rungs=len(record.measurement.rungs),
        bits=cell(cost_of(entry)),
        kl_raw=cell(kl_of(entry, "raw")),
        kl_gaussian=cell(kl_of(entry, "gaussian")),
        hash=record.submission.hash,
        state=state,
        record_id=record.record_id,
        snapshots=tuple(snapshots),
    )


def task_html(task: TaskText, found: Sequence[Board]) -> str:
    """The page of one task and N: a table per tier."""
    content = [
        {
            "group": board.group,
            "scope": _scope(board),
            "unit": board.unit,
            "figures": {
                by: pareto(points(board, by), by, f"KL {_NAMES[by]} against {board.unit}", board.unit)
                for by in RUNGS
            },
            "says": _SAYS_OF_CIRCUITS if board.of_circuits else _SAYS,
            "curve": _overlay(board, f"tier-{number}"),
            "explorable": explorable(board),
            "kinds": sorted({row.entry.record.submission.kind for row in board.rows}),
            "headings": _headings(board.columns),
            "columns": board.columns,
            "rows": board.rows,
            "nested": board.nested,
            "multiple": multiple(board.rankings["raw"]),
        }
        for number, board in enumerate(found, 1)
    ]
    return plain_page("task.html", root="../", here="tasks", task=task, boards=content)


def _overlay(board: Board, ident: str) -> Curve | None:
    rows = (row.entry.record for row in board.rows)
    return overlay(
        [Named(one.submission.name, one, f"../{record_page(one.record_id)}") for one in rows], ident
    )


def record_html(
    entry: BoardRow,
    places: Sequence[tuple[str, TiedRank]],
    history: Iterable[BoardRow],
    snapshots: Sequence[str] = (),
) -> str:
    """The page of one record.

    Args:
        places: (key of `merge.RUNGS`, place) where it is ranked.
        history: every record of the same submission on the same task, itself included.
        snapshots: names of those that hold it.
    """
    record, group = entry.record, entry.group
    newest = sorted(history, key=lambda one: one.arrival, reverse=True)
    cells = cells_of(entry)
    return plain_page(
        "record.html",
        root="../",
        here="tasks",
        entry=entry,
        record=record,
        page=page_name(group.task, group.major),
        cells=cells,
        columns=[column for column in COLUMNS if cells[column.key].order],
        places=[f"place {place.text} by KL {_NAMES[by]}" for by, place in places],
        snapshots=snapshots,
        figure=rungs(record),
        curve=curves_of(record),
        history=[history_row(one) for one in newest],
        again=_again(record),
        measured=_measured(record),
        hashes=_hashes(record),
        made=_made(record),
    )


def plain_page(template: str, **content: Any) -> str:
    """A page by its template."""
    return _templates().get_template(template).render(**content)


def multiple(ranking: BoardRanking) -> str:
    """The note on multiple comparisons of a table."""
    many = ranking.comparisons
    if not many:
        return "There is nothing to compare in this table."
    chance = f"{ranking.by_chance:.1f}" if ranking.by_chance >= 0.1 else "fewer than 0.1"
    return (
        f"Each of the two orders makes {many} paired comparison{'s' if many > 1 else ''} at 95 %, not "
        f"adjusted for their number: on average {chance} of {many} would separate equals by chance. "
        "The first of many is in part the luckiest."
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "oddities": oddities, "brief": _brief, "said": _said}
    return environment


def _said(place: TiedRank) -> str:
    """A sentence on the members of a tie."""
    if place.difference is None:
        tied = place.last - place.first
        return f"the best of a group of {tied + 1}" if tied else "separable from its neighbours' groups"
    shown = in_words(Number.of(place.difference))
    return f"not separable from the best of its group: KL is {shown} from it"


def _brief(value: float | None) -> str:
    return MISSING if value is None else format_value(value).replace("-", "−")


def _scope(board: Board) -> str:
    """A sentence on the data that the table rests on."""
    infos = {
        (row.entry.record.documents.tokens, row.entry.record.documents.documents) for row in board.rows
    } or {(row.entry.record.documents.tokens, row.entry.record.documents.documents) for row in board.nested}
    tokens, documents = max(infos)
    text = f"{tokens:,} scored tokens of {documents:,} documents"
    if len(infos) > 1:
        text += ", fewer in some rows"
    losses = [row.entry.record.metrics.clean.loss.value for row in board.rows]
    shown = sorted({format_value(loss) for loss in losses if loss is not None})
    return text + (f", clean loss {' to '.join({shown[0]: 0, shown[-1]: 0})} nats" if shown else "")


def _headings(columns: Sequence[Column]) -> list[tuple[str, int, list[Column]]]:
    """Groups of columns: heading, how many columns it spans (places count), and the columns."""
    found: list[tuple[str, int, list[Column]]] = []
    for heading, some in groupby(columns, key=lambda column: column.quantity.group or column.key):
        part = list(some)
        found.append(
            (heading if part[0].quantity.group else "", len(part) + sum(bool(c.place) for c in part), part)
        )
    return found


def _again(record: Record) -> str:
    """The command that measures it again; none for names that no shell should be given."""
    name, task = record.submission.name, record.task.id
    if record.reference is not None or oddities(name) or oddities(task) or oddities(record.tier):
        return ""
    return f"remainder run {task} --with {name} --tier {record.tier}" + (
        " --rungs all" if record.measurement.whole else ""
    )


def _measured(record: Record) -> list[tuple[str, object]]:
    it, calibration = record.measurement, record.calibration
    annealed = it.annealed_draws
    found: list[tuple[str, object]] = [
        ("protocol", record.protocol),
        ("noise", f"{it.pairs} antithetic pair{'s' if it.pairs > 1 else ''} of draws, seed {it.seed}"),
        ("annealed", f"{annealed} draws" if annealed else "not asked for"),
        ("numbers", it.dtype),
        ("device", it.device + (f", {it.device_name}" if it.device_name else "")),
        ("model ran", it.suffix),
        ("evaluation", f"{record.documents.windows:,} windows, {record.documents.tokens:,} scored tokens"),
        (
            "calibration",
            f"{calibration.documents:,} documents, {calibration.tokens:,} tokens, d={calibration.dimension}",
        ),
        ("model", f"{record.model.source} {record.model.revision or ''}".strip()),
        ("data", f"{record.corpus.source} {record.corpus.revision or ''}".strip()),
    ]
    if calibration.shrinkage is not None:
        found.append(("shrinkage", f"{calibration.shrinkage:.4g}"))
    if it.unmeasured:
        found += [(f"no {rung}", why) for rung, why in it.unmeasured.items()]
    return found


def _hashes(record: Record) -> list[tuple[str, str]]:
    found = [
        ("record", record.record_id),
        ("result", record.result_id),
        ("measurement", record.measurement_key),
        ("values", record.documents.sha256),
        (f"task {record.task.version}", record.task.hash),
        ("submission", record.submission.hash),
        *record.submission.files.items(),
        ("model", record.model.sha256),
        ("data", record.corpus.sha256),
    ]
    if record.reference is not None:
        found.append((f"reference {record.reference.name}", record.reference.hash))
    return found


def _made(record: Record) -> list[tuple[str, object]]:
    it = record.provenance
    commit = it.git_commit or "not from a checkout"
    return [
        ("written", it.timestamp),
        ("commit", commit + (", with changes" if it.dirty else "")),
        ("platform", it.platform),
        ("Python", it.python),
        *it.packages.items(),
        *((f"time, {stage}", f"{seconds:.3g} s") for stage, seconds in it.timings.items()),
    ]


def faults_text(faults: Sequence[Fault], limit: int = 20) -> str:
    """Faults for a terminal: nothing in them can move its cursor."""
    lines = [f"{visible(fault.path, 200)}: {visible(fault.what, 400)}" for fault in faults[:limit]]
    return "\n".join(lines) + (f"\nand {len(faults) - limit} more" if len(faults) > limit else "")
