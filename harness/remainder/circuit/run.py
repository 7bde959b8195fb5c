"""One pass of a circuit: kept edges carry what their writer gives in this pass, all others the background.

A reader r of the stream reads, instead of the sum of all that was written,

    Σ_{u kept into r} now_u + Σ_{u removed} background_u + what comes from no writer (biases).

1. The stream of the pass is the sum of all `now_u` and the biases. So with a background of one value a writer
   the sum is  stream + Σ_u δ_u − Σ_{u kept} δ_u,  δ_u = background_u − now_u: what is added up over all
   writers is one tensor, and only writers of which some edge is kept need one each. No tensor over all
   nodes is made for a sparse circuit, and rows are taken in portions such that one for a dense circuit keeps
   within a budget.
2. With a background of one value a *reader* (independent baths, counterterms) the removed sum is given as a
   whole, and now_u are kept instead of δ_u.
3. A reader into which all edges are kept reads the stream itself: the full circuit is the model.

Where statistics of the background are those of the same pass (sequential), rows of the calibration prompts
stand before the others in the batch, and the background looks at them as they come.

Source: protocol 1, section 8; for the forward pass Hanna et al., "Have Faith in Faithfulness", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

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
"""By stage, what its writers give, [rows, positions, writers, size]; of heads their z. Axes of one entry
stand
for all rows or positions."""

BUDGET = 256 * 2**20
"""Bytes that the values of single writers may take in one pass."""


@runtime_checkable
class WriterBath(Protocol):
    """A background of one value a writer, used on all its removed edges."""

    def values(
        self, stage: Stage, now: Float[Tensor, "rows pos writers size"]
    ) -> Float[Tensor, "#rows #pos writers size"]:
        """Background of the stage's writers; `now` is what they give in this pass."""


@runtime_checkable
class ReaderBath(Protocol):
    """A background of one value a reader, in place of the sum over its removed edges."""

    def inputs(
        self,
        stage: Stage,
        kept: Float[Tensor, "readers rows pos d"],
        written: Float[Tensor, "rows pos d"],
        stream: Float[Tensor, "rows pos d"],
    ) -> Float[Tensor, "readers rows pos d"]:
        """What each reader of the stage gets for its removed edges.

        Args:
            kept: the sum over each reader's kept edges in this pass.
            written: the sum over all writers that the stage sees in this pass.
            stream: the same, and what comes from no writer.
        """


class Constant:
    """Values that are given beforehand."""

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
    """What all writers give in a clean pass, and the logits (at `positions` only, if these are given)."""
    recorder = _Recorder(positions)
    return recorder.values, _at(positions, model.run(tokens, recorder))


def record_streams(model: CircuitModel, tokens: Int[Tensor, "rows pos"]) -> dict[str, Tensor]:
    """The stream [rows, positions, d] that every stage reads in a clean pass."""
    recorder = _Recorder([-1], streams=True)
    model.run(tokens, recorder)
    assert recorder.streams is not None
    return recorder.streams


def rows_within(circuit: Circuit, positions: int, *, budget: int = BUDGET) -> int:
    """How many rows a pass may have so that the values of single writers keep within `budget` bytes."""
    stored = max(int(np.count_nonzero(circuit.kept.any(1))), 1)
    # As many bytes again for what all readers of a stage read.
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
    """Logits in float32 of a model of which only the edges of a circuit are left.

    Args:
        model: the model whose graph the circuit is of.
        tokens: prompts of one length.
        background: what removed edges carry.
        clean_rows: so many rows at the start are the untouched model's, for the background to look at.
        positions: where logits are wanted; default: everywhere.

    Raises:
        MeasurementError: the logits are not finite.
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
    """Logits at some positions, of a model that gives them there alone or everywhere."""
    if positions is None or logits.shape[1] == len(positions):
        return logits
    return logits[:, list(positions)]


class _Pass:
    """What both kinds of pass share: sums over writers, and single values of those with a kept edge."""

    def __init__(
        self, model: CircuitModel, circuit: Circuit, clean_rows: int, positions: Sequence[int] | None
    ) -> None:
        self.model, self.circuit, self.clean_rows = model, circuit, clean_rows
        self.positions = positions
        self._single = np.asarray(circuit.kept.any(1))
        self._stored: list[Tensor] = []
        """[writers with a kept edge, rows, positions, d] of each stage so far."""
        self._places: list[np.ndarray] = []
        self._totals: list[tuple[int, Tensor]] = []
        """The sum over writers up to the last two stages: parallel blocks read the one before last."""

    def _keep(self, stage: Stage, values: Tensor) -> None:
        """Add up what the writers of a stage add to the stream, [rows, positions, writers, d]."""
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
        """The sum over the writers that a stage sees."""
        return next(total for stop, total in self._totals if stop == stage.sees)

    def _kept_sum(self, stage: Stage, like: Tensor) -> Tensor:
        """[readers, rows, positions, d]: single values summed over the kept edges into each reader."""
        readers = stage.readers.stop - stage.readers.start
        found = like.new_zeros(readers, *like.shape)
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
                found += part.view_as(found)
            else:
                found[columns] += part.view(len(columns), *like.shape)
        return found

    def _finish(self, stage: Stage, inputs: Tensor, stream: Tensor) -> Tensor:
        """[readers, rows, pos, d] to what a tap gives; whole columns and clean rows read the stream."""
        whole = self._whole(stage)
        if whole.any():
            inputs[whole] = stream
        if self.clean_rows:
            inputs[:, : self.clean_rows] = stream[: self.clean_rows]
        return inputs.permute(1, 2, 0, 3)

    def _whole(self, stage: Stage) -> np.ndarray:
        """Readers into which all edges are kept."""
        return np.asarray(self.circuit.kept[: stage.sees, stage.readers].all(0))


class _ByWriter(_Pass):
    def __init__(
        self,
        model: CircuitModel,
        circuit: Circuit,
        bath: WriterBath,
        clean_rows: int,
        positions: Sequence[int] | None,
    ) -> None:
        super().__init__(model, circuit, clean_rows, positions)
        self.bath = bath

    def write(self, stage: Stage, values: Tensor) -> None:
        self._keep(stage, self.bath.values(stage, values) - values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        if self._whole(stage).all():
            return None
        inputs = (stream + self._total(stage)) - self._kept_sum(stage, stream)
        return self._finish(stage, inputs, stream)


class _ByReader(_Pass):
    def __init__(
        self,
        model: CircuitModel,
        circuit: Circuit,
        bath: ReaderBath,
        clean_rows: int,
        positions: Sequence[int] | None,
    ) -> None:
        super().__init__(model, circuit, clean_rows, positions)
        self.bath = bath

    def write(self, stage: Stage, values: Tensor) -> None:
        self._keep(stage, values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        if self._whole(stage).all():
            return None
        kept, written = self._kept_sum(stage, stream), self._total(stage)
        removed = self.bath.inputs(stage, kept, written, stream)
        return self._finish(stage, (stream - written) + kept + removed, stream)
