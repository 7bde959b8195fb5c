"""Places of comparable submissions, within budgets of bits.

Source: protocol 2, section 5.

1. A row is a rate–distortion curve: up to four points, each with its bits and the KL of the very codes that
   these bits write down. KL alone lets capacity win, so that places are given within budgets: shares of R₀,
   the bits that transform coding takes to come down to 1 % of the KL of the mean. R₀ belongs to the task;
   rows that state another one are at fault (`verify`), and the median of all is taken.
2. Into each budget a row enters with the point of least KL whose bits it pays for.
3. Places are by KL, and each is a range: 1 + how many are separably better, to n − how many are separably
   worse. All pairs of a budget are compared at once (`board.paired`): with probability 95 % every range of
   the budget holds its row's true place.
4. No place: references, records in which a finer interpretation stands for the model, failed checks, codes
   that are not paid for, other documents than most. Tasks without a public pretrained model – controls,
   compiled and tiny ones – are checks and give no places at all, nor do circuits, whose sizes are no bits.
5. Of trainings that differ in the seed alone (`record.seeds`) the least efficient has the place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from remainder.board.merge import BoardRow, DocumentSums
from remainder.board.paired import separate
from remainder.record.intervals import Bootstrap, Estimate, Ratio
from remainder.record.metrics import CodedPoint
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.record.seeds import trainings
from remainder.report.quantities import number_of
from remainder.task.spec import list_tasks, load_task

__all__ = [
    "BUDGETS",
    "BoardRanking",
    "Budget",
    "Entered",
    "Place",
    "budgets_of",
    "cost_of",
    "difference",
    "dtype_of",
    "further_seeds",
    "gives_places",
    "kl_of",
    "lead_of",
    "rank",
    "size_of",
    "unit_of",
    "unplaced_because",
]

BUDGETS: Mapping[str, float] = {f"1/{part}": 1 / part for part in (32, 16, 8, 4, 2)}
"""Names of the budgets -> shares of R₀."""


class Budget(NamedTuple):
    """Bits that a row may take."""

    name: str
    """A key of `BUDGETS`."""
    bits: float
    """Per token."""


class Entered(NamedTuple):
    """The point of its curve with which a row enters a budget."""

    entry: BoardRow
    point: str
    """The rung: `coded`, `coded-10` …"""
    at: CodedPoint


class Place(NamedTuple):
    """The places that a row may truly have."""

    first: int
    last: int
    of: int
    """How many rows have a place within the budget."""

    @property
    def text(self) -> str:
        """The place as it is shown: "3", or "3–5" where it is open."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"

    @property
    def told(self) -> str:
        """How many rows are separably better and worse, in words."""
        better, worse = self.first - 1, self.of - self.last
        return f"separably worse than {better}, better than {worse} of {self.of - 1} others"


@dataclass(frozen=True)
class BoardRanking:
    """The order within one budget."""

    budget: Budget
    order: tuple[Entered, ...]
    """Rows that have a place, least KL first."""
    places: Mapping[str, Place]
    """Places by `record_id`."""
    apart: Mapping[str, str]
    """Why a row that keeps within the budget has no place all the same, by `record_id`."""

    @property
    def entered(self) -> dict[str, Entered]:
        """Ranked rows by `record_id`."""
        return {one.entry.record.record_id: one for one in self.order}


def gives_places(task: str) -> bool:
    """Whether a task is of a public pretrained model and scores reconstructions; ids are no paths."""
    if task not in list_tasks():
        return False
    found = load_task(task)
    return found.gives_places and found.kind.has_residual


def dtype_of(task: str, tier: str) -> str | None:
    """The dtype in which a tier of a task is measured; None if there is no such tier."""
    found = load_task(task).tiers.get(tier)
    return None if found is None else found.dtype


def cost_of(entry: BoardRow) -> Number:
    """The cost of writing the interpretation down: bits per token; for a circuit, bits once."""
    return number_of(entry.record, "bits_per_token")


def size_of(entry: BoardRow) -> Number:
    """The size that the front weighs against loss: bits per token; for a circuit, edges (or nodes) kept.

    Not the bits of a circuit: to keep everything takes none.
    """
    return number_of(entry.record, "kept") if entry.record.is_of_circuits else cost_of(entry)


def unit_of(entry: BoardRow) -> str:
    """The unit of `size_of`."""
    if not entry.record.is_of_circuits:
        return "bits per token"
    return "nodes kept" if entry.record.keeps_nodes else "edges kept"


def kl_of(entry: BoardRow, by: str) -> Number:
    """KL of a rung, nats per token, by what the table of quantities calls it: `coded`, `raw`, `gaussian`."""
    return number_of(entry.record, f"kl_{by}")


def lead_of(entries: Iterable[BoardRow]) -> str:
    """The KL that a table is ordered by: `coded` where any row has it, else `raw`."""
    return "coded" if any(kl_of(entry, "coded").value is not None for entry in entries) else "raw"


