"""Verification of files: places, links, sizes, names, foreign bytes; and what is kept of it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from forging import (
    Original,
    comes_with_the_benchmark,
    committed_records,
    plain,
    read,
    remember_values,
    seal,
    write,
)
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.snapshot import results_folder
from remainder.board.verifications import (
    RemeasuredDocuments,
    read_verification,
    verification_path,
    write_verification,
)
from remainder.board.verify import record_files, verify_paths, verify_record
from remainder.errors import RecordError
from remainder.record.json import canonical_json, sha256
from remainder.record.store import read_record, values_path
from remainder.record.values import values_to_csv
from remainder.task.lock import Lock, LockEntry

HARNESS = project_root() / "harness"


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """What follows from the values of a record is computed once."""
    with pytest.MonkeyPatch.context() as patch:
        remember_values(patch)
        yield


@pytest.fixture(scope="module")
def original() -> Original:
    """The smallest committed record of a submission that has files."""
    known = [Original(path, content, b"") for path, content in committed_records().items()]
    ours = [one for one in known if comes_with_the_benchmark(one.content)]
    return plain(ours)


@pytest.fixture
def one(original: Original, tmp_path: Path) -> Path:
    """A copy of it, at its place in a folder of results of its own."""
    path = tmp_path / "results" / original.path.relative_to(results_folder())
    path.parent.mkdir(parents=True)
    for source in (original.path, values_path(original.path)):
        shutil.copy(source, path.parent)
    return path


@pytest.mark.parametrize("content", [b"not json", b"\xff\xfe", b'{"a": 1}', b"[]"])
def test_what_may_never_have_been_a_record_is_to_be_taken_out(content: bytes, one: Path) -> None:
    stray = one.with_name("notes.json")
    stray.write_bytes(content)
    whole, found = sorted(verify_paths([one.parents[4]], jobs=1), key=lambda verdict: verdict.path == stray)
    assert whole.passed, whole.faults
    (fix,) = found.fixes
    assert fix.startswith("take what is no record out")
    stray.rename(one)
    (damaged,) = verify_paths([one], jobs=1)
    (fix,) = damaged.fixes
    assert fix.startswith("restore what is at fault")


def test_a_family_is_that_of_the_submission(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records without one stand for themselves; one that claims another is at fault."""
    from remainder.board import origin

    content = json.loads(one.read_bytes())
    assert "family" not in content["submission"]
    original = origin.read_description
    for own, stated, told in (
        ("method", None, ""),
        ("method", "method", ""),
        ("method", "other", "submission.family: 'other', its submission.toml has 'method'"),
        (None, "other", "submission.family: 'other', its submission.toml has None"),
        (None, "Bad Name", "is no name"),
    ):
        record = read_record(one).record
        info = record.submission.model_copy(update={"family": stated})
        monkeypatch.setattr(
            origin,
            "read_description",
            lambda *arguments, own=own: original(*arguments).model_copy(update={"family": own}),
        )
        remarks = origin.check_submission(record.model_copy(update={"submission": info}))
        faults = [remark.text for remark in remarks if remark.is_fault]
        assert (told in "".join(faults)) if told else not faults


def faults_of(path: Path) -> str:
    return "\n".join(fault for verdict in verify_paths([path], jobs=1) for fault in verdict.faults)


@pytest.mark.slow
def test_every_committed_record_passes() -> None:
    verdicts = verify_paths([results_folder()], jobs=1)
    assert [(verdict.path.name, verdict.faults) for verdict in verdicts if not verdict.passed] == []


def test_a_record_alone_passes_and_says_what_was_not_looked_at(one: Path, tmp_path: Path) -> None:
    (alone,) = verify_paths([one])
    assert alone.passed
    assert any("place was not checked" in note for note in alone.notes)
    (placed,) = verify_paths([tmp_path / "results"])
    assert placed.passed
    assert any("no other record of this task" in note for note in placed.notes)


def test_the_place_is_that_of_the_content(one: Path, tmp_path: Path) -> None:
    moved = one.parent.with_name("another-name") / one.name
    moved.parent.mkdir()
    for path in (one, values_path(one)):
        path.rename(moved.parent / path.name)
    assert "lies at the wrong place; expected " in faults_of(tmp_path / "results")


