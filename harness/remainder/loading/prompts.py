"""A task of circuits made ready: a model as a graph, and prompts for a behaviour that it shows.

What the model gives on a behaviour's candidates (`remainder.loading.behaviour`) is kept on disk under the
hash of the candidates and of the weights. If fewer solved prompts remain than the tiers of the task take, the
task is refused. Prompts that lie in the task's folder are taken as they are, solved or not.

Source: protocol 1, section 8.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from remainder.base.cache import Progress, build_once, verify
from remainder.errors import AssetError, TaskError
from remainder.loading.adapt import StoredModel, require_stored
from remainder.loading.behaviour import (
    Answers,
    BehaviourFacts,
    Groups,
    facts_of,
    key,
    prompts_hash,
    try_prompts,
)
from remainder.loading.fetch import load_bridge, load_tokenizer, local_model, pinned_model
from remainder.loading.loaded import LoadedTask
from remainder.model.bridge import DTYPES
from remainder.model.graph import BridgeCircuitModel, CircuitModel
from remainder.model.module import module_hash
from remainder.model.sites import BridgeSiteModel
from remainder.record.schema import Pinned
from remainder.task.behaviour import SPLITS, Candidates, make_candidates, read_behaviour
from remainder.task.prompts import Prompts, first
from remainder.task.script import BuiltCircuit, run_circuit_script
from remainder.task.spec import CircuitSpec, Task
from remainder.task.stored_prompts import StoredPrompts
from remainder.task.text import Split

__all__ = ["BehaviourTask", "PromptTask", "ScriptBehaviourTask", "StoredPromptTask", "open_prompt_task"]

_PROMPTS = 16  # in one forward pass, if nothing else is asked for


@dataclass
class PromptTask(LoadedTask):
    """A model as a graph, and prompts."""

    _models: dict[str, CircuitModel] = field(default_factory=dict, init=False)

    @property
    def spec(self) -> CircuitSpec:
        """The table `[circuit]` of the task."""
        assert self.task.circuit is not None
        return self.task.circuit

    @abstractmethod
    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        """Prompts of a split by template, in the order in which a smaller tier takes them.

        `fit` is for finding circuits, `calibration` for backgrounds, `evaluation` for scores.
        """

    @property
    @abstractmethod
    def facts(self) -> BehaviourFacts | None:
        """The results of the model on the prompts that it was tried on; None, if it was tried on none."""

    @abstractmethod
    def _make_circuit_model(self, dtype: str) -> CircuitModel: ...

    def circuit_model(self, dtype: str = "float32") -> CircuitModel:
        """The model as a graph, on the task's device; made once.

        Raises:
            TaskError: if its architecture is not one whose stream is a sum of what heads and MLPs write.
            MeasurementError: if, split into heads, it does not give the ordinary logits.
        """
        if dtype not in self._models:
            # Tensors made in inference mode could not take part in a graph, and attribution needs one.
            with torch.inference_mode(False):
                self._models[dtype] = self._make_circuit_model(dtype)
        return self._models[dtype]

    def scored_windows(self, count: int) -> dict[tuple[str, int], int]:
        return {
            (document, 0): int(tokens)
            for group in first(self.prompts("evaluation"), count)
            for document, tokens in zip(group.documents, group.scored.sum(1), strict=True)
        }

    def hooked(self, dtype: str = "float32") -> Any | None:
        model = self.circuit_model(dtype)
        return model.bridge if isinstance(model, BridgeCircuitModel) else None

    def site_model(self, dtype: str = "float32") -> BridgeSiteModel:
        """The model, with hooks to put latents at.

        Raises:
            TaskError: it has none.
        """
        model = self.circuit_model(dtype)
        if not isinstance(model, BridgeCircuitModel):
            raise TaskError(
                f"{self.task.id}: its model is a {type(model).__name__}, which has no hooks to put latents "
                "at",
                fix="choose a task of a language model",
            )
        return BridgeSiteModel(model.bridge)


@dataclass
class BehaviourTask(PromptTask):
    """A language model and the prompts of a behaviour that it solves."""

    folder: Path
    candidates: Candidates

    @cached_property
    def model(self) -> Pinned:
        return pinned_model(self.task.model, self.folder)

    @cached_property
    def data(self) -> Pinned:
        return Pinned(source=f"tasks/{self.spec.behaviour}", sha256=prompts_hash(self._solved))

    @cached_property
    def facts(self) -> BehaviourFacts:
        return facts_of(self.candidates.prompts, self._results, self.candidates)

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self._solved[split]

    @cached_property
    def _results(self) -> Answers:
        text = f"v1|{prompts_hash(self.candidates.prompts)}|{self.model.sha256}"
        key = hashlib.sha256(text.encode()).hexdigest()[:24]

        def build(folder: Path) -> None:
            model = self.site_model()
            found = try_prompts(
                lambda tokens, places: model.run(tokens, [], places),
                self.candidates.prompts,
                self.device,
                self.task.id,
                self.progress,
            )
            save_file(found, folder / "answers.safetensors")

        folder = build_once("behaviours", key, build, progress=self.progress)
        verify(folder)
        return load_file(folder / "answers.safetensors")

    @cached_property
    def _solved(self) -> Groups:
        kept = {each.template for each in self.facts.templates if each.kept}
        found: dict[Split, tuple[Prompts, ...]] = {}
        for split, groups in self.candidates.prompts.items():
            chosen = [np.flatnonzero(self._results[key(split, group, "solved")]) for group in groups]
            found[split] = tuple(
                group.take(rows)
                for group, rows in zip(groups, chosen, strict=True)
                if group.template in kept and len(rows)
            )
        self._check_enough(found)
        if self.spec.prompts_sha256 not in (None, prompts_hash(found)):
            raise AssetError(
                f"{self.task.id}: the prompts that the model solves hash to {prompts_hash(found)[:16]}…, the "
                f"task pins {str(self.spec.prompts_sha256)[:16]}…",
                fix="install the versions of constraints.txt (tokenizers, transformers, transformer-lens)",
            )
        return found

    def _check_enough(self, solved: Groups) -> None:
        facts = self.facts
        tries = f"right on {facts.solved} of {facts.candidates} prompts ({facts.accuracy:.0%}), "
        tries += f"with a mean answer of {facts.answer:.2f} nats"
        if not any(each.kept for each in facts.templates):
            raise TaskError(
                f"{self.task.id}: {self.task.model.name} does not show this behaviour: it is {tries}, and "
                "guessing would do as well",
                fix="choose another model or behaviour; what a model cannot do has no circuit in it",
            )
        for split in SPLITS:
            there = sum(map(len, solved[split]))
            needs = {name: getattr(tier, f"{split}_windows") for name, tier in self.task.tiers.items()}
            name, need = max(needs.items(), key=itemgetter(1))
            if there < need:
                raise TaskError(
                    f"{self.task.id}: {there} prompts of {split} are left, and tier {name} takes {need}; "
                    f"{self.task.model.name} is {tries}",
                    fix="raise `candidates` in [circuit], give more fillers, or take fewer in the tier",
                )

    def _make_circuit_model(self, dtype: str) -> CircuitModel:
        bridge = load_bridge(self.task.model, dtype=dtype, device=self.device, folder=self.folder)
        probe = torch.from_numpy(self.candidates.prompts["calibration"][0].tokens[:2]).to(self.device)
        return BridgeCircuitModel(bridge, probe)


@dataclass
class ScriptBehaviourTask(PromptTask):
    """A model and prompts that a script made; all its prompts are used."""

    built: BuiltCircuit

    @cached_property
    def model(self) -> Pinned:
        return Pinned(source=self.task.model.source, sha256=module_hash(self.built.model))

    @cached_property
    def data(self) -> Pinned:
        assert self.task.build is not None
        return Pinned(source=self.task.build.data, sha256=prompts_hash(self.built.prompts))

    @property
    def interpretations(self) -> Mapping[str, Any]:
        return self.built.interpretations

    @cached_property
    def facts(self) -> BehaviourFacts:
        groups = self.built.prompts
        model = self.circuit_model()
        results = try_prompts(
            lambda tokens, places: model.run(tokens)[:, places],
            groups,
            self.device,
            self.task.id,
            self.progress,
        )
        return facts_of(groups, results, None)

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self.built.prompts[split]

    def _make_circuit_model(self, dtype: str) -> CircuitModel:
        placed: nn.Module = copy.deepcopy(self.built.model)
        placed.to(device=self.device, dtype=DTYPES[dtype]).eval()
        assert isinstance(placed, CircuitModel)  # as `open_prompt_task` found
        return placed


@dataclass
class StoredPromptTask(PromptTask):
    """A language model, and prompts that lie in the task's folder; all of them are used."""

    given: StoredModel
    stored: StoredPrompts

    @property
    def model(self) -> Pinned:
        return self.given.pinned

    @cached_property
    def data(self) -> Pinned:
        return Pinned(source="prompts of the task's own", sha256=prompts_hash(self.stored.groups))

    @property
    def facts(self) -> None:
        return None

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self.stored.groups[split]

    def hooked(self, dtype: str = "float32") -> Any:
        return self.given.bridge(dtype, self.device)

    def site_model(self, dtype: str = "float32") -> BridgeSiteModel:
        # Hooks are all that features need: not every architecture can be split into heads.
        return BridgeSiteModel(self.hooked(dtype))

    def _make_circuit_model(self, dtype: str) -> CircuitModel:
        raise TaskError(
            f"{self.task.id} has prompts without counterfactuals, which circuits of edges need",
            fix="give a circuit of features, or choose a task of a behaviour",
        )


