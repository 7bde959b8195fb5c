"""Results of docs/findings.md on the residual: ρ taken apart, the bath, its shape, and how weak its noise is.

A claim of several rows is made of intervals at the joint level of all of them (`findings_words.jointly`).

Source: protocol 2, sections 1 to 3 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from remainder.record.schema import Record
from remainder.report.order_sections import FACTORS
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_board as board
    import findings_noise as noise
    import findings_words as words
    from findings_board import Board
    from findings_words import Side
else:
    board, noise, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py")) for name in ("board", "noise", "words")
    )

WEAK = 0.25
"""The size of π within which the noise's cost is quadratic enough to be called weak."""
STRONG = 1.0
"""Quadratic order, nats a token, from which on a bath is called strong."""


def orders(rows: Board) -> str:
    """The perturbativity map: how far the cost of Gaussian noise is quadratic in it, over the whole board."""
    own = rows.dictionaries
    numbers = words.jointly(rows.sites, words.quantity("perturbativity"))
    weak = [(r, n) for r, n in numbers if 0 < (quadratic(r) or 0.0) < STRONG]
    strong = [(r, n) for r, n in numbers if (quadratic(r) or 0.0) >= STRONG]
    turned = [(r, n) for r, n in numbers if (quadratic(r) or 0.0) <= 0]
    close = words.sides(weak, -WEAK, WEAK).get("within", [])
    verdicts = [verdict for r in rows.sites if (verdict := noise.enough(noise.loss_terms(r))) != "–"]
    power = [(number.high - number.low) / 2 for r, number in weak if words.side(number) == "open"]
    trained = [verdict for r in rows.dictionaries if (verdict := noise.enough(noise.loss_terms(r))) != "–"]
    sentences = [
        f"{len(numbers)} rows have π with an interval. Where the quadratic order is below {STRONG:g} nat a "
        "token, "
        f"|π| is within {WEAK:g} at the joint level in {len(close)} of {len(weak)} rows; of trained "
        "dictionaries at "
        f"sites of language models in {len([r for r in close if words.among(r, own)])} of "
        f"{len([r for r, _ in weak if words.among(r, own)])}.",
        board.by_sign("There the cost of noise, against its quadratic order", weak, "more", "less"),
        board.by_sign(f"Where that order is {STRONG:g} nat or more, the same", strong, "more", "less"),
        f"In {len(turned)} further rows the quadratic order is 0 or below, and π says nothing of strength.",
        f"Two orders tell the sampled loss, by both criteria of protocol 2, in {verdicts.count('yes')} of "
        f"{len(verdicts)} rows, and in {trained.count('yes')} of {len(trained)} trained dictionaries.",
    ]
    if power:
        sentences.append(
            f"Power: of rows below {STRONG:g} nat whose π is not told from 0, half of a joint interval is "
            f"{format_value(median(power))} at the median."
        )
    return str(words.bullets(sentences))


def quadratic(record: Record) -> float | None:
    terms = noise.loss_terms(record)
    return None if terms is None else terms.a2.value


def shape(rows: Board) -> str:
    """The shape of the residual: a null with its power."""
    dictionaries = rows.dictionaries
    numbers = words.jointly(dictionaries, noise.shape_of)
    placed = words.sides(numbers)
    null = [*placed.get("open", []), *placed.get("within", [])]
    ends = [max(abs(n.low or 0), abs(n.high or 0)) for r, n in numbers if words.among(r, null)]
    powers = [
        found.value
        for record in null
        if (found := words.quantity("smallest_kurtosis")(record)) and found.value is not None
    ]
    sentences = [
        board.by_sign(
            "Gaussian noise less real residuals from elsewhere, trained dictionaries",
            numbers,
            "noise costs more",
            "real residuals cost more",
        )
    ]
    if ends:
        sentences.append(
            f"Of the {len(null)} that are not told apart, joint intervals leave room for "
            f"{board.span(ends)} nats."
        )
    if powers:
        sentences.append(
            f"Power: the smallest elliptical kurtosis that could have shown is {board.span(powers)}; "
            f"{len(null) - len(powers)} could have shown none, however large. This null says that the loss "
            "hardly "
            "reads the shape of noise, not that the residual is Gaussian."
        )
    return str(words.bullets(sentences))


