"""Levels and modes on the board: shown on the pages of the records of the submissions that they are of.

1. Such a file lies at the place that its content says, and is verified as it is read. None of its records may
   be withdrawn.
2. It is shown on the page of every record of its submissions and task: of levels that are shells these are
   the records of the whole submission. Where there is none it has no page, and is told as left out.
3. Its tables and its figure are those that `remainder explain` shows. Its file and its records are copied
   beside the pages, so that a reader of the site can verify it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from remainder.base.resolve import resolve
from remainder.board.merge import BoardRow, Fault
from remainder.errors import RecordError
from remainder.record.joint import JointFile
from remainder.record.levels import MeasuredLevels
from remainder.record.levels_file import LEVELS, levels_place, read_levels
from remainder.record.modes import MeasuredModes
from remainder.record.modes_file import MODES, modes_place, read_modes
from remainder.record.schema import TaskInfo
from remainder.record.store import values_path
from remainder.record.withdrawn import read_withdrawn
from remainder.report.levels import tables_of_levels
from remainder.report.modes import table_of_modes
from remainder.report.text import Cells

__all__ = ["BoardJoint", "JointSection", "files_of_joint", "joint_section", "read_joint", "write_joint_files"]


class JointSection(NamedTuple):
    """The results of several measurements, as a section of a page."""

    heading: str
    title: str
    id: str
    """The hash of its content, by which its files are named."""
    ending: str
    tables: list[Cells]
    records: list[tuple[str, str]]
    """The name of each record that it follows from, and its id."""


@dataclass(frozen=True)
class BoardJoint:
    """Levels or modes of the board."""

    path: Path
    kind: JointFile[Any]
    heading: str
    figure: str
    """The place of its figure, `module:function`."""
    content: Any
    arguments: tuple[Any, ...]
    """The content that the figure is drawn from."""
    place: Path
    """The place that a folder of results has for it."""
    task: TaskInfo
    submissions: frozenset[str]
    """Hashes of those on whose pages it is shown."""
    tables: list[Cells]
    records: list[tuple[str, str]]

    @property
    def id(self) -> str:
        """The hash of its content."""
        return self.kind.id(self.content)

    def is_of(self, entry: BoardRow) -> bool:
        """Whether it is of the submission and task of a record."""
        record = entry.record
        return record.submission.hash in self.submissions and self.task == record.task and not entry.is_nested


def _levels(path: Path) -> BoardJoint:
    found: MeasuredLevels = read_levels(path)
    levels, records = found
    own = [level.submission.hash for level in levels.levels]
    return BoardJoint(
        path=path,
        kind=LEVELS,
        heading="Levels",
        figure="remainder.report.plot_levels:levels_figure",
        content=levels,
        arguments=found,
        place=levels_place(levels, Path()),
        task=levels.task,
        submissions=frozenset(own if levels.shells is None else [levels.shells.submission.hash]),
        tables=tables_of_levels(levels, records),
        records=[(level.submission.name, level.record) for level in levels.levels],
    )


def _modes(path: Path) -> BoardJoint:
    found: MeasuredModes = read_modes(path)
    return BoardJoint(
        path=path,
        kind=MODES,
        heading="Modes",
        figure="remainder.report.plot_modes:modes_figure",
        content=found.found,
        arguments=found,
        place=modes_place(found.found, Path()),
        task=found.found.task,
        submissions=frozenset([found.found.submission.hash]),
        tables=[table_of_modes(found.found)],
        records=[],
    )


_READERS = {LEVELS.ending: _levels, MODES.ending: _modes}


def files_of_joint(results: Path) -> dict[str, list[Path]]:
    """Files of levels and modes below a folder of results, by the task that their place says; both sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for ending in _READERS for path in results.rglob(f"*{ending}")):
        found.setdefault("/".join(path.relative_to(results).parts[:-2]), []).append(path)
    return found


def read_joint(
    results: Path, files: Iterable[Path], entries: Sequence[BoardRow]
) -> tuple[list[BoardJoint], list[Fault]]:
    """Levels and modes of one task, and which of them cannot be shown.

    Args:
        entries: of the task.
    """
    found: list[BoardJoint] = []
    faults: list[Fault] = []
    gone = read_withdrawn(results)
    for path in files:
        place = path.relative_to(results).as_posix()
        try:
            one = _READERS[path.suffix](path)
        except RecordError as problem:
            faults.append(Fault(place, problem.what.replace(f"{results}/", "").removeprefix(f"{place}: ")))
            continue
        withdrawn = [name for name, record in one.records if record in gone]
        if results / one.place != path:
            faults.append(Fault(place, f"lies elsewhere than it says, {one.place}"))
        elif withdrawn:
            faults.append(Fault(place, f"its record of {withdrawn[0]} was withdrawn"))
        elif not any(one.is_of(entry) for entry in entries):
            what = "has no page: no record of its submission is here; measure it with `remainder run`"
            faults.append(Fault(place, what))
        else:
            found.append(one)
    return found, faults


def joint_section(one: BoardJoint) -> JointSection:
    """The section of levels or modes on a page."""
    first, *others = one.tables
    title, first = first.title, first._replace(title="")
    return JointSection(one.heading, title, one.id, one.kind.ending, [first, *others], one.records)


def write_joint_files(one: BoardJoint, folder: Path) -> None:
    """Write the figure, and copies of its file, its records and their values, into a folder."""
    from remainder.report.plot import save

    save(resolve(one.figure)(*one.arguments), folder / f"{one.id}.svg")
    shutil.copyfile(one.path, folder / f"{one.id}{one.kind.ending}")
    for _, record in one.records:
        (source,) = one.path.parent.glob(f"*/{record}.json")
        shutil.copyfile(source, folder / source.name)
        shutil.copyfile(values_path(source), values_path(folder / source.name))
