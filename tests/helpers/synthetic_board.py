"""Folders of made-up records in the form of the leaderboard, for tests and benchmarks of the board."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import fake_hash, synthetic_record
from synthetic_values import synthetic_values, with_coding

from remainder.board.rank import gives_places
from remainder.record.json import canonical_json, content_hash
from remainder.record.schema import MethodInfo, SubmissionInfo, TaskInfo
from remainder.record.store import _result_id, values_path, write_record
from remainder.record.values import values_to_csv
from remainder.task.spec import list_tasks


def submission(name: str, *, files: bool = True) -> SubmissionInfo:
    """Of `name`; without files it is a reference."""
    hashes = {"weights.safetensors": fake_hash(name)} if files else {}
    return SubmissionInfo(
        name=name,
        kind="reconstruction",
        files=hashes,
        hash=fake_hash(name),
        method=MethodInfo(format=None),
    )


def scaled(values: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The same documents with every KL, and every gap, times `factor`."""
    table = values.copy()
    keys = ["split", "document", "window"]
    clean = table.loc[table["rung"] == "clean"].set_index(keys)["loss"]
    base = clean.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy(dtype=np.float64)
    table["kl"] = table["kl"] * factor
    table["loss"] = base + (table["loss"].to_numpy(dtype=np.float64) - base) * factor
    return table


def coded(factor: float, *, bits: float = 180.0, seed: int = 0, documents: int = 12) -> pd.DataFrame:
    """Values of codes that are paid for: every KL but that of the reference is times `factor`."""
    values = synthetic_values(documents=documents, windows=1, seed=seed)
    reference = with_coding(values, bits=bits)
    mine = with_coding(scaled(values, factor), bits=bits)
    is_reference = [part["rung"].str.startswith("reference").to_numpy() for part in (reference, mine)]
    return pd.concat([mine.loc[~is_reference[1]], reference.loc[is_reference[0]]], ignore_index=True)


def let_give_places(monkeypatch: pytest.MonkeyPatch, *tasks: str) -> None:
    """Within a test these tasks are of public pretrained models, whether there are any such tasks or not."""
    tiers = dict.fromkeys(("quick", "standard", "full"), SimpleNamespace(dtype="float32"))
    known = SimpleNamespace(gives_places=True, kind=SimpleNamespace(has_residual=True), tiers=tiers)
    monkeypatch.setattr("remainder.board.rank.list_tasks", lambda: list(tasks))
    monkeypatch.setattr("remainder.board.rank.load_task", lambda name: known)


def put(results: Path, values: pd.DataFrame, **changes: Any) -> Path:
    """A record of `values` at its place below `results`; `changes` as for `synthetic_record`."""
    record = synthetic_record(values, **changes)
    nested = "" if record.reference is None else f"-to-{record.reference.name}"
    folder = results / record.task.id / record.task.version.partition("-")[0]
    path = folder / f"{record.submission.name}{nested}" / f"{record.record_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, values, path)
    return path


def small_board(results: Path) -> dict[str, Path]:
    """Two tasks: one with a clear first, two that tie, references, a nested and a replaced record."""
    contents, made = _small_board()
    for name, data in contents.items():
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {key: results / name for key, name in made.items()}


@cache
def _small_board() -> tuple[dict[str, bytes], dict[str, str]]:
    """The files of `small_board` by their place, and which record is which: made once."""
    with TemporaryDirectory() as folder:
        results = Path(folder)
        made = _make_small_board(results)
        files = {path.relative_to(results).as_posix(): path for path in results.rglob("*") if path.is_file()}
        contents = {name: path.read_bytes() for name, path in files.items()}
        return contents, {key: path.relative_to(results).as_posix() for key, path in made.items()}


def _make_small_board(results: Path) -> dict[str, Path]:
    task = TaskInfo(id="family/task", version="1-A", hash=fake_hash("task"))
    base = synthetic_values(documents=12, seed=1)
    near = synthetic_values(documents=12, seed=2)
    made = {
        "good": put(results, scaled(base, 0.4), task=task, submission=submission("good"), bits=300.0),
        "even": put(results, base, task=task, submission=submission("even"), bits=200.0),
        "equal": put(results, near, task=task, submission=submission("equal"), bits=260.0),
        "identity": put(
            results, scaled(base, 0.0), task=task, submission=submission("copy", files=False), bits=4000.0
        ),
        "mean": put(
            results, scaled(base, 9.0), task=task, submission=submission("mean", files=False), bits=0.0
        ),
        "nested": put(
            results, near, task=task, submission=submission("even"), reference=submission("good"), bits=200.0
        ),
    }
    made["old"] = put(
        results,
        scaled(base, 3.0),
        task=task,
        submission=submission("good").model_copy(update={"hash": fake_hash("before")}),
        bits=280.0,
        provenance=synthetic_record(base).provenance.model_copy(
            update={"timestamp": "2025-01-01T00:00:00+00:00"}
        ),
    )
    other = TaskInfo(id="other/task", version="2-B", hash=fake_hash("other"))
    made["other"] = put(results, base, task=other, submission=submission("even"), bits=200.0)
    return made


@cache
def _bases(count: int) -> list[tuple[dict[str, Any], bytes]]:
    """Contents and packed values of `count` honest records, as large as real ones of the quick tier."""
    found = []
    for number in range(count):
        values = coded(0.3 + 0.1 * number, bits=60.0 + 15 * number, seed=number, documents=32)
        content = synthetic_record(values).model_dump(mode="json")
        found.append((content, gzip.compress(values_to_csv(values), mtime=0)))
    return found


def large_board(results: Path, *, tasks: int, records: int, bases: int = 24) -> None:
    """`records` records of each of `tasks` tasks, all verifiable: few sets of values, many names and bits.

    The first tasks have the ids of those that give places, as many as there are of these.
    """
    contents = _bases(bases)
    known = [task for task in list_tasks() if gives_places(task)]
    for task in range(tasks):
        for number in range(records):
            content, data = contents[(number + task) % bases]
            name = f"method-{number % 17}-width-{number}"
            content = dict(content)
            place = known[task] if task < len(known) else f"suite-{task % 4}/task-{task}"
            info = TaskInfo(id=place, version="1-A", hash=fake_hash(str(task)))
            content["task"] = info.model_dump(mode="json")
            content["submission"] = submission(name, files=number % 12 != 0).model_dump(mode="json")
            del content["record_id"]
            content["result_id"] = _result_id(content)
            content["record_id"] = content_hash(content)
            folder = results / content["task"]["id"] / "1" / name
            folder.mkdir(parents=True)
            path = folder / f"{content['record_id']}.json"
            path.write_text(canonical_json(content, indent=1) + "\n", encoding="utf-8")
            values_path(path).write_bytes(data)