def ratio(rows: Board, first: Sequence[Record]) -> str:
    """ρ by sign, and what earlier work put below it.

    Args:
        first: trained dictionaries of protocol 1 at smollm2-135m/resid-15.
    """
    dictionaries = rows.dictionaries
    even = words.jointly(dictionaries, words.quantity("rho_even"))
    odd = words.jointly(dictionaries, words.quantity("rho_odd"))
    copies = [record for record in rows.text if words.format_of(record) == "identity"]
    exact = words.jointly(copies, words.quantity("rho_even"))
    above = words.sides(even, 1, 1).get("above", [])
    values = [number.value for _, number in even if number.value is not None]
    shares = [
        odd_number.value / (whole.value - 1)
        for record, odd_number in odd
        if (whole := words.quantity("gaussian_ratio")(record))
        and whole.value
        and odd_number.value is not None
        if whole.value > 1.2
    ]
    sentences = [
        "ρ even, the part that a change of sign leaves as it is, lies above 1 in "
        f"{board.count_of(above, len(even))} "
        f"trained dictionaries at the joint level; it runs from {format_value(min(values))} to "
        f"{format_value(max(values))}.",
        board.by_sign("ρ odd, the part that turns with the sign", odd, "above 0", "below 0"),
        f"Of what ρ exceeds 1 by, the odd part is {100 * min(shares):.0f} to {100 * max(shares):.0f} %, "
        f"{100 * median(shares):.0f} % at the median (rows with ρ above 1.2).",
        "The null: an exact copy, whose residual is nothing but the rounding of its codes, has ρ even "
        f"{', '.join(in_words(number) for _, number in exact)}: "
        + (
            "1 lies in every one of these joint intervals."
            if all(words.side(number, 1, 1) == "open" for _, number in exact)
            else "1 does not lie in all of these joint intervals."
        ),
    ]
    return str(words.stacked(words.bullets(sentences), dispute(rows, first)))


def dispute(rows: Board, rows_1: Sequence[Record]) -> str:
    """ρ by the noise below it: of the rows that have several, or of protocol 1 where none has."""
    deep = [
        (record, parts)
        for record in rows.text
        if (parts := record.metrics.ratio_parts) is not None and parts.others
    ]
    first = _isotropic(rows_1)
    if not deep:
        return str(
            words.bullets(
                [
                    first,
                    "The nulls of Lee and Heimersheim, `cov-random` and `activation-difference`, are of "
                    "the deep "
                    "plan (`remainder run smollm2-135m/resid-15 --with topk-sae-32 --rungs all`), by which "
                    "no "
                    "row of this page was measured. So this page does not settle their dispute.",
                ]
            )
        )
    notes = Notes()
    others = list(dict.fromkeys(name for _, parts in deep for name in parts.others))
    cells = []
    for record, parts in deep:
        numbers = [record.metrics.gaussian_ratio.isotropic, record.metrics.gaussian_ratio.fitted]
        numbers += [found for name in others if (found := parts.others.get(name))]
        cells.append([f"{record.task.id}, {words.name_of(record)}", *(words.cell(notes, n) for n in numbers)])
    headings = ("row", "ρ isotropic", "ρ fitted", *(f"ρ, {name}" for name in others))
    tests = 2 + len(others)
    sentences = [first]
    for record, parts in deep:
        known = {"isotropic": record.metrics.gaussian_ratio.isotropic} | {
            "fitted covariance": record.metrics.gaussian_ratio.fitted
        }
        wide = {
            name: words.joint(number, tests * len(deep), record.documents.documents)
            for name, number in (known | dict(parts.others)).items()
        }
        by = {
            where: [name for name, number in wide.items() if words.side(number, 1, 1) == where]
            for where in ("above", "open", "below")
        }
        parted = "; ".join(
            f"{label} {', '.join(names)}"
            for label, names in (
                ("above 1 with", by["above"]),
                ("not told from 1 with", by["open"]),
                ("below 1 with", by["below"]),
            )
            if names
        )
        sentences.append(
            f"{words.name_of(record)} at {record.task.id}: ρ is {parted} in the denominator, at the joint "
            "level. "
            + (
                "The answer turns with the null."
                if by["above"] and by["below"]
                else "All nulls agree on the side."
            )
            + f" Factors between the nested nulls ({', '.join(FACTORS.values())}) stand in the tables."
        )
    return str(words.stacked(words.bullets(sentences), words.table(headings, cells, notes)))


