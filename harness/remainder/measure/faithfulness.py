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

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from remainder.circuit.backgrounds import BACKGROUNDS, Background, Scene, mean_values
from remainder.circuit.constants import fit_constants
from remainder.circuit.graph import Circuit
from remainder.circuit.loaded import BehaviourFacts, CircuitTask
from remainder.circuit.prompts import PADDING, Prompts, first
from remainder.circuit.ranking import Circuits, Sized
from remainder.circuit.run import Values
from remainder.errors import MeasurementError
from remainder.measure.checks import CIRCUIT_LIMIT
from remainder.measure.circuit_summary import EMPTY, HEADLINE, rung_at
from remainder.measure.losses import kl_histogram
from remainder.measure.plan import Plan
from remainder.provenance import collect_provenance
from remainder.record import make_record
from remainder.schema import (
    Behaviour,
    Calibration,
    Check,
    CircuitSize,
    Complexity,
    Measurement,
    Number,
    Record,
    SubmissionInfo,
    TaskInfo,
)

__all__ = ["SWEPT", "measure_circuit"]

SWEPT = ("counterfactual", "raw", "full")
"""Backgrounds that go over all sizes."""

_SIGNED = "counterfactual"
"""The background of circuits that are chosen with the sign of their scores."""


class _Wanted(NamedTuple):
    """A circuit that is run, and the backgrounds that it is run with."""

    size: str
    circuit: Circuit
    backgrounds: tuple[str, ...]


class _Scores(NamedTuple):
    """Per prompt, sums over scored positions."""

    loss: list[float]
    kl: list[float]
    answer: list[float]
    top1: list[int]
    correct: list[int]
    histograms: list[str]


def measure_circuit(
    loaded: CircuitTask, info: SubmissionInfo, circuits: Circuits, plan: Plan, notes: Sequence[str] = ()
) -> tuple[Record, pd.DataFrame]:
    """Score the circuits of a submission; gives the record and the per-document values.

    Args:
        loaded: a task with prompts.
        info: of the submission.
        circuits: on the graph of the task's model.
        plan: how much is measured.
        notes: on how the circuits were read; they become warnings of the record.

    Raises:
        MeasurementError: a check failed, or a number is not finite.
        TaskError: the task has too few prompts.
    """
    return _Measuring(loaded, info, circuits, plan, warnings=list(notes)).record()


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
        groups = self._groups()
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
        found.append(_Wanted(HEADLINE, self._at(self._headline), (*chosen, *(_NOISES - set(chosen)))))
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

    def _groups(self) -> list[tuple[Prompts, Prompts]]:
        """Calibration and evaluation prompts of each template."""
        calibration = first(self.loaded.prompts("calibration"), self.plan.calibration_windows)
        evaluation = first(self.loaded.prompts("evaluation"), self.plan.evaluation_windows)
        by_template = {group.template: group for group in calibration}
        pairs = []
        for group in evaluation:
            of_template = by_template.get(group.template)
            if of_template is None or len(of_template) < 2:
                raise MeasurementError(
                    f"template {group.template} has {0 if of_template is None else len(of_template)} "
                    "calibration prompts, and a covariance needs two",
                    fix="measure on a larger tier, or give the task more fillers",
                )
            pairs.append((of_template, group))
        return pairs

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
        clean = _scored(scene.clean_logits, prompts, places)
        yield from _table(prompts, "clean", 0, _compare(clean, clean, prompts))
        self._check(scene)
        total = parts * sum(self._draws(name) for one in wanted for name in one.backgrounds)
        # Circuits of several sizes may be one and the same, such as the empty one after pruning.
        known: dict[tuple[bytes, str, int], _Scores] = {}
        for one in wanted:
            kept = one.circuit.kept.tobytes()
            for name in one.backgrounds:
                for draw in range(self._draws(name)):
                    key = (kept, name, draw)
                    if key not in known:
                        logits = scene.run(
                            one.circuit, BACKGROUNDS[name], draw, constants=constants.get(one.size)
                        )
                        known[key] = _compare(clean, _scored(logits, prompts, places), prompts)
                    scores = known[key]
                    yield from _table(prompts, rung_at(name, one.size), draw, scores)
                    self._done += 1
                    self._report(self.info.name, self._done, total)

    def _draws(self, name: str) -> int:
        background: Background = BACKGROUNDS[name]
        return self.plan.draws(name) if background.draws else 1

    def _check(self, scene: Scene) -> None:
        """Step 5, on every template; the worst is recorded."""
        prompts, places = scene.evaluation, scene.positions
        clean = _scored(scene.clean_logits, prompts, places)
        whole = _scored(scene.run(Circuit.full(scene.model.graph), BACKGROUNDS["raw"]), prompts, places)
        other = _scored(scene.counterfactual_logits, prompts, places)
        empty = _scored(
            scene.run(Circuit.empty(scene.model.graph), BACKGROUNDS["counterfactual"]), prompts, places
        )
        for name, kl, note in (
            ("full_equals_clean", _kl(clean, whole), "largest KL of the full circuit to the clean model"),
            (
                "empty_equals_counterfactual",
                _kl(other, empty),
                "largest KL of the empty circuit, counterfactual background, to the counterfactual prompts",
            ),
        ):
            before = self.checks.get(name)
            value = max(float(kl.max()), 0.0 if before is None or before.value is None else before.value)
            if value > CIRCUIT_LIMIT:
                raise MeasurementError(
                    f"check {name} failed: KL {value:.3g} nats, the limit is {CIRCUIT_LIMIT:g}",
                    fix="this architecture cannot be measured as a graph; please report it",
                )
            self.checks[name] = Check(passed=True, value=value, limit=CIRCUIT_LIMIT, note=note)

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
            calibration=Calibration(
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
                behaviour=_behaviour(self.loaded.facts),
            ),
            provenance=collect_provenance(self.timings),
            warnings=self.warnings,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - start


