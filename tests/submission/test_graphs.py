"""Submissions of graphs as Neuronpedia has them: what they lack is a note, what they need is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.submission.test_feature_circuits import place, submission, task, write_graph

from remainder.errors import InterpretationError
from remainder.loading.prompts import PromptTask
from remainder.submission.feature_circuits import FoundFeatures
from remainder.submission.open import open_submission

__all__ = ["place", "task"]  # fixtures; the second is made of the first


def graphs_in(folder: Path, task: PromptTask, method: str = "", **params: Any) -> Path:
    """A submission with a graph for each template, of what the schema requires."""
    submission(folder, f'format = "feature-graph"\npath = "graphs"\n{method}')
    (folder / "graphs").mkdir()
    for group in task.prompts("evaluation"):
        path = folder / "graphs" / f"{group.template}.json"
        write_graph(path, group.tokens.shape[1])
        content = json.loads(path.read_text())
        content["qParams"] = params
        for node in content["nodes"]:
            del node["token_prob"], node["influence"], node["activation"]
            node["feature"] = None
        path.write_text(json.dumps(content))
    return folder


def read(folder: Path, task: PromptTask) -> FoundFeatures:
    found = open_submission(folder).circuits(task, 8)
    assert isinstance(found, FoundFeatures)
    return found


def test_graphs_of_the_least_that_is_allowed_are_circuits(tmp_path: Path, task: PromptTask) -> None:
    found = read(graphs_in(tmp_path, task), task)
    assert (found.circuits.count("graph").nodes, found.circuits.count("graph").errors) == (6, 2)
    said = "no logit has a probability (token_prob), so its graph has no scores"
    assert sorted(found.notes) == [f"long.json: {said}", f"short.json: {said}"]


def test_pins_that_are_gone_are_noted_or_refused(tmp_path: Path, task: PromptTask) -> None:
    found = read(graphs_in(tmp_path / "whole", task, pinnedIds=["1_5_1", "7_7_7"]), task)
    assert "long.json: qParams.pinnedIds names '7_7_7', no node of the graph: left out" in found.notes
    assert found.circuits.count("graph").nodes == 6
    folder = graphs_in(tmp_path / "pinned", task, "pinned = true\n", pinnedIds=["1_5_1", "7_7_7"])
    with pytest.raises(InterpretationError, match="'7_7_7', no node of the graph, and its pinned nodes"):
        read(folder, task)
    found = read(graphs_in(tmp_path / "sound", task, "pinned = true\n", pinnedIds=["1_5_1"]), task)
    assert found.circuits.count("graph").nodes == 2


def test_a_graph_that_is_another_file_is_told(tmp_path: Path, task: PromptTask) -> None:
    folder = graphs_in(tmp_path, task)
    path = folder / "graphs" / "long.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(InterpretationError, match=r"long\.json is text in UTF-16: byte 1 is not UTF-8"):
        read(folder, task)
    shutil.copyfile(folder / "sae-0" / "cfg.json", path)
    with pytest.raises(InterpretationError, match=r"long\.json is the settings of an SAE of SAELens"):
        read(folder, task)
