"""Circuits from the command line and a notebook to a record, on compiled programs; and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import remainder
from remainder.circuit.backgrounds import Scene
from remainder.circuit.chance import random_circuits
from remainder.circuit.circuit import Circuit
from remainder.circuit.constants import fit_constants
from remainder.circuit.ranking import Ranking
from remainder.cli.main import app
from remainder.errors import InterpretationError, MeasurementError, TaskError
from remainder.formats import eap_ig
from remainder.loading.open import open_task
from remainder.loading.prompts import PromptTask
from remainder.measure import prompt_run
from remainder.measure.plan import Plan, plan
from remainder.model.architecture import Architecture, Graph
from remainder.record.number import Number
from remainder.record.recompute import recompute
from remainder.record.store import read_record
from remainder.report.explain import explain
from remainder.report.tables import render, rows
from remainder.task.spec import Task, load_task

TASK = "tracr/reverse-circuit"


@pytest.fixture(scope="module")
def task() -> PromptTask:
    loaded = open_task(TASK, device="cpu")
    assert isinstance(loaded, PromptTask)
    return loaded


def test_a_ranking_is_measured_at_every_size(task: PromptTask, tmp_path: Path) -> None:
    graph = task.circuit_model().graph
    scores = np.random.default_rng(0).normal(size=graph.exists.shape)
    result = remainder.evaluate(task, Ranking(graph, scores), name="random")
    record = result.record
    circuit, costs = record.metrics.circuit, record.complexity.circuits
    assert circuit is not None
    assert costs is not None
    sizes = {f"{size:g}" for size in task.spec.sizes}
    assert {"0", "headline", *sizes} <= set(circuit.points)
    assert costs["1"].edges == graph.edges == record.complexity.features
    assert set(circuit.cmd) >= {"counterfactual", "raw", "full"}
    assert "counterfactual" in circuit.cpr
    # The whole graph is the model, with any background.
    for rung in circuit.points["1"].rungs.values():
        assert abs(rung.gap.value or 0.0) < 1e-5
        assert rung.faithfulness.value == pytest.approx(1, abs=1e-5)
    for size, point in circuit.points.items():
        assert (point.efficiency is None) == (size in ("0",) or size.startswith("+"))
    assert circuit.points["1"].efficiency == Number(value=0, low=0, high=0)
    path = result.save(tmp_path / "r.json")
    stored = read_record(path)
    recompute(stored.record, stored.values)
    assert stored.record == record
    assert all(check.passed for check in record.checks.values())
    tables = render([record]), explain(record), explain(record, "markdown"), render([record], "latex")
    assert all("random" in table for table in tables)
    assert max(map(len, "\n".join(tables[:2]).splitlines())) <= 80
    assert rows([record])["kept"][0] == costs["headline"].edges


@pytest.mark.slow
def test_random_circuits_are_run_once_a_task_and_the_median_is_kept(
    task: PromptTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAINDER_CACHE", str(tmp_path))
    graph = task.circuit_model().graph
    runs: list[Circuit] = []
    original = Scene.run

    def counted(scene: Scene, circuit: Circuit, *rest: object, **options: object) -> object:
        runs.append(circuit)
        return original(scene, circuit, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Scene, "run", counted)
    first = remainder.evaluate(task, _ranking(graph, 0), name="one")
    before = len(runs)
    second = remainder.evaluate(task, _ranking(graph, 1), name="two")
    assert len(runs) - before < before - 100  # not the twenty of each size again
    rungs = [f"random@{size:g}" for size in task.spec.sizes]
    for rung in rungs:
        one, two = (r.values.loc[r.values["rung"] == rung, "kl"].to_numpy() for r in (first, second))
        assert len(one) == first.record.documents.windows
        assert (one == two).all()
    size = 0.25
    kls = []
    for circuit in random_circuits(_ranking(graph, 0), size, seed=task.task.seed):
        assert circuit.edges == int(size * graph.edges)
        record = remainder.evaluate(task, circuit, rungs="raw").record
        kls.append(record.metrics.rungs["raw"].quenched.kl.value)
    values = first.values
    found = values.loc[values["rung"] == f"random@{size:g}"]
    assert len(kls) == 20
    assert found["kl"].sum() / found["tokens"].sum() == pytest.approx(sorted(kls)[9], rel=1e-5)  # type: ignore[type-var]


def _ranking(graph: Graph, seed: int) -> Ranking:
    return Ranking(graph, np.random.default_rng(seed).normal(size=graph.exists.shape))


def test_a_compiled_circuit_is_the_model_and_bits_are_stated(task: PromptTask) -> None:
    circuit = task.interpretations["compiled-circuit"]
    record = remainder.evaluate(task, circuit, name="compiled").record
    for rung in ("raw", "full", "permuted", "counterfactual"):
        assert abs(record.metrics.rungs[rung].quenched.gap.value or 0.0) < 1e-5
    costs = record.complexity.circuits
    assert costs is not None
    assert costs["headline"].edges == 8
    assert costs["headline"].bits == pytest.approx(np.log2(float(_choose(77, 8))), rel=1e-5)
    assert record.submission.kind == "circuit"
    assert record.measurement.behaviour is not None


def _choose(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


def test_the_same_circuit_by_file_and_by_object_scores_the_same(task: PromptTask, tmp_path: Path) -> None:
    graph = task.circuit_model().graph
    circuit = Circuit(
        graph, graph.exists & (np.random.default_rng(1).random(graph.exists.shape) < 0.7)
    ).pruned()
    eap_ig.save(tmp_path / "mine.json", circuit)
    by_file = remainder.evaluate(task, tmp_path / "mine.json").record
    by_object = remainder.evaluate(task, circuit).record
    assert by_file.metrics == by_object.metrics
    assert by_file.submission.name == "mine"
    assert list(by_file.submission.files) == ["mine.json"]


@pytest.mark.parametrize("rung", ["full-sequential-independent", "optimal-constant"])
def test_backgrounds_from_the_command_line(
    rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How good constants are after all steps is for test_circuit_run.py to say.
    monkeypatch.setattr("remainder.measure.circuits.fit_constants", partial(fit_constants, steps=2))
    call = ["run", TASK, "--with", "eap", "--background", rung]
    done = CliRunner().invoke(app, [*call, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert rung in done.output
    (path,) = tmp_path.rglob("*.json")
    circuit = read_record(path).record.metrics.circuit
    assert circuit is not None
    assert rung in circuit.points["0.5"].rungs  # what is asked for goes over all sizes
    assert rung in circuit.cmd


def test_circuits_are_written_and_read_back_from_the_command_line(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for source, target in (("eap-ig", first), (str(first), second)):
        done = CliRunner().invoke(app, ["circuit", TASK, source, "--save", str(target)])
        assert done.exit_code == 0, done.output
    assert first.read_bytes() == second.read_bytes()
    done = CliRunner().invoke(
        app, ["circuit", TASK, "eap", "--save", str(tmp_path / "c.pt"), "--size", "0.5"]
    )
    assert "of 77 edges" in done.output


def test_what_does_not_belong_together_is_refused(task: PromptTask) -> None:
    other = Circuit.full(Graph(Architecture(2, 2, 2, 8)))
    with pytest.raises(InterpretationError, match=r"the model of tracr/reverse-circuit is Architecture"):
        remainder.evaluate(task, other)
    with pytest.raises(
        InterpretationError, match=r"is a reconstruction; task tracr/reverse-circuit scores circuits"
    ):
        remainder.evaluate(task, "identity")
    with pytest.raises(InterpretationError, match="is a circuit; task tracr/reverse scores reconstructions"):
        remainder.evaluate("tracr/reverse", "eap")
    with pytest.raises(InterpretationError, match="a dict is no circuit"):
        remainder.evaluate(task, {"edges": {}})
    with pytest.raises(TaskError, match="there is no rung 'linear'"):
        remainder.evaluate(task, "eap", rungs="linear")
    with pytest.raises(TaskError, match="circuits are not nested"):
        remainder.evaluate(task, Circuit.full(task.circuit_model().graph), coarse="eap")


@pytest.mark.parametrize(
    ("task", "options", "what", "fix"),
    [
        ("tracr/reverse", "--background zero", "tracr/reverse is measured at a site", "use --rungs"),
        (TASK, "--background zero --rungs raw", "--rungs and --background are both given", "one of the two"),
        (TASK, "--background gaussian", "no background 'gaussian'", "use full; it was called gaussian"),
        (TASK, "--background resample", "no background 'resample'", "use permuted; it was called resample"),
        (TASK, "--background mean-positional", "no background 'mean-positional'", "use raw; it was called"),
        (TASK, "--background noise-fitted", "no background 'noise-fitted'", "choose from: raw, mean"),
        (TASK, "--background zero --background nothing", "no background 'nothing'", "choose from: raw, mean"),
    ],
)
def test_options_of_backgrounds_are_refused_elsewhere(
    task: str, options: str, what: str, fix: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["run", task, *options.split(), "--out", str(tmp_path)])
    assert isinstance(done.exception, TaskError)
    assert what in done.exception.what
    assert fix in str(done.exception.fix)
    assert not list(tmp_path.iterdir())


def test_backgrounds_are_added_to_the_rungs_of_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {TASK: ("raw", "zero"), "smollm2-135m/ioi": ("raw", "counterfactual")}
    monkeypatch.setattr(
        "remainder.task.spec.load_task", lambda name: load_task(name).model_copy(update={"rungs": own[name]})
    )
    asked: dict[str, tuple[str, ...] | None] = {}

    def caught(task: Task, tier: str, *, rungs: tuple[str, ...] | None, **rest: object) -> Plan:
        asked[task.id] = rungs
        return plan(task, tier, rungs=rungs)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("remainder.measure.plan.plan", caught)
    monkeypatch.setattr("remainder.cli.session.Session.measure", stop)
    call = ["run", *own, "--background", "permuted", "--background", "mean", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, call).exit_code == 130
    assert asked == {name: (*rungs, "permuted", "mean") for name, rungs in own.items()}


def test_a_model_that_is_no_sum_of_its_parts_is_found_out(
    task: PromptTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of a run can fail: here the full circuit is compared with another model's prediction."""
    real = prompt_run.kl_of

    def wrong(clean: object, other: object) -> object:
        return real(clean, other) + 1  # type: ignore[arg-type]

    monkeypatch.setattr(prompt_run, "kl_of", wrong)
    with pytest.raises(MeasurementError, match="check full_equals_clean failed: KL 1"):
        remainder.evaluate(task, Circuit.full(task.circuit_model().graph))
