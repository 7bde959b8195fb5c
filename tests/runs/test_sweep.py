"""`evaluate_all`: a sweep is one call that goes on where it stopped, and mistakes no object for another."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import Shrink, make_loaded

import remainder as package
from remainder.errors import InterpretationError, RecordError, TaskError
from remainder.record.store import read_record
from remainder.record.turns import RUNS
from remainder.submission.fingerprint import fingerprint

RUNGS = ("raw",)


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return make_loaded()


def saes(count: int) -> dict[str, Shrink]:
    return {f"sae-{number}": Shrink(0.9 - 0.02 * number) for number in range(count)}


def sweep(loaded: Any, things: Any, **options: Any) -> pd.DataFrame:
    return package.evaluate_all(loaded, things, rungs=RUNGS, **options)


def files() -> list[Path]:
    return sorted(Path("results").rglob("*.json"))


def submission(name: str) -> Path:
    folder = Path("submissions") / name
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(
        f'name = "{name}"\nkind = "reconstruction"\ntitle = "A projection"\nauthors = []\n'
        'licence = "MIT"\n[method]\nformat = "pca"\nrank = 3\n'
    )
    return folder


def test_a_sweep_is_one_call_and_goes_on_where_it_stopped(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after some: what is finished is kept, and only the rest is measured."""
    monkeypatch.setattr("remainder.runs.drive.GROUP", 2)
    told = []

    def stop(doing: str, done: int, total: int | None) -> None:
        told.append(doing)
        if doing.startswith("3 of 8 done"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(loaded, saes(8), progress=stop)
    assert len(files()) == 3
    assert not list((Path("results") / RUNS / "claims").glob("*.lock"))
    before = {path: path.stat().st_mtime_ns for path in files()}
    frame = sweep(loaded, saes(8))
    assert len(files()) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert frame["submission"].tolist() == list(saes(8))
    assert frame["error"].isna().all()
    alone = package.evaluate(loaded, saes(8)["sae-7"], name="sae-7", rungs=RUNGS).record
    row = frame.set_index("submission").loc["sae-7"]
    assert row["result_id"] == alone.result_id
    assert row["kl_raw"] == alone.metrics.rungs["raw"].quenched.kl.value
    monkeypatch.setattr("remainder.runs.cells.open_task", None)  # a finished sweep needs no model
    pd.testing.assert_frame_equal(package.evaluate_all(loaded.task, saes(8), rungs=RUNGS), frame)
    assert package.load_results("results")["record_id"].sort_values().tolist() == sorted(frame["record_id"])


def test_objects_and_paths_are_rows_of_one_frame_and_errors_stop_no_other(loaded: Any) -> None:
    broken = Shrink(float("nan"))
    things = {
        "mine": Shrink(),
        "torn": broken,
        "absent": "no/such/folder",
        "renamed": str(submission("projection")),
    }
    frame = sweep(loaded, things).set_index("submission")
    assert list(frame.index) == list(things)
    assert frame["error"].notna().tolist() == [False, True, True, False]
    assert "torn" in frame.loc["torn", "error"]
    assert "no/such/folder" in frame.loc["absent", "error"]
    assert frame.loc["absent", "fix"]
    assert frame["kl_raw"].notna().tolist() == [True, False, False, True]
    record = read_record(frame.loc["renamed", "path"]).record
    assert record.submission.name == "renamed"
    assert record.submission.format == "pca"
    none = sweep(loaded, {"absent": "no/such/folder"})
    assert none["error"].notna().all()


def test_an_object_is_found_again_by_its_content_only(loaded: Any) -> None:
    first = sweep(loaded, {"a": Shrink(0.5)})
    assert sweep(loaded, {"a": Shrink(0.5)})["record_id"].equals(first["record_id"])
    other = sweep(loaded, {"a": Shrink(0.6)})
    assert other["kl_raw"][0] != first["kl_raw"][0]
    assert sweep(loaded, {"a": Shrink(0.5)}, fresh=True)["result_id"].equals(first["result_id"])
    assert len(files()) == 3


def test_what_cannot_be_hashed_is_measured_anew_and_named(loaded: Any) -> None:
    def opaque() -> Shrink:
        thing = Shrink()
        thing.noise = torch.Generator()  # type: ignore[attr-defined]
        return thing

    for number in (1, 2):
        with pytest.warns(UserWarning, match=r"odd is measured anew .* does not cover noise \(torch"):
            sweep(loaded, {"odd": opaque()})
        assert len(files()) == number


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([Shrink(), Shrink(0.5)], "2 interpretations are called shrink"),
        ({"a": Shrink(), "A": Shrink(0.5)}, "2 interpretations are called a"),
        ({}, "no interpretation is named"),
        ("baselines/pca", "a str is no list"),
        ({"a/b": Shrink()}, "'a/b' cannot stand in a table"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_before_anything_is_measured(
    loaded: Any, things: Any, message: str
) -> None:
    with pytest.raises(InterpretationError, match=message):
        sweep(loaded, things)
    assert not Path("results").exists()


def test_what_concerns_all_is_an_error(loaded: Any) -> None:
    Path("file").write_text("")
    with pytest.raises(RecordError, match="file is no folder"):
        sweep(loaded, {"a": Shrink()}, out="file")
    with pytest.raises(TaskError, match="no task"):
        package.evaluate_all("tiny/absent", {"a": Shrink()})


# fingerprints


def made(code: str) -> Any:
    """An object of a class that was typed in, as into a notebook."""
    module = types.ModuleType("__main__")
    exec(compile(code, "<cell>", "exec"), vars(module))
    return module.Sae()  # type: ignore[attr-defined]


CELL = """
scale = 2
_w = open_file = (part for part in ())
def helper(x): return x * scale
class Sae:
    def __init__(self): self._w = 1.0
    def encode(self, x): return helper(x) if str(x) not in {"a", "b", "c"} else x
"""


@pytest.mark.parametrize(
    "change",
    [
        ("x * scale", "x + scale"),  # a function beside the class
        ("scale = 2", "scale = 3"),  # what that refers to
        ("_w = 1.0", "_w = 1.5"),  # private state
        ("not in", "in"),  # the method itself
        ('"c"}', '"d"}'),
    ],
)
def test_code_and_hidden_state_are_covered(change: tuple[str, str]) -> None:
    one = fingerprint(made(CELL))
    assert one.unseen == ()
    assert fingerprint(made(CELL)) == one
    assert fingerprint(made(CELL.replace(*change))).hash != one.hash


def test_arrays_closures_and_deep_state_are_covered() -> None:
    def thing(value: float) -> Any:
        weights = np.full(3, value)
        return types.SimpleNamespace(deep=[{"a": [[{"b": lambda x: weights * x}]]}])

    assert fingerprint(thing(1.0)) == fingerprint(thing(1.0))
    assert fingerprint(thing(1.0)).hash != fingerprint(thing(2.0)).hash
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert fingerprint(cycle).unseen == ()
    assert fingerprint(iter([1])).unseen
    assert fingerprint(np.array([object()], dtype=object)).unseen


def test_a_fingerprint_is_that_of_another_process() -> None:
    """Neither the order of sets nor a place in memory is in it."""
    code = (
        "import torch, numpy as np\nfrom remainder.submission.fingerprint import fingerprint\n"
        "torch.manual_seed(0)\nthing = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())\n"
        f"scope = {{'__name__': '__main__'}}\nexec({CELL!r}, scope)\n"
        "found = fingerprint([thing, {'x', 'y', 'z'}, np.arange(3), scope['Sae']()])\n"
    )
    here: dict[str, Any] = {}
    exec(code, here)
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-c", f"{code}print(found.hash)"]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert here["found"] == (there.stdout.strip(), ())
