"""Flows on disk: `<results>/<task>/<N>/<submission>.<order>-<hash>.flow`, beside the folders of their shells.

A flow proves itself: its hash is that of its content, its shells are records that prove themselves, and its
scales are computed from these once more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from remainder.base.files import require_file
from remainder.base.messages import message_of
from remainder.errors import RecordError
from remainder.record.flow import Flow, MeasuredFlow, Shells, brackets_of
from remainder.record.json import canonical_json, content_hash, write_atomically
from remainder.record.store import StoredRecord, read_record

__all__ = ["FLOW", "read_flow", "write_flow"]

FLOW = ".flow"
"""The ending of such files."""

_LARGEST = 1_000_000  # bytes; one of ten shells has two thousand
_RESTORE = "restore it as it was written, or run `remainder flow` again, which finds the shells"


def write_flow(flow: Flow, results: Path) -> Path:
    """Write a flow whole or not at all, into the folder of results that holds its shells; gives its path."""
    content = flow.model_dump(mode="json")
    digest = content_hash(content)
    name = f"{flow.submission.name}.{flow.order.partition(' ')[0]}-{digest[:12]}{FLOW}"
    path = results / flow.task.id / flow.task.version.partition("-")[0] / name
    text = canonical_json({**content, "flow_id": digest}, indent=1)
    write_atomically(path, f"{text}\n".encode())
    return path


def read_flow(path: Path) -> MeasuredFlow:
    """A flow with the records of its shells, all of it verified.

    Raises:
        RecordError: the file is damaged or was edited, a shell is missing, at fault or of another task, or
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
    for keep, one in stored.items():
        if one.record.task != flow.task or one.record.tier != flow.tier:
            raise RecordError(f"{path}: the shell that keeps {keep} is of another task or tier", fix=_RESTORE)
    first = stored[flow.shells[0].keep].record
    try:
        scales = brackets_of(Shells.of(stored), seed=first.measurement.seed)
    except ValueError as problem:
        raise RecordError(f"{path}: {message_of(problem)}", fix=_RESTORE) from problem
    if scales != flow.scales:
        wrong = next(name for name in scales if scales[name] != flow.scales.get(name))
        raise RecordError(
            f"{path}: k_{wrong} does not follow from the shells: it is {scales[wrong].verdict}", fix=_RESTORE
        )
    return MeasuredFlow(flow, tuple(one.record for one in stored.values()))


def _content(path: Path) -> Flow:
    require_file(path, most=_LARGEST, error=RecordError)
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        stated = content.pop("flow_id")
        flow = Flow.model_validate(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as problem:
        raise RecordError(f"{path}: is no flow ({message_of(problem)})", fix=_RESTORE) from problem
    if content_hash(flow.model_dump(mode="json")) != stated:
        raise RecordError(f"{path}: its content is not that of its hash: it was edited", fix=_RESTORE)
    keeps = [shell.keep for shell in flow.shells]
    if len(keeps) < 2 or keeps != sorted(set(keeps)):
        raise RecordError(f"{path}: its shells do not ascend, or there is but one", fix=_RESTORE)
    return flow
