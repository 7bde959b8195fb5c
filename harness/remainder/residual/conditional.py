"""Kernels for the residual given what the interpretation itself tells: codes, earlier x̂, the input token.

| rung | kernel |
|---|---|
| `renormalised-mean` | E[r given codes]: ridge on value and on/off of each latent |
| `renormalised` | the same plus Gaussian noise of what it leaves |
| `hetero` | N(μ, s² Σ): log s the ridge of log ‖r − μ‖ on the codes, Σ the covariance of (r − μ)/s |
| `context` | ridge on x̂ of this position and the three before, plus Gaussian noise of what it leaves |
| `token` | mean residual of the same input token, shrunk to μ: a diagnostic, the *lexical* part |

x̂ plus `renormalised-mean` is the decoder after the bath is integrated out. Ridge is of r, and not of x:
without weights it is `mean`, and not the mean activation. Noise is fitted to what is left of documents that
were not fitted to (`residual.held_out`). None of them sees x.

Source: protocol 2, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.record.rungs import FOLDS
from remainder.record.schema import ConditionalFit
from remainder.residual.calibration import Calibration
from remainder.residual.covariance import DenseCovariance, NotMeasurableError, fit_covariance
from remainder.residual.held_out import SIZES, HeldOut, floor_of, held_out, rows_of, surprise
from remainder.residual.kernel import Context, Kernel, Sample
from remainder.residual.moments import Moments
from remainder.residual.noise import Draw
from remainder.residual.ridge import DIRECT, Design, Ridge, choose_strength, fit_ridge
from remainder.residual.rows import Rows, Seen, Some
from remainder.residual.support import varies

__all__ = ["ContextNoise", "Hetero", "Renormalised", "RenormalisedMean", "Token", "figures", "placed"]

_LAGS = 3
_SHRUNK = (0.0, 1.0, 4.0, 16.0, 64.0)
_CONSTANT = 1e-10  # of its mean square, below which a code's variance is rounding
_TINY = 1e-6  # of the root mean square length, below which a length counts as that

Array = NDArray[np.float64]


def placed(context: Context, rows: Float[Tensor, "rows d"]) -> Sample:
    """Rows at the positions where the mask holds, and nothing elsewhere."""
    sample = torch.zeros(
        context.reconstruction.shape, dtype=torch.float64, device=context.reconstruction.device
    )
    sample[context.mask] = rows.double().to(sample.device)
    return sample


def figures(found: HeldOut, rows: Rows, floor: float | None = None, note: str = "") -> ConditionalFit:
    """The figures of a conditional mean that a record states, with the surprise of a Gaussian around it.

    Args:
        floor: null for a kernel without density.
    """
    return ConditionalFit(
        rows=len(rows),
        explained=found.explained,
        curve={str(size): value for size, value in found.curve.items()},
        surprise=None if floor is None else surprise(found.left, floor),
        note=note,
    )


# --------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True)
class CodeDesign:
    """Value, over its root mean square while on, and on/off of every latent, as far as these vary."""

    place: NDArray[np.int64]
    """Column of each latent's value; −1: none."""
    switch: NDArray[np.int64]
    """Column of its being on; −1: none."""
    size: Array
    columns: int

    @classmethod
    def of(cls, rows: Rows, windows: Sequence[int]) -> CodeDesign:
        """The columns that these windows have something for."""
        count, sums, squares = (np.zeros(rows.features) for _ in range(3))
        seen = 0
        for some in rows.blocks(windows):
            codes = some.seen.codes
            assert codes is not None
            seen += codes.tokens
            latent, value = codes.latent.numpy(), codes.value.double().numpy()
            count += np.bincount(latent, minlength=rows.features)
            sums += np.bincount(latent, value, minlength=rows.features)
            squares += np.bincount(latent, value**2, minlength=rows.features)
        spread = squares / seen - (sums / seen) ** 2
        valued, switched = spread > _CONSTANT * squares / seen, (count > 0) & (count < seen)
        place = np.where(valued, np.cumsum(valued) - 1, -1)
        switch = np.where(switched, valued.sum() + np.cumsum(switched) - 1, -1)
        size = np.sqrt(squares / np.maximum(count, 1))
        return cls(place, switch, np.where(size > 0, size, 1.0), int(valued.sum() + switched.sum()))

    def matrix(self, seen: Seen) -> Any:
        """The columns at the rows of some windows, CSR."""
        from scipy import sparse

        codes = seen.codes
        if codes is None:
            raise MeasurementError(
                "this kernel needs the codes, which it was not given", fix="report this bug"
            )
        latent, token = codes.latent.cpu().numpy(), codes.token.cpu().numpy()
        value = codes.value.double().cpu().numpy() / self.size[latent]
        columns = np.concatenate([self.place[latent], self.switch[latent]])
        entries = np.concatenate([value, np.ones_like(value)])
        rows, kept = np.concatenate([token, token]), columns >= 0
        shape = (codes.tokens, self.columns)
        return sparse.csr_matrix((entries[kept], (rows[kept], columns[kept])), shape)


