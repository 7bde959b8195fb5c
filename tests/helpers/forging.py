"""Forged records: one field edited and every hash computed anew, as by one who means to be believed."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest

from remainder.base.files import read_toml
from remainder.base.paths import project_root
from remainder.board import consistency
from remainder.board.snapshot import results_folder
from remainder.board.verify import record_files
from remainder.record import recompute as recompute_module
from remainder.record import store as record_module
from remainder.record.json import canonical_json, content_hash, sha256
from remainder.record.schema import Measurement, MethodInfo, Record
from remainder.record.store import (
    _result_id,
    make_record,
    measurement_key,
    read_record,
    values_path,
    write_record,
)

Place = tuple[str | int, ...]
"""Keys and indices that lead to a field."""

HASHES = {"record_id", "result_id", "measurement_key"}
"""What a forger computes anew, so that an edit of these alone would be none."""


def leaves(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every field that holds no other, with its place."""
    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(content, dict) and content:
        items = iter(content.items())
    elif isinstance(content, list) and content:
        items = iter(enumerate(content))
    if items is None:
        yield place, content
    else:
        for key, item in items:
            yield from leaves(item, (*place, key))


def put(content: Any, place: Place, value: Any) -> None:
    """Replace the field at `place`."""
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def edited(value: Any, chance: random.Random) -> Any:
    """Another value of the same kind, not so near that it would be rounding."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([other for other in (value + 1, value - 1, 2 * value, 0, 7) if other != value])
    if isinstance(value, float):
        # Six digits are kept: a thousandth more, or less, is a forger's smallest gain worth having.
        near = [value * factor for factor in (0.999, 1.001, 0.9, 1.1, 0.5, 2.0, -1.0)]
        return chance.choice([*near, value + 1, value - 1] if abs(value) > 1e-4 else [value + 1, 0.01, 2e-5])
    if isinstance(value, str):
        if len(value) >= 40 and set(value) <= set("0123456789abcdef"):
            return sha256(value.encode())[: len(value)]
        if value[4:5] + value[7:8] == "--" and value[:4].isdigit():
            return f"1999{value[4:]}"
        return chance.choice([value + "x", "other", value[::-1] + "?"])
    if value is None:
        return 1.5
    return ["other"] if isinstance(value, list) else {"other": "other"}


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its key and both hashes computed anew."""
    reference = content["reference"]
    content = {name: item for name, item in content.items() if name not in HASHES}
    content["measurement_key"] = measurement_key(
        # Records that are older than a field lack it.
        SimpleNamespace(**{**dict.fromkeys(Measurement.later), **content["measurement"]}),
        protocol=content["protocol"],
        tier=content["tier"],
        task=SimpleNamespace(**content["task"]),
        submission=SimpleNamespace(**content["submission"]),
        reference=SimpleNamespace(**reference) if isinstance(reference, dict) else None,
        version=content["provenance"]["packages"].get("remainder", "unknown"),
    )
    content["result_id"] = _result_id(content)
    content["record_id"] = content_hash(content)
    return content


def write(content: dict[str, Any], values: bytes, root: Path, folder: str | None = None) -> Path:
    """Write a record and its values (CSV) where its own content says that it belongs.

    Args:
        folder: of the submission, if not its name.
    """
    task, name = content["task"], folder or content["submission"]["name"]
    major = str(task["version"]).partition("-")[0]
    path = root / str(task["id"]) / major / str(name) / f"{content['record_id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(canonical_json(content, indent=1) + "\n", encoding="utf-8")
    values_path(path).write_bytes(gzip.compress(values, compresslevel=1, mtime=0))
    return path


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """A record as plain JSON, and its values as CSV."""
    return json.loads(path.read_bytes()), gzip.decompress(values_path(path).read_bytes())


class Original(NamedTuple):
    """A committed record, copied to where it can be forged."""

    path: Path
    content: dict[str, Any]
    values: bytes

    @property
    def folder(self) -> str:
        return self.path.parent.name


def fields(content: dict[str, Any]) -> list[tuple[Place, Any]]:
    """All fields but the hashes."""
    return [(place, value) for place, value in leaves(content) if place[0] not in HASHES]


