"""Near and far, and the tissues of tokens, as tables. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from rich.console import RenderableType

from remainder.base.wrapping import fill
from remainder.record.number import Number
from remainder.record.tissues import QUANTITIES, STATEMENTS, At, Spread, Tissue, TissueAt, Tissues
from remainder.record.verdicts import Verdict
from remainder.report.layout import FORMATS, WIDTH, require_format
from remainder.report.text import (
    MISSING,
    Notes,
    draw,
    format_value,
    frame_cells,
    plain_table,
    render_cells,
    render_frame,
)

__all__ = ["SAYS", "named", "render_tissues", "tables_of", "tau", "tissues_frame", "title_of"]

SAYS = {
    "near": "the first order leaves less harm than the others",
    "far": "the bath costs what one Gaussian does (5 %)",
    "alike": "and that in every tissue",
    "own": "tissues differ in raw by more than permuted labels",
}
"""Statements in a few words."""

_NUMBERS = {
    "mean": "the bath's mean",
    "full": "a Gaussian of its covariance",
    "permuted": "the bath of other tokens",
    "cluster": "a Gaussian of the cell that near sources lie in",
    "rho_even": "harm of the bath over that of Gaussian noise",
    "rho_odd": "its part that turns with the bath's sign",
}
"""Numbers of a shell beside raw, and a few words on each."""
_HEADINGS = {"full": "sampled", "cluster": "told", "rho_even": "ρ even", "rho_odd": "ρ odd"}
_BY_TISSUE = {
    "raw": "Left out (raw), tissue by tissue",
    "shape": "Shape, sampled − permuted",
    "rho_even": "ρ even",
}
"""Numbers that are shown of every tissue, and the titles of their tables."""
_QUANTITIES = {"raw": "raw", "full": "sampled", "shape": "shape"}
_UNIT = "Losses are less that of the clean model, nats a token."
_WORDS = 24  # letters that are shown


class Shown(NamedTuple):
    """A table of ready cells."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    below: list[str]


def tau(spread: Spread) -> float | None:
    """τ, nats a token: the standard deviation between tissues; 0 where τ² is below 0."""
    return None if spread.variance is None else math.sqrt(max(spread.variance, 0.0))


def named(tissue: Tissue) -> str:
    """The words of the text, else sources, that stand out in a tissue."""
    if tissue.words:
        return " ".join(word.strip() or repr(word) for word in tissue.words)[:_WORDS]
    return " ".join(f"#{one}" for one in tissue.sources)


def title_of(tissues: Tissues) -> str:
    """A line on what was measured."""
    where = "of the dictionary" if tissues.orders == ("index",) else "at each token"
    return (
        f"{tissues.submission.name} on {tissues.task.id}, version {tissues.task.version}, tier "
        f"{tissues.tier}: k near sources of {tissues.sources:,} {where}, by {tissues.orders[0]}"
    )


def tissues_frame(tissues: Tissues) -> pd.DataFrame:
    """One row for each order, number of near sources and tissue; tissue 0 is all tokens."""
    rows: list[dict[str, object]] = []
    for shell in tissues.follows.shells:
        for order, at in shell.orders.items():
            rows.append(_row(order, shell.keep, 0, at))
        rows += [
            _row(tissues.orders[0], shell.keep, number, at)
            for number, at in enumerate(shell.tissues, start=1)
        ]
    return pd.DataFrame(rows)


def _row(order: str, keep: int, tissue: int, at: At | TissueAt) -> dict[str, object]:
    row: dict[str, object] = {"order": order, "keep": keep, "tissue": tissue}
    for key in At.model_fields:
        row |= frame_cells(key, getattr(at, key, None) or Number.null("of all tokens alone"))
    return row


