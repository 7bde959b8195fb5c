"""The first look at an interpretation: rules that it must keep, codes, and what it leaves unexplained."""

from __future__ import annotations

from torch import Tensor

from remainder.interpretation.protocol import Adapted
from remainder.interpretation.rules import check_conformance
from remainder.loading.activations import Batch
from remainder.measure.codes import Codes, CodeSample, Look
from remainder.measure.gather import nothing_spliced
from remainder.measure.seal import Log
from remainder.measure.unexplained import Unexplained
from remainder.record.schema import Check

__all__ = ["look", "look_again", "look_at_fit"]


def look(
    interpretation: Adapted,
    finer: Adapted | None,
    batch: Batch,
    x: Tensor,
    sample: CodeSample,
    left: Unexplained,
    log: Log,
) -> None:
    """Gather codes of a batch of the calibration split; the first one also goes through conformance.

    Args:
        finer: the interpretation that stands in for the model, if any; its conformance is checked too.
        batch: the first is of two windows at least: whether one changes another is a rule that is checked.
        x: the model's own activation.
        left: told what is left unexplained.
        log: receives the check of conformance.

    Raises:
        InterpretationError: if it breaks a rule, or gives values of a wrong shape or not finite.
        MeasurementError: if nothing is spliced.
    """
    read, here, target = interpretation.choose(batch.prefix.x_in, x), batch.spliced, batch.prefix.x_out
    if not sample.seen:
        if not here.any():
            raise nothing_spliced()
        log.checks["conformance"] = _conformance(interpretation, read, batch, x)
        if finer is not None:
            check_conformance(finer, finer.choose(batch.prefix.x_in, x), here, x)
    codes, reconstruction = interpretation.reconstruct(read, here)
    passed = interpretation.skip(read)
    sample.past = sample.past or (passed is not None and bool(passed[here].any()))
    rebuilt = target if passed is None else target - passed
    sample.update(codes[here], rebuilt[here], (target - reconstruction)[here], here)
    left.update("calibration", batch, target - reconstruction)


def look_again(interpretation: Adapted, batch: Batch, x: Tensor) -> Look:
    """The codes of a batch that was looked at, for those that could not be kept."""
    read, here = interpretation.choose(batch.prefix.x_in, x), batch.spliced
    rebuilt = interpretation.coded(batch.prefix.x_out, read)
    return Look(Codes.of(interpretation.encode(read)[here]), rebuilt[here], here)


def look_at_fit(interpretation: Adapted, batch: Batch, x: Tensor, left: Unexplained) -> None:
    """Gather what is left unexplained of the split that training is for, and that scores nothing."""
    read = interpretation.choose(batch.prefix.x_in, x)
    _, estimate = interpretation.reconstruct(read, batch.spliced)
    left.update("fit", batch, batch.prefix.x_out - estimate)


def _conformance(interpretation: Adapted, read: Tensor, batch: Batch, x: Tensor) -> Check:
    found = check_conformance(interpretation, read, batch.spliced, x)
    return Check(
        passed=True,
        value=max(found.repeated, found.later_positions, found.other_windows),
        limit=found.limit,
        note="largest change of the reconstruction on repeating, on changing later positions or "
        "other windows, over the root mean square of what is rebuilt; codes were checked too",
    )
