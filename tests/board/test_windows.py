"""Documents and windows of a record are those of its task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from forging import Original, committed_records, copies, plain, remade, root_of

from remainder.base.paths import project_root
from remainder.board.verify import Shelf, verify_record
from remainder.loading.windows import tier_hashes
from remainder.record.json import sha256
from remainder.record.store import read_record, values_path
from remainder.record.windows import scored_in, windows_file, windows_hash, windows_of
from remainder.task.spec import list_tasks, load_task

KNOWN = json.loads(windows_file().read_text(encoding="utf-8"))


def test_every_task_whose_model_can_be_had_has_its_windows() -> None:
    """Else: python -m remainder.loading.windows."""
    for name in list_tasks():
        task = load_task(name)
        if task.model.is_open:
            assert set(KNOWN[name]) == set(task.tiers), name
    assert set(KNOWN) <= set(list_tasks())


def test_tasks_of_a_hub_or_under_terms_are_not_in_the_file_of_windows() -> None:
    """The counts on the page of threats are those of the tasks."""
    tasks = list_tasks()
    absent = {name for name in tasks if name not in KNOWN}
    assert absent == {name for name in tasks if not load_task(name).model.is_open}
    page = (project_root() / "docs" / "threats.md").read_text(encoding="utf-8")
    assert f"({len(absent)} of {len(tasks)};" in " ".join(page.split())


@pytest.mark.parametrize("task", ["tiny/digits", "controls/two-point", "tracr/reverse-circuit", "tiny/wiki"])
def test_they_are_what_the_task_gives(task: str) -> None:
    assert tier_hashes(task) == KNOWN[task]


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(KNOWN))
def test_all_are_what_the_tasks_give(task: str) -> None:
    assert tier_hashes(task) == KNOWN[task]


def test_the_hash_is_over_document_window_and_tokens() -> None:
    text = '["a", 0, 5]\n["b\\u00e9", 1, 7]\n'
    assert windows_hash({("bé", 1): 7, ("a", 0): 5}) == sha256(text.encode())


def test_committed_records_have_the_windows_of_their_tasks() -> None:
    seen = set()
    for path, content in committed_records().items():
        key = (content["task"]["id"], content["tier"])
        if key not in seen:  # the others agree with it, or `peers` says so
            seen.add(key)
            assert windows_hash(scored_in(read_record(path).values)) == windows_of(*key), path
    assert len(seen) > 20


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    known = [Original(path, content, b"") for path, content in committed_records().items()]
    smallest = plain(known)
    (copied,) = copies([smallest.path], tmp_path_factory.mktemp("board") / "results")
    return copied


def renamed(values: pd.DataFrame) -> pd.DataFrame:
    return values.assign(document=values["document"].map(lambda name: f"{name}x"))


def one_renamed(values: pd.DataFrame) -> pd.DataFrame:
    first = values["document"].iloc[-1]
    return values.assign(document=values["document"].replace({first: f"{first}-b"}))


def left_out(values: pd.DataFrame) -> pd.DataFrame:
    """The document with the largest KL: everything looks better without."""
    raw = values.loc[values["rung"] == "raw"]
    worst = raw.loc[raw["kl"].idxmax(), "document"]
    return values.loc[values["document"] != worst].reset_index(drop=True)


def doubled(values: pd.DataFrame) -> pd.DataFrame:
    """The best one stands in place of the worst."""
    raw = values.loc[values["rung"] == "raw"]
    best, worst = (raw.loc[at, "document"] for at in (raw["kl"].idxmin(), raw["kl"].idxmax()))
    kept = values.loc[values["document"] != worst]
    again = values.loc[values["document"] == best].assign(document=f"{worst}-again")
    return pd.concat([kept, again], ignore_index=True)


@pytest.mark.parametrize("change", [renamed, one_renamed, left_out, doubled])
def test_other_documents_are_a_fault(
    change: Callable[[pd.DataFrame], pd.DataFrame], original: Original
) -> None:
    path = remade(original, root_of(original), change)
    try:
        faults = verify_record(path, Shelf(root_of(original))).faults
    finally:
        path.unlink()
        values_path(path).unlink()
    assert any(fault.startswith("windows: documents, windows or scored tokens are not") for fault in faults)


def test_a_task_that_is_not_here_is_noted(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remainder.board.verify.windows_of", lambda task, tier: None)
    for file in (original.path, values_path(original.path)):
        shutil.copy(file, tmp_path)
    notes = verify_record(tmp_path / original.path.name).notes
    assert any("documents were not compared" in note for note in notes)
