"""Records as files for other programs: tables as CSV and Parquet, flows, and results in SAEBench's form.

All is made before anything is written; each file is written whole or not at all, and where one cannot be,
those written before it are removed again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from remainder.base.files import explained, present, require_folder, require_target
from remainder.errors import RecordError
from remainder.record.flow_file import FLOWS, read_flow
from remainder.record.json import write_atomically
from remainder.record.rungs import ALL
from remainder.report.flow import flow_frame
from remainder.report.layout import require_format
from remainder.report.results import Stored, frame_of
from remainder.report.saebench import saebench_content, saebench_name

__all__ = ["EXPORTS", "Export", "default_target", "export", "require_free"]

_SHOWN = 5  # names in a message

Files = dict[Path, bytes]
"""Content of files by their path."""


class Export(NamedTuple):
    """A format that records are exported in."""

    ending: str | None
    """Ending of its one file; None: a folder with a file a record."""
    make: Callable[[Sequence[Stored], Path], Files]
    name: str = "results"
    """Name of the file that is written unless another is given."""


def _csv(stored: Sequence[Stored], out: Path) -> Files:
    text: str = frame_of(stored, ALL).to_csv(index=False, lineterminator="\n")
    return {out: text.encode()}


def _parquet(stored: Sequence[Stored], out: Path) -> Files:
    buffer = io.BytesIO()
    frame_of(stored, ALL).to_parquet(buffer, engine="pyarrow", index=False)
    return {out: buffer.getvalue()}


def _flows(stored: Sequence[Stored], out: Path) -> Files:
    """A row for each shell of every flow that lies beside the records."""
    shells = [one.path for one in stored if one.record.submission.is_shell]
    paths = sorted({flow for path in shells for flow in FLOWS.beside(path)})
    if not paths:
        raise RecordError(
            "no flow lies beside these records", fix="name a folder of results of `remainder flow`"
        )
    text: str = pd.concat([_of_flow(path) for path in paths]).to_csv(index=False, lineterminator="\n")
    return {out: text.encode()}


def _of_flow(path: Path) -> pd.DataFrame:
    """The shells of a flow, each with what the flow is of, and its scales."""
    flow, records = read_flow(path)
    head: dict[str, str | int] = {
        "task": flow.task.id,
        "version": flow.task.version,
        "tier": flow.tier,
        "dtype": flow.dtype,
        "submission": flow.submission.name,
        "submission_hash": flow.submission.hash,
        "order": flow.order,
        "sources": flow.sources,
        "ties": flow.ties,
    }
    scales = {
        f"k_{name}_{end}": getattr(bracket, end)
        for name, bracket in flow.scales.items()
        for end in ("low", "high")
    }
    frame = flow_frame(flow, records)
    for place, (name, value) in enumerate(head.items()):
        frame.insert(place, name, value)
    return frame.assign(**{name: pd.array([value] * len(frame), "Int64") for name, value in scales.items()})


def _saebench(stored: Sequence[Stored], out: Path) -> Files:
    files, faults = {}, []
    for one in stored:
        try:
            content = saebench_content(one.record)
        except RecordError as problem:
            faults.append((one.path, problem))
            continue
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files[out / saebench_name(one.record)] = text.encode()
    if faults:
        listed = "; ".join(f"{path}: {problem.what}" for path, problem in faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise RecordError(
            f"{len(faults)} of {len(stored)} records cannot be exported: {listed}{more}",
            fix=faults[0][1].fix,
        )
    return files


EXPORTS: Mapping[str, Export] = {
    "csv": Export(".csv", _csv),
    "parquet": Export(".parquet", _parquet),
    "flows": Export(".csv", _flows, "flows"),
    "saebench": Export(None, _saebench),
}
"""Formats by name."""


def default_target(format: str) -> Path:
    """The file or folder that is written unless another is named."""
    ending = EXPORTS[format].ending
    return Path(format) if ending is None else Path(f"{EXPORTS[format].name}{ending}")


def require_free(format: str, out: Path, *, overwrite: bool = False) -> None:
    """Check that records can be exported to `out`, before they are read.

    Raises:
        RecordError: there is no such format, `out` cannot be written, or its file is there already.
    """
    require_format(format, list(EXPORTS))
    ending = EXPORTS[format].ending
    if ending is None:
        require_folder(out, "--out", RecordError)
        return
    require_target(out, "--out", (ending,))
    _require_absent([out], overwrite)


def export(stored: Sequence[Stored], format: str, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write records to the file or into the folder `out`; gives the files.

    Tables have the columns of `load_results`, those of every rung that is measured among them.

    Args:
        format: one of `EXPORTS`.
        overwrite: whether files that are there already are replaced.

    Raises:
        RecordError: as `require_free`; or a record lacks what the format needs. Then nothing is written.
    """
    require_free(format, out, overwrite=overwrite)
    files = EXPORTS[format].make(stored, out)
    _require_absent(list(files), overwrite)
    written: list[Path] = []
    try:
        for path, content in files.items():
            before = path if present(path) else None
            write_atomically(path, content)
            if before is None:
                written.append(path)
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
    return list(files)


def _require_absent(paths: Sequence[Path], overwrite: bool) -> None:
    with explained(None, RecordError):
        there = [path for path in paths if not overwrite and present(path)]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise RecordError(
            f"{there[0]}{more}: exists already", fix="name another place, or replace it with --overwrite"
        )
