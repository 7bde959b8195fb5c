"""Description length of activations with a Gaussian remainder: the worth of codes in bits.

1. The data are x + n, n ~ N(0, s²I) with s² a thousandth of tr Cov x/d: without noise, data that are discrete
   or rebuilt exactly would be worth without end. All densities are Gaussian, so the expectation over n is
   exact and no noise is drawn; s² of a hundredth and a ten-thousandth stand beside it.
2. Two parts: bits of the quantised codes q of x, under the tables of `measure.code_tables`, and −log₂ of the
   density of the remainder x + n − dec(q) under a Gaussian fitted to such remainders. The baseline is a
   Gaussian fitted to x. Both are in units of the noise: less the entropy of N(0, s²I).

       net = −log₂ p_x(x + n) − [bits(q) − log₂ p_r(x + n − dec q)],

   a lower bound, for any encoder, of how much better than a Gaussian x can be described.
3. Both Gaussians are the better on held-out documents of a shrunk covariance and of low rank plus a diagonal.
4. Its own step: of the twelve the one of largest net bits on calibration documents, each fold of these
   described by tables and Gaussians (shrunk covariances) of the others; on a sample of 16 million numbers, or
   50 rows a dimension if that is more. Then all is fitted to all of them.

Source: protocol 2, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.measure.code_tables import StepTable, fit_tables
from remainder.measure.codes import Codes
from remainder.measure.coding import CodedBatch, Coder
from remainder.record.description import NOISES
from remainder.record.rungs import FOLDS, STEPS
from remainder.record.schema import DescriptionFit
from remainder.record.values import DESCRIPTION
from remainder.residual.covariance import fit_covariance
from remainder.residual.moments import Moments
from remainder.residual.rows import Rows, Some

__all__ = ["Description", "Gaussian", "describable", "fit_description", "fit_gaussian"]

_ROWS_A_DIMENSION = 50
_RANKS = (16, 4, 2)  # d over these, of low rank plus a diagonal
_DISTINCT = 0.5  # share of rows that differ from all before, below which a site is discrete
_LOOKED_AT = 4096
_CHOSEN_ON = 1 << 24  # numbers, rows times dimensions
_LOG2 = math.log(2)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, matrix), in all dimensions once noise is added."""

    mean: Float[Tensor, " d"]
    matrix: Float[Tensor, "d d"]
    family: str

    def _root(self, floor: float) -> Tensor:
        noisy = self.matrix.clone()
        noisy.diagonal().add_(floor)
        root: Tensor = torch.linalg.cholesky(noisy)
        return root

    def bits(self, rows: Float[Tensor, "rows d"], floor: float) -> Float[Tensor, " rows"]:
        """−log₂ density of each row with N(0, s²I) added, in expectation, less that noise's entropy.

        Args:
            floor: s².
        """
        root = self._root(floor)
        whitened = torch.linalg.solve_triangular(root, (rows.cpu().double() - self.mean).T, upper=False)
        bits: Tensor = (0.5 * whitened.square().sum(0) + self._constant(root, floor)) / _LOG2
        return bits

    def total(self, moments: Moments, floor: float) -> float:
        """The sum of `bits` over the rows of these moments."""
        root = self._root(floor)
        inverse = torch.cholesky_inverse(root)
        quadratic = float((inverse * moments.about(self.mean)).sum())
        return (0.5 * quadratic + moments.count * self._constant(root, floor)) / _LOG2

    def _constant(self, root: Tensor, floor: float) -> float:
        """½ [log det V/s² + s² tr V⁻¹ − d]: what is the same for every row."""
        width = len(root)
        determinant = 2 * float(root.diagonal().log().sum()) - width * math.log(floor)
        added = floor * float(torch.cholesky_inverse(root).trace())
        return 0.5 * (determinant + added - width)


