"""The board from the records: README.md and the site. The same records give the same bytes.

1. Records are found by their place, a task at a time (`merge`). Tasks are independent of each other, so that
   many are shared out among processes.
2. Per task: read, verify, rank, write the pages of the task and of each of its records; flows stand on the
   pages of the records of their submissions (`flows`), and so do levels and modes (`joint`).
3. What the pages of all tasks share: front page, list of all records, snapshots, assets, README.md.

The site is made in a folder beside the one that is wanted, and takes its place when it is whole. A folder
that holds something else is never replaced.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from remainder.board.archive import Archive, archived
from remainder.board.archive import section as section_of_archive
from remainder.board.badges import badge_name, write_badges
from remainder.board.bundle import write_assets
from remainder.board.by_size import SizeTable, size_tables
from remainder.board.data import DataRow, rows_of
from remainder.board.flows import (
    BoardFlow,
    files_of_flows,
    flow_section,
    read_flows,
    write_flow_files,
)
from remainder.board.front import MARK, Badge, Shared, TaskLine, tier_text, write_shared
from remainder.board.frozen import Frozen, folder_beside, frozen, missing
from remainder.board.joint import (
    BoardJoint,
    files_of_joint,
    joint_section,
    read_joint,
    write_joint_files,
)
from remainder.board.makers import copy_texts
from remainder.board.merge import BoardRow, Fault, folders_of_tasks, read_entries, strays
from remainder.board.overall import Overall, Scored, overall, scored_of
from remainder.board.pages import HistoryRow, PlaceWithin, TaskText, history_row, record_html, task_html
from remainder.board.readme import readme, section
from remainder.board.resolution import Resolution, resolution
from remainder.board.shelf import archives
from remainder.board.text import page_name
from remainder.board.view import Board, boards, record_page
from remainder.errors import RecordError
from remainder.record.json import write_atomically
from remainder.record.store import values_path
from remainder.submission.facts import facts_of
from remainder.task.spec import Task, list_tasks, load_task

__all__ = ["BoardBuild", "build", "check"]

_ALONE = 400
"""Records up to which one process is faster than several."""


@dataclass(frozen=True)
class _Done:
    """Parts of one task that the shared pages need."""

    lines: tuple[TaskLine, ...]
    history: tuple[HistoryRow, ...]
    sections: tuple[str, ...]
    scored: tuple[Scored, ...]
    """Rows that count over tasks."""
    circuits: tuple[SizeTable, ...]
    faults: tuple[Fault, ...]
    data: tuple[DataRow, ...]
    resolutions: tuple[tuple[str, str, Resolution], ...]
    badges: tuple[Badge, ...]


@dataclass(frozen=True)
class BoardBuild:
    """The outcome of a build."""

    records: int
    tasks: int
    faults: tuple[Fault, ...]
    readme: str


def build(results: Path, site: Path | None, *, processes: int | None = None) -> BoardBuild:
    """Read all records below `results`, and write the site.

    Args:
        results: `leaderboard/results`, or a folder of the same form.
        site: where the site goes; None writes nothing. What stood there before is replaced. Snapshots are
            those of the folder beside `results`.
        processes: how many share the work; default: one for few records, else one per core.

    Raises:
        RecordError: there is no folder of records, or `site` holds something other than a site.
        AssetError: a package that the site is drawn with is missing.
    """
    found = folders_of_tasks(results)
    snapshots, unreadable = frozen(folder_beside(results))
    held = _held(snapshots)
    old, damaged = archived(results, held)
    paths = {path.stem: path for root in archives(results) for path in root.rglob("*.json")}
    paths |= {path.stem: path for some in found.values() for path in some}
    faults = [*strays(results), *unreadable, *damaged]
    for one in snapshots:
        faults += missing(one, results, paths)
    if site is None:
        return _summary(list(_each(results, found, None, held, processes)), old, faults)[0]
    _check_replaceable(site, results)
    made = site.absolute().with_name(f".{site.absolute().name}.{uuid.uuid4().hex}.tmp")
    try:
        for folder in ("tasks", "records", "snapshots"):
            (made / folder).mkdir(parents=True)
        write_assets(made / "assets")
        done = list(_each(results, found, made, held, processes))
        built, over = _summary(done, old, faults)
        lines = [line for one in done for line in one.lines]
        history = [row for one in done for row in one.history]
        circuits = [table for one in done for table in one.circuits]
        found_data = [row for one in done for row in one.data]
        resolutions = [row for one in done for row in one.resolutions]
        badges = [row for one in done for row in one.badges]
        listed = {path.relative_to(results).as_posix(): path.stem for some in found.values() for path in some}
        write_shared(
            made,
            Shared(
                lines, history, over, circuits, snapshots, old, built.faults,
                found_data, resolutions, badges, listed,
            ),
        )  # fmt: skip
        if site.exists():
            shutil.rmtree(site)
        made.replace(site)
    finally:
        if made.exists():
            shutil.rmtree(made)
    return built


def check(readme_path: Path, built: BoardBuild) -> str:
    """The difference of the README from what the records give; empty if there is none."""
    if not readme_path.is_file():
        return f"{readme_path.name} is missing"
    kept, made = readme_path.read_text(encoding="utf-8").splitlines(), built.readme.splitlines()
    if kept == made:
        return ""
    pairs = zip([*kept, None], [*made, None], strict=False)
    line = next(number for number, (old, new) in enumerate(pairs, 1) if old != new)
    return f"{readme_path.name} is not what the records give, from line {line} on"


def write_readme(readme_path: Path, built: BoardBuild) -> None:
    """Write the README, whole or not at all."""
    write_atomically(readme_path, built.readme.encode())


class _Job(NamedTuple):
    """Everything that is needed to build the pages of one task."""

    results: Path
    paths: list[Path]
    flows: list[Path]
    joint: list[Path]
    """Files of levels and modes."""
    site: Path | None
    snapshots: dict[str, tuple[str, ...]]
    """Names of snapshots, by each record that is in any."""


def _held(snapshots: Sequence[Frozen]) -> dict[str, tuple[str, ...]]:
    """Names of snapshots, by the id of each record that is in any."""
    held: dict[str, tuple[str, ...]] = {}
    for one in snapshots:
        for entry in one.snapshot.records:
            held[entry.record_id] = (*held.get(entry.record_id, ()), one.snapshot.name)
    return held


def _each(
    results: Path,
    found: Mapping[str, list[Path]],
    site: Path | None,
    held: Mapping[str, tuple[str, ...]],
    processes: int | None,
) -> Iterator[_Done]:
    """Every task's work, in the order of their ids, by as many processes as are worth it."""
    flows, joint = files_of_flows(results), files_of_joint(results)
    jobs = []
    for task in sorted({*found, *flows, *joint}):
        paths = found.get(task, [])
        snapshots = {path.stem: held[path.stem] for path in paths if path.stem in held}
        jobs.append(_Job(results, paths, flows.get(task, []), joint.get(task, []), site, snapshots))
    if processes is None:
        processes = 1 if sum(map(len, found.values())) <= _ALONE else os.cpu_count() or 1
    if processes == 1:
        yield from map(_task, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_task, jobs)


