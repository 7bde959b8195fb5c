"""Places of the SAEs whose latents are a circuit's nodes: compared on the model, and told if untold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import behaviour_files
import pytest
import tiny
from format_files import make_sae

from remainder.formats.places import MisfitError
from remainder.loading.open import open_task
from remainder.loading.prompts import PromptTask
from remainder.submission.feature_circuits import FoundFeatures
from remainder.submission.open import open_submission

SUBMISSION = """
name = "features"
kind = "feature-circuit"
title = "Two tiny autoencoders"
authors = ["Nobody"]
licence = "MIT"

[method]
format = "feature-attribution"
steps = 2
thresholds = [0.0003]

[[method.sites]]
hook_in = "blocks.1.hook_out"
submission = "told"

[[method.sites]]
hook_in = "blocks.2.hook_out"
submission = "untold"
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptTask]:
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMAINDER_CACHE", str(folder / "cache"))
        loaded = open_task(
            behaviour_files.write(folder, behaviour_files.mostly(), quick=8, standard=8), device="cpu"
        )
        assert isinstance(loaded, PromptTask)
        yield loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Beside one SAE that names the next block's input, one that names no hook."""
    hooks: dict[str, dict[str, Any]] = {"told": {"hook_name": "blocks.2.hook_resid_pre"}, "untold": {}}
    for number, (name, metadata) in enumerate(hooks.items()):
        sae = make_sae("StandardSAE", number, metadata, d_in=tiny.WIDTH, d_sae=12)
        sae.save_model(tmp_path / name)
    (tmp_path / "submission.toml").write_text(SUBMISSION)
    return tmp_path


def test_a_place_that_is_not_told_stands_in_the_notes(task: PromptTask, folder: Path) -> None:
    found = open_submission(folder).circuits(task, 8)
    assert isinstance(found, FoundFeatures)
    (note,) = [note for note in found.notes if "does not tell its place" in note]
    assert note.startswith("untold: cfg.json")
    assert "blocks.2.hook_out" in note


def test_other_names_are_compared_before_nodes_are_scored(
    task: PromptTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []

    def two(bridge: object, one: str, other: str) -> float:
        compared.append((one, other))
        return 0.3

    monkeypatch.setattr("remainder.submission.aliases._difference", two)
    with pytest.raises(MisfitError, match="these are two tensors"):
        open_submission(folder).circuits(task, 8)
    assert compared == [("blocks.2.hook_resid_pre", "blocks.1.hook_out")]
