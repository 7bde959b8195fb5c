"""Measure verified records again, and keep the verdicts on them: `remainder verify` after its reading.

A verdict on a record that was to be measured again and could not be is not kept: the board's job takes a
record without one for new, and so tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from remainder.board.verifications import require_place, write_verification
from remainder.board.verify import Verdict
from remainder.errors import RemainderError
from remainder.publish import afresh
from remainder.publish.draws import Draws, settings_of

if TYPE_CHECKING:
    from remainder.publish.remeasure import Rerun

__all__ = ["Outcome", "measure_and_keep", "plans_of"]


class Outcome(NamedTuple):
    """Outcomes of measuring records again, by their paths."""

    again: dict[Path, Rerun]
    problems: dict[Path, RemainderError]
    """Errors of records that could not be measured."""


def plans_of(
    verdicts: Sequence[Verdict], settings: Mapping[str, Any], draws: Draws | None
) -> dict[Path, Mapping[str, Any]]:
    """Arguments of `remeasure.rerun` for each record to measure again, by path.

    A record at fault is left out: it may hold anything.

    Args:
        settings: the arguments for all of them, where there are no `draws`.
        draws: those records are measured that have a key here, and documents are drawn by it.
    """
    sound = [verdict for verdict in verdicts if verdict.passed and verdict.record is not None]
    if draws is None:
        return {verdict.path: settings for verdict in sound}
    return {
        verdict.path: settings_of(verdict.record, draws[verdict.record.record_id])
        for verdict in sound
        if verdict.record is not None and verdict.record.record_id in draws
    }


def measure_and_keep(
    verdicts: Sequence[Verdict],
    plans: Mapping[Path, Mapping[str, Any]],
    *,
    write: bool,
    anywhere: bool,
    show: Callable[[Rerun], None],
) -> Outcome:
    """Measure the records of `plans` again, and keep all verdicts but of those that could not be measured.

    Args:
        write: whether verdicts are kept.
        anywhere: whether a record that lies in no folder of results is passed over instead of refused.
        show: is given each outcome as soon as it is there.

    Raises:
        RecordError: a verdict cannot be kept where its record lies; before anything is measured.
    """
    # Without a record there is no id to keep a verdict under.
    kept = [one for one in verdicts if one.record is not None and not (anywhere and one.root is None)]
    if write:
        for verdict in kept:
            require_place(verdict)
    found = Outcome({}, {})
    for path, outcome in afresh.measure_afresh(plans):
        if isinstance(outcome, RemainderError):
            found.problems[path] = outcome
        else:
            found.again[path] = outcome
            show(outcome)
    if write:
        for verdict in kept:
            if verdict.path not in found.problems:
                measured = found.again.get(verdict.path)
                write_verification(verdict, None if measured is None else measured.kept(afresh=True))
    return found
