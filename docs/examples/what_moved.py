"""Write docs/what-moved.md: the records of protocol 1 against those of protocol 2, row by row.

    python docs/examples/what_moved.py [--before DIR] [--after DIR]

Rows are paired by task and submission. A number moved if its new value lies outside of its old interval, or
its old value outside of its new one, and they differ by more than 1e-8. What stands between `<!-- NAME -->`
and `<!-- end -->` is written here; run it again after records were added.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from remainder.errors import RecordError
from remainder.record.schema import Record
from remainder.report.quantities import number_of
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "leaderboard" / "archive" / "1" / "results"
AFTER = ROOT / "leaderboard" / "results"
PAGE = ROOT / "docs" / "what-moved.md"

COMPARED = {
    "kl_raw": "KL raw",
    "kl_gaussian": "KL Gaussian",
    "gap_raw": "Δ raw",
    "gap_gaussian": "Δ Gaussian",
    "gaussian_ratio": "ρ",
    "explained_variance": "explained variance",
    "bits_per_token": "bits",
    "faithfulness": "f",
}
"""Keys of `report.quantities` that both protocols have, and their names here."""

ROUNDING = 1e-8
"""Differences up to this are none: a KL below it is 0 in protocol 2."""

SHOWN = 40
"""Most rows of the list of those that moved."""

Key = tuple[str, str, str]
"""Task, submission, and the finer one that stood in for the model, if any."""


class Change(NamedTuple):
    """A number of a row before and after."""

    key: Key
    before: float
    after: float
    moved: bool | None
    """Whether one of the values lies outside of the other's interval; None without any interval."""

    @property
    def relative(self) -> float:
        """The size of the change over the old size; 0 where both are 0."""
        return (
            0.0 if self.before == self.after else abs(self.after - self.before) / max(abs(self.before), 1e-12)
        )


def read(folder: Path) -> dict[Key, Record]:
    """The fullest record of each submission below a folder.

    Raises:
        RecordError: there is none.
    """
    records = [words.summary(place) for place in sorted({path.parent for path in folder.rglob("*.json")})]
    if not records:
        raise RecordError(f"{folder}: holds no record", fix="give a folder of results")
    return {(r.task.id, r.submission.name, r.reference.name if r.reference else ""): r for r in records}


def changes(before: Mapping[Key, Record], after: Mapping[Key, Record], quantity: str) -> list[Change]:
    """Rows that have the number on both sides."""
    found = []
    for key in sorted(before.keys() & after.keys()):
        old, new = number_of(before[key], quantity), number_of(after[key], quantity)
        if old.value is not None and new.value is not None:
            sides = [words.side(number) for number in (old, new)]
            judged = [
                not number.low <= value <= number.high
                for number, value, where in ((old, new.value, sides[0]), (new, old.value, sides[1]))
                if where != "missing"
            ]
            apart = abs(new.value - old.value) > ROUNDING
            found.append(Change(key, old.value, new.value, apart and any(judged) if judged else None))
    return found


