"""Measure one interpretation on one task, by the steps of the protocol.

1. Build the interpretation; check that it is deterministic, causal and local.
2. Calibrate: stream its residuals r = x − x̂ on the `calibration` split into moments and a keyed bank.
3. Fit every rung, and the denominators of the Gaussian ratio, to these.
4. Evaluate: per batch of windows, one clean suffix pass, then one for each rung and draw, with x̂ + ε put
   in at all spliced positions at once; for the denominators x + ε.
5. Count what the interpretation costs: active features, bits per token.
6. Check what must hold in every run, and seal everything into a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from remainder.activations import Batch
from remainder.assets import Progress
from remainder.conformance import check_conformance
from remainder.errors import MeasurementError, TaskError
from remainder.interpretation import Adapted
from remainder.loaded import LoadedTask
from remainder.measure.complexity import CodeSample, bits_per_token
from remainder.measure.losses import Clean, WindowScores, clean_pass, spliced_pass
from remainder.model import DTYPES, Runner
from remainder.provenance import collect_provenance
from remainder.record import make_record
from remainder.residual.ladder import NOISES, RUNGS, Context, ResidualModel
from remainder.residual.moments import Calibration
from remainder.residual.noise import Draw, Places
from remainder.schema import Calibration as CalibrationInfo
from remainder.schema import (
    Check,
    Complexity,
    Measurement,
    Number,
    Pinned,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.task import Task

__all__ = ["Plan", "Subject", "measure", "plan"]

TRUE_LIMIT = 1e-4
"""Nats per token by which the true residual may miss the clean model."""

_MOVED = 0.01  # nats per token by which the suffix's dtype may move a loss without a warning
_ENOUGH_ROWS = 5  # calibration tokens per dimension, below which a covariance is doubtful


@runtime_checkable
class Subject(Protocol):
    """What is measured: a submission of files, or an object from a notebook."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def files(self) -> dict[str, str]: ...
    @property
    def hash(self) -> str: ...


class Plan(NamedTuple):
    """How much is measured, and how."""

    tier: str
    rungs: tuple[str, ...]
    pairs: int
    dtype: str
    evaluation_windows: int
    calibration_windows: int
    fit_windows: int


def plan(
    task: Task,
    tier: str,
    *,
    rungs: tuple[str, ...] | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
) -> Plan:
    """A tier of a task, with parts of it replaced.

    Raises:
        TaskError: if there is no such tier, rung or dtype.
    """
    amount = task.tier(tier)
    chosen = tuple(rungs or task.rungs)
    unknown = [rung for rung in chosen if rung not in RUNGS]
    if unknown:
        raise TaskError(f"there is no rung {unknown[0]!r}", fix=f"choose from: {', '.join(RUNGS)}")
    precision = dtype or amount.dtype
    if precision not in DTYPES:
        raise TaskError(f"there is no dtype {precision!r}", fix=f"choose from: {', '.join(DTYPES)}")
    if pairs is not None and pairs < 1:
        raise TaskError(f"pairs is {pairs}", fix="ask for at least one antithetic pair of draws")
    # Without `raw` nothing is known of the interpretation itself; every other rung is compared with it.
    ordered = tuple(rung for rung in RUNGS if rung in {"raw", *chosen})
    return Plan(
        tier,
        ordered,
        pairs or amount.pairs,
        precision,
        amount.evaluation_windows,
        amount.calibration_windows,
        amount.fit_windows,
    )


def measure(
    loaded: LoadedTask,
    subject: Subject,
    build: Callable[[], Adapted],
    plan: Plan,
    *,
    progress: Progress | None = None,
) -> tuple[Record, pd.DataFrame]:
    """Measure `subject`; gives its record and the table of per-document values.

    Raises:
        InterpretationError: if it breaks a rule, or gives values of a wrong shape or not finite.
        MeasurementError: if a check inside the run fails.
    """
    with torch.inference_mode():
        return _Run(loaded, subject, build, plan, progress).record()


class Kernel(NamedTuple):
    """A fitted residual model, by what it is called, and what its sample is added to."""

    name: str
    model: ResidualModel
    around_x: bool
    draws: int


