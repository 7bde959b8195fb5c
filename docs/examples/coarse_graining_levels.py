"""Levels and modes on docs/coarse-graining.md: tables, figures, and answers to what was written beforehand.

Of a list of levels the four are `shape`, `even`, `odd` and `apart`. Each statement *holds*, *fails* or is
*open*, by verdicts that are Holm's over all claims about the list:

1. Holds: the four hold at the finest level. Fails: one of them fails there.
2. Where the coarsest level keeps nothing. Holds: one of the four fails there. Fails: all four hold there.
3. Holds: at some level the four hold and so does `bath`. Fails: they hold somewhere, and `bath` fails at
   every such level.
4. Of shells and of submissions on one task, at the finest level of both. Holds: each of the four has the same
   verdict, and none is open. Fails: one of them holds of the one and fails of the other.

All else is open. Every answer is one list's; nothing is corrected over lists.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.levels import STATEMENTS, Levels, MeasuredLevels
from remainder.record.levels_file import LEVELS
from remainder.record.modes import Discretisation
from remainder.record.modes_file import MODES
from remainder.record.number import Number
from remainder.record.store import read_summary
from remainder.record.verdicts import Verdict
from remainder.report.levels import COLUMNS, steps_of
from remainder.report.modes import table_of_modes
from remainder.report.plot_levels import levels_figure
from remainder.report.plot_modes import modes_figure
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

FOUR = ("shape", "even", "odd", "apart")

_SHOWN = (
    "fvu",
    "gap_raw",
    "zero",
    "gap_full",
    "gap_permuted",
    "gap_cluster",
    "gap_hetero",
    "shape",
    "rho_even",
    "rho_odd",
    "annealed_06",
    "told_context",
)
"""Columns of the tables of levels."""


class Answer(NamedTuple):
    """Whether a statement holds of a list of levels, and what says so."""

    word: str
    """holds, fails, open, or not measured."""
    because: str


class Committed(NamedTuple):
    """Levels and modes below a folder, each in the order of their tasks and names."""

    levels: tuple[MeasuredLevels, ...]
    modes: tuple[Discretisation, ...]


def read(folder: Path, rank: Sequence[str]) -> Committed:
    """All levels and modes below a folder, their hashes verified.

    `remainder verify` computes verdicts and numbers again, which this does not.

    Args:
        rank: ids of tasks that come first, in this order.

    Raises:
        RecordError: one is damaged, or a record of a level is missing.
    """

    def key(task: str, path: Path) -> tuple[int, str, str]:
        return rank.index(task) if task in rank else len(rank), task, path.name

    levels, modes = {}, {}
    for path in folder.rglob(f"*{LEVELS.ending}"):
        content = LEVELS.read(path)
        records = []
        for level in content.levels:
            found = sorted(path.parent.glob(f"*/{level.record}.json"))
            if not found:
                raise RecordError(f"{path}: {level.submission.name} is missing", fix="copy its folder too")
            records.append(read_summary(found[0]))
        levels[key(content.task.id, path)] = MeasuredLevels(content, tuple(records))
    for path in folder.rglob(f"*{MODES.ending}"):
        discretisation = MODES.read(path)
        modes[key(discretisation.task.id, path)] = discretisation
    return Committed(tuple(levels[one] for one in sorted(levels)), tuple(modes[one] for one in sorted(modes)))


def records_of(committed: Committed) -> set[str]:
    """Ids of the records that levels name."""
    return {level.record for one in committed.levels for level in one.levels.levels}


# -------------------------------------------------------------------------------------------------- levels


def name_of(levels: Levels) -> str:
    """What a list of levels is of, for a sentence."""
    if levels.shells is not None:
        order = levels.shells.order.partition(" ")[0]
        return f"{levels.task.id}, `{levels.shells.submission.name}`, {order}"
    return f"{levels.task.id}, {', '.join(f'`{level.submission.name}`' for level in levels.levels)}"


def tables(committed: Committed) -> str:
    """The tables of each list of levels, and its figure."""
    if not committed.levels:
        return "No levels are committed."
    parts = []
    for one in committed.levels:
        documents = one.records[0].documents
        said = (
            f"{name_of(one.levels)}, {len(one.records)} levels; {documents.tokens:,} scored tokens of "
            f"{documents.documents:,} documents. Losses are less that of the finer level, nats a token:"
        )
        parts.append(textwrap.fill(said, words.WIDTH, break_long_words=False, break_on_hyphens=False))
        parts += [_numbers(one), _verdicts(one), _image(one.levels)]
    return str(words.stacked(*parts))


def _numbers(one: MeasuredLevels) -> str:
    notes = Notes()
    cells = [
        [step, *(str(notes.value(COLUMNS[key].of(record))) for key in _SHOWN)]
        for step, record in zip(steps_of(one.levels), one.records, strict=True)
    ]
    return str(words.table(["level", *(COLUMNS[key].heading for key in _SHOWN)], cells, notes))


def _verdicts(one: MeasuredLevels) -> str:
    notes = Notes()
    columns = [one.levels.statements[name] for name in STATEMENTS]
    cells = [
        [step, *(verdict.word + notes.mark(verdict.reason) for verdict in row)]
        for step, row in zip(steps_of(one.levels), zip(*columns, strict=True), strict=True)
    ]
    return str(words.table(["level", *(f"`{name}`" for name in STATEMENTS)], cells, notes))


def _image(levels: Levels) -> str:
    what = levels.levels[0].submission.name
    return (
        f"![Levels on {levels.task.id} from {what} on: costs, ratios and verdicts, level by level]"
        f"(figures/{levels_figure_name(levels)})"
    )


def levels_figure_name(levels: Levels) -> str:
    """The file of the figure of levels."""
    if levels.shells is not None:
        own = f"{levels.shells.submission.name}-{levels.shells.order.partition(' ')[0]}"
    else:
        own = f"{levels.levels[0].submission.name}-to-{levels.levels[-1].submission.name}"
    return _file("levels", levels.task.id, own)


def _file(kind: str, *parts: str) -> str:
    return f"{kind}-" + re.sub(r"[^a-z0-9]+", "-", "-".join(parts)) + ".png"


def first(levels: Levels) -> Answer:
    """Statement 1: from some level on the four hold."""
    last = _at(levels, -1)
    if missing := _missing(last):
        return Answer("not measured", missing)
    said = f"at the finest level, {steps_of(levels)[-1]}, {_words(last)}"
    if any(verdict.holds is False for verdict in last.values()):
        return Answer("fails", said)
    if not all(verdict.holds for verdict in last.values()):
        return Answer("open", said)
    start = len(levels.levels)
    while start and all(verdict.holds for verdict in _at(levels, start - 1).values()):
        start -= 1
    return Answer("holds", f"{said}, and so they do from {steps_of(levels)[start]} on")


def second(levels: Levels) -> Answer:
    """Statement 2: at the coarsest level, from nothing, one of the four fails."""
    if levels.shells is None or levels.shells.keeps[0] != 0:
        return Answer("not measured", "the coarsest level keeps something")
    found = _at(levels, 0)
    if missing := _missing(found):
        return Answer("not measured", missing)
    said = f"at the coarsest level, {steps_of(levels)[0]}, {_words(found)}"
    if any(verdict.holds is False for verdict in found.values()):
        return Answer("holds", said)
    return Answer("fails" if all(verdict.holds for verdict in found.values()) else "open", said)


def third(levels: Levels) -> Answer:
    """Statement 3: `bath` holds at some level at which the other four do."""
    bath = levels.statements["bath"]
    steps = steps_of(levels)
    at = [
        place for place in range(len(steps)) if all(verdict.holds for verdict in _at(levels, place).values())
    ]
    of_bath = "; ".join(f"{steps[place]} {_word(bath[place])}" for place in range(len(steps)))
    if not at:
        return Answer("open", f"at no level do all four hold. `bath` by level: {of_bath}")
    if all(bath[place].reason is not None for place in at):
        return Answer("not measured", str(bath[at[0]].reason))
    named = ", ".join(f"{steps[place]} ({_word(bath[place])})" for place in at)
    said = f"all four hold at {named}, with the verdict on `bath` in brackets"
    if any(bath[place].holds for place in at):
        return Answer("holds", said)
    return Answer("fails" if all(bath[place].holds is False for place in at) else "open", said)


def fourth(shells: Levels, several: Levels) -> Answer:
    """Statement 4: at the finest level shells and submissions agree on the four."""
    one, other = _at(shells, -1), _at(several, -1)
    if missing := _missing(one) or _missing(other):
        return Answer("not measured", missing)
    pairs = [
        f"`{name}` {_word(one[name])} of shells and {_word(other[name])} of submissions" for name in FOUR
    ]
    said = f"at the finest level {'; '.join(pairs)}"
    found = [(one[name].holds, other[name].holds) for name in FOUR]
    if any(None not in pair and pair[0] != pair[1] for pair in found):
        return Answer("fails", said)
    return Answer("open" if any(None in pair for pair in found) else "holds", said)


def _at(levels: Levels, place: int) -> dict[str, Verdict]:
    return {name: levels.statements[name][place] for name in FOUR}


def _missing(found: Mapping[str, Verdict]) -> str | None:
    """Why one of the four was not measured, unless another fails, which decides by itself."""
    if any(verdict.holds is False for verdict in found.values()):
        return None
    return next((f"`{name}`: {verdict.reason}" for name, verdict in found.items() if verdict.reason), None)


def _word(verdict: Verdict) -> str:
    return {"–": "was not measured", "open": "is open"}.get(verdict.word, verdict.word)


def _words(found: Mapping[str, Verdict]) -> str:
    """Which of the four hold, which fail, which are open."""
    said = [
        f"{', '.join(f'`{name}`' for name in names)} {word if len(names) == 1 else several}"
        for word, several in (
            ("holds", "hold"),
            ("fails", "fail"),
            ("is open", "are open"),
            ("was not measured", "were not measured"),
        )
        if (names := [name for name, verdict in found.items() if _word(verdict) == word])
    ]
    return " and ".join(said) if len(said) < 3 else ", ".join(said[:-1]) + f" and {said[-1]}"


def _answered(answers: Sequence[tuple[str, Answer]]) -> str:
    if not answers:
        return "No levels that are committed answer this."
    counts = {word: sum(answer.word == word for _, answer in answers) for word in _ORDER}
    total = f"Of {len(answers)} list{'s' if len(answers) != 1 else ''} of levels: "
    counted = ", ".join(f"{word} {many}" for word, many in counts.items() if many)
    sentences = [f"{name}: **{answer.word}**. {_capital(answer.because)}." for name, answer in answers]
    return f"{total}{counted}.\n\n{words.bullets(sentences)}"


_ORDER = ("holds", "fails", "open", "not measured")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isalpha() else text


# --------------------------------------------------------------------------------------------------- modes


def modes(committed: Committed) -> str:
    """The table of each discretisation, and its figure."""
    if not committed.modes:
        return "No modes are committed."
    parts = []
    for one in committed.modes:
        cells = table_of_modes(one)
        parts.append(_said(one))
        parts.append(str(words.table(cells.headings, cells.rows, Notes())))
        parts.append(
            f"![One Gaussian mode a shell of {one.submission.name} on {one.task.id}: error over the ratio of "
            f"shells](figures/{modes_figure_name(one)})"
        )
    return str(words.stacked(*parts))


def _said(one: Discretisation) -> str:
    """What a discretisation says, in sentences."""
    order = one.order.partition(" ")[0]
    apart = one.sources_apart
    sentence = (
        f"{one.task.id}, `{one.submission.name}`, {one.keep} of {one.sources:,} sources kept ({order}); "
        f"{sum(one.values.tokens):,} scored tokens of {len(one.values.documents):,} documents. The bath's "
        f"own Gaussian costs {in_words(one.bath)} nats a token; with one independent mode a source in its "
        f"place the loss changes by {in_words(apart)}. "
    )
    least, most = one.ratios[0], one.ratios[-1]
    errors = {kind: [_of(one, kind, ratio) for ratio in (least, most)] for kind in dict.fromkeys(_KINDS)}
    told = [
        f"Modes that keep {said} are off by {in_words(errors[kind][0])} at Λ = {least:g} and by "
        f"{in_words(errors[kind][1])} at Λ = {most:g}"
        for kind, said in _KINDS.items()
    ]
    spreads = {kind: max(row.spread for row in one.modes if row.kind == kind) for kind in _KINDS}
    return textwrap.fill(
        f"{sentence}{'. '.join(told)}. Shifts z differ by up to {format_value(spreads['reading'])} and "
        f"{format_value(spreads['trace'])} among each other:",
        words.WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )


_KINDS = {"reading": "gᵀΣg", "trace": "tr Σ"}


def _of(one: Discretisation, kind: str, ratio: float) -> Number:
    (row,) = (row for row in one.modes if (row.kind, row.ratio) == (kind, ratio))
    return row.error


def modes_figure_name(one: Discretisation) -> str:
    """The file of the figure of modes."""
    return _file("modes", one.task.id, one.submission.name, one.order.partition(" ")[0], str(one.keep))


# ---------------------------------------------------------------------------------------------------- page


def blocks(committed: Committed) -> dict[str, str]:
    """Every block on levels and modes by its name."""
    lists = [one.levels for one in committed.levels]
    pairs = [
        (shells, several)
        for shells in lists
        for several in lists
        if shells.shells is not None and several.shells is None and shells.task == several.task
    ]
    return {
        "levels": tables(committed),
        "levels 1": _answered([(name_of(one), first(one)) for one in lists]),
        "levels 2": _answered([(name_of(one), second(one)) for one in lists if one.shells is not None]),
        "levels 3": _answered([(name_of(one), third(one)) for one in lists]),
        "levels 4": _answered(
            [(f"{name_of(one)} against {name_of(other)}", fourth(one, other)) for one, other in pairs]
        ),
        "modes": modes(committed),
    }


def figures(committed: Committed) -> dict[str, tuple[Figure, str]]:
    """Figures by their files, each with what its metadata says that it was drawn from."""
    found = {
        levels_figure_name(one.levels): (levels_figure(*one), LEVELS.id(one.levels))
        for one in committed.levels
    }
    return found | {modes_figure_name(one): (modes_figure(one), MODES.id(one)) for one in committed.modes}


def drawn_from(committed: Committed) -> dict[str, str]:
    """What each figure is drawn from, by its file."""
    found = {levels_figure_name(one.levels): LEVELS.id(one.levels) for one in committed.levels}
    return found | {modes_figure_name(one): MODES.id(one) for one in committed.modes}
