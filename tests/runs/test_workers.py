"""Worker processes: the same results as in one process, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from real_run import Place, events, numbers, results

from remainder.errors import TaskError
from remainder.measure.plan import plan
from remainder.record.store import read_record
from remainder.record.turns import RUNS
from remainder.runs import workers as workers_module
from remainder.runs.drive import drive
from remainder.runs.job import Source
from remainder.runs.journal import open_journal
from remainder.runs.listing import list_cells
from remainder.runs.work import Row
from remainder.runs.workers import Workers, threads_for
from remainder.task.spec import load_task

ROWS = 4


def test_threads_are_shared_out() -> None:
    assert [threads_for(workers, 8) for workers in (1, 2, 3, 8)] == [8, 4, 2, 1]
    with pytest.raises(TaskError, match=r"--workers 20: this process may use 8 core"):
        threads_for(20, 8)
    for workers in (0, -1):
        with pytest.raises(TaskError, match=f"--workers {workers}"):
            threads_for(workers)


def test_each_worker_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(workers_module.torch.cuda, "device_count", lambda: 2)
    assert [workers_module._gpu_of(slot) for slot in range(3)] == [
        {"CUDA_VISIBLE_DEVICES": gpu} for gpu in "010"
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert workers_module._gpu_of(1) == {"CUDA_VISIBLE_DEVICES": "6"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert workers_module._gpu_of(1) == {}


def test_how_a_worker_died_is_said() -> None:
    problem = workers_module._death(-signal.SIGKILL)
    assert "ended by signal 9 (Killed); so does a system that is short of memory" in problem.what
    assert "fewer --workers" in (problem.fix or "")
    assert "ended with code 3" in workers_module._death(3).what


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("workers"), ROWS)


@pytest.fixture(scope="module")
def expected(place: Place) -> dict[str, str]:
    """Results of one process."""
    code, shown, said = place.run(place.folder / "one")
    assert code == 0, said
    assert shown
    return results(place.folder / "one")


@pytest.mark.slow
def test_two_workers_find_what_one_process_does(place: Place, expected: dict[str, str]) -> None:
    out = place.folder / "two"
    code, shown, said = place.run(out, "--workers", "2")
    assert code == 0, said
    assert results(out) == expected
    assert said.count("measured in") == ROWS
    _, alone, _ = place.run(place.folder / "one")
    assert shown == alone
    for path in out.rglob("*.json"):
        assert read_record(path).record.provenance.threads == threads_for(2)
    assert len({line["process"] for line in events(out)}) == 1


@pytest.mark.slow
def test_two_workers_share_the_documents_of_one_row(place: Place, expected: dict[str, str]) -> None:
    """The other worker has not built the model yet when this one begins, so that not all is shared."""
    out = place.folder / "shared"
    first, *others = place.submissions
    place.submissions = [first]
    try:
        code, _, said = place.run(out, "--workers", "2")
    finally:
        place.submissions = [first, *others]
    assert code == 0, said
    assert results(out) == {"rank-1": expected["rank-1"]}


class Killing(Workers):
    """Workers of which one is killed when it is given a certain cell, so many times."""

    def __init__(self, sources: Sequence[Source], cells: Sequence[object], cell: int, times: int) -> None:
        super().__init__(sources, cells, 2)  # type: ignore[arg-type]
        self._cell, self._times = cell, times

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        super().start(slot, numbers, part)
        if part is None and self._cell in numbers and self._times:
            self._times -= 1
            pid = self._workers[slot].process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def in_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(place.folder / "cache"))
    monkeypatch.setenv("PYTHONPATH", place.environment["PYTHONPATH"])
    monkeypatch.setattr(workers_module, "threads_for", lambda _: 1)


@pytest.mark.slow
@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed_costs_its_cells_once_more(
    times: int, place: Place, expected: dict[str, str]
) -> None:
    """Killed twice with the same cell, that one is a row that says so."""
    out = place.folder / f"killed-{times}"
    source = Source(str(place.task), plan(load_task(place.task), "quick", device="cpu"), "cpu", None)
    openings = list_cells([source], list(map(str, place.submissions)), out).openings
    journal = open_journal(out, openings.cells)
    pool = Killing(openings.sources, openings.cells, 1, times)
    with closing(drive(openings.cells, pool, out, journal=journal)) as found:
        rows: list[Row] = list(found)
    assert sorted(row.number for row in rows) == list(range(ROWS))
    failed = [row for row in rows if row.problem is not None]
    assert [row.number for row in failed] == ([] if times == 1 else [1])
    for row in failed:
        assert "short of memory" in str(row.problem)
    wanted = {name: result for name, result in expected.items() if name != "rank-2" or times == 1}
    assert results(out) == wanted
    told = events(out)
    assert numbers(told, "lost") == ([0, 1] if times == 1 else [0, 1, 1])
    assert list((out / RUNS / "claims").iterdir()) == []


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody has asked about, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_workers_end_with_the_run(how: signal.Signals, place: Place) -> None:
    """However it ends; and an interrupt says what is kept."""
    out = place.folder / f"ended-{how.name}"
    with place.start(out, "--workers", "2") as child:
        deadline = time.monotonic() + 120
        while not list(out.rglob("*.json")) and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        below = children(child.pid)
        assert len(below) >= 2
        child.send_signal(how)
        _, said = child.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, below))
    if how == signal.SIGINT:
        assert child.returncode == 130, said
        assert "finished row(s) are kept in" in said
        assert "Traceback" not in said