def unplaced_because(entry: BoardRow) -> str:
    """Why an entry can have no place within any budget; empty if it can."""
    if entry.is_nested:
        return "a finer interpretation stands for the model"
    if entry.is_reference:
        return "a reference: it holds nothing that was trained or found"
    if entry.failed:
        return f"a check failed: {', '.join(entry.failed)}"
    bits = cost_of(entry)
    if bits.value is None:
        return f"its bits are not stated: {bits.reason}"
    return "" if _points(entry) else "it has no curve: its codes were not spliced in"


def budgets_of(entries: Iterable[BoardRow]) -> tuple[Budget, ...]:
    """The budgets of a table; none where no row states R₀."""
    stated = [
        full
        for entry in entries
        if entry.current
        and not entry.failed
        and (coding := entry.record.metrics.coding) is not None
        and (full := coding.full_bits.value) is not None
    ]
    if not stated:
        return ()
    full = median(stated)
    return tuple(Budget(name, share * full) for name, share in BUDGETS.items())


def rank(entries: Iterable[BoardRow], budget: Budget) -> BoardRanking:
    """Places of current entries of one group of records within a budget.

    Args:
        entries: of one `merge.Group`; those that are not current are passed over.
        budget: one of `budgets_of` them.
    """
    within = [
        one
        for entry in entries
        if entry.current and not unplaced_because(entry) and (one := _best(entry, budget)) is not None
    ]
    within.sort(key=lambda one: (one.at.kl.value, one.entry.record.submission.name))
    common = Counter((one.entry.sums.documents, one.entry.sums.tokens.tobytes()) for one in within)
    most = max(common, key=lambda key: (common[key], len(key[0]), key)) if common else None
    order, apart = [], {}
    further = further_seeds([one.entry for one in within])
    for one in within:
        if one.entry.record.record_id in further:
            apart[one.entry.record.record_id] = further[one.entry.record.record_id]
        elif (one.entry.sums.documents, one.entry.sums.tokens.tobytes()) == most:
            order.append(one)
        else:
            apart[one.entry.record.record_id] = "it was measured on other documents than most"
    return BoardRanking(budget, tuple(order), _places(order), apart)


def further_seeds(entries: Sequence[BoardRow]) -> dict[str, str]:
    """Why trainings of one method have no place of their own, by `record_id`: the least efficient has it."""
    found: dict[str, str] = {}
    for stem, some in trainings(entry.record for entry in entries).items():
        worst = min(some, key=lambda record: (_efficiency(record), record.submission.name))
        why = f"of the {len(some)} seeds of {stem} the least efficient counts, {worst.submission.name}"
        found |= {record.record_id: why for record in some if record is not worst}
    return found


def _efficiency(record: Record) -> float:
    value = number_of(record, "efficiency").value
    return -math.inf if value is None else value


def difference(entry: BoardRow, other: BoardRow, by: str) -> Estimate:
    """KL of `entry` less that of `other`, paired on their common documents; nats per token.

    Documents of which they scored another number of tokens are no common ones.
    """
    first, second = entry.sums, other.sums
    if by not in first.kl or by not in second.kl:
        return Estimate(None, None, None, f"no per-document KL, {by}")
    mine, theirs = _common(first, second)
    if not mine.size:
        return Estimate(None, None, None, "no document in common")
    tokens = first.tokens[mine]
    bootstrap = Bootstrap(len(tokens), seed=other.record.measurement.seed)
    # Both have these tokens below them: the difference of the two ratios is one ratio.
    return bootstrap.estimate(Ratio(first.kl[by][mine] - second.kl[by][theirs], tokens))


def _points(entry: BoardRow) -> dict[str, CodedPoint]:
    """Points of the curve that have bits and KL, in the record and by document."""
    coding = entry.record.metrics.coding
    points = {} if coding is None else coding.points
    return {
        name: point
        for name, point in points.items()
        if point.bits.value is not None and point.kl.value is not None and name in entry.sums.kl
    }


def _best(entry: BoardRow, budget: Budget) -> Entered | None:
    """The point of least KL whose bits are within the budget; of equals the cheaper one."""
    found = [
        (point.kl.value, point.bits.value, name, point)
        for name, point in _points(entry).items()
        if point.bits.value is not None and point.bits.value <= budget.bits
    ]
    if not found:
        return None
    _, _, name, point = min(found, key=lambda one: one[:3])
    return Entered(entry, name, point)


def _places(order: Sequence[Entered]) -> dict[str, Place]:
    if not order:
        return {}
    sums = np.stack([one.entry.sums.kl[one.point] for one in order])
    first = order[0].entry
    better = separate(sums, first.sums.tokens, seed=first.record.measurement.seed).better
    return {
        one.entry.record.record_id: Place(
            1 + int(better[:, number].sum()), len(order) - int(better[number].sum()), len(order)
        )
        for number, one in enumerate(order)
    }


def _common(first: DocumentSums, second: DocumentSums) -> tuple[np.ndarray, np.ndarray]:
    """Positions in either of the documents that both scored the same tokens of."""
    if first.documents == second.documents:
        mine = theirs = np.arange(len(first.documents))
    else:
        _, mine, theirs = np.intersect1d(first.documents, second.documents, return_indices=True)
    same = first.tokens[mine] == second.tokens[theirs]
    return mine[same], theirs[same]
