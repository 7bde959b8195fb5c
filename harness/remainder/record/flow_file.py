"""Flows on disk: `<results>/<task>/<N>/<submission>.<order>-<hash>.flow`, beside the folders of their shells.

The hash in the name is that of what a flow is of: task, submission, order, tier and dtype. So flows in other
orders, or of other documents, lie side by side, and one with other shells takes the place of what was there:
the file holds the shells that were asked for last. Shells that it no longer names keep their records.

A flow proves itself: its hash is that of its content, its shells are records that prove themselves, each is
the shell of this submission, order and number, and the scales are computed from these once more. How many
sources there are, and how many tie, is what every shell says too; only measuring again can tell more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.flow import Flow, MeasuredFlow, Shells, brackets_of
from remainder.record.joint import JointFile
from remainder.record.json import content_hash
from remainder.record.schema import Record
from remainder.record.shells import ShellsOf, require_shell
from remainder.record.store import StoredRecord

__all__ = [
    "FLOW",
    "FLOWS",
    "find_flow",
    "flow_alone",
    "flow_place",
    "read_flow",
    "require_shells",
    "shells_of",
    "write_flow",
]

FLOWS = JointFile(Flow, "flow", "is no flow")
FLOW = FLOWS.ending


def write_flow(flow: Flow, results: Path) -> Path:
    """Write a flow whole or not at all, into the folder of results that holds its shells; gives its path."""
    return FLOWS.write(flow, flow_place(flow, results))


def flow_place(flow: Flow, results: Path) -> Path:
    """The file of a flow in a folder of results."""
    identity = content_hash([flow.task.hash, flow.submission.hash, flow.order, flow.tier, flow.dtype])
    name = f"{flow.submission.name}.{flow.order.partition(' ')[0]}-{identity[:12]}{FLOW}"
    return results / flow.task.id / flow.task.version.partition("-")[0] / name


def find_flow(folder: Path, task: str, submission: str, order: str, tier: str, dtype: str) -> Flow | None:
    """The flow in the folder of a task's records that is of these; None if there is none.

    A damaged one is passed over. Its shells are not looked at.

    Args:
        task, submission: their hashes.
    """
    for path in sorted(folder.glob(f"*{FLOW}")):
        try:
            flow = flow_alone(path)
        except RecordError:  # told by `verify`; it is measured again, and then written anew
            continue
        stated = (flow.task.hash, flow.submission.hash, flow.order, flow.tier, flow.dtype)
        if stated == (task, submission, order, tier, dtype):
            return flow
    return None


def flow_alone(path: Path) -> Flow:
    """A flow, its own hash verified; the records of its shells are neither read nor looked at.

    Raises:
        RecordError: the file is damaged or was edited.
    """
    flow = FLOWS.read(path)
    keeps = [shell.keep for shell in flow.shells]
    if len(keeps) < 2 or keeps != sorted(set(keeps)):
        raise FLOWS.fault(path, "its shells do not ascend, one is listed twice, or there is but one")
    return flow


def read_flow(path: Path) -> MeasuredFlow:
    """A flow with the records of its shells, all of it verified.

    Raises:
        RecordError: the file is damaged or was edited, a shell is missing, at fault or not of this flow, or
            the scales do not follow from the shells.
    """
    flow = flow_alone(path)
    stored: dict[int, StoredRecord] = {
        shell.keep: FLOWS.record(path, shell.record, f"the shell that keeps {shell.keep}")
        for shell in flow.shells
    }
    try:
        require_shells(flow, {keep: one.record for keep, one in stored.items()})
        first = next(iter(stored.values())).record
        scales = brackets_of(Shells.of(stored), seed=first.measurement.seed)
    except (ValueError, RecordError) as problem:
        what = problem.what if isinstance(problem, RecordError) else message_of(problem)
        raise FLOWS.fault(path, what) from problem
    if set(scales) != set(flow.scales):
        raise FLOWS.fault(path, f"its scales are not {', '.join(scales)}")
    for name, scale in scales.items():
        if scale != flow.scales[name]:
            raise FLOWS.fault(path, f"k_{name} does not follow from the shells: it is {scale.verdict}")
    return MeasuredFlow(flow, tuple(one.record for one in stored.values()))


def require_shells(flow: Flow, records: Mapping[int, Record]) -> None:
    """Check that records are the shells of a flow, by how many sources each keeps.

    Raises:
        RecordError: one is not.
    """
    first, shells = next(iter(records.values())), shells_of(flow)
    for keep, record in records.items():
        require_shell(shells, keep, record)
        same = {
            "task": (record.task, flow.task),
            "tier": (record.tier, flow.tier),
            "dtype": (record.measurement.dtype, flow.dtype),
            "protocol": (record.protocol, flow.protocol),
            "model": (record.model, first.model),
            "data": (record.corpus, first.corpus),
            "seed": (record.measurement.seed, first.measurement.seed),
        }
        if other := [name for name, (found, expected) in same.items() if found != expected]:
            raise RecordError(f"the shell that keeps {keep} is of another {', '.join(other)}")


def shells_of(flow: Flow) -> ShellsOf:
    """The shells of a flow."""
    return ShellsOf(
        submission=flow.submission,
        order=flow.order,
        sources=flow.sources,
        ties=flow.ties,
        keeps=tuple(shell.keep for shell in flow.shells),
    )
