"""The flow of an interpretation: its shells measured like a list of submissions, and what they show together.

Every shell has a record in the folder of results, found again by a later run; the flow itself is a small
file beside them that names these records, and follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress
from remainder.errors import TaskError
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.keeping import ORDERS, Sources, look_at_sources
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import info
from remainder.record.flow import Flow, FlowShell, Shells, brackets_of
from remainder.record.rungs import BOARD
from remainder.record.schema import Record, TaskInfo
from remainder.record.store import StoredRecord
from remainder.runs.cells import sweep
from remainder.submission.open import submissions_for
from remainder.submission.shells import Shell
from remainder.submission.submission import SiteEntry
from remainder.task.listing import task_in

__all__ = ["RUNGS", "MeasuredFlow", "flow_of", "flow_plan", "keeps_of", "measure_flow"]

RUNGS = (BOARD, "renormalised-mean")
"""Rungs of every shell: those of a row of the board, and what the kept codes tell of the rest."""

_DOCUMENTS = 16  # of a text: a first look at ten shells in minutes


class MeasuredFlow(NamedTuple):
    """A flow with the records of its shells, ascending by how many sources they keep."""

    flow: Flow
    records: tuple[Record, ...]


def keeps_of(full: int, ratio: float, shells: int | None = None) -> tuple[int, ...]:
    """How many sources shells keep, ascending: 0, and k_n = round(full · ratio⁻ⁿ) down to 1.

    Args:
        full: how many there are.
        ratio: of one shell to the next.
        shells: how many at most, the largest ones besides 0; default: all.

    Raises:
        TaskError: the ratio is not above 1, or fewer than two shells are asked for.
    """
    if not ratio > 1 or not math.isfinite(ratio):
        raise TaskError(f"--ratio {ratio:g} is not above 1", fix="give how many times a shell holds the next")
    if shells is not None and shells < 2:
        raise TaskError(f"--shells {shells}: one shell shows no scale", fix="ask for two or more")
    found: list[int] = []
    number = 0
    while (keep := round(full / ratio**number)) >= 1:
        if keep not in found:
            found.append(keep)
        number += 1
    return (0, *reversed(found if shells is None else found[: shells - 1]))


def flow_plan(loaded: SiteTask, tier: str, documents: int | None, dtype: str | None) -> Plan:
    """The plan of every shell.

    Args:
        documents: of the evaluation split; default: 16 of a text, else all of the tier.
    """
    task = loaded.task
    if documents is None and task.corpus is not None:
        documents = _DOCUMENTS
    if documents is not None and documents >= task.tier(tier).evaluation_windows:
        documents = None
    return plan(task, tier, rungs=RUNGS, dtype=dtype, documents=documents, device=loaded.device.type)


def flow_of(
    task: str,
    name: str,
    out: Path,
    *,
    folder: Path | None = None,
    order: str = "dynamic",
    keeps: Sequence[int] | None = None,
    ratio: float = 2.0,
    shells: int | None = None,
    tier: str = "quick",
    documents: int | None = None,
    dtype: str | None = None,
    ignore_fields: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> MeasuredFlow:
    """The flow of a submission that is named, on a task that is named; see `measure_flow`.

    Raises:
        TaskError: there is no such task or order, or it has no site.
        RemainderError: as `measure_flow`.
    """
    if order not in ORDERS:
        raise TaskError(f"--order {order!r} is no order of keeping", fix=f"use one of {', '.join(ORDERS)}")
    if keeps is None:
        keeps_of(1, ratio, shells)  # before anything is loaded
    place = task if folder is None else task_in(folder, task)
    loaded = open_task(place, device=device, batch_size=batch_size, progress=progress)
    if not isinstance(loaded, SiteTask):
        raise TaskError(
            f"{loaded.task.id} has no site whose sources could be kept",
            fix="`remainder explain` shows a circuit at every size",
        )
    (entry,) = submissions_for(loaded, [name], ignore_fields, trust_code=trust_code)
    if not isinstance(entry, SiteEntry):
        entry.require_fit(loaded.task)
        raise TaskError(f"{name} rebuilds no activations", fix="name an interpretation of a site")
    settings = flow_plan(loaded, tier, documents, dtype)
    return measure_flow(
        loaded, entry, settings, out, order=order, keeps=keeps, ratio=ratio, shells=shells, fresh=fresh,
        progress=progress,
    )  # fmt: skip


def measure_flow(
    loaded: SiteTask,
    entry: SiteEntry,
    settings: Plan,
    out: Path,
    *,
    order: str = "dynamic",
    keeps: Sequence[int] | None = None,
    ratio: float = 2.0,
    shells: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> MeasuredFlow:
    """Measure the shells of a submission, or find their records; gives what they show together.

    Args:
        out: the folder of results.
        order: in which sources are kept, one of `measure.keeping.ORDERS`.
        keeps: how many sources the shells keep; default: by `ratio` and `shells`, see `keeps_of`.

    Raises:
        InterpretationError: it has no sources in that order, or breaks a rule.
        TaskError: more are to be kept than there are, or one shell alone is asked for.
    """
    sources = look_at_sources(loaded, entry, settings, order, progress=progress)
    chosen = keeps_of(sources.full, ratio, shells) if keeps is None else _asked(keeps, sources, entry.name)
    entries = [Shell(entry, sources.label, sources.adapted, sources.keeping(keep)) for keep in chosen]
    rows = sweep(
        loaded.task, entries, settings, out, loaded=loaded, device=loaded.device.type, fresh=fresh,
        progress=progress,
    )  # fmt: skip
    for row in rows:
        if row.problem is not None:
            raise row.problem
    finished = {
        keep: row.finished for keep, row in zip(chosen, rows, strict=True) if row.finished is not None
    }
    stored = {keep: StoredRecord(one.record, one.values) for keep, one in finished.items()}
    first = finished[chosen[0]].record
    flow = Flow(
        protocol=loaded.task.protocol,
        task=TaskInfo(id=first.task.id, version=first.task.version, hash=first.task.hash),
        submission=info(entry),
        tier=settings.tier,
        order=sources.label,
        sources=sources.full,
        ties=sources.ties,
        shells=tuple(FlowShell(keep=keep, record=stored[keep].record.record_id) for keep in chosen),
        scales=brackets_of(Shells.of(stored), seed=first.measurement.seed),
    )
    return MeasuredFlow(flow, tuple(stored[keep].record for keep in chosen))


def _asked(keeps: Sequence[int], sources: Sources, name: str) -> tuple[int, ...]:
    """The numbers that were asked for, ascending.

    Raises:
        TaskError: one of them cannot be kept, or they are fewer than two.
    """
    wanted = sorted(set(keeps))
    where = "at one token" if sources.ranking is None else "on calibration"
    if beyond := [keep for keep in wanted if not 0 <= keep <= sources.full]:
        raise TaskError(
            f"--keep {beyond[-1]}: {name} has {sources.full} sources {where}",
            fix=f"keep 0 to {sources.full} of them",
        )
    if len(wanted) < 2:
        raise TaskError("--keep: one shell shows no scale", fix="give two numbers or more, such as 0,1,2,4")
    return tuple(wanted)
