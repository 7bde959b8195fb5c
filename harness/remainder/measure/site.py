"""Measure interpretations on one task, by the steps of the protocol: batches outer, interpretations inner.

1. Build each interpretation; check that it is deterministic, causal and local.
2. Gather its codes on the `calibration` split: tables of code lengths and the steps of its curve are fitted
   to them (`measure.coding`).
3. Calibrate: stream residuals r = x − x̂ of the same split into moments and a keyed bank; x̂ by the quantised
   codes that are paid for, or on a task whose values are known beforehand, by exact ones.
4. Fit every rung, and the denominators of the Gaussian ratio, to these; in a whole run also the couplings.
5. Evaluate: per batch of windows one clean suffix pass and one noise for all interpretations
   (`measure.shared`), then for each interpretation one pass for each rung and draw, with x̂ + ε put in at all
   spliced positions at once; for the denominators x + ε (`measure.evaluation`). Beside them stand rows of
   transform coding, measured once a task (`measure.reference`). If asked, the field's own metrics are
   gathered along the way (`measure.peers`).
6. Check what must hold in every run, and seal everything into a record.

An error ends the row that it belongs to, and no other. With a second, finer interpretation its reconstruction
stands in for the model's activation x throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import methodcaller

import pandas as pd
import torch
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.interpretation.protocol import Adapted
from remainder.loading.activations import Batch
from remainder.loading.loaded import Outcome
from remainder.loading.site import LanguageTask, SiteTask
from remainder.measure.checks import check_zero
from remainder.measure.directions import gradient_directions
from remainder.measure.gather import evaluation_part, mean_activation
from remainder.measure.losses import clean_pass
from remainder.measure.partial import Finished
from remainder.measure.peers import PeerText, special_ids
from remainder.measure.plan import Plan
from remainder.measure.reference import Reference, reference_rows
from remainder.measure.row import Row, build
from remainder.measure.seal import Log, Remeasured, Spent
from remainder.measure.shared import SharedBatch
from remainder.record.compat import PEERS
from remainder.record.schema import Check
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.submission.submission import SiteEntry
from remainder.task.text import Split

__all__ = ["measure", "measure_group", "remeasure"]

_GRADIENT_WINDOWS = 16
_CHECKED_TOKENS = 64
"""Scored tokens of the evaluation windows that a splice is checked on."""


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
    (outcome,) = measure_group(loaded, [entry], plan, reference=reference, progress=progress)
    return outcome.record()


def measure_group(
    loaded: SiteTask,
    entries: Sequence[SiteEntry],
    plan: Plan,
    *,
    reference: SiteEntry | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
    part: tuple[int, int] | None = None,
) -> list[Outcome]:
    """Measure interpretations together; gives the record or the error of each, in their order.

    Args:
        reference: a finer interpretation that stands in for the model.
        finished: batches that need not be measured again; new ones are put there as they are finished.
        part: (i, n): only the i-th of n equal parts of the evaluation batches, i from 0, is measured and put
            into `finished`, and no record is made. Its last batch comes first: who measures the whole comes
            from the other end, and the two meet.

    Raises:
        RemainderError: if the reference cannot be built, or nothing can be measured on this task.
    """
    with torch.inference_mode():
        group = _Group(loaded, list(entries), plan, reference, progress or silent, finished, part)
        group.run()
        return group.outcomes()


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
        some = frozenset(documents)
        group = _Group(loaded, [entry], plan, reference, progress or silent, documents=some)
        group.run()
        return group.remeasured()


@dataclass
class _Group:
    """Interpretations that are measured together."""

    loaded: SiteTask
    entries: list[SiteEntry]
    plan: Plan
    reference: SiteEntry | None
    progress: Progress
    finished: Finished | None = None
    part: tuple[int, int] | None = None
    documents: frozenset[str] | None = None
    """Documents of the evaluation split that are measured; None: all."""
    finer: Adapted | None = None
    rows: list[Row] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    """Times, checks and warnings that all rows share."""

    def run(self) -> None:
        """All steps; then no interpretation holds a process any more."""
        try:
            self._run()
        finally:
            for held in (self.finer, *(getattr(row, "interpretation", None) for row in self.rows)):
                if held is not None:
                    held.rest()

    def _run(self) -> None:
        with self.log.timed("build"):
            self._build()
        steps = {"codes": self._look, "calibration": self._calibrate, "couplings": self._couple}
        steps |= {"transform coding": self._transform_coding, "evaluation": self._evaluate}
        for stage, step in (steps | {"gaussianity": self._test_gaussianity}).items():
            if self._alive:
                with self.log.timed(stage):
                    step()

    def outcomes(self) -> list[Outcome]:
        """The record or the error of each interpretation; neither, where only a part was measured."""
        found = []
        for row in self.rows:
            record = None
            if row.problem is None and self.part is None:
                row.log.checks = self.log.checks | row.log.checks
                for stage, spent in self.log.spent.items():
                    row.log.add(stage, spent, 1 / len(self.rows))
                with row.trapped("intervals"):
                    record = row.record()
            found.append(Outcome(row.entry, record, row.problem))
        return found

    def remeasured(self) -> Remeasured:
        """The documents asked for alone; what is fitted, is fitted to all of the calibration split."""
        (row,) = self.rows
        if row.problem is not None:
            raise row.problem
        assert self.documents is not None
        count, part = evaluation_part(self.loaded, self.plan)
        windows = self.loaded.windows("evaluation").first(count)
        pairs = zip(windows.documents, windows.indices, strict=True)
        return Remeasured(
            canonical_values(pd.DataFrame(row.values + row.coded.rows)),
            tuple(sorted(self.documents)),
            frozenset(pair for pair in pairs if part is None or pair[0] in part),
            row.complexity(whole=False),
            row.calibrated(),
        )

    @property
    def _alive(self) -> list[Row]:
        return [row for row in self.rows if row.problem is None]

    def _each(self, stage: str, step: Callable[[Row], None]) -> None:
        """A step of every row that has not failed."""
        for row in self._alive:
            with self._apart(stage), row.trapped(stage):
                step(row)

    @contextmanager
    def _apart(self, stage: str) -> Iterator[None]:
        """Take time that a row is told out of what all share."""
        start = Spent.now()
        yield
        self.log.add(stage, start.since(), -1.0)

    def _build(self) -> None:
        """Make every interpretation."""
        if self.reference is not None:
            self.finer = build(self.loaded, self.reference, self.plan, self.log)
        for entry in self.entries:
            row = Row(self.loaded, entry, self.plan, self.progress, self.reference, self.finer, self.finished)
            self.rows.append(row)
        self._each("build", Row.build)
        for row in self._alive:
            row.log.warnings += self.log.warnings

    def _look(self) -> None:
        """Codes of the calibration split, and what is left unexplained of it and of `fit`."""
        # Where codes are not gathered, two windows are enough for the rules.
        size, seen = max(self.loaded.batch_size, 2) if self.plan.needs_codes else 2, 0
        for batch, x in self._batches("calibration", self.plan.calibration_windows, size):
            self.progress(f"{self._name}: codes", seen, None)
            self._each("codes", methodcaller("look", batch, x))
            seen += int(batch.spliced.sum())
            if not self.plan.needs_codes or not self._alive:
                break
        if not self.plan.is_bare and self._alive:
            for batch, x in self._batches("fit", self.plan.fit_windows, size):
                self._each("codes", methodcaller("look_at_fit", batch, x))
        self._each("codes", lambda row: row.choose_steps(self._calibration))

    def _calibrate(self) -> None:
        """Stream residuals, and fit what is fitted to them."""
        if self.plan.fits and self._alive:
            seen = 0
            for batch, x in self._calibration(self.plan.calibration_windows):
                self.progress(f"{self._name}: calibration", seen, None)
                self._each("calibration", methodcaller("calibrate", batch, x))
                seen += int(batch.spliced.sum())
        self._each("calibration", Row.fit)

    def _couple(self) -> None:
        if self.plan.couples and self.documents is None:
            self._each("couplings", lambda row: row.couple(self._calibration))

    def _test_gaussianity(self) -> None:
        if self.plan.tests_gaussianity and self.documents is None and self.part is None:
            gradients = self._gradients()
            self._each("gaussianity", lambda row: row.test_gaussianity(gradients))

    def _transform_coding(self) -> None:
        """Transform coding on the evaluation windows, for rows whose ladder is of quantised codes."""
        rows = [row for row in self._alive if row.rebuilder.is_coded]
        if self.plan.is_lean:
            for row in rows:
                row.log.unmeasured["reference"] = "this plan has no transform coding beside it"
        if not rows or not self.plan.has_reference or self.finer is not None or self.part is not None:
            return
        windows, asked = self._asked()

        def batches() -> Iterator[Batch]:
            return (batch for batch, _ in self._chosen(windows, asked, self.loaded.batch_size))

        log, first = Log(), self.documents is None
        found: Reference = reference_rows(
            self.loaded, self.plan, batches, asked, windows, log, self.progress, cached=first
        )
        for row in rows:
            row.coded = found
            row.log.warnings += log.warnings
            row.log.unmeasured |= log.unmeasured

    def _evaluate(self) -> None:
        """Rows of the clean model and of every kernel and draw, and the residuals met."""
        runner, exact = self.loaded.runner(self.plan.dtype), self.loaded.runner("float32")
        self.log.checks["suffix"] = Check(
            passed=True, note=f"{runner.mode}: gives the full pass's logits; every hook fired exactly once"
        )
        windows, asked = self._asked()
        mean = mean_activation(batch for batch, _ in self._chosen(windows, self._whole_part, 32))
        text = self._peer_text(windows, asked)
        self._check(windows, asked)
        passes = [(row, row.passes(mean)) for row in self._alive]
        total = windows * sum(one.number for _, one in passes)
        done = 0

        def tell(scored: int) -> None:
            nonlocal done
            done += scored
            self.progress(self._name, done, total)

        for batch, x in self._chosen(windows, asked, self.loaded.batch_size, self.part):
            shared = SharedBatch(runner, exact, batch, x, self.finer is not None, text is not None)
            for row, one in passes:
                if row.problem is None:
                    with self._apart("evaluation"), row.trapped("evaluation"):
                        row.evaluate(shared, one, text, tell)

    def _check(self, windows: int, asked: frozenset[str] | None) -> None:
        """Checks on the first windows that hold enough tokens."""
        self.progress(f"{self._name}: checks", 0, None)
        runner = self.loaded.runner(self.plan.dtype)
        batch, x = next(self._chosen(windows, asked, self.loaded.batch_size))
        if runner.dtype == torch.float32:
            sizes = batch.scored.sum(1).cumsum(0)
            few = range(min(1 + int((sizes < _CHECKED_TOKENS).sum()), len(batch.windows)))
            batch, x = batch.take(few), x[: len(few)]
        clean = clean_pass(runner, batch)
        self.log.checks["zero_splice"] = check_zero(runner, clean, self.loaded.task.site.hook_out)
        self._each("evaluation", lambda row: row.check(runner, clean, x))

    def _peer_text(self, windows: int, asked: frozenset[str] | None) -> PeerText | None:
        """Facts of the text for the field's own metrics, if these are asked for."""
        if not self.plan.compat or self.finer is not None or self.documents is not None:
            return None
        assert isinstance(self.loaded, LanguageTask)  # a plan asks this of texts only
        batches = (batch for batch, _ in self._chosen(windows, asked, 32))
        ids = special_ids(self.loaded.given.own_tokenizer)
        return PeerText.of(ids, batches, self.plan.peers or PEERS)

    def _gradients(self) -> dict[str, Tensor]:
        """Directions in which the loss of the clean model is steep."""
        windows = min(_GRADIENT_WINDOWS, self.plan.calibration_windows)
        batches = (batch for batch, _ in self._calibration(windows))
        return {"gradient": gradient_directions(self.loaded.runner("float32"), batches)}

    @cached_property
    def _part(self) -> tuple[int, frozenset[str] | None]:
        return evaluation_part(self.loaded, self.plan)

    @property
    def _whole_part(self) -> frozenset[str] | None:
        """Documents of the plan; None: all."""
        return self._part[1]

    def _asked(self) -> tuple[int, frozenset[str] | None]:
        """How many evaluation windows are looked at, and which of their documents are measured."""
        windows, part = self._part
        return windows, part if self.documents is None else self.documents & (part or self.documents)

    def _calibration(self, windows: int) -> Iterator[tuple[Batch, Tensor]]:
        return self._batches("calibration", windows, self.loaded.batch_size)

    def _batches(
        self, split: Split, windows: int, size: int, part: tuple[int, int] | None = None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of a split, their activation that of the finer interpretation if there is one.

        With each comes the model's own activation.
        """
        for batch in self.loaded.activations(split, windows).batches(size, self.loaded.device, part):
            x = batch.prefix.x_out
            if self.finer is not None:
                _, finer = self.finer.reconstruct(self.finer.choose(batch.prefix.x_in, x), batch.spliced)
                instead = torch.where(batch.spliced[..., None], finer, x)
                batch = replace(batch, prefix=batch.prefix._replace(x_out=instead))
            yield batch, x

    def _chosen(
        self,
        windows: int,
        documents: frozenset[str] | None,
        size: int,
        part: tuple[int, int] | None = None,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of the first evaluation windows, of some documents only (None: of all)."""
        for batch, x in self._batches("evaluation", windows, size, part):
            if documents is None:
                yield batch, x
                continue
            rows = [row for row, name in enumerate(batch.windows.documents) if name in documents]
            if rows:
                yield batch.take(rows), x[rows]

    @property
    def _name(self) -> str:
        """The name that progress is told under."""
        return self.entries[0].name if len(self.entries) == 1 else f"{len(self.entries)} submissions"
