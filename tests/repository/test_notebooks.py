"""The notebooks of the docs run from top to bottom off the network, and are kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from remainder.base.paths import project_root
from remainder.record.store import read_record

FOLDER = project_root() / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_three_and_a_page_of_the_docs_names_each() -> None:
    assert len(NOTEBOOKS) == 3
    page = (project_root() / "docs" / "score-your-sae.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in page] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code(notebook))
    assert set(notebook.metadata) == {"kernelspec", "language_info"}  # nothing of who ran it last
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert max(len(text.split()) for text in prose) < 90


def test_what_is_read_from_a_published_record_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick part of one notebook, in this process."""
    monkeypatch.chdir(FOLDER)
    scope: dict[str, Any] = {}
    cells = code(read(FOLDER / "take-a-remainder-apart.ipynb"))
    assert "evaluate" in cells[-1].source
    for cell in cells[:-1]:
        exec(compile(cell.source, "take-a-remainder-apart", "exec"), scope)
    scope["plt"].close("all")
    assert scope["result"].record.submission.name == "wiki-topk"


def test_what_the_prose_says_of_numbers_holds_in_the_records() -> None:
    """Harm of a dozen latents, of 64 principal components, and of as many random directions."""
    folder = project_root() / "leaderboard" / "results" / "tiny" / "wiki" / "2"
    harm = {
        name: read_record(next((folder / name).glob("*.json"))).record.metrics.rungs["raw"].quenched.kl.value
        for name in ("wiki-topk", "wiki-pca-64", "wiki-random-64")
    }
    assert harm["wiki-topk"] < 1.5 * harm["wiki-pca-64"] < 0.3 * harm["wiki-random-64"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path) -> None:
    notebook = read(path)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}})
    ways = [str(project_root() / "harness"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join(ways)
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # sae-lens asks for widgets
    client.execute(env={**environment, "HF_HUB_OFFLINE": "1"})
    for cell in code(notebook):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert "Warning" not in text, cell.source
        last = cell.source.splitlines()[-1]
        if "plt.subplots" in cell.source or last.endswith(".plot()"):
            assert "image/png" in kinds, cell.source
        if last in ("result", "own", "ranked.explain()", "result.explain()"):
            assert "text/html" in kinds, cell.source
