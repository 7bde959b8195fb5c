"""How much is measured, and how: a tier of a task, with parts of it replaced.

Source: protocol 1, sections 1 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from remainder.circuit.backgrounds import BACKGROUNDS
from remainder.errors import TaskError
from remainder.model import DTYPES
from remainder.residual.ladder import RUNGS
from remainder.rungs import ALL
from remainder.task import Task

__all__ = ["Plan", "plan"]

_ANNEALED_PAIRS = 8
_ANNEALED = ("full", "permuted", "coupled")  # rungs whose annealed loss is a headline


class Plan(NamedTuple):
    """How much is measured, and how."""

    tier: str
    rungs: tuple[str, ...]
    pairs: int
    dtype: str
    evaluation_windows: int
    calibration_windows: int
    fit_windows: int
    annealed_pairs: int = 0
    """Pairs of the rungs whose annealed loss is a headline, if more than `pairs`."""
    whole: bool = False
    """Whether couplings, refits and tests of Gaussianity are measured too."""
    compat: bool = False
    """Whether the field's own metrics are measured too."""

    def draws(self, rung: str) -> int:
        """Of a rung that has noise."""
        return 2 * (max(self.pairs, self.annealed_pairs) if rung in _ANNEALED else self.pairs)


def plan(
    task: Task,
    tier: str,
    *,
    rungs: tuple[str, ...] | None = None,
    pairs: int | None = None,
    dtype: str | None = None,
    compat: bool = False,
) -> Plan:
    """A tier of a task, with parts of it replaced.

    Args:
        rungs: names, of a task of circuits those of backgrounds; `all` asks for every rung, annealed losses,
            couplings, refits and Gaussianity, and of a text for `compat`.
        compat: the field's own metrics.

    Raises:
        TaskError: if there is no such tier, rung or dtype, or `compat` is asked of a task that is no text.
    """
    amount = task.tier(tier)
    chosen = tuple(rungs or task.rungs)
    known: Iterable[str] = BACKGROUNDS if task.circuit is not None else RUNGS
    unknown = [rung for rung in chosen if rung not in known and rung != ALL]
    if unknown:
        raise TaskError(f"there is no rung {unknown[0]!r}", fix=f"choose from: {', '.join([ALL, *known])}")
    precision = dtype or amount.dtype
    if precision not in DTYPES:
        raise TaskError(f"there is no dtype {precision!r}", fix=f"choose from: {', '.join(DTYPES)}")
    if pairs is not None and pairs < 1:
        raise TaskError(f"pairs is {pairs}", fix="ask for at least one antithetic pair of draws")
    if compat and task.corpus is None:
        raise TaskError(
            f"{task.id} has no text, and the field's metrics (compat) are defined for language models only",
            fix="leave compat out",
        )
    whole = ALL in chosen
    # Without `raw` nothing is known of the interpretation itself; every other rung is compared with it.
    ordered = tuple(rung for rung in known if whole or rung in {"raw", *chosen})
    if task.circuit is not None:
        return Plan(
            tier,
            ordered,
            pairs or amount.pairs,
            precision,
            amount.evaluation_windows,
            amount.calibration_windows,
            amount.fit_windows,
        )
    return Plan(
        tier,
        ordered,
        pairs or amount.pairs,
        precision,
        amount.evaluation_windows,
        amount.calibration_windows,
        amount.fit_windows,
        _ANNEALED_PAIRS if whole else 0,
        whole,
        compat or (whole and task.corpus is not None),
    )
