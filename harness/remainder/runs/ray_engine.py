"""Cells measured on a Ray cluster: an actor for each GPU, or for each share of the cores, holds the task.

1. The cluster is the one at RAY_ADDRESS, or one that is started on this machine and ends with the run.
2. Ray runs in a process of its own, the relay. Ray ends a process whose cluster goes away; so that is one
   message of the run. Records are written by the run alone, as with every engine.
3. An actor that dies, with its node or alone, costs the cells that it has not told of. Another actor takes
   its place, unless the nodes that are left have no room for one.
4. What travels is text (`runs.job.pack`); Ray pickles what it must to carry it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from remainder.errors import AssetError, MeasurementError, TaskError
from remainder.runs.job import Openings, Packed, Problem, Source, messages, pack, unpack, unpack_problem
from remainder.runs.pool import Event, Idle, Lost, Said
from remainder.runs.processes import follow, inherited
from remainder.runs.work import Cell

__all__ = ["RayPool", "Room", "require_ray", "room_for"]

ADDRESS = "RAY_ADDRESS"
_PASSED = ("REMAINDER_CACHE", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables of the run that its actors are given, whatever the nodes were started with."""

_NO_ROOM = Problem(
    "MeasurementError",
    "the Ray cluster has lost a node, and has no room for the actor that was to measure it",
    "see `ray status`; run again with fewer --workers",
)
_END = 20.0  # seconds for a cluster of this machine to end
_ANSWER = 20.0  # seconds for a cluster to answer
_TICK = 0.2  # seconds between two looks for cells that are given


def require_ray() -> None:
    """Raise TaskError if Ray is not installed."""
    if find_spec("ray") is None:
        raise TaskError("--engine ray: Ray is not installed", fix='install it: pip install "remainder[ray]"')


class Room(NamedTuple):
    """The actors that a cluster is asked for."""

    actors: int
    cpus: int
    """Cores, and so threads, of each."""
    gpus: int
    """GPUs of each, 0 or 1."""


