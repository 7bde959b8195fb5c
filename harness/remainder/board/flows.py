"""Flows on the board: shown on the pages of the records of the submission that they are of.

1. A flow lies beside the folders of its shells, at the place that its content says, and is verified as it is
   read. Its task must be one that the board takes, and none of its shells withdrawn.
2. It is shown on the page of every record of its submission and task. Where there is none it has no page, and
   is told as left out.
3. Its shells have no page, no row and no place. Their files are copied beside the pages, with the flow's, so
   that a reader of the site can verify it.
4. A shell that no flow names is told as left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from remainder.board.listing import is_named_beside
from remainder.board.merge import BoardRow, Fault
from remainder.errors import RecordError
from remainder.record.flow import MeasuredFlow
from remainder.record.flow_file import FLOW, FLOWS, flow_place, read_flow
from remainder.record.store import read_summary, values_path
from remainder.record.withdrawn import read_withdrawn
from remainder.report.explore_flow import explorable_flow
from remainder.report.flow_tables import FlowTable, ScaleLine, scale_lines, tables_of_flow

__all__ = ["BoardFlow", "FlowSection", "files_of_flows", "flow_section", "read_flows", "write_flow_files"]

_UNNAMED = (
    "is a shell, and neither a flow nor levels beside it name it: run `remainder flow` again, or take it out"
)


class BoardFlow(NamedTuple):
    """A flow of the board."""

    found: MeasuredFlow
    path: Path

    @property
    def id(self) -> str:
        """The hash of its content, by which its files are named."""
        return FLOWS.id(self.found.flow)

    def is_of(self, entry: BoardRow) -> bool:
        """Whether it is of the submission and task of a record."""
        flow, record = self.found.flow, entry.record
        same = flow.submission.hash == record.submission.hash and flow.task == record.task
        return same and not entry.is_nested


class FlowSection(NamedTuple):
    """A flow as a section of a page."""

    id: str
    title: str
    tables: list[FlowTable]
    scales: list[ScaleLine]
    ties: int
    shells: list[tuple[int, str]]
    """How many sources each shell keeps, and the id of its record."""
    explorable: dict[str, Any]
    """The figure, for plotly."""


def files_of_flows(results: Path) -> dict[str, list[Path]]:
    """The files of flows below a folder of results, by the task that their place says; both sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(results.rglob(f"*{FLOW}")):
        found.setdefault("/".join(path.relative_to(results).parts[:-2]), []).append(path)
    return found


def read_flows(
    results: Path, files: Iterable[Path], paths: Iterable[Path], entries: Sequence[BoardRow]
) -> tuple[list[BoardFlow], list[Fault]]:
    """Flows of one task, and what of flows and shells cannot be shown.

    Args:
        files: of the flows.
        paths: of all records of the task, shells among them.
        entries: of the task.
    """
    found: list[BoardFlow] = []
    faults: list[Fault] = []
    gone = read_withdrawn(results)
    for path in files:
        place = path.relative_to(results).as_posix()
        try:
            one = BoardFlow(read_flow(path), path)
        except RecordError as problem:
            faults.append(Fault(place, problem.what.replace(f"{results}/", "").removeprefix(f"{place}: ")))
            continue
        flow = one.found.flow
        withdrawn = [shell.keep for shell in flow.shells if shell.record in gone]
        if flow_place(flow, results) != path:
            faults.append(Fault(place, f"lies elsewhere than it says, {flow_place(flow, Path())}"))
        elif withdrawn:
            faults.append(Fault(place, f"its shell that keeps {withdrawn[0]} was withdrawn"))
        elif not any(one.is_of(entry) for entry in entries):
            what = "has no page: no record of its whole submission is here; measure it with `remainder run`"
            faults.append(Fault(place, what))
        else:
            found.append(one)
    named = {shell.record for one in found for shell in one.found.flow.shells}
    known = {*named, *(entry.record.record_id for entry in entries)}
    for path in paths:
        # One of a flow that is at fault is told with it; what cannot be read is told already.
        if path.stem not in known and _is_shell(path) and not is_named_beside(path):
            faults.append(Fault(path.relative_to(results).as_posix(), _UNNAMED))
    return found, faults


def _is_shell(path: Path) -> bool:
    try:
        return read_summary(path).submission.is_shell
    except (RecordError, RecursionError):
        return False


def flow_section(one: BoardFlow) -> FlowSection:
    """The section of a flow on a page."""
    flow, records = one.found
    return FlowSection(
        id=one.id,
        title=f"k of {flow.sources:,}, in the order {flow.order}; tier {flow.tier}, {flow.dtype}",
        tables=tables_of_flow(flow, records),
        scales=scale_lines(flow),
        ties=flow.ties,
        shells=[(shell.keep, shell.record) for shell in flow.shells],
        explorable=explorable_flow(flow, records),
    )


def write_flow_files(one: BoardFlow, folder: Path) -> None:
    """Write the figure of a flow, and copies of its file, its shells and their values, into a folder."""
    from remainder.report.plot import save
    from remainder.report.plot_flow import flow_figure

    save(flow_figure(*one.found), folder / f"{one.id}.svg")
    shutil.copyfile(one.path, folder / f"{one.id}{FLOW}")
    for shell in one.found.flow.shells:
        (source,) = one.path.parent.glob(f"*/{shell.record}.json")
        shutil.copyfile(source, folder / source.name)
        shutil.copyfile(values_path(source), values_path(folder / source.name))
