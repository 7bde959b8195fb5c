"""Facts of a task that `remainder show TASK` and the board's page of it state, as words and texts."""

from __future__ import annotations

from collections.abc import Iterator

from remainder.base.paths import SECOND_PACKAGE
from remainder.submission.description import baselines, comes_with_second_package
from remainder.task.spec import Task

__all__ = ["facts_of"]


def facts_of(task: Task) -> Iterator[tuple[str, str]]:
    """Facts about a task, each with the word that its line begins with."""
    if task.variant_of is not None:
        yield "variant", f"of {task.variant_of}: the same site, on another text"
    yield "model", f"{task.model.name} ({task.model.licence})"
    if terms := task.model.terms:
        accepting = f"`remainder fetch {task.id} --accept-terms {terms.id}`"
        yield "terms", f"{terms.name}, {terms.url}; {accepting} accepts them"
    if build := task.build:
        yield "data", f"{build.data} ({build.data_licence})"
    if corpus := task.corpus:
        yield "text", f"{corpus.name} ({corpus.licence})"
    if evaluated := task.evaluated:
        yield "evaluated", f"on another text: {evaluated.name} ({evaluated.licence})"
    yield from task.kind.facts(task)
    if corpus and task.positions:
        special = " ".join(str(token) for token in corpus.special_tokens)
        yield "masked", f"special tokens {special}; norms above {task.positions.sink_norm:g}"
    if splits := task.splits:
        counts = f"{splits.evaluation} evaluation, {splits.calibration} calibration, the rest fit"
        yield "documents", counts
    if build and build.expected is not None:
        yield "control", f"its right answers are known beforehand, from {build.expected}"
    yield "rungs", ", ".join(task.rungs)
    for name, tier in task.every_tier.items():
        counts = f"{tier.evaluation_windows} evaluation and {tier.calibration_windows} calibration"
        draws = "1 pair of draws" if tier.pairs == 1 else f"{tier.pairs} pairs of draws"
        yield "tier", f"{name}: {counts} {task.kind.samples}, {draws}, {tier.dtype}"
    fitting = baselines(task)
    absent = [found.name for folder, found in fitting if comes_with_second_package(folder, found)]
    yield "baselines", ", ".join(found.name for _, found in fitting if found.name not in absent)
    if absent:
        yield "absent", f"{', '.join(absent)} (pip install {SECOND_PACKAGE})"
