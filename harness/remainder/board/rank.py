"""Places and tie groups of comparable submissions.

Source: protocol 1, section 2: gaps are signed, so that the order is by KL, raw and Gaussian.

1. Submissions are ordered by KL to the clean model, smallest first. Only those are ranked whose complexity is
   stated and whose checks passed: no score without its complexity. Reference rows stand beside, in no place.
2. The first of the order leads a tie group. Each that follows is compared with the leader of the group,
   paired on the documents that both measured (`intervals.Bootstrap`, studentised, over documents). While the
   95 % interval of the difference holds 0 it belongs to the group; the first for which it does not leads the
   next.
3. All of a group share its places: "2–5".

Why not join all neighbours that cannot be told apart: with many submissions every neighbour is close to the
next, so that chains would put into one group what is clearly apart. Here whatever shares a group is not
separable from its best, and the leaders of consecutive groups are separable. The price: the last of a group
and the first of the next may not be separable from each other, which the page says.

Multiple comparisons: n submissions take n − 1 comparisons in each order, every one at 95 %. They are not
adjusted: with B resamples no p-value falls below 1 / (B + 1), so that Holm's step would separate nothing in a
long table. `Ranking.comparisons` is stated instead, with how many of them separate equals by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from remainder.board.merge import RUNGS, BoardRow, DocumentSums
from remainder.record.intervals import LEVEL, Bootstrap, Estimate, Ratio
from remainder.record.number import Number
from remainder.report.quantities import number_of

__all__ = [
    "BoardRanking",
    "TiedRank",
    "cost_of",
    "difference",
    "kl_of",
    "rank",
    "size_of",
    "unit_of",
    "unranked_because",
]


@dataclass(frozen=True)
class TiedRank:
    """The places that the tie group of a submission takes."""

    first: int
    last: int
    group: int
    """Number of the tie group, from 0."""
    leader: str
    """`record_id` of the best of the group."""
    difference: Estimate | None
    """KL less that of the leader, paired; nats per token. None for the leader itself."""

    @property
    def text(self) -> str:
        """The place as it is shown: "3", or "3–5" for a tie."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True)
class BoardRanking:
    """The order of comparable entries by one KL."""

    by: str
    """A key of `merge.RUNGS`."""
    order: tuple[BoardRow, ...]
    """Ranked ones, best first."""
    places: dict[str, TiedRank]
    """Places by `record_id`."""

    @property
    def comparisons(self) -> int:
        """Paired comparisons that were made."""
        return max(len(self.order) - 1, 0)

    @property
    def by_chance(self) -> float:
        """How many of the comparisons would separate equals, on average."""
        return self.comparisons * (1 - LEVEL)


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
    """KL of the rung that a ranking is by, nats per token."""
    return number_of(entry.record, f"kl_{by}")


def unranked_because(entry: BoardRow, by: str) -> str:
    """Why an entry has no place; empty if it has one."""
    if entry.is_nested:
        return "a finer interpretation stands for the model"
    if entry.is_reference:
        return "a reference: it holds nothing that was trained or found"
    if entry.failed:
        return f"a check failed: {', '.join(entry.failed)}"
    bits = cost_of(entry)
    if bits.value is None:
        return f"its complexity is not stated: {bits.reason}"
    kl = kl_of(entry, by)
    return "" if kl.value is not None else str(kl.reason)


def rank(entries: Iterable[BoardRow], by: str) -> BoardRanking:
    """Places of current entries of one group of records.

    Args:
        entries: of one `merge.Group`; those that are not current are passed over.
        by: a key of `merge.RUNGS`.
    """
    ranked = [entry for entry in entries if entry.current and not unranked_because(entry, by)]
    order = sorted(ranked, key=lambda entry: (kl_of(entry, by).value, entry.record.submission.name))
    teams: list[list[tuple[BoardRow, Estimate | None]]] = []
    for entry in order:
        apart = difference(entry, teams[-1][0][0], by) if teams else None
        if apart is None or apart.excludes_zero():
            teams.append([(entry, None)])
        else:
            teams[-1].append((entry, apart))
    return BoardRanking(by, tuple(order), _places(teams))


def difference(entry: BoardRow, other: BoardRow, by: str) -> Estimate:
    """KL of `entry` less that of `other`, paired on their common documents; nats per token.

    Documents of which they scored another number of tokens are no common ones.
    """
    first, second = entry.sums, other.sums
    if by not in first.kl or by not in second.kl:
        return Estimate(None, None, None, f"no per-document KL of rung {RUNGS[by]}")
    mine, theirs = _common(first, second)
    if not mine.size:
        return Estimate(None, None, None, "no document in common")
    tokens = first.tokens[mine]
    bootstrap = _bootstrap(len(tokens), other.record.measurement.seed)
    # Both have these tokens below them: the difference of the two ratios is one ratio.
    return bootstrap.estimate(Ratio(first.kl[by][mine] - second.kl[by][theirs], tokens))


def _common(first: DocumentSums, second: DocumentSums) -> tuple[np.ndarray, np.ndarray]:
    """Positions in either of the documents that both scored the same tokens of."""
    if first.documents == second.documents:
        mine = theirs = np.arange(len(first.documents))
    else:
        _, mine, theirs = np.intersect1d(first.documents, second.documents, return_indices=True)
    same = first.tokens[mine] == second.tokens[theirs]
    return mine[same], theirs[same]


@lru_cache(maxsize=8)
def _bootstrap(documents: int, seed: int) -> Bootstrap:
    """Resamples, made once for all comparisons of a table."""
    return Bootstrap(documents, seed=seed)


def _places(teams: Sequence[Sequence[tuple[BoardRow, Estimate | None]]]) -> dict[str, TiedRank]:
    places, first = {}, 1
    for number, team in enumerate(teams):
        last = first + len(team) - 1
        leader = team[0][0].record.record_id
        for entry, apart in team:
            places[entry.record.record_id] = TiedRank(first, last, number, leader, apart)
        first = last + 1
    return places
