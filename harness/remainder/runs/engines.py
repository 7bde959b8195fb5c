"""Engines: what a run is measured by, by the name that the command line gives it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from remainder.errors import TaskError
from remainder.runs.here import Here
from remainder.runs.job import Openings
from remainder.runs.pool import Pool
from remainder.runs.ray_engine import RayPool, require_ray
from remainder.runs.workers import Workers, threads_for

__all__ = ["ENGINES", "pool_of"]


def pool_of(engine: str, workers: int | None) -> Callable[[Openings], Pool]:
    """The maker of the pool of a run, to be called when its list is known.

    Args:
        engine: one of `ENGINES`.
        workers: how many processes; default: the engine's.

    Raises:
        TaskError: there is no such engine, or it cannot have so many workers.
    """
    if engine not in ENGINES:
        raise TaskError(f"there is no engine {engine!r}", fix=f"choose from: {', '.join(ENGINES)}")
    if workers is not None:
        # A cluster may have more cores than this machine, and says so itself.
        threads_for(workers, max(workers, 1) if engine == "ray" else None)
    if engine == "ray":
        require_ray()
    return partial(ENGINES[engine], workers)


def _local(workers: int | None, openings: Openings) -> Pool:
    """This process, or several others of this machine."""
    if workers in (None, 1):
        return Here(openings)
    assert workers is not None
    return Workers(openings.sources, openings.cells, workers, out=openings.out)


def _ray(workers: int | None, openings: Openings) -> Pool:
    """Actors on a Ray cluster."""
    return RayPool(openings.sources, openings.cells, workers, out=openings.out)


ENGINES: dict[str, Callable[[int | None, Openings], Pool]] = {"local": _local, "ray": _ray}
