"""Circuits of edges on the loop over prompts (`measure.prompt_run`).

A submission's circuits are run at every size, chosen by absolute scores; by signed ones too, where that is
another circuit, on the counterfactual background (MIB's CPR). Backgrounds of `SWEPT`, and those that were
asked for, go over all sizes; the others are for the headline and the empty circuit only.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from remainder.circuit.backgrounds import BACKGROUNDS, Scene, mean_values
from remainder.circuit.chance import random_circuits
from remainder.circuit.circuit import Circuit
from remainder.circuit.constants import fit_constants
from remainder.circuit.ranking import Circuits, Sized
from remainder.circuit.run import Values
from remainder.measure.prompt_run import SWEPT, Agreement, Graphs, PromptRun, Random, Wanted
from remainder.record.circuit_summary import EMPTY, HEADLINE
from remainder.record.schema import CircuitSize
from remainder.task.prompts import Prompts

__all__ = ["EdgeRun"]

_SIGNED = "counterfactual"
"""The background of circuits that are chosen with the sign of their scores."""

_CONSTANTS = "optimal-constant"

_NOISES = {name for name, background in BACKGROUNDS.items() if background.kind == "noise-fitted"}


@dataclass
class EdgeRun(PromptRun[Circuit, Scene]):
    """Circuits of edges, on the graph of the task's model."""

    circuits: Circuits
    _constants: dict[str, Values] = field(default_factory=dict, init=False)

    def wanted(self) -> list[Wanted[Circuit]]:
        chosen, sizes = self.plan.rungs, self._sizes
        swept = tuple(name for name in chosen if name in SWEPT or name not in self.loaded.task.rungs)
        # The noise of ρ is added to clean values: it is no background, and the empty circuit has no answer.
        backgrounds = tuple(name for name in chosen if name not in _NOISES)
        nulls = (_NOISES & set(self.plan.nulls)) - set(chosen)
        runs = [
            Wanted(EMPTY, Circuit.empty(self.circuits.graph), backgrounds),
            Wanted(HEADLINE, self.circuits.at(self._headline, absolute=True), (*chosen, *nulls)),
        ]
        for size in sizes if len(sizes) > 1 else ():
            absolute, signed = (self.circuits.at(size, absolute=absolute) for absolute in (True, False))
            runs.append(Wanted(f"{size:g}", absolute, swept))
            if _SIGNED in swept and (absolute.kept != signed.kept).any():
                runs.append(Wanted(f"+{size:g}", signed, (_SIGNED,)))
        return runs

    def random(self, one: Wanted[Circuit]) -> Random[Circuit]:
        size = self._headline if one.size == HEADLINE else float(one.size)
        found = random_circuits(self.circuits, size, seed=self.loaded.task.seed)
        return Random(found, b"".join(np.packbits(circuit.kept).tobytes() for circuit in found))

    @property
    def _headline(self) -> float:
        return min(self._sizes, key=lambda size: (abs(size - self.loaded.spec.headline), size))

    @property
    def _sizes(self) -> tuple[float, ...]:
        """The task's sizes for a ranking, which has a circuit at any size; else those that it has."""
        return self.circuits.sizes if isinstance(self.circuits, Sized) else self.loaded.spec.sizes

    @torch.no_grad()
    def scenes(self, groups: Sequence[tuple[Prompts, Prompts]], wanted: list[Wanted[Circuit]]) -> list[Scene]:
        with self.log.timed("model"):
            model = self.loaded.circuit_model(self.plan.dtype)
        scenes = [
            Scene(model, *group, self.loaded.task.seed, self.loaded.device, rows=self.loaded.batch_size)
            for group in groups
        ]
        with self.log.timed("calibration"):
            means = mean_values(scenes)
        for scene in scenes:
            scene.means = means
        if _CONSTANTS in self.plan.rungs:
            with self.log.timed("constants"):
                for one in wanted:
                    if _CONSTANTS in one.rungs:
                        doing = f"{self.submission.name}: constants at {one.size}"
                        self.report(doing, len(self._constants), None)
                        self._constants[one.size] = fit_constants(scenes, one.circuit, means)
        return scenes

    def clean(self, scene: Scene) -> Tensor:
        return scene.clean_logits

    def run(self, scene: Scene, one: Wanted[Circuit], rung: str, draw: int) -> Tensor:
        constants = self._constants.get(one.size)
        return scene.run(one.circuit, BACKGROUNDS[rung], draw, constants=constants)

    def identity(self, scene: Scene, one: Wanted[Circuit]) -> bytes:
        return one.circuit.kept.tobytes()

    def has_draws(self, rung: str) -> bool:
        return BACKGROUNDS[rung].draws

    def agreements(self, scene: Scene, clean: Tensor) -> Iterator[Agreement]:
        graph = scene.model.graph
        whole = scene.run(Circuit.full(graph), BACKGROUNDS["raw"])
        yield Agreement(
            "full_equals_clean", clean, whole, "largest KL of the full circuit to the clean model"
        )
        empty = scene.run(Circuit.empty(graph), BACKGROUNDS["counterfactual"])
        yield Agreement(
            "empty_equals_counterfactual",
            scene.counterfactual_logits,
            empty,
            "largest KL of the empty circuit, counterfactual background, to the counterfactual prompts",
        )

    def graphs(self, wanted: list[Wanted[Circuit]]) -> Graphs:
        graph = self.circuits.graph
        return Graphs(
            {
                one.size: CircuitSize(edges=one.circuit.edges, nodes=one.circuit.nodes, bits=one.circuit.bits)
                for one in wanted
            },
            of=graph.edges,
            dimension=len(graph.writers),
            unit="a circuit has edges, not features",
            suffix="every edge of the graph",
        )
