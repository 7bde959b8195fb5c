"""The cost of a run, foreseen: passes by arithmetic over its plan, seconds by timing a few of them.

1. Passes a window: the clean model and zero ablation once a group, then those of each row: exact and coded
   x̂, the curve, every rung and null by its draws, x̂ everywhere if peers ask for it.
2. Beside them stand transform coding once a task, couplings and gradients on calibration windows.
3. On one batch of calibration windows the prefix, a clean and a spliced pass and a reconstruction are timed.
4. Seconds are those of loading the model, of all passes, of the activations that the cache lacks, and of
   reconstructions; besides what fits take, of which an eigendecomposition of the site's width is timed.
5. Memory is what this process holds at most after the batch, and what is fitted to the rows of a group; disk,
   the activations that the cache lacks, and records.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from remainder.base.memory import most_held
from remainder.errors import TaskError
from remainder.loading.activations import SiteActivations, is_stored, prefix_pass
from remainder.loading.loaded import LoadedTask
from remainder.loading.site import LanguageTask, SiteTask
from remainder.measure.gather import evaluation_part
from remainder.measure.losses import clean_pass, spliced_pass
from remainder.measure.plan import Plan
from remainder.measure.reference import REFERENCE_STEPS, is_measured
from remainder.record.compat import PEERS
from remainder.record.couplings import FULL_GRID, QUICK_GRID
from remainder.record.rungs import COUPLED, CURVE, KERNELS, REFITS, SCALED
from remainder.submission.submission import Entry, SiteEntry

__all__ = ["Estimate", "Passes", "duration", "estimate", "passes_of"]

_EVERYWHERE = frozenset(PEERS) - {"saelens"}
"""Peers that put x̂ at every position; the others' splice is that of `raw`, but for attention sinks."""
_COUPLED_WINDOWS, _COUPLED_DRAWS, _GRADIENT_WINDOWS = 32, 4, 16
_GRADIENT = 3.0  # passes: forward and back
_EIGENDECOMPOSITIONS = 4.0  # a row that is fitted
_OF_SURROGATES = 60 * 5 / 2  # as many beside each other as there are cores
_LATER = 0.25e9  # bytes of tables of values and of libraries that summaries need
_ROW = 2.0  # seconds a row for intervals and the rest
_BYTES = 120  # of a row of values, compressed
_PROBED = 4  # windows


class Passes(NamedTuple):
    """Passes after the site."""

    shared: int
    """Passes of each window, once a group."""
    row: int
    """Passes of each window and submission, if no two splices are equal."""
    reference: int
    """Passes of each window once a task: transform coding."""
    calibration: float
    """Passes of each submission in all, on calibration windows."""


class Estimate(NamedTuple):
    """The cost of a run."""

    rows: int
    passes: Passes
    more: int
    """Passes of each window that some of the submissions take besides, all of them together."""
    total: float
    """Passes of a window in all."""
    seconds: float
    memory: float
    """Bytes at most."""
    results: float
    """Bytes of records."""
    cache: float
    """Bytes of activations, which later runs find in the cache."""

    def lines(self) -> list[str]:
        """Sentences for a terminal."""
        shared, of_row, once, _ = self.passes
        more = (f", {self.more} more for some" if self.more else "") + (
            f", {once} once a task" if once else ""
        )
        return [
            f"passes: {shared} a window for all of a group, {of_row} for each of {self.rows} submission(s)"
            f"{more}; {self.total:,.0f} passes of a window in all",
            f"time: about {duration(self.seconds)}",
            f"memory: up to {self.memory / 1e9:.1f} GB",
            f"disk: {self.results / 1e6:,.1f} MB of results, {self.cache / 1e6:,.0f} MB in the cache",
        ]


class _Probe(NamedTuple):
    """Seconds of a window, but for the last."""

    prefix: float
    suffix: float
    rebuilt: float
    decomposition: float
    """Seconds of an eigendecomposition of the site's width."""


def passes_of(plan: Plan) -> Passes:
    """Passes of a plan; see the module's text, steps 1 and 2."""
    rungs = {name: KERNELS[name] for name in (*plan.rungs, *plan.nulls) if name in KERNELS}
    rungs |= REFITS if plan.whole else {}
    rungs |= {"coupled": COUPLED, "scaled": SCALED} if plan.couples else {}
    row = sum(1 if spec.noise == "none" else plan.draws(name) for name, spec in rungs.items())
    if plan.is_coded and not plan.is_lean:
        row += len(CURVE) - 1
    if plan.compat and _EVERYWHERE & set(plan.peers or PEERS):
        row += 1
    calibration = 0.0
    if plan.couples:
        grid = QUICK_GRID if plan.pairs == 1 else FULL_GRID
        of_grid = sum(_COUPLED_DRAWS if point.alpha else 1 for point in grid)
        calibration += min(_COUPLED_WINDOWS, plan.calibration_windows) * (1 + of_grid)
    if plan.tests_gaussianity:
        calibration += min(_GRADIENT_WINDOWS, plan.calibration_windows) * _GRADIENT
    return Passes(
        shared=2 if plan.compat else 1,
        row=row,
        reference=2 + len(REFERENCE_STEPS) if plan.has_reference else 0,
        calibration=calibration,
    )


