"""The reference of all interpretations of a task: transform coding, measured once.

1. Mean and principal components of the activation that is rebuilt, on calibration; all of them, in float64.
2. Coefficients are quantised with one step for all, Δ_j = rms · 2^(−j/2): by reverse water-filling this is
   the best that linear coding of a Gaussian can do. Bits by the same tables as any interpretation's codes.
3. The mean alone, at no bits, and the quantised coefficients at each step are spliced in.

The rows depend on task, dtype, device and windows alone, so they are kept in the cache.

Source: protocol 2, section 5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from remainder.base.cache import Progress, build_once, verify
from remainder.base.paths import cache_root
from remainder.interpretation.protocol import adapt
from remainder.interpretation.references import principal_components
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.codes import Codes, CodeSample, Look
from remainder.measure.coding import CodedBatch, Coder, fit_coder
from remainder.measure.evaluation import add_paid
from remainder.measure.kernels import FittedRung, score
from remainder.measure.losses import clean_pass
from remainder.measure.plan import Plan
from remainder.measure.seal import Log
from remainder.record.json import content_hash
from remainder.record.rungs import REFERENCE_MEAN, RUNGS, reference_rung
from remainder.residual.calibration import LARGE
from remainder.residual.covariance import NotMeasurableError
from remainder.residual.ladder import Raw
from remainder.residual.moments import Moments
from remainder.residual.noise import NoiseKeys

__all__ = ["REFERENCE_STEPS", "Reference", "is_measured", "reference_key", "reference_rows"]

REFERENCE_STEPS = tuple(range(2, 14))
"""The j of the steps that the reference is measured at, coarse to fine."""

_FILE = "rows.json"
Rows = list[dict[str, Any]]


class Reference(NamedTuple):
    """Rows of the table of values, one for each window and rung of the reference."""

    rows: Rows
    steps: tuple[int, ...]


def reference_rows(
    loaded: SiteTask,
    plan: Plan,
    batches: Callable[[], Iterator[Batch]],
    documents: Iterable[str] | None,
    total: int,
    log: Log,
    progress: Progress,
    *,
    cached: bool,
) -> Reference:
    """Transform coding on some evaluation windows; no rows, and the reason in the log, where it has none.

    Args:
        batches: of these windows, anew at every call.
        documents: of these windows; None: those of the plan.
        total: how many windows they are, at most.
        cached: whether rows that were measured before will do, and are kept.
    """

    def build(folder: Path) -> None:
        rows = _measure(loaded, plan, batches, total, progress)
        (folder / _FILE).write_text(json.dumps(rows), encoding="utf-8")

    try:
        if not cached:
            return Reference(_measure(loaded, plan, batches, total, progress), REFERENCE_STEPS)
        folder = build_once("reference", reference_key(loaded, plan, documents), build)
    except NotMeasurableError as problem:
        log.warnings.append(f"transform coding was not measured: {problem.what}")
        log.unmeasured["reference"] = problem.what
        return Reference([], ())
    verify(folder)
    return Reference(json.loads((folder / _FILE).read_text(encoding="utf-8")), REFERENCE_STEPS)


def is_measured(loaded: SiteTask, plan: Plan, documents: Iterable[str] | None) -> bool:
    """Whether the cache has the rows, so that no pass is made."""
    return (cache_root() / "reference" / reference_key(loaded, plan, documents) / _FILE).is_file()


def reference_key(loaded: SiteTask, plan: Plan, documents: Iterable[str] | None) -> str:
    """The name of the rows in the cache: everything that they depend on."""
    content = {
        "format": 1,
        "task": loaded.task.hash,
        "model": loaded.model.sha256,
        "data": loaded.data.sha256,
        "dtype": plan.dtype,
        "device": loaded.device.type,
        "calibration": plan.calibration_windows,
        "evaluation": plan.evaluation_windows,
        "documents": None if documents is None else sorted(documents),
        "steps": list(REFERENCE_STEPS),
    }
    return hashlib.sha256(content_hash(content).encode()).hexdigest()[:24]


def _measure(
    loaded: SiteTask, plan: Plan, batches: Callable[[], Iterator[Batch]], total: int, progress: Progress
) -> Rows:
    doing = "transform coding (once a task)"
    progress(doing, 0, None)
    coder, mean = _fit(loaded, plan)
    runner = loaded.runner(plan.dtype)
    rungs = {reference_rung(step): step for step in REFERENCE_STEPS}
    rows: Rows = []
    for batch in batches():
        clean = clean_pass(runner, batch)
        places = NoiseKeys(loaded.task.seed, batch.windows.documents, batch.windows.indices)
        x = batch.prefix.x_out
        coded = CodedBatch(coder, coder.interpretation.encode(x), x, batch.spliced)
        passes = {REFERENCE_MEAN: (mean.to(x).expand_as(x), [0.0] * len(batch.windows))}
        passes |= {rung: (coded.reconstruction(step), coded.bits(step)) for rung, step in rungs.items()}
        for rung, (estimate, bits) in passes.items():
            # Told before each pass, since the model may have been loaded, under another name, just now.
            progress(doing, len(rows), total * len(passes))
            for new in score(runner, clean, [FittedRung(rung, RUNGS["raw"], Raw())], estimate, places):
                add_paid(new, batch, estimate, bits)
                rows += new
    return rows


def _fit(loaded: SiteTask, plan: Plan) -> tuple[Coder, Tensor]:
    """The coder of all principal coefficients, and the mean."""
    width = loaded.task.site.width
    if width >= LARGE:
        raise NotMeasurableError(
            f"principal components of {width} dimensions take a matrix that is not formed",
            fix=f"choose a site of fewer than {LARGE} dimensions",
        )
    activations = loaded.activations("calibration", plan.calibration_windows)
    moments = Moments.empty(width)
    for batch in activations.batches(loaded.batch_size):
        moments.update(batch.prefix.x_out[batch.spliced])
    if moments.count <= width:
        raise NotMeasurableError(
            f"{width} principal components cannot be found from {moments.count} calibration tokens",
            fix="calibrate on more windows",
        )
    basis = adapt(principal_components(moments, width), width, "transform coding").placed(loaded.device)

    def looks() -> Iterator[Look]:
        for batch in activations.batches(loaded.batch_size, loaded.device):
            x, here = batch.prefix.x_out, batch.spliced
            yield Look(Codes.of(basis.encode(x)[here]), x[here], here)

    sample = CodeSample(looks)
    for batch in activations.batches(loaded.batch_size, loaded.device):
        x, here = batch.prefix.x_out, batch.spliced
        sample.update(basis.encode(x)[here], x[here], spliced=here)
    coder = fit_coder(sample, basis, loaded.device, REFERENCE_STEPS)
    assert isinstance(coder, Coder)  # its decoder is linear
    return coder, moments.mean.float()
