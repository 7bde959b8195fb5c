"""One pass of a circuit: kept edges carry their writer's value in this pass, all others the background.

A reader r of the stream reads, instead of the sum of all writers,

    Σ_{u kept into r} now_u + Σ_{u removed} background_u + additions without a writer (biases).

1. The stream of the pass is the sum of all `now_u` and the biases. So with a background of one value per
   *writer* the sum is  stream + Σ_u δ_u − Σ_{u kept} δ_u,  δ_u = background_u − now_u. The sum over all
   writers is one tensor, and only writers with a kept edge need one each. No tensor over all nodes is made
   for a sparse circuit, and rows are taken in portions such that one for a dense circuit stays within a
   budget.
2. With a background of one value per *reader* (independent baths, counterterms) the removed sum is given as
   a whole, and now_u is stored instead of δ_u.
3. A reader into which all edges are kept reads the stream itself: the full circuit is the model.

Where the background's statistics are those of the same pass (sequential), rows of the calibration prompts
come first in the batch, and the background observes them stage by stage.

Source: protocol 1, section 8; for the forward pass Hanna et al., "Have Faith in Faithfulness", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.circuit.circuit import Circuit
from remainder.errors import MeasurementError
from remainder.model.architecture import Stage
from remainder.model.graph import CircuitModel

__all__ = ["Constant", "ReaderBath", "Values", "WriterBath", "record", "rows_within", "run_circuit"]

Values = Mapping[str, Tensor]
"""Values of writers by stage, [rows, positions, writers, size]; for heads their z. Axes of size one are
broadcast over rows or positions."""

BUDGET = 256 * 2**20
"""Bytes that the values of single writers may take in one pass."""


@runtime_checkable
class WriterBath(Protocol):
    """A background of one value per writer, used on all its removed edges."""

    def values(
        self, stage: Stage, now: Float[Tensor, "rows pos writers size"]
    ) -> Float[Tensor, "#rows #pos writers size"]:
        """Background of the stage's writers; `now` holds their values in this pass."""


@runtime_checkable
class ReaderBath(Protocol):
    """A background of one value per reader, in place of the sum over its removed edges."""

    def inputs(
        self,
        stage: Stage,
        kept: Float[Tensor, "readers rows pos d"],
        written: Float[Tensor, "rows pos d"],
        stream: Float[Tensor, "rows pos d"],
    ) -> Float[Tensor, "readers rows pos d"]:
        """The input of each reader of the stage from its removed edges.

        Args:
            kept: the sum over each reader's kept edges in this pass.
            written: the sum over all writers that the stage sees in this pass.
            stream: the same sum, plus additions without a writer.
        """


class Constant:
    """A background of values known beforehand."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def values(self, stage: Stage, now: Tensor) -> Tensor:
        return self._values[stage.name].to(now.dtype)


class _Recorder:
    def __init__(self, positions: Sequence[int] | None = None, *, streams: bool = False) -> None:
        self.positions = positions
        self.values: dict[str, Tensor] = {}
        self.streams: dict[str, Tensor] | None = {} if streams else None

    def read(self, stage: Stage, stream: Tensor) -> None:
        if self.streams is not None:
            self.streams[stage.name] = stream.detach()
        return None

    def write(self, stage: Stage, values: Tensor) -> None:
        if self.streams is None:
            self.values[stage.name] = values.detach()


def record(
    model: CircuitModel, tokens: Int[Tensor, "rows pos"], positions: Sequence[int] | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Values of all writers in a clean pass, and the logits (if `positions` are given, at these only)."""
    recorder = _Recorder(positions)
    return recorder.values, _at(positions, model.run(tokens, recorder))


def record_streams(model: CircuitModel, tokens: Int[Tensor, "rows pos"]) -> dict[str, Tensor]:
    """The stream [rows, positions, d] that every stage reads in a clean pass."""
    recorder = _Recorder([-1], streams=True)
    model.run(tokens, recorder)
    assert recorder.streams is not None
    return recorder.streams


