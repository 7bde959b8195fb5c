"""One interpretation on one task, batch by batch; the loop over batches is `measure.site`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from remainder.base.cache import Progress
from remainder.errors import InterpretationError, MeasurementError, RemainderError
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.loading.site import SiteTask
from remainder.measure.checks import check_decoded, check_true, check_true_of_batch, dtype_deviation
from remainder.measure.code_sets import CodeSets, keys_of
from remainder.measure.codes import CodeSample, Look
from remainder.measure.coding import Coder, fit_coder
from remainder.measure.compat import compat_of
from remainder.measure.complexity import complexity_of
from remainder.measure.coupling import couple
from remainder.measure.decoders import AffineDecoder, affine_decoder
from remainder.measure.description import Description, describable, fit_description
from remainder.measure.directions import decoder_directions
from remainder.measure.evaluation import Passes
from remainder.measure.gather import Residuals
from remainder.measure.gaussianity import measure_gaussianity
from remainder.measure.kernels import FittedRung, fit_kernels, input_ids
from remainder.measure.losses import Clean
from remainder.measure.partial import Finished, batch_key, packed, unpacked
from remainder.measure.peers import PeerSums, PeerText
from remainder.measure.plan import Plan
from remainder.measure.rebuilt import Rebuilder, Rebuilt
from remainder.measure.reference import Reference
from remainder.measure.sampling import look, look_again, look_at_fit
from remainder.measure.seal import Log, calibration_info, info, seal
from remainder.measure.shared import SharedBatch
from remainder.measure.splices import Splices
from remainder.measure.unexplained import Unexplained
from remainder.model.bridge import Runner
from remainder.record.compat import Compat
from remainder.record.metrics import Gaussianity
from remainder.record.recordable import require_recordable
from remainder.record.rungs import CODED, CURVE, KERNELS, REFITS
from remainder.record.schema import CalibrationInfo, Complexity, DescriptionFit
from remainder.record.store import StoredRecord
from remainder.residual.calibration import Calibration
from remainder.residual.codes import Codes
from remainder.residual.covariance import NotMeasurableError, covariance_of
from remainder.residual.noise import NoiseKeys
from remainder.residual.rows import Rows, Seen
from remainder.submission.aliases import require_same
from remainder.submission.submission import SiteEntry
from remainder.task.text import Split

__all__ = ["Row", "build"]

Batches = Callable[[int], Iterator[tuple[Batch, Tensor]]]
"""The first so many calibration windows in batches, each with the model's own activation."""


def build(loaded: SiteTask, entry: SiteEntry, plan: Plan, log: Log) -> Adapted:
    """An entry's interpretation, on the task's device, compared with the loaded model."""
    interpretation = entry.build(loaded.task, lambda: loaded.fit_moments(plan.fit_windows)).placed(
        loaded.device
    )
    require_same(loaded, interpretation, plan.dtype)
    log.warnings += interpretation.warnings
    return interpretation