def _task(job: _Job) -> _Done:
    """Read the records of one task, rank them, and write their pages."""
    site, snapshots = job.site, job.snapshots
    entries, faults = read_entries(job.results, job.paths)
    flows, more = read_flows(job.results, job.flows, job.paths, entries)
    joint, others = read_joint(job.results, job.joint, entries)
    faults += [*more, *others]
    history = tuple(history_row(entry, snapshots.get(entry.record.record_id, ())) for entry in entries)
    found = boards(entries)
    if site is not None:
        _write_records(job, site, entries, found, flows, joint)
        for flow in flows:
            write_flow_files(flow, site / "records")
        for part in joint:
            write_joint_files(part, site / "records")
    known = {task: load_task(task) for task in {board.group.task for board in found} & set(list_tasks())}
    titles = {task: known[task].title if task in known else "" for task in {one.group.task for one in found}}
    majors = sorted({(int(board.group.major), board.group.task) for board in found})
    pages = [(str(major), page_name(task, str(major))) for major, task in majors]
    lines: list[TaskLine] = []
    scored: list[Scored] = []
    circuits: list[SizeTable] = []
    data = tuple(row for board in found for row in rows_of(board))
    resolutions: list[tuple[str, str, Resolution]] = []
    badges: list[Badge] = []
    for (name, major), some in groupby(found, key=lambda board: (board.group.task, board.group.major)):
        tables, page = list(some), page_name(name, major)
        task = _task_text(name, major, pages, known.get(name))
        newest = major == pages[-1][0]
        lines.append(
            TaskLine(
                name,
                major,
                task.title,
                page,
                newest,
                tuple(map(tier_text, tables)),
                name in known and known[name].gives_places,
            )
        )
        if newest:
            scored += [row for board in tables for row in scored_of(board, page)]
            for board in tables if lines[-1].real else ():
                one = resolution([row.entry for row in board.main], board.lead)
                resolutions += [] if one is None else [(name, page, one)]
            for number, board in enumerate(tables):
                circuits += size_tables(board, page, f"{page}-{number}".replace(".", "-"))
        if site is not None:
            for board in tables:
                write_badges(board, site)
                if lines[-1].real:
                    badges += [
                        Badge(row.entry.record.submission.name, name, file)
                        for row in board.main
                        if row.best and (file := badge_name(row))
                    ]
            (site / "tasks" / page).write_text(task_html(task, tables), encoding="utf-8")
    sections = tuple(section(titles[board.group.task], board) for board in found if board.rows)
    return _Done(
        tuple(lines),
        history,
        sections,
        tuple(scored),
        tuple(circuits),
        tuple(faults),
        data,
        tuple(resolutions),
        tuple(badges),
    )


