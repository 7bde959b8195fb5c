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
from numpy.typing import NDArray
from torch import Tensor

from remainder.circuit.circuit import Circuit
from remainder.circuit.kept_sums import KeptSums, readers_ahead
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
    """A background of one value per writer, used on all its removed edges.

    It may have an attribute `reads_pass`, False if its values do not depend on those of the pass. Then
    writers whose own values change nothing need not be computed.
    """

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

    reads_pass = False

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
    each = (
        (stored + readers_ahead(circuit.graph) + readers) * positions * circuit.graph.architecture.width * 4
    )
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

    factor = 1.0
    """The factor that sums over kept edges are multiplied by."""

    def __init__(
        self,
        model: CircuitModel,
        circuit: Circuit,
        bath: Any,
        clean_rows: int,
        positions: Sequence[int] | None,
    ) -> None:
        self.model, self.bath = model, bath
        self.clean_rows, self.positions = clean_rows, positions
        self._kept = self._needed(circuit)
        self._sums = KeptSums(circuit.graph, self._kept, self.factor)
        self._totals: list[tuple[int, Tensor]] = []
        """Sums over writers up to the last two stages, since parallel blocks read the one before last."""
        self.skipped: frozenset[str] = frozenset()

    def _needed(self, circuit: Circuit) -> NDArray[np.bool_]:
        return circuit.kept

    def _keep(self, stage: Stage, values: Tensor) -> None:
        """Add the outputs of a stage's writers to the sums, and store those with a kept edge."""
        before = self._totals[-1][1] if self._totals else 0
        single = self._sums.of(stage)
        outputs = self.model.outputs(stage, values)
        if len(single):
            self._sums.add(outputs[:, :, single].permute(2, 0, 1, 3))
        self._totals = [*self._totals[-1:], (stage.writers.stop, before + outputs.sum(2))]

    def _total(self, stage: Stage) -> Tensor:
        """Sum of the outputs of all writers before a stage, kept or not, [rows, positions, d]."""
        return next(total for stop, total in self._totals if stop == stage.sees)

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
        return np.asarray(self._kept[: stage.sees, stage.readers].all(0))


class _ByWriter(_Pass):
    """A pass with one background value per writer.

    Where these do not depend on the pass, stages without a needed writer are skipped: their background alone
    is added, since their own values are subtracted again wherever they are read.
    """

    bath: WriterBath
    factor = -1.0

    def __init__(self, model: CircuitModel, circuit: Circuit, *rest: Any) -> None:
        super().__init__(model, circuit, *rest)
        self._coming = list(circuit.graph.stages[:-1])
        if self._is_fixed and not self.clean_rows and getattr(model, "skips", False):
            needed = np.asarray(self._kept.any(1))
            self.skipped = frozenset(
                stage.name for stage in circuit.graph.stages[1:-1] if not needed[stage.writers].any()
            )

    @property
    def _is_fixed(self) -> bool:
        return not getattr(self.bath, "reads_pass", True)

    def _needed(self, circuit: Circuit) -> NDArray[np.bool_]:
        return circuit.reaching if self._is_fixed else circuit.kept

    def write(self, stage: Stage, values: Tensor) -> None:
        self._catch_up(stage.writers.start, values)
        self._coming.pop(0)
        self._keep(stage, self.bath.values(stage, values) - values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        self._catch_up(stage.sees, stream)
        if self._whole(stage).all():
            return None
        inputs = self._sums.into(stage, stream)
        inputs += stream + self._total(stage)
        return self._finish(stage, inputs, stream)

    def _catch_up(self, writers: int, like: Tensor) -> None:
        """Add the backgrounds of skipped stages among the first `writers`; their own values are 0."""
        while self._coming and self._coming[0].writers.stop <= writers:
            stage = self._coming.pop(0)
            self._keep(stage, self.bath.values(stage, like))


class _ByReader(_Pass):
    bath: ReaderBath

    def write(self, stage: Stage, values: Tensor) -> None:
        self._keep(stage, values)

    def read(self, stage: Stage, stream: Tensor) -> Tensor | None:
        if self._whole(stage).all():
            return None
        kept, written = self._sums.into(stage, stream), self._total(stage)
        removed = self.bath.inputs(stage, kept, written, stream)
        return self._finish(stage, (stream - written) + kept + removed, stream)
