"""Records: made from values, kept in two files, read back and verified.

A record is `<stem>.json` (canonical JSON) beside `<stem>.csv.gz` (the per-document values, from which every
metric can be recomputed without a model). It carries two hashes: `result_id` over the scientific content,
equal for two runs that found the same, and `record_id` over everything.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import pandas as pd
from pydantic import ValidationError

from remainder.base.files import SETTINGS, present, require_file
from remainder.base.messages import placed_fault
from remainder.base.paths import machine_paths
from remainder.errors import RecordError
from remainder.record import old
from remainder.record.compat import Compat
from remainder.record.json import (
    canonical_json,
    cleaned,
    cleaned_hash,
    content_hash,
    sha256,
    write_atomically,
)
from remainder.record.memorised import CHECK, check_memorised
from remainder.record.metrics import Gaussianity, Metrics
from remainder.record.rungs import GAUSSIANITY
from remainder.record.schema import (
    SCHEMA_VERSION,
    CalibrationInfo,
    Check,
    Complexity,
    DocumentsInfo,
    Measurement,
    Pinned,
    Provenance,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.record.summary import summaries_of
from remainder.record.turns import writing
from remainder.record.values import canonical_values, csv_of, of_split, values_from_csv, values_to_csv

__all__ = [
    "LARGEST_VALUES",
    "StoredRecord",
    "documents_info",
    "key_of",
    "make_record",
    "measurement_key",
    "read_record",
    "read_sealed",
    "read_summary",
    "values_path",
    "write_record",
]

LARGEST_VALUES = 200_000_000
"""Bytes of unpacked values that are read; all rungs of 1,682 windows have seventy million."""


class StoredRecord(NamedTuple):
    """A record and the per-document values beside it."""

    record: Record
    values: pd.DataFrame


def make_record(
    values: pd.DataFrame,
    *,
    protocol: str | int,
    task: TaskInfo,
    submission: SubmissionInfo,
    tier: str,
    model: Pinned,
    corpus: Pinned,
    complexity: Complexity,
    checks: Mapping[str, Check],
    calibration: CalibrationInfo,
    measurement: Measurement,
    provenance: Provenance,
    reference: SubmissionInfo | None = None,
    gaussianity: Gaussianity | None = None,
    compat: Compat | None = None,
    warnings: Iterable[str] = (),
) -> Record:
    """Summarise `values` and seal them with their circumstances into a record.

    The metrics (but `gaussianity`), `complexity.l0` and, of codes that are paid for, `bits_per_token` are
    computed here, with `measurement.seed`.

    Raises:
        MeasurementError: the values are incomplete or not finite.
        RecordError: a number is NaN or infinite, a path of this machine would be stored, or a rung that was
            to be measured is not among the values.
    """
    if absent := set(measurement.rungs) - {*values["rung"], *measurement.unmeasured, GAUSSIANITY}:
        fix = "measure them or leave them out of the rungs"
        raise RecordError(f"no values for the rungs {sorted(absent)}", fix=fix)
    table = canonical_values(values)
    metrics, counted = summaries_of(
        table, seed=measurement.seed, coding=complexity.coding, best=calibration.best
    )
    parts = {
        "task": task,
        "submission": submission,
        "reference": reference,
        "model": model,
        "corpus": corpus,
        "metrics": metrics.model_copy(update={"gaussianity": gaussianity}),
        "compat": compat,
        "complexity": complexity.model_copy(update=counted),
        "calibration": calibration,
        "measurement": measurement,
        "documents": documents_info(table),
        "provenance": provenance,
    }
    content: dict[str, Any] = {
        **{name: None if part is None else part.model_dump() for name, part in parts.items()},
        "schema_version": SCHEMA_VERSION,
        "protocol": str(protocol),
        "tier": tier,
        "checks": {name: check.model_dump() for name, check in _checks(checks, calibration, metrics).items()},
        "warnings": list(warnings),
    }
    version = provenance.packages.get("remainder", "unknown")
    content["measurement_key"] = measurement_key(
        measurement,
        protocol=protocol,
        tier=tier,
        task=task,
        submission=submission,
        reference=reference,
        version=version,
    )
    return _sealed(content)


def _checks(checks: Mapping[str, Check], calibration: CalibrationInfo, metrics: Metrics) -> dict[str, Check]:
    """The checks of a run, and the one that needs its summaries."""
    if not calibration.unexplained:
        return dict(checks)
    explained = metrics.reconstruction.explained_variance
    return {**checks, CHECK: check_memorised(calibration.unexplained, explained)}


def _sealed(content: dict[str, Any]) -> Record:
    """The record of that content, with both of its hashes.

    Raises:
        RecordError: it holds a path of this machine.
    """
    for place, text in machine_paths(content):
        raise RecordError(
            f"{place}: {text!r} holds an absolute path", fix="store a path relative to the project"
        )
    content["result_id"] = _result_id(content)
    content["record_id"] = content_hash(content)
    return Record.model_validate(content)


@runtime_checkable
class MeasurementSettings(Protocol):
    """Settings of a measurement, as a plan asks for them or a record states them."""

    @property
    def rungs(self) -> tuple[str, ...]: ...
    @property
    def whole(self) -> bool: ...
    @property
    def compat(self) -> bool: ...
    @property
    def peers(self) -> tuple[str, ...] | None: ...
    @property
    def pairs(self) -> int: ...
    @property
    def annealed_draws(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...


@runtime_checkable
class Hashed(Protocol):
    """A task or a submission, which its hash tells from others."""

    @property
    def hash(self) -> str: ...


def measurement_key(
    settings: MeasurementSettings,
    *,
    protocol: str | int,
    tier: str,
    task: Hashed,
    submission: Hashed,
    reference: Hashed | None,
    version: str,
) -> str:
    """Hash of all that a run is going to measure: a finished record with this key need not be made again.

    Args:
        settings: rungs in any order; a device by its type (`cpu`, `cuda`), not its number.
        reference: the finer interpretation that stands in for the model, if any.
        version: of this package.
    """
    # Of the deep plan, which has always as many, nothing is said.
    annealed = {} if settings.whole or not settings.annealed_draws else {"annealed": settings.annealed_draws}
    return content_hash(
        {
            "task": task.hash,
            "submission": submission.hash,
            "reference": None if reference is None else reference.hash,
            "tier": tier,
            "rungs": sorted(set(settings.rungs)),
            "whole": settings.whole,
            "compat": settings.compat if settings.peers is None else sorted(settings.peers),
            "pairs": settings.pairs,
            **annealed,
            "dtype": settings.dtype,
            "device": settings.device,
            "protocol": str(protocol),
            "version": version,
        }
    )


def key_of(record: Record) -> str:
    """The measurement key that the parts of a record give."""
    return measurement_key(
        record.measurement,
        protocol=record.protocol,
        tier=record.tier,
        task=record.task,
        submission=record.submission,
        reference=record.reference,
        version=record.provenance.packages.get("remainder", "unknown"),
    )


def values_path(path: Path) -> Path:
    """The path of the per-document values of the record at `path`."""
    return path.with_suffix(".csv.gz")


def write_record(record: Record, values: pd.DataFrame, path: Path) -> None:
    """Write `path` (`<stem>.json`) and `<stem>.csv.gz`, each whole or not at all, the JSON last.

    Raises:
        RecordError: `path` does not end in .json, `values` are not those of the record, or it cannot be
            written; then what was there before is there again.
    """
    if path.suffix != ".json":
        raise RecordError(f"{path.name} does not end in .json", fix="name the record's file so")
    data = values_to_csv(values)
    if sha256(data) != record.documents.sha256:
        raise RecordError(
            f"{path.name}: these are not the values of the record", fix="pass what was summarised"
        )
    text = canonical_json(record.model_dump(mode="json"), indent=1) + "\n"
    beside = values_path(path)
    with writing(path.parent):
        before = beside.read_bytes() if beside.is_file() else None
        write_atomically(beside, gzip.compress(data, mtime=0))
        try:
            write_atomically(path, text.encode())
        except BaseException:
            # Values without their record, or with another one, are half a record.
            if before is None:
                beside.unlink()
            else:
                write_atomically(beside, before)
            raise


def read_record(path: str | Path) -> StoredRecord:
    """Read a record and its values, and verify every hash.

    Raises:
        RecordError: a file is missing, truncated or edited, or the record has another schema version.
    """
    record, data = _read(Path(path))
    return StoredRecord(record, values_from_csv(data))


def read_sealed(path: Path) -> Record:
    """The record alone, as `read_record` reads it, with every hash verified, that of its values too.

    Raises:
        RecordError: as `read_record`.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Record, bytes]:
    record = read_summary(path)
    beside = values_path(path)
    if not present(beside):
        raise RecordError(
            f"{path.name}: the values {beside.name} are not beside it",
            fix="copy both files of a record together",
        )
    require_file(beside, error=RecordError)
    try:
        with gzip.open(beside) as stream:
            data = stream.read(LARGEST_VALUES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{beside}: cannot be unpacked ({error})", fix="fetch it again") from error
    if len(data) > LARGEST_VALUES:  # a few megabytes can hold gigabytes of zeros
        raise RecordError(f"{beside}: unpacks to more than {LARGEST_VALUES:,} bytes", fix="fetch it again")
    found = sha256(data)
    if found != record.documents.sha256:
        raise RecordError(
            f"{beside}: content hash {found[:12]}…, the record says {record.documents.sha256[:12]}…",
            fix="restore the file as it was written; values are not edited",
        )
    return record, data


def documents_info(table: pd.DataFrame) -> DocumentsInfo:
    clean = of_split(table.loc[table["rung"] == "clean"])
    return DocumentsInfo(
        sha256=sha256(csv_of(table)),
        rows=len(table),
        documents=int(clean["document"].nunique()),
        windows=len(clean),
        tokens=int(clean["tokens"].sum()),
    )


def _result_id(content: Mapping[str, Any], digest: Callable[[Any], str] = content_hash) -> str:
    """Hash of what was found, whoever ran it wherever: no name, host, timing or provenance.

    Args:
        digest: makes the hash; `cleaned_hash`, if the content is `cleaned`.
    """
    names = (
        "schema_version",
        "protocol",
        "task",
        "tier",
        "model",
        "corpus",
        "metrics",
        "compat",
        "complexity",
    )
    science = {name: content[name] for name in names}
    submission, measurement = content["submission"], content["measurement"]
    parts = ("kind", "files", "hash", "method")  # records of schema 4 have no method
    science["submission"] = {name: submission[name] for name in parts if name in submission}
    settings = ("rungs", "pairs", "annealed_draws", "whole", "compat", "peers", "unmeasured", "seed", "dtype")
    science["measurement"] = {name: measurement[name] for name in settings if name in measurement}
    if content.get("reference") is not None:
        reference = content["reference"]
        science["reference"] = {name: reference[name] for name in parts if name in reference}
    science["calibration"] = content["calibration"]
    science["documents"] = content["documents"]
    return digest(science)


def read_summary(path: Path) -> Record:
    """The record alone, its own hashes verified; the values beside it are neither read nor looked at.

    Raises:
        RecordError: the file is missing, truncated or edited, or of another schema version.
    """
    if not present(path):
        raise RecordError(f"{path}: no such record", fix="give the path of a record's .json file")
    require_file(path, most=SETTINGS, error=RecordError)
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except RecursionError as error:
        raise RecordError(f"{path}: is nested too deeply for a record", fix="fetch it again") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: is not whole JSON ({error})", fix="fetch or measure it again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    readable = (*old.VERSIONS, SCHEMA_VERSION)
    if version not in readable:
        raise RecordError(
            f"{path}: schema version {version}, this package reads {' and '.join(map(str, readable))}",
            fix="use the package version that wrote it, or check that this is a record",
        )
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise RecordError(
            f"{path}: {placed_fault(error)} ({error.error_count()} fields at fault)",
            fix="restore the file as it was",
        ) from error
    stated = content.pop("record_id")
    content = cleaned(content)
    if cleaned_hash(content) != stated or _result_id(content, cleaned_hash) != record.result_id:
        raise RecordError(
            f"{path}: its content does not match its record_id {stated[:12]}…: it was edited",
            fix="restore the file as it was written, or measure again",
        )
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that a record may hold")
