"""The README's notebook example runs as it stands, on the real model; and with other names on a small one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from remainder.base.paths import project_root
from remainder.board.stand import render_standing, stand
from remainder.record.find import fullest_record
from remainder.record.number import Number
from remainder.record.scales import SCALES, ScaleName
from remainder.record.schema import Record
from remainder.record.store import read_record, read_summary
from remainder.report.quantities import default_columns
from remainder.report.text import format_interval, format_value

README = Path(__file__).parents[2] / "README.md"
TOUR, COMMANDS = (README.parent / "docs" / f"{name}.md" for name in ("tour", "commands"))


REAL = ("smollm2-135m/resid-15", "baselines/topk-sae-32/weights")
SMALL = ("tiny/wiki", "baselines/wiki-topk/weights")


def example() -> str:
    """The one block of Python in the README."""
    (found,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def run(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Record, str]:
    """What the code of the example measures, and what it shows."""
    monkeypatch.chdir(project_root())
    scope: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), scope)
    return scope["result"].record, capsys.readouterr().out


def gaps_are_shown(record: Record, shown: str) -> tuple[float, float]:
    """Gaps of raw and full, after a look at the table, which shows the default columns."""
    for column in default_columns([record]):
        value = column.of_record(record).value
        assert value is None or column.is_cost or format_value(value).lstrip("-0")[:4] in shown
    raw, full = (record.metrics.rungs[rung].quenched.gap.value for rung in ("raw", "full"))
    assert raw is not None
    assert full is not None
    assert max(map(len, shown.splitlines())) <= 80
    return raw, full


@pytest.mark.slow
def test_the_notebook_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, shown = run(example(), monkeypatch, capsys)
    raw, full = gaps_are_shown(record, shown)
    assert 0.2 < raw < 0.6
    assert raw < full < 1


@pytest.mark.slow
def test_the_notebook_example_runs_on_a_small_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines, with the names of a model that takes seconds."""
    code = example()
    for real, small in zip(REAL, SMALL, strict=True):
        assert code.count(real) == 1
        code = code.replace(real, small)
    record, shown = run(code, monkeypatch, capsys)
    assert record.task.id == SMALL[0]
    raw, full = gaps_are_shown(record, shown)
    assert 0 < raw < full


def test_it_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 210


def test_the_table_below_the_example_is_that_of_the_record() -> None:
    """The row of the board of the same autoencoder; a slow test runs the lines."""
    folder = project_root() / "leaderboard" / "results" / "smollm2-135m" / "resid-15" / "2" / "topk-sae-32"
    record = read_summary(fullest_record(folder))
    text = README.read_text(encoding="utf-8")
    (heading, _, values, intervals) = re.findall(r"```\n(Submission .*?)\n```", text, re.DOTALL)[
        0
    ].splitlines()
    columns = default_columns([record])
    assert heading.split() == ["Submission", *" ".join(column.heading for column in columns).split()]
    numbers = [column.of_record(record) for column in columns]
    assert values.split()[1:] == [format_value(number.value) for number in numbers]
    assert intervals.split() == [
        format_interval(number, short=True)
        for column, number in zip(columns, numbers, strict=True)
        if not column.is_cost
    ]


def test_what_the_readme_says_of_the_second_score_holds() -> None:
    """No pair of dictionaries turned round; a reconstruction that denoises; a projection that is unsure."""
    assert "The Gaussian KL turns none of them round" in " ".join(README.read_text(encoding="utf-8").split())

    def gaps(task: str, rung: str) -> dict[str, Number]:
        folders = (project_root() / "leaderboard" / "results" / task / "2").iterdir()
        records = [read_summary(fullest_record(folder)) for folder in folders]
        return {record.submission.name: record.metrics.rungs[rung].quenched.gap for record in records}

    one, other = (gaps("controls/gaussian-equivalence", rung)["linear"] for rung in ("raw", "full"))
    assert one.high < 0
    assert other.low < 0 < other.high
    raw, full = (gaps("tiny/rule-and-noise", rung) for rung in ("raw", "full"))
    best = min(raw, key=lambda name: raw[name].value)
    assert best.startswith("rule-and-noise-random")
    assert raw[best].high < 0 < full[best].low


def test_places_of_the_tour_are_those_that_a_run_prints() -> None:
    text = TOUR.read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```\n(Where they would stand .*?)^```$", text, re.DOTALL | re.MULTILINE)
    results = project_root() / "leaderboard" / "results"
    folder = results / "smollm2-135m" / "resid-15" / "2"
    rows = [read_record(fullest_record(folder / name)) for name in re.findall(r"^topk-sae-\d+", shown, re.M)]
    assert len(rows) == 3
    found = stand([(row.record, row.values) for row in rows], results)
    assert found is not None
    assert render_standing(found) == shown


@pytest.mark.parametrize("page", [README, TOUR, COMMANDS], ids=lambda page: page.stem)
def test_every_command_of_the_readme_exists(page: Path) -> None:
    from typer.main import get_command

    from remainder.cli.main import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^remainder (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= known


def test_shares_that_intervals_hold_are_those_of_the_validation() -> None:
    """The tour and the page on intervals say what was counted, of laws where it is not 95 %, too."""
    root = project_root()
    table = (root / "docs/validation.md").read_text(encoding="utf-8")
    held = {
        law: re.findall(r"[\d.]+", re.search(rf"^\| {law} +\|(.*)$", table, re.MULTILINE)[1])  # type: ignore[index]
        for law in ("lognormal", "ratio, heavy below")
    }
    few, *more = held["lognormal"]
    ratios = sorted(held["ratio, heavy below"], key=float)
    page = " ".join((root / "docs/design/intervals.md").read_text(encoding="utf-8").split())
    assert f"Of lognormal documents {few} % are held at n = 15" in page
    assert f"are held in {ratios[0]} to {ratios[-1]} %" in page
    tour = " ".join(TOUR.read_text(encoding="utf-8").split())
    assert f"{min(more[1:])} to {max(more[1:])} % of lognormal ones ({few} % where there are 15" in tour
    assert f"heavy denominator ({ratios[0]} % at the least" in tour


def test_comparisons_of_the_tour_are_those_of_the_validation() -> None:
    """Their number, that all pass, the largest deviation, and the power of the law."""
    tour = TOUR.read_text(encoding="utf-8")
    page = (project_root() / "docs" / "validation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\S+\]\(#\S+\) +\|[^|]+\| +(\d+) \| +([\d.]+) \| pass +\|$", page, re.M)
    number = f"{sum(int(count) for count, _ in rows):,}"
    assert f"{number} comparisons, all pass." in page
    assert f"All {number} comparisons" in tour
    assert f"The largest deviation is {max(float(z) for _, z in rows)} standard" in tour
    assert re.search(rf"^{len(rows)} controls have known answers", tour, re.M)
    power = re.search(r"has the power (\S+ ± \S+);", page)
    assert power is not None
    assert f"as a power {power[1]} (one" in tour


def test_the_floor_that_the_page_states_is_the_one_in_use() -> None:
    page = (project_root() / "docs/design/intervals.md").read_text(encoding="utf-8")
    stated: dict[ScaleName, str] = {"plain": "signed", "positive": "not below 0"}
    for name, kind in stated.items():
        (floor,) = re.findall(rf"^\| {kind}: .*\| (\.\d) s \|$", page, re.MULTILINE)
        assert float(floor) == SCALES[name].floor