@dataclass(frozen=True)
class ContextDesign:
    """Coordinates of x̂ at a position and the three before, standardised; 0 where nothing is spliced there."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @property
    def columns(self) -> int:
        """Each lag's coordinates, and whether there is such a position."""
        return (1 + _LAGS) * len(self.mean) + _LAGS

    def matrix(self, seen: Seen) -> Any:
        """The columns at the rows of some windows, CSR."""
        from scipy import sparse

        mask = seen.mask.cpu()
        x = (seen.reconstruction.cpu().double() - self.mean) / self.scale
        x = torch.where(mask[..., None], x, 0.0)
        parts, there = [x[mask]], []
        for lag in range(1, 1 + _LAGS):
            before, known = torch.zeros_like(x), torch.zeros_like(mask)
            before[:, lag:], known[:, lag:] = x[:, :-lag], mask[:, :-lag]
            parts.append(before[mask])
            there.append(known[mask][:, None].double())
        return sparse.csr_matrix(torch.cat([*parts, *there], -1).numpy())


# --------------------------------------------------------------------------------------------- kernels


class _Fitted(NamedTuple):
    """A ridge on all rows, and the covariance of what it leaves of documents that it is not fitted to."""

    ridge: Ridge
    covariance: DenseCovariance


def _residuals(some: Some) -> Array:
    found: Array = some.rows.double().numpy()
    return found


def _require_matrices(calibration: Calibration, what: str) -> None:
    if calibration.is_large:
        raise NotMeasurableError(
            f"{what} needs covariances of {calibration.width} dimensions as matrices", fix=f"leave {what} out"
        )


def _fit(
    calibration: Calibration, name: str, rows: Rows, design: Callable[[Sequence[int]], Design]
) -> _Fitted:
    """A ridge of the residual, judged on held-out documents; its figures go into the calibration."""
    _require_matrices(calibration, name)
    strength = choose_strength(rows, design, _residuals)

    def fit(windows: Sequence[int]) -> Ridge:
        (found,) = fit_ridge(rows, windows, design(windows), _residuals, [strength])
        return found

    found = held_out(rows, fit)
    whole = fit(rows.order())
    strength_name = "∞" if strength is None else f"{strength:g}"
    note = f"{whole.design.columns} columns, λ {strength_name}"
    calibration.conditional[name] = figures(found, rows, floor_of(calibration), note)
    return _Fitted(whole, fit_covariance(found.left))


def _varying_codes(calibration: Calibration, name: str) -> Rows:
    rows = rows_of(calibration, name, codes=True)
    if not CodeDesign.of(rows, rows.order()).columns:
        raise NotMeasurableError(
            "the codes are constant on calibration: they tell nothing", fix=f"leave {name} out"
        )
    return rows


def _renormalised(calibration: Calibration) -> _Fitted:
    rows = _varying_codes(calibration, "renormalised")
    return _fit(calibration, "renormalised", rows, lambda windows: CodeDesign.of(rows, windows))


class RenormalisedMean(Kernel):
    """ε = E[r given codes], linear in value and on/off of each latent."""

    def __init__(self, calibration: Calibration) -> None:
        self.fitted = calibration.once("renormalised", _renormalised)

    def sample(self, context: Context, draw: Draw) -> Sample:
        return placed(context, self.fitted.ridge.predict(context.seen))


class Renormalised(RenormalisedMean):
    """E[r given codes] plus Gaussian noise of what it leaves."""

    def sample(self, context: Context, draw: Draw) -> Sample:
        return super().sample(context, draw) + context.coloured(self.fitted.covariance, draw)


