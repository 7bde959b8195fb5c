"""A third kind of task is this one file: a table, a spec, a loaded task, two verbs; nothing else changes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import BaseModel
from terminal import Command

import remainder
from remainder.base.cache import Progress
from remainder.errors import InterpretationError, TaskError
from remainder.loading.loaded import LoadedTask
from remainder.loading.windows import tier_hashes
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import Log, Remeasured, info, seal
from remainder.publish import remeasure as publish
from remainder.publish.check import Checked, check_whole
from remainder.record.number import Number
from remainder.record.schema import CalibrationInfo, Complexity, Pinned
from remainder.record.store import StoredRecord
from remainder.record.values import canonical_values
from remainder.runs.cells import run
from remainder.submission.objects import object_submission
from remainder.task import kinds
from remainder.task.kinds import TaskKind
from remainder.task.spec import Task, load_task

RUNGS = ("raw", "mean")

TOML = """
version = "1-A"
title = "Guess the mean"
description = "A forecast of coin tosses, in place of an interpretation."
seed = 5
rungs = ["raw"]
site = { hook_in = "none", hook_out = "none", width = 1 }
coins = { heads = 0.75 }
model = { name = "a coin", licence = "MIT" }

[tiers.quick]
evaluation_windows = 12
calibration_windows = 2
fit_windows = 2
pairs = 1
dtype = "float32"
"""


class Coins(BaseModel):
    """How often a coin falls on heads."""

    heads: float


class CoinSpec(Task):
    """A task whose interpretations forecast coins."""

    coins: Coins


class CoinTask(LoadedTask):
    """A coin, ready to be tossed."""

    task: CoinSpec

    @property
    def interpretations(self) -> dict[str, float]:
        return {"fair": 0.5}

    @property
    def model(self) -> Pinned:
        return Pinned(source="a coin", sha256="1" * 64)

    data = model

    def hooked(self, dtype: str = "float32") -> None:
        return None


def open_coins(
    task: CoinSpec, device: torch.device, batch_size: int | None, progress: Progress | None
) -> CoinTask:
    return CoinTask(task, device, batch_size or 1, progress)


@dataclass(frozen=True)
class Forecast:
    """A submission: the probability of heads."""

    name: str
    heads: float
    kind: str = "forecast"
    is_pinned: bool = True
    format_name: None = None
    kilobytes: None = None
    family: None = None

    @property
    def files(self) -> dict[str, str]:
        return {}

    @property
    def hash(self) -> str:
        return hashlib.sha256(str(self.heads).encode()).hexdigest()

    def require_fit(self, task: Task) -> None:
        if not 0 < self.heads < 1:
            raise InterpretationError(f"{self.name}: {self.heads} is no probability", fix="give one")


def wrap(heads: float, name: str | None = None, ignore_fields: Collection[str] = ()) -> Forecast:
    return Forecast(name or "forecast", heads)


def measure(
    loaded: CoinTask,
    entry: Forecast,
    plan: Plan,
    *,
    reference: Any = None,
    progress: Progress | None = None,
) -> StoredRecord:
    truth, log = loaded.task.coins.heads, Log(warnings=list(plan.notes))

    def cost(heads: float) -> float:
        return -(truth * math.log(heads) + (1 - truth) * math.log(1 - heads))

    costs = {"clean": cost(truth), **dict.fromkeys(plan.rungs, cost(entry.heads))}
    empty = ("annealed", "residual_ss", "centred_ss", "active", "spliced")
    values = pd.DataFrame(
        {"split": "evaluation", "document": f"coin-{i}", "window": 0, "rung": rung, "draw": 0, "tokens": 1}
        | {"loss": each, "kl": each - costs["clean"], "top1": 1, "correct": 1, "kl_histogram": ""}
        | dict.fromkeys(empty, math.nan)
        for rung, each in costs.items()
        for i in range(plan.documents or plan.evaluation_windows)
    )
    nothing = Number.null("a coin has no features")
    record = seal(
        loaded,
        plan,
        log,
        values,
        submission=info(entry),
        complexity=Complexity(live_features=nothing, bits_per_token=nothing, features=None),
        calibration=CalibrationInfo(documents=2, tokens=2, dimension=1, rank=1, bank_rows=2),
        suffix="the coin",
    )
    return StoredRecord(record, values)


def remeasure(
    loaded: CoinTask,
    entry: Forecast,
    plan: Plan,
    documents: Collection[str],
    *,
    reference: Any = None,
    progress: Progress | None = None,
) -> Remeasured:
    record, values = measure(loaded, entry, plan)
    table = canonical_values(values)
    windows = frozenset(zip(table["document"], table["window"], strict=True))
    return Remeasured(
        table.loc[table["document"].isin(documents)],
        tuple(documents),
        windows,
        record.complexity,
        record.calibration,
    )


def check_forecast(found: Checked, submission: Any, task: Task, loaded: Any) -> Checked:
    try:
        task.kind.require_scored(submission.name, submission.kind, task.id)
    except InterpretationError as problem:
        return found.fail("fits", problem)
    found.ok("fits", "a coin takes any forecast")
    return found


def require(task: Task) -> None:
    if task.corpus is not None:
        raise ValueError("a coin has no text")


def facts(task: CoinSpec) -> Iterator[tuple[str, str]]:
    yield "coins", f"heads {task.coins.heads:.0%}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of the new kind."""
    monkeypatch.setattr(kinds, "_KINDS", list(kinds._KINDS))
    kinds.register(
        TaskKind(
            name="coins",
            table="coins",
            scores="forecasts",
            submissions=frozenset({"forecast"}),
            samples="tosses",
            has_residual=False,
            rungs=f"{__name__}:RUNGS",
            open=f"{__name__}:open_coins",
            measure=__name__,
            wrap=f"{__name__}:wrap",
            check=f"{__name__}:check_forecast",
            require=require,
            facts=facts,
            spec=f"{__name__}:CoinSpec",
        )
    )
    place = tmp_path / "games" / "coins"
    place.mkdir(parents=True)
    (place / "task.toml").write_text(TOML)
    return place


