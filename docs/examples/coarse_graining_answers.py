"""Answers to what would falsify the picture of docs/coarse-graining.md, a sentence a flow, by fixed rules.

Each of the four statements speaks against the picture. It holds of a flow, or does not, or is undecided:

1. ρ even. Holds: its interval lies above 1 at every shell. Does not hold: at the largest shell it lies within
   `NEAR` of 1, or below 1.
2. The annealed loss. Holds: at every shell it lies above the mean's, at both amplitudes. Does not hold: at
   some shell and amplitude it lies below, by intervals that hold for all of them together.
3. `k_shape`. Holds: it is not reached. Does not hold: it is.
4. A random order. Compared with each other order of the same interpretation, every k of a scale counted in
   sources that are on at a token, since orders count k differently. Holds: all scales are reached, and their
   brackets overlap. Does not hold: of some scale the brackets lie apart.

A shell that leaves nothing out is passed over. Every answer is one flow's; nothing is corrected over flows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

from remainder.record.flow import SCALES, Flow, MeasuredFlow
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.flow import COLUMNS
from remainder.report.text import format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

NEAR = 0.10
"""ρ even within this share of 1 has come near it; as much as `k_perturbative` allows of the orders."""

_DUST = 1e-9  # of the activation's variance: nothing is left out

Verdict = Literal["holds", "does not hold", "undecided", "not measured"]
Flows = Mapping[tuple[str, str, str], MeasuredFlow]
"""Flows by task, submission and order."""


class Answer(NamedTuple):
    """Whether a statement holds of a flow, and the numbers that say so."""

    verdict: Verdict
    because: str


class At(NamedTuple):
    """A number of a shell."""

    keep: int
    number: Number


def _at(measured: MeasuredFlow, key: str) -> list[At]:
    """The numbers of a column that have intervals, of shells that leave something out."""
    found = []
    for shell, record in zip(measured.flow.shells, measured.records, strict=True):
        number = COLUMNS[key].of(record)
        if _leaves(record) and None not in (number.value, number.low, number.high):
            found.append(At(shell.keep, number))
    return found


def rho(measured: MeasuredFlow) -> Answer:
    """Statement 1: ρ even does not approach 1."""
    found = _at(measured, "rho_even")
    if not found:
        return Answer("not measured", "ρ even has no interval at any shell")
    last = found[-1]
    _, low, high = _ends(last.number)
    said = f"ρ even is {in_words(last.number)} with {last.keep:,} kept"
    first = found[0]
    if len(found) > 1:
        said += f", and {in_words(first.number)} with {first.keep:,}"
    if all(_ends(one.number)[1] > 1 for one in found):
        return Answer("holds", f"{said}, above 1 at {_all(len(found))}")
    if high < 1 or (low >= 1 - NEAR and high <= 1 + NEAR):
        return Answer("does not hold", said)
    return Answer("undecided", said)


def annealed(measured: MeasuredFlow) -> Answer:
    """Statement 2: the annealed loss is below the mean's at no shell."""
    found = [(at, times) for key, times in _AMPLITUDES for at in _at(measured, key)]
    if not found:
        return Answer("not measured", "no shell has an annealed loss with an interval")
    least, times = min(found, key=lambda one: _wide(one[0].number, len(found)))
    said = (
        f"the annealed loss less the mean's is {in_words(least.number)} with {least.keep:,} kept and the "
        f"noise × {times}"
    )
    if _wide(least.number, len(found)) < 0:
        return Answer("does not hold", said)
    if all(_ends(at.number)[1] > 0 for at, _ in found):
        return Answer("holds", f"{said}, and above it at {_all(len(found), 'shells and amplitudes')}")
    return Answer("undecided", f"{said}, the nearest to being below")


_AMPLITUDES = (("annealed_06", "0.6"), ("annealed_1", "1"))


def _wide(number: Number, many: int) -> float:
    """The upper end of the interval at the joint level of so many (Bonferroni), widened as a normal law's."""
    value, _, high = _ends(number)
    normal = NormalDist()
    return value + (high - value) * normal.inv_cdf(1 - 0.025 / many) / normal.inv_cdf(0.975)


def shape(measured: MeasuredFlow) -> Answer:
    """Statement 3: `k_shape` is not reached."""
    bracket = measured.flow.scales["shape"]
    if bracket.reason is not None:
        return Answer("not measured", bracket.reason)
    if bracket.high is not None:
        said = f"`k_shape` is {bracket.verdict}"
        if bracket.high == measured.flow.shells[-1].keep and not _leaves(measured.records[-1]):
            return Answer("undecided", f"{said}, where nothing is left out")
        return Answer("does not hold", said)
    last = measured.records[-1]
    gaps = [in_words(COLUMNS[key].of(last)) for key in ("gap_full", "gap_permuted")]
    keep = measured.flow.shells[-1].keep
    said = f"with {keep:,} kept Gaussian rows cost {gaps[0]}, real ones {gaps[1]}"
    if bracket.low is None:
        return Answer("holds", f"`k_shape` is not reached: {said}")
    return Answer("undecided", f"`k_shape` is {bracket.low:,} at least: {said}")


def _leaves(record: Record) -> bool:
    left, cost = (COLUMNS[key].of(record).value for key in ("fvu", "gap_full"))
    return cost != 0 if left is None else left > _DUST


