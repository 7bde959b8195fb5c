"""Results of docs/findings.md: claims by intervals that hold together, and nulls with their power.

Each function takes rows of the board and gives Markdown. A claim of several rows is made of intervals at
the joint level of all of them (`findings_words.jointly`): a row is above a bound where the whole of that
interval is.

Source: protocol 2, section 10.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from remainder.record.number import Number
from remainder.record.rungs import CURVE
from remainder.record.schema import Record
from remainder.report.order_sections import FACTORS
from remainder.report.text import Notes, format_value, in_words
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_noise as noise
    import findings_words as words
    from findings_words import Side
else:
    noise, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py")) for name in ("noise", "words")
    )

WEAK = 0.25
"""The size of π within which the noise's cost is quadratic enough to be called weak."""
STRONG = 1.0
"""Quadratic order, nats a token, from which on a bath is called strong."""

Placed = Mapping["Side", Sequence[Record]]


class Board(NamedTuple):
    """The rows that results are about."""

    text: list[Record]
    """Rows at sites of language models."""
    other: list[Record]
    """Rows at sites of other networks: small ones, and compiled programs."""
    controls: list[Record]
    circuits: list[Record]

    @property
    def dictionaries(self) -> list[Record]:
        """Trained dictionaries at sites of language models."""
        return [record for record in self.text if words.is_dictionary(record)]

    @property
    def sites(self) -> list[Record]:
        """All rows at sites."""
        return [*self.text, *self.other, *self.controls]


def board(records: Sequence[Record]) -> Board:
    """Rows by what they are of. Those in which a finer interpretation stands in for the model are left "
    "out."""
    alone = [record for record in records if record.reference is None]
    sites = [record for record in alone if not record.is_of_circuits]
    return Board(
        text=[record for record in sites if words.is_text(record)],
        other=[r for r in sites if not words.is_text(r) and words.suite(r) != "controls"],
        controls=[record for record in sites if words.suite(record) == "controls"],
        circuits=[record for record in alone if record.is_of_circuits],
    )


def _jointly_on(records: Sequence[Record], key: str, place: Side, bound: float = 0.0) -> str:
    """How many of the rows that have a number lie there at the joint level, in words."""
    numbers = words.jointly(records, words.quantity(key))
    found = [record for record, number in numbers if words.side(number, bound, bound) == place]
    return f"{len(found)} of {len(numbers)}"


def abstract(rows: Board, circuits: Sequence[float], alike: Sequence[str], apart: bool) -> str:
    """The results in a few sentences.

    Args:
        circuits: range of faithfulness over backgrounds of each circuit of a public model.
        alike: the largest group of scores that say the same at sites of language models.
        apart: whether every default column of the board stands in a group of its own there.
    """
    own = rows.dictionaries
    sides = bath_sides(own)
    pairs, total = _orders_of_net_bits(rows)
    sentences = [
        f"We score {len(own)} trained dictionaries and {len(rows.sites) - len(own)} other rows at "
        f"{len({r.task.id for r in rows.sites})} sites, and {len(rows.circuits)} circuits, by what they "
        "leave out: "
        "how much it costs, and whether Gaussian noise of its covariance would cost the same.",
        f"Held against transform coding at equal bits, {_better(rows)} dictionaries lose less KL at some "
        "step of "
        "their quantiser.",
        f"What they leave out is not such noise: put where it belongs, it does more harm in "
        f"{_jointly_on(own, 'rho_even', 'above', 1.0)}, whatever its sign, and its sign matters in "
        f"{_jointly_on(own, 'rho_odd', 'above')}.",
        f"As a bath that is integrated out of the prediction, the noise helps in {len(sides.helps)}, harms "
        "in "
        f"{len(sides.harms)}, and makes no difference that shows in {len(sides.open)}.",
        f"Dictionaries save more bits than they cost in {_jointly_on(own, 'net_bits', 'above')}; of pairs of "
        f"dictionaries at one site KL orders {pairs} of {total} otherwise.",
        "That real residuals from elsewhere cost what Gaussian ones cost is a null of little power, which "
        "is stated.",
        "The faithfulness of a circuit moves with what its removed edges carry, by "
        f"{format_value(median(circuits))} "
        f"at the median of public models and by up to {format_value(max(circuits))}.",
        f"Of the scores of a row {len(alike)} say one thing ({', '.join(alike)}); "
        + (
            "each of the board's default columns says another."
            if apart
            else "not each of the board's default columns says another."
        ),
    ]
    return textwrap.fill(" ".join(sentences), words.WIDTH, break_long_words=False, break_on_hyphens=False)