@dataclass
class _Run:
    loaded: LoadedTask
    subject: Subject
    build: Callable[[], Adapted]
    plan: Plan
    progress: Progress | None
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)

    def record(self) -> tuple[Record, pd.DataFrame]:
        with self._timed("build"):
            interpretation = self.build().placed(self.loaded.device)
        with self._timed("calibration"):
            calibration, sample = self._calibrate(interpretation)
            kernels = self._fit(calibration)
        with self._timed("evaluation"):
            values, deviation = self._evaluate(interpretation, kernels)
        with self._timed("complexity"):
            complexity = self._complexity(interpretation, sample)
        self._check_true(values)
        return self._seal(values, calibration, complexity, deviation), values

    def _calibrate(self, interpretation: Adapted) -> tuple[Calibration, CodeSample]:
        """Stream residuals of the calibration split; the first batch also goes through conformance."""
        calibration, sample = Calibration.empty(self._site.width, device=self.loaded.device), CodeSample()
        activations = self.loaded.activations("calibration", self.plan.calibration_windows)
        for batch in activations.batches(max(self.loaded.batch_size, 2), self.loaded.device):
            if not sample.seen:
                if not batch.spliced.any():
                    raise _nothing_spliced()
                found = check_conformance(interpretation, batch.prefix.x_in, batch.spliced)
                worst = max(found.repeated, found.later_positions, found.other_windows)
                self.checks["conformance"] = Check(
                    passed=True,
                    value=worst,
                    limit=found.limit,
                    note="largest change of the reconstruction on repeating, on changing later positions or "
                    "other windows, over the root mean square of x",
                )
            codes, reconstruction = interpretation.reconstruct(batch.prefix.x_in, batch.spliced)
            residual = batch.prefix.x_out.double() - reconstruction.double()
            calibration.update(self._places(batch), residual, batch.spliced)
            sample.update(codes[batch.spliced], batch.prefix.x_in[batch.spliced])
        tokens, width = calibration.moments.count, self._site.width
        if tokens < _ENOUGH_ROWS * width:
            self.warnings.append(
                f"the covariance of {width} dimensions was fitted to {tokens} tokens, fewer than "
                f"{_ENOUGH_ROWS} a dimension: `full` is uncertain"
            )
        return calibration, sample

    def _fit(self, calibration: Calibration) -> list[Kernel]:
        """Every rung of the plan, and the denominators of the Gaussian ratio."""
        draws = 2 * self.plan.pairs
        kernels = []
        chosen = {rung: RUNGS[rung] for rung in self.plan.rungs}
        for name, kind in {**chosen, **NOISES}.items():
            count = 1 if kind.driver == "none" else draws
            kernels.append(Kernel(name, kind().fit(calibration), name in NOISES, count))
        return kernels

    def _evaluate(
        self, interpretation: Adapted, kernels: list[Kernel]
    ) -> tuple[pd.DataFrame, dict[str, float] | None]:
        """Per-document values of the clean model and of every kernel and draw."""
        runner = self.loaded.runner(self.plan.dtype)
        self.checks["suffix"] = Check(
            passed=True, note=f"{runner.mode}: gives the full pass's logits; every hook fired exactly once"
        )
        activations = self.loaded.activations("evaluation", self.plan.evaluation_windows)
        mean = _mean_of(activations.batches(32))
        passes = sum(kernel.draws for kernel in kernels)
        total, done = len(activations.windows) * passes, 0
        rows: list[dict[str, Any]] = []
        deviation = None
        for number, batch in enumerate(activations.batches(self.loaded.batch_size, self.loaded.device)):
            clean = clean_pass(runner, batch)
            codes, reconstruction = interpretation.reconstruct(batch.prefix.x_in, batch.spliced)
            rows += _rows(batch, "clean", 0, clean.scores)
            if number == 0:
                self._check_zero(runner, clean)
                deviation = self._deviation(runner, clean, reconstruction)
            for kernel in kernels:
                for draw in range(kernel.draws):
                    spliced = self._splice(kernel, Draw(draw), batch, reconstruction)
                    new = _rows(batch, kernel.name, draw, spliced_pass(runner, clean, spliced))
                    if kernel.name == "raw":
                        _add_reconstruction(new, batch, codes, reconstruction, mean)
                    rows += new
                    done += len(batch.windows)
                    if self.progress is not None:
                        self.progress(f"{self.subject.name}", done, total)
        return pd.DataFrame(rows), deviation

    def _splice(
        self, kernel: Kernel, draw: Draw, batch: Batch, reconstruction: Tensor
    ) -> Float[Tensor, "docs pos d"]:
        """x̂ + ε (or x + ε) where something is spliced, x elsewhere.

        Sums are made in float64, so that x̂ + (x − x̂) is x to the bit whatever the suffix's dtype.
        """
        x, estimate = batch.prefix.x_out.double(), reconstruction.double()
        context = Context(self._places(batch), estimate, batch.spliced, x - estimate)
        if not kernel.model.needs_residual:
            context = context.without_residual()
        spliced = (x if kernel.around_x else estimate) + kernel.model.sample(context, draw)
        return torch.where(batch.spliced[..., None], spliced, x).float()

    def _check_zero(self, runner: Runner, clean: Clean) -> None:
        """Splicing zeros must change the loss: else the hook does nothing."""
        x = clean.batch.prefix.x_out
        zeros = torch.where(clean.batch.spliced[..., None], 0.0, x)
        scores = spliced_pass(runner, clean, zeros)
        change = (sum(scores.loss) - sum(clean.scores.loss)) / max(sum(scores.tokens), 1)
        if change == 0:
            raise MeasurementError(
                f"splicing zeros at {self._site.hook_out} does not change the loss",
                fix="choose a hook whose value the model uses",
            )
        self.checks["zero_splice"] = Check(
            passed=True, value=change, note="loss with zeros spliced in, less the clean loss, on one batch"
        )

    def _deviation(self, runner: Runner, clean: Clean, reconstruction: Tensor) -> dict[str, float] | None:
        """How far the suffix's dtype moves the clean loss and the raw gap from float32, on one batch."""
        if runner.dtype == torch.float32:
            return None
        exact_runner = self.loaded.runner("float32")
        exact = clean_pass(exact_runner, clean.batch)
        kernel = Kernel("raw", RUNGS["raw"](), False, 1)
        spliced = self._splice(kernel, Draw(0), clean.batch, reconstruction)
        raw, exact_raw = spliced_pass(runner, clean, spliced), spliced_pass(exact_runner, exact, spliced)
        tokens = sum(exact.scores.tokens)

        def per_token(values: list[float], reference: list[float]) -> float:
            return (sum(values) - sum(reference)) / tokens

        loss = per_token(clean.scores.loss, exact.scores.loss)
        moved = per_token(raw.loss, exact_raw.loss) - loss
        gap = per_token(exact_raw.loss, exact.scores.loss)
        if abs(loss) > _MOVED or abs(moved) > max(_MOVED, 2 * _MOVED * abs(gap)):
            self.warnings.append(
                f"{self.plan.dtype} moves the clean loss by {loss:.3g} and the raw gap by {moved:.3g} nats "
                "per token from float32: measure with float32"
            )
        return {
            "tokens": float(tokens),
            "clean_loss": loss,
            "raw_gap": moved,
            "raw_kl": per_token(raw.kl, exact_raw.kl),
        }

    def _complexity(self, interpretation: Adapted, sample: CodeSample) -> Complexity:
        bits, note = bits_per_token(sample, interpretation, self.loaded.device)
        return Complexity(
            live_features=Number.bare(float(sample.live_features), "a count on the calibration split"),
            bits_per_token=Number.null(note) if bits is None else Number.bare(bits, note),
            features=sample.features,
        )

    def _check_true(self, values: pd.DataFrame) -> None:
        """The true residual must give back the clean model."""
        if "true" not in self.plan.rungs:
            return
        sums = values.groupby("rung")[["loss", "tokens"]].sum()
        gap = float((sums.loss["true"] - sums.loss["clean"]) / sums.tokens["clean"])
        if abs(gap) > TRUE_LIMIT:
            raise MeasurementError(
                f"splicing the true residual back misses the clean loss by {gap:.3g} nats per token, more "
                f"than {TRUE_LIMIT:g}",
                fix="this is a bug, or the reconstruction is so large that x is lost in rounding",
            )
        self.checks["true_equals_clean"] = Check(
            passed=True, value=gap, limit=TRUE_LIMIT, note="loss with the true residual, less the clean loss"
        )

    def _seal(
        self,
        values: pd.DataFrame,
        calibration: Calibration,
        complexity: Complexity,
        deviation: dict[str, float] | None,
    ) -> Record:
        task, model, device = self.loaded.task, self.loaded.task.model, self.loaded.device
        corpus = task.corpus.wheel
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return make_record(
            values,
            protocol=task.protocol,
            task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
            submission=SubmissionInfo(
                name=self.subject.name,
                kind=self.subject.kind,
                files=self.subject.files,
                hash=self.subject.hash,
            ),
            tier=self.plan.tier,
            model=Pinned(source=model.source, revision=model.revision, sha256=self.loaded.model_hash),
            corpus=Pinned(source=f"{corpus.package}=={corpus.version}", sha256=self.loaded.corpus.hash),
            complexity=complexity,
            checks=self.checks,
            calibration=CalibrationInfo(
                documents=len(calibration.documents),
                tokens=calibration.moments.count,
                dimension=self._site.width,
            ),
            measurement=Measurement(
                rungs=self.plan.rungs,
                pairs=self.plan.pairs,
                seed=task.seed,
                dtype=self.plan.dtype,
                suffix=self.loaded.runner(self.plan.dtype).mode,
                device=device.type,
                device_name=name,
                batch_size=self.loaded.batch_size,
                bf16_deviation=deviation,
            ),
            provenance=collect_provenance(self.timings),
            warnings=self.warnings,
        )

    @property
    def _site(self) -> Any:
        return self.loaded.task.site

    def _places(self, batch: Batch) -> Places:
        return Places(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - start


def _rows(batch: Batch, rung: str, draw: int, scores: WindowScores) -> list[dict[str, Any]]:
    """One row of the table of values for each window of a batch."""
    windows = zip(batch.windows.documents, batch.windows.indices, strict=True)
    return [
        {
            "document": document,
            "window": window,
            "rung": rung,
            "draw": draw,
            "tokens": scores.tokens[i],
            "loss": scores.loss[i],
            "kl": scores.kl[i],
            "top1": scores.top1[i],
            "kl_histogram": scores.kl_histogram[i],
            "residual_ss": None,
            "centred_ss": None,
            "active": None,
            "spliced": None,
        }
        for i, (document, window) in enumerate(windows)
    ]


def _add_reconstruction(
    rows: list[dict[str, Any]], batch: Batch, codes: Tensor, reconstruction: Tensor, mean: Tensor
) -> None:
    """Sums of squares and active features over the spliced positions of each window, into its row."""
    x = batch.prefix.x_out.double()
    residual = (x - reconstruction.double()).square().sum(-1)
    centred = (x - mean.to(x.device)).square().sum(-1)
    active = (codes != 0).sum(-1)
    for i, row in enumerate(rows):
        mask = batch.spliced[i]
        row["residual_ss"] = float(residual[i][mask].sum())
        row["centred_ss"] = float(centred[i][mask].sum())
        row["active"] = int(active[i][mask].sum())
        row["spliced"] = int(mask.sum())


def _mean_of(batches: Iterator[Batch]) -> Float[Tensor, " d"]:
    """Mean clean activation over the spliced positions of the evaluation split, float64."""
    total, count = None, 0
    for batch in batches:
        rows = batch.prefix.x_out[batch.spliced].double()
        total = rows.sum(0) if total is None else total + rows.sum(0)
        count += len(rows)
    if total is None or count == 0:
        raise _nothing_spliced()
    return total / count


def _nothing_spliced() -> MeasurementError:
    return MeasurementError("no position is spliced", fix="raise sink_norm in the task's [positions]")
