"""Measure one interpretation on one task, by the steps of the protocol.

1. Build the interpretation; check that it is deterministic, causal and local.
2. Gather its codes on the `calibration` split: tables of code lengths and the steps of its curve are fitted
   to them (`measure.coding`).
3. Calibrate: stream residuals r = x − x̂ of the same split into moments and a keyed bank; x̂ by the quantised
   codes that are paid for, or on a task whose values are known beforehand, by exact ones.
4. Fit every rung, and the denominators of the Gaussian ratio, to these; in a whole run also the couplings.
5. Evaluate: per batch of windows, one clean suffix pass, then one for each rung and draw, with x̂ + ε put
   in at all spliced positions at once; for the denominators x + ε (`measure.evaluation`). Beside them stand
   rows of transform coding, measured once a task (`measure.reference`).
6. If asked, score it by the field's own metrics too.
7. Check what must hold in every run, and seal everything into a record.

With a second, finer interpretation its reconstruction stands in for the model's activation x throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.loading.site import LanguageTask, SiteTask
from remainder.measure.checks import (
    check_decoded,
    check_true,
    check_true_of_batch,
    check_zero,
    dtype_deviation,
)
from remainder.measure.code_sets import CodeSets, keys_of
from remainder.measure.codes import CodeSample
from remainder.measure.coding import Coder, fit_coder
from remainder.measure.compat import compat_or_reason
from remainder.measure.complexity import complexity_of
from remainder.measure.coupling import couple
from remainder.measure.decoders import AffineDecoder, affine_decoder
from remainder.measure.directions import decoder_directions, gradient_directions
from remainder.measure.evaluation import Passes
from remainder.measure.gather import Residuals, evaluation_part, mean_activation
from remainder.measure.gaussianity import measure_gaussianity
from remainder.measure.kernels import FittedRung, fit_kernels, table_rows
from remainder.measure.losses import Clean, clean_pass, spliced_pass
from remainder.measure.plan import Plan
from remainder.measure.rebuilt import Rebuilder, Rebuilt
from remainder.measure.reference import Reference, reference_rows
from remainder.measure.sampling import look_at_fit, sample_codes
from remainder.measure.seal import Log, Remeasured, calibration_info, info, seal
from remainder.measure.unexplained import Unexplained
from remainder.model.bridge import Runner
from remainder.record.compat import Compat
from remainder.record.metrics import Gaussianity
from remainder.record.recordable import require_recordable
from remainder.record.rungs import CODED, NULLS, REFITS, RUNGS
from remainder.record.schema import Check
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import NotMeasurableError, covariance_of
from remainder.residual.noise import NoiseKeys
from remainder.submission.aliases import require_same
from remainder.submission.submission import SiteEntry
from remainder.task.text import Split

__all__ = ["measure", "remeasure"]

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


class _Prepared(NamedTuple):
    """Everything that is fixed on calibration."""

    rebuilder: Rebuilder
    sample: CodeSample
    coder: Coder | str
    """The coder of its codes, or why they are not paid for."""
    calibration: Calibration
    kernels: list[FittedRung]


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
    sets: CodeSets = field(default_factory=CodeSets)

    def remeasured(self) -> Remeasured:
        """The documents asked for alone; what is fitted, is fitted to all of the calibration split."""
        prepared = self._prepare()
        rows, _, _ = self._evaluate(prepared.rebuilder, prepared.kernels)
        coded = self._transform_coding(prepared.rebuilder)
        assert self.documents is not None
        count, part = evaluation_part(self.loaded, self.plan)
        windows = self.loaded.windows("evaluation").first(count)
        pairs = zip(windows.documents, windows.indices, strict=True)
        return Remeasured(
            canonical_values(pd.DataFrame(rows + coded.rows)),
            tuple(sorted(self.documents)),
            frozenset(pair for pair in pairs if part is None or pair[0] in part),
            complexity_of(prepared.sample, prepared.coder, coded.steps, None),
            calibration_info(prepared.calibration, self.left.shares(self.loaded.task.seed)),
        )

    def _prepare(self) -> _Prepared:
        """Steps 1 to 4, but for couplings."""
        self.log.warnings += self.plan.notes
        self._phase("reading it")
        with self.log.timed("build"):
            interpretation = self._build(self.entry)
            if self.reference is not None:
                self.finer = self._build(self.reference)
            entries = [self.entry, *([] if self.reference is None else [self.reference])]
            require_recordable([info(each) for each in entries], self.log.warnings)
        with self.log.timed("codes"):
            sample = self._sample(interpretation)
            self._phase("choosing steps")
            coder = fit_coder(sample, interpretation, self.loaded.device)
        paid = coder if isinstance(coder, Coder) else None
        if paid is not None:
            symbols = paid.symbols(paid.contributions(sample.codes), paid.points[CODED])
            self.sets.calibration = keys_of(symbols)
        rebuilder = Rebuilder(interpretation, paid, self.plan.is_coded and paid is not None)
        with self.log.timed("calibration"):
            calibration = self._calibrate(rebuilder)
            self._phase("fitting residual models")
            kernels = self._fit(calibration, coder)
        return _Prepared(rebuilder, sample, coder, calibration, kernels)

    def _build(self, entry: SiteEntry) -> Adapted:
        interpretation = entry.build(
            self.loaded.task, lambda: self.loaded.fit_moments(self.plan.fit_windows)
        ).placed(self.loaded.device)
        require_same(self.loaded, interpretation, self.plan.dtype)
        self.log.warnings += interpretation.warnings
        return interpretation

    def record(self) -> StoredRecord:
        """All steps."""
        prepared = self._prepare()
        rebuilder, kernels = prepared.rebuilder, prepared.kernels
        rows: list[dict[str, Any]] = []
        if self.plan.whole:
            with self.log.timed("couplings"):
                coupled, rows = self._couple(rebuilder, prepared.calibration)
                kernels = kernels + coupled
        with self.log.timed("transform coding"):
            coded = self._transform_coding(rebuilder)
        with self.log.timed("evaluation"):
            found, deviation, residuals = self._evaluate(rebuilder, kernels)
            values = pd.DataFrame(rows + found + coded.rows)
        gaussianity = None
        if self.plan.whole:
            with self.log.timed("gaussianity"):
                gaussianity = self._gaussianity(prepared, residuals)
        compat = None
        if self.plan.compat:
            with self.log.timed("compat"):
                compat = self._compat(rebuilder.interpretation, prepared.sample)
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
            complexity=complexity_of(prepared.sample, prepared.coder, coded.steps, self.sets.lone()),
            calibration=calibration_info(prepared.calibration, self.left.shares(self.loaded.task.seed)),
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

    def _sample(self, interpretation: Adapted) -> CodeSample:
        """Codes of the calibration split, and what is left unexplained of it and of `fit`."""
        size = max(self.loaded.batch_size, 2)
        sample = sample_codes(
            interpretation,
            self.finer,
            self._batches("calibration", self.plan.calibration_windows, size),
            self.left,
            self.log,
            lambda tokens: self.progress(f"{self.entry.name}: codes", tokens, None),
        )
        look_at_fit(interpretation, self._batches("fit", self.plan.fit_windows, size), self.left)
        return sample

    def _calibrate(self, rebuilder: Rebuilder) -> Calibration:
        """Stream the residuals that the ladder is of."""
        calibration = Calibration.empty(self._site.width, device=self.loaded.device)
        windows = self.plan.calibration_windows
        for number, (batch, x) in enumerate(self._batches("calibration", windows, self.loaded.batch_size)):
            self.progress(f"{self.entry.name}: calibration", calibration.tokens, None)
            rebuilt = rebuilder.rebuild(batch, x)
            if not number:
                self._check_decoded(rebuilder, rebuilt, batch, "calibration")
            estimate = rebuilt.scored.double()
            residual = batch.prefix.x_out.double() - estimate
            calibration.update(self._places(batch), estimate, residual, batch.spliced)
        self.log.warnings += covariance_of(calibration).warnings
        return calibration

    def _check_decoded(self, rebuilder: Rebuilder, rebuilt: Rebuilt, batch: Batch, split: Split) -> None:
        """Check that quantised codes decode to a function of these codes alone."""
        if rebuilder.is_coded:
            assert rebuilt.coded is not None
            self.log.checks[f"decoded_{split}"] = check_decoded(rebuilder.interpretation, rebuilt, batch)

    def _fit(self, calibration: Calibration, coder: Coder | str) -> list[FittedRung]:
        """Every rung of the plan, refits, and the denominators of the Gaussian ratio."""
        rungs = {name: RUNGS[name] for name in self.plan.rungs}
        if CODED in rungs and isinstance(coder, str):
            del rungs[CODED]
            self.log.unmeasured[CODED] = coder
        refits = REFITS if self.plan.whole else {}
        nulls = {name: NULLS[name] for name in self.plan.nulls}
        kernels, unmeasured = fit_kernels(rungs | refits | nulls, calibration, self.plan.draws)
        self.log.warnings += [f"{name} was not measured: {why}" for name, why in unmeasured.items()]
        self.log.unmeasured |= unmeasured
        return kernels

    def _couple(
        self, rebuilder: Rebuilder, calibration: Calibration
    ) -> tuple[list[FittedRung], list[dict[str, Any]]]:
        """Fit amplitudes of source and noise on calibration; gives them as a kernel, and the grid's rows."""

        def batches(windows: int) -> Iterator[tuple[Batch, Tensor]]:
            for batch, x in self._batches("calibration", windows, self.loaded.batch_size):
                yield batch, rebuilder.rebuild(batch, x).scored

        return couple(self.loaded, self.plan, calibration, batches, self.log, self.progress, self.entry.name)

    def _transform_coding(self, rebuilder: Rebuilder) -> Reference:
        """Transform coding on the evaluation windows, where the ladder is of quantised codes."""
        if not (self.plan.has_reference and rebuilder.is_coded) or self.finer is not None:
            return Reference([], ())
        windows, part = evaluation_part(self.loaded, self.plan)
        asked = part if self.documents is None else self.documents & (part or self.documents)

        def batches() -> Iterator[Batch]:
            return (batch for batch, _ in self._chosen(windows, asked, self.loaded.batch_size))

        first = self.documents is None
        return reference_rows(
            self.loaded, self.plan, batches, asked, windows, self.log, self.progress, cached=first
        )

    def _evaluate(
        self, rebuilder: Rebuilder, kernels: list[FittedRung]
    ) -> tuple[list[dict[str, Any]], dict[str, float] | None, Residuals]:
        """Per-document values of the clean model and of every kernel and draw, and the residuals met."""
        runner = self.loaded.runner(self.plan.dtype)
        self.log.checks["suffix"] = Check(
            passed=True, note=f"{runner.mode}: gives the full pass's logits; every hook fired exactly once"
        )
        windows, part = evaluation_part(self.loaded, self.plan)
        mean = mean_activation(batch for batch, _ in self._chosen(windows, part, 32))
        asked = part if self.documents is None else self.documents & (part or self.documents)
        passes = Passes(rebuilder, kernels, mean)
        total, done = windows * passes.number, 0
        rows: list[dict[str, Any]] = []
        residuals = Residuals()
        deviation = None
        for number, (batch, x) in enumerate(self._chosen(windows, asked, self.loaded.batch_size)):
            clean = clean_pass(runner, batch)
            rebuilt = rebuilder.rebuild(batch, x)
            if (coded := rebuilt.coded) is not None:
                self.sets.evaluation.append(keys_of(coded.symbols(coded.coder.points[CODED])))
            rows += table_rows(batch, "clean", 0, clean.scores)
            if self.finer is not None:
                rows += table_rows(batch, "model", 0, spliced_pass(runner, clean, x)[0])
            if number == 0:
                self._phase("checks on one batch")
                deviation = self._check_batch(runner, clean, rebuilder, rebuilt)
            if self.plan.whole:
                residuals.update(batch, rebuilt.scored)
            for new in passes.rows(runner, clean, rebuilt, self._places(batch)):
                rows += new
                done += len(new)
                self.progress(self.entry.name, done, total)
        return rows, deviation, residuals

    def _check_batch(
        self, runner: Runner, clean: Clean, rebuilder: Rebuilder, rebuilt: Rebuilt
    ) -> dict[str, float] | None:
        """Checks on one batch; gives what the suffix's dtype does to it."""
        self.log.checks["zero_splice"] = check_zero(runner, clean, self._site.hook_out)
        self._check_decoded(rebuilder, rebuilt, clean.batch, "evaluation")
        if "true" not in self.plan.rungs:
            places = self._places(clean.batch)
            self.log.checks["true_equals_clean"] = check_true_of_batch(runner, clean, rebuilt.scored, places)
        return self._deviation(runner, clean, rebuilt.exact)

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

    def _gaussianity(self, prepared: _Prepared, residuals: Residuals) -> Gaussianity | None:
        """The distance of the residual on evaluation from the Gaussian fitted on calibration."""
        self.progress(f"{self.entry.name}: Gaussianity", 0, None)
        calibration, sample = prepared.calibration, prepared.sample
        windows = min(_GRADIENT_WINDOWS, self.plan.calibration_windows)
        batches = (batch for batch, _ in self._batches("calibration", windows, self.loaded.batch_size))
        directions = {"gradient": gradient_directions(self.loaded.runner("float32"), batches)}
        interpretation = prepared.rebuilder.interpretation
        decoder = affine_decoder(sample, interpretation, self.loaded.device)
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
        return compat_or_reason(self.loaded, interpretation, windows, sample, self.log, self.progress)

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
