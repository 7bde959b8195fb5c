"""Words on numbers of records: lists of rows by where their intervals lie, tables, and paragraphs.

A sentence that states a sign or an order is made here from the numbers, never written by hand.
"""

from __future__ import annotations

import functools
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from scipy.stats import t as student

from remainder.record.find import fullest_record
from remainder.record.number import Number
from remainder.record.rungs import CODED
from remainder.record.schema import Record
from remainder.record.store import read_summary
from remainder.report.quantities import number_of
from remainder.report.text import Notes, written_table

Of = Callable[[Record], Number | None]
"""A number of a record; None where it was not measured."""
Side = Literal["below", "within", "above", "open", "missing"]

SIGNS: dict[Side, str] = {
    "above": "Above 0",
    "below": "Below 0",
    "open": "Not told from 0",
    "within": "Exactly 0",
}

WIDTH = 130
_MANY = 3
"""All of more rows than this are not named one by one."""


@functools.cache
def summary(folder: Path) -> Record:
    """The fullest record of a folder, read once however many pages ask for it."""
    paths = list(folder.glob("*.json"))
    return read_summary(paths[0] if len(paths) == 1 else fullest_record(folder))


def every(results: Path) -> list[Record]:
    """The fullest record of every submission below a folder of results, by task and name."""
    return [summary(folder) for folder in sorted({path.parent for path in results.rglob("*.json")})]


def suite(record: Record) -> str:
    """The suite of its task."""
    return record.task.id.partition("/")[0]


def site(record: Record) -> str:
    """The name of its task within the suite."""
    return record.task.id.partition("/")[2]


def is_text(record: Record) -> bool:
    """Whether it is of a site of a language model."""
    own = suite(record) == "tiny" and site(record).startswith("wiki")
    return not record.is_of_circuits and (own or suite(record) not in ("tiny", "tracr", "controls"))


def format_of(record: Record) -> str:
    """The format of its submission; empty where the record does not name one."""
    return str(record.submission.format)


def is_dictionary(record: Record) -> bool:
    """Whether it is a trained dictionary: a sparse autoencoder or a transcoder."""
    return format_of(record) in (
        "saelens",
        "dictionary-learning",
        "sparsify",
        "circuit-tracer",
        "gemma-scope",
    )


def is_bound(record: Record) -> bool:
    """Whether it keeps everything or nothing, and so is the end of every scale."""
    return format_of(record) in ("identity", "mean", "empty-graph", "full-graph")


def joint(number: Number | None, many: int, documents: int) -> Number | None:
    """The number with an interval that holds together with those of `many` tests (Bonferroni, 95 %).

    Half-widths grow as the quantile of Student's law with one degree of freedom fewer than documents does.
    """
    if number is None or number.value is None or number.low is None or number.high is None:
        return number
    wider = _quantile(many, documents - 1) / _quantile(1, documents - 1)
    low, high = (number.value + (end - number.value) * wider for end in (number.low, number.high))
    return number.model_copy(update={"low": low, "high": high})


@functools.cache
def _quantile(tests: int, degrees: int) -> float:
    return float(student.ppf(1 - 0.025 / tests, degrees))


def jointly(records: Sequence[Record], of: Of, tests: int = 1) -> list[tuple[Record, Number]]:
    """The number of each record that has one with an interval; all intervals hold together.

    Args:
        tests: numbers of each record that the same claim is made of.
    """
    having = [(record, found) for record in records if (found := of(record)) and side(found) != "missing"]
    many = tests * len(having)
    wide = ((record, joint(found, many, record.documents.documents)) for record, found in having)
    return [(record, number) for record, number in wide if number is not None]


def sides(
    numbers: Iterable[tuple[Record, Number]], low: float = 0.0, high: float = 0.0
) -> dict[Side, list[Record]]:
    """Records by the place of their interval."""
    placed: dict[Side, list[Record]] = {}
    for record, number in numbers:
        placed.setdefault(side(number, low, high), []).append(record)
    return placed


def among(record: Record, records: Iterable[Record]) -> bool:
    """Whether it is one of these very records; by what they hold, two are compared for long."""
    return any(record is other for other in records)


def few(records: Sequence[Record]) -> str:
    """Up to four rows by name and task, in brackets; empty for none or more."""
    if not 0 < len(records) <= 4:
        return ""
    tasks: dict[str, list[str]] = {}
    for record in records:
        tasks.setdefault(record.task.id, []).append(f"`{record.submission.name}`")
    return " (" + "; ".join(f"{', '.join(names)} at {task}" for task, names in tasks.items()) + ")"


def tasks_of(records: Iterable[Record]) -> list[str]:
    """Their tasks, layers of a model in their order."""

    def place(task: str) -> tuple[str, str, int]:
        head, _, layer = task.rpartition("-")
        return (head.rpartition("/")[0], head, int(layer)) if layer.isdigit() else (task, "", 0)

    return sorted({record.task.id for record in records}, key=place)


