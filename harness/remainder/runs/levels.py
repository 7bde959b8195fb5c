"""Levels over each other: interpretations from coarse to fine, each measured in the next finer one.

Levels are shells of one interpretation, or several interpretations of one site. Every level has a record in
the folder of results, of which the finer one is the reference; the levels together are a small file beside
them that names these records, and follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress
from remainder.errors import TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import SiteTask
from remainder.measure.plan import Plan
from remainder.measure.seal import info
from remainder.record.levels import CONDITIONAL, Level, Levels, MeasuredLevels, statements_of_records
from remainder.record.levels_file import write_levels
from remainder.record.shells import ShellsOf
from remainder.record.store import StoredRecord
from remainder.runs.cells import sweep
from remainder.runs.flow import Planned, flow_plan, plan_flow
from remainder.submission.submission import Entry, SiteEntry

__all__ = ["RUNGS", "PlannedLevels", "levels_plan", "measure_levels", "plan_levels"]

RUNGS = (*CONDITIONAL, "context")
"""Rungs of every level beside those of a shell: whether the coarser level tells of what the finer adds."""


class PlannedLevels(NamedTuple):
    """Levels before they are measured."""

    loaded: LoadedTask
    plan: Plan
    levels: tuple[Entry, ...]
    """Submissions from coarse to fine."""
    shells: Planned | None = None
    """The flow whose shells they are; None where they are submissions."""


def levels_plan(loaded: LoadedTask, tier: str, documents: int | None, dtype: str | None) -> Plan:
    """The plan of every level: that of a shell, with what conditions on the coarser one.

    Raises:
        TaskError: the task has no activations at a site.
    """
    _require_site(loaded)
    return flow_plan(loaded, tier, documents, dtype, more=RUNGS)._replace(annealed_pairs=0)


def plan_levels(
    loaded: LoadedTask,
    entries: Sequence[Entry],
    settings: Plan,
    *,
    order: str | None = None,
    keeps: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    progress: Progress | None = None,
) -> PlannedLevels:
    """Levels from coarse to fine.

    Args:
        entries: one, whose shells are the levels, chosen as `runs.flow.plan_flow` does; or several, which are
            the levels, in their order.

    Raises:
        InterpretationError: the one has no sources in that order, or breaks a rule.
        TaskError: the task has no site, there is one level alone or one twice, or several entries come with
            an order, a number or a ratio, which are of shells.
    """
    _require_site(loaded)
    if len(entries) == 1:
        planned = plan_flow(
            loaded,
            entries[0],
            settings,
            order=order,
            keeps=keeps,
            ratio=ratio,
            shells=shells,
            progress=progress,
        )
        return PlannedLevels(loaded, settings, tuple(planned.shells.values()), planned)
    asked = {"--order": order, "--keep": keeps, "--ratio": ratio, "--shells": shells}
    if given := [name for name, value in asked.items() if value is not None]:
        raise TaskError(
            f"{', '.join(given)}: {len(entries)} submissions are levels as they are, and no shells",
            fix="name one submission for levels that are its shells, or leave it out",
        )
    if twice := [one.name for one in entries if sum(one.hash == other.hash for other in entries) > 1]:
        raise TaskError(f"{twice[0]} is named twice among the levels", fix="name each once, coarsest first")
    for one in entries:
        if not isinstance(one, SiteEntry):
            raise TaskError(f"{one.name} rebuilds no activations", fix="name interpretations of the site")
    return PlannedLevels(loaded, settings, tuple(entries))


def measure_levels(
    planned: PlannedLevels, out: Path, *, fresh: bool = False, progress: Progress | None = None
) -> MeasuredLevels:
    """Measure levels, each in the next finer one and the last in the model, or find their records.

    Args:
        out: the folder of results.

    Raises:
        RemainderError: a level cannot be measured; finished ones are kept.
    """
    loaded, entries = planned.loaded, planned.levels
    rows = sweep(
        loaded.task,
        entries,
        planned.plan,
        out,
        references=[*entries[1:], None],
        loaded=loaded,
        device=loaded.device.type,
        fresh=fresh,
        progress=progress,
    )
    stored = []
    for row in rows:
        if row.finished is None:
            assert row.problem is not None
            raise row.problem
        stored.append(StoredRecord(row.finished.record, row.finished.values))
    first = stored[0].record
    levels = Levels(
        protocol=loaded.task.protocol,
        task=first.task,
        tier=planned.plan.tier,
        shells=None if planned.shells is None else _shells_of(planned.shells),
        levels=tuple(
            Level(submission=info(entry), record=one.record.record_id)
            for entry, one in zip(entries, stored, strict=True)
        ),
        statements=statements_of_records(stored, seed=first.measurement.seed),
    )
    write_levels(levels, out)
    return MeasuredLevels(levels, tuple(one.record for one in stored))


def _shells_of(planned: Planned) -> ShellsOf:
    return ShellsOf(
        submission=info(planned.whole),
        order=planned.order,
        sources=planned.sources,
        ties=planned.ties,
        keeps=tuple(planned.shells),
    )


def _require_site(loaded: LoadedTask) -> None:
    if not isinstance(loaded, SiteTask):
        raise TaskError(
            f"{loaded.task.id} has no activations at a site, and levels are reconstructions of such",
            fix="`remainder tasks` lists what there is",
        )