@dataclass
class Row:
    """The state of one interpretation's measurement."""

    loaded: SiteTask
    entry: SiteEntry
    plan: Plan
    progress: Progress
    reference: SiteEntry | None = None
    finer: Adapted | None = None
    """The interpretation that `reference` built, which stands in for the model."""
    finished: Finished | None = None
    log: Log = field(default_factory=Log)
    problem: RemainderError | None = None
    """The error that ended it."""
    left: Unexplained = field(default_factory=Unexplained)
    sets: CodeSets = field(default_factory=CodeSets)
    sample: CodeSample = field(default_factory=CodeSample)
    residuals: Residuals = field(default_factory=Residuals)
    values: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the table of values."""
    interpretation: Adapted = field(init=False)
    coder: Coder | str = "bits were not asked for"
    """The coder of its codes, or why they are not paid for."""
    rebuilder: Rebuilder = field(init=False)
    calibration: Calibration = field(init=False)
    kernels: list[FittedRung] = field(default_factory=list)
    described: Rows | None = None
    """Activations and exact codes of the calibration, for description lengths."""
    description: Description | str | None = None
    """Description lengths, or why there are none; None: they were not asked for."""
    coded: Reference = field(default_factory=lambda: Reference([], ()))
    """Transform coding on the same windows."""
    sums: PeerSums | None = None
    deviation: dict[str, float] | None = None
    gaussianity: Gaussianity | None = None

    @contextmanager
    def trapped(self, stage: str) -> Iterator[None]:
        """Take the time of a stage; an error ends this row, and no other."""
        with self.log.timed(stage):
            try:
                yield
            except RemainderError as problem:
                self.problem = problem

    def build(self) -> None:
        """Make the interpretation."""
        corpus = self.loaded.task.corpus
        left_out = () if corpus is None or corpus.left_out is None else (corpus.left_out,)
        self.log.warnings[:0] = [*self.plan.notes, *left_out]
        self.phase("reading it")
        self.interpretation = build(self.loaded, self.entry, self.plan, self.log)
        self.calibration = Calibration.empty(
            self.loaded.task.site.width,
            device=self.loaded.device,
            keep=self.plan.keeps,
        )
        entries = [self.entry, *([] if self.reference is None else [self.reference])]
        require_recordable([info(each) for each in entries], self.log.warnings)

    def look(self, batch: Batch, x: Tensor) -> None:
        """Gather codes of a calibration batch."""
        look(self.interpretation, self.finer, batch, x, self.sample, self.left, self.log)

    def look_at_fit(self, batch: Batch, x: Tensor) -> None:
        """Gather what is left of a batch of `fit`."""
        look_at_fit(self.interpretation, batch, x, self.left)

    def choose_steps(self, batches: Batches) -> None:
        """Fit tables of code lengths, and choose the points of the curve."""

        def again() -> Iterator[Look]:
            for batch, x in batches(self.plan.calibration_windows):
                yield look_again(self.interpretation, batch, x)

        if not self.plan.is_bare:
            self.phase("choosing steps")
            self.sample.again = again
            curve = {CODED: CURVE[CODED]} if self.plan.is_lean else CURVE
            self.coder = fit_coder(self.sample, self.interpretation, self.loaded.device, curve=curve)
        paid = self.coder if isinstance(self.coder, Coder) else None
        if paid is not None:
            self.sets.calibration = paid.sets_of(self.sample, CODED)
        self.rebuilder = Rebuilder(self.interpretation, paid, self.plan.is_coded and paid is not None)
        if self.plan.describes:
            width = self.loaded.task.site.width
            self.description = describable(width, self.sample.seen, self.coder)
            self.described = Rows(width) if self.description is None else None

    def calibrate(self, batch: Batch, x: Tensor) -> None:
        """Stream the residuals that the ladder is of."""
        rebuilt = self.rebuilder.rebuild(batch, x)
        if not self.calibration.tokens:
            self._check_decoded(rebuilt, batch, "calibration")
        estimate = rebuilt.scored.double()
        residual = batch.prefix.x_out.double() - estimate
        if self.described is not None:
            x = batch.prefix.x_out
            exact = Codes.of(rebuilt.codes[batch.spliced])
            self.described.update(self.places(batch), Seen(x[..., :0], batch.spliced, exact), x)
        codes = None if self.calibration.rows is None else rebuilt.kept
        self.calibration.update(
            self.places(batch), estimate, residual, batch.spliced, codes, input_ids(batch)
        )

    def fit(self) -> None:
        """Fit every rung of the plan, refits, and the denominators of the Gaussian ratio."""
        if self.plan.fits:
            self.log.warnings += covariance_of(self.calibration).warnings
        if self.described is not None and isinstance(self.coder, Coder):
            self.phase("description lengths")
            self.description = fit_description(self.described, self.coder)
            self.described = None
        self.phase("fitting residual models")
        names = dict.fromkeys([*self.plan.rungs, *self.plan.nulls])
        rungs = {name: KERNELS[name] for name in names if name in KERNELS}
        if CODED in rungs and isinstance(self.coder, str):
            del rungs[CODED]
            self.log.unmeasured[CODED] = self.coder
        refits = REFITS if self.plan.whole else {}
        self.kernels, unmeasured = fit_kernels(rungs | refits, self.calibration, self.plan.draws)
        self.log.warnings += [f"{name} was not measured: {why}" for name, why in unmeasured.items()]
        self.log.unmeasured |= unmeasured

    def couple(self, batches: Batches) -> None:
        """Fit amplitudes of source and noise on calibration."""

        def rebuilt(windows: int) -> Iterator[tuple[Batch, Tensor]]:
            for batch, x in batches(windows):
                yield batch, self.rebuilder.rebuild(batch, x).scored

        kernels, rows = couple(
            self.loaded, self.plan, self.calibration, rebuilt, self.log, self.progress, self.entry.name
        )
        self.kernels = self.kernels + kernels
        self.values += rows

    def check(self, runner: Runner, clean: Clean, x: Tensor) -> None:
        """Checks on a few evaluation windows, and what the suffix's dtype does to them."""
        batch = clean.batch
        rebuilt = self.rebuilder.rebuild(batch, x)
        self._check_decoded(rebuilt, batch, "evaluation")
        if "true" not in self.plan.rungs:
            found = check_true_of_batch(runner, clean, rebuilt.scored, self.places(batch))
            self.log.checks["true_equals_clean"] = found
        if runner.dtype != torch.float32:
            exact = self.loaded.runner("float32")
            deviation = dtype_deviation(runner, exact, clean, rebuilt.exact, self.places(batch))
            self.deviation = deviation.content
            if deviation.warning is not None:
                self.log.warnings.append(deviation.warning)

    def passes(self, mean: Tensor) -> Passes:
        """The passes that are made of every batch.

        Args:
            mean: activation of the evaluation split, which squares are centred at.
        """
        description = None if isinstance(self.description, str) else self.description
        return Passes(self.rebuilder, self.kernels, mean, description)

    def evaluate(
        self, shared: SharedBatch, passes: Passes, text: PeerText | None, tell: Callable[[int], None]
    ) -> None:
        """Measure a batch of evaluation windows, or take what was finished before.

        Args:
            text: what the field's own metrics need of the text; None where they are not asked for.
            tell: told how many windows a pass has just scored.
        """
        batch = shared.batch
        rebuilt = self.rebuilder.rebuild(batch, shared.x)
        if (coded := rebuilt.coded) is not None:
            self.sets.evaluation.append(keys_of(coded.symbols(coded.coder.points[CODED])))
        if self.plan.tests_gaussianity:
            self.residuals.update(batch, rebuilt.scored)
        if text is not None and self.sums is None and "compat" not in self.log.unmeasured:
            self.sums = PeerSums(text, self.interpretation)
        key = batch_key(self.plan.key(self.loaded.task, self.entry, self.reference), batch)
        store = self.finished if self.entry.is_pinned else None
        kept = None if store is None else store.get(key)
        if kept is not None:
            self.log.found += 1
            self.values += unpacked(kept["rows"])
            if self.sums is not None:
                self.sums.add(kept["peers"])
            tell(len(batch.windows) * passes.number)
            return
        rows = [*shared.clean_rows, *shared.model_rows]
        splices = Splices(shared.runner, shared.clean)
        for new in passes.rows(splices, rebuilt, self.places(batch), shared.noise):
            rows += new
            tell(len(new))
        self.values += rows
        peers = {} if self.sums is None else self._peers(shared, splices, rebuilt)
        if store is not None:
            store.put(key, {"rows": packed(rows), "peers": peers})

    def _peers(
        self, shared: SharedBatch, splices: Splices, rebuilt: Rebuilt
    ) -> dict[str, list[dict[str, Any]]]:
        """Rows of the field's own metrics; where they fail the log gets the reason, and the row goes on."""
        assert self.sums is not None
        others = splices if shared.is_exact else Splices(shared.exact, shared.exact_clean)
        try:
            return self.sums.update(shared.peers, others, rebuilt.codes, rebuilt.exact)
        # At special positions and sinks, which nothing else in a run reads.
        except (InterpretationError, MeasurementError) as problem:
            self.log.warnings.append(f"the field's metrics were not measured: {problem.what}")
            self.log.unmeasured["compat"] = problem.what
            self.sums = None
            return {}

    def test_gaussianity(self, directions: dict[str, Tensor]) -> None:
        """The distance of the residual on evaluation from the Gaussian fitted on calibration.

        Args:
            directions: those that depend on the model alone.
        """
        self.progress(f"{self.entry.name}: Gaussianity", 0, None)
        decoder = affine_decoder(self.sample, self.interpretation, self.loaded.device)
        if isinstance(decoder, AffineDecoder):
            found = decoder_directions(self.sample, decoder)
            if found is not None:
                directions = {**directions, "decoder": found}
        tokens, rank = self.calibration.tokens, covariance_of(self.calibration).rank
        if tokens < 5 * rank:
            self.log.warnings.append(
                f"{tokens} calibration tokens for {rank} dimensions are too few for tests of "
                "Gaussianity: their nulls lie too low"
            )
        try:
            self.gaussianity = measure_gaussianity(
                self.calibration,
                torch.cat(self.residuals.rows),
                torch.cat(self.residuals.reconstructions),
                self.residuals.documents,
                directions,
                seed=self.loaded.task.seed,
            )
        except NotMeasurableError as problem:
            self.log.warnings.append(f"Gaussianity was not measured: {problem.what}")
            self.log.unmeasured["gaussianity"] = problem.what

    def record(self) -> StoredRecord:
        """Everything sealed into a record."""
        values = pd.DataFrame(self.values + self.coded.rows)
        if "true" in self.plan.rungs:
            self.log.checks["true_equals_clean"] = check_true(values)
        self.phase("intervals")
        record = seal(
            self.loaded,
            self.plan,
            self.log,
            values,
            submission=info(self.entry),
            reference=None if self.reference is None else info(self.reference),
            complexity=self.complexity(whole=True),
            calibration=self.calibrated(),
            gaussianity=self.gaussianity,
            compat=self._compat(),
            suffix=self.loaded.runner(self.plan.dtype).mode,
            batch_size=self.loaded.batch_size,
            deviation=self.deviation,
        )
        return StoredRecord(record, values)

    def complexity(self, *, whole: bool) -> Complexity:
        """The cost of it.

        Args:
            whole: whether all evaluation documents of the plan were measured.
        """
        lone = self.sets.lone() if whole else None
        return complexity_of(self.sample, self.coder, self.coded.steps, lone, seen_all=not self.plan.is_bare)

    def calibrated(self) -> CalibrationInfo:
        """The figures of the fit."""
        found = calibration_info(self.calibration, self.left.shares(self.loaded.task.seed))
        if self.description is None:
            return found
        described = (
            DescriptionFit(reason=self.description)
            if isinstance(self.description, str)
            else self.description.fit
        )
        return found.model_copy(update={"description": described})

    def _compat(self) -> Compat | None:
        """The field's own metrics, or none with the reason among what was not measured."""
        if self.plan.compat and self.finer is not None:
            reason = "the field has no metrics of an interpretation nested in another"
            self.log.unmeasured["compat"] = reason
        if self.sums is None:
            return None
        return compat_of(self.sums, self.sample, self.loaded.task.seed, self.loaded.task.site.width)

    def _check_decoded(self, rebuilt: Rebuilt, batch: Batch, split: Split) -> None:
        """Check that quantised codes decode to a function of these codes alone."""
        if self.rebuilder.is_coded:
            assert rebuilt.coded is not None
            self.log.checks[f"decoded_{split}"] = check_decoded(self.interpretation, rebuilt, batch)

    def phase(self, doing: str) -> None:
        """Tell that a phase begins whose end cannot be foreseen."""
        self.progress(f"{self.entry.name}: {doing}", 0, None)

    def places(self, batch: Batch) -> NoiseKeys:
        """The keys of a batch's noise."""
        return NoiseKeys(self.loaded.task.seed, batch.windows.documents, batch.windows.indices)
