"""The page `docs/validation.md`: all comparisons of a validation, as text, figures and tables.

It holds no time, machine or commit, so that the same seeds and package give the same page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from remainder.record.json import write_atomically
from remainder.report.text import written_table
from remainder.task.spec import Task
from remainder.validation.coverage import Coverage
from remainder.validation.drawing import save_figures
from remainder.validation.figures import FigureSpec, file_name
from remainder.validation.run import Validation, controls
from remainder.validation.tables import largest, law_line, score, value_with_error
from remainder.validation.verdict import FAMILY_WISE, JudgedClaim

__all__ = ["markdown", "write_page"]

_FIGURES = "figures"


def write_page(validation: Validation, path: Path, covered: Sequence[Coverage] = ()) -> list[Path]:
    """Write the page, and its figures into the folder `figures` beside it; gives all paths.

    `covered` are laws of documents whose coverage the page shows.
    """
    figures = save_figures(validation.figures, validation.comparisons, path.parent / _FIGURES)
    write_atomically(path, markdown(validation, covered).encode())
    return [path, *figures]


def markdown(validation: Validation, covered: Sequence[Coverage] = ()) -> str:
    """The text of the page."""
    failed = sum(not one.passed for one in validation.comparisons)
    verdict = "all pass" if not failed else f"**{failed} fail**"
    parts = [
        "# Validation: controls whose right answer is known",
        f"This page is generated; do not edit it. `{_command(validation)}` writes it again.",
        "A benchmark must first measure itself. Each control is a task like any other, run through the same "
        "code; its expected numbers come from formulas implemented apart from the harness, in a file beside "
        "the task. Every seed gives another world: other weights, other examples, other expected "
        "numbers. " + _seeds(validation),
        f"{len(validation.comparisons):,} comparisons, {verdict}. Together they have a chance of "
        f"{FAMILY_WISE:.0%} of any false alarm (Holm's procedure). *z* is the deviation in standard errors "
        "(jackknife over documents), beyond the allowance that an asymptotic formula is given. Losses are "
        "nats per scored token, errors are shares of wrong answers, and ± is one standard error.",
        _overview(validation),
    ]
    if validation.laws:
        parts.append("## Laws across tasks")
        parts.append(
            "\n".join(f"- {_escape(law_line(law))}: {_word(law.passed)}." for law in validation.laws)
        )
    if covered:
        parts += _coverage(covered)
    shown: set[str] = set()
    for task in validation.controls:
        parts += _section(validation, task, shown)
    if validation.left_out:
        parts.append("## Not judged")
        parts.append("\n".join(f"- {_escape(line)}" for line in validation.left_out))
    return "\n\n".join(parts) + "\n"


def _coverage(covered: Sequence[Coverage]) -> list[str]:
    """Heading, text and table of how often intervals hold the truth, by law and number of documents."""
    sizes = list(dict.fromkeys(one.documents for one in covered))
    shares: dict[str, dict[int, str]] = {}
    for one in covered:
        shares.setdefault(one.interpretation, {})[one.documents] = f"{100 * one.held:.1f}"
    rows = [[_escape(law), *(held[size] for size in sizes)] for law, held in shares.items()]
    return [
        "## Coverage of intervals",
        f"How many of 100 intervals hold the truth, of {max(one.sets for one in covered):,} sets of "
        "documents drawn from a law. What 95 % promises holds for documents that are nearly normal, "
        "nearly for lognormal ones, and not for ratios whose denominator is heavy-tailed.",
        _table(
            ["Law of the documents", *(f"{size} documents" for size in sizes)],
            rows,
            numbers=tuple(range(1, 1 + len(sizes))),
        ),
    ]


def _command(validation: Validation) -> str:
    seeds = [f"--seed {seed}" for seed in validation.seeds[-1:] if seed is not None]
    every = {control.task.id for control in controls()}
    named = [task.id for task in validation.controls]
    return " ".join(["remainder validate", *([] if set(named) == every else named), *seeds])


def _seeds(validation: Validation) -> str:
    words = ["each task's own" if seed is None else f"{seed}" for seed in validation.seeds]
    return f"Seeds: {', '.join(words)}; tier {validation.tier}."


def _overview(validation: Validation) -> str:
    rows = []
    for task in validation.controls:
        own = validation.of(task)
        name = f"[{_escape(task.id)}](#{_anchor(task)})"
        rows.append(
            [
                name,
                _escape(task.title),
                len(own),
                score(largest(own)),
                _word(all(one.passed for one in own)),
            ]
        )
    return _table(
        ["Control", "What it is", "Comparisons", "Largest \\|z\\|", "Verdict"], rows, numbers=(2, 3)
    )


def _section(validation: Validation, task: Task, shown: set[str]) -> list[str]:
    """Heading, description, figures not shown before, and the table of one control."""
    parts = [f"## {_escape(task.id)}", f"**{_escape(task.title)}**", _paragraphs(task.description)]
    for figure in validation.figures:
        tasks = [point.task for point in figure.every_point()]
        # Below the last of its tasks, after everything in it has been described.
        last = [control.id for control in validation.controls if control.id in tasks][-1]
        if last == task.id and figure.name not in shown:
            shown.add(figure.name)
            parts += _figure(figure)
    own = validation.of(task)
    seeds = list(dict.fromkeys(one.seed for one in own))
    rows: dict[tuple[str, str], dict[int, JudgedClaim]] = {}
    for one in own:
        rows.setdefault((one.interpretation, one.quantity), {})[one.seed] = one
    table = []
    for (interpretation, quantity), by_seed in rows.items():
        cells = [
            cell for seed in seeds for cell in (_cells(by_seed[seed]) if seed in by_seed else ("", "", ""))
        ]
        table.append([_escape(interpretation), _escape(quantity), *cells])
    headings = ["Interpretation", "Quantity"]
    headings += [text for seed in seeds for text in (f"seed {seed}", "expected", "z")]
    parts.append(_table(headings, table, numbers=range(2, len(headings))))
    return parts


def _cells(one: JudgedClaim) -> tuple[str, str, str]:
    measured, error = value_with_error(one.measured, one.se)
    expected, _ = value_with_error(one.expected, one.se)
    if one.allowance:
        expected += f" (± {one.allowance:.2g})"
    z = score(one.z)
    return f"{measured} ± {error}", expected, z if one.passed else f"**{z} fails**"


def _figure(figure: FigureSpec) -> list[str]:
    return [f"![{_escape(figure.title)}]({_FIGURES}/{file_name(figure)})", _paragraphs(figure.caption)]


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int]) -> str:
    align = ["right" if place in numbers else "left" for place in range(len(headings))]
    return written_table(headings, rows, align)


def _word(passed: bool) -> str:
    return "pass" if passed else "**fail**"


def _anchor(task: Task) -> str:
    """The anchor that Markdown renderers make from the heading."""
    return re.sub(r"[^\w\- ]", "", task.id.lower()).replace(" ", "-")


def _paragraphs(text: str) -> str:
    """Plain text of a control, paragraph by paragraph."""
    return "\n\n".join(_escape(part) for part in re.split(r"\n\s*\n", text.strip()))


def _escape(text: str) -> str:
    """Text escaped so that Markdown shows it literally."""
    return re.sub(r"([\\`*_|<>~\[\]])", r"\\\1", " ".join(text.split()))
