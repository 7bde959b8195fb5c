"""Which record came last: the board's own file says so, never a time that a record states of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_board import put, small_board, submission
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values
from terminal import Command

from remainder.board.merge import folders_of_tasks, read_entries
from remainder.board.verify import record_files, verify_paths
from remainder.errors import RecordError
from remainder.publish.place import describe_place
from remainder.record.find import fullest_record
from remainder.record.json import sha256
from remainder.record.order import ORDER, Order, append_order, order_above, read_order
from remainder.record.schema import Record, TaskInfo
from remainder.record.store import read_summary

VALUES = synthetic_values(documents=6, windows=1)
TASK = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))


def put_record(results: Path, content: str, time: str, name: str = "method", rungs: int = 4) -> Path:
    base = synthetic_record(VALUES)
    return put(
        results,
        VALUES,
        task=TASK,
        submission=submission(name).model_copy(update={"hash": fake_hash(content)}),
        measurement=base.measurement.model_copy(update={"rungs": base.measurement.rungs[:rungs]}),
        provenance=base.provenance.model_copy(update={"timestamp": f"{time}T00:00:00+00:00"}),
    )


def records(results: Path) -> list[Record]:
    return [read_summary(path) for path in sorted(results.rglob("*.json"))]


def current(results: Path) -> list[str]:
    paths = [path for some in folders_of_tasks(results).values() for path in some]
    return [entry.record.record_id for entry in read_entries(results, paths)[0] if entry.current]


def test_a_record_of_the_year_2031_displaces_nobody(tmp_path: Path) -> None:
    forged = put_record(tmp_path, "old weights", "2031-01-01")
    append_order(tmp_path, records(tmp_path))
    new = put_record(tmp_path, "new weights", "2026-01-02")
    assert current(tmp_path) == [new.stem]  # what has no line yet came after all that have one
    append_order(tmp_path, records(tmp_path))
    assert current(tmp_path) == [new.stem]
    again = put_record(tmp_path, "new weights", "2020-01-01")
    append_order(tmp_path, records(tmp_path))
    assert current(tmp_path) == [again.stem]
    assert describe_place(read_summary(forged), tmp_path) == [
        "Not the current record of its submission: another one has more rungs, or came later."
    ]


def test_without_the_file_clocks_decide(tmp_path: Path) -> None:
    later = put_record(tmp_path, "a", "2026-02-01")
    put_record(tmp_path, "b", "2026-01-01")
    assert current(tmp_path) == [later.stem]
    assert read_order(tmp_path) == Order()


def test_the_fullest_record_of_a_board_is_that_which_came_last(tmp_path: Path) -> None:
    put_record(tmp_path, "a", "2031-01-01")
    append_order(tmp_path, records(tmp_path))
    new = put_record(tmp_path, "a", "2026-01-01")
    assert fullest_record(tmp_path) == new
    assert order_above(new).key(read_summary(new))[0] == 1
    (tmp_path / ORDER).unlink()
    assert fullest_record(tmp_path) != new


def test_lines_are_only_added_and_twice_adds_nothing(tmp_path: Path) -> None:
    small_board(tmp_path)
    first = records(tmp_path)
    added = append_order(tmp_path, first)
    assert [arrival.record for arrival in added] == sorted(record.record_id for record in first)
    before = (tmp_path / ORDER).read_bytes()
    assert append_order(tmp_path, first[::-1]) == []
    assert (tmp_path / ORDER).read_bytes() == before
    put_record(tmp_path, "new", "2026-01-01", name="zz")
    (arrival,) = append_order(tmp_path, records(tmp_path))
    assert arrival.submission == "zz"
    assert (tmp_path / ORDER).read_bytes().startswith(before)
    # A record that is taken away keeps its line: what came, came.
    assert append_order(tmp_path, first[:1]) == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("swapped", "does not follow from the line before"),
        ("taken out", "does not follow from the line before"),
        ("edited", "does not follow from the line before"),
        ("cut", "its last line is cut short"),
        ("words", "is no line of it"),
        ("spaces", "not in the one form"),
        ("emptied", "is empty"),
    ],
)
def test_a_line_that_was_touched_shows(damage: str, told: str, tmp_path: Path) -> None:
    small_board(tmp_path)
    append_order(tmp_path, records(tmp_path))
    path = tmp_path / ORDER
    lines = path.read_text().splitlines(keepends=True)
    if damage == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif damage == "taken out":
        del lines[1]
    elif damage == "edited":
        lines[1] = lines[1].replace('"task":"', '"task":"x')
    elif damage == "cut":
        lines[-1] = lines[-1].rstrip()
    elif damage == "emptied":
        lines.clear()
    elif damage == "words":
        lines[1] = "hello\n"
    else:
        lines[1] = lines[1].replace(":", ": ", 1)
    path.write_text("".join(lines))
    for call in (read_order, lambda results: append_order(results, records(results))):
        with pytest.raises(RecordError, match=told):
            call(tmp_path)
    (stray,) = record_files(tmp_path)[1]
    assert told in stray[1].text
    assert any(told in fault for one in verify_paths([tmp_path], jobs=1) for fault in one.faults)


def test_without_a_record_there_is_no_file(tmp_path: Path) -> None:
    assert append_order(tmp_path, []) == []
    assert not (tmp_path / ORDER).exists()


def test_a_record_has_one_line(tmp_path: Path) -> None:
    small_board(tmp_path)
    twice, *_ = records(tmp_path)
    append_order(tmp_path, [twice])
    path = tmp_path / ORDER
    arrival = path.read_text()
    path.write_text(arrival + arrival.replace("0" * 64, sha256(arrival.strip().encode()), 1))
    with pytest.raises(RecordError, match="has a line already"):
        read_order(tmp_path)


def test_the_command_of_the_board_job(tmp_path: Path, remainder: Command) -> None:
    made = small_board(tmp_path)
    done = remainder("board", "order", "--results", tmp_path)
    assert done.code == 0, done
    assert f"{len(made)} of {len(made)} records are new" in done.out
    again = remainder("board", "order", "--results", tmp_path)
    assert f"0 of {len(made)} records are new" in again.out
    assert record_files(tmp_path)[1] == []
    assert remainder("board", "build", "--results", tmp_path, "--site", tmp_path / "site").code == 0


def test_the_last_line_names_its_record(tmp_path: Path) -> None:
    put_record(tmp_path, "weights", "2026-01-02")
    append_order(tmp_path, records(tmp_path))
    path = tmp_path / ORDER
    path.write_text(path.read_text().replace('"submission":"method"', '"submission":"other"'))
    with pytest.raises(RecordError, match=r"has submission 'other'; it is method"):
        append_order(tmp_path, records(tmp_path))
