"""A result in a console and in a notebook: short, escaped, and with all its footnotes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_records import synthetic_record
from synthetic_values import synthetic_values, with_coding

from remainder.record.number import Number
from remainder.record.schema import Complexity
from remainder.record.store import read_record
from remainder.report.explain import explain, rung_frame
from remainder.report.notebook import explanation_html, tables_html
from remainder.report.quantities import default_columns, number_of
from remainder.report.result import Result
from remainder.report.text import Notes

HOSTILE = "<script>alert('1')</script> & \"x\""


class Text(HTMLParser):
    """The visible text of a page, its tags and what follows each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert {name for name, _ in attributes} <= {"style"}
        assert not re.search(r"color|background", dict(attributes).get("style") or "")  # the notebook's own

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.fixture(scope="module")
def result() -> Result:
    values = with_coding(synthetic_values())
    return Result(synthetic_record(values, name="topk-sae-16k", warnings=[HOSTILE]), values)


def test_a_repr_is_two_lines_with_the_headline_numbers(result: Result) -> None:
    lines = repr(result).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert "topk-sae-16k on family/task, version 1-0, tier quick" in lines[0]
    first = default_columns([result.record])[1]
    assert f"{first.heading} {number_of(result.record, first.key).value:.3f}"[:-1] in lines[1]


def test_a_number_that_is_missing_is_left_out_of_a_repr() -> None:
    values = synthetic_values()
    none = Number.null("no codes")
    record = synthetic_record(
        values, complexity=Complexity(live_features=none, bits_per_token=none, features=None)
    )
    assert "Bits" not in repr(Result(record, values))
    assert "KL raw" in repr(Result(record, values))


def test_a_notebook_shows_the_numbers_of_the_table_and_all_footnotes(result: Result) -> None:
    page = Text(result._repr_html_())
    assert page.open == []
    notes = Notes()
    for column in default_columns([result.record]):
        assert column.heading in page.text
        assert notes.cell(column.of_record(result.record)) in page.text
    assert all(line in page.text for line in notes.lines())
    assert "95 % intervals, bootstrap over documents" in page.text


def test_records_of_two_tasks_have_a_table_each() -> None:
    values = synthetic_values()
    one = synthetic_record(values)
    other = synthetic_record(values, tier="standard", name="pca-8")
    page = tables_html([one, other])
    assert page.count("<table>") == 2
    assert {"pca-32", "pca-8"} <= set(Text(page).text.split())


def test_nothing_of_a_record_is_unescaped(result: Result) -> None:
    for page in (result._repr_html_(), result.explain()._repr_html_()):
        assert HOSTILE in Text(page).text
        assert "<script" not in page
        assert "script" not in Text(page).tags


def test_an_explanation_is_what_the_command_shows(result: Result) -> None:
    found = result.explain()
    assert str(found) == repr(found) == explain(result.record)
    assert found.frame().equals(rung_frame(result.record))
    page = Text(explanation_html(result.record))
    assert page.open == []
    shown = " ".join(page.text.split())
    words = re.findall(r"\w+", explain(result.record, "markdown").replace("\\", ""))
    missing = [word for word in words if word not in shown]
    assert missing == []


def test_a_result_draws_itself(result: Result) -> None:
    figure = result.plot()
    assert figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")  # without pyplot a notebook would show its address


def test_a_circuit_is_shown_too() -> None:
    folder = Path(__file__).resolve().parents[2] / "leaderboard/results/tiny/induction-circuit"
    record = read_record(next(iter(sorted(folder.rglob("*.json"))))).record
    page = Text(explanation_html(record))
    assert "The behaviour" in page.text
    assert page.open == []
