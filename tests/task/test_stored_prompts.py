"""Prompts that lie in a task's folder: the same when read again, and refused when they are others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from graph_files import IDS, World
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from remainder.errors import AssetError, TaskError
from remainder.loading.open import on_prompts, open_task
from remainder.submission.graphs import prepare_graphs
from remainder.task.parts import CircuitSpec
from remainder.task.stored_prompts import StoredPrompts


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a task of one graph."""
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    world = World(tmp_path)
    prepare_graphs(world.graph("some", 0.5), tmp_path / "set", save_task=tmp_path / "saved")
    return tmp_path / "saved"


def test_prompts_are_read_as_they_were_written(saved: Path, tmp_path: Path) -> None:
    stored = StoredPrompts.load(saved)
    assert {split: [len(group) for group in groups] for split, groups in stored.groups.items()} == {
        "evaluation": [1],
        "calibration": [32],
        "fit": [1],
    }
    (group,) = stored.groups["evaluation"]
    assert group.tokens.tolist() == [list(IDS)]
    assert group.documents == ("some",)
    assert group.scored.nonzero()[1].tolist() == [len(IDS) - 1]
    assert group.wrong.shape == (1, 1, 0)
    (tmp_path / "again").mkdir()
    stored.save(tmp_path / "again")
    names = "tokens", "counterfactual", "scored", "correct", "wrong"
    for split, groups in StoredPrompts.load(tmp_path / "again").groups.items():
        for one, other in zip(groups, stored.groups[split], strict=True):
            assert (one.template, one.documents) == (other.template, other.documents)
            assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_prompts_that_were_changed_are_refused(saved: Path) -> None:
    loaded = on_prompts(open_task(saved, device="cpu"))
    with pytest.raises(TaskError, match="prompts without counterfactuals, which circuits of edges need"):
        loaded.circuit_model()
    path = saved / "prompts.safetensors"
    kept = shutil.copyfile(path, saved.parent / "kept")
    stored = StoredPrompts.load(saved)
    stored.groups["evaluation"][0].tokens[0, 1] += 1
    stored.save(saved)
    with pytest.raises(AssetError, match="are not those that the task pins"):
        open_task(saved, device="cpu")
    path.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(AssetError, match="does not hold the prompts of the task"):
        open_task(saved, device="cpu")
    save_file(load_file(kept), path)  # without the names of documents
    with pytest.raises(AssetError, match="does not hold the prompts of the task"):
        open_task(saved, device="cpu")
    path.unlink()
    with pytest.raises(AssetError, match="does not hold the prompts of the task"):
        open_task(saved, device="cpu")


def test_stored_prompts_are_pinned_and_stand_alone() -> None:
    for settings in ({}, {"prompts_sha256": "0" * 64, "behaviour": "behaviours/ioi.toml"}):
        with pytest.raises(ValidationError, match="need `prompts_sha256`, and take the place of `behaviour`"):
            CircuitSpec(reader="tokens", **settings)
