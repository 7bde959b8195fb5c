"""Circuits of features on the loop over prompts (`measure.prompt_run`): the rungs and numbers of circuits of
edges.

The headline is the circuit whose share of all nodes is nearest to the task's; complements give completeness.
`raw` is the mean, `full` the Gaussian, `permuted` and `counterfactual` real values of another prompt, all
with errors that follow the circuit. `ERROR_RUNGS` are the mean with errors all kept, all replaced by their
mean, or by a Gaussian. Rungs of `SWEPT`, and those that were asked for, go over all circuits and over the
complement of the headline, those of errors over all circuits; the others are for the headline and the empty
circuit only. Complements of the other circuits are measured where more rungs are asked for than the task has.

Source: protocol 1, sections 2 and 8; Marks et al., "Sparse feature circuits", 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from remainder.circuit.chance import random_nodes
from remainder.circuit.feature_circuits import FeatureCircuits
from remainder.circuit.features import FeatureCircuit, FeatureScene
from remainder.errors import InterpretationError
from remainder.measure.prompt_run import SWEPT, Agreement, Graphs, PromptRun, Random, Wanted
from remainder.record.circuit_summary import COMPLEMENT, EMPTY, HEADLINE
from remainder.record.rungs import ERROR_RUNGS
from remainder.record.schema import CircuitSize
from remainder.task.prompts import Prompts

__all__ = ["ABLATIONS", "Ablation", "FeatureRun"]

_ByTemplate = Mapping[str, FeatureCircuit]


class Ablation(NamedTuple):
    """The background of removed nodes, and the fate of errors: `nodes` leaves that to the circuit."""

    background: str
    errors: str = "nodes"

    @property
    def draws(self) -> bool:
        """Whether there is anything to draw."""
        return self.errors == "gaussian" or self.background in ("gaussian", "permuted", "noise")


ABLATIONS = {
    "raw": Ablation("mean"),
    "zero": Ablation("zero"),
    "counterfactual": Ablation("counterfactual"),
    "permuted": Ablation("permuted"),
    "full": Ablation("gaussian"),
    "noise-fitted": Ablation("noise"),
    "errors-kept": Ablation("mean", "kept"),
    "errors-mean": Ablation("mean", "mean"),
    "errors-gaussian": Ablation("mean", "gaussian"),
}
"""Backgrounds of removed nodes, by rung."""

_NOISE = "noise-fitted"
_NO_EDGES = "features have no edges, layers or single mean of their own; this rung is of circuits of edges"
_OTHER = "counterfactual"
_NO_OTHER = "the prompts have no counterfactuals"
_WHOLE_STREAM = re.compile(r"blocks\.\d+\.(hook_out|hook_resid_(pre|mid|post))")
"""Hooks that everything that reaches the logits passes through."""


@dataclass
class FeatureRun(PromptRun[_ByTemplate, FeatureScene]):
    """Circuits of features, on the sites of the task's model."""

    circuits: FeatureCircuits

    def wanted(self) -> list[Wanted[_ByTemplate]]:
        self.log.unmeasured |= {name: _NO_EDGES for name in self.plan.rungs if name not in ABLATIONS}
        if not any(group.has_counterfactuals for group in self.loaded.prompts("evaluation")):
            self.log.unmeasured |= {name: _NO_OTHER for name in self.plan.rungs if name == _OTHER}
        chosen = tuple(name for name in self.plan.rungs if name not in self.log.unmeasured and name != _NOISE)
        chosen = (*chosen, *ERROR_RUNGS)
        asked = set(self.plan.rungs) - set(self.loaded.task.rungs)
        swept = tuple(name for name in chosen if name in SWEPT or name in asked)
        errors = tuple(name for name in chosen if name in ERROR_RUNGS)
        by_name = self.circuits.circuits
        headline = by_name[self._headline]
        runs: list[Wanted[_ByTemplate]] = [
            Wanted(EMPTY, {template: one.empty for template, one in headline.items()}, chosen),
            Wanted(HEADLINE, headline, (*chosen, *({_NOISE} & set(self.plan.nulls)))),
            Wanted(COMPLEMENT + HEADLINE, _complement(headline), swept),
        ]
        for name, circuit in by_name.items() if len(by_name) > 1 else ():
            runs.append(Wanted(name, circuit, (*swept, *errors)))
            if asked or circuit is headline:
                runs.append(Wanted(COMPLEMENT + name, _complement(circuit), swept))
        return runs

    def random(self, one: Wanted[_ByTemplate]) -> Random[_ByTemplate]:
        found = random_nodes(one.circuit, seed=self.loaded.task.seed)
        counts = [(template, part.nodes, part.of) for template, part in sorted(one.circuit.items())]
        return Random(found, f"{self.submission.hash} {counts}".encode())

    @property
    def _headline(self) -> str:
        return self.circuits.nearest(self.loaded.spec.headline)

    def scenes(
        self, groups: Sequence[tuple[Prompts, Prompts]], wanted: list[Wanted[_ByTemplate]]
    ) -> Iterator[FeatureScene]:
        for name, by_template in self.circuits.circuits.items():
            for _, evaluation in groups:
                if evaluation.template not in by_template:
                    raise InterpretationError(
                        f"circuit {name} has none for template {evaluation.template}",
                        fix="give one for every template",
                    )
        with self.log.timed("model"):
            model = self.loaded.site_model(self.plan.dtype)
        # One after another: nodes of all prompts of one template may fill the memory.
        return (
            FeatureScene(
                model,
                self.circuits.sites,
                *group,
                self.loaded.task.seed,
                self.loaded.device,
                rows=self.loaded.batch_size,
                spared=self.loaded.spec.spared or 0,
            )
            for group in groups
        )

    def clean(self, scene: FeatureScene) -> Tensor:
        return scene.clean()

    def run(self, scene: FeatureScene, one: Wanted[_ByTemplate], rung: str, draw: int) -> Tensor:
        return scene.run(one.circuit[scene.evaluation.template], *ABLATIONS[rung], draw)

    def identity(self, scene: FeatureScene, one: Wanted[_ByTemplate]) -> bytes:
        circuit = one.circuit[scene.evaluation.template]
        parts = (circuit.latents, circuit.errors)
        return b"".join(part[name].cpu().numpy().tobytes() for part in parts for name in sorted(part))

    def has_draws(self, rung: str) -> bool:
        return ABLATIONS[rung].draws

    def agreements(self, scene: FeatureScene, clean: Tensor) -> Iterator[Agreement]:
        empty = self.circuits.circuits[self._headline][scene.evaluation.template].empty
        note = "largest KL of the whole circuit to the clean model"
        yield Agreement("full_equals_clean", clean, scene.run(empty.complement), note)
        # Elsewhere something bypasses the sites, and the empty circuit keeps it.
        whole = any(_WHOLE_STREAM.fullmatch(site.hook_out) for site in self.circuits.sites)
        if whole and scene.evaluation.has_counterfactuals:
            yield Agreement(
                "empty_equals_counterfactual",
                scene.clean(counterfactual=True),
                scene.run(empty, "counterfactual"),
                "largest KL of the empty circuit, counterfactual background, to the counterfactual prompts",
            )

    def graphs(self, wanted: list[Wanted[_ByTemplate]]) -> Graphs:
        names = {HEADLINE: self._headline}
        if len(self.circuits.circuits) > 1:
            names |= {name: name for name in self.circuits.circuits}
        sums = {size: self.circuits.count(name) for size, name in names.items()}
        sizes = {
            size: CircuitSize(nodes=each.nodes, errors=each.errors, bits=each.bits)
            for size, each in sums.items()
        }
        latents = next(iter(self.circuits.circuits[self._headline].values())).latents
        return Graphs(
            {EMPTY: CircuitSize(nodes=0, errors=0, bits=0.0), **sizes},
            of=sums[HEADLINE].of,
            dimension=sum(flags.shape[-1] for flags in latents.values()) + len(self.circuits.sites),
            unit="of a circuit nodes are counted, not features",
            suffix=f"latents and errors at {', '.join(site.name for site in self.circuits.sites)}",
        )


def _complement(circuit: _ByTemplate) -> _ByTemplate:
    return {template: one.complement for template, one in circuit.items()}
