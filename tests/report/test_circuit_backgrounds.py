"""Faithfulness of a circuit by background: its range, and the backgrounds that were not measured."""

from __future__ import annotations

import pytest

from remainder.base.paths import project_root
from remainder.record.circuit_summary import HEADLINE
from remainder.record.find import fullest_record
from remainder.record.rungs import CIRCUIT_RUNGS
from remainder.record.schema import Record
from remainder.record.store import read_record, read_summary
from remainder.report.circuit_sections import circuit_sections
from remainder.report.quantities import by_background, number_of
from remainder.report.text import Notes

FOLDER = project_root() / "leaderboard" / "results" / "tiny" / "induction-circuit" / "2" / "known-circuit"
MEASURED = ["raw", "full", "permuted", "counterfactual"]


def without(record: Record, *names: str) -> Record:
    """The record as if the headline circuit had not been measured with these backgrounds."""
    circuit = record.circuits
    point = circuit.points[HEADLINE]
    rungs = {name: rung for name, rung in point.rungs.items() if name not in names}
    points = {**circuit.points, HEADLINE: point.model_copy(update={"rungs": rungs})}
    changed = circuit.model_copy(update={"points": points})
    return record.model_copy(update={"metrics": record.metrics.model_copy(update={"circuit": changed})})


def test_the_range_is_that_of_the_answers_of_all_prompts() -> None:
    """Computed anew from the values of each prompt: f = (answer − empty) / (clean − empty)."""
    record, values = read_record(fullest_record(FOLDER))
    values = values[values["split"] == "evaluation"]
    draws = values.groupby(["rung", "document"])["answer"].mean()  # means of draws, where there are some
    answer = {rung: float(draws[rung].sum()) for rung in draws.index.get_level_values("rung").unique()}
    shares = {
        name: (answer[name] - answer[f"{name}@0"]) / (answer["clean"] - answer[f"{name}@0"])
        for name in MEASURED
    }
    found = by_background(record)
    assert list(found) == MEASURED
    for name, number in found.items():
        assert number.value == pytest.approx(shares[name], abs=1e-5)
    widest = number_of(record, "faithfulness_range")
    assert widest.value == pytest.approx(max(shares.values()) - min(shares.values()), abs=2e-5)
    assert widest.low is None


def test_one_background_has_no_range() -> None:
    record = without(read_summary(fullest_record(FOLDER)), *MEASURED[1:])
    number = number_of(record, "faithfulness_range")
    assert number.value is None
    assert "fewer than two backgrounds" in str(number.reason)


def test_backgrounds_that_were_not_measured_are_named() -> None:
    record = without(read_summary(fullest_record(FOLDER)), "permuted")
    (section,) = (
        section for section in circuit_sections(record, Notes()) if "by background:" in section.heading
    )
    *rows, last = section.body
    assert [row[0] for row in rows] == [*(name for name in MEASURED if name != "permuted"), "range"]
    assert (
        last
        == f"Not measured: {', '.join(n for n in CIRCUIT_RUNGS if n == 'permuted' or n not in MEASURED)}."
    )