def render_tissues(
    tissues: Tissues, tokens: pd.DataFrame, format: str = "table", *, width: int = WIDTH, color: bool = False
) -> str:
    """Everything as text; `csv` has a row for each order, number and tissue, `json` all but the tokens.

    Args:
        tokens: the table beside it, which no text shows.

    Raises:
        RecordError: there is no such format.
    """
    require_format(format, FORMATS)
    if format == "csv":
        return render_frame(tissues_frame(tissues), format)
    if format == "json":
        return json.dumps(tissues.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    parts = []
    for title, headings, rows, below in tables_of(tissues):
        if format == "table":
            lines = [fill(line, width, hanging="  ") for line in below]
            shown: list[RenderableType] = [fill(title, width), "", plain_table(headings, rows), *lines]
            parts.append(draw(shown, width=width, color=color))
        else:
            parts.append(render_cells(headings, rows, format, title=title, notes=below))
    return "\n".join(parts)


def tables_of(tissues: Tissues) -> list[Shown]:
    """All tables."""
    return [
        _near(tissues),
        *([_nearer(tissues)] if len(tissues.orders) > 1 else []),
        _far(tissues),
        _listed(tissues),
        *(_by_tissue(tissues, key, title) for key, title in _BY_TISSUE.items()),
        _between(tissues),
        _worst(tissues),
        _statements(tissues),
    ]


_SAME = Number.null("none or all are kept: every order keeps the same")


def _near(tissues: Tissues) -> Shown:
    """Raw by every order."""
    notes = Notes()
    rows = []
    for shell in tissues.follows.shells:
        by = [shell.orders[order].raw if order in shell.orders else _SAME for order in tissues.orders]
        rows.append([f"{shell.keep:,}", *map(notes.cell, by)])
    below = [*notes.lines(), f"All but near sources left out (raw). {_UNIT}"]
    return Shown(title_of(tissues), ["near", *tissues.orders], rows, below)


def _nearer(tissues: Tissues) -> Shown:
    """Raw of the first order less that of each other."""
    notes = Notes()
    first, *others = tissues.orders
    rows = [
        [f"{shell.keep:,}", *(notes.cell(shell.nearer.get(order, _SAME)) for order in others)]
        for shell in tissues.follows.shells
    ]
    headings = ["near", *(f"less {order}" for order in others)]
    return Shown(f"Raw by {first} less that by other orders", headings, rows, notes.lines())


def _far(tissues: Tissues) -> Shown:
    """The bath of the first order in other forms."""
    notes = Notes()
    rows = [
        [
            f"{shell.keep:,}",
            *(notes.value(getattr(shell.orders[tissues.orders[0]], key)).plain for key in _NUMBERS),
        ]
        for shell in tissues.follows.shells
    ]
    headings = ["near", *(_HEADINGS.get(key, key) for key in _NUMBERS)]
    says = "; ".join(f"{_HEADINGS.get(key, key)}: {says}" for key, says in _NUMBERS.items())
    title = f"What is far of {tissues.orders[0]} sources, as a bath"
    return Shown(title, headings, rows, [*notes.lines(), f"{says}."])


def _listed(tissues: Tissues) -> Shown:
    rows = [
        [
            f"{number}",
            f"{one.calibration:,}",
            f"{one.tokens:,}",
            f"{one.documents:,}",
            MISSING if one.entropy is None else format_value(one.entropy),
            named(one),
        ]
        for number, one in enumerate(tissues.follows.tissues, start=1)
    ]
    found = tissues.follows.tissues
    words = "words" if any(one.words for one in found) else "sources"
    below = [f"entropy: of the clean model, nats; {words}: what stands out against other tissues."]
    if len(found) < tissues.asked:
        below.append(
            f"{tissues.asked} were asked for; those with too few calibration tokens were dissolved into "
            "their neighbours."
        )
    headings = ["tissue", "calibration", "evaluation", "documents", "entropy", words]
    return Shown("Tissues: tokens whose codes point the same way", headings, rows, below)


def _by_tissue(tissues: Tissues, key: str, title: str) -> Shown:
    notes = Notes()
    shells = tissues.follows.shells
    rows = [
        [f"{number + 1}", *(notes.value(getattr(shell.tissues[number], key)).plain for shell in shells)]
        for number in range(len(tissues.follows.tissues))
    ]
    all_tokens = [notes.value(getattr(shell.orders[tissues.orders[0]], key)).plain for shell in shells]
    headings = ["tissue", *(f"{shell.keep:,}" for shell in shells)]
    return Shown(f"{title}, by k", headings, [*rows, ["all", *all_tokens]], notes.lines())


def _between(tissues: Tissues) -> Shown:
    notes = Notes()
    rows = []
    for shell in tissues.follows.shells:
        cells = [f"{shell.keep:,}"]
        for key in QUANTITIES:
            spread = shell.between[key]
            value = tau(spread)
            shown = MISSING + notes.mark(spread.reason) if value is None else format_value(value)
            cells += [shown, MISSING if spread.p is None else _p(spread.p)]
        rows.append(cells)
    headings = ["near", *(part for key in QUANTITIES for part in (f"τ {_QUANTITIES[key]}", "p"))]
    below = [
        *notes.lines(),
        "τ: standard deviation between tissues beyond sampling, nats a token; p: against labels permuted "
        "within deciles of the clean model's entropy.",
    ]
    return Shown("How far tissues differ", headings, rows, below)


def _worst(tissues: Tissues) -> Shown:
    notes = Notes()
    rows = [
        [
            f"{shell.keep:,}",
            MISSING if shell.worst.tissue is None else f"{shell.worst.tissue}",
            notes.cell(shell.worst.raw),
            notes.cell(shell.orders[tissues.orders[0]].raw),
        ]
        for shell in tissues.follows.shells
    ]
    says = "The interval of the worst is valid for all tissues at once."
    return Shown("The worst tissue", ["near", "tissue", "its raw", "of all"], rows, [*notes.lines(), says])


def _p(p: float) -> str:
    return f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def _statements(tissues: Tissues) -> Shown:
    notes = Notes()
    follows = tissues.follows
    rows = [
        [
            f"{shell.keep:,}",
            *(_word(follows.statements[name], place, notes) for name in STATEMENTS),
        ]
        for place, shell in enumerate(follows.shells)
    ]
    says = "; ".join(f"{name}: {SAYS[name]}" for name in STATEMENTS)
    title = "What a hierarchy would say (95 %, all k and statements together)"
    return Shown(title, ["near", *STATEMENTS], rows, [*notes.lines(), f"{says}."])


def _word(verdicts: Sequence[Verdict], place: int, notes: Notes) -> str:
    verdict = verdicts[place]
    return verdict.word + notes.mark(verdict.reason)
