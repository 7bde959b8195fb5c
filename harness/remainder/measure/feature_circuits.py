"""The evaluation loop of circuits of features: the same prompts, rungs and numbers as of circuits of edges.

Steps, in the order of `measure_features`:
1. Circuits: every one of the submission, largest first; the headline is the one whose share of all nodes is
   nearest to the task's. The empty circuit gives m(∅). Complements give completeness.
2. Template by template: nodes of the calibration prompts are recorded once.
3. Rungs: `raw` is the mean, `full` the Gaussian, `permuted` and `counterfactual` real values of another
   prompt, all with errors that follow the circuit. `ERROR_RUNGS` are the mean with errors all kept, all
   replaced by their mean, or by a Gaussian. Those of `SWEPT`, and those that were asked for, go over all
   circuits and their complements, those of errors over all circuits; the others are for the headline and the
   empty circuit only.
4. Losses, KL and answers at the scored positions, as of all circuits (`measure.answers`).
5. Checks: the whole circuit gives the clean logits; the empty one those of the counterfactual, if everything
   that reaches the logits passes through a site.

Source: protocol 1, sections 2 and 8; Marks et al., "Sparse feature circuits", 2024.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import torch

from remainder.circuit.features import FeatureCircuit, FeatureScene
from remainder.errors import InterpretationError
from remainder.loading.prompts import CircuitTask
from remainder.measure.answers import Scores, behaviour_of, check_kl, compare, groups_of, kl_of, scored, table
from remainder.measure.features_evaluate import Ablation
from remainder.measure.plan import Plan
from remainder.record.circuit_summary import COMPLEMENT, EMPTY, HEADLINE, rung_at
from remainder.record.number import Number
from remainder.record.provenance import collect_provenance
from remainder.record.rungs import ERROR_RUNGS
from remainder.record.schema import (
    CalibrationInfo,
    Check,
    CircuitSize,
    Complexity,
    Measurement,
    Record,
    SubmissionInfo,
    TaskInfo,
)
from remainder.record.store import make_record
from remainder.submission.feature_circuits import FeatureCircuits, site_model
from remainder.task.prompts import Prompts

__all__ = ["ABLATIONS", "measure_features"]

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
"""What removed nodes carry, by rung."""

SWEPT = ("counterfactual", "raw", "full")
"""Rungs that go over all circuits and their complements."""

_NOISE = "noise-fitted"
_NO_EDGES = "features have no edges, layers or single mean of their own; this rung is of circuits of edges"
_WHOLE_STREAM = re.compile(r"blocks\.\d+\.(hook_out|hook_resid_(pre|mid|post))")
"""Hooks that everything that reaches the logits passes through."""


class _Wanted(NamedTuple):
    """A circuit of all templates that is run, and the rungs that it is run on."""

    size: str
    circuit: dict[str, FeatureCircuit]
    rungs: tuple[str, ...]


def measure_features(
    loaded: CircuitTask,
    info: SubmissionInfo,
    circuits: FeatureCircuits,
    plan: Plan,
    notes: Sequence[str] = (),
) -> tuple[Record, pd.DataFrame]:
    """Score circuits of features; gives the record and the per-document values.

    Args:
        loaded: a task with prompts.
        info: of the submission.
        circuits: on the sites of the task's model.
        plan: how much is measured; rungs that only circuits of edges have are recorded as not measured.
        notes: on how the circuits came about; they become warnings of the record.

    Raises:
        InterpretationError: a template has no circuit, or one of other sites.
        MeasurementError: a check failed, a number is not finite, or there are too few prompts.
        TaskError: the task's model has no hooks.
    """
    return _Measuring(loaded, info, circuits, plan, warnings=[*plan.notes, *notes]).record()


@dataclass
class _Measuring:
    loaded: CircuitTask
    info: SubmissionInfo
    circuits: FeatureCircuits
    plan: Plan
    checks: dict[str, Check] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _done: int = 0

    def record(self) -> tuple[Record, pd.DataFrame]:
        groups = groups_of(self.loaded, self.plan)
        self._require_templates([evaluation.template for _, evaluation in groups])
        wanted = self._wanted()
        with self._timed("model"):
            model = site_model(self.loaded, self.plan.dtype)
        rows: list[dict[str, Any]] = []
        with torch.no_grad(), self._timed("evaluation"):
            for calibration, evaluation in groups:
                scene = FeatureScene(
                    model,
                    self.circuits.sites,
                    calibration,
                    evaluation,
                    self.loaded.task.seed,
                    self.loaded.device,
                )
                rows += self._rows(scene, wanted, len(groups))
        values = pd.DataFrame(rows)
        return self._seal(values, groups), values

    def _require_templates(self, templates: Sequence[str]) -> None:
        for name, by_template in self.circuits.circuits.items():
            lacking = [template for template in templates if template not in by_template]
            if lacking:
                raise InterpretationError(
                    f"circuit {name} has none for template {lacking[0]}", fix="give one for every template"
                )

    @property
    def _unmeasured(self) -> dict[str, str]:
        return {name: _NO_EDGES for name in self.plan.rungs if name not in ABLATIONS}

    def _wanted(self) -> list[_Wanted]:
        """Step 1, the headline first."""
        chosen = tuple(name for name in self.plan.rungs if name in ABLATIONS and name != _NOISE)
        chosen = (*chosen, *ERROR_RUNGS)
        asked = set(self.plan.rungs) - set(self.loaded.task.rungs)
        swept = tuple(name for name in chosen if name in SWEPT or name in asked)
        beside = tuple(name for name in chosen if name in ERROR_RUNGS)
        by_name = self.circuits.circuits
        headline = dict(by_name[self._headline])
        found = [
            _Wanted(EMPTY, {template: one.empty for template, one in headline.items()}, chosen),
            _Wanted(HEADLINE, headline, (*chosen, *({_NOISE} & set(self.plan.nulls)))),
            _Wanted(COMPLEMENT + HEADLINE, _complement(headline), swept),
        ]
        if len(by_name) > 1:
            for name, circuit in by_name.items():
                found.append(_Wanted(name, dict(circuit), (*swept, *beside)))
                found.append(_Wanted(COMPLEMENT + name, _complement(dict(circuit)), swept))
        return found

    @property
    def _headline(self) -> str:
        return self.circuits.nearest(self.loaded.spec.headline)

    def _rows(self, scene: FeatureScene, wanted: list[_Wanted], parts: int) -> Iterator[dict[str, Any]]:
        """Steps 3 to 5 for one template."""
        prompts, places = scene.evaluation, scene.positions
        logits = scene.clean()
        clean = scored(logits, prompts, places)
        yield from table(prompts, "clean", 0, compare(clean, clean, prompts))
        self._check(scene, wanted[0].circuit[prompts.template].empty)
        total = parts * sum(self._draws(name) for one in wanted for name in one.rungs)
        known: dict[tuple[bytes, str, int], Scores] = {}
        for one in wanted:
            circuit = one.circuit[prompts.template]
            key = _bytes(circuit)
            for name in one.rungs:
                ablation = ABLATIONS[name]
                for draw in range(self._draws(name)):
                    if (key, name, draw) not in known:
                        found = scene.run(circuit, ablation.background, ablation.errors, draw)
                        known[key, name, draw] = compare(clean, scored(found, prompts, places), prompts)
                    yield from table(prompts, rung_at(name, one.size), draw, known[key, name, draw])
                    self._done += 1
                    if self.loaded.progress is not None:
                        self.loaded.progress(self.info.name, self._done, total)

    def _draws(self, name: str) -> int:
        return self.plan.draws(name) if ABLATIONS[name].draws else 1

    def _check(self, scene: FeatureScene, empty: FeatureCircuit) -> None:
        """Step 5, on every template; the worst is recorded."""
        prompts, places = scene.evaluation, scene.positions
        clean = scored(scene.clean(), prompts, places)
        whole = scored(scene.run(empty.complement), prompts, places)
        note = "largest KL of the whole circuit to the clean model"
        found = [("full_equals_clean", kl_of(clean, whole), note)]
        if any(_WHOLE_STREAM.fullmatch(site.hook_out) for site in self.circuits.sites):
            other = scored(scene.clean(counterfactual=True), prompts, places)
            replaced = scored(scene.run(empty, "counterfactual"), prompts, places)
            note = "largest KL of the empty circuit, counterfactual background, to the counterfactual prompts"
            found.append(("empty_equals_counterfactual", kl_of(other, replaced), note))
        for name, kl, note in found:
            self.checks[name] = check_kl(name, kl, note, self.checks.get(name))

    def _sizes(self) -> dict[str, CircuitSize]:
        names = {HEADLINE: self._headline}
        if len(self.circuits.circuits) > 1:
            names |= {name: name for name in self.circuits.circuits}
        sums = {size: self.circuits.count(name) for size, name in names.items()}
        sizes = {
            size: CircuitSize(nodes=each.nodes, errors=each.errors, bits=each.bits)
            for size, each in sums.items()
        }
        return {EMPTY: CircuitSize(nodes=0, errors=0, bits=0.0), **sizes}

    def _seal(self, values: pd.DataFrame, groups: list[tuple[Prompts, Prompts]]) -> Record:
        task, device = self.loaded.task, self.loaded.device
        count = sum(len(calibration) for calibration, _ in groups)
        sites = self.circuits.sites
        latents = {
            site.name: flags.shape[-1]
            for by_template in self.circuits.circuits.values()
            for circuit in by_template.values()
            for site, flags in ((site, circuit.latents[site.name]) for site in sites)
        }
        return make_record(
            values,
            protocol=task.protocol,
            task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
            submission=self.info,
            tier=self.plan.tier,
            model=self.loaded.model,
            corpus=self.loaded.data,
            complexity=Complexity(
                live_features=Number.null("of a circuit nodes are counted, not features"),
                bits_per_token=Number.null("a circuit is written down once, not for every token"),
                features=self.circuits.count(self._headline).of,
                circuits=self._sizes(),
            ),
            checks=self.checks,
            calibration=CalibrationInfo(
                documents=count,
                tokens=sum(calibration.tokens.size for calibration, _ in groups),
                dimension=sum(latents.values()) + len(sites),
                # Of one template: the sampler's weights.
                rank=min(len(calibration) - 1 for calibration, _ in groups),
                bank_rows=count,
            ),
            measurement=Measurement(
                rungs=self.plan.rungs,
                pairs=self.plan.pairs,
                unmeasured=self._unmeasured,
                seed=task.seed,
                dtype=self.plan.dtype,
                suffix=f"latents and errors at {', '.join(site.name for site in sites)}",
                device=device.type,
                device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
                behaviour=behaviour_of(self.loaded.facts),
            ),
            provenance=collect_provenance(self.timings),
            warnings=self.warnings,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - start


def _complement(circuit: dict[str, FeatureCircuit]) -> dict[str, FeatureCircuit]:
    return {template: one.complement for template, one in circuit.items()}


def _bytes(circuit: FeatureCircuit) -> bytes:
    """The same of the same nodes."""
    parts = (circuit.latents, circuit.errors)
    return b"".join(part[name].cpu().numpy().tobytes() for part in parts for name in sorted(part))
