"""What a killed writer leaves behind is swept by the next run, and by nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic_board import put
from synthetic_records import fake_hash
from synthetic_values import synthetic_values
from tiny import Shrink, make_loaded

from remainder.base.paths import project_root
from remainder.board.verify import record_files
from remainder.errors import RecordError
from remainder.measure.plan import plan
from remainder.record import turns
from remainder.record.json import sweep_temporary
from remainder.record.schema import TaskInfo
from remainder.record.store import values_path
from remainder.record.turns import sweep, writing
from remainder.runs.cells import run
from remainder.submission.objects import object_submission

WRITER = """
import os, signal, sys
from pathlib import Path
from remainder.record import json as module
from remainder.record.store import read_record, write_record
stored, target, at = read_record(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
real, calls = os.fsync, []
def fsync(descriptor):
    calls.append(descriptor)
    if len(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
module.os.fsync = fsync
write_record(stored.record, stored.values, target)
"""


def record(results: Path) -> Path:
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    return put(results, synthetic_values(documents=6, windows=1), task=task)


def age(folder: Path) -> None:
    """As if an hour had passed."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize(("at", "left"), [(1, [".lock", ".tmp"]), (2, [".gz", ".lock", ".tmp"])])
def test_a_writer_that_was_killed_is_swept_after(at: int, left: list[str], tmp_path: Path) -> None:
    """Killed while it writes the values, and while it writes the record after them: swept at once."""
    source = record(tmp_path / "from")
    folder = tmp_path / "to" / "family" / "task" / "1" / "pca-32"
    environment = {**os.environ, "PYTHONPATH": str(project_root() / "harness")}
    command = [sys.executable, "-c", WRITER, str(source), str(folder / source.name), str(at)]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -9
    assert sorted(path.suffix for path in folder.iterdir()) == left
    # A verdict changes nothing; and while somebody writes there, it may all be theirs.
    assert len(record_files(tmp_path / "to")[1]) == len(left)
    assert sorted(path.suffix for path in folder.iterdir()) == left
    with turns.FileLock(folder / ".writing.lock", is_singleton=False):
        assert sweep(folder) == []
    assert sorted(path.suffix for path in folder.iterdir()) == left
    assert sorted(path.suffix for path in sweep(folder)) == [name for name in left if name != ".lock"]
    assert list(folder.iterdir()) == []
    assert sweep(folder) == []


def test_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "family" / "task"
    with writing(folder):
        half = folder / f"{'1' * 64}.csv.gz"
        half.write_bytes(b"half")
        assert sweep(folder) == []
        with (
            pytest.raises(RecordError, match="another process is writing records there"),
            writing(folder, seconds=0.0),
        ):
            pass
    assert sweep(folder) == [half]
    assert list(folder.iterdir()) == []


def test_the_next_run_sweeps_where_it_writes(tmp_path: Path) -> None:
    loaded = make_loaded()
    subject = object_submission(Shrink(), "shrink")
    settings = plan(loaded.task, "quick", rungs=("raw",), pairs=1)
    base = tmp_path / loaded.task.id / str(loaded.task.major) / "shrink"
    base.mkdir(parents=True)
    for name in (f".{'0' * 64}.json.abc.tmp", f"{'0' * 64}.csv.gz"):
        (base / name).write_bytes(b"half")
    (row,) = run(loaded, [subject], settings, tmp_path)
    assert {path.name for path in base.iterdir()} == {row.path.name, values_path(row.path).name}


def test_only_what_a_writer_makes_is_swept(tmp_path: Path) -> None:
    kept = record(tmp_path)
    for name in (".hidden", "notes.tmp", ".a.tmp.txt"):
        (kept.parent / name).write_text("mine")
    folder = kept.parent / ".pca-32.0123.tmp"
    (folder / "inside").mkdir(parents=True)
    age(tmp_path)
    before = {path.name for path in kept.parent.iterdir()}
    assert sweep_temporary(kept.parent, "other") == []
    assert sweep(kept.parent) == [folder]
    assert {path.name for path in kept.parent.iterdir()} == before - {folder.name}
