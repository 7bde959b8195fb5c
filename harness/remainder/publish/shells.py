"""The shell that a record is of, made again: from the whole submission, by a flow beside the record."""

from __future__ import annotations

from pathlib import Path

from remainder.base.cache import Progress
from remainder.errors import RecordError
from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan
from remainder.record.flow import Flow
from remainder.record.flow_file import FLOWS, read_flow
from remainder.record.schema import Record
from remainder.runs.flow import Planned, plan_flow
from remainder.submission.shells import CIRCUIT_ORDERS
from remainder.submission.submission import Entry

__all__ = ["flow_of", "shell_of"]

_LAST: dict[tuple[str, str], Planned] = {}
"""The shells that were made last, by whole submission and order: those of one flow come one after another,
and circuits are looked for once."""


def flow_of(path: Path) -> Flow:
    """A flow that names the shell whose record lies at `path`.

    Raises:
        RecordError: there is none, or it is at fault.
    """
    found = FLOWS.beside(path)
    if not found:
        raise RecordError(
            f"{path}: is a shell, and no flow beside it names it: nothing says how it is made",
            fix="put its flow (.flow) beside the folder of the record, or run `remainder flow` again",
        )
    return read_flow(found[0]).flow


def shell_of(
    flow: Flow, record: Record, whole: Entry, loaded: LoadedTask, plan: Plan, progress: Progress | None = None
) -> Entry:
    """A shell of a flow.

    Args:
        record: of the shell.
        whole: the whole submission, which is known to be that of the flow.
        plan: of the record; orders are found on the calibration split of its tier.

    Raises:
        RecordError: sources come out otherwise here than the flow says.
        RemainderError: the submission has no sources.
    """
    keeps = {shell.record: shell.keep for shell in flow.shells}
    key = (whole.hash, flow.order)
    if key not in _LAST or _LAST[key].loaded.task.hash != loaded.task.hash:
        of_circuits = flow.order in CIRCUIT_ORDERS.values()
        order = None if of_circuits else flow.order.partition(" ")[0]
        some = None if of_circuits else tuple(keeps.values())
        _LAST.clear()
        _LAST[key] = plan_flow(loaded, whole, plan, order=order, keeps=some, progress=progress)
    planned = _LAST[key]
    stated = flow.order, flow.sources, flow.ties
    found = planned.order, planned.sources, planned.ties
    if stated != found or keeps[record.record_id] not in planned.shells:
        raise RecordError(
            f"the flow of {whole.name} keeps {keeps[record.record_id]} of {stated[1]} sources ({stated[0]}, "
            f"{stated[2]} tie); here there are {found[1]} ({found[0]}, {found[2]} tie)",
            fix="measure the flow anew with `remainder flow`, and compare it",
        )
    return planned.shells[keeps[record.record_id]]
