"""One batch of the evaluation split after another: the clean model, every kernel and draw, and the curve.

Rows of `raw` are of exact codes. Those of all other kernels are of the reconstruction that the ladder stands
on; beside them the quantised codes of each other point of the curve are put in once, and the bits and squared
residuals of all steps are counted without any pass.

Source: protocol 1, sections 2 and 9; protocol 2, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.loading.activations import Batch
from remainder.measure.coding import CodedBatch
from remainder.measure.description import Description
from remainder.measure.gather import add_reconstruction
from remainder.measure.kernels import FittedRung, score, table_rows
from remainder.measure.losses import window_scores
from remainder.measure.rebuilt import Rebuilder, Rebuilt
from remainder.measure.splices import Splices
from remainder.record.rungs import CODED
from remainder.record.values import STEP_BITS, STEP_SQUARES
from remainder.residual.noise import NoiseKeys

__all__ = ["Passes", "add_paid"]

_SAME = 1e-3
"""Share of a squared residual that arithmetic and `decode` may differ by."""
_ROUNDING = 1e-6
"""Share of squared activations that float32 rounds."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Passes:
    """The passes that are made of every batch."""

    rebuilder: Rebuilder
    kernels: list[FittedRung]
    mean: Any
    """The mean activation of the evaluation split, which squares are centred at."""
    description: Description | None = None
    """Description lengths, if they are measured."""

    @property
    def _curve(self) -> dict[str, int]:
        """Points of the curve beside `coded`, which is a kernel."""
        coder = self.rebuilder.coder
        if coder is None or not self.rebuilder.is_coded:
            return {}
        return {name: step for name, step in coder.points.items() if name != CODED}

    @property
    def number(self) -> int:
        """Spliced passes a batch, if no two splices are equal."""
        return sum(kernel.draws for kernel in self.kernels) + len(self._curve)

    def rows(
        self, splices: Splices, rebuilt: Rebuilt, places: NoiseKeys, memo: dict[int, Tensor]
    ) -> Iterator[Rows]:
        """Rows of the table of values for a batch, pass after pass.

        Args:
            memo: noise of this batch, which all interpretations share.
        """
        runner, clean = splices.runner, splices.clean
        batch = clean.batch
        ladder = []
        for kernel in self.kernels:
            if kernel.name == "raw":
                new = _exactly(splices, "raw", rebuilt.exact)
                add_reconstruction(new, batch, rebuilt.codes, rebuilt.exact, self.mean)
                self._add_steps(new, rebuilt)
                yield new
            elif kernel.name == CODED:
                assert rebuilt.coded is not None
                yield self._paid(splices, CODED, rebuilt.coded, rebuilt.scored)
            else:
                ladder.append(kernel)
        for name in self._curve:
            assert rebuilt.coded is not None
            estimate = rebuilt.coded.reconstruction(self._curve[name])
            yield self._paid(splices, name, rebuilt.coded, estimate)
        codes = rebuilt.kept if any("codes" in kernel.rung.needs for kernel in ladder) else None
        yield from score(runner, clean, ladder, rebuilt.scored, places, memo=memo, codes=codes)

    def _paid(self, splices: Splices, rung: str, coded: CodedBatch, estimate: Tensor) -> Rows:
        rows = _exactly(splices, rung, estimate)
        self._add_paid(rows, splices.clean.batch, coded, estimate, coded.coder.points[rung])
        return rows

    def _add_steps(self, rows: Rows, rebuilt: Rebuilt) -> None:
        """Bits and squared residuals at every step, into rows of `raw`."""
        if rebuilt.coded is None:
            return
        for step, (bits, squares) in enumerate(zip(STEP_BITS, STEP_SQUARES, strict=True)):
            found = zip(rows, rebuilt.coded.bits(step), rebuilt.coded.squares(step), strict=True)
            for row, *numbers in found:
                row[bits], row[squares] = numbers
        for row in rows:
            row["bits"] = math.nan
        if self.description is not None:
            for row, columns in zip(rows, self.description.columns(rebuilt.coded), strict=True):
                row |= columns

    def _add_paid(self, rows: Rows, batch: Batch, coded: CodedBatch, estimate: Any, step: int) -> None:
        """Bits and squared residual of a point of the curve, into its rows.

        Raises:
            MeasurementError: if what was decoded is not what the symbols that were counted stand for.
        """
        add_paid(rows, batch, estimate, coded.bits(step))
        size = batch.prefix.x_out.double().square().sum(-1)
        for i, (row, squares) in enumerate(zip(rows, coded.squares(step), strict=True)):
            room = _SAME * squares + _ROUNDING * float(size[i][batch.spliced[i]].sum())
            if not abs(row["residual_ss"] - squares) <= room:
                raise MeasurementError(
                    f"{self.rebuilder.interpretation.name}: quantised codes of document {row['document']} "
                    f"decode to a squared residual of {row['residual_ss']:.6g}; by its decoder as an affine "
                    f"map it is {squares:.6g}",
                    fix="make decode one function of the codes, the same for every batch",
                )


def _exactly(splices: Splices, rung: str, estimate: Float[Tensor, "docs pos d"]) -> Rows:
    """Rows of a splice without noise."""
    batch = splices.clean.batch
    spliced = torch.where(batch.spliced[..., None], estimate.float(), batch.prefix.x_out)
    scores, _ = window_scores(splices.clean, splices.compare(spliced))
    return table_rows(batch, rung, 0, scores)


def add_paid(rows: Rows, batch: Batch, estimate: Any, bits: list[float]) -> None:
    """Bits and squared residual of the spliced tokens of each window, into its row."""
    left = (batch.prefix.x_out.double() - estimate.double()).square().sum(-1)
    for i, row in enumerate(rows):
        row["bits"] = bits[i]
        row["residual_ss"] = float(left[i][batch.spliced[i]].sum())
