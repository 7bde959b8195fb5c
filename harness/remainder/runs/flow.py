"""The flow of an interpretation: its shells measured like a list of submissions, and what they show together.

Every shell has a record in the folder of results, found again by a later run; the flow itself is a small
file beside them that names these records, and follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from remainder.base.cache import Progress
from remainder.errors import RecordError, TaskError
from remainder.interpretation.kept import Shared
from remainder.loading.loaded import LoadedTask
from remainder.loading.prompts import PromptTask
from remainder.loading.site import SiteTask
from remainder.measure.estimate import Estimate, estimate, passes_of
from remainder.measure.keeping import ORDERS, Sources, look_at_sources
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import info
from remainder.record.flow import Flow, FlowShell, MeasuredFlow, Shells, brackets_of
from remainder.record.flow_file import require_shells, write_flow
from remainder.record.rungs import AMPLITUDES, GAUSSIANITY
from remainder.record.store import StoredRecord
from remainder.runs.cells import sweep
from remainder.runs.circuit_shells import circuit_shells
from remainder.submission.shells import Shell
from remainder.submission.submission import Entry, PromptEntry, SiteEntry

__all__ = [
    "RUNGS",
    "Planned",
    "estimate_flow",
    "flow_plan",
    "keeps_of",
    "measure_flow",
    "plan_flow",
    "require_asked",
    "sharp_of",
]

RUNGS = (
    *("raw", "mean", *AMPLITUDES, "permuted"),
    *("renormalised-mean", "mirror", "noise-fitted"),
)
"""Rungs of every shell beside its codes, about thirty passes; others may be asked for."""

_ORDER, _RATIO = "dynamic", 2.0
_PAIRS, _FEWER_PAIRS = 8, 4
"""Antithetic pairs of annealed losses, at three shells and at the others."""
_TESTED = 1024
"""Width up to which residuals are tested for Gaussianity unasked; time grows with its cube."""
_DOCUMENTS = 16  # of a text: a first look at ten shells in minutes


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


def sharp_of(keeps: Sequence[int]) -> frozenset[int]:
    """The three shells whose annealed losses are of more draws: ends and middle in log k, of those above 0.

    Scales are spread evenly in log k, and where they lie is not known when this is decided.
    """
    above = [keep for keep in keeps if keep > 0]
    if len(above) <= 3:
        return frozenset(above)
    middle = min(above[1:-1], key=lambda keep: abs(2 * math.log(keep) - math.log(above[0] * above[-1])))
    return frozenset({above[0], middle, above[-1]})


def flow_plan(
    loaded: LoadedTask, tier: str, documents: int | None, dtype: str | None, *, more: Sequence[str] = ()
) -> Plan:
    """The plan of the shells whose annealed losses are of most draws; see `Planned.plan_of`.

    Args:
        documents: of the evaluation split; default: 16 of a text, else all of the tier.
        more: rungs besides, and parts of the deep plan: `coupled` (amplitudes of source and noise),
            `gaussianity` (unasked where the site is narrow enough).

    Raises:
        TaskError: as `measure.plan.plan`; or something is asked of circuits besides.
    """
    task = loaded.task
    if documents is None and task.corpus is not None and task.tier(tier).evaluation_windows > _DOCUMENTS:
        documents = _DOCUMENTS
    if not task.kind.has_residual:
        rungs = (*task.rungs, "mean", *more)
        return plan(task, tier, rungs=rungs, dtype=dtype, documents=documents, device=loaded.device.type)
    tested = (GAUSSIANITY,) if task.site.width <= _TESTED else ()
    found = plan(
        task,
        tier,
        rungs=(*RUNGS, *tested, *more),
        dtype=dtype,
        documents=documents,
        device=loaded.device.type,
    )
    return found if found.whole else found._replace(annealed_pairs=_PAIRS, is_lean=True)


class Planned(NamedTuple):
    """A flow before it is measured."""

    loaded: LoadedTask
    whole: Entry
    plan: Plan
    order: str
    sources: int
    ties: int
    shells: Mapping[int, Entry]
    """Submissions by how many sources each keeps, ascending."""

    def plan_of(self, keep: int) -> Plan:
        """The plan of a shell: annealed losses of most of them are of fewer draws."""
        if self.plan.whole or keep in sharp_of(tuple(self.shells)):
            return self.plan
        fewer = _FEWER_PAIRS if self.plan.couples else 0  # what the bath has anyway
        return self.plan._replace(annealed_pairs=min(self.plan.annealed_pairs, fewer))


def plan_flow(
    loaded: LoadedTask,
    entry: Entry,
    settings: Plan,
    *,
    order: str | None = None,
    keeps: Sequence[int] | None = None,
    ratio: float | None = None,
    shells: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Planned:
    """The shells of a submission.

    Args:
        order: in which sources of a reconstruction are kept, one of `measure.keeping.ORDERS`; default:
            dynamic. Circuits keep the edges of largest score, at their own sizes.
        keeps: how many sources the shells keep; default: by `ratio` (2) and `shells`, see `keeps_of`.
        out: the folder of results; circuits whose flow lies there are not looked for again, unless one has to
            be measured. Default: they are.

    Raises:
        InterpretationError: it has no sources in that order, or breaks a rule.
        TaskError: there is no such order, more are to be kept than there are, or one shell alone; shells are
            named and a ratio is given too; or something is asked of circuits that they decide themselves.
    """
    require_asked(order, keeps, ratio, shells)
    if isinstance(loaded, SiteTask) and isinstance(entry, SiteEntry):
        sources = look_at_sources(loaded, entry, settings, order or _ORDER, progress=progress)
        by_ratio = keeps_of(sources.full, ratio or _RATIO, shells)
        found = _site_shells(
            entry, sources, by_ratio if keeps is None else _asked(keeps, sources, entry.name)
        )
        return Planned(loaded, entry, settings, sources.label, sources.full, sources.ties, found)
    if isinstance(loaded, PromptTask) and isinstance(entry, PromptEntry):
        asked = {"--order": order, "--keep": keeps, "--ratio": ratio, "--shells": shells}
        if given := [name for name, value in asked.items() if value is not None]:
            raise TaskError(
                f"{', '.join(given)}: {entry.name} has circuits, which keep the edges or nodes of largest "
                "score, at sizes of their own",
                fix="leave it out",
            )
        return Planned(loaded, entry, settings, *circuit_shells(loaded, entry, settings, out))
    raise TaskError(
        f"{entry.name} has no sources on {loaded.task.id}", fix="name an interpretation, or a circuit"
    )


def require_asked(
    order: str | None, keeps: Sequence[int] | None, ratio: float | None, shells: int | None
) -> None:
    """Raise TaskError for what can be told to be wrong before anything is loaded."""
    if order is not None and order not in ORDERS:
        raise TaskError(f"--order {order!r} is no order of keeping", fix=f"use one of {', '.join(ORDERS)}")
    if keeps is not None and (ratio is not None or shells is not None):
        raise TaskError(
            "--keep names the shells, and --ratio or --shells would choose them", fix="give one of both"
        )
    keeps_of(1, _RATIO if ratio is None else ratio, shells)


def measure_flow(
    planned: Planned, out: Path, *, fresh: bool = False, progress: Progress | None = None
) -> MeasuredFlow:
    """Measure the shells of a flow, or find their records; gives what they show together.

    Args:
        out: the folder of results.

    Raises:
        RemainderError: a shell cannot be measured; finished ones are kept.
    """
    loaded = planned.loaded
    stored: dict[int, StoredRecord] = {}
    for settings in dict.fromkeys(map(planned.plan_of, planned.shells)):
        keeps = [keep for keep in planned.shells if planned.plan_of(keep) == settings]
        rows = sweep(
            loaded.task,
            [planned.shells[keep] for keep in keeps],
            settings,
            out,
            loaded=loaded,
            device=loaded.device.type,
            fresh=fresh,
            progress=progress,
        )
        for keep, row in zip(keeps, rows, strict=True):
            if row.finished is None:
                assert row.problem is not None
                raise row.problem
            stored[keep] = StoredRecord(row.finished.record, row.finished.values)
    stored = {keep: stored[keep] for keep in planned.shells}
    first = next(iter(stored.values())).record
    flow = Flow(
        protocol=loaded.task.protocol,
        task=first.task,
        submission=info(planned.whole),
        tier=planned.plan.tier,
        dtype=planned.plan.dtype,
        order=planned.order,
        sources=planned.sources,
        ties=planned.ties,
        shells=tuple(FlowShell(keep=keep, record=one.record.record_id) for keep, one in stored.items()),
        scales=brackets_of(Shells.of(stored), seed=first.measurement.seed),
    )
    _require_same(flow, stored)
    write_flow(flow, out)
    return MeasuredFlow(flow, tuple(one.record for one in stored.values()))


def _require_same(flow: Flow, stored: Mapping[int, StoredRecord]) -> None:
    """Check that shells which were found are those that are asked for now.

    Raises:
        RecordError: they were chosen among other sources: the order came out otherwise then.
    """
    try:
        require_shells(flow, {keep: one.record for keep, one in stored.items()})
    except RecordError as problem:
        fix = "measure all shells in one go, by --fresh (Python: fresh=True), or into a folder of their own"
        raise RecordError(f"{flow.submission.name} on {flow.task.id}: {problem.what}", fix=fix) from problem


def estimate_flow(planned: Planned) -> Estimate:
    """Foresee the measurement of all shells; see `measure.estimate`."""
    plans = [planned.plan_of(keep) for keep in planned.shells]
    least = min(plans, key=lambda one: passes_of(one).row)
    more = sum(passes_of(one).row - passes_of(least).row for one in plans)
    return estimate(planned.loaded, list(planned.shells.values()), least, more=more)


def _site_shells(entry: SiteEntry, sources: Sources, keeps: Sequence[int]) -> dict[int, Entry]:
    shared = replace(sources.adapted, inner=Shared(sources.adapted.inner))
    return {
        keep: Shell(
            entry,
            sources.label,
            keep,
            sources.full,
            sources.ties,
            adapted=shared,
            some=sources.keeping(keep),
        )
        for keep in keeps
    }


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
