"""Nothing honest is caught: every baseline still passes `check`, without a new doubt, and keeps its place."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import remainder.publish.check as module
from remainder.base.paths import project_root
from remainder.loading.loaded import LoadedTask
from remainder.loading.open import at_site, open_task
from remainder.measure.unexplained import Unexplained
from remainder.publish.check import check_whole
from remainder.record.memorised import check_memorised, unexplained_by
from remainder.submission.open import open_submission
from remainder.task.spec import load_task

BASELINES = sorted(path.parent.name for path in (project_root() / "baselines").glob("*/submission.toml"))


def cases() -> list[object]:
    """Each baseline with the tiny tasks that it names, whose models are here."""
    found: list[object] = []
    for name in BASELINES:
        submission = open_submission(name) if _is_here(name) else None
        for task in () if submission is None else submission.tasks:
            quick = task.startswith("tiny/") and submission is not None and submission.fits(load_task(task))
            if quick and load_task(task).kind.has_residual:
                found.append(pytest.param(name, task, id=f"{name} on {task}"))
    return found


def _is_here(name: str) -> bool:
    text = (project_root() / "baselines" / name / "submission.toml").read_text(encoding="utf-8")
    return "hub =" not in text


@cache
def _opened(task: str) -> LoadedTask:
    return open_task(task, device="cpu")


@pytest.mark.parametrize(("name", "task"), cases())
def test_every_baseline_passes_without_a_doubt(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_task", lambda chosen, **settings: _opened(chosen.id))
    found = check_whole(name, task)
    assert found.passed, (found.error, [step for step in found.steps if step.passed is False])
    assert found.warnings == []
    loaded = at_site(_opened(task))
    tier, left = loaded.task.tier("quick"), Unexplained()
    interpretation = open_submission(name).build(loaded.task, lambda: loaded.fit_moments(tier.fit_windows))
    for split, windows in (
        ("calibration", tier.calibration_windows),
        ("fit", tier.fit_windows),
        ("evaluation", tier.evaluation_windows),
    ):
        for batch in loaded.activations(split, windows).batches(16):
            read = interpretation.choose(batch.prefix.x_in, batch.prefix.x_out)
            with torch.no_grad():  # weights that sae-lens loads require gradients
                _, estimate = interpretation.reconstruct(read, batch.spliced)
            left.update(split, batch, batch.prefix.x_out - estimate)
    shares = left.shares(loaded.task.seed)
    evaluation = shares.pop("evaluation")
    assert check_memorised(shares, unexplained_by(evaluation)).passed, shares


def test_most_baselines_are_looked_at() -> None:
    assert len(cases()) > 25