def _behaviour(facts: BehaviourFacts) -> Behaviour:
    kept = [part for part in facts.templates if part.answer_solved is not None]
    solved = sum(part.solved for part in kept)
    return Behaviour(
        candidates=facts.candidates,
        solved=facts.solved,
        answer=facts.answer,
        answer_of_solved=sum(part.solved * (part.answer_solved or 0.0) for part in kept) / max(solved, 1),
    )


_NOISES = {name for name, background in BACKGROUNDS.items() if background.kind == "noise"}


class _Logits(NamedTuple):
    """At scored positions, [prompts·scored, vocabulary] and the sets of right and wrong tokens there."""

    log_probabilities: Float[Tensor, "scored vocabulary"]
    right: Bool[Tensor, "scored vocabulary"]
    wrong: Bool[Tensor, "scored vocabulary"]


def _scored(logits: Float[Tensor, "prompts seen vocabulary"], prompts: Prompts, places: list[int]) -> _Logits:
    """The rows that count, in float32."""
    mask = torch.from_numpy(prompts.scored[:, places]).to(logits.device)
    rows = logits[mask].float()
    right = _members(prompts.correct, rows)
    wrong = _members(prompts.wrong, rows) if prompts.wrong.shape[-1] else ~right
    return _Logits(rows.log_softmax(-1), right, wrong)


def _members(choices: np.ndarray, like: Tensor) -> Bool[Tensor, "scored vocabulary"]:
    flat = torch.from_numpy(choices.reshape(-1, choices.shape[-1])).to(like.device)
    found = torch.zeros(like.shape[0], like.shape[1] + 1, dtype=torch.bool, device=like.device)
    # Padding marks a column beyond the vocabulary, which is cut off.
    found.scatter_(1, torch.where(flat == PADDING, like.shape[1], flat), True)
    return found[:, :-1]


def _kl(clean: _Logits, other: _Logits) -> Float[Tensor, " scored"]:
    p = clean.log_probabilities
    return (p.exp() * (p - other.log_probabilities)).sum(-1).clamp_min(0)


def _compare(clean: _Logits, other: _Logits, prompts: Prompts) -> _Scores:
    """Sums over the scored positions of every prompt, in float64."""
    logp = other.log_probabilities
    inside = logp.masked_fill(~other.right, -math.inf).logsumexp(-1)
    outside = logp.masked_fill(~other.wrong, -math.inf).logsumexp(-1)
    most = logp.argmax(-1)
    kl = _kl(clean, other).double().cpu()
    loss, answer = -inside.double().cpu(), (inside - outside).double().cpu()
    if not all(bool(torch.isfinite(part).all()) for part in (loss, kl, answer)):
        raise MeasurementError(
            "a loss, KL or answer is NaN or infinite", fix="the background's values are too large"
        )
    same = most == clean.log_probabilities.argmax(-1)
    hit = other.right.gather(1, most[:, None])[:, 0]

    def sums(part: Tensor) -> list[Any]:
        found: list[Any] = part.cpu().view(len(prompts), -1).sum(1).tolist()
        return found

    histograms = [kl_histogram(row.numpy()) for row in kl.view(len(prompts), -1)]
    return _Scores(sums(loss), sums(kl), sums(answer), sums(same.long()), sums(hit.long()), histograms)


def _table(prompts: Prompts, rung: str, draw: int, scores: _Scores) -> Iterator[dict[str, Any]]:
    """One row a prompt; see `measure.values`."""
    tokens = int(prompts.scored.sum(1)[0])
    for place, document in enumerate(prompts.documents):
        yield {
            "split": "evaluation",
            "document": document,
            "window": 0,
            "rung": rung,
            "draw": draw,
            "tokens": tokens,
            "loss": scores.loss[place],
            "kl": scores.kl[place],
            "top1": scores.top1[place],
            "correct": scores.correct[place],
            "kl_histogram": scores.histograms[place],
            "annealed": math.nan,
            "residual_ss": math.nan,
            "centred_ss": math.nan,
            "active": math.nan,
            "spliced": math.nan,
            "answer": scores.answer[place],
        }