def estimate(
    loaded: LoadedTask, entries: Sequence[Entry], plan: Plan, *, more: int = 0, rebuilt: int = 0
) -> Estimate:
    """Foresee the measurement of some submissions; the model is loaded, and a few passes are run.

    Args:
        more: passes of each window that some submissions take besides, all of them together.
        rebuilt: windows that are reconstructed besides, those of all submissions together.

    Raises:
        TaskError: if the task is not at a site.
        RemainderError: if the first submission cannot be built.
    """
    if not isinstance(loaded, SiteTask):
        raise TaskError(
            f"{loaded.task.id} is a task of circuits, whose time is not foreseen",
            fix="leave --estimate out, or try one with a few prompts first: --documents 8",
        )
    count, part = evaluation_part(loaded, plan)
    names = loaded.windows("evaluation").first(count).documents
    windows = sum(part is None or name in part for name in names)
    passes = passes_of(plan)
    if passes.reference and is_measured(loaded, plan, part):
        passes = passes._replace(reference=0)
    loading, _ = _timed(loaded.device, lambda: (loaded.runner("float32"), loaded.runner(plan.dtype)))
    with torch.inference_mode():
        probe = _probe(loaded, entries[0], plan)
    missing = _missing(loaded, plan)
    groups, rows = list(loaded.groups(entries, plan)), len(entries)
    a_window = len(groups) * passes.shared + rows * passes.row + more + passes.reference
    spliced = windows * a_window + rows * passes.calibration
    of_row = 2 * plan.calibration_windows + plan.fit_windows + 2 * windows
    decompositions = _EIGENDECOMPOSITIONS + (_OF_SURROGATES if plan.tests_gaussianity else 0.0)
    fits = decompositions * probe.decomposition if plan.fits else 0.0
    seconds = (
        loading
        + spliced * probe.suffix
        + sum(missing.values()) * probe.prefix
        + rows * (of_row * probe.rebuilt + fits + _ROW)
        + rebuilt * probe.rebuilt
    )
    values = rows * windows * (passes.row + 1 + 2 + len(REFERENCE_STEPS)) * _BYTES
    width = math.prod(loaded.windows("evaluation").inputs.shape[1:2]) * loaded.task.site.width
    tensors = 1 if loaded.task.site.is_reconstruction else 3
    fitted = max(sum(loaded.bytes_of(entry, plan) for entry in group) for group in groups)
    return Estimate(
        rows=rows,
        passes=passes,
        more=more,
        total=spliced,
        seconds=seconds,
        memory=_held(loaded.device) + fitted + _LATER,
        results=values,
        cache=4.0 * tensors * width * sum(missing.values()),
    )


def _missing(loaded: SiteTask, plan: Plan) -> dict[str, int]:
    """Windows of each split whose activations the cache lacks."""
    wanted = {"evaluation": plan.evaluation_windows}
    if plan.needs_codes or plan.fits:
        wanted |= {"calibration": plan.calibration_windows, "fit": plan.fit_windows}
    found = {}
    for split, number in wanted.items():
        windows = loaded.windows(split).first(number)  # type: ignore[arg-type]
        stored = isinstance(loaded, LanguageTask) and is_stored(
            loaded.task, windows, model_hash=loaded.model.sha256, device=loaded.device
        )
        found[split] = 0 if stored else len(windows)
    return found


def _probe(loaded: SiteTask, entry: Entry, plan: Plan) -> _Probe:
    """Times of one batch, each after a first run that is not counted."""
    assert isinstance(entry, SiteEntry)  # a task at a site scores no others
    runner = loaded.runner(plan.dtype)
    interpretation = entry.build(loaded.task, lambda: loaded.fit_moments(plan.fit_windows)).placed(
        loaded.device
    )
    windows = loaded.windows("calibration").first(min(_PROBED, loaded.batch_size))
    exact, size = loaded.runner("float32"), len(windows)
    prefix_pass(exact, windows.first(1), 1, "", None)
    prefix, tensors = _timed(loaded.device, lambda: prefix_pass(exact, windows, size, "", None))
    (batch,) = SiteActivations(loaded.task, windows, tensors).batches(size, loaded.device)
    clean_pass(runner, batch.take([0]))
    clean_time, clean = _timed(loaded.device, lambda: clean_pass(runner, batch))
    read = interpretation.choose(batch.prefix.x_in, batch.prefix.x_out)
    rebuilt, (_, estimate) = _timed(loaded.device, lambda: interpretation.reconstruct(read, batch.spliced))
    spliced = torch.where(batch.spliced[..., None], estimate, batch.prefix.x_out)
    suffix, _ = _timed(loaded.device, lambda: spliced_pass(runner, clean, spliced))
    matrix = torch.eye(loaded.task.site.width, dtype=torch.float64, device=loaded.device)
    decomposition, _ = _timed(loaded.device, lambda: torch.linalg.eigh(matrix + 0.1 * matrix.roll(1, 0)))
    return _Probe(prefix / size, min(suffix, clean_time) / size, rebuilt / size, decomposition)


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds on the clock, and what the work gives."""
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, found


def _held(device: torch.device) -> float:
    """The most bytes that were held so far: of the device, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return most_held()


def duration(seconds: float) -> str:
    """Seconds, or minutes or hours where there are many."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"
