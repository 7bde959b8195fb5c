"""A task of circuits made ready: a model as a graph, and prompts for a behaviour that it shows.

1. A behaviour's candidates (`circuit.behaviour`) are run once through the float32 model, prompts and
   counterfactuals. What comes out is kept on disk under the hash of the candidates and of the weights.
2. A prompt is *solved* if its answer is above 0 (right tokens together outweigh wrong ones) and the most
   likely one of all named tokens is right. Prompts that are not solved are left out.
3. A template of which the model does not solve clearly more than half (at least 55 %, and a one-sided
   binomial test against chance at 1 %) is left out whole: a circuit of what a model does not do has no
   meaning.
4. If fewer prompts remain than the tiers of the task take, the task is refused.

Candidates are run in batches of one size, whatever the task's is: what is kept depends on nothing else.

Source: protocol 1, section 8; that only what a model does is explained: Wang et al., "Interpretability in the
Wild", 2023.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.stats import binomtest
from torch import nn

from remainder.base.cache import Progress, build_once, verify
from remainder.circuit.attribution_metric import answer
from remainder.errors import AssetError, TaskError
from remainder.loading.activations import SiteActivations
from remainder.loading.fetch import check_weights, load_bridge, load_tokenizer, local_model
from remainder.loading.loaded import LoadedTask
from remainder.model.bridge import DTYPES, Runner
from remainder.model.graph import BridgeCircuitModel, CircuitModel
from remainder.model.module import module_hash
from remainder.record.schema import Pinned
from remainder.task.behaviour import SPLITS, Candidates, make_candidates, read_behaviour
from remainder.task.prompts import PADDING, Prompts
from remainder.task.script import BuiltCircuit, run_circuit_script
from remainder.task.spec import CircuitSpec, Task
from remainder.task.text import Split, Windows

__all__ = [
    "BehaviourFacts",
    "BehaviourTask",
    "CircuitTask",
    "ScriptBehaviourTask",
    "TemplateFacts",
    "open_circuit_task",
    "prompts_hash",
]

Groups = Mapping[Split, tuple[Prompts, ...]]

_PROMPTS = 16  # in one forward pass, if nothing else is asked for
_TRIED = 32  # candidates in one forward pass
_LEAST = 0.55
"""Share of a template's candidates that a model must solve."""
_LEVEL = 0.01


class TemplateFacts(NamedTuple):
    """How a model does on a template, over all splits. Answers are in nats, means over prompts."""

    template: str
    candidates: int
    solved: int
    answer: float
    """Of all candidates."""
    answer_solved: float | None
    """Of those that are solved; None, if there are none."""
    answer_counterfactual: float | None
    """Of their counterfactuals, by what is right for the prompt: below 0 where the counterfactual flips
    it."""
    kept: bool
    """Whether the template is used."""

    @property
    def accuracy(self) -> float:
        """Share that is solved."""
        return self.solved / self.candidates


class BehaviourFacts(NamedTuple):
    """How a model does on a behaviour."""

    templates: tuple[TemplateFacts, ...]
    left_out: Mapping[str, tuple[str, ...]]
    """By list, words that are not one token of the model's tokenizer."""
    unaligned: int
    """Prompts whose tokens do not fall on their template as those of most do."""

    @property
    def candidates(self) -> int:
        """Prompts tried."""
        return sum(each.candidates for each in self.templates)

    @property
    def solved(self) -> int:
        """Prompts solved."""
        return sum(each.solved for each in self.templates)

    @property
    def accuracy(self) -> float:
        """Share that is solved."""
        return self.solved / self.candidates

    @property
    def answer(self) -> float:
        """Mean over all candidates, nats."""
        return sum(each.answer * each.candidates for each in self.templates) / self.candidates


@dataclass
class CircuitTask(LoadedTask):
    """A model as a graph and prompts. It has no site of its own to put a reconstruction at."""

    _models: dict[str, CircuitModel] = field(default_factory=dict, init=False)

    @property
    def spec(self) -> CircuitSpec:
        """What the task says of its prompts and circuits."""
        assert self.task.circuit is not None
        return self.task.circuit

    @abstractmethod
    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        """Prompts of a split by template, in the order in which a smaller tier takes them.

        `fit` is for finding circuits, `calibration` for backgrounds, `evaluation` for scores.
        """

    @property
    @abstractmethod
    def facts(self) -> BehaviourFacts:
        """How the model does on what it was tried on."""

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

    def windows(self, split: Split) -> Windows:
        """Refused: there are prompts of several lengths."""
        raise self._no_site()

    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        """Refused: nothing is put in at a site."""
        raise self._no_site()

    def hooked(self, dtype: str = "float32") -> Any | None:
        """As of any loaded task; the model is the one that circuits are scored on."""
        model = self.circuit_model(dtype)
        return model.bridge if isinstance(model, BridgeCircuitModel) else None

    def _make_runner(self, dtype: str) -> Runner:
        raise self._no_site()

    def _no_site(self) -> TaskError:
        return TaskError(
            f"{self.task.id} scores circuits, on prompts; interpretations of a site have no place in it",
            fix="give it a circuit, or choose a task on a text",
        )