def room_for(nodes: Sequence[Mapping[str, float]], workers: int | None, *, gpus: bool, cells: int) -> Room:
    """How many actors a cluster is asked for, and with how many cores each.

    Args:
        nodes: resources of each node, by Ray's names.
        workers: how many actors; default: one for each GPU, or else core, but no more than there are cells.
        gpus: whether each needs a GPU.
        cells: of the run.

    Raises:
        TaskError: the cluster has no room for so many.
    """
    slots = int(sum(node.get("GPU" if gpus else "CPU", 0.0) for node in nodes))
    wanted = workers or max(min(slots, cells), 1)
    cores = int(sum(node.get("CPU", 0.0) for node in nodes))
    for cpus in range(max(cores // wanted, 1), 0, -1):
        if fitting(nodes, Room(wanted, cpus, int(gpus))) >= wanted:
            return Room(wanted, cpus, int(gpus))
    kind = "GPUs" if gpus else "cores"
    raise TaskError(
        f"the Ray cluster has {slots} {kind} on {len(nodes)} node(s): no room for {wanted} worker(s)",
        fix="ask for fewer --workers, or add nodes to the cluster (`ray status` shows it)",
    )


def fitting(nodes: Sequence[Mapping[str, float]], room: Room) -> int:
    """How many such actors fit onto nodes that do nothing else."""
    count = 0
    for node in nodes:
        by_gpu = [int(node.get("GPU", 0.0))] if room.gpus else []
        count += min([int(node.get("CPU", 0.0)) // room.cpus, *by_gpu])
    return count


class RayPool:
    """A pool of actors on a Ray cluster.

    Args:
        sources: the run's tasks.
        cells: the run's list.
        out: the folder of results where finished batches are kept; None: nowhere.
        workers: how many actors; None: as many as the cluster has room for.

    Raises:
        RemainderError: there is no cluster, or it has no room for them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cells: Sequence[Cell],
        workers: int | None,
        *,
        out: Path | None = None,
    ) -> None:
        require_ray()
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_relay, args=(theirs, tuple(sources), tuple(cells), out, workers), daemon=True
        )
        with inherited({}):
            self._process.start()
        theirs.close()
        self._slots = 0
        try:
            said = self._hear()
        except BaseException:
            self.close()
            raise
        self._slots = int(said[0])

    @property
    def slots(self) -> int:
        """How many actors there are."""
        return self._slots

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        """Give cells of one task to an actor, which is made if there is none."""
        try:
            self._pipe.send((slot, tuple(numbers), part))
        except OSError:
            raise self._gone() from None

    def event(self) -> Event:
        """Wait until an actor tells something, or dies.

        Raises:
            MeasurementError: the cluster is gone.
        """
        kind, slot, *more = self._hear()
        if kind == "said":
            return Said(slot, unpack(more[0]))
        return Idle(slot) if kind == "idle" else Lost(slot, Problem(*more[0]), is_gone=more[1])

    def close(self) -> None:
        """End the actors, and the cluster if it was started for this run."""
        self._pipe.close()
        self._process.join(_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _hear(self) -> tuple[Any, ...]:
        try:
            said: tuple[Any, ...] = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if said[0] == "problem":
            raise unpack_problem(Problem(*said[1]))
        return said

    def _gone(self) -> MeasurementError:
        return MeasurementError(
            "the Ray cluster went away in the middle of the run",
            fix="look after it (`ray status`), and run again: finished rows are kept",
        )


class _Actor:
    """The process that measures, on a node of the cluster."""

    def __init__(
        self,
        sources: Sequence[Source],
        cells: Sequence[Cell],
        out: Path | None,
        threads: int,
        variables: Mapping[str, str],
    ) -> None:
        os.environ.update(variables)
        torch.set_num_threads(threads)
        self._openings = Openings(sources, cells, out=out)

    def measure(self, numbers: Sequence[int], part: tuple[int, int] | None) -> Iterator[Packed]:
        """Measure cells of one task, or a part of their batches; gives messages."""
        for message in messages(self._openings, numbers, part):  # a generator of its own: Ray sends to it
            yield pack(message)


_Given: TypeAlias = tuple[tuple[Source, ...], tuple[Cell, ...], "Path | None"]
"""Tasks, cells and folder of results of the run."""


def _relay(
    pipe: Connection,
    sources: tuple[Source, ...],
    cells: tuple[Cell, ...],
    out: Path | None,
    workers: int | None,
) -> None:
    """Run in a process of its own, between the run and Ray."""
    follow()
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # Ray writes about itself what nobody who waits for rows can use
        os.dup2(quiet, stream)
    try:
        relay = _Relay(pipe, (sources, cells, out), workers)
    except (AssetError, TaskError) as problem:
        pipe.send(("problem", Problem(type(problem).__name__, problem.what, problem.fix)))
        return
    try:
        relay.work()
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the run is over
        relay.end()


class _Relay:
    def __init__(self, pipe: Connection, given: _Given, workers: int | None) -> None:
        import ray

        self._ray, self._pipe, self._given = ray, pipe, given
        sources, cells, _ = given
        address = os.environ.get(ADDRESS)
        options = {} if address else {"include_dashboard": False}
        try:
            _require_answer(address or "")
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except Exception as problem:  # of many classes
            where = f"at {ADDRESS}={address}" if address else "that could be started on this machine"
            raise AssetError(
                f"there is no Ray cluster {where}: {type(problem).__name__}: {_last_line(problem)}",
                fix=f"start one (`ray start --head`), or unset {ADDRESS} to have one made for the run",
            ) from problem
        gpus = any(source.plan.device == "cuda" for source in sources)
        self._room = room_for(self._nodes(), workers, gpus=gpus, cells=len(cells))
        self._actors: dict[int, Any] = {}
        self._streams: dict[Any, int] = {}
        pipe.send((self._room.actors,))

    def work(self) -> None:
        """Pass on cells one way and messages the other, until the run closes its end."""
        while True:
            while self._pipe.poll(0 if self._streams else None):
                self._begin(*self._pipe.recv())
            ready, _ = self._ray.wait(list(self._streams), timeout=_TICK)
            for stream in ready:
                self._pass(stream)

    def end(self) -> None:
        """Leave the cluster; one that was made for this run ends."""
        self._ray.shutdown()

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _has_room(self) -> bool:
        """Whether one more actor finds a place on the nodes that are left."""
        return fitting(self._nodes(), self._room) > len(self._actors)

    def _begin(self, slot: int, numbers: tuple[int, ...], part: tuple[int, int] | None) -> None:
        if slot not in self._actors:
            if not self._has_room():  # a node went away meanwhile: the actor would wait for it for ever
                self._pipe.send(("lost", slot, _NO_ROOM, True))
                return
            made = self._ray.remote(num_cpus=self._room.cpus, num_gpus=self._room.gpus)(_Actor)
            variables = {name: os.environ[name] for name in _PASSED if name in os.environ}
            self._actors[slot] = made.remote(*self._given, self._room.cpus, variables)
        stream = self._actors[slot].measure.options(num_returns="streaming").remote(numbers, part)
        self._streams[stream] = slot

    def _pass(self, stream: Any) -> None:
        slot = self._streams[stream]
        try:
            packed = self._ray.get(next(stream))
        except StopIteration:
            del self._streams[stream]
            self._pipe.send(("idle", slot))
        except self._ray.exceptions.RayError as problem:
            del self._streams[stream]
            self._ray.kill(self._actors.pop(slot))
            self._pipe.send(("lost", slot, _death(problem), not self._has_room()))
        else:
            self._pipe.send(("said", slot, packed))


def _require_answer(address: str) -> None:
    """Raise OSError if nothing listens at an address, for which Ray would wait many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()


def _last_line(problem: BaseException) -> str:
    """The line that says what it is: before it Ray puts where it was."""
    return (str(problem).strip().splitlines() or ["no reason is given"])[-1].strip()


def _death(problem: BaseException) -> Problem:
    """The problem of cells whose actor died."""
    return Problem(
        "MeasurementError",
        f"the Ray actor that measured it died ({type(problem).__name__}: {_last_line(problem)})",
        "see `ray status` and the logs of its node; nodes short of memory need fewer --workers",
    )
