"""Results of docs/findings.md on codes and what they tell, what was measured, and the abstract.

A claim of several rows is made of intervals at the joint level of all of them (`findings_words.jointly`).

Source: protocol 2, sections 4 to 6 and 10.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from remainder.record.number import Number
from remainder.record.rungs import CURVE
from remainder.record.schema import Record
from remainder.report.text import Notes, format_value
from remainder.task.script import load_script

if TYPE_CHECKING:
    import findings_board as board
    import findings_residual as residual
    import findings_words as words
    from findings_board import Board
else:
    board, residual, words = (
        load_script(Path(__file__).with_name(f"findings_{name}.py"))
        for name in ("board", "residual", "words")
    )


def abstract(rows: Board, circuits: Sequence[float], alike: Sequence[str], apart: bool) -> str:
    """The results in a few sentences.

    Args:
        circuits: range of faithfulness over backgrounds of each circuit of a public model.
        alike: the largest group of scores that say the same at sites of language models.
        apart: whether every default column of the board stands in a group of its own there.
    """
    own = rows.dictionaries
    sides = residual.bath_sides(own)
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
        f"{board.jointly_on(own, 'rho_even', 'above', 1.0)}, whatever its sign, and its sign matters in "
        f"{board.jointly_on(own, 'rho_odd', 'above')}.",
        f"As a bath that is integrated out of the prediction, the noise helps in {len(sides.helps)}, harms "
        "in "
        f"{len(sides.harms)}, and makes no difference that shows in {len(sides.open)}.",
        f"Dictionaries save more bits than they cost in {board.jointly_on(own, 'net_bits', 'above')}; of "
        "pairs of "
        f"dictionaries at one site KL orders {pairs} of {total} otherwise.",
        "That real residuals from elsewhere cost what Gaussian ones cost is a null of little power, which "
        "is stated.",
        "The faithfulness of a circuit moves with what its removed edges carry, by "
        f"{format_value(median(circuits))} "
        f"at the median of public models and by up to {format_value(max(circuits))}.",
        f"Of the scores of a row {len(alike)} say one thing ({', '.join(alike)}); "
        + (
            "each default column of the board that rows have says another."
            if apart
            else "not each default column of the board says another."
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
        board.by_sign("At the finest step alone", finest, "better", "worse"),
        *([f"Without an efficiency: {board.names(lacking)}."] if lacking else []),
        f"{decisions} Pairs are judged one by one here, each at 95 %.",
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
        board.by_sign(
            "Against a residual from anywhere, that of the nearest x̂",
            gains,
            "costs less",
            "costs more",
        ),
        _rising(free),
        (
            f"A residual that is the mean of its input token was measured of {board.names(tokens)}."
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
    trained, rest = words.jointly(rows.dictionaries, net), words.jointly(board.rest(rows.text), net)
    sentences = [
        board.by_sign(
            "Trained dictionaries at sites of language models", trained, "worth more than they cost", "less"
        ),
        board.by_sign("Projections there", rest, "worth more than they cost", "less"),
    ]
    cells = []
    for task in words.tasks_of(rows.text):
        own = [record for record in rows.text if record.task.id == task]
        row = [task]
        dictionaries = list(filter(words.is_dictionary, own))
        for chosen in (dictionaries, board.rest(own)):
            values = [n.value for record in chosen if (n := net(record)) and n.value is not None]
            row.append(board.span(values) if len(values) > 1 else format_value(values[0]) if values else "–")
        placed = words.Rows(task, dictionaries)
        pairs, total = words.ordered_differently(placed, _negative, words.quantity("kl_coded"))
        unlike, of = words.ordered_differently(placed, _negative, _fvu)
        row += [f"{len(pairs)} of {total}" if total else "–", f"{len(unlike)} of {of}" if of else "–"]
        cells.append(row)
    lacking = [
        record for record in rows.dictionaries if (found := net(record)) is None or found.value is None
    ]
    if lacking:
        sentences.append(f"Without net bits: {board.names(lacking)}.")
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
