"""Whole runs killed at random times, two at once, and disks that are full: nothing is lost, half or twice.

A process that has loaded everything is copied (`fork`) for each run, so that a kill meets a run at work, and
not one that imports libraries.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_run import Place, events, numbers, results

from remainder.errors import RecordError
from remainder.record.turns import RUNS

ROWS, KILLS = 8, 20

_RUNNER = """
import os, signal, sys, time
from remainder.cli import main as cli
import remainder.cli.session, remainder.measure.site, remainder.runs.drive, remainder.runs.listing
import remainder.runs.journal, remainder.report.tables

def begin(arguments):
    child = os.fork()
    if child == 0:
        sys.argv = ["remainder", *arguments]
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        try:
            cli.main()
        except SystemExit as left:
            os._exit(int(left.code or 0))
        os._exit(0)
    return child

print("ready", flush=True)
for line in sys.stdin:
    first, second, *arguments = line.rstrip("\\n").split("\\t")
    runs = {begin(arguments): time.monotonic() + float(wait) for wait in (first, second) if wait}
    codes = []
    while runs:
        for child, until in list(runs.items()):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes.append(os.waitstatus_to_exitcode(status))
                del runs[child]
        time.sleep(0.005)
    print(*codes, flush=True)
"""


class Runner:
    """Starts runs of one command, and kills them after so many seconds."""

    def __init__(self, place: Place) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUNNER],
            env=place.environment,
            cwd=place.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, arguments: list[str], *seconds: float) -> list[int]:
        """Exit codes of one or two runs at once, each killed after its time."""
        assert self._process.stdin is not None
        first, second = [*map(str, seconds), ""][:2]
        self._process.stdin.write("\t".join([first, second, *arguments]) + "\n")
        self._process.stdin.flush()
        return [int(code) for code in self._read().split()]

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("kills"), ROWS)


@pytest.fixture(scope="module")
def runner(place: Place) -> Iterator[Runner]:
    made = Runner(place)
    yield made
    made.end()


class Whole:
    """A run that nothing happened to: its results, and the seconds that it takes."""

    def __init__(self, place: Place, runner: Runner) -> None:
        out = place.folder / "whole"
        start = time.monotonic()
        assert runner.run(place.arguments(out), 600.0) == [0]
        self.seconds = time.monotonic() - start
        self.results = results(out)
        assert len(self.results) == ROWS


@pytest.fixture(scope="module")
def whole(place: Place, runner: Runner) -> Whole:
    return Whole(place, runner)


def strays(place: Place, out: Path) -> list[Path]:
    """What writers leave behind, in the folder of results and in the cache."""
    return [path for root in (out, place.folder / "cache") for path in root.rglob("*.tmp*")]


@pytest.mark.slow
def test_twenty_kills_of_runs_two_at_once_change_nothing(place: Place, runner: Runner, whole: Whole) -> None:
    """Each kill is followed by runs that go on: in the end each row is there once, as if nothing had been."""
    chance = random.Random(0)
    kills = 0
    out, number = place.folder / "0", 0
    seen: list[Path] = []
    while kills < KILLS:
        times = [chance.uniform(0.05, 0.6 * whole.seconds) for _ in range(2)]
        codes = runner.run(place.arguments(out), *times)
        assert set(codes) <= {0, -9}
        kills += codes.count(-9)
        if codes.count(0):  # all is there: another folder, and an empty cache of activations
            assert results(out) == whole.results
            seen.append(out)
            number += 1
            out = place.folder / str(number)
            shutil.rmtree(place.folder / "cache" / "activations")
    assert runner.run(place.arguments(out), 600.0) == [0]
    for done in [*seen, out]:
        assert results(done) == whole.results
        assert strays(place, done) == []
        # No row was measured twice: what is claimed or finished is nobody else's.
        assert max(Counter(numbers(events(done), "measured")).values()) == 1
        assert list((done / RUNS / "claims").iterdir()) == []


@pytest.mark.slow
def test_two_processes_share_the_rows(place: Place, runner: Runner, whole: Whole) -> None:
    """Undisturbed, both end well, and each row is measured by one of them."""
    out = place.folder / "both"
    assert runner.run(place.arguments(out), 600.0, 600.0) == [0, 0]
    assert results(out) == whole.results
    assert numbers(events(out), "measured") == list(range(ROWS))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here ({done.stderr.strip()}); test_drive.py refuses writes too")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 16_000, 100_000])
def test_a_disk_that_fills_up_keeps_what_is_finished(
    room: int, place: Place, whole: Whole, disk: Path
) -> None:
    """Full from the start, while batches are kept, or while records are written."""
    out, filler = disk / "out", disk / "filler"
    code, _, said = place.run(out, "--shard", "1/4")
    assert code == 0, said
    kept = results(out)
    assert len(kept) == ROWS // 4
    free = os.statvfs(disk)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize - room))
    code, shown, said = place.run(out)
    assert code == RecordError.exit_code, said
    assert "No space left" in said or "no file can be made" in said
    assert "Traceback" not in said
    assert said.count("remainder: ") == 1
    assert shown == ""
    assert kept.items() <= results(out).items() < whole.results.items()
    assert strays(place, out) == []
    kept = results(out)
    filler.unlink()  # with room, the rest is measured
    code, _, said = place.run(out)
    assert code == 0, said
    assert said.count("found finished") == len(kept)
    assert results(out) == whole.results


@pytest.mark.slow
def test_a_folder_that_is_read_only_is_refused(place: Place, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, _, said = place.run(disk / "out")
    assert code == RecordError.exit_code, said
    assert said.count("remainder: ") == 1
    assert "no file can be made" in said or "may not be written to" in said
    assert list(disk.iterdir()) == []
