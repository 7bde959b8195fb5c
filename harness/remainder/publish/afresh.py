"""Measure records again where nothing that the first measurement made, or that ran before, can be found.

1. A fresh process for each task, so that no hook, no cached tensor and no patched function survives.
2. A cache of its own, which holds the pinned files alone: no activations and no answers of earlier runs.
3. Another batch size and another number of threads than those of the record, so that numbers which come from
   the order of sums, or from a batch, do not repeat by chance.

What is then measured, and how it is compared: `publish.remeasure`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from remainder.base.paths import cache_root
from remainder.errors import RecordError, RemainderError
from remainder.task.spec import ADHOC

if TYPE_CHECKING:
    from remainder.publish.remeasure import Rerun

__all__ = ["PINNED", "measure_afresh"]

PINNED = ("files", "models", "corpora", ADHOC)
"""Parts of the cache whose content a task pins by hash; every other part is a result of earlier runs."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class _Failed(NamedTuple):
    """An error of the other process, whose class need not be known here."""

    what: str
    fix: str | None


def measure_afresh(
    plans: Mapping[Path, Mapping[str, Any]],
) -> Iterator[tuple[Path, Rerun | RemainderError]]:
    """Measure some documents of records again, task by task; yields outcomes, or errors, as they are ready.

    Args:
        plans: for the path of each record, which can be read, the arguments of `remeasure.rerun`.
    """
    by_task: dict[tuple[str, int], list[Path]] = {}
    for path in plans:
        content = json.loads(path.read_bytes())
        threads = _other_threads(content["provenance"].get("threads"))
        by_task.setdefault((content["task"]["id"], threads), []).append(path)
    for (_, threads), same in sorted(by_task.items()):
        with _empty_cache() as cache, _environment(cache, threads):
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                for path in same:
                    yield path, _one(pool, path, dict(plans[path]), threads)


def _one(
    pool: ProcessPoolExecutor, path: Path, settings: dict[str, Any], threads: int
) -> Rerun | RemainderError:
    try:
        found = pool.submit(_rerun, path, settings, threads).result()
    except BrokenProcessPool:
        return RecordError(
            f"{path}: the process that measured it again was ended",
            fix="free some memory, or measure fewer documents (--documents)",
        )
    return RecordError(found.what, fix=found.fix) if isinstance(found, _Failed) else found


def _rerun(path: Path, settings: dict[str, Any], threads: int) -> Rerun | _Failed:
    """Run in the other process."""
    import torch

    from remainder.publish.remeasure import rerun

    torch.set_num_threads(threads)
    try:
        return rerun(path, **settings)
    except RemainderError as problem:
        return _Failed(problem.what, problem.fix)


def _other_threads(recorded: int | None) -> int:
    """Another number of threads than a record was made with."""
    return 2 if recorded == 1 else 1


@contextmanager
def _empty_cache() -> Iterator[Path]:
    """A cache that holds the pinned files of the user's, and nothing else."""
    with TemporaryDirectory(prefix="remainder-") as folder:
        for name in PINNED:
            own = cache_root().absolute() / name
            own.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(own, target_is_directory=True)
        yield Path(folder)


@contextmanager
def _environment(cache: Path, threads: int) -> Iterator[None]:
    """Variables that a process started meanwhile inherits; as they were before afterwards."""
    wanted = {"REMAINDER_CACHE": str(cache), **dict.fromkeys(_THREADS, str(threads))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
