"""Near and far on docs/coarse-graining.md: a section for each committed measurement, and four answers.

What the picture says was written down before any task but controls was measured. A measurement is *for* the
picture, *against* it, or *undecided*:

1. For: `near` holds wherever neither none nor all are kept. Against: it fails at one of these.
2. For: `far` holds with the most kept. Against: it fails there.
3. For: `alike` holds with the most kept. Against: it fails there.
4. For: `own` holds with none kept and is open with the most. Against: it holds with the most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from matplotlib.figure import Figure

from remainder.errors import RecordError
from remainder.record.tissues import Summaries, Tissues
from remainder.record.tissues_file import TISSUES, stored_tissues
from remainder.report.plot_tissues import tissues_figure
from remainder.report.text import Notes, format_value, in_words
from remainder.report.tissues import tables_of, tau
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

TITLES = {
    "tiny/wiki": "A small language model",
    "tracr/histogram": "A compiled program that counts letters",
    "smollm2-135m/resid-15": "SmolLM2-135M, half-way through",
}
"""Headings by task; others are headed by their ids."""

_FOOTNOTE = re.compile(r"^[⁰¹²³⁴⁵⁶⁷⁸⁹]+ ")

Side = Literal["for", "against", "undecided"]


class Answer(NamedTuple):
    """On which side of the picture a measurement is, and the verdicts that say so."""

    side: Side
    because: str


def read(folder: Path) -> dict[str, Summaries]:
    """All measurements below a folder by what they are of, their hashes verified; known tasks first.

    Raises:
        RecordError: one is damaged, or two are of the same submission and order.
    """
    found: dict[str, Summaries] = {}
    for path in sorted(folder.rglob(f"*{TISSUES.ending}")):
        one = stored_tissues(path)
        name = _name(one.tissues)
        if name in found:
            raise RecordError(f"{path}: there are other tissues of {name}", fix="remove one of the two")
        found[name] = one
    order = list(TITLES)
    return dict(sorted(found.items(), key=lambda item: (_rank(item[1].tissues, order), item[0])))


def _rank(tissues: Tissues, order: list[str]) -> int:
    return order.index(tissues.task.id) if tissues.task.id in order else len(order)


def _name(tissues: Tissues) -> str:
    return f"`{tissues.submission.name}` on {tissues.task.id}, {tissues.orders[0]}"


def figure_name(tissues: Tissues) -> str:
    """The file of a measurement's figure."""
    parts = f"{tissues.task.id}-{tissues.submission.name}-{tissues.orders[0]}"
    return "tissues-" + re.sub(r"[^a-z0-9]+", "-", parts) + ".png"


def figures(found: Mapping[str, Summaries]) -> Iterator[tuple[str, Figure, str]]:
    """Of each measurement the file of its figure, the figure, and the hash of what it was drawn from."""
    for one in found.values():
        yield figure_name(one.tissues), tissues_figure(*one), TISSUES.id(one.tissues)


def blocks(found: Mapping[str, Summaries]) -> dict[str, str]:
    """The blocks of the page by their names."""
    if not found:
        return {"tissues": "No tissues are committed.", "tissues answers": "No tissues are committed."}
    return {
        "tissues": words.stacked(*(_section(name, one.tissues) for name, one in found.items())),
        "tissues answers": words.stacked(*_answers(found)),
    }


def _section(name: str, tissues: Tissues) -> str:
    """A measurement: what it is, its tables and its figure."""
    tables = []
    for number, (title, headings, rows, below) in enumerate(tables_of(tissues)):
        notes = Notes([_FOOTNOTE.sub("", line) for line in below if _FOOTNOTE.match(line)])
        table = words.table(headings, [_escaped(headings, row) for row in rows], notes)
        tables += [f"{title if number else 'Raw by order, over k'}:", table]
    alt = f"{name.replace('`', '')}: harm and ratio of tokens over k, by tissue, and how far tissues differ"
    return str(
        words.stacked(
            f"#### {TITLES.get(tissues.task.id, tissues.task.id)}",
            _said(name, tissues),
            f"![{alt}](figures/{figure_name(tissues)})",
            *tables,
        )
    )


def _escaped(headings: list[str], row: list[str]) -> list[str]:
    """Cells for Markdown; words of a text as code, so that nothing in them is read as marks."""
    *others, last = row
    if headings[-1] == "words":
        return [*others, f"`{re.sub('[`|]', '', last)}`"]
    return [cell.replace("|", "\\|") for cell in row]


