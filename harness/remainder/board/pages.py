"""Pages of the site from tables and records, by the templates beside this file.

Everything is escaped by the templates (autoescape is on for all of them); files are named by hashes, or by
ids of the usual form (`text.page_name`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from remainder.board.curves import Curve, CurvePanel, Named, curves_of, overlay
from remainder.board.distortion import curve_table, rate_distortion
from remainder.board.figures import pareto, rungs
from remainder.board.flows import FlowSection
from remainder.board.joint import JointSection
from remainder.board.makers import maker_of
from remainder.board.merge import BoardRow, Fault
from remainder.board.rank import BoardRanking, Entered, Place, cost_of, kl_of, lead_of
from remainder.board.resolution import resolution
from remainder.board.second_order import second_order
from remainder.board.text import oddities, page_name, visible
from remainder.board.view import (
    COLUMNS,
    Board,
    Cell,
    TableRow,
    cell,
    cells_of,
    explorable,
    points,
    record_page,
)
from remainder.record.schema import Record
from remainder.report.text import MISSING, format_value

__all__ = [
    "HistoryRow",
    "PlaceWithin",
    "TaskText",
    "faults_text",
    "history_row",
    "ordered",
    "plain_page",
    "record_html",
    "task_html",
]


_NAMES = {"coded": "coded", "raw": "raw", "gaussian": "Gaussian"}
_SAYS = {
    "coded": "of the very codes that the bits write",
    "raw": "what is left out is zero",
    "gaussian": "it is noise of equal mean and covariance",
}
_SAYS_OF_CIRCUITS = {
    "raw": "what is removed carries its mean",
    "gaussian": "it carries noise of equal mean and covariance",
}
"""Sentences on what replaces the removed part, by rung."""


class PlaceWithin(NamedTuple):
    """A place of a record, for its page."""

    ranking: BoardRanking
    entered: Entered
    place: Place


class TaskText(NamedTuple):
    """The text of a page about its task."""

    id: str
    major: str
    title: str
    """Empty if the task does not come with this package."""
    majors: list[tuple[str, str]]
    """Every major version with records, and its page."""
    description: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """The facts that `remainder show` states, as words and texts; empty for a task that is not here."""

    @property
    def command(self) -> str:
        """The command that measures an interpretation of one's own on it."""
        return f"remainder run {self.id} --with MINE"


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
    lead: str
    """The kind of KL that comes first: `coded` or `raw`."""
    kl: Cell
    kl_gaussian: Cell
    hash: str
    state: str
    record_id: str
    snapshots: tuple[str, ...]
    """Names of those that hold it."""


def history_row(entry: BoardRow, snapshots: Sequence[str] = ()) -> HistoryRow:
    """The row of a record in a list."""
    record, group = entry.record, entry.group
    state = "current" if entry.current else "withdrawn" if entry.withdrawn else "replaced"
    if entry.is_nested:
        state += ", nested"
    if entry.failed:
        state += ", check failed"
    if entry.recomputed:
        state += ", recomputed"
    if entry.remeasured:
        state += ", re-measured"
    return HistoryRow(
        task=group.task,
        page=page_name(group.task, group.major),
        name=record.submission.name,
        version=record.task.version,
        tier=record.tier,
        written=record.provenance.timestamp[:16].replace("T", " "),
        rungs=len(record.measurement.rungs),
        bits=cell(cost_of(entry)),
        lead=(lead := lead_of([entry])),
        kl=cell(kl_of(entry, lead)),
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
            "figures": _figures(board),
            "distortion": _distortion(board, f"rate-{number}"),
            "says": _SAYS_OF_CIRCUITS if board.of_circuits else _SAYS,
            "curves": _overlays(board, f"tier-{number}"),
            "kinds": sorted({row.entry.record.submission.kind for row in board.rows}),
            "columns": board.columns,
            "main": board.main,
            "seeds": board.seeds,
            "references": board.references,
            "makers": {row.entry.record.record_id: maker_of(row.entry.record) for row in board.rows},
            "nested": board.nested,
            "lead": board.lead,
            "name": _NAMES[board.lead],
            "rankings": board.rankings,
            "places": board.places,
            "ordered": ordered(board),
            "remarks": board.remarks,
            "resolution": resolution([row.entry for row in board.rows], board.lead),
            "second": second_order([row.entry for row in board.rows], board.lead),
        }
        for number, board in enumerate(found, 1)
    ]
    return plain_page("task.html", root="../", here="tasks", task=task, boards=content)


class Drawings(NamedTuple):
    """Figures of KL against size that share an axis."""

    unit: str
    figures: dict[str, Markup]
    """Figures by the name of the KL."""
    explorable: list[dict[str, Any]]
    """Points of the figures, for one that a reader can zoom."""


