"""The evaluation loop of circuits: prompts of a behaviour through circuits of all sizes, on every background.

Steps, in the order of `measure_circuit`:
1. Circuits: those of the submission at every size, chosen by absolute scores; by signed ones too, where that
   is another circuit, for the counterfactual background (MIB's CPR). The empty circuit gives m(∅).
2. Template by template: values of the calibration prompts and of the counterfactual ones are recorded once.
3. Each background, circuit and draw is one pass of the evaluation prompts. Backgrounds of `SWEPT`, and those
   that were asked for, go over all sizes; the others are for the headline and the empty circuit only.
4. Losses at the scored positions: −log of the probability of the right tokens together; KL to the clean
   model over the whole vocabulary; the answer (see `circuit.prompts`).
5. Checks: the full circuit gives the clean logits, the empty one those of the counterfactual.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import torch

from remainder.circuit.backgrounds import BACKGROUNDS, Background, Scene, mean_values
from remainder.circuit.circuit import Circuit
from remainder.circuit.constants import fit_constants
from remainder.circuit.ranking import Circuits, Sized
from remainder.circuit.run import Values
from remainder.loading.prompts import CircuitTask
from remainder.measure.answers import Scores, behaviour_of, check_kl, compare, groups_of, kl_of, scored, table
from remainder.measure.feature_circuits import measure_features
from remainder.measure.plan import Plan
from remainder.record.circuit_summary import EMPTY, HEADLINE, rung_at
from remainder.record.number import Number
from remainder.record.provenance import collect_provenance
from remainder.record.recordable import require_recordable
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
from remainder.submission.feature_circuits import FeatureCircuits
from remainder.task.prompts import Prompts

__all__ = ["SWEPT", "measure_circuit"]

SWEPT = ("counterfactual", "raw", "full")
"""Backgrounds that go over all sizes."""

_SIGNED = "counterfactual"
"""The background of circuits that are chosen with the sign of their scores."""


_NOISES = {name for name, background in BACKGROUNDS.items() if background.kind == "noise"}


class _Wanted(NamedTuple):
    """A circuit that is run, and the backgrounds that it is run with."""

    size: str
    circuit: Circuit
    backgrounds: tuple[str, ...]


def measure_circuit(
    loaded: CircuitTask,
    info: SubmissionInfo,
    circuits: Circuits | FeatureCircuits,
    plan: Plan,
    notes: Sequence[str] = (),
) -> tuple[Record, pd.DataFrame]:
    """Score the circuits of a submission; gives the record and the per-document values.

    Args:
        loaded: a task with prompts.
        info: of the submission.
        circuits: on the graph of the task's model; or of features, which `measure.feature_faithfulness` runs.
        plan: how much is measured.
        notes: on how the circuits were read; they become warnings of the record.

    Raises:
        MeasurementError: a check failed, or a number is not finite.
        TaskError: the task has too few prompts.
    """
    require_recordable([info], notes)
    if isinstance(circuits, FeatureCircuits):
        return measure_features(loaded, info, circuits, plan, notes)
    return _Measuring(loaded, info, circuits, plan, warnings=[*plan.notes, *notes]).record()


@dataclass
class _Measuring:
    loaded: CircuitTask
    info: SubmissionInfo
    circuits: Circuits
    plan: Plan
    checks: dict[str, Check] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _done: int = 0

    def record(self) -> tuple[Record, pd.DataFrame]:
        wanted = self._wanted()
        with self._timed("model"):
            model = self.loaded.circuit_model(self.plan.dtype)
        groups = groups_of(self.loaded, self.plan)
        scenes = [
            Scene(model, calibration, evaluation, self.loaded.task.seed, self.loaded.device)
            for calibration, evaluation in groups
        ]
        rows: list[dict[str, Any]] = []
        with torch.no_grad():
            with self._timed("calibration"):
                means = mean_values(scenes)
            for scene in scenes:
                scene.means = means
            constants: dict[str, Values] = {}
            if "optimal-constant" in self.plan.rungs:
                with self._timed("constants"):
                    constants = self._constants(scenes, wanted, means)
            with self._timed("evaluation"):
                for scene in scenes:
                    rows += self._rows(scene, wanted, constants, len(scenes))
        values = pd.DataFrame(rows)
        return self._seal(values, wanted, groups), values

    def _wanted(self) -> list[_Wanted]:
        """Step 1, the headline first."""
        chosen = self.plan.rungs
        swept = tuple(name for name in chosen if name in SWEPT or name not in self.loaded.task.rungs)
        sizes = self._sizes
        # The noise of ρ is added to clean values: it is no background, and the empty circuit has no answer.
        found = [
            _Wanted(EMPTY, Circuit.empty(self.circuits.graph), tuple(n for n in chosen if n not in _NOISES))
        ]
        nulls = (_NOISES & set(self.plan.nulls)) - set(chosen)
        found.append(_Wanted(HEADLINE, self._at(self._headline), (*chosen, *nulls)))
        if len(sizes) > 1:
            for size in sizes:
                absolute, signed = self._at(size), self.circuits.at(size, absolute=False)
                found.append(_Wanted(f"{size:g}", absolute, swept))
                if _SIGNED in swept and (absolute.kept != signed.kept).any():
                    found.append(_Wanted(f"+{size:g}", signed, (_SIGNED,)))
        return found

    @property
    def _headline(self) -> float:
        """The task's, or of the circuits that there are the one nearest to it."""
        spec = self.loaded.task.circuit
        assert spec is not None
        return min(self._sizes, key=lambda size: (abs(size - spec.headline), size))

    @property
    def _sizes(self) -> tuple[float, ...]:
        """The task's for a ranking, which has a circuit at any size; else those that there are."""
        spec = self.loaded.task.circuit
        assert spec is not None
        return self.circuits.sizes if isinstance(self.circuits, Sized) else spec.sizes

    def _at(self, size: float) -> Circuit:
        return self.circuits.at(size, absolute=True)

    def _constants(self, scenes: list[Scene], wanted: list[_Wanted], means: Values) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for one in wanted:
            if "optimal-constant" in one.backgrounds:
                self._report(f"{self.info.name}: constants at {one.size}", len(found), None)
                found[one.size] = fit_constants(scenes, one.circuit, means)
        return found

    def _rows(
        self, scene: Scene, wanted: list[_Wanted], constants: dict[str, Values], parts: int
    ) -> Iterator[dict[str, Any]]:
        """Steps 3 to 5 for one template."""
        prompts, places = scene.evaluation, scene.positions
        clean = scored(scene.clean_logits, prompts, places)
        yield from table(prompts, "clean", 0, compare(clean, clean, prompts))
        self._check(scene)
        total = parts * sum(self._draws(name) for one in wanted for name in one.backgrounds)
        # Circuits of several sizes may be one and the same, such as the empty one after pruning.
        known: dict[tuple[bytes, str, int], Scores] = {}
        for one in wanted:
            kept = one.circuit.kept.tobytes()
            for name in one.backgrounds:
                for draw in range(self._draws(name)):
                    key = (kept, name, draw)
                    if key not in known:
                        logits = scene.run(
                            one.circuit, BACKGROUNDS[name], draw, constants=constants.get(one.size)
                        )
                        known[key] = compare(clean, scored(logits, prompts, places), prompts)
                    scores = known[key]
                    yield from table(prompts, rung_at(name, one.size), draw, scores)
                    self._done += 1
                    self._report(self.info.name, self._done, total)

    def _draws(self, name: str) -> int:
        background: Background = BACKGROUNDS[name]
        return self.plan.draws(name) if background.draws else 1

    def _check(self, scene: Scene) -> None:
        """Step 5, on every template; the worst is recorded."""
        prompts, places = scene.evaluation, scene.positions
        clean = scored(scene.clean_logits, prompts, places)
        whole = scored(scene.run(Circuit.full(scene.model.graph), BACKGROUNDS["raw"]), prompts, places)
        other = scored(scene.counterfactual_logits, prompts, places)
        empty = scored(
            scene.run(Circuit.empty(scene.model.graph), BACKGROUNDS["counterfactual"]), prompts, places
        )
        for name, kl, note in (
            ("full_equals_clean", kl_of(clean, whole), "largest KL of the full circuit to the clean model"),
            (
                "empty_equals_counterfactual",
                kl_of(other, empty),
                "largest KL of the empty circuit, counterfactual background, to the counterfactual prompts",
            ),
        ):
            self.checks[name] = check_kl(name, kl, note, self.checks.get(name))

    def _report(self, doing: str, done: int, total: int | None) -> None:
        if self.loaded.progress is not None:
            self.loaded.progress(doing, done, total)

    def _seal(
        self, values: pd.DataFrame, wanted: list[_Wanted], groups: list[tuple[Prompts, Prompts]]
    ) -> Record:
        task, device = self.loaded.task, self.loaded.device
        sizes = {
            one.size: CircuitSize(edges=one.circuit.edges, nodes=one.circuit.nodes, bits=one.circuit.bits)
            for one in wanted
        }
        count = sum(len(calibration) for calibration, _ in groups)
        graph = self.circuits.graph
        return make_record(
            values,
            protocol=task.protocol,
            task=TaskInfo(id=task.id, version=task.version, hash=task.hash),
            submission=self.info,
            tier=self.plan.tier,
            model=self.loaded.model,
            corpus=self.loaded.data,
            complexity=Complexity(
                live_features=Number.null("a circuit has edges, not features"),
                bits_per_token=Number.null("a circuit is written down once, not for every token"),
                features=graph.edges,
                circuits=sizes,
            ),
            checks=self.checks,
            calibration=CalibrationInfo(
                documents=count,
                tokens=sum(calibration.tokens.size for calibration, _ in groups),
                dimension=len(graph.writers),
                # Of one template: the sampler's weights.
                rank=min(len(calibration) - 1 for calibration, _ in groups),
                bank_rows=count,
            ),
            measurement=Measurement(
                rungs=self.plan.rungs,
                pairs=self.plan.pairs,
                seed=task.seed,
                dtype=self.plan.dtype,
                suffix="every edge of the graph",
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
