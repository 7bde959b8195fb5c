"""The residual of the nearest x̂ among all calibration rows.

Rows are looked at in blocks, so a bank may be larger than memory. Of rows that are equally near, up to the
rounding of their distance, the first by random priority is taken, whatever the batch.

`neighbour` is the residual itself: one sample of the kernel that the bank stands for, and without density.
`neighbour-mean` scales it, μ + c (r_nearest − μ), c the best factor on held-out documents.

Source: protocol 2, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from remainder.record.rungs import FOLDS
from remainder.record.schema import ConditionalFit
from remainder.residual.calibration import Calibration
from remainder.residual.conditional import placed
from remainder.residual.held_out import SIZES, rows_of
from remainder.residual.kernel import Context, Kernel, Sample
from remainder.residual.noise import Draw
from remainder.residual.rows import Rows

__all__ = ["Nearest", "Neighbour", "NeighbourMean", "Neighbours"]

_QUERIES = 2048  # rows of each fold that are looked up
_TIE = 1e-6
"""Distances that differ by no more than this share of both squared lengths are equal."""


class Nearest(NamedTuple):
    """The nearest row to each of some."""

    residual: Float[Tensor, "rows d"]
    token: Int[Tensor, " rows"] | None


class Neighbours:
    """Some calibration windows as a bank.

    Args:
        windows: places of windows, those first that are taken where several rows are equally near.
    """

    def __init__(self, rows: Rows, windows: Sequence[int]) -> None:
        self.rows, self.windows = rows, windows
        total = torch.zeros(rows.width, dtype=torch.float64)
        for some in rows.blocks(windows):
            total += some.seen.reconstruction[some.seen.mask].double().sum(0)
        self.centre = (total / max(rows.count(windows), 1)).float()
        self._last: tuple[Tensor, Nearest] | None = None

    def nearest(self, x: Float[Tensor, "rows d"]) -> Nearest:
        """The rows whose x̂ is nearest."""
        x = x.float().cpu()
        # Both kernels, and every draw, ask for the same.
        if self._last is None or not torch.equal(self._last[0], x):
            self._last = (x, self._search(x - self.centre))
        return self._last[1]

    def _search(self, x: Tensor) -> Nearest:
        own = x.square().sum(-1)
        best = torch.full((len(x),), torch.inf)
        residual = torch.zeros(len(x), self.rows.width)
        token = torch.zeros(len(x), dtype=torch.int64) if self.rows.with_tokens else None
        for some in self.rows.blocks(self.windows):
            bank = some.seen.reconstruction[some.seen.mask] - self.centre
            sizes = bank.square().sum(-1)
            distance = own[:, None] + sizes - 2 * (x @ bank.T)
            least = distance.min(1).values
            room = _TIE * (own + sizes[distance.argmin(1)])
            # argmax of a mask is the first place where it holds.
            first = (distance <= (least + room)[:, None]).int().argmax(1)
            nearer = least < best - room
            best = torch.where(nearer, least, best)
            residual[nearer] = some.rows[first[nearer]]
            if token is not None and some.seen.tokens is not None:
                token[nearer] = some.seen.tokens[some.seen.mask][first[nearer]]
        return Nearest(residual, token)


@dataclass
class _Sums:
    """Sums over looked-up rows, of residuals less μ."""

    own: float = 0.0
    cross: float = 0.0
    found: float = 0.0
    rows: int = 0
    same: int = 0

    def add(self, own: Tensor, found: Tensor, same: int) -> None:
        """Add rows, and those that were found for them."""
        self.own += float(own.square().sum())
        self.cross += float((own * found).sum())
        self.found += float(found.square().sum())
        self.rows += len(own)
        self.same += same

    def merge(self, other: _Sums) -> None:
        """Add other rows."""
        self.own += other.own
        self.cross += other.cross
        self.found += other.found
        self.rows += other.rows
        self.same += other.same

    @property
    def factor(self) -> float:
        """The scale of least squared error; never below 0."""
        return max(0.0, self.cross / self.found) if self.found > 0 else 0.0

    @property
    def explained(self) -> float | None:
        """R² of the scaled residual."""
        if not self.own > 0:
            return None
        return 1 - (self.own - 2 * self.factor * self.cross + self.factor**2 * self.found) / self.own


def _looked_up(rows: Rows, queries: Sequence[int], bank: Neighbours, mean: Tensor) -> _Sums:
    sums = _Sums()
    for some in rows.blocks(queries):
        found = bank.nearest(some.seen.reconstruction[some.seen.mask])
        own, theirs = some.rows.double() - mean, found.residual.double() - mean
        same = 0
        if found.token is not None and some.seen.tokens is not None:
            same = int((found.token == some.seen.tokens[some.seen.mask]).sum())
        sums.add(own, theirs, same)
    return sums


class _Fitted(NamedTuple):
    bank: Neighbours
    mean: Float[Tensor, " d"]
    factor: float


def _fit(calibration: Calibration) -> _Fitted:
    rows = rows_of(calibration, "neighbour")
    total, curve = _Sums(), dict[str, float]()
    for fold in range(FOLDS):
        own, others = rows.order(fold), rows.order(without=fold)
        if not own or not others:
            continue
        queries, mean = rows.first(own, _QUERIES), rows.mean(fold)
        found = _looked_up(rows, queries, Neighbours(rows, others), mean)
        if not total.rows:
            for size in (*SIZES, rows.count(others)):
                fitted = rows.first(others, size)
                whole = len(fitted) == len(others)
                part = found if whole else _looked_up(rows, queries, Neighbours(rows, fitted), mean)
                if part.explained is not None:
                    curve[str(rows.count(fitted))] = part.explained
                if whole:
                    break
        total.merge(found)
    calibration.conditional["neighbour"] = ConditionalFit(
        rows=len(rows),
        explained=total.explained,
        curve=curve,
        same_token=total.same / total.rows if rows.with_tokens else None,
        note=f"scaled by {total.factor:.3g}; one residual has no density: no candidate for best",
    )
    return _Fitted(Neighbours(rows, rows.order()), rows.mean(), total.factor)


class Neighbour(Kernel):
    """ε = the residual of the calibration row whose reconstruction is nearest."""

    def __init__(self, calibration: Calibration) -> None:
        self.fitted = calibration.once("neighbour", _fit)

    def sample(self, context: Context, draw: Draw) -> Sample:
        return placed(context, self._found(context))

    def _found(self, context: Context) -> Tensor:
        return self.fitted.bank.nearest(context.reconstruction[context.mask]).residual.double()


class NeighbourMean(Neighbour):
    """ε = μ + c (the residual of the nearest x̂ − μ)."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        mean = self.fitted.mean
        return placed(context, mean + self.fitted.factor * (self._found(context) - mean))
