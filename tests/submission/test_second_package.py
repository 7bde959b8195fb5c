"""Baselines too large for the package: named where it lacks them, and found in `remainder-baselines`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Command

from remainder.base import paths
from remainder.base.paths import SECOND_PACKAGE, project_root
from remainder.board.verify import verify_paths
from remainder.errors import InterpretationError
from remainder.submission.open import absent_baselines, baselines_for, open_submission
from remainder.task.spec import load_task

TASK = "tiny/digits"
NAME = "digits-topk-sae-8"
BESIDE = "digits-pca-4"
CIRCUIT = f"""name = "circuit"
kind = "feature-circuit"
title = "Latents of a baseline"
authors = []
licence = "MIT"

[method]
format = "feature-attribution"
steps = 1

[[method.sites]]
task = "tiny/digits"
submission = "baselines/{NAME}"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that has the description of one baseline alone; gives the folder of packages."""
    source, bundled = project_root() / "baselines", tmp_path / "site" / "remainder" / "_bundled"
    shutil.copytree(source / BESIDE, bundled / "baselines" / BESIDE)
    (bundled / "baselines" / NAME).mkdir()
    shutil.copy(source / NAME / "submission.toml", bundled / "baselines" / NAME)
    monkeypatch.setattr(paths, "project_root", lambda: bundled)
    monkeypatch.chdir(tmp_path)
    paths._second_root.cache_clear()
    yield tmp_path / "site"
    paths._second_root.cache_clear()


@pytest.fixture
def second(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second package, installed beside it."""
    folder = package / "remainder_baselines" / "baselines" / NAME
    shutil.copytree(Path(__file__).parents[2] / "baselines" / NAME, folder)
    monkeypatch.syspath_prepend(str(package))
    paths._second_root.cache_clear()
    return folder


def test_a_baseline_without_its_files_is_listed_and_not_measured(
    package: Path, remainder: Command, tmp_path: Path
) -> None:
    task = load_task(TASK)
    assert absent_baselines(task) == [NAME]
    assert [one.name for one in baselines_for(task)] == [BESIDE]
    shown = " ".join(remainder("show", TASK).out.split())
    assert f"baselines {BESIDE} absent {NAME} (pip install {SECOND_PACKAGE})" in shown
    done = remainder("run", TASK, "--rungs", "raw", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert BESIDE in done.out
    assert NAME not in done.out
    assert f"{TASK}: not measured, since they come with {SECOND_PACKAGE}: {NAME}" in done.err


@pytest.mark.parametrize("name", [NAME, f"baselines/{NAME}"])
def test_asking_for_it_says_what_to_install(package: Path, name: str) -> None:
    with pytest.raises(InterpretationError, match=f"{NAME} are not here: they come with") as raised:
        open_submission(name)
    assert raised.value.fix == f"pip install {SECOND_PACKAGE}"


def test_a_circuit_that_is_made_of_it_says_so_too(package: Path, tmp_path: Path) -> None:
    (tmp_path / "circuit").mkdir()
    (tmp_path / "circuit" / "submission.toml").write_text(CIRCUIT)
    with pytest.raises(InterpretationError, match=f"{NAME} are not here: they come with"):
        open_submission(tmp_path / "circuit")


def test_a_record_of_it_passes_with_a_note(package: Path) -> None:
    results = Path(__file__).parents[2] / "leaderboard" / "results" / TASK
    (path,) = sorted(results.glob(f"*/{NAME}/*.json"))
    (verdict,) = verify_paths([path])
    assert verdict.passed, verdict.faults
    assert any(f"the files of {NAME} come with {SECOND_PACKAGE}" in note for note in verdict.notes)


def test_the_second_package_has_it(second: Path) -> None:
    task = load_task(TASK)
    assert absent_baselines(task) == []
    found = {one.name: one for one in baselines_for(task)}
    assert found.keys() == {NAME, BESIDE}
    assert found[NAME].folder == second
    opened = open_submission(f"baselines/{NAME}")
    assert opened.hash == found[NAME].hash
    assert opened.kilobytes is not None


def test_a_checkout_looks_at_no_other_package(second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(__file__).parents[2]
    monkeypatch.setattr(paths, "project_root", lambda: checkout)
    assert open_submission(NAME).folder == checkout / "baselines" / NAME