def rows_within(circuit: Circuit, positions: int, *, budget: int = BUDGET) -> int:
    """Number of rows for which the values of single writers stay within `budget` bytes."""
    stored = max(int(np.count_nonzero(circuit.kept.any(1))), 1)
    # The inputs of all readers of a stage take as many bytes again.
    readers = max(stage.readers.stop - stage.readers.start for stage in circuit.graph.stages)
    each = (stored + 2 * readers) * positions * circuit.graph.architecture.width * 4
    return max(int(budget // each), 1)


def run_circuit(
    model: CircuitModel,
    circuit: Circuit,
    tokens: Int[Tensor, "rows pos"],
    background: Values | WriterBath | ReaderBath,
    *,
    clean_rows: int = 0,
    positions: Sequence[int] | None = None,
) -> Float[Tensor, "rows seen vocabulary"]:
    """Logits in float32 of a model in which only the edges of a circuit are left.

    Args:
        model: a model with the graph of the circuit.
        tokens: prompts of one length.
        background: the values that removed edges carry.
        clean_rows: number of rows at the start that run through the untouched model, for the background.
        positions: positions of the logits; default: all.

    Raises:
        MeasurementError: if the logits are not finite.
    """
    bath = Constant(background) if isinstance(background, Mapping) else background
    tap: _ByReader | _ByWriter
    if isinstance(bath, ReaderBath):
        tap = _ByReader(model, circuit, bath, clean_rows, positions)
    else:
        tap = _ByWriter(model, circuit, bath, clean_rows, positions)
    logits = _at(positions, model.run(tokens, tap))
    if not torch.isfinite(logits).all():
        raise MeasurementError(
            "the circuit's logits are NaN or infinite", fix="check the background's values; they may be huge"
        )
    return logits


def _at(positions: Sequence[int] | None, logits: Tensor) -> Tensor:
    """Logits at some positions, from a model that gives them only there or everywhere."""
    if positions is None or logits.shape[1] == len(positions):
        return logits
    return logits[:, list(positions)]


class _Pass:
    """The common part of both kinds of pass: sums over writers, and values of writers with a kept edge."""

    def __init__(
        self,
        model: CircuitModel,
        circuit: Circuit,
        bath: Any,
        clean_rows: int,
        positions: Sequence[int] | None,
    ) -> None:
        self.model, self.circuit, self.bath = model, circuit, bath
        self.clean_rows, self.positions = clean_rows, positions
        self._single = np.asarray(circuit.kept.any(1))
        self._stored: list[Tensor] = []
        """Values [writers with a kept edge, rows, positions, d] of each stage so far."""
        self._places: list[np.ndarray] = []
        self._totals: list[tuple[int, Tensor]] = []
        """Sums over writers up to the last two stages, since parallel blocks read the one before last."""

    def _keep(self, stage: Stage, values: Tensor) -> None:
        """Add the outputs of a stage's writers to the sums, and store those with a kept edge."""
        before = self._totals[-1][1] if self._totals else 0
        single = np.flatnonzero(self._single[stage.writers])
        if len(single):
            outputs = self.model.outputs(stage, values)
            self._stored.append(outputs[:, :, single].permute(2, 0, 1, 3))
            self._places.append(single + stage.writers.start)
            added = outputs.sum(2)
        else:
            added = self.model.outputs(stage, values).sum(2)
        self._totals = [*self._totals[-1:], (stage.writers.stop, before + added)]

    def _total(self, stage: Stage) -> Tensor:
        """Sum of the outputs of all writers before a stage, kept or not, [rows, positions, d]."""
        return next(total for stop, total in self._totals if stop == stage.sees)

    def _kept_sum(self, stage: Stage, like: Tensor) -> Tensor:
        """Sums over the kept edges into each reader, [readers, rows, positions, d]."""
        readers = stage.readers.stop - stage.readers.start
        total = like.new_zeros(readers, *like.shape)
        for places, stored in zip(self._places, self._stored, strict=True):
            seen = places < stage.sees
            flags = self.circuit.kept[places, stage.readers] & seen[:, None]
            if not flags.any():
                continue
            rows, columns = np.flatnonzero(flags.any(1)), np.flatnonzero(flags.any(0))
            weights = torch.from_numpy(flags[np.ix_(rows, columns)].T.copy()).to(like)
            chosen = stored if len(rows) == len(stored) else stored[rows]
            part = weights @ chosen.reshape(len(rows), -1)
            if len(columns) == readers:
                total += part.view_as(total)
            else:
                total[columns] += part.view(len(columns), *like.shape)
        return total

    def _finish(self, stage: Stage, inputs: Tensor, stream: Tensor) -> Tensor:
        """Inputs as a tap returns them; readers with all edges kept, and clean rows, read the stream."""
        whole = self._whole(stage)
        if whole.any():
            inputs[whole] = stream
        if self.clean_rows:
            inputs[:, : self.clean_rows] = stream[: self.clean_rows]
        return inputs.permute(1, 2, 0, 3)

    def _whole(self, stage: Stage) -> np.ndarray:
        """Mask of readers into which all edges are kept."""
        return np.asarray(self.circuit.kept[: stage.sees, stage.readers].all(0))


class _ByWriter(_Pass):
    bath: WriterBath

    def write(self, stage: Stage, values: Tensor) -> None:
        self._keep(stage, self.bath.values(stage, values) - values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        if self._whole(stage).all():
            return None
        inputs = (stream + self._total(stage)) - self._kept_sum(stage, stream)
        return self._finish(stage, inputs, stream)


class _ByReader(_Pass):
    bath: ReaderBath

    def write(self, stage: Stage, values: Tensor) -> None:
        self._keep(stage, values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        if self._whole(stage).all():
            return None
        kept, written = self._kept_sum(stage, stream), self._total(stage)
        removed = self.bath.inputs(stage, kept, written, stream)
        return self._finish(stage, (stream - written) + kept + removed, stream)