class Rows(NamedTuple):
    """The rows of a task, one for each submission, cheapest first."""

    task: str
    records: list[Record]

    @property
    def title(self) -> str:
        """A line to stand above a table."""
        return f"**{self.task}**"

    @property
    def full_title(self) -> str:
        """A line with what the rows were measured on."""
        first = self.records[0]
        tokens, documents = first.documents.tokens, first.documents.documents
        return (
            f"{self.title}, version {first.task.version}, {first.tier} tier: {len(self.records)} rows, "
            f"{tokens:,} scored tokens of {documents} documents."
        )


def quantity(key: str) -> Of:
    """The number of a record under a key of `report.quantities`."""
    return lambda record: number_of(record, key)


def object_rung(record: Record) -> str:
    """The rung that bare reconstructions are spliced in on: quantised codes, where they are paid for."""
    return CODED if CODED in record.metrics.rungs else "raw"


def kl(record: Record, rung: str) -> Number | None:
    """KL on a rung; None where it was not measured."""
    found = record.metrics.rungs.get(rung)
    return None if found is None else found.quenched.kl


def name_of(record: Record) -> str:
    """The name of its submission, as code."""
    return f"`{record.submission.name}`"


def side(number: Number | None, low: float = 0.0, high: float = 0.0) -> Side:
    """The place of an interval against [`low`, `high`]; `open` where it holds an end of that.

    `missing` where there is no number, or no interval of it.
    """
    if number is None or number.value is None or number.low is None or number.high is None:
        return "missing"
    if low <= number.low and number.high <= high:
        return "within"
    if number.high < low:
        return "below"
    return "above" if number.low > high else "open"


def by_side(rows: Rows, of: Of, low: float = 0.0, high: float = 0.0) -> dict[Side, list[str]]:
    """Names of rows by the place of their interval."""
    placed: dict[Side, list[str]] = {}
    for record in rows.records:
        placed.setdefault(side(of(record), low, high), []).append(record.submission.name)
    return placed


def named(names: Sequence[str], of: int) -> str:
    """The names, or that they are all of so many rows."""
    if len(names) == of > _MANY:
        return f"all {of} rows"
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def told(groups: Mapping[Side, list[str]], labels: Mapping[Side, str]) -> list[str]:
    """A sentence for each label with a row: the label, a colon, the names."""
    total = sum(map(len, groups.values()))
    return [
        f"{label}: {named(groups[place], total)}." for place, label in labels.items() if groups.get(place)
    ]


def values(rows: Rows, of: Of) -> list[tuple[float, str]]:
    """Value and name of each row that has the number, smallest first."""
    found = ((of(record), record.submission.name) for record in rows.records)
    return sorted((number.value, name) for number, name in found if number and number.value is not None)


def reasons(rows: Rows, of: Of) -> list[str]:
    """Distinct reasons for which rows lack the number."""
    numbers = [of(record) for record in rows.records]
    return list(dict.fromkeys(number.reason or "" for number in numbers if number and number.value is None))


def ordered_differently(rows: Rows, one: Of, other: Of) -> tuple[list[tuple[str, str]], int]:
    """Pairs of rows that two numbers put into opposite orders, and how many pairs have both."""
    having = [
        (first.value, second.value, record.submission.name)
        for record in rows.records
        if (first := one(record)) and (second := other(record))
        if first.value is not None and second.value is not None
    ]
    pairs = list(itertools.combinations(having, 2))
    return [(a[2], b[2]) for a, b in pairs if (a[0] - b[0]) * (a[1] - b[1]) < 0], len(pairs)


def count(many: int, total: int, what: str) -> str:
    """`3 of 8 rows`, `no row`, `all 8 rows`."""
    if many == 0:
        return f"no {what}"
    if many == total:
        return f"all {total} {what}s" if total > 1 else f"the one {what}"
    return f"{many} of {total} {what}s"


def filled(page: str, content: Mapping[str, str]) -> str:
    """The page with its blocks as they are now.

    Raises:
        KeyError: the page has a block that is not known, or lacks one.
    """
    named: list[str] = []

    def block(match: re.Match[str]) -> str:
        named.append(match[1])
        return f"<!-- {match[1]} -->\n\n{content[match[1]]}\n\n<!-- end -->"

    text = re.sub(r"<!-- (?!end)([\w -]+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)
    if lacking := set(content) - set(named):
        raise KeyError(f"the page has no block {', '.join(sorted(lacking))}")
    return text


def table(headings: Sequence[str], cells: Iterable[Sequence[str]], notes: Notes) -> str:
    """A Markdown table of ready cells, footnotes below."""
    align = ["left", *["right"] * (len(headings) - 1)]
    text = written_table(headings, list(cells), align)
    return text if not notes.reasons else text + "\n\n" + " · ".join(notes.lines())


def cell(notes: Notes, number: Number | None) -> str:
    """Value and interval; a dash, with its reason below the table, for what is missing."""
    return notes.cell(Number.null("not measured") if number is None else number)


def bullets(sentences: Iterable[str]) -> str:
    """Paragraphs of a list, wrapped."""
    return "\n".join(
        textwrap.fill(
            sentence,
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for sentence in sentences
    )


def stacked(*parts: str) -> str:
    """Parts of a block, an empty line between them."""
    return "\n\n".join(part for part in parts if part)
