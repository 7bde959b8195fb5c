"""Figures of circuits over their size: where things stand, what is told in words, what is escaped."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values

from remainder.board.curves import Named, curves_of, overlay
from remainder.board.numbers import within
from remainder.board.svg import Frame, Scale, whisker
from remainder.record.metrics import CircuitMetrics, CircuitPoint, CircuitRung
from remainder.record.number import Number
from remainder.record.schema import CircuitSize, Record

RUNGS = ("counterfactual", "raw", "full")
LEFT, RIGHT, TOP, BOTTOM = 48.0, 506.0, 26.0, 276.0


def number(value: float, width: float = 0.05) -> Number:
    return Number(value=value, low=value - width, high=value + width)


def rung(f: float, kl: float, width: float = 0.05) -> CircuitRung:
    return CircuitRung(answer=number(f), faithfulness=number(f, width), gap=number(kl), kl=number(kl, width))


def circuit(
    sizes: tuple[str, ...], *, edges: int = 1000, name: str = "ranking", width: float = 0.05, f: float = 1.0
) -> Record:
    """A record of circuits whose f is f times its share, and its KL 4 less 4 times the share."""
    record = synthetic_record(synthetic_values(), name=name)
    points: dict[str, CircuitPoint] = {}
    costs: dict[str, CircuitSize] = {}
    for size in (*sizes, "headline"):
        share = 0.1 if size == "headline" else float(size.lstrip("+"))
        values = rung(f * share, 4 - 4 * share, width)
        points[size] = CircuitPoint(rungs=dict.fromkeys(RUNGS, values))
        costs[size] = CircuitSize(edges=round(edges * share), nodes=9, bits=12.5)
    points["headline"] = CircuitPoint(rungs={**points["headline"].rungs, "permuted": rung(0.3, 2.0)})
    metrics = CircuitMetrics(answer=number(3.0), points=points, cpr={}, cmd={})
    changes: dict[str, Any] = {
        "metrics": record.metrics.model_copy(update={"circuit": metrics}),
        "complexity": record.complexity.model_copy(update={"circuits": costs, "features": edges}),
    }
    return record.model_copy(update=changes)


SIZES = ("0", "0.01", "0.1", "1")


class Page(HTMLParser):
    """Elements with their attributes, and texts by the element that they stand in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._at = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at = tag
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self._at, data))


def test_sizes_stand_on_a_scale_that_is_logarithmic_beyond_the_smallest() -> None:
    curve = curves_of(circuit(SIZES))
    assert curve is not None
    drawing = str(curve.panels[0].drawing)
    dots = [
        (float(x), float(y))
        for x, y in re.findall(r'<circle class="third best" cx="([\d.]+)" cy="([\d.]+)"', drawing)
    ]
    # 4 % of room beyond the largest; asinh(share / 0.01), as the module says.
    span = math.asinh(100) * 1.04
    for (x, y), share in zip(dots, map(float, SIZES), strict=True):
        assert x == pytest.approx(LEFT + math.asinh(share / 0.01) / span * (RIGHT - LEFT), abs=0.06)
        low, high = -0.05, 1.05
        room = 0.04 * (high - low)
        assert y == pytest.approx(
            BOTTOM - (share - low + room) / (high - low + 2 * room) * (BOTTOM - TOP), abs=0.06
        )


def test_every_number_is_in_the_table_and_in_words() -> None:
    curve = curves_of(circuit((*SIZES, "+0.1")))
    assert curve is not None
    assert [row[0].value for row in curve.grid.rows] == ["headline", *SIZES, "+0.1"]
    heads = curve.grid.headings
    assert heads[:3] == ("size", "edges", "bits")
    row = dict(zip(heads, curve.grid.rows[3], strict=True))
    assert (row["edges"].value, row["f, counterfactual"].value, row["KL raw"].value) == (
        "100",
        "0.100",
        "3.60",
    )
    assert row["f, counterfactual"].interval == "[0.050, 0.150]"
    assert row["f, another prompt"].note == "not measured"
    page = Page(str(curve.panels[0].drawing))
    ((_, svg), *_) = page.elements
    known = {attributes.get("id") for _, attributes in page.elements}
    assert svg["role"] == "img"
    assert {svg["aria-labelledby"], svg["aria-describedby"]} <= known
    (said,) = [text for tag, text in page.texts if tag == "desc"]
    assert "counterfactual: 0.000 at 0 %, 0.010 at 1 %, 0.100 at 10 %, 1.00 at 100 %" in said
    assert [key.name for key in curve.keys][-2:] == [
        "another prompt",
        "counterfactual, edges chosen by signed scores",
    ]