def coverage(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> str:
    """How many rows of each suite are in both, in the first alone, and in the second alone."""

    def suite(key: Key) -> str:
        return key[0].partition("/")[0]

    suites = sorted({suite(key) for key in (*before, *after)})
    sets = (before.keys() & after.keys(), before.keys() - after.keys(), after.keys() - before.keys())
    cells = [[name, *(str(sum(suite(key) == name for key in keys)) for keys in sets)] for name in suites]
    cells.append(["all", *(str(len(keys)) for keys in sets)])
    table = words.table(("suite", "in both", "protocol 1 alone", "protocol 2 alone"), cells, Notes())
    dropped: dict[str, list[str]] = {}
    for task, name, finer in sorted(sets[1]):
        dropped.setdefault(task, []).append(f"`{name}`" + (f" against `{finer}`" if finer else ""))
    gone = [f"Of {task} by protocol 1 alone: {', '.join(names)}." for task, names in dropped.items()]
    return str(words.stacked(table, words.bullets(gone)))


def sizes(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> str:
    """By quantity: how many rows have it twice, how far it moved, and how many moved."""
    cells = []
    for quantity, name in COMPARED.items():
        found = changes(before, after, quantity)
        if not found:
            continue
        judged = [change for change in found if change.moved is not None]
        largest = max(found, key=lambda change: abs(change.after - change.before))
        relative = statistics.median(change.relative for change in found)
        cells.append(
            [
                name,
                str(len(found)),
                f"{100 * relative:.2g} %",
                f"{sum(bool(change.moved) for change in judged)} of {len(judged)}",
                f"{largest.key[0]}, `{largest.key[1]}`",
                f"{format_value(largest.before)} → {format_value(largest.after)}",
            ]
        )
    headings = (
        "quantity",
        "rows",
        "median change",
        "moved beyond an interval",
        "largest change",
        "from → to",
    )
    return str(words.table(headings, cells, Notes()))


def orders(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> str:
    """Pairs of rows of one task whose order by KL was reversed."""
    said = []
    for quantity in ("kl_raw", "kl_gaussian"):
        found = changes(before, after, quantity)
        pairs = [
            (one, other)
            for _, group in itertools.groupby(found, key=lambda change: change.key[0])
            for one, other in itertools.combinations(list(group), 2)
        ]
        reversed_ = [
            (one, other)
            for one, other in pairs
            if (one.before - other.before) * (one.after - other.after) < 0
        ]
        many = words.count(len(reversed_), len(pairs), "pair")
        sentence = f"By {COMPARED[quantity]}, {many} of rows of a task changed their order"
        listed = "; ".join(f"{a.key[0]}: `{a.key[1]}` and `{b.key[1]}`" for a, b in reversed_[:10])
        rest = f"; and {len(reversed_) - 10} more" if len(reversed_) > 10 else ""
        said.append(sentence + (f" ({listed}{rest})." if listed else "."))
    return str(words.bullets(said))


def moved(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> str:
    """Rows whose raw or Gaussian KL moved beyond an interval, farthest first."""
    far: dict[Key, float] = {}
    for quantity in ("kl_raw", "kl_gaussian"):
        for change in changes(before, after, quantity):
            if change.moved:
                far[change.key] = max(far.get(change.key, 0.0), change.relative)
    ordered = sorted(far, key=lambda key: (-far[key], key))
    cells = []
    for key in ordered[:SHOWN]:
        numbers = [
            in_words(number_of(records[key], quantity), bare="")
            for quantity in ("kl_raw", "kl_gaussian")
            for records in (before, after)
        ]
        cells.append([key[0], f"`{key[1]}`", *numbers])
    headings = ("task", "submission", "KL raw, 1", "KL raw, 2", "KL Gaussian, 1", "KL Gaussian, 2")
    said = f"{len(far)} rows moved beyond an interval in raw or Gaussian KL"
    said += f"; the {SHOWN} with the largest relative change:" if len(far) > SHOWN else ":"
    return f"{said}\n\n{words.table(headings, cells, Notes())}" if far else "No row moved beyond an interval."


def blocks(before: Mapping[Key, Record], after: Mapping[Key, Record]) -> dict[str, str]:
    """Every block of the page by its name."""
    return {
        "coverage": coverage(before, after),
        "sizes": sizes(before, after),
        "orders": orders(before, after),
        "moved": moved(before, after),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the page on what moved between two protocols.")
    parser.add_argument("--before", type=Path, default=BEFORE, help="folder of records of protocol 1")
    parser.add_argument("--after", type=Path, default=AFTER, help="folder of records of protocol 2")
    given = parser.parse_args(arguments)
    page = words.filled(PAGE.read_text(encoding="utf-8"), blocks(read(given.before), read(given.after)))
    PAGE.write_text(page, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except RecordError as problem:
        raise SystemExit(f"what moved: {problem}") from None