def fit_gaussian(folds: Sequence[Moments], floor: float) -> Gaussian:
    """The Gaussian of some rows, of the family that describes held-out folds in fewest bits."""
    ranks = sorted({len(folds[0].mean) // part for part in _RANKS} - {0})
    costs = [0.0] * (1 + len(ranks))
    for held, _ in Moments.held_out(folds):
        others = [part for part in folds if part is not held]
        for place, model in enumerate((_shrunk(others), *_low_ranks(others, ranks))):
            costs[place] += model.total(held, floor)
    best = min(range(len(costs)), key=costs.__getitem__)
    return _shrunk(folds) if best == 0 else _low_ranks(folds, ranks)[best - 1]


def _shrunk(folds: Sequence[Moments]) -> Gaussian:
    # One fold by itself has no other to choose a shrinkage by, and enough rows to need none.
    fitted = fit_covariance(folds, shrink=sum(part.count > 0 for part in folds) > 1)
    return Gaussian(fitted.mean, fitted.matrix, "shrunk covariance")


def _low_ranks(folds: Sequence[Moments], ranks: Sequence[int]) -> list[Gaussian]:
    """Gaussians whose correlation is of these ranks but for its diagonal, which is kept."""
    total = Moments.merged(folds)
    variances = total.covariance.diagonal()
    scale = torch.where(variances > 0, variances, 1.0).sqrt()
    values, vectors = torch.linalg.eigh(total.covariance / torch.outer(scale, scale))
    found = []
    for rank in ranks:
        low = vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
        matrix = low @ low.T
        matrix.diagonal().copy_(torch.where(variances > 0, 1.0, 0.0))
        found.append(Gaussian(total.mean, matrix * torch.outer(scale, scale), f"rank {rank} and a diagonal"))
    return found


@dataclass(frozen=True)
class Description:
    """Everything that is fixed on calibration."""

    coder: Coder
    step: int
    variance: float
    """tr Cov x/d on calibration."""
    x: Gaussian
    remainder: Gaussian
    fit: DescriptionFit

    def columns(self, coded: CodedBatch) -> list[dict[str, float]]:
        """Columns of the table of values for each window of a batch."""
        sizes, rows = coded.spliced.sum(1).cpu(), coded.x
        codes = self.coder.rounded(coded.symbols(self.step), self.step)
        left = self.coder.residual(codes, rows, coded.spliced)
        noises = [share * self.variance for share in NOISES]
        sums = [
            _by_window(model.bits(part, floor), sizes)
            for floor in noises
            for model, part in ((self.x, rows), (self.remainder, left))
        ]
        columns = [coded.bits(self.step), coded.squares(self.step), *sums]
        return [dict(zip(DESCRIPTION, row, strict=True)) for row in zip(*columns, strict=True)]


def _by_window(values: Tensor, sizes: Tensor) -> list[float]:
    found: list[float] = torch.segment_reduce(values, "sum", lengths=sizes).tolist()
    return found


def describable(width: int, tokens: int, coder: Coder | str) -> str | None:
    """Why nothing can be described, before any row is gathered; None if it can."""
    if isinstance(coder, str):
        return coder
    if tokens < _ROWS_A_DIMENSION * width:
        return (
            f"{tokens:,} calibration tokens for {width:,} dimensions: a fitted Gaussian needs "
            f"{_ROWS_A_DIMENSION} a dimension to be worth what it says"
        )
    return None


def fit_description(rows: Rows, coder: Coder) -> Description | str:
    """Step, tables and Gaussians, or why there are none.

    Args:
        rows: all calibration windows: their activations in place of residuals, and their exact codes.
        coder: with its tables of all steps, fitted to the same codes.
    """
    order = rows.order()
    first = torch.cat([some.rows for some in rows.blocks(rows.first(order, _LOOKED_AT))])
    distinct = len(torch.unique(first, dim=0))
    if distinct < _DISTINCT * len(first):
        return (
            f"the site is discrete, {distinct:,} different activations among {len(first):,}: densities mean "
            "nothing there"
        )
    dealt = [rows.order(fold) for fold in range(FOLDS)]
    moments = [_moments(rows, own) for own in dealt]
    if sum(part.count > 0 for part in moments) < FOLDS:
        return f"calibration documents are in fewer than {FOLDS} folds"
    total = Moments.merged(moments)
    variance = float(total.covariance.trace()) / rows.width
    if not variance > 0:
        return "activations are constant on calibration"
    floor = NOISES[0] * variance
    tables = [_tables(rows, coder, fold) for fold in range(FOLDS)]
    few = set(rows.first(order, max(_ROWS_A_DIMENSION * rows.width, _CHOSEN_ON // rows.width)))
    sample = [[place for place in own if place in few] for own in dealt]
    baseline = _costs([_moments(rows, own) for own in sample], floor)
    nets = []
    for step in range(STEPS):
        at = _at_step(rows, coder, step, [own[step] for own in tables], sample)
        nets.append(sum(baseline) - sum(_costs(at.left, floor)) - sum(at.bits))
    best = max(range(STEPS), key=nets.__getitem__)
    at = _at_step(rows, coder, best, [own[best] for own in tables], dealt)
    folds = zip(_costs(moments, floor), _costs(at.left, floor), at.bits, moments, strict=True)
    x, remainder = fit_gaussian(moments, floor), fit_gaussian(at.left, floor)
    ceiling = 0.5 * torch.log2(1 + torch.linalg.eigvalsh(x.matrix).clamp(min=0) / floor).sum()
    fit = DescriptionFit(
        rows=total.count,
        step=best,
        noise=floor,
        ceiling=float(ceiling),
        activation=x.family,
        remainder=remainder.family,
        folds=tuple((alone - left - bits) / part.count for alone, left, bits, part in folds),
    )
    return Description(coder, best, variance, x, remainder, fit)


def _moments(rows: Rows, windows: Sequence[int]) -> Moments:
    found = Moments.empty(rows.width)
    for some in rows.blocks(windows):
        found.update(some.rows)
    return found


def _costs(moments: Sequence[Moments], floor: float) -> list[float]:
    """Bits of each fold's rows under the Gaussian of the others', its covariance shrunk.

    Which family is the better is asked once the step is known: it takes twenty times as long.
    """
    costs = []
    for fold, own in enumerate(moments):
        others = [part for place, part in enumerate(moments) if place != fold]
        costs.append(_shrunk(others).total(own, floor))
    return costs


def _contributions(coder: Coder, some: Some) -> Codes:
    codes = some.seen.codes
    assert codes is not None
    return coder.contributions(codes.to(coder.device))


def _tables(rows: Rows, coder: Coder, fold: int) -> list[StepTable]:
    """The tables of all steps, from the codes of all folds but one."""

    def parts() -> Iterator[Codes]:
        for some in rows.blocks(rows.order(without=fold)):
            yield _contributions(coder, some)

    return fit_tables(parts, [coder.step(number) for number in range(STEPS)])


class _AtStep(NamedTuple):
    """One step, fold by fold."""

    left: list[Moments]
    """Moments of what quantised codes leave of x."""
    bits: list[float]
    """Bits of the codes, under tables of the other folds."""


def _at_step(
    rows: Rows, coder: Coder, step: int, tables: Sequence[StepTable], dealt: Sequence[Sequence[int]]
) -> _AtStep:
    left, bits = [], []
    for windows, table in zip(dealt, tables, strict=True):
        moments, total = Moments.empty(rows.width), 0.0
        for some in rows.blocks(windows):
            symbols = coder.symbols(_contributions(coder, some), step)
            total += table.off * symbols.tokens + float(table.bits(symbols.latent, symbols.value).sum())
            x, spliced = some.rows.to(coder.device), some.seen.mask.to(coder.device)
            moments.update(coder.residual(coder.rounded(symbols, step), x, spliced).cpu())
        left.append(moments)
        bits.append(total)
    return _AtStep(left, bits)
