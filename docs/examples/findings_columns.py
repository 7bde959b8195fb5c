"""Which scores say the same: rank correlations over the rows of the board, and what they make of its columns.

Steps:
1. Rows that keep everything or nothing (the identity, the mean, the full and the empty graph) are left out:
   they are the ends of every score, and would make all scores agree. So are tasks with fewer than `LEAST`
   rows.
2. Within each task rows are ranked by each score, ties at their mean rank. Only ranks within a task count,
   since nats of one model are not those of another.
3. The correlation of two scores is that of these ranks, pooled over tasks of a kind, over rows that have
   both: Spearman's, were there one task. It is signed as the scores are: KL and efficiency point opposite
   ways.
4. Interval: the 2.5 and 97.5 % quantiles of `RESAMPLES` resamples of the rows within each task (with their
   ranks as they are). It says how far the correlation hangs on which rows happen to be on the board. The
   error of each number over documents is not in it, and rows are no sample of all interpretations that
   there could be.
5. Scores are grouped by average linkage: one group where the mean size of correlations is `SAME` at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.palette import BLUE, VERMILION
from remainder.report.text import Notes
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
    from findings_words import Of
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

LEAST = 4
"""Rows that a task needs; and rows, over all tasks, that a pair of scores needs are three times as many."""
TASKS = 3
"""Tasks that a kind needs."""
SAME = 0.9
"""The size of a rank correlation from which on two scores are said to say the same."""
RESAMPLES = 500

Array = NDArray[np.float64]


class Score(NamedTuple):
    """A score, as the figure calls it."""

    label: str
    of: Of
    default: bool = False
    """Whether it is a column that the board shows by default."""


def _size(key: str) -> Of:
    """The size of a quantity that is better near 0."""

    def of(record: Record) -> Number | None:
        found = words.quantity(key)(record)
        if found is None or found.value is None:
            return None
        return Number.bare(abs(found.value), "a size")

    return of


def _tail(record: Record) -> Number | None:
    metrics = record.metrics.rungs.get(words.object_rung(record))
    return None if metrics is None else metrics.quenched.kl_p99


def _fvu(record: Record) -> Number | None:
    coding = record.metrics.coding
    point = None if coding is None else coding.points.get("coded")
    return None if point is None else point.fvu


BESIDE = ("annealed − mean, × 0.6", "net bits")
"""Scores that stand in the table beside default columns."""
SITES = (
    Score("bits", words.quantity("bits_per_token"), default=True),
    Score("L0", words.quantity("l0")),
    Score("explained variance", words.quantity("explained_variance")),
    Score("FVU coded", _fvu),
    Score("KL coded", words.quantity("kl_coded"), default=True),
    Score("KL coded 99 %", _tail),
    Score("KL raw", words.quantity("kl_raw")),
    Score("KL Gaussian", words.quantity("kl_gaussian")),
    Score("|Δ raw|", _size("gap_raw")),
    Score("|Δ Gaussian|", _size("gap_gaussian")),
    Score("efficiency", words.quantity("efficiency"), default=True),
    Score("|Δ annealed|", _size("gap_annealed"), default=True),
    Score("annealed − mean, × 0.6", words.quantity("annealed_difference_0.6")),
    Score("ρ", words.quantity("gaussian_ratio")),
    Score("ρ even", words.quantity("rho_even"), default=True),
    Score("ρ odd", words.quantity("rho_odd")),
    Score("|π|", _size("perturbativity")),
    Score("interaction", words.quantity("interaction")),
    Score("net bits", words.quantity("net_bits")),
)
CIRCUITS = (
    Score("kept", words.quantity("kept"), default=True),
    Score("KL raw", words.quantity("kl_raw"), default=True),
    Score("KL Gaussian", words.quantity("kl_gaussian"), default=True),
    Score("|Δ raw|", _size("gap_raw")),
    Score("|Δ Gaussian|", _size("gap_gaussian")),
    Score("efficiency", words.quantity("efficiency"), default=True),
    Score("f", words.quantity("faithfulness"), default=True),
    Score("f range", words.quantity("faithfulness_range")),
    Score("CPR", words.quantity("cpr"), default=True),
    Score("CMD", words.quantity("cmd"), default=True),
    Score("CMD Gaussian", words.quantity("cmd_gaussian"), default=True),
    Score("ρ", words.quantity("gaussian_ratio")),
)


class Correlations(NamedTuple):
    """Rank correlations of the scores of one kind of task."""

    kind: str
    scores: tuple[Score, ...]
    rows: int
    tasks: int
    value: Array
    """`[scores, scores]`; NaN where too few rows have both."""
    low: Array
    high: Array

    def is_known(self, place: int) -> bool:
        """Whether enough rows have the score, and another beside it."""
        return bool(np.isfinite(self.value[place]).sum() > 1)

    def groups(self) -> list[list[int]]:
        """Scores that say the same, by their places; those without a correlation stand alone."""
        known = [i for i in range(len(self.scores)) if self.is_known(i)]
        distance = 1 - np.abs(np.nan_to_num(self.value[np.ix_(known, known)]))
        np.fill_diagonal(distance, 0)
        tree = linkage(squareform((distance + distance.T) / 2, checks=False), "average")
        labels = fcluster(tree, 1 - SAME, "distance")
        found = [[known[i] for i in np.flatnonzero(labels == label)] for label in dict.fromkeys(labels)]
        return sorted(found, key=lambda group: (-len(group), group))


def kinds(records: Sequence[Record]) -> Mapping[str, tuple[list[Record], tuple[Score, ...]]]:
    """Rows by kind of task, and the scores that they are compared by."""
    free = [record for record in records if not words.is_bound(record)]
    sites = [record for record in free if not record.is_of_circuits]
    own = [r for r in sites if not words.is_text(r) and words.suite(r) != "controls"]
    return {
        "sites of language models": ([r for r in sites if words.is_text(r)], SITES),
        "sites of other networks": (own, SITES),
        "controls": ([r for r in sites if words.suite(r) == "controls"], SITES),
        "circuits": ([record for record in free if record.is_of_circuits], CIRCUITS),
    }


def correlations(kind: str, records: Sequence[Record], scores: tuple[Score, ...]) -> Correlations:
    """Rank correlations within tasks, pooled."""
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(record.task.id, []).append(record)
    tables = [_table(rows, scores) for rows in tasks.values() if len(rows) >= LEAST]
    value = _pooled([(table, np.ones((1, len(table)))) for table in tables])[0]
    generator = np.random.default_rng(0)
    weighted = [
        (table, generator.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES))
        for table in tables
    ]
    drawn = _pooled(weighted)
    both = sum((np.isfinite(table).T.astype(int) @ np.isfinite(table) for table in tables), start=0)
    few = both < 3 * LEAST
    low, high = np.nanquantile(np.where(np.isfinite(drawn), drawn, 0.0), [0.025, 0.975], axis=0)
    for array in (value, low, high):
        array[few] = np.nan
    return Correlations(kind, scores, sum(map(len, tables)), len(tables), value, low, high)


def _table(rows: Sequence[Record], scores: tuple[Score, ...]) -> Array:
    """Ranks within a task, `[rows, scores]`, from 0 to 1; NaN where a row has no such number."""
    numbers = np.array([[_value(score, row) for score in scores] for row in rows])
    ranks = rankdata(numbers, axis=0, nan_policy="omit")
    many = np.maximum(np.isfinite(numbers).sum(0), 1)
    result: Array = np.where(np.isfinite(numbers), (ranks - 0.5) / many, np.nan)
    return result


def _value(score: Score, row: Record) -> float:
    found = score.of(row)
    return np.nan if found is None or found.value is None else found.value


def _pooled(tables: Sequence[tuple[Array, Array]]) -> Array:
    """Correlations of ranks about their means in each task, `[resamples, scores, scores]`.

    Args:
        tables: ranks `[rows, scores]`, and how often each resample has each row `[resamples, rows]`.
    """
    cross = first = 0.0
    for ranks, weights in tables:
        there = np.isfinite(ranks).astype(float)
        filled = np.nan_to_num(ranks)

        def sums(left: Array, right: Array, weights: Array = weights) -> Array:
            result: Array = np.einsum("kr,ri,rj->kij", weights, left, right, optimize=True)
            return result

        many = sums(there, there)
        safe = np.maximum(many, 1)
        # Means of score i over rows that have both i and j, and of j.
        of_first, of_second = sums(filled, there), sums(there, filled)
        cross = cross + sums(filled, filled) - of_first * of_second / safe
        first = first + sums(filled**2, there) - of_first**2 / safe
    assert isinstance(first, np.ndarray)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = cross / np.sqrt(first * first.transpose(0, 2, 1))
    return result.clip(-1, 1)


# ------------------------------------------------------------------------------------------ words and figure


def all_correlations(records: Sequence[Record]) -> list[Correlations]:
    """Those of each kind of task that has rows enough."""
    found = (correlations(kind, rows, scores) for kind, (rows, scores) in kinds(records).items())
    return [one for one in found if one.rows >= 3 * LEAST and one.tasks >= TASKS]


def largest(one: Correlations) -> tuple[list[str], bool]:
    """Scores of the largest group, and whether every default column stands in a group of its own."""
    groups = one.groups()
    defaults = [sum(one.scores[i].default for i in group) for group in groups]
    return [one.scores[i].label for i in groups[0]], max(defaults) == 1


def said(found: Sequence[Correlations]) -> str:
    """What correlations make of the columns, one list item a kind; then the default columns as a table."""
    return str(words.stacked(words.bullets(map(_sentence, found)), *map(_defaults, found[:1])))


def _sentence(one: Correlations) -> str:
    groups = one.groups()
    alike = [group for group in groups if len(group) > 1]
    named = "; ".join(", ".join(one.scores[i].label for i in group) for group in alike)
    text = f"**{one.kind.capitalize()}** ({one.rows} rows of {one.tasks} tasks). "
    text += f"Scores that say the same: {named}. " if alike else "No two scores say the same. "
    twice = [
        labels
        for group in groups
        if len(labels := [s.label for i in group if (s := one.scores[i]).default]) > 1
    ]
    unheard = [
        one.scores[group[0]].label
        for group in groups
        if not any(one.scores[i].default for i in group) and len(group) == 1
    ]
    text += (
        "Default columns that share a group, so that one of them would do: "
        + "; ".join(" and ".join(labels) for labels in twice)
        + ". "
        if twice
        else "Every default column stands in a group of its own. "
    )
    text += f"Scores by themselves, and no default columns: {', '.join(unheard)}. " if unheard else ""
    empty = [score.label for i, score in enumerate(one.scores) if score.default and not one.is_known(i)]
    text += f"Default columns that too few rows have a number for: {', '.join(empty)}." if empty else ""
    return text.strip()


def _defaults(one: Correlations) -> str:
    """Correlations of the default columns, and of those beside them, with their intervals, as a table."""
    places = [i for i, s in enumerate(one.scores) if (s.default or s.label in BESIDE) and one.is_known(i)]
    cells = []
    for i in places:
        row = [one.scores[i].label]
        for j in places:
            row.append("" if j >= i else cell(one, i, j))
        cells.append(row)
    headings = ("", *(one.scores[i].label for i in places[:-1]))
    return (
        f"Rank correlations of default columns, and of {' and '.join(BESIDE)}, at {one.kind}:\n\n"
        + words.table(headings, [row[:-1] for row in cells[1:]], Notes())
    )


def cell(one: Correlations, i: int, j: int) -> str:
    """A correlation with its interval."""
    numbers = (one.value[i, j], one.low[i, j], one.high[i, j])
    if not np.isfinite(numbers).all():
        return "–"
    value, low, high = (f"{number:.2f}".replace("-", "−") for number in numbers)
    return f"{value} [{low}, {high}]"


def figure(found: Sequence[Correlations]) -> Figure:
    """A square for each pair of scores, a panel for the first and the last kind of task."""
    shown = [found[0], found[-1]] if len(found) > 1 else list(found)
    drawn = Figure(figsize=(11.4, 5.4), layout="constrained", dpi=90)
    panels = drawn.subplots(1, len(shown), squeeze=False, width_ratios=[len(one.scores) for one in shown])[0]
    colours = LinearSegmentedColormap.from_list("signed", [VERMILION, "white", BLUE])
    for axes, one in zip(panels, shown, strict=True):
        order = [i for group in one.groups() for i in group]
        axes.imshow(one.value[np.ix_(order, order)], vmin=-1, vmax=1, cmap=colours)
        labels = [one.scores[i].label for i in order]
        axes.set_xticks(
            range(len(order)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7
        )
        axes.set_yticks(range(len(order)), labels, fontsize=7)
        for tick, i in zip(axes.get_yticklabels(), order, strict=True):
            tick.set_fontweight("bold" if one.scores[i].default else "normal")
        for row, i in enumerate(order):
            for column, j in enumerate(order):
                number = one.value[i, j]
                if row != column and np.isfinite(number):
                    text = f"{100 * abs(number):.0f}"
                    white = "white" if abs(number) > 0.75 else "#333333"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=white)
        axes.set_title(f"{one.kind}: {one.rows} rows of {one.tasks} tasks", fontsize=9, loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return drawn