@dataclass
class BehaviourTask(CircuitTask):
    """A language model and the prompts of a behaviour that it solves."""

    folder: Path
    candidates: Candidates

    @cached_property
    def model(self) -> Pinned:
        spec = self.task.model
        found = check_weights(spec, self.folder)
        # The folder of a hub's snapshot is named by its commit.
        of_hub = spec.hub is not None and not Path(spec.hub).is_dir()
        return Pinned(
            source=spec.source, revision=self.folder.name if of_hub else spec.revision, sha256=found
        )

    @cached_property
    def data(self) -> Pinned:
        return Pinned(source=f"tasks/{self.spec.behaviour}", sha256=prompts_hash(self._solved))

    @cached_property
    def facts(self) -> BehaviourFacts:
        return _facts(self.candidates.prompts, self._results, self.candidates)

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self._solved[split]

    @cached_property
    def _results(self) -> _Results:
        text = f"v1|{prompts_hash(self.candidates.prompts)}|{self.model.sha256}"
        key = hashlib.sha256(text.encode()).hexdigest()[:24]

        def build(folder: Path) -> None:
            found = _try(
                self.circuit_model(), self.candidates.prompts, self.device, self.task.id, self.progress
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
            chosen = [np.flatnonzero(self._results[_key(split, group, "solved")]) for group in groups]
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
                fix="choose another model or behaviour; there is no circuit of what a model does not do",
            )
        for split in SPLITS:
            there = sum(map(len, solved[split]))
            name, need = max(
                ((name, _amount(tier, split)) for name, tier in self.task.tiers.items()), key=_second
            )
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
class ScriptBehaviourTask(CircuitTask):
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
        results = _try(self.circuit_model(), groups, self.device, self.task.id, self.progress)
        return _facts(groups, results, None)

    def prompts(self, split: Split) -> tuple[Prompts, ...]:
        return self.built.prompts[split]

    def _make_circuit_model(self, dtype: str) -> CircuitModel:
        placed: nn.Module = copy.deepcopy(self.built.model)
        placed.to(device=self.device, dtype=DTYPES[dtype]).eval()
        assert isinstance(placed, CircuitModel)  # as `open_circuit_task` found
        return placed


def open_circuit_task(
    task: Task, device: torch.device, batch_size: int | None, progress: Progress | None
) -> CircuitTask:
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


def prompts_hash(groups: Groups) -> str:
    """SHA-256 over templates, documents and all arrays of all splits."""
    digest = hashlib.sha256()
    for split in sorted(groups):
        for group in groups[split]:
            digest.update(f"{split}|{group.template}|{'|'.join(group.documents)}|".encode())
            for array in (group.tokens, group.counterfactual, group.scored, group.correct, group.wrong):
                digest.update(f"{array.dtype}|{array.shape}|".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


_Results = dict[str, NDArray[Any]]
"""Of each split and template: `answer` and `counterfactual` in nats [prompts], and `solved` [prompts]."""


def _key(split: Split, group: Prompts, name: str) -> str:
    return f"{split}/{group.template}/{name}"


@torch.inference_mode()
def _try(
    model: CircuitModel, groups: Groups, device: torch.device, name: str, progress: Progress | None
) -> _Results:
    """Answers of a model to prompts and their counterfactuals."""
    total = sum(len(group) for split in groups.values() for group in split)
    done = 0
    found: dict[str, list[NDArray[Any]]] = {}
    for split, all_of_split in groups.items():
        for group in all_of_split:
            for start in range(0, len(group), _TRIED):
                part = group.take(slice(start, start + _TRIED))
                logits = model.run(torch.from_numpy(part.tokens).to(device))
                other = model.run(torch.from_numpy(part.counterfactual).to(device))
                answers = answer(logits, logits, part)
                solved = (answers > 0) & _most_likely(logits, part)
                values = {"answer": answers, "counterfactual": answer(other, other, part), "solved": solved}
                for kind, value in values.items():
                    found.setdefault(_key(split, group, kind), []).append(value.cpu().numpy())
                done += len(part)
                if progress is not None:
                    progress(f"trying the prompts of {name}", done, total)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _most_likely(logits: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """Of each prompt, whether at every scored position the likeliest of all named tokens is right."""
    flags = torch.from_numpy(prompts.scored).to(logits.device)
    scored = logits[flags].view(len(prompts), -1, logits.shape[-1])

    def best(ids: NDArray[np.int64]) -> torch.Tensor:
        places = torch.from_numpy(ids).to(logits.device)
        return scored.gather(-1, places.clamp(min=0)).masked_fill(places == PADDING, -torch.inf).amax(-1)

    right = best(prompts.correct)
    if prompts.wrong.shape[-1]:
        return (right > best(prompts.wrong)).all(1)
    return (right == scored.amax(-1)).all(1)


def _facts(groups: Groups, results: _Results, candidates: Candidates | None) -> BehaviourFacts:
    names = dict.fromkeys(group.template for split in groups.values() for group in split)
    found = []
    for name in names:
        mine = [(split, group) for split in groups for group in groups[split] if group.template == name]
        answers, others, solved = (
            np.concatenate([results[_key(split, group, kind)] for split, group in mine])
            for kind in ("answer", "counterfactual", "solved")
        )
        count, hits = len(solved), int(solved.sum())
        clearly = binomtest(hits, count, 0.5, alternative="greater").pvalue < _LEVEL
        found.append(
            TemplateFacts(
                name,
                count,
                hits,
                float(answers.mean()),
                float(answers[solved].mean()) if hits else None,
                float(others[solved].mean()) if hits else None,
                candidates is None or (clearly and hits / count >= _LEAST),
            )
        )
    left_out = {} if candidates is None else candidates.left_out
    return BehaviourFacts(tuple(found), left_out, 0 if candidates is None else candidates.unaligned)


def _amount(tier: Any, split: Split) -> int:
    return int(getattr(tier, f"{split}_windows"))


def _second(pair: tuple[str, int]) -> int:
    return pair[1]