def test_nothing_lies_beside_records(one: Path, tmp_path: Path) -> None:
    (one.parent / ".hidden").write_text("")
    (one.parent / "0.csv.gz").write_bytes(gzip.compress(b""))
    (one.parent / "0.json").write_text("{}")
    (one.parent / "1.csv.gz").write_bytes(gzip.compress(b""))
    found = faults_of(tmp_path / "results")
    for fault in ("is neither a record", "are values without their record", "schema version None"):
        assert fault in found


def test_links_and_huge_files_are_not_read(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_path(one)
    kept = values.rename(tmp_path / "kept.csv.gz")
    values.symlink_to(kept)
    assert "is a link" in faults_of(one)
    values.unlink()
    (tmp_path / "results" / "more").symlink_to(tmp_path)
    assert "is a link" in faults_of(tmp_path / "results")
    (tmp_path / "results" / "more").unlink()
    values.write_bytes(gzip.compress(b"0" * 3_000_000))
    monkeypatch.setattr("remainder.board.verify._LARGEST_UNPACKED", 1_000_000)
    assert "unpack to more than 1,000,000 bytes" in faults_of(one)
    values.write_bytes(gzip.compress(b"0") * 3)  # files after each other, of which gunzip reads all
    monkeypatch.setattr("remainder.board.verify._LARGEST_UNPACKED", 2)
    assert "unpack to more than 2 bytes" in faults_of(one)
    monkeypatch.setattr("remainder.board.verify._LARGEST_JSON", 100)
    assert "at most 100 are read" in faults_of(one)
    os.mkfifo(one.with_name("pipe.json"))
    assert "is no file" in faults_of(one.with_name("pipe.json"))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"schema_version": 4}', b"null", b'{"a": NaN}']
)
def test_what_is_no_record_is_a_fault_and_no_crash(one: Path, data: bytes) -> None:
    one.write_bytes(data)
    assert faults_of(one)


@pytest.mark.parametrize("data", [b"", b"split,document\n", b'"', b"\xff\xfe\x00", b"a,b\n1,2,3\n4\n"])
def test_values_that_are_no_table_are_a_fault_and_no_crash(one: Path, data: bytes) -> None:
    content, _ = read(one)
    content["documents"]["sha256"] = sha256(data)
    path = write(seal(content), data, one.parents[4], one.parent.name)
    assert faults_of(path)


def test_one_form_only(one: Path) -> None:
    """No second key of a name, no number as text, no seventh digit, no other order."""
    text = one.read_text()
    seventh = re.sub(r'("loss": \{\s+"high": \d+\.\d{5})(?=,)', r"\g<1>4", text, count=1)
    for other in (
        text.replace('"tier":', '"tier": "nonsense",\n "tier":', 1),
        text.replace('"pairs": 1', '"pairs": "1"', 1),
        text.replace("\n", "\n ", 1),
        seventh,
    ):
        assert other != text
        one.write_text(other)
        assert "not in the one form" in faults_of(one) or "was edited" in faults_of(one)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("pca-\u0660", "is no name of a submission"),  # a digit of another script
        ("Pca-32", "is no name of a submission"),
        ("<script>alert(1)</script>", "is no name of a submission"),
        ("a" * 10_000, "is no name of a submission"),
        ("\u202egnp.exe", "not printed"),
    ],
)
def test_names_that_could_deceive_are_refused(name: str, fault: str, tmp_path: Path) -> None:
    record = synthetic_record(synthetic_values())
    renamed = record.model_copy(update={"submission": record.submission.model_copy(update={"name": name})})
    content = seal(json.loads(canonical_json(renamed.model_dump(mode="json"))))
    path = write(content, values_to_csv(synthetic_values()), tmp_path, "folder")
    verdict = verify_record(path)
    assert fault in "\n".join(verdict.faults)
    assert all(text.isprintable() and len(text) < 1000 for text in verdict.faults)


@pytest.mark.parametrize("files", ["../../pyproject.toml", "/etc/passwd", "weights/../../secret"])
def test_files_of_a_submission_lie_in_its_folder(one: Path, files: str) -> None:
    content, data = read(one)
    content["submission"]["files"][files] = "0" * 64
    path = write(seal(content), data, one.parents[4])
    assert "lies outside of the submission" in faults_of(path)


@pytest.mark.parametrize("more", [-1, 1, 1000])
def test_features_that_no_weights_have_are_told(one: Path, more: int) -> None:
    content, data = read(one)
    content["complexity"]["features"] += more
    write(seal(content), data, one.parents[4])
    assert f"{content['complexity']['features']}, no tensor of" in faults_of(one.parents[4])


