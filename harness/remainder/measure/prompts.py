"""Measure one submission of circuits on one task with prompts.

Circuits of edges: `measure.circuits`; of features: `measure.feature_circuits`; the loop that both share:
`measure.prompt_run`.
"""

from __future__ import annotations

from collections.abc import Collection

from remainder.base.cache import Progress
from remainder.circuit.feature_circuits import FeatureCircuits
from remainder.errors import TaskError
from remainder.loading.prompts import PromptTask
from remainder.measure.circuits import EdgeRun
from remainder.measure.feature_circuits import FeatureRun
from remainder.measure.plan import Plan
from remainder.measure.seal import Log, Remeasured, info
from remainder.record.recordable import require_recordable
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.submission.submission import PromptEntry

__all__ = ["measure", "remeasure"]


def measure(
    loaded: PromptTask,
    entry: PromptEntry,
    plan: Plan,
    *,
    reference: PromptEntry | None = None,
    progress: Progress | None = None,
) -> StoredRecord:
    """Score the circuits of a submission; gives the record and the per-document values.

    Args:
        loaded: a task with prompts.
        entry: circuits of edges, or of features.
        plan: how much is measured; rungs that only circuits of edges have are recorded as not measured of
            circuits of features.
        reference: refused; circuits are not nested.

    Raises:
        InterpretationError: a circuit is not sound, or a template has none.
        MeasurementError: a check failed, a number is not finite, or there are too few prompts.
        TaskError: there is a reference, or the task's model has no hooks.
    """
    if reference is not None:
        raise TaskError("circuits are not nested", fix="score them one by one, and compare the records")
    found = entry.circuits(loaded, plan.fit_windows)
    submission = info(entry)
    require_recordable([submission], found.notes)
    log = Log(warnings=[*plan.notes, *found.notes])
    circuits = found.circuits
    if isinstance(circuits, FeatureCircuits):
        return FeatureRun(loaded, submission, plan, log, progress, circuits).record()
    return EdgeRun(loaded, submission, plan, log, progress, circuits).record()


def remeasure(
    loaded: PromptTask,
    entry: PromptEntry,
    plan: Plan,
    documents: Collection[str],
    *,
    reference: PromptEntry | None = None,
    progress: Progress | None = None,
) -> Remeasured:
    """Measure all prompts again, whichever `documents` are asked for: a pass over a few takes as long.

    Raises:
        RemainderError: as `measure`.
    """
    record, values = measure(loaded, entry, plan, reference=reference, progress=progress)
    table = canonical_values(values)
    windows = frozenset(zip(table["document"], table["window"], strict=True))
    documents = tuple(sorted(table["document"].unique()))
    return Remeasured(table, documents, windows, record.complexity, record.calibration)
