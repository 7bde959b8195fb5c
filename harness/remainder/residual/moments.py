"""Streaming sufficient statistics of residuals, in float64, and a keyed bank of real ones.

Mean and scatter are updated batch by batch and merged by the pairwise formula of Chan, Golub & LeVeque
(1983): with counts n₁, n₂ and δ = m₂ − m₁,
    m = m₁ + δ n₂/n,    S = S₁ + S₂ + δδᵀ n₁n₂/n.
No sum of squares is ever subtracted from another, so a large mean costs no digits.

Source: protocol 1, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from remainder.errors import MeasurementError
from remainder.residual.noise import Places, priorities

__all__ = ["Bank", "Calibration", "Moments"]


@dataclass
class Moments:
    """Count, mean [d] and scatter [d d] (sum of outer products of centred rows) of rows seen so far."""

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Moments:
        """Statistics of no rows."""
        return cls(
            0,
            torch.zeros(width, dtype=torch.float64, device=device),
            torch.zeros(width, width, dtype=torch.float64, device=device),
        )

    def update(self, rows: Float[Tensor, "rows d"]) -> None:
        """Add rows.

        Raises:
            MeasurementError: if a value is not finite.
        """
        if len(rows) == 0:
            return
        rows = rows.double()
        if not torch.isfinite(rows).all():
            bad = int((~torch.isfinite(rows)).any(-1).sum())
            raise MeasurementError(
                f"{bad} of {len(rows)} rows of the residual hold NaN or infinity",
                fix="check the interpretation's weights and the scale of its output",
            )
        mean = rows.mean(0)
        centred = rows - mean
        self.merge(Moments(len(rows), mean, centred.T @ centred))

    def merge(self, other: Moments) -> None:
        """Add what `other` has seen; the order of merging changes nothing beyond rounding."""
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.scatter = (
            self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / total)
        )
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased covariance."""
        if self.count < 2:
            raise MeasurementError(
                f"a covariance needs at least 2 rows, {self.count} were seen",
                fix="use more calibration windows",
            )
        return self.scatter / (self.count - 1)


@dataclass
class Bank:
    """A keyed reservoir of real rows: the `capacity` rows of lowest random priority, in that order.

    Priorities are keyed by document, window and position, so the bank does not depend on batching or order.
    """

    capacity: int
    rows: Float[Tensor, "rows d"] | None = None
    _priorities: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def update(
        self, places: Places, values: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
    ) -> None:
        """Offer the rows of a batch where `mask` holds."""
        keys = np.concatenate([self._priorities, priorities(places, values.shape[1])[mask.cpu().numpy()]])
        new = values[mask].float()
        rows = new if self.rows is None else torch.cat([self.rows, new])
        order = np.argsort(keys, kind="stable")[: self.capacity]
        self.rows, self._priorities = rows[torch.from_numpy(order).to(rows.device)], keys[order]


@dataclass
class Calibration:
    """All that a residual model may be fitted to: moments and a bank of residuals, and how many documents."""

    moments: Moments
    bank: Bank
    documents: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, width: int, capacity: int = 65536, device: torch.device | str = "cpu") -> Calibration:
        """Nothing seen yet."""
        return cls(Moments.empty(width, device), Bank(capacity))

    def update(
        self, places: Places, residual: Float[Tensor, "docs pos d"], mask: Bool[Tensor, "docs pos"]
    ) -> None:
        """Add the residuals of a batch of windows where `mask` holds."""
        self.moments.update(residual[mask])
        self.bank.update(places, residual, mask)
        self.documents.update(places.documents)
