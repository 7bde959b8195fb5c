"""The page and the figures of a validation: everything compared is there, text is escaped, files repeat."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from tests.validation.test_run import TASK

from remainder.task.spec import Task, load_task
from remainder.validation.claims import Law
from remainder.validation.drawing import draw_figure, save_figures
from remainder.validation.figures import FigureSpec
from remainder.validation.page import markdown, write_page
from remainder.validation.run import Validation
from remainder.validation.tables import law_line, render, value_with_error
from remainder.validation.verdict import JudgedClaim, LawVerdict, PowerLaw, fit_power_law

SEEDS = (3, 11)
QUANTITIES = {"clean error": 0.2, "raw error": 0.15, "full error": 0.21, "shape at least": 0.01}


def comparison(task: str, x: float, quantity: str, seed: int, **changed: Any) -> JudgedClaim:
    expected = QUANTITIES[quantity] / x
    measured = expected * (1.02 if seed == 3 else 0.99)
    se = 0.03 * expected
    fields = {"allowance": 0.0, "z": (measured - expected) / se, "p": 1.0, "passed": True}
    return JudgedClaim(
        **{
            "task": task,
            "interpretation": "keep_2*|",
            "seed": seed,
            "quantity": quantity,
            "measured": measured,
            "se": se,
            "expected": expected,
            **fields,
            **changed,
        }
    )


def point(task: str, x: float | str) -> dict[str, Any]:
    return {"task": task, "interpretation": "keep_2*|", "x": x}


def spec(kind: str, quantities: list[str], *, panels: int = 1) -> FigureSpec:
    xs = {"made/one": 1.0, "made/two": 2.0, "made/four": 4.0}
    points = [point(task, task if kind == "bars" else x) for task, x in xs.items()]
    panel = {
        "kind": kind,
        "title": "A panel" if panels > 1 else "",
        "xlabel": "" if kind == "bars" else "x",
        "ylabel": "share",
        "series": [{"quantity": quantity, "label": quantity.split()[0]} for quantity in quantities],
        "points": points,
    }
    return FigureSpec.model_validate(
        {"name": f"made-{kind}", "title": f"Of {kind}", "caption": "See x_1.", "panels": [panel] * panels}
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("tasks")
    found = []
    for name in ("one", "two", "four"):
        place = folder / "made" / name
        place.mkdir(parents=True)
        (place / "task.toml").write_text(TASK.replace("PARAMETERS", ""))
        (place / "build.py").write_text("")
        found.append(load_task(place))
    return found


@pytest.fixture(scope="module")
def validation(tasks: list[Task]) -> Validation:
    comparisons = [
        comparison(task.id, x, quantity, seed)
        for task, x in zip(tasks, (1.0, 2.0, 4.0), strict=True)
        for quantity in QUANTITIES
        for seed in SEEDS
    ]
    comparisons[0] = comparisons[0]._replace(passed=False, z=math.inf, p=0.0, allowance=0.001)
    return Validation(
        controls=tuple(tasks),
        tier="quick",
        seeds=(None, 11),
        comparisons=tuple(comparisons),
        laws=(),
        figures=(spec("bars", ["clean error", "raw error"]), spec("law", ["full error"])),
        left_out=("law steep: needs made/eight too",),
    )


# -------------------------------------------------------------------------------------------- the page


def test_the_page_holds_every_comparison(validation: Validation) -> None:
    text = markdown(validation)
    for one in validation.comparisons:
        measured, error = value_with_error(one.measured, one.se)
        assert f"{measured} ± {error}" in text
    rows = [line for line in text.splitlines() if line.startswith(r"| keep\_2\*\|")]
    assert len(rows) == 3 * len(QUANTITIES)
    assert all(len(re.split(r"(?<!\\)\|", row)) == 2 + 2 + 3 * len(SEEDS) for row in rows)
    assert text.count("**∞ fails**") == 1
    assert "(± 0.001)" in text
    assert "24 comparisons, **1 fail**." in text
    assert "- law steep: needs made/eight too" in text


def test_text_of_a_control_is_escaped(validation: Validation) -> None:
    text = markdown(validation)
    assert r"Keeps some of six \*independent\* coordinates." in text
    assert r"See x\_1." in text


def test_the_page_says_how_it_was_made(validation: Validation) -> None:
    text = markdown(validation)
    assert re.search(r"`remainder validate made/\S+.* --seed 11` writes it again", text)
    assert "Seeds: each task's own, 11; tier quick." in text


def test_links_lead_to_headings(validation: Validation) -> None:
    text = markdown(validation)
    headings = {
        re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("## ")
    }
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(links) == 3
    assert set(links) <= headings


def test_page_and_figures_are_written_and_the_same_again(validation: Validation, tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "b"):
        paths = write_page(validation, tmp_path / folder / "validation.md")
        assert [path.relative_to(tmp_path / folder).as_posix() for path in paths] == [
            "validation.md",
            "figures/validation-made-bars.png",
            "figures/validation-made-law.png",
        ]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    text = contents[0][0].decode()
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (tmp_path / "a" / target).is_file()
    assert text.count("![") == 2


# ------------------------------------------------------------------------------------------- the table


def test_the_table_fits_80_columns_and_shows_what_failed(validation: Validation) -> None:
    for everything in (False, True):
        text = render(validation, everything=everything)
        assert max(len(line) for line in text.splitlines()) <= 80
    short = render(validation)
    assert short.count("keep_2*|") == 1
    assert render(validation, everything=True).count("keep_2*|") == len(validation.comparisons)
    for needed in ("made/one", "FAIL (1)", "∞", "1 of 24 comparisons", "not judged: law steep", "--seed 11"):
        assert needed in short


def test_a_law_is_told_in_one_line() -> None:
    law = Law("inverse", "shape", "infinite-width", {"a/1": 1.0, "a/2": 2.0, "a/3": 3.0}, -1.0, 0.1)
    line = law_line(LawVerdict(law, PowerLaw(0.3, -1.034, 0.021), -1.6, True))
    assert line == (
        "inverse: shape of infinite-width has the power −1.034 ± 0.021; expected −1 within 0.1 (z −1.6)"
    )


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.12345, 0.0123, ("0.123", "0.012")),
        (-1.5, 0.25, ("−1.50", "0.25")),
        (123.4, 17.0, ("123", "17")),
        (0.5, 0.0, ("0.5000", "0")),
        (0.126928, 3e-9, ("0.126928", "0")),
        (-1e-9, 0.01, ("0.000", "0.010")),
    ],
)
def test_values_have_the_decimals_of_their_errors(value: float, error: float, shown: tuple[str, str]) -> None:
    assert value_with_error(value, error) == shown


# ------------------------------------------------------------------------------------------ the figures


def mean(validation: Validation, task: str, quantity: str, name: str) -> float:
    found = [
        getattr(one, name)
        for one in validation.comparisons
        if one.task == task and one.quantity.startswith(quantity)
    ]
    assert len(found) == len(SEEDS)
    return float(np.mean(found))


def half(validation: Validation, task: str, quantity: str) -> float:
    errors = [one.se for one in validation.comparisons if one.task == task and one.quantity == quantity]
    return 1.96 * math.sqrt(sum(error**2 for error in errors)) / len(errors)


def test_bars_are_as_high_as_measured(validation: Validation) -> None:
    quantities = ["clean error", "raw error"]
    (axes,) = draw_figure(spec("bars", quantities), validation.comparisons).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    numbers = list(itertools.product(quantities, ("made/one", "made/two", "made/four")))
    assert [bar.get_height() for bar in bars] == pytest.approx(
        [mean(validation, task, quantity, "measured") for quantity, task in numbers]
    )
    assert len({bar.get_hatch() for bar in bars}) == 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["made/one", "made/two", "made/four"]
    wide = [line for line in axes.get_lines() if line.get_linewidth() == 2.2 and len(line.get_xdata())]
    assert [line.get_ydata()[0] for line in wide] == pytest.approx(
        [mean(validation, task, quantity, "expected") for quantity, task in numbers]
    )
    whiskers = [line.get_ydata() for line in axes.get_lines() if line.get_marker() == "_"]
    assert [(high - low) / 2 for low, high in whiskers] == pytest.approx(
        [half(validation, task, quantity) for quantity, task in numbers]
    )


def test_a_sweep_has_points_measured_and_lines_expected(validation: Validation) -> None:
    (axes,) = draw_figure(spec("sweep", ["raw error", "full error"]), validation.comparisons).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    measured = [line for line in lines if line.get_marker() in "oD"]
    expected = [line for line in lines if line.get_marker() in ("None", "")]
    for found, name in ((measured, "measured"), (expected, "expected")):
        shown = [line.get_ydata() for line in found if isinstance(line, Line2D)]
        wanted = [
            [mean(validation, task, quantity, name) for task in ("made/one", "made/two", "made/four")]
            for quantity in ("raw error", "full error")
        ]
        assert np.array(shown) == pytest.approx(np.array(wanted))
    assert {line.get_linestyle() for line in expected} == {"-", "--"}


def test_a_law_is_on_logarithmic_axes_with_its_fit(validation: Validation) -> None:
    (axes,) = draw_figure(spec("law", ["full error"]), validation.comparisons).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    found = [one for one in validation.comparisons if one.quantity == "full error"]
    xs = {"made/one": 1.0, "made/two": 2.0, "made/four": 4.0}
    fit = fit_power_law(
        np.array([xs[one.task] for one in found]),
        np.array([one.measured for one in found]),
        np.array([one.se for one in found]),
    )
    (line,) = (line for line in axes.get_lines() if "fitted" in str(line.get_label()))
    assert line.get_label() == f"fitted: power −{-fit.exponent:.3f} ± {1.96 * fit.error:.3f} (95 %)"
    x, y = line.get_data()
    assert y == pytest.approx(fit.prefactor * x**fit.exponent)


def test_one_sided_claims_show_no_expected_value(validation: Validation) -> None:
    (axes,) = draw_figure(spec("bars", ["shape"]), validation.comparisons).axes
    assert [line for line in axes.get_lines() if line.get_linewidth() == 2.2 and len(line.get_xdata())] == []
    assert axes.patches[0].get_height() == pytest.approx(mean(validation, "made/one", "shape", "measured"))


def test_a_quantity_claimed_twice_is_shown_once(validation: Validation) -> None:
    """Of two claims the two-sided one says what is expected."""
    more = [
        one._replace(quantity="raw error at most", expected=1.0)
        for one in validation.comparisons
        if one.quantity == "raw error"
    ]
    once, twice = (
        draw_figure(spec("bars", ["raw error"]), comparisons).axes[0]
        for comparisons in (validation.comparisons, [*validation.comparisons, *more])
    )
    data = [[list(line.get_ydata()) for line in axes.get_lines()] for axes in (once, twice)]
    assert data[0] == data[1]


@pytest.mark.parametrize(
    ("kind", "quantities", "panels"),
    [
        ("bars", ["clean error", "raw error", "full error", "shape"], 1),
        ("bars", ["clean error", "raw error", "full error", "shape"], 2),
        ("sweep", ["clean error", "raw error", "full error", "shape"], 2),
        ("sweep", ["clean error"], 4),
        ("law", ["full error"], 1),
        ("law", ["full error", "raw error"], 2),
    ],
)
def test_no_text_overlaps_or_is_cut_off(
    validation: Validation, kind: str, quantities: list[str], panels: int
) -> None:
    figure = draw_figure(spec(kind, quantities, panels=panels), validation.comparisons)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    for axes in figure.axes:
        ticks = [
            tick.label1
            for axis in (axes.xaxis, axes.yaxis)
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False)
            if min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
        ]
        artists = [axes._left_title, axes.xaxis.label, axes.yaxis.label, axes.get_legend(), *ticks]
        boxes += [artist.get_window_extent(renderer) for artist in artists]
    boxes = [box for box in boxes if box.width > 0 and box.height > 0]
    assert len(boxes) > 5 * panels
    whole = figure.bbox
    assert all(box.x0 >= whole.x0 and box.x1 <= whole.x1 for box in boxes)
    assert all(box.y0 >= whole.y0 and box.y1 <= whole.y1 for box in boxes)
    for a, b in itertools.combinations(boxes, 2):
        assert min(a.x1, b.x1) - max(a.x0, b.x0) < 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) < 0.5


def test_a_figure_is_a_png(validation: Validation, tmp_path: Path) -> None:
    (path,) = save_figures([spec("bars", ["raw error"])], validation.comparisons, tmp_path / "new")
    assert path.read_bytes().startswith(b"\x89PNG")