def measured(rows: Board) -> str:
    """How many rows of what."""
    kinds = (
        ("sites of language models", rows.text),
        ("sites of other networks", rows.other),
        ("controls", rows.controls),
        ("circuits", rows.circuits),
    )
    cells = [
        [
            name,
            str(len({record.task.id for record in records})),
            str(len(records)),
            str(sum(map(words.is_dictionary, records))) if records and name != "circuits" else "–",
            _range([record.documents.documents for record in records]),
            _range([record.documents.tokens for record in records]),
        ]
        for name, records in kinds
        if records
    ]
    headings = (
        "rows of",
        "tasks",
        "rows",
        "trained dictionaries",
        "documents a task",
        "scored tokens a task",
    )
    return str(words.table(headings, cells, Notes()))


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,}–{max(numbers):,}"


def _names(records: Sequence[Record]) -> str:
    return ", ".join(f"{words.name_of(record)} at {record.task.id}" for record in records)


def _count(records: Sequence[Record], total: int) -> str:
    return f"{len(records)} of {total}{words.few(records)}"


def _by_sign(
    what: str, numbers: Sequence[tuple[Record, Number]], above: str, below: str, open_: str = "not told apart"
) -> str:
    """A sentence on how many rows lie on each side of 0, and the power of those that lie on none."""
    placed = words.sides(numbers)
    total = len(numbers)
    undecided = [*placed.get("open", []), *placed.get("within", [])]
    parts = [
        f"{word} in {_count(found, total)}"
        for word, found in ((above, placed.get("above", [])), (below, placed.get("below", [])))
        if found
    ]
    text = f"{what}: {', '.join(parts) or 'of no row is a sign told'}"
    return f"{text}; {open_} in {_count(undecided, total)}." if undecided else f"{text}."


# ------------------------------------------------------------------------------------------------- results


def price(rows: Board, decisions: str) -> str:
    """Bits against KL: each dictionary beside transform coding, over all points of its curve."""
    dictionaries = rows.dictionaries
    curves, better, worse = _against_transform_coding(rows)
    finest = words.jointly(dictionaries, words.quantity("efficiency"))
    known = [record for record, _ in finest]
    lacking = [record for record in dictionaries if not words.among(record, known)]
    sentences = [
        f"Of {len(curves)} trained dictionaries {len(better)} have less KL than transform coding at equal "
        "bits "
        f"at some step of their quantiser, at the joint level of all steps and rows; {len(worse)} have "
        "more at "
        f"every step{words.few(worse)}.",
        _by_sign("At the finest step alone", finest, "better", "worse"),
        *([f"Without an efficiency: {_names(lacking)}."] if lacking else []),
        decisions,
    ]
    return str(words.bullets(sentences))


def _against_transform_coding(rows: Board) -> tuple[list[Record], list[Record], list[Record]]:
    """Dictionaries with a curve; those better at some step; those worse at every one. At the joint level."""
    curves = [r for r in rows.dictionaries if r.metrics.coding and r.metrics.coding.points]
    better, worse = [], []
    for record in curves:
        coding = record.metrics.coding
        assert coding is not None
        points = [coding.points[name].efficiency for name in CURVE if name in coding.points]
        tests = len(curves) * len(CURVE)
        places = {words.side(words.joint(point, tests, record.documents.documents)) for point in points}
        better += [record] if "above" in places else []
        worse += [record] if places == {"below"} else []
    return curves, better, worse


def _better(rows: Board) -> str:
    curves, better, _ = _against_transform_coding(rows)
    return f"{len(better)} of {len(curves)}"


