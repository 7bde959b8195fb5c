"""Pairs of trained dictionaries at a site: which of two is better, by the raw score and by others.

A score decides a pair where the interval of the paired difference, on the same documents, leaves out 0.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from remainder.record.find import fullest_record
from remainder.record.intervals import Bootstrap, Ratio
from remainder.record.store import StoredRecord, read_record
from remainder.record.values import Totals, canonical_values, document_totals
from remainder.report.quantities import quantity
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_protocol_1 as protocol_1
    import findings_words as words
else:
    protocol_1, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py")) for name in ("protocol_1", "words")
    )

RAW, GAUSSIAN = "kl_raw", "kl_gaussian"


class Pair(NamedTuple):
    """Two rows, and which of them each score says is better: −1 the first, 1 the second, 0 it cannot say."""

    first: str
    second: str
    raw: int
    gaussian: int
    efficiency: int


def dictionaries(folder: Path) -> list[StoredRecord]:
    """The fullest record of each trained dictionary below the folder of a task."""
    paths = [fullest_record(place) for place in sorted(folder.glob("*/*")) if place.is_dir()]
    return [stored for path in paths if protocol_1.is_sparse((stored := read_record(path)).record)]


def pairs(stored: Sequence[StoredRecord]) -> list[Pair]:
    """All pairs of these records, which are of one task and the same documents."""
    totals = [document_totals(canonical_values(one.values)) for one in stored]
    found = []
    for (one, sums), (other, others) in itertools.combinations(zip(stored, totals, strict=True), 2):
        bootstrap = Bootstrap(len(sums["clean"]), seed=one.record.measurement.seed)
        found.append(
            Pair(
                one.record.submission.name,
                other.record.submission.name,
                *(_better(bootstrap, sums, others, key) for key in (RAW, GAUSSIAN)),
                _more_efficient(one, other),
            )
        )
    return found


def _better(bootstrap: Bootstrap, one: Totals, other: Totals, key: str) -> int:
    """Which has less, by the paired difference."""
    entry = quantity(key)
    assert entry is not None
    assert entry.of_totals is not None
    first, second = entry.of_totals(one), entry.of_totals(other)
    assert isinstance(first, Ratio)
    assert isinstance(second, Ratio)
    estimate = bootstrap.difference(second, first)
    if not estimate.excludes_zero():
        return 0
    return 1 if estimate.value < 0 else -1


def _more_efficient(one: StoredRecord, other: StoredRecord) -> int:
    """Which has more efficiency, where both intervals are apart."""
    first, second = (words.quantity("efficiency")(stored.record) for stored in (one, other))
    assert first is not None
    assert second is not None
    if None in (first.low, first.high, second.low, second.high):
        return 0
    return 1 if second.low > first.high else -1 if second.high < first.low else 0  # type: ignore[operator]


def decisions(results: Path, task: str) -> str:
    """A paragraph on the pairs of a task: what the raw score decides, and who says otherwise."""
    stored = dictionaries(results / task)
    found = pairs(stored)
    decided = [pair for pair in found if pair.raw]
    turned = [pair for pair in decided if pair.gaussian == -pair.raw]
    lost = [pair for pair in decided if not pair.gaussian]
    won = [pair for pair in found if pair.gaussian and not pair.raw]
    cheaper = [pair for pair in decided if pair.efficiency == -pair.raw]
    sentences = (
        f"Of the {len(found)} pairs of trained dictionaries at {task}, raw KL decides {len(decided)}: "
        "the interval of the paired difference leaves out 0.",
        f"The Gaussian KL turns {_of(turned, len(decided))} of them round, leaves "
        f"{_of(lost, len(decided))} open, and decides {len(won)} that raw KL leaves open{_list(won)}.",
        f"Efficiency turns {_of(cheaper, len(decided))} round, by intervals that are apart"
        f"{_widest(cheaper, stored)}.",
    )
    return textwrap.fill(" ".join(sentences), words.WIDTH, break_long_words=False, break_on_hyphens=False)


def _of(some: Sequence[Pair], total: int) -> str:
    return "none" if not some else f"all {total}" if len(some) == total else str(len(some))


def _list(some: Sequence[Pair]) -> str:
    """The pairs by name, the better one first."""
    if not some:
        return ""
    ordered = [(pair.first, pair.second)[:: -pair.gaussian] for pair in some]
    return " (" + ", ".join(f"`{better}` over `{worse}`" for better, worse in ordered) + ")"


def _widest(some: Sequence[Pair], stored: Sequence[StoredRecord]) -> str:
    """The pair that is furthest apart in efficiency."""
    if not some:
        return ""
    value = {one.record.submission.name: words.quantity("efficiency")(one.record) for one in stored}
    at = {name: number.value for name, number in value.items() if number and number.value is not None}
    pair = max(some, key=lambda pair: abs(at[pair.first] - at[pair.second]))
    better, worse = (pair.first, pair.second)[:: -pair.efficiency]
    numbers = f"{at[worse]:.2f} to its {at[better]:.2f}".replace("-", "−")
    return f": `{worse}` has less KL than `{better}`, and an efficiency of {numbers}"