def _isotropic(rows: Sequence[Record]) -> str:
    """The first step of the dispute by protocol 1: directions at random against the residual's covariance."""
    random = words.jointly(rows, lambda record: record.metrics.gaussian_ratio.isotropic, tests=2)
    fitted = words.jointly(rows, lambda record: record.metrics.gaussian_ratio.fitted, tests=2)
    above = [
        one for (one, low), (_, high) in zip(random, fitted, strict=True) if (high.low or 0) > (low.high or 0)
    ]
    below = [
        one for (one, high), (_, low) in zip(random, fitted, strict=True) if (high.low or 0) > (low.high or 0)
    ]
    values = [[n.value for _, n in found if n.value is not None] for found in (random, fitted)]
    return (
        f"With noise in any direction, as Gurnee (2024) took it, ρ is {board.span(values[0])} for the "
        f"{len(rows)} dictionaries at smollm2-135m/resid-15 by protocol 1, and {board.span(values[1])} with "
        "noise of "
        f"the residual's own covariance: higher beyond joint intervals in {len(above)}, lower in "
        f"{len(below)}."
    )


class Sides(NamedTuple):
    """Rows by what integrating the noise out does; one that helps at an amplitude is not among those that "
    "harm."""

    helps: list[Record]
    harms: list[Record]
    open: list[Record]


def bath_sides(records: Sequence[Record]) -> Sides:
    """Rows by both amplitudes, at the joint level of rows and amplitudes."""
    places: dict[str, set[Side]] = {}
    for key in noise.DIFFERENCES:
        for record, number in words.jointly(records, words.quantity(key), tests=len(noise.DIFFERENCES)):
            places.setdefault(record.record_id, set()).add(words.side(number))
    known = [record for record in records if record.record_id in places]
    helps = [record for record in known if "below" in places[record.record_id]]
    harms = [
        record for record in known if "above" in places[record.record_id] and not words.among(record, helps)
    ]
    return Sides(helps, harms, [r for r in known if not words.among(r, [*helps, *harms])])


def bath(rows: Board) -> str:
    """The annealed Gaussian against none: whether integrating the noise out predicts better."""
    sentences = []
    for what, records in (
        ("trained dictionaries at sites of language models", rows.dictionaries),
        ("other rows there that leave something out", board.rest(rows.text)),
        ("sites of other networks", [r for r in rows.other if not words.is_bound(r)]),
    ):
        found = bath_sides(records)
        total = len(found.helps) + len(found.harms) + len(found.open)
        text = (
            f"{what.capitalize()}: noise helps at an amplitude in {board.count_of(found.helps, total)}, "
            "harms at "
            "one and helps "
            f"at none in {board.count_of(found.harms, total)}, and at neither a difference shows in "
            f"{board.count_of(found.open, total)}"
        )
        few = len(records) - total
        sentences.append(text + (f"; {few} have too few draws for an interval." if few else "."))
    chosen = words.jointly(rows.dictionaries, words.quantity(noise.DIFFERENCES[0]))
    halves = [(number.high - number.low) / 2 for _, number in chosen if words.side(number) == "open"]
    if halves:
        sentences.append(
            "Power: of dictionaries that are not told from none, half of the joint interval at amplitude "
            "0.6 is "
            f"{format_value(median(halves))} nats at the median; a smaller gain or harm would not show."
        )
    return str(words.bullets(sentences))