def orders(rows: Board) -> str:
    """The perturbativity map: how far the cost of Gaussian noise is quadratic in it, over the whole board."""
    own = rows.dictionaries
    numbers = words.jointly(rows.sites, words.quantity("perturbativity"))
    weak = [(r, n) for r, n in numbers if 0 < (_a2(r) or 0.0) < STRONG]
    strong = [(r, n) for r, n in numbers if (_a2(r) or 0.0) >= STRONG]
    turned = [(r, n) for r, n in numbers if (_a2(r) or 0.0) <= 0]
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
        _by_sign("There the cost of noise, against its quadratic order", weak, "more", "less"),
        _by_sign(f"Where that order is {STRONG:g} nat or more, the same", strong, "more", "less"),
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


def _a2(record: Record) -> float | None:
    terms = noise.loss_terms(record)
    return None if terms is None else terms.a2.value


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
        f"ρ even, the part that a change of sign leaves as it is, lies above 1 in {_count(above, len(even))} "
        f"trained dictionaries at the joint level; it runs from {format_value(min(values))} to "
        f"{format_value(max(values))}.",
        _by_sign("ρ odd, the part that turns with the sign", odd, "above 0", "below 0"),
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
        f"With noise in any direction, as Gurnee (2024) took it, ρ is {_span(values[0])} for the "
        f"{len(rows)} dictionaries at smollm2-135m/resid-15 by protocol 1, and {_span(values[1])} with "
        "noise of "
        f"the residual's own covariance: higher beyond joint intervals in {len(above)}, lower in "
        f"{len(below)}."
    )


