"""Methods over tasks: mean efficiency at the +1 % point, of those with results on enough real sites.

1. A task counts if it gives places, in the newest N of its version; of several tiers the record of most
   scored tokens. A row in another dtype than its tier's, or on other documents than most, does not count.
   Each task weighs the same. Tasks are shown one by one and are no sample of anything:
   they are not resampled, and there is no mean rank, which depends on who else took part.
2. The interval is over documents, put together from those of the tasks (MOVER: Zou and Donner, Statistics in
   Medicine 27, 2008): with e_t the efficiency and l_t the lower end, the mean's lower end lies
   √(Σ_c (Σ_{t in c} e_t − l_t)²) / T below it, the upper one alike. Tasks of different texts are independent
   and their variances add. Tasks that share documents, as sites of one model do, form one cluster c: their
   errors go together in an unknown measure, and the sum of their lengths is the most that they can make up.
3. A method is known by the `family` that its submissions state, and else by their name: one name stands for
   one content, so that what is trained for a site has a name of its own at each. Of several of one family on
   a task the least efficient counts, so that nothing is gained by trying more of them.

Source: protocol 2, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from remainder.board.merge import BoardRow
from remainder.board.rank import Place, dtype_of, unplaced_because
from remainder.board.view import Board
from remainder.record.number import Number
from remainder.report.quantities import number_of

__all__ = ["LEAST", "Method", "Overall", "Scored", "overall", "scored_of"]

LEAST = 3
"""Tasks that a method must have results on."""


class Scored(NamedTuple):
    """The efficiency of a row on one task."""

    method: str
    task: str
    page: str
    """The page of the task."""
    record_id: str
    tokens: int
    documents: frozenset[str]
    efficiency: Number
    runs_code: bool = False
    """Whether code of its own encodes and decodes."""
    net_bits: Number = Number.null("it was not asked for")
    """Bits a token that its codes save, beside a Gaussian of x."""
    places: tuple[tuple[str, Place], ...] = ()
    """The places on the task, with the name of the budget of each."""


class Method(NamedTuple):
    """A method over all of its tasks."""

    name: str
    mean: Number
    by_task: dict[str, Scored]
    net_bits: Number = Number.null("it was not asked for")
    """Mean over those of its tasks that have it, each weighted once."""

    @property
    def places(self) -> list[tuple[str, str, Place]]:
        """The places on all of its tasks: task, name of the budget, place."""
        return [(task, *held) for task, one in self.by_task.items() for held in one.places]

    @property
    def firsts(self) -> int:
        """The number of budgets of its tasks in which it may be the first."""
        return sum(place.first == 1 for _, _, place in self.places)

    @property
    def ties(self) -> int:
        """The number of budgets in which its place is shared: some other row is not told from it."""
        return sum(place.first != place.last for _, _, place in self.places)

    @property
    def runs_code(self) -> bool:
        """Whether it brought code of its own on any of its tasks."""
        return any(one.runs_code for one in self.by_task.values())


class Overall(NamedTuple):
    """Methods with enough results, best first, and what there is besides."""

    tasks: tuple[str, ...]
    """Ids of the tasks that any of the methods has a result on."""
    methods: tuple[Method, ...]
    others: tuple[Method, ...]
    """Methods with results on fewer tasks, whose mean is no result over tasks; the most efficient first."""

    @property
    def started(self) -> int:
        """How many methods have results on fewer tasks."""
        return len(self.others)


def scored_of(board: Board, page: str) -> list[Scored]:
    """Rows of a table that count, if its task gives places and the table is in the dtype of its tier."""
    if not board.places or board.group.dtype != dtype_of(board.group.task, board.group.tier):
        return []
    apart = {name for ranking in board.rankings for name in ranking.apart}
    return [
        Scored(
            entry.record.submission.method_name,
            board.group.task,
            page,
            entry.record.record_id,
            entry.record.documents.tokens,
            frozenset(entry.sums.documents),
            efficiency,
            entry.record.submission.runs_code,
            number_of(entry.record, "net_bits"),
            tuple((name, place) for name, place in row.places.items() if place is not None),
        )
        for row, entry in ((row, row.entry) for row in board.rows)
        if entry.record.record_id not in apart and (efficiency := _efficiency(entry)).value is not None
    ]


def _efficiency(entry: BoardRow) -> Number:
    why = unplaced_because(entry)
    return Number.null(why) if why else number_of(entry.record, "efficiency")


def overall(rows: Iterable[Scored]) -> Overall:
    """Methods by their mean efficiency."""
    by_method: dict[str, dict[str, Scored]] = {}
    for row in rows:
        found = by_method.setdefault(row.method, {})
        before = found.get(row.task)
        if before is None or _weight(row) > _weight(before):
            found[row.task] = row
    every = [_method(name, found) for name, found in by_method.items()]
    every.sort(key=lambda one: (-(one.mean.value or 0.0), one.name))
    methods = [one for one in every if len(one.by_task) >= LEAST]
    others = [one for one in every if len(one.by_task) < LEAST]
    tasks = sorted({task for one in methods for task in one.by_task})
    return Overall(tuple(tasks), tuple(methods), tuple(others))


def _method(name: str, found: dict[str, Scored]) -> Method:
    rows = list(found.values())
    saving = [row._replace(efficiency=row.net_bits) for row in rows if row.net_bits.value is not None]
    net = mean_of(saving) if saving else Number.null("none of its records has it")
    return Method(name, mean_of(rows), found, net)


def _weight(row: Scored) -> tuple[int, float, str]:
    """The larger, the more a row counts among those of one method on one task."""
    return row.tokens, -(row.efficiency.value or 0.0), row.record_id


def mean_of(rows: Sequence[Scored]) -> Number:
    """The mean over tasks with its interval over documents; step 2."""
    numbers = [row.efficiency for row in rows]
    values = [number.value for number in numbers if number.value is not None]
    mean = sum(values) / len(values)
    if missing := next((row for row in rows if row.efficiency.low is None), None):
        return Number.bare(mean, f"on {missing.task} there is no interval: {missing.efficiency.reason}")
    below = above = 0.0
    for cluster in _clusters(rows):
        ends = [row.efficiency for row in cluster]
        below += sum((one.value or 0.0) - (one.low or 0.0) for one in ends) ** 2
        above += sum((one.high or 0.0) - (one.value or 0.0) for one in ends) ** 2
    count = len(values)
    return Number(value=mean, low=mean - math.sqrt(below) / count, high=mean + math.sqrt(above) / count)


def _clusters(rows: Sequence[Scored]) -> list[list[Scored]]:
    """Rows that share documents, directly or by others."""
    found: list[tuple[set[str], list[Scored]]] = []
    for row in rows:
        meeting = [one for one in found if not one[0].isdisjoint(row.documents)]
        documents = set(row.documents).union(*(one[0] for one in meeting))
        members = [row, *(member for one in meeting for member in one[1])]
        found = [one for one in found if one not in meeting] + [(documents, members)]
    return [members for _, members in found]
