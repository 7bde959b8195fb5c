"""Facts that a measurement gathers besides its values, and the record that all of it is sealed into."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch

from remainder.loading.loaded import LoadedTask
from remainder.measure.plan import Plan
from remainder.record.compat import Compat
from remainder.record.metrics import Gaussianity
from remainder.record.number import Number
from remainder.record.provenance import collect_provenance
from remainder.record.schema import (
    BehaviourInfo,
    CalibrationInfo,
    Check,
    Complexity,
    Measurement,
    MethodInfo,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.record.store import make_record
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import covariance_of
from remainder.submission.submission import Entry

__all__ = ["Log", "Remeasured", "calibration_info", "info", "seal"]


def info(entry: Entry) -> SubmissionInfo:
    """The identity of an entry, as records state it."""
    method = MethodInfo(format=entry.format_name)
    return SubmissionInfo(
        name=entry.name,
        kind=entry.kind,
        files=entry.files,
        hash=entry.hash,
        method=method,
        kilobytes=entry.kilobytes,
    )


def calibration_info(calibration: Calibration, unexplained: dict[str, Number]) -> CalibrationInfo:
    """The figures of a fit, as records state them, and what is left unexplained of each split.

    Args:
        calibration: has seen nothing where nothing was to be fitted.
    """
    if not calibration.tokens:
        return CalibrationInfo(
            documents=0, tokens=0, dimension=calibration.width, unexplained=unexplained or None
        )
    covariance = covariance_of(calibration)
    cells = calibration.already("cells")
    return CalibrationInfo(
        documents=len(calibration.documents),
        tokens=calibration.tokens,
        dimension=calibration.width,
        shrinkage=covariance.intensity,
        oas=covariance.oas,
        held_out_mahalanobis=covariance.held_out,
        rank=covariance.rank,
        bank_rows=len(calibration.bank.rows()),
        cells=None if cells is None else len(cells.sizes),
        cells_explained=None if cells is None else cells.explained,
        unexplained=unexplained,
    )


class Remeasured(NamedTuple):
    """Some documents of a record, measured again."""

    values: pd.DataFrame
    """The canonical table of values, of these documents alone."""
    documents: tuple[str, ...]
    windows: frozenset[tuple[str, int]]
    """Document and number of every window that a record of this plan holds, whether measured now or not."""
    complexity: Complexity
    """L0 is omitted: it needs all documents."""
    calibration: CalibrationInfo


@dataclass
class Log:
    """Checks, warnings, times, and rungs that the residual does not admit, gathered along a measurement."""

    checks: dict[str, Check] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds, by stage."""
    warnings: list[str] = field(default_factory=list)
    unmeasured: dict[str, str] = field(default_factory=dict)
    """The reason why a rung has no values, by its name."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Take the time of a stage."""
        start = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds


def seal(
    loaded: LoadedTask,
    plan: Plan,
    log: Log,
    values: pd.DataFrame,
    *,
    submission: SubmissionInfo,
    complexity: Complexity,
    calibration: CalibrationInfo,
    suffix: str,
    reference: SubmissionInfo | None = None,
    gaussianity: Gaussianity | None = None,
    compat: Compat | None = None,
    batch_size: int | None = None,
    deviation: Mapping[str, float] | None = None,
    behaviour: BehaviourInfo | None = None,
) -> Record:
    """The record of a measurement, for tasks of every kind.

    Args:
        suffix: the part of the model that ran.
        deviation: of the suffix's dtype from float32 on one batch, nats per token.

    Raises:
        RemainderError: as `make_record`.
    """
    task, device = loaded.task, loaded.device
    return make_record(
        values,
        protocol=task.protocol,
        task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
        submission=submission,
        reference=reference,
        tier=plan.tier,
        model=loaded.model,
        corpus=loaded.data,
        complexity=complexity,
        checks=log.checks,
        calibration=calibration,
        gaussianity=gaussianity,
        compat=compat,
        measurement=Measurement(
            rungs=plan.rungs,
            pairs=plan.pairs,
            annealed_draws=2 * plan.annealed_pairs,
            whole=plan.whole,
            compat=plan.compat,
            peers=plan.peers,
            unmeasured=log.unmeasured,
            seed=task.seed,
            dtype=plan.dtype,
            suffix=suffix,
            device=device.type,
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            batch_size=batch_size,
            bf16_deviation=None if deviation is None else dict(deviation),
            behaviour=behaviour,
        ),
        provenance=collect_provenance(log.timings, threads=torch.get_num_threads()),
        warnings=log.warnings,
    )