class ContextNoise(Kernel):
    """Linear prediction from x̂ here and at the three positions before, plus noise of what it leaves."""

    def __init__(self, calibration: Calibration) -> None:
        _require_matrices(calibration, "context")
        rows = rows_of(calibration, "context")
        moments = calibration.joint.part(slice(0, calibration.width))
        variances = moments.covariance.diagonal().cpu()
        scale = torch.where(varies(variances, moments.mean.cpu()), variances, 1.0).sqrt()
        design = ContextDesign(moments.mean.cpu(), scale)
        if design.columns > DIRECT:
            raise NotMeasurableError(
                f"context is a regression on {design.columns} columns; the limit is {DIRECT}",
                fix="leave context out",
            )
        self.fitted = _fit(calibration, "context", rows, lambda _: design)

    def sample(self, context: Context, draw: Draw) -> Sample:
        mean = placed(context, self.fitted.ridge.predict(context.seen))
        return mean + context.coloured(self.fitted.covariance, draw)


class _Scale(NamedTuple):
    """log s as a ridge, kept within the lengths that it was fitted to: codes may be larger than any there."""

    ridge: Ridge
    low: float
    high: float

    def logs(self, seen: Seen) -> Array:
        """log s [rows, 1]."""
        return np.clip(self.ridge.values(seen), self.low, self.high)

    def predict(self, seen: Seen) -> Float[Tensor, "rows 1"]:
        """s at each position where the mask holds."""
        return torch.from_numpy(np.exp(self.logs(seen)))


def _explained(
    rows: Rows, parts: Sequence[tuple[Sequence[int], _Scale]], lengths: Callable[[Some], Array]
) -> float | None:
    """R² of log-lengths over some windows, each predicted by its own fit; None where they do not vary."""
    pairs = [(lengths(some), one.logs(some.seen)) for windows, one in parts for some in rows.blocks(windows)]
    wanted, predicted = (np.concatenate(part) for part in zip(*pairs, strict=True))
    spread = float(np.square(wanted - wanted.mean()).sum())
    return 1 - float(np.square(wanted - predicted).sum()) / spread if spread else None


class Hetero(Kernel):
    """ε ~ N(μ, s² Σ), the scale s of each position read off its codes."""

    def __init__(self, calibration: Calibration) -> None:
        rows = _varying_codes(calibration, "hetero")
        _require_matrices(calibration, "hetero")
        self.mean = calibration.mean
        mean = self.mean.cpu()
        floor = math.sqrt(float(calibration.moments.covariance.trace())) * _TINY
        if not floor > 0:
            raise NotMeasurableError(
                "the residual is constant on calibration: its length has no logarithm", fix="leave hetero out"
            )

        def lengths(some: Some) -> Array:
            found: Array = (some.rows.double() - mean).norm(dim=-1).clamp(min=floor).log()[:, None].numpy()
            return found

        def design(windows: Sequence[int]) -> CodeDesign:
            return CodeDesign.of(rows, windows)

        strength = choose_strength(rows, design, lengths)

        def fit(windows: Sequence[int]) -> _Scale:
            (found,) = fit_ridge(rows, windows, design(windows), lengths, [strength])
            known = np.concatenate([lengths(some) for some in rows.blocks(windows)])
            return _Scale(found, float(known.min()), float(known.max()))

        self.scale = fit(rows.order())
        maps = [fit(others) if (others := rows.order(without=fold)) else self.scale for fold in range(FOLDS)]
        left = [_scaled(rows, rows.order(fold), one, mean) for fold, one in enumerate(maps)]
        self.covariance = fit_covariance(left)
        dealt = [(rows.order(fold), one) for fold, one in enumerate(maps)]
        fold, others = next((own, rows.order(without=i)) for i, (own, _) in enumerate(dealt) if own)
        sizes = [rows.first(others, size) for size in SIZES if size < rows.count(others)]
        curve = {rows.count(few): _explained(rows, [(fold, fit(few))], lengths) for few in [*sizes, others]}
        calibration.conditional["hetero"] = ConditionalFit(
            rows=len(rows),
            explained=_explained(rows, dealt, lengths),
            of="log ‖r − μ‖",
            curve={str(size): share for size, share in curve.items() if share is not None},
            surprise=_scaled_surprise(rows, maps, left, mean, floor_of(calibration)),
        )

    def sample(self, context: Context, draw: Draw) -> Sample:
        scale = _placed_scale(context, self.scale)
        return self.centre(context) + scale * context.coloured(self.covariance, draw)


def _placed_scale(context: Context, scale: _Scale) -> Float[Tensor, "docs pos 1"]:
    """s at the positions where the mask holds, 1 elsewhere."""
    found = torch.ones(*context.mask.shape, 1, dtype=torch.float64, device=context.reconstruction.device)
    found[context.mask] = scale.predict(context.seen).to(found.device)
    return found


