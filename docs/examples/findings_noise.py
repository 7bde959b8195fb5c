"""Sections of docs/findings.md on the Gaussian residual: what it costs, order by order, and as a bath.

Each function takes the rows of a task and gives Markdown. Its sentences follow from the numbers by rules that
stand here: an interval wholly on one side is that side, one that holds the bound is open.

Source: protocol 2, sections 1 to 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from remainder.record.metrics import OrderTerms
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.order_sections import FACTORS, INTERACTING, factor_of
from remainder.report.text import Notes, format_value
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_words as words
    from findings_words import Rows, Side
else:
    words = load_script(Path(__file__).with_name("findings_words.py"))


def interaction(rows: Rows) -> str:
    """Whether the quenched Gaussian KL is arithmetic of two other KL."""
    notes = Notes()
    cells = [
        [
            words.name_of(record),
            *(words.cell(notes, words.kl(record, rung)) for rung in ("mean", "noise-centred", "full")),
            words.cell(notes, words.quantity("interaction")(record)),
        ]
        for record in rows.records
    ]
    headings = ("submission", "KL mean", "KL of noise around x", "KL Gaussian", "interaction")
    bound = INTERACTING
    labels: dict[Side, str] = {
        "within": f"Within ±{bound:g}, so that the Gaussian column is arithmetic",
        "above": f"Above {bound:g} (noise costs more at x̂ than at x)",
        "below": f"Below −{bound:g} (noise costs less at x̂ than at x)",
        "open": f"Not resolved to {bound:g}",
        "missing": "Without a number or interval",
    }
    said = words.told(words.by_side(rows, words.quantity("interaction"), -bound, bound), labels)
    pairs, total = words.ordered_differently(
        rows, lambda record: words.kl(record, words.object_rung(record)), words.quantity("kl_gaussian")
    )
    swapped = ", ".join(f"`{one}` and `{other}`" for one, other in pairs[:5])
    said.append(
        f"Of {total} pairs of rows, KL of the bare reconstruction and Gaussian KL put {len(pairs) or 'none'} "
        f"into opposite orders" + (f": {swapped}." if pairs else ".")
    )
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said))


BEYOND_SECOND: dict[Side, str] = {
    "above": "Noise costs more than its quadratic order",
    "below": "It costs less",
    "open": "Not told from the quadratic order",
    "missing": "No π",
}


def loss_terms(record: Record) -> OrderTerms | None:
    return None if record.metrics.orders is None else record.metrics.orders.loss


def kl_terms(record: Record) -> OrderTerms | None:
    return None if record.metrics.orders is None else record.metrics.orders.kl


def enough(terms: OrderTerms | None) -> str:
    """Whether two terms are enough, in a word."""
    return {True: "yes", False: "no", None: "–"}[None if terms is None else terms.converges]


def orders(rows: Rows) -> str:
    """The loss order by order in the Gaussian residual, less that of the clean model."""
    notes = Notes()
    fields = ("zero", "one", "two", "sampled", "remainder", "perturbativity")
    cells = []
    for record in rows.records:
        of_loss, of_kl = loss_terms(record), kl_terms(record)
        numbers = [getattr(of_loss, field) if of_loss else None for field in fields]
        cells.append(
            [
                words.name_of(record),
                *(words.cell(notes, number) for number in numbers),
                enough(of_loss),
                words.cell(notes, of_kl.perturbativity if of_kl else None),
                enough(of_kl),
            ]
        )
    headings = (
        *("submission", "zero", "one", "two", "sampled", "two − sampled", "π", "two enough"),
        *("π of KL", "two enough for KL"),
    )
    said = []
    for what, of in (("the loss", loss_terms), ("KL", kl_terms)):
        for answer, label in (("yes", "are enough"), ("no", "are not enough"), ("–", "cannot be judged")):
            having = [record.submission.name for record in rows.records if enough(of(record)) == answer]
            if having:
                said.append(f"For {what} two terms {label}: {words.named(having, len(rows.records))}.")
    placed = words.by_side(rows, words.quantity("perturbativity"))
    said += [f"π of the loss. {sentence}" for sentence in words.told(placed, BEYOND_SECOND)]
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said))


def shape_of(record: Record) -> Number | None:
    return None if record.metrics.orders is None else record.metrics.orders.shape


def shape(rows: Rows) -> str:
    """The term `shape`, with the smallest kurtosis that it could have shown."""
    notes = Notes()
    tested = any(record.metrics.gaussianity for record in rows.records)
    cells = []
    for record in rows.records:
        row = [
            words.name_of(record),
            words.cell(notes, shape_of(record)),
            words.cell(notes, words.quantity("smallest_kurtosis")(record)),
        ]
        tests = record.metrics.gaussianity
        cells.append(
            [*row, format_value(tests.radial_kurtosis.value) if tests else "deep plan"] if tested else row
        )
    headings = ("submission", "shape", "smallest κ̂ that could show", *(["κ̂ measured"] if tested else []))
    placed = words.by_side(rows, shape_of)
    labels: dict[Side, str] = {
        "above": "Above 0 (Gaussian noise costs more than real residuals from elsewhere)",
        "below": "Below 0 (real residuals from elsewhere cost more than Gaussian noise)",
        "missing": "Without a number or interval",
    }
    said = words.told(placed, labels)
    if placed.get("open"):
        said.append(_power(rows, placed["open"]))
    if not tested:
        said.append(
            "κ̂ of the residual itself is of the deep plan, which no row of this task was measured by."
        )
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said))


def _power(rows: Rows, null: list[str]) -> str:
    """The sentence on rows whose shape is not told from 0: what could have shown."""
    powers = [
        value for value, name in words.values(rows, words.quantity("smallest_kurtosis")) if name in null
    ]
    said = f"Not told from 0: {words.named(null, len(rows.records))}. "
    if not powers:
        return said + "No kurtosis could have shown in them: a₄ is not told from 0 either."
    least, most = format_value(min(powers)), format_value(max(powers))
    reach = least if least == most else f"{least} to {most}, by row,"
    return said + f"These zeros carry their power: no elliptical kurtosis below {reach} could have shown."


DIFFERENCES = ("annealed_difference_0.6", "annealed_difference")
"""Keys of annealed − mean at the two amplitudes."""
PAYING = {
    "both": "The bath pays at both amplitudes",
    "one": "It pays at one of them",
    "none": "It pays at neither",
    "null": "A difference is null, and the other, if there is one, does not pay",
}


def _pays(verdicts: list[bool | None]) -> str:
    """The key of `PAYING` that these verdicts are of."""
    if any(verdicts):
        return "both" if all(verdicts) else "one"
    return "none" if verdicts and None not in verdicts else "null"


def bath(rows: Rows) -> str:
    """Annealed loss of the Gaussian bath less the loss with the mean residual."""
    notes = Notes()
    cells = []
    paying: dict[str, list[str]] = {verdict: [] for verdict in PAYING}
    for record in rows.records:
        points = record.metrics.bath or ()
        verdict = _pays([point.pays for point in points])
        paying[verdict].append(record.submission.name)
        differences = (words.quantity(key)(record) for key in DIFFERENCES)
        cells.append(
            [
                words.name_of(record),
                *(words.cell(notes, number) for number in differences),
                ", ".join(f"{point.amplitude:g}" for point in points if point.pays) or "–",
            ]
        )
    headings = ("submission", "annealed − mean, noise × 0.6", "noise × 1", "pays at")
    total = len(rows.records)
    said = [f"{PAYING[verdict]}: {words.named(names, total)}." for verdict, names in paying.items() if names]
    lowest = [found[0] for key in DIFFERENCES if (found := words.values(rows, words.quantity(key)))]
    if lowest and min(lowest)[0] < 0:
        value, name = min(lowest)
        said.append(f"The lowest difference is {format_value(value)} nats a token (`{name}`).")
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said))


def ratio(rows: Rows) -> str:
    """ρ by the sign of the residual, by amplitude, and by what stands below it."""
    notes = Notes()
    keys = ("gaussian_ratio", "rho_even", "rho_odd")
    cells = []
    for record in rows.records:
        parts = record.metrics.ratio_parts
        numbers = [*(words.quantity(key)(record) for key in keys), parts.mean_kl if parts else None]
        cells.append([words.name_of(record), *(words.cell(notes, number) for number in numbers)])
    headings = ("submission", "ρ", "even", "odd", "KL(x − μ)")
    said = [
        f"ρ odd. {sentence}"
        for sentence in words.told(words.by_side(rows, words.quantity("rho_odd")), words.SIGNS)
    ]
    even = words.values(rows, words.quantity("rho_even"))
    if even:
        (low, first), (high, last) = even[0], even[-1]
        said.append(
            f"ρ even runs from {format_value(low)} (`{first}`) to {format_value(high)} (`{last}`); rows of "
            "different size are compared by ρ₀ alone."
        )
    return words.stacked(rows.title, words.table(headings, cells, notes), words.bullets(said), _nulls(rows))


def _nulls(rows: Rows) -> str:
    """ρ₀, the factors between nested nulls, and other denominators, of rows that have them."""
    deep = [
        (record, parts)
        for record in rows.records
        if (parts := record.metrics.ratio_parts) is not None and parts.factors
    ]
    if not deep:
        return (
            "ρ₀, the nested nulls and the noises of earlier work are of the deep plan (`--rungs all`), which "
            "no row of this task was measured by."
        )
    notes = Notes()
    others = list(dict.fromkeys(name for _, parts in deep for name in parts.others))
    cells = []
    for record, parts in deep:
        factors = [factor_of(parts.factors[name]) if name in parts.factors else None for name in FACTORS]
        numbers = [
            parts.small,
            record.metrics.gaussian_ratio.isotropic,
            *factors,
            *map(parts.others.get, others),
        ]
        cells.append([words.name_of(record), *(words.cell(notes, number) for number in numbers)])
    headings = ("submission", "ρ₀", "ρ isotropic", *(f"× {what}" for what in FACTORS.values()), *others)
    above = "Rows of the deep plan. ρ isotropic is the product of the four factors beside it."
    if others:
        above += " Columns after these have other noise in the denominator."
    return words.stacked(above, words.table(headings, cells, notes))