def random(ordered: MeasuredFlow, control: MeasuredFlow) -> Answer:
    """Statement 4: a random order shows the same scales."""
    apart, open_, shared = [], [], []
    for name in SCALES:
        one, other = ordered.flow.scales[name], control.flow.scales[name]
        if one.reason is not None or other.reason is not None:
            continue
        mine, theirs = _sources_on(ordered, name), _sources_on(control, name)
        both = f"`k_{name}` is {_span(mine)} of the order and {_span(theirs)} at random"
        if mine[1] < theirs[0] or theirs[1] < mine[0]:
            apart.append(both)
        elif one.high is None or other.high is None:
            open_.append(both)
        else:
            shared.append(both)
    unit = "in sources that are on at a token"
    if apart:
        return Answer("does not hold", f"{unit}, {'; '.join(apart)}")
    if not open_ and not shared:
        return Answer("not measured", "no scale was looked for in both")
    return Answer("undecided" if open_ else "holds", f"{unit}, {'; '.join(open_ or shared)}")


def _sources_on(measured: MeasuredFlow, name: str) -> tuple[float, float]:
    """A bracket in mean sources on at a token; its ends are infinite where it has none."""
    flow: Flow = measured.flow
    on = {
        shell.keep: record.complexity.l0.value
        for shell, record in zip(flow.shells, measured.records, strict=True)
    }
    bracket = flow.scales[name]

    def of(keep: int | None) -> float:
        value = None if keep is None else on[keep]
        return math.inf if value is None else value

    return of(bracket.low), of(bracket.high)


def _span(ends: tuple[float, float]) -> str:
    low, high = ends
    if math.isinf(low):
        return "not reached"
    if math.isinf(high):
        return f"{format_value(low)} at least"
    return format_value(low) if low == high else f"{format_value(low)} to {format_value(high)}"


def _ends(number: Number) -> tuple[float, float, float]:
    assert number.value is not None
    assert number.low is not None
    assert number.high is not None
    return number.value, number.low, number.high


def _all(many: int, what: str = "shells") -> str:
    return f"all {many} {what}" if many > 1 else "the one shell that has an interval"


# ------------------------------------------------------------------------------------------------- sentences


def bullets(sentences: Iterable[str]) -> str:
    """Paragraphs of a list, wrapped."""
    return str(words.bullets(sentences))


def _sentence(place: tuple[str, str, str], answer: Answer, against: str = "") -> str:
    task, submission, order = place
    return f"{task}, `{submission}`, {order}{against}: **{answer.verdict}**. {_capital(answer.because)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isalpha() and text[0] != "ρ" else text


def _counted(answers: Sequence[Answer]) -> str:
    """How many flows a statement holds of."""
    total = f"{len(answers)} flow{'s' if len(answers) != 1 else ''}"
    each = [(verdict, sum(answer.verdict == verdict for answer in answers)) for verdict in _ORDER]
    return f"Of {total}: " + ", ".join(f"{verdict} {many}" for verdict, many in each if many) + "."


_ORDER: tuple[Verdict, ...] = ("holds", "does not hold", "undecided", "not measured")


def blocks(flows: Flows) -> dict[str, str]:
    """An answer to each statement, by the name of its block."""
    found = {"rules": rules()}
    for name, of in (("falsified 1", rho), ("falsified 2", annealed), ("falsified 3", shape)):
        given = {place: of(measured) for place, measured in flows.items()}
        found[name] = _block([_sentence(place, answer) for place, answer in given.items()], given.values())
    compared: dict[tuple[str, str, str], Answer] = {}
    for (task, submission, order), measured in flows.items():
        control = flows.get((task, submission, "random"))
        if control is not None and order != "random":
            compared[task, submission, order] = random(measured, control)
    sentences = [_sentence(place, answer, " against random") for place, answer in compared.items()]
    found["falsified 4"] = _block(sentences, compared.values())
    return found


def rules() -> str:
    """The rules by which the answers are given, in words."""
    return str(
        words.stacked(
            "The answers follow from the flows by rules that are fixed in "
            "[coarse_graining_answers.py](examples/coarse_graining_answers.py). A statement speaks against "
            "the picture,\nso where it *holds* the picture fails:",
            bullets(
                [
                    "1 holds where the interval of ρ even lies above 1 at every shell that leaves something "
                    "out, and does not where at the largest of these it lies within "
                    f"{100 * NEAR:.0f} % of 1, or below 1.",
                    "2 holds where the annealed loss lies above the mean's at every shell and both "
                    "amplitudes, and does not where it lies below at one of them, by an interval at the "
                    "joint level of all.",
                    "3 holds where `k_shape` is not reached, and does not where it is.",
                    "4 compares a random order with another of the same interpretation, scales counted in "
                    "sources that are on at a token, since orders count k differently. It holds where all "
                    "scales are reached in both and overlap, and does not where those of one lie apart.",
                ]
            ),
            "All else is undecided. Intervals are of documents, at 95 % for each flow; nothing is corrected "
            "over flows.",
        )
    )


def _block(sentences: Sequence[str], given: Iterable[Answer]) -> str:
    answers = list(given)
    if not answers:
        return "No flow that is committed answers this."
    return f"{_counted(answers)}\n\n{bullets(sentences)}"
