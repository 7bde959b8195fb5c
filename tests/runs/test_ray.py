"""The engine of Ray: on a real cluster of two nodes on this machine, of which one or both are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_run import Place, events, numbers, results
from terminal import Command

from remainder.errors import AssetError, MeasurementError, TaskError
from remainder.runs import ray_engine
from remainder.runs.engines import pool_of
from remainder.runs.ray_engine import Room, fitting, room_for

ROWS = 8
MEASUREMENT = MeasurementError.exit_code


# the room that a cluster has


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(1, 6),
    st.booleans(),
)
def test_as_many_cores_each_as_all_find_room_with(
    sizes: list[tuple[int, int]], workers: int, gpus: bool
) -> None:
    nodes = [{"CPU": float(cpus), "GPU": float(gpu)} for cpus, gpu in sizes]
    slots = sum(min(cpus, gpu) if gpus else cpus for cpus, gpu in sizes)
    if workers > slots:
        with pytest.raises(TaskError, match="no room for"):
            room_for(nodes, workers, gpus=gpus, cells=10)
        return
    room = room_for(nodes, workers, gpus=gpus, cells=10)
    assert fitting(nodes, room) >= workers == room.actors
    more = room._replace(cpus=room.cpus + 1)
    assert more.cpus * workers > sum(cpus for cpus, _ in sizes) or fitting(nodes, more) < workers


def test_by_default_an_actor_for_each_gpu_or_core() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}]
    assert room_for(nodes, None, gpus=True, cells=500) == Room(4, 4, 1)
    assert room_for(nodes, None, gpus=False, cells=500) == Room(16, 1, 0)
    assert room_for(nodes, None, gpus=False, cells=3) == Room(3, 4, 0)
    with pytest.raises(TaskError, match="has 0 GPUs on 1 node") as raised:
        room_for([{"CPU": 2.0}], None, gpus=True, cells=1)
    assert "ray status" in (raised.value.fix or "")


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, remainder: Command) -> None:
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    outcome = remainder("run", "tiny/digits", "--engine", "ray")
    assert outcome.code == TaskError.exit_code
    assert 'pip install "remainder[ray]"' in outcome.err
    assert outcome.err.count("remainder: ") == 1


def test_another_engine_is_refused(remainder: Command) -> None:
    with pytest.raises(TaskError, match="there is no engine 'dask'") as raised:
        pool_of("dask", None)
    assert raised.value.fix == "choose from: local, ray"
    assert "--workers 0" in remainder("run", "tiny/digits", "--workers", "0").err


# a real cluster

pytest_ray = [pytest.mark.slow, pytest.mark.needs("ray")]


def marked(test: Any) -> Any:
    """A test of a real cluster."""
    for mark in pytest_ray:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("ray"), ROWS)


@pytest.fixture(scope="module")
def expected(place: Place) -> dict[str, str]:
    """Results of one process."""
    code, _, said = place.run(place.folder / "one")
    assert code == 0, said
    return results(place.folder / "one")


class TwoNodes:
    """A Ray cluster of two nodes with a core each: the head, and one that can be killed."""

    def __init__(self, place: Place) -> None:
        self._script = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER],
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._script.stdout is not None
        self.address = self._script.stdout.readline().strip()
        assert self.address

    def tell(self, what: str) -> None:
        """Kill `node` or `head`, or `end` all."""
        assert self._script.stdin is not None
        assert self._script.stdout is not None
        self._script.stdin.write(f"{what}\n")
        self._script.stdin.flush()
        assert self._script.stdout.readline().strip() == what

    def end(self) -> None:
        self.tell("end")
        self._script.communicate(timeout=60)


_CLUSTER = """
from ray.cluster_utils import Cluster
soon = {"initial_delay_ms": 1000, "period_ms": 500, "failure_threshold": 3}
config = {f"health_check_{name}": number for name, number in soon.items()}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": config})
node = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
while True:
    told = input()
    if told == "node":
        cluster.remove_node(node, allow_graceful=False)
    elif told == "head":
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
    print(told, flush=True)
    if told == "end":
        cluster.shutdown()
        break
"""


@pytest.fixture
def cluster(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    made = TwoNodes(place)
    monkeypatch.setitem(place.more, "RAY_ADDRESS", made.address)
    yield made
    made.end()


def wait_for(out: Path, event: str, child: subprocess.Popen[str]) -> None:
    """Wait until the journal tells of an event."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and child.poll() is None:
        if list(out.rglob("journal.jsonl")) and numbers(events(out), event):
            return
        time.sleep(0.02)
    child.kill()
    raise AssertionError(f"no {event}: {child.communicate()}")


@marked
def test_two_actors_find_what_one_process_does(place: Place, expected: dict[str, str]) -> None:
    """On a cluster that is made for the run, and is gone afterwards."""
    out = place.folder / "local"
    assert "RAY_ADDRESS" not in os.environ
    code, shown, said = place.run(out, "--engine", "ray", "--workers", "2")
    assert code == 0, said
    assert results(out) == expected
    assert said.count("measured in") == ROWS
    assert numbers(events(out), "begun") == list(range(ROWS))
    assert numbers(events(out), "lost") == []
    assert all(line["event"] != "lost" for line in events(out))
    _, alone, _ = place.run(place.folder / "one")
    assert shown == alone


@marked
def test_a_killed_raylet_costs_its_cells_once_more(
    place: Place, expected: dict[str, str], cluster: TwoNodes
) -> None:
    """Killed in the middle of the run, with the actor on its node: nothing else is measured twice.

    Rows of a group appear together, so that after the first of them both actors may have finished.
    """
    out = place.folder / "raylet"
    with place.start(out, "--engine", "ray", "--workers", "2") as child:
        wait_for(out, "begun", child)
        cluster.tell("node")
        _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert results(out) == expected
    told = events(out)
    lost = numbers(told, "lost")
    assert lost
    assert numbers(told, "measured") == list(range(ROWS))
    assert Counter(numbers(told, "begun")) == Counter([*range(ROWS), *lost])
    assert len(set(lost)) == len(lost)


@marked
def test_a_cluster_that_goes_away_is_one_message(place: Place, cluster: TwoNodes) -> None:
    out = place.folder / "away"
    with place.start(out, "--engine", "ray", "--workers", "2") as child:
        wait_for(out, "measured", child)
        cluster.tell("node")
        cluster.tell("head")
        shown, said = child.communicate(timeout=300)
    assert child.returncode == MEASUREMENT, said
    assert said.count("remainder: ") == 1
    assert "Traceback" not in said
    assert "finished rows are kept" in said
    assert shown == ""
    # All that the journal calls finished is there, whole.
    assert len(results(out)) >= len(numbers(events(out), "measured")) > 0


@marked
def test_no_cluster_is_one_message(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(place.more, "RAY_ADDRESS", "127.0.0.1:1")
    code, _, said = place.run(place.folder / "none", "--engine", "ray")
    assert code == AssetError.exit_code, said
    assert said.count("remainder: ") == 1
    assert "there is no Ray cluster at RAY_ADDRESS=127.0.0.1:1" in said
    assert "Traceback" not in said


@marked
def test_more_workers_than_there_is_room_for_is_one_message(place: Place, cluster: TwoNodes) -> None:
    code, _, said = place.run(place.folder / "room", "--engine", "ray", "--workers", "3")
    assert code == TaskError.exit_code, said
    assert "the Ray cluster has 2 cores on 2 node(s): no room for 3 worker(s)" in said
