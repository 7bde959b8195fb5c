"""Records of schema 4, whose submissions do not state their format, are read as they were written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.base.paths import project_root
from remainder.errors import RecordError
from remainder.record.json import canonical_json, content_hash
from remainder.record.old import format_of
from remainder.record.schema import MethodInfo, Record, SubmissionInfo
from remainder.record.store import _result_id, read_sealed, read_summary, write_record

# Ids of these very measurements as the last version with schema 4 gave them.
PLAIN = "dbc334a79cbeb1cc0d6d5fdea8298d61fff7b8dd66f17c62ca7fc719f20bd158"
NESTED = "717165854fa6f42af1649c10255ec68b7c1e5138b600b07129b464143a58dd3b"

FINE = SubmissionInfo(
    name="fine-one",
    kind="reconstruction",
    files={},
    hash="0" * 64,
    method=MethodInfo(format="saelens"),
)


def as_schema_4(record: Record) -> dict[str, Any]:
    """The content of a record without what schema 5 added, sealed again."""
    content: dict[str, Any] = copy.deepcopy(record.model_dump(mode="json"))
    content["schema_version"] = 4
    content["protocol"] = "1"
    for part in ("submission", "reference"):
        if content[part] is not None:
            del content[part]["method"]
    return sealed(content)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    content["result_id"] = _result_id(content)
    content["record_id"] = content_hash({k: v for k, v in content.items() if k != "record_id"})
    return content


@pytest.mark.parametrize(("reference", "before"), [(None, PLAIN), (FINE, NESTED)])
def test_ids_differ_by_the_schema_version_and_the_method_alone(
    reference: SubmissionInfo | None, before: str
) -> None:
    record = synthetic_record(synthetic_values(), reference=reference)
    assert record.schema_version == 5
    assert record.result_id != before
    assert as_schema_4(record)["result_id"] == before


def test_the_method_is_part_of_the_result() -> None:
    values = synthetic_values()
    ids = {
        synthetic_record(
            values,
            submission=SubmissionInfo(
                name="a",
                kind="reconstruction",
                files={},
                hash=fake_hash("a"),
                method=MethodInfo(format=name),
            ),
        ).result_id
        for name in ("pca", "mean", None)
    }
    assert len(ids) == 3


def test_a_record_of_schema_4_is_read_and_written_to_the_byte(tmp_path: Path) -> None:
    values = synthetic_values()
    record = synthetic_record(values, reference=FINE)
    path = tmp_path / "new.json"
    write_record(record, values, path)
    old = tmp_path / "old.json"
    text = canonical_json(as_schema_4(record), indent=1) + "\n"
    old.write_text(text)
    path.with_suffix(".csv.gz").rename(old.with_suffix(".csv.gz"))
    found = read_sealed(old)
    assert found.schema_version == 4
    assert found.submission.method is None
    assert found.submission.format is None
    assert canonical_json(found.model_dump(mode="json"), indent=1) + "\n" == text


@pytest.mark.parametrize("part", ["submission", "reference"])
@pytest.mark.parametrize("version", [4, 5])
def test_the_schema_version_says_whether_there_is_a_method(part: str, version: int, tmp_path: Path) -> None:
    record = synthetic_record(synthetic_values(), reference=FINE)
    content = as_schema_4(record) if version == 5 else record.model_dump(mode="json")
    other = record.model_dump(mode="json") if version == 5 else as_schema_4(record)
    content = {**other, "schema_version": version, part: content[part]}
    path = tmp_path / "record.json"
    path.write_text(canonical_json(sealed(content)))
    fault = "lacks" if version == 5 else "states"
    with pytest.raises(RecordError, match=f"{fault} its method in schema {version}"):
        read_summary(path)


def test_archived_records_of_schema_4_tell_the_format_of_circuits_that_were_found() -> None:
    told: dict[str, set[str | None]] = {}
    for path in sorted((project_root() / "leaderboard" / "archive" / "1" / "results").rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] == 4 and content["submission"]["kind"] == "circuit":
            submission = content["submission"]
            told.setdefault(submission["name"], set()).add(format_of(submission["hash"]))
    found = {name for name, formats in told.items() if formats != {None}}
    assert {"edge-attribution", "edge-patching", "node-attribution"} <= {
        format for formats in told.values() for format in formats
    }
    assert not found & {"full-graph", "empty-graph", "random-edges"}
