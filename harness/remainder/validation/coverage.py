"""The coverage of a record's 95 % intervals, over many evaluation sets of one control.

1. A pool of fresh evaluation windows is scored (`validation.pool`). They are independent, so any number of
   them makes a document, and any number of documents an evaluation set.
2. Each set gets the interval of `record.intervals.Bootstrap`, as a record does, with a seed of its own.
3. The share of sets whose interval holds the value that the control claims, with Wilson's (1927) 95 %
   interval. Also the share that holds the mean of the pool: it differs from the other if the formula is off,
   not the interval.

The script of expected values says what is studied, by `coverage() -> dict[str, list[str]]`: quantities by
interpretation, of those that it claims, each of one rung (losses, errors, KL). It may take the parameters of
the build, and gives {} for a task without a study.

Source: CONTROLS, coverage; protocol 1, section 5.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.table import Column
from rich.text import Text
from scipy import stats

from remainder.base.cache import Progress
from remainder.errors import TaskError
from remainder.record.intervals import Bootstrap, Ratio
from remainder.report.layout import WIDTH, require_format
from remainder.report.text import draw, render_frame, ruled_table
from remainder.task.spec import Task
from remainder.validation.pool import Pool, fill_pool
from remainder.validation.run import Control, controls
from remainder.validation.tables import FORMATS

__all__ = ["Coverage", "cover", "cover_controls", "coverage", "render_coverage", "wilson"]

DOCUMENTS = (10, 20, 32, 44)
"""The real tasks have 32 in their quick, 44 in their standard tier."""
ACCEPTED = (0.93, 0.97)
"""Shares that will do, from `_JUDGED` documents on."""

_JUDGED = 30
_REPLICATIONS = 1000


class Held(NamedTuple):
    """The share of intervals that held a value, in sets of one size."""

    sets: int
    share: float
    share_of_mean: float
    """Share of the intervals that hold the mean of the pool."""
    width: float
    """Mean width of the intervals."""


class Coverage(NamedTuple):
    """The coverage of a claimed quantity, in evaluation sets of one size."""

    task: str
    interpretation: str
    quantity: str
    documents: int
    expected: float
    sets: int
    held: float
    """Share of the sets whose interval holds the expected value."""
    low: float
    high: float
    """Wilson's 95 % interval of that share."""
    held_mean: float
    """Share of the sets whose interval holds the mean of the pool."""
    width: float
    """Mean width of the intervals."""
    shown_only: bool = False
    """Whether nothing is promised: documents of a law that is far from normal."""

    @property
    def judged(self) -> bool:
        """Whether there are as many documents as real tasks have; fewer are shown for comparison."""
        return self.documents >= _JUDGED and not self.shown_only

    @property
    def passed(self) -> bool:
        """Whether the share is what 95 % intervals should have, if it is judged."""
        return not self.judged or ACCEPTED[0] <= self.held <= ACCEPTED[1]


def cover_controls(
    names: Iterable[str | Task] | None = None,
    *,
    documents: Sequence[int] = DOCUMENTS,
    replications: int = _REPLICATIONS,
    progress: Progress | None = None,
) -> list[Coverage]:
    """Coverage of all controls that say what is studied, or of those named.

    Raises:
        TaskError: if none says so, or one that is named does not.
    """
    chosen = controls(names)
    studied = {control.task.id: _studied(control) for control in chosen}
    silent = [control for control in chosen if not studied[control.task.id]]
    if silent and (names is not None or len(silent) == len(chosen)):
        raise TaskError(
            f"{silent[0].place} does not say what coverage is studied", fix="define coverage() there"
        )
    return [
        one
        for control in chosen
        for interpretation, quantities in studied[control.task.id].items()
        for one in coverage(
            control,
            interpretation,
            quantities=quantities,
            documents=documents,
            replications=replications,
            progress=progress,
        )
    ]


def _studied(control: Control) -> Mapping[str, Sequence[str]]:
    """Quantities by interpretation, as the script of a control says; nothing, if it says nothing."""
    said = getattr(control.script, "coverage", None)
    if said is None:
        return {}
    assert control.task.build is not None
    # A script that several tasks share may tell them apart by their parameters.
    taken = control.task.build.parameters if inspect.signature(said).parameters else {}
    found: Mapping[str, Sequence[str]] = said(**taken)
    return found


