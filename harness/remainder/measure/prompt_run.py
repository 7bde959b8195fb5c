"""The evaluation loop over prompts, common to circuits of edges and of features.

1. Circuits: those of the submission, the empty one first, which gives m(∅), then the headline; each with the
   rungs that it is run on.
2. Template by template, calibration and evaluation prompts make a scene, in which nodes or edges can be
   removed.
3. Each circuit, rung and draw is one pass of the evaluation prompts; circuits that keep the same are run
   once.
4. Losses, KL and answers at the scored positions (`measure.answers`).
5. Random circuits of equal size, of which the lower median is recorded (`measure.chance`).
6. Checks: the whole circuit gives the clean logits, the empty one those of the counterfactual; the worst
   template is recorded.

Source: protocol 1, sections 2 and 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import pandas as pd
import torch
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.circuit.backgrounds import Scene
from remainder.circuit.features import FeatureScene
from remainder.loading.prompts import PromptTask
from remainder.measure.answers import Scores, behaviour_of, check_kl, compare, groups_of, kl_of, scored, table
from remainder.measure.chance import RandomScores, key_of
from remainder.measure.plan import Plan
from remainder.measure.seal import Log, seal
from remainder.record.circuit_summary import AGAINST_RANDOM, COMPLEMENT, EMPTY, rung_at
from remainder.record.number import Number
from remainder.record.schema import CalibrationInfo, CircuitSize, Complexity, SubmissionInfo
from remainder.record.store import StoredRecord
from remainder.task.prompts import Prompts

__all__ = ["SWEPT", "Agreement", "Graphs", "PromptRun", "Random", "Wanted"]

SWEPT = ("counterfactual", "raw", "full")
"""Rungs that go over circuits of all sizes, even if the task names them."""


C = TypeVar("C")
S = TypeVar("S", Scene, FeatureScene)


@dataclass(frozen=True)
class Wanted(Generic[C]):
    """A circuit that is run, by the name of its size, and the rungs that it is run on."""

    size: str
    circuit: C
    rungs: tuple[str, ...]


@dataclass(frozen=True)
class Random(Generic[C]):
    """Random circuits of equal size."""

    circuits: tuple[C, ...]
    identity: bytes
    """Equal for the same circuits of the same nodes."""


class Agreement(NamedTuple):
    """Two ways to the same prediction."""

    name: str
    """The name of the check in the record."""
    one: Tensor
    other: Tensor
    note: str


class Graphs(NamedTuple):
    """The graph that circuits are cut from, and its size."""

    sizes: dict[str, CircuitSize]
    of: int
    """The number of edges or nodes in the graph."""
    dimension: int
    """Dimension of the values that a background is fitted to."""
    unit: str
    """The word for what a circuit has instead of features, for a reason in the record."""
    suffix: str


@dataclass
class PromptRun(ABC, Generic[C, S]):
    """One submission of circuits on one task; a subclass says what a circuit is and how it is run."""

    loaded: PromptTask
    submission: SubmissionInfo
    plan: Plan
    log: Log
    progress: Progress | None
    _done: int = field(default=0, init=False)

    @abstractmethod
    def wanted(self) -> list[Wanted[C]]:
        """Step 1."""

    @abstractmethod
    def scenes(self, groups: Sequence[tuple[Prompts, Prompts]], wanted: list[Wanted[C]]) -> Iterable[S]:
        """Step 2: a scene for the calibration and evaluation prompts of each template."""

    @abstractmethod
    def clean(self, scene: S) -> Tensor:
        """Logits of the untouched model."""

    @abstractmethod
    def run(self, scene: S, one: Wanted[C], rung: str, draw: int) -> Tensor:
        """Logits in a pass of the circuit."""

    @abstractmethod
    def identity(self, scene: S, one: Wanted[C]) -> bytes:
        """Cache key: equal for circuits that keep the same nodes and edges on this template."""

    @abstractmethod
    def has_draws(self, rung: str) -> bool:
        """Whether there is anything to draw on this rung."""

    @abstractmethod
    def random(self, one: Wanted[C]) -> Random[C]:
        """Random circuits of as many edges or nodes."""

    @abstractmethod
    def agreements(self, scene: S, clean: Tensor) -> Iterator[Agreement]:
        """Step 6, for one template."""

    @abstractmethod
    def graphs(self, wanted: list[Wanted[C]]) -> Graphs:
        """The facts on graph and circuits that the record states."""

    def record(self) -> StoredRecord:
        """All steps; gives the record and the per-document values."""
        groups, wanted = groups_of(self.loaded, self.plan), self.wanted()
        scenes, chance = self.scenes(groups, wanted), self._chance(groups, wanted)
        rows: list[dict[str, Any]] = []
        with torch.no_grad(), self.log.timed("evaluation"):
            for scene in scenes:
                rows += self._rows(scene, wanted, chance, len(groups))
        for scores, _ in chance:
            rows += scores.rows([evaluation for _, evaluation in groups])
        values = pd.DataFrame(rows)
        graphs = self.graphs(wanted)
        count = sum(len(calibration) for calibration, _ in groups)
        record = seal(
            self.loaded,
            self.plan,
            self.log,
            values,
            submission=self.submission,
            complexity=Complexity(
                live_features=Number.null(graphs.unit),
                bits_per_token=Number.null("a circuit is written down once, not for every token"),
                features=graphs.of,
                circuits=graphs.sizes,
            ),
            calibration=CalibrationInfo(
                documents=count,
                tokens=sum(calibration.tokens.size for calibration, _ in groups),
                dimension=graphs.dimension,
                # Backgrounds are sampled from one template's prompts at a time, and n prompts span n − 1
                # directions around their mean; the poorest template is stated.
                rank=min(len(calibration) - 1 for calibration, _ in groups),
                bank_rows=count,
            ),
            suffix=graphs.suffix,
            behaviour=behaviour_of(self.loaded.facts),
        )
        return StoredRecord(record, values)

    def _chance(
        self, groups: Sequence[tuple[Prompts, Prompts]], wanted: list[Wanted[C]]
    ) -> list[tuple[RandomScores, tuple[C, ...]]]:
        """Random circuits of every size, and their scores as far as these are on disk."""
        task, plan = self.loaded.task, self.plan
        prompts: list[bytes] = [part.tokens.tobytes() for group in groups for part in group]
        shared: tuple[str | bytes, ...] = (
            task.hash,
            self.loaded.model.sha256,
            plan.dtype,
            self.loaded.device.type,
            *prompts,
        )
        found = []
        for one in wanted:
            if AGAINST_RANDOM in one.rungs and one.size != EMPTY and not one.size.startswith(COMPLEMENT):
                random = self.random(one)
                if random.circuits:
                    scores = RandomScores(one.size, key_of([*shared, random.identity]))
                    found.append((scores, random.circuits))
        return found

    def _rows(
        self,
        scene: S,
        wanted: list[Wanted[C]],
        chance: list[tuple[RandomScores, tuple[C, ...]]],
        templates: int,
    ) -> Iterator[dict[str, Any]]:
        """Steps 3 to 6 for one template."""
        prompts, positions = scene.evaluation, scene.positions
        logits = self.clean(scene)
        clean = scored(logits, prompts, positions)
        yield from table(prompts, "clean", 0, compare(clean, clean, prompts))
        for name, first, second, note in self.agreements(scene, logits):
            kl = kl_of(scored(first, prompts, positions), scored(second, prompts, positions))
            self.log.checks[name] = check_kl(name, kl, note, self.log.checks.get(name))
        total = templates * sum(self._draws(rung) for one in wanted for rung in one.rungs)
        unknown = [(scores, circuits) for scores, circuits in chance if not scores.is_kept]
        total += templates * sum(len(circuits) for _, circuits in unknown)
        # Circuits of several sizes may be one and the same, such as the empty one after pruning.
        known: dict[tuple[bytes, str, int], Scores] = {}

        def score(one: Wanted[C], rung: str, draw: int, doing: str) -> Scores:
            key = (self.identity(scene, one), rung, draw)
            if key not in known:
                other = scored(self.run(scene, one, rung, draw), prompts, positions)
                known[key] = compare(clean, other, prompts)
            self._done += 1
            self.report(doing, self._done, total)
            return known[key]

        for one in wanted:
            for rung in one.rungs:
                for draw in range(self._draws(rung)):
                    found = score(one, rung, draw, self.submission.name)
                    yield from table(prompts, rung_at(rung, one.size), draw, found)
        for scores, circuits in unknown:
            for number, circuit in enumerate(circuits):
                one = Wanted(scores.size, circuit, (AGAINST_RANDOM,))
                doing = f"{self.loaded.task.id}: random circuits, once"
                scores.add(number, prompts.template, score(one, AGAINST_RANDOM, 0, doing))

    def _draws(self, rung: str) -> int:
        return self.plan.draws(rung) if self.has_draws(rung) else 1

    def report(self, doing: str, done: int, total: int | None) -> None:
        """Tell what is being done."""
        (self.progress or silent)(doing, done, total)