def open_prompt_task(
    task: Task, device: torch.device, batch_size: int | None, progress: Progress | None
) -> PromptTask:
    """Load a task with `[circuit]`, trying the model on its prompts if that was not done before.

    Raises:
        TaskError: if the model does not show the behaviour, or the script does not make what it should.
        AssetError: if something cannot be fetched, or is not what the task pins.
    """
    batch_size = batch_size or _PROMPTS
    if task.build is not None:
        with torch.inference_mode(False):
            built = run_circuit_script(task)
        if not isinstance(built.model, CircuitModel):
            raise TaskError(
                f"{task.build.folder / task.build.script}: model has no graph, run or outputs",
                fix="see remainder.model.graph",
            )
        return ScriptBehaviourTask(task, device, batch_size, progress, built)
    assert task.circuit is not None
    if task.circuit.reader is not None:
        return _open_stored(task, device, batch_size, progress)
    assert task.circuit.file is not None
    behaviour = read_behaviour(task.circuit.file)
    folder = local_model(task.model, progress=progress)
    candidates = make_candidates(
        behaviour,
        load_tokenizer(folder),
        seed=task.circuit.seed,
        count=task.circuit.candidates,
        bos=task.circuit.bos,
        where=task.id,
    )
    opened = BehaviourTask(task, device, batch_size, progress, folder, candidates)
    opened.prompts("evaluation")  # refused now, if it is
    return opened


def _open_stored(
    task: Task, device: torch.device, batch_size: int, progress: Progress | None
) -> StoredPromptTask:
    assert task.circuit is not None
    assert task.circuit.folder is not None
    require_stored(task.model)
    stored = StoredPrompts.load(task.circuit.folder)
    if prompts_hash(stored.groups) != task.circuit.prompts_sha256:
        raise AssetError(
            f"{task.id}: the prompts in {task.circuit.folder} are not those that the task pins",
            fix="make the task again, or copy its folder whole",
        )
    given = StoredModel(task.model, local_model(task.model, progress=progress))
    return StoredPromptTask(task, device, batch_size, progress, given, stored)
