"""The whole of `validate`: a small control whose answers are closed form passes, and no wrong answer does."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remainder.api import evaluate as real_evaluate
from remainder.errors import InterpretationError, MeasurementError, RecordError, TaskError
from remainder.record.flow import Bracket
from remainder.task.spec import Task, load_task
from remainder.validation import flows
from remainder.validation.claims import parse_quantity
from remainder.validation.flows import FlowMeasurements
from remainder.validation.run import Validation, controls, draw_seeds, validate
from remainder.validation.tables import frame, render

CLASSES = "classes = true"
OF_NUMBERS = ("clean", "raw", "full", "raw gap", "raw kl", "shape", "permuted at least")
OF_CLASSES = ("clean error", "raw error", "full error", "permuted error at least")

BUILD = """
import numpy as np
import torch
from torch import nn

from remainder.build import Built, Examples


class Keep:
    def __init__(self, count):
        self.count = count

    def encode(self, x):
        return x[..., : self.count]

    def decode(self, codes):
        rest = torch.zeros(*codes.shape[:-1], 6 - self.count)
        return torch.cat([codes, rest], -1)


class Net(nn.Module):
    def __init__(self, weights, classes):
        super().__init__()
        self.site = nn.Identity()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self.classes = classes

    def forward(self, x):
        f = self.site(x) @ self.weights[:, None]
        return torch.cat([-f, f], -1) if self.classes else f


def build(seed, folder, classes=False, scale=1.0, documents=40, evaluation_seed=None):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.normal(size=6) / 2, rng.normal(size=6)

    def examples(rng, count):
        x = rng.normal(size=(count, 100, 6))
        y = x @ b + rng.normal(size=(count, 100))
        targets = (y > 0).astype(np.int64) if classes else y.astype(np.float32)
        names = tuple(f"document-{count}-{i}" for i in range(count))
        return Examples(x.astype(np.float32), targets, names)

    rng = np.random.default_rng([seed, 1])
    splits = {"fit": examples(rng, 4), "calibration": examples(rng, 200)}
    drawn = rng if evaluation_seed is None else np.random.default_rng([seed, 2, evaluation_seed])
    splits["evaluation"] = examples(drawn, documents)
    return Built(Net(a, classes), splits, {"keep-2": Keep(2), "keep-4": Keep(4)})
"""

EXPECTED = """
import numpy as np

# Off the formula because Σ is fitted to 20,000 rows.
FITTED = 0.02


def claims(seed, classes=False, scale=1.0, documents=40):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.normal(size=6) / 2, rng.normal(size=6)
    found = {}
    for kept in (2, 4):
        c = np.where(np.arange(6) < kept, a, 0)
        noise = ((a - c) ** 2).sum()

        def score(weights, variance):
            if classes:
                total = np.sqrt((weights @ weights + variance) * (b @ b + 1))
                return float(np.arccos(weights @ b / total) / np.pi)
            return float((((b - weights) ** 2).sum() + 1 + variance + np.log(2 * np.pi)) / 2)

        clean, raw, full = score(a, 0), score(c, 0), score(c, noise)
        word = " error" if classes else ""
        here = {f"clean{word}": clean, f"raw{word}": raw, f"full{word}": (full, FITTED)}
        here[f"permuted{word} at least"] = full - FITTED
        if not classes:
            here |= {"raw gap": raw - clean, "raw kl": float(noise / 2), "shape": (0.0, FITTED)}
        found[f"keep-{kept}"] = here
    return SHIFT(found)


def SHIFT(found):
    return found
"""

LAWS = """

def laws():
    return [{"name": "inverse square", "quantity": "raw kl", "interpretation": "keep-2", "exponent": -2.0,
             "tolerance": 0.2, "tasks": {"made/one": 1.0, "made/two": 2.0, "made/four": 4.0}}]
"""

FLOW = """
import numpy as np


def claims(seed, classes=False, scale=1.0, documents=40):
    rng = np.random.default_rng(seed)
    a = scale * rng.normal(size=6) / 2
    gaps = {k: float((a[k:] ** 2).sum() / 2) for k in (0, 2, 4)}
    found = {f"{k}: raw kl": gap for k, gap in gaps.items()}
    found |= {f"{k}: full kl": (2 * gap, 0.02) for k, gap in gaps.items()}
    return {"keep-4 by index": found | MORE}