def test_a_name_that_mimics_another_is_told(one: Path) -> None:
    content, data = read(one)
    name = content["submission"]["name"]
    content["submission"]["name"] = name.replace("-", ".", 1)
    path = write(seal(content), data, one.parents[4])
    assert f"reads like '{name}'" in faults_of(one.parents[4])
    assert path.is_file()


def test_verifications_are_written_and_kept(one: Path, tmp_path: Path, remainder: Command) -> None:
    done = remainder("verify", tmp_path / "results", "--write")
    assert done.code == 0, done.out + done.err
    assert "1 file verified: 1 passed, 0 at fault" in done.out
    path = verification_path(tmp_path / "results", one.stem)
    assert path == tmp_path / "verifications" / one.name
    found, content = read_verification(path), path.read_bytes()
    assert (found.record_id, found.outcome, found.faults) == (one.stem, "passed", ())
    assert {"schema", "hashes", "summaries", "task", "submission"} <= set(found.checked)
    (verdict,) = verify_paths([tmp_path / "results"])
    write_verification(verdict)
    assert path.read_bytes() == content  # nothing in it depends on when or where
    again = RemeasuredDocuments(
        documents=("a", "b"),
        chosen_by="commit word",
        largest_deviation=0.5,
        tolerance=1e-3,
        relative=1e-3,
        device="cpu",
        machine="Linux x86_64",
        threads=2,
        batch_size=5,
        afresh=True,
        passed=False,
    )
    write_verification(verdict, again)
    write_verification(verdict)
    kept = read_verification(path)
    assert (kept.outcome, kept.remeasured) == ("failed", again)
    path.write_text("{}")
    with pytest.raises(RecordError, match="is no verification"):
        read_verification(path)


def test_the_command_names_every_fault_and_fails(one: Path, remainder: Command) -> None:
    content, data = read(one)
    content["calibration"]["shrinkage"] = 2.0
    content["measurement"]["seed"] += 1
    path = write(seal(content), data, one.parents[4])
    done = remainder("verify", path, one)
    assert done.code == 1
    for words in ("calibration.shrinkage: 2", "measurement.seed: ", "1 passed, 1 at fault"):
        assert words in done.out
    assert max(len(line) for line in done.out.splitlines() if not line.startswith("/")) <= 80
    (first, second) = sorted(json.loads(remainder("verify", path, one, "--format", "json").out), key=str)
    assert {first["passed"], second["passed"]} == {True, False}
    assert remainder("verify", path, "--format", "html").code == 7
    assert remainder("verify", path.with_name("nothing.json")).code == 7


def test_verifying_does_not_import_torch(one: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from remainder.cli import main as cli\n"
        "from remainder.board import snapshot, cite, verifications\n"
        "from remainder.board.verify import verify_paths\n"
        f"assert verify_paths([Path({str(one)!r})])[0].passed\n"
        "print(*sorted({'torch', 'transformers', 'sae_lens', 'sklearn'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(HARNESS)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_committed_verifications_are_of_committed_records() -> None:
    folder = results_folder().parent / "verifications"
    ids = {path.stem for path in record_files(results_folder())[0]}
    for path in folder.glob("*.json"):
        found = read_verification(path)
        assert path.stem == found.record_id
        assert found.record_id in ids
        assert found.outcome == "passed"


@pytest.mark.parametrize(
    ("hours", "told"), [(-9000.0, False), (-1.0, False), (0.5, False), (1.5, True), (40_000.0, True)]
)
def test_a_time_in_the_future_is_a_fault(one: Path, hours: float, told: bool) -> None:
    content, data = read(one)
    time = datetime.now(UTC) + timedelta(hours=hours)
    content["provenance"]["timestamp"] = time.isoformat(timespec="seconds")
    path = write(seal(content), data, one.parents[4])
    assert ("lies in the future" in faults_of(path)) == told


def test_a_record_of_an_older_version_of_its_task_is_noted(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(one).record
    newer = Lock(tasks={record.task.id: LockEntry(version="3-A", hash="0" * 64)})
    monkeypatch.setattr("remainder.board.origin.read_lock", lambda: newer)
    verdict = verify_record(one)
    assert verdict.passed
    assert f"task.version: {record.task.version}, the task is at 3-A now" in verdict.notes