def test_a_single_circuit_has_no_curve_and_is_a_point_among_others() -> None:
    single = circuit(("0",), name="single")
    assert curves_of(single) is None
    assert curves_of(synthetic_record(synthetic_values())) is None
    assert overlay([Named("single", single, "x.html")], "t") is None
    both = [Named("ranking", circuit(SIZES), "a.html"), Named("single", single, "b.html")]
    curve = overlay(both, "tier-1")
    assert curve is not None
    assert len(curve.panels) == 4
    assert [key.name for key in curve.keys] == ["ranking", "single circuits: single"]
    drawing = str(curve.panels[0].drawing)
    assert drawing.count('class="single best"') == 1
    assert "single at 10 %: 0.100" in drawing
    ids = re.findall(r' id="([^"]+)"', "".join(str(panel.drawing) for panel in curve.panels))
    assert len(ids) == len(set(ids)) == 8
    assert [row[0].value for row in curve.grid.rows] == ["ranking"] * 4 + ["single"] * 2


def test_more_rankings_than_can_be_told_apart_are_counted() -> None:
    rows = [Named(f"ranking-{index}", circuit(SIZES), f"{index}.html") for index in range(11)]
    curve = overlay(rows, "tier-1")
    assert curve is not None
    assert len(curve.keys) == 8
    assert "3 more rankings are in the table below only." in curve.caption


def test_an_interval_that_would_flatten_the_figure_ends_in_an_arrow() -> None:
    """A committed record has an interval of KL of 700,000 nats around values of 9."""
    wide = curves_of(circuit(SIZES, width=1e5))
    narrow = curves_of(circuit(SIZES))
    assert wide is not None
    assert narrow is not None
    places = [float(y) for y in re.findall(r'cy="([\d.]+)"', str(wide.panels[0].drawing))]
    assert max(places) - min(places) > 150
    for panel, other in zip(wide.panels, narrow.panels, strict=True):
        assert not re.search(r"nan|inf", str(panel.drawing))
        assert str(panel.drawing).count("<polygon") > str(other.drawing).count("<polygon")
    values = [number(1.0), number(2.0, 1e6), Number.null("why")]
    assert set(within(values)) == {0.95, 1.0, 1.05, 2.0}
    assert within([Number.null("why")]) == []


def test_f_far_from_one_is_drawn_logarithmically() -> None:
    curve = curves_of(circuit(SIZES, f=-50.0))
    assert curve is not None
    ticks = [text for tag, text in Page(str(curve.panels[0].drawing)).texts if tag == "text"]
    assert {"−10", "−1", "0", "1"} <= set(ticks)


def test_arrows_point_where_the_interval_goes_on() -> None:
    frame = Frame(0.0, 100.0, 0.0, 100.0)
    assert str(whisker((20.0, 80.0), 5.0, frame, "raw", upright=True)).count("polygon") == 0
    above = str(whisker((-20.0, 80.0), 5.0, frame, "raw", upright=True))
    assert 'y1="0" x2="5" y2="80"' in above
    assert above.count("<polygon") == 1
    assert str(whisker((-20.0, 180.0), 5.0, frame, "raw", upright=False)).count("<polygon") == 2


def test_a_scale_takes_a_knee() -> None:
    scale = Scale([0.0, 1.0, 50.0], 0.0, 100.0, knee=1.0)
    assert scale(50.0) - scale(5.0) == pytest.approx(
        (math.asinh(50) - math.asinh(5)) / math.asinh(50) / 1.04 * 100
    )
    assert Scale([0.2, 10.0], 0.0, 104.0, knee=0.0)(5.0) == pytest.approx(50.0)


@pytest.mark.parametrize(
    "name", ['"><script>alert(1)</script>', "' onload='alert(1)", "good\u202egnp", "{{ 7 * 7 }}", "a" * 9000]
)
def test_names_are_escaped_and_short(name: str) -> None:
    record = circuit(SIZES).model_copy(
        update={"submission": circuit(SIZES).submission.model_copy(update={"name": name})}
    )
    curve = overlay([Named(name, record, "a.html")], "tier-1")
    own = curves_of(record)
    assert curve is not None
    assert own is not None
    for panel in (*curve.panels, *own.panels):
        page = Page(str(panel.drawing))
        assert "script" not in {tag for tag, _ in page.elements}
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
        assert "\u202e" not in str(panel.drawing)
        assert len(panel.drawing) < 40_000
