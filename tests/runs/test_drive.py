"""Who measures what: claims, groups, errors as rows, lost processes, the journal. Nothing is measured."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_pool import KILLED, StubPool, make_cells, stored

from remainder.base.paths import project_root
from remainder.board.verify import record_files
from remainder.errors import InterpretationError, MeasurementError, RecordError, TaskError
from remainder.record import json as json_module
from remainder.record.find import find_record
from remainder.record.store import write_record
from remainder.record.turns import RUNS
from remainder.runs import drive as drive_module
from remainder.runs.claims import Claims
from remainder.runs.drive import GROUP, drive
from remainder.runs.job import Broken, Failed, Made, Message, Problem, pack, unpack
from remainder.runs.journal import VERSION, Journal, open_journal
from remainder.runs.pool import Lost, Said
from remainder.runs.work import Row, Shard, identity_of, take_shard

CELLS = make_cells(6)
BAD = Problem("InterpretationError", "its weights are torn", "copy them again")


def run(out: Path, pool: StubPool, **options: object) -> list[Row]:
    with closing(drive(CELLS, pool, out, **options)) as rows:  # type: ignore[arg-type]
        return list(rows)


def kept(rows: list[Row]) -> dict[int, bool]:
    return {row.number: row.finished.kept for row in rows if row.finished is not None}


def records(out: Path) -> list[str]:
    return sorted(path.name for path in out.rglob("*.json"))


def claims(out: Path) -> list[Path]:
    return list((out / RUNS / "claims").iterdir())


# shards


@given(st.integers(0, 40), st.integers(1, 12))
def test_shards_are_together_the_whole(count: int, of: int) -> None:
    cells = [CELLS[0]] * count
    parts = [take_shard(cells, Shard(number, of)) for number in range(1, of + 1)]
    assert sorted(number for part in parts for number in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1/0", "1", "1/", "/3", "a/b", "-1/3", "1/3/5", "1.0/3", "²/3"]
)
def test_a_shard_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(TaskError) as raised:
        Shard.parse(text)
    assert f"--shard {text}" in raised.value.what.replace("'", "")
    assert raised.value.fix


def test_a_shard_is_counted_from_1() -> None:
    assert Shard.parse("2/3") == Shard(2, 3)
    assert take_shard(CELLS, Shard(2, 3)) == [1, 4]


# groups and order


def test_rows_come_in_order_and_cells_of_a_task_together(tmp_path: Path) -> None:
    pool = StubPool()
    rows = run(tmp_path, pool)
    assert [row.number for row in rows] == list(range(6))
    assert pool.started == [tuple(range(6))]
    assert pool.closed == 1
    assert len(records(tmp_path)) == 6
    assert claims(tmp_path) == []
    # What is found finished has its place among the others.
    for number in (0, 3):
        find_record(tmp_path / CELLS[number].folder, CELLS[number].key).unlink()  # type: ignore[union-attr]
    again = run(tmp_path, pool)
    assert [row.number for row in again] == list(range(6))
    assert kept(again) == {number: number not in (0, 3) for number in range(6)}
    assert pool.started[1:] == [(0, 3)]


def test_slots_share_what_is_left(tmp_path: Path) -> None:
    write_record(*stored(0), tmp_path / CELLS[0].folder / "a.json")
    pool = StubPool(slots=2)
    rows = run(tmp_path, pool)
    assert sorted(row.number for row in rows) == list(range(6))
    assert pool.started == [(1, 2, 3), (4, 5)]


def test_a_group_is_of_one_task_and_has_an_end(tmp_path: Path) -> None:
    many = [
        *make_cells(GROUP + 2),
        *(cell._replace(key=f"other-{cell.key}") for cell in make_cells(1, source=1)),
    ]
    pool = StubPool(say=lambda number: Failed(number, BAD))
    assert len(list(drive(many, pool, tmp_path))) == GROUP + 3
    assert list(map(len, pool.started)) == [GROUP, 2, 1]


def test_fresh_and_chosen(tmp_path: Path) -> None:
    run(tmp_path, StubPool())
    assert kept(run(tmp_path, StubPool(), fresh=True)) == dict.fromkeys(range(6), False)
    assert kept(run(tmp_path, StubPool(), chosen=[1, 4])) == {1: True, 4: True}


# help


def test_free_slots_help_each_once_with_different_parts(tmp_path: Path) -> None:
    pool = StubPool(slots=4)
    rows = run(tmp_path, pool, chosen=[2])
    assert kept(rows) == {2: False}
    assert pool.started == [(2,)]
    assert sorted(pool.helped) == [(slot, (2,), (slot, 4)) for slot in (1, 2, 3)]


def test_nobody_helps_where_finished_batches_are_not_kept(tmp_path: Path) -> None:
    pool = StubPool(slots=2)
    run(tmp_path, pool, chosen=[2], fresh=True)
    loose = [CELLS[1]._replace(is_pinned=False)]
    assert [row.number for row in drive(loose, pool, tmp_path)] == [0]
    assert pool.helped == []


@pytest.mark.parametrize("gone", [False, True])
def test_help_that_dies_costs_nothing(gone: bool, tmp_path: Path) -> None:
    pool = StubPool(slots=2)
    pool.help = lambda slot: Lost(slot, KILLED, gone)
    journal = open_journal(tmp_path, CELLS)
    rows = run(tmp_path, pool, chosen=[0], journal=journal)
    assert kept(rows) == {0: False}
    assert len(pool.helped) == 1


@pytest.mark.parametrize("is_end", [False, True])
def test_of_what_help_says_the_end_of_the_run_alone_counts(is_end: bool, tmp_path: Path) -> None:
    pool = StubPool(slots=2)
    problem = Problem("MeasurementError", "the device does not answer any more", None)
    pool.help = lambda slot: Said(slot, Broken(problem, "", is_end))
    if not is_end:
        assert kept(run(tmp_path, pool, chosen=[0])) == {0: False}
        return
    with pytest.raises(MeasurementError, match="does not answer"):
        run(tmp_path, pool, chosen=[0])
    assert pool.closed == 1


# errors


def test_an_error_becomes_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    rows = run(tmp_path, StubPool(say=lambda n: Failed(n, BAD) if n == 2 else Made(n, stored(n))))
    (row,) = (row for row in rows if row.problem)
    assert row.number == 2
    assert isinstance(row.problem, InterpretationError)
    assert (row.problem.what, row.problem.fix) == (BAD.what, BAD.fix)
    assert len(records(tmp_path)) == 5
    assert claims(tmp_path) == []


@pytest.mark.parametrize("deadly", [0, 2, 5])
def test_a_lost_process_costs_its_cells_once_more(deadly: int, tmp_path: Path) -> None:
    """A cell that kills it twice is a row that says so; all others have records."""
    pool = StubPool(say=lambda n: None if n == deadly else Made(n, stored(n)))
    rows = run(tmp_path, pool)
    assert sorted(row.number for row in rows) == list(range(6))
    (row,) = (row for row in rows if row.problem)
    assert (row.number, row.problem.what) == (deadly, f"{KILLED.what}, when it was tried again too")  # type: ignore[union-attr]
    started = Counter(number for group in pool.started for number in group)
    assert started == {number: 1 + (number >= deadly) for number in range(6)}
    assert all(len(group) == 1 for group in pool.started[1:])


def test_a_process_lost_once_changes_nothing(tmp_path: Path) -> None:
    lost = iter([None])
    pool = StubPool(slots=2, say=lambda n: next(lost, Made(n, stored(n))) if n == 1 else Made(n, stored(n)))
    rows = run(tmp_path, pool)
    assert all(row.problem is None for row in rows)
    assert sorted(number for group in pool.started for number in group) == [0, 1, 1, 2, 2, 3, 4, 5]


def test_what_nobody_foresaw_is_told_apart_cell_by_cell(tmp_path: Path) -> None:
    """A fault in the code of one submission; the journal keeps where it was."""
    broken = Broken(Problem("MeasurementError", "ZeroDivisionError: x", "report it"), "Traceback …", False)
    pool = StubPool(say=lambda n: broken if n == 1 else Made(n, stored(n)))
    journal = open_journal(tmp_path, CELLS)
    rows = run(tmp_path, pool, journal=journal)
    assert [row.number for row in rows if row.problem] == [1]
    assert pool.started == [tuple(range(6)), *((number,) for number in range(1, 6))]
    (event,) = (event for event in journal.read() if event.get("event") == "failed")
    assert event["trace"] == "Traceback …"


def test_a_device_that_is_gone_ends_the_run_with_one_message(tmp_path: Path) -> None:
    gone = Broken(
        Problem("MeasurementError", "the device does not answer any more (CUDA error)", None), "", True
    )
    pool = StubPool(say=lambda n: gone if n == 2 else Made(n, stored(n)))
    with pytest.raises(MeasurementError, match=r"the device does not answer any more .*CUDA error"):
        run(tmp_path, pool)
    assert len(records(tmp_path)) == 2
    assert claims(tmp_path) == []
    assert pool.closed == 1


def refuse(code: int) -> Callable[..., None]:
    def write(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return write


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only")])
def test_results_that_cannot_be_written_end_the_run(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half file; and with room again, all is as it would have been."""
    pool = StubPool()
    with closing(drive(CELLS, pool, tmp_path)) as rows:
        next(rows)
        monkeypatch.setattr(json_module.os, "fsync", refuse(code))
        with pytest.raises(RecordError, match=words):
            next(rows)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 2
    monkeypatch.undo()
    assert sum(kept(run(tmp_path, StubPool())).values()) == 1


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is measured: the claim cannot be made."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: refuse(errno.EROFS)())
    pool = StubPool()
    with pytest.raises(RecordError, match="Read-only file system"):
        run(tmp_path / "out", pool)
    assert pool.started == []


