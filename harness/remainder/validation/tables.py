"""A validation for a terminal of 80 columns: one line a control, all failures in full; and as CSV or JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from remainder.report.layout import WIDTH, require_format
from remainder.report.text import draw, render_frame, ruled_table, with_decimals
from remainder.validation.run import Validation
from remainder.validation.verdict import FAMILY_WISE, JudgedClaim, LawVerdict

__all__ = [
    "FORMATS",
    "frame",
    "largest",
    "law_line",
    "render",
    "score",
    "seeds_line",
    "value_with_error",
]

FORMATS = ("table", "csv", "json")
_PASSED = {True: "pass", False: "FAIL"}


def frame(validation: Validation) -> pd.DataFrame:
    """One row per comparison; losses in nats per scored token, errors in shares."""
    table: pd.DataFrame = pd.DataFrame(
        [one._asdict() for one in validation.comparisons], columns=list(JudgedClaim._fields)
    )
    return table


def render(
    validation: Validation,
    format: str = "table",
    *,
    everything: bool = False,
    width: int = WIDTH,
    color: bool = False,
) -> str:
    """A validation as text.

    Args:
        format: one of `FORMATS`; the data formats hold every comparison.
        everything: whether the table shows every comparison instead of one line a control and the failures.
        width: columns of the terminal.
        color: whether to style for a terminal.

    Raises:
        RecordError: there is no such format.
    """
    require_format(format, FORMATS)
    if format != "table":
        content = frame(validation)
        return render_frame(content.replace({math.inf: None, -math.inf: None}), format)
    parts: list[RenderableType] = [_summary(validation)]
    shown = [one for one in validation.comparisons if everything or not one.passed]
    for task in dict.fromkeys(one.task for one in shown):
        heading = task if everything else f"{task}: what failed"
        parts += ["", Text(heading, style="bold"), _details([one for one in shown if one.task == task])]
    if validation.laws:
        parts.append("")
    parts += [Text(f"{_PASSED[law.passed]}  {law_line(law)}") for law in validation.laws]
    parts += [Text(f"! not judged: {line}", style="dim") for line in validation.left_out]
    failed = sum(not one.passed for one in validation.comparisons)
    failed_laws = sum(not law.passed for law in validation.laws)
    laws = f", {failed_laws} of {len(validation.laws)} laws" if validation.laws else ""
    verdict = "passed" if validation.passed else "FAILED"
    total = f"Validation {verdict}: {failed} of {len(validation.comparisons):,} comparisons failed{laws}."
    parts += [
        "",
        Text(total, style="bold" if validation.passed else "bold red"),
        Text(seeds_line(validation), style="dim"),
        Text(
            f"All comparisons share a chance of {FAMILY_WISE:.0%} of any false alarm (Holm). z: deviation "
            "beyond the allowance of the formula, in standard errors.",
            style="dim",
        ),
    ]
    return draw(parts, width=width, color=color)


def seeds_line(validation: Validation) -> str:
    """A line on the worlds that were measured, so that they can be measured again."""
    own = ["each task's own"] if None in validation.seeds else []
    given = [str(seed) for seed in validation.seeds if seed is not None]
    again = f" Again with --seed {given[-1]}." if own and given else ""
    return f"Seeds: {', '.join([*own, *given])}.{again}"


def law_line(verdict: LawVerdict) -> str:
    """A law in one sentence."""
    law, fit = verdict.law, verdict.fit
    exponent, error = value_with_error(fit.exponent, fit.error)
    expected = f"{law.exponent:g}".replace("-", "−")
    return (
        f"{law.name}: {law.quantity} of {law.interpretation} has the power {exponent} ± {error}; "
        f"expected {expected} within {law.tolerance:g} (z {score(verdict.z)})"
    )


def score(z: float) -> str:
    """A z as it is shown."""
    if math.isinf(z):
        return "∞" if z > 0 else "−∞"
    text = f"{z:.1f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def largest(comparisons: Sequence[JudgedClaim]) -> float:
    """The largest |z|; 0 if there is none."""
    return max((abs(one.z) for one in comparisons), default=0.0)


def value_with_error(value: float, error: float) -> tuple[str, str]:
    """A value and its standard error with the same decimals: two digits of the error, at most six."""
    decimals = 4
    if error > 0:
        decimals = min(max(1 - math.floor(math.log10(error)), 0), 6)
    spread = f"{error:.{decimals}f}"
    return with_decimals(value, decimals).replace("-", "−"), spread if float(spread) else "0"


def _summary(validation: Validation) -> Table:
    table = _table("Control", "Comparisons", "Largest |z|", "Verdict")
    for task in validation.controls:
        own = validation.of(task)
        failed = sum(not one.passed for one in own)
        verdict = Text("pass") if not failed else Text(f"FAIL ({failed})", style="bold red")
        table.add_row(Text(task.id), Text(str(len(own))), Text(score(largest(own))), verdict)
    return table


def _details(comparisons: Sequence[JudgedClaim]) -> Table:
    table = _table("Interpretation", "Quantity", "Seed", "Measured", "Expected", "z", "")
    for one in comparisons:
        measured, error = value_with_error(one.measured, one.se)
        expected, _ = value_with_error(one.expected, one.se)
        cells = (
            one.interpretation,
            one.quantity,
            str(one.seed),
            f"{measured} ± {error}",
            expected,
            score(one.z),
            _PASSED[one.passed],
        )
        style = "" if one.passed else "red"
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _table(*headings: str) -> Table:
    words = ("Control", "Interpretation", "Quantity", "Verdict", "")
    columns = [
        Column(
            heading,
            justify="left" if heading in words else "right",
            overflow="fold",
            no_wrap=heading in ("Measured", "Expected", "z", "Seed", ""),
        )
        for heading in headings
    ]
    return ruled_table(columns, ())
