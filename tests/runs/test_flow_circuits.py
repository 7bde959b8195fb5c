"""Flows of circuits: edges kept at the sizes that circuits have, and searches that are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import Command

from remainder.circuit.circuit import Circuit
from remainder.circuit.ranking import NodeRanking, Ranking, Sized, ties_of
from remainder.errors import TaskError
from remainder.loading.open import open_task
from remainder.loading.prompts import PromptTask
from remainder.publish.remeasure import rerun
from remainder.record.flow_file import read_flow, write_flow
from remainder.report.flow import render_flow
from remainder.report.plot import save
from remainder.report.plot_flow import flow_figure
from remainder.runs.flow import flow_plan, measure_flow, plan_flow
from remainder.submission.objects import CircuitSubmission, circuit_submission
from remainder.submission.open import submissions_for
from remainder.submission.submission import Submission


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the submissions whose circuits were looked for, one for each time."""
    found: list[str] = []
    for kind in (Submission, CircuitSubmission):
        search = kind.circuits

        def counted(self: Any, *arguments: Any, search: Any = search) -> Any:
            found.append(self.name)
            return search(self, *arguments)

        monkeypatch.setattr(kind, "circuits", counted)
    return found


@pytest.mark.slow
def test_circuits_keep_edges_at_the_sizes_that_they_have(tmp_path: Path, searches: list[str]) -> None:
    loaded = open_task("tiny/induction-circuit", device="cpu")
    (entry,) = submissions_for(loaded, ["other-circuit"])
    settings = flow_plan(loaded, "quick", None, None)
    found = measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path)
    assert searches == ["other-circuit"]
    keeps = [shell.keep for shell in found.flow.shells]
    assert keeps == [0, 23]
    assert found.flow.order == "edges"
    gaps = [record.metrics.rungs["raw"].quenched.gap.value for record in found.records]
    assert None not in gaps
    assert found.flow.scales["bath"].reason == "rung full-0.6 was not measured"
    text = render_flow(*found)
    assert "k of 81 edges kept" in " ".join(text.split())
    assert "bits" not in text  # columns without a value are left out
    save(flow_figure(*found), tmp_path / "edges.png")
    # The next run finds all records by the flow's file, and looks for nothing.
    assert measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path) == found
    assert searches == ["other-circuit"]
    # Both shells are made again from one more search.
    for shell in found.flow.shells:
        (path,) = tmp_path.rglob(f"{shell.record}.json")
        again = rerun(path)
        assert again.passed, again.faults
    assert searches == ["other-circuit"] * 2
    # A shell whose record is gone is measured again, from circuits that must be those of the flow.
    path.unlink()
    forged = found.flow.model_copy(update={"sources": 80})
    write_flow(forged, tmp_path)
    with pytest.raises(
        TaskError, match="other circuits than when its flow was measured: they keep 0, 23 of 81"
    ):
        measure_flow(plan_flow(loaded, entry, settings, out=tmp_path), tmp_path)


@pytest.mark.slow
def test_a_search_for_circuits_is_made_once(tmp_path: Path, searches: list[str], remainder: Command) -> None:
    arguments = ("flow", "tiny/induction-circuit", "--with", "eap-ig", "--out", str(tmp_path))
    outcome = remainder(*arguments)
    assert outcome.code == 0, outcome.err
    assert searches == ["eap-ig"]
    assert remainder(*arguments).out == outcome.out
    assert searches == ["eap-ig"]
    assert remainder("verify", str(tmp_path)).code == 0
    (kept,) = tmp_path.rglob("*.flow")
    again = remainder("verify", "--rerun", str(kept))
    assert again.code == 0, again.err
    assert again.out.count("as recorded") == len(read_flow(kept).flow.shells)


def test_families_of_circuits_that_are_no_flow_are_told() -> None:
    loaded = open_task("tiny/induction-circuit", device="cpu")
    assert isinstance(loaded, PromptTask)
    graph = loaded.circuit_model().graph
    places = np.argwhere(graph.exists)
    some = []
    for start in (0, 1):
        kept = np.zeros_like(graph.exists)
        kept[tuple(places[start])] = True
        some.append(Circuit(graph, kept))
    settings = flow_plan(loaded, "quick", None, None)
    for circuits, says in (
        (Sized(graph, {0.0: Circuit.empty(graph)}), "keeps nothing at any size: one shell shows no scale"),
        (Sized(graph, {0.5: some[0], 0.6: some[1]}), "two circuits keep 1 edges, and are not the same"),
    ):
        with pytest.raises(TaskError, match=says):
            plan_flow(loaded, circuit_submission(circuits, "given"), settings)
    scores = np.zeros(graph.exists.shape)
    scores[tuple(places[0])] = -2.0
    assert ties_of(Ranking(graph, scores)) == graph.edges - 2
    assert ties_of(NodeRanking(graph, np.arange(len(graph.writers), dtype=np.float64))) == 0
    assert ties_of(Sized(graph, {1.0: Circuit.full(graph)})) == 0
