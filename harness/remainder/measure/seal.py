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
from remainder.model.device import may_round_to_tf32
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
    Provenance,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.record.store import make_record
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import covariance_of
from remainder.residual.held_out import conditional_figures
from remainder.submission.submission import Entry

__all__ = ["Log", "Remeasured", "Spent", "calibration_info", "info", "seal"]


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
        family=entry.family,
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
        **conditional_figures(calibration),
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


class Spent(NamedTuple):
    """Seconds on the clock, and seconds of processors: of all threads of this process together."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        """The reading of both clocks; only differences mean something."""
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Spent:
        """The time that was spent since both clocks showed this."""
        now = Spent.now()
        return Spent(now.wall - self.wall, now.cpu - self.cpu)


@dataclass
class Log:
    """Checks, warnings, times, and rungs that the residual does not admit, gathered along a measurement."""

    checks: dict[str, Check] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    """Time by stage."""
    warnings: list[str] = field(default_factory=list)
    unmeasured: dict[str, str] = field(default_factory=dict)
    """The reason why a rung has no values, by its name."""
    found: int = 0
    """Batches that were found finished, and took no time of this run."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Take the time of a stage."""
        start = Spent.now()
        yield
        self.add(stage, start.since())

    def add(self, stage: str, spent: Spent, share: float = 1.0) -> None:
        """Add a share of some time to that of a stage."""
        before = self.spent.get(stage, Spent())
        self.spent[stage] = Spent(before.wall + share * spent.wall, before.cpu + share * spent.cpu)


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
        provenance=_provenance(log, values, device),
        warnings=log.warnings,
    )


def _provenance(log: Log, values: pd.DataFrame, device: torch.device) -> Provenance:
    """Circumstances, and how fast the evaluation was."""
    tokens = int(values.loc[(values["rung"] == "clean") & (values["split"] == "evaluation"), "tokens"].sum())
    evaluation = log.spent.get("evaluation", Spent()).wall
    return collect_provenance(
        {stage: spent.wall for stage, spent in log.spent.items()},
        cpu={stage: spent.cpu for stage, spent in log.spent.items()},
        tokens_per_second=tokens / evaluation if evaluation > 0 and not log.found else None,
        threads=torch.get_num_threads(),
        tf32=may_round_to_tf32(device),
    )
