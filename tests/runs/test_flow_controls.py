"""Scales of controls: the smallest shell from which on the formulas meet a criterion lies in its bracket.

Formulas give every loss with k parts kept, so that each k* is known for all shells together. Where the
formulas of a control are the subject too (kurtosis by shell, a random order), losses are worked out here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from remainder.base.paths import project_root
from remainder.build import load_script
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.plan import plan
from remainder.record.flow import SCALES, MeasuredFlow
from remainder.record.rungs import AMPLITUDES
from remainder.runs.flow import measure_flow, plan_flow
from remainder.submission.open import submissions_for
from remainder.submission.shells import Shell
from remainder.task.spec import load_task
from remainder.validation.claims import Claim, parse_quantity
from remainder.validation.flows import measure_flow_of
from remainder.validation.verdict import FAMILY_WISE, Finding, judge

pytestmark = pytest.mark.slow

Known = dict[int, dict[str, float]]
Array = NDArray[np.float64]

SEEDS = (1, 271828, 20261130)


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


def world(task: str, seed: int) -> SiteTask:
    """A control in the world of a seed."""
    loaded = open_task(load_task(task).model_copy(update={"seed": seed}), device="cpu")
    assert isinstance(loaded, SiteTask)
    return loaded


def shells_of(loaded: SiteTask, order: str, keeps: Iterable[int]) -> dict[int, Shell]:
    """Shells of the identity."""
    (entry,) = submissions_for(loaded, ["identity"])
    settings = plan(loaded.task, "quick", rungs=("raw",))
    planned = plan_flow(loaded, entry, settings, order=order, keeps=tuple(keeps))
    return {keep: one for keep, one in planned.shells.items() if isinstance(one, Shell)}


# --------------------------------------------------------------------- the law of what is left out, by itself


def kurtosis(sums: Array) -> tuple[float, float]:
    """Excess kurtosis of values of mean 0, `[documents, rows]`, and its jackknife error over documents."""
    second, fourth = (sums**2).mean(1), (sums**4).mean(1)
    count = len(sums)
    left = (fourth.sum() - fourth) / (count - 1) / ((second.sum() - second) / (count - 1)) ** 2
    error = np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    return float(fourth.mean() / second.mean() ** 2 - 3), float(error)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_branch_stays_non_gaussian_and_two_fall_by_half_a_shell(seed: int) -> None:
    """κ₄(n) = −2 Σ_{m≥n} q^2m b^−m/(Σ_{m≥n} q^m + s²)² with q = ½, s² = .01 and seven shells."""
    level = stats.t.isf(FAMILY_WISE / 2 / (len(SEEDS) * 2 * 7), 127)
    for branching in (1, 2):
        loaded = world(f"controls/shell-chain-{branching}", seed)
        x = loaded.rows("evaluation")
        known, found = {}, {}
        for keep, shell in shells_of(loaded, "index", range(7)).items():
            inner = shell.build(loaded.task, loaded.fit_moments).inner
            sums = (x - inner.decode(inner.encode(x[None]))[0]).sum(-1).double().numpy()
            at = np.arange(keep, 7.0)
            known[keep] = -2 * (0.25**at / branching**at).sum() / ((0.5**at).sum() + 0.01) ** 2
            found[keep], error = kurtosis(sums.reshape(128, -1))
            assert abs(found[keep] - known[keep]) <= level * error, (branching, keep)
            assert branching == 2 or found[keep] < -5 * error
        if branching == 1:
            assert min(known.values()) == pytest.approx(-0.755, abs=5e-4)
            assert max(known.values()) == pytest.approx(-0.670, abs=5e-4)
        else:  # by 1/b a shell while n ≤ S − 3
            assert all(known[n + 1] / known[n] == pytest.approx(0.5, abs=0.03) for n in range(4))
            assert found[0] < 1.5 * found[1] < 2.25 * found[2] < 0


# -------------------------------------------------------------------------------------------- a random order


def raw_loss(
    kept: NDArray[np.bool_], variances: Array, background: float, gain: float
) -> tuple[float, float]:
    """Raw and clean loss of a logistic readout of signs and a Gaussian, some kept: all states × a grid.

    Args:
        kept: which, the Gaussian last.
    """
    z = np.linspace(-8.5, 8.5, 341)
    chance = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    signs = 1 - 2 * (np.arange(2 ** len(variances))[:, None] >> np.arange(len(variances)) & 1)
    parts, g = signs * np.sqrt(variances), np.sqrt(background) * z
    t = gain * (parts.sum(1)[:, None] + g)
    x = gain * ((parts * kept[:-1]).sum(1)[:, None] + kept[-1] * g)
    p = expit(t)
    losses = ((np.logaddexp(0, f) - p * f) @ chance for f in (x, t))
    raw, clean = (float(loss.mean()) for loss in losses)
    return raw, clean


def test_a_random_order_shows_a_later_scale_than_the_order_of_the_shells() -> None:
    """k_raw under a random order is where the parts say that it happened to keep, and not the shells' own."""
    scales: ModuleType = load_script(project_root() / "tasks/controls/scales.py")
    keeps, variances = tuple(range(9)), 0.5 ** np.arange(7)
    findings: list[Finding] = []
    later = []
    for seed in SEEDS:
        loaded, found = world("controls/shell-chain-1", seed), {}
        for order in ("index", "random"):
            known = {}
            for keep, shell in shells_of(loaded, order, keeps).items():
                assert shell.some.chosen is not None
                raw, clean = raw_loss(shell.some.chosen.numpy(), variances, 0.01, 4.0)
                known[keep] = {"raw": raw, "clean": clean}
            expected = {f"{keep}: raw gap": at["raw"] - at["clean"] for keep, at in known.items()}
            expected["k raw"] = scales.scale("raw", known)
            claims = [Claim(order, parse_quantity(text, ""), value) for text, value in expected.items()]
            name = f"identity by {order}"
            flow = measure_flow_of(loaded, name, "quick", [claim.quantity for claim in claims])
            findings += [Finding(name, seed, claim, flow.read(claim.quantity)) for claim in claims]
            found[order] = findings[-1].measured
        apart = found["random"].value - found["index"].value
        later.append(apart / np.hypot(found["random"].error, found["index"].error))
    assert all(one.passed for one in judge(findings))
    assert min(later) > -3
    assert max(later) > 3  # the power to tell an order that knows the model from one that does not