def _figures(board: Board) -> list[Drawings]:
    """KL against size by the leading KL, unless that has a curve, and by the Gaussian one; units apart."""
    found = []
    for unit in board.units:
        some = {
            by: [point for point in points(board, by) if point.unit == unit]
            for by in (board.lead, "gaussian")
        }
        figures = {by: pareto(part, by, f"KL {_NAMES[by]} against {unit}", unit) for by, part in some.items()}
        if any(figures.values()):
            found.append(Drawings(unit, figures, [one for one in explorable(board) if one["unit"] == unit]))
    return found


def _distortion(board: Board, ident: str) -> Curve | None:
    """The curves of a table, and beside them KL Gaussian at the point of each that its columns are of."""
    budgets = [one.budget for one in board.rankings]
    curve = rate_distortion(_named(board.main), budgets, ident, _named([*board.seeds, *board.references]))
    if curve is None:
        return None
    drawing = pareto(points(board, "gaussian"), "gaussian", f"KL Gaussian against {board.unit}", board.unit)
    gaussian = CurvePanel("KL Gaussian", f"at the point +1 %; {_SAYS['gaussian']}", drawing)
    return curve._replace(panels=(*curve.panels, gaussian))


def _overlays(board: Board, ident: str) -> list[Curve]:
    """Circuits of all sizes: of edges, and of nodes, never on one axis."""
    rows = _named(board.rows)
    parts = [[row for row in rows if row.record.keeps_nodes is nodes] for nodes in (False, True)]
    found = [overlay(part, f"{ident}-{number}") for number, part in enumerate(parts)]
    return [curve for curve in found if curve is not None]


def _named(rows: Iterable[TableRow]) -> list[Named]:
    records = (row.entry.record for row in rows)
    return [Named(one.submission.name, one, f"../{record_page(one.record_id)}") for one in records]


def record_html(
    entry: BoardRow,
    places: Sequence[PlaceWithin],
    history: Iterable[BoardRow],
    snapshots: Sequence[str] = (),
    flows: Sequence[FlowSection] = (),
    badge: str = "",
    joint: Sequence[JointSection] = (),
) -> str:
    """The page of one record.

    Args:
        places: within every budget where it has one.
        history: every record of the same submission on the same task, itself included.
        snapshots: names of those that hold it.
        flows, joint: of its submission on its task.
        badge: its path below the site, without an ending; empty if it has none.
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
        places=[
            f"place {one.place.text} of {one.place.of} within {one.ranking.budget.name} of R₀"
            for one in places
        ],
        distortion=rate_distortion(
            [Named(record.submission.name, record, "")], [one.ranking.budget for one in places], "rate"
        ),
        points=curve_table(record, _entered(places)),
        snapshots=snapshots,
        flows=flows,
        badge=badge,
        maker=maker_of(record),
        joint=joint,
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


def _entered(places: Sequence[PlaceWithin]) -> dict[str, list[str]]:
    """Names of the budgets that each point of a curve was entered with."""
    found: dict[str, list[str]] = {}
    for one in places:
        found.setdefault(one.entered.point, []).append(one.ranking.budget.name)
    return found


def ordered(board: Board) -> str:
    """Sentences on the order of a table, and on what its places mean."""
    by = f"Rows are ordered by KL {_NAMES[board.lead]}, smallest first"
    if not board.places:
        what = "Sizes of circuits are no bits" if board.of_circuits else "This task checks the measurement"
        return f"{by}. {what}: there are no places."
    if not board.rankings:
        return f"{by}. There are no places yet: no record states R₀, the bits of transform coding."
    budgets = ", ".join(f"{one.budget.name} ({one.budget.bits:.4g} bits)" for one in board.rankings)
    return (
        f"{by}. Places are within budgets, shares of R₀: {budgets}; into each a row enters with the best "
        "point of its curve. A range such as 2–5 holds the true place: all pairs of a budget are compared "
        "together, paired by document, so that with probability 95 % all its ranges are right at once."
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
    environment.filters |= {"visible": visible, "oddities": oddities, "brief": _brief, "celled": cell}
    return environment


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
        *(() if it.cpu is None else (("CPU time", f"{sum(it.cpu.values()):.3g} s"),)),
        *(() if it.tokens_per_second is None else (("scored tokens/s", f"{it.tokens_per_second:.3g}"),)),
    ]


def faults_text(faults: Sequence[Fault], limit: int = 20) -> str:
    """Faults for a terminal: nothing in them can move its cursor."""
    lines = [f"{visible(fault.path, 200)}: {visible(fault.what, 400)}" for fault in faults[:limit]]
    return "\n".join(lines) + (f"\nand {len(faults) - limit} more" if len(faults) > limit else "")
