"""The shell that a record is of, made again from the whole submission by a flow or levels beside it."""

from __future__ import annotations

from pathlib import Path

from remainder.base.cache import Progress
from remainder.errors import RecordError
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan
from remainder.record.flow_file import FLOWS, read_flow, shells_of
from remainder.record.levels_file import LEVELS, read_levels
from remainder.record.schema import SubmissionInfo
from remainder.record.shells import ShellsOf
from remainder.runs.flow import Planned, plan_flow
from remainder.submission.shells import CIRCUIT_ORDERS
from remainder.submission.submission import Entry

__all__ = ["shell_of", "shells_beside"]

_LAST: dict[tuple[str, str], Planned] = {}
"""The shells that were made last, by whole submission and order: those of one come one after another, and
circuits are looked for once."""


def shells_beside(path: Path) -> ShellsOf:
    """The shells among which a flow or levels name the one whose record lies at `path`.

    Raises:
        RecordError: none does, or it is at fault.
    """
    if found := FLOWS.beside(path):
        return shells_of(read_flow(found[0]).flow)
    of_levels = [read_levels(one).levels.shells for one in LEVELS.beside(path)]
    if shells := [one for one in of_levels if one is not None]:
        return shells[0]
    raise RecordError(
        f"{path}: is a shell, and neither a flow nor levels beside it name it: nothing says how it is made",
        fix="put its flow (.flow) or levels (.levels) beside the folder of the record, or measure it anew by "
        "`remainder flow` or `levels`",
    )


def shell_of(
    shells: ShellsOf,
    stated: SubmissionInfo,
    whole: Entry,
    loaded: LoadedTask,
    plan: Plan,
    progress: Progress | None = None,
) -> Entry:
    """One of some shells.

    Args:
        stated: which.
        whole: the whole submission, which is known to be that of the shells.
        plan: of the record; orders are found on the calibration split of its tier.

    Raises:
        RecordError: it is none of them, or sources come out otherwise here than they say.
        RemainderError: the submission has no sources.
    """
    keep, key = shells.keep_of(stated), (whole.hash, shells.order)
    if key not in _LAST or _LAST[key].loaded.task.hash != loaded.task.hash or keep not in _LAST[key].shells:
        of_circuits = shells.order in CIRCUIT_ORDERS.values()
        order = None if of_circuits else shells.order.partition(" ")[0]
        some = None if of_circuits else shells.keeps
        _LAST.clear()
        _LAST[key] = plan_flow(loaded, whole, plan, order=order, keeps=some, progress=progress)
    planned = _LAST[key]
    of_shells = shells.order, shells.sources, shells.ties
    found = planned.order, planned.sources, planned.ties
    if of_shells != found or keep not in planned.shells:
        raise RecordError(
            f"the shells of {whole.name} keep {keep} of {of_shells[1]} sources ({of_shells[0]}, "
            f"{of_shells[2]} tie); here there are {found[1]} ({found[0]}, {found[2]} tie)",
            fix="measure the shells anew with `remainder flow` or `remainder levels`, and compare them",
        )
    return planned.shells[keep]