def _span(values: Sequence[float]) -> str:
    return f"{format_value(min(values))} to {format_value(max(values))}"


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
        ("other rows there that leave something out", _rest(rows.text)),
        ("sites of other networks", [r for r in rows.other if not words.is_bound(r)]),
    ):
        found = bath_sides(records)
        total = len(found.helps) + len(found.harms) + len(found.open)
        text = (
            f"{what.capitalize()}: noise helps at an amplitude in {_count(found.helps, total)}, harms at "
            "one and helps "
            f"at none in {_count(found.harms, total)}, and at neither a difference shows in "
            f"{_count(found.open, total)}"
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


def _rest(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if not words.is_dictionary(record) and not words.is_bound(record)]


def lexical(rows: Board) -> str:
    """The nearest reconstruction by layer: how often it is of the same input token, and what it explains."""
    cells, shares = [], []
    near = [record for record in rows.text if "neighbour" in (record.calibration.conditional or {})]
    free = [record for record in near if not words.is_bound(record)]
    for task in words.tasks_of(free):
        own = [record for record in free if record.task.id == task]
        for what, chosen in (
            ("dictionaries", [record for record in own if words.is_dictionary(record)]),
            ("projections", [record for record in own if not words.is_dictionary(record)]),
        ):
            if not chosen:
                continue
            fits = [(record.calibration.conditional or {})["neighbour"] for record in chosen]
            same = [fit.same_token for fit in fits if fit.same_token is not None]
            share = [fit.explained for fit in fits if fit.explained is not None]
            shares += [(task, what, min(same), max(same))] if same else []
            cells.append(
                [
                    task,
                    f"{len(chosen)} {what if len(chosen) > 1 else what[:-1].replace('ie', 'y')}",
                    _percent(same),
                    _percent(share),
                ]
            )
    gains = words.jointly(free, _neighbour)
    tokens = [record for record in rows.text if "token" in record.metrics.rungs]
    sentences = [
        _by_sign(
            "Against a residual from anywhere, that of the nearest x̂",
            gains,
            "costs less",
            "costs more",
        ),
        _rising(free),
        (
            f"A residual that is the mean of its input token was measured of {_names(tokens)}."
            if tokens
            else "The residual's mean by input token, which would say what of it is lexical, is the rung "
            "`token` of the deep plan, by which no row was measured."
        ),
    ]
    headings = ("task", "rows", "nearest x̂ is of the same token", "R² of its residual, held out")
    return str(words.stacked(words.bullets(sentences), words.table(headings, cells, Notes())))


def _rising(records: Sequence[Record]) -> str:
    """In how many rows more calibration tokens still explain more at the end of the curve."""
    curves = [(r.calibration.conditional or {})["neighbour"].curve for r in records]
    ends = [[curve[rows] for rows in sorted(curve, key=int)[-2:]] for curve in curves if len(curve) > 1]
    many = sum(last > before for before, last in ends)
    return (
        f"From the last but one number of calibration tokens to the last, R² rises in {many} of "
        f"{len(ends)} rows: "
        "“not found” is always said of a kernel and a number of rows."
    )


def _percent(shares: Sequence[float]) -> str:
    if not shares:
        return "–"
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def _neighbour(record: Record) -> Number | None:
    """The loss with real residuals from elsewhere less that with those of the nearest x̂."""
    terms = record.metrics.conditional
    return None if terms is None else terms.samplers.get("neighbour")


def net_bits(rows: Board) -> str:
    """What codes save in describing x: by kind of interpretation, and by layer."""
    net = words.quantity("net_bits")
    trained, rest = words.jointly(rows.dictionaries, net), words.jointly(_rest(rows.text), net)
    sentences = [
        _by_sign(
            "Trained dictionaries at sites of language models", trained, "worth more than they cost", "less"
        ),
        _by_sign("Projections there", rest, "worth more than they cost", "less"),
    ]
    cells = []
    for task in words.tasks_of(rows.text):
        own = [record for record in rows.text if record.task.id == task]
        row = [task]
        dictionaries = list(filter(words.is_dictionary, own))
        for chosen in (dictionaries, _rest(own)):
            values = [n.value for record in chosen if (n := net(record)) and n.value is not None]
            row.append(_span(values) if len(values) > 1 else format_value(values[0]) if values else "–")
        placed = words.Rows(task, dictionaries)
        pairs, total = words.ordered_differently(placed, _negative, words.quantity("kl_coded"))
        unlike, of = words.ordered_differently(placed, _negative, _fvu)
        row += [f"{len(pairs)} of {total}" if total else "–", f"{len(unlike)} of {of}" if of else "–"]
        cells.append(row)
    lacking = [
        record for record in rows.dictionaries if (found := net(record)) is None or found.value is None
    ]
    if lacking:
        sentences.append(f"Without net bits: {_names(lacking)}.")
    headings = (
        *("task", "dictionaries, net bits", "projections, net bits"),
        *("pairs of dictionaries that KL orders otherwise", "that FVU orders otherwise"),
    )
    return str(words.stacked(words.bullets(sentences), words.table(headings, cells, Notes())))


def _orders_of_net_bits(rows: Board) -> tuple[int, int]:
    """Pairs of dictionaries of one site that net bits and KL put into opposite orders, and all pairs."""
    pairs = total = 0
    for task in words.tasks_of(rows.dictionaries):
        own = words.Rows(task, [record for record in rows.dictionaries if record.task.id == task])
        turned, of = words.ordered_differently(own, _negative, words.quantity("kl_coded"))
        pairs, total = pairs + len(turned), total + of
    return pairs, total


def _negative(record: Record) -> Number | None:
    found = words.quantity("net_bits")(record)
    return None if found is None or found.value is None else Number.bare(-found.value, "for its order alone")


def _fvu(record: Record) -> Number | None:
    return None if record.metrics.description is None else record.metrics.description.fvu


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
        _by_sign(
            "Gaussian noise less real residuals from elsewhere, trained dictionaries",
            numbers,
            "noise costs more",
            "real residuals cost more",
        )
    ]
    if ends:
        sentences.append(
            f"Of the {len(null)} that are not told apart, joint intervals leave room for {_span(ends)} nats."
        )
    if powers:
        sentences.append(
            f"Power: the smallest elliptical kurtosis that could have shown is {_span(powers)}; "
            f"{len(null) - len(powers)} could have shown none, however large. This null says that the loss "
            "hardly "
            "reads the shape of noise, not that the residual is Gaussian."
        )
    return str(words.bullets(sentences))