"""


TASK = """
version = "1-A"
title = "A made-up control"
description = "Keeps some of six *independent* coordinates."
seed = 3
rungs = ["raw", "full"]
site = { hook_in = "site", hook_out = "site", width = 6 }
[model]
name = "six weights"
licence = "MIT"
[build]
script = "build.py"
expected = "expected.py"
data = "random numbers"
data_licence = "MIT"
parameters = { PARAMETERS }
[tiers.quick]
evaluation_windows = 1000
calibration_windows = 1000
fit_windows = 10
pairs = 1
dtype = "float32"
"""


def write_control(
    folder: Path, name: str = "one", *, parameters: str = "", shift: str = "", more: str = ""
) -> Path:
    """A folder `made/<name>` with a control.

    `shift` is the body of a function of the claims `found`, `more` stands below the script of claims.
    """
    place = folder / "made" / name
    place.mkdir(parents=True)
    (place / "task.toml").write_text(TASK.replace("PARAMETERS", parameters))
    (place / "build.py").write_text(BUILD)
    shifted = f"def SHIFT(found):\n{textwrap.indent(shift or 'return found', '    ')}\n"
    (place / "expected.py").write_text(
        EXPECTED.replace("def SHIFT(found):\n    return found\n", shifted) + more
    )
    return place


class Memory:
    """Measures everything once: a test that changes claims only need not measure again."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = {}
        self.calls: list[tuple[str, int, str, tuple[str, ...], int | None]] = []

    def evaluate(self, loaded: Any, interpretation: Any, **keywords: Any) -> Any:
        task = loaded.task
        key = (task.id, task.seed, keywords["name"], tuple(keywords["rungs"]), keywords["pairs"])
        self.calls.append(key)
        if key not in self.results:
            self.results[key] = real_evaluate(loaded, interpretation, **keywords)
        return self.results[key]


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    memory = Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remainder.validation.run.evaluate", memory.evaluate)
        yield memory


@pytest.fixture(scope="module")
def validation(memory: Memory, tmp_path_factory: pytest.TempPathFactory) -> Validation:
    folder = tmp_path_factory.mktemp("validation")
    places = [write_control(folder, "numbers"), write_control(folder, "classes", parameters=CLASSES)]
    return validate([load_task(place) for place in places], [None, 11])


def test_a_right_benchmark_passes(validation: Validation) -> None:
    assert validation.passed
    assert len(validation.comparisons) == 2 * 2 * 7 + 2 * 2 * 4
    assert {one.seed for one in validation.comparisons} == {3, 11}
    worlds = {one.seed: one.expected for one in validation.comparisons if one.quantity == "clean"}
    assert worlds[3] != worlds[11]
    assert all(one.se > 0 and math.isfinite(one.z) for one in validation.comparisons)


def test_only_what_is_claimed_is_measured(validation: Validation, memory: Memory) -> None:
    assert {call[2] for call in memory.calls} == {"keep-2", "keep-4"}
    assert all(set(call[3]) == {"raw", "full", "permuted"} and call[4] is None for call in memory.calls)


SHIFTED = [
    *((name, CLASSES, quantity) for name in ("keep-2", "keep-4") for quantity in OF_CLASSES),
    *((name, "", quantity) for name in ("keep-2", "keep-4") for quantity in OF_NUMBERS),
]


@pytest.mark.parametrize(("name", "parameters", "quantity"), SHIFTED)
def test_every_single_wrong_answer_fails(
    validation: Validation, tmp_path: Path, name: str, parameters: str, quantity: str
) -> None:
    """Eight standard errors off, beyond what the formula is allowed, in the world of the task's own seed."""
    control = "classes" if parameters else "numbers"
    (before,) = (
        one
        for one in validation.comparisons
        if (one.task, one.seed, one.interpretation, one.quantity) == (f"made/{control}", 3, name, quantity)
    )
    # To the side on which the measured value is not.
    sign = 1 if before.one_sided or before.measured < before.expected else -1
    start = before.measured if before.one_sided else before.expected
    wrong = start + sign * (8 * before.se + before.allowance)
    shift = f"found[{name!r}][{quantity!r}] = ({wrong!r}, {before.allowance!r})\nreturn found\n"
    place = write_control(tmp_path, control, parameters=parameters, shift=shift)
    after = validate([load_task(place)], [None])
    assert not after.passed
    assert [(one.interpretation, one.quantity) for one in after.comparisons if not one.passed] == [
        (name, quantity)
    ]


def test_a_failure_is_shown_in_full(validation: Validation, tmp_path: Path) -> None:
    shift = "found['keep-4']['raw'] += 5\nreturn found\n"
    after = validate([load_task(write_control(tmp_path, "numbers", shift=shift))], [None, 11])
    text = render(after)
    assert "FAIL (2)" in text
    assert "Validation FAILED: 2 of 28 comparisons failed." in text
    assert text.count("keep-4") == 2
    assert "keep-2" not in text