def _scaled(rows: Rows, windows: Sequence[int], scale: _Scale, mean: Tensor) -> Moments:
    """Moments of (r − μ)/s over some windows."""
    moments = Moments.empty(rows.width)
    for some in rows.blocks(windows):
        moments.update((some.rows.double() - mean) / scale.predict(some.seen))
    return moments


def _scaled_surprise(
    rows: Rows, maps: Sequence[_Scale], left: Sequence[Moments], mean: Tensor, floor: float
) -> float | None:
    """The `held_out.surprise` of a Gaussian whose scale is that of each row."""
    total, count = 0.0, 0
    for fold, scale in enumerate(maps):
        others = [part for place, part in enumerate(left) if place != fold]
        if not left[fold].count or sum(part.count for part in others) < 2:
            continue
        covariance = fit_covariance(others)
        rest = rows.width - covariance.rank
        for some in rows.blocks(rows.order(fold)):
            s = scale.predict(some.seen)
            centred = some.rows.double() - mean - s * covariance.mean
            along = centred @ covariance.vectors
            values = s.square() * covariance.values + floor
            outside = (centred.square().sum(-1) - along.square().sum(-1)).clamp(min=0)
            total += 0.5 * float(
                (values.log() + (along.square() + floor) / values).sum()
                + (outside / floor).sum()
                + len(s) * (rest * (1 + math.log(floor)) + rows.width * math.log(2 * math.pi))
            )
            count += len(s)
    return total / count if count else None


# ----------------------------------------------------------------------------------------------- token


@dataclass(frozen=True)
class _TokenMeans:
    """μ + n/(n + κ)·(mean residual of the token − μ), of each input token."""

    mean: Float[Tensor, " d"]
    known: Tensor
    """Ids, ascending."""
    means: Float[Tensor, "known d"]
    numbers: Float[Tensor, " known"]
    shrunk: float

    @classmethod
    def of(cls, rows: Rows, windows: Sequence[int], shrunk: float) -> _TokenMeans:
        """Means over some windows."""
        ids = torch.cat([_ids(some) for some in rows.blocks(windows)])
        known = torch.from_numpy(np.unique(ids.numpy()))
        sums = torch.zeros(len(known), rows.width, dtype=torch.float64)
        numbers = torch.zeros(len(known), dtype=torch.float64)
        for some in rows.blocks(windows):
            place = torch.searchsorted(known, _ids(some))
            sums.index_add_(0, place, some.rows.double())
            numbers += torch.bincount(place, minlength=len(known))
        return cls(sums.sum(0) / numbers.sum(), known, sums / numbers[:, None], numbers, shrunk)

    def predict(self, seen: Seen) -> Tensor:
        """Predictions; μ for a token that was never seen."""
        if seen.tokens is None:
            raise MeasurementError(
                "this kernel needs the tokens, which it was not given", fix="report this bug"
            )
        ids = seen.tokens[seen.mask].cpu()
        place = torch.searchsorted(self.known, ids).clamp(max=len(self.known) - 1)
        weight = self.numbers[place] / (self.numbers[place] + self.shrunk) * (self.known[place] == ids)
        found: Tensor = self.mean + weight[:, None] * (self.means[place] - self.mean)
        return found


def _ids(some: Some) -> Tensor:
    assert some.seen.tokens is not None
    return some.seen.tokens[some.seen.mask]


class Token(Kernel):
    """ε = the mean residual of the same input token: a diagnostic, since x̂ need not tell the token."""

    def __init__(self, calibration: Calibration) -> None:
        rows = rows_of(calibration, "token", tokens=True)

        def judged(shrunk: float, *, curve: bool) -> HeldOut:
            def fit(windows: Sequence[int]) -> _TokenMeans:
                return _TokenMeans.of(rows, windows, shrunk)

            return held_out(rows, fit, moments=False, curve=curve)

        best = max(_SHRUNK, key=lambda shrunk: judged(shrunk, curve=False).explained or 0.0)
        final = judged(best, curve=True)
        calibration.conditional["token"] = figures(final, rows, note=f"sees the input token; κ {best:g}")
        self.means = _TokenMeans.of(rows, rows.order(), best)

    def sample(self, context: Context, draw: Draw) -> Sample:
        return placed(context, self.means.predict(context.seen))