def committed_records() -> dict[Path, dict[str, Any]]:
    """The records of the leaderboard as plain JSON."""
    return {path: json.loads(path.read_bytes()) for path in record_files(results_folder())[0]}


def comes_with_the_benchmark(content: dict[str, Any]) -> bool:
    """Whether the submission of a record is one of the benchmark's own."""
    return (project_root() / "baselines" / content["submission"]["name"] / "submission.toml").is_file()


def smallest_of_every_sort() -> list[Path]:
    """Of committed records whose submission comes with the benchmark, one of each sort."""
    sorts: dict[tuple[Any, ...], tuple[int, Path]] = {}
    for path, content in committed_records().items():
        sort = (
            content["submission"]["kind"],
            content["measurement"]["whole"],
            content["compat"] is not None,
            content["reference"] is not None,
            bool(content["submission"]["files"]),
            bool(content["measurement"]["unmeasured"]),
            content["measurement"]["device"],
        )
        if comes_with_the_benchmark(content):
            sorts[sort] = min(sorts.get(sort, (10**9, path)), (content["documents"]["rows"], path))
    return [path for _, path in sorts.values()]


def copies(paths: list[Path], root: Path) -> list[Original]:
    """Records with all others of their tasks beside them, below a folder of results."""
    folders = {path.parents[1].relative_to(results_folder()) for path in paths}
    for folder in folders:
        shutil.copytree(results_folder() / folder, root / folder)
    places = [root / path.relative_to(results_folder()) for path in paths]
    return [Original(place, *read(place)) for place in places]


def root_of(original: Original) -> Path:
    """The folder of results that it lies in."""
    return next(path for path in original.path.parents if path.name == "results")


def plain(originals: list[Original]) -> Original:
    found = [
        one for one in originals if one.content["submission"]["files"] and one.content["reference"] is None
    ]
    return min(found, key=lambda one: (one.content["documents"]["rows"], one.path))


def remade(
    original: Original,
    root: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    format: str | None = None,
    **changed: Any,
) -> Path:
    """A record of edited values with all summaries computed from these: it agrees with itself.

    Args:
        format: of the submission, in place of its own.
        changed: arguments of `make_record` in place of the record's own.
    """
    stored = read_record(original.path)
    values, old = change(stored.values.copy()), stored.record
    described = read_toml(project_root() / "baselines" / old.submission.name / "submission.toml")
    stated = MethodInfo(format=format or described["method"]["format"])
    new = resealed(old, values, stated, **changed)
    path = root / original.path.relative_to(root_of(original)).parent / f"{new.record_id}.json"
    write_record(new, values, path)
    return path


def resealed(old: Record, values: pd.DataFrame, stated: MethodInfo, **changed: Any) -> Record:
    """A record of these values with the circumstances of another, but for `changed`."""
    kept = {
        name: getattr(old, name)
        for name in (
            *("protocol", "task", "tier", "model", "corpus", "complexity", "checks", "calibration"),
            *("measurement", "provenance", "reference", "compat", "warnings"),
        )
    }
    kept |= {
        "submission": old.submission.model_copy(update={"method": stated}),
        "gaussianity": old.metrics.gaussianity,
    }
    return make_record(values, **{**kept, **changed})


def remember_values(patch: pytest.MonkeyPatch) -> None:
    """What depends on the values alone is computed once: a thousand forgeries share a few tables."""
    known: dict[Any, Any] = {}

    def remember(module: Any, name: str) -> None:
        function = getattr(module, name)

        @wraps(function)
        def once(subject: Any, **options: Any) -> Any:
            # Tables are told apart by identity; they are kept, so that none takes the place of another.
            key = (name, subject if isinstance(subject, bytes) else id(subject), repr(options))
            if key not in known:
                found = function(subject, **options)
                known[key] = (list(found) if isinstance(found, Iterator) else found, subject)
            return known[key][0]

        patch.setattr(module, name, once)

    for name in ("values_from_csv", "csv_of"):
        remember(record_module, name)
    for name in ("canonical_values", "_summaries"):
        remember(recompute_module, name)
    remember(consistency, "_histograms")
