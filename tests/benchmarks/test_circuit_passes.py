"""Passes of circuits of edges and of latents, in units of a plain pass of the model over the same prompts.

CPU time of one process with one thread, all in turn, medians of the ratios within a round. What a whole row
of a ranking takes is the sum over all passes that a quick measurement asks for, each counted as one of its
size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch

from remainder.circuit.attribution import Attribution
from remainder.circuit.backgrounds import BACKGROUNDS, Scene
from remainder.circuit.chance import COUNT, random_circuits
from remainder.circuit.circuit import Circuit
from remainder.circuit.features import FeatureScene
from remainder.circuit.ranking import Ranking
from remainder.loading.open import open_task
from remainder.measure.circuits import EdgeRun
from remainder.measure.plan import Plan, plan
from remainder.measure.seal import Log, info
from remainder.record.circuit_summary import HEADLINE
from remainder.submission.open import open_submission
from remainder.task.prompts import Prompts, first

TASK, ROUNDS = "smollm2-135m/ioi", 3
RAW, RANDOM, STEP = BACKGROUNDS["raw"], "random ", "one step of edge attribution"
HEAD = 0.05
"""The size of the headline."""


@pytest.fixture(scope="module")
def loaded() -> Any:
    torch.set_num_threads(1)
    return open_task(TASK, device="cpu")


def in_turn(
    plain: Callable[[], Any], kinds: Mapping[str, Callable[[], Any]]
) -> tuple[float, dict[str, float]]:
    """CPU seconds of a plain pass, and times of all kinds over those of plain passes beside them."""

    def cpu(work: Callable[[], Any]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    for work in kinds.values():  # what is recorded once a scene is there from now on
        work()
    seconds: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        seconds.append(cpu(plain))
        for name, work in kinds.items():
            ratios[name].append(cpu(work) / seconds[-1])
    return statistics.median(seconds), {name: statistics.median(found) for name, found in ratios.items()}


def prompts_of(loaded: Any, asked: Plan) -> tuple[Prompts, Prompts]:
    """Calibration and evaluation prompts of the first template."""
    evaluation = first(loaded.prompts("evaluation"), asked.evaluation_windows)[0]
    calibration = first(loaded.prompts("calibration"), asked.calibration_windows)
    return next(one for one in calibration if one.template == evaluation.template), evaluation


def asked_for(loaded: Any, asked: Plan, ranking: Ranking) -> Iterator[tuple[float, int]]:
    """Every size that is run, as a share of all edges, and the number of its passes; random ones excepted."""
    entry = open_submission("random-edges")
    for one in EdgeRun(loaded, info(entry), asked, Log(), None, ranking).wanted():
        size = HEAD if one.size == HEADLINE else float(one.size)
        yield size, sum(asked.draws(rung) if BACKGROUNDS[rung].draws else 1 for rung in one.rungs)


@pytest.mark.benchmark(group="circuits")
def test_passes_of_edges(benchmark: Any, loaded: Any) -> None:
    asked = plan(loaded.task, "quick", device="cpu")
    calibration, evaluation = prompts_of(loaded, asked)
    model, tokens = loaded.circuit_model(), torch.from_numpy(evaluation.tokens)
    scene = Scene(model, calibration, evaluation, loaded.task.seed)
    score = partial(Attribution(model, (evaluation,)).edges, 1)
    ranking = Ranking(model.graph, score())
    kinds: dict[str, Callable[[], Any]] = {STEP: score}
    kinds["0"] = partial(scene.run, Circuit.empty(model.graph), RAW)
    for size in (size for size in ranking.sizes if size < 1):
        kinds[f"{size:g}"] = partial(scene.run, ranking.at(size, absolute=True), RAW)
        (random,) = random_circuits(ranking, size, seed=loaded.task.seed, count=1)
        kinds[f"{RANDOM}{size:g}"] = partial(scene.run, random, RAW)
    with torch.no_grad():
        seconds, units = benchmark.pedantic(in_turn, args=(partial(model.run, tokens), kinds), rounds=1)
    passes = list(asked_for(loaded, asked, ranking))
    units["1"] = 1.0
    share = sum(group.tokens.size for group in first(loaded.prompts("evaluation"), asked.evaluation_windows))
    of_all = seconds * share / evaluation.tokens.size
    benchmark.extra_info.update(
        kind="edges",
        units=units,
        seconds=seconds,
        prompts=len(evaluation),
        passes=sum(count for _, count in passes),
        row=of_all * sum(units[f"{size:g}"] * count for size, count in passes),
        chance=of_all * COUNT * sum(value for name, value in units.items() if name.startswith(RANDOM)),
    )


@pytest.mark.benchmark(group="circuits")
def test_passes_of_latents(benchmark: Any, loaded: Any) -> None:
    asked = plan(loaded.task, "quick", device="cpu")
    calibration, evaluation = prompts_of(loaded, asked)
    # How good a circuit is does not matter here, so two prompts of each template are enough to find one.
    circuits: Any = open_submission("feature-circuit").circuits(loaded, 4).circuits
    model, tokens = loaded.site_model("float32"), torch.from_numpy(evaluation.tokens)
    scene = FeatureScene(model, circuits.sites, calibration, evaluation, loaded.task.seed)
    circuit = circuits.circuits[circuits.nearest(loaded.spec.headline)][evaluation.template]
    kinds = {"latents of two autoencoders": partial(scene.run, circuit)}
    kinds["the same, a Gaussian draw"] = partial(scene.run, circuit, "gaussian")
    plain = partial(model.run, tokens, [], scene.positions)
    with torch.no_grad():
        seconds, units = benchmark.pedantic(in_turn, args=(plain, kinds), rounds=1)
    benchmark.extra_info.update(kind="latents", units=units, seconds=seconds, prompts=len(evaluation))
