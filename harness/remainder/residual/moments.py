"""Sufficient statistics of rows, streamed in float64.

Mean and scatter are updated batch by batch and merged by the pairwise formula of Chan, Golub & LeVeque
(1983): with counts n₁, n₂ and δ = m₂ − m₁,
    m = m₁ + δ n₂/n,    S = S₁ + S₂ + δδᵀ n₁n₂/n.
No sum of squares is ever subtracted from another, so a large mean costs no digits.

Source: protocol 1, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from remainder.errors import MeasurementError

__all__ = ["Moments"]

_CHUNK = 1024  # rows converted to float64 at a time, so that they stay in the processor's cache


@dataclass
class Moments:
    """Count, mean [d] and scatter [d d] (sum of outer products of centred rows) of rows seen so far."""

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """Statistics of no rows."""
        # One zero seen as a matrix: until rows come, a scatter takes no memory.
        none = torch.zeros((), dtype=torch.float64, device=device)
        return cls(0, torch.zeros(width, dtype=torch.float64, device=device), none.expand(width, width))

    @classmethod
    def merged(cls, parts: Iterable[Moments]) -> Moments:
        """Statistics of the union of several; the parts are not changed."""
        parts = list(parts)
        total = cls.empty(len(parts[0].mean), parts[0].mean.device)
        for part in parts:
            total.merge(part)
        return total

    @classmethod
    def of(cls, rows: Float[Tensor, "rows d"]) -> Moments:
        """Statistics of these rows."""
        moments = cls.empty(rows.shape[-1], rows.device)
        moments.update(rows)
        return moments

    def update(self, rows: Float[Tensor, "rows d"]) -> None:
        """Add rows.

        Raises:
            MeasurementError: if a value is not finite.
        """
        if len(rows) == 0:
            return
        mean = rows.sum(0, dtype=torch.float64) / len(rows)
        # Sums of finite float32 values are finite in float64, so one check of the sum finds any bad row.
        if not torch.isfinite(mean).all():
            bad = int((~torch.isfinite(rows)).any(-1).sum())
            raise MeasurementError(
                f"{bad or len(rows)} of {len(rows)} rows hold NaN or infinity, or overflow",
                fix="check the interpretation's weights and the scale of its output",
            )
        scatter = torch.zeros_like(self.scatter)
        for part in torch.split(rows, _CHUNK):
            centred = part.double() - mean
            scatter.addmm_(centred.T, centred)
        self.merge(Moments(len(rows), mean, scatter))

    def merge(self, other: Moments) -> None:
        """Add the rows of `other`; the order of merging changes nothing beyond rounding."""
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.scatter = (
            self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / total)
        )
        self.count = total

    @classmethod
    def held_out(cls, folds: Sequence[Moments]) -> Iterator[tuple[Moments, Moments]]:
        """Each fold with the union of all others, where it has rows and the others a covariance."""
        for index, fold in enumerate(folds):
            others = cls.merged([part for other, part in enumerate(folds) if other != index])
            if fold.count > 0 and others.count >= 2:
                yield fold, others

    def about(self, centre: Float[Tensor, " d"]) -> Float[Tensor, "d d"]:
        """Sum of outer products of rows less `centre`."""
        delta = self.mean - centre
        return self.scatter + self.count * torch.outer(delta, delta)

    def part(self, columns: slice) -> Moments:
        """Statistics of some columns."""
        return Moments(self.count, self.mean[columns], self.scatter[columns, columns])

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased covariance."""
        if self.count < 2:
            raise MeasurementError(
                f"a covariance needs at least 2 rows, {self.count} were seen",
                fix="use more calibration windows",
            )
        return self.scatter / (self.count - 1)