def test_a_law_across_tasks_is_judged(validation: Validation, tmp_path: Path) -> None:
    """Raw KL of `keep-2` in worlds whose dropped weights are halved twice: it falls as 1/x²."""

    def judged(exponent: str) -> list[Task]:
        more = LAWS.replace("-2.0", exponent)
        scales = {"one": 1.0, "two": 0.5, "four": 0.25}
        return [
            load_task(write_control(tmp_path / exponent, name, parameters=f"scale = {scale}", more=more))
            for name, scale in scales.items()
        ]

    tasks = judged("-2.0")
    found = validate(tasks, [None])
    (law,) = found.laws
    assert found.passed
    assert law.passed
    assert law.fit.exponent == pytest.approx(-2, abs=4 * law.fit.error)
    assert "pass  inverse square" in render(found)
    part = validate(tasks[:2], [None])
    assert part.laws == ()
    assert part.left_out == ("law inverse square: needs made/four too",)
    wrong = validate(judged("-1.0"), [None])
    assert not wrong.passed
    assert all(one.passed for one in wrong.comparisons)
    assert "FAIL  inverse square" in render(wrong)


def test_three_seeds_of_which_one_is_drawn() -> None:
    first, second = draw_seeds(), draw_seeds()
    assert first[:2] == second[:2]
    assert first[0] is None
    assert first[2] != second[2]
    assert draw_seeds(5)[2] == 5


def test_a_seed_that_comes_twice_is_measured_once(validation: Validation, tmp_path: Path) -> None:
    found = validate([load_task(write_control(tmp_path, "numbers"))], [None, 3])
    assert len(found.comparisons) == 14
    assert render(found).count("--seed 3") == 1


def test_what_is_no_control_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="smollm2-135m/resid-15 is no control"):
        controls(["smollm2-135m/resid-15"])
    place = write_control(tmp_path)
    (place / "expected.py").unlink()
    with pytest.raises(TaskError, match=r"there is no expected\.py"):
        controls([load_task(place)])


def test_all_installed_controls_are_found() -> None:
    found = controls()
    assert all(control.task.build is not None and control.task.build.expected for control in found)
    assert len(found) > 3


def test_an_unknown_interpretation_is_an_error(validation: Validation, tmp_path: Path) -> None:
    place = write_control(tmp_path, "numbers", shift="return {'keep-9': {'raw': 1.0}}\n")
    with pytest.raises(InterpretationError, match="keep-9"):
        validate([load_task(place)], [None])


def test_a_baseline_may_be_claimed_of(validation: Validation, tmp_path: Path) -> None:
    shift = "return {'identity': {'raw gap': 0.0, 'raw kl': 0.0}}\n"
    found = validate([load_task(write_control(tmp_path, "numbers", shift=shift))], [None])
    assert found.passed
    assert {one.interpretation for one in found.comparisons} == {"identity"}


def test_the_frame_has_every_comparison(validation: Validation) -> None:
    table = frame(validation)
    assert len(table) == len(validation.comparisons)
    content = json.loads(render(validation, "json"))
    assert [row["measured"] for row in content] == table["measured"].tolist()
    assert render(validation, "csv").count("\n") == 1 + len(table)
    with pytest.raises(RecordError, match="no format 'pdf'"):
        render(validation, "pdf")


def control(folder: Path, more: str) -> Any:
    place = write_control(folder, more="")
    (place / "flow.py").write_text(FLOW.replace("MORE", more), encoding="utf-8")
    return load_task(place)


@pytest.mark.slow
def test_a_flow_is_compared_beside_its_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[FlowMeasurements] = []
    own = flows.measure_flow_of

    def once(*arguments: Any) -> FlowMeasurements:
        measured.append(own(*arguments))
        return measured[-1]

    monkeypatch.setattr("remainder.validation.run.measure_flow_of", once)
    found = validate([control(tmp_path, "{'k perturbative': 0.0}")], [None])
    of_flow = [one for one in found.comparisons if one.interpretation == "keep-4 by index"]
    assert found.passed
    assert [one.quantity for one in of_flow][-1] == "k perturbative"
    assert len(of_flow) == 7
    (shells,) = measured
    with pytest.raises(MeasurementError, match="k raw has no value: it is not reached"):
        shells.read(parse_quantity("k raw", "x"))
    with pytest.raises(MeasurementError, match="k shape has no value: rung permuted was not measured"):
        shells.read(parse_quantity("k shape", "x"))
    monkeypatch.setattr(flows, "brackets_of", lambda *_, **__: {"perturbative": Bracket(low=2, high=2)})
    again = FlowMeasurements(shells.name, shells.records)
    with pytest.raises(MeasurementError, match="k perturbative is 2, and by hand 0"):
        again.read(parse_quantity("k perturbative", "x"))


def test_one_shell_shows_no_scale(tmp_path: Path) -> None:
    task = control(tmp_path, "{}")
    script = task.build.folder / "flow.py"
    script.write_text("def claims(seed, **_):\n    return {'keep-4 by index': {'2: raw kl': 1.0}}\n")
    with pytest.raises(TaskError, match="claims are made of 1 shells"):
        validate([task], [None])
