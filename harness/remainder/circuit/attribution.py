"""Finding circuits: the importance of every edge, or every node, for the behaviour that the prompts ask for.

One convention: a score is the loss of the metric (larger is better), exact or to first order, when an edge
carries its background value instead of its own. So a positive score means that the edge helps, and circuits
of largest signed score do best. EAP-IG and MIB have the same sign: they multiply background minus clean by
the gradient of a loss.

*Edge attribution* (EAP; with more than one step EAP-IG-inputs). For every edge u → v
1. d_u = clean value of u − background value of u, in the stream, at every position.
2. The model runs on the clean prompt, its input moved to e' + (k/m)(e − e'), k = 1 … m, between the
   counterfactual embedding e' and the clean one e. With m = 1 that is the clean run: EAP.
3. g_v = ∂ metric / ∂ (input of v), including all later effects. Queries, keys and values have inputs of
   their own.
4. score = mean over k and prompts of Σ_positions d_u · g_v.

*Node attribution* (NAP). All readers read the same value of u, so its gradient is the sum of theirs, and the
score of u is the sum of the scores of its edges.

*Patching*, of edges or nodes: the difference itself, by one pass of the model for each; exact, but slow.

Memory: d_u is made for the prompts of one batch, within a budget. The gradient of one stage's readers is
contracted with it and freed as soon as the backward pass provides it.

Source: Nanda, "Attribution patching", 2023; Syed et al., "Attribution patching outperforms automated circuit
discovery", 2023; Hanna et al., "Have faith in faithfulness", 2024, equation for k = 1 … m (its code has both
0 … m − 1 and 1 … m). Scores of nodes: MIB, Mueller et al., 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from numpy.typing import NDArray
from torch import Tensor

from remainder.base.cache import Progress, silent
from remainder.circuit.attribution_metric import Metric, answer, seen_prompts
from remainder.circuit.run import BUDGET, Values, record
from remainder.errors import InterpretationError, MeasurementError
from remainder.model.architecture import Graph, Stage
from remainder.model.graph import CircuitModel
from remainder.task.prompts import Prompts

__all__ = ["ABLATIONS", "Attribution", "random_edges"]

ABLATIONS = ("counterfactual", "zero", "raw")
"""Replacements of an edge's value: that of the counterfactual prompt, nothing, or the mean over the prompts
of the template at each position."""


def random_edges(graph: Graph, seed: int) -> NDArray[np.float64]:
    """Random scores [writers, readers], uniform in [0, 1) on edges and zero elsewhere."""
    return np.random.default_rng(seed).random(graph.exists.shape) * graph.exists


@dataclass(frozen=True)
class Attribution:
    """Ways to score the edges or nodes of a model on some prompts; see the module's text.

    Neither the batch size nor the order of the prompts changes a score by more than rounding.

    Args:
        model: a model with its graph.
        prompts: prompts of one or more templates; the scores are means over all of them.
        metric: the quantity to explain; one of `attribution_metric`, or your own.
        ablation: one of `ABLATIONS`.
        batch_size: largest number of rows in a pass.
        budget: bytes that the differences d_u [writers, rows, positions, width] of a batch may take; a batch
            has fewer rows than `batch_size` where it must, and at least one.
        device: device of the model.
        progress: receives reports of progress.

    Raises:
        InterpretationError: if there are no prompts, or no such ablation.
    """

    model: CircuitModel
    prompts: tuple[Prompts, ...]
    metric: Metric = answer
    ablation: str = "counterfactual"
    batch_size: int = 16
    budget: int = BUDGET
    device: str | torch.device = "cpu"
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InterpretationError("there are no prompts to find a circuit on", fix="give at least one")
        if self.ablation not in ABLATIONS:
            raise InterpretationError(
                f"ablation {self.ablation!r}; expected {', '.join(ABLATIONS)}", fix="choose one of these"
            )
        if self.batch_size < 1:
            raise InterpretationError(f"a batch size of {self.batch_size}", fix="give at least 1")

    def edges(self, steps: int = 1) -> NDArray[np.float64]:
        """Edge attribution scores [writers, readers], in the metric's unit; zero where there is no edge.

        Args:
            steps: m; 1 is EAP, more are EAP-IG-inputs.

        Raises:
            InterpretationError: if there is less than one step, or more than one with another ablation than
                counterfactual.
            MeasurementError: if a score is not finite.
        """
        if steps < 1 or (steps > 1 and self.ablation != "counterfactual"):
            raise InterpretationError(
                f"{steps} steps of integrated gradients with ablation {self.ablation!r}",
                fix="take at least one step; several of them start at the counterfactual prompt, so need it",
            )
        scores = np.zeros(self.model.graph.exists.shape)
        done = 0
        for batch in self._batches():
            for step in range(1, steps + 1):
                # From the clean embedding back to the one of this step.
                added = (1 - step / steps) * -batch.embedding_difference
                tap = _Gradients(batch, added.detach().requires_grad_(), scores)
                with torch.enable_grad():
                    value = self._value(batch, self.model.run(batch.tokens, tap)).sum()
                    torch.autograd.grad(value, tap.added)
            done += len(batch.tokens)
            self._tell("edge attribution", done, self._count)
        return self._checked(scores / (self._count * steps))

    def nodes(self, steps: int = 1) -> NDArray[np.float64]:
        """Node attribution scores [writers], in the metric's unit; see `edges` for arguments and errors."""
        return np.asarray(self.edges(steps).sum(1))

    def patched_edges(self) -> NDArray[np.float64]:
        """Exact scores [writers, readers], by one pass for every edge and batch.

        Raises:
            MeasurementError: if a score is not finite.
        """
        places = np.argwhere(self.model.graph.exists)
        into = np.zeros((len(places), len(self.model.graph.readers)), dtype=np.bool_)
        into[np.arange(len(places)), places[:, 1]] = True
        scores = np.zeros(self.model.graph.exists.shape)
        scores[tuple(places.T)] = self._patched(places[:, 0], into, "patching edges")
        return scores

    def patched_nodes(self) -> NDArray[np.float64]:
        """Exact scores [writers], by one pass for every node and batch: all its readers are patched.

        Raises:
            MeasurementError: if a score is not finite.
        """
        exists = self.model.graph.exists
        return self._patched(np.arange(len(exists)), exists, "patching nodes")

    @property
    def _count(self) -> int:
        return sum(len(group) for group in self.prompts)

    def _patched(
        self, writers: NDArray[np.int64], into: NDArray[np.bool_], doing: str
    ) -> NDArray[np.float64]:
        """The loss of the metric by each change: one writer's background value, for some readers."""
        lost = np.zeros(len(writers))
        done, total = 0, len(writers) * self._count
        for batch in self._batches():
            rows = len(batch.tokens)
            clean = self._value(batch, batch.clean_logits)
            at_once = max(self.batch_size // rows, 1)
            for start in range(0, len(writers), at_once):
                chosen = slice(start, start + at_once)
                tap = _Patch(batch, writers[chosen], into[chosen])
                with torch.no_grad():
                    logits = self.model.run(batch.tokens.repeat(len(writers[chosen]), 1), tap)
                for place, part in enumerate(torch.split(logits, rows)):
                    lost[start + place] += float((clean - self._value(batch, part)).sum())
                done += len(logits)
                self._tell(doing, done, total)
        return self._checked(lost / self._count)

    def _value(self, batch: _Batch, logits: Tensor) -> Float[Tensor, " rows"]:
        """The metric of logits that are given everywhere, or only where they are scored."""
        if logits.shape[1] > len(batch.positions):
            logits = logits[:, batch.positions]
        return self.metric(logits, batch.clean_logits, batch.scored).double()

    def _batches(self) -> Iterator[_Batch]:
        graph = self.model.graph
        for group in self.prompts:
            row = len(graph.writers) * group.tokens.shape[1] * graph.architecture.width
            rows = min(self.batch_size, max(self.budget // (4 * row), 1))
            means = self._means(group, rows) if self.ablation == "raw" else None
            for start in range(0, len(group), rows):
                yield self._batch(group.take(slice(start, start + rows)), means)

    def _batch(self, prompts: Prompts, means: Values | None) -> _Batch:
        tokens = self._tokens(prompts.tokens)
        positions = np.flatnonzero(prompts.scored.any(0)).tolist()
        with torch.no_grad():
            clean, logits = record(self.model, tokens, positions)
            if self.ablation == "counterfactual":
                other: Values = record(self.model, self._tokens(prompts.counterfactual), positions)[0]
            else:
                other = means or {name: torch.zeros_like(value) for name, value in clean.items()}
            at_once = [
                self.model.outputs(stage, clean[stage.name] - other[stage.name]).movedim(2, 0)
                for stage in self.model.graph.stages[:-1]
            ]
        return _Batch(seen_prompts(prompts, positions), positions, tokens, logits, torch.cat(at_once))

    def _means(self, group: Prompts, rows: int) -> dict[str, Tensor]:
        """Clean values of each stage at each position, averaged over the prompts of a template."""
        total: dict[str, Tensor] = {}
        with torch.no_grad():
            for part in torch.split(self._tokens(group.tokens), rows):
                for name, value in record(self.model, part, [0])[0].items():
                    mean = value.sum(0, keepdim=True) / len(group)
                    total[name] = total[name] + mean if name in total else mean
        return total

    def _tokens(self, tokens: NDArray[np.int64]) -> Int[Tensor, "rows pos"]:
        return torch.tensor(tokens, device=self.device)

    def _tell(self, doing: str, done: int, total: int) -> None:
        (self.progress or silent)(doing, done, total)

    @staticmethod
    def _checked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if not np.isfinite(scores).all():
            raise MeasurementError(
                f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are NaN or infinite",
                fix="look at the metric on these prompts: a scored position needs a right and a wrong token",
            )
        return scores


@dataclass(frozen=True)
class _Batch:
    """Prompts of one template that are run together."""

    scored: Prompts
    """The prompts restricted to `positions`."""
    positions: list[int]
    """Positions where any of them is scored; only these need logits."""
    tokens: Int[Tensor, "rows pos"]
    clean_logits: Float[Tensor, "rows scored vocabulary"]
    differences: Float[Tensor, "writers rows pos d"]
    """Clean minus background values, as additions to the stream."""

    @property
    def embedding_difference(self) -> Float[Tensor, "rows pos d"]:
        return self.differences[0]


class _Gradients:
    """A tap that moves the input of the model, and scores edges during the backward pass.

    The stream is a sum that includes the input, so an addition to the input is added to every stream.
    """

    def __init__(
        self,
        batch: _Batch,
        added: Float[Tensor, "rows pos d"],
        scores: Float64[np.ndarray, "writers readers"],
    ) -> None:
        self.positions, self.differences = batch.positions, batch.differences
        self.added, self.scores = added, scores

    def read(self, stage: Stage, stream: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos readers d"]:
        count = stage.readers.stop - stage.readers.start
        inputs = (stream + self.added)[:, :, None].expand(-1, -1, count, -1)
        # A hook on the expanded tensor sees the readers' gradients before autograd sums them.
        inputs.register_hook(partial(self._contract, stage))  # type: ignore[no-untyped-call]
        return inputs

    def write(self, stage: Stage, values: Float[Tensor, "rows pos writers size"]) -> None:
        pass

    def _contract(self, stage: Stage, gradient: Float[Tensor, "rows pos readers d"]) -> None:
        seen = self.differences[: stage.sees].flatten(1)
        # Few readers and a long sum: with readers in front the product takes half as long.
        contracted = gradient.permute(2, 0, 1, 3).flatten(1) @ seen.T
        self.scores[: stage.sees, stage.readers] += contracted.T.double().cpu().numpy()


class _Patch:
    """A tap that gives some readers a writer's background value; rows are the prompts, once per change."""

    def __init__(
        self,
        batch: _Batch,
        writers: Int64[np.ndarray, " changes"],
        into: Bool[np.ndarray, "changes readers"],
    ) -> None:
        self.positions = batch.positions
        self.added = -batch.differences[torch.tensor(writers)]
        self.into = torch.tensor(into, device=self.added.device)

    def read(
        self, stage: Stage, stream: Float[Tensor, "all_rows pos d"]
    ) -> Float[Tensor, "all_rows pos readers d"] | None:
        here = self.into[:, stage.readers]
        if not here.any():
            return None
        change = self.added[:, :, :, None] * here[:, None, None, :, None]
        return stream[:, :, None] + change.flatten(0, 1)

    def write(self, stage: Stage, values: Float[Tensor, "all_rows pos writers size"]) -> None:
        pass