def _said(name: str, tissues: Tissues) -> str:
    """What is seen, in sentences."""
    follows, order = tissues.follows, tissues.orders[0]
    first, last = follows.shells[0], follows.shells[-1]
    sentences = [
        f"{name}: {tissues.tokens:,} scored tokens of {tissues.documents:,} documents, in "
        f"{len(follows.tissues)} tissues; statistics of {tissues.calibration_windows:,} calibration windows. "
        "Intervals are of each number alone, but for that of the worst tissue.",
        f"With {first.keep:,} near sources leaving the bath out costs {in_words(first.orders[order].raw)} "
        f"nats a token, and with {last.keep:,} {in_words(last.orders[order].raw)}.",
        *(
            f"With {shell.keep:,}, chosen by {order}, it costs {in_words(shell.orders[order].raw)}: "
            + ", ".join(f"less the cost by {other} {in_words(less)}" for other, less in shell.nearer.items())
            + "."
            for shell in follows.shells
            if shell.nearer
        ),
    ]
    for shell in (first, last):
        spread, worst = shell.between["raw"], shell.worst
        if (size := tau(spread)) is None or spread.p is None:
            sentences.append(f"With {shell.keep:,} kept raw has no spread between tissues: {spread.reason}.")
            continue
        sentences.append(
            f"With {shell.keep:,} kept tissues differ in raw by {format_value(size)} (τ, p {spread.p:.4f}); "
            f"the worst, tissue {worst.tissue}, has {in_words(worst.raw)}."
        )
    return str(words.bullets(sentences))


# -------------------------------------------------------------------------------------------------- answers


def _answers(found: Mapping[str, Summaries]) -> Iterator[str]:
    """A paragraph for each thing that the picture says."""
    for number, (heading, of) in enumerate(_PICTURE.items(), 1):
        given = {name: of(one.tissues) for name, one in found.items()}
        sides = [answer.side for answer in given.values()]
        counted = ", ".join(
            f"{side} {sides.count(side)}" for side in ("for", "against", "undecided") if side in sides
        )
        many = "1 measurement" if len(given) == 1 else f"{len(given)} measurements"
        yield f"**{number}. {heading}** Of {many}: {counted}."
        yield words.bullets(
            f"{name}: **{answer.side if answer.side == 'undecided' else f'{answer.side} the picture'}**. "
            f"{answer.because}."
            for name, answer in given.items()
        )


def _words(tissues: Tissues, statement: str) -> dict[int, str]:
    """Verdicts by k."""
    verdicts = zip(tissues.follows.shells, tissues.follows.statements[statement], strict=True)
    return {shell.keep: verdict.word for shell, verdict in verdicts}


_VERBS = {"holds": "holds", "fails": "fails", "open": "is open", "–": "was not measured"}


def _listed(statement: str, given: Mapping[int, str]) -> str:
    parts = [f"{_VERBS[word]} with {keep:,} kept" for keep, word in given.items()]
    return f"`{statement}` {', '.join(parts)}"


def near(tissues: Tissues) -> Answer:
    """Statement 1: `near` holds wherever orders keep something else."""
    given = {keep: word for keep, word in _words(tissues, "near").items() if word != "–"}
    if not given:
        return Answer("undecided", "No two orders were compared")
    said = set(given.values())
    side: Side = "against" if "fails" in said else "for" if said == {"holds"} else "undecided"
    return Answer(side, _listed("near", given))


def _largest(tissues: Tissues, statement: str) -> Answer:
    """Statements 2 and 3: it holds with the most kept."""
    keep, word = list(_words(tissues, statement).items())[-1]
    sides: dict[str, Side] = {"holds": "for", "fails": "against"}
    return Answer(sides.get(word, "undecided"), _listed(statement, {keep: word}))


def own(tissues: Tissues) -> Answer:
    """Statement 4: `own` holds with none kept, and is open with the most."""
    given = list(_words(tissues, "own").items())
    (least, first), (_, last) = given[0], given[-1]
    side: Side = "undecided"
    if last == "holds":
        side = "against"
    elif (least, first, last) == (0, "holds", "open"):
        side = "for"
    return Answer(side, _listed("own", dict([given[0], given[-1]])))


_PICTURE = {
    "`near` holds at every k between none and all.": near,
    "`far` holds from some k on.": lambda tissues: _largest(tissues, "far"),
    "`alike` holds with all sources kept.": lambda tissues: _largest(tissues, "alike"),
    "`own` holds with none kept, and is open with all.": own,
}
"""What the picture says, and how it is judged."""
