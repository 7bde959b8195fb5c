"""Worker processes on this machine: each holds the task it works on, and measures the cells that it is given.

1. They are started anew (`spawn`), with their share of the threads.
2. On a machine with several GPUs each sees one of them, in turn.
3. A worker that dies, for example since the system is short of memory, costs the cells that it has not told
   of. Another one takes its slot when cells are given to it.
4. When the process of the run ends, however it ends, they end too.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from remainder.errors import TaskError
from remainder.runs.job import Openings, Problem, Source, messages, pack, unpack
from remainder.runs.pool import Event, Idle, Lost, Said
from remainder.runs.processes import follow, inherited
from remainder.runs.work import Cell

__all__ = ["Workers", "threads_for"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that are read when torch is imported."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def threads_for(workers: int, cores: int | None = None) -> int:
    """Threads of each of so many workers, so that all together use the cores of this machine once.

    Raises:
        TaskError: the number of workers is less than 1, or there are fewer cores.
    """
    cores = cores or _cores()
    if workers < 1:
        raise TaskError(f"--workers {workers}", fix="ask for 1 or more")
    if workers > cores:
        raise TaskError(
            f"--workers {workers}: this process may use {cores} core(s)", fix=f"ask for {cores} or fewer"
        )
    return cores // workers


def _cores() -> int:
    """Cores that this process may use, which a job of a cluster may have fewer of than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection


class Workers:
    """A pool of worker processes, each started when it is first given cells.

    Args:
        sources: the run's tasks.
        cells: the run's list.
        out: the folder of results where finished batches are kept; None: nowhere.
        workers: how many at most.
    """

    def __init__(
        self, sources: Sequence[Source], cells: Sequence[Cell], workers: int, *, out: Path | None = None
    ) -> None:
        self._given = tuple(sources), tuple(cells), out
        self._threads = threads_for(workers)
        self._slots = workers
        self._workers: dict[int, _Worker] = {}
        self._events: deque[Event] = deque()

    @property
    def slots(self) -> int:
        """How many there are."""
        return self._slots

    def start(self, slot: int, numbers: Sequence[int], part: tuple[int, int] | None = None) -> None:
        """Give cells of one task to the worker of a slot, which is started if there is none."""
        if slot not in self._workers:
            self._workers[slot] = self._begin(slot)
        try:
            self._workers[slot].pipe.send((tuple(numbers), part))
        except OSError:  # it died while it had nothing to do
            self._lose(slot)

    def event(self) -> Event:
        """Wait until a worker tells something, or dies."""
        while not self._events:
            by_pipe = {worker.pipe: slot for slot, worker in self._workers.items()}
            # A worker that dies closes its pipe, whose end is read after all that it said before.
            for pipe in connection.wait(list(by_pipe)):
                slot = by_pipe[pipe]  # type: ignore[index]
                try:
                    packed = self._workers[slot].pipe.recv()
                except (EOFError, OSError):
                    self._lose(slot)
                else:
                    self._events.append(Idle(slot) if packed is None else Said(slot, unpack(packed)))
        return self._events.popleft()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _begin(self, slot: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._given, self._threads), daemon=True)
        with inherited({**dict.fromkeys(_THREADS, str(self._threads)), **_gpu_of(slot)}):
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _lose(self, slot: int) -> None:
        worker = self._workers.pop(slot)
        worker.pipe.close()
        worker.process.join()
        self._events.append(Lost(slot, _death(worker.process.exitcode or 0)))


def _gpu_of(slot: int) -> dict[str, str]:
    """The variable by which the workers of a machine with several GPUs each see one of them, in turn."""
    stated = os.environ.get(_VISIBLE)
    gpus = stated.split(",") if stated else [str(number) for number in range(torch.cuda.device_count())]
    return {_VISIBLE: gpus[slot % len(gpus)]} if len(gpus) > 1 else {}


def _death(code: int) -> Problem:
    """The problem of cells whose worker ended with this code; a signal if it is negative."""
    how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with code {code}"
    memory = "; so does a system that is short of memory" if code == -signal.SIGKILL else ""
    return Problem(
        "MeasurementError",
        f"the process that measured it was ended {how}{memory}",
        "use fewer --workers, a smaller --batch-size, or a machine with more memory; run again for this row",
    )


def _work(
    pipe: Connection, sources: Sequence[Source], cells: Sequence[Cell], out: Path | None, threads: int
) -> None:
    """Run in the worker: measure what is given, until the process of the run ends."""
    follow()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    openings = Openings(sources, cells, out=out)
    with suppress(EOFError, BrokenPipeError):  # the process of the run has ended
        while True:
            for message in messages(openings, *pipe.recv()):
                pipe.send(pack(message))
            pipe.send(None)
