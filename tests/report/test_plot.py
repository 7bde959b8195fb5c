"""Figures: the record's numbers at their places, no text over another, and files whole or not there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text
from scipy import stats
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values
from tests.report.test_explain import GAPS, KINDS, full_record, short_record, with_metrics

from remainder.errors import RecordError
from remainder.record.number import Number
from remainder.record.schema import Record
from remainder.report.ladder import ladder
from remainder.report.plot import explanation, overview, save

PARTS = {
    "telescope": "Where the Gaussian gap comes from",
    "couplings": "Gap over the amplitude α of the noise",
    "gaussianity": "Length of the whitened residual",
    "perturbative": "As cumulants fade",
    "orders": "Order by order in the noise",
    "ratio_parts": "ρ by what the noise shares with the residual",
}
"""Optional parts of a record, and the title of the panel of each."""


@pytest.fixture(scope="module")
def record() -> Record:
    return full_record()


@pytest.fixture(scope="module")
def panels(record: Record) -> dict[str, Axes]:
    return by_title(explanation(record))


def by_title(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def marked(axes: Axes, marker: str) -> list[Line2D]:
    """Lines that show data with this marker; those of the legend hold none."""
    return [line for line in axes.get_lines() if line.get_marker() == marker and len(line.get_xydata())]


def whiskers(axes: Axes) -> list[tuple[float, float, float]]:
    """Place, lower and upper end of every vertical interval."""
    return [(line.get_xdata()[0], min(line.get_ydata()), max(line.get_ydata())) for line in marked(axes, "_")]


# ----------------------------------------------------------------------------------- what the panels show


def test_the_ladder_shows_every_gap_with_its_interval(record: Record, panels: dict[str, Axes]) -> None:
    axes, rungs = panels["Every rung"], ladder(record)
    assert [label.get_text() for label in axes.get_yticklabels()] == [rung.name for rung in rungs]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first rung on top
    for marker, numbers in (
        ("o", {place: rung.gap for place, rung in enumerate(rungs)}),
        ("D", {i: rung.annealed for i, rung in enumerate(rungs) if rung.annealed.value is not None}),
    ):
        shown = {round(float(line.get_ydata()[0])): line.get_xdata()[0] for line in marked(axes, marker)}
        assert shown == {place: number.value for place, number in numbers.items()}
    bars = {tuple(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata()) == 2}
    for rung in rungs:
        assert (rung.gap.low, rung.gap.high) in bars


def test_the_waterfall_climbs_from_clean_to_the_gaussian_gap(record: Record, panels: dict[str, Axes]) -> None:
    axes, telescope = panels[PARTS["telescope"]], record.metrics.telescope
    assert telescope is not None
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    rest, dependence, shape, total = bars
    for bar, number in zip(
        bars, (telescope.rest, telescope.dependence, telescope.shape, telescope.total), strict=True
    ):
        assert bar.get_height() == pytest.approx(number.value)
    assert rest.get_y() == total.get_y() == 0
    assert dependence.get_y() == pytest.approx(rest.get_height())
    assert shape.get_y() == pytest.approx(rest.get_height() + dependence.get_height())
    assert shape.get_y() + shape.get_height() == pytest.approx(total.get_height(), abs=2e-6)
    for (place, low, high), number in zip(
        whiskers(axes), (telescope.rest, telescope.dependence, telescope.shape, telescope.total), strict=True
    ):
        start = bars[int(place)].get_y()
        assert (low - start, high - start) == pytest.approx((number.low, number.high), abs=1e-9)
    hatches = [bar.get_hatch() for bar in bars]
    assert len(set(hatches)) == 4  # told apart without colours
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[2].startswith(f"shape\n−{-(telescope.shape.value or 0):.3f}\n± ")


def test_gaps_over_the_amplitude_are_those_with_the_source_as_it_is(
    record: Record, panels: dict[str, Axes]
) -> None:
    axes, couplings = panels[PARTS["couplings"]], record.metrics.couplings
    assert couplings is not None
    points = {point.alpha: point for point in couplings.grid if point.beta == 1}
    assert len(points) == 6 < len(couplings.grid)
    for marker, part in (("o", "quenched"), ("D", "annealed")):
        (line,) = marked(axes, marker)
        assert line.get_label() == part
        shown = dict(zip(*line.get_data(), strict=True))
        assert list(shown) == sorted(shown)
        assert shown == {alpha: getattr(point, part).value for alpha, point in points.items()}
    (span,) = axes.patches
    assert isinstance(span, Rectangle)
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx(
        (couplings.alpha.low, couplings.alpha.high)
    )
    (best,) = (line for line in axes.get_lines() if str(line.get_label()).startswith("best"))
    assert best.get_xdata()[0] == couplings.alpha.value
    assert len(whiskers(axes)) == 12


def test_lengths_are_beside_the_chi_law(record: Record, panels: dict[str, Axes]) -> None:
    axes, gaussianity = panels[PARTS["gaussianity"]], record.metrics.gaussianity
    assert gaussianity is not None
    assert axes.get_yscale() == "log"
    counts, edges = np.array(gaussianity.radii.counts), np.array(gaussianity.radii.edges)
    drawn, law = (patch for patch in axes.patches if isinstance(patch, StepPatch))
    assert np.array_equal(drawn.get_data().edges, edges)
    assert np.array_equal(drawn.get_data().values[counts > 0], counts[counts > 0])
    # The squared length has the χ² law of as many degrees.
    expected = counts.sum() * (
        stats.chi2.cdf(edges[1:] ** 2, gaussianity.rank) - stats.chi2.cdf(edges[:-1] ** 2, gaussianity.rank)
    )
    seen = expected > axes.get_ylim()[0]
    assert law.get_data().values[seen] == pytest.approx(expected[seen])
    assert seen.any()
    (crosses,) = marked(axes, "x")
    centres = (edges[1:] + edges[:-1])[counts == 0] / 2
    assert crosses.get_xdata() == pytest.approx(centres)
    assert len(centres) > 0


def test_the_curve_of_cumulants_goes_through_its_coefficients(
    record: Record, panels: dict[str, Axes]
) -> None:
    axes, fit = panels[PARTS["perturbative"]], record.metrics.perturbative
    assert fit is not None
    (curve,) = (
        line for line in axes.get_lines() if line.get_linestyle() == "--" and line.get_label()[0] == "$"
    )
    x, y = curve.get_data()
    assert (x[0], x[-1]) == (0, 1)
    limit, c1, c2 = (number.value or 0.0 for number in (fit.limit, fit.c1, fit.c2))
    assert (y[0], y[-1]) == pytest.approx((limit, limit + c1 + c2))
    middle = np.interp(0.5, x, y)  # m = 4
    assert middle == pytest.approx(limit + c1 / 2 + c2 / 4)
    shown = {
        round(float(line.get_xdata()[0]), 9): line.get_ydata()[0]
        for marker in "Dos"
        for line in marked(axes, marker)
    }
    rungs = {rung.name: rung.gap.value for rung in ladder(record)}
    wanted = {1 / np.sqrt(m): rungs[f"perturbative-{m}"] for m in (2, 4, 8, 32)}
    wanted |= {0.0: rungs["full-unshrunk"], 1.0: rungs["permuted"]}
    assert shown == {round(float(place), 9): value for place, value in wanted.items()}
    assert len(whiskers(axes)) == 6


def test_orders_are_two_curves_through_the_mean_and_the_bath_stands_below(
    record: Record, panels: dict[str, Axes]
) -> None:
    axes, orders = panels[PARTS["orders"]], record.metrics.orders
    assert orders is not None
    terms = orders.loss
    zero, a2, a4 = (number.value or 0.0 for number in (terms.zero, terms.a2, terms.a4))
    for label, end in (("quadratic", zero + a2), ("two terms", zero + a2 + a4)):
        (curve,) = (line for line in axes.get_lines() if line.get_label() == label)
        x, y = curve.get_data()
        assert y[0] == pytest.approx(zero)
        assert np.interp(1.0, x, y) == pytest.approx(end)
    sampled = {line.get_xdata()[0]: line.get_ydata()[0] for line in marked(axes, "o")}
    gaps = {rung.name: rung.gap.value for rung in ladder(record)}
    assert sampled == {0.0: zero, 0.3: gaps["full-0.3"], 0.6: gaps["full-0.6"], 1.0: gaps["full"]}
    assert record.metrics.bath is not None
    bath = {point.amplitude: point.difference.value for point in record.metrics.bath}
    drawn = {line.get_xdata()[0]: line.get_ydata()[0] - zero for line in marked(axes, "D")}
    assert drawn == pytest.approx({size: value for size, value in bath.items() if value is not None})


def test_ratios_stand_on_a_log_axis_by_name(record: Record, panels: dict[str, Axes]) -> None:
    axes, parts = panels[PARTS["ratio_parts"]], record.metrics.ratio_parts
    assert parts is not None
    assert axes.get_xscale() == "log"
    names = [label.get_text() for label in axes.get_yticklabels()]
    shown = {
        names[int(line.get_ydata()[0])]: line.get_xdata()[0]
        for marker in "osD"
        for line in marked(axes, marker)
    }
    wanted = {name: number.value for name, number in parts.others.items()}
    ratio = record.metrics.gaussian_ratio
    wanted |= {"isotropic": ratio.isotropic.value, "fitted covariance": ratio.fitted.value}
    wanted |= {"both": ratio.directional.value, "even": parts.even.value, "even, × 0.3": parts.small.value}
    assert shown == wanted
    low, high = axes.get_xlim()
    assert low < min(wanted.values()) < max(wanted.values()) < high


# ----------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("gaussianity",),
        ("telescope", "perturbative"),
        ("couplings", "gaussianity"),
        ("telescope", "couplings", "gaussianity"),
        tuple(PARTS),
    ],
)
def test_panels_without_data_are_left_out(record: Record, kept: tuple[str, ...]) -> None:
    figure = explanation(with_metrics(record, **{part: None for part in PARTS if part not in kept}))
    assert set(by_title(figure)) == {"Every rung", *(PARTS[part] for part in kept)}


def test_numbers_that_are_missing_leave_their_panel_out_or_a_dash(record: Record) -> None:
    telescope = record.metrics.telescope
    assert telescope is not None
    without = telescope.model_copy(update={"rest": Number.null("none")})
    rungs = dict(record.metrics.rungs)
    quenched = rungs["mean"].quenched.model_copy(update={"gap": Number.null("none")})
    rungs["mean"] = rungs["mean"].model_copy(update={"quenched": quenched})
    couplings = record.metrics.couplings
    assert couplings is not None
    grid = [
        point.model_copy(update={"quenched": Number.null("none")})
        if (point.alpha, point.beta) == (0.3, 1.0)
        else point
        for point in couplings.grid
    ]
    changed = couplings.model_copy(update={"alpha": Number.bare(0.5, "few"), "grid": tuple(grid)})
    panels = by_title(explanation(with_metrics(record, telescope=without, rungs=rungs, couplings=changed)))
    assert PARTS["telescope"] not in panels
    assert [text.get_text() for text in panels["Every rung"].texts] == ["–"]
    assert len(whiskers(panels[PARTS["couplings"]])) == 11
    assert len(panels[PARTS["couplings"]].patches) == 0  # no interval, no band


CASES: dict[str, Callable[[], Record]] = {
    **{kind: KINDS[kind] for kind in ("full", "short", "tiny")},
    "wide": lambda: full_record({rung: 8000 * (gap - 0.45) for rung, gap in GAPS.items()}),
    "both signs": lambda: full_record({rung: 20 * (gap - 0.6) for rung, gap in GAPS.items()}),
    "long names": lambda: full_record(
        name="a-$name$-of-very-many-characters-" * 5, reference=full_record().submission
    ),
    "three": lambda: with_metrics(full_record(), couplings=None),
    "one": lambda: with_metrics(full_record(), couplings=None, telescope=None, gaussianity=None),
}


@pytest.mark.parametrize("kind", CASES)
def test_no_text_overlaps_or_is_cut_off(kind: str) -> None:
    figure = explanation(CASES[kind]())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        labels = [
            tick.label1
            for axis in (axes.xaxis, axes.yaxis)
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False)
            if min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
        ]
        texts = [axes._left_title, axes.xaxis.label, axes.yaxis.label, *labels]
        legend: list[Any] = [] if axes.get_legend() is None else [axes.get_legend()]
        boxes += [(artist, artist.get_window_extent(renderer)) for artist in (*texts, *legend)]
    boxes += [(text, text.get_window_extent(renderer)) for text in figure.texts]
    boxes = [(artist, box) for artist, box in boxes if box.width > 0 and box.height > 0]
    assert len(boxes) > 8

    def name(artist: Any) -> str:
        return artist.get_text() if isinstance(artist, Text) else type(artist).__name__

    whole = figure.bbox
    cut = [
        name(artist)
        for artist, box in boxes
        if box.x0 < whole.x0 or box.y0 < whole.y0 or box.x1 > whole.x1 or box.y1 > whole.y1
    ]
    assert cut == []
    overlapping = [
        (name(first), name(second))
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]
    assert overlapping == []


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(("name", "magic"), [("f.png", b"\x89PNG\r\n\x1a\n"), ("f.SVG", b"<?xml")])
def test_a_figure_is_written_whole_and_the_same_again(name: str, magic: bytes, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(explanation(short_record()), tmp_path / folder / name)
        assert [path.name for path in (tmp_path / folder).iterdir()] == [name]
    data = (tmp_path / "a" / name).read_bytes()
    assert data.startswith(magic)
    assert data == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f.bmp", r"f\.bmp: unknown kind of image\n.*\.png or \.svg"),
        ("f", r"unknown kind of image\n.*\.png or \.svg"),
        ("missing/f.png", r"there is no folder .*missing\n.*make it"),
        ("folder.png", r"folder\.png is a folder\n.*name a file"),
    ],
)
def test_a_place_that_will_not_do_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RecordError, match=words):
        save(explanation(short_record()), tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]


def test_the_overview_has_the_cheapest_on_top() -> None:
    values = synthetic_values()
    records = [
        synthetic_record(values, name=name, bits=bits) for name, bits in (("dear", 300.0), ("cheap", 20.0))
    ]
    (axes,) = overview(records).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cheap  (20 bits)", "dear  (300 bits)"]
    for marker, rung in (("o", "raw"), ("D", "full")):
        gap = records[0].metrics.rungs[rung].quenched.gap.value
        assert [line.get_xdata()[0] for line in marked(axes, marker)] == [gap, gap]