def coverage(
    control: str | Task | Control,
    interpretation: str,
    *,
    quantities: Sequence[str] = ("raw", "full"),
    documents: Sequence[int] = DOCUMENTS,
    windows: tuple[int, int] = (1, 1),
    replications: int = _REPLICATIONS,
    pairs: int = 1,
    parameters: Mapping[str, int | float | str | bool] | None = None,
    progress: Progress | None = None,
) -> list[Coverage]:
    """Coverage of the claimed values of a control, one entry for each quantity and number of documents.

    Args:
        control: a control whose `build` takes `evaluation_seed`.
        interpretation: name of one of the control's interpretations.
        quantities: claimed quantities of one rung each: losses, errors, KL.
        documents: numbers of documents in an evaluation set.
        windows: fewest and most windows of a document; the number is drawn uniformly.
        replications: number of evaluation sets of each size.
        pairs: antithetic pairs of draws.
        parameters: parameters of `build` that replace the task's, e.g. for more examples.
        progress: receives how much of the pool is filled.

    Raises:
        TaskError: if the task claims no such value, or cannot draw evaluation examples anew.
    """
    chosen = control if isinstance(control, Control) else controls([control])[0]
    claimed = _claimed(chosen, interpretation, quantities)
    # Documents of random length may take more windows than their mean length says.
    margin = 1.0 if windows[0] == windows[1] else 1.05
    needed = math.ceil(margin * replications * max(documents) * sum(windows) / 2)
    pool = fill_pool(
        chosen.task, interpretation, quantities, needed, pairs=pairs, parameters=parameters, progress=progress
    )
    studied = []
    for text, expected in claimed.items():
        for count in documents:
            held = cover(pool, text, expected, count, windows=windows, most=replications)
            low, high = wilson(round(held.share * held.sets), held.sets)
            studied.append(
                Coverage(
                    task=chosen.task.id,
                    interpretation=interpretation,
                    quantity=text,
                    documents=count,
                    expected=expected,
                    sets=held.sets,
                    held=held.share,
                    low=low,
                    high=high,
                    held_mean=held.share_of_mean,
                    width=held.width,
                )
            )
    return studied


def _claimed(control: Control, interpretation: str, quantities: Sequence[str]) -> dict[str, float]:
    """The expected value of each quantity of an interpretation.

    Raises:
        TaskError: if the control does not claim one of them.
    """
    claims = {
        claim.quantity.text: claim.expected
        for claim in control.claims(control.task.seed)
        if claim.interpretation == interpretation
    }
    if unknown := [text for text in quantities if text not in claims]:
        raise TaskError(
            f"{control.place}: nothing is claimed of {unknown[0]} of {interpretation}",
            fix=f"choose from: {', '.join(claims) or 'nothing'}",
        )
    return {text: claims[text] for text in quantities}


def cover(
    pool: Pool,
    quantity: str,
    expected: float,
    documents: int,
    *,
    windows: tuple[int, int] = (1, 1),
    most: int = 1000,
    seed: int = 0,
) -> Held:
    """Count the intervals that hold `expected`, in sets of documents cut from the pool one after another.

    Args:
        documents: number of documents in a set.
        most: largest number of sets; fewer, if the pool is too small.
        seed: seed of the windows of each document, and of the resamples.

    Raises:
        ValueError: if the pool does not fill one set.
    """
    total, tokens = pool.sums[quantity], pool.tokens
    mean = float(total.sum() / tokens.sum())
    generator = np.random.default_rng(seed)
    held = held_mean = sets = place = 0
    widths = 0.0
    while sets < most:
        sizes = generator.integers(windows[0], windows[1] + 1, documents)
        if place + sizes.sum() > len(tokens):
            break
        starts = place + np.concatenate([[0], np.cumsum(sizes)[:-1]])
        place += int(sizes.sum())
        # As in a record: errors are shares, losses and KL are not below 0.
        ratio = Ratio(
            np.add.reduceat(total[:place], starts),
            np.add.reduceat(tokens[:place], starts),
            "share" if quantity.endswith(" error") else "positive",
        )
        estimate = Bootstrap(documents, seed=seed + sets).estimate(ratio)
        if estimate.low is None or estimate.high is None:
            raise ValueError(f"{documents} documents have no interval: {estimate.reason}")
        held += estimate.low <= expected <= estimate.high
        held_mean += estimate.low <= mean <= estimate.high
        widths += estimate.high - estimate.low
        sets += 1
    if sets == 0:
        raise ValueError(f"a pool of {len(tokens)} windows does not fill {documents} documents")
    return Held(sets, held / sets, held_mean / sets, widths / sets)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def render_coverage(
    found: Sequence[Coverage], format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """A study of coverage as text, in one of the formats of a validation.

    Raises:
        RecordError: there is no such format.
    """
    require_format(format, FORMATS)
    if format != "table":
        rows = [{**one._asdict(), "judged": one.judged, "passed": one.passed} for one in found]
        return render_frame(pd.DataFrame(rows), format)
    words = [Column(heading, overflow="fold") for heading in ("Control", "Quantity")]
    table = ruled_table(words, ("Documents", "Sets", "Held", "95 %", ""))
    for one in found:
        cells = (
            f"{one.task}: {one.interpretation}",
            one.quantity,
            str(one.documents),
            str(one.sets),
            f"{one.held:.1%}",
            f"{100 * one.low:.1f}–{100 * one.high:.1f}",
            ("pass" if one.passed else "FAIL") if one.judged else "",
        )
        table.add_row(*(Text(cell, style="" if one.passed else "red") for cell in cells))
    low, high = ACCEPTED
    note = (
        f"Held: share of evaluation sets whose 95 % interval holds the value that the control claims; from "
        f"{_JUDGED} documents on, as real tasks have, it must lie between {low:.0%} and {high:.0%}. Fewer, "
        "and documents drawn by law, are for comparison."
    )
    return draw([table, "", Text(note, style="dim")], width=width, color=color)
