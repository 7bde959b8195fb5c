"""Submissions are found by path or name, hashed by what moves a number, and refused with a reason."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LATENTS,
    MASK,
    MLP,
    SITE,
    WIDTH,
    X,
    make_sae,
    never,
    random_weights,
    without_skip,
    write_circuit_tracer,
    write_dictionary_learning,
    write_sparsify,
)
from pydantic import ValidationError
from sae_lens import SAE

from remainder.base.paths import project_root
from remainder.errors import InterpretationError
from remainder.formats.saelens import CONFIG, WEIGHTS
from remainder.residual.moments import Moments
from remainder.submission.objects import object_submission
from remainder.submission.open import baselines_for, open_submission
from remainder.submission.submission import Submission
from remainder.task.spec import Task, load_task

TOML = """name = "mine"
kind = "reconstruction"
title = "My SAE"
authors = ["A"]
licence = "MIT"

[method]
format = "saelens"
path = "weights"
"""


def save_sae(folder: Path, seed: int = 0) -> Any:
    """A tiny SAE with random weights, as sae-lens writes it."""
    sae = make_sae("StandardSAE", seed, metadata={"hook_name": SITE.hook_in})
    sae.save_model(str(folder))
    return sae


def submission_in(folder: Path, toml: str = TOML, weights: str = "weights") -> Path:
    save_sae(folder / weights)
    (folder / "submission.toml").write_text(toml)
    return folder


def small_task(**changed: Any) -> Task:
    return load_task("smollm2-135m/resid-15").model_copy(update={"site": SITE, **changed})


def moments() -> Moments:
    moments = Moments.empty(WIDTH)
    moments.update(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0)))
    return moments


# --------------------------------------------------------------------------------------------- opening


def test_a_folder_is_opened_and_its_sae_reconstructs(tmp_path: Path) -> None:
    submission = open_submission(submission_in(tmp_path))
    assert (submission.name, submission.title, submission.tasks) == ("mine", "My SAE", ())
    assert set(submission.files) == {f"weights/{CONFIG}", f"weights/{WEIGHTS}"}
    adapted = submission.build(small_task(), never)
    assert adapted.name == "mine"
    torch.testing.assert_close(
        adapted.reconstruct(X, MASK)[1], SAE.load_from_disk(tmp_path / "weights")(X).detach()
    )


def test_weights_lie_beside_their_description_if_no_path_is_given(tmp_path: Path) -> None:
    folder = submission_in(tmp_path)
    description = (folder / "submission.toml").read_text()
    for each in (folder / "weights").iterdir():
        each.rename(folder / each.name)
    (folder / "submission.toml").write_text(description.replace('path = "weights"\n', ""))
    submission = open_submission(folder)
    assert set(submission.files) == {"cfg.json", "sae_weights.safetensors"}
    # The hash is of what is written, so a path that says the same is another submission.
    (folder / "submission.toml").write_text(description.replace('path = "weights"', 'path = "."'))
    assert open_submission(folder).files == submission.files
    assert open_submission(folder).hash != submission.hash


@pytest.mark.parametrize(
    "where", ["identity", "baselines/identity", project_root() / "baselines" / "identity"]
)
def test_a_baseline_is_opened_by_name_or_path(
    where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    submission = open_submission(where)
    assert (submission.name, submission.method.format) == ("identity", "identity")
    assert submission.files == {}
    assert torch.equal(submission.build(small_task(), never).reconstruct(X, MASK)[1], X)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My SAE (v2)", "my-sae--v2"),
        ("Épinards", "pinards"),
        ("___", "sae"),
        ("x" * 60, "x" * 19 + ".." + "x" * 19),
    ],
)
def test_a_bare_folder_of_sae_lens_is_a_submission(tmp_path: Path, folder: str, name: str) -> None:
    save_sae(tmp_path / folder)
    submission = open_submission(tmp_path / folder)
    assert (submission.name, submission.title) == (name, folder)
    assert set(submission.files) == {CONFIG, WEIGHTS}
    assert submission.build(small_task(), never).reconstruct(X, MASK)[0].shape == (2, 5, LATENTS)


@pytest.mark.parametrize("wrong", ["identiy", "baselines/identiy"])
def test_an_unknown_name_offers_the_nearest(wrong: str) -> None:
    with pytest.raises(InterpretationError, match=f"{wrong} is no submission") as raised:
        open_submission(wrong)
    assert "identity" in (raised.value.fix or "")
    assert "topk-sae-32" not in (raised.value.fix or "")


def test_a_folder_that_holds_no_weights_is_no_submission(tmp_path: Path) -> None:
    with pytest.raises(InterpretationError, match=r"what a known format consists of \(it holds nothing\)"):
        open_submission(tmp_path)
    save_sae(tmp_path / "b" / "layer")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InterpretationError, match=r"it holds b, notes\.txt") as raised:
        open_submission(tmp_path)
    with pytest.raises(InterpretationError, match="no submission") as raised:
        open_submission(tmp_path / "b")
    assert raised.value.fix == f"give one of the folders in it, such as {tmp_path / 'b' / 'layer'}"


def test_a_file_of_the_folder_leads_to_the_folder(tmp_path: Path) -> None:
    save_sae(tmp_path)
    with pytest.raises(InterpretationError, match="is a file; a submission is a folder") as raised:
        open_submission(tmp_path / WEIGHTS)
    assert str(tmp_path) in (raised.value.fix or "")


FORMATS = {
    "saelens": lambda folder: save_sae(folder),
    "dictionary-learning": lambda folder: write_dictionary_learning(
        folder, "JumpReluAutoEncoder", {**without_skip(random_weights()), "threshold": torch.ones(LATENTS)}
    ),
    "sparsify": lambda folder: write_sparsify(folder, random_weights()),
    "circuit-tracer": lambda folder: write_circuit_tracer(folder, {1: without_skip(random_weights())}),
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_bare_folder_is_of_the_format_that_lies_in_it(tmp_path: Path, format: str) -> None:
    FORMATS[format](tmp_path)
    submission = open_submission(tmp_path)
    assert submission.method.format == format
    assert len(submission.files) == 2
    assert submission.is_pinned


@pytest.mark.parametrize("format", FORMATS)
def test_a_submission_names_its_format_and_where_the_weights_lie(tmp_path: Path, format: str) -> None:
    FORMATS[format](tmp_path / "made" / "layers.0")
    toml = TOML.replace('"saelens"', f'"{format}"').replace('"weights"', '"made/layers.0"')
    (tmp_path / "submission.toml").write_text(toml)
    submission = open_submission(tmp_path)
    assert all(name.startswith("made/layers.0/") for name in submission.files)
    site = MLP if format == "circuit-tracer" else SITE
    found = submission.build(small_task(site=site), never).reconstruct(X, MASK)[0]
    assert found.shape == (2, 5, LATENTS)


def test_gigabytes_that_are_no_weights_are_not_hashed(tmp_path: Path) -> None:
    save_sae(tmp_path)
    os.truncate(tmp_path / WEIGHTS, 5_000_000_000)  # sparse: no disk is needed
    start = time.perf_counter()
    with pytest.raises(InterpretationError, match="longer than its header says"):
        open_submission(tmp_path)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "My SAE"', "title = ", "not valid TOML"),
        ('title = "My SAE"\n', "", "title: it is missing; expected a string"),
        ('title = "My SAE"', 'title = "My SAE"\ncolour = "red"', "colour: there is no such field"),
        ('"mine"', '"My own"', "name: it is 'My own.*'; expected at most 40"),
        ('"reconstruction"', '"probe"', "kind: it is 'probe'; expected .reconstruction., "),
        ('"saelens"', '"pickle"', "method.format: this version has no format 'pickle'; there is "),
        (
            'format = "saelens"\npath = "weights"',
            'format = "pca"\nrank = 1.5',
            "method.rank: Input should be a valid integer",
        ),
        ('path = "weights"', 'hub = "a/b:c"\npath = "w"', "method: .* `path` or `hub`, not both"),
        ('path = "weights"', 'path = "/tmp"', "method.path: it must lie in the submission's folder"),
        ('path = "weights"', 'path = "../weights"', "method.path: it must lie in the submission's folder"),
        (
            'title = "My SAE"',
            'title = "My SAE"\nfolder = "x"',
            "folder: there is no such field; there are name,",
        ),
        ('title = "My SAE"', 'title = "My SAE"\nfiles = {}', "files: there is no such field"),
    ],
)
def test_a_malformed_file_is_refused_at_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises(InterpretationError, match=r"submission\.toml.*" + message) as raised:
        open_submission(submission_in(tmp_path, TOML.replace(old, new)))
    assert raised.value.fix


# ------------------------------------------------------------------------------------ hashes and tasks


@pytest.mark.parametrize("path", ['path = "weights"', 'path = "."'])
def test_the_hash_moves_with_the_weights_and_not_with_the_words(tmp_path: Path, path: str) -> None:
    toml = TOML.replace('path = "weights"', path)
    weights = "weights" if "weights" in path else "."
    first = open_submission(submission_in(tmp_path / "a", toml, weights)).hash
    assert open_submission(submission_in(tmp_path / "elsewhere", toml, weights)).hash == first
    words = toml.replace("My SAE", "Another title").replace('["A"]', '["B", "C"]').replace("MIT", "CC0")
    (tmp_path / "a" / "submission.toml").write_text(words)
    (tmp_path / "a" / "notes.txt").write_text("Trained on a Tuesday.")
    assert open_submission(tmp_path / "a").hash == first
    save_sae(tmp_path / "a" / weights, seed=1)
    assert open_submission(tmp_path / "a").hash != first
    save_sae(tmp_path / "a" / weights)
    assert open_submission(tmp_path / "a").hash == first
    config = tmp_path / "a" / weights / CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "apply_b_dec_to_input": False}))
    assert open_submission(tmp_path / "a").hash != first


def test_the_hash_moves_with_every_setting() -> None:
    settings = [{"format": "pca", "rank": 3}, {"format": "pca", "rank": 4}, {"format": "mean"}]
    settings += [{"format": "random-projection", "rank": 3, "seed": seed} for seed in (0, 1)]
    words = {"name": "n", "kind": "reconstruction", "title": "t", "authors": (), "licence": "MIT"}
    assert len({Submission(**words, method=method).hash for method in settings}) == len(settings)


def test_a_submission_for_other_tasks_is_refused(tmp_path: Path) -> None:
    toml = TOML.replace("[method]", 'tasks = ["other/task", "more/tasks"]\n[method]')
    submission = open_submission(submission_in(tmp_path, toml))
    assert not submission.fits(small_task())
    assert submission.fits(small_task(id="more/tasks"))
    with pytest.raises(InterpretationError, match="made for other/task, more/tasks, not for smollm2"):
        submission.build(small_task(), never)


def test_baselines_that_fit_a_task() -> None:
    task = load_task("smollm2-135m/resid-15")
    fitting = {submission.name for submission in baselines_for(task)}
    assert {"identity", "mean-only", "pca-128", "random-256"} <= fitting
    others = {submission.name for submission in baselines_for(small_task(id="other/task"))}
    assert "identity" in others
    assert "pca-128" not in others


def test_reference_methods_are_made_from_moments() -> None:
    words = {"name": "n", "kind": "reconstruction", "title": "t", "authors": (), "licence": "MIT"}

    def built(**method: Any) -> torch.Tensor:
        return Submission(**words, method=method).build(small_task(), moments).reconstruct(X, MASK)[1]

    mean = moments().mean.float()
    torch.testing.assert_close(built(format="mean"), mean.expand_as(X))
    torch.testing.assert_close(built(format="pca", rank=WIDTH), X)
    vectors = torch.linalg.svd(moments().covariance)[2][:2].float()
    torch.testing.assert_close(built(format="pca", rank=2), mean + (X - mean) @ vectors.T @ vectors)
    one, other = (built(format="random-projection", rank=3, seed=seed) for seed in (0, 1))
    assert not torch.allclose(one, other)
    for method in ("pca", "random-projection"):
        with pytest.raises(ValidationError, match=f"format {method} needs `rank`"):
            built(format=method)


def test_references_rebuild_the_output_of_a_task_that_reads_another_place() -> None:
    for name in ("identity", "mean-only", "pca-128"):
        method = open_submission(name).method
        method = method.model_copy(update={"rank": 2} if method.get("rank") else {})
        submission = open_submission(name).model_copy(update={"tasks": (), "method": method})
        assert submission.fits(small_task(site=MLP))
        assert submission.build(small_task(site=MLP), moments).reads == "out"
        assert submission.build(small_task(), moments).reads == "in"


def test_an_object_is_hashed_by_its_tensors(tmp_path: Path) -> None:
    same, again, other = (save_sae(tmp_path, seed) for seed in (0, 0, 1))
    assert object_submission(same).name == "standardsae"
    assert object_submission(same, "mine").name == "mine"
    assert object_submission(same).hash == object_submission(again).hash != object_submission(other).hash

    class Plain:
        def __init__(self, weight: torch.Tensor) -> None:
            self.weight = weight

    hashes = {
        object_submission(Plain(weight)).hash
        for weight in (X, X + 1, X.bfloat16(), X.reshape(-1), torch.zeros(()), torch.tensor([True]))
    }
    assert len(hashes) == 6


def test_the_hash_of_an_object_sees_numbers_slots_and_nested_weights() -> None:
    class Slotted:
        __slots__ = ("k",)

        def __init__(self, k: int) -> None:
            self.k = k

    class Wrapper:
        def __init__(self, weight: float) -> None:
            self.inner = torch.nn.Linear(2, 2)
            torch.nn.init.constant_(self.inner.weight, weight)
            torch.nn.init.zeros_(self.inner.bias)

    class Kept(torch.nn.Module):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.k, self.levels = k, [k, 2 * k]

    class Outer(torch.nn.Module):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.activation = Kept(k)

    assert object_submission(Slotted(8)).hash != object_submission(Slotted(32)).hash
    assert object_submission(Slotted(8)).hash == object_submission(Slotted(8)).hash
    assert object_submission(Wrapper(1.0)).hash != object_submission(Wrapper(2.0)).hash
    assert object_submission(Outer(1)).hash == object_submission(Outer(1)).hash
    assert object_submission(Outer(1)).hash != object_submission(Outer(2)).hash
