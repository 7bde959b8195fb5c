"""Levels over each other, end to end: a linear network in closed form, and what must hold of any levels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from terminal import Command

from remainder.base.paths import project_root
from remainder.board.listing import record_files
from remainder.build import load_script
from remainder.errors import RecordError
from remainder.loading.open import open_task
from remainder.loading.site import SiteTask
from remainder.measure.plan import Plan, plan
from remainder.publish.remeasure import rerun
from remainder.record.levels import STATEMENTS, MeasuredLevels
from remainder.record.levels_file import read_levels, write_levels
from remainder.record.number import Number
from remainder.record.rungs import AMPLITUDES
from remainder.record.verdicts import Verdict
from remainder.report.levels import COLUMNS, levels_frame, render_levels, steps_of
from remainder.report.plot import save
from remainder.report.plot_levels import levels_figure
from remainder.runs.cells import sweep
from remainder.runs.levels import measure_levels, plan_levels
from remainder.submission.objects import object_submission
from remainder.submission.open import submissions_for

CONTROL = "controls/linear-gaussian"
KEPT = (3, 7)
Array = np.ndarray


class Project:
    """The orthogonal projection onto the first columns of a basis."""

    def __init__(self, basis: Array) -> None:
        self.W_dec = torch.from_numpy(basis.T).float()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_dec.T

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


@pytest.fixture(scope="module")
def loaded() -> SiteTask:
    found = open_task(CONTROL, device="cpu")
    assert isinstance(found, SiteTask)
    return found


@pytest.fixture(scope="module")
def settings(loaded: SiteTask) -> Plan:
    rungs = ("mean", *AMPLITUDES, "permuted", "mirror", "noise-fitted")
    return plan(loaded.task, "quick", rungs=rungs, documents=24)


@pytest.fixture(scope="module")
def basis() -> Array:
    found, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))
    return np.asarray(found)


@pytest.fixture(scope="module")
def levels(loaded: SiteTask, settings: Plan, basis: Array, place: Path) -> MeasuredLevels:
    """Two nested subspaces, the identity above them, and the model."""
    entries = [
        *(object_submission(Project(basis[:, :kept]), f"subspace-{kept}") for kept in KEPT),
        *submissions_for(loaded, ["identity"]),
    ]
    return measure_levels(plan_levels(loaded, entries, settings), place)


def expected(formulas: ModuleType, task: Any, coarse: Array, fine: Array) -> dict[str, float]:
    """Losses of a subspace within another: all is linear in x, so that Gaussians of f and g tell them.

    Source: `outputs` of the control, with the finer reconstruction Fx in the place of x, δ = (F − C)x.
    """
    m, s, _, a, b = formulas.draw(formulas.Parameters(seed=task.seed, **task.build.parameters))
    noise = float(a @ (fine - coarse) @ s @ (fine - coarse) @ a)

    def output(read: Array, mean: Array, noise: float = 0.0) -> Any:
        return formulas.Output(
            float(a @ mean),
            float(read @ s @ read),
            noise,
            float(read @ s @ b),
            float(b @ m),
            float(b @ s @ b),
        )

    rungs = {
        "clean": output(fine @ a, fine @ m),
        "raw": output(coarse @ a, coarse @ m),
        "mean": output(coarse @ a, fine @ m),
        "full": output(coarse @ a, fine @ m, noise),
        "permuted": output(coarse @ a, fine @ m, noise),
        "full-0.6": output(coarse @ a, fine @ m, 0.36 * noise),
    }
    found = {rung: formulas.cross_entropy(one) for rung, one in rungs.items()}
    found["bath 0.6"] = formulas.annealed_cross_entropy(rungs["full-0.6"]) - found["mean"]
    return found


def within(number: Number, value: float, errors: float = 3) -> bool:
    """Whether a value lies within so many standard errors."""
    assert number.value is not None
    assert number.low is not None
    assert number.high is not None
    return abs(number.value - value) <= errors * (number.high - number.low) / 3.92


def test_levels_of_a_linear_network_have_their_closed_form(
    levels: MeasuredLevels, loaded: SiteTask, basis: Array
) -> None:
    formulas = load_script(project_root() / "tasks" / "controls" / "linear-gaussian" / "expected.py")
    coarse, fine = (basis[:, :kept] @ basis[:, :kept].T for kept in KEPT)
    for record, target, base in zip(levels.records, (fine, np.eye(12)), (coarse, fine), strict=False):
        known = expected(formulas, loaded.task, base, target)
        assert within(record.metrics.clean.loss, known["clean"])
        for rung in ("raw", "mean", "full", "permuted", "full-0.6"):
            assert within(record.metrics.rungs[rung].quenched.gap, known[rung] - known["clean"], 3.5), rung
        assert record.metrics.bath is not None
        assert within(record.metrics.bath[0].difference, known["bath 0.6"], 3.5)
        orders = record.metrics.orders
        assert orders is not None
        assert within(orders.shape, 0.0)
        assert orders.smallest_kurtosis.value is not None or orders.smallest_kurtosis.reason


def test_where_nothing_is_coarse_grained_above_a_level_is_an_ordinary_row(
    levels: MeasuredLevels, loaded: SiteTask, settings: Plan, basis: Array, tmp_path: Path
) -> None:
    """The identity stands in for the model, and every number is that of the model itself."""
    alone = object_submission(Project(basis[:, : KEPT[1]]), "alone")
    (row,) = sweep(loaded.task, [alone], settings, tmp_path, loaded=loaded)
    assert row.finished is not None
    single, nested = row.finished.record.metrics, levels.records[1].metrics
    assert levels.records[1].reference is not None
    assert set(nested.rungs) == {*single.rungs, "model"}
    assert {name: nested.rungs[name] for name in single.rungs} == single.rungs
    assert nested.rungs["model"].quenched.gap.value == 0
    assert (nested.clean, nested.orders, nested.bath) == (single.clean, single.orders, single.bath)
    assert nested.ratio_parts == single.ratio_parts


def test_what_levels_cost_adds_up_to_what_the_coarsest_does(levels: MeasuredLevels) -> None:
    first, *_, last = levels.records
    gaps = [record.metrics.rungs["raw"].quenched.gap.value for record in levels.records]
    assert None not in gaps
    whole = first.metrics.rungs["raw"].quenched.loss.value
    own = last.metrics.clean.loss.value
    assert whole is not None
    assert own is not None
    assert sum(gap for gap in gaps if gap is not None) == pytest.approx(whole - own, abs=1e-6)


def test_a_level_is_no_row_of_the_board(
    levels: MeasuredLevels, loaded: SiteTask, settings: Plan, basis: Array, place: Path
) -> None:
    """A level has a key of its own, of which the finer one is a part, and lies in a folder of its own."""
    alone = object_submission(Project(basis[:, : KEPT[0]]), f"subspace-{KEPT[0]}")
    assert levels.records[0].submission.hash == alone.hash
    assert settings.key(loaded.task, alone) != levels.records[0].measurement_key
    assert [record.reference and record.reference.name for record in levels.records] == [
        "subspace-7",
        "identity",
        None,
    ]
    names = sorted(path.parent.name for path in place.rglob("*.json"))
    assert names == ["identity", "subspace-3-to-subspace-7", "subspace-7-to-identity"]


def test_statements_say_what_is_known(levels: MeasuredLevels) -> None:
    """δ is Gaussian and independent of nothing else than x̂; of the identity nothing is left out."""
    statements = levels.levels.statements
    assert tuple(statements) == STATEMENTS
    assert statements["shape"][-1].word == "holds"
    for verdict in statements["shape"]:
        assert verdict.holds is not False
    assert [verdict.reason for verdict in statements["apart"]] == ["rung cluster was not measured"] * 3


def test_levels_in_every_format(levels: MeasuredLevels, tmp_path: Path) -> None:
    text = render_levels(*levels)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert steps_of(levels.levels) == ["1 → 2", "2 → 3", "3 → model"]
    for name in STATEMENTS:
        assert name in text
    content = json.loads(render_levels(*levels, "json"))
    assert set(COLUMNS) <= content["levels"][0].keys()
    assert [row["finer"] for row in content["levels"]] == ["subspace-7", "identity", ""]
    assert list(levels_frame(*levels)["level"]) == ["subspace-3", "subspace-7", "identity"]
    assert render_levels(*levels, "csv").count("\n") == 4
    for format in ("markdown", "latex"):
        assert "shape" in render_levels(*levels, format)
    save(levels_figure(*levels), tmp_path / "levels.svg")
    assert (tmp_path / "levels.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_levels_prove_themselves(
    levels: MeasuredLevels, place: Path, remainder: Command, tmp_path: Path
) -> None:
    (kept,) = place.rglob("*.levels")
    assert read_levels(kept) == levels
    assert remainder("explain", str(kept)).out == render_levels(*levels)
    assert record_files(place)[1] == []
    assert "3 files verified: 3 passed" in remainder("verify", str(kept)).out
    copy = tmp_path / "results"
    shutil.copytree(place, copy)
    turned = tuple(Verdict(holds=False) for _ in levels.records)
    statements = {**levels.levels.statements, "shape": turned}
    wrong = write_levels(levels.levels.model_copy(update={"statements": statements}), copy)
    with pytest.raises(RecordError, match="what it says of shape does not follow from the records: "):
        read_levels(wrong)
    assert [path for path, _ in record_files(copy)[1]] == [wrong]
    gone = levels.levels.model_copy(update={"levels": levels.levels.levels[::2]})
    with pytest.raises(RecordError, match="subspace-3 stands in subspace-7, not in identity"):
        read_levels(write_levels(gone, copy))


@pytest.mark.slow
def test_levels_of_shells_are_measured_again_from_the_whole_submission(
    loaded: SiteTask, settings: Plan, tmp_path: Path
) -> None:
    """Both the level and the finer one that it stands in are made again by the levels beside the record."""
    planned = plan_levels(loaded, submissions_for(loaded, ["identity"]), settings, order="index", keeps=KEPT)
    found = measure_levels(planned, tmp_path)
    shells = found.levels.shells
    assert shells is not None
    assert (shells.submission.name, shells.keeps, shells.sources) == ("identity", KEPT, 12)
    for level in found.levels.levels:
        (path,) = tmp_path.rglob(f"{level.record}.json")
        again = rerun(path, nonce="fixed")
        assert again.passed, again.faults
        assert again.rows
    other = shells.model_copy(update={"sources": 11})
    forged = write_levels(found.levels.model_copy(update={"shells": other}), tmp_path)
    with pytest.raises(RecordError, match="11 sources, of which 0 tie: the shell that keeps 3 states others"):
        read_levels(forged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda content: content.update(levels_id="0" * 64), "it was edited"),
        (lambda content: content["statements"].pop("odd"), "it was edited"),
        (lambda content: content.pop("tier"), "holds no levels"),
        (lambda content: content.update(more=1), "holds no levels"),
    ],
)
def test_edited_levels_are_at_fault(
    edit: Callable[[dict[str, Any]], object], says: str, place: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(place, copy)
    (kept,) = copy.rglob("*.levels")
    content = json.loads(kept.read_text(encoding="utf-8"))
    edit(content)
    kept.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RecordError, match=says):
        read_levels(kept)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((CONTROL, "--with", "identity", "--order", "index", "--keep", "3"), "one shell"),
        ((CONTROL, "--with", "identity", "--with", "identity"), "identity is named twice"),
        ((CONTROL, "--with", "identity", "--with", "mean-only", "--keep", "1,2"), "--keep: 2 submissions"),
        (("tiny/induction-circuit", "--with", "other-circuit"), "no activations at a site"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: tuple[str, ...], says: str, remainder: Command, tmp_path: Path
) -> None:
    outcome = remainder("levels", *arguments, "--out", str(tmp_path / "out"))
    assert outcome.code != 0
    assert says in outcome.err
    assert not (tmp_path / "out").exists()
