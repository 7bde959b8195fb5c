"""Records: identity, the two files, and every way in which they can be damaged."""

from __future__ import annotations

import gzip
import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values

from remainder.base.paths import project_root
from remainder.build import load_script
from remainder.errors import RecordError
from remainder.record.find import find_record, fullest_record
from remainder.record.json import canonical_json, content_hash, significant
from remainder.record.provenance import collect_provenance, git_state
from remainder.record.recompute import recompute
from remainder.record.schema import Check, MethodInfo, Record, SubmissionInfo
from remainder.record.store import measurement_key, read_record, values_path, write_record


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    return synthetic_values()


@pytest.fixture(scope="module")
def record(values: pd.DataFrame) -> Record:
    return synthetic_record(values)


@pytest.fixture
def stored(record: Record, values: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "results" / "one.json"
    write_record(record, values, path)
    return path


def test_the_round_trip_is_exact(stored: Path, record: Record, values: pd.DataFrame) -> None:
    found = read_record(stored)
    assert found.record == record
    recompute(found.record, found.values)
    again = stored.with_name("again.json")
    write_record(found.record, found.values, again)
    assert again.read_bytes() == stored.read_bytes()
    assert gzip.decompress(values_path(again).read_bytes()) == gzip.decompress(
        values_path(stored).read_bytes()
    )
    assert sorted(path.name for path in stored.parent.iterdir()) == [
        "again.csv.gz",
        "again.json",
        "one.csv.gz",
        "one.json",
    ]


def test_the_same_content_gives_the_same_bytes(record: Record, values: pd.DataFrame) -> None:
    again = synthetic_record(values.sample(frac=1.0, random_state=0))
    assert again == record


def test_ids_say_what_they_cover(record: Record, values: pd.DataFrame) -> None:
    later = record.provenance.model_copy(update={"timestamp": "2027-01-01T00:00:00+00:00", "timings": {}})
    elsewhere = synthetic_record(values, provenance=later)
    assert elsewhere.result_id == record.result_id
    assert elsewhere.record_id != record.record_id
    renamed = record.submission.model_copy(update={"name": "another-name"})
    assert synthetic_record(values, submission=renamed).result_id == record.result_id
    other = synthetic_record(synthetic_values(seed=1))
    assert other.result_id != record.result_id
    assert other.measurement_key == record.measurement_key
    assert synthetic_record(values, tier="full").result_id != record.result_id


def test_l0_and_the_extent_come_from_the_values(record: Record, values: pd.DataFrame) -> None:
    raw = values[values["rung"] == "raw"]
    assert record.complexity.l0.value == pytest.approx(raw["active"].sum() / raw["spliced"].sum(), rel=1e-5)
    assert (record.documents.documents, record.documents.windows) == (12, 24)
    assert record.documents.tokens == raw["tokens"].sum()


def test_the_measurement_key_ignores_the_order_of_rungs_and_nothing_else() -> None:
    arguments = {
        "task": fake_hash("task"),
        "submission": fake_hash("submission"),
        "reference": fake_hash("reference"),
        "tier": "quick",
        "rungs": ("raw", "full"),
        "whole": False,
        "compat": False,
        "peers": None,
        "pairs": 1,
        "annealed_draws": 8,
        "dtype": "float32",
        "device": "cpu",
        "protocol": 1,
        "version": "0.1.0",
    }

    def key_of(**changed: object) -> str:
        every = arguments | changed
        hashed = {name: SimpleNamespace(hash=every.pop(name)) for name in ("task", "submission", "reference")}
        others = {name: every.pop(name) for name in ("tier", "protocol", "version")}
        return measurement_key(SimpleNamespace(**every), **hashed, **others)

    key = key_of()
    assert key_of(rungs=("full", "raw"), protocol="1") == key
    changes = {**dict.fromkeys(arguments, "other"), "rungs": ("raw",), "pairs": 2, "peers": ("saelens",)}
    changes["annealed_draws"] = 16
    keys = {key_of(**{name: value}) for name, value in changes.items()}
    assert len(keys | {key}) == len(arguments) + 1
    # The deep plan has always as many, and board rows have none: of both, keys are as they were before this.
    assert key_of(whole=True) == key_of(whole=True, annealed_draws=0) != key_of(annealed_draws=0)


def test_a_finished_record_is_found_by_its_key(
    stored: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    (stored.parent / "other.json").write_text("{}")
    assert find_record(stored.parent.parent, record.measurement_key) == stored
    assert find_record(stored.parent, fake_hash("nothing")) is None
    assert find_record(stored.parent / "absent", record.measurement_key) is None
    values_path(stored).unlink()
    assert find_record(stored.parent, record.measurement_key) is None
    assert "not beside it" in caplog.text


def test_a_record_is_only_written_as_json(stored: Path, record: Record) -> None:
    values = read_record(stored).values
    with pytest.raises(RecordError, match=r"does not end in \.json"):
        write_record(record, values, stored.with_name("sae.k32"))
    assert not stored.with_name("sae.csv.gz").exists()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_edited_number_is_noticed(stored: Path) -> None:
    edit(stored, lambda content: content["metrics"]["clean"]["loss"].update(value=1.0))
    with pytest.raises(RecordError, match="was edited"):
        read_record(stored)


def test_an_edited_number_with_a_fitting_record_id_is_noticed(stored: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["clean"]["loss"]["value"] = 1.0
        content["record_id"] = content_hash({k: v for k, v in content.items() if k != "record_id"})

    edit(stored, change)
    with pytest.raises(RecordError, match="was edited"):
        read_record(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(schema_version=1), "schema version 1, this package reads 4 and 5"),
        (lambda content: content.update(extra=1), "extra: Extra inputs"),
        (lambda content: content.pop("metrics"), "metrics: Field required"),
        (lambda content: content["task"].update(hash="short"), "task.hash"),
        (
            lambda content: content["metrics"]["clean"]["loss"].update(value=float("nan")),
            "not whole JSON.*NaN",
        ),
    ],
)
def test_foreign_content_is_named(
    stored: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(stored, change)
    with pytest.raises(RecordError, match=message):
        read_record(stored)


def test_truncated_files_are_named(stored: Path) -> None:
    whole, packed = stored.read_bytes(), values_path(stored).read_bytes()
    values_path(stored).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(RecordError, match="cannot be unpacked"):
        read_record(stored)
    stored.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="not whole JSON"):
        read_record(stored)
    stored.write_bytes(b"[1]")
    with pytest.raises(RecordError, match="schema version None"):
        read_record(stored)
    stored.unlink()
    with pytest.raises(RecordError, match="no such record"):
        read_record(stored)


def test_edited_values_are_noticed(stored: Path) -> None:
    text = gzip.decompress(values_path(stored).read_bytes()).decode()
    values_path(stored).write_bytes(gzip.compress(text.replace("article-0", "article-x").encode()))
    with pytest.raises(RecordError, match="content hash"):
        read_record(stored)


def test_recompute_finds_a_summary_that_its_values_do_not_give(record: Record, values: pd.DataFrame) -> None:
    changed = values.copy()
    changed.loc[changed["rung"] == "raw", "kl"] *= 1.001
    with pytest.raises(RecordError, match=r"recorded, .* recomputed; .* and \d+ more"):
        recompute(record, changed)


def test_values_of_another_record_are_not_written(record: Record, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not the values of the record"):
        write_record(record, synthetic_values(seed=1), tmp_path / "one.json")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_no_record(
    record: Record, values: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise OSError("disk full")
        return original(self, target)

    original = Path.replace
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RecordError, match=r"one\.json: disk full"):
        write_record(record, values, tmp_path / "one.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "one.csv.gz").write_bytes(b"of another record")
    with pytest.raises(RecordError, match="disk full"):
        write_record(record, values, tmp_path / "one.json")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of another record"]


def test_nan_is_never_stored(values: pd.DataFrame) -> None:
    with pytest.raises(RecordError, match=r"checks\.finite\.value is nan"):
        synthetic_record(values, checks={"finite": Check(passed=True, value=float("nan"))})


@pytest.mark.parametrize("text", ["cached in /home/me/cache/x", "C:\\data", "~/cache", "/opt/models/a"])
def test_no_path_of_the_machine_is_stored(values: pd.DataFrame, text: str) -> None:
    with pytest.raises(RecordError, match="absolute path"):
        synthetic_record(values, warnings=[text])
    files = {text: fake_hash("file")}
    submission = SubmissionInfo(
        name="a",
        kind="reconstruction",
        files=files,
        hash=fake_hash("a"),
        method=MethodInfo(format=None),
    )
    with pytest.raises(RecordError, match="absolute path"):
        synthetic_record(values, submission=submission)


def test_ordinary_words_with_slashes_are_stored(values: pd.DataFrame) -> None:
    said = ["0.1 nats/token, see https://example.org/a/b or org/model", "N < 5d: 40/576"]
    assert synthetic_record(values, warnings=said).warnings == tuple(said)


def test_a_rung_without_values_is_refused(values: pd.DataFrame, record: Record) -> None:
    measurement = record.measurement.model_copy(update={"rungs": ("raw", "matched")})
    with pytest.raises(RecordError, match=r"\['matched'\]"):
        synthetic_record(values, measurement=measurement)


def test_canonical_json_is_sorted_short_and_finite() -> None:
    content = {"b": [1.23456789, -0.0, 3], "a": {"é": None, "x": True}}
    assert canonical_json(content) == '{"a":{"x":true,"é":null},"b":[1.23457,0.0,3]}'
    assert content_hash(json.loads(canonical_json(content, indent=1))) == content_hash(content)
    with pytest.raises(RecordError, match=r"b\[0\]\.c is inf"):
        canonical_json({"b": [{"c": float("inf")}]})
    with pytest.raises(RecordError, match="a is of type set"):
        canonical_json({"a": {1}})


def test_significant_digits_are_stable() -> None:
    for number in (1234567.0, 1.2345678e-12, -0.1, 2.0, 0.0):
        assert significant(significant(number)) == significant(number)
    assert significant(1234567.0) == 1234570.0


def test_provenance_names_no_host_and_no_folder() -> None:
    provenance = collect_provenance({"evaluate": 1.0})
    text = provenance.model_dump_json()
    assert str(Path.home()) not in text
    assert platform.release() not in text
    assert "numpy" in provenance.packages


def test_the_state_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    git("init")
    assert git_state(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert (len(state.commit), state.dirty) == (40, False)
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == state._replace(dirty=True)
    (tmp_path / "inner").mkdir()
    assert git_state(tmp_path / "inner") is None


def test_the_schemas_that_are_published_are_those_of_the_files() -> None:
    """What `python docs/examples/schemas.py` writes is what lies in docs/schemas."""
    assert "result_id" in Record.model_json_schema()["properties"]
    script = load_script(project_root() / "docs" / "examples" / "schemas.py")
    for name, text in script.schemas().items():
        assert (script.FOLDER / name).read_text(encoding="utf-8") == text, name


def test_a_record_cannot_be_changed(record: Record) -> None:
    with pytest.raises(ValueError, match="frozen"):
        record.tier = "full"  # type: ignore[misc]


def test_the_fullest_record_of_a_folder_is_the_one_with_most_rungs(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record"):
        fullest_record(tmp_path)
    values = synthetic_values()
    more = synthetic_record(values)
    measurement = more.measurement.model_copy(update={"rungs": ("raw",)})
    fewer = synthetic_record(values, measurement=measurement)
    for name, record in (("a", more), ("b", fewer)):
        write_record(record, values, tmp_path / f"{name}.json")
    assert fullest_record(tmp_path) == tmp_path / "a.json"
    other = synthetic_record(values, name="another")
    write_record(other, values, tmp_path / "c.json")
    with pytest.raises(RecordError, match="records of another on"):
        fullest_record(tmp_path)
    with pytest.raises(RecordError, match="is a folder"):
        read_record(tmp_path)
