"""Scales of controls: the smallest shell from which on the formulas meet a criterion lies in its bracket.

Formulas give every loss with k parts kept, so that each k* is known for all shells together.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from remainder.base.paths import project_root
from remainder.build import load_script
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.plan import plan
from remainder.record.flow import SCALES, MeasuredFlow
from remainder.record.rungs import AMPLITUDES
from remainder.runs.flow import measure_flow, plan_flow
from remainder.submission.open import submissions_for

pytestmark = pytest.mark.slow

Known = dict[int, dict[str, float]]


def formulas(script: str, keeps: range, **parameters: object) -> Known:
    """Losses of the formulas by how many parts are kept."""
    expected: ModuleType = load_script(project_root() / "tasks" / "controls" / script / "expected.py")
    whole = expected.Parameters(**parameters)
    return {keep: expected.expected(replace(whole, kept=keep)) for keep in keeps}


def meets(name: str, at: dict[str, float], nothing: dict[str, float]) -> bool:
    """Whether the formulas meet the criterion of a scale."""
    room = at["full"] - at["mean"]
    if name == "shape":
        return abs(at["full"] - at["permuted"]) <= 0.05 * room
    if name == "perturbative":
        return abs(at["missing"]) <= 0.1 * room
    if name == "raw":
        return abs(at["raw"] - at["clean"]) <= 0.05 * (nothing["raw"] - nothing["clean"])
    return min(at["bath 0.6"], at["bath 1"]) < 0


def check(flow: MeasuredFlow, known: Known, scales: tuple[str, ...]) -> None:
    keeps = [shell.keep for shell in flow.flow.shells]
    for name in scales:
        met = [meets(name, known[keep], known[keeps[0]]) for keep in keeps]
        right = next((keep for place, keep in enumerate(keeps) if all(met[place:])), None)
        found = flow.flow.scales[name]
        assert found.reason is None, name
        if right is None:
            assert found.high is None, name
        else:
            assert found.low is not None, name
            assert found.low <= right, name
            assert found.high is None or right <= found.high, name


def measured(task: str, name: str, keeps: range, place: Path) -> MeasuredFlow:
    loaded = open_task(task, device="cpu")
    assert isinstance(loaded, SiteTask)
    settings = plan(loaded.task, "quick", rungs=("mean", *AMPLITUDES, "permuted"))
    (entry,) = submissions_for(loaded, [name])
    return measure_flow(plan_flow(loaded, entry, settings, order="index", keeps=tuple(keeps)), place)


@pytest.mark.parametrize("branching", [1, 2])
def test_the_chain_of_shells(branching: int, tmp_path: Path) -> None:
    found = measured(f"controls/shell-chain-{branching}", "identity", range(8), tmp_path)
    known = formulas("sums", range(8), branching=branching)
    check(found, known, SCALES)
    assert found.flow.scales["perturbative"].high is not None
    assert found.flow.scales["raw"].high is not None


def test_quadratic_chaos(tmp_path: Path) -> None:
    keeps = range(5)
    found = measured("controls/quadratic-chaos", "identity", keeps, tmp_path)
    check(found, formulas("sums", keeps, law="chaos", parts=4, background=0.05), SCALES)
    # Only with all parts kept is the bath Gaussian: there it helps, and that shows.
    assert found.flow.scales["bath"].high == 4


def test_a_mixture_of_classes(tmp_path: Path) -> None:
    found = measured("controls/mixture", "keep-7", range(8), tmp_path)
    known = formulas("mixture", range(8), seed=2)
    check(found, known, ("shape", "raw"))
    assert found.flow.scales["raw"].high == 6
