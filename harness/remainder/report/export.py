"""Records as files for other programs: tables as CSV and Parquet, and results in SAEBench's form.

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

from remainder.base.files import explained, present, require_folder, require_target
from remainder.errors import RecordError
from remainder.record.json import write_atomically
from remainder.record.rungs import ALL
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


def _csv(stored: Sequence[Stored], out: Path) -> Files:
    text: str = frame_of(stored, ALL).to_csv(index=False, lineterminator="\n")
    return {out: text.encode()}


def _parquet(stored: Sequence[Stored], out: Path) -> Files:
    buffer = io.BytesIO()
    frame_of(stored, ALL).to_parquet(buffer, engine="pyarrow", index=False)
    return {out: buffer.getvalue()}


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
    "saebench": Export(None, _saebench),
}
"""Formats by name."""


def default_target(format: str) -> Path:
    """The file or folder that is written unless another is named."""
    ending = EXPORTS[format].ending
    return Path(format) if ending is None else Path(f"results{ending}")


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
