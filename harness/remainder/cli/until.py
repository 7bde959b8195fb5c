"""The option `--until-ci` of `remainder run`: look after look, until an interval is narrow enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from remainder.base.progress import errors
from remainder.errors import TaskError
from remainder.record.store import StoredRecord
from remainder.runs.until import looks, rule, widest

if TYPE_CHECKING:
    from remainder.cli.session import Session
    from remainder.runs.job import Source
    from remainder.task.spec import Task

__all__ = ["measure_until", "require_one"]


def require_one(tasks: list[Task], half_width: float, documents: int | None, shard: str) -> None:
    """Raise TaskError unless one task is to be measured by this process, as far as a half-width asks."""
    for fault, what in (
        (len(tasks) != 1, f"{len(tasks)} tasks"),
        (documents is not None, "--documents"),
        (shard != "1/1", "--shard"),
    ):
        if fault:
            raise TaskError(f"--until-ci goes with one task, and not with {what}", fix="give one of the two")
    if not 0 < half_width < float("inf"):
        raise TaskError(f"--until-ci is {half_width}", fix="give half the width of an interval, in nats")


def measure_until(
    half_width: float, task: Task, source: Source, make: Callable[[Source], Session]
) -> Session:
    """Measure more and more documents; gives the run of the last look.

    Args:
        half_width: nats per scored token.
        source: with the plan of the whole tier.
        make: the run of a source.
    """
    numbers = looks(task, source.plan.tier)
    sentence = rule(half_width, len(numbers))
    for number in numbers:
        notes = () if number is None else (sentence,)
        session = make(source._replace(plan=source.plan.of_documents(number, *notes)))
        session.measure()
        finished = [row.finished for row in session.rows[0] if row.finished is not None]
        if len(finished) < len(session.rows[0]) or not finished:
            return session  # whose end says what could not be measured
        known = widest([StoredRecord(each.record, each.values) for each in finished], len(numbers))
        found = known.half_width
        stated = f"{known.what}: {'no interval' if found is None else f'± {found:.3g} nats'}"
        documents = finished[0].record.documents.documents
        if found is not None and found <= half_width:
            errors.print(f"{documents} documents; {stated}: narrow enough", soft_wrap=True)
            break
        end = "; the tier has no more" if number is None else ""
        errors.print(f"{documents} documents; {stated}, wanted ± {half_width:g}{end}", soft_wrap=True)
    return session
