"""Write the tour's paragraph on the ladder, and its figure, from the record of one sparse autoencoder.

    python docs/examples/ladder.py

The record is that of the deep plan (`remainder run smollm2-135m/resid-15 --with topk-sae-32 --rungs all`)
below `leaderboard/results`. While there is none, it is that of protocol 1 in the archive, and the paragraph
says so.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from remainder.errors import RecordError
from remainder.record.schema import Record
from remainder.report.order_sections import FACTORS, factor_of
from remainder.report.plot import explanation, save
from remainder.report.text import format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "results" / "smollm2-135m" / "resid-15" / "2"
ARCHIVE = ROOT / "leaderboard" / "archive" / "1" / "results" / "smollm2-135m" / "resid-15" / "1"
PAGE = ROOT / "docs" / "tour.md"
FIGURE = ROOT / "docs" / "figures" / "explain-topk-sae-32.png"
SHOWN, LINEAR = "topk-sae-32", ("random-256", "pca-128")
"""The row that is taken apart, and rows that a linear map of x̂ is shown on."""


def deepest(name: str, rung: str) -> Record:
    """The row of the board if it has the rung, else that of protocol 1.

    Raises:
        RecordError: neither has it.
    """
    for folder in (RESULTS / name, ARCHIVE / name):
        record: Record = words.summary(folder)
        if rung in record.metrics.rungs:
            return record
    raise RecordError(f"{name} has no record with the rung {rung}", fix="measure it with --rungs all")


def protocol(record: Record) -> str:
    """The protocol by which it was measured."""
    return str(record.task.version).partition("-")[0]


def paragraphs(record: Record, others: list[Record]) -> str:
    """What the figure shows, in words.

    Raises:
        RecordError: the record has no telescope.
    """
    terms = record.metrics.telescope
    if terms is None:
        raise RecordError(f"{record.submission.name} has no telescope", fix="measure it with --rungs all")
    said = [
        f"These figures are of protocol {protocol(record)}. Of this autoencoder's {in_words(terms.total)} "
        "nats, shape "
        f"accounts for {in_words(terms.shape)}{_power(record)} Dependence is {in_words(terms.dependence)} "
        "with the "
        "cells of `x̂` as the only thing that was tried, and the rest is "
        f"{in_words(terms.rest)}.{_found(record)}"
    ]
    tests = record.metrics.gaussianity
    if tests is not None:
        kappa = tests.radial_kurtosis
        away = "within" if kappa.inside else "outside of"
        said.append(
            f"As a distribution the residual has a radial kurtosis of {kappa.value:.3g}, {away} the "
            f"{kappa.null_low:.2g} to {kappa.null_high:.2g} of Gaussians put through the same pipeline "
            "(its lengths "
            f"against those of a Gaussian are drawn in the figure).{_nulls(record)}"
        )
    linear = " and ".join(_recovered(one, protocol(record)) for one in others)
    said.append(f"A linear map of `x̂` could have recovered {linear}.")
    fill = {"width": words.WIDTH, "break_long_words": False, "break_on_hyphens": False}
    return "\n\n".join(textwrap.fill(text, **fill) for text in said)  # type: ignore[arg-type]


def _recovered(record: Record, other: str) -> str:
    """The share of the loss of a projection that a linear map of x̂ recovers."""
    raw, mapped = (record.metrics.rungs[rung].quenched.gap.value for rung in ("raw", "linear-mean"))
    assert raw is not None
    assert mapped is not None
    name, own = f"`{record.submission.name}`", protocol(record)
    by = "" if own == other else f" by protocol {own}"
    return (
        f"{100 * (1 - mapped / raw):.0f} % of what `x̂` alone loses of {name}{by} ({format_value(raw)} "
        "nats `raw`, "
        f"{format_value(mapped)} `linear-mean`)"
    )


def _power(record: Record) -> str:
    """What a shape of 0 could have hidden, as far as the record tells it."""
    orders = record.metrics.orders
    if orders is None:
        return (
            ". That is no evidence of a Gaussian: where the loss is nearly quadratic in the noise, no "
            "shape can show "
            "in it, and the smallest kurtosis that could have shown was not measured by this protocol."
        )
    least = orders.smallest_kurtosis
    if least.value is None:
        return f". No kurtosis could have shown in it ({least.reason})."
    return f", where a kurtosis below {least.value:.3g} could not have shown."


def _found(record: Record) -> str:
    terms = record.metrics.conditional
    if terms is None or terms.best is None:
        return ""
    return (
        f" Of the kernels that see codes, neighbours or earlier tokens `{terms.best}` is the most likely "
        "on held-out "
        f"documents; it finds {in_words(terms.found)} and leaves {in_words(terms.not_found)}."
    )


def _nulls(record: Record) -> str:
    parts = record.metrics.ratio_parts
    if parts is None or not parts.others:
        return ""
    listed = ", ".join(f"{in_words(number)} with `{name}`" for name, number in parts.others.items())
    factors = ", ".join(
        f"{FACTORS[name]} {in_words(factor_of(number))}" for name, number in parts.factors.items()
    )
    return f" ρ is {listed} in the denominator. Factors between nested nulls: {factors}."


def blocks() -> dict[str, str]:
    """The block of the tour."""
    return {
        "ladder": paragraphs(deepest(SHOWN, "matched"), [deepest(name, "linear-mean") for name in LINEAR])
    }


def main() -> None:
    text = words.filled(PAGE.read_text(encoding="utf-8"), blocks())
    save(explanation(deepest(SHOWN, "matched")), FIGURE)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except RecordError as problem:
        raise SystemExit(f"ladder: {problem}") from None
