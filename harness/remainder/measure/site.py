"""Measure one interpretation on one task, by the steps of the protocol.

1. Build the interpretation; check that it is deterministic, causal and local.
2. Calibrate: stream its residuals r = x − x̂ on the `calibration` split into moments and a keyed bank.
3. Fit every rung, and the denominators of the Gaussian ratio, to these; in a whole run also the couplings.
4. Evaluate: per batch of windows, one clean suffix pass, then one for each rung and draw, with x̂ + ε put
   in at all spliced positions at once; for the denominators x + ε.
5. Count what the interpretation costs: active features, bits per token. If asked, score it by the field's own
   metrics too.
6. Check what must hold in every run, and seal everything into a record.

With a second, finer interpretation its reconstruction stands in for the model's activation x throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.errors import InterpretationError, MeasurementError
from remainder.interpretation.protocol import Adapted
from remainder.interpretation.rules import check_conformance
from remainder.loading.activations import Batch
from remainder.loading.site import LanguageTask, SiteTask
from remainder.measure.checks import check_true, check_true_of_batch, check_zero, dtype_deviation
from remainder.measure.compat import measure_compat
from remainder.measure.complexity import AffineDecoder, CodeSample, affine_decoder, complexity_of
from remainder.measure.directions import decoder_directions, gradient_directions
from remainder.measure.gather import (
    Residuals,
    add_reconstruction,
    evaluation_part,
    mean_activation,
    nothing_spliced,
)
from remainder.measure.gaussianity import measure_gaussianity
from remainder.measure.kernels import FittedRung, fit_kernels, score, table_rows
from remainder.measure.losses import Clean, clean_pass, spliced_pass
from remainder.measure.plan import Plan
from remainder.measure.seal import Log, Remeasured, calibration_info, info, seal
from remainder.measure.unexplained import Unexplained
from remainder.model.bridge import Runner
from remainder.record.compat import Compat
from remainder.record.couplings import FULL_GRID, QUICK_GRID, rung_of
from remainder.record.metrics import Gaussianity
from remainder.record.recordable import require_recordable
from remainder.record.rungs import COUPLED, NULLS, REFITS, RUNGS
from remainder.record.schema import Check
from remainder.record.store import StoredRecord
from remainder.record.summary import couplings
from remainder.record.values import canonical_values
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import NotMeasurableError, covariance_of
from remainder.residual.noise import NoiseKeys
from remainder.submission.aliases import require_same
from remainder.submission.submission import SiteEntry
from remainder.task.text import Split

__all__ = ["measure", "remeasure"]

_COUPLING_WINDOWS, _COUPLING_PAIRS = 32, 2
_GRADIENT_WINDOWS = 16


def measure(
    loaded: SiteTask,
    entry: SiteEntry,
    plan: Plan,
    *,
    reference: SiteEntry | None = None,
    progress: Progress | None = None,
) -> StoredRecord:
    """Measure an interpretation; gives its record and the table of per-document values.

    Args:
        reference: a finer interpretation that stands in for the model.

    Raises:
        InterpretationError: if it breaks a rule, or gives values of a wrong shape or not finite.
        MeasurementError: if a check inside the run fails.
    """
    with torch.inference_mode():
        return _Run(loaded, entry, plan, reference, progress or silent).record()


def remeasure(
    loaded: SiteTask,
    entry: SiteEntry,
    plan: Plan,
    documents: Collection[str],
    *,
    reference: SiteEntry | None = None,
    progress: Progress | None = None,
) -> Remeasured:
    """Measure some documents of the evaluation split, with all that is fitted fitted as in `measure`.

    Noise is keyed by document, so the values are those that `measure` gives for these documents, up to the
    rounding of other batches. Couplings, tests of Gaussianity and the field's own metrics are left out.

    Args:
        documents: ids; at least one of them is in the evaluation windows of the plan.

    Raises:
        InterpretationError, MeasurementError: as `measure`.
    """
    with torch.inference_mode():
        chosen = frozenset(documents)
        return _Run(loaded, entry, plan, reference, progress or silent, documents=chosen).remeasured()


@dataclass
class _Run:
    """One interpretation on one task."""

    loaded: SiteTask
    entry: SiteEntry
    plan: Plan
    reference: SiteEntry | None
    progress: Progress
    finer: Adapted | None = None
    documents: frozenset[str] | None = None
    """Documents of the evaluation split that are measured; None: all."""
    log: Log = field(default_factory=Log)
    left: Unexplained = field(default_factory=Unexplained)

    def remeasured(self) -> Remeasured:
        """The documents asked for alone; what is fitted, is fitted to all of the calibration split."""
        interpretation, calibration, sample, kernels = self._prepare()
        rows, _, _ = self._evaluate(interpretation, kernels)
        decoder = affine_decoder(sample, interpretation, self.loaded.device)
        assert self.documents is not None
        count, part = evaluation_part(self.loaded, self.plan)
        windows = self.loaded.windows("evaluation").first(count)
        pairs = zip(windows.documents, windows.indices, strict=True)
        return Remeasured(
            canonical_values(pd.DataFrame(rows)),
            tuple(sorted(self.documents)),
            frozenset(pair for pair in pairs if part is None or pair[0] in part),
            complexity_of(sample, decoder),
            calibration_info(calibration, self.left.shares(self.loaded.task.seed)),
        )

    def _prepare(self) -> tuple[Adapted, Calibration, CodeSample, list[FittedRung]]:
        """Steps 1 to 3, but for couplings."""
        self.log.warnings += self.plan.notes
        self._phase("reading it")
        with self.log.timed("build"):
            interpretation = self._build(self.entry)
            if self.reference is not None:
                self.finer = self._build(self.reference)
            entries = [self.entry, *([] if self.reference is None else [self.reference])]
            require_recordable([info(each) for each in entries], self.log.warnings)
        with self.log.timed("calibration"):
            calibration, sample = self._calibrate(interpretation)
            self._look_at_fit(interpretation)
            self._phase("fitting residual models")
            return interpretation, calibration, sample, self._fit(calibration)

    def _build(self, entry: SiteEntry) -> Adapted:
        interpretation = entry.build(
            self.loaded.task, lambda: self.loaded.fit_moments(self.plan.fit_windows)
        ).placed(self.loaded.device)
        require_same(self.loaded, interpretation, self.plan.dtype)
        self.log.warnings += interpretation.warnings
        return interpretation

    def record(self) -> StoredRecord:
        """All steps."""
        interpretation, calibration, sample, kernels = self._prepare()
        rows: list[dict[str, Any]] = []
        if self.plan.whole:
            with self.log.timed("couplings"):
                coupled, rows = self._couple(interpretation, calibration)
                kernels += coupled
        with self.log.timed("evaluation"):
            found, deviation, residuals = self._evaluate(interpretation, kernels)
            values = pd.DataFrame(rows + found)
        self._phase("counting bits")
        with self.log.timed("complexity"):
            decoder = affine_decoder(sample, interpretation, self.loaded.device)
            complexity = complexity_of(sample, decoder)
        gaussianity = None
        if self.plan.whole:
            with self.log.timed("gaussianity"):
                gaussianity = self._gaussianity(calibration, residuals, sample, decoder)
        compat = None
        if self.plan.compat:
            with self.log.timed("compat"):
                compat = self._compat(interpretation, sample)
        if "true" in self.plan.rungs:
            self.log.checks["true_equals_clean"] = check_true(values)
        self._phase("intervals")
        record = seal(
            self.loaded,
            self.plan,
            self.log,
            values,
            submission=info(self.entry),
            reference=None if self.reference is None else info(self.reference),
            complexity=complexity,
            calibration=calibration_info(calibration, self.left.shares(self.loaded.task.seed)),
            gaussianity=gaussianity,
            compat=compat,
            suffix=self.loaded.runner(self.plan.dtype).mode,
            batch_size=self.loaded.batch_size,
            deviation=deviation,
        )
        return StoredRecord(record, values)

    def _batches(self, split: Split, windows: int, size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of a split, their activation that of the finer interpretation if there is one.

        With each comes the model's own activation.
        """
        for batch in self.loaded.activations(split, windows).batches(size, self.loaded.device):
            x = batch.prefix.x_out
            if self.finer is not None:
                _, finer = self.finer.reconstruct(self.finer.choose(batch.prefix.x_in, x), batch.spliced)
                instead = torch.where(batch.spliced[..., None], finer, x)
                batch = replace(batch, prefix=batch.prefix._replace(x_out=instead))
            yield batch, x

    def _calibrate(self, interpretation: Adapted) -> tuple[Calibration, CodeSample]:
        """Stream residuals of the calibration split; the first batch also goes through conformance."""
        calibration, sample = Calibration.empty(self._site.width, device=self.loaded.device), CodeSample()
        # Two windows at least: whether one changes the reconstruction of another is a rule that is checked.
        size, windows = max(self.loaded.batch_size, 2), self.plan.calibration_windows
        for batch, x in self._batches("calibration", windows, size):
            self.progress(f"{self.entry.name}: calibration", calibration.tokens, None)
            read = interpretation.choose(batch.prefix.x_in, x)
            if not sample.seen:
                if not batch.spliced.any():
                    raise nothing_spliced()
                self._check_conformance(interpretation, read, batch, x)
                if self.finer is not None:
                    check_conformance(self.finer, self.finer.choose(batch.prefix.x_in, x), batch.spliced, x)
            codes, reconstruction = interpretation.reconstruct(read, batch.spliced)
            estimate = reconstruction.double()
            residual = batch.prefix.x_out.double() - estimate
            calibration.update(self._places(batch), estimate, residual, batch.spliced)
            self.left.update("calibration", batch, residual)
            coded, left = interpretation.coded(x, read), x - reconstruction
            sample.update(codes[batch.spliced], coded[batch.spliced], left[batch.spliced])
        self.log.warnings += covariance_of(calibration).warnings
        return calibration, sample

    def _look_at_fit(self, interpretation: Adapted) -> None:
        """What is left unexplained of the split that training is for, and that scores nothing."""
        for batch, x in self._batches("fit", self.plan.fit_windows, max(self.loaded.batch_size, 2)):
            read = interpretation.choose(batch.prefix.x_in, x)
            _, estimate = interpretation.reconstruct(read, batch.spliced)
            self.left.update("fit", batch, batch.prefix.x_out - estimate)

    def _check_conformance(self, interpretation: Adapted, read: Tensor, batch: Batch, x: Tensor) -> None:
        found = check_conformance(interpretation, read, batch.spliced, x)
        self.log.checks["conformance"] = Check(
            passed=True,
            value=max(found.repeated, found.later_positions, found.other_windows),
            limit=found.limit,
            note="largest change of the reconstruction on repeating, on changing later positions or "
            "other windows, over the root mean square of what is rebuilt; codes were checked too",
        )

    def _fit(self, calibration: Calibration) -> list[FittedRung]:
        """Every rung of the plan, refits, and the denominators of the Gaussian ratio."""
        rungs = {name: RUNGS[name] for name in self.plan.rungs}
        refits = REFITS if self.plan.whole else {}
        nulls = {name: NULLS[name] for name in self.plan.nulls}
        kernels, unmeasured = fit_kernels(rungs | refits | nulls, calibration, self.plan.draws)
        self.log.unmeasured |= unmeasured
        self.log.warnings += [f"{name} was not measured: {why}" for name, why in self.log.unmeasured.items()]
        return kernels

    def _couple(
        self, interpretation: Adapted, calibration: Calibration
    ) -> tuple[list[FittedRung], list[dict[str, Any]]]:
        """Fit amplitudes of source and noise on calibration; gives them as a kernel, and the grid's rows."""
        grid = QUICK_GRID if self.plan.pairs == 1 else FULL_GRID
        rungs = {rung_of(point): COUPLED._replace(arguments=point) for point in grid}
        kernels, _ = fit_kernels(rungs, calibration, lambda _: 2 * _COUPLING_PAIRS)
        windows = min(_COUPLING_WINDOWS, self.plan.calibration_windows)
        passes = sum(kernel.draws for kernel in kernels)
        runner = self.loaded.runner(self.plan.dtype)
        rows: list[dict[str, Any]] = []
        done = 0
        for batch, x in self._batches("calibration", windows, self.loaded.batch_size):
            clean = clean_pass(runner, batch)
            rows += table_rows(batch, "clean", 0, clean.scores, split="calibration")
            read = interpretation.choose(batch.prefix.x_in, x)
            _, estimate = interpretation.reconstruct(read, batch.spliced)
            places = self._places(batch)
            for new in score(runner, clean, kernels, estimate, places, split="calibration"):
                rows += new
                done += len(new)
                self.progress(f"{self.entry.name}: couplings", done, windows * passes)
        found = couplings(pd.DataFrame(rows), seed=self.loaded.task.seed)
        assert found is not None
        if found.edge:
            self.log.warnings.append(
                "the best couplings lie on the edge of the grid: they may be farther out"
            )
        # An amplitude that changes nothing has no best value; any will do.
        alpha, beta = (1.0 if best.value is None else best.value for best in (found.alpha, found.beta))
        rungs = {"coupled": COUPLED._replace(arguments=(alpha, beta))}
        coupled, _ = fit_kernels(rungs, calibration, self.plan.draws)
        return coupled, rows

    def _evaluate(
        self, interpretation: Adapted, kernels: list[FittedRung]
    ) -> tuple[list[dict[str, Any]], dict[str, float] | None, Residuals]:
        """Per-document values of the clean model and of every kernel and draw, and the residuals met."""
        runner = self.loaded.runner(self.plan.dtype)
        self.log.checks["suffix"] = Check(
            passed=True, note=f"{runner.mode}: gives the full pass's logits; every hook fired exactly once"
        )
        windows, part = evaluation_part(self.loaded, self.plan)
        mean = mean_activation(batch for batch, _ in self._chosen(windows, part, 32))
        asked = part if self.documents is None else self.documents & (part or self.documents)
        total, done = windows * sum(kernel.draws for kernel in kernels), 0
        rows: list[dict[str, Any]] = []
        residuals = Residuals()
        deviation = None
        for number, (batch, x) in enumerate(self._chosen(windows, asked, self.loaded.batch_size)):
            clean = clean_pass(runner, batch)
            read = interpretation.choose(batch.prefix.x_in, x)
            codes, reconstruction = interpretation.reconstruct(read, batch.spliced)
            rows += table_rows(batch, "clean", 0, clean.scores)
            if self.finer is not None:
                rows += table_rows(batch, "model", 0, spliced_pass(runner, clean, x)[0])
            if number == 0:
                self._phase("checks on one batch")
                self.log.checks["zero_splice"] = check_zero(runner, clean, self._site.hook_out)
                deviation = self._deviation(runner, clean, reconstruction)
                if "true" not in self.plan.rungs:
                    places = self._places(batch)
                    self.log.checks["true_equals_clean"] = check_true_of_batch(
                        runner, clean, reconstruction, places
                    )
            if self.plan.whole:
                residuals.update(batch, reconstruction)
            for new in score(runner, clean, kernels, reconstruction, self._places(batch)):
                if new[0]["rung"] == "raw":
                    add_reconstruction(new, batch, codes, reconstruction, mean)
                rows += new
                done += len(new)
                self.progress(self.entry.name, done, total)
        return rows, deviation, residuals

    def _chosen(
        self, windows: int, documents: frozenset[str] | None, size: int
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of the first evaluation windows, of some documents only (None: of all)."""
        for batch, x in self._batches("evaluation", windows, size):
            if documents is None:
                yield batch, x
                continue
            rows = [row for row, name in enumerate(batch.windows.documents) if name in documents]
            if rows:
                yield batch.take(rows), x[rows]

    def _gaussianity(
        self,
        calibration: Calibration,
        residuals: Residuals,
        sample: CodeSample,
        decoder: AffineDecoder | str,
    ) -> Gaussianity | None:
        """The distance of the residual on evaluation from the Gaussian fitted on calibration."""
        self.progress(f"{self.entry.name}: Gaussianity", 0, None)
        windows = min(_GRADIENT_WINDOWS, self.plan.calibration_windows)
        batches = (batch for batch, _ in self._batches("calibration", windows, self.loaded.batch_size))
        directions = {"gradient": gradient_directions(self.loaded.runner("float32"), batches)}
        if isinstance(decoder, AffineDecoder):
            found = decoder_directions(sample, decoder)
            if found is not None:
                directions["decoder"] = found
        rank = covariance_of(calibration).rank
        if calibration.tokens < 5 * rank:
            self.log.warnings.append(
                f"{calibration.tokens} calibration tokens for {rank} dimensions are too few for tests of "
                "Gaussianity: their nulls lie too low"
            )
        try:
            return measure_gaussianity(
                calibration,
                torch.cat(residuals.rows),
                torch.cat(residuals.reconstructions),
                residuals.documents,
                directions,
                seed=self.loaded.task.seed,
            )
        except NotMeasurableError as problem:
            self.log.warnings.append(f"Gaussianity was not measured: {problem.what}")
            self.log.unmeasured["gaussianity"] = problem.what
            return None

    def _compat(self, interpretation: Adapted, sample: CodeSample) -> Compat | None:
        """The field's own metrics, or none with the reason among what was not measured."""
        assert isinstance(self.loaded, LanguageTask)  # a plan asks this of texts only
        if self.finer is not None:
            self.log.unmeasured["compat"] = "the field has no metrics of an interpretation nested in another"
            return None
        windows = self.plan.evaluation_windows
        try:
            return measure_compat(self.loaded, interpretation, windows, sample, self.progress)
        # At special positions and sinks, which nothing else here reads.
        except (InterpretationError, MeasurementError) as problem:
            self.log.warnings.append(f"the field's metrics were not measured: {problem.what}")
            self.log.unmeasured["compat"] = problem.what
            return None

    def _deviation(self, runner: Runner, clean: Clean, reconstruction: Tensor) -> dict[str, float] | None:
        """The difference that the suffix's dtype makes to results, against float32, on one batch."""
        if runner.dtype == torch.float32:
            return None
        exact = self.loaded.runner("float32")
        found = dtype_deviation(runner, exact, clean, reconstruction, self._places(clean.batch))
        if found.warning is not None:
            self.log.warnings.append(found.warning)
        return found.content

    def _phase(self, doing: str) -> None:
        """Tell that a phase begins whose end cannot be foreseen."""
        self.progress(f"{self.entry.name}: {doing}", 0, None)

    @property
    def _site(self) -> Any:
        return self.loaded.task.site

    def _places(self, batch: Batch) -> NoiseKeys:
        return NoiseKeys(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)