# two processes


def test_two_processes_never_measure_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has claimed is put off; when it is finished there, it is found."""
    with Claims(tmp_path) as other:
        assert other.take(CELLS[1].key)
        assert not other.take(CELLS[1].key)

        def finish(_: float) -> None:
            write_record(*stored(1), tmp_path / CELLS[1].folder / "a.json")
            other.drop(CELLS[1].key)

        monkeypatch.setattr(drive_module.time, "sleep", finish)
        pool = StubPool()
        rows = run(tmp_path, pool)
    assert pool.started == [(0, 2, 3, 4, 5)]
    assert kept(rows) == {number: number == 1 for number in range(6)}


def test_a_claim_that_is_given_up_without_a_record_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Claims(tmp_path) as other:
        other.take(CELLS[1].key)
        monkeypatch.setattr(drive_module.time, "sleep", lambda _: other.drop(CELLS[1].key))
        pool = StubPool()
        rows = run(tmp_path, pool)
    assert pool.started == [(0, 2, 3, 4, 5), (1,)]
    assert len(records(tmp_path)) == len(rows) == 6


HOLDER = """
import sys, time
from pathlib import Path
from remainder.runs.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(sys.argv[2]), flush=True)
time.sleep(60)
"""


def test_the_claim_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project_root() / "harness")}
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "key"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with Claims(tmp_path) as mine:
            assert not mine.take("key")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert mine.take("key")
    assert claims(tmp_path) == []


# the journal


def test_the_journal_tells_what_became_of_each_cell(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, CELLS)
    assert journal.path == tmp_path / RUNS / identity_of(CELLS) / "journal.jsonl"
    run(tmp_path, StubPool(say=lambda n: Failed(n, BAD) if n == 2 else Made(n, stored(n))), journal=journal)
    head, *events = journal.read()
    assert head["journal"] == VERSION
    assert [cell["submission"] for cell in head["cells"]] == [cell.name for cell in CELLS]
    assert Counter(event["event"] for event in events) == {"begun": 1, "measured": 5, "failed": 1}
    assert journal.past() == (frozenset({2}), frozenset())
    # Who gives the same list again goes on with it, and it is no record.
    again = open_journal(tmp_path, CELLS)
    run(tmp_path, StubPool(), journal=again)
    assert len(list((tmp_path / RUNS).glob("*/journal.jsonl"))) == 1
    assert journal.past().failed == frozenset()
    assert record_files(tmp_path)[1] == []
    assert open_journal(tmp_path, CELLS[:5]).path != journal.path


def test_a_line_that_was_cut_short_never_happened(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, CELLS)
    journal.add("begun", cells=[0])
    whole = journal.path.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        journal.path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:cut])
        assert len(journal.read()) == 2
        journal.add("failed", cells=[0])
        assert [event.get("event") for event in journal.read()] == [None, "begun", "failed"]
    # Even the first one.
    journal.path.write_bytes(whole[:10])
    assert len(open_journal(tmp_path, CELLS).read()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"journal": VERSION + 1}, f"of version {VERSION + 1}; this package reads {VERSION}"),
        ({"some": "thing"}, "of version None"),
        (["list"], "line 1 is no event"),
    ],
)
def test_another_journal_is_refused(line: object, words: str, tmp_path: Path) -> None:
    path = open_journal(tmp_path, CELLS).path
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(RecordError, match=words) as raised:
        open_journal(tmp_path, CELLS)
    assert f"remove the folder {path.parent}" in (raised.value.fix or "")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, CELLS)
    journal.path.write_bytes(journal.path.read_bytes() + b"{]\n")
    with pytest.raises(RecordError, match="line 2 is no event"):
        journal.read()


def test_many_writers_of_one_journal(tmp_path: Path) -> None:
    """Threads stand for processes: each opens the file anew, as a process does."""
    from concurrent.futures import ThreadPoolExecutor

    journal = open_journal(tmp_path, CELLS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Journal(journal.path).add("begun", cells=[n % 6]), range(40)))
    assert len(journal.read()) == 41


# between processes


@pytest.mark.parametrize(
    "message",
    [Made(3, stored(3)), Failed(1, BAD), Broken(BAD, "Traceback", False)],
    ids=["made", "failed", "broken"],
)
def test_a_message_is_the_same_after_its_way(message: Message, tmp_path: Path) -> None:
    found = unpack(pack(message))
    assert type(found) is type(message)
    if isinstance(message, Made):
        assert isinstance(found, Made)
        assert found.stored.record == message.stored.record
        for name, one in (("a", message), ("b", found)):
            write_record(*one.stored, tmp_path / f"{name}.json")
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
        assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    else:
        assert found == message
