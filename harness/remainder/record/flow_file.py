"""Flows on disk: `<results>/<task>/<N>/<submission>.<order>-<hash>.flow`, beside the folders of their shells.

The hash in the name is that of what a flow is of: task, submission, order, tier and dtype. So flows in other
orders, or of other documents, lie side by side, and one with other shells takes the place of what was there:
the file holds the shells that were asked for last. Shells that it no longer names keep their records.

A flow proves itself: its hash is that of its content, its shells are records that prove themselves, each is
the shell of this submission, order and number, and the scales are computed from these once more. How many
sources there are, and how many tie, is what every shell says too; only measuring again can tell more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.flow import Flow, MeasuredFlow, Shells, brackets_of
from remainder.record.json import canonical_json, content_hash, write_atomically
from remainder.record.schema import Record
from remainder.record.shell import shell_hash, shell_name, shell_note
from remainder.record.store import StoredRecord, read_record

__all__ = [
    "FLOW",
    "find_flow",
    "flow_alone",
    "flow_id",
    "flow_place",
    "flow_schema",
    "flows_beside",
    "read_flow",
    "require_shells",
    "write_flow",
]

FLOW = ".flow"
"""The ending of such files."""

_LARGEST = 1_000_000  # bytes; one of ten shells has two thousand
_RESTORE = "restore it as it was written, or run `remainder flow` again, which finds the shells"


def write_flow(flow: Flow, results: Path) -> Path:
    """Write a flow whole or not at all, into the folder of results that holds its shells; gives its path."""
    path = flow_place(flow, results)
    write_atomically(path, _written(flow))
    return path


def flow_id(flow: Flow) -> str:
    """The hash of a flow's content, which its file states."""
    return content_hash(flow.model_dump(mode="json"))


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
            flow = _content(path)
        except RecordError:  # told by `verify`; it is measured again, and then written anew
            continue
        stated = (flow.task.hash, flow.submission.hash, flow.order, flow.tier, flow.dtype)
        if stated == (task, submission, order, tier, dtype):
            return flow
    return None


def flows_beside(record: Path) -> list[Path]:
    """The files of flows that name a record, which lies in the folder of its submission; sorted."""
    found = []
    for path in sorted(record.parent.parent.glob(f"*{FLOW}")):
        if path.is_file() and path.stat().st_size <= _LARGEST and record.stem.encode() in path.read_bytes():
            found.append(path)
    return found


def flow_schema() -> dict[str, Any]:
    """The JSON schema of such a file."""
    schema = Flow.model_json_schema()
    schema["properties"]["flow_id"] = {
        "description": "SHA-256 of the canonical JSON of everything else.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    schema["required"] = [*schema["required"], "flow_id"]
    return schema


def flow_alone(path: Path) -> Flow:
    """A flow, its own hash verified; the records of its shells are neither read nor looked at.

    Raises:
        RecordError: the file is damaged or was edited.
    """
    return _content(path)


def read_flow(path: Path) -> MeasuredFlow:
    """A flow with the records of its shells, all of it verified.

    Raises:
        RecordError: the file is damaged or was edited, a shell is missing, at fault or not of this flow, or
            the scales do not follow from the shells.
    """
    flow = _content(path)
    stored: dict[int, StoredRecord] = {}
    for shell in flow.shells:
        found = sorted(path.parent.glob(f"*/{shell.record}.json"))
        if not found:
            raise RecordError(
                f"{path}: the shell that keeps {shell.keep} is missing: there is no record "
                f"{shell.record[:12]}… in the folders beside it",
                fix=_RESTORE,
            )
        stored[shell.keep] = read_record(found[0])
    try:
        require_shells(flow, {keep: one.record for keep, one in stored.items()})
        first = next(iter(stored.values())).record
        scales = brackets_of(Shells.of(stored), seed=first.measurement.seed)
    except (ValueError, RecordError) as problem:
        what = problem.what if isinstance(problem, RecordError) else message_of(problem)
        raise RecordError(f"{path}: {what}", fix=_RESTORE) from problem
    if set(scales) != set(flow.scales):
        raise RecordError(f"{path}: its scales are not {', '.join(scales)}", fix=_RESTORE)
    for name, scale in scales.items():
        if scale != flow.scales[name]:
            raise RecordError(
                f"{path}: k_{name} does not follow from the shells: it is {scale.verdict}", fix=_RESTORE
            )
    return MeasuredFlow(flow, tuple(one.record for one in stored.values()))


def require_shells(flow: Flow, records: Mapping[int, Record]) -> None:
    """Check that records are the shells of a flow, by how many sources each keeps.

    Raises:
        RecordError: one is not.
    """
    first = next(iter(records.values()))
    for keep, record in records.items():
        stated, whole = record.submission, flow.submission
        shell = shell_hash(whole.hash, flow.order, keep), shell_name(whole.name, flow.order, keep)
        if (stated.hash, stated.name) != shell or not stated.is_shell:
            raise RecordError(
                f"the record of the shell that keeps {keep} is of {stated.name} (hash {stated.hash[:12]}…), "
                f"and not of {whole.name} with {keep} sources in the order {flow.order}"
            )
        same = {
            "task": (record.task, flow.task),
            "tier": (record.tier, flow.tier),
            "dtype": (record.measurement.dtype, flow.dtype),
            "protocol": (record.protocol, flow.protocol),
            "kind": (stated.kind, whole.kind),
            "files": (stated.files, whole.files),
            "model": (record.model, first.model),
            "data": (record.corpus, first.corpus),
            "seed": (record.measurement.seed, first.measurement.seed),
        }
        if other := [name for name, (found, expected) in same.items() if found != expected]:
            raise RecordError(f"the shell that keeps {keep} is of another {', '.join(other)}")
        if shell_note(keep, flow.order, flow.sources, flow.ties) not in record.warnings:
            raise RecordError(
                f"{flow.sources} sources, of which {flow.ties} tie: the shell that keeps {keep} states others"
            )
        if keep > flow.sources:
            raise RecordError(f"a shell keeps {keep} of {flow.sources} sources")


def _written(flow: Flow) -> bytes:
    content = flow.model_dump(mode="json")
    text = canonical_json({**content, "flow_id": flow_id(flow)}, indent=1)
    return f"{text}\n".encode()


def _content(path: Path) -> Flow:
    require_file(path, most=_LARGEST, error=RecordError)
    try:
        data = path.read_bytes()
        content: dict[str, Any] = json.loads(data)
        stated = content.pop("flow_id")
        flow = Flow.model_validate(content)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as problem:
        raise RecordError(f"{path}: is no flow ({message_of(problem)})", fix=_RESTORE) from problem
    if flow_id(flow) != stated:
        raise RecordError(f"{path}: its content is not that of its hash: it was edited", fix=_RESTORE)
    if _written(flow) != data:
        raise RecordError(f"{path}: is not in the one form that flows are written in", fix=_RESTORE)
    keeps = [shell.keep for shell in flow.shells]
    if len(keeps) < 2 or keeps != sorted(set(keeps)):
        raise RecordError(
            f"{path}: its shells do not ascend, one is listed twice, or there is but one", fix=_RESTORE
        )
    return flow