def _write_records(
    job: _Job,
    site: Path,
    entries: Sequence[BoardRow],
    found: Sequence[Board],
    flows: Sequence[BoardFlow],
    joint: Sequence[BoardJoint],
) -> None:
    """The page of every record, and copies of its two files, so that a reader of the site can verify it."""
    places: dict[str, list[PlaceWithin]] = {}
    for ranking in (ranking for board in found for ranking in board.rankings):
        for record_id, one in ranking.entered.items():
            places.setdefault(record_id, []).append(PlaceWithin(ranking, one, ranking.places[record_id]))
    badges = {row.entry.record.record_id: badge_name(row) for board in found for row in board.rows}
    same: dict[str, list[BoardRow]] = {}
    for entry in entries:
        same.setdefault(entry.record.submission.name, []).append(entry)
    for entry in entries:
        record = entry.record
        page = site / record_page(record.record_id)
        text = record_html(
            entry,
            places.get(record.record_id, []),
            same[record.submission.name],
            job.snapshots.get(record.record_id, ()),
            [flow_section(flow) for flow in flows if flow.is_of(entry)],
            badges.get(record.record_id, ""),
            [joint_section(one) for one in joint if one.is_of(entry)],
        )
        page.write_text(text, encoding="utf-8")
        source = job.results / entry.path
        copy_texts(record, site)
        shutil.copyfile(source, page.with_suffix(".json"))
        shutil.copyfile(values_path(source), page.with_suffix(".csv.gz"))


def _summary(
    done: Sequence[_Done], old: Sequence[Archive], others: Sequence[Fault]
) -> tuple[BoardBuild, Overall]:
    over = overall(row for one in done for row in one.scored)
    faults = tuple(sorted([*others, *(fault for one in done for fault in one.faults)]))
    sections = [*(text for one in done for text in one.sections), *section_of_archive(old)]
    built = BoardBuild(
        records=sum(len(one.history) for one in done),
        tasks=len({line.task for one in done for line in one.lines}),
        faults=faults,
        readme=readme(sections, over, faults),
    )
    return built, over


def _task_text(name: str, major: str, pages: list[tuple[str, str]], task: Task | None) -> TaskText:
    """The text about a task; facts are of the version that comes with this package."""
    if task is None:
        return TaskText(name, major, "", pages)
    if str(task.major) != major:
        return TaskText(name, major, task.title, pages)
    return TaskText(name, major, task.title, pages, " ".join(task.description.split()), tuple(facts_of(task)))


def _check_replaceable(site: Path, results: Path) -> None:
    where = site.absolute()
    if where.is_symlink() or (where.exists() and not where.is_dir()):
        raise RecordError(f"{site} is no folder", fix="name another folder for the site")
    if where.is_dir() and any(where.iterdir()) and not (where / MARK).is_file():
        raise RecordError(
            f"{site} holds something else than a site of the board", fix="name an empty or a new folder"
        )
    if results.absolute().is_relative_to(where):
        raise RecordError(f"{site} holds the records", fix="name another folder for the site")
    if not where.parent.is_dir():
        raise RecordError(f"{site}: there is no folder {where.parent}", fix="make it first")