def test_a_task_of_a_new_kind_is_loaded_planned_and_shown(folder: Path, remainder: Command) -> None:
    task = load_task(folder)
    assert isinstance(task, CoinSpec)
    assert plan(task, "quick", rungs=("all",)).rungs == RUNGS
    assert not plan(task, "quick", rungs=("all",)).whole
    with pytest.raises(TaskError, match="no rung 'full'"):
        plan(task, "quick", rungs=("full",))
    shown = remainder("show", folder)
    assert "coins      heads 75%" in shown.out
    assert "12 evaluation and 2 calibration tosses" in shown.out


def test_it_is_evaluated_run_found_again_and_measured_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = remainder.evaluate(folder, 0.5, name="fair").record
    lost = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert record.metrics.rungs["raw"].quenched.gap.value == pytest.approx(lost)
    loaded = remainder.open_task(folder)
    rows = [
        row
        for _ in range(2)
        for row in run(loaded, [wrap(0.5, "fair")], plan(loaded.task, "quick"), tmp_path / "out")
    ]
    assert [row.kept for row in rows] == [False, True]
    assert {row.record.result_id for row in rows} == {record.result_id}
    monkeypatch.setattr(publish, "open_task", lambda *_, **__: loaded)
    assert publish.rerun(rows[0].path, documents=3).passed


def test_it_is_run_from_the_command_line(folder: Path, tmp_path: Path, remainder: Command) -> None:
    done = remainder("run", folder, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "fair" in done.out


def test_it_scores_nothing_else_and_nothing_else_scores_it(folder: Path) -> None:
    with pytest.raises(InterpretationError, match=r"1.5 is no probability"):
        remainder.evaluate(folder, 1.5)
    loaded = remainder.open_task(folder)
    with pytest.raises(InterpretationError, match="is a reconstruction; task games/coins scores forecasts"):
        loaded.measure(object_submission(object(), "mine"), plan(loaded.task, "quick"))
    found = check_whole("identity", str(folder))
    assert (found.task, found.steps[-1].name, found.passed) == ("games/coins", "fits", False)


def test_it_need_not_say_which_windows_it_scores(folder: Path) -> None:
    assert tier_hashes(str(folder)) == {}
