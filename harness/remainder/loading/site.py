"""A task at a site: windows of a text, or examples that a script made, and activations to replace there."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.base.paths import gigabytes
from remainder.errors import RemainderError
from remainder.loading.activations import (
    SiteActivations,
    check_stored,
    collect_activations,
    prefix_pass,
    site_moments,
)
from remainder.loading.adapt import GivenModel, StoredModel, require_stored
from remainder.loading.fetch import load_corpus, local_model
from remainder.loading.loaded import LoadedTask, Outcome
from remainder.model.bridge import BridgeRunner, Runner
from remainder.model.module import ModuleRunner, module_hash
from remainder.record.code import CODE
from remainder.record.rungs import FOLDS
from remainder.record.schema import Pinned
from remainder.residual.calibration import LARGE
from remainder.residual.moments import Moments
from remainder.task.script import Built, check_targets, data_hash, run_script, windows_of
from remainder.task.spec import Task
from remainder.task.text import Corpus, Split, Windows

if TYPE_CHECKING:
    from remainder.measure.partial import Finished
    from remainder.measure.plan import Plan
    from remainder.submission.submission import Entry

__all__ = ["LanguageTask", "ScriptTask", "SiteTask", "open_on", "open_site_task"]

_CPU = torch.device("cpu")
_WINDOWS = 8  # of a text in one forward pass, at most
_WINDOWS_ON_GPU = 32
_OUTPUTS = 2**27  # outputs of a batch, 537 MB of them; the losses keep as many
_BYTES_OF_OUTPUT = 24  # of a pass and its losses on a GPU: 21 were measured
_GROUP_LIMIT = "REMAINDER_GROUP_GB"
_GROUP = 1.0  # gigabytes of what belongs to the interpretations of a group
_PROCESS = 1.5e8  # bytes of a process that runs a submission's code, which are two
_WINDOWS_OF_SCRIPT = 64


@dataclass
class SiteTask(LoadedTask):
    """A task whose interpretations rebuild activations at a site."""

    _runners: dict[str, Runner] = field(default_factory=dict, init=False)

    def hooked(self, dtype: str = "float32") -> Any | None:
        runner = next(iter(self._runners.values()), None) or self.runner(dtype)
        return runner.bridge if isinstance(runner, BridgeRunner) else None

    @abstractmethod
    def windows(self, split: Split) -> Windows:
        """All windows of a split, in the order in which a smaller tier takes them."""

    @abstractmethod
    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        """Activations of the first `windows` windows (default: all) of a split, from the float32 model."""

    @abstractmethod
    def _make_runner(self, dtype: str) -> Runner: ...

    def _check_stored(self) -> None:
        """Compare stored activations with the float32 model, as soon as both are there."""

    def runner(self, dtype: str) -> Runner:
        """The model with weights in `dtype`, split at the task's site."""
        if dtype not in self._runners:
            (self.progress or silent)(f"loading the model ({dtype})", 0, None)
            # Tensors made in inference mode could not take part in a graph, and loss gradients need one.
            with torch.inference_mode(False):
                self._runners[dtype] = self._make_runner(dtype)
            if dtype == "float32":
                self._check_stored()
        return self._runners[dtype]

    def measure_group(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        *,
        reference: Entry | None = None,
        progress: Progress | None = None,
        finished: Finished | None = None,
        part: tuple[int, int] | None = None,
    ) -> Iterator[Outcome]:
        """Score interpretations together, as many at a time as fit `REMAINDER_GROUP_GB` (default: 1).

        Passes that depend on model, text and seed alone are shared by a group, whose rows appear together.
        """
        for group in self.groups(entries, plan):
            yield from self._measured(group, plan, part, reference, progress, finished)

    def _measured(
        self,
        group: Sequence[Entry],
        plan: Plan,
        part: tuple[int, int] | None,
        reference: Entry | None,
        progress: Progress | None,
        finished: Finished | None,
    ) -> Iterator[Outcome]:
        """Measure a group; where it cannot be as a whole, each of its entries by itself."""
        try:
            found = self.measure_part(
                group, plan, part, reference=reference, progress=progress, finished=finished
            )
        except RemainderError as problem:
            if len(group) == 1:
                yield Outcome(group[0], None, problem)
                return
            for entry in group:
                yield from self._measured([entry], plan, part, reference, progress, finished)
        else:
            yield from found

    def measure_part(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        part: tuple[int, int] | None = None,
        *,
        reference: Entry | None = None,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[Outcome]:
        """Score one group; with `part`, measure only a part of its batches, and make no record.

        Args:
            part: (i, n): the i-th of n equal parts of the batches of evaluation windows, i from 0, which are
                put into `finished`. A call without `part` makes the record, and finds them there.
        """
        for entry in entries:
            self.task.kind.require_scored(entry.name, entry.kind, self.task.id)
        found: list[Outcome] = self._halving(
            "measure_group",
            entries,
            plan,
            reference=reference,
            progress=progress or self.progress,
            finished=finished,
            part=part,
        )
        return found

    def groups(self, entries: Sequence[Entry], plan: Plan) -> Iterator[list[Entry]]:
        """Entries in their order, as many together as memory is meant for."""
        group: list[Entry] = []
        room = limit = gigabytes(_GROUP_LIMIT, _GROUP)
        for entry in entries:
            need = self.bytes_of(entry, plan)
            if group and need > room:
                yield group
                group, room = [], limit
            group.append(entry)
            room -= need
        if group:
            yield group

    def bytes_of(self, entry: Entry, plan: Plan) -> float:
        """Memory of one interpretation: its weights, and what is fitted to it, moments, a bank and codes."""
        width, weights = self.task.site.width, 1000.0 * (entry.kilobytes or 0)
        if entry.format_name == CODE:
            weights = 2 * (weights + _PROCESS)
        if not plan.fits:
            return weights
        tokens = plan.calibration_windows * math.prod(self.windows("calibration").inputs.shape[1:2])
        matrices = 0 if width >= LARGE else (4 * FOLDS + 4) * width**2
        return weights + 8.0 * matrices + 3 * 4.0 * min(tokens, 2**16) * width

    def scored_windows(self, count: int) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for batch in self.activations("evaluation", count).batches(64):
            keys = zip(batch.windows.documents, batch.windows.indices, strict=True)
            found |= zip(keys, batch.scored.sum(1).tolist(), strict=True)
        return found

    def rows(self, split: Split, windows: int | None = None) -> Float[Tensor, "rows d"]:
        """Activations at spliced positions as rows of one float32 tensor, for training on."""
        batches = self.activations(split, windows).batches(64)
        return torch.cat([batch.prefix.x_out[batch.spliced] for batch in batches])

    def fit_moments(self, windows: int) -> Moments:
        """Mean and scatter of activations on the first windows of `fit`."""
        return site_moments(self.activations("fit", windows))


@dataclass
class LanguageTask(SiteTask):
    """A language model on a text; activations are kept on disk."""

    corpus: Corpus
    given: GivenModel
    _unchecked: dict[Path, SiteActivations] = field(default_factory=dict, init=False)
    """Files of activations that were not compared with the model yet."""
    _checked: set[Path] = field(default_factory=set, init=False)

    @property
    def model(self) -> Pinned:
        return self.given.pinned

    @property
    def data(self) -> Pinned:
        assert self.task.text is not None
        return Pinned(source=self.task.text.source, sha256=self.corpus.hash)

    def windows(self, split: Split) -> Windows:
        return self.corpus.windows(split)

    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        chosen = self.windows(split)
        found = collect_activations(
            self.task,
            lambda: self.runner("float32"),
            chosen if windows is None else chosen.first(windows),
            split,
            model_hash=self.model.sha256,
            device=self.device,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        if isinstance(found.stored, Path) and found.stored not in self._checked:
            self._unchecked[found.stored] = found
            self._check_stored()
        return found

    def _check_stored(self) -> None:
        if "float32" not in self._runners:
            return  # it is loaded later in every measurement, and then this is called again
        while self._unchecked:
            path, stored = self._unchecked.popitem()
            if path.is_file():  # what needed room may have pushed it out
                check_stored(stored, self._runners["float32"])
            self._checked.add(path)

    def _make_runner(self, dtype: str) -> Runner:
        bridge = self.given.bridge(dtype, self.device)
        probe = torch.from_numpy(self.windows("calibration").first(1).inputs).to(self.device)
        return BridgeRunner(bridge, self.task.site, probe)


@dataclass
class ScriptTask(SiteTask):
    """A module and examples that a script made; activations are kept in memory."""

    built: Built
    _activations: dict[tuple[Split, int], SiteActivations] = field(default_factory=dict, init=False)

    @cached_property
    def model(self) -> Pinned:
        return Pinned(source=self.task.model.source, sha256=module_hash(self.built.module))

    @cached_property
    def data(self) -> Pinned:
        assert self.task.build is not None
        return Pinned(source=self.task.build.data, sha256=data_hash(self.built))

    @property
    def interpretations(self) -> Mapping[str, Any]:
        return self.built.interpretations

    @cached_property
    def _windows(self) -> dict[Split, Windows]:
        return {split: windows_of(examples) for split, examples in self.built.examples.items()}

    def windows(self, split: Split) -> Windows:
        return self._windows[split]

    def activations(self, split: Split, windows: int | None = None) -> SiteActivations:
        chosen = self.windows(split)
        if windows is not None:
            chosen = chosen.first(windows)
        key = (split, len(chosen))
        if key not in self._activations:
            runner = self.runner("float32")
            doing = f"activations ({split})"
            tensors = prefix_pass(runner, chosen, self.batch_size, doing, self.progress)
            self._activations[key] = SiteActivations(self.task, chosen, tensors)
        return self._activations[key]

    def _make_runner(self, dtype: str) -> Runner:
        probe = torch.from_numpy(self.windows("calibration").first(2).inputs)
        runner = ModuleRunner(self.built.module, self.task.site, probe, dtype_name=dtype, device=self.device)
        check_targets(self.built, runner.outputs)
        return runner


def open_site_task(
    task: Task, device: torch.device, batch_size: int | None, progress: Progress | None
) -> SiteTask:
    """Load a task's text, fetching what is not there yet, or run its script; see `open_task`."""
    gigabytes(_GROUP_LIMIT, _GROUP)  # a number that is none ends the run before anything is loaded
    if task.build is not None:
        (progress or silent)("making model and examples", 0, None)
        with torch.inference_mode(False):
            built = run_script(task)
        return ScriptTask(task, device, batch_size or _WINDOWS_OF_SCRIPT, progress, built)
    require_stored(task.model)
    given = StoredModel(task.model, local_model(task.model, progress=progress))
    (progress or silent)("reading the text", 0, None)
    return open_on(
        task, given, load_corpus(task, progress=progress), device, batch_size=batch_size, progress=progress
    )


def open_on(
    task: Task,
    given: GivenModel,
    corpus: Corpus,
    device: torch.device,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LanguageTask:
    """A task on a text and a model that are at hand.

    Args:
        task: whose `model` is the spec of `given`.
        batch_size: windows in one forward pass; default: as many as leave clean outputs that can be kept.
    """
    size = batch_size or _windows_at_a_time(given.vocabulary, corpus, device)
    return LanguageTask(task, device, size, progress, corpus, given)


def _windows_at_a_time(vocabulary: int | None, corpus: Corpus, device: torch.device = _CPU) -> int:
    """The number of windows that leaves clean outputs that can be kept.

    A GPU waits for Python between small passes, so there it is as many as a quarter of its free memory holds.
    """
    most, outputs = _WINDOWS, _OUTPUTS
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        most, outputs = _WINDOWS_ON_GPU, max(outputs, free // (4 * _BYTES_OF_OUTPUT))
    if vocabulary is None:
        return most
    fitting: int = outputs // (vocabulary * corpus.windows("evaluation").inputs.shape[1])
    return max(1, min(most, fitting))
