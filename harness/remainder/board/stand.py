"""The places that rows would have on the board, told to whoever has just measured them.

1. Only where the board gives places (`board.rank`), and its records are at hand: in a checkout.
2. The board's rows of the same task, number of its version, tier (of a part: the tier that it is a part of)
   and dtype. A row that was just measured takes the place of the board's row of the same name.
3. Rows are compared on the documents that all of them scored, with the same tokens. A part of a tier has
   fewer, so that its places are wider; it has calibrated on less, which the sentence above the table says.
4. Places within every budget, as on the board: the same budgets, the same separation of all pairs at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.table import Column
from rich.text import Text

from remainder.base.wrapping import fill
from remainder.board.merge import BoardRow, DocumentSums, document_sums, folders_of_tasks, read_entries
from remainder.board.rank import BoardRanking, Budget, Place, budgets_of, gives_places, rank, unplaced_because
from remainder.record.part import part_of
from remainder.record.schema import Record
from remainder.record.values import values_to_csv
from remainder.report.layout import WIDTH
from remainder.report.text import MISSING, draw, ruled_table
from remainder.task.spec import DEMO

__all__ = ["Standing", "Stood", "board_tier", "render_standing", "stand"]

_OF_A_FIRST_LOOK = "quick"


class Stood(NamedTuple):
    """A place within a budget."""

    at: int
    """The place by KL alone, 1 for the least."""
    place: Place
    """The places that it may truly have."""


class Standing(NamedTuple):
    """Places of rows among those of the board."""

    record: Record
    """One of the rows; all have its task, tier, dtype and documents."""
    documents: int
    """How many documents all rows have scored."""
    budgets: tuple[Budget, ...]
    places: Mapping[str, tuple[Stood | None, ...]]
    """The place within each budget by name, None where no point of the row's curve is that cheap."""
    unplaced: Mapping[str, str]
    """Why a row has no place within any budget, by name."""


def stand(rows: Sequence[tuple[Record, pd.DataFrame]], results: Path) -> Standing | None:
    """Place rows among the records below `results`; None if there is nothing to stand among.

    Args:
        rows: records with their per-document values, of one plan on one task.

    Raises:
        RecordError: the order of the records, or the list of those withdrawn, is damaged.
    """
    if not rows or not results.is_dir():
        return None
    first = rows[0][0]
    if not gives_places(first.task.id):
        return None
    own = [
        BoardRow(record, "", document_sums(values_to_csv(values).decode(), record.submission.name))
        for record, values in rows
    ]
    group = own[0].group._replace(tier=board_tier(first))
    entries, _ = read_entries(results, folders_of_tasks(results).get(first.task.id, []))
    names = {row.record.submission.name for row in own}
    peers = [
        entry
        for entry in entries
        if entry.group == group
        and entry.current
        and not unplaced_because(entry)
        and entry.record.submission.name not in names
    ]
    budgets = budgets_of(entry for entry in entries if entry.group == group)
    if not peers or not budgets:
        return None
    alike = _on_common_documents([*own, *peers])
    if alike is None:
        return None
    unplaced = {row.record.submission.name: why for row in own if (why := unplaced_because(row))}
    rankings = [rank(alike, budget) for budget in budgets]
    places = {
        row.record.submission.name: tuple(_stood(one, row.record.record_id) for one in rankings)
        for row in own
        if row.record.submission.name not in unplaced
    }
    return Standing(first, len(alike[0].sums.documents), budgets, places, unplaced)


def render_standing(found: Standing) -> str:
    """The places as a table of at most 80 columns, with a sentence above and below it."""
    whole = part_of(found.record.tier) is None
    title = (
        f"Where {'it' if len(found.places) == 1 else 'they'} would stand on the board, "
        f"{found.record.task.id}, tier {board_tier(found.record)}, by {found.documents} documents"
        + ("" if whole else " (a first look, calibrated on less text)")
    )
    table = ruled_table([Column("Place")], [f"≤ {budget.bits:.0f} bits" for budget in found.budgets])
    for name, places in found.places.items():
        table.add_row(name, *map(_cell, places))
    below = [f"{name}: no place: {why}." for name, why in found.unplaced.items()]
    below.append(
        "Place: by KL, among the rows that keep within so many bits per token. Brackets: places that these "
        "documents leave open, 95 % for all rows together."
    )
    shown = draw([table]) + "\n" if found.places else ""
    return "\n".join([fill(title, WIDTH), "", shown + "\n".join(fill(line, WIDTH) for line in below)]) + "\n"


def _cell(stood: Stood | None) -> Text:
    if stood is None:
        return Text(MISSING)
    one = stood.place
    return Text.assemble((f"{stood.at} of {one.of}", "bold"), "\n", (f"[{one.text}]", "dim"))


def _stood(ranking: BoardRanking, name: str) -> Stood | None:
    place = ranking.places.get(name)
    if place is None:
        return None
    return Stood([one.entry.record.record_id for one in ranking.order].index(name) + 1, place)


def board_tier(record: Record) -> str:
    """The board's tier that a record is of, or of a part of."""
    part = part_of(record.tier)
    if part is None:
        return record.tier
    return _OF_A_FIRST_LOOK if part.tier == DEMO else part.tier


def _on_common_documents(rows: Sequence[BoardRow]) -> list[BoardRow] | None:
    """The rows with sums over the documents of which all scored the same tokens; None if there is none."""
    counts = [dict(zip(row.sums.documents, row.sums.tokens, strict=True)) for row in rows]
    common = sorted(name for name in counts[0] if all(count.get(name) == counts[0][name] for count in counts))
    if not common:
        return None
    return [replace(row, sums=_of(row.sums, common)) for row in rows]


def _of(sums: DocumentSums, documents: Sequence[str]) -> DocumentSums:
    chosen = np.searchsorted(sums.documents, documents)
    return DocumentSums(
        tuple(documents), sums.tokens[chosen], {name: kl[chosen] for name, kl in sums.kl.items()}
    )
